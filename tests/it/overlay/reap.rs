//! Whose owner is gone, goes; nothing else does.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use cowsnap::exec::overlay::sweep;
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
    // One that is there.
    let container = Process::new(Command::new("unshare").args(["-pf", "--kill-child", "sleep", "600"]));
    let namespace = || {
        let of_children = format!("/proc/{}/ns/pid_for_children", container.pid());
        fs::metadata(of_children).map_or(0, |meta| std::os::unix::fs::MetadataExt::ino(&meta))
    };
    let own = fs::metadata("/proc/self/ns/pid").map(|meta| std::os::unix::fs::MetadataExt::ino(&meta));
    let own = own.expect("examined");
    crate::ground::waits("a pid namespace", || ![0, own].contains(&namespace()));
    rewrite("elsewhere", "namespace", namespace().into());
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

#[test]
fn who_reaps_is_told_what_waits_though_another_destroys_it_or_hangs() {
    ground!("overlay");
    let lab = Lab::new();
    lab.create("ci", &[]);
    let waits = lab.home_dir().join("trash/4711");
    fs::create_dir(&waits).expect("made");
    let (home, soon) = (lab.home(), std::time::Duration::from_millis(300));
    let stuck = |program: &std::path::Path| sweep::stuck(&home, program, soon).expect("it ends");
    let cowsnap = std::path::Path::new(env!("CARGO_BIN_EXE_cowsnap"));
    let named = |stuck: Vec<sweep::Stuck>, why: &str| {
        assert!(stuck.len() == 1 && stuck[0].path == waits && stuck[0].why.contains(why), "{stuck:?}");
    };
    // A pool that hangs.
    let hangs = lab.root().join("hangs");
    fs::write(&hangs, "#!/bin/sh\nexec sleep 20\n").expect("written");
    fs::set_permissions(&hangs, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("set");
    named(stuck(&hangs), "has not got on");
    // Another process.
    let trash = home.lock_trash().expect("free");
    named(stuck(cowsnap), "has not got on");
    // Nobody waits on against a signal.
    let mut reap = Process::new(lab.command(&["reap"]).stderr(std::process::Stdio::null()));
    std::thread::sleep(soon);
    let pid = rustix::process::Pid::from_child(&reap.0);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("sent");
    assert!(!reap.0.wait().expect("ended").success() && waits.exists());
    drop(trash);
    // Those that were waited for no longer go on.
    crate::ground::waits("it to go", || !waits.exists());
    fs::create_dir(&waits).expect("made");
    // What can not be destroyed is told by whoever does it.
    let file = waits.join("file");
    fs::write(&file, "").expect("written");
    crate::ground::run("chattr", &["+i", utf8(&file)]);
    let said = lab.fails(7, &["reap"]);
    assert!(said.contains(utf8(&waits)) && said.contains("Operation not permitted"), "{said}");
    // Not as long as somebody is trying.
    crate::ground::waits("the doctor to tell", || doctor(&lab).contains("1 old trees of overlays wait"));
    crate::ground::run("chattr", &["-i", utf8(&file)]);
    assert_eq!(lab.ok(&["reap"]), "nothing to reap\n");
    assert!(!waits.exists());
    lab.ok(&["destroy", "ci"]);
    lab.assert_nothing_left();
}

fn doctor(lab: &Lab) -> String {
    let mut command = crate::ground::cowsnap(&lab.root().join("state"));
    let output = command.arg("doctor").env("COWSNAP_OVERLAY_HOME", lab.home_dir()).output();
    super::lab::text(&output.expect("it runs"))
}

#[test]
fn the_doctor_tells_what_is_wrong_with_overlays() {
    ground!("overlay");
    let lab = Lab::new();
    lab.create("ci", &["--owner", "none"]);
    let doctor = || doctor(&lab);
    assert!(!doctor().contains("overlay ci"), "{}", doctor());
    let record = lab.home_dir().join("overlays/ci/overlay.json");
    let whole = read(&record);
    fs::write(&record, whole.replace("\"ready\"", "\"making\"")).expect("written");
    assert!(doctor().contains("problem: overlay ci: "), "{}", doctor());
    fs::write(&record, "no JSON").expect("written");
    assert!(doctor().contains("problem: the record of overlay ci can not be read"), "{}", doctor());
    fs::write(&record, whole).expect("written");
    lab.ok(&["destroy", "ci"]);
    lab.assert_nothing_left();
}

#[test]
fn another_users_home_is_used_by_nobody_else() {
    ground!("overlay", "root");
    let lab = Lab::new();
    lab.create("ci", &[]);
    let theirs = lab.root().join("theirs");
    crate::ground::run("cp", &["-a", utf8(&lab.home_dir()), utf8(&theirs)]);
    std::os::unix::fs::chown(&theirs, Some(64_321), None).expect("root may");
    for args in
        [&["list"][..], &["reap"], &["destroy", "ci"], &["create", "x", "--at", "/srv/x", "--base", "/srv"]]
    {
        let said = lab.fails(6, &[&["--home", utf8(&theirs)], args].concat());
        assert!(said.contains("it belongs to user 64321"), "{args:?} {said}");
    }
    lab.ok(&["destroy", "ci"]);
    lab.assert_nothing_left();
}
