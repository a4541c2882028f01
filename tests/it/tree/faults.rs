//! SIGKILL at many points of every verb that changes what is kept of a tree: nothing half-made has a final name, nothing is
//! lost, and the same command, run again, gets there.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cowsnap::endpoint::History;

use super::lab::{content, names, staged, store, take, text, tree};
use crate::ground::{self, Plain, ground};

const POINTS: u32 = 24;
const FILES: usize = 300;

/// A filesystem, and a verb that is killed on it.
struct Killed {
    ground: Plain,
    /// How many of the runs were dead before they were done.
    deaths: u32,
}

impl Killed {
    fn new() -> Self {
        Self { ground: Plain::xfs(), deaths: 0 }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.ground.path().join(name)
    }

    fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = ground::cowsnap(&self.ground.outside().join("state"));
        command.args(args).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Duration {
        let start = Instant::now();
        let status = self.command(args).status().expect("it starts");
        assert!(status.success(), "{args:?}: {status}");
        start.elapsed()
    }

    /// For each of the points in the time that a whole run takes: prepares, kills, lets `check` look at what the next
    /// use of the store finds, and clears up.
    fn at_each_point(&mut self, args: &[&str], prepare: impl Fn(&Self), check: impl Fn(&Self)) {
        prepare(self);
        let whole = self.run(args);
        check(self);
        self.clear();
        for point in 0..POINTS {
            prepare(self);
            self.kill_after(args, whole * point / POINTS);
            // Whoever opens the store next finishes it; a directory beside the others is enough.
            drop(tree(&self.path("t")).version(&"x".parse().expect("a name")));
            assert!(staged(&self.ground.path()).is_empty(), "point {point}");
            check(self);
            self.clear();
        }
        assert!(self.deaths > 0, "each run was done before it was killed");
    }

    fn kill_after(&mut self, args: &[&str], delay: Duration) {
        let mut child = self.command(args).spawn().expect("it starts");
        std::thread::sleep(delay);
        child.kill().expect("killed");
        let status = child.wait().expect("waited for");
        self.deaths += u32::from(!status.success());
    }

    fn clear(&self) {
        for name in ["t", "u", "c"] {
            let _ = fs::remove_dir_all(self.path(name));
        }
        let _ = fs::remove_dir_all(store(&self.ground.path()));
    }
}

fn fill(path: &Path, text: &str) {
    fs::create_dir_all(path).expect("mkdir");
    for n in 0..FILES {
        fs::write(path.join(n.to_string()), text).expect("written");
    }
}

fn assert_whole(path: &Path, wanted: &str) {
    assert_eq!(fs::read_dir(path).expect("a directory").count(), FILES, "{path:?}");
    for n in 0..FILES {
        assert_eq!(fs::read_to_string(path.join(n.to_string())).expect("a file"), wanted, "{path:?}/{n}");
    }
}

#[test]
fn a_killed_snapshot_of_a_set_is_whole_or_not_there() {
    ground!("xfs");
    let mut killed = Killed::new();
    let (t, u) = (text(&killed.path("t")), text(&killed.path("u")));
    let args = ["snapshot", "--name", "s", "--hold", "h", &t, &u];
    killed.at_each_point(
        &args,
        |killed| ["t", "u"].iter().for_each(|name| fill(&killed.path(name), "one")),
        |killed| {
            let taken = ["t", "u"].map(|name| names(&tree(&killed.path(name))).len());
            assert!(taken == [1; 2] || taken == [0; 2], "{taken:?}");
            if taken == [0; 2] {
                killed.run(&args);
            }
            for name in ["t", "u"] {
                assert_whole(&content(&killed.ground.path(), name, "s"), "one");
                let inventory = tree(&killed.path(name)).inventory().expect("an inventory");
                assert_eq!(inventory.holds().len(), 1, "none is there without its hold");
            }
        },
    );
}

#[test]
fn a_killed_rollback_leaves_the_one_or_the_other_and_keeps_both() {
    ground!("xfs");
    let mut killed = Killed::new();
    let snap = format!("{}@s", text(&killed.path("t")));
    let args = ["rollback", &snap, "--keep-as", "kept"];
    killed.at_each_point(
        &args,
        |killed| {
            fill(&killed.path("t"), "one");
            take(&tree(&killed.path("t")), "s");
            fill(&killed.path("t"), "two");
        },
        |killed| {
            if names(&tree(&killed.path("t"))).len() == 1 {
                assert_whole(&killed.path("t"), "two");
                killed.run(&args);
            }
            assert_whole(&killed.path("t"), "one");
            assert_eq!(names(&tree(&killed.path("t"))), ["s", "kept"]);
            assert_whole(&content(&killed.ground.path(), "t", "kept"), "two");
        },
    );
}

#[test]
fn a_killed_clone_is_whole_or_not_there() {
    ground!("xfs");
    let mut killed = Killed::new();
    let (snap, to) = (format!("{}@s", text(&killed.path("t"))), text(&killed.path("c")));
    let args = ["clone", &snap, &to];
    killed.at_each_point(
        &args,
        |killed| {
            fill(&killed.path("t"), "one");
            take(&tree(&killed.path("t")), "s");
        },
        |killed| {
            if !killed.path("c").exists() {
                killed.run(&args);
            }
            assert_whole(&killed.path("c"), "one");
        },
    );
}

#[test]
fn a_killed_destroy_leaves_no_half_of_a_version() {
    ground!("xfs");
    let mut killed = Killed::new();
    let snap = format!("{}@s", text(&killed.path("t")));
    killed.at_each_point(
        &["destroy", &snap],
        |killed| {
            fill(&killed.path("t"), "one");
            take(&tree(&killed.path("t")), "s");
        },
        |killed| {
            let kept = content(&killed.ground.path(), "t", "s");
            if kept.exists() {
                assert_whole(&kept, "one");
                killed.run(&["destroy", &snap]);
            }
            assert!(names(&tree(&killed.path("t"))).is_empty());
        },
    );
}

#[test]
fn a_killed_rename_of_a_directory_does_not_part_it_from_its_versions() {
    ground!("xfs");
    let mut killed = Killed::new();
    let (old, new) = (text(&killed.path("t")), text(&killed.path("u")));
    let args = ["rename", &old, &new];
    killed.at_each_point(
        &args,
        |killed| {
            fill(&killed.path("t"), "one");
            take(&tree(&killed.path("t")), "s");
        },
        |killed| {
            if killed.path("t").exists() {
                assert_eq!(names(&tree(&killed.path("t"))), ["s"]);
                killed.run(&args);
            }
            assert_eq!(names(&tree(&killed.path("u"))), ["s"]);
            assert_whole(&killed.path("u"), "one");
        },
    );
}
