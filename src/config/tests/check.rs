use super::*;

const DRILL: &str = "[job.a.drill]\ncommand = [\"/bin/true\"]\n";
const TARGET: &str = "[[job.a.target]]\nto = \"vault/a\"\n";

#[test]
fn a_job_says_from_when_on_it_is_not_well() {
    let lines = format!(
        "{DRILL}{TARGET}[job.a.check]\nwarn_age = \"90m\"\ncrit_age = \"2d\"\nwarn_replica_age = \"3d\"\ncrit_drill_age = \"90d\"\nwarn_verify_age = \"8d\"\ncrit_base_days = 3\nwarn_free = 12.5\ncrit_free = 5"
    );
    let config = load(&[("config.toml", &job(&lines))]).expect("it is right");
    let set = config.jobs[0].check.as_ref().expect("there");
    let hours = |n| Some(jiff::SignedDuration::from_hours(n));
    let limits = set.limits("2026-11-20T00:00:00Z".parse().expect("a time"));
    assert_eq!(limits.age.warn, Some(jiff::SignedDuration::from_mins(90)));
    assert_eq!((limits.age.crit, limits.replica_age.warn), (hours(48), hours(72)));
    assert_eq!((limits.drill_age.warn, limits.drill_age.crit), (None, hours(90 * 24)));
    assert_eq!((limits.verify_age.warn, limits.verify_age.crit), (hours(8 * 24), None));
    assert_eq!((limits.warn_base_days, limits.crit_base_days), (7, 3));
    assert_eq!((limits.warn_free, limits.crit_free), (12.5, 5.0));
    assert!(load(&[("config.toml", &job(""))]).expect("it is right").jobs[0].check.is_none());
}

#[test]
fn what_a_job_can_not_be_judged_by_is_refused() {
    check_job(
        "[job.a.check]",
        expect![[r#"
            config.toml:4: job.a.check: says nothing: at least one of warn_age, crit_age, warn_replica_age, crit_replica_age, warn_drill_age, crit_drill_age, warn_verify_age, crit_verify_age, warn_base_days, crit_base_days, warn_chain, crit_chain, warn_restore, crit_restore, warn_free, crit_free
        "#]],
    );
    let lines = "[job.a.check]\nwarn_age = \"2d\"\ncrit_age = \"48h\"\nwarn_replica_age = \"1d\"\ncrit_drill_age = \"x\"\nwarn_free = 5";
    check_job(
        lines,
        expect![[r#"
        config.toml:6: job.a.check.crit_age: is not longer than warn_age, which is never warned of then
        config.toml:7: job.a.check.warn_replica_age: says nothing without a target
        config.toml:8: job.a.check.crit_drill_age: says nothing without a drill
        config.toml:8: job.a.check.crit_drill_age: a time is a number and h, d, w, mo or y: 36h, 7d, 1y 6mo
        config.toml:9: job.a.check.warn_free: critical below 10 %, and a warning below 5 %: the second one has to be the larger one
    "#]],
    );
    check_job(
        "[job.a.check]\nwarn_verify_age = \"8d\"\ncrit_base_days = 9",
        expect![[r#"
        config.toml:5: job.a.check.warn_verify_age: says nothing without a target
        config.toml:6: job.a.check.crit_base_days: says nothing without a target
        config.toml:6: job.a.check.crit_base_days: critical below 9 days, and a warning below 7: the second one has to be the larger one
    "#]],
    );
    check_job(
        "[job.a.check]\nwarn_free = 101\ncrit_free = -1",
        expect![[r#"
        config.toml:5: job.a.check.warn_free: a number of 0 to 100 is needed
        config.toml:6: job.a.check.crit_free: a number of 0 to 100 is needed
    "#]],
    );
    check_job(
        "[job.a.check]\nwarn_free = \"20%\"",
        expect![[r#"
            config.toml:5: job.a.check.warn_free: a number of 0 to 100 is needed; valid is warn_free = 20
        "#]],
    );
    check_job(
        "[job.a.check]\nwarn = \"2d\"",
        expect![[r#"
        config.toml:5: job.a.check: unknown field "warn", expected one of "warn_age", "crit_age", "warn_replica_age", "crit_replica_age", "warn_drill_age", "crit_drill_age", "warn_verify_age", "crit_verify_age", "warn_base_days", "crit_base_days", "warn_chain", "crit_chain", "warn_restore", "crit_restore", "warn_free", "crit_free"
    "#]],
    );
    check_job(
        "[job.a.check]\nwarn_chain = 30\nwarn_restore = \"1G\"",
        expect![[r#"
        config.toml:5: job.a.check.warn_chain: says nothing without an archive
        config.toml:6: job.a.check.warn_restore: says nothing without an archive
    "#]],
    );
    let archive = "[[job.a.archive]]\nto = \"file:///srv/a\"\n";
    check_job(
        &format!(
            "{archive}[job.a.check]\nwarn_chain = 30\ncrit_chain = 30\nwarn_restore = \"2G\"\ncrit_restore = \"1G\""
        ),
        expect![[r#"
        config.toml:8: job.a.check.crit_chain: is not more than warn_chain, which is never warned of then
        config.toml:10: job.a.check.crit_restore: is not more than warn_restore, which is never warned of then
    "#]],
    );
    check_job(
        &format!("{archive}[job.a.check]\nwarn_chain = 0\ncrit_chain = 1\nwarn_restore = \"0\"\n"),
        expect![[r#"
            config.toml:7: job.a.check.warn_chain: 0 is exceeded by each archive: leave it out, or name more
            config.toml:9: job.a.check.warn_restore: 0 is exceeded by each archive: leave it out, or name more
        "#]],
    );
}
