//! The btrfs backend on real filesystems, with `btrfs` as the oracle.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cowsnap::endpoint::DestroyDataset;
use cowsnap::endpoint::btrfs::{self, Dataset, Store};
use cowsnap::endpoint::{Backend, Error, History, RollbackRequest, SnapshotRequest, Verified, contract};
use cowsnap::model::{HoldTag, SnapshotName, Version};

use crate::ground::{Btrfs, ground, run};

fn name(text: &str) -> SnapshotName {
    text.parse().expect("a name")
}

fn tag(text: &str) -> HoldTag {
    text.parse().expect("a tag")
}

fn snap(dataset: &Dataset, text: &str) -> Version {
    let set = std::slice::from_ref(dataset);
    let taken = Backend::snapshot(set, &SnapshotRequest::named(name(text))).expect("a snapshot");
    taken.versions.into_iter().next().expect("one")
}

fn names(dataset: &Dataset) -> Vec<String> {
    let inventory = dataset.inventory().expect("an inventory");
    inventory.versions().iter().map(|v| v.id.name.to_string()).collect()
}

fn write(path: impl AsRef<Path>, text: &str) {
    std::fs::write(path, text).expect("write");
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).expect("read")
}

fn hidden(ground: &Btrfs, below: &str) -> PathBuf {
    ground.path().join(".cowsnap").join(below)
}

fn assert_no_staging(ground: &Btrfs) {
    let staging = hidden(ground, "staging");
    let left: Vec<_> =
        std::fs::read_dir(staging).map(|d| d.flatten().map(|e| e.path()).collect()).unwrap_or_default();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_snapshot_keeps_what_was_there_and_lists_in_the_order_of_creation() {
    ground!("btrfs");
    let ground = Btrfs::new();
    let live = ground.subvolume("chain");
    let dataset = Dataset::at(&live).expect("a dataset");
    write(live.join("f"), "one");
    let first = snap(&dataset, "z first");
    write(live.join("f"), "two");
    let second = snap(&dataset, "a second");
    assert_eq!(names(&dataset), ["z first", "a second"]);
    assert!(first.order < second.order);
    let kept = hidden(&ground, "datasets/chain/snap/z first/f");
    assert_eq!(read(kept), "one");
    assert_eq!(dataset.version(&first.id.name).expect("it"), first);
    let shown = run(
        "btrfs",
        &["subvolume", "show", hidden(&ground, "datasets/chain/snap/z first").to_str().expect("utf-8")],
    );
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains(&first.id.guid.to_string()) && shown.contains("readonly"), "{shown}");
    assert_no_staging(&ground);
}

#[test]
fn a_taken_name_is_refused_and_nothing_changes() {
    ground!("btrfs");
    let ground = Btrfs::new();
    let dataset = Dataset::at(&ground.subvolume("a")).expect("a");
    let first = snap(&dataset, "s");
    let set = std::slice::from_ref(&dataset);
    let again = Backend::snapshot(set, &SnapshotRequest::named(name("s")));
    assert!(matches!(again, Err(Error::Exists { .. })), "{again:?}");
    assert_eq!(dataset.inventory().expect("one").versions(), [first]);
}

#[test]
fn several_datasets_are_snapshotted_together_or_not_at_all() {
    ground!("btrfs");
    let ground = Btrfs::new();
    let set: Vec<_> =
        ["a", "b", "c"].iter().map(|n| Dataset::at(&ground.subvolume(n)).expect("a dataset")).collect();
    let mut request = SnapshotRequest::named(name("together"));
    request.holds.push(tag("job"));
    request.labels.insert("height".into(), "7".into());
    let taken = Backend::snapshot(&set, &request).expect("taken");
    assert_eq!(taken.versions.len(), 3);
    for (dataset, version) in set.iter().zip(&taken.versions) {
        assert_eq!(dataset.inventory().expect("one").versions(), std::slice::from_ref(version));
        assert!(matches!(dataset.destroy(&version.id), Err(Error::Held { .. })));
        assert_eq!(dataset.details(false).expect("details")[0].labels["height"], "7");
    }
    snap(&set[1], "alone");
    let clash = Backend::snapshot(&set, &SnapshotRequest::named(name("alone")));
    assert!(matches!(clash, Err(Error::Exists { .. })), "{clash:?}");
    assert_eq!(names(&set[0]), ["together"]);
    let twice = [set[0].clone(), set[0].clone()];
    assert!(matches!(
        Backend::snapshot(&twice, &SnapshotRequest::named(name("x"))),
        Err(Error::Refused { .. })
    ));
    assert_no_staging(&ground);
}

#[test]
fn a_held_snapshot_stays_until_each_tag_is_released() {
    ground!("btrfs");
    let ground = Btrfs::new();
    let dataset = Dataset::at(&ground.subvolume("a")).expect("a");
    let version = snap(&dataset, "s");
    for held in ["b", "a", "a"] {
        dataset.hold(&version.id, &tag(held)).expect("held");
    }
    let inventory = dataset.inventory().expect("one");
    assert_eq!(inventory.holds_of(&version.id).map(ToString::to_string).collect::<Vec<_>>(), ["a", "b"]);
    let Err(Error::Held { tags, .. }) = dataset.destroy(&version.id) else { panic!("destroyed") };
    assert_eq!(tags, ["a", "b"]);
    dataset.release(&version.id, &tag("a")).expect("released");
    assert!(matches!(dataset.release(&version.id, &tag("a")), Err(Error::NotFound { .. })));
    assert!(matches!(dataset.destroy(&version.id), Err(Error::Held { .. })));
    dataset.release(&version.id, &tag("b")).expect("released");
    assert_eq!(std::fs::read_dir(hidden(&ground, "datasets/a/meta")).expect("meta").count(), 0);
    dataset.destroy_and_wait(&version.id, Duration::from_secs(60)).expect("destroyed");
    assert!(names(&dataset).is_empty());
    // Somebody has a directory open in it: that is said, and not waited for without end.
    std::fs::write(ground.path().join("a/f"), vec![7; 1 << 20]).expect("written");
    let version = snap(&dataset, "t");
    let open = std::fs::File::open(hidden(&ground, "datasets/a/snap/t/f")).expect("open");
    let error = dataset.destroy_and_wait(&version.id, Duration::from_secs(1)).expect_err("it is open");
    assert!(error.class().is_transient() && error.to_string().contains("@t"), "{error}");
    assert!(names(&dataset).is_empty(), "it is destroyed all the same");
    drop(open);
}

#[test]
fn a_reused_name_is_not_the_version_that_was_meant() {
    ground!("btrfs");
    let ground = Btrfs::new();
    let dataset = Dataset::at(&ground.subvolume("a")).expect("a");
    let old = snap(&dataset, "s");
    dataset.hold(&old.id, &tag("old")).expect("held");
    run("btrfs", &["subvolume", "delete", hidden(&ground, "datasets/a/snap/s").to_str().expect("utf-8")]);
    let new = snap(&dataset, "s");
    assert!(matches!(dataset.destroy(&old.id), Err(Error::Reused { .. })));
    assert!(matches!(dataset.hold(&old.id, &tag("x")), Err(Error::Reused { .. })));
    // What was said about the old one does not hold the new one.
    assert!(dataset.inventory().expect("one").holds().is_empty());
    dataset.destroy(&new.id).expect("destroyed");
}

#[test]
fn any_bytes_make_a_path_and_nested_ones_are_found() {
    ground!("btrfs");
    let ground = Btrfs::new();
    let odd = OsStr::from_bytes(b"sp ace%\n\xff");
    let outer = ground.path().join(odd);
    run("btrfs", &[OsStr::new("subvolume"), OsStr::new("create"), outer.as_os_str()]);
    std::fs::create_dir(outer.join("dir")).expect("mkdir");
    let inner = outer.join("dir").join(odd);
    run("btrfs", &[OsStr::new("subvolume"), OsStr::new("create"), inner.as_os_str()]);
    let (outer, inner) = (Dataset::at(&outer).expect("outer"), Dataset::at(&inner).expect("inner"));
    assert_eq!(inner.path(), Path::new(odd).join("dir").join(odd));
    assert_eq!(outer.nested().expect("nested"), std::slice::from_ref(&inner));
    snap(&inner, "s");
    let store = Store::open(&ground.path()).expect("a store");
    assert_eq!(store.datasets().expect("datasets"), [outer, inner]);
}

#[test]
fn a_plain_directory_is_refused_with_the_subvolume_around_it() {
    ground!("btrfs");
    let ground = Btrfs::new();
    let dir = ground.subvolume("a").join("dir");
    std::fs::create_dir(&dir).expect("mkdir");
    let error = Dataset::at(&dir).expect_err("a directory");
    assert!(error.to_string().contains("inside the subvolume"), "{error}");
    assert!(error.hint().expect("a hint").contains("cowsnap adopt"));
    let named = |path: &Path| Dataset::named(path).expect("a place").path().to_owned();
    assert_eq!(named(&dir.join("new")), Path::new("a/dir/new"));
    assert_eq!(named(&ground.path().join("a")), Path::new("a"));
    assert_eq!(named(&ground.path()), Path::new(""));
    let error = Dataset::at(ground.outside()).expect_err("not btrfs");
    assert!(matches!(error, Error::Foreign { .. }), "{error}");
    assert!(matches!(Dataset::at(&ground.path().join("none")), Err(Error::NotFound { .. })));
}

#[test]
fn a_mount_of_one_subvolume_reaches_the_store_and_leaves_no_mount() {
    ground!("btrfs");
    let ground = Btrfs::new();
    ground.subvolume("@");
    let live = ground.outside().join("live");
    std::fs::create_dir(&live).expect("mkdir");
    let source = source_of(&ground);
    let mounts_of_it = || {
        let table = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
        table.lines().filter(|line| line.split(' ').next() == Some(&source)).count()
    };
    run("mount", &["-t", "btrfs", "-o", "subvol=@", &source, live.to_str().expect("utf-8")]);
    assert_eq!(mounts_of_it(), 2);
    let dataset = Dataset::at(&live).expect("a dataset");
    assert_eq!(dataset.path(), Path::new("@"));
    snap(&dataset, "s");
    assert_eq!(mounts_of_it(), 2);
    assert!(hidden(&ground, "datasets/%40/snap/s").is_dir());
}

fn source_of(ground: &Btrfs) -> String {
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    let path = ground.path();
    let line = mounts.lines().find(|l| l.split(' ').nth(1) == path.to_str()).expect("mounted");
    line.split(' ').next().expect("a source").to_owned()
}

#[test]
fn a_read_only_mount_lists_but_does_not_snapshot() {
    ground!("btrfs");
    let ground = Btrfs::new();
    let live = ground.subvolume("a");
    snap(&Dataset::at(&live).expect("a"), "s");
    run("mount", &["-o", "remount,ro", ground.path().to_str().expect("utf-8")]);
    let dataset = Dataset::at(&live).expect("a");
    assert_eq!(names(&dataset), ["s"]);
    let set = std::slice::from_ref(&dataset);
    let error = Backend::snapshot(set, &SnapshotRequest::named(name("t"))).expect_err("read-only");
    assert!(
        matches!(error, Error::Denied { .. }) && error.hint().expect("a hint").contains("remount,rw"),
        "{error:?}"
    );
}

#[test]
fn a_clone_is_writable_and_known_to_its_origin() {
    ground!("btrfs");
    let ground = Btrfs::new();
    let live = ground.subvolume("a");
    write(live.join("f"), "one");
    let dataset = Dataset::at(&live).expect("a");
    let version = snap(&dataset, "s");
    let clone = dataset.store().dataset("b");
    dataset.clone_at(&version.id, &clone).expect("cloned");
    write(ground.path().join("b/f"), "two");
    assert_eq!(read(live.join("f")), "one");
    assert_eq!(dataset.clones_of(&version.id).expect("clones"), [PathBuf::from("b")]);
    assert!(matches!(dataset.clone_at(&version.id, &clone), Err(Error::Exists { .. })));
    let nowhere = dataset.store().dataset("no/where");
    assert!(matches!(dataset.clone_at(&version.id, &nowhere), Err(Error::NotFound { .. })));
}

#[test]
fn a_mounted_version_is_read_only_goes_with_its_guard_and_can_not_be_destroyed() {
    ground!("btrfs");
    let ground = Btrfs::new();
    let live = ground.subvolume("a");
    write(live.join("f"), "one");
    let dataset = Dataset::at(&live).expect("a");
    let version = snap(&dataset, "s");
    let dir = ground.outside().join("here");
    std::fs::create_dir(&dir).expect("mkdir");
    let mount = dataset.mount(&version.id, &dir).expect("mounted");
    assert_eq!(read(dir.join("f")), "one");
    assert!(std::fs::write(dir.join("g"), "x").is_err());
    let error = dataset.destroy(&version.id).expect_err("mounted");
    assert!(error.to_string().contains("here"), "{error}");
    drop(mount);
    assert!(!dir.join("f").exists());
    dataset.mount(&version.id, &dir).expect("mounted").keep();
    btrfs::unmount(&dir).expect("unmounted");
    assert!(matches!(btrfs::unmount(&dir), Err(Error::NotFound { .. })));
    assert!(matches!(btrfs::unmount(&ground.path()), Err(Error::Refused { .. })));
    dataset.destroy(&version.id).expect("destroyed");
}

#[test]
fn rename_takes_the_history_along() {
    ground!("btrfs");
    let ground = Btrfs::new();
    let dataset = Dataset::at(&ground.subvolume("a")).expect("a");
    let version = snap(&dataset, "s");
    dataset.hold(&version.id, &tag("t")).expect("held");
    let new = dataset.store().dataset("b c");
    dataset.rename_dataset(&new).expect("renamed");
    assert_eq!(names(&new), ["s"]);
    assert!(!ground.path().join("a").exists() && ground.path().join("b c").is_dir());
    let renamed = new.rename_version(&version.id, &name("t")).expect("renamed");
    assert_eq!((names(&new), renamed.guid), (vec!["t".to_owned()], version.id.guid));
    assert_eq!(new.inventory().expect("one").holds_of(&renamed).count(), 1);
    ground.subvolume("a");
    assert!(matches!(new.rename_dataset(&dataset), Err(Error::Exists { .. })));
    assert_eq!(Store::open(&ground.path()).expect("store").datasets().expect("all"), [dataset, new]);
}

#[test]
fn destroying_a_dataset_asks_for_its_snapshots_and_respects_holds() {
    ground!("btrfs");
    let ground = Btrfs::new();
    let dataset = Dataset::at(&ground.subvolume("a")).expect("a");
    let version = snap(&dataset, "s");
    let all = DestroyDataset { snapshots: true };
    assert!(matches!(dataset.destroy_dataset(DestroyDataset::default()), Err(Error::Refused { .. })));
    dataset.hold(&version.id, &tag("t")).expect("held");
    assert!(matches!(dataset.destroy_dataset(all), Err(Error::Held { .. })));
    dataset.release(&version.id, &tag("t")).expect("released");
    dataset.destroy_dataset(all).expect("destroyed");
    assert!(!dataset.exists().expect("looked") && dataset.store().datasets().expect("all").is_empty());
    dataset.create().expect("created");
    assert!(matches!(dataset.create(), Err(Error::Exists { .. })));
    assert!(names(&dataset).is_empty());
}

#[test]
fn rollback_keeps_what_it_replaces_and_what_is_newer() {
    ground!("btrfs");
    let ground = Btrfs::new();
    let live = ground.subvolume("a");
    let dataset = Dataset::at(&live).expect("a");
    write(live.join("f"), "one");
    let first = snap(&dataset, "first");
    write(live.join("f"), "two");
    snap(&dataset, "second");
    write(live.join("f"), "three");
    let request = RollbackRequest { keep_as: Some(name("kept")), ..RollbackRequest::default() };
    let done = dataset.rollback(&first.id, &request).expect("rolled back");
    assert_eq!(read(live.join("f")), "one");
    write(live.join("f"), "writable");
    assert_eq!(names(&dataset), ["first", "second", "kept"]);
    assert_eq!(read(hidden(&ground, "datasets/a/snap/kept/f")), "three");
    assert_eq!(done.kept[0].id.name, name("kept"));
    assert!(matches!(dataset.rollback(&first.id, &request), Err(Error::Exists { .. })));
    let done = dataset.rollback(&done.kept[0].id, &RollbackRequest::default()).expect("forward again");
    assert!(done.kept[0].id.name.as_str().starts_with("pre-rollback-"));
    assert_eq!(read(live.join("f")), "three");
    assert_no_staging(&ground);
}

#[test]
fn rollback_exchanges_the_mounts_of_the_subvolume() {
    ground!("btrfs");
    let ground = Btrfs::new();
    ground.subvolume("a");
    let at = |n: &str| ground.outside().join(n);
    for dir in ["live", "bound"] {
        std::fs::create_dir(at(dir)).expect("mkdir");
    }
    let text = |path: &Path| path.to_str().expect("utf-8").to_owned();
    run("mount", &["-t", "btrfs", "-o", "subvol=a,nodev", &source_of(&ground), &text(&at("live"))]);
    std::fs::create_dir(at("live").join("d")).expect("mkdir");
    write(at("live").join("d/f"), "one");
    run("mount", &["--bind", &text(&at("live").join("d")), &text(&at("bound"))]);
    run("mount", &["-o", "remount,bind,ro", &text(&at("bound"))]);
    let dataset = Dataset::at(&at("live")).expect("a");
    let version = snap(&dataset, "s");
    write(at("live").join("d/f"), "two");
    let done = dataset.rollback(&version.id, &RollbackRequest::default()).expect("rolled back");
    assert_eq!(done.warnings, Vec::<String>::new());
    assert_eq!(done.remounted.len(), 2);
    assert_eq!(read(at("live").join("d/f")), "one");
    assert_eq!(read(at("bound").join("f")), "one");
    assert!(std::fs::write(at("bound").join("f"), "x").is_err(), "still read-only");
    write(at("live").join("d/f"), "three");
    assert_eq!(read(at("bound").join("f")), "three");
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    assert_eq!(mounts.lines().filter(|l| l.contains(&text(&at("live")))).count(), 1);
}

#[test]
fn rollback_moves_nested_datasets_along_only_when_asked() {
    ground!("btrfs");
    let ground = Btrfs::new();
    let live = ground.subvolume("a");
    std::fs::create_dir(live.join("dir")).expect("mkdir");
    ground.subvolume("a/dir/b");
    ground.subvolume("a/c");
    let dataset = Dataset::at(&live).expect("a");
    let inner = Dataset::at(&live.join("c")).expect("c");
    write(live.join("dir/b/f"), "nested");
    write(live.join("c/f"), "before");
    let version = snap(&dataset, "s");
    snap(&inner, "s");
    write(live.join("c/f"), "after");
    ground.subvolume("a/late");
    let refused = dataset.rollback(&version.id, &RollbackRequest::default());
    assert!(
        matches!(&refused, Err(e @ Error::Refused { .. }) if e.hint().expect("hint").contains("-r")),
        "{refused:?}"
    );
    let request = RollbackRequest { recursive: true, ..RollbackRequest::default() };
    let done = dataset.rollback(&version.id, &request).expect("rolled back");
    assert_eq!((done.moved.len(), done.kept.len()), (3, 1));
    assert!(
        matches!(done.kept_inside.as_slice(), [kept] if kept.contains("/a/c@")),
        "{:?}",
        done.kept_inside
    );
    assert_eq!(read(live.join("dir/b/f")), "nested");
    assert_eq!(read(live.join("c/f")), "before");
    assert_eq!(dataset.nested().expect("nested").len(), 3);
    assert_no_staging(&ground);
}

#[test]
fn a_version_that_was_changed_after_the_fact_shows() {
    ground!("btrfs");
    let ground = Btrfs::new();
    let dataset = Dataset::at(&ground.subvolume("a")).expect("a");
    snap(&dataset, "s");
    let kept = hidden(&ground, "datasets/a/snap/s");
    let text = kept.to_str().expect("utf-8");
    assert!(!dataset.details(false).expect("details")[0].altered);
    run("btrfs", &["property", "set", "-f", text, "ro", "false"]);
    assert!(dataset.details(false).expect("details")[0].writable);
    write(kept.join("f"), "changed");
    run("btrfs", &["filesystem", "sync", text]);
    run("btrfs", &["property", "set", text, "ro", "true"]);
    let details = dataset.details(false).expect("details");
    assert!(details[0].altered && !details[0].writable);
}

#[test]
fn a_received_version_has_its_sources_identity_and_its_clones_have_their_own() {
    ground!("btrfs");
    let (source, target) = (Btrfs::new(), Btrfs::new());
    let dataset = Dataset::at(&source.subvolume("a")).expect("a");
    let sent = snap(&dataset, "s");
    let stream = source.outside().join("stream");
    let stream = stream.to_str().expect("utf-8");
    run(
        "btrfs",
        &["send", "-q", "-f", stream, hidden(&source, "datasets/a/snap/s").to_str().expect("utf-8")],
    );
    let there = Dataset::at(&target.subvolume("t")).expect("t");
    snap(&there, "own");
    let into = hidden(&target, "datasets/t/snap");
    run("btrfs", &["receive", "-q", "-f", stream, into.to_str().expect("utf-8")]);
    let received = there.version(&name("s")).expect("received");
    assert_eq!(received.id.guid, sent.id.guid);
    let found =
        there.store().find_received(sent.id.guid, dataset.live().map(|_| transid(&dataset)).expect("live"));
    assert!(found.expect("searched").expect("found").info.readonly);
    let clone = there.store().dataset("clone");
    there.clone_at(&received.id, &clone).expect("cloned");
    assert_ne!(snap(&clone, "s").id.guid, sent.id.guid);
    // A read-only snapshot of it is the same content, and the same version.
    let copy = into.join("copy");
    run(
        "btrfs",
        &[
            "subvolume",
            "snapshot",
            "-r",
            into.join("s").to_str().expect("utf-8"),
            copy.to_str().expect("utf-8"),
        ],
    );
    assert_eq!(there.version(&name("copy")).expect("a copy").id.guid, sent.id.guid);
    // Changed since, it is another version, and so is what is made from it.
    let text = copy.to_str().expect("utf-8");
    run("btrfs", &["property", "set", "-f", text, "ro", "false"]);
    run("btrfs", &["filesystem", "sync", text]);
    write(copy.join("f"), "changed");
    run("btrfs", &["filesystem", "sync", text]);
    run("btrfs", &["property", "set", text, "ro", "true"]);
    assert_ne!(there.version(&name("copy")).expect("a copy").id.guid, sent.id.guid);
}

fn transid(dataset: &Dataset) -> u64 {
    let version = dataset.version(&name("s")).expect("s");
    let fd = dataset.open_version(&version.id).expect("open");
    cowsnap::sys::btrfs::get_subvol_info(std::os::fd::AsFd::as_fd(&fd)).expect("info").ctransid
}

#[test]
fn a_staged_snapshot_is_a_partial_until_it_is_committed() {
    ground!("btrfs");
    let ground = Btrfs::new();
    let dataset = Dataset::at(&ground.subvolume("a")).expect("a");
    let make = |staged: &btrfs::Staged| {
        cowsnap::sys::btrfs::subvol_create(staged.dir(), staged.name()).expect("created");
        let fd = rustix::fs::openat(
            staged.dir(),
            staged.name(),
            rustix::fs::OFlags::DIRECTORY,
            rustix::fs::Mode::empty(),
        );
        fd.expect("opened")
    };
    let staged = dataset.stage(&name("s"), None).expect("staged");
    make(&staged);
    let inventory = dataset.inventory().expect("one");
    assert!(inventory.versions().is_empty());
    assert!(inventory.partials[0].live && inventory.partials[0].name == name("s"));
    assert!(matches!(staged.commit(&name("s"), |_| ()), Err(Error::Refused { .. })), "it is writable");
    assert_eq!(std::fs::read_dir(hidden(&ground, "datasets/a/snap")).expect("snap").count(), 0);
    let staged = dataset.stage(&name("s"), None).expect("staged");
    let fd = make(&staged);
    cowsnap::sys::btrfs::subvol_set_readonly(std::os::fd::AsFd::as_fd(&fd), true).expect("read-only");
    let at = jiff::Timestamp::UNIX_EPOCH;
    let from = Some(cowsnap::model::Digest([9; 32]));
    let (blake3, upon) = ("00".into(), Some(cowsnap::model::Digest([8; 32])));
    let verified = Verified { blake3, base: None, len: 7, at, earlier: None, grounded: true, from, upon };
    let committed =
        staged.commit(&name("s"), |meta| meta.verified = Some(verified.clone())).expect("committed");
    let details = dataset.details(false).expect("details");
    assert_eq!((&details[0].version, &details[0].verified), (&committed, &Some(verified)));
    assert!(matches!(dataset.stage(&name("s"), None), Err(Error::Exists { .. })));
    assert_no_staging(&ground);
}

#[test]
fn sizes_tell_what_is_shared_from_what_is_not() {
    ground!("btrfs");
    let ground = Btrfs::new();
    let live = ground.subvolume("a");
    let dataset = Dataset::at(&live).expect("a");
    let noise = |seed: u8| {
        (0..256 << 10).map(|n: u32| (n.wrapping_mul(2654435761) >> 13) as u8 ^ seed).collect::<Vec<_>>()
    };
    std::fs::write(live.join("shared"), noise(1)).expect("write");
    std::fs::write(live.join("old"), noise(2)).expect("write");
    snap(&dataset, "s");
    std::fs::remove_file(live.join("old")).expect("remove");
    snap(&dataset, "t");
    let sizes: Vec<_> =
        dataset.details(true).expect("details").iter().map(|d| d.usage.expect("sizes")).collect();
    assert_eq!((sizes[0].referenced, sizes[0].exclusive), (512 << 10, 256 << 10));
    assert_eq!((sizes[1].referenced, sizes[1].exclusive), (256 << 10, 0));
}

/// `cowsnap` by a root that lacks these capabilities.
fn without(ground: &Btrfs, capabilities: &str, args: &[&str]) -> std::process::Output {
    let cowsnap = crate::ground::cowsnap(&ground.outside().join("state"));
    let mut command = std::process::Command::new("setpriv");
    command.arg(format!("--bounding-set={capabilities}")).arg(cowsnap.get_program()).args(args);
    command.output().expect("setpriv")
}

#[test]
fn without_file_handles_the_top_level_is_mounted_out_of_sight_and_without_either_it_is_denied() {
    ground!("btrfs", "setpriv");
    let ground = Btrfs::new();
    ground.subvolume("@");
    let live = ground.outside().join("live");
    std::fs::create_dir(&live).expect("mkdir");
    let live = live.to_str().expect("utf-8");
    run("mount", &["-t", "btrfs", "-o", "subvol=@", &source_of(&ground), live]);
    let table = || std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    let mine = |table: String| {
        table.lines().filter(|l| l.contains(ground.outside().to_str().expect("utf-8"))).count()
    };
    let before = mine(table());
    let taken = without(&ground, "-dac_read_search", &["snapshot", live, "--name", "s"]);
    assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
    assert!(hidden(&ground, "datasets/%40/snap/s").is_dir());
    assert_eq!(mine(table()), before);
    let denied = without(&ground, "-dac_read_search,-sys_admin", &["snapshot", live, "--name", "t"]);
    let words = String::from_utf8_lossy(&denied.stderr).into_owned();
    assert_eq!(denied.status.code(), Some(6), "{words}");
    assert!(words.contains("hint: run it as root"), "{words}");
}

struct OnBtrfs(Btrfs);

impl contract::Ground for OnBtrfs {
    type Backend = Dataset;

    fn create(&self, name: &str) -> Dataset {
        let dataset = contract::Ground::absent(self, name);
        dataset.create().expect("created");
        dataset
    }

    fn absent(&self, name: &str) -> Dataset {
        Store::open(&self.0.path()).expect("a store").dataset(name)
    }

    fn write(&self, dataset: &Dataset, file: &str, bytes: &[u8]) {
        std::fs::write(self.0.path().join(dataset.path()).join(file), bytes).expect("written");
    }

    fn read(&self, dataset: &Dataset, file: &str) -> Option<Vec<u8>> {
        std::fs::read(self.0.path().join(dataset.path()).join(file)).ok()
    }

    fn read_version(&self, dataset: &Dataset, version: &Version, file: &str) -> Option<Vec<u8>> {
        let dir = self.0.outside().join("version");
        std::fs::create_dir_all(&dir).expect("mkdir");
        let _mount = dataset.mount(&version.id, &dir).expect("mounted");
        std::fs::read(dir.join(file)).ok()
    }

    fn aside(&self, name: &str) -> Dataset {
        panic!("{name}: all versions stay in the dataset")
    }
}

#[test]
fn btrfs_keeps_the_contract() {
    ground!("btrfs");
    contract::check(&OnBtrfs(Btrfs::new()));
    contract::check_replica(&OnBtrfs(Btrfs::new()));
}

/// Each by itself, together with all others, and as a prune reads it: the same, whatever lies between them or was put there by hand.
#[test]
fn many_datasets_are_listed_as_each_of_them() {
    ground!("btrfs");
    let ground = Btrfs::new();
    let all = ground.subvolume("all");
    let made = |n: usize| Dataset::at(&ground.subvolume(&format!("all/{n}"))).expect("a dataset");
    let datasets: Vec<_> = (0..3).map(made).collect();
    for round in 0..3 {
        datasets.iter().for_each(|dataset| drop(snap(dataset, &format!("s{round}"))));
        // So that what belongs together lies far apart.
        (0..60).for_each(|n| drop(ground.subvolume(&format!("other {round} {n}"))));
    }
    datasets[0].hold(&datasets[0].inventory().expect("read").versions()[1].id, &tag("t")).expect("held");
    Backend::clone_at(&datasets[1], &snap(&datasets[1], "cloned").id, &below(&ground, "clone"))
        .expect("cloned");
    let (live, by_hand) = (ground.path().join("all/2"), hidden(&ground, "datasets"));
    let snaps =
        std::fs::read_dir(by_hand).expect("datasets").map(|home| home.expect("read").path().join("snap"));
    let is_third = |dir: &PathBuf| dir.parent().is_some_and(|home| home.to_string_lossy().ends_with('2'));
    let third = snaps.into_iter().find(is_third).expect("the third's");
    std::fs::create_dir(third.join("no-snapshot")).expect("mkdir");
    let text = |path: &Path| path.to_str().expect("utf-8").to_owned();
    run("btrfs", &["subvolume", "snapshot", "-r", &text(&live), &text(&third.join("by-hand"))]);
    run("btrfs", &["subvolume", "delete", &text(&third.join("s1"))]);

    let listed = Dataset::at(&all).expect("a dataset").listings(true, false).expect("listed");
    assert_eq!(listed.len(), 4);
    for (listing, (dataset, expected)) in
        listed[1..].iter().zip(datasets.iter().zip(["s0 s1 s2", "s0 s1 s2 cloned", "s0 s2 by-hand"]))
    {
        assert_eq!(listing.dataset, *dataset);
        let named: Vec<_> = listing.details.iter().map(|d| d.version.id.name.as_str()).collect();
        assert_eq!(named.join(" "), expected);
        assert_eq!(names(dataset).join(" "), expected);
        assert_eq!(listing.details, dataset.details(false).expect("read"));
        let mut described = dataset.described().expect("read");
        described.iter_mut().zip(&listing.details).for_each(|(one, other)| one.clones = other.clones.clone());
        assert_eq!(listing.details, described, "all but clones");
    }
    assert_eq!(listed[2].details[3].clones, ["clone"]);
    assert_eq!(listed[1].details[1].holds.keys().collect::<Vec<_>>(), [&tag("t")]);
}

fn below(ground: &Btrfs, name: &str) -> Dataset {
    let path = ground.path().join(name);
    match cowsnap::endpoint::path::named(&path).expect("a place") {
        cowsnap::endpoint::Dataset::Btrfs(dataset) => dataset,
        other => panic!("{other} is on btrfs"),
    }
}
