//! `cowsnap prune` through the program, on btrfs and on plain directories; and that its cost follows the number of snapshots.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use cowsnap::model::{Guid, Inventory, Version, VersionKind, VersionRef};
use cowsnap::plan::retain::{Period, Retention, Surroundings, retain};
use jiff::{Timestamp, ToSpan, Zoned};
use serde_json::Value;

use crate::ground::{self, Btrfs, Plain, ground};

/// A filesystem's mount point, and the program.
struct Shell {
    at: PathBuf,
    state: PathBuf,
}

impl Shell {
    fn on(fs: &Btrfs) -> Self {
        Self { at: fs.path(), state: fs.outside().join("state") }
    }

    fn command(&self, line: &str) -> std::process::Command {
        let mut command = ground::cowsnap(&self.state);
        command.args(line.split(' ').map(|word| word.replace("FS", self.at.to_str().expect("utf-8"))));
        command
    }

    fn output(&self, line: &str) -> Output {
        self.command(line).output().expect("the program starts")
    }

    /// Runs, expects that exit code, and answers what was printed and what was said.
    fn ends(&self, code: i32, line: &str) -> (String, String) {
        let output = self.output(line);
        let [out, err] =
            [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        assert_eq!(output.status.code(), Some(code), "cowsnap {line}\n{out}{err}");
        (out.trim_end().replace(self.at.to_str().expect("utf-8"), "FS"), err)
    }

    fn run(&self, line: &str) -> String {
        self.ends(0, line).0
    }

    fn json(&self, line: &str) -> Value {
        let (out, _) = self.ends(0, &format!("{line} --json"));
        serde_json::from_str(&out).expect("one JSON object")
    }

    fn take(&self, dataset: &str, names: &[&str]) {
        for name in names {
            self.run(&format!("snapshot FS/{dataset} --name {name}"));
        }
    }

    fn names(&self, dataset: &str) -> Vec<String> {
        let list = self.json(&format!("list FS/{dataset}"));
        let snapshots = list["datasets"][0]["snapshots"].as_array().expect("snapshots").clone();
        snapshots.iter().map(|s| s["name"].as_str().expect("a name").to_owned()).collect()
    }

    fn write_random(&self, path: &str, len: u64) {
        use std::io::Read;
        let mut from = std::fs::File::open("/dev/urandom").expect("random bytes").take(len);
        let mut to = std::fs::File::create(self.at.join(path)).expect("a file");
        std::io::copy(&mut from, &mut to).expect("written");
        to.sync_all().expect("on disk");
    }
}

/// A target that has what is destroyed here keeps its name, which another snapshot must not have.
#[test]
fn a_default_name_that_was_freed_in_the_same_second_is_not_given_again() {
    ground!("btrfs");
    let fs = Btrfs::new();
    let shell = Shell::on(&fs);
    shell.run("create FS/a");
    // A name of a later second was given already: that second lasts until it is over, however slow the machine is.
    let later = Timestamp::now().as_second() + 1800;
    let locks = shell.state.join("locks");
    std::fs::create_dir_all(&locks).expect("a directory");
    std::fs::write(locks.join("names"), format!("{{\"second\":{later},\"names\":{{}}}}")).expect("written");
    let taken = [(); 3].map(|()| {
        let name = shell.run("snapshot FS/a").split_once('@').expect("DATASET@NAME").1.to_owned();
        shell.run(&format!("destroy FS/a@{name}"));
        name
    });
    let first = &taken[0];
    assert_eq!(taken, [first.clone(), format!("{first}-2"), format!("{first}-3")]);
}

#[test]
fn what_no_rule_keeps_is_destroyed_and_the_rest_is_said() {
    ground!("btrfs");
    let fs = Btrfs::new();
    let shell = Shell::on(&fs);
    shell.run("create FS/a");
    shell.take("a", &["release-1", "b", "c", "d"]);
    shell.run("snapshot FS/a --name labelled --label keep=yes");
    shell.take("a", &["e", "f"]);
    shell.run("hold audit FS/a@c");
    let rules = "--keep-last 2 --keep-name release-* --keep-label keep=yes";
    let would = "would destroy FS/a@b\nwould destroy FS/a@d\nFS/a: 2 of 7 would go; what would be freed is unknown (--sizes reckons it)";
    assert_eq!(shell.run(&format!("prune FS/a --dry-run {rules}")), would);
    let explained = shell.run(&format!("prune FS/a --explain {rules}"));
    for (name, why) in [
        ("c", "held by audit"),
        ("b", "not among the last 2"),
        ("f", "the newest; last 1"),
        ("labelled", "label keep=yes"),
    ] {
        let line = explained.lines().find(|line| line.starts_with(&format!("FS/a@{name} ")));
        assert!(line.is_some_and(|line| line.contains(why)), "{name}: {why}\n{explained}");
    }
    shell.run(&format!("prune FS/a --simulate 30d --every 12h {rules}"));
    assert_eq!(shell.names("a").len(), 7, "neither --dry-run nor --explain nor --simulate destroys anything");
    let done = shell.json(&format!("prune FS/a {rules}"));
    assert_eq!(done["datasets"][0]["destroyed"], serde_json::json!(["b", "d"]));
    assert_eq!((&done["datasets"][0]["kept"], &done["dry_run"]), (&5.into(), &false.into()));
    assert_eq!(shell.names("a"), ["release-1", "c", "labelled", "e", "f"]);
    assert_eq!(shell.run(&format!("prune FS/a {rules}")), "FS/a: 5 kept");
}

#[test]
fn without_a_rule_nothing_is_destroyed() {
    ground!("btrfs");
    let fs = Btrfs::new();
    let shell = Shell::on(&fs);
    shell.run("create FS/a");
    shell.take("a", &["x", "y"]);
    for line in
        ["prune FS/a", "prune FS/a --keep-daily 0", "prune FS/a --min-age 1d", "prune FS/a --by-space 900G"]
    {
        let (_, said) = shell.ends(2, line);
        assert!(
            said.contains("nothing is destroyed") && said.contains("hint: cowsnap prune --keep-daily"),
            "{said}"
        );
    }
    for line in [
        "--keep-last -1",
        "--keep-daily x",
        "--keep-within 0d",
        "--keep-within 1fortnight",
        "--keep-label =x",
        "--keep-last 1 --time-zone Europe/Atlantis",
        "--keep-last 1 --by-space 1X",
        "--keep-last 1 --every 1d",
        "--keep-last 1 --sizes",
        "--keep-last 1 --simulate 9999y --every 1s",
        "--keep-last 1 --simulate 1d --explain",
        "--keep-within 6m",
        "--keep-last 1 --min-age PT6M",
        "--keep-name auto-[0-9]",
        "--keep-name {a,b}",
        "--keep-name FS/a@x",
    ] {
        shell.ends(2, &format!("prune FS/a {line}"));
    }
    for empty in ["--keep-name", "--keep-label"] {
        assert_eq!(
            shell.command("prune FS/a").args([empty, ""]).status().expect("it starts").code(),
            Some(2)
        );
    }
    shell.ends(2, "prune FS/nothing --keep-last 1");
    assert_eq!(shell.names("a"), ["x", "y"]);
}

#[test]
fn one_dataset_that_fails_stops_no_other() {
    ground!("btrfs");
    let fs = Btrfs::new();
    let shell = Shell::on(&fs);
    for dataset in ["a", "b", "b/inner"] {
        shell.run(&format!("create FS/{dataset}"));
        shell.take(dataset, &["x", "y", "z"]);
    }
    std::fs::create_dir(fs.outside().join("seen")).expect("mkdir");
    let seen = fs.outside().join("seen").display().to_string();
    shell.run(&format!("mount FS/a@x {seen}"));
    let (out, said) = shell.ends(7, "prune FS/gone FS/a FS/b -r --keep-last 1");
    assert!(said.contains("cannot prune: 2 of 4 failed"), "{said}");
    assert!(said.contains("does not exist") && said.contains("it is mounted at"), "{said}");
    assert!(
        out.contains("FS/a: 1 destroyed, 2 kept") && out.contains("FS/b/inner: 2 destroyed, 1 kept"),
        "{out}"
    );
    assert_eq!((shell.names("a"), shell.names("b")), (vec!["x".into(), "z".into()], vec!["z".into()]));
    let (_, alone) = shell.ends(3, "prune FS/a --keep-last 1");
    assert!(alone.contains("it is mounted at"), "{alone}");
    shell.run(&format!("unmount {seen}"));
    shell.run("prune FS/a --keep-last 1");
    assert_eq!(shell.names("a"), ["z"]);
}

#[test]
fn a_word_that_fits_no_snapshot_of_a_dataset_destroys_none_of_it() {
    ground!("btrfs");
    let fs = Btrfs::new();
    let shell = Shell::on(&fs);
    for (dataset, names) in [("a", ["auto-1", "auto-2", "x"]), ("b", ["1", "2", "3"])] {
        shell.run(&format!("create FS/{dataset}"));
        shell.take(dataset, &names);
    }
    let (_, said) = shell.ends(3, "prune FS/b --keep-name auto-* --dry-run");
    assert!(said.contains("--keep-last 1 says that only the newest is to stay"), "{said}");
    let (_, said) = shell.ends(7, "prune FS/b FS/a --keep-name auto-2 --keep-label k=v");
    assert!(said.contains("1 of 2 failed") && said.contains("no label and no name"), "{said}");
    assert_eq!((shell.names("a").len(), shell.names("b").len()), (2, 3));
    shell.run("prune FS/b --keep-name auto-* --keep-last 1");
    assert_eq!(shell.names("b"), ["3"]);
}

#[test]
fn without_its_base_nothing_under_a_root_is_destroyed() {
    ground!("btrfs");
    let fs = Btrfs::new();
    let shell = Shell::on(&fs);
    for dataset in ["a", "a/in", "other"] {
        shell.run(&format!("create FS/{dataset}"));
        shell.take(dataset, &["1", "2"]);
    }
    for flags in ["", " --dry-run", " --by-space 900G"] {
        shell.ends(
            2,
            &format!(
                "prune FS/a -r --keep-last 1 --keep-base-with FS/other --keep-base-with FS/misspelt{flags}"
            ),
        );
    }
    assert_eq!((shell.names("a").len(), shell.names("a/in").len()), (2, 2));
    let (_, said) = shell.ends(0, "prune FS/a -r --keep-last 1 --keep-base-with FS/other");
    assert!(
        said.contains("FS/other/in is not there".replace("FS", fs.path().to_str().expect("utf-8")).as_str()),
        "{said}"
    );
    assert_eq!(
        (shell.names("a").len(), shell.names("a/in").len()),
        (1, 1),
        "what is inside need not be there"
    );
}

#[test]
fn what_is_read_of_datasets_together_is_what_is_read_of_each() {
    use cowsnap::endpoint::{Dataset, Prunable, path};
    ground!("btrfs");
    let fs = [Btrfs::new(), Btrfs::new()];
    let mut all: Vec<Dataset> = Vec::new();
    for fs in &fs {
        let shell = Shell::on(fs);
        for (name, taken) in [("a", &["1", "2", "3"][..]), ("a/b", &["1"]), ("c", &[])] {
            shell.run(&format!("create FS/{name}"));
            shell.take(name, taken);
            all.push(path::existing(&fs.path().join(name)).expect("a dataset"));
        }
        shell.run("hold audit FS/a@2");
    }
    let together = Dataset::described_together(&all.iter().collect::<Vec<_>>());
    assert_eq!(together.iter().flatten().map(Vec::len).collect::<Vec<_>>(), [3, 1, 0, 3, 1, 0]);
    for (dataset, together) in all.iter().zip(together) {
        assert_eq!(together, Some(dataset.described().expect("read")), "{dataset}");
    }
    assert_eq!(Dataset::described_together(&[&all[0], &all[3]]), [None, None], "one of each filesystem");
}

#[test]
fn space_that_an_open_file_keeps_is_not_waited_for_for_ever() {
    use cowsnap::endpoint::{Dataset, path};
    use cowsnap::exec::prune::{Seen, prune_by_space};
    ground!("btrfs");
    let fs = Btrfs::new();
    let shell = Shell::on(&fs);
    shell.run("create FS/a");
    for name in ["1", "2", "3"] {
        shell.write_random("a/f", 40 << 20);
        shell.take("a", &[name]);
    }
    shell.write_random("a/f", 1 << 20);
    let dataset: Dataset = path::existing(&fs.path().join("a")).expect("a dataset");
    let policy = Retention { last: 1, ..Retention::default() };
    let now = Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    let members = || {
        let going = Seen::of(&dataset).expect("read").going(&policy, &now);
        [(dataset.clone(), going)]
    };
    let open = |name: &str| {
        let below = fs.path().join(".cowsnap/datasets");
        let homes = std::fs::read_dir(below).expect("a store").map(|home| home.expect("read").path());
        let mut files =
            homes.filter_map(|home| std::fs::File::open(home.join("snap").join(name).join("f")).ok());
        files.next().expect("the snapshot's file")
    };
    let kept_open = open("1");
    let wait = |wanted| cowsnap::endpoint::Wait { wanted, patience: Duration::from_secs(2) };
    let done = prune_by_space(&members(), wait(u64::MAX)).expect("space is read");
    let stopped = done[0].pruned.stopped.as_ref().expect("an error");
    assert!(stopped.to_string().contains("@1") && stopped.class().is_transient(), "{stopped}");
    assert_eq!((done[0].pruned.destroyed.len(), shell.names("a").len()), (1, 2), "no other is destroyed");

    // Space that comes back otherwise is enough to go on.
    shell.write_random("ballast", 80 << 20);
    let also_open = open("2");
    let free = || {
        shell.json("prune FS/a --keep-last 9 --by-space 1K --dry-run")["datasets"][0]["free_bytes"].as_u64()
    };
    let wanted = free().expect("bytes") + (60 << 20);
    let mut child = shell
        .command(&format!("prune FS/a --keep-last 1 --by-space {wanted} --json"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    while count_below(&fs.path().join(".cowsnap/datasets")) > 1 {
        assert_eq!(child.try_wait().expect("waited for"), None, "it ended before it destroyed anything");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::fs::remove_file(fs.path().join("ballast")).expect("removed");
    assert!(child.wait().expect("it ends").success());
    drop((kept_open, also_open));
}

#[test]
fn what_a_replica_needs_as_its_base_stays() {
    ground!("btrfs");
    let fs = Btrfs::new();
    let shell = Shell::on(&fs);
    shell.run("create FS/a");
    shell.take("a", &["old", "base", "new", "newer"]);
    let sent = fs.outside().join("sent").display().to_string();
    for name in ["old", "base"] {
        shell.run(&format!("send FS/a@{name} -o {sent}-{name}"));
        let stream = std::fs::File::open(format!("{sent}-{name}")).expect("what was sent");
        let received = shell.command("receive FS/replica").stdin(stream).output().expect("it starts");
        assert!(received.status.success(), "{}", String::from_utf8_lossy(&received.stderr));
    }
    shell.ends(2, "prune FS/a --keep-last 1 --keep-base-with FS/misspelt");
    shell.ends(2, "prune FS/a FS/replica --keep-last 1 --keep-base-with FS/replica");
    assert_eq!(shell.names("a").len(), 4, "a replica that can not be read keeps everything");
    // The same, of a peer.
    let shim = fs.outside().join("ssh");
    let serve =
        format!("exec '{}' --state-dir '{}' serve", env!("CARGO_BIN_EXE_cowsnap"), shell.state.display());
    std::fs::write(&shim, format!("#!/bin/sh\n{serve}\n")).expect("written");
    std::fs::set_permissions(&shim, std::fs::Permissions::from_mode(0o755)).expect("allowed");
    let with_peer = |name: &str| {
        let line = format!("prune FS/a --keep-last 1 --dry-run --keep-base-with ssh://there/FS/{name}");
        let output = shell.command(&line).env("COWSNAP_SSH", &shim).output().expect("it starts");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert_eq!(with_peer("misspelt").0, Some(2));
    let (code, would) = with_peer("replica");
    let goes = ["old", "base", "new", "newer"].map(|name| would.contains(&format!("/a@{name}\n")));
    assert_eq!((code, goes), (Some(0), [true, false, true, false]), "{would}");
    shell.run("prune FS/a --keep-last 1 --keep-base-with FS/replica");
    assert_eq!(shell.names("a"), ["base", "newer"]);
    shell.run("create FS/other");
    let (_, said) = shell.ends(0, "prune FS/a --keep-last 1 --keep-base-with FS/other --dry-run");
    assert!(said.contains("have no snapshot in common"), "{said}");
    let plain = fs.outside().join("plain");
    std::fs::create_dir(&plain).expect("mkdir");
    let (_, said) =
        shell.ends(2, &format!("prune FS/a -r --keep-last 1 --keep-base-with {}", plain.display()));
    assert!(said.contains("unlike filesystems"), "{said}");
    shell.run("prune FS/replica --keep-last 1 --keep-base-with FS/a");
    assert_eq!(shell.names("replica"), ["base"]);
}

#[test]
fn of_several_runs_at_once_all_end_well_and_the_same_is_left() {
    ground!("btrfs");
    let fs = Btrfs::new();
    let shell = Shell::on(&fs);
    shell.run("create FS/a");
    let names: Vec<_> = (10..34).map(|n| format!("s{n}")).collect();
    shell.take("a", &names.iter().map(String::as_str).collect::<Vec<_>>());
    let start = |_| {
        shell.command("prune FS/a --keep-last 4 --json").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    };
    let runs: Vec<_> = (0..3).map(start).collect();
    let mut destroyed = Vec::new();
    for run in runs {
        let output = run.expect("it starts").wait_with_output().expect("it ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let object: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        let names = object["datasets"][0]["destroyed"].as_array().expect("names").clone();
        destroyed.extend(names.iter().map(|name| name.as_str().expect("a name").to_owned()));
    }
    destroyed.sort();
    assert_eq!(destroyed, names[..20], "each is destroyed by one of them");
    assert_eq!(shell.names("a"), names[20..]);
}

#[test]
fn killed_between_any_two_the_next_run_ends_the_same() {
    ground!("btrfs");
    let fs = Btrfs::new();
    let shell = Shell::on(&fs);
    shell.run("create FS/a");
    let mut between = 0;
    for round in 0..6_u64 {
        let names: Vec<_> = (10..26).map(|n| format!("r{round}-{n}")).collect();
        shell.take("a", &names.iter().map(String::as_str).collect::<Vec<_>>());
        let n_before = shell.names("a").len();
        let mut child =
            shell.command("prune FS/a --keep-last 2").stdout(Stdio::null()).spawn().expect("it starts");
        let dir = fs.path().join(".cowsnap/datasets");
        // Killed once that many are gone, however long that takes; or it ended before.
        let gone = |left: usize| n_before - left.min(n_before);
        while child.try_wait().expect("waited for").is_none() {
            if gone(count_below(&dir)) as u64 > 2 * round {
                child.kill().expect("killed");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let left = shell.names("a");
        assert_eq!(left[left.len() - 2..], names[14..], "the newest are there at any time");
        between += usize::from(left.len() > 2 && left.len() < n_before);
        shell.run("prune FS/a --keep-last 2");
        assert_eq!(shell.names("a"), names[14..]);
    }
    assert!(between > 0, "no run was killed between two");
    shell.run("doctor");
}

/// How many snapshots are in the only dataset of a store.
fn count_below(datasets: &std::path::Path) -> usize {
    let entries = |path: PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten();
    entries(datasets.to_owned()).map(|dataset| entries(dataset.path().join("snap")).count()).sum()
}

#[test]
fn by_space_the_oldest_go_until_there_is_enough_and_no_more() {
    ground!("btrfs");
    let fs = Btrfs::new();
    let shell = Shell::on(&fs);
    shell.run("create FS/a");
    for name in ["1", "2", "3", "4", "5"] {
        shell.write_random("a/f", 60 << 20);
        shell.take("a", &[name]);
    }
    let foreseen = shell.json("prune FS/a --keep-last 3 --dry-run --sizes");
    let bytes = foreseen["datasets"][0]["would_free_bytes"].as_u64().expect("reckoned");
    assert_eq!(bytes, 120 << 20, "two files that nothing else has");
    let free = |object: &Value| object["datasets"][0]["free_bytes"].as_u64().expect("free bytes");
    let before = free(&shell.json("prune FS/a --keep-last 1 --by-space 1K --dry-run"));
    let nothing = shell.json(&format!("prune FS/a --keep-last 1 --by-space {before}"));
    assert_eq!((shell.names("a").len(), &nothing["datasets"][0]["kept"]), (5, &5.into()));
    let wanted = before + (90 << 20);
    let done = shell.json(&format!("prune FS/a --keep-last 1 --by-space {wanted}"));
    assert!(free(&done) >= wanted, "{done}");
    assert_eq!(shell.names("a"), ["3", "4", "5"], "two of 60 MiB are enough for 90, and one is not");
    let (out, said) = shell.ends(3, "prune FS/a --keep-last 1 --by-space 800G");
    assert!(said.contains("the policy keeps all that is left"), "{said}");
    assert!(out.contains("FS/a: 2 destroyed, 1 kept"), "{out}");
    assert_eq!(shell.names("a"), ["5"]);
}

#[test]
fn plain_directories_are_pruned_too() {
    ground!("xfs");
    let fs = Plain::xfs();
    let shell = Shell { at: fs.path(), state: fs.outside().join("state") };
    std::fs::create_dir(fs.path().join("a")).expect("mkdir");
    std::fs::write(fs.path().join("a/f"), "one").expect("written");
    shell.take("a", &["1", "2", "3"]);
    shell.run("hold t FS/a@1");
    let would = shell.run("prune FS/a --keep-last 1 --dry-run");
    assert_eq!(would, "would destroy FS/a@2\nFS/a: 1 of 3 would go; what would be freed is unknown");
    shell.run("prune FS/a --keep-hourly 1");
    assert_eq!(shell.names("a"), ["1", "3"]);
    shell.run("release t FS/a@1");
    let (_, said) = shell.ends(3, "prune FS/a --keep-last 1 --by-space 900G");
    assert!(said.contains("cannot free 900.0 GiB"), "{said}");
    assert_eq!(shell.names("a"), ["3"]);
}

#[test]
fn a_pool_means_all_of_its_datasets() {
    ground!("btrfs");
    let state = tempfile::Builder::new().prefix("cowsnap-prune-").tempdir().expect("a temporary directory");
    let shell = Shell { at: state.path().into(), state: state.path().into() };
    shell.run("pool create tank --size 1G");
    let _undo = Undo(&shell, "pool destroy tank --yes");
    for dataset in ["tank/a", "tank/a/inner", "tank/b"] {
        shell.run(&format!("create {dataset}"));
        for name in ["1", "2"] {
            shell.run(&format!("snapshot {dataset} --name {name} -q"));
        }
    }
    for base in ["tank", "tank/b"] {
        let (_, said) = shell.ends(2, &format!("prune tank --keep-last 1 --keep-base-with {base}"));
        assert!(said.contains("with no whole pool"), "{said}");
    }
    let done = shell.json("prune tank -r --keep-last 1");
    let datasets: Vec<_> =
        done["datasets"].as_array().expect("datasets").iter().map(|d| &d["dataset"]).collect();
    assert_eq!(datasets, ["tank/a", "tank/a/inner", "tank/b"]);
    assert!(
        done["datasets"]
            .as_array()
            .expect("datasets")
            .iter()
            .all(|d| d["destroyed"] == serde_json::json!(["1"]))
    );
}

/// Runs a line when it is dropped.
struct Undo<'a>(&'a Shell, &'static str);

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        self.0.output(self.1);
    }
}

fn many(n: u64) -> (Vec<Version>, Vec<(VersionRef, cowsnap::model::HoldTag)>) {
    let made = |order: u64| Version {
        id: VersionRef {
            guid: Guid(u128::from(order + 1).to_be_bytes()),
            name: format!("s{order}").parse().expect("a name"),
        },
        kind: VersionKind::Snapshot,
        order,
        created: Timestamp::from_second(1_790_000_000 + order as i64 * 900).expect("in range"),
    };
    let versions: Vec<_> = (0..n).map(made).collect();
    let holds = versions.iter().step_by(3).map(|v| (v.id.clone(), "t".parse().expect("a tag"))).collect();
    (versions, holds)
}

/// How long this thread has been on a processor: what others do at the same time is not in it.
fn on_processor() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("the kernel counts it");
    let nanoseconds = text.split(' ').next().and_then(|first| first.parse().ok()).expect("a number");
    Duration::from_nanos(nanoseconds)
}

/// The time that planning takes is compared with itself, not with a clock.
#[test]
fn ten_times_as_many_snapshots_are_judged_in_about_ten_times_the_time() {
    let now: Zoned = "2029-11-21T12:00[Europe/Berlin]".parse().expect("a time");
    let policy = Retention {
        last: 5,
        per: Period::ALL.into_iter().zip([48, 30, 8, 12, 3]).collect(),
        within: Some(3.days()),
        ..Retention::default()
    };
    let around = Surroundings::default();
    let took = |n: u64| {
        let round = |_| {
            let (versions, holds) = many(n);
            let since = on_processor();
            let inventory = Inventory::new("d", versions, holds);
            assert_eq!(retain(&inventory, &policy, &around, &now).len() as u64, n);
            on_processor() - since
        };
        (0..5).map(round).min().expect("five rounds")
    };
    let (few, ten_times) = (took(3_000), took(30_000));
    assert!(
        ten_times < few * 50,
        "{few:?} for 3,000 and {ten_times:?} for 30,000: the square would be 100 times"
    );
}
