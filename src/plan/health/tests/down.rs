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
