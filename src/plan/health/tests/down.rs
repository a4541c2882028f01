use super::*;

fn of(seconds: i64) -> Option<SignedDuration> {
    Some(SignedDuration::from_secs(seconds))
}

#[test]
fn services_that_a_run_at_work_has_stopped_are_critical_once_that_takes_longer_than_it_may() {
    let stopped = Ok(vec!["node.service".into()]);
    let down = Down { since: Some(at("20T02:00")), patience: of(1800), max: None };
    let mut facts = Facts { is_at_work: true, stopped, down, ..nightly(Some("20T02:00")) };
    check(&facts, "20T02:29", expect!["OK, OK"]);
    check(
        &facts,
        "20T02:31",
        expect![[r#"
            CRITICAL Failed: node.service is stopped for 31 min by a run that is at work still
            FAILED, CRITICAL"#]],
    );
    // What the job says of its downtime is a warning first, and more than each step may take is no reason to wait for less.
    facts.down.max = of(60);
    assert_eq!(worst(&findings(&facts, at("20T02:02"))), State::Warning);
    assert_eq!(worst(&findings(&facts, at("20T02:31"))), State::Critical);
    facts.down.max = of(3600);
    assert_eq!(worst(&findings(&facts, at("20T02:59"))), State::Ok);
    assert_eq!(worst(&findings(&facts, at("20T03:01"))), State::Critical);
    // A lease of a version that did not say since when.
    facts.down.since = None;
    check(&facts, "20T12:00", expect!["OK, OK"]);
}

#[test]
fn only_what_was_to_be_brought_to_who_is_out_of_reach_is_no_more_than_a_warning() {
    let state = |subject: Subject| {
        let mut facts = nightly(Some("20T02:00"));
        ended(&mut facts, subject, "20T02:01", Some(("unreachable", "it did not stop within 10 min")));
        worst(&findings(&facts, at("20T12:00")))
    };
    let (dataset, to) = ("tank/node", "ssh://b/v");
    for op in [Op::Replicate, Op::Verify, Op::VerifyContent, Op::Prune] {
        assert_eq!(state(Subject::of_target(op, dataset, to)), State::Warning, "{op:?}");
    }
    for op in [Op::Run, Op::Quiesce, Op::Drill] {
        assert_eq!(state(Subject::of_job(op)), State::Critical, "{op:?}");
    }
    for op in [Op::Snapshot, Op::Prune] {
        assert_eq!(state(Subject::of_dataset(op, dataset)), State::Critical, "{op:?}");
    }
}

#[test]
fn a_downtime_that_was_longer_than_it_may_be_is_a_warning_until_the_next_one_is_not() {
    let mut facts = nightly(Some("20T02:00"));
    let was_down = |facts: &mut Facts, seconds| {
        let record = facts.record.as_mut().expect("as it was made");
        let record = record.get_or_insert_with(|| JobRecord::new("node", at("01T00:00")));
        record.was_down(Duration::from_secs(seconds));
    };
    was_down(&mut facts, 45);
    check(&facts, "20T12:00", expect!["OK, OK"]);
    facts.down.max = of(30);
    check(
        &facts,
        "20T12:00",
        expect![[r#"
            WARNING Downtime: services were down for 45 s the last time, and max_downtime is 30 s
            OK, WARNING"#]],
    );
    was_down(&mut facts, 30);
    check(&facts, "20T12:00", expect!["OK, OK"]);
}

#[test]
fn a_rehearsal_of_an_old_snapshot_proves_no_more_than_that_one() {
    let mut facts = Facts { has_drill: true, ..nightly(Some("28T02:00")) };
    let day = SignedDuration::from_hours(24);
    let rehearsed = |facts: &mut Facts, time: &str, of: Timestamp| {
        let outcome = Outcome::done(Subject::of_job(Op::Drill), at(time), Duration::from_secs(1));
        let record = facts.record.as_mut().expect("as it was made");
        let record = record.get_or_insert_with(|| JobRecord::new("node", at("01T00:00")));
        record.note(Outcome { up_to: Some(of), ..outcome });
    };
    rehearsed(&mut facts, "28T03:00", at("28T02:00"));
    check(&facts, "28T12:00", expect!["OK, OK"]);
    assert_eq!(drilled(&facts, at("28T12:00")), Some(SignedDuration::from_hours(9)));
    rehearsed(&mut facts, "28T04:00", at("28T04:00") - day * 300);
    check(
        &facts,
        "28T12:00",
        expect![[r#"
            WARNING Drill: the last rehearsal of its restore that went well was of a snapshot that was 300 d old
            OK, WARNING"#]],
    );
    assert_eq!(drilled(&facts, at("28T12:00")), Some(day * 300));
    facts.limits.drill_age = Pair { warn: None, crit: Some(day * 299) };
    assert_eq!(worst(&findings(&facts, at("28T12:00"))), State::Critical);
    facts.limits.drill_age = Pair { warn: Some(day * 301), crit: None };
    check(&facts, "28T12:00", expect!["OK, OK"]);
}
