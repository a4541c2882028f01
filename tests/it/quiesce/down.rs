//! How long services are down, and who hears of it.

use super::*;

/// Thawed again, whatever a test comes to.
struct Frozen(PathBuf);

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("-u").arg(&self.0).output();
    }
}

/// A job with one service that is a file, with commands that stop and start it.
fn job(rest: &str, stop: &str, start: &str) -> String {
    format!(
        "[job.node]\ndatasets = [\"ROOT/mnt/node\"]\n[job.node.check]\nwarn_free = 1\ncrit_free = 0\n\
         [job.node.quiesce]\n{rest}\n[[job.node.quiesce.service]]\n\
         status = [\"/bin/sh\", \"-c\", \"[ -e ROOT/up ]\"]\nstop = [\"/bin/sh\", \"-c\", \"rm ROOT/up{stop}\"]\n\
         start = [\"/bin/sh\", \"-c\", \"{start}touch ROOT/up\"]\n"
    )
}

impl Lab {
    fn with(config: &str) -> Self {
        let lab = Self::new("");
        lab.write(config);
        lab.up();
        lab
    }

    fn up(&self) {
        fs::write(self.root().join("up"), "").expect("written");
    }
}

#[test]
fn a_run_that_hangs_while_services_are_down_is_critical_once_that_takes_longer_than_it_may() {
    ground!("btrfs", "loop", "root");
    let lab = Lab::with(&job("", "", ""));
    lab.ends(0, "job run node");
    lab.ends(0, "check");
    let thawed = Frozen(lab.root().join("mnt"));
    lab.write(&job("stop_within = \"500ms\"\nstart_within = \"500ms\"", "; fsfreeze -f ROOT/mnt", ""));
    let mut run = ground::cowsnap(&lab.root().join("state"))
        .args(["job", "run", "node"])
        .env("COWSNAP_CONFIG", lab.root().join("config.toml"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    waits("that it is said", || lab.runs("check").1.contains("by a run that is at work still"));
    let (said, _) = lab.ends(2, "check");
    assert!(said.contains("CRITICAL: node: what ") && said.contains(" starts is stopped for "), "{said}");
    let (said, _) = lab.ends(0, "metrics");
    assert!(said.contains("\ncowsnap_job_state{job_name=\"node\"} 2\n"), "{said}");
    drop(thawed);
    run.wait().expect("it ends");
    lab.ends(0, "job recover");
    assert!(lab.root().join("up").exists());
    assert!(!lab.runs("check").1.contains("is at work still"));
}

/// What is written down of the time that services were down: the last time, and in all, in milliseconds.
fn downtime(lab: &Lab) -> (u64, u64) {
    let record = fs::read(lab.root().join("state/runs/node.json")).expect("a record");
    let record: Value = serde_json::from_slice(&record).expect("it is JSON");
    let tallies = record["tallies"].as_array().expect("tallies");
    let tally = tallies.iter().find(|tally| tally["op"] == "quiesce");
    let of = |key: &str| tally.and_then(|tally| tally[key].as_u64()).unwrap_or_default();
    (of("last_downtime_ms"), of("total_downtime_ms"))
}

#[test]
fn services_that_a_run_could_not_start_were_down_until_they_run_again() {
    ground!("btrfs", "loop", "root");
    let broken = "[ ! -e ROOT/broken ] && ";
    let lab = Lab::with(&job("max_downtime = \"1ms\"\nstart_within = \"300ms\"", "", broken));
    fs::write(lab.root().join("broken"), "").expect("written");
    lab.ends(1, "job run node");
    waits("the guard's end", || guards(&lab.root().join("state")).is_empty());
    assert!(lab.lease().exists() && downtime(&lab) == (0, 0), "{:?}", downtime(&lab));
    fs::remove_file(lab.root().join("broken")).expect("removed");
    std::thread::sleep(Duration::from_millis(1100));
    lab.ends(0, "job recover");
    let (last, all) = downtime(&lab);
    assert!(last > 1100 && all == last, "{last} {all}");
    assert!(lab.ends(0, "status").0.contains("services were down for "));
    let (said, _) = lab.ends(0, "metrics");
    assert!(said.contains("\ncowsnap_job_max_downtime_seconds{job_name=\"node\"} 0.001\n"), "{said}");
    let (_, seconds) = said
        .lines()
        .find_map(|line| line.strip_prefix("cowsnap_downtime_seconds_total")?.rsplit_once(' '))
        .expect("it is told");
    assert!(seconds.parse::<f64>().is_ok_and(|seconds| seconds > 1.1), "{said}");
    // The next one that is down is counted beside it.
    lab.ends(0, "job run node");
    let (last, sum) = downtime(&lab);
    assert_eq!(sum, all + last);
}
