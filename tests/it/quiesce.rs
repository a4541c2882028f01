//! Services that are stopped for a snapshot: a shell that writes, with a pidfile, on btrfs. Whatever fails or is killed, it runs afterwards.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use cowsnap::model::{Quiesce, Service};
use cowsnap::quiesce::{self, Ground};
use serde_json::Value;

use crate::ground::{self, Btrfs, ground, waits};

mod container;
mod docker;
mod down;
mod engine;
mod flush;
mod freeze;
mod hooks;
mod killed;
mod left;
mod mended;
mod node;
mod table;
mod told;

/// A filesystem with the dataset `node`, and a service that writes to it.
struct Lab {
    fs: Btrfs,
}

/// What a shell does that is started as `sh SCRIPT`: it writes, and is slow to end if there is a file `slow`, and to start if there is one called `late`. It
/// does not start at all if there is one called `broken`, and keeps nothing open that it was handed if there is one called `closes`. As it ends it sees to it that
/// no snapshot can be made any more if there is one called `locks`, and that its disk does not answer if there is one called `freezes`. Each start adds a line to `begun`.
const SCRIPT: &str = r#"
cd "$(dirname "$0")" || exit 1
[ -e broken ] && exit 9
echo begun >> begun
[ -e mute ] && rm -f answers
[ -e closes ] && for n in 3 4 5 6 7 8 9; do eval "exec $n>&-"; done
setsid sh -c '
    [ -e late ] && sleep 1
    exec 9>>mnt/node/log
    trap "echo x > ending; [ -e locks ] && chattr +i mnt/.cowsnap/datasets/*/snap; [ -e slow ] && sleep 3 9>&-; [ -e freezes ] && fsfreeze -f mnt; exit 0" TERM
    echo $$ > pid
    while :; do echo x >&9; sleep 0.05; done
' </dev/null >/dev/null 2>&1 &
"#;

impl Lab {
    fn new(rest: &str) -> Self {
        let lab = Self { fs: Btrfs::new() };
        lab.prepared(rest);
        lab
    }

    /// With its dataset, its service, and a job for both.
    fn prepared(&self, rest: &str) {
        fs::write(self.root().join("service"), SCRIPT).expect("written");
        let service = format!(
            "[job.node]\ndatasets = [\"ROOT/mnt/node\"]\n[job.node.quiesce]\n{rest}\n[[job.node.quiesce.service]]\n\
             pidfile = \"ROOT/pid\"\nstart = [\"/bin/sh\", \"ROOT/service\"]\n"
        );
        self.write(&service);
        self.ends(0, "create ROOT/mnt/node");
    }

    fn write(&self, config: &str) {
        fs::write(self.root().join("config.toml"), self.placed(config)).expect("written");
    }

    fn root(&self) -> &Path {
        self.fs.outside()
    }

    fn placed(&self, text: &str) -> String {
        text.replace("ROOT", self.root().to_str().expect("utf-8"))
    }

    fn ends(&self, code: i32, line: &str) -> (String, String) {
        let (found, out, err) = self.runs(line);
        assert_eq!(found, Some(code), "cowsnap {line}\n{out}{err}");
        (out, err)
    }

    fn runs(&self, line: &str) -> (Option<i32>, String, String) {
        let output = ground::cowsnap(&self.root().join("state"))
            .args(line.split(' ').map(|word| self.placed(word)))
            .env("COWSNAP_CONFIG", self.root().join("config.toml"))
            .stdin(Stdio::null())
            .output()
            .expect("the program starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }

    fn json(&self, code: i32, line: &str) -> Value {
        serde_json::from_str(&self.ends(code, &format!("{line} --json")).0).expect("one JSON object")
    }

    fn n_snapshots(&self) -> usize {
        let list = self.json(0, "list ROOT/mnt/node");
        list["datasets"][0]["snapshots"].as_array().map_or(0, Vec::len)
    }

    fn start(&self) -> i32 {
        ground::run("sh", &[self.root().join("service").to_str().expect("utf-8")]);
        waits("the service", || self.pid().is_some());
        self.pid().expect("it runs")
    }

    /// That of the service, if it runs.
    fn pid(&self) -> Option<i32> {
        alive(&self.root().join("pid"))
    }

    /// How often it was started.
    fn n_begun(&self) -> usize {
        n_begun(self.root())
    }

    /// That a service was told to end.
    fn forget_ends(&self) {
        let _ = fs::remove_file(self.root().join("ending"));
    }

    fn lease(&self) -> PathBuf {
        self.root().join("state/leases/node.json")
    }

    fn end_service(&self) {
        if let Some(pid) = self.pid() {
            kill(pid, rustix::process::Signal::KILL);
            waits("its end", || self.pid().is_none());
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // A guard may be about to start it.
        for guard in guards(&self.root().join("state")) {
            kill(guard, rustix::process::Signal::KILL);
        }
        self.end_service();
    }
}

fn n_begun(root: &Path) -> usize {
    fs::read_to_string(root.join("begun")).map_or(0, |text| text.lines().count())
}

fn alive(pidfile: &Path) -> Option<i32> {
    let pid: i32 = fs::read_to_string(pidfile).ok()?.trim().parse().ok()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    (!stat.contains(") Z ")).then_some(pid)
}

fn kill(pid: i32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a process");
    // It may have ended by itself.
    let _ = rustix::process::kill_process(pid, signal);
}

/// The guards of jobs with that directory.
fn guards(state: &Path) -> Vec<i32> {
    let is_guard = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains(&format!("{}\0job\0guard\0", state.display()))
    };
    let all = fs::read_dir("/proc").expect("read").flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_guard).collect()
}

#[test]
fn a_run_stops_the_service_takes_the_snapshot_and_starts_it_again() {
    ground!("btrfs");
    let lab = Lab::new("max_downtime = \"1ms\"\nprobe = { command = [\"/bin/true\"] }");
    let before = lab.start();
    let output = lab.ends(0, "job run node --json");
    let job: Value = serde_json::from_str(&output.0).expect("one object");
    let told = &job["jobs"][0]["quiesce"];
    assert!(told["downtime_ms"].as_u64().is_some_and(|ms| ms >= 1), "{job}");
    assert_eq!(
        (told["stopped"].as_array().map(Vec::len), told["is_within_max"].as_bool()),
        (Some(1), Some(false))
    );
    assert!(output.1.contains("max_downtime is 1ms"), "{}", output.1);
    assert!(lab.pid().is_some_and(|pid| pid != before), "it was not started again");
    assert_eq!(lab.n_snapshots(), 1);
    assert!(!lab.lease().exists());
    expect_told_of_downtime(&lab, told["downtime_ms"].as_u64().expect("a number"));
    let (text, _) = lab.ends(0, "job run node");
    assert!(text.contains("stopped for ") && text.contains(" ms\n"), "{text}");
    waits("the guards' end", || guards(&lab.root().join("state")).is_empty());
    let (explained, _) = lab.ends(0, "job explain");
    assert!(
        explained.contains("if /bin/true answers, stops the process of ")
            && explained.contains("starts again"),
        "{explained}"
    );
}

/// That the record of the one run, and what is made of it, have the downtime that the run told of.
fn expect_told_of_downtime(lab: &Lab, ms: u64) {
    let record = fs::read(lab.root().join("state/runs/node.json")).expect("a record");
    let record: Value = serde_json::from_slice(&record).expect("it is JSON");
    let tallies = record["tallies"].as_array().expect("tallies");
    let tally = tallies.iter().find(|tally| tally["op"] == "quiesce").unwrap_or_else(|| panic!("{record}"));
    assert_eq!(
        (&tally["last_downtime_ms"], &tally["total_downtime_ms"]),
        (&ms.into(), &ms.into()),
        "{tally}"
    );
    let (metrics, _) = lab.ends(0, "metrics");
    for name in ["cowsnap_last_downtime_seconds", "cowsnap_downtime_seconds_total"] {
        let samples: Vec<_> = metrics.lines().filter(|line| line.starts_with(name)).collect();
        let [sample] = samples[..] else { panic!("{name}: {samples:?} in {metrics}") };
        let (series, seconds) = sample.rsplit_once(' ').expect("a number behind a blank");
        assert!(series.contains("job_name=\"node\"") && series.contains("op=\"quiesce\""), "{sample}");
        assert_eq!(seconds.parse(), Ok(ms as f64 / 1000.0), "{sample}");
    }
    let (table, _) = lab.ends(0, "status");
    let [head, row, ..] = table.lines().collect::<Vec<_>>()[..] else { panic!("{table}") };
    let too_long = "services were down for ";
    assert!(table.contains(too_long) && table.contains(", and max_downtime is 1 ms"), "{table}");
    let (said, _) = lab.ends(1, "check --warn-free 1 --crit-free 0");
    assert!(
        said.contains(too_long) && said.contains("'node downtime'=") && said.contains("s;0.001;;0"),
        "{said}"
    );
    let at = head.find("DOWN").expect("a column");
    let cell = row[at..].split("  ").next().unwrap_or_default();
    // Of ten seconds and more, the table says roughly how many.
    assert!(cell == format!("{ms} ms") || ms >= 10_000 && cell.starts_with(char::is_numeric), "{table}");
}

#[test]
fn what_is_down_already_stays_down() {
    ground!("btrfs");
    let lab = Lab::new("");
    let (text, _) = lab.ends(0, "job run node");
    assert!(text.contains("was down, and stays down"), "{text}");
    assert_eq!((lab.pid(), lab.n_snapshots()), (None, 1));
    assert!(!lab.lease().exists());
}

#[test]
fn nothing_is_taken_while_somebody_else_may_write() {
    ground!("btrfs");
    let lab = Lab::new("");
    lab.start();
    let text = fs::read_to_string(lab.root().join("config.toml")).expect("read");
    lab.write(&text.replace("datasets =", "schedule = \"0 0 1 1 *\"\ndatasets ="));
    let other = fs::File::create(lab.root().join("mnt/node/other")).expect("made");
    let (_, said) = lab.ends(3, "job run --due");
    assert!(said.contains("mnt/node/other by "), "{said}");
    assert_eq!((lab.n_snapshots(), lab.pid().is_some()), (0, true));
    // It is not stopped for nothing every minute.
    let before = lab.pid();
    let skipped = lab.json(0, "job run --due");
    assert!(
        skipped["jobs"][0]["skipped"].as_str().is_some_and(|why| why.contains("for nothing")),
        "{skipped}"
    );
    assert_eq!(lab.pid(), before);
    let failed = fs::File::options().write(true).open(lab.root().join("state/leases/node.failed"));
    let then = std::time::SystemTime::now() - Duration::from_secs(90);
    failed.and_then(|file| file.set_modified(then)).expect("made older");
    lab.ends(3, "job run --due");
    assert_ne!(lab.pid(), before);
    drop(other);
    // Nobody has it open but the kernel itself.
    fs::write(lab.root().join("mnt/node/image"), [0; 1 << 16]).expect("written");
    let image = lab.placed("ROOT/mnt/node/image");
    let device = ground::run("losetup", &["-f", "--show", &image]).stdout;
    let (_, said) = lab.ends(3, "job run node");
    ground::run("losetup", &["-d", String::from_utf8_lossy(&device).trim()]);
    assert!(said.contains("mnt/node/image is open for writing"), "{said}");
    let _reader = fs::File::open(lab.root().join("mnt/node/other")).expect("opened");
    waits("the end of the device", || lab.runs("job run node").0 == Some(0));
    assert_eq!((lab.n_snapshots(), lab.pid().is_some()), (1, true));
    assert!(!lab.root().join("state/leases/node.failed").exists());
}

#[test]
fn a_stop_that_takes_too_long_is_exit_5_without_a_snapshot_and_the_service_runs_in_the_end() {
    ground!("btrfs");
    let lab = Lab::new("stop_within = \"300ms\"");
    let before = lab.start();
    fs::write(lab.root().join("slow"), "").expect("written");
    let (_, said) = lab.ends(5, "job run node");
    assert!(said.contains("did not stop within 300ms"), "{said}");
    assert_eq!(lab.n_snapshots(), 0);
    waits("the service", || lab.pid().is_some_and(|pid| pid != before));
    waits("the lease's end", || !lab.lease().exists());
}

#[test]
fn a_service_that_does_not_start_is_exit_1_and_recover_starts_it_once_it_can() {
    ground!("btrfs");
    let lab = Lab::new("start_within = \"5s\"");
    lab.start();
    fs::write(lab.root().join("broken"), "").expect("written");
    let (told, said) = lab.ends(1, "job run node --json");
    assert!(said.contains("IS DOWN") && said.contains("cowsnap job recover"), "{said}");
    let told: Value = serde_json::from_str(&told).expect("one object");
    let told = &told["jobs"][0]["quiesce"];
    assert_eq!((&told["downtime_ms"], &told["answers"]), (&Value::Null, &Value::Bool(false)), "{told}");
    assert_eq!(told["not_started"].as_array().map(Vec::len), Some(1), "{told}");
    assert_eq!((lab.n_snapshots(), lab.pid()), (1, None));
    assert!(lab.lease().exists());
    fs::remove_file(lab.root().join("broken")).expect("removed");
    // Its guard tries as well, and has the lease for a while.
    waits("a recovery", || lab.runs("job recover").0 == Some(0) && !lab.lease().exists());
    assert!(lab.pid().is_some());
}

#[test]
fn commands_stop_and_start_what_has_no_pidfile() {
    ground!("btrfs");
    let lab = Lab::new("");
    lab.write(
        "[job.node]\ndatasets = [\"ROOT/mnt/node\"]\n[[job.node.quiesce.service]]\n\
         status = [\"/bin/sh\", \"-c\", \"grep -q ') [RSD] ' /proc/$(cat ROOT/pid)/stat 2>/dev/null\"]\n\
         stop = [\"/bin/sh\", \"-c\", \"kill $(cat ROOT/pid)\"]\n\
         start = [\"/bin/sh\", \"-c\", \"rm -f ROOT/pid; sh ROOT/service; until [ -s ROOT/pid ]; do sleep 0.05; done\"]\n",
    );
    let before = lab.start();
    let job = lab.json(0, "job run node");
    assert!(job["jobs"][0]["quiesce"]["downtime_ms"].is_u64(), "{job}");
    assert!(lab.pid().is_some_and(|pid| pid != before));
}

/// No snapshot at all.
struct Nothing;

impl quiesce::Acts for Nothing {
    type Taken = ();
    type Error = quiesce::Error;

    fn take(&mut self) -> quiesce::Result<()> {
        Ok(())
    }

    fn keep(&mut self, (): &mut ()) -> quiesce::Result<()> {
        Ok(())
    }

    fn discard(&mut self, (): ()) -> quiesce::Result<()> {
        Ok(())
    }
}

/// Its first thread ends, and another one goes on.
const HEADLESS: &str = "
import ctypes, os, sys, threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
open(sys.argv[1], 'w').write(str(os.getpid()))
ctypes.CDLL(None).pthread_exit(None)
";

#[test]
fn a_process_whose_first_thread_has_ended_runs() {
    ground!("python3");
    let folder = tempfile::tempdir().expect("a folder");
    let (script, pidfile) = (folder.path().join("headless"), folder.path().join("pid"));
    fs::write(&script, HEADLESS).expect("written");
    let mut child = Command::new("python3").args([&script, &pidfile]).spawn().expect("it starts");
    let stat = || fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
    waits("the end of its first thread", || stat().contains(") Z "));
    let state = folder.path().join("state");
    fs::create_dir(&state).expect("made");
    let start = vec!["/bin/true".into()];
    let wanted = Quiesce {
        services: vec![Service::Process { pidfile, start }],
        stop_within: Duration::from_secs(1),
        start_within: Duration::from_secs(1),
        snapshot_within: None,
        probe: Some(cowsnap::model::Probe::Command(vec!["/bin/false".into()])),
        max_downtime: None,
    };
    let ground =
        Ground { state_dir: &state, job: "node", quiesce: &wanted, roots: &[], program: None, config: None };
    let done = quiesce::quiesced(ground, Nothing, &mut |_| ());
    child.kill().and_then(|()| child.wait()).expect("killed");
    assert_eq!(done.expect("begun").running, [0]);
}

/// As before, with a file open for writing.
const HEADLESS_WRITER: &str = "
import ctypes, os, sys, threading, time
file = open(sys.argv[1], 'w')
threading.Thread(target=time.sleep, args=(600,)).start()
ctypes.CDLL(None).pthread_exit(None)
";

#[test]
fn a_process_whose_first_thread_has_ended_is_seen_to_write() {
    ground!("python3");
    let folder = tempfile::tempdir().expect("a folder");
    let (script, data) = (folder.path().join("headless"), folder.path().join("data"));
    fs::write(&script, HEADLESS_WRITER).expect("written");
    fs::create_dir(&data).expect("made");
    fs::write(data.join("file"), "").expect("written");
    let survey = cowsnap::sys::writers::Survey::of(&data).expect("read");
    let mut child = Command::new("python3").args([&script, &data.join("file")]).spawn().expect("it starts");
    let stat = || fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
    waits("the end of its first thread", || stat().contains(") Z "));
    let found = cowsnap::sys::writers::find(&[survey.files()]);
    child.kill().and_then(|()| child.wait()).expect("killed");
    let writers: Vec<_> = found.expect("/proc is read").writers.iter().map(|writer| writer.pid).collect();
    assert_eq!(writers, [child.id()]);
}

#[test]
fn who_answers_no_more_is_told_and_who_does_not_answer_before_is_left_alone() {
    ground!("btrfs");
    let lab = Lab::new(
        "start_within = \"3s\"\nprobe = { command = [\"/bin/sh\", \"-c\", \"[ -e ROOT/answers ]\"] }",
    );
    let before = lab.start();
    let (_, said) = lab.ends(5, "job run node");
    assert!(said.contains("does not answer"), "{said}");
    assert_eq!((lab.n_snapshots(), lab.pid()), (0, Some(before)));
    fs::write(lab.root().join("answers"), "").expect("written");
    lab.ends(0, "job run node");
    fs::write(lab.root().join("mute"), "").expect("written");
    let (_, said) = lab.ends(7, "job run node");
    assert!(said.contains("does not answer"), "{said}");
    assert_eq!((lab.n_snapshots(), lab.pid().is_some(), lab.lease().exists()), (2, true, false));
}

#[test]
fn nothing_is_stopped_if_the_lease_can_not_be_written() {
    ground!("btrfs");
    let lab = Lab::new("");
    let before = lab.start();
    let state = lab.root().join("state");
    fs::create_dir_all(&state).expect("made");
    ground::run("mount", &["-t", "tmpfs", "-o", "size=64k", "tmpfs", state.to_str().expect("utf-8")]);
    fs::create_dir(state.join("leases")).expect("made");
    let mut filler = fs::File::create(state.join("filler")).expect("made");
    while std::io::Write::write_all(&mut filler, &[0; 4096]).is_ok() {}
    let (_, said) = lab.ends(3, "job run node");
    assert!(said.contains("leases/node.json") && said.contains("No space left"), "{said}");
    assert_eq!((lab.pid(), lab.lease().exists()), (Some(before), false));
    drop(filler);
    fs::remove_file(state.join("filler")).expect("removed");
    assert_eq!(lab.n_snapshots(), 0);
    lab.ends(0, "job run node");
}

/// A service that is a file: it runs if that is there. All that is done is a line in `order`.
fn file_service(name: &str, stop: &str) -> String {
    format!(
        "[[job.node.quiesce.service]]\nstatus = [\"/bin/test\", \"-e\", \"ROOT/{name}\"]\n\
         stop = [\"/bin/sh\", \"-c\", \"{stop}; echo stop-{name} >> ROOT/order; rm ROOT/{name}\"]\n\
         start = [\"/bin/sh\", \"-c\", \"echo start-{name} >> ROOT/order; touch ROOT/{name}\"]\n"
    )
}

#[test]
fn several_services_stop_in_order_and_start_in_reverse_and_one_that_does_not_stop_keeps_none_down() {
    ground!("btrfs");
    let lab = Lab::new("");
    let all = |stop: &str| {
        let services = file_service("a", "true") + &file_service("b", stop) + &file_service("c", "true");
        let job = "[job.node]\ndatasets = [\"ROOT/mnt/node\"]\n[job.node.quiesce]\nstop_within = \"3s\"\n";
        lab.write(&format!("{job}{services}"));
    };
    let order = || {
        let order = fs::read_to_string(lab.root().join("order")).unwrap_or_default();
        let _ = fs::remove_file(lab.root().join("order"));
        order.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let are_up = || ["a", "b", "c"].map(|name| lab.root().join(name).exists());
    all("true");
    ["a", "b", "c"].iter().for_each(|name| fs::write(lab.root().join(name), "").expect("written"));
    lab.ends(0, "job run node");
    assert_eq!(order(), "stop-a stop-b stop-c start-c start-b start-a");
    fs::remove_file(lab.root().join("b")).expect("removed");
    lab.ends(0, "job run node");
    assert_eq!((order().as_str(), are_up()), ("stop-a stop-c start-c start-a", [true, false, true]));
    fs::write(lab.root().join("b"), "").expect("written");
    all("exit 1");
    lab.ends(5, "job run node");
    assert_eq!((order().as_str(), are_up()), ("stop-a start-a", [true; 3]));
    assert_eq!(lab.n_snapshots(), 2);
    // Its guard makes sure that the one that did not stop has not thought better of it.
    waits("the lease's end", || !lab.lease().exists());
}

#[test]
fn jobs_that_share_a_service_do_not_meet_and_what_one_left_down_is_started_by_the_other() {
    ground!("btrfs");
    let lab = Lab::new("");
    let before = lab.start();
    let text = fs::read_to_string(lab.root().join("config.toml")).expect("read");
    lab.ends(0, "create ROOT/mnt/logs");
    let other = text.replace("job.node", "job.other").replace("mnt/node", "mnt/logs");
    lab.write(&format!("{text}\n{}", other.replace("datasets", "schedule = \"0 0 1 1 *\"\ndatasets")));
    lab.ends(0, "job run node");
    let files = fs::read_dir(lab.root().join("state/leases/services")).expect("read").flatten();
    let locks = files.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "lock"));
    let locks: Vec<_> = locks.map(|path| fs::File::open(path).expect("opened")).collect();
    assert_eq!(locks.len(), 1, "one service");
    rustix::fs::flock(&locks[0], rustix::fs::FlockOperation::LockExclusive).expect("locked");
    let (_, said) = lab.ends(5, "job run other");
    assert!(said.contains("another job is about to stop or start the process of "), "{said}");
    let skipped = lab.json(0, "job run --due");
    assert!(skipped["jobs"][0]["skipped"].is_string(), "{skipped}");
    drop(locks);
    lab.dies("Snapshot", "both");
    assert!(lab.pid().is_none() && lab.lease().exists());
    let done = lab.json(0, "job run other");
    let quiesce = &done["jobs"][0]["quiesce"];
    assert_eq!(
        (quiesce["stopped"].as_array().map(Vec::len), quiesce["was_down"][0].as_str()),
        (Some(1), None)
    );
    assert!(!lab.lease().exists() && lab.pid().is_some_and(|pid| pid != before));
}

#[test]
fn the_unit_calls_this_program_with_this_state() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("c.toml");
    let output = ground::cowsnap(&folder.path().join("state"))
        .args(["job", "unit", "--config"])
        .arg(&config)
        .output()
        .expect("it starts");
    let text = String::from_utf8(output.stdout).expect("utf-8");
    let call = format!(
        "ExecStart={} --state-dir {} job recover --config {}\n",
        env!("CARGO_BIN_EXE_cowsnap"),
        folder.path().join("state").display(),
        config.display()
    );
    assert!(text.contains(&call) && text.contains("KillMode=process\n"), "{text}");
}
