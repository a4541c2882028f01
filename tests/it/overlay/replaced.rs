//! A base in whose place there is another directory, and files of a tree that only the kernel has open.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use super::lab::{Lab, read, utf8};
use crate::ground::{self, ground};

/// Its inode number tells nothing: once nothing has the old one any more, as after a crash of the machine, it is used again.
#[test]
fn a_base_that_was_made_anew_at_its_place_is_refused_whatever_its_inode_number() {
    ground!("overlay", "fuse", "ext4");
    let lab = Lab::on("ext4", &["-q"]);
    let base = lab.root().join("in/base");
    let make = || {
        fs::create_dir_all(&base).expect("made");
        fs::write(base.join("file"), "base").expect("written");
        fs::metadata(&base).expect("examined").ino()
    };
    for mode in ["kernel", "fuse"] {
        let (was, at) = (make(), lab.at("ci"));
        let create = ["create", "ci", "--base", utf8(&base), "--at", utf8(&at), "--mode", mode];
        lab.ok(&create);
        lab.ok(&["reset", "ci"]);
        ground::run("umount", &[&at]);
        ground::waits("nothing to have it", || {
            let _ = fs::remove_dir_all(&base);
            make() == was
        });
        for args in [&["reset", "ci"][..], &["diff", "ci"]] {
            let said = lab.fails(3, args);
            assert!(said.contains("another directory is in its place"), "{mode} {args:?}: {said}");
        }
        lab.ok(&["destroy", "ci"]);
        lab.ok(&create);
        lab.ok(&["destroy", "ci"]);
    }
    lab.assert_nothing_left();
}

/// A loop device on a file, until this is dropped.
struct Attached(String);

impl Attached {
    fn new(file: &Path) -> Self {
        let device = ground::run("losetup", &["-f", "--show", utf8(file)]).stdout;
        Self(String::from_utf8(device).expect("utf-8").trim().to_owned())
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

#[test]
fn a_loop_device_that_has_a_file_of_the_tree_is_one_who_uses_it() {
    ground!("overlay", "fuse", "loop");
    let lab = Lab::new();
    for mode in ["kernel", "fuse"] {
        let at = lab.create("ci", &["--mode", mode]);
        fs::write(at.join("image"), vec![0; 1 << 20]).expect("written");
        let image = at.join("image");
        let attached = Attached::new(&image);
        let device = attached.0.clone();
        let refused = [&["reset", "ci"][..], &["reset", "--kill", "ci"], &["destroy", "ci"]]
            .map(|args| lab.fails(3, args));
        let there = image.exists();
        drop(attached);
        for said in refused {
            assert!(said.contains(&format!("{device} has {} open", image.display())), "{mode}: {said}");
            assert!(said.contains(&format!("losetup -d {device}")), "{mode}: {said}");
        }
        assert!(there, "{mode}: nothing was changed");
        ground::waits("the device to let go", || lab.run(&["reset", "ci"]).status.success());
        assert!(!image.exists() && read(at.join("file")) == "base", "{mode}");
        lab.ok(&["destroy", "ci"]);
    }
    lab.assert_nothing_left();
}
