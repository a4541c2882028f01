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
