//! What a target's next increment builds upon, how it was compared, and what a rehearsal found.

use super::*;

fn with_base(base: Base, days: Option<i64>) -> Facts {
    let mut facts = nightly(Some("20T02:00"));
    facts.targets.push(Target {
        dataset: "tank/node".into(),
        to: "vault/node".into(),
        seen: None,
        asked: None,
        up_to: Ok(Some(at("20T02:00"))),
        base: Some(base),
        base_days: days,
        archive: None,
    });
    facts
}

#[test]
fn a_base_that_retention_lets_go_soon_is_told_in_days() {
    check(&with_base(Base::Held, None), "20T12:00", expect!["OK, OK"]);
    check(&with_base(Base::Held, Some(30)), "20T12:00", expect!["OK, OK"]);
    // Held at the source, and let go by the rules of the target's own job.
    check(
        &with_base(Base::Held, Some(6)),
        "20T12:00",
        expect![[r#"
            WARNING Base: what the next increment of tank/node to vault/node builds upon does not stay there: retention lets it go in 6 days
            OK, WARNING"#]],
    );
    check(
        &with_base(Base::Unheld, Some(30)),
        "20T12:00",
        expect![[r#"
            WARNING Base: nothing keeps what the next increment of tank/node to vault/node builds upon, and retention lets it go in 30 days: the next replication does
            OK, WARNING"#]],
    );
    let mut today = with_base(Base::Unheld, Some(0));
    assert_eq!(worst(&findings(&today, at("20T12:00"))), State::Critical);
    today.limits.crit_base_days = 0;
    assert_eq!(worst(&findings(&today, at("20T12:00"))), State::Warning);
    today.targets[0].base_days = Some(1);
    today.limits.crit_base_days = 2;
    check(
        &today,
        "20T12:00",
        expect![[r#"
            CRITICAL Base: nothing keeps what the next increment of tank/node to vault/node builds upon, and retention lets it go tomorrow: the next replication does
            FAILED, CRITICAL"#]],
    );
    assert_eq!(worst(&findings(&with_base(Base::Lost, None), at("20T12:00"))), State::Critical);
    // A run that is at work may be about to hold it.
    today.is_at_work = true;
    check(&today, "20T12:00", expect!["OK, OK"]);
}

#[test]
fn a_comparison_is_too_old_when_the_job_says_so_and_never_else() {
    let hours = |n| Some(SignedDuration::from_hours(n));
    let mut facts = with_base(Base::Held, None);
    facts.promise = Promise::default();
    let verified = |facts: &mut Facts, op, time, failure| {
        ended(facts, Subject::of_target(op, "tank/node", "vault/node"), time, failure);
    };
    check(&facts, "28T12:00", expect!["OK, OK"]);
    facts.limits.verify_age = Pair { warn: hours(24), crit: hours(72) };
    check(
        &facts,
        "28T12:00",
        expect![[r#"
            WARNING Verify: tank/node was never compared with vault/node: cowsnap verify tank/node --against vault/node
            OK, WARNING"#]],
    );
    // As old as the record.
    ended(&mut facts, Subject::of_job(Op::Run), "01T02:00", None);
    assert_eq!(worst(&findings(&facts, at("28T12:00"))), State::Critical);
    verified(&mut facts, Op::Verify, "26T02:00", None);
    check(
        &facts,
        "28T12:00",
        expect![[r#"
            WARNING Verify: the last verify of tank/node against vault/node that found nothing is 2 d old
            OK, WARNING"#]],
    );
    assert_eq!(worst(&findings(&facts, at("29T12:00"))), State::Critical);
    verified(&mut facts, Op::VerifyContent, "28T02:00", None);
    check(&facts, "28T12:00", expect!["OK, OK"]);
    // From a clock that was ahead.
    assert_eq!(worst(&findings(&facts, at("27T12:00"))), State::Warning);
}

#[test]
fn a_restore_that_was_not_good_stays_critical_whatever_the_next_ones_could_not_do() {
    let mut facts = nightly(Some("28T02:00"));
    facts.has_drill = true;
    facts.limits.drill_age = Pair { warn: None, crit: None };
    ended(&mut facts, Subject::of_job(Op::Drill), "27T02:00", None);
    ended(&mut facts, Subject::of_job(Op::Drill), "28T03:00", Some(("corrupt", "it is not good")));
    ended(&mut facts, Subject::of_job(Op::Drill), "28T04:00", Some(("unreachable", "it took too long")));
    check(
        &facts,
        "28T12:00",
        expect![[r#"
            CRITICAL Failed: drill failed at 2026-11-28T03:00:00Z: it is not good
            CRITICAL Failed: drill failed at 2026-11-28T04:00:00Z: it took too long
            FAILED, CRITICAL"#]],
    );
    ended(&mut facts, Subject::of_job(Op::Drill), "28T05:00", None);
    check(&facts, "28T12:00", expect!["OK, OK"]);
}

#[test]
fn a_chain_that_is_longer_than_it_may_be_is_told_with_what_ends_it() {
    let mut facts = with_base(Base::Held, None);
    let chain = Some(crate::model::run::Chain { containers: 31, bytes: 3 << 30, requests: 400 });
    facts.targets[0].archive = Some(Archive { chain, ..Archive::default() });
    check(&facts, "20T12:00", expect!["OK, OK"]);
    facts.limits.chain = Pair { warn: Some(31), crit: None };
    facts.limits.restore = Pair { warn: None, crit: Some(3 << 30) };
    check(&facts, "20T12:00", expect!["OK, OK"]);
    facts.limits.chain = Pair { warn: Some(30), crit: Some(60) };
    check(
        &facts,
        "20T12:00",
        expect![[r#"
            WARNING Chain: bringing tank/node back from vault/node takes 31 containers: max_chain, or cowsnap archive push --full, begins a new one
            OK, WARNING"#]],
    );
    facts.limits.restore = Pair { warn: Some(1 << 30), crit: Some(2 << 30) };
    check(
        &facts,
        "20T12:00",
        expect![[r#"
            CRITICAL Chain: bringing tank/node back from vault/node takes 3072 MiB: max_chain, or cowsnap archive push --full, begins a new one
            WARNING Chain: bringing tank/node back from vault/node takes 31 containers: max_chain, or cowsnap archive push --full, begins a new one
            OK, CRITICAL"#]],
    );
}
