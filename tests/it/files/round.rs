//! What goes out comes back, by us and by GNU tar and zstd.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::lab::{Lab, described, expect_same, names, noise, text};
use crate::ground::{ground, run};

#[test]
fn what_was_exported_is_imported_as_it_was() {
    ground!("btrfs", "setfacl");
    let lab = Lab::filled();
    let file = lab.export("a.tar.zst", &[]);
    let to = lab.ground.path().join("new");
    let said = lab.good(&["import", text(&file), "--to", text(&to), "--snapshot", "first"]);
    assert!(said.contains("chain@s"), "{said}");
    expect_same(&lab.live(), &to);
    assert_eq!(fs::metadata(&to).expect("there").ino(), 256, "it is no subvolume");
    let sparse = fs::metadata(to.join("sparse")).expect("there");
    assert!(sparse.blocks() * 512 < 8 << 20, "the hole was filled: {} blocks", sparse.blocks());
    let (one, other) = (fs::metadata(to.join("blocks/blk0.dat")), fs::metadata(to.join("blocks/again")));
    assert_eq!(one.expect("there").ino(), other.expect("there").ino());
    assert!(lab.good(&["list", text(&to)]).contains("@first"));
    lab.expect_nothing_left(&["new"]);
}

#[test]
fn gnu_tar_and_zstd_read_what_was_exported() {
    ground!("btrfs", "setfacl", "zstd");
    let lab = Lab::filled();
    let file = lab.export("a.tar.zst", &[]);
    run("zstd", &["-tq", text(&file)]);
    let to = lab.ground.path().join("plain");
    fs::create_dir(&to).expect("mkdir");
    let args =
        ["--zstd", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf", text(&file), "-C", text(&to)];
    run("tar", &args);
    expect_same(&lab.live(), &to);
    let sparse = fs::metadata(to.join("sparse")).expect("there");
    assert!(sparse.blocks() * 512 < 8 << 20);
}

#[test]
fn b3sum_checks_the_manifest() {
    ground!("btrfs", "setfacl", "zstd", "b3sum");
    let lab = Lab::new();
    let live = lab.ground.subvolume("chain");
    for (name, bytes) in [("a", "1"), ("b c", "2"), ("line\nend", "3"), ("back\\slash", "4")] {
        fs::write(live.join(name), bytes).expect("write");
    }
    lab.snapshot("s");
    let file = lab.export("a.tar", &["--format", "tar"]);
    let to = lab.out("to");
    fs::create_dir(&to).expect("mkdir");
    run("tar", &["-xf", text(&file), "-C", text(&to)]);
    let script = format!("cd {} && b3sum --check .cowsnap-export/manifest", text(&to));
    let said = run("bash", &["-c", &script]);
    assert_eq!(String::from_utf8_lossy(&said.stdout).matches(": OK").count(), 4);
    fs::write(to.join("a"), "9").expect("write");
    let said = std::process::Command::new("bash").args(["-c", &script]).output().expect("it starts");
    assert!(!said.status.success());
}

#[test]
fn the_same_snapshot_gives_the_same_file() {
    ground!("btrfs", "setfacl");
    let lab = Lab::filled();
    let (one, other) = (lab.export("one.tar.zst", &[]), lab.export("other.tar.zst", &[]));
    assert!(fs::read(&one).expect("read") == fs::read(&other).expect("read"));
    let twin = lab.ground.path().join("twin");
    lab.good(&["clone", &format!("{}@s", text(&lab.live())), text(&twin)]);
    fs::write(lab.live().join("new"), "later").expect("write");
    lab.snapshot("t");
    let snapshot = format!("{}@t", text(&lab.live()));
    let third = lab.out("third.tar.zst");
    lab.good(&["export", &snapshot, text(&third)]);
    assert!(fs::read(&one).expect("read") != fs::read(&third).expect("read"));
}

#[test]
fn a_tar_of_gnu_is_taken_unverified_and_only_then() {
    ground!("btrfs", "setfacl", "zstd");
    let lab = Lab::filled();
    for (format, more) in
        [("posix", "--xattrs"), ("posix", "--sparse"), ("gnu", "--format=gnu"), ("ustar", "-v")]
    {
        let file = lab.out(&format!("{format}{more}.tar.zst"));
        let mut args = vec!["--zstd", "--numeric-owner", "-cf", text(&file)];
        let of = match format {
            "posix" => {
                args.extend(["--format=posix", "--xattrs", "--xattrs-include=*"]);
                "chain"
            }
            // These have neither long links nor times before 1970.
            _ => "chain/blocks",
        };
        let of = lab.ground.path().join(of);
        args.extend([more, "-C", text(&of), "."]);
        run("tar", &args);
        let to = lab.ground.path().join("taken");
        let (code, said) = lab.bad(&["import", text(&file), "--to", text(&to)]);
        assert!(code == 3 && said.contains("--unverified"), "{said}");
        assert!(!to.exists());
        lab.good(&["import", text(&file), "--to", text(&to), "--unverified", "--privileged"]);
        match format {
            "posix" => expect_same(&of, &to),
            _ => {
                let args = ["--no-dereference", "-r", text(&of), text(&to)];
                run("diff", &args);
            }
        }
        lab.good(&["destroy", text(&to)]);
    }
    lab.expect_nothing_left(&[]);
}

#[test]
fn a_plain_directory_is_made_where_there_is_no_btrfs() {
    ground!("btrfs", "setfacl", "xfs");
    let lab = Lab::filled();
    let xfs = crate::ground::Plain::xfs();
    let file = lab.export("a.tar.zst", &[]);
    let to = xfs.path().join("new");
    lab.good(&["import", text(&file), "--to", text(&to)]);
    expect_same(&lab.live(), &to);
    assert_eq!(names(&xfs.path()), ["new"]);
    let back = lab.out("back.tar.zst");
    lab.good(&["snapshot", text(&to), "--name", "s"]);
    lab.good(&["export", &format!("{}@s", text(&to)), text(&back)]);
    let again = lab.ground.path().join("again");
    lab.good(&["import", text(&back), "--to", text(&again)]);
    expect_same(&to, &again);
}

#[test]
fn a_live_dataset_is_never_written_to() {
    ground!("btrfs", "setfacl");
    let lab = Lab::filled();
    let file = lab.export("a.tar.zst", &[]);
    let before = described(&lab.live());
    assert_eq!(lab.bad(&["import", text(&file), "--to", text(&lab.live())]).0, 3);
    let plain = lab.out("plain");
    fs::create_dir(&plain).expect("mkdir");
    assert_eq!(lab.bad(&["import", text(&file), "--to", text(&plain)]).0, 3);
    assert_eq!(described(&lab.live()), before);
    assert_eq!(lab.bad(&["export", &format!("{}@s", text(&lab.live())), text(&file)]).0, 3);
}

#[test]
fn what_is_called_almost_like_what_an_archive_says_of_itself_comes_back() {
    ground!("btrfs");
    let lab = Lab::new();
    let live = lab.ground.subvolume("chain");
    fs::create_dir(live.join(".cowsnap-exported")).expect("mkdir");
    for name in [".cowsnap-export.log", ".cowsnap-exported/f", "f"] {
        fs::write(live.join(name), name).expect("write");
    }
    lab.snapshot("s");
    let file = lab.export("a.tar.zst", &[]);
    let to = lab.ground.path().join("new");
    lab.good(&["import", text(&file), "--to", text(&to)]);
    assert_eq!(names(&to), [".cowsnap-export.log", ".cowsnap-exported", "f"]);
    assert_eq!(names(&to.join(".cowsnap-exported")), ["f"]);
}

#[test]
fn keys_are_left_out_and_said_unless_they_are_asked_for() {
    ground!("btrfs");
    let lab = Lab::new();
    let live = lab.ground.subvolume("chain");
    for name in
        ["geth/nodekey", "keystore/UTC--1", "wallet.dat", "node.pem", "data/blk0", "cache/x/y", "cache/z"]
    {
        fs::create_dir_all(live.join(name).parent().expect("one")).expect("mkdir");
        fs::write(live.join(name), name).expect("write");
    }
    fs::create_dir(live.join("ipfs")).expect("mkdir");
    fs::write(live.join("ipfs/config"), r#"{"Identity":{"PeerID":"Qm","PrivKey":"CAE="}}"#).expect("write");
    fs::write(live.join("data/config"), "[core]").expect("write");
    fs::create_dir(live.join(".cowsnap-export")).expect("mkdir");
    let _socket = std::os::unix::net::UnixListener::bind(live.join("sock")).expect("bind");
    lab.snapshot("s");
    let file = lab.out("a.tar.zst");
    let args =
        ["export", &format!("{}@s", text(&live)), text(&file), "--exclude", "cache", "--include", "node.pem"];
    let output = lab.run(&args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    for (path, why) in [
        ("geth/nodekey", "default: nodekey"),
        ("keystore/UTC--1", "default: keystore/**"),
        ("wallet.dat", "default: wallet.dat"),
        ("ipfs/config", "default: it holds PrivKey"),
        ("cache", "--exclude: cache"),
        ("sock", "a socket"),
        (".cowsnap-export", "says of itself"),
    ] {
        assert!(
            said.lines().any(|line| line.contains(&format!("left out: {path} (")) && line.contains(why)),
            "{path}: {said}"
        );
    }
    assert!(!said.contains("cache/"), "{said}");
    let to = lab.ground.path().join("new");
    lab.good(&["import", text(&file), "--to", text(&to)]);
    assert_eq!(names(&to), ["data", "geth", "ipfs", "keystore", "node.pem"]);
    assert_eq!(
        (names(&to.join("ipfs")), names(&to.join("data"))),
        (vec![], vec!["blk0".into(), "config".into()])
    );
    let beside = fs::read_to_string(lab.out("a.tar.zst.manifest.json")).expect("beside it");
    assert!(beside.contains("wallet.dat") && beside.contains(r#""blake3": ""#), "{beside}");
    let all = lab.export("all.tar.zst", &["--no-default-excludes"]);
    let to = lab.ground.path().join("all");
    lab.good(&["import", text(&all), "--to", text(&to)]);
    assert_eq!(names(&to), ["cache", "data", "geth", "ipfs", "keystore", "node.pem", "wallet.dat"]);
}

#[test]
fn the_file_is_called_after_what_is_in_it_and_a_dry_run_writes_nothing() {
    ground!("btrfs");
    let lab = Lab::new();
    fs::write(lab.ground.subvolume("chain").join("f"), "1").expect("write");
    lab.snapshot("s");
    let folder = lab.out("folder");
    fs::create_dir(&folder).expect("mkdir");
    let snapshot = format!("{}@s", text(&lab.live()));
    let args = ["export", &snapshot, text(&folder), "--version-command", "echo v27.1; echo more"];
    let foretold = lab.good(&[&args[..], &["--dry-run"]].concat());
    assert!(foretold.contains("would write 2 entries") && names(&folder).is_empty(), "{foretold}");
    lab.good(&args);
    let all = names(&folder);
    assert!(
        all.len() == 2 && all[0].starts_with("chain-v27.1-20") && all[0].ends_with("Z.tar.zst"),
        "{all:?}"
    );
    let (code, said) = lab.bad(&["export", &snapshot, text(&lab.out("x")), "--version-command", "exit 3"]);
    assert!(code == 2 && said.contains("--version-command"), "{said}");
    let to = lab.ground.path().join("new");
    lab.good(&["import", text(&folder.join(&all[0])), "--to", text(&to), "--dry-run"]);
    assert!(!to.exists());
}

#[test]
fn it_goes_through_pipes_and_the_manifest_is_inside() {
    ground!("btrfs");
    let lab = Lab::new();
    fs::write(lab.ground.subvolume("chain").join("f"), noise(9 << 20, 3)).expect("write");
    lab.snapshot("s");
    let to = lab.ground.path().join("new");
    let program = env!("CARGO_BIN_EXE_cowsnap");
    let line = format!("{program} export {}@s - | {program} import - --to {}", text(&lab.live()), text(&to));
    run("bash", &["-o", "pipefail", "-c", &line]);
    expect_same(&lab.live(), &to);
}

#[test]
fn a_file_of_holes_without_end_keeps_nobody_from_ending_an_export() {
    ground!("btrfs");
    let lab = Lab::new();
    let live = lab.ground.subvolume("chain");
    fs::File::create(live.join("holes")).and_then(|file| file.set_len(1 << 62)).expect("grown");
    lab.snapshot("s");
    let snapshot = format!("{}@s", text(&live));
    let mut command = std::process::Command::new("timeout");
    command.args([
        "--preserve-status",
        "--signal=TERM",
        "--kill-after=60",
        "3",
        env!("CARGO_BIN_EXE_cowsnap"),
    ]);
    command.args(["export", &snapshot, text(&lab.out("a.tar")), "--format", "tar"]);
    let output = command.output().expect("it starts");
    assert_eq!(output.status.code(), Some(5), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!lab.out("a.tar").exists());
}
