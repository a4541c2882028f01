//! Services that end again once they have been started, that can not be started at all, and that leave somebody behind.

use super::*;

/// It runs as long as `until` is not there; a start while there is a file `dies` ends a moment after it has said that it runs.
const DIES: &str = r#"
cd "$(dirname "$0")" || exit 1
echo begun >> begun
setsid sh -c 'echo $$ > pid; [ -e dies ] && { sleep 0.7; exit 1; }; trap "exit 0" TERM; while :; do sleep 0.05; done' </dev/null >/dev/null 2>&1 &
"#;

/// It has a worker that is no part of its session, and lives longer by two seconds if there is a file `lingers`.
const WORKS: &str = r#"
cd "$(dirname "$0")" || exit 1
setsid sh -c '
    echo $$ > pid
    setsid sh -c "echo \$\$ > worker; while grep -q \") [RSD] \" /proc/$$/stat; do echo x >> mnt/node/log; sleep 0.05; done
        [ -e lingers ] && for n in 1 2 3 4 5 6 7 8 9 10; do sleep 0.2; echo x >> mnt/node/log; done; echo over > over" &
    trap "exit 0" TERM
    while :; do sleep 0.05; done
' </dev/null >/dev/null 2>&1 &
"#;

impl Lab {
    fn with_script(rest: &str, script: &str) -> Self {
        let lab = Self::new(rest);
        fs::write(lab.root().join("service"), script).expect("written");
        lab
    }

    /// What another run would have left that stopped the service and was killed with its guard.
    fn left_down(&self) {
        self.dies("Verify", "both");
        assert!(self.pid().is_none() && self.lease().exists());
    }

    fn set(&self, name: &str, is_there: bool) {
        let path = self.root().join(name);
        match is_there {
            true => fs::write(path, "").expect("written"),
            false => fs::remove_file(path).expect("removed"),
        }
    }
}

#[test]
fn a_service_that_ends_again_right_after_it_was_recovered_is_down_and_its_lease_stays() {
    ground!("btrfs");
    let lab = Lab::with_script("", DIES);
    lab.start();
    lab.left_down();
    lab.set("dies", true);
    let (_, said) = lab.ends(1, "job recover");
    assert!(said.contains("IS DOWN") && said.contains("it ended again at once"), "{said}");
    assert!(lab.lease().exists(), "nobody would start it any more");
    let (_, said) = lab.ends(1, "job run node");
    assert!(said.contains("IS DOWN"), "{said}");
    assert_eq!(lab.n_snapshots(), 0);
    lab.set("dies", false);
    lab.ends(0, "job recover");
    assert!(lab.pid().is_some() && !lab.lease().exists());
    // A guard looks a second time, too.
    lab.left_down_but_guarded();
    assert!(!lab.lease().exists() && lab.pid().is_some());
}

impl Lab {
    /// A run is killed, and its guard alone starts the service, which ends again a moment later once.
    fn left_down_but_guarded(&self) {
        let before = self.n_begun();
        self.set("dies", true);
        self.dies("Verify", "run");
        waits("a second start", || self.n_begun() >= before + 2);
        assert!(self.lease().exists(), "its guard is at it");
        self.set("dies", false);
        waits("the guard's end, and a start that lasts", || guards(&self.root().join("state")).is_empty());
        if self.lease().exists() {
            self.ends(0, "job recover");
        }
    }
}

#[test]
fn what_can_not_be_started_again_is_not_stopped() {
    ground!("btrfs");
    let lab = Lab::new("");
    let first = lab.start();
    let text = fs::read_to_string(lab.root().join("config.toml")).expect("read");
    let start = lab.placed("start = [\"/bin/sh\", \"ROOT/service\"]");
    assert!(text.contains(&start));
    let script = lab.root().join("start.sh");
    lab.write(&text.replace(&start, &format!("start = [\"{}\"]", script.display())));
    let refused = |why: &str| {
        for line in ["job check", "job run node --dry-run", "job run node"] {
            let (_, said) = lab.ends(2, line);
            assert!(said.contains(why) && said.contains("start.sh"), "{line}: {said}");
            assert!(said.contains("config.toml:5: job.node.quiesce.service.start: "), "{line}: {said}");
        }
        assert!(lab.pid() == Some(first) && !lab.lease().exists(), "something was stopped");
        assert_eq!(lab.n_snapshots(), 0);
    };
    refused("is not there");
    fs::write(&script, lab.placed("#!/bin/sh\nexec /bin/sh ROOT/service\n")).expect("written");
    ground::run("chmod", &["0644", script.to_str().expect("utf-8")]);
    refused("is not executable");
    ground::run("chmod", &["0755", script.to_str().expect("utf-8")]);
    lab.ends(0, "job check");
    lab.ends(0, "job run node");
    assert!(lab.pid().is_some_and(|pid| pid != first));
    assert_eq!(lab.n_snapshots(), 1);
}

#[test]
fn a_program_whose_file_was_removed_while_it_runs_is_not_stopped() {
    ground!("btrfs");
    let lab = Lab::new("");
    let node = lab.root().join("node");
    let config = |exe: &str| {
        format!(
            "[job.node]\ndatasets = [\"ROOT/mnt/node\"]\n[[job.node.quiesce.service]]\n\
             process = {{ exe = \"{exe}\" }}\nstart = [\"/bin/sh\", \"-c\", \"setsid ROOT/node 601 >/dev/null 2>&1 &\"]\n"
        )
    };
    fs::copy("/bin/sleep", &node).expect("copied");
    lab.write(&config("ROOT/node"));
    let mut child = Command::new(&node).arg("602").stdin(Stdio::null()).spawn().expect("it starts");
    waits("the program", || ground::run("pidof", &[&node]).status.success());
    fs::remove_file(&node).expect("removed");
    let outputs = ["job check", "job run node --dry-run", "job run node"].map(|line| lab.runs(line));
    let is_there = child.try_wait().expect("asked").is_none();
    child.kill().and_then(|()| child.wait()).expect("killed");
    for (code, _, said) in outputs {
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("config.toml:3: job.node.quiesce.service.process.exe: "), "{said}");
        assert!(said.contains("node is not there"), "{said}");
    }
    assert!(is_there, "it was stopped");
    lab.write(&config("/usr/bin"));
    let (_, said) = lab.ends(2, "job check");
    assert!(said.contains("/usr/bin is no file") && !said.contains("there is no file"), "{said}");
}

#[test]
fn who_was_begun_by_a_process_and_outlives_it_is_waited_for() {
    ground!("btrfs");
    let lab = Lab::with_script("stop_within = \"20s\"", WORKS);
    lab.set("lingers", true);
    lab.start();
    waits("its worker", || alive(&lab.root().join("worker")).is_some());
    lab.ends(0, "job run node");
    assert!(lab.root().join("over").exists(), "a snapshot was taken while a worker wrote");
    assert_eq!(lab.n_snapshots(), 1);
    waits("the next worker", || alive(&lab.root().join("worker")).is_some());
    let text = fs::read_to_string(lab.root().join("config.toml")).expect("read");
    lab.write(&text.replace("\"20s\"", "\"500ms\""));
    let (_, said) = lab.ends(5, "job run node");
    assert!(said.contains("did not stop within 500ms"), "{said}");
    waits("the lease's end", || !lab.lease().exists());
    assert!(lab.pid().is_some() && lab.n_snapshots() == 1);
    // Nobody is left who writes to what is unmounted.
    lab.set("lingers", false);
    lab.end_service();
    waits("the last worker's end", || alive(&lab.root().join("worker")).is_none());
}

#[test]
fn what_can_not_be_started_fails_what_is_due_and_several_callers_have_one_guard_begin() {
    ground!("btrfs");
    let lab = Lab::new("");
    lab.start();
    lab.left_down();
    // It takes its time to fail.
    let script = "echo begun >> \"$(dirname \"$0\")/begun\"; sleep 1.5; exit 1";
    fs::write(lab.root().join("service"), script).expect("written");
    let before = lab.n_begun();
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..4).map(|_| scope.spawn(|| lab.runs("job run --due"))).collect();
        let ended: Vec<_> = callers.into_iter().map(|caller| caller.join().expect("it ends")).collect();
        let failed = ended.iter().filter(|(code, _, said)| *code == Some(1) && said.contains("IS DOWN"));
        assert!(failed.count() >= 1, "{ended:?}");
    });
    assert_eq!(lab.n_begun() - before, 3, "several guards were at it");
    // Nor does the next minute say that all is well while its guard tries once more.
    let before = lab.n_begun();
    std::thread::scope(|scope| {
        scope.spawn(|| lab.runs("job run --due"));
        waits("the guard of the next minute", || lab.n_begun() > before);
        let (_, said) = lab.ends(1, "job run --due");
        assert!(said.contains("IS DOWN"), "{said}");
    });
    assert!(lab.lease().exists());
    fs::write(lab.root().join("service"), SCRIPT).expect("written");
    waits("the service", || lab.runs("job run --due").0 == Some(0) && !lab.lease().exists());
    assert!(lab.pid().is_some());
}

/// Thawed again, whatever the test comes to.
pub(super) struct Thawed(pub(super) PathBuf);

impl Drop for Thawed {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("-u").arg(&self.0).output();
    }
}

#[test]
fn what_a_guard_has_started_though_the_run_hangs_is_not_stopped_and_was_down_until_then() {
    ground!("btrfs", "root");
    let lab = Lab::new("snapshot_within = \"1s\"");
    lab.start();
    // As it ends, its disk stops to answer.
    lab.set("freezes", true);
    let thawed = Thawed(lab.root().join("mnt"));
    let began = std::time::Instant::now();
    let is_resumed = || fs::read_to_string(lab.lease()).is_ok_and(|text| text.contains("\"resumed\""));
    let most = std::thread::scope(|scope| {
        let run = scope.spawn(|| lab.runs("job run node"));
        waits("that the guard says that it has started it", is_resumed);
        let most = began.elapsed();
        assert!(!run.is_finished());
        let (_, said, _) = lab.runs("check");
        assert!(!said.contains("is stopped for"), "{said}");
        // The run hangs for longer.
        std::thread::sleep(Duration::from_secs(2));
        lab.set("freezes", false);
        drop(thawed);
        assert_eq!(run.join().expect("it ends").0, Some(5));
        most
    });
    let record = fs::read(lab.root().join("state/runs/node.json")).expect("a record");
    let record: Value = serde_json::from_slice(&record).expect("it is JSON");
    let tally = record["tallies"].as_array().expect("tallies").iter().find(|tally| tally["op"] == "quiesce");
    let down = tally.and_then(|tally| tally["total_downtime_ms"].as_u64()).expect("a downtime");
    assert!(u128::from(down) <= most.as_millis(), "{down} ms of {most:?}");
}
