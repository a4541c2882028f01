//! What the digests that two places wrote down prove of the versions that both have.
//!
//! Versions are the same if their guids are. A digest that was checked where a version arrived, and that is among those of the streams
//! that it was sent as, proves that what arrived is what was sent: not what lies on the disk since, which only reading it does.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::Serialize;

use crate::model::{HoldTag, Recorded, SnapshotName, StreamDigest, VersionRef};

/// One of the two places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The dataset that is to be proven of.
    Source,
    /// What is held against it.
    Target,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Source => "source",
            Self::Target => "target",
        })
    }
}

/// What recorded digests say of one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "digests", rename_all = "lowercase")]
pub enum Digests {
    /// What one side received and checked is what the other sent, or both received the same.
    Same {
        /// The stream.
        stream: StreamDigest,
    },
    /// One side sent a stream to the other, and that one received another.
    Differ {
        /// What was sent.
        sent: StreamDigest,
        /// What was received.
        received: StreamDigest,
    },
    /// A side made its snapshot writable and changed it.
    Altered {
        /// Which one.
        side: Side,
    },
    /// They prove nothing.
    Unknown {
        /// Why not.
        why: &'static str,
    },
}

/// A version that both have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// It at the source.
    pub source: VersionRef,
    /// It at the target, where it may have another name.
    pub target: VersionRef,
    /// What is recorded of it.
    pub digests: Digests,
}

/// Which versions both have, what is recorded of them, and which only one has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Compared {
    /// In the order of the source's.
    pub pairs: Vec<Pair>,
    /// Those that only the source has.
    pub only_source: Vec<VersionRef>,
    /// Those that only the target has.
    pub only_target: Vec<VersionRef>,
}

/// What to look for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Only the source's snapshot of that name.
    pub name: Option<SnapshotName>,
    /// By which tag the source keeps what it sent to the target.
    pub there: HoldTag,
    /// By which tag the target keeps what it sent to the source.
    pub back: HoldTag,
}

/// Compares what is recorded at both places, each in the order of its versions.
pub fn compare(source: &[Recorded], target: &[Recorded], wanted: &Wanted) -> Compared {
    let by_guid: HashMap<_, _> = target.iter().map(|there| (there.version.guid, there)).collect();
    let own: HashSet<_> = source.iter().map(|here| here.version.guid).collect();
    // What was altered has another identity since, and only its name to be known by.
    let altered: HashMap<_, _> = target
        .iter()
        .filter(|there| there.altered && !own.contains(&there.version.guid))
        .map(|there| (&there.version.name, there))
        .collect();
    let is_wanted = |here: &&Recorded| wanted.name.as_ref().is_none_or(|name| here.version.name == *name);
    let mut compared = Compared::default();
    let mut met = HashSet::new();
    for here in source.iter().filter(is_wanted) {
        let there = by_guid.get(&here.version.guid).or_else(|| altered.get(&here.version.name));
        let Some(there) = there else {
            compared.only_source.push(here.version.clone());
            continue;
        };
        met.insert(&there.version);
        let digests = digests(here, there, wanted);
        compared.pairs.push(Pair { source: here.version.clone(), target: there.version.clone(), digests });
    }
    if wanted.name.is_none() {
        let alone = target.iter().map(|there| &there.version).filter(|version| !met.contains(version));
        compared.only_target.extend(alone.cloned());
    }
    compared
}

fn digests(here: &Recorded, there: &Recorded, wanted: &Wanted) -> Digests {
    if there.altered {
        return Digests::Altered { side: Side::Target };
    }
    if here.altered {
        return Digests::Altered { side: Side::Source };
    }
    let ways = [way(here, there, &wanted.there), way(there, here, &wanted.back)];
    let found = |is: fn(&Digests) -> bool| ways.iter().find(|way| is(way)).cloned();
    if let Some(same) = found(|way| matches!(way, Digests::Same { .. })) {
        return same;
    }
    if let (Some(a), Some(b)) = (here.received, there.received)
        && a == b
        && a.whole
    {
        return Digests::Same { stream: a.stream };
    }
    found(|way| matches!(way, Digests::Differ { .. })).unwrap_or_else(|| unknown(here, there, ways))
}

/// What is to be said where nothing is proven: the way in which something was received says more than the one in which nothing was.
fn unknown(here: &Recorded, there: &Recorded, [there_by, back_by]: [Digests; 2]) -> Digests {
    match (there.received, here.received) {
        (None, Some(_)) => back_by,
        _ => there_by,
    }
}

/// What is recorded of the way from one side to the other, which the sender calls `tag`.
fn way(sender: &Recorded, receiver: &Recorded, tag: &HoldTag) -> Digests {
    let Some(received) = receiver.received else {
        return Digests::Unknown { why: "the side that has it as a copy recorded no digest" };
    };
    if sender.sent.iter().any(|sent| sent.stream == received.stream) {
        return match received.whole {
            true => Digests::Same { stream: received.stream },
            false => Digests::Unknown { why: "it came in parts, of which only the last one is known" },
        };
    }
    // A version may have been sent there several times; what it was sent as last is what is there.
    let last = sender.sent.iter().rev().find(|sent| sent.to.as_ref() == Some(tag));
    match last {
        Some(sent) => Digests::Differ { sent: sent.stream, received: received.stream },
        None if sender.sent.is_empty() => {
            Digests::Unknown { why: "the side that sent it recorded no digest" }
        }
        None => Digests::Unknown { why: "it was received as a stream that the other side did not send" },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Digest, Guid, ReceivedStream, SentStream};

    fn stream(byte: u8) -> StreamDigest {
        StreamDigest { blake3: Digest([byte; 32]), base: None, len: 9 }
    }

    fn version(name: &str) -> VersionRef {
        let mut guid = [0; 16];
        guid[..name.len()].copy_from_slice(name.as_bytes());
        VersionRef { guid: Guid(guid), name: name.parse().unwrap() }
    }

    fn side(name: &str) -> Recorded {
        Recorded { version: version(name), altered: false, received: None, sent: Vec::new() }
    }

    fn sent(name: &str, streams: &[(u8, &str)]) -> Recorded {
        let sent = |(byte, to): &(u8, &str)| SentStream {
            stream: stream(*byte),
            at: jiff::Timestamp::UNIX_EPOCH,
            to: (!to.is_empty()).then(|| to.parse().unwrap()),
        };
        Recorded { sent: streams.iter().map(sent).collect(), ..side(name) }
    }

    fn received(name: &str, byte: u8, whole: bool) -> Recorded {
        Recorded { received: Some(ReceivedStream { stream: stream(byte), whole }), ..side(name) }
    }

    fn wanted(name: Option<&str>) -> Wanted {
        let name = name.map(|name| name.parse().unwrap());
        Wanted { name, there: "cowsnap:to:there".parse().unwrap(), back: "cowsnap:to:here".parse().unwrap() }
    }

    fn one(here: Recorded, there: Recorded) -> String {
        let compared = compare(&[here], &[there], &wanted(None));
        match &compared.pairs[0].digests {
            Digests::Same { stream } => format!("same {}", stream.blake3.0[0]),
            Digests::Differ { sent, received } => {
                format!("differ {} {}", sent.blake3.0[0], received.blake3.0[0])
            }
            Digests::Altered { side } => format!("altered {side}"),
            Digests::Unknown { why } => (*why).into(),
        }
    }

    #[test]
    fn what_arrived_is_what_was_sent() {
        let there = "cowsnap:to:there";
        assert_eq!(one(sent("s", &[(1, there)]), received("s", 1, true)), "same 1");
        // Sent by hand, to nobody knows whom: the digest tells.
        assert_eq!(one(sent("s", &[(2, "cowsnap:to:x"), (1, "")]), received("s", 1, true)), "same 1");
        // Backwards, and from a third place.
        assert_eq!(one(received("s", 1, true), sent("s", &[(1, "")])), "same 1");
        assert_eq!(one(received("s", 1, true), received("s", 1, true)), "same 1");
        // Both directions are known, and one proves it.
        let both = Recorded { sent: sent("s", &[(9, there)]).sent, ..received("s", 3, true) };
        let back = Recorded { sent: sent("s", &[(3, "cowsnap:to:here")]).sent, ..received("s", 4, true) };
        assert_eq!(one(both, back), "same 3");
    }

    #[test]
    fn another_digest_than_was_sent_there_is_a_difference() {
        let there = "cowsnap:to:there";
        assert_eq!(one(sent("s", &[(1, there)]), received("s", 2, true)), "differ 1 2");
        assert_eq!(one(sent("s", &[(1, there), (3, there)]), received("s", 2, true)), "differ 3 2");
        assert_eq!(one(received("s", 2, true), sent("s", &[(1, "cowsnap:to:here")])), "differ 1 2");
        // The same bytes upon another base, or of another length, are another stream.
        let mut other = received("s", 1, true);
        other.received.as_mut().unwrap().stream.base = Some(Guid([1; 16]));
        assert_eq!(one(sent("s", &[(1, there)]), other), "differ 1 1");
        let mut other = received("s", 1, true);
        other.received.as_mut().unwrap().stream.len += 1;
        assert_eq!(one(sent("s", &[(1, there)]), other), "differ 1 1");
    }

    #[test]
    fn what_is_not_recorded_proves_nothing() {
        let none = "the side that has it as a copy recorded no digest";
        assert_eq!(one(side("s"), side("s")), none);
        assert_eq!(one(sent("s", &[(1, "cowsnap:to:there")]), side("s")), none);
        assert_eq!(one(side("s"), received("s", 1, true)), "the side that sent it recorded no digest");
        assert_eq!(one(received("s", 1, true), side("s")), "the side that sent it recorded no digest");
        let relayed = "it was received as a stream that the other side did not send";
        assert_eq!(one(sent("s", &[(1, "cowsnap:to:other"), (2, "")]), received("s", 3, true)), relayed);
        let parts = "it came in parts, of which only the last one is known";
        assert_eq!(one(sent("s", &[(1, "cowsnap:to:there")]), received("s", 1, false)), parts);
        assert_ne!(one(received("s", 1, false), received("s", 1, false)), "same 1");
    }

    #[test]
    fn what_was_altered_is_known_by_its_name() {
        let there = Recorded {
            altered: true,
            version: VersionRef { guid: Guid([9; 16]), ..version("s") },
            ..received("s", 1, true)
        };
        assert_eq!(one(sent("s", &[(1, "")]), there), "altered target");
        let here = Recorded { altered: true, ..sent("s", &[(1, "")]) };
        assert_eq!(one(here, received("s", 1, true)), "altered source");
        // Another snapshot of that name that nobody altered is another one.
        let other = Recorded { version: VersionRef { guid: Guid([9; 16]), ..version("s") }, ..side("s") };
        let compared = compare(&[side("s")], &[other], &wanted(None));
        assert!(
            compared.pairs.is_empty() && compared.only_source.len() == 1 && compared.only_target.len() == 1
        );
    }

    #[test]
    fn what_only_one_side_has_is_told_apart() {
        let (source, target) = ([side("a"), side("b"), side("c")], [side("b"), side("d"), side("c")]);
        let names = |versions: &[VersionRef]| {
            versions.iter().map(|version| version.name.to_string()).collect::<Vec<_>>().join(" ")
        };
        let all = compare(&source, &target, &wanted(None));
        let pairs: Vec<_> = all.pairs.iter().map(|pair| pair.source.clone()).collect();
        assert_eq!((names(&pairs).as_str(), names(&all.only_source).as_str()), ("b c", "a"));
        assert_eq!(names(&all.only_target), "d");
        let one = compare(&source, &target, &wanted(Some("a")));
        assert_eq!((one.pairs.len(), names(&one.only_source).as_str(), one.only_target.len()), (0, "a", 0));
        // Renamed at the target, it is the same.
        let renamed =
            Recorded { version: VersionRef { name: "new".parse().unwrap(), ..version("a") }, ..side("a") };
        let found = compare(&source, &[renamed], &wanted(Some("a")));
        assert_eq!(found.pairs[0].target.name.as_str(), "new");
    }
}
