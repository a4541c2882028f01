use std::collections::BTreeMap;

use expect_test::{Expect, expect};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, ToSpan, Zoned};
use proptest::prelude::*;

use super::*;
use crate::model::{SnapshotName, VersionRef};

mod sent;

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).expect("the program knows all time zones")
}

fn guid(order: u64) -> Guid {
    Guid(u128::from(order + 1).to_be_bytes())
}

fn version(order: u64, name: &str, created: Timestamp) -> Version {
    let id = VersionRef { guid: guid(order), name: name.parse().expect("a name") };
    Version { id, kind: VersionKind::Snapshot, order, created }
}

/// Snapshots in the order of their transactions: `a=2026-11-20T08:00`, in UTC. Behind the time may stand `!TAG` (held), `#` (a bookmark).
fn inventory(text: &str) -> Inventory {
    let mut holds = Vec::new();
    let versions = (0..).zip(text.split_whitespace()).map(|(order, word)| {
        let (name, rest) = word.split_once('=').expect("NAME=TIME");
        let end = rest.find(['!', '#']).unwrap_or(rest.len());
        let time: DateTime = rest[..end].parse().expect("a time");
        let mut version = version(order, name, TimeZone::UTC.to_timestamp(time).expect("in range"));
        match &rest[end..] {
            "" => {}
            "#" => version.kind = VersionKind::Bookmark,
            tag => holds.push((version.id.clone(), tag[1..].parse().expect("a tag"))),
        }
        version
    });
    let versions = versions.collect();
    Inventory::new("tank/a", versions, holds)
}

/// `last=3 day=7 within=36h name=x* label=k=v min-age=1d`
fn policy(text: &str) -> Retention {
    let mut policy = Retention::default();
    for word in text.split_whitespace() {
        let (rule, value) = word.split_once('=').expect("RULE=VALUE");
        let count = || value.parse().expect("a count");
        let mut per = |period| policy.per.insert(period, value.parse().expect("a count"));
        match rule {
            "last" => policy.last = count(),
            "hour" => drop(per(Period::Hour)),
            "day" => drop(per(Period::Day)),
            "week" => drop(per(Period::Week)),
            "month" => drop(per(Period::Month)),
            "year" => drop(per(Period::Year)),
            "within" => policy.within = Some(value.parse().expect("a span")),
            "min-age" => policy.min_age = Some(value.parse().expect("a span")),
            "name" => policy.names.push(value.parse().expect("a pattern")),
            "label" => policy.labels.push(value.parse().expect("a label")),
            other => panic!("{other}"),
        }
    }
    policy
}

fn judge(snapshots: &str, rules: &str, around: &Surroundings, now: &Zoned) -> String {
    let (inventory, policy) = (inventory(snapshots), policy(rules));
    let verdicts = retain(&inventory, &policy, around, now);
    let line = |v: &Verdict<'_>| {
        let sign = if v.is_kept() { '+' } else { '-' };
        format!("{sign} {}: {v}\n", v.version.id.name)
    };
    verdicts.iter().map(line).collect()
}

/// `now` with its zone: `2026-11-21T12:00[Europe/Berlin]`.
fn check(snapshots: &str, rules: &str, now: &str, expected: Expect) {
    let now: Zoned = now.parse().expect("a time with its zone");
    expected.assert_eq(&judge(snapshots, rules, &Surroundings::default(), &now));
}

#[test]
fn a_day_keeps_what_was_made_last_on_it() {
    check(
        "a=2026-11-19T08:00 b=2026-11-19T20:00 c=2026-11-20T08:00 d=2026-11-20T20:00 e=2026-11-21T08:00",
        "day=2",
        "2026-11-21T12:00[UTC]",
        expect![[r#"
            - a: beyond 2 daily
            - b: beyond 2 daily
            - c: @d is daily 2026-11-20
            + d: daily 2026-11-20
            + e: the newest; daily 2026-11-21
        "#]],
    );
}

#[test]
fn days_without_a_snapshot_are_not_counted() {
    check(
        "a=2024-02-29T08:00 b=2025-01-01T08:00 c=2026-11-21T08:00",
        "day=3",
        "2026-11-21T12:00[UTC]",
        expect![[r#"
            + a: daily 2024-02-29
            + b: daily 2025-01-01
            + c: the newest; daily 2026-11-21
        "#]],
    );
}

#[test]
fn an_hour_that_comes_twice_is_two_buckets_and_the_day_has_25_hours() {
    // 2026-10-25 in Berlin: at 03:00 summer time, 01:00 UTC, the clock is put back to 02:00.
    check(
        "a=2026-10-24T22:30 b=2026-10-25T00:10 c=2026-10-25T00:50 d=2026-10-25T01:10 e=2026-10-25T22:50 f=2026-10-25T23:10",
        "hour=9",
        "2026-10-26T12:00[Europe/Berlin]",
        expect![[r#"
            + a: hourly 2026-10-25T00+02:00
            - b: @c is hourly 2026-10-25T02+02:00
            + c: hourly 2026-10-25T02+02:00
            + d: hourly 2026-10-25T02+01:00
            + e: hourly 2026-10-25T23+01:00
            + f: the newest; hourly 2026-10-26T00+01:00
        "#]],
    );
    check(
        "a=2026-10-24T21:30 b=2026-10-24T22:30 c=2026-10-25T22:50 d=2026-10-25T23:10",
        "day=9",
        "2026-10-26T12:00[Europe/Berlin]",
        expect![[r#"
            + a: daily 2026-10-24
            - b: @c is daily 2026-10-25
            + c: daily 2026-10-25
            + d: the newest; daily 2026-10-26
        "#]],
    );
}

#[test]
fn an_hour_that_does_not_come_is_no_bucket_and_the_day_has_23_hours() {
    // 2026-03-29 in Berlin: at 02:00, 01:00 UTC, the clock is put forward to 03:00.
    check(
        "a=2026-03-28T22:59 b=2026-03-28T23:00 c=2026-03-29T00:59 d=2026-03-29T01:00 e=2026-03-29T21:59 f=2026-03-29T22:00",
        "hour=9",
        "2026-03-30T12:00[Europe/Berlin]",
        expect![[r#"
            + a: hourly 2026-03-28T23+01:00
            + b: hourly 2026-03-29T00+01:00
            + c: hourly 2026-03-29T01+01:00
            + d: hourly 2026-03-29T03+02:00
            + e: hourly 2026-03-29T23+02:00
            + f: the newest; hourly 2026-03-30T00+02:00
        "#]],
    );
    check(
        "b=2026-03-28T23:00 e=2026-03-29T21:59 f=2026-03-29T22:00",
        "day=9",
        "2026-03-30T12:00[Europe/Berlin]",
        expect![[r#"
            - b: @e is daily 2026-03-29
            + e: daily 2026-03-29
            + f: the newest; daily 2026-03-30
        "#]],
    );
}

#[test]
fn a_shift_of_half_an_hour_and_a_day_that_does_not_come_are_as_the_zone_has_them() {
    check(
        "a=2026-04-04T14:45 b=2026-04-04T15:15",
        "hour=9",
        "2026-04-06T12:00[Australia/Lord_Howe]",
        expect![[r#"
            + a: hourly 2026-04-05T01+11:00
            + b: the newest; hourly 2026-04-05T01+10:30
        "#]],
    );
    // Samoa had no 30 December 2011.
    check(
        "a=2011-12-30T09:59 b=2011-12-30T10:01",
        "day=9",
        "2012-01-06T12:00[Pacific/Apia]",
        expect![[r#"
            + a: daily 2011-12-29
            + b: the newest; daily 2011-12-31
        "#]],
    );
}

#[test]
fn a_leap_day_is_a_day_of_its_month() {
    check(
        "a=2024-02-28T12:00 b=2024-02-29T12:00 c=2024-03-01T12:00 d=2025-02-28T12:00",
        "day=9 month=9",
        "2025-03-01T12:00[UTC]",
        expect![[r#"
            + a: daily 2024-02-28
            + b: daily 2024-02-29; monthly 2024-02
            + c: daily 2024-03-01; monthly 2024-03
            + d: the newest; daily 2025-02-28; monthly 2025-02
        "#]],
    );
    // A year before a leap day is the 28th.
    check(
        "a=2023-02-28T11:59 b=2023-02-28T12:00 c=2024-02-29T12:00",
        "within=1y",
        "2024-02-29T13:00[UTC]",
        expect![[r#"
            - a: not within
            + b: within
            + c: the newest; within
        "#]],
    );
}

#[test]
fn a_week_belongs_to_the_year_that_its_thursday_is_in() {
    // 2026-12-28 to 2027-01-03 is week 53 of 2026; 2024-12-30 and 31 are in week 1 of 2025.
    check(
        "a=2024-12-29T12:00 b=2024-12-30T12:00 c=2025-01-02T12:00 d=2026-12-28T12:00 e=2027-01-01T12:00 f=2027-01-03T23:59 g=2027-01-04T00:00",
        "week=9 year=9",
        "2027-01-05T12:00[UTC]",
        expect![[r#"
            + a: weekly 2024-W52
            + b: yearly 2024
            + c: weekly 2025-W01; yearly 2025
            + d: yearly 2026
            - e: @f is weekly 2026-W53; @g is yearly 2027
            + f: weekly 2026-W53
            + g: the newest; weekly 2027-W01; yearly 2027
        "#]],
    );
}

#[test]
fn the_year_ends_where_the_user_is() {
    check(
        "a=2026-12-31T22:59 b=2026-12-31T23:00 c=2027-01-01T12:00",
        "year=9",
        "2027-01-05T12:00[Europe/Berlin]",
        expect![[r#"
            + a: yearly 2026
            - b: @c is yearly 2027
            + c: the newest; yearly 2027
        "#]],
    );
}

#[test]
fn with_a_clock_that_was_put_back_order_is_that_of_the_transactions() {
    // c was made after b, by a clock that had been put back two days.
    check(
        "a=2026-11-18T08:00 b=2026-11-20T08:00 c=2026-11-18T09:00 d=2026-11-18T10:00",
        "day=1",
        "2026-11-21T12:00[UTC]",
        expect![[r#"
            - a: @d is daily 2026-11-18
            - b: beyond 1 daily
            - c: @d is daily 2026-11-18
            + d: the newest; daily 2026-11-18
        "#]],
    );
    // What was made last on a day goes by transaction too: c and not the "later" b.
    check(
        "b=2026-11-20T08:00 c=2026-11-20T07:00 d=2026-11-21T10:00",
        "last=1 day=2",
        "2026-11-21T12:00[UTC]",
        expect![[r#"
            - b: not among the last 1; @c is daily 2026-11-20
            + c: daily 2026-11-20
            + d: the newest; last 1; daily 2026-11-21
        "#]],
    );
}

#[test]
fn a_clock_that_ran_ahead_fills_no_buckets_while_that_is_the_future() {
    let snapshots = "a=2026-11-20T08:00 b=2031-01-01T08:00 c=2031-01-02T08:00 d=2026-11-21T08:00";
    check(
        snapshots,
        "day=2",
        "2026-11-21T12:00[UTC]",
        expect![[r#"
            + a: daily 2026-11-20
            + b: from the future
            + c: from the future
            + d: the newest; daily 2026-11-21
        "#]],
    );
    check(
        snapshots,
        "day=2",
        "2031-01-03T12:00[UTC]",
        expect![[r#"
            - a: beyond 2 daily
            - b: beyond 2 daily
            + c: daily 2031-01-02
            + d: the newest; daily 2026-11-21
        "#]],
    );
}

#[test]
fn a_clock_that_began_at_zero_destroys_nothing_that_is_within() {
    check(
        "a=2026-11-20T08:00 b=1970-01-01T00:00",
        "within=1d",
        "2026-11-21T12:00[UTC]",
        expect![[r#"
            + a: within
            + b: the newest; within
        "#]],
    );
}

#[test]
fn within_is_counted_from_the_newest_and_the_least_age_from_now() {
    let snapshots = "a=2026-10-01T08:00 b=2026-10-02T08:00 c=2026-10-03T08:00";
    check(
        snapshots,
        "within=1d",
        "2026-11-21T12:00[UTC]",
        expect![[r#"
            - a: not within
            + b: within
            + c: the newest; within
        "#]],
    );
    check(
        snapshots,
        "last=1 min-age=7w",
        "2026-11-21T12:00[UTC]",
        expect![[r#"
            - a: not among the last 1
            - b: not among the last 1
            + c: the newest; last 1
        "#]],
    );
    check(
        snapshots,
        "last=1 min-age=51d",
        "2026-11-21T12:00[UTC]",
        expect![[r#"
            - a: not among the last 1
            + b: younger than min-age
            + c: the newest; last 1; younger than min-age
        "#]],
    );
}

#[test]
fn a_day_of_the_calendar_is_not_always_24_hours() {
    let check = |within, expected| {
        check("a=2026-10-24T12:00 b=2026-10-25T12:59", within, "2026-10-26T12:00[Europe/Berlin]", expected);
    };
    check(
        "within=1d",
        expect![[r#"
        + a: within
        + b: the newest; within
    "#]],
    );
    check(
        "within=24h",
        expect![[r#"
        - a: not within
        + b: the newest; within
    "#]],
    );
}

#[test]
fn what_is_protected_stays_whatever_the_policy_says() {
    let snapshots = "a=2026-11-01T08:00!release b=2026-11-02T08:00 c=2026-11-03T08:00 d=2026-11-04T08:00 \
                     e=2026-11-05T08:00 f=2026-11-06T08:00# g=2026-11-06T08:00 h=2026-11-06T08:00#";
    let stored = inventory(snapshots);
    let id = |n: usize| stored.versions()[n].id.clone();
    let around = Surroundings {
        labels: BTreeMap::from([(id(4), BTreeMap::from([("k".to_owned(), "v".to_owned())]))]),
        clones: BTreeMap::from([(id(1), vec!["tank/c".to_owned()])]),
        writable: [id(3)].into(),
        bases: BTreeMap::from([(id(2).guid, vec!["vault/a".to_owned()])]),
    };
    let now: Zoned = "2026-11-21T12:00[UTC]".parse().expect("a time");
    expect![[r#"
        + a: held by release
        + b: cloned to tank/c
        + c: the base with vault/a
        + d: it was made writable
        - e: no rule keeps it
        + g: the newest; name g*
    "#]]
    .assert_eq(&judge(snapshots, "name=g* label=k=w", &around, &now));
    expect![[r#"
        + a: held by release
        + b: cloned to tank/c
        + c: the base with vault/a
        + d: it was made writable
        + e: label k; label k=v
        + g: the newest
    "#]]
    .assert_eq(&judge(snapshots, "label=k label=k=v label=x", &around, &now));
}

#[test]
fn an_age_beyond_all_time_keeps_everything() {
    check(
        "a=1970-01-01T00:00 b=2026-11-02T08:00",
        "within=19998y",
        "2026-11-21T12:00[UTC]",
        expect![[r#"
        + a: within
        + b: the newest; within
    "#]],
    );
}

fn pattern(text: &str) -> NamePattern {
    text.parse().expect("a pattern")
}

#[test]
fn a_pattern_that_no_name_can_look_like_is_none() {
    assert_eq!("".parse::<NamePattern>(), Err(NoPattern::Empty));
    for wrong in
        ["[ab]*", "{a,b}", "a@b", "tank/a", "^a", "a$", "a|b", "50%", "ä*", "a\\*", "a\nb", "a,b", "(a)"]
    {
        assert!(matches!(wrong.parse::<NamePattern>(), Err(NoPattern::Character(_))), "{wrong}");
    }
    for right in ["*", "?", "a b", "2026-??-*T00:00", "_.:- *?"] {
        assert_eq!(pattern(right).to_string(), right);
    }
}

#[test]
fn a_policy_of_words_has_no_other_rule() {
    for words in ["name=x", "label=x", "name=x label=y min-age=3d last=0 day=0"] {
        assert!(policy(words).is_of_words(), "{words}");
    }
    for other in ["", "min-age=3d", "last=1", "name=x last=1", "label=x year=1", "name=x within=1d"] {
        assert!(!policy(other).is_of_words(), "{other}");
    }
}

#[test]
fn patterns_are_of_whole_names() {
    let table = [
        ("*", "", true),
        ("a", "a", true),
        ("a", "ab", false),
        ("a*", "abc", true),
        ("*c", "abc", true),
        ("a*c*e", "abcde", true),
        ("a*c*e", "abcd", false),
        ("?b?", "abc", true),
        ("?", "", false),
        ("*?", "", false),
        ("a**b", "ab", true),
        ("*ab", "aab", true),
        ("2026????T*", "20261120T020000Z", true),
    ];
    for (pattern, name, matches) in table {
        assert_eq!(self::pattern(pattern).matches(name), matches, "{pattern} {name}");
    }
    assert_eq!("=x".parse::<LabelPattern>(), Err(NoKey));
}

#[test]
fn a_policy_without_a_rule_is_empty() {
    for empty in ["", "last=0 day=0", "min-age=30d"] {
        assert!(policy(empty).is_empty(), "{empty}");
    }
    for rule in ["last=1", "year=1", "within=1d", "name=x", "label=x"] {
        assert!(!policy(rule).is_empty(), "{rule}");
    }
}

/// Snapshots of a clock that mostly runs on, and sometimes jumps.
fn any_inventory() -> impl Strategy<Value = Inventory> {
    let step = prop_oneof![8 => 0..90_000_i64, 1 => -4_000_000..0_i64, 1 => 0..40_000_000_i64];
    let snapshot = (step, 0..12_u8);
    proptest::collection::vec(snapshot, 0..60).prop_map(|steps| {
        let mut clock = 1_790_000_000_i64;
        let (mut versions, mut holds) = (Vec::new(), Vec::new());
        for (order, (step, kind)) in (0..).zip(steps) {
            clock += step;
            let created = Timestamp::from_second(clock).expect("in range");
            let mut version = version(order, &format!("s{order}"), created);
            match kind {
                0 => version.kind = VersionKind::Bookmark,
                1 => holds.push((version.id.clone(), "t".parse().expect("a tag"))),
                _ => {}
            }
            versions.push(version);
        }
        Inventory::new("d", versions, holds)
    })
}

fn any_policy() -> impl Strategy<Value = Retention> {
    let count = || prop_oneof![3 => Just(0_usize), 2 => 1..9_usize];
    let per = proptest::collection::vec(count(), 5);
    let days = || proptest::option::weighted(0.3, 1..40_i64);
    (count(), per, days(), days(), proptest::option::weighted(0.2, 0..9_u8)).prop_map(
        |(last, per, within, min_age, digit)| Retention {
            last,
            per: Period::ALL.into_iter().zip(per).collect(),
            within: within.map(|days| days.days()),
            labels: Vec::new(),
            names: digit.map(|digit| pattern(&format!("*{digit}"))).into_iter().collect(),
            min_age: min_age.map(|days| days.days()),
        },
    )
}

fn any_now() -> impl Strategy<Value = Zoned> {
    let zones = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia"];
    (1_789_000_000..1_990_000_000_i64, 0..zones.len()).prop_map(move |(second, at)| {
        Timestamp::from_second(second).expect("in range").to_zoned(zone(zones[at]))
    })
}

fn kept(inventory: &Inventory, policy: &Retention, now: &Zoned) -> Vec<SnapshotName> {
    let around = Surroundings::default();
    let verdicts = retain(inventory, policy, &around, now);
    verdicts.iter().filter(|v| v.is_kept()).map(|v| v.version.id.name.clone()).collect()
}

fn without(inventory: &Inventory, keep: &[SnapshotName]) -> Inventory {
    let is_left = |v: &&Version| v.kind == VersionKind::Bookmark || keep.contains(&v.id.name);
    let versions = inventory.versions().iter().filter(is_left).cloned().collect();
    Inventory::new("d", versions, inventory.holds().to_vec())
}

proptest! {
    #[test]
    fn pruning_twice_is_pruning_once(inventory in any_inventory(), policy in any_policy(), now in any_now()) {
        let once = kept(&inventory, &policy, &now);
        let left = without(&inventory, &once);
        prop_assert_eq!(kept(&left, &policy, &now), once);
    }

    #[test]
    fn killed_between_any_two_the_next_run_ends_the_same(
        inventory in any_inventory(), policy in any_policy(), now in any_now(), cut in 0..60_usize,
    ) {
        let end = kept(&inventory, &policy, &now);
        let of_all = inventory.versions().iter().map(|v| v.id.name.clone());
        let going: Vec<_> = of_all.clone().filter(|name| !end.contains(name)).collect();
        let done = &going[..cut.min(going.len())];
        let left: Vec<_> = of_all.filter(|name| !done.contains(name)).collect();
        prop_assert_eq!(kept(&without(&inventory, &left), &policy, &now), end);
    }

    #[test]
    fn keeping_more_never_destroys_more(
        inventory in any_inventory(), policy in any_policy(), now in any_now(),
        more in 0..9_usize, period in 0..5_usize,
    ) {
        let before = kept(&inventory, &policy, &now);
        let mut wider = policy.clone();
        wider.last += more;
        *wider.per.entry(Period::ALL[period]).or_default() += more;
        wider.names.push(pattern("*7"));
        wider.within = policy.within.map(|span| (span.get_days() + 2).days());
        let after = kept(&inventory, &wider, &now);
        prop_assert!(before.iter().all(|name| after.contains(name)));
    }

    #[test]
    fn the_newest_and_what_is_held_always_stay(inventory in any_inventory(), now in any_now()) {
        let stay = kept(&inventory, &Retention::default(), &now);
        let snapshots = || inventory.versions().iter().filter(|v| v.kind == VersionKind::Snapshot);
        prop_assert_eq!(stay.last(), snapshots().next_back().map(|v| &v.id.name));
        prop_assert!(snapshots().filter(|v| inventory.holds_of(&v.id).count() > 0).all(|v| stay.contains(&v.id.name)));
    }

    #[test]
    fn a_rule_keeps_no_more_than_its_count(inventory in any_inventory(), policy in any_policy(), now in any_now()) {
        let around = Surroundings::default();
        let verdicts = retain(&inventory, &policy, &around, &now);
        for (period, &of) in &policy.per {
            let by = |v: &&Verdict<'_>| v.kept_by.iter().any(|r| matches!(r, Reason::Per(b) if b.period() == *period));
            prop_assert!(verdicts.iter().filter(by).count() <= of);
        }
        prop_assert!(verdicts.iter().all(|v| !v.is_kept() || v.to_string() != "no rule keeps it"));
    }
}

fn schedule(horizon: Span, every: Span) -> Schedule {
    Schedule { horizon, every }
}

#[test]
fn a_simulation_says_what_there_is_at_the_end_of_every_day() {
    let stored = inventory("a=2026-11-19T08:00 b=2026-11-20T08:00 c=2026-11-20T09:00!x");
    let now: Zoned = "2026-11-21T12:00[UTC]".parse().expect("a time");
    let policy = policy("day=2");
    let days = simulate(&stored, &policy, &Surroundings::default(), &now, schedule(3.days(), 36.hours()));
    let list = |names: &[SnapshotName]| names.iter().map(|n| n.as_str()).collect::<Vec<_>>().join(" ");
    let line = |day: &Day| {
        format!(
            "{}: {} | +{} | -{}\n",
            day.date,
            list(&day.snapshots),
            list(&day.taken),
            list(&day.destroyed)
        )
    };
    expect![[r#"
        2026-11-21: a c | + | -b
        2026-11-22: a c | + | -
        2026-11-23: c 20261123T000000Z | +20261123T000000Z | -a
        2026-11-24: c 20261123T000000Z 20261124T120000Z | +20261124T120000Z | -
    "#]]
    .assert_eq(&days.expect("it ends").iter().map(line).collect::<String>());
}

#[test]
fn a_schedule_follows_the_calendar_and_must_get_on() {
    let nothing = Inventory::default();
    let now: Zoned = "2026-01-31T02:30[Europe/Berlin]".parse().expect("a time");
    let (keep, around) = (policy("last=99"), Surroundings::default());
    let run = |horizon, every| simulate(&nothing, &keep, &around, &now, schedule(horizon, every));
    let days = run(3.months(), 1.month()).expect("it ends");
    let taken: Vec<_> = days.iter().flat_map(|day| &day.taken).map(|name| name.as_str()).collect();
    assert_eq!(taken, ["20260228T013000Z", "20260331T003000Z", "20260430T003000Z"]);
    assert_eq!(days.len(), 90);
    for (horizon, every) in [(1.day(), Span::new()), (9_000.years(), 1.hour()), (1.day(), (-1).hours())] {
        assert_eq!(run(horizon, every).expect_err("no end"), TooMany);
    }
    assert_eq!(run(Span::new(), 1.day()).expect("it ends").len(), 1);
}

#[test]
fn every_reason_has_a_word_that_does_not_change_and_a_text() {
    let (tag, base) = ("t".parse().expect("a tag"), ["tank/b".to_owned()]);
    let name = "x*".parse().expect("a pattern");
    for (reason, word, text) in [
        (Reason::Newest, "newest", "the newest"),
        (Reason::Held(vec![&tag]), "held", "held by t"),
        (Reason::Base(&base), "base", "the base with tank/b"),
        (Reason::Sent(vec!["cowsnap:to:a"]), "sent", "the newest sent by cowsnap:to:a"),
        (Reason::Cloned(&base), "cloned", "cloned to tank/b"),
        (Reason::Writable, "writable", "it was made writable"),
        (Reason::Future, "future", "from the future"),
        (Reason::Unconfirmed, "unconfirmed", "not known to be good yet"),
        (Reason::Young, "min-age", "younger than min-age"),
        (Reason::Last(2), "last", "last 2"),
        (Reason::Within, "within", "within"),
        (Reason::Name(&name), "name", "name x*"),
    ] {
        assert_eq!((reason.rule(), reason.to_string().as_str()), (word, text));
    }
}
