//! Which layers a policy keeps: the retention of snapshots, and what other layers and overlays lie on.
//!
//! The layers of one overlay's name are judged as the snapshots of a dataset are. A layer that no rule keeps stays nevertheless as long as
//! something that stays lies on it: then the same verdicts come out when only what stays is judged again.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use jiff::Zoned;

use crate::model::{Guid, Inventory};
use crate::plan::retain::{Reason, Retention, Surroundings, Verdict, retain};

/// What lies on what.
#[derive(Debug, Clone, Default)]
pub struct Stacking {
    /// The layer that a layer lies on, where that is another layer.
    pub parents: HashMap<Guid, Guid>,
    /// What lies on a layer and is not judged: overlays, layers of other names; in words.
    pub users: BTreeMap<Guid, Vec<String>>,
}

/// Judges every layer of these names, each name by itself, oldest first.
///
/// In every inventory the order of a layer is above that of the one it lies on, also across inventories.
pub fn judge<'a>(
    inventories: &'a [Inventory],
    policy: &'a Retention,
    nothing: &'a Surroundings,
    stacking: &Stacking,
    now: &Zoned,
) -> Vec<Vec<Verdict<'a>>> {
    let mut judged: Vec<_> =
        inventories.iter().map(|inventory| retain(inventory, policy, nothing, now)).collect();
    let places = |judged: &[Vec<Verdict<'_>>]| -> Vec<(usize, usize)> {
        let of_one = |(name, verdicts): (usize, &Vec<_>)| (0..verdicts.len()).map(move |nth| (name, nth));
        judged.iter().enumerate().flat_map(of_one).collect::<Vec<_>>()
    };
    let mut from_above = places(&judged);
    from_above.sort_by_key(|&(name, nth)| Reverse(judged[name][nth].version.order));
    let mut users = stacking.users.clone();
    for (name, nth) in from_above {
        let verdict = &mut judged[name][nth];
        let id = &verdict.version.id;
        if let Some(users) = users.remove(&id.guid) {
            verdict.kept_by.push(Reason::Below(users));
        }
        if let (true, Some(parent)) = (verdict.is_kept(), stacking.parents.get(&id.guid)) {
            let label = format!("layer {}@{}", inventories[name].dataset, id.name);
            users.entry(*parent).or_default().push(label);
        }
    }
    judged
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::model::{HoldTag, Version, VersionKind, VersionRef};

    fn guid(n: u64) -> Guid {
        Guid(u128::from(n).to_be_bytes())
    }

    /// A layer: its number, its overlay, the layer that it lies on, and whether it is held.
    type Layer = (u64, &'static str, Option<u64>, bool);

    /// `ci@1 ci@2/1 other@3/2!`: layers by overlay and number, in their order, `/` what each lies on, `!` held.
    fn parse(text: &'static str) -> Vec<Layer> {
        let layers = text.split_whitespace().map(|word| {
            let (overlay, rest) = word.split_once('@').expect("OVERLAY@NUMBER");
            let held = rest.ends_with('!');
            let (number, parent) = match rest.trim_end_matches('!').split_once('/') {
                Some((number, parent)) => (number, Some(parent.parse().expect("a number"))),
                None => (rest.trim_end_matches('!'), None),
            };
            (number.parse().expect("a number"), overlay, parent, held)
        });
        layers.collect()
    }

    fn inventories(layers: &[Layer]) -> Vec<Inventory> {
        let mut names: Vec<_> = layers.iter().map(|layer| layer.1).collect();
        names.sort_unstable();
        names.dedup();
        let of = |name: &&str| {
            let id = |n: u64| VersionRef { guid: guid(n), name: n.to_string().parse().expect("a name") };
            let ours = || layers.iter().filter(|layer| layer.1 == *name);
            let created =
                |n: u64| Timestamp::from_second(i64::try_from(n).expect("small") * 3600).expect("in range");
            let version =
                |n| Version { id: id(n), kind: VersionKind::Snapshot, order: n, created: created(n) };
            let tag: HoldTag = "t".parse().expect("a tag");
            let holds = ours().filter(|layer| layer.3).map(|layer| (id(layer.0), tag.clone())).collect();
            Inventory::new(*name, ours().map(|layer| version(layer.0)).collect(), holds)
        };
        names.iter().map(of).collect()
    }

    fn stacking(layers: &[Layer], users: &[(u64, &str)]) -> Stacking {
        let parents = layers.iter().filter_map(|layer| Some((guid(layer.0), guid(layer.2?)))).collect();
        let mut by_layer: BTreeMap<_, Vec<_>> = BTreeMap::new();
        users.iter().for_each(|(n, user)| by_layer.entry(guid(*n)).or_default().push((*user).to_owned()));
        Stacking { parents, users: by_layer }
    }

    fn last(last: usize) -> Retention {
        Retention { last, ..Retention::default() }
    }

    fn now() -> Zoned {
        "2026-11-21T12:00[UTC]".parse().expect("a time")
    }

    fn check(layers: &'static str, users: &[(u64, &str)], keep: usize, expected: Expect) {
        let layers = parse(layers);
        let (inventories, policy, nothing) = (inventories(&layers), last(keep), Surroundings::default());
        let judged = judge(&inventories, &policy, &nothing, &stacking(&layers, users), &now());
        let mut text = String::new();
        for (inventory, verdicts) in inventories.iter().zip(judged) {
            for verdict in verdicts {
                let word = if verdict.is_kept() { "keep" } else { "go" };
                text += &format!("{}@{} {word}: {verdict}\n", inventory.dataset, verdict.version.id.name);
            }
        }
        expected.assert_eq(&text);
    }

    #[test]
    fn what_lies_below_something_that_stays_stays() {
        check(
            "ci@1 ci@2/1 ci@3/2 ci@4",
            &[],
            2,
            expect![[r#"
            ci@1 keep: below layer ci@2
            ci@2 keep: below layer ci@3
            ci@3 keep: last 2
            ci@4 keep: the newest; last 1
        "#]],
        );
    }

    #[test]
    fn a_chain_goes_whole_that_nothing_keeps() {
        check(
            "ci@1 ci@2/1 ci@3/2 ci@4",
            &[],
            1,
            expect![[r#"
            ci@1 go: not among the last 1
            ci@2 go: not among the last 1
            ci@3 go: not among the last 1
            ci@4 keep: the newest; last 1
        "#]],
        );
    }

    #[test]
    fn an_overlay_keeps_what_it_lies_on_and_a_hold_what_is_below_it() {
        check(
            "ci@1 ci@2/1! ci@3 ci@4 ci@5",
            &[(3, "overlay x"), (3, "overlay y")],
            1,
            expect![[r#"
            ci@1 keep: below layer ci@2
            ci@2 keep: held by t
            ci@3 keep: below overlay x, overlay y
            ci@4 go: not among the last 1
            ci@5 keep: the newest; last 1
        "#]],
        );
    }

    #[test]
    fn layers_of_several_names_keep_each_other_and_are_counted_by_name() {
        check(
            "a@1 b@2/1 a@3 b@4/3 a@5 b@6",
            &[],
            1,
            expect![[r#"
            a@1 go: not among the last 1
            a@3 go: not among the last 1
            a@5 keep: the newest; last 1
            b@2 go: not among the last 1
            b@4 go: not among the last 1
            b@6 keep: the newest; last 1
        "#]],
        );
        check(
            "a@1 b@2/1 a@3",
            &[],
            1,
            expect![[r#"
            a@1 keep: below layer b@2
            a@3 keep: the newest; last 1
            b@2 keep: the newest; last 1
        "#]],
        );
    }

    proptest! {
        #[test]
        fn what_stays_stays_again_and_lies_on_nothing_that_goes(
            tree in prop::collection::vec((0..3_usize, prop::option::of(0..20_u64), prop::bool::weighted(0.1)), 1..20),
            keep in 1..4_usize,
        ) {
            let layer = |(n, &(name, parent, held)): (u64, &(usize, Option<u64>, bool))| {
                (n, ["a", "b", "c"][name], parent.filter(|&parent| parent < n), held)
            };
            let all: Vec<Layer> = (0..).zip(&tree).map(layer).collect();
            let (policy, nothing) = (last(keep), Surroundings::default());
            let kept = |layers: &[Layer]| -> Vec<Guid> {
                let inventories = inventories(layers);
                let judged = judge(&inventories, &policy, &nothing, &stacking(layers, &[]), &now());
                judged.iter().flatten().filter(|v| v.is_kept()).map(|v| v.version.id.guid).collect()
            };
            let first = kept(&all);
            let left: Vec<Layer> = all.iter().copied().filter(|layer| first.contains(&guid(layer.0))).collect();
            prop_assert!(left.iter().all(|layer| layer.2.is_none_or(|parent| first.contains(&guid(parent)))));
            prop_assert_eq!(kept(&left).len(), left.len());
        }
    }
}
