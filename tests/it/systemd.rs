//! Units of systemd that are stopped for a snapshot, where systemd has started the machine: a shell that writes, on btrfs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use cowsnap::model::{Quiesce, Service};
use cowsnap::quiesce::{self, Ground};
use rustix::process::{Pid, Signal};
use serde_json::Value;

use crate::ground::{self, Btrfs, ground, waits};

mod daemon;
mod node;
mod timer;
mod zfs;

/// Where units of this start of the machine alone are.
const UNITS: &str = "/run/systemd/system";

/// A filesystem with the dataset `node`, and a unit that writes to it.
struct Lab {
    fs: Btrfs,
    units: Vec<String>,
}

/// Writes, and takes as many seconds to end as a file `slow` says; `child` has it leave a process behind. It ends at once if there is one called `broken`, and `begun`
/// has a line for each start.
const SCRIPT: &str = r#"
cd "$(dirname "$0")" || exit 1
echo begun >> begun
[ -e broken ] && { rm broken; exit 9; }
[ -e child ] && { sleep 600 9>&- & echo $! > left; }
exec 9>>mnt/node/log
trap 'trap "" TERM; echo x > ending; [ -e slow ] && sleep $(cat slow) 9>&-; exit 0' TERM
echo x >&9
while :; do sleep 600 9>&- & wait $!; done
"#;

const SERVICE: &str = "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/bin/sh ROOT/service\n";

impl Lab {
    /// With one unit, `UNIT`, of which the last lines are given, and the job's keys.
    fn new(rest: &str, keys: &str) -> Self {
        let fs = Btrfs::new();
        let name = fs.outside().file_name().expect("a name").to_string_lossy().replace('.', "");
        let mut lab = Self { units: vec![format!("cowsnap-test-{name}.service")], fs };
        fs::write(lab.root().join("service"), SCRIPT).expect("written");
        let unit = lab.unit().to_owned();
        lab.add(&unit, &format!("{SERVICE}{rest}"));
        lab.write(keys, &[lab.unit()]);
        lab.ends(0, "create ROOT/mnt/node");
        lab
    }

    fn root(&self) -> &Path {
        self.fs.outside()
    }

    fn unit(&self) -> &str {
        &self.units[0]
    }

    fn placed(&self, text: &str) -> String {
        text.replace("ROOT", self.root().to_str().expect("utf-8")).replace("UNIT", self.unit())
    }

    /// A unit that goes with the lab.
    fn add(&mut self, name: &str, text: &str) {
        fs::write(Path::new(UNITS).join(name), self.placed(text)).expect("written");
        self.units.extend((name != self.unit()).then(|| name.to_owned()));
        systemctl(&["daemon-reload"]);
    }

    fn write(&self, keys: &str, units: &[&str]) {
        let services: String =
            units.iter().map(|unit| format!("[[job.node.quiesce.service]]\nunit = \"{unit}\"\n")).collect();
        let text =
            format!("[job.node]\ndatasets = [\"ROOT/mnt/node\"]\n[job.node.quiesce]\n{keys}\n{services}");
        fs::write(self.root().join("config.toml"), self.placed(&text)).expect("written");
    }

    fn cowsnap(&self, line: &str) -> Command {
        let mut command = ground::cowsnap(&self.root().join("state"));
        command.args(line.split(' ').map(|word| self.placed(word)));
        command.env("COWSNAP_CONFIG", self.root().join("config.toml")).stdin(Stdio::null());
        command
    }

    fn ends(&self, code: i32, line: &str) -> String {
        let output = self.cowsnap(line).output().expect("the program starts");
        let said = words(&output);
        assert_eq!(output.status.code(), Some(code), "cowsnap {line}\n{said}");
        said
    }

    fn n_snapshots(&self) -> usize {
        let output = self.cowsnap("list ROOT/mnt/node --json").output().expect("the program starts");
        let list: Value = serde_json::from_slice(&output.stdout).expect("one object");
        list["datasets"][0]["snapshots"].as_array().map_or(0, Vec::len)
    }

    fn start(&self) {
        systemctl(&["start", self.unit()]);
        waits("the service", || self.writes());
    }

    /// Whether it has the file open.
    fn writes(&self) -> bool {
        let log = self.root().join("mnt/node/log");
        self.pid() != 0 && fs::read_link(format!("/proc/{}/fd/9", self.pid())).is_ok_and(|file| file == log)
    }

    fn pid(&self) -> i32 {
        property(self.unit(), "MainPID").parse().expect("a number")
    }

    fn n_begun(&self) -> usize {
        fs::read_to_string(self.root().join("begun")).map_or(0, |text| text.lines().count())
    }

    fn lease(&self) -> PathBuf {
        self.root().join("state/leases/node.json")
    }

    fn is_slow(&self, seconds: u32) {
        fs::write(self.root().join("slow"), seconds.to_string()).expect("written");
    }

    fn touch(&self, name: &str) {
        fs::write(self.root().join(name), "").expect("written");
    }

    /// It runs, and nothing is left to be done.
    fn is_well(&self, told: &str) {
        waits(&format!("the lease's end: {told}"), || !self.lease().exists());
        assert_eq!(property(self.unit(), "ActiveState"), "active", "{told}");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for guard in guards(&self.root().join("state")) {
            kill(guard, Signal::KILL);
        }
        for unit in &self.units {
            for args in [&["kill", "--signal=KILL", unit][..], &["stop", unit], &["reset-failed", unit]] {
                // Most of it is not needed mostly.
                let _ = Command::new("systemctl").args(args).output();
            }
            let _ = fs::remove_file(Path::new(UNITS).join(unit));
        }
        let _ = Command::new("systemctl").arg("daemon-reload").output();
    }
}

fn words(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

fn systemctl(args: &[&str]) {
    ground::run("systemctl", args);
}

fn property(unit: &str, name: &str) -> String {
    let output = ground::run("systemctl", &["show", "--value", "--property", name, unit]);
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn kill(pid: i32, signal: Signal) {
    // It may have ended by itself.
    let _ = rustix::process::kill_process(Pid::from_raw(pid).expect("a process"), signal);
}

/// The guards of jobs with that directory.
fn guards(state: &Path) -> Vec<i32> {
    let is_guard = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&format!("{}\0job\0guard\0", state.display()))
    };
    let all = fs::read_dir("/proc").expect("read").flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_guard).collect()
}

#[test]
fn a_unit_is_stopped_for_the_snapshot_and_started_again_and_one_that_is_down_stays_down() {
    ground!("systemd", "btrfs");
    let lab = Lab::new("Restart=always\nRestartSec=0\n", "max_downtime = \"1ms\"");
    let said = lab.ends(0, "job run node");
    assert!(said.contains("was down, and stays down"), "{said}");
    assert_eq!((property(lab.unit(), "ActiveState").as_str(), lab.n_snapshots()), ("inactive", 1));
    lab.start();
    let before = lab.pid();
    let said = lab.ends(0, "job run node");
    assert!(said.contains(" stopped for ") && said.contains("max_downtime is 1ms"), "{said}");
    lab.is_well("a run");
    assert_eq!((lab.n_snapshots(), lab.n_begun()), (2, 2));
    assert_ne!(lab.pid(), before);
    // What has failed is down, too.
    lab.write("", &[lab.unit()]);
    fs::write(Path::new(UNITS).join(lab.unit()), lab.placed(SERVICE)).expect("written");
    systemctl(&["daemon-reload"]);
    kill(lab.pid(), Signal::KILL);
    waits("its failure", || property(lab.unit(), "ActiveState") == "failed");
    assert!(lab.ends(0, "job run node").contains("was down, and stays down"));
    assert_eq!((property(lab.unit(), "ActiveState").as_str(), lab.n_snapshots()), ("failed", 3));
}

#[test]
fn a_unit_that_is_late_to_stop_is_started_again_and_one_that_does_not_start_at_once_is_started_once_more() {
    ground!("systemd", "btrfs");
    let lab = Lab::new("", "stop_within = \"500ms\"");
    lab.start();
    lab.is_slow(3);
    let said = lab.ends(5, "job run node");
    assert!(said.contains("did not stop within 500ms"), "{said}");
    lab.is_well("it was late");
    assert_eq!((lab.n_snapshots(), lab.n_begun()), (0, 2));
    fs::remove_file(lab.root().join("slow")).expect("removed");
    lab.write("", &[lab.unit()]);
    waits("the service", || lab.writes());
    lab.touch("broken");
    lab.ends(0, "job run node");
    lab.is_well("a start failed");
    assert_eq!((lab.n_snapshots(), lab.n_begun()), (1, 4));
}

#[test]
fn a_unit_that_systemd_had_to_kill_has_no_snapshot_and_runs_again() {
    ground!("systemd", "btrfs");
    let lab = Lab::new("TimeoutStopSec=1\n", "stop_within = \"1m\"");
    lab.start();
    lab.is_slow(30);
    let said = lab.ends(5, "job run node");
    assert!(said.contains("longer than its TimeoutStopSec") && said.contains("is lost"), "{said}");
    lab.is_well("it was killed");
    assert_eq!((lab.n_snapshots(), lab.n_begun()), (0, 2));
    // One that crashes as it is told to stop has not written everything either.
    fs::remove_file(lab.root().join("slow")).expect("removed");
    let lab = Lab::new("ExecStop=/bin/sh -c 'kill -SEGV $MAINPID'\n", "");
    lab.start();
    let said = lab.ends(5, "job run node");
    assert!(said.contains("is lost"), "{said}");
    lab.is_well("it crashed");
    assert_eq!((lab.n_snapshots(), lab.n_begun()), (0, 2));
}

#[test]
fn a_start_that_fails_for_good_is_told_and_its_lease_stays() {
    ground!("systemd", "btrfs");
    let lab = Lab::new("ExecStartPre=/bin/sh -c '[ ! -e ROOT/never ]'\n", "");
    lab.start();
    lab.touch("never");
    let said = lab.ends(1, "job run node");
    assert!(said.contains("IS DOWN: cannot start it: it is failed (exit-code)"), "{said}");
    assert_eq!(lab.n_snapshots(), 1);
    waits("the guard's end", || guards(&lab.root().join("state")).is_empty());
    assert!(lab.lease().exists());
    fs::remove_file(lab.root().join("never")).expect("removed");
    let said = lab.ends(0, "job recover");
    assert!(said.contains("runs"), "{said}");
    lab.is_well("recovered");
}

#[test]
fn what_a_unit_leaves_behind_in_its_group_keeps_it_from_being_down() {
    ground!("systemd", "btrfs");
    let lab = Lab::new("KillMode=process\n", "stop_within = \"1s\"");
    lab.touch("child");
    lab.start();
    let left = fs::read_to_string(lab.root().join("left")).expect("written");
    let said = lab.ends(5, "job run node");
    assert!(said.contains(&format!("it has ended, and left behind process {}", left.trim())), "{said}");
    lab.is_well("something was left behind");
    assert_eq!((lab.n_snapshots(), lab.n_begun()), (0, 2));
    systemctl(&["kill", "--signal=KILL", lab.unit()]);
}

#[test]
fn what_can_not_be_stopped_alone_or_started_again_is_told_before_anything_is_stopped() {
    ground!("systemd", "btrfs");
    let mut lab = Lab::new("", "");
    lab.start();
    let stem = lab.unit().trim_end_matches(".service").to_owned();
    let [user, alias, bad, masked] =
        ["user", "alias", "bad", "masked"].map(|word| format!("{stem}-{word}.service"));
    let needs =
        "[Unit]\nDefaultDependencies=no\nRequires=UNIT\nAfter=UNIT\n[Service]\nExecStart=/bin/sleep 600\n";
    lab.add(&user, needs);
    lab.add(&bad, "[Service]\nType=none\n");
    for (name, target) in [(&alias, lab.unit()), (&masked, "/dev/null")] {
        std::os::unix::fs::symlink(target, Path::new(UNITS).join(name)).expect("made");
    }
    lab.units.extend([alias.clone(), masked.clone()]);
    systemctl(&["daemon-reload"]);
    systemctl(&["start", &user]);
    let unit = lab.unit().to_owned();
    let missing = format!("{stem}-missing.service");
    for (code, units, says) in [
        (2, [&unit, &missing], "systemd knows no such unit".to_owned()),
        (2, [&unit, &masked], "it is masked".into()),
        (2, [&unit, &bad], "systemd could not load it: bad-setting".into()),
        (2, [&alias, &alias], format!("it is another name of {unit}: use that")),
        (3, [&unit, &unit], format!("{user} would stop with it, and stay down: name it")),
    ] {
        let mut units: Vec<_> = units.iter().map(|unit| unit.as_str()).collect();
        units.dedup();
        lab.write("", &units);
        let said = lab.ends(code, "job run node");
        assert!(said.contains(&says), "{units:?}: {said}");
    }
    assert_eq!((lab.n_begun(), lab.n_snapshots(), lab.lease().exists()), (1, 0, false));
    lab.write("", &[&user, &unit]);
    lab.ends(0, "job run node");
    assert_eq!((lab.n_begun(), lab.n_snapshots()), (2, 1));
    assert_eq!(property(&user, "ActiveState"), "active");
    systemctl(&["stop", &user]);
    lab.write("", &[&unit]);
    lab.ends(0, "job run node");
    assert_eq!(property(&user, "ActiveState"), "inactive");
}

const DIES: &str = "COWSNAP_TEST_SYSTEMD_DIES_BEFORE";
const ROOT: &str = "COWSNAP_TEST_SYSTEMD_ROOT";

/// The transaction by the library, with the program as its guard.
fn transaction(
    root: &Path,
    unit: &str,
    snapshot: impl FnOnce(),
    before: &mut dyn FnMut(cowsnap::plan::quiesce::Step),
) -> cowsnap::Result<quiesce::Finished<(), cowsnap::Error>> {
    let wanted = Quiesce {
        services: vec![Service::of_unit(unit).expect("a unit")],
        stop_within: Duration::from_secs(60),
        start_within: Duration::from_secs(60),
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
    quiesce::quiesced(ground, Acts(Some(snapshot)), before)
}

/// What is done while the unit is down.
struct Acts<F>(Option<F>);

impl<F: FnOnce()> quiesce::Acts for Acts<F> {
    type Taken = ();
    type Error = cowsnap::Error;

    fn take(&mut self) -> cowsnap::Result<()> {
        self.0.take().expect("there is one")();
        Ok(())
    }

    fn keep(&mut self, (): &mut ()) -> cowsnap::Result<()> {
        Ok(())
    }

    fn discard(&mut self, (): ()) -> cowsnap::Result<()> {
        Ok(())
    }
}

#[test]
#[ignore = "is started by a transaction that is killed"]
fn dies() {
    let Ok(dies) = std::env::var(DIES) else { return };
    let [step, whom, unit] =
        dies.split(' ').collect::<Vec<_>>().try_into().expect("a step, who dies, and a unit");
    let root = PathBuf::from(std::env::var_os(ROOT).expect("set"));
    let _ = transaction(&root, unit, || (), &mut |before| {
        if format!("{before:?}") == step {
            let guards = if whom == "both" { guards(&root.join("state")) } else { Vec::new() };
            guards.into_iter().for_each(|guard| kill(guard, Signal::KILL));
            kill(std::process::id() as i32, Signal::KILL);
            std::thread::sleep(Duration::from_secs(60));
        }
    });
    panic!("it lives");
}

impl Lab {
    fn dies(&self, step: &str, whom: &str) {
        let output = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--ignored", "--exact", "systemd::dies"])
            .env(DIES, format!("{step} {whom} {}", self.unit()))
            .env(ROOT, self.root())
            .output()
            .expect("this binary runs");
        let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
        assert_eq!(signal, Some(9), "{step} {whom}: {}", words(&output));
    }
}

#[test]
fn killed_at_any_step_with_or_without_its_guard_the_unit_runs_afterwards() {
    ground!("systemd", "btrfs");
    let lab = Lab::new("", "");
    lab.start();
    lab.write("nothing is configured any more", &[]);
    // Before each step, it alone or with its guard: what is found then, and how often it is started in all.
    for (step, whom, found, n) in [
        ("Look", "both", "active", 0),
        ("Probe", "both", "active", 0),
        ("Lease", "both", "active", 0),
        ("Guard", "both", "active", 0),
        ("Stop(0)", "one", "active", 0),
        ("Stop(0)", "both", "active", 0),
        ("Verify", "both", "inactive", 1),
        ("Snapshot", "one", "", 1),
        ("Snapshot", "both", "inactive", 1),
        ("Confirm", "both", "inactive", 1),
        ("Start(0)", "one", "", 1),
        ("Start(0)", "both", "inactive", 1),
        ("Answer", "both", "active", 1),
        ("Settle", "one", "", 1),
        ("Settle", "both", "active", 1),
        ("Unlease", "both", "active", 1),
    ] {
        let begun = lab.n_begun();
        lab.dies(step, whom);
        if whom == "both" {
            assert_eq!(property(lab.unit(), "ActiveState"), found, "{step}");
            let is_before = ["Look", "Probe", "Lease"].contains(&step);
            assert_eq!(lab.lease().exists(), !is_before, "{step}");
            lab.ends(0, "job recover");
        }
        lab.is_well(&format!("{step} {whom}"));
        waits("its first line", || lab.n_begun() == begun + n);
    }
}

#[test]
fn a_unit_that_something_else_starts_meanwhile_spoils_the_snapshot_even_if_it_has_ended_again() {
    ground!("systemd", "btrfs");
    let mut lab = Lab::new("", "");
    // As what is enabled: systemd does not drop it from memory when it is down.
    let keeper = lab.unit().replace(".service", ".target");
    lab.add(&keeper, "[Unit]\nDefaultDependencies=no\nWants=UNIT\n");
    systemctl(&["start", &keeper]);
    let unit = lab.unit();
    for (says, meanwhile) in
        [("it has run meanwhile", &["start", "stop"][..]), ("it has run meanwhile", &["start"])]
    {
        waits("the service", || lab.writes());
        let take = || meanwhile.iter().for_each(|verb| systemctl(&[verb, unit]));
        let done = transaction(lab.root(), unit, take, &mut |_| ()).expect("begun");
        let why = done.snapshot.expect_err("it is not kept").to_string();
        assert!(why.contains(says), "{why}");
        assert!(done.not_started.is_empty() && done.answers);
        lab.is_well(says);
    }
}

#[test]
fn the_guard_outlives_the_unit_that_its_run_belongs_to() {
    ground!("systemd", "btrfs");
    let mut lab = Lab::new("", "");
    lab.start();
    lab.is_slow(20);
    let run = lab.unit().replace(".service", "-run.service");
    let program = env!("CARGO_BIN_EXE_cowsnap");
    let text = format!(
        "[Unit]\nDefaultDependencies=no\n[Service]\nEnvironment=COWSNAP_CONFIG=ROOT/config.toml\n\
         ExecStart={program} --state-dir ROOT/state job run node\n"
    );
    lab.add(&run, &text);
    systemctl(&["start", &run]);
    waits("the stop", || property(lab.unit(), "ActiveState") == "deactivating");
    let guard = guards(&lab.root().join("state")).pop().expect("it has a guard");
    let group = fs::read_to_string(format!("/proc/{guard}/cgroup")).expect("read");
    assert!(group.trim().ends_with(".scope") && group.contains("/cowsnap-guard-"), "{group}");
    systemctl(&["kill", "--signal=KILL", &run]);
    waits("the run's end", || property(&run, "ActiveState") == "failed");
    lab.is_well("its unit was killed");
    assert_eq!((lab.n_snapshots(), lab.n_begun()), (0, 2));
    waits("the guard's end", || guards(&lab.root().join("state")).is_empty());
}
