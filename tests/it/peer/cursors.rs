//! What both sides keep, and who waits for whom, however places are named and whichever way it goes.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use cowsnap::endpoint::{Dataset, History};
use serde_json::Value;

use super::lab::{Lab, noise};
use crate::ground::{self, ground, waits};

/// The same directory at another place, as long as the value is there.
struct Bound(PathBuf);

impl Bound {
    fn of(lab: &Lab, dir: &Path) -> Self {
        let at = lab.source.outside().join("bound");
        std::fs::create_dir(&at).unwrap();
        ground::run("mount", &["--bind", dir.to_str().unwrap(), at.to_str().unwrap()]);
        Self(at)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        ground::run("umount", &["-l", self.0.to_str().unwrap()]);
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Who keeps what: `NAME by TAG` without the tag's digits, oldest first.
fn kept(dataset: &Dataset) -> Vec<String> {
    let inventory = dataset.inventory().unwrap();
    let of = |version: &cowsnap::model::Version| {
        let tags =
            inventory.holds_of(&version.id).map(|tag| tag.as_str().split(':').nth(1).unwrap().to_owned());
        tags.map(|way| format!("{} {way}", version.id.name)).collect::<Vec<_>>()
    };
    inventory.versions().iter().flat_map(of).collect()
}

/// Runs the program, and answers its JSON.
fn does(lab: &Lab, args: &[&str]) -> Value {
    let state = lab.source.outside().join("state");
    let output = ground::cowsnap(&state).arg("--json").args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}

/// Goes on, and is waited for, whatever becomes of the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let _ = self.0.wait();
        }
    }
}

#[test]
fn who_names_the_places_otherwise_waits_for_the_same_run() {
    ground!("btrfs");
    let lab = Lab::new();
    lab.write("a", &noise(1, 4_000_000));
    lab.snapshot("one");
    let (from, to) = (lab.source.path().join("data"), lab.target.path().join("copy"));
    let link = lab.source.outside().join("link");
    std::os::unix::fs::symlink(lab.source.path(), &link).unwrap();
    let bound = Bound::of(&lab, &lab.target.path());
    let state = lab.source.outside().join("state");
    let start = |args: &[&str]| {
        let mut command = ground::cowsnap(&state);
        command.arg("replicate").args(args).stdin(Stdio::null()).stdout(Stdio::null());
        command
    };
    let mut first = Running(start(&["--bandwidth", "200K", text(&from), text(&to)]).spawn().unwrap());
    let staging = lab.target.path().join(".cowsnap/staging");
    waits("the first run to begin", || std::fs::read_dir(&staging).is_ok_and(|mut dir| dir.next().is_some()));
    let words = lab.source.outside().join("words");
    let mut second = start(&[text(&link.join("data")), text(&bound.0.join("copy"))])
        .stderr(std::fs::File::create(&words).unwrap())
        .spawn()
        .unwrap();
    let said = || std::fs::read_to_string(&words).unwrap();
    waits("the second to wait or to fail", || said().contains("waiting for it") || said().contains("error:"));
    assert!(first.0.wait().unwrap().success());
    assert!(second.wait().unwrap().success(), "{}", said());
    assert!(said().contains("another run replicates"), "{}", said());
    // By whichever names: one cursor on each side.
    assert_eq!((kept(&lab.from()), kept(&lab.to())), (vec!["one to".into()], vec!["one from".into()]));
    lab.snapshot("two");
    does(&lab, &["replicate", text(&link.join("data")), text(&bound.0.join("copy"))]);
    assert_eq!((kept(&lab.from()), kept(&lab.to())), (vec!["two to".into()], vec!["two from".into()]));
}

/// The tag by which cowsnap kept what both have as long as places were told by how they are named.
fn former(way: &str, place: &Path) -> cowsnap::model::HoldTag {
    let read = |path| std::fs::read_to_string(path).ok().filter(|text| !text.trim().is_empty());
    let machine = read("/etc/machine-id").or_else(|| read("/proc/sys/kernel/hostname")).unwrap_or_default();
    let readable: String = text(place)
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "_.-".contains(c) { c } else { '-' })
        .collect();
    let hash = blake3::hash(format!("{machine}\0{}", text(place)).as_bytes()).to_hex();
    let end = readable.len().saturating_sub(40);
    format!("cowsnap:{way}:{}-{}", &readable[end..], &hash[..12]).parse().unwrap()
}

#[test]
fn what_was_kept_by_how_places_were_named_is_let_go_of() {
    ground!("btrfs");
    let lab = Lab::new();
    lab.write("a", b"some");
    let one = lab.snapshot("one");
    let (from, to) = (lab.source.path().join("data"), lab.target.path().join("copy"));
    does(&lab, &["replicate", text(&from), text(&to)]);
    for (dataset, tag) in [(lab.from(), former("to", &to)), (lab.to(), former("from", &from))] {
        let held = dataset.inventory().unwrap();
        let now = held.holds_of(&one.id).next().expect("it is kept").clone();
        assert_ne!(now, tag);
        dataset.hold(&one.id, &tag).unwrap();
        dataset.release(&one.id, &now).unwrap();
    }
    lab.snapshot("two");
    let dry = does(&lab, &["replicate", "--dry-run", text(&from), text(&to)]);
    assert_eq!(dry["replicated"][0]["steps"][1]["base"]["name"], "one", "{dry}");
    assert!(lab.from().inventory().unwrap().holds_of(&one.id).any(|tag| *tag == former("to", &to)));
    does(&lab, &["replicate", text(&from), text(&to)]);
    assert_eq!((kept(&lab.from()), kept(&lab.to())), (vec!["two to".into()], vec!["two from".into()]));
}

/// The replica goes on as the live one, the old source gets the difference, and it goes back: nothing is kept for a direction that has turned.
#[test]
fn there_and_back_only_the_difference_travels_and_nothing_stays_kept() {
    ground!("btrfs");
    let lab = Lab::new();
    let (data, copy) = (lab.source.path().join("data"), lab.target.path().join("copy"));
    let bytes = |done: &Value| {
        let moved = &done["replicated"][0]["moved"];
        assert_eq!(moved.as_array().map(Vec::len), Some(1), "{done}");
        assert!(moved[0]["base"].is_string(), "{done}");
        moved[0]["stream_bytes"].as_u64().unwrap()
    };
    lab.write("a", &noise(1, 6_000_000));
    lab.snapshot("one");
    does(&lab, &["replicate", text(&data), text(&copy)]);
    // The replica becomes the live one.
    does(&lab, &["create", text(&copy)]);
    does(&lab, &["rollback", &format!("{}@one", text(&copy))]);
    assert_eq!(std::fs::read(copy.join("a")).unwrap(), noise(1, 6_000_000));
    std::fs::write(copy.join("b"), noise(2, 200_000)).unwrap();
    does(&lab, &["snapshot", text(&copy), "--name", "two"]);
    // What is let go of in the end is foretold.
    let dry = does(&lab, &["replicate", "--dry-run", text(&copy), text(&data)]);
    let turned = dry["replicated"][0]["turned"].as_array().unwrap();
    let told = |nth: usize| (turned[nth]["at"].clone(), turned[nth]["version"]["name"].clone());
    assert_eq!(
        [told(0), told(1)],
        [("source".into(), "one".into()), ("target".into(), "one".into())],
        "{dry}"
    );
    let back = bytes(&does(&lab, &["replicate", text(&copy), text(&data)]));
    assert!((200_000..1_000_000).contains(&back), "{back} bytes");
    assert_eq!((kept(&lab.from()), kept(&lab.to())), (vec!["two from".into()], vec!["two to".into()]));
    // And the old one again.
    does(&lab, &["rollback", &format!("{}@two", text(&data))]);
    assert_eq!(std::fs::read(data.join("b")).unwrap(), noise(2, 200_000));
    lab.write("c", &noise(3, 200_000));
    let three = lab.snapshot("three");
    let again = bytes(&does(&lab, &["replicate", text(&data), text(&copy)]));
    assert!((200_000..1_000_000).contains(&again), "{again} bytes");
    assert_eq!((kept(&lab.from()), kept(&lab.to())), (vec!["three to".into()], vec!["three from".into()]));
    lab.expect_same(&three);
}

#[test]
fn a_parent_without_snapshots_is_no_failure_where_all_that_is_inside_arrived() {
    ground!("btrfs");
    let lab = Lab::new();
    let (data, copy) = (lab.source.path().join("data"), lab.target.path().join("copy"));
    for child in ["x", "y"] {
        let child = lab.source.subvolume(&format!("data/{child}"));
        does(&lab, &["snapshot", text(&child), "--name", "s"]);
    }
    lab.target.subvolume("copy");
    let done = does(&lab, &["replicate", "-r", text(&data), text(&copy)]);
    assert_eq!(done["replicated"].as_array().map(Vec::len), Some(2), "{done}");
    let state = lab.source.outside().join("state");
    let alone = ground::cowsnap(&state).args(["replicate", text(&data), text(&copy)]).output().unwrap();
    assert_eq!(alone.status.code(), Some(3), "{}", String::from_utf8_lossy(&alone.stderr));
}
