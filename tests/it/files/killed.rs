//! Killed at any time: nothing has a name that is not whole, and the next run does it.

use std::fs;
use std::time::Duration;

use super::lab::{Lab, expect_same, names, noise, text};
use crate::ground::{cowsnap, ground};

/// Kills the command after that long, unless it is over by then; whether it was killed.
fn killed(lab: &Lab, args: &[&str], after: Duration) -> bool {
    let mut command = cowsnap(&lab.out("state"));
    command.args(args).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut child = command.spawn().expect("it starts");
    std::thread::sleep(after);
    let over = child.try_wait().expect("a child").is_some();
    child.kill().expect("it is ours");
    child.wait().expect("a child");
    !over
}

fn large(lab: &Lab) {
    let live = lab.ground.subvolume("chain");
    (0..40).for_each(|n| fs::write(live.join(format!("f{n}")), noise(2 << 20, n)).expect("write"));
    lab.snapshot("s");
}

#[test]
fn an_import_that_is_killed_leaves_nothing_and_the_next_one_goes_well() {
    ground!("btrfs");
    let lab = Lab::new();
    large(&lab);
    let file = lab.export("a.tar.zst", &[]);
    let to = lab.ground.path().join("to");
    let mut n_killed = 0;
    for n in 0..25 {
        let was_killed =
            killed(&lab, &["import", text(&file), "--to", text(&to)], Duration::from_millis(n * 20));
        n_killed += u32::from(was_killed);
        match to.exists() {
            // It had its name: then it is whole.
            true => {
                expect_same(&lab.live(), &to);
                lab.good(&["destroy", text(&to)]);
            }
            false => assert!(was_killed, "it ended without having made it"),
        }
        lab.expect_nothing_left(&[]);
    }
    assert!(n_killed > 2, "it was killed {n_killed} times only");
    lab.good(&["import", text(&file), "--to", text(&to)]);
    expect_same(&lab.live(), &to);
}

#[test]
fn an_export_that_is_killed_leaves_no_file_and_no_mount() {
    ground!("btrfs");
    let lab = Lab::new();
    large(&lab);
    let folder = lab.out("folder");
    fs::create_dir(&folder).expect("mkdir");
    let mounts =
        || fs::read_to_string("/proc/self/mounts").expect("read").matches(text(lab.ground.outside())).count();
    let before = mounts();
    let snapshot = format!("{}@s", text(&lab.live()));
    let file = folder.join("a.tar.zst");
    for n in 0..15 {
        killed(&lab, &["export", &snapshot, text(&file)], Duration::from_millis(n * 30));
        match file.exists() {
            true => {
                let to = lab.ground.path().join("to");
                lab.good(&["import", text(&file), "--to", text(&to)]);
                lab.good(&["destroy", text(&to)]);
                fs::remove_file(&file).expect("removed");
                let _ = fs::remove_file(folder.join("a.tar.zst.manifest.json"));
            }
            false => assert_eq!(names(&folder), [""; 0]),
        }
    }
    assert_eq!(mounts(), before);
    lab.expect_nothing_left(&[]);
}

#[test]
fn a_signal_ends_an_import_with_code_5_and_nothing_is_left() {
    ground!("btrfs");
    let lab = Lab::new();
    large(&lab);
    let file = lab.export("a.tar.zst", &[]);
    // It waits for a pipe that gives nothing more.
    let to = lab.ground.path().join("to");
    let mut command = cowsnap(&lab.out("state"));
    command.args(["import", "-", "--to", text(&to)]).stdin(std::process::Stdio::piped());
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().expect("it starts");
    let mut input = child.stdin.take().expect("a pipe");
    let bytes = fs::read(&file).expect("read");
    std::io::Write::write_all(&mut input, &bytes[..bytes.len() / 2]).expect("it takes them");
    std::thread::sleep(Duration::from_millis(200));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is ours");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(5), "{}", String::from_utf8_lossy(&output.stderr));
    drop(input);
    lab.expect_nothing_left(&[]);
}
