//! Native clones: what waits for the next reset, what is no base of one, and that none is left in the store.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::lab::{Lab, read, text, utf8};
use super::modes::{Case, NATIVE, assert_nothing_left, subvolume_lab};
use crate::ground::{self, ground};

fn id_of(subvolume: &Path) -> u64 {
    let dir = fs::File::open(subvolume).expect("opened");
    cowsnap::sys::btrfs::get_subvol_info(dir.as_fd()).expect("a subvolume").id
}

/// What the clone that waits for the next reset of `ci` is called.
pub fn spare(lab: &Lab) -> String {
    let file = lab.home_dir().join("overlays/ci/1/spare");
    assert!(
        (0..3000).any(|_| file.exists() || (std::thread::sleep(Duration::from_millis(10)), false).1),
        "no spare"
    );
    let spare: serde_json::Value = serde_json::from_str(&read(file)).expect("JSON");
    let name = spare["name"].as_str().expect("a name").to_owned();
    assert!(lab.clones().contains(&name), "it is where the file says");
    name
}

fn spare_dir(lab: &Lab) -> PathBuf {
    lab.root().join(".cowsnap/overlays").join(spare(lab))
}

pub fn create(lab: &Lab, base: &str, more: &[&str]) -> serde_json::Value {
    let at = lab.at("ci");
    let args = ["create", "ci", "--base", base, "--at", utf8(&at), "--owner", "none"];
    lab.json(&[&args[..], more].concat())
}

#[test]
fn a_clone_waits_for_the_next_reset_unless_the_base_was_changed() {
    ground!("overlay", "btrfs");
    let lab = subvolume_lab();
    create(&lab, utf8(&lab.base()), &[]);
    let at = lab.at("ci");
    for _ in 0..2 {
        let waiting = id_of(&spare_dir(&lab));
        lab.ok(&["reset", "ci"]);
        assert_eq!(id_of(&at), waiting);
        fs::write(at.join("file"), "changed").expect("written");
    }
    let waiting = id_of(&spare_dir(&lab));
    fs::write(lab.base().join("file"), "new base").expect("written");
    lab.ok(&["reset", "ci"]);
    assert_ne!(id_of(&at), waiting);
    assert_eq!(read(at.join("file")), "new base");
    lab.ok(&["destroy", "ci"]);
    assert_nothing_left(&lab);
}

#[test]
fn it_is_chosen_where_the_base_can_be_cloned_and_else_it_is_said_why_not() {
    ground!("overlay", "btrfs");
    let lab = subvolume_lab();
    let base = lab.base();
    let made = create(&lab, utf8(&base), &[]);
    let why = made["overlay"]["why"].to_string();
    assert!(
        made["overlay"]["mode"] == "native" && why.contains("on btrfs, which clones it in one call"),
        "{made}"
    );
    lab.ok(&["destroy", "ci"]);
    let made = create(&lab, utf8(&base.join("dir")), &[]);
    let why = made["overlay"]["why"].to_string();
    assert!(made["overlay"]["mode"] == "kernel" && why.contains("a directory and no subvolume"), "{made}");
    lab.ok(&["destroy", "ci"]);
    ground::run("btrfs", &["subvolume", "create", utf8(&base.join("nested"))]);
    let made = create(&lab, utf8(&base), &[]);
    let why = made["overlay"]["why"].to_string();
    assert!(made["overlay"]["mode"] == "kernel" && why.contains("nested lies in the base"), "{made}");
    lab.ok(&["destroy", "ci"]);
    let (at, base) = (lab.at("ci"), utf8(&base).to_owned());
    let said = lab.fails(6, &["create", "ci", "--base", &base, "--at", utf8(&at), "--mode", "native"]);
    assert!(said.contains("nested lies in the base"), "{said}");
    assert_nothing_left(&lab);
}

#[test]
fn a_snapshot_is_cloned_and_is_not_changed() {
    ground!("overlay", "btrfs");
    of_a_snapshot(NATIVE);
}

pub fn of_a_snapshot(case: Case) {
    let lab = case.lab();
    let base = lab.base();
    let cowsnap = |args: &[&str]| {
        let output = ground::cowsnap(&lab.root().join("state")).args(args).output().expect("it runs");
        assert!(output.status.success(), "{args:?} {}", text(&output));
    };
    cowsnap(&["snapshot", utf8(&base), "--name", "before"]);
    fs::write(base.join("file"), "later").expect("written");
    let made = create(&lab, &format!("{}@before", base.display()), &["--copies", "3"]);
    assert_eq!(made["overlay"]["mode"], "native", "{made}");
    for _ in 0..2 {
        for copy in [1, 2, 3] {
            let file = lab.at("ci").join(format!("{copy}/file"));
            assert_eq!(read(&file), "base");
            fs::write(&file, "changed").expect("written");
        }
        lab.ok(&["reset", "ci"]);
    }
    assert_eq!(read(base.join("file")), "later");
    lab.ok(&["destroy", "ci"]);
    let made = create(&lab, &format!("{}@before", base.display()), &[]);
    assert_eq!(
        (made["overlay"]["mode"].as_str(), read(lab.at("ci").join("file"))),
        (Some("native"), "base".into())
    );
    lab.ok(&["destroy", "ci"]);
    assert_nothing_left(&lab);
}

#[test]
fn a_home_on_another_filesystem_is_as_good_and_what_a_suite_nests_goes_too() {
    ground!("overlay", "btrfs");
    let lab = subvolume_lab();
    let other = ground::scratch();
    let home = other.path().join("home");
    let (base, at) = (lab.base(), lab.at("ci"));
    let ok = |args: &[&str]| lab.ok(&[&["--home", utf8(&home)], args].concat());
    ok(&["create", "ci", "--base", utf8(&base), "--at", utf8(&at), "--mode", "native"]);
    for _ in 0..2 {
        ground::run("btrfs", &["subvolume", "create", utf8(&at.join("mine"))]);
        ground::run("btrfs", &["subvolume", "create", utf8(&at.join("mine/deeper"))]);
        fs::write(at.join("mine/deeper/file"), "").expect("written");
        ok(&["reset", "ci"]);
        assert!(!at.join("mine").exists());
    }
    ok(&["destroy", "ci"]);
    let none = || lab.clones().is_empty();
    assert!(
        (0..1000).any(|_| none() || (std::thread::sleep(Duration::from_millis(10)), false).1),
        "{:?}",
        lab.clones()
    );
}

#[test]
fn a_clone_whose_file_was_lost_in_a_crash_goes_with_its_overlay() {
    ground!("overlay", "btrfs");
    with_lost_files(NATIVE);
}

pub fn with_lost_files(case: Case) {
    let lab = case.lab();
    create(&lab, utf8(&lab.base()), &["--mode", "native"]);
    let (base, at) = (lab.base(), lab.at("other"));
    lab.ok(&["create", "other", "--base", utf8(&base), "--at", utf8(&at), "--mode", "native"]);
    spare(&lab);
    fs::write(lab.home_dir().join("overlays/ci/1/1/clone"), "").expect("written");
    fs::remove_file(lab.home_dir().join("overlays/ci/1/spare")).expect("removed");
    lab.ok(&["destroy", "ci"]);
    let of_ci = || lab.clones().iter().filter(|name| name.contains(":ci:")).count();
    assert!((0..1000).any(|_| of_ci() == 0 || (std::thread::sleep(Duration::from_millis(10)), false).1));
    assert_eq!(read(at.join("file")), "base");
    lab.ok(&["reset", "other"]);
    lab.ok(&["destroy", "other"]);
    assert_nothing_left(&lab);
}

#[test]
fn kill_9_of_a_create_leaves_nothing() {
    ground!("overlay", "btrfs");
    killed_while_it_is_made(NATIVE);
}

pub fn killed_while_it_is_made(case: Case) {
    let points = case.points(10);
    let lab = case.lab();
    let (base, at) = (lab.base(), lab.at("ci"));
    let args = ["create", "ci", "--base", utf8(&base), "--at", utf8(&at), "--copies", "3", "--owner", "none"];
    let started = Instant::now();
    lab.ok(&args);
    let whole = started.elapsed();
    lab.ok(&["destroy", "ci"]);
    for point in 0..points {
        let mut create =
            lab.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        std::thread::sleep(whole * point / points);
        create.kill().expect("killed");
        create.wait().expect("ended");
        lab.ok(&["reap"]);
        if !lab.names().is_empty() {
            assert_eq!(read(at.join("3/file")), "base", "it was made");
            lab.ok(&["destroy", "ci"]);
        }
        assert_nothing_left(&lab);
    }
}

#[test]
fn kill_9_of_what_makes_clones_in_the_background_leaves_none() {
    ground!("overlay", "btrfs");
    killed_in_the_background(NATIVE);
}

pub fn killed_in_the_background(case: Case) {
    let lab = case.lab();
    create(&lab, utf8(&lab.base()), &["--mode", "native"]);
    let at = lab.at("ci");
    for point in 0..case.points(20) {
        spare(&lab);
        let mut reset = lab.command(&["reset", "ci"]).stdout(Stdio::null()).spawn().expect("it starts");
        assert!(reset.wait().expect("ended").success());
        // The one in the background and this one: whoever comes first makes it.
        let mut sweep =
            lab.command(&["sweep"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        std::thread::sleep(Duration::from_millis(u64::from(point) * 3));
        sweep.kill().expect("killed");
        sweep.wait().expect("ended");
        assert_eq!(read(at.join("file")), "base");
        lab.ok(&["sweep"]);
    }
    lab.ok(&["destroy", "ci"]);
    assert_nothing_left(&lab);
}

#[test]
fn a_durable_one_whose_clone_is_not_found_is_not_shown_as_another() {
    ground!("overlay", "btrfs");
    let lab = subvolume_lab();
    create(&lab, utf8(&lab.base()), &["--durable"]);
    let at = lab.at("ci");
    fs::write(at.join("file"), "kept").expect("written");
    ground::run("umount", &[utf8(&at)]);
    let file = lab.home_dir().join("overlays/ci/1/1/clone");
    let aside = lab.root().join("aside");
    fs::rename(&file, &aside).expect("the generation has it");
    let said = lab.fails(2, &["mount", "ci"]);
    assert!(said.contains("with the changes of overlay ci does not exist"), "{said}");
    assert!(!file.exists(), "what names it is not overwritten");
    fs::rename(&aside, &file).expect("renamed");
    lab.ok(&["mount", "ci"]);
    assert_eq!(read(at.join("file")), "kept");
    lab.ok(&["destroy", "ci"]);
    assert_nothing_left(&lab);
}
