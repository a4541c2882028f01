//! A process of mode fuse that is there and serves nobody: who touches its tree waits where no signal but SIGKILL reaches him.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::calls::Stopped;
use super::fuse::{assert_nothing_left, daemons};
use super::lab::{Lab, Process, text};
use crate::ground::ground;

/// Stops the process that serves the lab's one overlay; it goes on when what is answered is dropped.
fn stop(lab: &Lab) -> (u32, Stopped) {
    let [pid] = daemons(lab)[..] else { panic!("one process") };
    (pid, Stopped::new(pid))
}

#[test]
fn whoever_needs_a_stopped_process_is_told_of_it_and_waits_for_nothing() {
    ground!("fuse", "root", "timeout");
    let lab = Lab::new();
    let at = lab.create("ci", &["--mode", "fuse"]);
    std::fs::write(at.join("file"), "changed").expect("written");
    let (pid, stopped) = stop(&lab);
    let within = |args: &[&str]| {
        let command = lab.command(args);
        let mut timeout = Command::new("timeout");
        timeout.args(["-k", "1", "30"]).arg(command.get_program()).args(command.get_args());
        timeout.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        timeout.output().expect("timeout runs")
    };
    let commands: [&[&str]; 8] = [
        &["diff", "ci"],
        &["reset", "ci"],
        &["reset", "--kill", "ci"],
        &["reset", "--dry-run", "ci"],
        &["commit", "ci", "layer"],
        &["mount", "ci"],
        &["destroy", "ci"],
        &["destroy", "--force", "ci"],
    ];
    for args in commands {
        let output = within(args);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(5), "{args:?}: {said}");
        assert!(said.contains(&format!("the process that serves it ({pid}) is stopped")), "{args:?}: {said}");
        assert!(said.contains(&format!("kill -CONT {pid} lets it go on")), "{args:?}: {said}");
    }
    assert!(within(&["list"]).status.success());
    drop(stopped);
    assert_eq!(lab.ok(&["diff", "ci"]), "M dir/link  4 -> 7\nM file  4 -> 7\n");
    lab.ok(&["destroy", "ci"]);
    assert_nothing_left(&lab);
}

#[test]
fn a_reap_goes_on_past_a_stopped_process_and_names_it() {
    ground!("fuse", "root");
    let lab = Lab::new();
    let mut owner = Process::new(Command::new("sleep").arg("600").stdout(Stdio::null()));
    let pid = owner.pid().to_string();
    lab.create("first", &["--mode", "fuse", "--owner", &pid]);
    let (_, stopped) = stop(&lab);
    lab.create("second", &["--mode", "kernel", "--owner", &pid]);
    owner.end();
    let began = Instant::now();
    let output = lab.run(&["reap"]);
    assert!(began.elapsed() < Duration::from_secs(60) && output.status.signal().is_none());
    let said = text(&output);
    assert!(matches!(output.status.code(), Some(5 | 7)), "{said}");
    assert!(said.contains("reaped second") && said.contains("is stopped"), "{said}");
    drop(stopped);
    assert!(lab.ok(&["reap"]).contains("reaped first"));
    assert_nothing_left(&lab);
}
