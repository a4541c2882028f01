//! What two places have in common, by identity alone: names and clocks say nothing.

use crate::model::{Inventory, Version, VersionKind};

/// The snapshots of `here` that the next increment between the two may start from, whichever of them sends: of those that `there` has as
/// snapshots too the newest by the order of each side, and the newest of which `there` has a snapshot or a bookmark.
///
/// A bookmark alone would not do: it is a base for its own side to send from, and none to receive upon.
pub fn bases<'a>(here: &'a Inventory, there: &Inventory) -> Vec<&'a Version> {
    let mine = || here.versions().iter().filter(|version| version.kind == VersionKind::Snapshot);
    let in_both = || mine().filter(|version| there.snapshot_of(version.id.guid).is_some());
    let by_their_order = |version: &&Version| there.snapshot_of(version.id.guid).map(|theirs| theirs.order);
    let known = mine().rev().find(|version| there.by_guid(version.id.guid).is_some());
    let mut bases: Vec<&Version> = Vec::new();
    for base in [in_both().next_back(), in_both().max_by_key(by_their_order), known].into_iter().flatten() {
        if !bases.iter().any(|other| other.id == base.id) {
            bases.push(base);
        }
    }
    bases
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::model::{Guid, VersionRef};

    /// Versions in the order of their transactions, one character each; behind `#` stands a bookmark.
    fn inventory(text: &str) -> Inventory {
        let mut kind = VersionKind::Snapshot;
        let mut versions = Vec::new();
        for (order, c) in (0..).zip(text.chars()) {
            if c == '#' {
                kind = VersionKind::Bookmark;
                continue;
            }
            let id = VersionRef { guid: Guid([c as u8; 16]), name: c.to_string().parse().expect("a name") };
            versions.push(Version { id, kind, order, created: Timestamp::UNIX_EPOCH });
            kind = VersionKind::Snapshot;
        }
        Inventory::new("d", versions, Vec::new())
    }

    #[test]
    fn bases_are_snapshots_of_both_and_what_a_bookmark_may_be_for() {
        let table = [
            ("abc", "ab", "b"),
            ("abc", "xyz", ""),
            ("abc", "", ""),
            ("abcd", "bca", "ca"),
            ("abcd", "ab#c", "bc"),
            ("abc", "#b", "b"),
            ("ab#c", "abc", "b"),
            ("abc", "abc#c", "c"),
        ];
        for (here, there, expected) in table {
            let (here_, there_) = (inventory(here), inventory(there));
            let found: String = bases(&here_, &there_).iter().map(|v| v.id.name.to_string()).collect();
            assert_eq!(found, expected, "{here} {there}");
        }
    }
}
