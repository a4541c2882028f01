//! What two places have in common, by identity alone: names and clocks say nothing.

use crate::model::{Guid, HoldTag, Inventory, Version, VersionKind};

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

/// Whether what `there` has is marked at `here` by a bookmark whose name begins with `mark` and `:`, as replication makes them: the newest
/// by the order there of what both know. Then `here` is the side that sends, its next increment starts from the bookmark, and it needs no
/// snapshot for that.
pub fn is_marked(here: &Inventory, there: &Inventory, mark: &HoldTag) -> bool {
    let order = |version: &&Version| there.snapshot_of(version.id.guid).map(|theirs| theirs.order);
    let known = here.versions().iter().filter(|version| order(version).is_some());
    let Some(newest) = known.max_by_key(order) else { return false };
    marks(here, mark).any(|version| version.id.guid == newest.id.guid)
}

/// The bookmarks of `here` whose names begin with `mark` and `:`.
fn marks<'a>(here: &'a Inventory, mark: &HoldTag) -> impl Iterator<Item = &'a Version> {
    here.versions().iter().filter(move |version| {
        let rest = version.id.name.as_str().strip_prefix(mark.as_str());
        version.kind == VersionKind::Bookmark && rest.is_some_and(|rest| rest.starts_with(':'))
    })
}

/// The guids of what `here` keeps for the target of `tag`, by a hold or a bookmark.
pub fn kept(here: &Inventory, tag: &HoldTag) -> impl Iterator<Item = Guid> {
    let held = here.holds().iter().filter(move |(_, by)| by == tag).map(|(version, _)| version.guid);
    held.chain(marks(here, tag).map(|version| version.id.guid))
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
    /// `text`, with a bookmark of each of `marked` that replication has made for the tag `t`.
    fn marked(text: &str, marked: &str) -> Inventory {
        let all = inventory(text);
        let marks = marked.chars().map(|c| {
            let id =
                VersionRef { guid: Guid([c as u8; 16]), name: format!("t:{c}").parse().expect("a name") };
            Version { id, kind: VersionKind::Bookmark, order: 0, created: Timestamp::UNIX_EPOCH }
        });
        Inventory::new("d", all.versions().iter().cloned().chain(marks).collect(), Vec::new())
    }

    #[test]
    fn where_the_newest_is_marked_for_the_other_no_snapshot_is_needed() {
        let tag: HoldTag = "t".parse().expect("a tag");
        for (here, marks, there, expected) in [
            ("abc", "b", "ab", true),
            // Its snapshot is gone.
            ("ac", "b", "ab", true),
            // Another one than the newest is marked, or it is marked for somebody else, or nobody.
            ("abc", "a", "ab", false),
            ("abc", "b", "abc", false),
            ("abc#b", "", "ab", false),
            ("abc", "", "ab", false),
            // The newest by the order there.
            ("abc", "a", "cba", true),
            // What the other has as a bookmark alone is none of its snapshots.
            ("abc", "b", "a#b", false),
            ("abc", "b", "xyz", false),
        ] {
            assert_eq!(is_marked(&marked(here, marks), &inventory(there), &tag), expected, "{here} {there}");
        }
        let other: HoldTag = "other".parse().expect("a tag");
        assert!(!is_marked(&marked("abc", "b"), &inventory("ab"), &other));
    }

    #[test]
    fn what_is_kept_for_a_target_is_held_or_marked_by_its_tag() {
        let [tag, other]: [HoldTag; 2] = ["t", "other"].map(|tag| tag.parse().expect("a tag"));
        let here = marked("abc", "b");
        let held = here.versions().iter().find(|version| version.id.name.as_str() == "c");
        let held = held.expect("it is there").id.clone();
        let here = Inventory::new(
            "d",
            here.versions().to_vec(),
            vec![(held.clone(), tag.clone()), (held, other.clone())],
        );
        let of = |tag| kept(&here, tag).map(|guid| char::from(guid.0[0])).collect::<String>();
        assert_eq!((of(&tag).as_str(), of(&other).as_str()), ("cb", "c"));
        assert_eq!(kept(&inventory("abc"), &tag).count(), 0);
    }
}
