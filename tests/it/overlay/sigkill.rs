//! SIGKILL of an import, and of the process of mode `fuse` while a layer is made: the next command works, no layer that was committed is lost,
//! and nothing is left.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use cowsnap::exec::overlay::layers::{Commit, commit};
use cowsnap::exec::overlay::{Step, Survivors};

use super::fuse::{assert_nothing_left, daemons, kill_daemon};
use super::lab::{Lab, read, utf8};
use crate::ground::{self, ground};

/// At how many points each is killed.
const POINTS: usize = 10;

fn layers(lab: &Lab) -> Vec<String> {
    let listed = lab.json(&["list", "--layers"]);
    let layers = listed["layers"].as_array().expect("a list");
    layers.iter().map(|layer| layer["label"].as_str().expect("a label").to_owned()).collect()
}

/// What in `layers/` has no layer's name.
fn half_made(lab: &Lab) -> usize {
    let entries = fs::read_dir(lab.home_dir().join("layers")).expect("listed").flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with('.')).count()
}

/// Things of several kinds, and enough of them for work on them to take a while.
fn fill(at: &Path) {
    for n in 0..150_u32 {
        let dir = at.join(format!("many/{}", n % 7));
        fs::create_dir_all(&dir).expect("mkdir");
        fs::write(dir.join(n.to_string()), n.to_string().repeat(4000)).expect("written");
    }
    fs::hard_link(at.join("many/1/1"), at.join("name")).expect("linked");
    fs::rename(at.join("dir/deep"), at.join("moved")).expect("renamed");
    fs::remove_file(at.join("symlink")).expect("removed");
}

/// An overlay on the layer `ci@kept`, and a layer upon that which was exported, and is gone.
fn exported() -> (Lab, PathBuf) {
    let lab = Lab::new();
    let at = lab.create("ci", &["--mode", "kernel", "--owner", "none"]);
    fs::write(at.join("file"), "kept").expect("written");
    lab.ok(&["commit", "ci", "kept"]);
    fill(&at);
    // What is read is believed a frame at a time, which is a MiB.
    fs::write(at.join("large"), vec![7; 12 << 20]).expect("written");
    lab.ok(&["commit", "ci", "x"]);
    let file = lab.root().join("x.cow");
    lab.ok(&["export", "ci@x", utf8(&file), "--no-compress"]);
    lab.ok(&["reset", "ci", "--to", "kept"]);
    lab.ok(&["destroy", "ci@x"]);
    (lab, file)
}

/// After an import was killed: whether it was done. Then the layer is there and sound, and else nothing of it once somebody made an overlay.
fn is_done(lab: &Lab, file: &Path) -> bool {
    let at = lab.create("next", &["--mode", "kernel"]);
    assert_eq!(read(at.join("file")), "base");
    lab.ok(&["destroy", "next"]);
    assert_eq!(half_made(lab), 0, "what was half made goes with the next create");
    let done = layers(lab).len() == 2;
    if !done {
        assert_eq!(lab.ok(&["verify", "--all"]), "ci@kept  sound\n");
        lab.ok(&["import", utf8(file)]);
    }
    assert_eq!(lab.ok(&["verify", "--all"]), "ci@kept  sound\nci@x  sound\n");
    lab.ok(&["reset", "ci", "--to", "x"]);
    assert_eq!(read(lab.at("ci").join("many/1/1")), "1".repeat(4000));
    lab.ok(&["reset", "ci", "--to", "kept"]);
    lab.ok(&["destroy", "ci@x"]);
    done
}

#[test]
fn an_import_that_is_killed_at_any_byte_of_its_input_leaves_nothing() {
    ground!("overlay");
    let (lab, file) = exported();
    let bytes = fs::read(&file).expect("read");
    let mut begun = 0;
    for point in 0..POINTS {
        let mut child = lab.command(&["import", "-"]);
        let mut child = child.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("it starts");
        let mut input = child.stdin.take().expect("piped");
        input.write_all(&bytes[..bytes.len() * point / POINTS]).expect("it reads");
        ground::waits("all of it to be read", || rustix::io::ioctl_fionread(&input).expect("asked") == 0);
        child.kill().expect("killed");
        assert!(!child.wait().expect("ended").success());
        begun += half_made(&lab);
        assert!(!is_done(&lab, &file), "{point}: not all of it was there");
    }
    assert!(begun > POINTS / 2, "most were in the middle of it: {begun}");
    lab.ok(&["destroy", "ci"]);
    lab.ok(&["destroy", "ci@kept"]);
    lab.assert_nothing_left();
}

#[test]
fn kill_9_of_an_import_at_any_time_is_survived() {
    ground!("overlay");
    let (lab, file) = exported();
    let args = ["import", utf8(&file)];
    let started = Instant::now();
    lab.ok(&args);
    let whole = started.elapsed();
    lab.ok(&["destroy", "ci@x"]);
    let mut undone = 0;
    for point in 0..POINTS {
        let mut child = lab.command(&args).stdout(Stdio::null()).spawn().expect("it starts");
        std::thread::sleep(whole * point as u32 / POINTS as u32);
        child.kill().expect("killed");
        let is_sure = child.wait().expect("ended").success();
        let done = is_done(&lab, &file);
        assert!(done || !is_sure, "{point}: who said so has done it");
        undone += usize::from(!done);
    }
    assert!(undone > 0, "each was done before it was killed");
    lab.ok(&["destroy", "ci"]);
    lab.ok(&["destroy", "ci@kept"]);
    lab.assert_nothing_left();
}

/// An overlay of mode `fuse` with a layer and what was changed since.
fn seeded() -> Lab {
    let lab = Lab::new();
    let at = lab.create("ci", &["--mode", "fuse", "--owner", "none"]);
    fs::write(at.join("file"), "kept").expect("written");
    lab.ok(&["commit", "ci", "kept"]);
    fill(&at);
    lab
}

/// After the process was killed while a commit was made, which said that it is `done`, or not.
fn assert_survived(lab: &Lab, done: bool, context: &str) {
    ground::waits("the command to be over", || {
        !lab.home().entry(&"ci".parse().expect("a name")).is_locked().expect("asked")
    });
    let at = lab.create("next", &["--mode", "fuse"]);
    assert_eq!(read(at.join("file")), "base", "{context}");
    lab.ok(&["destroy", "next"]);
    lab.ok(&["reset", "ci", "--force"]);
    let all = layers(lab);
    assert!(all.contains(&"ci@kept".to_owned()), "{context}: {all:?}");
    assert!(all.contains(&"ci@new".to_owned()) || !done, "{context}: {all:?}");
    let sound = lab.ok(&["verify", "--all"]);
    assert_eq!(sound.matches("sound").count(), all.len(), "{context}: {sound}");
    let at = lab.at("ci");
    assert_eq!(read(at.join("file")), "kept", "{context}");
    if done {
        assert_eq!(read(at.join("many/1/1")), "1".repeat(4000), "{context}");
    }
    fs::write(at.join("after"), "x").expect("it can be written to");
    lab.ok(&["destroy", "ci"]);
    let mut names: Vec<_> = all.iter().map(String::as_str).collect();
    names.sort_by_key(|name| *name == "ci@kept");
    lab.ok(&[&["destroy"], &names[..]].concat());
    assert_eq!(half_made(lab), 0, "{context}");
    assert_nothing_left(lab);
}

#[test]
fn the_process_of_mode_fuse_is_killed_before_each_step_of_a_commit() {
    ground!("fuse", "root");
    for at_step in Step::COMMIT {
        let lab = seeded();
        let (layer, now) = ("new".parse().expect("a name"), jiff::Timestamp::UNIX_EPOCH);
        let wanted = Commit { layer, copy: None, survivors: Survivors::Refuse, now };
        let mut killed = false;
        let outcome = commit(&lab.home(), &"ci".parse().expect("a name"), &wanted, &mut |step| {
            if step == at_step && !killed {
                kill_daemon(&lab);
                killed = true;
            }
            Ok(())
        });
        assert!(killed, "{at_step:?} is a step of it");
        let (done, context) = (outcome.is_ok(), format!("{at_step:?}: {outcome:?}"));
        drop(outcome);
        assert_survived(&lab, done, &context);
    }
}

#[test]
fn the_process_of_mode_fuse_is_killed_at_any_time_of_a_commit() {
    ground!("fuse", "root");
    let lab = seeded();
    let started = Instant::now();
    lab.ok(&["commit", "ci", "new"]);
    let whole = started.elapsed();
    assert_survived(&lab, true, "nobody killed it");
    let mut failed = 0;
    for point in 0..POINTS / 2 {
        let lab = seeded();
        let mut child = lab.command(&["commit", "ci", "new"]);
        let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        std::thread::sleep(whole * point as u32 / (POINTS as u32 / 2));
        let before = daemons(&lab);
        for pid in before {
            let pid = rustix::process::Pid::from_raw(pid as i32).expect("a pid");
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        let done = child.wait().expect("ended").success();
        failed += usize::from(!done);
        assert_survived(&lab, done, &format!("{point}"));
    }
    assert!(failed > 0, "each was done before its process was killed");
}
