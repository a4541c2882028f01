//! Overlays whose owner is in another pid namespace: left alone while it is there, and in nobody's way once it was killed.

use std::path::Path;
use std::process::{Command, Output};

use super::lab::{Lab, Process, read, text, utf8};
use crate::ground::{self, ground};

/// A shell as the first process of pid and mount namespaces of its own, which go with it; `$create` makes `ci`.
fn container(lab: &Lab, mode: &str, script: &str) -> Command {
    let program = env!("CARGO_BIN_EXE_cowsnap");
    let (base, at) = (lab.base(), lab.at("ci"));
    let create =
        format!("'{program}' overlay create ci --base '{}' --at '{}' --mode {mode}", utf8(&base), utf8(&at));
    let mut command = Command::new("unshare");
    command.args(["-pmf", "--mount-proc", "--kill-child", "sh", "-c", script]).current_dir("/");
    command.env("COWSNAP_OVERLAY_HOME", lab.home_dir()).env("create", create).env("at", at);
    command
}

/// One that has made it, and changed it.
fn living(lab: &Lab, mode: &str) -> Process {
    let ready = lab.root().join("ready");
    let script =
        format!("eval \"$create\" && echo changed > \"$at/file\" && touch '{}' && sleep 600", utf8(&ready));
    let process = Process::new(&mut container(lab, mode, &script));
    ground::waits("it to be made", || ready.exists());
    std::fs::remove_file(ready).expect("removed");
    process
}

/// Kills a container, and waits until its processes have ended.
fn kill(mut container: Process) {
    let parent = container.pid();
    let children = read(format!("/proc/{parent}/task/{parent}/children"));
    container.end();
    for child in children.split_whitespace() {
        let ended = || {
            let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            stat.rfind(')').is_none_or(|at| stat[at..].starts_with(") Z"))
        };
        ground::waits("the container to end", ended);
    }
}

fn second(lab: &Lab, mode: &str) -> Output {
    container(lab, mode, "eval \"$create\" && cat \"$at/file\"").output().expect("unshare runs")
}

#[test]
fn after_a_killed_container_the_next_one_makes_it_again() {
    ground!("overlay", "fuse");
    for mode in ["kernel", "fuse"] {
        let lab = Lab::new();
        let first = living(&lab, mode);
        let said = text(&second(&lab, mode));
        assert!(said.contains("exists already") && said.contains("another pid namespace"), "{mode}: {said}");
        assert!(said.contains("cowsnap overlay destroy"), "{mode}: {said}");
        kill(first);
        let output = second(&lab, mode);
        let said = text(&output);
        assert!(output.status.success() && said.contains("reaped ci: its owner"), "{mode}: {said}");
        assert!(String::from_utf8_lossy(&output.stdout).ends_with("base"), "{mode}: {said}");
        lab.ok(&["destroy", "--all"]);
        lab.assert_nothing_left();
    }
}

#[test]
fn whoever_sees_all_processes_reaps_what_a_killed_container_left() {
    ground!("overlay", "first-pid-namespace");
    let lab = Lab::new();
    let first = living(&lab, "copy");
    let kept = lab.ok(&["reap"]);
    assert!(kept.contains("kept ci: its owner is in another pid namespace"), "{kept}");
    let file = lab.home_dir().join("overlays/ci/overlay.json");
    assert!(Path::new(&file).exists() && read(&file).contains("\"copy\""));
    kill(first);
    assert_eq!(lab.ok(&["reap"]), "reaped ci: its owner is gone, with all of its pid namespace\n");
    lab.assert_nothing_left();
}
