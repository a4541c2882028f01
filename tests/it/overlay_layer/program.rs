//! Layers through the program, on overlays of the kernel as it makes them.

use std::fs;

use crate::ground::{ground, run};
use crate::overlay::lab::{Lab, utf8};

#[test]
fn a_diff_tells_what_a_suite_changed_and_a_reset_makes_it_empty() {
    ground!("overlay");
    let lab = Lab::new();
    let at = lab.create("ci", &["--mode", "kernel"]);
    assert_eq!(lab.ok(&["diff", "ci"]), "");
    fs::write(at.join("dir/deep/file"), "deeper").expect("written");
    fs::rename(at.join("symlink"), at.join("dir/moved")).expect("renamed");
    fs::rename(at.join("dir/deep"), at.join("shallow")).expect("renamed");
    fs::write(at.join("a\nb"), "").expect("written");
    assert_eq!(
        lab.ok(&["diff", "ci"]),
        "A a\\nb  0\nR symlink -> dir/moved\nR dir/deep -> shallow\nM shallow/file  4 -> 6\n"
    );
    let json = lab.json(&["diff", "ci"]);
    let last = json["changes"].as_array().and_then(|all| all.last()).expect("a change");
    assert_eq!((&last["change"], &last["size"]["before"]), (&"M".into(), &4.into()), "{last}");
    let fields = lab.run(&["diff", "ci", "-0"]).stdout;
    assert!(fields.starts_with(b"A\0a\nb\0R\0dir/moved\0symlink\0"), "{}", fields.escape_ascii());
    lab.ok(&["reset", "ci"]);
    assert_eq!(lab.ok(&["diff", "ci"]), "");
    lab.ok(&["destroy", "ci"]);
    lab.assert_nothing_left();
}

#[test]
fn a_diff_is_of_one_copy_and_of_overlays_that_keep_changes_apart() {
    ground!("overlay");
    let lab = Lab::new();
    let at = lab.create("ci", &["--mode", "kernel", "--copies", "2"]);
    fs::write(at.join("2/file"), "base").expect("written");
    assert_eq!(lab.ok(&["diff", "ci"]), "");
    assert_eq!(lab.ok(&["diff", "ci", "--copy", "2"]), "M file  4\n");
    assert_eq!(lab.ok(&["diff", "ci", "--copy", "2", "--content"]), "");
    assert!(lab.fails(2, &["diff", "ci", "--copy", "3"]).contains("3 of overlay ci, which has 2"));
    assert!(lab.fails(2, &["diff", "none"]).contains("none"));
    lab.create("same", &["--mode", "disabled"]);
    let why = lab.fails(2, &["diff", "same"]);
    assert!(why.contains("keeps its changes apart"), "{why}");
    lab.ok(&["destroy", "--all"]);
}

/// The kernel does not show it in the overlay, and a look at the base does not go into it.
#[test]
fn what_is_mounted_in_the_base_is_no_part_of_a_diff() {
    ground!("overlay");
    let lab = Lab::new();
    fs::write(lab.base().join("dir/deep/below"), "hidden").expect("written");
    run("mount", &["-t", "tmpfs", "tmpfs", utf8(&lab.base().join("dir/deep"))]);
    let at = lab.create("ci", &["--mode", "kernel"]);
    fs::rename(at.join("dir"), at.join("renamed")).expect("renamed");
    fs::write(at.join("renamed/deep/below"), "found!").expect("written");
    assert_eq!(lab.ok(&["diff", "ci"]), "R dir -> renamed\nM renamed/deep/below  6\n");
    lab.ok(&["destroy", "ci"]);
}
