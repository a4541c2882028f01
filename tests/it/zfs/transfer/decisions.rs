//! What replication says and refuses on ZFS, before anything is done and where one of several can not be.

use serde_json::Value;

use super::super::ground::zfs;
use super::{Lab, noise, raw, said, waits};
use crate::ground::ground;

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("json")
}

/// What went out readable goes on so, or not at all: encrypted, it can not go on where it is not.
#[test]
fn what_is_encrypted_does_not_go_on_where_it_is_not() {
    ground!("zfs");
    let lab = raw::encrypted();
    lab.write("secret", &noise(1, 200_000));
    lab.snapshot("one");
    let open = ["--zfs-flags", "large-blocks+compressed"];
    let replicate = |args: &[&str]| lab.cowsnap(&[&["replicate", &lab.source, &lab.target], args].concat());
    assert!(replicate(&open).status.success());
    lab.snapshot("two");
    for dry in [&["--dry-run"][..], &[]] {
        let output = replicate(dry);
        assert_eq!(output.status.code(), Some(3), "{dry:?}: {}", said(&output));
        let said = said(&output);
        assert!(said.contains("@one of it, is not encrypted") && said.contains("--zfs-flags"), "{said}");
    }
    assert_eq!(lab.snapshots(&lab.target), ["one"], "nothing was done");
    let output = replicate(&open);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(lab.snapshots(&lab.target), ["one", "two"]);
}

/// One dataset inside went another way: the others are brought, and the exit code says that it was not all.
#[test]
fn one_dataset_inside_that_fails_does_not_stop_the_others() {
    ground!("zfs");
    let lab = Lab::new();
    for inside in ["a", "b", "c"] {
        zfs(&["create", &format!("{}/{inside}", lab.source)]);
    }
    zfs(&["snapshot", "-r", &format!("{}@one", lab.source)]);
    lab.does(&["replicate", "-r", &lab.source, &lab.target]);
    zfs(&["snapshot", &format!("{}/b@own", lab.target)]);
    zfs(&["snapshot", "-r", &format!("{}@two", lab.source)]);
    let output = lab.cowsnap(&["--json", "replicate", "-r", &lab.source, &lab.target]);
    assert_eq!(output.status.code(), Some(7), "{}", said(&output));
    let done = json(&String::from_utf8_lossy(&output.stdout));
    let failed = done["failed"].as_array().expect("a list");
    assert!(
        failed.len() == 1 && failed[0]["what"].as_str().is_some_and(|what| what.contains("/b")),
        "{done}"
    );
    assert!(
        failed[0]["error"].as_str().is_some_and(|error| error.contains("has gone on since @one")),
        "{done}"
    );
    for (inside, there) in [("", "two"), ("/a", "two"), ("/b", "own"), ("/c", "two")] {
        let last = lab.snapshots(&format!("{}{inside}", lab.target)).pop();
        assert_eq!(last.as_deref(), Some(there), "{inside}");
    }
}

/// A key for one dataset of a pool is for that and what is in it, and for nothing whose name begins alike.
#[test]
fn a_key_for_one_dataset_reaches_no_other() {
    ground!("zfs");
    let lab = Lab::new();
    let snapshot = lab.snapshot("one");
    let backup = lab.pool.dataset("kept here");
    zfs(&["create", &format!("{backup}-not")]);
    let remote = format!("'{}' serve --under '{backup}' --allow receive,list", env!("CARGO_BIN_EXE_cowsnap"));
    let to = |target: &str| {
        let there = format!("ssh://there/{target}");
        lab.by(&remote, &[&lab.source, &there]).output().expect("it starts")
    };
    for outside in [format!("{backup}-not/copy"), format!("{}/copy", lab.pool.name), lab.target.clone()] {
        let output = to(&outside);
        assert_eq!(output.status.code(), Some(6), "{outside}: {}", said(&output));
        assert!(!super::super::lab::exists(&outside), "{outside}");
    }
    let inside = format!("{backup}/copy");
    let output = to(&inside);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(lab.snapshots(&inside), ["one"]);
    // It may not take anything out.
    let from = format!("ssh://there/{inside}");
    let output = lab.by(&remote, &[&from, &lab.target]).output().expect("it starts");
    assert_eq!(output.status.code(), Some(6), "{}", said(&output));
    assert!(super::super::lab::exists(&snapshot));
}

/// What is foretold is what the oracle foretells, in full and as an increment.
#[test]
fn what_would_be_sent_is_what_zfs_says() {
    ground!("zfs");
    let lab = Lab::new();
    let oracle = |args: &[&str]| {
        let told = zfs(&[&["send", "-nP", "--large-block", "--compressed"], args].concat());
        let size =
            told.lines().find_map(|line| line.strip_prefix("size")).expect("a size").trim().parse::<u64>();
        size.expect("a number")
    };
    let foretold = || {
        let dry = json(&lab.does(&["--json", "replicate", "--dry-run", &lab.source, &lab.target]));
        dry["replicated"][0]["to_send"][0]["bytes"].as_u64().unwrap_or_else(|| panic!("{dry}"))
    };
    let is_about =
        |ours: u64, theirs: u64| assert!(ours.abs_diff(theirs) <= theirs / 20 + 4096, "{ours}, {theirs}");
    lab.write("f", &noise(1, 5_000_000));
    let one = lab.snapshot("one");
    is_about(foretold(), oracle(&[&one]));
    lab.does(&["replicate", &lab.source, &lab.target]);
    lab.write("g", &noise(2, 900_000));
    let two = lab.snapshot("two");
    is_about(foretold(), oracle(&["-i", &one, &two]));
}

/// A receive that was cut is listed with how much of it is there, and since when where that can be said: of an increment it can not.
#[test]
fn what_was_received_in_part_is_listed_with_its_size() {
    ground!("zfs");
    let lab = Lab::new();
    lab.write("f", &noise(2, 9_000_000));
    lab.snapshot("two");
    let there = format!("ssh://there/{}", lab.target);
    let cut = format!("stdbuf -o0 head -c 6000000 | '{}' serve", env!("CARGO_BIN_EXE_cowsnap"));
    let output = lab.by(&cut, &["--no-compress", &lab.source, &there]).output().expect("it starts");
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    let partials = || json(&lab.does(&["--json", "list", &lab.target]))["datasets"][0]["partials"].clone();
    waits("the other side to end", || {
        let partials = partials();
        partials.as_array().is_some_and(|all| all.len() == 1 && all[0]["live"] == false)
    });
    let partial = partials()[0].clone();
    assert_eq!(partial["name"], "two", "{partial}");
    let bytes = partial["bytes"].as_u64().expect("it is known");
    assert!((1..6_000_000).contains(&bytes), "{partial}");
    let since: jiff::Timestamp =
        partial["since"].as_str().expect("a full one's is known").parse().expect("a time");
    let age = jiff::Timestamp::now().duration_since(since);
    assert!((-60..7200).contains(&age.as_secs()), "{age:?}");
    let shown = lab.does(&["list", &lab.target]);
    let line = shown.lines().find(|line| line.contains("PARTIAL")).unwrap_or_else(|| panic!("{shown}"));
    assert!(line.contains("two") && line.contains("of its stream"), "{shown}");
}
