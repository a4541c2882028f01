//! What was sent stays for as long as it is the last.

use super::*;

/// Bookmarks of replication and of others, by the snapshots that they are of; the first is of order 0.
fn with_marks(snapshots: &str, marks: &[(&str, u64)]) -> Inventory {
    let inventory = inventory(snapshots);
    let mark = |&(name, of): &(&str, u64)| Version {
        kind: VersionKind::Bookmark,
        ..version(of, name, Timestamp::UNIX_EPOCH)
    };
    let all = inventory.versions().iter().cloned().chain(marks.iter().map(mark)).collect();
    Inventory::new("tank/a", all, inventory.holds().to_vec())
}

#[test]
fn what_was_sent_last_to_each_target_stays_to_come_back_upon() {
    const DAYS: &str = "a=2026-11-20T08:00 b=2026-11-21T08:00 c=2026-11-22T08:00 d=2026-11-23T08:00";
    let (x, old, y) = ("cowsnap:to:x-1:aa", "cowsnap:to:x-1:bb", "cowsnap:to:y:aa");
    for (marks, left) in [
        (&[][..], "d"),
        (&[(x, 1)][..], "b d"),
        // Of one target the newest, of several each one's.
        (&[(old, 0), (x, 1)], "b d"),
        (&[(x, 1), (y, 2)], "b c d"),
        (&[(x, 1), (y, 1)], "b d"),
        (&[(x, 3)], "d"),
        // Whose snapshot is gone, it does not make the one before it stay.
        (&[(x, 9)], "d"),
        (&[(old, 1), (x, 9)], "b d"),
        // Others' are no business of ours.
        (&[("mine", 0), ("cowsnap:from:x:aa", 1), ("cowsnap:to", 2)], "d"),
    ] {
        let (inventory, policy) = (with_marks(DAYS, marks), policy("last=1"));
        let now: Zoned = "2026-11-24T00:00[UTC]".parse().expect("a time");
        let nothing = Surroundings::default();
        let verdicts = retain(&inventory, &policy, &nothing, &now);
        let kept = verdicts.iter().filter(|verdict| verdict.is_kept());
        let names: Vec<_> = kept.map(|verdict| verdict.version.id.name.as_str()).collect();
        assert_eq!(names.join(" "), left, "{marks:?}");
    }
    let inventory = with_marks(DAYS, &[(x, 1), (y, 1)]);
    let now: Zoned = "2026-11-24T00:00[UTC]".parse().expect("a time");
    let (last, nothing) = (policy("last=1"), Surroundings::default());
    let why = retain(&inventory, &last, &nothing, &now)[1].to_string();
    assert_eq!(why, "the newest sent by cowsnap:to:x-1, cowsnap:to:y");
}
