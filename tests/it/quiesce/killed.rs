//! A run that is killed, or fails, in the midst of a transaction.

use std::cell::RefCell;

use super::*;

const DIES: &str = "COWSNAP_TEST_QUIESCE_DIES_BEFORE";
const ROOT: &str = "COWSNAP_TEST_QUIESCE_ROOT";

/// The transaction by the library, with the program as its guard.
fn transaction(
    root: &Path,
    snapshot: impl FnOnce() -> cowsnap::Result<()>,
    before: &mut dyn FnMut(cowsnap::plan::quiesce::Step),
) -> cowsnap::Result<quiesce::Finished<(), cowsnap::Error>> {
    let start = vec!["/bin/sh".into(), root.join("service").to_str().expect("utf-8").into()];
    let inner = root.join("inner");
    let (service, within) = match (inner.exists(), root.join("contained").exists()) {
        (true, _) => (Service::Frozen { place: inner }, 5_000),
        (_, true) => (Service::Container { name: "node".into(), socket: root.join("engine") }, 60_000),
        _ => (Service::Process { pidfile: root.join("pid"), start }, 60_000),
    };
    let wanted = Quiesce {
        services: vec![service],
        stop_within: Duration::from_millis(if root.join("impatient").exists() { 300 } else { within }),
        start_within: Duration::from_millis(within),
        snapshot_within: None,
        probe: None,
        max_downtime: None,
    };
    let (state, roots) = (root.join("state"), [root.join("mnt/node")]);
    let program = Path::new(env!("CARGO_BIN_EXE_cowsnap"));
    let ground = Ground {
        state_dir: &state,
        job: "node",
        quiesce: &wanted,
        roots: &roots,
        program: Some(program),
        config: None,
    };
    quiesce::quiesced(ground, Acts { snapshot: Some(snapshot), root }, before)
}

/// When a process began, in ticks.
fn began(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("read");
    let (_, rest) = stat.rsplit_once(") ").expect("a name");
    rest.split(' ').nth(19).and_then(|field| field.parse().ok()).expect("a time")
}

/// Takes a snapshot by that, and leaves a file if it is discarded.
struct Acts<'a, F> {
    snapshot: Option<F>,
    root: &'a Path,
}

impl<F: FnOnce() -> cowsnap::Result<()>> quiesce::Acts for Acts<'_, F> {
    type Taken = ();
    type Error = cowsnap::Error;

    fn take(&mut self) -> cowsnap::Result<()> {
        self.snapshot.take().expect("there is one")()
    }

    fn keep(&mut self, (): &mut ()) -> cowsnap::Result<()> {
        Ok(())
    }

    fn discard(&mut self, (): ()) -> cowsnap::Result<()> {
        fs::write(self.root.join("discarded"), "").expect("written");
        Ok(())
    }
}

fn take(root: &Path) -> cowsnap::Result<()> {
    let mut command = ground::cowsnap(&root.join("state"));
    let status = command.arg("snapshot").arg(root.join("mnt/node")).stdout(Stdio::null()).status();
    assert!(status.expect("the program starts").success());
    Ok(())
}

/// Kills this process, with or without its guard, and does not come back.
fn die(root: &Path, with_guard: bool) {
    let guards = if with_guard { guards(&root.join("state")) } else { Vec::new() };
    guards.into_iter().for_each(|pid| kill(pid, rustix::process::Signal::KILL));
    kill(std::process::id() as i32, rustix::process::Signal::KILL);
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
#[ignore = "is started by a transaction that is killed"]
fn dies() {
    let Ok(dies) = std::env::var(DIES) else { return };
    let (step, whom) = dies.split_once(' ').expect("a step and who dies");
    let root = PathBuf::from(std::env::var_os(ROOT).expect("set"));
    let with_guard = whom.starts_with("both");
    let done = transaction(&root, || take(&root), &mut |before| {
        let (root, n, step_is_stop) = (root.clone(), n_begun(&root), step == "Stop(0)");
        match format!("{before:?}") == step {
            true if whom.ends_with("meanwhile") => drop(std::thread::spawn(move || {
                waits("it", || n_begun(&root) > n || (step_is_stop && root.join("ending").exists()));
                die(&root, with_guard);
            })),
            true if whom == "sleeps" => kill(std::process::id() as i32, rustix::process::Signal::STOP),
            true if whom == "guard" => {
                let guards = guards(&root.join("state"));
                assert_eq!(guards.len(), 1, "{step}: there is one to be killed");
                guards.into_iter().for_each(|pid| kill(pid, rustix::process::Signal::KILL));
            }
            true => die(&root, with_guard),
            false => {}
        }
    });
    done.expect("done");
}

/// With these, a lease without a digest would be a damaged one.
fn without_later_keys(lease: &mut Value) {
    for later in ["begun", "snapshot_within"] {
        lease.as_object_mut().expect("an object").remove(later);
    }
}

impl Lab {
    /// Makes of a lease of which nothing was told what it is right before the process is told, which may take so long to stop.
    pub(super) fn about_to_tell(&self, pid: i32, seconds: u64) {
        let lease = fs::read_to_string(self.lease()).expect("read");
        let (lease, _) = lease.split_once(",\n  \"blake3\"").expect("it ends with that");
        let mut lease: Value = serde_json::from_str(&format!("{lease}\n}}")).expect("as it was written");
        without_later_keys(&mut lease);
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("read");
        let uptime = fs::read_to_string("/proc/uptime").expect("read");
        let (now, _) = uptime.split_once('.').expect("seconds");
        lease["stop_within"]["secs"] = seconds.into();
        let entry = &mut lease["services"][0];
        entry["stopping"] = "marked".into();
        entry["process"] = serde_json::json!({ "pid": pid, "began": began(pid), "boot": boot.trim() });
        entry["since"] = (now.parse::<u64>().expect("seconds") * 100).into();
        fs::write(self.lease(), lease.to_string()).expect("written");
    }

    /// A transaction that is killed before that step, or as soon as the service is starting in it.
    pub(super) fn dies(&self, step: &str, whom: &str) {
        let output = self.killed(step, whom);
        let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
        assert_eq!(signal, Some(9), "{step} {whom}: {}", String::from_utf8_lossy(&output.stdout));
    }

    pub(super) fn killed(&self, step: &str, whom: &str) -> std::process::Output {
        Command::new(std::env::current_exe().expect("this binary"))
            .args(["--ignored", "--exact", "quiesce::killed::dies"])
            .env(DIES, format!("{step} {whom}"))
            .env(ROOT, self.root())
            .output()
            .expect("this binary runs")
    }

    /// Waits until nothing is left to be done, with `job recover` if the guard is dead.
    pub(super) fn runs_again(&self, told: &str) -> i32 {
        waits(&format!("the lease's end: {told}"), || !self.lease().exists());
        let pid = self.pid().unwrap_or_else(|| panic!("{told}: it is down"));
        // A shell blocks them for a moment now and then.
        waits(&format!("signals that are let through: {told}"), || {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.contains("SigBlk:\t0000000000000000\n")
        });
        pid
    }
}

#[test]
fn killed_at_any_step_with_or_without_its_guard_the_service_runs_afterwards() {
    ground!("btrfs");
    let lab = Lab::new("");
    lab.start();
    // The lease alone says what is to be started.
    lab.write("nothing is configured any more");
    let steps =
        "Look Probe Lease Guard Stop(0) Verify Snapshot Confirm Start(0) Answer Settle Unlease".split(' ');
    for (nth, step) in steps.enumerate() {
        for whom in ["one", "both"] {
            let (taken, begun) = (lab.n_snapshots(), lab.n_begun());
            lab.dies(step, whom);
            if whom == "both" || step == "Guard" {
                let was_left = lab.lease().exists();
                assert_eq!(was_left, nth >= 3, "{step}: the lease");
                let (text, _) = lab.ends(0, "job recover");
                assert_eq!(text.contains("runs"), was_left, "{step} {whom}: {text}");
            }
            lab.runs_again(&format!("{step} {whom}"));
            assert_eq!(lab.n_snapshots() - taken, usize::from(nth > 6), "{step} {whom}");
            assert_eq!(
                lab.n_begun() - begun,
                usize::from(nth > 4),
                "{step} {whom}: how often it was started"
            );
        }
    }
    assert_eq!(lab.json(0, "job recover")["recovered"].as_array().map(Vec::len), Some(0));
}

#[test]
fn killed_right_before_the_service_is_told_to_stop_nobody_has_to_help() {
    ground!("btrfs");
    let lab = Lab::new("");
    let pid = lab.start();
    lab.dies("Stop(0)", "both");
    lab.about_to_tell(pid, 2);
    lab.ends(0, "job recover");
    assert_eq!((lab.pid(), lab.lease().exists(), lab.n_begun()), (Some(pid), false, 1));
}

/// What a disk makes of a lease: another one that can be read as well, a part of it, noise, nothing.
fn damaged(lab: &Lab, nth: usize) {
    let whole = fs::read_to_string(lab.lease()).expect("there is one");
    let other = whole.replace("/service\"", "/servicf\"").replace("/inner\"", "/innes\"");
    assert_ne!(other, whole, "it names what it is about");
    let bytes =
        [other.into_bytes(), whole.as_bytes()[..whole.len() / 3].to_vec(), vec![0xa5; 4096], Vec::new()];
    fs::write(lab.lease(), &bytes[nth % 4]).expect("written");
}

#[test]
fn what_a_killed_run_has_stopped_is_started_though_its_lease_is_damaged() {
    ground!("btrfs");
    let lab = Lab::new("");
    lab.start();
    lab.write("nothing is configured any more");
    for (nth, step) in ["Verify", "Snapshot", "Start(0)", "Answer"].into_iter().enumerate() {
        lab.dies(step, "both");
        damaged(&lab, nth);
        let (text, _) = lab.ends(0, "job recover");
        assert!(text.contains("runs"), "{step}: {text}");
        lab.runs_again(step);
    }
    assert_eq!(
        fs::read_dir(lab.root().join("state/leases")).expect("read").flatten().filter(is_lease).count(),
        0
    );
}

fn is_lease(entry: &fs::DirEntry) -> bool {
    entry.path().extension().is_some_and(|extension| extension == "json" || extension == "copy")
}

#[test]
fn what_a_killed_run_has_frozen_is_thawed_though_its_lease_is_damaged() {
    ground!("btrfs", "ext4", "fsfreeze");
    let lab = Lab::new("");
    let inner = freeze::Inner::within(&lab);
    for (nth, line) in ["job recover", "job run --due", "job recover --forget node"].into_iter().enumerate() {
        lab.dies("Snapshot", "both");
        assert!(!inner.is_thawed());
        damaged(&lab, nth);
        lab.ends(0, line);
        assert!(inner.is_thawed() && !lab.lease().exists(), "{line}");
    }
}

#[test]
fn killed_while_the_service_starts_it_is_not_started_twice() {
    ground!("btrfs");
    let lab = Lab::new("");
    lab.start();
    fs::write(lab.root().join("late"), "").expect("written");
    for (nth, whom) in ["one meanwhile", "both meanwhile", "one meanwhile"].into_iter().enumerate() {
        if nth == 2 {
            // As sudo does.
            fs::write(lab.root().join("closes"), "").expect("written");
        }
        let begun = lab.n_begun();
        lab.dies("Start(0)", whom);
        if whom.starts_with("both") {
            lab.ends(0, "job recover");
        }
        lab.runs_again(whom);
        assert_eq!(lab.n_begun() - begun, 1, "{whom}");
    }
}

#[test]
fn killed_at_any_moment_the_service_runs_afterwards_once() {
    ground!("btrfs");
    let lab = Lab::new("stop_within = \"20s\"");
    lab.start();
    let since = std::time::Instant::now();
    lab.ends(0, "job run node");
    let piece = since.elapsed() / 16;
    for n in 0..20 {
        let with_guard = n % 2 == 1;
        let begun = lab.n_begun();
        let mut run = ground::cowsnap(&lab.root().join("state"))
            .args(["job", "run", "node"])
            .env("COWSNAP_CONFIG", lab.root().join("config.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        std::thread::sleep(piece * n);
        if with_guard {
            guards(&lab.root().join("state"))
                .into_iter()
                .for_each(|guard| kill(guard, rustix::process::Signal::KILL));
        }
        run.kill().and_then(|()| run.wait()).expect("killed");
        waits("a recovery", || {
            // It may have been killed before it had a guard.
            if with_guard || guards(&lab.root().join("state")).is_empty() {
                // Whenever it was killed: whoever was not told to stop is not waited for without end.
                lab.runs("job recover");
            }
            !lab.lease().exists()
        });
        lab.runs_again(&format!("killed after {n} pieces of time"));
        assert!(lab.n_begun() - begun <= 1, "killed after {n} pieces of time, it was started twice");
    }
}

#[test]
fn what_stops_late_is_started_when_it_has_stopped_however_it_is_stopped_and_whoever_is_killed() {
    ground!("btrfs");
    let lab = Lab::new("");
    fs::write(lab.root().join("slow"), "").expect("written");
    lab.write(
        "[job.node]\ndatasets = [\"ROOT/mnt/node\"]\n[job.node.quiesce]\nstop_within = \"300ms\"\n[[job.node.quiesce.service]]\n\
         status = [\"/bin/sh\", \"-c\", \"kill -0 $(cat ROOT/pid)\"]\n\
         stop = [\"/bin/sh\", \"-c\", \"kill $(cat ROOT/pid)\"]\nstart = [\"/bin/sh\", \"ROOT/service\"]\n",
    );
    let before = lab.start();
    lab.ends(5, "job run node");
    let is_new = |before: i32| waits("the service", || lab.pid().is_some_and(|pid| pid != before));
    is_new(before);
    let before = lab.runs_again("commands");
    // The run is killed while the process ends, which takes longer than it has.
    fs::write(lab.root().join("impatient"), "").expect("written");
    lab.forget_ends();
    lab.dies("Stop(0)", "one meanwhile");
    is_new(before);
    lab.runs_again("a process");
    assert_eq!(lab.n_begun(), 3);
}

#[test]
fn what_was_stopping_before_the_machine_was_started_is_not_waited_for_and_what_is_due_is_not_all_that_is_made_up_for()
 {
    ground!("btrfs");
    let lab = Lab::new("");
    fs::write(lab.root().join("slow"), "").expect("written");
    lab.start();
    lab.forget_ends();
    lab.dies("Stop(0)", "both meanwhile");
    lab.end_service();
    // As if the machine had started since, and systemd the service.
    let lease = fs::read_to_string(lab.lease()).expect("read");
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("read");
    assert!(lease.contains(boot.trim()) && lease.contains("marked"), "{lease}");
    // By a version that wrote no digest.
    let (lease, _) = lease.split_once(",\n  \"blake3\"").expect("it ends with that");
    let lease = format!("{}\n}}", lease.replace(boot.trim(), "another"));
    let mut lease: Value = serde_json::from_str(&lease).expect("as it was written");
    without_later_keys(&mut lease);
    fs::write(lab.lease(), lease.to_string()).expect("written");
    let pid = lab.start();
    lab.ends(0, "job recover");
    assert_eq!((lab.pid(), lab.lease().exists()), (Some(pid), false));
    fs::remove_file(lab.root().join("slow")).expect("removed");
    lab.dies("Snapshot", "both");
    assert_eq!(lab.pid(), None);
    // No job has a schedule.
    let (_, said) = lab.ends(0, "job run --due");
    assert!(said.contains("runs again"), "{said}");
    assert!(lab.pid().is_some() && !lab.lease().exists());
}

#[test]
fn a_snapshot_during_which_somebody_starts_the_service_is_given_up() {
    ground!("btrfs");
    let lab = Lab::new("");
    lab.start();
    let mut started = None;
    let starts = || {
        started = Some(lab.start());
        Ok(())
    };
    let done = transaction(lab.root(), starts, &mut |_| ()).expect("begun");
    assert!(done.snapshot.expect_err("it is not kept").to_string().contains("somebody has started it"));
    assert!(lab.root().join("discarded").exists() && done.not_started.is_empty());
    assert_eq!((lab.pid(), lab.lease().exists()), (started, false));
}

#[test]
fn a_run_that_is_suspended_while_the_service_is_down_goes_on() {
    ground!("btrfs");
    let lab = Lab::new("");
    let before = lab.start();
    let output = lab.killed("Snapshot", "sleeps");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(lab.runs_again("suspended") != before);
    assert_eq!(lab.n_snapshots(), 1);
}

#[test]
fn a_snapshot_that_fails_leaves_the_service_running_and_no_guard() {
    ground!("btrfs");
    let lab = Lab::new("");
    let before = lab.start();
    let steps = RefCell::new(Vec::new());
    let fails = || Err(cowsnap::Error::Usage { what: "no".into(), hint: None });
    let done = transaction(lab.root(), fails, &mut |step| steps.borrow_mut().push(format!("{step:?}")));
    let done = done.expect("begun");
    assert_eq!(done.snapshot.expect_err("it failed").to_string(), "no");
    assert!(done.not_started.is_empty() && done.afterwards.is_empty());
    let steps = steps.into_inner().join(" ");
    assert_eq!(steps, "Look Probe Lease Guard Stop(0) Verify Snapshot Start(0) Answer Settle Unlease");
    assert!(lab.pid().is_some_and(|pid| pid != before));
    waits("the guard's end", || guards(&lab.root().join("state")).is_empty());
}

#[test]
fn killed_at_any_step_nothing_is_frozen_afterwards() {
    ground!("btrfs", "ext4", "fsfreeze");
    let lab = Lab::new("");
    let inner = freeze::Inner::within(&lab);
    for step in ["Guard", "Stop(0)", "Verify", "Snapshot", "Confirm", "Start(0)", "Settle"] {
        for whom in ["one", "both"] {
            lab.dies(step, whom);
            if whom == "both" || step == "Guard" {
                // Before the first and after the last of these it is not.
                let is_frozen = ["Verify", "Snapshot", "Confirm", "Start(0)"].contains(&step);
                assert_eq!(inner.is_thawed(), !is_frozen, "{step} {whom}");
                lab.ends(0, "job recover");
            }
            waits(&format!("the lease's end: {step}"), || !lab.lease().exists());
            assert!(inner.is_thawed(), "{step} {whom}");
        }
    }
    lab.ends(0, "job run node");
}

#[test]
fn a_run_that_waits_for_what_it_has_frozen_is_helped_by_its_guard_and_has_no_snapshot() {
    ground!("btrfs", "ext4", "fsfreeze");
    let lab = Lab::new("");
    let inner = freeze::Inner::within(&lab);
    let hangs = || {
        assert!(!inner.is_thawed());
        fs::write(lab.root().join("inner/file"), "held back until then")
            .map_err(|source| cowsnap::Error::Usage { what: source.to_string(), hint: None })
    };
    let done = transaction(lab.root(), hangs, &mut |_| ()).expect("begun");
    let error = done.snapshot.expect_err("it is not kept").to_string();
    assert!(error.contains("somebody has thawed it meanwhile"), "{error}");
    assert!(lab.root().join("discarded").exists() && !lab.lease().exists() && inner.is_thawed());
}

#[test]
fn what_is_frozen_for_too_long_is_thawed_by_recover_though_its_run_goes_on_and_its_guard_is_gone() {
    ground!("btrfs", "ext4", "fsfreeze");
    let lab = Lab::new("");
    let inner = freeze::Inner::within(&lab);
    let hangs = || {
        assert!(!inner.is_thawed());
        for guard in guards(&lab.root().join("state")) {
            kill(guard, rustix::process::Signal::KILL);
        }
        waits("its time's end", || {
            lab.ends(5, "job recover"); // The run has its lock.
            inner.is_thawed()
        });
        lab.ends(0, "snapshot ROOT/mnt/node --name meanwhile");
        lab.write("[job.other]\ndatasets = [\"ROOT/mnt/node\"]\ncrash_consistent = true\n");
        let (_, said) = lab.ends(5, "job run --due");
        assert!(said.contains("it was frozen for longer than it may be"), "{said}");
        Ok(())
    };
    let done = transaction(lab.root(), hangs, &mut |_| ()).expect("begun");
    let error = done.snapshot.expect_err("it is not kept").to_string();
    assert!(error.contains("somebody has thawed it meanwhile"), "{error}");
    assert!(!lab.lease().exists() && inner.is_thawed());
}
