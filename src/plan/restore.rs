//! Which streams, in which order, bring a version back.

use std::fmt;

use crate::model::{Guid, Inventory, SnapshotName, VersionKind, VersionRef};

/// A stream that is at hand: a container file, or a snapshot at another place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// What it brings.
    pub brings: VersionRef,
    /// What must be there before it; `None` if it is full.
    pub base: Option<Guid>,
}

/// Which version is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// The one that no other stream builds upon.
    Last,
    /// The one of that name.
    Named(SnapshotName),
    /// This one, whatever else is called as it is.
    Exactly(VersionRef),
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Receive that stream (its place in what was given).
    Receive {
        /// Its place among the streams.
        stream: usize,
        /// What it brings.
        brings: VersionRef,
    },
    /// Put this version in place: clone it, or swap it with what is live.
    Place {
        /// Which one.
        version: VersionRef,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Receive { brings, .. } => write!(f, "receive @{}", brings.name),
            Self::Place { version } => write!(f, "place @{}", version.name),
        }
    }
}

/// Why it can not be brought back from what there is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// Neither a stream nor a snapshot of that name is at hand.
    #[error("no stream and no snapshot is called @{0}")]
    NothingCalled(SnapshotName),
    /// No streams were given, and no name.
    #[error("there is nothing to restore from")]
    Nothing,
    /// Several streams end a chain each.
    #[error("several streams end a chain: {}", list(.0))]
    SeveralEnds(Vec<VersionRef>),
    /// A stream's base is neither there nor brought by another stream.
    #[error("@{stream} is an increment on {base}, which is neither at the target nor among the streams")]
    BaseMissing {
        /// The stream that needs it.
        stream: SnapshotName,
        /// The base's identity.
        base: Guid,
    },
    /// Streams that name one another as bases.
    #[error("@{0} is, over other streams, its own base")]
    Circle(SnapshotName),
    /// Another version has the name already.
    #[error("the target has another snapshot called @{name}: {there}, not {brought}")]
    NameTaken {
        /// The name.
        name: SnapshotName,
        /// What has it.
        there: Guid,
        /// What would get it.
        brought: Guid,
    },
}

fn list(versions: &[VersionRef]) -> String {
    versions.iter().map(|v| format!("@{}", v.name)).collect::<Vec<_>>().join(", ")
}

/// Plans what brings the wanted version to `target` and into place: bases first, nothing that is there already.
///
/// # Errors
/// A [`Conflict`] with the evidence if the streams and the target together do not hold an unbroken chain.
pub fn restore(streams: &[Stream], target: &Inventory, wanted: &Wanted) -> Result<Vec<Step>, Conflict> {
    let last = last_of(streams, target, wanted)?;
    let mut steps = vec![Step::Place { version: last.clone() }];
    let mut next = Some(last.guid);
    let mut needed_by = last.name;
    while let Some(guid) = next.filter(|&guid| target.snapshot_of(guid).is_none()) {
        let at = bringing(guid, streams, target)
            .ok_or_else(|| Conflict::BaseMissing { stream: needed_by.clone(), base: guid })?;
        let stream = &streams[at];
        if steps.iter().any(|step| matches!(step, Step::Receive { stream, .. } if *stream == at)) {
            return Err(Conflict::Circle(stream.brings.name.clone()));
        }
        if let Some(there) = target.by_name_and_kind(&stream.brings.name, VersionKind::Snapshot) {
            let (name, brought) = (stream.brings.name.clone(), guid);
            return Err(Conflict::NameTaken { name, there: there.id.guid, brought });
        }
        steps.push(Step::Receive { stream: at, brings: stream.brings.clone() });
        needed_by = stream.brings.name.clone();
        next = stream.base;
    }
    steps.reverse();
    Ok(steps)
}

/// Of several streams that bring `guid`: the increment on what is there, else a full one, else any whose base may come.
fn bringing(guid: Guid, streams: &[Stream], target: &Inventory) -> Option<usize> {
    let cost = |stream: &Stream| match stream.base {
        Some(base) if target.snapshot_of(base).is_some() => 0,
        None => 1,
        Some(base) if streams.iter().any(|s| s.brings.guid == base) => 2,
        Some(_) => 3,
    };
    let candidates = streams.iter().enumerate().filter(|(_, s)| s.brings.guid == guid);
    candidates.min_by_key(|(_, s)| cost(s)).map(|(at, _)| at)
}

fn last_of(streams: &[Stream], target: &Inventory, wanted: &Wanted) -> Result<VersionRef, Conflict> {
    if let Wanted::Exactly(version) = wanted {
        // What is there may be called otherwise.
        let there = target.snapshot_of(version.guid).map(|v| &v.id);
        let brought = || streams.iter().map(|s| &s.brings).find(|v| v.guid == version.guid);
        let found = there.or_else(brought).cloned();
        return found.ok_or_else(|| Conflict::NothingCalled(version.name.clone()));
    }
    if let Wanted::Named(name) = wanted {
        let brought = streams.iter().map(|s| &s.brings).find(|v| v.name == *name);
        let there = target.by_name_and_kind(name, VersionKind::Snapshot).map(|v| &v.id);
        return brought.or(there).cloned().ok_or_else(|| Conflict::NothingCalled(name.clone()));
    }
    let is_base = |guid: Guid| streams.iter().any(|s| s.base == Some(guid));
    let mut ends: Vec<_> = streams.iter().map(|s| &s.brings).filter(|v| !is_base(v.guid)).cloned().collect();
    ends.sort();
    ends.dedup();
    match ends.as_slice() {
        [end] => Ok(end.clone()),
        [] => {
            streams.first().map_or(Err(Conflict::Nothing), |s| Err(Conflict::Circle(s.brings.name.clone())))
        }
        _ => Err(Conflict::SeveralEnds(ends)),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use jiff::Timestamp;

    use super::*;
    use crate::model::Version;

    fn id(text: &str) -> VersionRef {
        let (name, guid) = text.split_once('=').unwrap_or((text, text));
        let guid = Guid([guid.bytes().fold(0, |sum, b| sum ^ b); 16]);
        VersionRef { guid, name: name.parse().expect("a name") }
    }

    /// `1 1>2 2>3`: a full stream of @1, an increment on it that brings @2, … ; `a=x` is called a and is what x is.
    fn streams(text: &str) -> Vec<Stream> {
        let stream = |word: &str| match word.split_once('>') {
            Some((base, brings)) => Stream { brings: id(brings), base: Some(id(base).guid) },
            None => Stream { brings: id(word), base: None },
        };
        text.split_whitespace().map(stream).collect()
    }

    /// Snapshots, oldest first; `#1` is a bookmark of 1.
    fn inventory(text: &str) -> Inventory {
        let version = |(order, word): (u64, &str)| Version {
            id: id(word.trim_start_matches('#')),
            kind: if word.starts_with('#') { VersionKind::Bookmark } else { VersionKind::Snapshot },
            order,
            created: Timestamp::UNIX_EPOCH,
        };
        Inventory::new("tank/x", (0..).zip(text.split_whitespace()).map(version).collect(), Vec::new())
    }

    fn check(given: &str, target: &str, wanted: &str, expected: Expect) {
        let wanted = match wanted {
            "" => Wanted::Last,
            name => Wanted::Named(name.parse().expect("a name")),
        };
        let answer = match restore(&streams(given), &inventory(target), &wanted) {
            Ok(steps) => steps.iter().map(Step::to_string).collect::<Vec<_>>().join("; "),
            Err(conflict) => format!("conflict: {conflict}"),
        };
        expected.assert_eq(&answer);
    }

    #[test]
    fn a_chain_is_received_bases_first_in_whatever_order_it_is_given() {
        check("1", "", "", expect!["receive @1; place @1"]);
        check("2>3 1 1>2", "", "", expect!["receive @1; receive @2; receive @3; place @3"]);
    }

    #[test]
    fn what_the_target_has_is_not_received_again() {
        check("1 1>2 2>3", "1 2", "", expect!["receive @3; place @3"]);
        check("1 1>2", "1 2", "", expect!["place @2"]);
        check("", "1 2", "1", expect!["place @1"]);
    }

    #[test]
    fn a_version_in_the_middle_needs_nothing_after_it() {
        check("1 1>2 2>3", "", "2", expect!["receive @1; receive @2; place @2"]);
    }

    #[test]
    fn a_bookmark_at_the_target_is_no_base_to_build_upon_and_takes_no_name() {
        check("1 1>2", "#1", "", expect!["receive @1; receive @2; place @2"]);
        check("2 1>2", "#1", "", expect!["receive @2; place @2"]);
        check("a=x", "#a=y", "", expect!["receive @a; place @a"]);
        check("", "#1", "1", expect!["conflict: no stream and no snapshot is called @1"]);
    }

    #[test]
    fn the_target_knows_a_base_under_another_name() {
        check("1>2", "renamed=1", "", expect!["receive @2; place @2"]);
    }

    #[test]
    fn a_broken_chain_is_named_with_the_base_that_is_missing() {
        check(
            "1>2 2>3",
            "",
            "",
            expect![
                "conflict: @2 is an increment on 31313131-3131-3131-3131-313131313131, which is neither at the target nor among the streams"
            ],
        );
    }

    #[test]
    fn what_is_ambiguous_or_absent_is_a_conflict_with_evidence() {
        check("1 1>2 1>3", "", "", expect!["conflict: several streams end a chain: @2, @3"]);
        check("", "1", "", expect!["conflict: there is nothing to restore from"]);
        check("1", "", "9", expect!["conflict: no stream and no snapshot is called @9"]);
        check("1>2 2>1", "", "", expect!["conflict: @2 is, over other streams, its own base"]);
        check("1>2 2>1", "", "2", expect!["conflict: @2 is, over other streams, its own base"]);
    }

    #[test]
    fn of_two_streams_that_bring_the_same_the_cheaper_possible_one_is_taken() {
        check("1>2 2", "", "", expect!["receive @2; place @2"]);
        check("2 1>2", "1", "", expect!["receive @2; place @2"]);
        let steps = restore(&streams("2 1>2"), &inventory("1"), &Wanted::Last).expect("a plan");
        assert!(matches!(steps[0], Step::Receive { stream: 1, .. }));
    }

    #[test]
    fn of_two_versions_of_one_name_the_one_that_is_meant_is_placed() {
        let (streams, none) = (streams("a=x x>b b>a=y"), inventory(""));
        let plan = |wanted: &str| restore(&streams, &none, &Wanted::Exactly(id(wanted))).expect("a plan");
        let placed = |wanted: &str| plan(wanted).last().cloned();
        assert_eq!(placed("a=y"), Some(Step::Place { version: id("a=y") }));
        assert_eq!(placed("a=x"), Some(Step::Place { version: id("a=x") }));
        assert_eq!(plan("a=y").len(), 4);
        let there = restore(&[], &inventory("renamed=y"), &Wanted::Exactly(id("a=y"))).expect("a plan");
        assert_eq!(there, [Step::Place { version: id("renamed=y") }]);
    }

    #[test]
    fn the_same_stream_twice_is_one_end() {
        check("1 1", "", "", expect!["receive @1; place @1"]);
    }

    #[test]
    fn a_name_that_means_another_version_is_not_overwritten() {
        check(
            "a=x",
            "a=y",
            "",
            expect![
                "conflict: the target has another snapshot called @a: 79797979-7979-7979-7979-797979797979, not 78787878-7878-7878-7878-787878787878"
            ],
        );
    }
}
