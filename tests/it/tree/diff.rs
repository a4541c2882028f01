//! What changed since a version, told without reading what did not.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use cowsnap::endpoint::tree::Dataset;
use cowsnap::endpoint::{Backend, RollbackRequest};
use cowsnap::model::{Version, VersionRef};

use super::lab::{made, take};
use crate::ground::{Plain, ground, run};

fn changes(dataset: &Dataset, old: &VersionRef, new: Option<&VersionRef>) -> String {
    let changes = dataset.changes(old, new).expect("compared");
    let line = |change: &cowsnap::endpoint::Change| {
        let path = String::from_utf8_lossy(&change.path).into_owned();
        match &change.from {
            Some(from) => format!("{} {} -> {path}", change.kind, String::from_utf8_lossy(from)),
            None => format!("{} {path}", change.kind),
        }
    };
    let mut lines: Vec<_> = changes.iter().map(line).collect();
    lines.sort();
    lines.join("\n")
}

fn fill(live: &Path) {
    for folder in ["dir/sub", "moved/deep", "gone"] {
        fs::create_dir_all(live.join(folder)).expect("mkdir");
    }
    for file in
        ["dir/same", "dir/written", "dir/touched", "dir/mode", "moved/deep/x", "gone/y", "retyped", "a"]
    {
        fs::write(live.join(file), "content").expect("written");
    }
    symlink("a", live.join("link")).expect("linked");
}

fn change(live: &Path) {
    fs::write(live.join("dir/written"), "CONTENT").expect("written");
    fs::write(live.join("dir/new"), "new").expect("written");
    run("chmod", &["600", live.join("dir/mode").to_str().expect("utf-8")]);
    run("touch", &["-d", "2001-01-01", live.join("dir/touched").to_str().expect("utf-8")]);
    fs::rename(live.join("moved"), live.join("there")).expect("renamed");
    fs::remove_dir_all(live.join("gone")).expect("removed");
    fs::remove_file(live.join("retyped")).expect("removed");
    fs::create_dir(live.join("retyped")).expect("mkdir");
    fs::rename(live.join("a"), live.join("dir/sub/b")).expect("renamed");
    fs::remove_file(live.join("link")).expect("removed");
    symlink("b", live.join("link")).expect("linked");
}

const WANTED: &str = "\
A dir/new
D gone
D gone/y
M dir/written
M link
R a -> dir/sub/b
R moved -> there
T retyped
m dir/mode
m dir/touched";

fn two_versions(dataset: &Dataset) -> (Version, Version) {
    fill(&dataset.path());
    let first = take(dataset, "first");
    change(&dataset.path());
    (first, take(dataset, "second"))
}

#[test]
fn between_two_versions_and_up_to_now_the_same_is_told() {
    ground!("xfs");
    let ground = Plain::xfs();
    let dataset = made(&ground.path().join("t"));
    let (first, second) = two_versions(&dataset);
    assert_eq!(changes(&dataset, &first.id, None), WANTED);
    assert_eq!(changes(&dataset, &first.id, Some(&second.id)), WANTED);
    assert_eq!(changes(&dataset, &second.id, None), "");
}

#[test]
fn after_going_back_nothing_differs_although_each_file_is_another() {
    ground!("xfs");
    let ground = Plain::xfs();
    let dataset = made(&ground.path().join("t"));
    let (first, second) = two_versions(&dataset);
    dataset.rollback(&first.id, &RollbackRequest::default()).expect("rolled back");
    assert_eq!(changes(&dataset, &first.id, None), "");
    assert!(changes(&dataset, &second.id, None).contains("M dir/written"));
}

#[test]
fn a_change_that_hides_its_time_is_noticed() {
    ground!("xfs");
    let ground = Plain::xfs();
    let dataset = made(&ground.path().join("t"));
    let file = ground.path().join("t/f");
    let before = fs::metadata(&file).expect("there").modified().expect("a time");
    let version = take(&dataset, "s");
    fs::write(&file, "two").expect("written");
    fs::File::options().write(true).open(&file).expect("opened").set_modified(before).expect("set back");
    assert_eq!(changes(&dataset, &version.id, None), "M f");
}
