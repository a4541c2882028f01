//! Archives in a line: `1*90 1>2*5 2>3*5` is a full version 1 of 90 bytes, an increment on it that brings 2, and one that brings 3;
//! versions are made in the order of their first digit, or at `@9`.

use expect_test::{Expect, expect};

use super::*;

fn guid(text: &str) -> Guid {
    Guid([text.bytes().fold(0, |sum, byte| sum ^ byte); 16])
}

fn stored(word: &str) -> Stored {
    let (word, at) = word.split_once('@').map_or((word, None), |(word, at)| (word, Some(at)));
    let (word, len) = word.split_once('*').unwrap_or((word, "1"));
    let (base, name) = word.split_once('>').map_or((None, word), |(base, name)| (Some(guid(base)), name));
    let at = at.unwrap_or(&name[..1]).parse().expect("a second");
    Stored {
        version: VersionRef { guid: guid(name), name: name.parse().expect("a name") },
        base,
        created: Timestamp::from_second(at).expect("a time"),
        len: len.parse().expect("a length"),
    }
}

fn archive(text: &str) -> Archive {
    Archive::new(text.split_whitespace().map(stored).collect())
}

fn brief(stored: &Stored) -> String {
    let name = &stored.version.name;
    match stored.base {
        Some(base) => format!("{}>{name}", char::from(base.0[0])),
        None => name.to_string(),
    }
}

fn list<'a>(stored: impl IntoIterator<Item = &'a Stored>) -> String {
    stored.into_iter().map(brief).collect::<Vec<_>>().join(" ")
}

fn local(text: &str) -> Inventory {
    let version = |(order, word): (u64, &str)| Version {
        id: stored(word.trim_start_matches('#')).version,
        kind: if word.starts_with('#') { VersionKind::Bookmark } else { VersionKind::Snapshot },
        order,
        created: Timestamp::UNIX_EPOCH,
    };
    Inventory::new("tank/x", (1..).zip(text.split_whitespace()).map(version).collect(), Vec::new())
}

#[test]
fn versions_are_in_the_order_of_their_times_but_behind_their_bases() {
    let versions = |text: &str| {
        let versions = archive(text).versions();
        assert!((1..).zip(&versions).all(|(order, version)| version.order == order));
        versions.iter().map(|version| version.id.name.to_string()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(versions("2>3 1 1>2"), "1 2 3");
    assert_eq!(versions("1@9 1>2 2>3@1"), "1 2 3", "a clock that went back");
    assert_eq!(versions("3 1>2 1 1>3"), "1 2 3", "two ways are one version");
    assert_eq!(versions("1>2 2>1"), "2 1", "a circle ends");
    assert_eq!(versions("8>9 9>2"), "9 2", "what has no base is there");
    assert_eq!(versions(""), "");
}

#[test]
fn a_version_comes_back_by_the_cheapest_chain() {
    let check = |text: &str, wanted: &str, present: &str, expected: Expect| {
        let archive = archive(text);
        let is_present = |at: Guid| present.split_whitespace().any(|word| guid(word) == at);
        match archive.chain(guid(wanted), &is_present) {
            Ok(chain) => expected.assert_eq(&list(chain)),
            Err(broken) => expected.assert_eq(&broken.to_string()),
        }
    };
    check("1*90 1>2*5 2>3*5", "3", "", expect!["1 1>2 2>3"]);
    check("1*90 1>2*5 2>3*5", "3", "1", expect!["1>2 2>3"]);
    check("1*90 1>2*5 2>3*5", "3", "3", expect![""]);
    check("1*90 1>2*5 2>3*5 2*80", "3", "", expect!["2 2>3"]);
    check("1*90 1>2*5 2>3*5 2*80", "3", "1", expect!["1>2 2>3"]);
    check("1*90 1>3*50 1>2*5 2>3*50", "3", "", expect!["1 1>3"]);
    check("7>2*5 2>3 2*9", "3", "", expect!["2 2>3"]);
    check("1>2", "1", "", expect!["the archive has no version 31313131-3131-3131-3131-313131313131"]);
    check(
        "1>2 2>3",
        "3",
        "",
        expect![
            "@2 (32323232-3232-3232-3232-323232323232) builds upon 31313131-3131-3131-3131-313131313131, which is not in the archive"
        ],
    );
    check(
        "3>2 2>3",
        "3",
        "",
        expect!["@3 (33333333-3333-3333-3333-333333333333) is, over others, its own base"],
    );
}

#[test]
fn what_bringing_it_back_costs_is_known_from_the_keys() {
    let archive = archive("1*90 1>2*70000000 8>9");
    let cost = |name: &str| archive.cost(guid(name)).map(|cost| (cost.bytes, cost.containers, cost.requests));
    assert_eq!(cost("1"), Some((90, 1, 2)));
    assert_eq!(cost("2"), Some((70_000_090, 2, 8)));
    assert_eq!((cost("9"), cost("5")), (None, None));
}

#[test]
fn a_version_is_pushed_upon_the_newest_that_both_have() {
    let check = |text: &str, here: &str, wanted: &str, limits: Limits, expected: Expect| {
        let push = archive(text).push(&local(here), &stored(wanted).version, limits);
        expected.assert_eq(&match push {
            Push::There => "there".into(),
            Push::Increment(base) => format!("upon {}", base.name),
            Push::Full(why) => format!("full: {why:?}"),
        });
    };
    let none = Limits::default();
    check("", "1", "1", none, expect!["full: First"]);
    check("1", "1", "1", none, expect!["there"]);
    check("1 1>2", "1 2 3", "3", none, expect!["upon 2"]);
    check("1 1>2", "1 3", "3", none, expect!["upon 1"]);
    check("1 1>2", "#2 3", "3", none, expect!["upon 2"]);
    check("1 1>2", "3", "3", none, expect!["full: NoBase"]);
    check("1 1>3", "1 2 3", "2", none, expect!["upon 1"]);
    check("8>9", "9 3", "3", none, expect!["full: First"]);
    check("1*90 8>9", "1 9 3", "3", none, expect!["upon 1"]);
    let chain = |most| Limits { containers: Some(most), percent: None };
    check("1 1>2", "1 2 3", "3", chain(3), expect!["upon 2"]);
    check("1 1>2", "1 2 3", "3", chain(2), expect!["full: Chain"]);
    let cost = |percent| Limits { containers: None, percent: Some(percent) };
    check("1*100 1>2*50", "1 2 3", "3", cost(150), expect!["upon 2"]);
    check("1*100 1>2*51", "1 2 3", "3", cost(150), expect!["full: Cost"]);
}

#[test]
fn a_base_stays_as_long_as_something_that_is_kept_needs_it() {
    let check = |text: &str, kept: &str, expected: Expect| {
        let kept = kept.split_whitespace().map(guid).collect();
        expected.assert_eq(&list(archive(text).doomed(&kept)));
    };
    check("1 1>2 2>3 4 4>5", "3", expect!["4>5 4"]);
    check("1 1>2 2>3 4 4>5", "5", expect!["2>3 1>2 1"]);
    check("1 1>2 2>3", "1", expect!["2>3 1>2"]);
    check("1 1>2 2>3 2", "3", expect![""]);
    check("1 1>2", "", expect!["1>2 1"]);
    check("1 1>2", "9", expect!["1>2 1"]);
    check("1>2 2>1", "1", expect![""]);
}

#[test]
fn parts_without_a_manifest_go_when_the_youngest_is_old() {
    let archive = archive("1 1>2");
    let second = |at| Timestamp::from_second(at).expect("a time");
    let groups =
        [("1", 0), ("1>2", 0), ("2", 10), ("2>3", 95)].map(|(word, at)| (stored(word).group(), second(at)));
    let put = |now| {
        let there = groups.iter().map(|(group, youngest)| (*group, *youngest));
        archive.unneeded(there, second(now), SignedDuration::from_secs(10))
    };
    assert_eq!(put(20), []);
    assert_eq!(put(21), [groups[2].0]);
    assert_eq!(put(106), [groups[2].0, groups[3].0]);
}

#[test]
fn a_long_chain_is_ordered_and_planned_at_once() {
    let link = |n: u32| Stored {
        version: VersionRef {
            guid: Guid(u128::from(n).to_be_bytes()),
            name: format!("v{n}").parse().expect("a name"),
        },
        base: (n > 1).then(|| Guid(u128::from(n - 1).to_be_bytes())),
        created: Timestamp::from_second(i64::from(20_000 - n)).expect("a time"),
        len: 1,
    };
    let archive = Archive::new((1..=10_000).map(link).collect());
    let chain = archive.chain(Guid(10_000_u128.to_be_bytes()), &|_| false).expect("a chain");
    assert_eq!(chain.len(), 10_000);
    assert_eq!(archive.versions()[0].id.name.as_str(), "v1");
}
