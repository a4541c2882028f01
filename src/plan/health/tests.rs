use std::time::Duration;

use expect_test::{Expect, expect};
use jiff::tz::TimeZone;

use super::*;
use crate::model::run::{Depth, Failure, Outcome, Subject};

mod bases;
mod down;

const GIB: u64 = 1 << 30;

fn at(time: &str) -> Timestamp {
    format!("2026-11-{time}:00Z").parse().expect("as it was made")
}

fn of_schedule(text: &str) -> Promise {
    Promise { schedule: Some(Schedule::new(text, TimeZone::UTC).expect("as it was made")), age: None }
}

/// A job of every night at two, with one dataset that has room.
fn nightly(newest: Option<&str>) -> Facts {
    let seen =
        Seen { newest: newest.map(at), snapshots: 3, space: Some((50 * GIB, 100 * GIB)), ..Seen::default() };
    Facts {
        job: "node".into(),
        promise: of_schedule("0 2 * * *"),
        datasets: vec![("tank/node".into(), Ok(seen))],
        nested: Vec::new(),
        targets: Vec::new(),
        record: Ok(None),
        is_at_work: false,
        has_drill: false,
        limits: Limits::default(),
        stopped: Ok(Vec::new()),
        down: Down::default(),
        stores: Vec::new(),
        units: Vec::new(),
    }
}

fn seen(facts: &mut Facts) -> &mut Seen {
    facts.datasets[0].1.as_mut().expect("as it was made")
}

fn ended(facts: &mut Facts, subject: Subject, time: &str, failure: Option<(&str, &str)>) {
    let failure = failure.map(|(class, text)| Failure::new(class, text));
    let outcome = Outcome { failure, ..Outcome::done(subject, at(time), Duration::from_secs(1)) };
    let record = facts
        .record
        .as_mut()
        .expect("as it was made")
        .get_or_insert_with(|| JobRecord::new("node", at("01T00:00")));
    record.end(at(time), vec![outcome], |_| true);
}

fn check(facts: &Facts, now: &str, expected: Expect) {
    let findings = findings(facts, at(now));
    let lines: String = findings.iter().map(|f| format!("{} {:?}: {}\n", f.state, f.about, f.what)).collect();
    let (verdict, _) = verdict(&findings);
    expected.assert_eq(&format!("{lines}{verdict}, {}", worst(&findings)));
}

#[test]
fn a_job_is_late_when_its_time_is_over_by_a_quarter_and_far_too_late_by_a_whole() {
    let facts = nightly(Some("20T02:00"));
    check(&facts, "20T12:00", expect!["OK, OK"]);
    check(&facts, "21T02:10", expect!["OK, OK"]);
    check(&facts, "21T07:59", expect!["OK, OK"]);
    check(
        &facts,
        "21T08:01",
        expect![[r#"
            WARNING Late: the last snapshot of tank/node is 30 h old
            LATE, WARNING"#]],
    );
    check(
        &facts,
        "22T02:01",
        expect![[r#"
            CRITICAL Late: the last snapshot of tank/node is 2 d old
            LATE, CRITICAL"#]],
    );
}

#[test]
fn every_minute_has_a_quarter_of_an_hour() {
    let mut facts = nightly(Some("20T02:00"));
    facts.promise = of_schedule("* * * * *");
    check(&facts, "20T02:15", expect!["OK, OK"]);
    check(
        &facts,
        "20T02:17",
        expect![[r#"
            WARNING Late: the last snapshot of tank/node is 17 min old
            LATE, WARNING"#]],
    );
}

#[test]
fn no_snapshot_is_critical_and_one_of_the_future_tells_of_the_clock() {
    check(
        &nightly(None),
        "20T12:00",
        expect![[r#"
            CRITICAL Late: tank/node has no snapshot of this job
            LATE, CRITICAL"#]],
    );
    check(
        &nightly(Some("25T02:00")),
        "20T12:00",
        expect![[r#"
            WARNING Late: the newest snapshot of tank/node is from the future, 2026-11-25T02:00:00Z: see to the clock
            LATE, WARNING"#]],
    );
    // Nobody said when: it has protected nothing nonetheless.
    check(
        &Facts { promise: Promise::default(), ..nightly(None) },
        "20T12:00",
        expect![[r#"
            CRITICAL Late: tank/node has no snapshot of this job
            LATE, CRITICAL"#]],
    );
    check(&Facts { promise: Promise::default(), ..nightly(Some("01T02:00")) }, "20T12:00", expect!["OK, OK"]);
}

#[test]
fn ages_that_are_given_go_before_the_schedule() {
    let hours = |n| Some(SignedDuration::from_hours(n));
    let state = |warn, crit, now| {
        let age = Pair { warn, crit };
        let limits = Limits { age, replica_age: age, ..Limits::default() };
        worst(&findings(&Facts { limits, ..nightly(Some("20T02:00")) }, at(now)))
    };
    assert_eq!(state(hours(1), hours(2), "20T02:59"), State::Ok);
    assert_eq!(state(hours(1), hours(2), "20T03:30"), State::Warning);
    assert_eq!(state(hours(1), hours(2), "20T04:30"), State::Critical);
    assert_eq!(state(hours(1000), None, "25T04:30"), State::Ok);
}

#[test]
fn what_can_not_be_looked_at_is_never_well() {
    let mut facts = nightly(Some("20T02:00"));
    facts.datasets[0].1 = Err("the pool is not mounted".into());
    check(
        &facts,
        "20T12:00",
        expect![[r#"
            UNKNOWN Unseen: tank/node: the pool is not mounted
            UNKNOWN, UNKNOWN"#]],
    );
    let mut facts = nightly(Some("20T02:00"));
    facts.record = Err("it is damaged".into());
    facts.stopped = Err("denied".into());
    seen(&mut facts).space = None;
    check(
        &facts,
        "20T12:00",
        expect![[r#"
            UNKNOWN Unseen: what is stopped can not be read: denied
            UNKNOWN Unseen: the record of its runs: it is damaged
            UNKNOWN Unseen: tank/node: nobody can say how much space is free
            UNKNOWN, UNKNOWN"#]],
    );
}

#[test]
fn a_failure_counts_until_the_same_goes_well() {
    let mut facts = nightly(Some("20T02:00"));
    let target = Subject::to_target("tank/node", "ssh://b/v");
    ended(&mut facts, target.clone(), "20T02:01", Some(("unreachable", "no route")));
    check(
        &facts,
        "20T12:00",
        expect![[r#"
            WARNING Failed: replicate of tank/node to ssh://b/v failed at 2026-11-20T02:01:00Z: no route
            FAILED, WARNING"#]],
    );
    ended(&mut facts, target, "20T02:02", None);
    check(&facts, "20T12:00", expect!["OK, OK"]);
    ended(&mut facts, Subject::of_dataset(Op::Prune, "tank/node"), "20T02:03", Some(("corrupt", "bad")));
    check(
        &facts,
        "20T12:00",
        expect![[r#"
            CRITICAL Failed: prune of tank/node failed at 2026-11-20T02:03:00Z: bad
            FAILED, CRITICAL"#]],
    );
}

#[test]
fn what_a_comparison_found_is_critical_and_what_it_could_not_prove_a_warning() {
    let mut facts = nightly(Some("20T02:00"));
    let verified = |facts: &mut Facts, time: &str, failure: Option<(&str, &str)>| {
        ended(facts, Subject::of_target(Op::Verify, "tank/node", "vault/node"), time, failure);
    };
    verified(&mut facts, "20T03:00", Some(("partial", "1 of 2 is not proven")));
    check(
        &facts,
        "20T12:00",
        expect![[r#"
            WARNING Failed: verify of tank/node against vault/node failed at 2026-11-20T03:00:00Z: 1 of 2 is not proven
            FAILED, WARNING"#]],
    );
    verified(&mut facts, "20T04:00", Some(("corrupt", "it differs")));
    assert_eq!(worst(&findings(&facts, at("20T12:00"))), State::Critical);
    verified(&mut facts, "20T05:00", None);
    check(&facts, "20T12:00", expect!["OK, OK"]);
    // It is no part of a run, and tells of none why that failed.
    verified(&mut facts, "20T06:00", Some(("corrupt", "it differs")));
    ended(&mut facts, Subject::of_job(Op::Run), "20T06:01", Some(("corrupt", "of another")));
    assert_eq!(findings(&facts, at("20T12:00")).len(), 2);
}

#[test]
fn what_a_comparison_found_stays_critical_whatever_the_next_ones_could_not_do() {
    let mut facts = nightly(Some("20T02:00"));
    let verified = |facts: &mut Facts, time: &str, all: bool, failure: Option<(&str, &str)>| {
        let failure = failure.map(|(class, text)| Failure::new(class, text));
        let subject = Subject::of_target(Op::Verify, "tank/node", "vault/node");
        let outcome = Outcome { failure, ..Outcome::done(subject, at(time), Duration::from_secs(1)) };
        let record = facts.record.as_mut().expect("as it was made");
        let record = record.get_or_insert_with(|| JobRecord::new("node", at("01T00:00")));
        record.verified(Depth { content: true, all, inside: false }, &outcome);
    };
    verified(&mut facts, "20T03:00", true, Some(("corrupt", "it can not be read")));
    verified(&mut facts, "20T04:00", true, Some(("unreachable", "it is not mounted")));
    let both = || {
        expect![[r#"
        CRITICAL Failed: verify-content of tank/node against vault/node failed at 2026-11-20T03:00:00Z: it can not be read
        WARNING Failed: verify-content of tank/node against vault/node failed at 2026-11-20T04:00:00Z: it is not mounted
        FAILED, CRITICAL"#]]
    };
    check(&facts, "20T12:00", both());
    verified(&mut facts, "20T05:00", false, None);
    check(&facts, "20T12:00", both());
    verified(&mut facts, "20T06:00", true, None);
    check(&facts, "20T12:00", expect!["OK, OK"]);
}

#[test]
fn a_unit_that_has_failed_is_critical_and_one_that_can_not_be_asked_after_unknown() {
    let unit = |has_failed| ("node.service".to_owned(), has_failed);
    let with = |has_failed| Facts { units: vec![unit(has_failed)], ..nightly(Some("20T02:00")) };
    check(&with(Ok(false)), "20T12:00", expect!["OK, OK"]);
    check(
        &with(Ok(true)),
        "20T12:00",
        expect![[r#"
            CRITICAL Failed: node.service has failed
            FAILED, CRITICAL"#]],
    );
    check(
        &with(Err("there is no systemd here".into())),
        "20T12:00",
        expect![[r#"
            UNKNOWN Unseen: whether node.service has failed can not be asked: there is no systemd here
            UNKNOWN, UNKNOWN"#]],
    );
}

#[test]
fn what_a_target_has_has_limits_of_its_own() {
    let hours = |n| Some(SignedDuration::from_hours(n));
    let mut facts = nightly(Some("25T02:00"));
    facts.targets.push(Target {
        dataset: "tank/node".into(),
        to: "vault/node".into(),
        seen: None,
        asked: None,
        up_to: Ok(Some(at("20T02:00"))),
        base: Some(Base::Held),
        base_days: None,
        archive: None,
    });
    facts.limits.age = Pair { warn: hours(1000), crit: None };
    facts.limits.replica_age = Pair { warn: hours(24), crit: hours(150) };
    check(
        &facts,
        "25T12:00",
        expect![[r#"
            WARNING Late: vault/node has tank/node as it was 5 d ago
            LATE, WARNING"#]],
    );
    facts.limits.replica_age.crit = hours(100);
    assert_eq!(worst(&findings(&facts, at("25T12:00"))), State::Critical);
    facts.limits.replica_age = facts.limits.age;
    assert_eq!(worst(&findings(&facts, at("25T12:00"))), State::Ok);
}

#[test]
fn a_rehearsal_is_too_old_when_the_job_says_so() {
    let hours = |n| Some(SignedDuration::from_hours(n));
    let mut facts = nightly(Some("29T02:00"));
    facts.has_drill = true;
    facts.limits.drill_age = Pair { warn: hours(24), crit: hours(72) };
    ended(&mut facts, Subject::of_job(Op::Drill), "28T02:00", None);
    check(
        &facts,
        "29T04:00",
        expect![[r#"
            WARNING Drill: the last rehearsal of its restore that went well is 26 h old
            OK, WARNING"#]],
    );
    facts.limits.drill_age.crit = hours(25);
    assert_eq!(worst(&findings(&facts, at("29T04:00"))), State::Critical);
    // Never, for as long as anything was written down of the job.
    let mut never = nightly(Some("29T02:00"));
    never.has_drill = true;
    never.limits.drill_age = facts.limits.drill_age;
    assert_eq!(worst(&findings(&never, at("29T04:00"))), State::Warning);
    ended(&mut never, Subject::of_job(Op::Run), "01T02:00", None);
    assert_eq!(worst(&findings(&never, at("29T04:00"))), State::Critical);
}

#[test]
fn a_restore_that_was_not_rehearsed_for_long_is_a_warning_and_not_the_jobs_own_doing() {
    let mut facts = nightly(Some("29T02:00"));
    facts.has_drill = true;
    check(
        &facts,
        "29T12:00",
        expect![[r#"
            WARNING Drill: its restore was never rehearsed: cowsnap drill
            OK, WARNING"#]],
    );
    ended(&mut facts, Subject::of_job(Op::Drill), "01T02:00", None);
    check(&facts, "29T12:00", expect!["OK, OK"]);
    facts.datasets.clear();
    let late = findings(&facts, at("30T00:00") + SignedDuration::from_hours(24 * 7));
    assert_eq!(late[0].what, "the last rehearsal of its restore that went well is 35 d old");
}

#[test]
fn a_run_that_failed_as_a_whole_was_killed_or_left_services_stopped_is_told() {
    let mut facts = nightly(Some("20T02:00"));
    ended(&mut facts, Subject::of_job(Op::Run), "20T02:01", Some(("usage", "no such pool")));
    check(
        &facts,
        "20T12:00",
        expect![[r#"
            CRITICAL Failed: the last run failed: no such pool
            FAILED, CRITICAL"#]],
    );
    facts.record.as_mut().expect("as it was made").as_mut().expect("as it was made").begin(at("20T03:00"), 7);
    facts.stopped = Ok(vec!["node.service".into()]);
    check(
        &facts,
        "20T12:00",
        expect![[r#"
            CRITICAL Failed: node.service was stopped and not started again: cowsnap job recover
            CRITICAL Failed: the last run failed: no such pool
            WARNING Failed: the run of 2026-11-20T03:00:00Z was killed
            FAILED, CRITICAL"#]],
    );
    facts.is_at_work = true;
    facts.record = Ok(None);
    check(&facts, "20T12:00", expect!["OK, OK"]);
}

#[test]
fn a_target_is_judged_by_what_it_has_and_not_for_a_source_that_is_late() {
    let mut facts = nightly(Some("24T02:00"));
    let target = |seen, up_to: Option<&str>| Target {
        dataset: "tank/node".into(),
        to: "vault/node".into(),
        seen,
        asked: None,
        up_to: Ok(up_to.map(at)),
        base: None,
        base_days: None,
        archive: None,
    };
    let room = Seen { space: Some((GIB, 20 * GIB)), stuck: vec!["x".into()], ..Seen::default() };
    facts.targets = vec![target(Some(Ok(room)), Some("20T02:00"))];
    check(
        &facts,
        "24T12:00",
        expect![[r#"
            CRITICAL Space: 5 % is free where vault/node is
            CRITICAL Late: vault/node has tank/node as it was 4 d ago
            WARNING Partial: vault/node has a receive that nobody works on: x
            LATE, CRITICAL"#]],
    );
    facts.targets = vec![target(None, None)];
    check(
        &facts,
        "24T12:00",
        expect![[r#"
            UNKNOWN Unseen: it is not known that tank/node was ever brought to vault/node
            UNKNOWN, UNKNOWN"#]],
    );
    facts.targets = vec![target(Some(Err("gone".into())), None)];
    check(
        &facts,
        "24T12:00",
        expect![[r#"
            UNKNOWN Unseen: vault/node: gone
            UNKNOWN, UNKNOWN"#]],
    );
    // Neither has anything newer: the source is late, and said so once.
    facts.targets = vec![target(None, Some("24T02:00"))];
    assert_eq!(findings(&facts, at("28T12:00")).len(), 1);
    assert_eq!(lag(&facts.targets[0], &facts), Some(SignedDuration::ZERO));
}

#[test]
fn what_is_due_next_is_now_if_it_was_missed() {
    let facts = nightly(Some("20T02:00"));
    assert_eq!(next_run(&facts, at("20T12:00")), Some(at("21T02:00")));
    assert_eq!(next_run(&facts, at("23T12:00")), Some(at("23T12:00")));
    assert_eq!(next_run(&nightly(None), at("23T12:00")), Some(at("23T12:00")));
}

#[test]
fn times_are_said_as_people_do() {
    let said = [0, 119, 120, 7199, 7200, 172_800, -5].map(|n| roughly(SignedDuration::from_secs(n)));
    assert_eq!(said, ["0 s", "119 s", "2 min", "119 min", "2 h", "2 d", "0 s"]);
}

#[test]
fn of_several_states_the_worst_counts_and_unknown_outweighs_a_warning() {
    let of = |state| Finding { state, about: About::Space, job: "x".into(), what: "y".into() };
    assert_eq!(worst(&[]), State::Ok);
    assert_eq!(worst(&[of(State::Warning), of(State::Unknown)]), State::Unknown);
    assert_eq!(worst(&[of(State::Critical), of(State::Unknown)]), State::Critical);
    let codes = [State::Ok, State::Warning, State::Critical, State::Unknown].map(State::exit_code);
    assert_eq!(codes, [0, 1, 2, 3]);
}

#[test]
fn a_snapshot_that_a_trigger_promises_by_its_age_is_late_without_a_schedule() {
    let mut facts = nightly(Some("20T02:00"));
    facts.promise = Promise { schedule: None, age: Some(SignedDuration::from_hours(8)) };
    check(&facts, "20T11:59", expect!["OK, OK"]);
    check(
        &facts,
        "20T12:01",
        expect![[r#"
            WARNING Late: the last snapshot of tank/node is 10 h old
            LATE, WARNING"#]],
    );
    check(
        &facts,
        "20T18:01",
        expect![[r#"
            CRITICAL Late: the last snapshot of tank/node is 16 h old
            LATE, CRITICAL"#]],
    );
    // With a schedule too, what is first counts.
    facts.promise.schedule = of_schedule("0 2 * * *").schedule;
    assert_eq!(worst(&findings(&facts, at("20T12:01"))), State::Warning);
    facts.promise.age = Some(SignedDuration::from_hours(100));
    assert_eq!(worst(&findings(&facts, at("21T08:01"))), State::Warning);
}

#[test]
fn a_run_that_was_killed_hides_no_failure_that_is_worse() {
    let mut facts = nightly(Some("20T02:00"));
    let target = Subject::to_target("tank/node", "vault/node");
    ended(&mut facts, target, "20T02:01", Some(("conflict", "diverged")));
    facts.record.as_mut().expect("as it was made").as_mut().expect("as it was made").begin(at("20T03:00"), 7);
    check(
        &facts,
        "20T12:00",
        expect![[r#"
            CRITICAL Failed: replicate of tank/node to vault/node failed at 2026-11-20T02:01:00Z: diverged
            WARNING Failed: the run of 2026-11-20T03:00:00Z was killed
            FAILED, CRITICAL"#]],
    );
}

/// A run that began at `began` came to `failures`, of a target each, and to `run`.
fn run_ended(facts: &mut Facts, began: &str, failures: &[(&str, &str)], run: &str) {
    let outcome = |subject, class: &str| {
        let failure = Some(Failure::new(class, "no"));
        Outcome { failure, ..Outcome::done(subject, at(began), Duration::ZERO) }
    };
    let targets = failures.iter().map(|(to, class)| outcome(Subject::to_target("tank/node", to), class));
    let all = targets.chain([outcome(Subject::of_job(Op::Run), run)]).collect();
    let record = facts.record.as_mut().expect("as it was made");
    record.get_or_insert_with(|| JobRecord::new("node", at("01T00:00"))).end(at(began), all, |_| true);
}

#[test]
fn a_failure_of_long_ago_does_not_explain_that_of_the_last_run() {
    let mut facts = nightly(Some("20T02:00"));
    run_ended(&mut facts, "19T02:00", &[("ssh://b/v", "unreachable")], "unreachable");
    check(
        &facts,
        "20T12:00",
        expect![[r#"
            WARNING Failed: replicate of tank/node to ssh://b/v failed at 2026-11-19T02:00:00Z: no
            FAILED, WARNING"#]],
    );
    run_ended(&mut facts, "20T02:00", &[], "denied");
    check(
        &facts,
        "20T12:00",
        expect![[r#"
            CRITICAL Failed: the last run failed: no
            WARNING Failed: replicate of tank/node to ssh://b/v failed at 2026-11-19T02:00:00Z: no
            FAILED, CRITICAL"#]],
    );
    // What failed of several things is told by each of them, and by itself if there is but one.
    run_ended(
        &mut facts,
        "20T03:00",
        &[("ssh://b/v", "unreachable"), ("ssh://c/v", "unreachable")],
        "partial",
    );
    assert_eq!(worst(&findings(&facts, at("20T12:00"))), State::Warning);
    run_ended(&mut facts, "20T04:00", &[("ssh://b/v", "unreachable")], "partial");
    assert_eq!(worst(&findings(&facts, at("20T12:00"))), State::Critical);
}

#[test]
fn a_clock_that_was_ahead_hides_nothing() {
    let mut facts = nightly(Some("20T02:00"));
    let target = Subject::to_target("tank/node", "ssh://b/v");
    ended(&mut facts, target.clone(), "29T02:00", None);
    ended(&mut facts, target, "20T02:00", Some(("unreachable", "no route")));
    facts.has_drill = true;
    ended(&mut facts, Subject::of_job(Op::Drill), "29T02:00", None);
    facts.targets = vec![Target {
        dataset: "tank/node".into(),
        to: "ssh://b/v".into(),
        seen: None,
        asked: None,
        up_to: Ok(Some(at("29T02:00"))),
        base: Some(Base::Held),
        base_days: None,
        archive: None,
    }];
    check(
        &facts,
        "20T12:00",
        expect![[r#"
            WARNING Failed: replicate of tank/node to ssh://b/v failed at 2026-11-20T02:00:00Z: no route
            WARNING Drill: the last rehearsal of its restore is from the future: see to the clock
            WARNING Late: what ssh://b/v has of tank/node is from the future, 2026-11-29T02:00:00Z: see to the clock
            FAILED, WARNING"#]],
    );
}

#[test]
fn what_a_target_has_that_can_not_be_read_is_unknown_and_a_base_that_is_gone_is_told() {
    let mut facts = nightly(Some("20T02:00"));
    let room = Seen { space: Some((50 * GIB, 100 * GIB)), ..Seen::default() };
    let mut with = |up_to, base| {
        let (dataset, to) = ("tank/node".into(), "vault/node".into());
        facts.targets = vec![Target {
            dataset,
            to,
            seen: Some(Ok(room.clone())),
            asked: None,
            up_to,
            base,
            base_days: None,
            archive: None,
        }];
        facts.clone()
    };
    check(
        &with(Err("an input/output error".into()), None),
        "20T12:00",
        expect![[r#"
            UNKNOWN Unseen: what vault/node has of tank/node can not be looked at: an input/output error
            UNKNOWN, UNKNOWN"#]],
    );
    check(&with(Ok(Some(at("20T02:00"))), Some(Base::Held)), "20T12:00", expect!["OK, OK"]);
    check(
        &with(Ok(Some(at("20T02:00"))), Some(Base::Unheld)),
        "20T12:00",
        expect![[r#"
            WARNING Base: nothing keeps what the next increment of tank/node to vault/node builds upon: the next replication does
            OK, WARNING"#]],
    );
    let lost = with(Ok(None), Some(Base::Lost));
    check(
        &lost,
        "20T12:00",
        expect![[r#"
            CRITICAL Base: base lost: tank/node has nothing more that an increment to vault/node can build upon
            FAILED, CRITICAL"#]],
    );
    check(&Facts { is_at_work: true, ..lost }, "20T12:00", expect!["OK, OK"]);
    // The first transfer may take days.
    let first = with(Ok(None), None);
    check(
        &first,
        "20T12:00",
        expect![[r#"
            CRITICAL Late: vault/node has nothing of tank/node
            LATE, CRITICAL"#]],
    );
    check(&Facts { is_at_work: true, ..first.clone() }, "20T12:00", expect!["OK, OK"]);
    let mut by_hand = first;
    by_hand.targets[0].seen =
        Some(Ok(Seen { live: 1, space: Some((50 * GIB, 100 * GIB)), ..Seen::default() }));
    check(&by_hand, "20T12:00", expect!["OK, OK"]);
}

#[test]
fn a_target_elsewhere_that_can_not_be_asked_is_unknown_and_one_that_has_nothing_any_more_is_critical() {
    let mut facts = nightly(Some("20T02:00"));
    let mut with = |answer: Option<Result<(), String>>, up_to: Option<&str>, base| {
        let asked = answer.map(|answer| Asked { at: at("20T12:00"), answer });
        let (dataset, to, up_to) = ("tank/node".into(), "ssh://b/v".into(), Ok(up_to.map(at)));
        facts.targets =
            vec![Target { dataset, to, seen: None, asked, up_to, base, base_days: None, archive: None }];
        facts.clone()
    };
    check(&with(Some(Ok(())), Some("20T02:00"), Some(Base::Held)), "20T12:00", expect!["OK, OK"]);
    // Its source keeps it, and nobody knows whether it does.
    check(
        &with(Some(Err("no route".into())), Some("20T02:00"), Some(Base::Held)),
        "20T12:00",
        expect![[r#"
            UNKNOWN Unseen: ssh://b/v can not be asked whether it has what the next increment of tank/node builds upon: no route
            UNKNOWN, UNKNOWN"#]],
    );
    check(
        &with(Some(Ok(())), None, None),
        "20T12:00",
        expect![[r#"
            CRITICAL Late: ssh://b/v has nothing of tank/node
            LATE, CRITICAL"#]],
    );
    let mut gone = with(Some(Ok(())), None, Some(Base::Lost));
    gone.targets[0].archive =
        Some(Archive { gone: Some("there is no archive at s3://b/a".into()), ..Archive::default() });
    // A run writes down what it has put, and where, before it is over.
    for is_at_work in [false, true] {
        gone.is_at_work = is_at_work;
        check(
            &gone,
            "20T12:00",
            expect![[r#"
                CRITICAL Base: there is no archive at s3://b/a
                FAILED, CRITICAL"#]],
        );
    }
    let looked = |asked| with(asked, None, None).targets[0].is_looked_at();
    assert_eq!([None, Some(Err(String::new())), Some(Ok(()))].map(looked), [false, false, true]);
}

#[test]
fn datasets_inside_are_judged_too_and_are_not_when_the_job_was_done_last() {
    let mut facts = nightly(Some("20T02:00"));
    let seen = |newest: Option<&str>, stuck: &[&str]| {
        let stuck = stuck.iter().map(ToString::to_string).collect();
        Ok(Seen { newest: newest.map(at), stuck, ..Seen::default() })
    };
    facts.nested = vec![
        ("tank/node/a".into(), seen(Some("20T02:00"), &[])),
        ("tank/node/b".into(), seen(Some("18T02:00"), &["x"])),
        ("tank/node/c".into(), seen(None, &[])),
        ("tank/node/d".into(), Err("denied".into())),
    ];
    check(
        &facts,
        "20T12:00",
        expect![[r#"
            CRITICAL Late: the last snapshot of tank/node/b is 2 d old
            UNKNOWN Unseen: tank/node/d: denied
            WARNING Partial: tank/node/b has a receive that nobody works on: x
            WARNING Late: tank/node/c, which is taken along, has no snapshot of this job yet
            LATE, CRITICAL"#]],
    );
    assert_eq!(next_run(&facts, at("20T12:00")), Some(at("21T02:00")));
}

#[test]
fn what_is_due_next_by_its_age_is_known_too() {
    let by_age = |newest, schedule| {
        let promise = Promise { schedule, age: Some(SignedDuration::from_hours(8)) };
        next_run(&Facts { promise, ..nightly(newest) }, at("20T03:00"))
    };
    assert_eq!(by_age(Some("20T02:00"), None), Some(at("20T10:00")));
    assert_eq!(by_age(Some("19T02:00"), None), Some(at("20T03:00")));
    assert_eq!(
        (by_age(None, None), by_age(Some("25T02:00"), None)),
        (Some(at("20T03:00")), Some(at("20T03:00")))
    );
    assert_eq!(by_age(Some("20T02:00"), of_schedule("0 4 * * *").schedule), Some(at("20T04:00")));
    assert_eq!(next_run(&Facts { promise: Promise::default(), ..nightly(None) }, at("20T03:00")), None);
}
