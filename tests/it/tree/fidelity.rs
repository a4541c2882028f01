//! What is taken, cloned and rolled back to is the directory, bit for bit.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use cowsnap::endpoint::{Backend, RollbackRequest};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps};

use super::lab::{content, made, name, take, tree};
use crate::ground::{Btrfs, Plain, ground, run};
use crate::tree_compare::{Also, assert_same, describe};

/// All that a file can be, and names that no list of lines can hold.
fn fill(root: &Path) {
    let at = |name: &[u8]| root.join(std::ffi::OsStr::from_bytes(name));
    fs::create_dir_all(root.join("deep/er")).expect("mkdir");
    for n in 0..100 {
        fs::write(root.join(format!("deep/{n}")), format!("file {n}")).expect("written");
    }
    fs::write(at(b"line\nbreak \xff\\x41"), "odd").expect("written");
    fs::write(root.join("empty"), "").expect("written");
    let sparse = File::create(root.join("sparse")).expect("made");
    sparse.set_len(9 << 20).expect("extended");
    sparse.write_all_at(b"data", 4 << 20).expect("written");
    fs::hard_link(root.join("deep/1"), root.join("linked")).expect("linked");
    fs::hard_link(root.join("deep/1"), root.join("deep/er/again")).expect("linked");
    symlink("nowhere/at\nall", root.join("dangling")).expect("linked");
    fs::write(root.join("program"), "#!/bin/sh").expect("written");
    rustix::fs::chown(root.join("program"), Some(rustix::fs::Uid::from_raw(7)), None).expect("chown");
    rustix::fs::chmod(root.join("program"), Mode::from_raw_mode(0o4755)).expect("chmod");
    for (name, kind, device) in [
        ("fifo", FileType::Fifo, 0),
        ("socket", FileType::Socket, 0),
        ("zero", FileType::CharacterDevice, rustix::fs::makedev(1, 5)),
        ("block", FileType::BlockDevice, rustix::fs::makedev(7, 200)),
    ] {
        rustix::fs::mknodat(CWD, root.join(name), kind, Mode::RUSR, device).expect("mknod");
    }
    let path = |name: &str| root.join(name).to_str().expect("utf-8").to_owned();
    run("setfattr", &["-n", "user.note", "-v", "a value", &path("deep/2")]);
    run("setfattr", &["-n", "trusted.note", "-v", &"long".repeat(100), &path("deep")]);
    run("setfattr", &["-h", "-n", "trusted.link", "-v", "on a link", &path("dangling")]);
    run("setfacl", &["-m", "u:7:rwx,d:u:8:rx", &path("deep/er")]);
    run("setfacl", &["-m", "u:9:r", &path("deep/3")]);
    run("setcap", &["cap_net_raw=ep", &path("deep/4")]);
    run("chattr", &["+dA", &path("deep/5")]);
    fs::create_dir(root.join("locked")).expect("mkdir");
    rustix::fs::chmod(root.join("locked"), Mode::empty()).expect("chmod");
    let old = Timespec { tv_sec: 1, tv_nsec: 123_456_789 };
    let times = Timestamps { last_access: old, last_modification: old };
    for name in ["deep/6", "deep/er", "dangling", "fifo"] {
        rustix::fs::utimensat(CWD, root.join(name), &times, AtFlags::SYMLINK_NOFOLLOW).expect("times");
    }
    fs::create_dir(root.join("without")).expect("mkdir");
    fs::write(root.join("without/acl"), "x").expect("written");
    run("setfacl", &["-R", "-b", &path("without")]);
    run("setfacl", &["-m", "d:u:11:rwx", root.to_str().expect("utf-8")]);
}

const ALL: Also = Also { holes: true, flags: true };

/// Whether reading changes when things were last read: comparing must not.
fn let_times_be(of: &Path, noatime: bool) {
    let option = if noatime { "remount,noatime" } else { "remount,strictatime" };
    run("mount", &["-o", option, of.to_str().expect("utf-8")]);
}

fn check(mounted: &Path, base: &Path, copying: bool, also: Also) {
    // What the directory above would give to everything that is made in it must not get into copies.
    run("setfacl", &["-m", "d:u:12:rwx,d:g:13:x", base.to_str().expect("utf-8")]);
    let live = base.join("it's a tree");
    drop(made(&live));
    fill(&live);
    let dataset = tree(&live).copying(copying);
    let_times_be(mounted, true);
    let before = describe(&live, also);
    let_times_be(mounted, false);
    take(&dataset, "first");
    let_times_be(mounted, true);
    for (path, line) in describe(&live, also) {
        // Of a symbolic link alone no read goes unnoticed.
        let same = before.get(&path) == Some(&line) || path == Path::new("dangling");
        assert!(same, "{path:?} was {:?} and is {line} after it was taken", before.get(&path));
    }
    let version = take(&dataset, "s");
    assert_same(&live, &content(base, "it%27s%20a%20tree", "s"), also, "the snapshot");
    let clone = tree(&base.join("clone")).copying(copying);
    dataset.clone_at(&version.id, &clone).expect("cloned");
    assert_same(&live, &clone.path(), also, "the clone");
    fs::remove_file(live.join("deep/7")).expect("removed");
    fs::write(live.join("deep/8"), "other").expect("written");
    let replaced = describe(&live, also);
    let request = RollbackRequest { keep_as: Some(name("kept")), ..RollbackRequest::default() };
    dataset.rollback(&version.id, &request).expect("rolled back");
    assert_same(&clone.path(), &live, also, "what it is after going back");
    let kept = content(base, "it%27s%20a%20tree", "kept");
    assert_eq!(fs::read(kept.join("deep/8")).expect("kept"), b"other");
    assert!(!kept.join("deep/7").exists());
    assert!(describe(&kept, also) == replaced, "what was replaced is kept as it was");
}

#[test]
fn on_xfs_everything_is_as_it_was() {
    ground!("xfs", "setfacl", "setfattr", "setcap");
    let ground = Plain::xfs();
    check(&ground.path(), &ground.path(), false, ALL);
}

#[test]
fn on_ext4_everything_is_as_it_was() {
    ground!("ext4", "setfacl", "setfattr", "setcap");
    // The flag of how a file's blocks are found differs, and is not the user's.
    let ground = Plain::ext4();
    check(&ground.path(), &ground.path(), true, Also { holes: true, flags: false });
}

#[test]
fn inside_a_btrfs_subvolume_everything_is_as_it_was() {
    ground!("btrfs", "setfacl", "setfattr", "setcap");
    let ground = Btrfs::new();
    let sub = ground.subvolume("sub");
    check(&ground.path(), &sub, false, ALL);
    let live = sub.join("nocow");
    drop(made(&live));
    fs::write(live.join("database"), "").expect("written");
    run("chattr", &["+C", live.join("database").to_str().expect("utf-8")]);
    fs::write(live.join("database"), "x".repeat(1 << 20)).expect("written");
    take(&tree(&live), "s");
    assert_same(&live, &content(&sub, "nocow", "s"), ALL, "a file that is written in place");
}

#[test]
fn a_snapshot_of_many_bytes_takes_none_where_blocks_are_shared() {
    ground!("xfs");
    let ground = Plain::xfs();
    let live = ground.path().join("t");
    let dataset = made(&live);
    fs::write(live.join("large"), vec![7; 100 << 20]).expect("written");
    let free = || rustix::fs::statvfs(ground.path()).expect("statvfs");
    run("sync", &["-f", live.to_str().expect("utf-8")]);
    let before = free();
    for n in 0..20 {
        take(&dataset, &format!("s{n}"));
    }
    let after = free();
    let taken = (before.f_bfree - after.f_bfree) * after.f_frsize;
    assert!(taken < 10 << 20, "20 snapshots of 100 MiB take {taken} bytes");
}

#[test]
fn locked_files_are_taken_and_destroyed_again() {
    ground!("xfs");
    let ground = Plain::xfs();
    let live = ground.path().join("t");
    let dataset = made(&live);
    fs::create_dir(live.join("d")).expect("mkdir");
    fs::write(live.join("d/f"), "x").expect("written");
    let path = |name: &str| live.join(name).to_str().expect("utf-8").to_owned();
    run("chattr", &["+i", &path("d/f")]);
    run("chattr", &["+a", &path("d")]);
    let version = take(&dataset, "s");
    assert_same(&live, &content(&ground.path(), "t", "s"), ALL, "with flags that lock");
    cowsnap::endpoint::History::destroy(&dataset, &version.id).expect("destroyed");
    assert!(!super::lab::store(&ground.path()).exists(), "nothing is left once the last version went");
    run("chattr", &["-a", &path("d")]);
    run("chattr", &["-i", &path("d/f")]);
}
