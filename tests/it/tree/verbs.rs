//! Versions of trees: names, holds, sets, what is left behind.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use cowsnap::endpoint::{Backend, DestroyDataset, Error, History, RollbackRequest, SnapshotRequest};

use super::lab::{content, made, name, names, staged, store, tag, take, tree, try_take};
use crate::ground::{Plain, ground, run};

#[test]
fn what_is_kept_is_nobody_elses() {
    ground!("xfs");
    let ground = Plain::xfs();
    take(&made(&ground.path().join("t")), "s");
    let kept = fs::metadata(store(&ground.path())).expect("a store");
    assert_eq!(kept.mode() & 0o7777, 0o700);
    fs::set_permissions(store(&ground.path()), std::os::unix::fs::PermissionsExt::from_mode(0o777))
        .expect("chmod");
    let error =
        try_take(&tree(&ground.path().join("t")), "next").expect_err("a store that others may write to");
    assert!(matches!(error, Error::Denied { .. }), "{error}");
}

#[test]
fn the_order_goes_on_after_versions_went_and_clocks_do_not_count() {
    ground!("xfs");
    let ground = Plain::xfs();
    let dataset = made(&ground.path().join("t"));
    let first = take(&dataset, "z");
    let second = take(&dataset, "a");
    dataset.destroy(&second.id).expect("destroyed");
    let third = take(&dataset, "a");
    assert!(first.order < second.order && second.order < third.order);
    assert_ne!(second.id.guid, third.id.guid);
    assert_eq!(names(&dataset), ["z", "a"]);
}

#[test]
fn labels_and_holds_are_there_from_the_start_and_stay_with_a_name() {
    ground!("xfs");
    let ground = Plain::xfs();
    let dataset = made(&ground.path().join("t"));
    let labels = BTreeMap::from([("height".to_owned(), "7".to_owned())]);
    let request = SnapshotRequest {
        labels: labels.clone(),
        holds: vec![tag("job")],
        ..SnapshotRequest::named(name("s"))
    };
    let taken = Backend::snapshot(std::slice::from_ref(&dataset), &request).expect("taken");
    assert!(!taken.atomic && !taken.spread.is_zero(), "{taken:?}");
    let renamed = dataset.rename_version(&taken.versions[0].id, &name("other")).expect("renamed");
    let details = dataset.details(false).expect("details");
    assert_eq!((&details[0].labels, details[0].holds.len()), (&labels, 1));
    assert!(matches!(dataset.destroy(&renamed), Err(Error::Held { .. })));
    take(&dataset, "s");
    let taken = dataset.rename_version(&renamed, &name("s"));
    assert!(matches!(taken, Err(Error::Exists { .. })), "{taken:?}");
}

#[test]
fn a_version_that_was_altered_is_no_version_to_go_back_to() {
    ground!("xfs");
    let ground = Plain::xfs();
    let dataset = made(&ground.path().join("t"));
    let version = take(&dataset, "s");
    fs::write(content(&ground.path(), "t", "s").join("f"), "two").expect("written");
    let back = dataset.rollback(&version.id, &RollbackRequest::default());
    assert!(matches!(back, Err(Error::Corrupt { .. })), "{back:?}");
    let clone = dataset.clone_at(&version.id, &tree(&ground.path().join("c")));
    assert!(matches!(clone, Err(Error::Corrupt { .. })), "{clone:?}");
    assert_eq!(fs::read(ground.path().join("t/f")).expect("the live one"), b"one");
    assert!(staged(&ground.path()).is_empty());
}

#[test]
fn directories_beside_each_other_are_taken_together_others_only_if_that_is_said() {
    ground!("xfs");
    let ground = Plain::xfs();
    fs::create_dir(ground.path().join("other")).expect("mkdir");
    let set = [made(&ground.path().join("a")), made(&ground.path().join("b"))];
    let far = made(&ground.path().join("other/c"));
    Backend::snapshot(&set, &SnapshotRequest::named(name("s"))).expect("taken");
    let all = [set[0].clone(), far.clone(), set[1].clone()];
    let refused = Backend::snapshot(&all, &SnapshotRequest::named(name("all")));
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    assert!(names(&far).is_empty());
    let request = SnapshotRequest { not_atomic: true, ..SnapshotRequest::named(name("all")) };
    let taken = Backend::snapshot(&all, &request).expect("taken");
    for (dataset, version) in all.iter().zip(&taken.versions) {
        assert_eq!(dataset.version(&name("all")).expect("there"), *version, "in the order asked");
    }
    let twice = [set[0].clone(), set[0].clone()];
    let refused = Backend::snapshot(&twice, &SnapshotRequest::named(name("x")));
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
}

#[test]
fn a_mounted_version_is_read_only_and_stays() {
    ground!("xfs");
    let ground = Plain::xfs();
    let dataset = made(&ground.path().join("t"));
    let version = take(&dataset, "s");
    let at = ground.path().join("at");
    fs::create_dir(&at).expect("mkdir");
    let mount = dataset.mount(&version.id, &at).expect("mounted");
    assert_eq!(fs::read(at.join("f")).expect("shown"), b"one");
    let written = fs::write(at.join("f"), "two").expect_err("read-only");
    assert_eq!(written.raw_os_error(), Some(libc::EROFS));
    let destroyed = dataset.destroy(&version.id);
    assert!(matches!(destroyed, Err(Error::Refused { .. })), "{destroyed:?}");
    mount.close().expect("unmounted");
    dataset.destroy(&version.id).expect("destroyed");
}

#[test]
fn a_renamed_directory_takes_its_versions_along() {
    ground!("xfs");
    let ground = Plain::xfs();
    let (old, new) = (made(&ground.path().join("old")), tree(&ground.path().join("new")));
    take(&old, "s");
    let other = made(&ground.path().join("other"));
    assert!(matches!(old.rename_dataset(&other), Err(Error::Exists { .. })));
    old.rename_dataset(&new).expect("renamed");
    assert_eq!(names(&new), ["s"]);
    assert!(matches!(old.inventory(), Err(Error::NotFound { .. })));
    assert_eq!(fs::read(ground.path().join("new/f")).expect("the live one"), b"one");
    assert!(staged(&ground.path()).is_empty());
}

#[test]
fn only_versions_are_destroyed_and_never_a_directory() {
    ground!("xfs");
    let ground = Plain::xfs();
    let dataset = made(&ground.path().join("t"));
    let version = take(&dataset, "s");
    let all = DestroyDataset { snapshots: true };
    assert!(matches!(dataset.destroy_dataset(all), Err(Error::Refused { .. })));
    assert_eq!(fs::read(ground.path().join("t/f")).expect("it is there"), b"one");
    fs::remove_dir_all(ground.path().join("t")).expect("removed by its owner");
    assert_eq!(names(&dataset), ["s"], "what is left of it");
    dataset.clone_at(&version.id, &dataset).expect("brought back");
    assert_eq!(fs::read(ground.path().join("t/f")).expect("it is there again"), b"one");
    fs::remove_dir_all(ground.path().join("t")).expect("removed by its owner");
    dataset.destroy_dataset(all).expect("its history goes");
    assert!(!store(&ground.path()).exists());
}

#[test]
fn a_mount_point_keeps_its_versions_inside_and_can_not_be_exchanged() {
    ground!("xfs");
    let ground = Plain::xfs();
    fs::write(ground.path().join("f"), "one").expect("written");
    let dataset = tree(&ground.path());
    let version = take(&dataset, "s");
    take(&dataset, "t");
    let kept = ground.path().join(".cowsnap-trees/trees/%/snap/t/tree");
    let inside: Vec<_> = fs::read_dir(kept).expect("kept").flatten().map(|e| e.file_name()).collect();
    assert_eq!(inside, ["f"], "the versions are not in the next one");
    let refused = dataset.rollback(&version.id, &RollbackRequest::default());
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    let clone = tree(&ground.path().join("clone"));
    dataset.clone_at(&version.id, &clone).expect("cloned");
    assert_eq!(fs::read(ground.path().join("clone/f")).expect("cloned"), b"one");
}

#[test]
fn going_back_does_not_take_the_versions_of_trees_inside_along() {
    ground!("xfs");
    let ground = Plain::xfs();
    let outer = made(&ground.path().join("t"));
    let version = take(&outer, "s");
    let inner = made(&ground.path().join("t/inner"));
    take(&inner, "i");
    take(&outer, "s2");
    let refused = outer.rollback(&version.id, &RollbackRequest::default()).expect_err("refused");
    assert!(refused.to_string().contains("snapshots of trees inside it"), "{refused}");
    assert_eq!(names(&inner), ["i"]);
}

#[test]
fn a_mount_of_what_was_replaced_is_told() {
    ground!("xfs");
    let ground = Plain::xfs();
    let dataset = made(&ground.path().join("t"));
    let version = take(&dataset, "s");
    let at = ground.outside().join("bound");
    fs::create_dir(&at).expect("mkdir");
    run("mount", &["--bind", ground.path().join("t").to_str().expect("utf-8"), at.to_str().expect("utf-8")]);
    let done = dataset.rollback(&version.id, &RollbackRequest::default()).expect("rolled back");
    assert!(done.warnings.iter().any(|w| w.contains("bound")), "{done:?}");
}
