//! What makes a job due besides its schedule, and what of that can not be.

use expect_test::{Expect, expect};

use super::{job, load, wrong};
use crate::config::Overlap;
use crate::plan::trigger::Combined;

fn check_trigger(more: &str, lines: &str, expected: Expect) {
    expected.assert_eq(&wrong(&job(&format!("{more}\n[job.a.trigger]\n{lines}"))));
}

const NUMBER: &str = "number = { command = [\"/bin/n\"] }\n";

#[test]
fn a_trigger_is_what_its_table_says() {
    let text = job(
        "schedule = \"0 2 * * *\"\noverlap = \"queue\"\nqueue_for = \"20m\"\n[job.a.retention]\nlast = 7\n[job.a.trigger]\nwith_schedule = \"both\"\nwindow = \"2h\"\nwritten = \"10G\"\nage = \"36h\"\n\
        number = { http = \"http://127.0.0.1:3999/x?y=z\", path = \"a.b/c.0\", within = \"3s\" }\nat_least = 5000\nat_most_every = \"30m\"\n\
        [job.a.trigger.emergency]\nat_least = 20000\nwritten = \"50G\"\nat_most_every = \"5m\"\nretention = { last = 2 }",
    );
    let config = load(&[("config.toml", &text)]).expect("a configuration");
    let job = &config.jobs[0];
    assert_eq!(job.overlap, Overlap::Queue(std::time::Duration::from_secs(1200)));
    let trigger = job.trigger.as_ref().expect("it is there");
    assert_eq!(trigger.combined, Combined::Both(Some(jiff::SignedDuration::from_hours(2))));
    assert_eq!((trigger.thresholds.written, trigger.thresholds.number), (Some(10 << 30), Some(5000)));
    assert_eq!(
        (trigger.thresholds.age.map(|age| age.as_hours()), trigger.at_most_every.as_mins()),
        (Some(36), 30)
    );
    let source = trigger.number.as_ref().expect("it is there");
    assert_eq!(
        (source.to_string().as_str(), source.within.as_secs()),
        ("a.b~1c.0 at http://127.0.0.1:3999/x?y=z", 3)
    );
    let emergency = trigger.emergency.as_ref().expect("it is there");
    assert_eq!((emergency.thresholds.number, emergency.at_most_every.as_mins()), (Some(20000), 5));
    assert_eq!(emergency.retention.as_ref().map(|retention| retention.last), Some(2));
    // What says nothing of how often: a number may stay where it is, bytes and age begin anew.
    for (lines, minutes) in [
        ("written = \"1G\"", 0),
        ("age = \"6h\"", 0),
        ("number = { command = [\"/n\"] }\nat_least = 5", 60),
        ("number = { command = [\"/n\"] }\nat_least = 5\nage = \"20m\"", 20),
    ] {
        let config = load(&[("config.toml", &self::job(&format!("[job.a.trigger]\n{lines}")))]).expect(lines);
        assert_eq!(
            config.jobs[0].trigger.as_ref().map(|trigger| trigger.at_most_every.as_mins()),
            Some(minutes)
        );
    }
}

#[test]
fn what_says_nothing_or_contradicts_itself_is_told() {
    check_trigger(
        "",
        "",
        expect![[r#"
        config.toml:5: job.a.trigger: says nothing: at least one of written, age, number with at_least, emergency
    "#]],
    );
    check_trigger(
        "schedule = \"@daily\"",
        "age = \"6h\"",
        expect![[r#"
        config.toml:5: job.a.trigger.with_schedule: is missing, as the job has a schedule: "either": each makes the job due by itself; or "both": once its time has come, and a threshold is reached
    "#]],
    );
    check_trigger(
        "",
        "with_schedule = \"both\"\nage = \"6h\"\nwindow = \"1h\"",
        expect![[r#"
        config.toml:6: job.a.trigger.with_schedule: says nothing without schedule
        config.toml:8: job.a.trigger.window: says nothing without with_schedule = "both": how long after its time thresholds count
    "#]],
    );
    check_trigger(
        "schedule = \"@daily\"",
        "with_schedule = \"and\"\nage = \"6h\"",
        expect![[r#"
        config.toml:6: job.a.trigger.with_schedule: "either": each makes the job due by itself; or "both": once its time has come, and a threshold is reached
    "#]],
    );
    check_trigger(
        "schedule = \"@daily\"",
        "with_schedule = \"either\"\nage = \"6h\"\nwindow = \"1h\"",
        expect![[r#"
            config.toml:8: job.a.trigger.window: says nothing without with_schedule = "both": how long after its time thresholds count
        "#]],
    );
    check_trigger(
        "schedule = \"@every 2h\"",
        "with_schedule = \"both\"\nage = \"6h\"\nwindow = \"1h\"",
        expect![[r#"
            config.toml:8: job.a.trigger.window: never opens again, as @every counts from the last snapshot: use a time, or leave it out
        "#]],
    );
    check_trigger(
        "",
        "at_least = 5",
        expect![[r#"
        config.toml:6: job.a.trigger.at_least: says nothing without number: one of { command = ["/PROGRAM", "ARGUMENT"] }, { http = "http://HOST:PORT/PATH", path = "KEY.0.KEY" }
    "#]],
    );
    check_trigger(
        "",
        NUMBER,
        expect![[r#"
            config.toml:6: job.a.trigger.at_least: is missing: the number that is enough
        "#]],
    );
    check_trigger(
        "",
        "age = \"6h\"\nat_most_every = \"7h\"",
        expect![[r#"
        config.toml:7: job.a.trigger.at_most_every: is longer than age, 6h, which never counts then
    "#]],
    );
    check_trigger(
        "overlap = \"wait\"",
        "age = \"6h\"",
        expect![[r#"
        config.toml:4: job.a.overlap: "skip": left to another minute; or "queue": waits for the other run
    "#]],
    );
    check_trigger(
        "queue_for = \"5m\"",
        "age = \"6h\"",
        expect![[r#"
        config.toml:4: job.a.queue_for: says nothing without overlap = "queue"
    "#]],
    );
}

#[test]
fn a_number_that_nobody_can_say_and_a_time_that_is_none_are_told() {
    check_trigger(
        "",
        "number = { }\nat_least = 5",
        expect![[r#"
        config.toml:6: job.a.trigger.number: one of { command = ["/PROGRAM", "ARGUMENT"] }, { http = "http://HOST:PORT/PATH", path = "KEY.0.KEY" }
    "#]],
    );
    check_trigger(
        "",
        "number = { command = [\"n\"] }\nat_least = 5",
        expect![[r#"
        config.toml:6: job.a.trigger.number.command: a command is a program's absolute path and its arguments: ["/usr/bin/node", "-daemon"]
    "#]],
    );
    check_trigger(
        "",
        "number = { http = \"https://h/\", path = \"a..b\" }\nat_least = 5",
        expect![[r#"
        config.toml:6: job.a.trigger.number.http: "https://h/" is no address to get: http://HOST[:PORT][/PATH]
        config.toml:6: job.a.trigger.number.path: "a..b" leads nowhere: KEY.0.KEY, or /KEY/0/KEY with ~1 for a / and ~0 for a ~ in a KEY
    "#]],
    );
    check_trigger(
        "",
        "number = { command = [\"/n\"], path = \"a\" }\nat_least = 5",
        expect![[r#"
        config.toml:6: job.a.trigger.number: one of { command = ["/PROGRAM", "ARGUMENT"] }, { http = "http://HOST:PORT/PATH", path = "KEY.0.KEY" }
    "#]],
    );
    check_trigger(
        "",
        &format!("{NUMBER}at_least = \"5\""),
        expect![[r#"
            config.toml:7: job.a.trigger.at_least: invalid type: string "5", expected a whole number; valid is at_least = 5000
        "#]],
    );
    check_trigger(
        "",
        "age = \"90s\"\nwritten = \"0\"",
        expect![[r#"
            config.toml:6: job.a.trigger.age: a time here is a number and m or h, of 1m to 8784h: 15m, 6h, 36h
            config.toml:7: job.a.trigger.written: 0 is always reached: leave the key out, and use schedule
        "#]],
    );
    check_trigger(
        "",
        "bytes = \"1G\"",
        expect![[r#"
        config.toml:6: job.a.trigger: unknown field "bytes", expected one of "with_schedule", "window", "written", "age", "number", "at_least", "at_most_every", "emergency"
    "#]],
    );
}

#[test]
fn an_emergency_is_more_than_what_is_enough_without_one() {
    let emergency = |lines: &str| {
        format!(
            "{NUMBER}at_least = 5000\nwritten = \"1G\"\nat_most_every = \"1h\"\n[job.a.trigger.emergency]\n{lines}"
        )
    };
    check_trigger(
        "",
        &emergency("at_least = 5000\nwritten = \"512M\""),
        expect![[r#"
        config.toml:10: job.a.trigger.emergency.written: is no more than what is enough without an emergency
        config.toml:10: job.a.trigger.emergency.at_least: is no more than what is enough without an emergency
    "#]],
    );
    check_trigger(
        "",
        &emergency("at_most_every = \"1h\""),
        expect![[r#"
        config.toml:10: job.a.trigger.emergency: says nothing: at least one of written, age, at_least
    "#]],
    );
    check_trigger(
        "",
        &emergency("at_least = 9000\nat_most_every = \"2h\""),
        expect![[r#"
        config.toml:12: job.a.trigger.emergency.at_most_every: is longer than without an emergency, 1h
    "#]],
    );
    check_trigger(
        "",
        &emergency("at_least = 9000\nretention = { last = 1 }"),
        expect![[r#"
        config.toml:12: job.a.trigger.emergency.retention: says what else is kept in an emergency, and the job has no retention
    "#]],
    );
    check_trigger(
        "",
        "age = \"6h\"\n[job.a.trigger.emergency]\nat_least = 9000",
        expect![[r#"
        config.toml:8: job.a.trigger.emergency.at_least: says nothing without number: one of { command = ["/PROGRAM", "ARGUMENT"] }, { http = "http://HOST:PORT/PATH", path = "KEY.0.KEY" }
    "#]],
    );
}
