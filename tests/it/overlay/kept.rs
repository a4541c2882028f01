//! What `run --keep-on-failure` kept of a failed command is an overlay as any other: told, shown, committed, reset.

use std::fs;

use super::fuse::assert_nothing_left;
use super::lab::{Lab, read, text, utf8};
use crate::ground::ground;

fn what_was_kept_is_an_overlay(mode: &str) {
    let lab = Lab::new();
    fs::write(lab.base().join("large"), vec![7; 300_000]).expect("written");
    let base = lab.base();
    let run = ["run", "--base", utf8(&base), "--mode", mode, "--keep-on-failure", "--", "sh", "-c"];
    let script =
        "echo evidence > new; rm symlink; printf x | dd of=large bs=1 seek=100 conv=notrunc 2>&1; exit 3";
    let output = lab.run(&[&run[..], &[script]].concat());
    let said = text(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("cowsnap overlay mount 'run-1' shows the tree again"), "{said}");
    let listed = lab.json(&["list"]);
    assert_eq!(listed["overlays"][0]["name"], "run-1");
    let changes = "M large  300000\nA new  9\nD symlink\n";
    assert_eq!(lab.ok(&["diff", "run-1"]), changes, "{mode}: though it does not show");
    assert!(lab.fails(3, &["commit", "run-1", "early"]).contains("cowsnap overlay mount 'run-1'"));

    let at = lab.ok(&["mount", "run-1"]);
    let at = std::path::Path::new(at.trim());
    let bytes = fs::read(at.join("large")).expect("read");
    assert!(bytes.len() == 300_000 && bytes[100] == b'x' && bytes[101] == 7, "{mode}");
    assert_eq!(read(at.join("new")), "evidence\n");
    assert_eq!(lab.ok(&["mount", "run-1"]), "", "{mode}: it shows already");
    lab.ok(&["commit", "run-1", "failed"]);
    fs::remove_file(at.join("new")).expect("removed");
    lab.ok(&["reset", "run-1"]);
    assert_eq!(read(at.join("new")), "evidence\n");
    lab.ok(&["reset", "run-1", "--to-base"]);
    assert!(!at.join("new").exists() && at.join("symlink").is_symlink(), "{mode}: the base");
    lab.ok(&["destroy", "run-1"]);
    let shown = lab.ok(&["run", "--base", "run-1@failed", "--mode", mode, "--", "cat", "new"]);
    assert_eq!(shown, "evidence\n");
    lab.ok(&["destroy", "run-1@failed"]);
    assert_nothing_left(&lab);
}

#[test]
fn what_was_kept_of_a_failed_command_is_told_shown_and_committed_in_mode_kernel() {
    ground!("overlay", "root");
    what_was_kept_is_an_overlay("kernel");
}

#[test]
fn what_was_kept_of_a_failed_command_is_told_shown_and_committed_in_mode_fuse() {
    ground!("fuse", "root");
    what_was_kept_is_an_overlay("fuse");
}

/// Without a mount before: what was kept goes, and the base shows.
#[test]
fn what_was_kept_is_reset_to_the_base_as_it_is() {
    ground!("overlay", "root");
    let lab = Lab::new();
    let base = lab.base();
    let run = ["run", "--base", utf8(&base), "--mode", "kernel", "--keep-on-failure", "--"];
    assert_eq!(lab.run(&[&run[..], &["sh", "-c", "rm file; exit 1"]].concat()).status.code(), Some(1));
    lab.ok(&["reset", "run-1"]);
    assert_eq!(read(lab.home_dir().join("overlays/run-1/tree/file")), "base");
    lab.ok(&["destroy", "run-1"]);
    lab.assert_nothing_left();
}
