//! What goes wrong at the edges: names that reach into the store, histories of nested datasets, intents of other
//! versions, links, and halves of several things.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Output;

use cowsnap::endpoint::DestroyDataset;
use cowsnap::endpoint::btrfs::{Dataset, Store};
use cowsnap::endpoint::{Backend, Error, SnapshotRequest};
use cowsnap::model::SnapshotName;

use crate::ground::{self, Btrfs, ground};

fn name(text: &str) -> SnapshotName {
    text.parse().expect("a name")
}

fn cowsnap(ground: &Btrfs, args: &[&str]) -> Output {
    let expand = |arg: &&str| arg.replace("FS", ground.path().to_str().expect("utf-8"));
    let args: Vec<_> = args.iter().map(expand).collect();
    ground::cowsnap(&ground.outside().join("state")).args(&args).output().expect("the program starts")
}

/// Runs, expects that exit code, and answers what was said on both outputs.
fn says(ground: &Btrfs, code: i32, args: &[&str]) -> String {
    let output = cowsnap(ground, args);
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert_eq!(output.status.code(), Some(code), "cowsnap {args:?}\n{text}");
    text
}

#[test]
fn a_held_snapshot_can_not_be_destroyed_by_its_path_in_the_store() {
    ground!("btrfs");
    let ground = Btrfs::new();
    says(&ground, 0, &["create", "FS/a"]);
    says(&ground, 0, &["snapshot", "FS/a", "--name", "s", "--hold", "me"]);
    for verb in ["destroy", "snapshot", "list"] {
        let said = says(&ground, 2, &[verb, "FS/.cowsnap/datasets/a/snap/s"]);
        assert!(said.contains("TARGET@NAME"), "{said}");
    }
    says(&ground, 2, &["create", "FS/.cowsnap/b"]);
    says(&ground, 2, &["clone", "FS/a@s", "FS/.cowsnap/b"]);
    assert!(says(&ground, 0, &["holds", "FS/a"]).contains("me"));
}

#[test]
fn the_histories_of_nested_datasets_follow_a_rename() {
    ground!("btrfs");
    let ground = Btrfs::new();
    for path in ["FS/a", "FS/a/b", "FS/a/b/c", "FS/ab"] {
        says(&ground, 0, &["create", path]);
        says(&ground, 0, &["snapshot", path, "--name", "s", "--hold", "me"]);
    }
    says(&ground, 0, &["rename", "FS/a", "FS/z"]);
    for path in ["FS/z", "FS/z/b", "FS/z/b/c", "FS/ab"] {
        assert!(says(&ground, 0, &["list", path]).contains("@s"), "{path}");
    }
    says(&ground, 2, &["list", "FS/a/b"]);
    says(&ground, 3, &["rename", "FS/z", "FS/z/in"]);
}

#[test]
fn a_rename_does_not_mix_with_the_history_of_what_was_destroyed() {
    ground!("btrfs");
    let ground = Btrfs::new();
    for path in ["FS/old", "FS/old/in", "FS/new"] {
        says(&ground, 0, &["create", path]);
    }
    says(&ground, 0, &["snapshot", "FS/old/in", "--name", "s"]);
    ground::run("btrfs", &["subvolume", "delete", ground.path().join("old/in").to_str().expect("utf-8")]);
    says(&ground, 0, &["destroy", "FS/old"]);
    says(&ground, 3, &["rename", "FS/new", "FS/old"]);
}

#[test]
fn an_intent_of_another_version_is_left_alone_with_what_it_is_about() {
    ground!("btrfs");
    let ground = Btrfs::new();
    says(&ground, 0, &["create", "FS/a"]);
    says(&ground, 0, &["snapshot", "FS/a", "--name", "s"]);
    let staging = ground.path().join(".cowsnap/staging/1-0");
    std::fs::create_dir(&staging).expect("mkdir");
    std::fs::write(staging.join("intent"), br#"{"op":"of_tomorrow"}"#).expect("write");
    ground.subvolume(".cowsnap/staging/1-0/new");
    says(&ground, 0, &["snapshot", "FS/a"]);
    assert!(staging.join("new").is_dir(), "the only copy of something may be there");
    // One that was cut off as it was written: nothing had been done yet.
    std::fs::write(staging.join("intent"), br#"{"op":"#).expect("write");
    says(&ground, 0, &["snapshot", "FS/a"]);
    assert!(!staging.exists());
}

#[test]
fn destroying_a_dataset_spares_what_is_being_received_into_it() {
    ground!("btrfs");
    let ground = Btrfs::new();
    let dataset = Dataset::at(&ground.subvolume("a")).expect("a dataset");
    let set = std::slice::from_ref(&dataset);
    Backend::snapshot(set, &SnapshotRequest::named(name("s"))).expect("a snapshot");
    let staged = dataset.stage(&name("coming"), None).expect("staged");
    cowsnap::sys::btrfs::subvol_create(staged.dir(), staged.name()).expect("a subvolume");
    let refused = dataset.destroy_dataset(DestroyDataset { snapshots: true });
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    assert!(dataset.version(&name("s")).is_ok());
    drop(staged);
    dataset.destroy_dataset(DestroyDataset { snapshots: true }).expect("destroyed");
}

#[test]
fn many_datasets_are_snapshotted_together_where_threads_are_scarce() {
    ground!("btrfs");
    let ground = Btrfs::new();
    let store = Store::open(&ground.path()).expect("a store");
    let set: Vec<_> = (0..40).map(|n| store.dataset(format!("d{n}"))).collect();
    set.iter().for_each(|dataset| dataset.create().expect("created"));
    let program = env!("CARGO_BIN_EXE_cowsnap");
    let targets: Vec<_> =
        (0..40).map(|n| ground.path().join(format!("d{n}")).display().to_string()).collect();
    let within = |kib: u32, line: &str| {
        let line = format!("ulimit -v {kib}; RUST_MIN_STACK=8000000 timeout -s KILL 60 {program} {line}");
        std::process::Command::new("sh").args(["-c", &line]).output().expect("sh")
    };
    // What the program itself takes, and room for two stacks of forty.
    let own = (20_000..400_000).step_by(2000).find(|&kib| within(kib, "--version").status.success());
    let room = own.expect("it starts within 400 MB") + 18_000;
    let output = within(room, &format!("snapshot --name s {}", targets.join(" ")));
    assert!(output.status.success(), "{output:?}");
    assert!(set.iter().all(|dataset| dataset.version(&name("s")).is_ok()));
}

#[test]
fn a_link_in_a_datasets_path_is_not_followed_and_the_user_is_told() {
    ground!("btrfs");
    let ground = Btrfs::new();
    says(&ground, 0, &["create", "FS/a"]);
    says(&ground, 0, &["snapshot", "FS/a", "--name", "s"]);
    let link: &Path = &ground.path().join("link");
    symlink("a", link).expect("a link");
    for verb in [&["destroy", "--snapshots", "FS/link"][..], &["rename", "FS/link", "FS/b"]] {
        let said = says(&ground, 3, verb);
        assert!(said.contains("symbolic link"), "{said}");
    }
    assert!(ground.path().join("a").is_dir());
    assert!(says(&ground, 0, &["list", "FS/a"]).contains("@s"));
}

#[test]
fn half_of_several_holds_is_exit_code_7_and_says_which() {
    ground!("btrfs");
    let ground = Btrfs::new();
    says(&ground, 0, &["create", "FS/a"]);
    says(&ground, 0, &["snapshot", "FS/a", "--name", "x", "--hold", "me"]);
    says(&ground, 0, &["snapshot", "FS/a", "--name", "y"]);
    says(&ground, 2, &["release", "me", "FS/a@y", "FS/a@x"]);
    let said = says(&ground, 7, &["release", "me", "FS/a@x", "FS/a@y"]);
    assert!(said.contains("1 of 2 released"), "{said}");
}

#[test]
fn a_usage_error_is_json_too_where_json_was_asked_for() {
    for args in [&["snapshot", "--json"][..], &["--json", "no-such-verb"]] {
        let output = ground::cowsnap(Path::new("/nonexistent")).args(args).output().expect("it starts");
        assert_eq!(output.status.code(), Some(2));
        let said: serde_json::Value = serde_json::from_slice(&output.stderr).expect("one JSON object");
        assert_eq!(said["error"]["class"], "usage");
        assert_eq!(said["error"]["exit_code"], 2);
    }
}

#[test]
fn a_place_with_something_mounted_over_it_is_a_conflict() {
    ground!("btrfs");
    let ground = Btrfs::new();
    says(&ground, 0, &["create", "FS/m"]);
    says(&ground, 0, &["create", "FS/m/in"]);
    // Seen from elsewhere, the place is there.
    let elsewhere = ground.outside().join("elsewhere");
    std::fs::create_dir(&elsewhere).expect("mkdir");
    let at = |path: &Path| path.to_str().expect("utf-8").to_owned();
    // Private: below systemd mounts are shared, and what is mounted over the one would be over the other too.
    ground::run("mount", &["--bind", "--make-private", &at(&ground.path()), &at(&elsewhere)]);
    ground::run("mount", &["-t", "tmpfs", "none", &at(&ground.path().join("m"))]);
    let store = Store::open(&ground.path()).expect("a store");
    let made = store.dataset("m/new").create();
    assert!(matches!(made, Err(Error::Refused { .. })), "{made:?}");
    says(&ground, 0, &["create", &at(&elsewhere.join("m/new"))]);
}

#[test]
fn a_store_that_somebody_else_has_made_is_not_believed() {
    ground!("btrfs", "root");
    let ground = Btrfs::new();
    let store = ground.path().join(".cowsnap");
    std::fs::create_dir(&store).expect("mkdir");
    std::os::unix::fs::chown(&store, Some(65534), None).expect("chown");
    let said = says(&ground, 6, &["create", "FS/a"]);
    assert!(said.contains("chown root:"), "{said}");
    std::os::unix::fs::chown(&store, Some(0), None).expect("chown");
    says(&ground, 0, &["create", "FS/a"]);
}

#[test]
fn a_hold_outlives_that_a_received_snapshot_is_altered() {
    ground!("btrfs");
    let ground = Btrfs::new();
    says(&ground, 0, &["create", "FS/a"]);
    says(&ground, 0, &["snapshot", "FS/a", "--name", "s"]);
    let file = ground.outside().join("s.cow").to_str().expect("utf-8").to_owned();
    says(&ground, 0, &["send", "FS/a@s", "-o", &file]);
    says(&ground, 0, &["restore", &file, "--to", "FS/c"]);
    says(&ground, 0, &["hold", "me", "FS/c@s"]);
    let snapshot = ground.path().join(".cowsnap/datasets/c/snap/s");
    let at = snapshot.to_str().expect("utf-8");
    ground::run("btrfs", &["property", "set", "-f", at, "ro", "false"]);
    std::fs::write(snapshot.join("f"), "altered").expect("write");
    ground::run("btrfs", &["filesystem", "sync", at]);
    assert!(says(&ground, 0, &["list", "FS/c"]).contains("held by me"));
    says(&ground, 3, &["destroy", "FS/c@s"]);
    says(&ground, 0, &["release", "me", "FS/c@s"]);
    says(&ground, 0, &["destroy", "FS/c@s"]);
}

#[test]
fn a_mount_that_takes_no_compression_is_named_and_the_stream_not_called_corrupt() {
    ground!("btrfs");
    let source = Btrfs::new();
    says(&source, 0, &["create", "FS/a"]);
    let file = source.path().join("a/f");
    std::fs::write(&file, "text").expect("write");
    ground::run("btrfs", &["property", "set", file.to_str().expect("utf-8"), "compression", "zstd"]);
    says(&source, 0, &["snapshot", "FS/a", "--name", "s"]);
    let stream = source.outside().join("stream").to_str().expect("utf-8").to_owned();
    says(&source, 0, &["send", "FS/a@s", "-o", &stream]);
    for option in ["nodatacow", "nodatasum"] {
        let target = Btrfs::with("1G", &[], option);
        let said = says(&target, 3, &["receive", "FS/b", &stream]);
        assert!(said.contains("does not take its compression property zstd"), "{said}");
        assert!(said.contains("without nodatacow"), "{said}");
        ground::run("mount", &["-o", "remount,datacow,datasum", target.path().to_str().expect("utf-8")]);
        says(&target, 0, &["receive", "FS/b", &stream]);
    }
}

#[test]
fn a_hint_can_be_pasted_whatever_the_name_holds() {
    ground!("btrfs");
    let ground = Btrfs::new();
    says(&ground, 0, &["create", "FS/it's"]);
    says(&ground, 0, &["snapshot", "FS/it's", "--name", "s", "--hold", "me"]);
    let said = says(&ground, 3, &["destroy", "FS/it's@s"]);
    assert!(said.contains(r"/it'\''s@s'"), "{said}");
    let said = says(&ground, 2, &["list", "FS/it's@t"]);
    assert!(said.contains(r"/it'\''s'"), "{said}");
}

#[test]
fn a_file_is_no_dataset_and_none_that_could_be_created() {
    ground!("btrfs");
    let ground = Btrfs::new();
    says(&ground, 0, &["create", "FS/a"]);
    std::fs::write(ground.path().join("a/file"), "text").expect("write");
    std::fs::write(ground.path().join("file"), "text").expect("write");
    let store = Store::open(&ground.path()).expect("a store");
    for path in ["file", "a/file", "a/file/below"] {
        let opened = store.dataset(path).open();
        assert!(matches!(opened, Err(Error::Foreign { .. })), "{opened:?}");
        for verb in ["snapshot", "list", "destroy"] {
            let said = says(&ground, 2, &[verb, &format!("FS/{path}")]);
            assert!(said.contains("it is no directory"), "{said}");
        }
    }
    let absent = store.dataset("a/absent").open();
    assert!(matches!(absent, Err(Error::NotFound { .. })), "{absent:?}");
}

#[test]
fn a_set_with_an_immutable_root_is_refused_before_anything_is_staged() {
    ground!("btrfs");
    let ground = Btrfs::new();
    for path in ["FS/a", "FS/b c"] {
        says(&ground, 0, &["create", path]);
    }
    let root = ground.path().join("b c");
    for flag in ["+i", "+a"] {
        ground::run("chattr", &[flag.as_ref(), root.as_os_str()]);
        let said = says(&ground, 3, &["snapshot", "FS/a", "FS/b c"]);
        assert!(said.contains(&format!("hint: chattr -ia '{}'\n", root.display())), "{said}");
        says(&ground, 3, &["snapshot", "FS/b c", "--hold", "me"]);
        says(&ground, 0, &["snapshot", "FS/b c"]);
        ground::run("chattr", &["-ia".as_ref(), root.as_os_str()]);
    }
    says(&ground, 0, &["snapshot", "FS/a", "FS/b c"]);
    let staging = ground.path().join(".cowsnap/staging");
    assert_eq!(std::fs::read_dir(staging).expect("listed").count(), 0);
}

/// Writes until there is no room for data.
fn fill_with_data(ground: &Btrfs) {
    for (n, size) in [1 << 20, 4096, 4096].into_iter().enumerate() {
        let mut ballast = std::fs::File::create(ground.path().join(format!("ballast{n}"))).expect("create");
        let piece = vec![7; size];
        while std::io::Write::write_all(&mut ballast, &piece).is_ok() {}
        rustix::fs::syncfs(&ballast).expect("synced");
    }
}

/// Makes links, which are kept with the names, until there is no room for those.
fn fill_with_names(ground: &Btrfs) {
    let names = ground.path().join("names");
    std::fs::create_dir(&names).expect("mkdir");
    for target in ["x".repeat(3500), "x".into()] {
        for n in 0.. {
            if symlink(&target, names.join(format!("{}{n}", target.len()))).is_err() {
                break;
            }
        }
    }
}

#[test]
fn a_hold_can_be_released_on_a_filesystem_that_is_full() {
    ground!("btrfs");
    let ground = Btrfs::with("256M", &[], "");
    says(&ground, 0, &["create", "FS/a"]);
    says(&ground, 0, &["snapshot", "FS/a", "--name", "s", "--hold", "x", "--hold", "y", "--label", "k=v"]);
    says(&ground, 0, &["snapshot", "FS/a", "--name", "t"]);
    fill_with_data(&ground);
    fill_with_names(&ground);
    assert!(std::fs::write(ground.path().join("a/file"), "more").is_err(), "it is not full");
    says(&ground, 0, &["release", "x", "FS/a@s"]);
    let held = says(&ground, 3, &["destroy", "FS/a@s"]);
    assert!(held.contains("held by y\n"), "{held}");
    assert!(says(&ground, 0, &["list", "FS/a", "--json"]).contains(r#""k":"v""#));
    says(&ground, 0, &["release", "y", "FS/a@s"]);
    // What is written once there is room counts, and not what was written without.
    std::fs::remove_dir_all(ground.path().join("names")).expect("removed");
    std::fs::remove_file(ground.path().join("ballast0")).expect("removed");
    ground::run("sync", &["-f", ground.path().to_str().expect("utf-8")]);
    for tag in ["z", "x"] {
        says(&ground, 0, &["hold", tag, "FS/a@s"]);
    }
    let held = says(&ground, 3, &["destroy", "FS/a@s"]);
    assert!(held.contains("held by x, z\n"), "{held}");
}

#[test]
fn a_hold_can_be_set_where_there_is_room_for_names_only() {
    ground!("btrfs");
    let ground = Btrfs::with("256M", &[], "");
    says(&ground, 0, &["create", "FS/a"]);
    says(&ground, 0, &["snapshot", "FS/a", "--name", "s"]);
    fill_with_data(&ground);
    says(&ground, 0, &["hold", "x", "FS/a@s"]);
    assert!(says(&ground, 3, &["destroy", "FS/a@s"]).contains("held by x\n"));
    let meta = std::fs::read_dir(ground.path().join(".cowsnap/datasets/a/meta")).expect("listed");
    assert_eq!(meta.count(), 1);
    says(&ground, 0, &["release", "x", "FS/a@s"]);
    says(&ground, 0, &["destroy", "FS/a@s"]);
}
