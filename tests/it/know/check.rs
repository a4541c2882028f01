//! `cowsnap check`, through the program.

use std::fs;

use crate::ground::ground;
use crate::job::{Lab, NODE};

/// (label, value, warning, critical) of what is measured on the first line, read as Nagios reads it.
fn measured(text: &str) -> Vec<(String, String, String, String)> {
    let first = text.lines().next().expect("a line");
    let Some((_, mut rest)) = first.split_once(" | ") else { return Vec::new() };
    let mut found = Vec::new();
    while let Some(after) = rest.strip_prefix('\'') {
        let (label, after) = after.split_once("'=").expect("a label ends");
        let (values, after) = after.split_once(' ').unwrap_or((after, ""));
        let fields: Vec<_> =
            values.split(';').map(str::to_owned).chain((0..4).map(|_| String::new())).collect();
        found.push((label.to_owned(), fields[0].clone(), fields[1].clone(), fields[2].clone()));
        rest = after;
    }
    assert_eq!(rest, "", "{first}");
    found
}

#[test]
fn a_job_that_is_well_is_0_and_measured() {
    ground!("btrfs");
    let lab = Lab::new(NODE);
    lab.ends(0, "create FS/node");
    lab.ends(0, "job run node");
    let (said, _) = lab.ends(0, "check");
    assert!(said.starts_with("COWSNAP OK - node is well | "), "{said}");
    let measured = measured(&said);
    for end in ["node age", "node free", "node stuck", "replica age", "replica lag", "replica free"] {
        assert!(measured.iter().any(|one| one.0.ends_with(end)), "{end}: {said}");
    }
    let age = measured.iter().find(|one| one.0.ends_with("node age")).expect("an age");
    let number = |text: &str| text.trim_end_matches('s').parse::<i64>().expect("a number");
    assert!(number(&age.2) > number(&age.1) && number(&age.3) > number(&age.2), "{age:?}");
    let value = lab.json(0, "check");
    assert_eq!((&value["state"], &value["findings"]), (&"OK".into(), &serde_json::json!([])), "{value}");
}

#[test]
fn each_state_has_its_code_and_the_first_line_says_why() {
    ground!("btrfs");
    let lab = Lab::new(NODE);
    lab.ends(0, "create FS/node");
    let (said, _) = lab.ends(2, "check");
    assert!(said.starts_with("COWSNAP CRITICAL - node: FS/node has no snapshot of this job"), "{said}");
    lab.ends(0, "job run node");
    lab.ends(1, "check --warn-free 100 --crit-free 0");
    let (said, _) = lab.ends(2, "check --crit-free 100");
    assert!(said.contains("% is free where FS/node is") && said.contains("CRITICAL: node: "), "{said}");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    lab.ends(1, "check --warn-age 1s");
    lab.ends(2, "check --warn-age 1s --crit-age 1s");
    lab.ends(0, "check --warn-age 1h");
}

#[test]
fn what_can_not_be_looked_at_is_3_and_never_0() {
    ground!("btrfs");
    let lab = Lab::new(NODE);
    lab.ends(0, "create FS/node");
    lab.ends(0, "job run node");
    lab.write(&NODE.replace("FS/replica", "FS/no/such/place"));
    let (said, _) = lab.ends(3, "check");
    assert!(said.starts_with("COWSNAP UNKNOWN - node: FS/no/such/place"), "{said}");
    lab.write(&NODE.replace("FS/replica", "FS/gone"));
    assert!(lab.ends(2, "check").0.contains("FS/gone has nothing of FS/node"));
    lab.write(&NODE.replace("FS/replica", "ssh://nowhere/vault/node"));
    let (said, _) = lab.ends(3, "check");
    assert!(
        said.contains("it is not known that FS/node was ever brought to ssh://nowhere/vault/node"),
        "{said}"
    );
    lab.write(NODE);
    fs::write(lab.fs.outside().join("state/runs/node.json"), "{}").expect("written");
    let (said, _) = lab.ends(3, "check");
    assert!(said.contains("the record of its runs"), "{said}");
    for line in ["check nobody", "check --no-such-option", "--state-dir /x check --warn-free 101"] {
        let (said, _) = lab.ends(3, line);
        assert!(said.starts_with("COWSNAP UNKNOWN - ") && said.lines().count() == 1, "{line}: {said}");
    }
    lab.write("[job.node]\nlost = 3\n");
    assert!(lab.ends(3, "check").0.starts_with("COWSNAP UNKNOWN - "));
    lab.write("");
    assert_eq!(lab.ends(3, "check").0, "COWSNAP UNKNOWN - no job is configured");
    assert_eq!(lab.json(3, "check")["state"], "UNKNOWN");
    // Of jobs, `check` has the codes of all commands.
    lab.write("[job.node]\nlost = 3\n");
    lab.ends(2, "job check");
}

#[test]
fn services_that_a_run_left_stopped_are_critical_whoever_wrote_the_lease() {
    ground!("btrfs");
    let lab = Lab::new(NODE);
    lab.ends(0, "create FS/node");
    lab.ends(0, "job run node");
    let leases = lab.fs.outside().join("state/leases");
    fs::create_dir_all(&leases).expect("made");
    let lease = |job: &str| {
        let service = serde_json::json!({ "service": { "process": { "pidfile": "/run/x.pid", "start": ["/bin/true"] } },
            "stopping": "no", "process": null, "starting": false, "starter": null });
        let wait = serde_json::json!({ "secs": 1, "nanos": 0 });
        let lease = serde_json::json!({ "job": job, "services": [service], "stop_within": wait, "start_within": wait,
            "boot": "x", "run": null });
        fs::write(leases.join(format!("{job}.json")), lease.to_string()).expect("written");
    };
    lease("node");
    let (said, _) = lab.ends(2, "check");
    assert!(said.contains("was stopped and not started again: cowsnap job recover"), "{said}");
    fs::remove_file(leases.join("node.json")).expect("removed");
    lease("gone");
    let (said, _) = lab.ends(2, "check");
    assert!(
        said.contains("CRITICAL - gone: it is not configured any more, and has left services stopped"),
        "{said}"
    );
    lab.ends(0, "check node");
    fs::write(leases.join("node.json"), "{").expect("written");
    assert!(lab.ends(3, "check node").0.contains("what is stopped can not be read"));
}
