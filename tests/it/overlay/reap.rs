//! Whose owner is gone, goes; nothing else does.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use cowsnap::sys::mount::{self, Overlay, Restrict};

use super::lab::{Lab, Process, read, utf8};
use crate::ground::ground;

fn sleeper() -> Process {
    Process::new(Command::new("sleep").arg("600"))
}

#[test]
fn an_overlay_goes_with_its_owner_and_others_stay() {
    ground!("overlay");
    let lab = Lab::new();
    let (mut gone, there) = (sleeper(), sleeper());
    let at = lab.create("gone", &["--owner", &gone.pid().to_string(), "--copies", "2"]);
    lab.create("there", &["--owner", &there.pid().to_string()]);
    lab.create("kept", &["--owner", "none"]);
    lab.create("session", &[]);
    let all = ["gone", "kept", "session", "there"];
    assert_eq!(lab.ok(&["reap"]), "nothing to reap\n");
    gone.end();
    let would = lab.ok(&["reap", "--dry-run"]);
    assert_eq!(
        (would.as_str(), lab.names()),
        ("would reap gone: its owner is gone\n", all.map(str::to_owned).into())
    );
    let listed = lab.json(&["list", "gone"]);
    assert_eq!(listed["overlays"][0]["reapable"], true);
    assert_eq!(lab.ok(&["reap"]), "reaped gone: its owner is gone\n");
    assert_eq!(lab.names(), ["kept", "session", "there"]);
    assert!(!at.exists());
    drop(there);
    let other = lab.create("other", &[]);
    assert_eq!(lab.names(), ["kept", "other", "session"], "create reaps first");
    assert_eq!(read(other.join("file")), "base");
    lab.ok(&["destroy", "--all"]);
    lab.assert_nothing_left();
}

#[test]
fn an_owners_reused_id_another_boot_and_another_namespace_are_told_apart() {
    ground!("overlay");
    let lab = Lab::new();
    let owner = sleeper();
    let rewrite = |name: &str, key: &str, value: serde_json::Value| {
        lab.create(name, &["--owner", &owner.pid().to_string()]);
        let path = lab.home_dir().join("overlays").join(name).join("overlay.json");
        let mut record: serde_json::Value = serde_json::from_str(&read(&path)).expect("JSON");
        record["owner"][key] = value;
        fs::write(&path, record.to_string()).expect("written");
    };
    rewrite("reused", "start", 1.into());
    rewrite("rebooted", "boot", "another".into());
    rewrite("elsewhere", "namespace", 1.into());
    let reaped = lab.json(&["reap"]);
    let names: Vec<_> =
        reaped["reaped"].as_array().expect("a list").iter().map(|r| r["name"].clone()).collect();
    // `create` reaps too: the last one is left to this reap, or it was taken by the one before.
    assert!(names.iter().all(|name| name != "elsewhere"), "{reaped}");
    assert_eq!(lab.names(), ["elsewhere"]);
    lab.ok(&["destroy", "elsewhere"]);
    lab.assert_nothing_left();
}

#[test]
fn a_swap_that_was_killed_half_way_is_gone_on_with() {
    ground!("overlay");
    let lab = Lab::new();
    let at = lab.create("ci", &[]);
    fs::write(at.join("file"), "changed").expect("written");
    let entry = lab.home().entry(&"ci".parse().expect("a name"));
    let locked = entry.lock().expect("free").expect("there");
    let generation = locked.make_generation(1, 2, &lab.base()).expect("made");
    let (lower, upper, work) = ([lab.base()], generation.upper(), generation.work());
    let source = entry.source(1, Some(2)).to_string();
    let overlay = Overlay { source: &source, lower: &lower, upper: Some((&upper, &work)), options: &[] };
    let mounted = mount::overlay(&overlay, Restrict::default()).expect("mounted");
    mount::attach_beneath(&mounted, &at).expect("moved");
    drop(locked);
    // The old tree still shows; what was to show lies beneath.
    assert_eq!((read(at.join("file")).as_str(), lab.mounts().len()), ("changed", 2));
    assert_eq!(lab.ok(&["reap"]), "nothing to reap\n");
    lab.ok(&["reset", "ci"]);
    assert_eq!((read(at.join("file")).as_str(), lab.mounts().len()), ("base", 1));
    assert_eq!(lab.json(&["list", "ci"])["overlays"][0]["copies"][0]["generation"], 3);
    lab.ok(&["destroy", "ci"]);
    lab.assert_nothing_left();
}

#[test]
fn mounts_without_an_overlay_are_found_by_their_source_and_those_of_another_home_are_not_touched() {
    ground!("overlay");
    let (lab, other) = (Lab::new(), Lab::new());
    let theirs = other.create("ci", &[]);
    let at = lab.create("ci", &[]);
    for generation in [8, 9] {
        let dir = lab.root().join(format!("stray {generation}"));
        fs::create_dir_all(dir.join("upper")).expect("made");
        fs::create_dir_all(dir.join("work")).expect("made");
        let (upper, work) = (dir.join("upper"), dir.join("work"));
        let source =
            lab.home().entry(&"lost".parse().expect("a name")).source(1, Some(generation)).to_string();
        let lower = [lab.base()];
        let overlay = Overlay { source: &source, lower: &lower, upper: Some((&upper, &work)), options: &[] };
        let mounted = mount::overlay(&overlay, Restrict::default()).expect("mounted");
        let place = lab.root().join("place");
        fs::create_dir_all(&place).expect("made");
        mount::attach(&mounted, &place).expect("attached");
    }
    assert_eq!(lab.mounts().len(), 3);
    let would = lab.json(&["reap", "--dry-run"]);
    assert_eq!(would["unmounted"].as_array().map(Vec::len), Some(2), "{would}");
    assert_eq!(lab.mounts().len(), 3);
    lab.ok(&["reap"]);
    assert_eq!(lab.mounts(), [at]);
    assert_eq!(other.mounts(), [theirs]);
    // A record that is gone: its directory was removed by hand.
    fs::remove_dir_all(lab.home_dir().join("overlays/ci")).expect("removed");
    lab.ok(&["reap"]);
    lab.assert_nothing_left();
    other.ok(&["destroy", "ci"]);
}

#[test]
fn a_damaged_record_is_named_kept_and_destroyed_when_it_is_asked_for() {
    ground!("overlay");
    let lab = Lab::new();
    let at = lab.create("ci", &[]);
    fs::write(lab.home_dir().join("overlays/ci/overlay.json"), "{").expect("written");
    assert_eq!(lab.ok(&["reap"]), "nothing to reap\n");
    let listed = lab.json(&["list"]);
    assert!(
        listed["overlays"][0]["damage"].as_str().is_some_and(|why| why.contains("overlay.json")),
        "{listed}"
    );
    assert!(lab.fails(4, &["reset", "ci"]).contains("overlay.json"));
    lab.ok(&["destroy", "ci"]);
    fs::remove_dir(at).expect("nobody knows who made it");
    lab.assert_nothing_left();
}

#[test]
fn reaping_where_there_is_no_home_is_a_mistake_and_listing_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let home: PathBuf = folder.path().join("none");
    let run = |command: &str| {
        let mut program = crate::ground::cowsnap(folder.path());
        program.args(["overlay", "--home", utf8(&home), command]).output().expect("runs").status.code()
    };
    assert_eq!((run("reap"), run("list")), (Some(2), Some(0)));
    assert!(!home.exists());
}
