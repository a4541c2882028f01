use std::time::Duration;

use expect_test::{Expect, expect};
use jiff::SignedDuration;
use jiff::tz::TimeZone;

use super::*;
use crate::model::run::{Failure, Outcome};
use crate::plan::health::{Down, Promise, Target};
use crate::plan::schedule::Schedule;

const NOW: &str = "2026-11-20T12:00:00Z";

fn at(time: &str) -> Timestamp {
    format!("2026-11-20T{time}:00Z").parse().expect("as it was made")
}

/// A job of every night at two that has one dataset and was never looked at nor run.
fn job(name: &str) -> Facts {
    Facts {
        job: name.into(),
        promise: Promise { schedule: Schedule::new("0 2 * * *", TimeZone::UTC).ok(), age: None },
        datasets: vec![("tank/node".into(), Ok(Seen::default()))],
        nested: Vec::new(),
        targets: Vec::new(),
        record: Ok(None),
        is_at_work: false,
        has_drill: false,
        limits: health::Limits::default(),
        stopped: Ok(Vec::new()),
        down: Down::default(),
        stores: Vec::new(),
        units: Vec::new(),
    }
}

fn subjects() -> Vec<Subject> {
    vec![
        Subject::of_job(Op::Run),
        Subject::of_job(Op::Quiesce),
        Subject::of_dataset(Op::Snapshot, "tank/node"),
        Subject::to_target("tank/node", "vault/node"),
        Subject::of_dataset(Op::Prune, "tank/node"),
        Subject::of_job(Op::Drill),
    ]
}

fn told(facts: &Facts, subjects: Vec<Subject>) -> String {
    let now = NOW.parse().expect("as it was made");
    exposition(&families(&[Measured { facts, subjects }], "1.2.3", now))
}

/// The samples of the families whose names begin so.
fn check(facts: &Facts, subjects: Vec<Subject>, begins: &[&str], expected: Expect) {
    let text = told(facts, subjects);
    let is_meant = |line: &&str| begins.iter().any(|begin| line.starts_with(&format!("cowsnap_{begin}")));
    expected.assert_eq(&text.lines().filter(is_meant).fold(String::new(), |all, line| all + line + "\n"));
}

/// A run that took its snapshot with a downtime, replicated twice, the second time in vain, and pruned.
fn recorded() -> JobRecord {
    let mut record = JobRecord::new("node", at("00:00"));
    record.skip(at("01:00"), "another one is at work");
    record.begin(at("01:30"), 6);
    record.begin(at("02:00"), 7);
    let [run, quiesce, snapshot, target, prune, _] = subjects().try_into().expect("as it was made");
    let took = |subject: Subject, ms| Outcome::done(subject, at("02:01"), Duration::from_millis(ms));
    let corrupt = Some(Failure::new("corrupt", "frame 7"));
    let outcomes = vec![
        Outcome { downtime: Some(Duration::from_millis(320)), ..took(quiesce, 900) },
        took(snapshot, 20),
        Outcome { bytes: 4096, up_to: Some(at("02:00")), ..took(target.clone(), 1500) },
        Outcome { bytes: 100, at: at("02:02"), failure: corrupt, ..took(target, 500) },
        took(prune, 5),
        took(run, 3000),
    ];
    record.end(at("02:00"), outcomes, |_| true);
    record
}

#[test]
fn what_a_comparison_finds_is_a_verify_failure() {
    let subjects =
        [Op::Verify, Op::VerifyContent].map(|op| Subject::of_target(op, "tank/node", "vault/node"));
    let mut record = JobRecord::new("node", at("00:00"));
    let failure = Some(Failure::new("corrupt", "it differs"));
    let outcome = Outcome::done(subjects[0].clone(), at("01:00"), Duration::from_secs(1));
    record.note(Outcome { failure, ..outcome });
    check(
        &Facts { record: Ok(Some(record)), ..job("node") },
        subjects.to_vec(),
        &["verify_failures_total"],
        expect![[r#"
            cowsnap_verify_failures_total{job_name="node",op="verify",dataset="tank/node",target="vault/node"} 1
            cowsnap_verify_failures_total{job_name="node",op="verify-content",dataset="tank/node",target="vault/node"} 0
        "#]],
    );
}

#[test]
fn a_job_that_never_ran_counts_from_0() {
    check(
        &job("node"),
        subjects(),
        &[
            "operations_total",
            "duration_seconds",
            "transferred",
            "verify",
            "downtime",
            "runs",
            "last",
            "record",
        ],
        expect![[r#"
            cowsnap_runs_skipped_total{job_name="node"} 0
            cowsnap_runs_unended_total{job_name="node"} 0
            cowsnap_operations_total{job_name="node",op="run",result="success"} 0
            cowsnap_operations_total{job_name="node",op="run",result="failure"} 0
            cowsnap_operations_total{job_name="node",op="quiesce",result="success"} 0
            cowsnap_operations_total{job_name="node",op="quiesce",result="failure"} 0
            cowsnap_operations_total{job_name="node",op="snapshot",dataset="tank/node",result="success"} 0
            cowsnap_operations_total{job_name="node",op="snapshot",dataset="tank/node",result="failure"} 0
            cowsnap_operations_total{job_name="node",op="replicate",dataset="tank/node",target="vault/node",result="success"} 0
            cowsnap_operations_total{job_name="node",op="replicate",dataset="tank/node",target="vault/node",result="failure"} 0
            cowsnap_operations_total{job_name="node",op="prune",dataset="tank/node",result="success"} 0
            cowsnap_operations_total{job_name="node",op="prune",dataset="tank/node",result="failure"} 0
            cowsnap_operations_total{job_name="node",op="drill",result="success"} 0
            cowsnap_operations_total{job_name="node",op="drill",result="failure"} 0
            cowsnap_duration_seconds_total{job_name="node",op="run"} 0
            cowsnap_duration_seconds_total{job_name="node",op="quiesce"} 0
            cowsnap_duration_seconds_total{job_name="node",op="snapshot",dataset="tank/node"} 0
            cowsnap_duration_seconds_total{job_name="node",op="replicate",dataset="tank/node",target="vault/node"} 0
            cowsnap_duration_seconds_total{job_name="node",op="prune",dataset="tank/node"} 0
            cowsnap_duration_seconds_total{job_name="node",op="drill"} 0
            cowsnap_last_transferred_bytes{job_name="node",op="replicate",dataset="tank/node",target="vault/node"} 0
            cowsnap_transferred_bytes_total{job_name="node",op="replicate",dataset="tank/node",target="vault/node"} 0
            cowsnap_verify_failures_total{job_name="node",op="replicate",dataset="tank/node",target="vault/node"} 0
            cowsnap_downtime_seconds_total{job_name="node",op="quiesce"} 0
        "#]],
    );
}

#[test]
fn what_was_written_down_is_told_of_each_thing() {
    let facts = Facts { record: Ok(Some(recorded())), ..job("node") };
    let of_record = [
        "record",
        "runs",
        "operations_total",
        "last_success",
        "last_failure",
        "last_dur",
        "duration",
        "last_tr",
        "transferred",
        "verify",
        "last_down",
        "downtime",
    ];
    check(
        &facts,
        subjects(),
        &of_record,
        expect![[r#"
            cowsnap_record_since_timestamp_seconds{job_name="node"} 1795132800
            cowsnap_runs_skipped_total{job_name="node"} 1
            cowsnap_runs_unended_total{job_name="node"} 1
            cowsnap_operations_total{job_name="node",op="run",result="success"} 1
            cowsnap_operations_total{job_name="node",op="run",result="failure"} 0
            cowsnap_operations_total{job_name="node",op="quiesce",result="success"} 1
            cowsnap_operations_total{job_name="node",op="quiesce",result="failure"} 0
            cowsnap_operations_total{job_name="node",op="snapshot",dataset="tank/node",result="success"} 1
            cowsnap_operations_total{job_name="node",op="snapshot",dataset="tank/node",result="failure"} 0
            cowsnap_operations_total{job_name="node",op="replicate",dataset="tank/node",target="vault/node",result="success"} 1
            cowsnap_operations_total{job_name="node",op="replicate",dataset="tank/node",target="vault/node",result="failure"} 1
            cowsnap_operations_total{job_name="node",op="prune",dataset="tank/node",result="success"} 1
            cowsnap_operations_total{job_name="node",op="prune",dataset="tank/node",result="failure"} 0
            cowsnap_operations_total{job_name="node",op="drill",result="success"} 0
            cowsnap_operations_total{job_name="node",op="drill",result="failure"} 0
            cowsnap_last_success_timestamp_seconds{job_name="node",op="run"} 1795140060
            cowsnap_last_success_timestamp_seconds{job_name="node",op="quiesce"} 1795140060
            cowsnap_last_success_timestamp_seconds{job_name="node",op="snapshot",dataset="tank/node"} 1795140060
            cowsnap_last_success_timestamp_seconds{job_name="node",op="replicate",dataset="tank/node",target="vault/node"} 1795140060
            cowsnap_last_success_timestamp_seconds{job_name="node",op="prune",dataset="tank/node"} 1795140060
            cowsnap_last_failure_timestamp_seconds{job_name="node",op="replicate",dataset="tank/node",target="vault/node"} 1795140120
            cowsnap_last_duration_seconds{job_name="node",op="run"} 3
            cowsnap_last_duration_seconds{job_name="node",op="quiesce"} 0.9
            cowsnap_last_duration_seconds{job_name="node",op="snapshot",dataset="tank/node"} 0.02
            cowsnap_last_duration_seconds{job_name="node",op="replicate",dataset="tank/node",target="vault/node"} 0.5
            cowsnap_last_duration_seconds{job_name="node",op="prune",dataset="tank/node"} 0.005
            cowsnap_duration_seconds_total{job_name="node",op="run"} 3
            cowsnap_duration_seconds_total{job_name="node",op="quiesce"} 0.9
            cowsnap_duration_seconds_total{job_name="node",op="snapshot",dataset="tank/node"} 0.02
            cowsnap_duration_seconds_total{job_name="node",op="replicate",dataset="tank/node",target="vault/node"} 2
            cowsnap_duration_seconds_total{job_name="node",op="prune",dataset="tank/node"} 0.005
            cowsnap_duration_seconds_total{job_name="node",op="drill"} 0
            cowsnap_last_transferred_bytes{job_name="node",op="replicate",dataset="tank/node",target="vault/node"} 100
            cowsnap_transferred_bytes_total{job_name="node",op="replicate",dataset="tank/node",target="vault/node"} 4196
            cowsnap_verify_failures_total{job_name="node",op="replicate",dataset="tank/node",target="vault/node"} 1
            cowsnap_last_downtime_seconds{job_name="node",op="quiesce"} 0.32
            cowsnap_downtime_seconds_total{job_name="node",op="quiesce"} 0.32
        "#]],
    );
}

#[test]
fn what_was_seen_of_places_is_told_of_each() {
    let here = Seen {
        newest: Some(at("02:00")),
        snapshots: 14,
        stuck: vec!["20261119T020000Z".into()],
        live: 2,
        space: Some((30, 100)),
        scarce: None,
        usage: None,
    };
    let target = |to: &str, seen, up_to: Option<&str>| Target {
        dataset: "tank/node".into(),
        to: to.into(),
        seen,
        asked: None,
        up_to: Ok(up_to.map(at)),
        base: None,
        base_days: None,
        archive: None,
    };
    let vault = Seen { space: Some((0, 7)), ..Seen::default() };
    let facts = Facts {
        datasets: vec![("tank/node".into(), Ok(here)), ("tank/keys".into(), Err("gone".into()))],
        nested: vec![("tank/node/index".into(), Ok(Seen { snapshots: 2, ..Seen::default() }))],
        targets: vec![
            target("vault/node", Some(Ok(vault)), Some("01:30")),
            target("vault/lost", Some(Err("gone".into())), None),
            target("ssh://b/v", None, Some("02:00")),
        ],
        ..job("node")
    };
    let of_places = ["dataset", "newest", "snapshots", "partial", "free", "size", "target"];
    check(
        &facts,
        Vec::new(),
        &of_places,
        expect![[r#"
            cowsnap_dataset_readable{job_name="node",dataset="tank/node"} 1
            cowsnap_dataset_readable{job_name="node",dataset="tank/keys"} 0
            cowsnap_dataset_readable{job_name="node",dataset="tank/node/index"} 1
            cowsnap_dataset_readable{job_name="node",dataset="tank/node",target="vault/node"} 1
            cowsnap_dataset_readable{job_name="node",dataset="tank/node",target="vault/lost"} 0
            cowsnap_newest_snapshot_timestamp_seconds{job_name="node",dataset="tank/node"} 1795140000
            cowsnap_snapshots{job_name="node",dataset="tank/node"} 14
            cowsnap_snapshots{job_name="node",dataset="tank/node/index"} 2
            cowsnap_partial_receives{job_name="node",dataset="tank/node",state="stuck"} 1
            cowsnap_partial_receives{job_name="node",dataset="tank/node",state="live"} 2
            cowsnap_partial_receives{job_name="node",dataset="tank/node/index",state="stuck"} 0
            cowsnap_partial_receives{job_name="node",dataset="tank/node/index",state="live"} 0
            cowsnap_partial_receives{job_name="node",dataset="tank/node",target="vault/node",state="stuck"} 0
            cowsnap_partial_receives{job_name="node",dataset="tank/node",target="vault/node",state="live"} 0
            cowsnap_free_bytes{job_name="node",dataset="tank/node"} 30
            cowsnap_free_bytes{job_name="node",dataset="tank/node",target="vault/node"} 0
            cowsnap_size_bytes{job_name="node",dataset="tank/node"} 100
            cowsnap_size_bytes{job_name="node",dataset="tank/node",target="vault/node"} 7
            cowsnap_target_up_to_timestamp_seconds{job_name="node",dataset="tank/node",target="vault/node"} 1795138200
            cowsnap_target_up_to_timestamp_seconds{job_name="node",dataset="tank/node",target="ssh://b/v"} 1795140000
            cowsnap_target_lag_seconds{job_name="node",dataset="tank/node",target="vault/node"} 1800
            cowsnap_target_lag_seconds{job_name="node",dataset="tank/node",target="ssh://b/v"} 0
        "#]],
    );
}

#[test]
fn failures_in_a_row_are_told_and_what_has_become_of_a_base() {
    let mut record = recorded();
    let old = record.tallies.iter_mut().filter(|tally| tally.subject.op != Op::Replicate);
    old.for_each(|tally| tally.in_a_row = None);
    let target = |to: &str, base| Target {
        dataset: "tank/node".into(),
        to: to.into(),
        seen: None,
        asked: None,
        up_to: Ok(None),
        base,
        base_days: (base == Some(Base::Unheld)).then_some(12),
        archive: None,
    };
    let bases = [Some(Base::Held), Some(Base::Unheld), Some(Base::Lost), None];
    let targets = bases.iter().zip(["a", "b", "c", "d"]).map(|(base, to)| target(to, *base)).collect();
    check(
        &Facts { record: Ok(Some(record)), targets, ..job("node") },
        subjects(),
        &["failures", "target_base"],
        expect![[r#"
            cowsnap_failures_in_a_row{job_name="node",op="run"} 0
            cowsnap_failures_in_a_row{job_name="node",op="quiesce"} 0
            cowsnap_failures_in_a_row{job_name="node",op="snapshot",dataset="tank/node"} 0
            cowsnap_failures_in_a_row{job_name="node",op="replicate",dataset="tank/node",target="vault/node"} 1
            cowsnap_failures_in_a_row{job_name="node",op="prune",dataset="tank/node"} 0
            cowsnap_failures_in_a_row{job_name="node",op="drill"} 0
            cowsnap_target_base_state{job_name="node",dataset="tank/node",target="a"} 0
            cowsnap_target_base_state{job_name="node",dataset="tank/node",target="b"} 1
            cowsnap_target_base_state{job_name="node",dataset="tank/node",target="c"} 2
            cowsnap_target_base_days{job_name="node",dataset="tank/node",target="b"} 12
        "#]],
    );
    // Who is at work may be about to hold it.
    let targets = vec![target("c", Some(Base::Lost))];
    check(&Facts { targets, is_at_work: true, ..job("node") }, subjects(), &["target_base"], expect![""]);
}

#[test]
fn a_job_is_told_as_check_has_it() {
    let of_job = ["build", "job"];
    let mut facts = job("node");
    check(
        &facts,
        Vec::new(),
        &of_job,
        expect![[r#"
            cowsnap_build_info{version="1.2.3"} 1
            cowsnap_job_state{job_name="node"} 2
            cowsnap_job_running{job_name="node"} 0
            cowsnap_job_next_run_timestamp_seconds{job_name="node"} 1795176000
            cowsnap_job_services_stopped{job_name="node"} 0
        "#]],
    );
    facts.datasets[0].1 = Ok(Seen { newest: Some(at("02:00")), space: Some((50, 100)), ..Seen::default() });
    facts.is_at_work = true;
    facts.stopped = Ok(vec!["node.service".into(), "db.service".into()]);
    check(
        &facts,
        Vec::new(),
        &of_job,
        expect![[r#"
            cowsnap_build_info{version="1.2.3"} 1
            cowsnap_job_state{job_name="node"} 0
            cowsnap_job_running{job_name="node"} 1
            cowsnap_job_next_run_timestamp_seconds{job_name="node"} 1795226400
            cowsnap_job_services_stopped{job_name="node"} 2
        "#]],
    );
    facts.down.max = Some(SignedDuration::from_millis(1500));
    let max = expect![[r#"
        cowsnap_job_max_downtime_seconds{job_name="node"} 1.5
    "#]];
    check(&facts, Vec::new(), &["job_max"], max);
    facts.down.max = None;
    facts.promise = Promise::default();
    facts.is_at_work = false;
    facts.stopped = Err("denied".into());
    check(
        &facts,
        Vec::new(),
        &of_job,
        expect![[r#"
            cowsnap_build_info{version="1.2.3"} 1
            cowsnap_job_state{job_name="node"} 3
            cowsnap_job_running{job_name="node"} 0
        "#]],
    );
}

#[test]
fn a_run_that_was_killed_is_counted_before_the_next_one_counts_it_and_once() {
    let mut record = JobRecord::new("node", at("00:00"));
    let n = |record: &JobRecord, is_at_work| {
        let facts = Facts { record: Ok(Some(record.clone())), is_at_work, ..job("node") };
        let text = told(&facts, Vec::new());
        let name = "cowsnap_runs_unended_total{job_name=\"node\"} ";
        text.lines().find_map(|line| line.strip_prefix(name)).expect("it is told").to_owned()
    };
    record.begin(at("01:00"), 7);
    assert_eq!([true, false].map(|is_at_work| n(&record, is_at_work)), ["0", "1"]);
    record.begin(at("02:00"), 8);
    assert_eq!([true, false].map(|is_at_work| n(&record, is_at_work)), ["1", "2"]);
    record.forget(at("02:00"));
    assert_eq!(n(&record, false), "1");
}

#[test]
fn what_can_not_be_read_is_not_told_as_0() {
    let facts = Facts { record: Err("it is damaged".into()), ..job("node") };
    check(
        &facts,
        subjects(),
        &["operations", "runs", "record", "duration", "job_state"],
        expect![[r#"
            cowsnap_job_state{job_name="node"} 2
        "#]],
    );
}

#[test]
fn all_of_it_is_text_that_prometheus_reads() {
    let facts = Facts { datasets: Vec::new(), promise: Promise::default(), ..job("no\"de\\\n") };
    expect![[r##"
        # HELP cowsnap_build_info Always 1; its label is the version.
        # TYPE cowsnap_build_info gauge
        cowsnap_build_info{version="1.2.3"} 1
        # HELP cowsnap_job_state Whether a job is well: 0 ok, 1 warning, 2 critical, 3 unknown, as cowsnap check has it.
        # TYPE cowsnap_job_state gauge
        cowsnap_job_state{job_name="no\"de\\\n"} 0
        # HELP cowsnap_job_running Whether a run of the job is at work.
        # TYPE cowsnap_job_running gauge
        cowsnap_job_running{job_name="no\"de\\\n"} 0
        # HELP cowsnap_job_services_stopped How many services the job has stopped and not started again so far.
        # TYPE cowsnap_job_services_stopped gauge
        cowsnap_job_services_stopped{job_name="no\"de\\\n"} 0
        # HELP cowsnap_runs_skipped_total Runs that were not begun, as something else was at work.
        # TYPE cowsnap_runs_skipped_total counter
        cowsnap_runs_skipped_total{job_name="no\"de\\\n"} 0
        # HELP cowsnap_runs_unended_total Runs that were killed.
        # TYPE cowsnap_runs_unended_total counter
        cowsnap_runs_unended_total{job_name="no\"de\\\n"} 0
        # HELP cowsnap_operations_total What was done, by its result.
        # TYPE cowsnap_operations_total counter
        cowsnap_operations_total{job_name="no\"de\\\n",op="run",result="success"} 0
        cowsnap_operations_total{job_name="no\"de\\\n",op="run",result="failure"} 0
        # HELP cowsnap_failures_in_a_row How often it failed since it went well last.
        # TYPE cowsnap_failures_in_a_row gauge
        cowsnap_failures_in_a_row{job_name="no\"de\\\n",op="run"} 0
        # HELP cowsnap_duration_seconds_total How long it took in all.
        # TYPE cowsnap_duration_seconds_total counter
        cowsnap_duration_seconds_total{job_name="no\"de\\\n",op="run"} 0
    "##]].assert_eq(&told(&facts, vec![Subject::of_job(Op::Run)]));
}

#[test]
fn a_dataset_that_is_brought_to_one_place_by_two_names_is_told_once() {
    let mut facts = job("node");
    let target = |up_to| Target {
        dataset: "tank/node".into(),
        to: "vault/node".into(),
        seen: None,
        asked: None,
        up_to: Ok(Some(at(up_to))),
        base: None,
        base_days: None,
        archive: None,
    };
    facts.targets = vec![target("01:00"), target("02:00")];
    check(
        &facts,
        Vec::new(),
        &["target_up_to"],
        expect![[r#"
            cowsnap_target_up_to_timestamp_seconds{job_name="node",dataset="tank/node",target="vault/node"} 1795136400
        "#]],
    );
}

#[test]
fn names_are_all_different_counters_end_with_total_and_no_label_is_a_snapshots() {
    let facts = Facts { record: Ok(Some(recorded())), ..job("node") };
    let now = at("12:00") + SignedDuration::from_secs(1);
    let families = families(&[Measured { facts: &facts, subjects: subjects() }], "1", now);
    let mut all: Vec<_> = names().collect();
    assert_eq!(all, families.iter().map(|family| family.name).collect::<Vec<_>>());
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), families.len());
    for family in &families {
        assert_eq!(family.name.ends_with("_total"), family.kind == Kind::Counter, "{}", family.name);
        let known = ["version", "job_name", "op", "dataset", "target", "result", "state"];
        for (key, _) in family.samples.iter().flat_map(|(labels, _)| labels) {
            assert!(known.contains(key), "{} {key}", family.name);
        }
    }
}
