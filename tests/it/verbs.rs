//! The verbs over datasets and snapshots, through the program, as a user types them.

use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use crate::ground::{self, Btrfs, ground};

/// A filesystem and the program on it.
struct Shell {
    fs: Btrfs,
}

impl Shell {
    fn new() -> Self {
        Self { fs: Btrfs::new() }
    }

    fn try_run(&self, args: &[&str]) -> Output {
        let expand = |arg: &&str| arg.replace("FS", self.fs.path().to_str().expect("utf-8"));
        let args: Vec<_> = args.iter().map(expand).collect();
        ground::cowsnap(&self.fs.outside().join("state")).args(&args).output().expect("the program starts")
    }

    /// Runs, expects success, and answers what was printed.
    fn run(&self, args: &[&str]) -> String {
        let output = self.try_run(args);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "cowsnap {args:?}: {}\n{text}", output.status);
        String::from_utf8(output.stdout).expect("utf-8").trim_end().to_owned()
    }

    fn json(&self, args: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.run(&[args, &["--json"]].concat())).expect("one JSON object")
    }

    /// Runs, expects that exit code, and answers what was said.
    fn fail(&self, code: i32, args: &[&str]) -> String {
        let output = self.try_run(args);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "cowsnap {args:?}\n{text}");
        text
    }

    fn write(&self, path: &str, content: &str) {
        std::fs::write(self.at(path), content).expect("a file is written");
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.at(path)).unwrap_or_else(|error| format!("{path}: {error}"))
    }

    fn at(&self, path: &str) -> PathBuf {
        self.fs.path().join(path)
    }

    fn names(&self, target: &str) -> Vec<String> {
        let list = self.json(&["list", target]);
        let snapshots = list["datasets"][0]["snapshots"].as_array().expect("snapshots").clone();
        snapshots.iter().map(|s| s["name"].as_str().expect("a name").to_owned()).collect()
    }
}

#[test]
fn a_snapshot_keeps_what_the_dataset_held_and_a_second_in_the_same_second_gets_a_number() {
    ground!("btrfs");
    let shell = Shell::new();
    assert_eq!(shell.run(&["create", "FS/chain"]), shell.at("chain").to_str().expect("utf-8"));
    shell.write("chain/height", "100");
    let taken: Vec<_> = (0..3).map(|_| shell.run(&["snapshot", "FS/chain"])).collect();
    let mut names: Vec<_> = taken.iter().map(|full| full.rsplit('@').next().expect("a name")).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 3, "{taken:?}");
    shell.write("chain/height", "200");
    shell.run(&["clone", &taken[0], "FS/looked"]);
    assert_eq!((shell.read("looked/height"), shell.read("chain/height")), ("100".into(), "200".into()));
}

#[test]
fn a_name_that_is_taken_is_a_conflict_and_nothing_of_the_set_is_kept() {
    ground!("btrfs");
    let shell = Shell::new();
    shell.run(&["create", "FS/a"]);
    shell.run(&["create", "FS/b"]);
    shell.run(&["snapshot", "FS/b", "--name", "x"]);
    let said = shell.fail(3, &["snapshot", "FS/a", "FS/b", "--name", "x"]);
    assert!(said.contains("exists already"), "{said}");
    assert_eq!(shell.names("FS/a"), Vec::<String>::new());
}

#[test]
fn a_wrong_target_among_several_stops_all_before_anything_is_done() {
    ground!("btrfs");
    let shell = Shell::new();
    shell.run(&["create", "FS/a"]);
    shell.run(&["snapshot", "FS/a", "--name", "x"]);
    shell.fail(2, &["snapshot", "FS/a", "FS/nothing", "--name", "y"]);
    shell.fail(2, &["hold", "me", "FS/a@x", "FS/a@nothing"]);
    shell.fail(2, &["destroy", "FS/a@x", "FS/a@nothing"]);
    assert_eq!(shell.names("FS/a"), ["x"]);
    assert_eq!(shell.json(&["holds", "FS/a"])["holds"].as_array().map(Vec::len), Some(0));
}

#[test]
fn a_held_snapshot_stays_until_it_is_released_and_the_hint_says_how() {
    ground!("btrfs");
    let shell = Shell::new();
    shell.run(&["create", "FS/a"]);
    shell.run(&["snapshot", "FS/a", "--name", "x", "--hold", "audit 7"]);
    let said = shell.fail(3, &["destroy", "FS/a@x"]);
    assert!(said.contains("is held by audit 7"), "{said}");
    assert!(said.contains("hint: cowsnap release 'audit 7'"), "{said}");
    shell.fail(3, &["destroy", "--snapshots", "FS/a"]);
    assert!(shell.run(&["holds", "FS/a@x"]).contains("audit 7"));
    shell.run(&["release", "audit 7", "FS/a@x"]);
    shell.fail(2, &["release", "audit 7", "FS/a@x"]);
    shell.run(&["destroy", "--sync", "FS/a@x"]);
    assert_eq!(shell.names("FS/a"), Vec::<String>::new());
}

#[test]
fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    ground!("btrfs");
    let shell = Shell::new();
    shell.run(&["create", "FS/a"]);
    shell.write("a/f", "1");
    shell.run(&["snapshot", "FS/a", "--name", "x"]);
    shell.write("a/f", "2");
    for (args, says) in [
        (&["create", "FS/b", "--dry-run"][..], "would create"),
        (&["snapshot", "FS/a", "--name", "y", "--dry-run"], "@y"),
        (&["destroy", "FS/a@x", "--dry-run"], "would destroy"),
        (&["destroy", "--snapshots", "FS/a", "--dry-run"], "@x"),
        (&["rename", "FS/a", "FS/b", "--dry-run"], "would rename"),
        (&["clone", "FS/a@x", "FS/b", "--dry-run"], "would clone"),
        (&["rollback", "FS/a@x", "--dry-run"], "would put"),
        (&["restore", "FS/a@x", "--to", "FS/b", "--dry-run"], "would clone"),
    ] {
        let said = shell.run(args);
        assert!(said.contains(says), "{args:?}: {said}");
    }
    assert_eq!(shell.names("FS/a"), ["x"]);
    assert_eq!(shell.read("a/f"), "2");
    assert!(!shell.at("b").exists());
}

#[test]
fn renaming_takes_the_history_along() {
    ground!("btrfs");
    let shell = Shell::new();
    shell.run(&["create", "FS/a"]);
    shell.run(&["snapshot", "FS/a", "--name", "x", "--label", "why=test"]);
    shell.run(&["rename", "FS/a@x", "@y"]);
    shell.run(&["rename", "FS/a", "FS/b"]);
    let list = shell.json(&["list", "FS/b"]);
    assert_eq!(list["datasets"][0]["snapshots"][0]["name"], "y");
    assert_eq!(list["datasets"][0]["snapshots"][0]["labels"]["why"], "test");
    shell.fail(2, &["list", "FS/a"]);
    shell.fail(2, &["rename", "FS/b@y", "FS/other@z"]);
}

#[test]
fn rollback_keeps_what_it_replaces_and_what_is_newer() {
    ground!("btrfs");
    let shell = Shell::new();
    shell.run(&["create", "FS/a"]);
    for n in ["1", "2"] {
        shell.write("a/f", n);
        shell.run(&["snapshot", "FS/a", "--name", n]);
    }
    shell.write("a/f", "unsaved");
    shell.run(&["rollback", "FS/a@1", "--keep-as", "before"]);
    assert_eq!(shell.read("a/f"), "1");
    assert_eq!(shell.names("FS/a"), ["1", "2", "before"]);
    shell.run(&["restore", "FS/a@before", "--to", "FS/again"]);
    assert_eq!(shell.read("again/f"), "unsaved");
}

#[test]
fn nested_datasets_are_named_when_left_out_and_put_together_again_when_not() {
    ground!("btrfs");
    let shell = Shell::new();
    shell.run(&["create", "FS/a"]);
    shell.run(&["create", "FS/a/inner"]);
    std::fs::create_dir(shell.at("a/dir")).expect("mkdir");
    shell.run(&["create", "FS/a/dir/deep"]);
    shell.write("a/f", "outer");
    shell.write("a/inner/f", "inner");
    shell.write("a/dir/deep/f", "deep");
    // That is a warning, and no notice that --quiet leaves out.
    let alone = shell.try_run(&["--quiet", "snapshot", "FS/a", "--name", "alone"]);
    let said = String::from_utf8_lossy(&alone.stderr).into_owned();
    assert!(said.contains("left out") && said.contains("/a/inner") && said.contains("/a/dir/deep"), "{said}");
    let taken = shell.json(&["snapshot", "-r", "FS/a", "--name", "all"]);
    assert_eq!(taken["snapshots"].as_array().map(Vec::len), Some(3), "{taken}");
    assert!(taken["spread_us"].as_u64().is_some());
    shell.run(&["restore", "-r", "FS/a@all", "--to", "FS/b"]);
    assert_eq!(
        [shell.read("b/f"), shell.read("b/inner/f"), shell.read("b/dir/deep/f")],
        ["outer", "inner", "deep"]
    );
    shell.write("b/inner/f", "changed"); // it is writable, and the source does not see it
    assert_eq!(shell.read("a/inner/f"), "inner");
}

#[test]
fn what_is_excluded_is_left_out_with_what_is_inside_it() {
    ground!("btrfs");
    let shell = Shell::new();
    for dataset in ["FS/a", "FS/a/cache", "FS/a/cache/deep", "FS/a/keep"] {
        shell.run(&["create", dataset]);
    }
    let taken = shell.json(&["snapshot", "-r", "FS/a", "--exclude", "FS/a/cache", "--name", "s"]);
    let names: Vec<_> = taken["snapshots"].as_array().expect("a list").iter().collect();
    assert_eq!(names.len(), 2, "{taken}");
    assert!(names.iter().all(|one| !one["dataset"].to_string().contains("cache")), "{taken}");
    for (wrong, why) in [("FS/a/cahce", "no dataset of that name"), ("FS/a", "everything is excluded")] {
        let refused = shell.try_run(&["snapshot", "-r", "FS/a", "--exclude", wrong]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(2) && said.contains(why), "{said}");
    }
}

#[test]
fn a_mounted_snapshot_is_read_only_and_gone_after_unmount() {
    ground!("btrfs");
    let shell = Shell::new();
    shell.run(&["create", "FS/a"]);
    shell.write("a/f", "1");
    shell.run(&["snapshot", "FS/a", "--name", "x"]);
    let dir = shell.fs.outside().join("look");
    std::fs::create_dir(&dir).expect("mkdir");
    let dir = dir.to_str().expect("utf-8");
    shell.run(&["mount", "FS/a@x", dir]);
    assert_eq!(std::fs::read_to_string(Path::new(dir).join("f")).expect("it is there"), "1");
    assert!(std::fs::write(Path::new(dir).join("g"), "").is_err());
    let said = shell.fail(3, &["destroy", "FS/a@x"]);
    assert!(said.contains(dir), "{said}");
    shell.run(&["unmount", dir]);
    assert!(!Path::new(dir).join("f").exists());
    shell.fail(2, &["unmount", dir]);
}

#[test]
fn restore_from_files_goes_in_order_goes_on_where_it_stopped_and_never_overwrites() {
    ground!("btrfs");
    let shell = Shell::new();
    shell.run(&["create", "FS/a"]);
    let mut files = Vec::new();
    for (n, base) in [("1", None), ("2", Some("FS/a@1")), ("3", Some("FS/a@2"))] {
        shell.write("a/f", n);
        shell.run(&["snapshot", "FS/a", "--name", n]);
        let file = shell.fs.outside().join(format!("{n}.cow")).to_str().expect("utf-8").to_owned();
        let mut args = vec!["send", "-o", &file];
        let snapshot = format!("FS/a@{n}");
        args.push(&snapshot);
        args.extend(base.iter().flat_map(|base| ["--from", base]));
        shell.run(&args);
        files.push(file);
    }
    let other = Shell::new();
    let broken = other.fail(3, &["restore", &files[2], "--to", "FS/b"]);
    assert!(broken.contains("@3 is an increment on"), "{broken}");
    other.run(&["restore", &files[0], "--to", "FS/b"]);
    assert_eq!(other.read("b/f"), "1");
    other.write("b/f", "worked on");
    other.fail(3, &["restore", &files[2], &files[1], &files[0], "--to", "FS/b"]);
    other.run(&["restore", &files[2], &files[1], &files[0], "--to", "FS/b", "--replace"]);
    assert_eq!(other.read("b/f"), "3");
    let names = other.names("FS/b");
    assert_eq!(names.len(), 4, "{names:?}");
    assert!(names.iter().any(|name| name.starts_with("pre-rollback-")), "{names:?}");
}

#[test]
fn restore_from_another_filesystem_sends_only_what_is_missing() {
    ground!("btrfs");
    let shell = Shell::new();
    let other = Shell::new();
    shell.run(&["create", "FS/a"]);
    shell.write("a/f", "1");
    shell.run(&["snapshot", "FS/a", "--name", "1"]);
    let source = |n: &str| format!("{}@{n}", shell.at("a").display());
    other.run(&["restore", &source("1"), "--to", "FS/b"]);
    shell.write("a/f", "2");
    shell.run(&["snapshot", "FS/a", "--name", "2"]);
    let said = other.run(&["restore", &source("2"), "--to", "FS/b", "--replace", "--dry-run"]);
    assert!(said.contains("would receive") && said.contains("@2"), "{said}");
    other.run(&["restore", &source("2"), "--to", "FS/b", "--replace"]);
    assert_eq!(other.read("b/f"), "2");
    let list = other.json(&["list", "FS/b"]);
    let verified = &list["datasets"][0]["snapshots"];
    let second =
        verified.as_array().expect("snapshots").iter().find(|s| s["name"] == "2").expect("@2").clone();
    assert!(second["verified"]["base"].is_string(), "it was sent as an increment: {second}");
}

/// `FS/a` with `FS/a/in`, each with a snapshot `s` that holds `old`, and `new` in them now.
fn changed_since_s(shell: &Shell) {
    for path in ["a", "a/in"] {
        shell.run(&["create", &format!("FS/{path}")]);
        shell.write(&format!("{path}/f"), "old");
    }
    shell.run(&["snapshot", "-r", "FS/a", "--name", "s"]);
    for path in ["a/f", "a/in/f"] {
        shell.write(path, "new");
    }
}

#[test]
fn a_nested_dataset_whose_history_can_not_be_read_stops_a_rollback_before_anything_is_done() {
    ground!("btrfs");
    let shell = Shell::new();
    changed_since_s(&shell);
    let histories =
        std::fs::read_dir(shell.at(".cowsnap/datasets")).expect("a store").map(|e| e.expect("an entry"));
    let inner = histories.map(|e| e.path()).find(|path| !path.ends_with("a")).expect("the history of a/in");
    std::fs::rename(inner.join("meta"), inner.join("elsewhere")).expect("damaged");
    shell.fail(2, &["rollback", "-r", "FS/a@s"]);
    assert_eq!([shell.read("a/f"), shell.read("a/in/f")], ["new", "new"]);
    std::fs::rename(inner.join("elsewhere"), inner.join("meta")).expect("mended");
    shell.run(&["rollback", "-r", "FS/a@s"]);
    assert_eq!([shell.read("a/f"), shell.read("a/in/f")], ["old", "old"]);
}

#[test]
fn a_rollback_that_ends_between_two_datasets_says_how_far_it_came() {
    ground!("btrfs");
    let shell = Shell::new();
    changed_since_s(&shell);
    shell.run(&["snapshot", "FS/a/in", "--name", "before"]);
    let said = shell.fail(7, &["rollback", "-r", "FS/a@s", "--keep-as", "before"]);
    assert!(said.contains("1 of 2 datasets") && said.contains("/a@before"), "{said}");
    assert!(said.contains("/a/in@before exists already"), "{said}");
    assert_eq!([shell.read("a/f"), shell.read("a/in/f")], ["old", "new"]);
}

#[test]
fn a_nested_dataset_goes_back_though_the_one_around_it_has_no_such_snapshot() {
    ground!("btrfs");
    let shell = Shell::new();
    for path in ["FS/a", "FS/a/in", "FS/a/in/deep"] {
        shell.run(&["create", path]);
    }
    shell.write("a/in/deep/f", "old");
    shell.run(&["snapshot", "FS/a", "FS/a/in/deep", "--name", "s"]);
    shell.write("a/in/deep/f", "new");
    shell.run(&["rollback", "-r", "FS/a@s"]);
    assert_eq!(shell.read("a/in/deep/f"), "old");
}

#[test]
fn a_restore_that_can_not_place_a_nested_dataset_leaves_nothing() {
    ground!("btrfs");
    let shell = Shell::new();
    for path in ["FS/a", "FS/a/aa"] {
        shell.run(&["create", path]);
    }
    std::fs::create_dir_all(shell.at("a/b/full")).expect("mkdir");
    shell.run(&["snapshot", "FS/a", "FS/a/aa", "--name", "s"]);
    std::fs::remove_dir_all(shell.at("a/b")).expect("removed");
    shell.run(&["create", "FS/a/b"]);
    shell.run(&["snapshot", "FS/a/b", "--name", "s"]);
    let said = shell.fail(3, &["restore", "-r", "FS/a@s", "--to", "FS/c"]);
    assert!(said.contains("/c/b exists already"), "{said}");
    assert!(!shell.at("c").exists());
}

#[test]
fn a_restore_whose_clones_can_not_be_taken_back_says_which_stay() {
    ground!("btrfs");
    let shell = Shell::new();
    for path in ["FS/a", "FS/a/b"] {
        shell.run(&["create", path]);
    }
    shell.write("a/f", "kept");
    // Nothing can be put into a clone of it, nor can that be destroyed.
    let chattr = |flag: &str, path: &str| ground::run("chattr", &[flag.as_ref(), shell.at(path).as_os_str()]);
    chattr("+i", "a");
    for path in ["FS/a", "FS/a/b"] {
        shell.run(&["snapshot", path, "--name", "s"]);
    }
    chattr("-i", "a");
    let said = shell.fail(7, &["restore", "-r", "FS/a@s", "--to", "FS/c"]);
    let clone = shell.at("c").display().to_string();
    assert!(said.contains(&format!("1 of 2 datasets restored: {clone}\n")), "{said}");
    assert!(said.contains("/c/b exists already"), "{said}");
    assert_eq!(shell.read("c/f"), "kept");
    chattr("-i", "c");
    shell.run(&["destroy", "FS/c"]);
}

#[test]
fn a_dry_run_names_nested_datasets_and_an_exchange_for_what_it_is() {
    ground!("btrfs");
    let shell = Shell::new();
    changed_since_s(&shell);
    let inside = shell.at("a/in@s");
    for args in [
        &["rollback", "-r", "FS/a@s", "--dry-run"][..],
        &["restore", "-r", "FS/a@s", "--to", "FS/a", "--replace", "--dry-run"],
    ] {
        let said = shell.run(args);
        assert_eq!(said.matches("would keep").count(), 2, "{said}");
        assert!(said.contains(&format!("put {} in its place", inside.display())), "{said}");
        assert!(!said.contains("clone"), "{said}");
    }
    let alone = shell.fail(3, &["rollback", "FS/a@s", "--dry-run"]);
    assert!(alone.contains("rollback -r"), "{alone}");
    assert_eq!(shell.read("a/in/f"), "new");
}

#[test]
fn a_full_filesystem_is_a_conflict_with_a_hint_and_leaves_nothing_half_made() {
    ground!("btrfs");
    let shell = Shell::new();
    shell.run(&["create", "FS/a"]);
    let noise: Vec<u8> =
        (0..40_000_000u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    std::fs::write(shell.at("a/big"), noise).expect("a file is written");
    shell.run(&["snapshot", "FS/a", "--name", "1"]);
    let file = shell.fs.outside().join("1.cow").to_str().expect("utf-8").to_owned();
    shell.run(&["send", "FS/a@1", "--no-compress", "-o", &file]);
    let small = Shell { fs: Btrfs::with("128M", &["--mixed"], "") };
    let mut ballast = std::fs::File::create(small.at("ballast")).expect("a file is made");
    std::io::copy(&mut std::io::repeat(7), &mut ballast).expect_err("it fills up");
    drop(ballast);
    let said = small.fail(3, &["receive", "FS/b", &file]);
    assert!(said.contains("No space left on device"), "{said}");
    assert!(said.contains("hint: "), "{said}");
    small.fail(2, &["list", "FS/b"]); // neither a dataset nor a partial receive
    let staging = small.at(".cowsnap/staging");
    assert_eq!(std::fs::read_dir(staging).map_or(0, Iterator::count), 0);
    std::fs::remove_file(small.at("ballast")).expect("room is made");
    small.run(&["receive", "FS/b", &file]);
    assert_eq!(small.names("FS/b"), ["1"]);
}

#[test]
fn a_read_only_filesystem_is_denied_with_the_command_that_helps() {
    ground!("btrfs");
    let shell = Shell::new();
    shell.run(&["create", "FS/a"]);
    shell.run(&["snapshot", "FS/a", "--name", "1"]);
    let at = shell.fs.path();
    ground::run("mount", &["-o", "remount,ro", at.to_str().expect("utf-8")]);
    for args in [
        &["snapshot", "FS/a"][..],
        &["create", "FS/b"],
        &["clone", "FS/a@1", "FS/b"],
        &["rollback", "FS/a@1"],
        &["destroy", "FS/a@1"],
        &["hold", "me", "FS/a@1"],
        &["rename", "FS/a@1", "@2"],
    ] {
        let said = shell.fail(6, args);
        assert!(said.contains("hint: ") && said.contains("remount,rw"), "{args:?}: {said}");
    }
    assert_eq!(shell.names("FS/a"), ["1"]);
}

/// Runs the program while somebody else has the lock of the dataset `a`, and asks it to stop once it waits.
fn interrupted_while_it_waits_for_a(shell: &Shell, args: &[&str]) -> Output {
    let home = shell.at(".cowsnap/datasets/a");
    let other = std::fs::File::open(&home).expect("the dataset's directory");
    rustix::fs::flock(&other, rustix::fs::FlockOperation::LockExclusive).expect("locked");
    let mut command = ground::cowsnap(&shell.fs.outside().join("state"));
    let place = shell.fs.path();
    let expand = |arg: &&str| arg.replace("FS", place.to_str().expect("utf-8"));
    command.args(args.iter().map(expand)).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let has_opened = |child: &Child| {
        let open = std::fs::read_dir(format!("/proc/{}/fd", child.id())).expect("its descriptors");
        open.flatten()
            .any(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to.ends_with(".cowsnap/datasets/a")))
    };
    while !has_opened(&child) && child.try_wait().expect("wait").is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is ours");
    for _ in 0..3000 {
        if child.try_wait().expect("wait").is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(other); // who still waits goes on
    child.wait_with_output().expect("it ends")
}

#[test]
fn who_waits_for_a_dataset_that_another_changes_can_be_interrupted() {
    ground!("btrfs");
    let shell = Shell::new();
    shell.run(&["create", "FS/a"]);
    shell.run(&["snapshot", "FS/a", "--name", "s"]);
    let output = interrupted_while_it_waits_for_a(&shell, &["destroy", "FS/a@s"]);
    assert_eq!(output.status.code(), Some(5), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(shell.names("FS/a"), ["s"]);
}

#[test]
fn a_doctor_who_waits_for_a_dataset_can_be_interrupted() {
    ground!("btrfs");
    let shell = Shell::new();
    shell.run(&["create", "FS/a"]);
    shell.run(&["snapshot", "FS/a", "--name", "s", "--hold", "me"]);
    let snapshot = shell.at(".cowsnap/datasets/a/snap/s");
    ground::run("btrfs", &["subvolume", "delete", snapshot.to_str().expect("utf-8")]);
    let output = interrupted_while_it_waits_for_a(&shell, &["doctor", "--fix", "FS"]);
    assert_eq!(output.status.code(), Some(5), "{}", String::from_utf8_lossy(&output.stderr));
    let note = shell.at(".cowsnap/datasets/a/meta/s.json");
    assert!(note.exists());
    shell.run(&["doctor", "--fix", "FS"]);
    assert!(!note.exists());
}

#[test]
fn a_dataset_that_is_mounted_by_itself_is_shown_there() {
    ground!("btrfs");
    let shell = Shell::new();
    let state = shell.fs.outside().join("state");
    let cowsnap = |args: &[&str]| {
        let output = ground::cowsnap(&state).args(args).output().expect("the program starts");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("utf-8")
    };
    cowsnap(&["pool", "create", "tank", "--size", "256M"]);
    let path = cowsnap(&["create", "tank/a"]).trim_end().to_owned();
    let elsewhere = shell.fs.outside().join("elsewhere");
    std::fs::create_dir(&elsewhere).expect("mkdir");
    let elsewhere = elsewhere.to_str().expect("utf-8");
    ground::run("mount", &["--bind", &path, elsewhere]);
    let list: serde_json::Value = serde_json::from_str(&cowsnap(&["list", "tank", "--json"])).expect("JSON");
    ground::run("umount", &[elsewhere]);
    cowsnap(&["pool", "destroy", "tank", "--yes"]);
    assert_eq!(list["datasets"][0]["path"], elsewhere);
}
