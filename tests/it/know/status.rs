//! `cowsnap status`, through the program.

use std::fs;
use std::process::Stdio;

use crate::ground::{self, ground};
use crate::job::{Lab, NODE};

#[test]
fn a_job_is_told_with_what_is_there_and_what_was_written_down() {
    ground!("btrfs");
    let lab = Lab::new(NODE);
    lab.ends(0, "create FS/node");
    let before = lab.json(0, "status");
    assert_eq!(
        (&before["jobs"][0]["verdict"], &before["jobs"][0]["last"]),
        (&"LATE".into(), &().into()),
        "{before}"
    );
    assert!(!lab.fs.outside().join("state/runs").exists(), "looking wrote something");
    lab.ends(0, "job run node");
    let after = lab.json(0, "status node --sizes");
    let job = &after["jobs"][0];
    assert_eq!((&job["verdict"], &job["findings"]), (&"OK".into(), &serde_json::json!([])), "{job}");
    assert!(job["last"].is_string() && job["next"].is_string(), "{job}");
    let dataset = &job["datasets"][0];
    assert_eq!((&dataset["snapshots"], &dataset["stuck"]), (&1.into(), &serde_json::json!([])), "{job}");
    assert!(dataset["size_bytes"].as_u64() > dataset["free_bytes"].as_u64(), "{job}");
    assert!(dataset["referenced_bytes"].is_u64(), "{job}");
    assert_eq!(
        (&job["targets"][0]["lag_seconds"], &job["targets"][0]["is_looked_at"]),
        (&0.into(), &true.into())
    );
    let (table, _) = lab.ends(0, "status");
    let lines: Vec<_> = table.lines().collect();
    assert!(lines[0].starts_with("JOB") && lines[0].ends_with("TARGETS") && lines.len() == 2, "{table}");
    assert!(lines[1].starts_with("node  OK") && lines[1].ends_with("FS/replica: all"), "{table}");
    // What is there counts, not what was written down: the replica is gone.
    let list = lab.json(0, "list FS/replica");
    let snapshot = &list["datasets"][0]["snapshots"][0];
    let name = format!("FS/replica@{}", snapshot["name"].as_str().expect("a name"));
    for tag in snapshot["holds"].as_array().expect("tags") {
        lab.ends(0, &format!("release {} {name}", tag.as_str().expect("a tag")));
    }
    lab.ends(0, &format!("destroy {name}"));
    let gone = lab.json(0, "status");
    assert_eq!(gone["jobs"][0]["verdict"], "LATE", "{gone}");
    assert!(gone["jobs"][0]["why"].as_str().is_some_and(|why| why.contains("has nothing of")), "{gone}");
}

#[test]
fn what_failed_what_is_gone_and_what_is_not_configured_any_more_is_said() {
    ground!("btrfs");
    let lab = Lab::new(&NODE.replace("FS/replica", "FS/no/such/place"));
    lab.ends(0, "create FS/node");
    lab.ends(7, "job run node");
    let (said, _) = lab.ends(0, "status");
    assert!(
        said.contains("node  FAILED") && said.contains("replicate of FS/node to FS/no/such/place failed"),
        "{said}"
    );
    lab.write(&NODE.replace("job.node", "job.other").replace("FS/node", "FS/nowhere"));
    let (said, _) = lab.ends(0, "status");
    assert!(said.contains("other  UNKNOWN"), "{said}");
    assert!(
        said.contains("node: there is a record of its runs, and it is not configured any more"),
        "{said}"
    );
    assert_eq!(lab.json(0, "status")["stale"], serde_json::json!(["node"]));
    assert!(!lab.ends(0, "status other").0.contains("not configured any more"));
    lab.ends(2, "status nobody");
}

#[test]
fn a_damaged_record_and_a_run_that_was_killed_are_said() {
    ground!("btrfs");
    let lab = Lab::new(NODE);
    lab.ends(0, "create FS/node");
    lab.ends(0, "job run node");
    let path = lab.fs.outside().join("state/runs/node.json");
    let whole = fs::read_to_string(&path).expect("there is one");
    let running = "\"running\": {\"since\": \"2026-11-20T02:00:00Z\", \"pid\": 7}";
    fs::write(&path, whole.replace("\"running\": null", running)).expect("written");
    let (said, _) = lab.ends(0, "status");
    assert!(
        said.contains("node  FAILED") && said.contains("the run of 2026-11-20T02:00:00Z was killed"),
        "{said}"
    );
    fs::write(&path, &whole[..40]).expect("written");
    let (said, _) = lab.ends(0, "status");
    assert!(said.contains("node  UNKNOWN") && said.contains("it is damaged"), "{said}");
}

#[test]
fn it_is_said_again_until_it_is_interrupted() {
    ground!("btrfs");
    let lab = Lab::new(NODE);
    lab.ends(0, "create FS/node");
    let mut child = ground::cowsnap(&lab.fs.outside().join("state"))
        .args(["status", "--watch=1"])
        .env("COWSNAP_CONFIG", &lab.config)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().expect("piped")));
    let headers = lines.map_while(Result::ok).filter(|line| line.starts_with("JOB")).take(2).count();
    assert_eq!(headers, 2);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("sent");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn a_number_with_a_blank_before_it_is_no_time_to_wait_and_that_is_said() {
    ground!("btrfs");
    let lab = Lab::new(NODE);
    let (_, said) = lab.ends(2, "status --watch 5");
    assert!(said.contains("no job is called 5") && said.contains("cowsnap status --watch=5"), "{said}");
}
