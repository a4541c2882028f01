//! As the first process of a container.

use super::*;

/// What it leaves behind: a process whose parent is gone, as those of services are.
const ORPHANS: &str = "[job.node]\ndatasets = [\"FS/node\"]\n[job.node.flush]\ncommand = [\"/bin/sh\", \"-c\", \"(sleep 0.3; cut -d' ' -f4 /proc/self/stat > FS/../parent) > /dev/null 2>&1 & exit 0\"]\n";

#[test]
fn as_the_first_process_it_waits_for_everybodys_children_and_hands_signals_on() {
    ground!("btrfs", "unshare");
    let lab = lab(&format!("{ORPHANS}{SLOW}"));
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child", env!("CARGO_BIN_EXE_cowsnap")]);
    command.env("COWSNAP_STATE_DIR", file(&lab, "state")).env_remove("RUST_LOG");
    let mut daemon = Daemon::by(&lab, command, "");
    let first = children_of(daemon.pid())[0];
    let its = |what: fn(&str) -> bool| {
        let stat = |pid: &Pid| {
            fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default()
        };
        children_of(first).iter().filter(|pid| what(&stat(pid))).count()
    };
    daemon.ask("POST", "/jobs/node/run");
    // It has become a child of the first.
    waits("the orphan", || fs::read_to_string(file(&lab, "parent")).is_ok_and(|text| text == "1\n"));
    waits("its end", || its(|_| true) == 1);
    assert_eq!(its(|stat| stat.contains(") Z ")), 0);
    // A signal to the first is one to the daemon.
    kill_process(first, Signal::HUP).expect("it is there");
    daemon.notified.until("it is ready again", |said| said.starts_with("READY=1\n"));
    daemon.ask("POST", "/jobs/slow/run");
    waits("the job's midst", || file(&lab, "waits").exists());
    kill_process(first, Signal::TERM).expect("it is there");
    assert_eq!(daemon.child.wait().expect("it ends").code(), Some(0));
    assert!(file(&lab, "after").exists(), "the job was not let come to its end");
}

#[test]
fn a_daemon_that_is_killed_has_its_jobs_end_cleanly_and_the_container_too() {
    ground!("btrfs", "unshare");
    let lab = lab(SLOW);
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child", env!("CARGO_BIN_EXE_cowsnap")]);
    command.env("COWSNAP_STATE_DIR", file(&lab, "state")).env_remove("RUST_LOG");
    let mut daemon = Daemon::by(&lab, command, "");
    daemon.ask("POST", "/jobs/slow/run");
    waits("the job's midst", || file(&lab, "waits").exists());
    let first = children_of(daemon.pid())[0];
    kill_process(children_of(first)[0], Signal::KILL).expect("it is there");
    assert_eq!(daemon.child.wait().expect("it ends").code(), Some(137));
    assert!(file(&lab, "after").exists(), "the job was not let come to its end");
}

/// A service with a pidfile. It ends late if there is a file `slow`, and starts late if there is one called `late`: once there is one called `go`. Each start adds
/// a line to `begun`.
pub(super) const SERVICE: &str = r#"
cd "$(dirname "$0")" || exit 1
echo begun >> begun
if [ -e late ]; then touch starting; until [ -e go ]; do sleep 0.05; done; fi
setsid sh -c '
    exec 9>>mnt/node/log
    trap "touch ending; if [ -e slow ]; then until [ -e go ]; do sleep 0.05; done; fi; exit 0" TERM
    echo $$ > pid
    while :; do echo x >&9; sleep 0.05; done
' </dev/null >/dev/null 2>&1 &
"#;

pub(super) const STOPPED: &str = "[job.node]\ndatasets = [\"FS/node\"]\n[job.node.quiesce]\nstop_within = \"10m\"\nstart_within = \"10m\"\n\
                       [[job.node.quiesce.service]]\npidfile = \"FS/../pid\"\nstart = [\"/bin/sh\", \"FS/../service\"]\n";

/// A daemon that is the first process, with the service beside it.
fn beside_a_service(lab: &Lab) -> Daemon<'_> {
    fs::write(file(lab, "service"), SERVICE).expect("written");
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c"]);
    command.args(["sh \"$0\"; exec \"$@\"", file(lab, "service").to_str().expect("utf-8")]);
    command.arg(env!("CARGO_BIN_EXE_cowsnap"));
    command.env("COWSNAP_STATE_DIR", file(lab, "state")).env_remove("RUST_LOG");
    let daemon = Daemon::by(lab, command, "");
    waits("the service", || fs::read_to_string(file(lab, "pid")).is_ok_and(|text| text.ends_with('\n')));
    daemon
}

pub(super) fn n_begun(lab: &Lab) -> usize {
    fs::read_to_string(file(lab, "begun")).unwrap_or_default().lines().count()
}

#[test]
fn what_is_stopped_is_started_before_the_container_ends_however_long_that_takes() {
    ground!("btrfs", "unshare");
    let lab = lab(STOPPED);
    fs::write(file(&lab, "slow"), "").expect("written");
    let mut daemon = beside_a_service(&lab);
    daemon.runs("node");
    waits("the stop", || file(&lab, "ending").exists());
    // Its guard is all that is left.
    let first = children_of(daemon.pid())[0];
    let is_daemon = |pid: &Pid| {
        let words = fs::read_to_string(format!("/proc/{}/cmdline", pid.as_raw_nonzero()));
        words.unwrap_or_default().contains("\0daemon\0")
    };
    let second = children_of(first).into_iter().find(is_daemon).expect("it is there");
    let run = children_of(second)[0];
    kill_process(run, Signal::KILL).expect("it is there");
    kill_process(second, Signal::KILL).expect("it is there");
    waits("what it waits for", || daemon.said().contains("waits for the start of the process"));
    kill_process(first, Signal::TERM).expect("it is there");
    // Longer than it waits for processes that are nobody's.
    std::thread::sleep(Duration::from_secs(65));
    assert!(daemon.child.try_wait().expect("looked at").is_none(), "it has ended, and the service is down");
    fs::write(file(&lab, "go"), "").expect("written");
    assert_eq!(daemon.child.wait().expect("it ends").code(), Some(137));
    assert_eq!(n_begun(&lab), 2, "it was not started again");
    assert!(!file(&lab, "state/leases/node.json").exists());
}

#[test]
fn a_second_signal_to_end_cuts_no_transaction_off() {
    ground!("btrfs", "unshare");
    let lab = lab(STOPPED);
    let mut daemon = beside_a_service(&lab);
    fs::write(file(&lab, "late"), "").expect("written");
    daemon.runs("node");
    waits("the start", || file(&lab, "starting").exists());
    let first = children_of(daemon.pid())[0];
    for n in 1..4 {
        kill_process(first, Signal::TERM).expect("it is there");
        if n == 1 {
            daemon.notified.until("it stops", |said| said == "STOPPING=1");
        } else {
            waits("what it waits for", || {
                daemon.said().matches("waits for the start of the process").count() >= n - 1
            });
        }
    }
    fs::write(file(&lab, "go"), "").expect("written");
    assert_eq!(daemon.child.wait().expect("it ends").code(), Some(0));
    assert_eq!((n_begun(&lab), lab.snapshots("node").len()), (2, 1), "the run was cut off");
    assert!(!file(&lab, "state/leases/node.json").exists());
}
