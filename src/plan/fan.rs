//! Which transfers to several targets of one source are one stream.
//!
//! Each target has a plan of its own ([`replicate`](super::replicate::replicate)), and its steps stay in their order. Two targets that are to
//! get the same version upon the same base get it from one stream.

use serde::Serialize;

use crate::model::{Guid, Inventory, VersionRef};
use crate::plan::replicate::{Plan, Step};

/// One stream, and who gets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Turn {
    /// Which version.
    pub version: VersionRef,
    /// What it builds upon; none in full.
    pub base: Option<VersionRef>,
    /// The numbers of the plans that it is a step of, rising.
    pub lanes: Vec<usize>,
}

/// A transfer that is a step of a plan.
#[derive(Clone, Copy)]
struct Leg<'a> {
    version: &'a VersionRef,
    base: Option<&'a VersionRef>,
    resume: bool,
}

impl Leg<'_> {
    fn base_guid(&self) -> Option<Guid> {
        self.base.map(|base| base.guid)
    }
}

/// The streams that do what `plans` say, all of whose source is `source`, in the order to send them in. For each plan they are its
/// transfers, in their order; a version upon a base is one stream for all that get it. Where `apart` says so, what goes on with a transfer
/// that was broken off is a stream by itself: its beginning is at the target, and it can not be made from another's.
pub fn turns(source: &Inventory, plans: &[&Plan], apart: bool) -> Vec<Turn> {
    let order = |version: &VersionRef| source.by_guid(version.guid).map_or(u64::MAX, |version| version.order);
    let mut lanes: Vec<Vec<Leg<'_>>> = plans.iter().map(|plan| legs(plan).rev().collect()).collect();
    let mut turns = Vec::new();
    // The oldest version that any lane waits for: no lane has it further behind, as each has them in their order.
    while let Some(next) =
        lanes.iter().filter_map(|lane| lane.last().copied()).min_by_key(|leg| order(leg.version))
    {
        let joins = |lane: &Vec<Leg<'_>>| lane.last().is_some_and(|leg| is_one_stream(&next, leg, apart));
        let mut going: Vec<_> = (0..lanes.len()).filter(|&lane| joins(&lanes[lane])).collect();
        if apart && next.resume {
            going.truncate(1);
        }
        for &lane in &going {
            lanes[lane].pop();
        }
        turns.push(Turn { version: next.version.clone(), base: next.base.cloned(), lanes: going });
    }
    turns
}

fn legs(plan: &Plan) -> impl DoubleEndedIterator<Item = Leg<'_>> {
    plan.steps.iter().filter_map(|step| match step {
        Step::Transfer { version, base, resume } => {
            Some(Leg { version, base: base.as_ref(), resume: *resume })
        }
        _ => None,
    })
}

fn is_one_stream(a: &Leg<'_>, b: &Leg<'_>, apart: bool) -> bool {
    let is_same = (a.version.guid, a.base_guid()) == (b.version.guid, b.base_guid());
    is_same && (!apart || a.resume == b.resume)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Version, VersionKind};

    fn reference(name: &str) -> VersionRef {
        let mut bytes = [0; 16];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        VersionRef { guid: Guid(bytes), name: name.parse().unwrap() }
    }

    /// Versions in their order, a letter each.
    fn source(names: &str) -> Inventory {
        let version = |(order, name): (usize, char)| Version {
            id: reference(&name.to_string()),
            kind: VersionKind::Snapshot,
            order: order as u64,
            created: jiff::Timestamp::UNIX_EPOCH,
        };
        Inventory::new("d", names.chars().enumerate().map(version).collect(), Vec::new())
    }

    /// `>a a>c~`: in full, and upon a base, going on.
    fn plan(notation: &str) -> Plan {
        let mut steps = Vec::new();
        for word in notation.split_whitespace() {
            let (base, version) = word.split_once('>').unwrap();
            let (version, resume) = version.strip_suffix('~').map_or((version, false), |name| (name, true));
            let version = reference(version);
            steps.push(Step::HoldHere { version: version.clone() });
            let base = (!base.is_empty()).then(|| reference(base));
            steps.push(Step::Transfer { version: version.clone(), base, resume });
            steps.push(Step::HoldThere { version });
        }
        Plan { base: None, steps }
    }

    fn told(plans: &[&str], apart: bool) -> String {
        let plans: Vec<_> = plans.iter().map(|notation| plan(notation)).collect();
        let turns = turns(&source("abcdef"), &plans.iter().collect::<Vec<_>>(), apart);
        let turn = |turn: &Turn| {
            let base = turn.base.as_ref().map_or("", |base| base.name.as_str());
            let lanes: Vec<_> = turn.lanes.iter().map(ToString::to_string).collect();
            format!("{base}>{}:{}", turn.version.name, lanes.join(","))
        };
        turns.iter().map(turn).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_is_the_same_is_sent_once() {
        for (plans, apart, wanted) in [
            (&[][..], false, ""),
            (&["", ""], false, ""),
            (&[">a"], false, ">a:0"),
            (&[">a", ">a", ">a"], false, ">a:0,1,2"),
            (&["a>b", "", "a>b"], true, "a>b:0,2"),
            // Another base is another stream.
            (&["a>c", "b>c", "a>c"], false, "a>c:0,2 b>c:1"),
            // Who is further behind catches up, then they go together.
            (&["a>b b>c c>d", "c>d", "b>c c>d"], false, "a>b:0 b>c:0,2 c>d:0,1,2"),
            (&["c>d", "a>d", ">a a>b b>d"], false, ">a:2 a>b:2 c>d:0 a>d:1 b>d:2"),
            // What was broken off.
            (&["a>b~", "a>b"], false, "a>b:0,1"),
            (&["a>b~", "a>b"], true, "a>b:0 a>b:1"),
            (&["a>b~ b>c", "a>b~ b>c", "a>b b>c", "a>b b>c"], true, "a>b:0 a>b:1 a>b:2,3 b>c:0,1,2,3"),
        ] {
            assert_eq!(told(plans, apart), wanted, "{plans:?}");
        }
    }

    /// Transfers upon one another, of some of the versions, in full or behind what is there, and whether the first goes on.
    fn lane() -> impl Strategy<Value = String> {
        (prop::collection::vec(any::<bool>(), 6), any::<bool>(), any::<bool>()).prop_map(
            |(has, full, resume)| {
                let names: Vec<_> =
                    "abcdef".chars().zip(has).filter(|(_, has)| *has).map(|(name, _)| name).collect();
                let mut words = Vec::new();
                if full && let Some(first) = names.first() {
                    words.push(format!(">{first}"));
                }
                words.extend(names.windows(2).map(|pair| format!("{}>{}", pair[0], pair[1])));
                if resume && let Some(first) = words.first_mut() {
                    first.push('~');
                }
                words.join(" ")
            },
        )
    }

    proptest! {
        #[test]
        fn each_plan_is_done_in_its_order_and_nothing_is_sent_twice_that_could_be_sent_once(
            lanes in prop::collection::vec(lane(), 0..6),
            apart in any::<bool>(),
        ) {
            let plans: Vec<_> = lanes.iter().map(|notation| plan(notation)).collect();
            let turns = turns(&source("abcdef"), &plans.iter().collect::<Vec<_>>(), apart);
            for (number, plan) in plans.iter().enumerate() {
                let wanted: Vec<_> = legs(plan).map(|leg| (leg.version.clone(), leg.base.cloned())).collect();
                let own = turns.iter().filter(|turn| turn.lanes.contains(&number));
                let done: Vec<_> = own.map(|turn| (turn.version.clone(), turn.base.clone())).collect();
                prop_assert_eq!(done, wanted);
            }
            let (gone_on_with, anew): (Vec<_>, Vec<_>) = plans.iter().flat_map(legs).partition(|leg| apart && leg.resume);
            let mut kinds: Vec<_> = anew.iter().map(|leg| (leg.version.guid, leg.base_guid())).collect();
            kinds.sort();
            kinds.dedup();
            prop_assert_eq!(turns.len(), kinds.len() + gone_on_with.len());
            prop_assert!(turns.iter().all(|turn| turn.lanes.is_sorted() && !turn.lanes.is_empty()));
        }
    }
}
