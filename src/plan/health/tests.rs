use std::time::Duration;

use expect_test::{Expect, expect};
use jiff::tz::TimeZone;

use super::*;
use crate::model::run::{Failure, Outcome, Subject};

const GIB: u64 = 1 << 30;

fn at(time: &str) -> Timestamp {
    format!("2026-11-{time}:00Z").parse().expect("as it was made")
}

/// A job of every night at two, with one dataset that has room.
fn nightly(newest: Option<&str>) -> Facts {
    let seen =
        Seen { newest: newest.map(at), snapshots: 3, space: Some((50 * GIB, 100 * GIB)), ..Seen::default() };
    Facts {
        job: "node".into(),
        schedule: Some(Schedule::new("0 2 * * *", TimeZone::UTC).expect("as it was made")),
        datasets: vec![("tank/node".into(), Ok(seen))],
        targets: Vec::new(),
        record: Ok(None),
        is_at_work: false,
        has_drill: false,
        stopped: Ok(Vec::new()),
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
    let findings = findings(facts, &Limits::default(), at(now));
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
    facts.schedule = Some(Schedule::new("* * * * *", TimeZone::UTC).expect("as it was made"));
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
    let mut unscheduled = nightly(None);
    unscheduled.schedule = None;
    check(&unscheduled, "20T12:00", expect!["OK, OK"]);
}

#[test]
fn ages_that_are_given_go_before_the_schedule() {
    let hours = |n| Some(SignedDuration::from_hours(n));
    let state = |warn_age, crit_age, now| {
        let limits = Limits { warn_age, crit_age, ..Limits::default() };
        worst(&findings(&nightly(Some("20T02:00")), &limits, at(now)))
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
    let late = findings(&facts, &Limits::default(), at("30T00:00") + SignedDuration::from_hours(24 * 7));
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
        up_to: up_to.map(at),
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
    assert_eq!(findings(&facts, &Limits::default(), at("28T12:00")).len(), 1);
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
