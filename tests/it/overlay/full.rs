//! A disk that a suite filled to the last block: a reset gives the tree back, and the space.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;

use cowsnap::endpoint::Error;
use cowsnap::endpoint::overlay::{Home, base, fuse};
use cowsnap::exec::overlay::reset::{Request, reset};
use cowsnap::exec::overlay::{New, Step, Survivors, create};
use cowsnap::model::overlay::Mode;
use rustix::fs::FallocateFlags;

use super::killed::{killed, mode_called};
use super::lab::{Lab, read, utf8};
use crate::ground::{self, ground};

/// Fills the filesystem of `dir` by the file `dir/full`, but for so many of its blocks.
fn fill(dir: &Path, but: u64) {
    let file = File::create(dir.join("full")).expect("made");
    let found = || rustix::fs::statvfs(dir).expect("examined");
    let (block, mut at) = (found().f_bsize, 0);
    let mut piece = found().f_bfree.max(1).next_power_of_two() * block;
    while piece >= block {
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), at, piece) {
            Ok(()) => at += piece,
            Err(_) => piece /= 2,
        }
    }
    // What is left below a whole block of the file is taken by files of none.
    rustix::fs::ftruncate(&file, at.saturating_sub(but * block)).expect("cut");
    rustix::fs::syncfs(file.as_fd()).expect("synced");
}

fn do_verb(
    verb: &str,
    mode: Mode,
    root: &Path,
    before: &mut dyn FnMut(Step) -> Result<(), Error>,
) -> Result<(), Error> {
    // This program has no command to serve with.
    fuse::daemon::set_program(env!("CARGO_BIN_EXE_cowsnap").into());
    let home = Home::open(&root.join("home"))?;
    let name: cowsnap::model::overlay::OverlayName = "ci".parse().expect("a name");
    if verb == "reset" {
        let request = Request { copies: None, layers: None, survivors: Survivors::Refuse };
        return reset(&home, &name, &request, before).map(drop);
    }
    let new = New {
        name,
        base: base::of_dir(&root.join("base"))?,
        at: root.join("mnt/ci"),
        copies: 1,
        mode: Some(mode),
        owner: None,
        durable: false,
        layers: Vec::new(),
        more: Default::default(),
    };
    create(&home, &new, before).map(drop)
}

killed!(kill_doing, child_that_dies_while_it_works, |verb, root, die| {
    let (verb, mode) = verb.split_once(' ').expect("a verb and a mode");
    do_verb(verb, mode_called(mode), root, die)
});

/// The modes of which this machine has the ground.
fn modes() -> Vec<Mode> {
    let grounds = [("overlay", Mode::Kernel), ("fuse", Mode::Fuse), ("overlay", Mode::Copy)];
    grounds.into_iter().filter(|(what, _)| ground::lacking(what).is_none()).map(|(_, mode)| mode).collect()
}

fn lab(mode: Mode) -> Lab {
    let lab = Lab::on("ext4", &["-q", "-F"]);
    if mode == Mode::Copy {
        // So much that there is no room for two of them in what is left.
        fs::write(lab.base().join("large"), vec![7; 4 << 20]).expect("written");
    }
    do_verb("create", mode, lab.root(), &mut cowsnap::exec::overlay::unhindered).expect("made");
    lab
}

fn assert_whole(lab: &Lab, what: &str) {
    // What is not needed for the reset itself is destroyed in the background; its space comes back once whoever does that has let go of
    // the old mount, which is after its last name is gone.
    assert!(lab.sweep(), "{what}");
    ground::waits("the space of the old tree to come back", || {
        let found = rustix::fs::statvfs(lab.root()).expect("examined");
        found.f_bavail * 2 > found.f_blocks
    });
    let at = lab.root().join("mnt/ci");
    assert_eq!((read(at.join("file")), at.join("full").exists()), ("base".into(), false), "{what}");
    fs::write(at.join("file"), "changed").expect("there is space again");
    fs::create_dir(at.join("dir/new")).expect("made");
}

#[test]
fn a_reset_on_a_full_disk_gives_the_tree_back_and_the_space() {
    ground!("overlay", "loop", "mkfs.ext4");
    for mode in modes() {
        let lab = lab(mode);
        for blocks in 0..14 {
            let what = format!("{mode}, {blocks} blocks free");
            fill(&lab.root().join("mnt/ci"), blocks);
            lab.ok(&["reset", "ci"]);
            assert_whole(&lab, &what);
            assert_eq!(lab.ok(&["reap"]), "nothing to reap\n", "{what}");
        }
        lab.ok(&["destroy", "ci"]);
        lab.assert_nothing_left();
    }
}

#[test]
fn a_reset_on_a_full_disk_that_is_killed_at_any_step_is_done_by_the_next_one() {
    ground!("overlay", "loop", "mkfs.ext4");
    for mode in modes() {
        let lab = lab(mode);
        for step in [Step::Base, Step::Generation, Step::Room, Step::Swap, Step::Record, Step::Discard] {
            fill(&lab.root().join("mnt/ci"), 0);
            kill_doing(&lab, &format!("reset {mode}"), step);
            assert_eq!(lab.ok(&["reap"]), "nothing to reap\n", "{mode} {step:?}");
            lab.ok(&["reset", "ci"]);
            assert_whole(&lab, &format!("{mode} {step:?}"));
        }
        lab.ok(&["destroy", "ci"]);
        lab.assert_nothing_left();
    }
}

/// What was discarded before is in the way of nothing.
#[test]
fn what_waits_to_be_destroyed_goes_first_and_the_old_tree_shows_until_there_is_a_new_one() {
    ground!("overlay", "loop", "mkfs.ext4");
    let lab = lab(Mode::Kernel);
    let waits = lab.home_dir().join("trash/4711");
    fs::create_dir(&waits).expect("made");
    fill(&waits, 0);
    let mut is_needed = |step| match step {
        Step::Room => panic!("there was room"),
        _ => Ok(()),
    };
    do_verb("reset", Mode::Kernel, lab.root(), &mut is_needed).expect("reset");
    assert_whole(&lab, "kernel");
    assert!(!waits.exists());
    lab.ok(&["destroy", "ci"]);
    lab.assert_nothing_left();
}

/// A bind of mode fuse is promised the new tree: it is never left with one that went.
#[test]
fn a_bind_of_mode_fuse_keeps_the_old_tree_from_going_before_there_is_a_new_one() {
    ground!("overlay", "fuse", "root", "loop", "mkfs.ext4");
    let lab = lab(Mode::Fuse);
    let (at, bind) = (lab.root().join("mnt/ci"), lab.root().with_file_name("bind"));
    fs::create_dir(&bind).expect("made");
    ground::run("mount", &["--bind", utf8(&at), utf8(&bind)]);
    fill(&at, 0);
    for how in [&[][..], &["--force"], &["--kill"]] {
        let why = lab.fails(3, &[&["reset", "ci"], how].concat());
        assert!(why.contains("the disk is full") && why.contains("it is bound at"), "{why}");
        assert!(at.join("full").exists() && bind.join("full").exists(), "{how:?}");
    }
    assert!(lab.mounts().contains(&bind), "the bind was taken away");
    ground::run("umount", &[utf8(&bind)]);
    lab.ok(&["reset", "ci"]);
    assert_whole(&lab, "without the bind");
    lab.ok(&["destroy", "ci"]);
    lab.assert_nothing_left();
}

/// Once the old tree is gone, a reason to stop is none any more.
#[test]
fn what_can_not_be_destroyed_keeps_no_tree_from_showing_on_a_full_disk() {
    ground!("overlay", "loop", "mkfs.ext4");
    let lab = lab(Mode::Kernel);
    let stuck = lab.home_dir().join("trash/4711");
    fs::create_dir(&stuck).expect("made");
    fs::write(stuck.join("file"), "x").expect("written");
    ground::run("chattr", &["+i", utf8(&stuck.join("file"))]);
    fill(&lab.root().join("mnt/ci"), 0);
    lab.ok(&["reset", "ci"]);
    assert_eq!(read(lab.root().join("mnt/ci/file")), "base");
    assert!(stuck.exists());
    ground::run("chattr", &["-i", utf8(&stuck.join("file"))]);
    assert_whole(&lab, "kernel");
    lab.ok(&["destroy", "ci"]);
    lab.assert_nothing_left();
}
