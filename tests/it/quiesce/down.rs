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
