//! `cowsnap prune` on ZFS: what stays whatever the rules say, what comes back, and when space is short.

use std::process::{Command, Output};

use serde_json::{Value, json};

use super::ground::{Pool, zfs};
use super::lab::{property, snapshots};
use crate::ground::ground;

/// A pool with one dataset, `chain state:1`, and the program.
struct Shell {
    pool: Pool,
    dataset: String,
}

impl Shell {
    fn on(pool: Pool) -> Self {
        let dataset = pool.dataset("chain state:1");
        Self { pool, dataset }
    }

    fn output(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_cowsnap"))
            .args(args)
            .env("COWSNAP_STATE_DIR", self.pool.outside().join("state"))
            .output()
            .expect("the program starts")
    }

    /// Runs `prune` with `--json` and expects the exit code `code`; what it printed, and what it said.
    fn prune(&self, code: i32, args: &[&str]) -> (Value, String) {
        let output = self.output(&[&["--json", "prune"], args].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        (serde_json::from_slice(&output.stdout).unwrap_or(Value::Null), said)
    }

    fn snapshot(&self, dataset: &str, name: &str) {
        let output = self.output(&["snapshot", dataset, "--name", name]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// A snapshot that holds so many bytes, which no other one does.
    fn snapshot_of_its_own(&self, name: &str, bytes: u64) {
        use std::io::Read;
        let mut from = std::fs::File::open("/dev/urandom").expect("random bytes").take(bytes);
        let mut to = std::fs::File::create(self.pool.path("chain state:1/f")).expect("a file");
        std::io::copy(&mut from, &mut to).expect("written");
        to.sync_all().expect("on disk");
        drop(to);
        self.snapshot(&self.dataset, name);
    }

    fn available(&self) -> u64 {
        number(&property(&self.dataset, "available"))
    }
}

fn number(text: &str) -> u64 {
    text.parse().expect("a number")
}

const MIB: u64 = 1 << 20;

#[test]
fn what_is_held_cloned_or_kept_by_a_rule_stays_and_a_bookmark_is_no_snapshot() {
    ground!("zfs");
    let shell = Shell::on(Pool::new());
    let a = &shell.dataset;
    let at = |name: &str| format!("{a}@{name}");
    for name in ["cloned", "held", "1:00 noted", "gone: 1", "gone 2", "new"] {
        shell.snapshot(a, name);
    }
    zfs(&["clone", &at("cloned"), &shell.pool.full("a clone")]);
    zfs(&["hold", "audit", &at("held")]);
    zfs(&["bookmark", &at("gone: 1"), &format!("{a}#gone: 1")]);
    let rules = [a.as_str(), "--keep-last", "1", "--keep-name", "1:00 *"];
    let (plan, _) = shell.prune(0, &[&rules[..], &["--explain"]].concat());
    let told = plan.to_string();
    for why in ["a clone", "audit", "1:00 *"] {
        assert!(told.contains(why), "{why}: {told}");
    }
    let (would, _) = shell.prune(0, &[&rules[..], &["--dry-run"]].concat());
    assert_eq!(would["datasets"][0]["would_destroy"], json!(["gone: 1", "gone 2"]), "{would}");
    assert_eq!(snapshots(a).len(), 6, "nothing goes by a dry run");
    let (done, _) = shell.prune(0, &rules);
    assert_eq!(done["datasets"][0]["destroyed"], json!(["gone: 1", "gone 2"]), "{done}");
    assert_eq!(snapshots(a), ["cloned", "held", "1:00 noted", "new"]);
    let bookmarks = zfs(&["list", "-H", "-t", "bookmark", "-o", "name", a]);
    assert_eq!(bookmarks.trim_end(), format!("{a}#gone: 1"), "it is the base of an increment");
    let (again, _) = shell.prune(0, &rules);
    assert_eq!(again["datasets"][0]["destroyed"], json!([]), "{again}");
}

#[test]
fn what_a_dry_run_says_would_come_back_is_what_comes_back() {
    ground!("zfs");
    let shell = Shell::on(Pool::with("1G", &["-O", "compression=off"]));
    for name in ["a", "b:1", "c d"] {
        shell.snapshot_of_its_own(name, 16 * MIB);
    }
    shell.snapshot_of_its_own("new", MIB);
    let rules = [shell.dataset.as_str(), "--keep-last", "1"];
    let (would, _) = shell.prune(0, &[&rules[..], &["--dry-run"]].concat());
    let freed = would["datasets"][0]["would_free_bytes"].as_u64();
    let freed = freed.unwrap_or_else(|| panic!("{would}"));
    assert!((48 * MIB..52 * MIB).contains(&freed), "{freed} of three times 16 MiB");
    let before = number(&property(&shell.dataset, "used"));
    shell.prune(0, &rules);
    let after = number(&property(&shell.dataset, "used"));
    let came_back = before - after;
    assert!(came_back.abs_diff(freed) < MIB, "{came_back} came back, {freed} were foreseen");
}

#[test]
fn what_a_replica_has_too_stays_and_so_does_what_a_bookmark_says_was_sent() {
    ground!("zfs");
    let shell = Shell::on(Pool::new());
    let (a, replica) = (shell.dataset.as_str(), shell.pool.full("replica"));
    // What replicating holds is released, so that nothing but the option keeps it.
    let replicate = || {
        let output = shell.output(&["replicate", a, &replica]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for dataset in [a, &replica] {
            for name in snapshots(dataset).iter().map(|name| format!("{dataset}@{name}")) {
                for line in zfs(&["holds", "-H", &name]).lines() {
                    zfs(&["release", line.split('\t').nth(1).expect("a tag"), &name]);
                }
            }
        }
    };
    let take = |names: &[&str]| names.iter().for_each(|name| shell.snapshot(a, name));
    let rules = [a, "--keep-last", "1", "--keep-base-with", &replica];
    take(&["one", "two"]);
    replicate();
    take(&["three", "four"]);
    // As long as nothing marks it, the snapshot is the only base.
    for bookmark in zfs(&["list", "-H", "-t", "bookmark", "-o", "name", a]).lines() {
        zfs(&["destroy", bookmark]);
    }
    shell.prune(0, &rules);
    assert_eq!(snapshots(a), ["two", "four"]);
    replicate();
    take(&["five", "six"]);
    shell.prune(0, &rules);
    assert_eq!(snapshots(a), ["four", "six"], "four was sent last: its bookmark says so");
    zfs(&["destroy", &format!("{a}@four")]);
    replicate();
    assert_eq!(snapshots(&replica), ["two", "four", "six"], "an increment, from the bookmark");
    // The replica has no bookmark: what it receives upon stays.
    shell.snapshot(&replica, "theirs");
    shell.prune(0, &[&replica, "--keep-last", "1", "--keep-base-with", a]);
    assert_eq!(snapshots(&replica), ["six", "theirs"]);
}

#[test]
fn when_space_is_short_the_oldest_go_until_there_is_enough_and_its_quotas_count() {
    ground!("zfs");
    let shell = Shell::on(Pool::with("1G", &["-O", "compression=off"]));
    let a = &shell.dataset;
    for name in ["a", "b", "c", "d"] {
        shell.snapshot_of_its_own(name, 32 * MIB);
    }
    shell.snapshot_of_its_own("new", MIB);
    // More than there is by two and a half of them: three have to go.
    let wanted = (shell.available() + 80 * MIB).to_string();
    let (done, _) = shell.prune(0, &[a, "--keep-last", "1", "--by-space", &wanted]);
    assert_eq!(done["datasets"][0]["destroyed"], json!(["a", "b", "c"]), "{done}");
    assert!(shell.available() >= number(&wanted), "it waits until the space has come back");
    // Enough is there: nothing goes.
    let (enough, _) = shell.prune(0, &[a, "--keep-last", "1", "--by-space", &wanted]);
    assert_eq!(enough["datasets"][0]["destroyed"], json!([]), "{enough}");
    // What its quotas never leave room for is not tried.
    for quota in ["quota", "refquota"] {
        zfs(&["set", &format!("{quota}=200M"), a]);
        let (done, said) = shell.prune(3, &[a, "--keep-last", "1", "--by-space", "500M"]);
        assert!(said.contains("its quotas leave it no more than"), "{said}");
        let done = &done["datasets"][0];
        assert_eq!((&done["destroyed"], &done["snapshots"]), (&json!([]), &json!(2)), "{done}");
        let why = done["stopped"].as_str().expect("JSON says why, too");
        assert!(why.contains("its quotas leave it no more than"), "{why}");
        zfs(&["set", &format!("{quota}=none"), a]);
    }
    // Nor what that of a dataset above it does not.
    zfs(&["set", "quota=200M", &shell.pool.name]);
    let (_, said) = shell.prune(3, &[a, "--keep-last", "1", "--by-space", "500M"]);
    assert!(said.contains("its quotas leave it no more than"), "{said}");
    zfs(&["set", "quota=none", &shell.pool.name]);
    assert_eq!(snapshots(a), ["d", "new"]);
}

#[test]
fn a_dataset_with_room_of_its_own_loses_nothing_for_one_that_has_none() {
    ground!("zfs");
    let shell = Shell::on(Pool::with("1G", &["-O", "compression=off"]));
    let (a, other) = (shell.dataset.as_str(), shell.pool.dataset("other"));
    shell.snapshot(&other, "older");
    shell.snapshot(&other, "newer");
    shell.snapshot_of_its_own("a", 64 * MIB);
    shell.snapshot_of_its_own("new", MIB);
    zfs(&["set", "quota=100M", a]);
    let rules = ["--keep-last", "1", "--by-space", "80M"];
    let (done, _) = shell.prune(0, &[&[a, other.as_str()][..], &rules].concat());
    assert_eq!(snapshots(a), ["new"], "{done}");
    assert_eq!(snapshots(&other), ["older", "newer"], "{done}");
}
