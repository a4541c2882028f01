//! SIGKILL at many points of every verb that changes a filesystem: nothing half-made has a final name, and the same
//! command, run again, gets there.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cowsnap::endpoint::btrfs::{Dataset, Store};
use cowsnap::endpoint::{Backend, History, SnapshotRequest};

use crate::ground::{self, Btrfs, ground};

const POINTS: u32 = 24;

/// A filesystem, and a verb that is killed on it.
struct Killed {
    ground: Btrfs,
    /// How many of the runs were dead before they were done.
    deaths: u32,
}

impl Killed {
    fn new() -> Self {
        Self { ground: Btrfs::new(), deaths: 0 }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.ground.path().join(name)
    }

    fn at(&self, name: &str) -> Dataset {
        Store::open(&self.ground.path()).expect("a store").dataset(name)
    }

    fn command(&self, args: &[String]) -> std::process::Command {
        let mut command = ground::cowsnap(&self.ground.outside().join("state"));
        command.args(args).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        command
    }

    /// Runs to the end; how long it took.
    fn run(&self, args: &[String]) -> Duration {
        let start = Instant::now();
        let status = self.command(args).status().expect("it starts");
        assert!(status.success(), "{args:?}: {status}");
        start.elapsed()
    }

    /// For each of the points in the time that a whole run takes: prepares, kills, lets `check` look at what the next
    /// opener finds, and clears up.
    fn at_each_point(
        &mut self,
        args: &[String],
        prepare: impl Fn(&Self),
        check: impl Fn(&Self),
        clear: impl Fn(&Self),
    ) {
        prepare(self);
        let whole = self.run(args);
        check(self);
        clear(self);
        for point in 0..POINTS {
            prepare(self);
            self.kill_after(args, whole * point / POINTS);
            drop(Store::open(&self.ground.path()).expect("a store"));
            self.assert_nothing_staged();
            check(self);
            clear(self);
        }
        assert!(self.deaths > 0, "each run was done before it was killed");
    }

    fn kill_after(&mut self, args: &[String], delay: Duration) {
        let mut child = self.command(args).spawn().expect("it starts");
        std::thread::sleep(delay);
        child.kill().expect("killed");
        let status = child.wait().expect("waited for");
        self.deaths += u32::from(!status.success());
    }

    fn assert_nothing_staged(&self) {
        let hidden = self.path(".cowsnap");
        let list = |path: &Path| {
            let entries = std::fs::read_dir(path).map(|d| d.flatten().map(|e| e.path()).collect());
            entries.unwrap_or_else(|_| Vec::<PathBuf>::new())
        };
        assert_eq!(list(&hidden.join("staging")), Vec::<PathBuf>::new());
        for dataset in list(&hidden.join("datasets")) {
            assert!(
                dataset.join("dataset").is_file() && dataset.join("meta").is_dir(),
                "{dataset:?} is half made"
            );
            let staged = |path: &PathBuf| path.to_string_lossy().contains("/snap/%");
            assert!(!list(&dataset.join("snap")).iter().any(staged), "{dataset:?}");
        }
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

fn text(path: &Path) -> String {
    path.to_str().expect("utf-8").to_owned()
}

fn take(dataset: &Dataset, name: &str) {
    let request = SnapshotRequest::named(name.parse().expect("a name"));
    Backend::snapshot(std::slice::from_ref(dataset), &request).expect("taken");
}

fn names(dataset: &Dataset) -> Vec<String> {
    let inventory = dataset.inventory().expect("an inventory");
    inventory.versions().iter().map(|v| v.id.name.to_string()).collect()
}

fn destroy_all(dataset: &Dataset) {
    let inventory = dataset.inventory().expect("an inventory");
    for (version, tag) in inventory.holds() {
        dataset.release(version, tag).expect("released");
    }
    for version in inventory.versions() {
        dataset.destroy(&version.id).expect("destroyed");
    }
}

#[test]
fn a_killed_snapshot_of_a_set_is_whole_or_not_there() {
    ground!("btrfs");
    let mut killed = Killed::new();
    for name in ["a", "b", "c"] {
        killed.ground.subvolume(name);
    }
    let targets: Vec<_> = ["a", "b", "c"].iter().map(|name| text(&killed.path(name))).collect();
    let args = [words(&["snapshot", "--name", "s", "--hold", "t"]), targets].concat();
    let all = |killed: &Killed| ["a", "b", "c"].map(|name| killed.at(name));
    killed.at_each_point(
        &args,
        |_| (),
        |killed| {
            let taken = all(killed).map(|dataset| names(&dataset).len());
            assert!(taken == [1; 3] || taken == [0; 3], "{taken:?}");
            for dataset in all(killed) {
                let inventory = dataset.inventory().expect("an inventory");
                assert_eq!(
                    inventory.holds().len(),
                    inventory.versions().len(),
                    "none is there without its hold"
                );
            }
            if taken == [0; 3] {
                killed.run(&args);
            }
        },
        |killed| all(killed).iter().for_each(destroy_all),
    );
}

#[test]
fn a_killed_create_or_clone_is_whole_or_not_there() {
    ground!("btrfs");
    let mut killed = Killed::new();
    std::fs::write(killed.ground.subvolume("a").join("f"), "one").expect("write");
    take(&killed.at("a"), "s");
    let (origin, clone) = (format!("{}@s", text(&killed.path("a"))), text(&killed.path("clone")));
    for args in [words(&["clone", &origin, &clone]), words(&["create", &clone])] {
        killed.at_each_point(
            &args,
            |_| (),
            |killed| {
                if !killed.at("clone").exists().expect("looked") {
                    killed.run(&args);
                }
                assert_eq!(killed.path("clone/f").exists(), args[0] == "clone");
                assert_eq!(names(&killed.at("a")), ["s"]);
            },
            |killed| killed.at("clone").destroy_dataset(Default::default()).expect("destroyed"),
        );
    }
}

#[test]
fn a_killed_rollback_loses_neither_side() {
    ground!("btrfs");
    let mut killed = Killed::new();
    let live = killed.ground.subvolume("a");
    std::fs::write(live.join("f"), "old").expect("write");
    take(&killed.at("a"), "s");
    let args = words(&["rollback", &format!("{}@s", text(&live))]);
    killed.at_each_point(
        &args,
        |killed| std::fs::write(killed.path("a/f"), "new").expect("write"),
        |killed| {
            let now = std::fs::read_to_string(killed.path("a/f")).expect("read");
            let kept = names(&killed.at("a")).into_iter().find(|name| name != "s");
            match kept {
                None => assert_eq!(now, "new", "not begun"),
                Some(kept) => {
                    assert_eq!(now, "old");
                    let kept = killed.path(".cowsnap/datasets/a/snap").join(kept).join("f");
                    assert_eq!(std::fs::read_to_string(kept).expect("read"), "new");
                }
            }
        },
        |killed| {
            let dataset = killed.at("a");
            let inventory = dataset.inventory().expect("an inventory");
            for version in inventory.versions().iter().filter(|v| v.id.name.as_str() != "s") {
                dataset.destroy(&version.id).expect("destroyed");
            }
        },
    );
}

#[test]
fn a_killed_rename_leaves_the_history_with_the_dataset() {
    ground!("btrfs");
    let mut killed = Killed::new();
    let args = words(&["rename", &text(&killed.path("a")), &text(&killed.path("b"))]);
    killed.at_each_point(
        &args,
        |killed| {
            killed.at("a").create().expect("created");
            take(&killed.at("a"), "s");
        },
        |killed| {
            if killed.at("a").exists().expect("looked") {
                assert_eq!(names(&killed.at("a")), ["s"]);
                killed.run(&args);
            }
            assert_eq!(names(&killed.at("b")), ["s"]);
            let store = Store::open(&killed.ground.path()).expect("a store");
            assert_eq!(store.datasets().expect("datasets"), [killed.at("b")]);
        },
        |killed| {
            let all = cowsnap::endpoint::DestroyDataset { snapshots: true };
            killed.at("b").destroy_dataset(all).expect("destroyed");
        },
    );
}

#[test]
fn a_killed_destroy_goes_on_where_it_stopped() {
    ground!("btrfs");
    let mut killed = Killed::new();
    let args = words(&[
        "destroy",
        &format!("{}@s", text(&killed.path("a"))),
        &format!("{}@t", text(&killed.path("a"))),
    ]);
    killed.at("a").create().expect("created");
    killed.at_each_point(
        &args,
        |killed| {
            take(&killed.at("a"), "s");
            take(&killed.at("a"), "t");
        },
        |killed| {
            let left = names(&killed.at("a"));
            assert!(matches!(left.len(), 0..=2), "{left:?}");
        },
        |killed| {
            destroy_all(&killed.at("a"));
            let meta = std::fs::read_dir(killed.path(".cowsnap/datasets/a/meta")).expect("meta");
            assert_eq!(meta.count(), 0);
        },
    );
}

/// Makes what a process leaves that dies between sealing a set and naming its snapshots: `staged` has them, of those
/// datasets, and all of `members` are of the set.
fn leave_a_sealed_set(killed: &Killed, staged: &[&str], members: &[&str]) {
    let hidden = killed.path(".cowsnap");
    for name in staged {
        let staged = hidden.join(format!("datasets/{name}/snap/%1-00"));
        ground::run("btrfs", &["subvolume", "snapshot", "-r", &text(&killed.path(name)), &text(&staged)]);
    }
    let staging = hidden.join("staging/commit-1-00");
    std::fs::create_dir(&staging).expect("mkdir");
    let holds = serde_json::json!({ "t": "2026-11-20T02:00:00Z" });
    let meta = serde_json::json!({ "guid": "00000000-0000-0000-0000-000000000000", "holds": holds });
    let entry = |key: &&str| serde_json::json!({ "key": key, "name": "s", "meta": meta });
    let entries: Vec<_> = members.iter().map(entry).collect();
    let intent = serde_json::json!({ "op": "set", "entries": entries }).to_string();
    std::fs::write(staging.join("intent"), intent).expect("write");
}

#[test]
fn a_sealed_set_of_which_a_name_was_taken_gets_another_name_as_a_whole() {
    ground!("btrfs");
    let killed = Killed::new();
    for name in ["a", "b", "c"] {
        std::fs::write(killed.ground.subvolume(name).join("f"), "of the set").expect("write");
        take(&killed.at(name), "s-2"); // makes the history
    }
    let holders = |dataset: &str, name: &str| {
        let inventory = killed.at(dataset).inventory().expect("an inventory");
        let version = inventory.versions().iter().find(|v| v.id.name.as_str() == name).expect("it");
        inventory.holds_of(&version.id).map(ToString::to_string).collect::<Vec<_>>()
    };
    // The first has its name already, and a hold that somebody has added; the second's name is another's by now.
    take(&killed.at("a"), "s");
    killed.run(&words(&["hold", "later", &format!("{}@s", text(&killed.path("a")))]));
    std::fs::write(killed.path("b/f"), "another's").expect("write");
    take(&killed.at("b"), "s");
    killed.run(&words(&["hold", "another", &format!("{}@s", text(&killed.path("b")))]));
    std::fs::write(killed.path("b/f"), "of the set").expect("write");
    leave_a_sealed_set(&killed, &["b", "c"], &["a", "b", "c"]);

    drop(Store::open(&killed.ground.path()).expect("a store"));
    killed.assert_nothing_staged();
    assert_eq!([names(&killed.at("a")), names(&killed.at("c"))], [["s-2", "s-3"], ["s-2", "s-3"]]);
    assert_eq!(names(&killed.at("b")), ["s-2", "s", "s-3"]);
    let content =
        |of: &str| std::fs::read_to_string(killed.path(&format!(".cowsnap/datasets/{of}/f"))).expect("read");
    assert_eq!(content("b/snap/s"), "another's");
    assert_eq!(content("b/snap/s-3"), "of the set");
    assert_eq!([holders("b", "s"), holders("a", "s-3")], [["another"], ["later"]]);
    assert_eq!([holders("b", "s-3"), holders("c", "s-3")], [["t"], ["t"]]);
    assert_eq!(std::fs::read_dir(killed.path(".cowsnap/datasets/a/meta")).expect("meta").count(), 1);
}

#[test]
fn a_sealed_set_waits_while_a_living_process_changes_one_of_its_datasets() {
    ground!("btrfs");
    let killed = Killed::new();
    for name in ["a", "b"] {
        killed.ground.subvolume(name);
        take(&killed.at(name), "first");
    }
    leave_a_sealed_set(&killed, &["a", "b"], &["a", "b"]);
    let lock = std::fs::File::open(killed.path(".cowsnap/datasets/b")).expect("a directory");
    lock.lock().expect("locked");
    assert_eq!([names(&killed.at("a")), names(&killed.at("b"))], [["first"], ["first"]]);
    drop(lock);
    assert_eq!([names(&killed.at("a")), names(&killed.at("b"))], [["first", "s"], ["first", "s"]]);
    killed.assert_nothing_staged();
}

#[test]
fn what_a_killed_rollback_has_replaced_is_kept_though_its_name_was_taken() {
    ground!("btrfs");
    let killed = Killed::new();
    let live = killed.ground.subvolume("a");
    std::fs::write(live.join("f"), "another's").expect("write");
    take(&killed.at("a"), "kept");
    // As if it had been killed between the exchange and keeping what was replaced.
    let staging = killed.path(".cowsnap/staging/1-00");
    std::fs::create_dir(&staging).expect("mkdir");
    let replaced = killed.ground.subvolume(".cowsnap/staging/1-00/new");
    std::fs::write(replaced.join("f"), "replaced").expect("write");
    let shown = ground::run("btrfs", &["subvolume", "show", &text(&replaced)]);
    let shown = String::from_utf8(shown.stdout).expect("utf-8");
    let uuid = shown.lines().find_map(|line| line.trim().strip_prefix("UUID:")).expect("a uuid").trim();
    let intent = serde_json::json!({ "op": "rollback", "path": b"a", "live": uuid, "keep": "kept" });
    std::fs::write(staging.join("intent"), intent.to_string()).expect("write");

    assert_eq!(names(&killed.at("a")), ["kept", "kept-2"]);
    let content = |name: &str| {
        std::fs::read_to_string(killed.path(&format!(".cowsnap/datasets/a/snap/{name}/f"))).expect("read")
    };
    assert_eq!([content("kept"), content("kept-2")], ["another's", "replaced"]);
    killed.assert_nothing_staged();
}
