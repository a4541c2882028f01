//! What the digests that two places wrote down prove of the versions that both have.
//!
//! Versions are the same if their guids are. A digest that was checked where a version arrived, and that is among those of the streams
//! that it was sent as, proves that what arrived is what was sent: not what lies on the disk since, which only reading it does.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;

use jiff::Timestamp;
use serde::Serialize;

use crate::model::{
    Guid, HoldTag, ReceivedStream, Recorded, SentStream, SnapshotName, StreamDigest, VersionRef,
};

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
    /// A side's snapshot is writable, or was made so and changed.
    Altered {
        /// Which one.
        side: Side,
    },
    /// They prove nothing.
    Unknown {
        /// Why not.
        why: Cow<'static, str>,
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
    /// Those that only the target has, and that were altered: each may be one that the source has.
    pub strays: Vec<VersionRef>,
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
    let matched = matched(source, target);
    let ways: Vec<_> =
        matched.iter().map(|&(here, there)| there.map(|there| digests(here, there, wanted))).collect();
    let grounds = Grounds::new(&matched, &ways);
    let mut compared = Compared::default();
    let mut met = HashSet::new();
    for (&(here, there), digests) in matched.iter().zip(&ways) {
        met.extend(there.map(|there| &there.version));
        if wanted.name.as_ref().is_some_and(|name| here.version.name != *name) {
            continue;
        }
        let (Some(there), Some(digests)) = (there, digests) else {
            compared.only_source.push(here.version.clone());
            continue;
        };
        let digests = match grounds.lacking(here, there, digests) {
            Some(why) => Digests::Unknown { why: why.into() },
            None => digests.clone(),
        };
        compared.pairs.push(Pair { source: here.version.clone(), target: there.version.clone(), digests });
    }
    if wanted.name.is_none() {
        for there in target.iter().filter(|there| !met.contains(&there.version)) {
            let alone = if there.altered { &mut compared.strays } else { &mut compared.only_target };
            alone.push(there.version.clone());
        }
    }
    compared
}

/// Each of the source's, with what it is at the target.
type Matched<'a> = (&'a Recorded, Option<&'a Recorded>);

/// By identity; what was altered has another one since, and is known by the one from before, and else only by its name.
fn matched<'a>(source: &'a [Recorded], target: &'a [Recorded]) -> Vec<Matched<'a>> {
    let by_guid: HashMap<_, _> = target.iter().map(|there| (there.version.guid, there)).collect();
    let own: HashSet<_> = source.iter().map(|here| here.version.guid).collect();
    let altered = || target.iter().filter(|there| there.altered && !own.contains(&there.version.guid));
    let by_was: HashMap<_, _> = altered().filter_map(|there| Some((there.was?, there))).collect();
    let known = |here: &Recorded| {
        let ids = [Some(here.version.guid), here.was];
        let mut found = ids.iter().flatten().map(|guid| by_guid.get(guid).or_else(|| by_was.get(guid)));
        found.find_map(|there| there.copied())
    };
    let found: Vec<_> = source.iter().map(|here| (here, known(here))).collect();
    let met: HashSet<_> = found.iter().filter_map(|(_, there)| Some(&(*there)?.version)).collect();
    let by_name: HashMap<_, _> = altered()
        .filter(|there| !met.contains(&there.version))
        .map(|there| (&there.version.name, there))
        .collect();
    let named = |here: &Recorded| by_name.get(&here.version.name).copied();
    found.into_iter().map(|(here, there)| (here, there.or_else(|| named(here)))).collect()
}

/// What is known of what increments build upon: their own streams say nothing of that.
struct Grounds<'a> {
    pairs: HashMap<Guid, (Matched<'a>, &'a Digests)>,
    names: HashMap<Guid, &'a SnapshotName>,
}

impl<'a> Grounds<'a> {
    fn new(matched: &[Matched<'a>], ways: &'a [Option<Digests>]) -> Self {
        let pairs = matched.iter().zip(ways).filter_map(|(&pair, digests)| {
            // What became of a base later says nothing of what was built upon it before.
            let digests = digests.as_ref().filter(|digests| !matches!(digests, Digests::Altered { .. }))?;
            Some((pair.0.version.guid, (pair, digests)))
        });
        let names = matched.iter().map(|(here, _)| (here.version.guid, &here.version.name));
        Self { pairs: pairs.collect(), names: names.collect() }
    }

    /// Why that what is said to be the same is not proven to be, if it is an increment.
    fn lacking(&self, here: &Recorded, there: &Recorded, digests: &Digests) -> Option<String> {
        let (mut here, mut there, mut digests) = (here, there, digests);
        // No chain of bases is longer than there are versions, but a peer may say anything.
        for _ in 0..=self.pairs.len() {
            let Digests::Same { stream } = digests else { return None };
            let base = stream.base?;
            let named = || self.names.get(&base).map_or_else(|| base.to_string(), |name| format!("@{name}"));
            let unproven = || Some(format!("it builds upon {}, of which nothing is proven", named()));
            let Some((pair, of_base)) = self.pairs.get(&base) else {
                let is_grounded = |side: &Recorded| side.received.is_none_or(|received| received.grounded);
                let is_proven = is_grounded(here) && is_grounded(there) && are_of_one_place(here, there);
                return if is_proven { None } else { unproven() };
            };
            let (base_here, Some(base_there)) = *pair else { return unproven() };
            let is_built = built(here, base_here, stream) && built(there, base_there, stream);
            if !matches!(of_base, Digests::Same { .. }) || !is_built {
                return unproven();
            }
            (here, there, digests) = (base_here, base_there, of_base);
        }
        Some("what it builds upon builds upon itself".into())
    }
}

/// Whether what both have is of one place, with all that it builds upon: one of them is that place, or both got all of it from there. What
/// came verified from a copy elsewhere is what that copy has, and no more is known of it.
fn are_of_one_place(here: &Recorded, there: &Recorded) -> bool {
    let places = |side: &Recorded| [side.place, side.received.and_then(|received| received.from)];
    let theirs = places(there);
    places(here).into_iter().flatten().any(|place| theirs.contains(&Some(place)))
}

/// Whether `stream`, which one side has `side` of, was applied to or made from what that side has as `base` now: what was received once more
/// since, as another stream or raw, is another, whatever its identity.
fn built(side: &Recorded, base: &Recorded, stream: &StreamDigest) -> bool {
    let arrived = side.received.filter(|received| received.stream == *stream);
    // By the clock of that side: since when it has that base, at the latest.
    let since = match base.received {
        Some(received) => received.at,
        None => base.sent.iter().map(|sent| sent.at).min(),
    };
    let has_it_at = |at: Timestamp| since.is_some_and(|since| since <= at);
    let sent = || side.sent.iter().any(|sent| sent.stream == *stream && has_it_at(sent.at));
    match (base.received, arrived) {
        (Some(base), Some(arrived)) if arrived.upon == Some(base.stream.blake3) => true,
        (None, Some(arrived)) if arrived.upon.is_none() => arrived.at.is_some_and(has_it_at) || sent(),
        // Both were made there.
        (None, None) if side.received.is_none() => true,
        _ => sent(),
    }
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
        && a.stream == b.stream
        && (a.whole && b.whole)
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
    let unknown = |why: &'static str| Digests::Unknown { why: why.into() };
    let Some(received) = receiver.received else {
        return unknown("the side that has it as a copy recorded no digest");
    };
    if sender.sent.iter().any(|sent| sent.stream == received.stream) {
        return match received.whole {
            true => Digests::Same { stream: received.stream },
            false => unknown("it came in parts, of which only the last one is known"),
        };
    }
    // A version may have been sent there several times; what it was sent as last is what is there, unless it came from elsewhere.
    let last = sender.sent.iter().rev().find(|sent| sent.to.as_ref() == Some(tag));
    match last {
        Some(sent) if may_be_of(sent, &received) => {
            Digests::Differ { sent: sent.stream, received: received.stream }
        }
        None if sender.sent.is_empty() => unknown("the side that sent it recorded no digest"),
        _ => unknown("it was received as a stream that the other side did not send"),
    }
}

/// Whether what was received is what that should have been: as far as can be told, nobody sent another one since.
fn may_be_of(sent: &SentStream, received: &ReceivedStream) -> bool {
    let shape = |stream: StreamDigest| (stream.base, stream.len);
    shape(sent.stream) == shape(received.stream) && received.at.is_none_or(|at| at <= sent.at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Digest;

    /// Where versions are made, and where they are received.
    const HERE: Digest = Digest([0xaa; 32]);
    const ELSEWHERE: Digest = Digest([0xbb; 32]);
    const AT: Timestamp = Timestamp::UNIX_EPOCH;

    fn stream(byte: u8) -> StreamDigest {
        StreamDigest { blake3: Digest([byte; 32]), base: None, len: 9 }
    }

    fn version(name: &str) -> VersionRef {
        let mut guid = [0; 16];
        guid[..name.len()].copy_from_slice(name.as_bytes());
        VersionRef { guid: Guid(guid), name: name.parse().unwrap() }
    }

    fn side(name: &str) -> Recorded {
        let (received, sent, place) = (None, Vec::new(), Some(HERE));
        Recorded { version: version(name), place, altered: false, was: None, received, sent }
    }

    fn sent(name: &str, streams: &[(u8, &str)]) -> Recorded {
        let sent = |(byte, to): &(u8, &str)| SentStream {
            stream: stream(*byte),
            at: AT,
            to: (!to.is_empty()).then(|| to.parse().unwrap()),
        };
        Recorded { sent: streams.iter().map(sent).collect(), ..side(name) }
    }

    fn received(name: &str, byte: u8, whole: bool) -> Recorded {
        let from = Some(HERE);
        let received =
            ReceivedStream { stream: stream(byte), whole, grounded: true, from, upon: None, at: Some(AT) };
        Recorded { received: Some(received), place: Some(ELSEWHERE), ..side(name) }
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
            Digests::Unknown { why } => why.clone().into_owned(),
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
        // Upon another base, of another length or of a later time, it came from somebody else.
        let others: [fn(&mut ReceivedStream); 3] = [
            |other| other.stream.base = Some(Guid([1; 16])),
            |other| other.stream.len += 1,
            |other| other.at = Some("2026-01-01T00:00:00Z".parse().unwrap()),
        ];
        for change in others {
            let mut other = received("s", 2, true);
            change(other.received.as_mut().unwrap());
            let relayed = "it was received as a stream that the other side did not send";
            assert_eq!(one(sent("s", &[(1, there)]), other), relayed);
        }
        let mut in_time = received("s", 2, true);
        in_time.received.as_mut().unwrap().at = None;
        assert_eq!(one(sent("s", &[(1, there)]), in_time), "differ 1 2");
    }

    /// `side`, sent or received as an increment upon what `base` is.
    fn upon(base_name: &str, mut side: Recorded, grounded: bool) -> Recorded {
        let base = Some(version(base_name).guid);
        side.sent.iter_mut().for_each(|sent| sent.stream.base = base);
        side.received.iter_mut().for_each(|received| {
            received.stream.base = base;
            received.grounded = grounded;
            // The first letter is the first stream.
            received.upon = grounded.then(|| Digest([base_name.as_bytes()[0] - b'a' + 1; 32]));
        });
        side
    }

    /// What is found of the last one of each side.
    fn last(source: &[Recorded], target: &[Recorded]) -> String {
        let found = compare(source, target, &wanted(None)).pairs.pop().unwrap().digests;
        match found {
            Digests::Same { .. } => "same".into(),
            Digests::Unknown { why } => why.into_owned(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn an_increment_is_the_same_only_upon_what_is() {
        let unproven = "it builds upon @a, of which nothing is proven";
        let unnamed = format!("it builds upon {}, of which nothing is proven", version("a").guid);
        let (full, next) = (sent("a", &[(1, "")]), upon("a", sent("b", &[(2, "")]), true));
        let copy = |grounded| upon("a", received("b", 2, true), grounded);
        assert_eq!(last(&[full.clone(), next.clone()], &[received("a", 1, true), copy(true)]), "same");
        // Nothing is known of the base, it is another stream, or came in parts.
        for base in [side("a"), received("a", 7, true), received("a", 1, false)] {
            assert_eq!(last(&[full.clone(), next.clone()], &[base, copy(true)]), unproven);
        }
        // It was not proven when the increment came, whatever is there under its name now.
        assert_eq!(last(&[full.clone(), next.clone()], &[received("a", 1, true), copy(false)]), unproven);
        // The base is gone, at one side or at both: what was written down as the increment came counts.
        for (grounded, word) in [(true, "same"), (false, unproven)] {
            assert_eq!(last(&[full.clone(), next.clone()], &[copy(grounded)]), word);
        }
        for (grounded, word) in [(true, "same"), (false, unnamed.as_str())] {
            assert_eq!(last(std::slice::from_ref(&next), &[received("a", 1, true), copy(grounded)]), word);
            assert_eq!(last(std::slice::from_ref(&next), &[copy(grounded)]), word);
        }
        // What the sender itself has as an increment upon something unknown is no ground either.
        let relayed = Recorded { sent: next.sent.clone(), ..copy(false) };
        assert_eq!(last(&[relayed], &[copy(true)]), unnamed);
        // A base that is changed later was what it was.
        let changed = Recorded { altered: true, was: Some(version("a").guid), ..received("z", 1, true) };
        assert_eq!(last(&[full.clone(), next.clone()], &[changed, copy(true)]), "same");
    }

    /// A third place is seeded from a replica that was itself received raw, and what comes next comes from the source.
    #[test]
    fn what_came_verified_from_a_copy_elsewhere_is_not_what_the_source_has_once_the_base_is_gone() {
        let next = upon("a", sent("b", &[(2, "")]), true);
        let copy = |from: Option<Digest>| {
            let mut copy = upon("a", received("b", 2, true), true);
            copy.received.as_mut().unwrap().from = from;
            copy
        };
        let source = std::slice::from_ref(&next);
        assert_eq!(last(source, &[copy(Some(HERE))]), "same");
        for from in [None, Some(Digest([7; 32])), Some(ELSEWHERE)] {
            let found = last(source, &[copy(from)]);
            assert!(found.ends_with("of which nothing is proven"), "{from:?}: {found}");
        }
        // While the base is there, it is compared itself.
        let full = sent("a", &[(1, "")]);
        assert_eq!(last(&[full.clone(), next.clone()], &[received("a", 1, true), copy(None)]), "same");
        // Backwards, and two that got all of it from one place.
        assert_eq!(last(&[copy(Some(HERE))], source), "same");
        assert_eq!(last(&[copy(Some(HERE))], &[copy(Some(HERE))]), "same");
        let third = Recorded { place: Some(Digest([7; 32])), ..copy(Some(Digest([8; 32]))) };
        assert_ne!(last(&[copy(Some(HERE))], &[third]), "same");
        // Who does not say where it is has said nothing.
        let silent = Recorded { place: None, ..next };
        assert_ne!(last(&[silent], &[copy(None)]), "same");
    }

    /// What it built upon is gone, and something else came under that identity since.
    #[test]
    fn a_base_that_came_once_more_is_not_what_an_increment_was_built_upon() {
        let unproven = "it builds upon @a, of which nothing is proven";
        let late = Timestamp::from_second(7).unwrap();
        let source = [sent("a", &[(1, "")]), upon("a", sent("b", &[(2, "")]), true)];
        let was_upon = |upon_was: Option<u8>| {
            let mut next = upon("a", received("b", 2, true), true);
            next.received.as_mut().unwrap().upon = upon_was.map(|byte| Digest([byte; 32]));
            [received("a", 1, true), next]
        };
        assert_eq!(last(&source, &was_upon(Some(1))), "same");
        assert_eq!(last(&source, &was_upon(Some(7))), unproven);
        assert_eq!(last(&source, &was_upon(None)), unproven);
        // As the same stream, it is the same again, whenever.
        let mut again = was_upon(Some(1));
        again[0].received.as_mut().unwrap().at = Some(late);
        assert_eq!(last(&source, &again), "same");
        // At the sender: it sent the increment before, and then again.
        let mut sender = source.clone();
        sender[0].received = again[0].received;
        assert_eq!(last(&sender, &was_upon(Some(1))), unproven);
        sender[1].sent[0].at = late;
        assert_eq!(last(&sender, &was_upon(Some(1))), "same");
        // One that came raw, upon which an increment came before that, and after it was sent back.
        let mut back = [sent("a", &[(1, "")]), upon("a", received("b", 2, true), false)];
        let there = [received("a", 1, true), upon("a", sent("b", &[(2, "")]), true)];
        assert_eq!(last(&back, &there), "same");
        back[0].sent[0].at = late;
        assert_eq!(last(&back, &there), unproven);
        // A relay passes on what it has, whatever that came as.
        back[1].sent = vec![SentStream { at: late, ..there[1].sent[0].clone() }];
        assert_eq!(last(&back, &there), "same");
        back[1].received = received("b", 9, true).received;
        let there = [received("a", 1, true), upon("a", received("b", 2, true), true)];
        assert_eq!(last(&back, &there), "same");
        back[1].sent[0].at = AT;
        assert_eq!(last(&back, &there), unproven);
    }

    #[test]
    fn a_chain_is_as_certain_as_its_first_link_whichever_way_it_went() {
        let source = [
            sent("a", &[(1, "")]),
            upon("a", sent("b", &[(2, "")]), true),
            upon("b", sent("c", &[(3, "")]), true),
        ];
        let target = |a: Recorded| {
            [a, upon("a", received("b", 2, true), true), upon("b", received("c", 3, true), true)]
        };
        assert_eq!(last(&source, &target(received("a", 1, true))), "same");
        let unproven = last(&source, &target(side("a")));
        assert!(unproven.contains("nothing is proven"), "{unproven}");
        // Back to where the base was made: nobody sent that there.
        let back = [sent("a", &[(1, "")]), upon("a", received("b", 2, true), false)];
        let there = [received("a", 1, true), upon("a", sent("b", &[(2, "")]), true)];
        assert_eq!(last(&back, &there), "same");
        // From a third place, to both.
        let third = |grounded| [received("a", 1, true), upon("a", received("b", 2, true), grounded)];
        assert_eq!(last(&third(true), &third(true)), "same");
        assert_ne!(last(&third(false), &third(false)), "same");
        // A peer says that something builds upon itself.
        let own = [upon("a", sent("a", &[(1, "")]), true)];
        assert_ne!(last(&own, &[upon("a", received("a", 1, true), true)]), "same");
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
    fn what_was_altered_under_another_name_is_known_by_what_it_was() {
        let altered = |name: &str, was: Option<&str>| Recorded {
            altered: true,
            was: was.map(|was| version(was).guid),
            version: VersionRef { guid: Guid([9; 16]), ..version(name) },
            ..received(name, 1, true)
        };
        assert_eq!(one(sent("new", &[(1, "")]), altered("old", Some("new"))), "altered target");
        // At the source, too, and at both.
        assert_eq!(one(altered("old", Some("s")), received("s", 1, true)), "altered source");
        let other = Recorded {
            version: VersionRef { guid: Guid([8; 16]), ..version("x") },
            ..altered("x", Some("s"))
        };
        assert_eq!(one(altered("y", Some("s")), other), "altered target");
        // Its name is somebody else's now, who is here as well.
        let target = [altered("b", Some("a")), received("b", 1, true)];
        let found = compare(&[sent("a", &[(1, "")]), sent("b", &[(1, "")])], &target, &wanted(None));
        let told: Vec<_> =
            found.pairs.iter().map(|pair| matches!(pair.digests, Digests::Altered { .. })).collect();
        assert_eq!(told, [true, false]);
        // What it was is not known, or not here: it is no replica of anything.
        for was in [None, Some("c")] {
            let found = compare(&[side("a")], &[side("a"), altered("b", was)], &wanted(None));
            assert_eq!((found.strays.len(), found.only_target.len(), found.pairs.len()), (1, 0, 1));
        }
        assert!(compare(&[side("a")], &[altered("b", None)], &wanted(Some("a"))).strays.is_empty());
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
