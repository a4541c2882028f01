//! What changed, as `zfs diff` and a look at both trees tell it: held against what was done.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use cowsnap::endpoint::zfs::Dataset;
use cowsnap::endpoint::{Change, Error};
use cowsnap::model::VersionRef;

use super::ground::{Pool, zfs};
use super::lab::{create, path, snap};
use crate::ground::ground;

fn told(dataset: &Dataset, old: &VersionRef, new: Option<&VersionRef>) -> Vec<String> {
    let line = |change: &Change| {
        let from =
            change.from.as_ref().map(|from| format!("{} -> ", from.escape_ascii())).unwrap_or_default();
        format!("{} {from}{}", change.kind, change.path.escape_ascii())
    };
    dataset.changes(old, new).expect("compared").iter().map(line).collect()
}

fn fill(root: &Path) {
    for dir in ["d", "moved", "emptied"] {
        std::fs::create_dir(root.join(dir)).expect("mkdir");
    }
    for file in [
        "d/same",
        "d/written",
        "d/chmod",
        "gone",
        "moved/inside",
        "old name",
        "retyped",
        "linked",
        "emptied/x",
    ] {
        std::fs::write(root.join(file), file).expect("written");
    }
    std::fs::write(root.join("odd \t\n\\\u{e4}%:"), "x").expect("written");
}

fn change(root: &Path) {
    std::fs::write(root.join("d/written"), "other").expect("written");
    std::fs::set_permissions(root.join("d/chmod"), PermissionsExt::from_mode(0o600)).expect("chmod");
    std::fs::remove_file(root.join("gone")).expect("removed");
    std::fs::remove_file(root.join("emptied/x")).expect("removed");
    std::fs::rename(root.join("moved"), root.join("moved away")).expect("renamed");
    std::fs::rename(root.join("old name"), root.join("d/new name")).expect("renamed");
    std::fs::remove_file(root.join("retyped")).expect("removed");
    symlink("d", root.join("retyped")).expect("a link");
    std::fs::hard_link(root.join("linked"), root.join("d/linked too")).expect("a link");
    std::fs::write(root.join("odd \t\n\\\u{e4}%:"), "y").expect("written");
    std::fs::create_dir(root.join("new: dir")).expect("mkdir");
    std::fs::write(root.join("new: dir/f"), "x").expect("written");
}

const WANTED: [&str; 12] = [
    "m d/chmod",
    "A d/linked too",
    "R old name -> d/new name",
    "M d/written",
    "D emptied/x",
    "D gone",
    "R moved -> moved away",
    "A new: dir",
    "A new: dir/f",
    r"M odd \t\n\\\xc3\xa4%:",
    "T retyped",
    "",
];

#[test]
fn what_was_done_is_told() {
    ground!("zfs");
    let pool = Pool::with("256M", &[]);
    let dataset = create(&pool, "a b:c");
    fill(&path(&dataset));
    let old = snap(&dataset, "old 1");
    change(&path(&dataset));
    let wanted: Vec<_> = WANTED.iter().filter(|line| !line.is_empty()).copied().collect();
    assert_eq!(told(&dataset, &old.id, None), wanted, "up to now");
    let new = snap(&dataset, "new: 2");
    std::fs::remove_dir_all(path(&dataset).join("d")).expect("removed");
    assert_eq!(told(&dataset, &old.id, Some(&new.id)), wanted, "up to a snapshot");
    assert_eq!(told(&dataset, &new.id, Some(&new.id)), [""; 0], "nothing");
    let left: Vec<_> = super::lab::snapshots(dataset.name().as_str());
    assert_eq!(left, ["old 1", "new: 2"], "what it was compared with is gone again");
}

#[test]
fn a_filesystem_that_is_not_mounted_is_not_compared() {
    ground!("zfs");
    let pool = Pool::with("256M", &[]);
    let dataset = create(&pool, "a b:c");
    let old = snap(&dataset, "s");
    zfs(&["unmount", dataset.name().as_str()]);
    let refused = dataset.changes(&old.id, None).expect_err("not mounted");
    assert!(matches!(refused, Error::Refused { .. }), "{refused}");
    assert_eq!(refused.hint(), Some(format!("zfs mount '{}'", dataset.name())));
}
