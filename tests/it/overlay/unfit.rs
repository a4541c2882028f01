//! What can not be an overlay is refused with the reason, and nothing is made.

use std::fs;

use super::lab::{Lab, utf8};
use crate::ground::{self, ground};

#[test]
fn a_home_that_can_hold_no_layers_is_refused_with_the_reason() {
    ground!("overlay");
    let lab = Lab::new();
    let outer = lab.create("outer", &[]);
    let (base, home, at) = (lab.base(), outer.join("home"), lab.at("inner"));
    let said =
        lab.fails(2, &["--home", utf8(&home), "create", "ci", "--base", utf8(&base), "--at", utf8(&at)]);
    assert!(said.contains("its filesystem is overlayfs"), "{said}");
    assert!(!at.exists());
    lab.ok(&["destroy", "outer"]);
}

#[test]
fn an_overlay_lies_on_an_overlay_as_far_as_the_kernel_goes() {
    ground!("overlay");
    let lab = Lab::new();
    let first = lab.create("first", &[]);
    let create = |name: &str, base: &str| {
        let at = lab.at(name);
        lab.run(&["create", name, "--base", base, "--at", utf8(&at), "--mode", "kernel"])
    };
    assert!(create("second", utf8(&first)).status.success());
    let third = create("third", utf8(&lab.at("second")));
    let said = super::lab::text(&third);
    assert!(third.status.code() == Some(3) && said.contains("at most two deep"), "{said}");
    assert_eq!(lab.names(), ["first", "second"], "a refused one leaves nothing");
    lab.ok(&["destroy", "second", "first"]);
    lab.assert_nothing_left();
}

#[test]
fn what_would_lie_on_itself_or_hide_something_is_refused() {
    ground!("overlay");
    let lab = Lab::new();
    let root = lab.root().to_owned();
    fs::create_dir(root.join("full")).expect("made");
    fs::write(root.join("full/file"), "precious").expect("written");
    let base = lab.base();
    let refused = |base: &std::path::Path, at: &std::path::Path, why: &str| {
        let said = lab.fails(3, &["create", "ci", "--base", utf8(base), "--at", utf8(at)]);
        assert!(said.contains(why), "{said}");
    };
    refused(&root, &std::env::temp_dir().join("cowsnap-nowhere"), "lies in the base");
    refused(&base, &base.join("dir/deep"), "lie in one another");
    refused(&base, &base, "lie in one another");
    refused(&base, &root.join("full"), "not empty");
    refused(&base, &lab.home_dir().join("overlays/x"), "lies in the home");
    refused(&base, &lab.home_dir().join("trash/1"), "lies in the home");
    refused(&base, &base.join("../full/file"), "not a directory");
    lab.fails(2, &["create", "ci", "--base", utf8(&root.join("none")), "--at", utf8(&root.join("x"))]);
    lab.fails(2, &["create", "a b", "--base", utf8(&base), "--at", utf8(&root.join("x"))]);
    lab.fails(
        2,
        &["create", "ci", "--base", utf8(&base), "--at", utf8(&root.join("x")), "--owner", "4194305"],
    );
    lab.fails(2, &["create", "ci", "--base", utf8(&base), "--at", utf8(&root.join("x")), "--mode", "magic"]);
    assert_eq!(lab.names(), [""; 0]);
    let at = lab.create("ci", &[]);
    let said = lab.fails(3, &["create", "ci", "--base", utf8(&base), "--at", utf8(&lab.at("other"))]);
    assert!(said.contains("overlay ci exists already"), "{said}");
    // The place of another overlay is not empty.
    refused(&base, &at, "exists already");
    lab.fails(3, &["create", "other", "--base", utf8(&base), "--at", utf8(&at)]);
    lab.fails(2, &["reset", "none"]);
    lab.fails(2, &["destroy", "none"]);
    lab.fails(2, &["reset", "ci", "--force", "--kill"]);
    lab.ok(&["destroy", "ci"]);
    lab.assert_nothing_left();
}

#[test]
fn a_base_in_whose_place_another_one_is_is_noticed() {
    ground!("overlay");
    let lab = Lab::new();
    let at = lab.create("ci", &[]);
    fs::rename(lab.base(), lab.root().join("moved")).expect("moved");
    assert!(lab.fails(2, &["reset", "ci"]).contains("base"));
    fs::create_dir(lab.base()).expect("made");
    assert!(lab.fails(3, &["reset", "ci"]).contains("another directory is in its place"));
    assert_eq!(super::lab::read(at.join("file")), "base", "it shows what it showed");
    lab.ok(&["destroy", "ci"]);
    lab.assert_nothing_left();
}

#[test]
fn what_is_mounted_in_the_base_is_said_not_to_show() {
    ground!("overlay");
    let lab = Lab::new();
    let inner = lab.base().join("dir/deep");
    ground::run("mount", &["-t", "tmpfs", "none", utf8(&inner)]);
    let (base, at) = (lab.base(), lab.at("ci"));
    let made = lab.json(&["create", "ci", "--base", utf8(&base), "--at", utf8(&at)]);
    let warning = made["warnings"][0].as_str().expect("a warning");
    assert!(warning.contains(utf8(&inner)), "{warning}");
    lab.ok(&["destroy", "ci"]);
}

#[test]
fn without_the_right_to_mount_it_is_exit_6_with_what_to_do() {
    ground!("overlay", "setpriv");
    let lab = Lab::new();
    let program = env!("CARGO_BIN_EXE_cowsnap");
    let output = std::process::Command::new("setpriv")
        .args(["--bounding-set=-sys_admin", "--inh-caps=-sys_admin", program, "overlay", "--home"])
        .arg(lab.home_dir())
        .args(["create", "ci", "--base"])
        .arg(lab.base())
        .arg("--at")
        .arg(lab.at("ci"))
        .output()
        .expect("setpriv runs");
    let said = super::lab::text(&output);
    assert!(output.status.code() == Some(6) && said.contains("cowsnap overlay run"), "{said}");
    lab.assert_nothing_left();
}

#[test]
fn disabled_is_the_base_itself() {
    ground!("overlay");
    let lab = Lab::new();
    let at = lab.create("ci", &["--mode", "disabled"]);
    fs::write(at.join("file"), "changed").expect("written");
    lab.ok(&["reset", "ci"]);
    assert_eq!(super::lab::read(lab.base().join("file")), "changed");
    lab.ok(&["destroy", "ci"]);
    assert!(!at.exists() && lab.base().join("file").exists());
    lab.assert_nothing_left();
}
