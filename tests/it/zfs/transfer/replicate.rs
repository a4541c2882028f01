//! `cowsnap replicate` between datasets, here and through `cowsnap serve`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use serde_json::Value;

use super::super::ground::zfs;
use super::{Lab, noise, waits};
use crate::ground::{Btrfs, ground};

impl Lab {
    /// A program that does what `ssh` does, on this machine.
    fn shim(&self) -> String {
        let shim = self.file("ssh");
        fs::write(&shim, "#!/bin/sh\nfor last; do :; done\nexec sh -c \"$last\"\n").expect("write");
        fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).expect("chmod");
        shim
    }

    pub(super) fn remotely(&self, arguments: &[&str]) -> std::process::Command {
        self.by(&format!("'{}' serve", env!("CARGO_BIN_EXE_cowsnap")), arguments)
    }

    pub(super) fn by(&self, remote: &str, arguments: &[&str]) -> std::process::Command {
        let mut command = self.command(&["replicate", "--json"]);
        command.env("COWSNAP_SSH", self.shim()).args(["--remote-command", remote]).args(arguments);
        command
    }

    pub(super) fn moves(&self, mut command: std::process::Command) -> Vec<Value> {
        let output = command.output().expect("it starts");
        assert!(output.status.success(), "{}", super::said(&output));
        let done: Value = serde_json::from_slice(&output.stdout).expect("json");
        done["replicated"][0]["moved"].as_array().expect("a list").clone()
    }

    pub(super) fn holds(&self, snapshot: &str) -> String {
        zfs(&["holds", "-H", snapshot])
    }

    /// The guids of what replication has marked at the source, sorted.
    pub(super) fn marks(&self) -> Vec<String> {
        let all = zfs(&["list", "-H", "-d", "1", "-t", "bookmark", "-o", "name,guid", &self.source]);
        let ours = all.lines().filter(|line| line.contains("#cowsnap:to:"));
        let mut guids: Vec<_> = ours.filter_map(|line| line.split('\t').nth(1)).map(str::to_owned).collect();
        guids.sort();
        guids
    }

    pub(super) fn guid(&self, snapshot: &str) -> String {
        zfs(&["get", "-Hp", "-o", "value", "guid", snapshot]).trim().to_owned()
    }
}

/// Whether a target is there yet or not, here it is known what it would be on.
#[test]
fn a_target_that_is_not_there_yet_is_on_another_filesystem_all_the_same() {
    ground!("zfs", "btrfs");
    let (lab, other) = (Lab::new(), Btrfs::new());
    let (snapshot, to) = (lab.snapshot("0"), other.path().join("copy"));
    for dry in [&["--dry-run"][..], &[]] {
        let output =
            lab.command(&["replicate"]).args(dry).arg(&lab.source).arg(&to).output().expect("it starts");
        assert_eq!(output.status.code(), Some(3), "{dry:?}: {}", super::said(&output));
        assert!(super::said(&output).contains("does not take its streams"), "{}", super::said(&output));
        assert_eq!((lab.holds(&snapshot), lab.marks()), (String::new(), vec![]));
        assert!(!to.exists());
    }
}

/// The source's snapshot may go once it was sent: its bookmark is the next increment's base. But only by name: prune keeps it to come back upon.
#[test]
fn what_was_sent_may_be_destroyed_and_the_increment_still_goes() {
    ground!("zfs");
    let lab = Lab::new();
    let second = format!("{} 2", lab.target);
    let bring = |args: &[&str]| lab.moves(lab.remotely(args));
    lab.write("f", &noise(1, 3_000_000));
    let mut newest = lab.snapshot("0");
    let targets = [&*lab.target, &*second];
    assert_eq!(bring(&[&lab.source, targets[0], targets[1]])[0]["targets"], 2);
    for round in 1..4 {
        let sent = newest;
        assert_eq!(lab.marks(), [lab.guid(&sent), lab.guid(&sent)], "one for each target, and no other");
        assert_eq!(lab.holds(&sent), "");
        lab.write("g", &noise(round, 200_000));
        newest = lab.snapshot(&round.to_string());
        lab.does(&["prune", &lab.source, "--keep-last", "1"]);
        assert!(super::super::lab::exists(&sent), "{sent} is not there");
        lab.does(&["destroy", &sent]);
        let moved = bring(&[&lab.source, targets[0], targets[1]]);
        assert!(moved[0]["base"].is_string() && moved[0]["targets"] == 2, "{moved:?}");
        assert!(moved[0]["stream_bytes"].as_u64().expect("a number") < 1_000_000, "{moved:?}");
    }
    // Without its bookmarks, what was kept by a hold before is marked and let go of.
    for line in zfs(&["list", "-H", "-d", "1", "-t", "bookmark", "-o", "name", &lab.source]).lines() {
        zfs(&["destroy", line]);
    }
    bring(&[&lab.source, targets[0], targets[1]]);
    assert_eq!(lab.marks(), [lab.guid(&newest), lab.guid(&newest)]);
    for target in targets {
        let copy = Lab {
            pool: crate::zfs::ground::Pool::new(),
            source: lab.source.clone(),
            target: target.to_owned(),
        };
        copy.assert_same("3");
    }
}

/// Whoever has a key to take streams out gets what is encrypted as it lies on disk, whatever is asked.
#[test]
fn a_key_to_send_gives_nothing_encrypted_away_readable() {
    ground!("zfs");
    let lab = super::raw::encrypted();
    lab.write("secret", b"text");
    lab.snapshot("one");
    let remote = |rights: &str| format!("'{}' serve {rights}", env!("CARGO_BIN_EXE_cowsnap"));
    let from = format!("ssh://there/{}", lab.source);
    let open = format!("{} 2", lab.target);
    let readable = ["--zfs-flags", "large-blocks+compressed", &from, &open];
    for rights in ["--allow send", "--append-only", "--allow send,list --checkpoint 1M"] {
        let refused = lab.by(&remote(rights), &readable).output().expect("it starts");
        let said = super::said(&refused);
        assert!(
            refused.status.code() == Some(6) && said.contains("may not have it readable"),
            "{rights}: {said}"
        );
        assert!(!super::super::lab::exists(&open), "{rights}");
    }
    assert_eq!(lab.moves(lab.by(&remote("--allow send"), &[&from, &lab.target])).len(), 1);
    assert_eq!(super::get(&lab.target, "keystatus"), "unavailable");
    assert_eq!(lab.moves(lab.by(&remote("--allow send --allow-plaintext"), &readable)).len(), 1);
    assert_eq!(super::get(&open, "encryption"), "off");
}

/// A bookmark is enough to send from, and not to receive upon: prune keeps the snapshot, and so going back is an increment.
#[test]
fn to_go_back_after_a_prune_is_an_increment() {
    ground!("zfs");
    let lab = Lab::new();
    let back = |args: &[&str]| {
        let command = [&["replicate", &*lab.target, &*lab.source], args].concat();
        lab.command(&command).output().expect("it starts")
    };
    lab.write("f", &noise(1, 300_000));
    let one = lab.snapshot("one");
    lab.does(&["replicate", &lab.source, &lab.target]);
    let newer = lab.snapshot("two");
    lab.snapshot("of no interest");
    lab.does(&["prune", &lab.source, "--keep-last", "2"]);
    let why = lab.does(&["prune", &lab.source, "--keep-last", "1", "--explain"]);
    assert!(why.contains("the newest sent by cowsnap:to:"), "{why}");
    lab.does(&["prune", &lab.source, "--keep-last", "1"]);
    assert_eq!(
        lab.snapshots(&lab.source),
        ["one", "of no interest"],
        "what was sent is there to go back upon"
    );
    assert!(!super::super::lab::exists(&newer));
    zfs(&["snapshot", &format!("{}@from there", lab.target)]);
    // What the source has of its own stands in the way, and nothing is thrown away for it.
    let output = back(&[]);
    let said = super::said(&output);
    assert!(output.status.code() == Some(3) && said.contains("has gone on since @one"), "{said}");
    lab.does(&["destroy", &format!("{}@of no interest", lab.source)]);
    zfs(&["rollback", &one]);
    let output = back(&["--json"]);
    let done: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", super::said(&output)));
    let moved = &done["replicated"][0]["moved"][0];
    assert!(moved["base"].is_string() && moved["stream_bytes"].as_u64() < Some(100_000), "{done}");
    assert_eq!(lab.snapshots(&lab.source), ["one", "from there"]);
}

/// Who destroys that snapshot by name can still send, and not go back but in full.
#[test]
fn without_the_snapshot_that_both_had_all_of_it_comes_back() {
    ground!("zfs");
    let lab = Lab::new();
    let back = || lab.command(&["replicate", &lab.target, &lab.source]).output().expect("it starts");
    lab.write("f", &noise(1, 300_000));
    let one = lab.snapshot("one");
    lab.does(&["replicate", &lab.source, &lab.target]);
    lab.snapshot("two");
    lab.does(&["destroy", &one]);
    assert_eq!((lab.snapshots(&lab.source).as_slice(), lab.marks().len()), (&["two".to_owned()][..], 1));
    zfs(&["snapshot", &format!("{}@three", lab.target)]);
    let output = back();
    let said = super::said(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("no version in common: the target has @two"), "{said}");
    assert_eq!(lab.snapshots(&lab.source), ["two"], "nothing was done");
    // What the page says: the old one stays under another name, until nobody wants what it alone has.
    let aside = format!("{}-aside", lab.source);
    lab.does(&["rename", &lab.source, &aside]);
    let output = back();
    assert!(output.status.success(), "{}", super::said(&output));
    assert_eq!(lab.snapshots(&lab.source), ["three"]);
    lab.assert_same("three");
    assert_eq!(lab.snapshots(&aside), ["two"]);
}

/// A run that fails leaves the former bookmark, and no other.
#[test]
fn a_failed_transfer_moves_no_bookmark() {
    ground!("zfs");
    let lab = Lab::new();
    lab.write("f", &noise(1, 1_000_000));
    let one = lab.snapshot("one");
    let there = format!("ssh://there/{}", lab.target);
    lab.moves(lab.remotely(&[&lab.source, &there]));
    lab.write("f", &noise(2, 9_000_000));
    let two = lab.snapshot("two");
    let cut = format!("stdbuf -o0 head -c 3000000 | '{}' serve", env!("CARGO_BIN_EXE_cowsnap"));
    let output = lab.by(&cut, &["--no-compress", &lab.source, &there]).output().expect("it starts");
    assert_eq!(output.status.code(), Some(5), "{}", super::said(&output));
    assert_eq!(lab.marks(), [lab.guid(&one)]);
    assert!(lab.holds(&two).contains("cowsnap:to:"), "what is to be gone on with is kept");
    waits("the other side to end", || {
        let listed: Value = serde_json::from_str(&lab.does(&["list", &lab.target, "--json"])).expect("json");
        let partials = listed["datasets"][0]["partials"].as_array().cloned().unwrap_or_default();
        partials.iter().all(|partial| partial["live"] == false)
    });
    lab.moves(lab.remotely(&[&lab.source, &there]));
    assert_eq!((lab.marks(), lab.holds(&two)), (vec![lab.guid(&two)], String::new()));
}

#[test]
fn a_target_is_brought_up_to_its_source_and_what_both_have_is_kept() {
    ground!("zfs");
    let lab = Lab::new();
    for remote in [false, true] {
        let target = if remote { format!("{} 2", lab.target) } else { lab.target.clone() };
        let there = if remote { format!("ssh://there/{target}") } else { target.clone() };
        lab.write("f", &noise(1, 3_000_000));
        let name = |name: &str| format!("{name} {remote}");
        lab.snapshot(&name("one"));
        let first = lab.moves(lab.remotely(&[&lab.source, &there]));
        assert!(first.len() == 1 && first[0]["base"].is_null(), "{first:?}");
        lab.write("g", &noise(2, 300_000));
        lab.snapshot(&name("two"));
        lab.write("h", &noise(3, 300_000));
        let newest = lab.snapshot(&name("three"));
        let second = lab.moves(lab.remotely(&["-I", &lab.source, &there]));
        assert_eq!(second.len(), 2, "{second:?}");
        assert!(second.iter().all(|moved| moved["stream_bytes"].as_u64().expect("a number") < 1_000_000));
        assert!(lab.moves(lab.remotely(&[&lab.source, &there])).is_empty());
        let copy =
            Lab { pool: crate::zfs::ground::Pool::new(), source: lab.source.clone(), target: target.clone() };
        for made in ["one", "two", "three"] {
            copy.assert_same(&name(made));
        }
        // The newest alone is known to both: held there, and here a bookmark, which keeps no space.
        let there = format!("{target}@{}", name("three"));
        assert!(lab.holds(&there).contains("cowsnap:from:"));
        assert_eq!(lab.holds(&format!("{target}@{}", name("one"))), "");
        assert!(lab.fails(&["destroy", &there], 3).contains("is held by cowsnap:from:"));
        assert_eq!(lab.holds(&newest), "");
        assert_eq!(lab.marks().len(), 1 + usize::from(remote), "{:?}", lab.marks());
    }
    // And back, to another place.
    let back = format!("{} again", lab.target);
    let from = format!("ssh://there/{}", lab.target);
    assert_eq!(lab.moves(lab.remotely(&[&from, &back])).len(), 1);
    // A target that went on by itself is shown, and nothing is done.
    zfs(&["snapshot", &format!("{}@own", lab.target)]);
    lab.snapshot("four");
    let refused = lab.fails(&["replicate", &lab.source, &lab.target], 3);
    assert!(refused.contains("has gone on since") && refused.contains("@own"), "{refused}");
}

#[test]
fn a_replication_that_was_killed_goes_on_by_its_token() {
    ground!("zfs");
    let lab = Lab::new();
    lab.write("f", &noise(1, 9_000_000));
    lab.snapshot("one");
    for remote in [false, true] {
        let target = if remote { format!("{} 2", lab.target) } else { lab.target.clone() };
        let there = if remote { format!("ssh://there/{target}") } else { target.clone() };
        // 18 seconds of it.
        let mut slow = lab.remotely(&["--bandwidth", "512K", "--no-compress", &lab.source, &there]);
        let mut child = slow.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        waits("the transfer to begin", || super::super::lab::exists(&target));
        // Frames enough have been applied by then.
        std::thread::sleep(std::time::Duration::from_secs(7));
        child.kill().expect("it runs");
        child.wait().expect("it ends");
        let token = || zfs(&["get", "-H", "-o", "value", "receive_resume_token", &target]);
        waits("the other side to end", || {
            let listed: Value = serde_json::from_str(&lab.does(&["list", &target, "--json"])).expect("json");
            listed["datasets"][0]["partials"]
                .as_array()
                .is_some_and(|all| !all.is_empty() && all.iter().all(|p| p["live"] == false))
        });
        assert!(token().len() > 10, "nothing was received in part: {}", token());
        let moved = lab.moves(lab.remotely(&[&lab.source, &there]));
        let rest = moved[0]["stream_bytes"].as_u64().expect("a number");
        // The file alone is 9 MB.
        assert!(moved.len() == 1 && rest < 9_000_000, "{moved:?}");
        assert_eq!(token(), "-\n");
        let copy = Lab { pool: crate::zfs::ground::Pool::new(), source: lab.source.clone(), target };
        copy.assert_same("one");
    }
}
