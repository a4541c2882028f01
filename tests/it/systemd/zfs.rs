//! A job on ZFS from its trigger to what is known of it, with a unit of systemd that is stopped for it.

use super::*;
use crate::zfs::ground::{Pool, zfs, zpool};

const CONFIG: &str = r#"
[job.node]
datasets = ["DATASET"]
[job.node.trigger]
written = "4M"
[job.node.quiesce]
[[job.node.quiesce.service]]
unit = "UNIT"
[job.node.retention]
last = 2
[job.node.drill]
command = ["/bin/grep", "-x", "state NUMBER", "PATH/state"]
[job.node.check]
warn_age = "1h"
warn_free = 1
crit_free = 0
"#;

/// A pool, a unit that writes to a dataset of it, and a job of that.
struct Chain {
    pool: Pool,
    unit: String,
}

impl Chain {
    fn new() -> Self {
        let pool = Pool::new();
        pool.dataset("node");
        let chain = Self { unit: format!("{}.service", pool.name), pool };
        fs::write(chain.root().join("service"), SCRIPT).expect("written");
        let service = SERVICE.replace("ROOT", chain.root().to_str().expect("utf-8"));
        fs::write(Path::new(UNITS).join(&chain.unit), service).expect("written");
        systemctl(&["daemon-reload"]);
        chain.grows(0);
        chain
    }

    fn root(&self) -> &Path {
        self.pool.outside()
    }

    /// The data goes on to its next state, 8 MiB further.
    fn grows(&self, number: u32) {
        let noise: Vec<u8> = crate::peer::lab::noise(u64::from(number), 8 << 20);
        fs::write(self.pool.path("node").join(format!("block-{number}")), noise).expect("written");
        fs::write(self.pool.path("node").join("state"), format!("state {number}\n")).expect("written");
        zpool(&["sync", &self.pool.name]);
        let config = CONFIG
            .replace("DATASET", &self.pool.full("node"))
            .replace("UNIT", &self.unit)
            .replace("NUMBER", &number.to_string())
            .replace("PATH", self.pool.path("node").to_str().expect("utf-8"));
        fs::write(self.root().join("config.toml"), config).expect("written");
    }

    fn ends(&self, code: i32, line: &str) -> String {
        let output = ground::cowsnap(&self.root().join("state"))
            .args(line.split(' '))
            .env("COWSNAP_CONFIG", self.root().join("config.toml"))
            .stdin(Stdio::null())
            .output()
            .expect("the program starts");
        let said = words(&output);
        assert_eq!(output.status.code(), Some(code), "cowsnap {line}\n{said}");
        said
    }

    fn pid(&self) -> String {
        property(&self.unit, "MainPID")
    }

    fn n_snapshots(&self) -> usize {
        zfs(&["list", "-H", "-t", "snapshot", "-o", "name", "-r", &self.pool.full("node")]).lines().count()
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        for guard in guards(&self.root().join("state")) {
            kill(guard, Signal::KILL);
        }
        for args in
            [&["kill", "--signal=KILL", &self.unit][..], &["stop", &self.unit], &["reset-failed", &self.unit]]
        {
            let _ = Command::new("systemctl").args(args).output();
        }
        let _ = fs::remove_file(Path::new(UNITS).join(&self.unit));
        let _ = Command::new("systemctl").arg("daemon-reload").output();
    }
}

#[test]
fn a_job_on_zfs_is_due_by_what_was_written_stops_its_unit_keeps_two_is_rehearsed_and_told_of() {
    ground!("systemd", "zfs");
    let chain = Chain::new();
    systemctl(&["start", &chain.unit]);
    let log = chain.pool.path("node").join("log");
    waits("the service", || {
        fs::read_link(format!("/proc/{}/fd/9", chain.pid())).is_ok_and(|file| file == log)
    });
    assert!(chain.ends(2, "check").contains("has no snapshot of this job"));
    for number in 0..3 {
        let before = chain.pid();
        // `ending` is what the service leaves when it is asked to end: it was, before the snapshot.
        let ending = chain.root().join("ending");
        let _ = fs::remove_file(&ending);
        let said = chain.ends(0, "job run --due");
        assert!(said.contains(&format!("{} stopped for ", chain.unit)), "{said}");
        assert!(ending.exists() && chain.pid() != before && chain.pid() != "0", "it was stopped and started");
        assert_eq!(property(&chain.unit, "ActiveState"), "active");
        assert_eq!(chain.n_snapshots(), (number as usize + 1).min(2), "two are kept");
        // Little was written since.
        let now = chain.pid();
        chain.ends(0, "job run --due");
        assert_eq!((chain.n_snapshots(), chain.pid()), ((number as usize + 1).min(2), now));
        if number < 2 {
            chain.grows(number + 1);
        }
    }
    let drilled =
        |code| chain.ends(code, &format!("drill node --home {}", chain.root().join("overlays").display()));
    assert!(drilled(0).contains("would do: its command passed"));
    let of_job = || {
        let said = chain.ends_json("check --json");
        said["findings"].as_array().expect("a list").iter().filter(|one| one["job"] == "node").count()
    };
    assert_eq!(of_job(), 0, "{}", chain.ends_json("check --json"));
    let measured = chain.ends(0, "metrics");
    let dataset = chain.pool.full("node");
    for sample in [
        "cowsnap_job_state{job_name=\"node\"} 0".to_owned(),
        "op=\"run\",result=\"success\"} 3".into(),
        "op=\"quiesce\",result=\"success\"} 3".into(),
        "op=\"drill\",result=\"success\"} 1".into(),
        format!("cowsnap_snapshots{{job_name=\"node\",dataset=\"{dataset}\"}} 2"),
    ] {
        assert!(measured.contains(&sample), "{sample}: {measured}");
    }
    // The live state goes on, and the rehearsal is of the snapshot: what it has to say is not in it.
    chain.grows(9);
    drilled(4);
    assert_eq!(of_job(), 1);
    // What a drill has used is destroyed behind it.
    waits("the clones to go", || {
        let left = zfs(&["list", "-H", "-r", "-o", "origin,name", &chain.pool.name]);
        left.lines().all(|line| line.starts_with("-\t"))
    });
}

impl Chain {
    fn ends_json(&self, line: &str) -> Value {
        let output = ground::cowsnap(&self.root().join("state"))
            .args(line.split(' '))
            .env("COWSNAP_CONFIG", self.root().join("config.toml"))
            .output()
            .expect("the program starts");
        serde_json::from_slice(&output.stdout).expect("one object")
    }
}
