//! A command with an overlay of its own.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::lab::{Lab, Process, text, utf8};
use crate::ground::{self, ground};

fn run(lab: &Lab, more: &[&str], script: &str) -> Output {
    let base = lab.base();
    let args = [&["run", "--base", utf8(&base)], more, &["--", "sh", "-c", script]].concat();
    lab.run(&args)
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn a_command_has_a_tree_of_its_own_and_nothing_is_left_of_it() {
    ground!("overlay");
    let lab = Lab::new();
    let script = "cat file; echo changed > file; cat file dir/link; rm -r dir; pwd; echo $COWSNAP_OVERLAY_DIR $COWSNAP_OVERLAY_WORKER; exit 7";
    let output = run(&lab, &[], script);
    assert_eq!(output.status.code(), Some(7), "{}", text(&output));
    let tree = lab.home().dir().join("overlays/run-1/tree");
    assert_eq!(stdout(&output), format!("basechanged\nchanged\n{0}\n{0} 1", tree.display()));
    assert_eq!(super::lab::read(lab.base().join("file")), "base");
    lab.assert_nothing_left();
}

#[test]
fn nobody_else_sees_it() {
    ground!("overlay");
    let lab = Lab::new();
    let script = "echo ready; echo secret > new; read line";
    let base = lab.base();
    let mut command = lab.command(&["run", "--base", utf8(&base), "--", "sh", "-c", script]);
    let mut child = Process::new(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut line = String::new();
    let out = child.0.stdout.as_mut().expect("piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).expect("read");
    assert_eq!((line.trim(), lab.mounts().len()), ("ready", 0));
    assert!(!lab.home().dir().join("overlays/run-1/tree/new").exists());
    let listed = lab.json(&["list"]);
    assert_eq!(listed["overlays"][0]["owner"]["pid"], child.pid());
    drop(child.0.stdin.take());
    // `read` at the end of its input fails.
    assert_eq!(child.0.wait().expect("ended").code(), Some(1));
    lab.assert_nothing_left();
}

#[test]
fn without_a_base_the_tree_is_empty() {
    ground!("overlay");
    let lab = Lab::new();
    let output = lab.run(&["run", "--", "sh", "-c", "ls -A; echo x > x; ls"]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), "x"), "{}", text(&output));
    lab.assert_nothing_left();
}

#[test]
fn a_command_that_is_not_there_is_said_so_and_leaves_nothing() {
    ground!("overlay");
    let lab = Lab::new();
    assert!(lab.fails(2, &["run", "--", "/no/such/program"]).contains("cannot start /no/such/program"));
    lab.fails(2, &["run"]);
    lab.fails(2, &["run", "--cpu", "x", "--", "true"]);
    assert_eq!(stdout(&lab.run(&["run", "--cpu", "0", "--", "nproc"])), "1");
    lab.assert_nothing_left();
}

#[test]
fn the_signal_that_ended_the_command_ends_the_caller() {
    ground!("overlay");
    let lab = Lab::new();
    for signal in [15, 9, 2] {
        let output = run(&lab, &[], &format!("kill -{signal} $$"));
        assert_eq!(output.status.signal(), Some(signal), "{}", text(&output));
    }
    assert_eq!(run(&lab, &[], "kill -USR1 $$").status.code(), Some(128 + 10));
    lab.assert_nothing_left();
}

/// Starts a command that says when it is there.
fn started(lab: &Lab, script: &str) -> Process {
    let base = lab.base();
    let mut command = lab.command(&["run", "--base", utf8(&base), "--", "sh", "-c", script]);
    let mut child = Process::new(command.stdout(Stdio::piped()));
    let mut line = [0; 6];
    std::io::Read::read_exact(child.0.stdout.as_mut().expect("piped"), &mut line).expect("read");
    assert_eq!(&line, b"ready\n");
    child
}

fn kill(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("a pid");
    rustix::process::kill_process(pid, signal).expect("it was ours");
}

#[test]
fn a_signal_is_passed_on_and_the_command_waited_for() {
    ground!("overlay");
    let lab = Lab::new();
    let mut child = started(&lab, "trap 'kill $!; exit 42' TERM; echo ready; sleep 600 & wait");
    kill(child.pid(), rustix::process::Signal::TERM);
    assert_eq!(child.0.wait().expect("ended").code(), Some(42));
    lab.assert_nothing_left();
}

/// `timeout` signals its child, then the child's group: that is one request, and what a program tidies up then is not cut short.
#[test]
fn two_signals_at_once_ask_once_and_one_that_comes_later_ends_it_at_once() {
    ground!("overlay");
    let lab = Lab::new();
    let mut child = started(&lab, "trap '' TERM; echo ready; while sleep 0.1; do :; done");
    let ended = |child: &mut Process| child.0.try_wait().expect("asked");
    kill(child.pid(), rustix::process::Signal::TERM);
    kill(child.pid(), rustix::process::Signal::TERM);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(ended(&mut child), None, "both were one request");
    kill(child.pid(), rustix::process::Signal::TERM);
    let status = child.0.wait().expect("ended");
    assert_eq!(status.signal(), Some(rustix::process::Signal::TERM.as_raw()), "{status}");
    assert!(
        wait_until(|| lab.run(&["reap"]).status.success() && lab.run(&["list"]).stdout.is_empty()),
        "it is reaped"
    );
    lab.assert_nothing_left();
}

fn wait_until(mut is_so: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + Duration::from_secs(20);
    while Instant::now() < until {
        if is_so() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

/// Whether a process is gone, or only waits for a parent that may never ask how it ended (the first process of a container).
fn has_ended(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

#[test]
fn a_killed_caller_takes_the_command_along_and_the_next_one_clears_up() {
    ground!("overlay");
    let lab = Lab::new();
    let mut child =
        started(&lab, "setsid sleep 600 & echo $! > orphan; echo $$ > pid; echo ready; sleep 600; true");
    let listed = lab.json(&["list"]);
    assert_eq!(listed["overlays"][0]["name"], "run-1");
    let upper = lab.home().dir().join("overlays/run-1/1/1/tree");
    let [pid, orphan] = ["pid", "orphan"].map(|name| super::lab::read(upper.join(name)).trim().to_owned());
    child.end();
    assert!(wait_until(|| has_ended(&pid)), "the command lives on");
    let output = run(&lab, &[], "echo $COWSNAP_OVERLAY_WORKER");
    assert_eq!(stdout(&output), "1", "{}", text(&output));
    assert!(text(&output).contains("reaped run-1: its owner is gone"), "{}", text(&output));
    assert!(has_ended(&orphan), "what the command had started lives on");
    lab.assert_nothing_left();
}

#[test]
fn what_a_command_leaves_running_is_ended() {
    ground!("overlay");
    let lab = Lab::new();
    let output = run(
        &lab,
        &[],
        "(sleep 600 & sleep 600 &) >/dev/null 2>&1; setsid sleep 600 >/dev/null 2>&1 & exit 0",
    );
    assert!(
        output.status.success() && text(&output).contains("ended what the command left running: 3 processes"),
        "{}",
        text(&output)
    );
    lab.assert_nothing_left();
}

#[test]
fn commands_at_the_same_time_have_numbers_of_their_own() {
    ground!("overlay");
    let lab = Lab::new();
    // A number is free again once its command is over: none ends before all have one.
    let all_run = lab.root().join("all run");
    let script = format!(
        "echo ready; echo $COWSNAP_OVERLAY_WORKER; while ! test -e '{}'; do sleep 0.1; done",
        all_run.display()
    );
    let children: Vec<_> = (0..6).map(|_| started(&lab, &script)).collect();
    fs::write(&all_run, "").expect("written");
    let mut numbers = Vec::new();
    for mut child in children {
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut child.0.stdout.take().expect("piped"), &mut rest).expect("read");
        assert!(child.0.wait().expect("ended").success());
        numbers.push(rest.trim().to_owned());
    }
    numbers.sort();
    assert_eq!(numbers, ["1", "2", "3", "4", "5", "6"]);
    lab.assert_nothing_left();
}

#[test]
fn what_a_failed_command_changed_is_kept_when_that_is_asked_for() {
    ground!("overlay");
    let lab = Lab::new();
    assert!(run(&lab, &["--keep-on-failure"], "echo x > new").status.success());
    lab.assert_nothing_left();
    let output = run(&lab, &["--keep-on-failure"], "echo evidence > new; exit 3");
    assert_eq!(output.status.code(), Some(3));
    let said = text(&output);
    let path =
        said.lines().find_map(|line| line.strip_prefix("kept what it changed: ")).expect("it is said where");
    assert_eq!(super::lab::read(format!("{path}/new")), "evidence\n");
    assert_eq!((lab.ok(&["reap"]).as_str(), lab.names()), ("nothing to reap\n", vec!["run-1".to_owned()]));
    lab.ok(&["destroy", "run-1"]);
    lab.assert_nothing_left();
}

/// A user who is nobody's.
const USER: &str = "64321";

#[test]
fn an_ordinary_user_runs_a_command_in_a_user_namespace() {
    ground!("overlay", "setpriv", "userns");
    let lab = Lab::new();
    for dir in [lab.base(), lab.home_dir()] {
        fs::create_dir_all(&dir).expect("made");
        ground::run("chown", &["-R", &format!("{USER}:{USER}"), utf8(&dir)]);
    }
    ground::run("chmod", &["o+rx", utf8(lab.root())]);
    let script = "id -u; cat dir/deep/file; echo changed > file; rm -r dir; ls; exit 5";
    let output = of_user(&lab, script);
    assert_eq!(output.status.code(), Some(5), "{}", text(&output));
    assert_eq!(stdout(&output), format!("{USER}\ndeepfile\nsymlink"), "{}", text(&output));
    assert_eq!(super::lab::read(lab.base().join("file")), "base");
    assert!(!text(&output).contains("warning"), "{}", text(&output));
    lab.assert_nothing_left();
    ground::run("chown", &["-h", "0:0", utf8(&lab.base().join("symlink"))]);
    let said = text(&of_user(&lab, "true"));
    assert!(said.contains("symlink is somebody else's"), "{said}");
}

fn of_user(lab: &Lab, script: &str) -> Output {
    let program = env!("CARGO_BIN_EXE_cowsnap");
    // What looked at it meanwhile made it its own.
    ground::run("chown", &[USER, utf8(&lab.home_dir())]);
    Command::new("setpriv")
        .args(["--reuid", USER, "--regid", USER, "--clear-groups", program, "overlay", "--home"])
        .arg(lab.home_dir())
        .args(["run", "--base"])
        .arg(lab.base())
        .args(["--", "sh", "-c", script])
        .output()
        .expect("setpriv runs")
}

#[test]
fn which_mode_a_command_has_and_why_is_said() {
    ground!("overlay");
    let lab = Lab::new();
    let output = run(&lab, &["--mode", "kernel"], "true");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "mode kernel: kernel was asked for\n");
    let base = lab.base();
    let quiet = lab.command(&["run", "-q", "--base", super::lab::utf8(&base), "--", "true"]).output();
    let quiet = quiet.expect("it runs");
    assert!(quiet.status.success() && quiet.stderr.is_empty(), "{}", text(&quiet));
    lab.assert_nothing_left();
}

#[test]
fn of_what_failed_commands_changed_the_newest_are_kept() {
    ground!("overlay");
    let lab = Lab::new();
    let mine = lab.create("run-mine", &["--owner", "none"]);
    for (n, last) in [("1", "2"), ("2", "2"), ("3", "2")] {
        let output =
            run(&lab, &["--keep-on-failure", "--keep-last", last], &format!("echo {n} > new; exit 7"));
        assert_eq!(output.status.code(), Some(7), "{}", text(&output));
    }
    assert_eq!(lab.names(), ["run-2", "run-3", "run-mine"]);
    let output = run(&lab, &["--keep-last", "1"], "exit 0");
    assert!(output.status.success() && lab.names().len() == 3, "nothing was kept, nothing goes");
    let mut command = lab.command(&["run", "--keep-on-failure", "--", "sh", "-c", "cat file; exit 7"]);
    command.env("COWSNAP_OVERLAY_BASE", lab.base()).env("COWSNAP_OVERLAY_KEEP_LAST", "1");
    let output = command.env("COWSNAP_OVERLAY_MODE", "kernel").output().expect("it runs");
    assert_eq!(
        (output.status.code(), output.stdout.as_slice()),
        (Some(7), &b"base"[..]),
        "{}",
        text(&output)
    );
    assert_eq!(lab.names(), ["run-1", "run-mine"]);
    lab.fails(2, &["run", "--keep-last", "0", "--", "true"]);
    assert!(mine.join("file").exists());
    lab.ok(&["destroy", "--all"]);
    lab.assert_nothing_left();
}
