//! What `chattr` sets, through an adoption.

use std::fs::{self, File};
use std::path::Path;

use cowsnap::exec::{Silent, adopt};

use super::Ground;
use crate::ground::{self, ground};

#[test]
fn flags_arrive_where_btrfs_takes_them_and_locked_files_stand_in_no_way() {
    ground!("btrfs");
    let ground = Ground::new();
    // On a filesystem that has them, whatever the temporary directory is on.
    let source = ground::Btrfs::new();
    let dir = source.path().join("chain data");
    fs::create_dir_all(dir.join("locked/in")).expect("mkdir");
    let chattr =
        |flags: &str, path: &str| ground::run("chattr", &[flags.as_ref(), dir.join(path).as_os_str()]);
    for name in ["nocow", "locked/in/file", "log", "quiet"] {
        fs::write(dir.join(name), "").expect("write");
    }
    chattr("+C", "nocow");
    for name in ["nocow", "locked/in/file", "log", "quiet"] {
        fs::write(dir.join(name), vec![7; 300_000]).expect("write");
    }
    fs::hard_link(dir.join("log"), dir.join("log's other name")).expect("link");
    for (flags, path) in
        [("+i", "locked/in/file"), ("+i", "locked"), ("+a", "log"), ("+dA", "quiet"), ("+S", "")]
    {
        chattr(flags, path);
    }
    let flags = |root: &Path| {
        let listed = ground::run("lsattr", &["-Ra".as_ref(), root.as_os_str()]).stdout;
        let listed = String::from_utf8(listed).expect("utf-8");
        let line = |line: &str| line.split_once(root.to_str()?).map(|(f, path)| format!("{f}{path}"));
        let mut lines: Vec<_> = listed.lines().filter_map(line).filter(|l| !l.ends_with("/..")).collect();
        lines.sort();
        lines
    };
    let before = flags(&dir);
    let path = dir.to_str().expect("utf-8");
    let adopt = ["adopt", path, "--to", "tank/chain"];
    chattr("+a", "");
    let words = ground.state.fails(3, &adopt);
    assert!(words.contains(&format!("hint: chattr -ia '{path}'")), "{words}");
    chattr("-a", "");

    ground.state.ok(&adopt);
    assert_eq!(flags(&dir), before);
    ground.state.ok(&["adopt", path, "--discard-old"]);
    assert!(!source.path().join("chain data.cowsnap-old").exists());
    ground::run("umount", &[&dir]);
    ground.end();
}

#[test]
fn a_copy_that_has_its_flags_already_is_gone_on_with() {
    ground!("btrfs");
    let ground = ground::Btrfs::new();
    let (source, target) = (ground.path().join("source"), ground.path().join("target"));
    fs::create_dir_all(source.join("folder")).expect("mkdir");
    fs::create_dir(&target).expect("mkdir");
    let names = ["changed", "folder/changed", "gone", "same"];
    let chattr =
        |flags: &str, name: &str| ground::run("chattr", &[flags.as_ref(), source.join(name).as_os_str()]);
    for name in names {
        fs::write(source.join(name), "before").expect("write");
        chattr("+i", name);
    }
    chattr("+i", "folder");
    let copy = || {
        let tree = adopt::scan(&source).expect("scanned");
        let mut journal = adopt::Journal::open(&ground.path().join("manifest")).expect("a manifest");
        adopt::copy(&source, &tree, &target, &mut journal, &Silent).expect("copied");
        adopt::verify(&source, &tree, &target, &journal, &Silent).expect("verified");
    };
    copy();
    for name in &names[..3] {
        chattr("-i", name);
        fs::write(source.join(name), "after").expect("write");
    }
    fs::remove_file(source.join("gone")).expect("rm");
    chattr("+i", "changed");
    copy();
    assert!(!target.join("gone").exists());
    assert_eq!(fs::read(target.join("folder/changed")).expect("read"), b"after");
    let locked = |name: &str| fs::OpenOptions::new().append(true).open(target.join(name)).is_err();
    assert_eq!(["changed", "folder/changed", "same"].map(locked), [true, false, true]);
    assert!(File::create(target.join("folder/new")).is_err());
}

#[test]
fn a_flag_that_btrfs_does_not_take_is_named() {
    ground!("btrfs", "mkfs.ext4");
    let ground = Ground::new();
    let other = ground::Btrfs::new();
    let (image, source) = (other.outside().join("ext4"), other.outside().join("source"));
    fs::create_dir(&source).expect("mkdir");
    ground::run("truncate", &["-s", "64M", image.to_str().expect("utf-8")]);
    ground::run("mkfs.ext4", &["-q", image.to_str().expect("utf-8")]);
    let places = [image.as_os_str(), source.as_os_str()];
    ground::run("mount", &[&["-o".as_ref(), "loop".as_ref()], &places[..]].concat());
    let dir = source.join("data");
    fs::create_dir_all(dir.join("top")).expect("mkdir");
    ground::run("chattr", &["+Td".as_ref(), dir.join("top").as_os_str()]);
    let path = dir.to_str().expect("utf-8");
    let output = ground.state.run(&["adopt", path, "--to", "tank/chain"]);
    let said = crate::pool::text(&output);
    assert!(
        output.status.success() && said.contains("data/top: the copy does not have its chattr flags T\n"),
        "{said}"
    );
    assert_eq!(said.matches("chattr").count(), 1, "{said}");
    ground.state.ok(&["adopt", path, "--undo"]);
    ground.end();
}
