//! What lies below an overlay is looked at before it is made, whatever it is: a first write may copy a large file of it.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::lab::{Lab, text, utf8};
use crate::ground::{self, Btrfs, Plain, ground};

const USER: &str = "64321";

fn large(file: &Path) {
    fs::File::create(file).expect("made").set_len(200 << 20).expect("set");
}

/// What is said of an overlay on `base`, which is not made.
fn said(lab: &Lab, base: &str, mode: &str) -> String {
    let at = lab.at("said");
    let args = ["create", "said", "--base", base, "--at", utf8(&at), "--mode", mode, "--dry-run"];
    let output = lab.run(&args);
    assert!(output.status.success(), "{}", text(&output));
    text(&output)
}

#[test]
fn a_large_file_of_a_layer_is_seen() {
    ground!("fuse", "overlay", "ext4");
    let lab = Lab::on("ext4", &["-q"]);
    let at = lab.create("l", &["--mode", "kernel", "--owner", "none"]);
    large(&at.join("dir/database"));
    lab.ok(&["commit", "l", "one"]);
    let auto = said(&lab, "l@one", "auto");
    assert!(auto.contains("mode fuse") && auto.contains("only the blocks it touches"), "{auto}");
    let kernel = said(&lab, "l@one", "kernel");
    assert!(kernel.contains("l@one/dir/database has 200 MiB"), "{kernel}");
    lab.ok(&["destroy", "l"]);
    lab.ok(&["destroy", "l@one"]);
    lab.assert_nothing_left();
}

#[test]
fn a_large_file_of_a_snapshot_is_seen_whatever_filesystem_the_home_is_on() {
    ground!("overlay", "btrfs", "ext4");
    let (lab, disk) = (Lab::on("ext4", &["-q"]), Btrfs::new());
    let data = disk.subvolume("data");
    large(&data.join("database"));
    let snapshot = format!("{}@one", utf8(&data));
    let state = disk.outside().join("state");
    let taken = ground::cowsnap(&state).args(["snapshot", utf8(&data), "--name", "one"]).output();
    let taken = taken.expect("it runs");
    assert!(taken.status.success(), "{}", text(&taken));
    // What counts is the snapshot, not what became of its dataset.
    fs::remove_file(data.join("database")).expect("removed");
    let kernel = said(&lab, &snapshot, "kernel");
    assert!(kernel.contains(&format!("{snapshot}/database has 200 MiB")), "{kernel}");
    let native = said(&lab, &snapshot, "auto");
    assert!(native.contains("mode native") && !native.contains("MiB"), "{native}");
    // On one filesystem they share blocks.
    let home = disk.path().join("home");
    let at = lab.at("said");
    let args = ["--base", &snapshot, "--at", utf8(&at), "--mode", "kernel", "--dry-run"];
    let shared = lab.run(&[&["--home", utf8(&home), "create", "said"][..], &args].concat());
    assert!(shared.status.success() && !text(&shared).contains("MiB"), "{}", text(&shared));
    assert_eq!(lab.mounts(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_large_file_of_a_plain_directorys_snapshot_is_seen() {
    ground!("overlay", "xfs", "ext4");
    let (lab, disk) = (Lab::on("ext4", &["-q"]), Plain::xfs());
    let data = disk.path().join("data");
    fs::create_dir(&data).expect("made");
    large(&data.join("database"));
    let taken = ground::cowsnap(&disk.outside().join("state"))
        .args(["snapshot", utf8(&data), "--name", "one"])
        .output()
        .expect("it runs");
    assert!(taken.status.success(), "{}", text(&taken));
    let kernel = said(&lab, &format!("{}@one", utf8(&data)), "kernel");
    assert!(kernel.contains("@one/database has 200 MiB"), "{kernel}");
}

#[test]
fn files_that_can_not_be_read_are_not_taken_for_cheap() {
    ground!("overlay", "userns", "setpriv", "ext4");
    let lab = Lab::on("ext4", &["-q"]);
    large(&lab.base().join("database"));
    ground::run("chmod", &["o+rx", utf8(lab.root()), utf8(&lab.base())]);
    ground::run("find", &[utf8(&lab.base()), "-type", "f", "-exec", "chmod", "000", "{}", "+"]);
    fs::create_dir(lab.home_dir()).expect("made");
    ground::run("chown", &[USER, utf8(&lab.home_dir())]);
    let output = Command::new("setpriv")
        .args(["--reuid", USER, "--regid", USER, "--clear-groups", env!("CARGO_BIN_EXE_cowsnap")])
        .args(["overlay", "--home", utf8(&lab.home_dir()), "run", "--mode", "kernel", "--base"])
        .args([utf8(&lab.base()), "--", "true"])
        .output()
        .expect("setpriv runs");
    assert!(output.status.success(), "{}", text(&output));
    let said = text(&output);
    assert!(said.contains("may copy all of it") && said.contains("database has 200 MiB"), "{said}");
}
