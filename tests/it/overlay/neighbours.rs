//! What lies beside an overlay, is bound from it or shows it a second time, is named or left alone.

use std::fs;
use std::process::Command;

use cowsnap::endpoint::overlay::Home;

use super::lab::{Lab, Process, read, text, utf8};
use crate::ground::{self, ground};

#[test]
fn who_bound_a_part_of_it_elsewhere_is_named_and_keeps_the_bind() {
    ground!("overlay");
    let lab = Lab::new();
    let at = lab.create("ci", &["--mode", "kernel"]);
    let elsewhere = lab.root().join("elsewhere");
    fs::create_dir(&elsewhere).expect("made");
    for part in [at.join("dir"), at.clone()] {
        ground::run("mount", &["--bind", utf8(&part), utf8(&elsewhere)]);
        assert_eq!(lab.ok(&["reap"]), "nothing to reap\n", "a bind is somebody's");
        for verb in ["reset", "destroy"] {
            let said = lab.fails(3, &[verb, "ci"]);
            assert!(said.contains(&format!("it is bound at {}", elsewhere.display())), "{said}");
        }
        fs::write(at.join("file"), "changed").expect("written");
        lab.ok(&["reset", "ci", "--force"]);
        assert_eq!(read(at.join("file")), "base");
        assert_eq!(lab.ok(&["reap"]), "nothing to reap\n");
        ground::run("umount", &[utf8(&elsewhere)]);
        lab.ok(&["reset", "ci"]);
    }
    lab.ok(&["destroy", "ci"]);
    lab.assert_nothing_left();
}

#[test]
fn a_destroy_that_is_refused_as_something_lies_over_it_leaves_the_overlay_as_it_was() {
    ground!("overlay", "fuse");
    for mode in ["kernel", "fuse", "copy"] {
        let lab = Lab::new();
        let at = lab.create("ci", &["--mode", mode, "--copies", "3", "--owner", "none"]);
        fs::write(at.join("1/file"), "changed").expect("written");
        let other = lab.root().join("other");
        fs::create_dir(&other).expect("made");
        ground::run("mount", &["--bind", utf8(&other), utf8(&at.join("2"))]);
        let said = lab.fails(3, &["destroy", "ci"]);
        ground::run("umount", &[utf8(&at.join("2"))]);
        assert!(said.contains("mounted over it"), "{mode}: {said}");
        assert_eq!(lab.ok(&["reap"]), "nothing to reap\n", "{mode}");
        assert_eq!(read(at.join("1/file")), "changed", "{mode}");
        lab.ok(&["reset", "ci"]);
        assert_eq!(read(at.join("1/file")), "base", "{mode}");
        lab.ok(&["destroy", "ci"]);
        lab.assert_nothing_left();
    }
}

#[test]
fn files_are_open_in_mode_fuse_up_to_each_caller_s_own_limit() {
    ground!("overlay", "fuse");
    let lab = Lab::new();
    // The limit of who made it is not that of all who use it.
    let made = Command::new("sh")
        .args(["-c", "ulimit -Sn 64; exec \"$@\"", "sh"])
        .arg(lab.command(&[]).get_program())
        .args(
            lab.command(&[
                "create",
                "ci",
                "--mode",
                "fuse",
                "--at",
                utf8(&lab.at("ci")),
                "--base",
                utf8(&lab.base()),
            ])
            .get_args(),
        )
        .envs(lab.command(&[]).get_envs().filter_map(|(name, value)| Some((name, value?))))
        .output()
        .expect("it runs");
    assert!(made.status.success(), "{}", text(&made));
    let open = |nth: usize| fs::File::create(lab.at("ci").join(format!("f{nth}")));
    let files: Vec<_> = (0..200).map(|nth| open(nth).expect("opened")).collect();
    drop(files);
    lab.ok(&["destroy", "ci"]);
    lab.assert_nothing_left();
}

#[test]
fn a_bind_of_mode_fuse_shows_what_a_reset_gives_back() {
    ground!("overlay", "fuse");
    let lab = Lab::new();
    let at = lab.create("ci", &["--mode", "fuse"]);
    let elsewhere = lab.root().join("elsewhere");
    fs::create_dir(&elsewhere).expect("made");
    ground::run("mount", &["--bind", utf8(&at), utf8(&elsewhere)]);
    fs::write(at.join("file"), "changed").expect("written");
    lab.ok(&["reset", "ci"]);
    assert_eq!((read(at.join("file")), read(elsewhere.join("file"))), ("base".into(), "base".into()));
    assert!(lab.fails(3, &["destroy", "ci"]).contains("it is bound at"));
    ground::run("umount", &[utf8(&elsewhere)]);
    lab.ok(&["destroy", "ci"]);
}

#[test]
fn where_mounts_are_shared_all_places_follow_and_a_reap_takes_none_away() {
    ground!("overlay");
    let lab = Lab::new();
    let (shared, peer) = (lab.root().join("mnt"), lab.root().join("peer"));
    fs::create_dir(&shared).expect("made");
    fs::create_dir(&peer).expect("made");
    ground::run("mount", &["--bind", utf8(&shared), utf8(&shared)]);
    ground::run("mount", &["--make-shared", utf8(&shared)]);
    ground::run("mount", &["--bind", utf8(&shared), utf8(&peer)]);
    let own_mounts = lab.mounts().len();
    for mode in ["kernel", "copy"] {
        let at = lab.create("ci", &["--mode", mode]);
        assert_eq!(lab.mounts().len(), own_mounts + 2, "it shows at both places");
        assert_eq!(lab.ok(&["reap"]), "nothing to reap\n");
        assert_eq!(lab.mounts().len(), own_mounts + 2, "what the kernel carried along is no stray");
        for _ in 0..2 {
            fs::write(at.join("file"), "changed").expect("written");
            lab.ok(&["reset", "ci"]);
            assert_eq!((read(at.join("file")), read(peer.join("ci/file"))), ("base".into(), "base".into()));
        }
        lab.ok(&["destroy", "ci"]);
        assert_eq!(lab.mounts().len(), own_mounts, "{mode}: it goes from both");
    }
    lab.ok(&["reap"]);
}

#[test]
fn another_time_namespace_does_not_make_an_owner_another_one() {
    ground!("overlay", "unshare");
    let lab = Lab::new();
    let owner = Process::new(Command::new("sleep").arg("600"));
    lab.create("ci", &["--owner", &owner.pid().to_string()]);
    for offset in ["100000", "7"] {
        let mut command = Command::new("unshare");
        command.args(["-T", "--boottime", offset, "--", env!("CARGO_BIN_EXE_cowsnap"), "overlay", "reap"]);
        let reaped = command.env("COWSNAP_OVERLAY_HOME", lab.home_dir()).output().expect("it runs");
        assert_eq!(String::from_utf8_lossy(&reaped.stdout), "nothing to reap\n", "{}", text(&reaped));
    }
    assert_eq!(lab.names(), ["ci"]);
    lab.ok(&["destroy", "ci"]);
    lab.assert_nothing_left();
}

#[test]
fn what_is_bound_into_the_trash_is_not_removed() {
    ground!("overlay");
    let lab = Lab::new();
    // No overlay was ever destroyed here: nobody sweeps in the background.
    Home::open(&lab.home_dir()).expect("made");
    let (precious, left) = (lab.root().join("precious"), lab.home_dir().join("trash/7/upper/dir"));
    fs::create_dir_all(&left).expect("made");
    fs::create_dir_all(precious.join("deep")).expect("made");
    fs::write(precious.join("deep/file"), "x").expect("written");
    // The same filesystem: nothing but the mount tells them apart.
    ground::run("mount", &["--bind", utf8(&precious), utf8(&left)]);
    assert!(lab.home().sweep().is_err(), "it says that something stays");
    assert_eq!(read(precious.join("deep/file")), "x");
    ground::run("umount", &[utf8(&left)]);
    lab.home().sweep().expect("now it goes");
    assert_eq!(read(precious.join("deep/file")), "x");
    lab.assert_nothing_left();
}

#[test]
fn an_overlay_that_filled_the_disk_can_be_destroyed() {
    ground!("overlay", "ext4");
    let lab = Lab::on("ext4", &["-q", "-F", "-m", "0"]);
    let at = lab.create("ci", &["--mode", "kernel"]);
    for size in [1_usize << 20, 1 << 16, 1 << 12, 1] {
        for n in 0.. {
            if fs::write(at.join(format!("{size}-{n}")), vec![1; size]).is_err() {
                break;
            }
        }
    }
    let full = fs::write(lab.root().join("more"), vec![1; 4096]);
    assert!(full.is_err(), "the disk is full");
    lab.ok(&["destroy", "ci"]);
    lab.home().sweep().expect("swept");
    fs::write(lab.root().join("more"), vec![1; 1 << 20]).expect("there is room again");
    lab.assert_nothing_left();
}

/// XFS lists an ACL a second time, as an attribute of its own, which no other filesystem does.
#[test]
fn an_acl_is_the_same_on_xfs_and_elsewhere() {
    ground!("overlay", "xfs", "setfacl");
    let (plain, xfs) = (Lab::new(), Lab::on("xfs", &[]));
    for (from, to) in [(&plain, &xfs), (&xfs, &plain)] {
        let file = from.root().join("layer.cow");
        let at = from.create("ci", &["--mode", "kernel"]);
        ground::run("setfacl", &["-m", "u:64321:rw", utf8(&at.join("file"))]);
        from.ok(&["commit", "ci", "x"]);
        from.ok(&["export", "ci@x", utf8(&file)]);
        let there = to.create("there", &["--mode", "kernel"]);
        to.ok(&["import", utf8(&file), "--onto", "there"]);
        to.ok(&["reset", "there", "--to", "ci@x"]);
        assert_eq!(to.ok(&["verify", "--all"]), "ci@x  sound\n");
        let acl = std::process::Command::new("getfacl")
            .arg("-n")
            .arg(there.join("file"))
            .output()
            .expect("it runs");
        assert!(String::from_utf8_lossy(&acl.stdout).contains("user:64321:rw-"));
        from.ok(&["destroy", "ci", "ci@x"]);
        to.ok(&["destroy", "there", "ci@x"]);
    }
}
