//! The record of a job's runs, through the program.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::ground::{self, ground};
use crate::job::{Lab, NODE};

fn path(lab: &Lab, job: &str) -> PathBuf {
    lab.fs.outside().join(format!("state/runs/{job}.json"))
}

fn record(lab: &Lab, job: &str) -> Value {
    serde_json::from_slice(&fs::read(path(lab, job)).expect("there is a record")).expect("it is JSON")
}

/// What became of `op`, to `target` if one is named.
fn tally(record: &Value, op: &str, target: &str) -> Value {
    let tallies = record["tallies"].as_array().expect("a list");
    let of = |tally: &&Value| tally["op"] == op && tally["target"].as_str().unwrap_or_default() == target;
    tallies.iter().find(of).unwrap_or_else(|| panic!("no {op} {target}: {record}")).clone()
}

#[test]
fn each_thing_that_a_run_does_is_counted_with_its_time_and_bytes() {
    ground!("btrfs");
    let lab = Lab::new(NODE);
    lab.ends(0, "create FS/node");
    lab.ends(0, "job run node --dry-run");
    assert!(!path(&lab, "node").exists(), "a dry run left a record");
    for _ in 0..2 {
        lab.ends(0, "job run node");
    }
    let record = record(&lab, "node");
    assert_eq!(
        (&record["running"], &record["last_run"]["failure"]),
        (&Value::Null, &Value::Null),
        "{record}"
    );
    let replica = lab.placed("FS/replica");
    for (op, target) in [("run", ""), ("snapshot", ""), ("replicate", replica.as_str()), ("prune", "")] {
        let tally = tally(&record, op, target);
        assert_eq!((&tally["done"], &tally["failed"]), (&2.into(), &0.into()), "{tally}");
        assert!(tally["last_success"].is_string() && tally["last_failure"].is_null(), "{tally}");
    }
    let replicate = tally(&record, "replicate", &replica);
    assert!(replicate["total_bytes"].as_u64() > replicate["last_bytes"].as_u64(), "{replicate}");
    let newest = &lab.json(0, "list FS/node")["datasets"][0]["snapshots"][1];
    let time = |value: &Value| value.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    assert_eq!(time(&replicate["up_to"]), time(&newest["created"]), "{replicate}");
}

#[test]
fn what_fails_is_in_it_with_its_class_and_what_went_well_before_stays() {
    ground!("btrfs");
    let lab = Lab::new(NODE);
    lab.ends(2, "job run node");
    let none = record(&lab, "node");
    assert_eq!(none["last_run"]["failure"]["class"], "usage", "{none}");
    assert_eq!(
        (&tally(&none, "run", "")["failed"], &none["tallies"][1]),
        (&1.into(), &Value::Null),
        "{none}"
    );
    lab.ends(0, "create FS/node");
    lab.ends(0, "job run node");
    lab.write(&NODE.replace("FS/replica", "FS/no/such/place"));
    lab.ends(7, "job run node");
    let record = record(&lab, "node");
    assert_eq!(tally(&record, "snapshot", "")["done"], 2);
    let run = tally(&record, "run", "");
    assert_eq!((&run["done"], &run["failed"]), (&1.into(), &2.into()), "{run}");
    let said = run["last_failure"]["text"].as_str().expect("a text");
    assert!(said.contains("no/such/place"), "{said}");
    let target = tally(&record, "replicate", &lab.placed("FS/no/such/place"));
    assert_eq!((&target["failed"], &target["up_to"]), (&1.into(), &Value::Null), "{target}");
    // What the configuration names no more is not kept.
    assert!(!record.to_string().contains("/replica"), "{record}");
}

#[test]
fn a_run_that_is_killed_in_the_midst_of_a_transfer_is_seen_by_the_next_one() {
    ground!("btrfs");
    let lab = Lab::new(&NODE.replace("FS/replica", "ssh://nowhere/vault/node"));
    lab.ends(0, "create FS/node");
    // Who is to reach the peer never does.
    let ssh = lab.fs.outside().join("ssh");
    fs::write(&ssh, "#!/bin/sh\necho $$ > \"$0.pid\"\nexec sleep 600\n").expect("written");
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).expect("set");
    let start = || {
        let mut command = ground::cowsnap(&lab.fs.outside().join("state"));
        command.args(["job", "run", "node"]).env("COWSNAP_CONFIG", &lab.config).env("COWSNAP_SSH", &ssh);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts")
    };
    let mut child = start();
    let until = Instant::now() + Duration::from_secs(60);
    while !ssh.with_extension("pid").exists() {
        assert!(Instant::now() < until, "it never came so far");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(record(&lab, "node")["running"]["pid"], child.id());
    let busy = record(&lab, "node");
    lab.ends(5, "job run node");
    assert_eq!(record(&lab, "node")["skipped"]["n"], 1);
    assert_eq!(record(&lab, "node")["running"], busy["running"]);
    child.kill().expect("killed");
    child.wait().expect("gone");
    let pid = fs::read_to_string(ssh.with_extension("pid")).expect("a number");
    let _ = std::process::Command::new("kill").arg(pid.trim()).status();
    lab.write(NODE);
    lab.ends(0, "job run node");
    let record = record(&lab, "node");
    assert_eq!((&record["unended"], &record["running"]), (&1.into(), &Value::Null), "{record}");
    assert_eq!(record["last_run"]["failure"], Value::Null, "{record}");
}

#[test]
fn a_record_that_is_damaged_or_can_not_be_written_fails_no_run() {
    ground!("btrfs");
    let lab = Lab::new(NODE);
    lab.ends(0, "create FS/node");
    lab.ends(0, "job run node");
    fs::write(path(&lab, "node"), "{\"version\": 1").expect("written");
    let (_, said) = lab.ends(0, "job run node");
    assert!(said.contains("node.damaged, and begun anew"), "{said}");
    assert_eq!(tally(&record(&lab, "node"), "run", "")["done"], 1);
    let runs = lab.fs.outside().join("state/runs");
    fs::remove_dir_all(&runs).expect("removed");
    fs::write(&runs, "").expect("written");
    let (out, said) = lab.ends(0, "job run node");
    assert!(out.contains("FS/node@") && said.contains("is not written down"), "{out}{said}");
}
