//! Listings of directories, as they are handed out page by page to whoever reads, without a handle that would tell who that is.
//!
//! Where a listing goes on after an entry is the entry's own position, which follows from its name: so it means the same in every listing of the
//! directory, and one that was let go is made again.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use crate::endpoint::overlay::fuse::Listed;

/// The positions of `.` and `..`; those of entries lie behind.
pub(super) const DOTS: u64 = 2;
/// How many entries are kept together.
const MOST: usize = 200_000;

/// The entries of a directory, each with its position, in their order.
pub(super) type Entries = Arc<Vec<(u64, Listed)>>;

/// The listings that were begun last.
#[derive(Debug)]
pub(super) struct Listings {
    hash: RandomState,
    kept: VecDeque<(u64, Entries)>,
}

impl Listings {
    pub(super) fn new() -> Self {
        Self { hash: RandomState::new(), kept: VecDeque::new() }
    }

    /// That of the node, if it was begun and not let go.
    pub(super) fn get(&self, node: u64) -> Option<Entries> {
        self.kept.iter().find_map(|(number, entries)| (*number == node).then(|| Arc::clone(entries)))
    }

    /// Keeps a listing of the node in place of the one that there is.
    pub(super) fn keep(&mut self, node: u64, listed: Vec<Listed>) -> Entries {
        let entries = Arc::new(self.placed(listed));
        self.forget(node);
        self.kept.push_back((node, Arc::clone(&entries)));
        while self.kept.len() > 1
            && self.kept.iter().map(|(_, entries)| entries.len() + 1).sum::<usize>() > MOST
        {
            self.kept.pop_front();
        }
        entries
    }

    /// Lets that of the node go.
    pub(super) fn forget(&mut self, node: u64) {
        self.kept.retain(|(number, _)| *number != node);
    }

    fn placed(&self, listed: Vec<Listed>) -> Vec<(u64, Listed)> {
        // A position is a signed number to who seeks, and the last ones are for those that had to give way.
        let position = |listed: &Listed| self.hash.hash_one(&listed.name) >> 2;
        let mut entries: Vec<_> = listed.into_iter().map(|listed| (position(&listed), listed)).collect();
        entries.sort_unstable_by(|one, other| (one.0, &one.1.name).cmp(&(other.0, &other.1.name)));
        let mut last = DOTS;
        for (position, _) in &mut entries {
            *position = (*position).max(last + 1);
            last = *position;
        }
        entries
    }
}

/// The entries behind a position.
pub(super) fn behind(entries: &[(u64, Listed)], position: u64) -> &[(u64, Listed)] {
    &entries[entries.partition_point(|(at, _)| *at <= position)..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(names: impl IntoIterator<Item = String>) -> Vec<Listed> {
        let entry = |name: String| Listed {
            name: name.into(),
            kind: rustix::fs::FileType::RegularFile,
            ino: 1,
            upper: true,
        };
        names.into_iter().map(entry).collect()
    }

    #[test]
    fn a_position_means_the_same_entry_in_every_listing() {
        let mut listings = Listings::new();
        let before = listings.keep(5, listed((0..1000).map(|n| n.to_string())));
        assert!(before.is_sorted_by(|one, other| one.0 < other.0));
        assert!(before.iter().all(|(position, _)| *position > DOTS && i64::try_from(*position).is_ok()));
        let (middle, _) = before[500];
        let rest: Vec<_> = behind(&before, middle).iter().map(|(_, listed)| listed.name.clone()).collect();
        assert_eq!(rest.len(), 499);
        // Half of what is left is removed, other names are new.
        let gone = |name: &String| rest.iter().step_by(2).any(|gone| gone == name.as_str());
        let names = (0..1000).map(|n| n.to_string()).filter(|name| !gone(name));
        let after = listings.keep(5, listed(names.chain((0..50).map(|n| format!("new {n}")))));
        let still: Vec<_> = behind(&after, middle)
            .iter()
            .filter(|(_, listed)| !listed.name.to_string_lossy().starts_with("new"))
            .map(|(_, listed)| listed.name.clone())
            .collect();
        let expected: Vec<_> = rest.into_iter().skip(1).step_by(2).collect();
        assert_eq!(still, expected);
        assert!(behind(&after, u64::MAX >> 1).is_empty());
    }

    #[test]
    fn what_was_begun_last_is_kept_as_far_as_there_is_room() {
        let mut listings = Listings::new();
        assert!(listings.get(1).is_none());
        for node in 1..=3 {
            listings.keep(node, listed((0..MOST as u64 / 3).map(|n| n.to_string())));
        }
        let kept =
            |listings: &Listings| (1..=4).filter(|node| listings.get(*node).is_some()).collect::<Vec<_>>();
        assert_eq!(kept(&listings), [2, 3]);
        listings.forget(2);
        listings.keep(4, listed((0..2 * MOST as u64).map(|n| n.to_string())));
        assert_eq!(kept(&listings), [4], "the last one is kept, however long it is");
    }
}
