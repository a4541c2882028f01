//! A command with an overlay of its own, where an ordinary user is given no user namespace.

use std::process::{Command, Output, Stdio};

use super::fuse::{USER, WITHOUT_FUSERMOUNT3, as_user_by, assert_nothing_left, give};
use super::lab::{Lab, Process, read, text};
use crate::ground::{self, ground};

/// A program for python3 that root runs: whoever it becomes is given no namespaces (`unshare`: EPERM), and may gain rights all the same.
const FILTER: &str = "
import ctypes, os, platform, struct, sys
unshare = 272 if platform.machine() == 'x86_64' else 97
code = [(0x20, 0, 0, 0), (0x15, 0, 1, unshare), (0x06, 0, 0, 0x50001), (0x06, 0, 0, 0x7fff0000)]
filters = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *c) for c in code))
program = ctypes.create_string_buffer(struct.pack('HxxxxxxP', len(code), ctypes.addressof(filters)))
if ctypes.CDLL(None).prctl(22, 2, ctypes.byref(program), 0, 0):
    sys.exit('no filter')
os.execvp(sys.argv[1], sys.argv[1:])
";

fn command(lab: &Lab, device: &str, prepare: &str, script: &str) -> Command {
    give(lab);
    let mut command = as_user_by(lab, device, prepare, "/usr/bin/python3 -c \"$FILTER\"", script);
    command.env("FILTER", FILTER);
    command
}

fn as_user(lab: &Lab, device: &str, prepare: &str, script: &str) -> Output {
    command(lab, device, prepare, script).output().expect("unshare runs")
}

#[test]
fn a_command_has_its_tree_by_fusermount3() {
    ground!("fuse", "root", "setpriv", "fusermount3", "/usr/bin/python3");
    let lab = Lab::new();
    let script = "unshare -Ur true 2>/dev/null && exit 98
        $cowsnap overlay run --base base -- sh -c 'id -u; cat file; echo changed > file; rm -r dir; ls -A; echo $COWSNAP_OVERLAY_WORKER; sleep 600 & exit 7'
        echo $?; grep -c \"$PWD/.*cowsnap:\" /proc/self/mountinfo
        $cowsnap overlay run --keep-on-failure --base base -- sh -c 'echo kept > new; exit 1'
        cat home/overlays/run-1/1/1/tree/new; $cowsnap overlay destroy run-1
        $cowsnap overlay run -q --mode copy --base base -- sh -c 'echo copied > file; cat file'";
    let output = as_user(&lab, "0666", "true", script);
    let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(said, format!("{USER}\nbasefile\nsymlink\n1\n7\n0\nkept\ncopied\n"), "{}", text(&output));
    for notice in
        ["mode fuse: ", "other processes of this user see its tree too", "left running: 1 processes"]
    {
        assert!(told.contains(notice), "{notice}: {told}");
    }
    assert_eq!(read(lab.base().join("file")), "base");
    assert_nothing_left(&lab);
}

#[test]
fn what_lacks_for_that_is_said_with_exit_6() {
    ground!("fuse", "root", "setpriv", "fusermount3", "/usr/bin/python3");
    let lab = Lab::new();
    let run = |more: &str| format!("$cowsnap overlay run --base base {more} -- true");
    let cases = [
        ("0666", WITHOUT_FUSERMOUNT3, run(""), "there is no fusermount3 (apt install fuse3)"),
        (
            "0600",
            "true",
            run("--mode fuse"),
            "/dev/fuse may not be opened by this user (chmod 666 /dev/fuse)",
        ),
        ("0666", "true", format!("setpriv --no-new-privs {}", run("")), "no_new_privs is set"),
        ("0666", "true", run("--mode kernel"), "mode kernel mounts (--mode fuse"),
    ];
    for (device, prepare, script, expected) in cases {
        let output = as_user(&lab, device, prepare, &script);
        let said = text(&output);
        assert!(output.status.code() == Some(6) && said.contains(expected), "{expected}: {said}");
        assert!(said.contains("seccomp=unconfined") && said.contains("or run it as root"), "{said}");
    }
    assert!(!lab.home_dir().join("home.json").exists(), "nothing is begun");
}

/// What it started is known by its environment: others may use the tree, too.
#[test]
fn of_a_killed_caller_the_next_one_ends_what_the_command_started_and_nobody_else() {
    ground!("fuse", "root", "setpriv", "fusermount3", "/usr/bin/python3");
    let lab = Lab::new();
    // All in one mount namespace: the caller is killed there, and the tree goes there.
    let script = "$cowsnap overlay run -q --base base -- sh -c 'setsid sleep 600 & echo $! > orphan; echo ready; sleep 601; true' &
        caller=$!
        until tree=$(echo home/overlays/run-1/tree) && test -s $tree/orphan; do sleep 0.05; done
        orphan=$(cat $tree/orphan); trap 'kill $other $orphan 2>/dev/null' EXIT; (cd $tree && exec sleep 602) & other=$!
        kill -9 $caller; wait $caller
        $cowsnap overlay run --base base -- sh -c 'echo worker $COWSNAP_OVERLAY_WORKER'
        gone() { ! test -e /proc/$1 || grep -q ') Z ' /proc/$1/stat; }
        gone $orphan && echo orphan gone; gone $other || echo other there
        kill $other; wait";
    let mut child =
        Process::new(command(&lab, "0666", "true", script).stdout(Stdio::piped()).stderr(Stdio::piped()));
    let out = std::io::read_to_string(child.0.stdout.take().expect("piped")).expect("read");
    let told = std::io::read_to_string(child.0.stderr.take().expect("piped")).expect("read");
    child.0.wait().expect("ended");
    assert_eq!(out, "ready\nworker 1\norphan gone\nother there\n", "{told}");
    assert!(told.contains("reaped run-1: its owner is gone"), "{told}");
    assert_nothing_left(&lab);
    ground::run("chown", &["-R", "0:0", super::lab::utf8(&lab.home_dir())]);
}

/// It is a process that the command started, and leads a session of its own as anything that is left running may.
#[test]
fn another_overlay_that_a_command_made_goes_on_after_it_or_its_killed_caller() {
    ground!("fuse", "root", "setpriv", "fusermount3", "/usr/bin/python3");
    let lab = Lab::new();
    let script = "base=$PWD/base; mnt=$PWD/mnt
        make() { echo \"$cowsnap overlay create -q $1 --base $base --at $mnt/$1 --mode fuse --owner none > /dev/null\"; }
        $cowsnap overlay run --base base -- sh -c \"$(make first); echo changed > $mnt/first/file; sleep 600 &\"
        cat mnt/first/file; echo more > mnt/first/more && cat mnt/first/more
        $cowsnap overlay run -q --base base -- sh -c \"$(make second); sleep 601 & touch ready; wait\" &
        caller=$!; trap 'kill -9 $caller 2>/dev/null' EXIT
        until test -e home/overlays/run-1/tree/ready; do sleep 0.05; done
        kill -9 $caller; wait $caller; trap - EXIT
        $cowsnap overlay reap > /dev/null; test -e home/overlays/run-1 || echo reaped
        cat mnt/second/file; cat mnt/first/file
        $cowsnap overlay reset -q first; echo; cat mnt/first/file
        $cowsnap overlay destroy -q first second";
    let output = as_user(&lab, "0666", "true", script);
    let told = text(&output);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "changed\nmore\nreaped\nbasechanged\n\nbase",
        "{told}"
    );
    assert!(told.contains("left running: 1 processes"), "the rest is ended: {told}");
    assert_nothing_left(&lab);
}
