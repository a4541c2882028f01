//! The suite that every backend passes, and what is ZFS' own: one instant, names, places, volumes.

use std::collections::BTreeMap;
use std::time::Duration;

use cowsnap::Class;
use cowsnap::endpoint::zfs::{self as backend, Dataset};
use cowsnap::endpoint::{Backend, DestroyDataset, Details, Error, History, SnapshotRequest, contract};
use cowsnap::model::{Version, VersionKind};

use super::ground::{Pool, zfs};
use super::lab::{create, dataset, exists, name, path, property, read, snap, snapshots, tag, write};
use crate::ground::{ground, run};

struct OnZfs(Pool);

impl contract::Ground for OnZfs {
    type Backend = Dataset;

    fn create(&self, name: &str) -> Dataset {
        create(&self.0, &format!("{name} of:a test"))
    }

    fn absent(&self, name: &str) -> Dataset {
        dataset(&self.0.full(&format!("{name} of:a test")))
    }

    fn write(&self, dataset: &Dataset, file: &str, bytes: &[u8]) {
        std::fs::write(path(dataset).join(file), bytes).expect("written");
    }

    fn read(&self, dataset: &Dataset, file: &str) -> Option<Vec<u8>> {
        match dataset.mountpoint().expect("a table of mounts") {
            Some(dir) => std::fs::read(dir.join(file)).ok(),
            None => {
                // What was set aside is mounted nowhere.
                let dir = self.0.outside().join("live");
                std::fs::create_dir_all(&dir).expect("mkdir");
                let dir = dir.to_str().expect("utf-8");
                run("mount", &["-t", "zfs", "-o", "zfsutil", dataset.name().as_str(), dir]);
                let bytes = std::fs::read(format!("{dir}/{file}")).ok();
                run("umount", &[dir]);
                bytes
            }
        }
    }

    fn read_version(&self, dataset: &Dataset, version: &Version, file: &str) -> Option<Vec<u8>> {
        let dir = self.0.outside().join("a version");
        std::fs::create_dir_all(&dir).expect("mkdir");
        let _mount = dataset.mount(&version.id, &dir).expect("mounted");
        std::fs::read(dir.join(file)).ok()
    }

    fn aside(&self, name: &str) -> Dataset {
        dataset(name)
    }
}

#[test]
fn zfs_keeps_the_contract() {
    ground!("zfs");
    contract::check(&OnZfs(Pool::new()));
    contract::check_replica(&OnZfs(Pool::new()));
}

#[test]
fn a_set_of_one_pool_is_of_one_instant_with_its_labels_and_holds() {
    ground!("zfs");
    let pool = Pool::new();
    let mut set: Vec<_> = ["a b", "a b/c:d", "a b/c:d/e", "f"].map(|within| create(&pool, within)).into();
    set.push(dataset(&pool.volume("v w:x", "16M")));
    let labels = [("Release", "2.1\tβ"), ("none", "-")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    let labels = BTreeMap::from(labels);
    let request = SnapshotRequest {
        labels: labels.clone(),
        holds: vec![tag("one"), tag("two: 2")],
        ..SnapshotRequest::named(name("at noon: 12"))
    };
    let taken = Dataset::snapshot(&set, &request).expect("taken");
    assert_eq!(taken.spread, Duration::ZERO);
    let txgs: Vec<_> =
        set.iter().map(|dataset| property(&format!("{}@at noon: 12", dataset.name()), "createtxg")).collect();
    assert!(txgs.iter().all(|txg| *txg == txgs[0]), "{txgs:?}");
    for (dataset, version) in set.iter().zip(&taken.versions) {
        let full = format!("{}@at noon: 12", dataset.name());
        assert_eq!(version.order.to_string(), txgs[0]);
        assert_eq!(version.id.guid.as_zfs().map(|guid| guid.to_string()), Some(property(&full, "guid")));
        assert_eq!(version.created.as_second().to_string(), property(&full, "creation"));
        let details = dataset.details(true).expect("details").remove(0);
        assert_eq!((&details.version, &details.labels), (version, &labels));
        assert_eq!(details.holds.keys().map(|tag| tag.as_str()).collect::<Vec<_>>(), ["one", "two: 2"]);
        assert!(details.usage.is_some_and(|usage| usage.referenced > 0));
    }
}

#[test]
fn datasets_of_two_pools_are_refused_unless_they_may_be_taken_one_after_another() {
    ground!("zfs");
    let (here, there) = (Pool::with("256M", &[]), Pool::with("256M", &[]));
    let set = [create(&here, "a b:c"), create(&there, "d e:f")];
    let request = SnapshotRequest::named(name("s"));
    let refused = Dataset::snapshot(&set, &request).expect_err("two pools");
    assert_eq!(refused.class(), Class::Conflict);
    let hint = refused.hint().expect("a hint");
    assert!(hint.contains("--not-atomic") && hint.contains(&format!("'{}'", set[1])), "{hint}");
    assert!(snapshots(set[0].name().as_str()).is_empty() && snapshots(set[1].name().as_str()).is_empty());
    let request = SnapshotRequest { not_atomic: true, ..request };
    let taken = Dataset::snapshot(&set, &request).expect("taken");
    assert!(taken.versions.len() == 2 && taken.spread > Duration::ZERO);
    // The second pool's name is taken: what was taken of the first goes again, though it was held.
    snap(&set[1], "t");
    let request =
        SnapshotRequest { holds: vec![tag("x")], not_atomic: true, ..SnapshotRequest::named(name("t")) };
    let clash = Dataset::snapshot(&set, &request);
    assert!(
        matches!(&clash, Err(Error::Exists { subject, .. }) if *subject == set[1].at_name(&name("t"))),
        "{clash:?}"
    );
    assert_eq!(snapshots(set[0].name().as_str()), ["s"]);
}

#[test]
fn one_dataset_named_twice_is_refused() {
    ground!("zfs");
    let pool = Pool::with("256M", &[]);
    let a = create(&pool, "a");
    let twice = Dataset::snapshot(&[a.clone(), a.clone()], &SnapshotRequest::named(name("s")));
    assert!(matches!(twice, Err(Error::Refused { .. })), "{twice:?}");
    assert!(snapshots(a.name().as_str()).is_empty());
}

#[test]
fn a_label_that_somebody_else_wrote_with_a_tab_is_read_and_forges_nothing() {
    ground!("zfs");
    let pool = Pool::with("256M", &[]);
    let a = create(&pool, "a b");
    let labels = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
    for text in ["1", "2", "3"] {
        let request = SnapshotRequest { labels: labels.clone(), ..SnapshotRequest::named(name(text)) };
        Dataset::snapshot(std::slice::from_ref(&a), &request).expect("taken");
    }
    let full = |text: &str| format!("{}@{text}", a.name());
    let forged = format!("x\n{}\tcowsnap:labels\tlocal\tk=forged", full("3"));
    zfs(&["set", "cowsnap:labels=k=tab\there", &full("1")]);
    zfs(&["set", &format!("cowsnap:labels=k={forged}"), &full("2")]);
    let details = a.details(false).expect("details");
    let said: Vec<_> = details.iter().map(|details| details.labels["k"].as_str()).collect();
    assert_eq!(said, ["tab\there", &forged, "v"]);
}

#[test]
fn what_users_write_neither_breaks_nor_forges_a_listing_of_versions() {
    ground!("zfs");
    let pool = Pool::with("256M", &[]);
    let a = create(&pool, "a b");
    let labels = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
    for text in ["1", "2", "3"] {
        let request = SnapshotRequest { labels: labels.clone(), ..SnapshotRequest::named(name(text)) };
        Dataset::snapshot(std::slice::from_ref(&a), &request).expect("taken");
    }
    let full = |text: &str| format!("{}@{text}", a.name());
    let inner = create(&pool, "a b/inner");
    let request = SnapshotRequest { labels, ..SnapshotRequest::named(name("1")) };
    Dataset::snapshot(std::slice::from_ref(&inner), &request).expect("taken");
    let verified = |snapshot: &str| {
        let json = r#"{"blake3":"00","base":null,"len":7,"at":"2026-01-01T00:00:00Z"}"#;
        format!("{} {} {json}", property(snapshot, "guid"), property(snapshot, "createtxg"))
    };
    let said = || {
        let all = a.listings(true, false).expect("listings");
        let told = |d: &Details| {
            let labels = d.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>();
            let checked = if d.verified.is_some() { " verified" } else { "" };
            format!("{} [{}]{checked}", d.version.id.name, labels.join(","))
        };
        all.iter().map(|one| one.details.iter().map(told).collect::<Vec<_>>().join(", ")).collect::<Vec<_>>()
    };
    assert_eq!(said(), ["1 [k=v], 2 [k=v], 3 [k=v]", "1 [k=v]"]);
    // A whole row, as it is printed; on a snapshot alone, all others' are read as before.
    let row =
        |snapshot: &str| format!("k=x\t-\t-\t{snapshot}\tsnapshot\t7\t7\t7\t0\t0\t0\t-\t-\t-\t0\tk=x\t-\t-");
    for value in
        [format!("x\n{0}\n{0}\nx", row(&full("9"))), format!("x\n{}", row(&full("3"))), "x\ty".into()]
    {
        zfs(&["set", &format!("cowsnap:labels={value}"), &full("2")]);
        let labels = if value.contains('=') { "1 [k=v], 2 [x" } else { "1 [k=v], 2 []" };
        let said = said();
        assert!(said[0].starts_with(labels) && said[0].ends_with(", 3 [k=v]"), "{said:?}");
        assert_eq!((said.len(), said[1].as_str()), (2, "1 [k=v]"));
    }
    // On the dataset, from which its snapshots, and what is inside, have it.
    let forged = format!("x\n{}", row(&full("9")));
    for of in [a.name().as_str(), &full("2")] {
        for property in ["cowsnap:labels", "cowsnap:verified", "cowsnap:rollback"] {
            zfs(&["set", &format!("{property}={forged}"), of]);
        }
    }
    zfs(&["set", r"cowsnap:labels=$a\tb", &full("3")]);
    zfs(&["set", &format!("cowsnap:verified={}", verified(&full("1"))), a.name().as_str()]);
    let other = format!("x\n{}\tcowsnap:verified\tlocal\t{}", full("1"), verified(&full("1")));
    zfs(&["set", &format!("cowsnap:verified={other}"), &full("2")]);
    let now = said();
    assert!(now[0].starts_with("1 [k=v], 2 [") && now[0].ends_with(", 3 []"), "{now:?}");
    assert!(!now.concat().contains("verified") && now[1] == "1 [k=v]", "{now:?}");
    assert_eq!(a.inventory().expect("an inventory").versions().len(), 3);
    // Without newlines it is told at once; a digest counts for the snapshot alone that it names.
    for of in [a.name().as_str(), &full("2"), &full("3")] {
        for property in ["cowsnap:labels", "cowsnap:verified", "cowsnap:rollback"] {
            zfs(&["inherit", property, of]);
        }
    }
    for of in ["1", "3"] {
        zfs(&["set", &format!("cowsnap:verified={}", verified(&full("1"))), &full(of)]);
    }
    assert_eq!(said(), ["1 [k=v] verified, 2 [], 3 []", "1 [k=v]"]);
    zfs(&["set", &format!("cowsnap:verified={}", verified(&full("2"))), a.name().as_str()]);
    assert_eq!(said(), ["1 [k=v] verified, 2 [], 3 []", "1 [k=v]"], "what 2 has is its dataset's");
}

#[test]
fn a_directory_names_the_filesystem_that_is_mounted_there() {
    ground!("zfs");
    let pool = Pool::with("256M", &[]);
    let outer = create(&pool, "outer one:x");
    let inner = create(&pool, "outer one:x/inner");
    for dataset in [&outer, &inner] {
        let found = Dataset::at(&path(dataset)).expect("found");
        assert_eq!((&found, found.to_string()), (dataset, path(dataset).display().to_string()));
    }
    zfs(&[
        "set",
        &format!("mountpoint={}", pool.outside().join("else where").display()),
        inner.name().as_str(),
    ]);
    assert_eq!(Dataset::at(&pool.outside().join("else where")).expect("found"), inner);
    let plain = path(&outer).join("plain");
    std::fs::create_dir(&plain).expect("mkdir");
    let error = Dataset::at(&plain).expect_err("a plain directory");
    assert!(matches!(&error, Error::Foreign { why, .. } if why.contains(outer.name().as_str())), "{error}");
    let error = Dataset::at(pool.outside()).expect_err("no ZFS");
    assert!(matches!(error, Error::Foreign { .. }), "{error}");
    let absent = path(&outer).join("new");
    assert!(matches!(Dataset::at(&absent), Err(Error::NotFound { .. })));
    let named = Dataset::named(&absent).expect("a place");
    assert_eq!(named.name().as_str(), format!("{}/new", outer.name()));
    named.create().expect("created");
    assert_eq!(path(&named), absent);
    snap(&outer, "s");
    let error = Dataset::at(&path(&outer).join(".zfs/snapshot/s")).expect_err("a snapshot");
    assert!(error.to_string().contains("which is named as such"), "{error}");
    assert!(backend::is_on_zfs(&path(&outer).join("no/such/thing")).expect("looked"));
    assert!(!backend::is_on_zfs(pool.outside()).expect("looked"));
}

#[test]
fn a_dataset_is_made_where_there_is_a_place_for_it() {
    ground!("zfs");
    let pool = Pool::with("256M", &[]);
    let a = create(&pool, "a b:c");
    assert!(a.exists().expect("looked"));
    assert_eq!(path(&a), pool.path("a b:c"));
    assert!(matches!(a.create(), Err(Error::Exists { .. })));
    let deep = dataset(&pool.full("x/y"));
    let error = deep.create().expect_err("no place");
    assert!(matches!(error, Error::NotFound { what: "the place for", .. }), "{error}");
    assert!(error.hint().is_some_and(|hint| hint == format!("cowsnap create '{}'", pool.full("x"))));
    let nowhere = dataset("no such pool/a");
    assert!(matches!(nowhere.create(), Err(Error::NotFound { .. })));
    assert!(matches!(nowhere.inventory(), Err(Error::NotFound { .. })));
    assert!(!nowhere.exists().expect("looked"));
    assert_eq!(nowhere.partials().expect("none"), []);
}

#[test]
fn datasets_inside_are_found_parents_first() {
    ground!("zfs");
    let pool = Pool::with("256M", &[]);
    for within in ["a b", "a b/z", "a b/z/y", "a b/c:d", "other"] {
        create(&pool, within);
    }
    pool.volume("a b/v", "16M");
    let names = |datasets: Vec<Dataset>| -> Vec<String> {
        datasets
            .iter()
            .map(|d| d.name().as_str().strip_prefix(&pool.full("")).expect("of the pool").to_owned())
            .collect()
    };
    let outer = dataset(&pool.full("a b"));
    assert_eq!(names(outer.nested().expect("listed")), ["a b/c:d", "a b/v", "a b/z"]);
    assert_eq!(names(outer.all_inside().expect("listed")), ["a b/c:d", "a b/v", "a b/z", "a b/z/y"]);
    assert!(matches!(dataset(&pool.full("none")).nested(), Err(Error::NotFound { .. })));
    let all = backend::all_of_pool(&pool.name).expect("listed");
    assert_eq!(all.len(), 7, "{all:?}");
    let everything = backend::everything().expect("listed");
    assert!(all.iter().all(|dataset| everything.contains(dataset)));
    assert!(backend::has_pool(&pool.name) && !backend::has_pool("no such pool"));
    assert!(matches!(backend::all_of_pool("no such pool"), Err(Error::NotFound { .. })));
}

#[test]
fn a_dataset_is_destroyed_only_if_nothing_is_lost_that_was_not_named() {
    ground!("zfs");
    let pool = Pool::with("256M", &[]);
    let a = create(&pool, "a b:c");
    let nested = create(&pool, "a b:c/d");
    let why = |options| match a.destroy_dataset(options) {
        Err(Error::Refused { why, .. }) => why,
        other => panic!("{other:?}"),
    };
    let alone = DestroyDataset::default();
    let with_snapshots = DestroyDataset { snapshots: true };
    assert_eq!(why(alone), format!("the dataset {nested} is inside"));
    nested.destroy_dataset(alone).expect("destroyed");
    assert!(!exists(nested.name().as_str()));
    let s = snap(&a, "s");
    assert_eq!(why(alone), "it has 1 snapshots");
    a.hold(&s.id, &tag("t")).expect("held");
    assert!(matches!(a.destroy_dataset(with_snapshots), Err(Error::Held { .. })));
    a.release(&s.id, &tag("t")).expect("released");
    let clone = dataset(&pool.full("cl one"));
    a.clone_at(&s.id, &clone).expect("cloned");
    assert_eq!(why(with_snapshots), format!("{clone} is a clone of its snapshot s"));
    clone.take_clone_back().expect("taken back");
    let open = std::fs::File::create(path(&a).join("f")).expect("open");
    assert!(why(with_snapshots).contains("can not be unmounted"));
    assert!(path(&a).join("f").exists(), "it is as it was");
    drop(open);
    assert_eq!(snapshots(a.name().as_str()), ["s"]);
    a.destroy_dataset(with_snapshots).expect("destroyed");
    assert!(!exists(a.name().as_str()));
    assert!(matches!(a.destroy_dataset(alone), Err(Error::NotFound { .. })));
}

#[test]
fn a_dataset_takes_its_snapshots_and_mounts_along_to_its_new_name() {
    ground!("zfs");
    let (pool, other) = (Pool::with("256M", &[]), Pool::with("256M", &[]));
    let a = create(&pool, "a b");
    let inner = create(&pool, "a b/c:d");
    write(&a, "f", "one");
    write(&inner, "g", "two");
    let s = snap(&a, "s");
    let new = dataset(&pool.full("new name"));
    for (to, wanted) in [(dataset(&other.full("x")), "pool"), (dataset(&pool.full("a b/x")), "itself")] {
        let refused = a.rename_dataset(&to);
        assert!(matches!(&refused, Err(Error::Refused { why, .. }) if why.contains(wanted)), "{refused:?}");
    }
    let nowhere = a.rename_dataset(&dataset(&pool.full("no/where")));
    assert!(matches!(nowhere, Err(Error::NotFound { .. })), "{nowhere:?}");
    assert_eq!(read(&inner, "g").as_deref(), Some("two"), "what failed changed nothing");
    a.rename_dataset(&new).expect("renamed");
    assert!(!a.exists().expect("looked"));
    assert_eq!(path(&new), pool.path("new name"));
    assert_eq!(read(&new, "f").as_deref(), Some("one"));
    assert_eq!(read(&dataset(&pool.full("new name/c:d")), "g").as_deref(), Some("two"));
    assert_eq!(new.version(&name("s")).expect("there"), s);
    let b = create(&pool, "b");
    assert!(matches!(b.rename_dataset(&new), Err(Error::Exists { .. })));
    assert!(matches!(a.rename_dataset(&b), Err(Error::NotFound { .. })));
}

#[test]
fn a_used_dataset_is_not_renamed() {
    ground!("zfs");
    let pool = Pool::with("256M", &[]);
    let a = create(&pool, "a b");
    let inner = create(&pool, "a b/c");
    let open = std::fs::File::create(path(&a).join("f")).expect("open");
    let refused = a.rename_dataset(&dataset(&pool.full("new")));
    assert!(matches!(&refused, Err(Error::Refused { .. })), "{refused:?}");
    assert!(path(&a).join("f").exists() && path(&inner).exists(), "all is mounted as it was");
    drop(open);
}

#[test]
fn volumes_have_snapshots_and_clones_and_no_files() {
    ground!("zfs");
    let pool = Pool::new();
    let volume = dataset(&pool.volume("vol ume:1", "16M"));
    let version = snap(&volume, "s");
    let clone = dataset(&pool.full("copy of:it"));
    volume.clone_at(&version.id, &clone).expect("cloned");
    assert_eq!(property(clone.name().as_str(), "type"), "volume");
    assert_eq!(volume.clones_of(&version.id).expect("listed"), [clone.name().as_str()]);
    assert_eq!(volume.mountpoint().expect("looked"), None);
    let refused = volume.mount(&version.id, pool.outside()).expect_err("no files");
    assert!(matches!(&refused, Error::Refused { why, .. } if why.contains("volume")), "{refused}");
    let refused = volume.changes(&version.id, None).expect_err("no files");
    assert!(matches!(&refused, Error::Refused { why, .. } if why.contains("volume")), "{refused}");
    clone.destroy_dataset(DestroyDataset::default()).expect("destroyed");
    volume.destroy(&version.id).expect("destroyed");
    assert_eq!(volume.inventory().expect("there").versions(), []);
}

#[test]
fn a_clone_of_another_pool_is_refused_with_the_command_that_copies() {
    ground!("zfs");
    let (here, there) = (Pool::with("256M", &[]), Pool::with("256M", &[]));
    let a = create(&here, "a b");
    let version = snap(&a, "s");
    let refused = a.clone_at(&version.id, &dataset(&there.full("c d"))).expect_err("another pool");
    assert_eq!(refused.class(), Class::Conflict);
    let wanted = format!("cowsnap restore '{a}@s' --to '{}'", there.full("c d"));
    assert_eq!(refused.hint(), Some(wanted));
}

#[test]
fn a_snapshot_is_mounted_read_only_and_unmounted() {
    ground!("zfs");
    let pool = Pool::with("256M", &[]);
    let a = create(&pool, "a b:c");
    write(&a, "f", "one");
    let version = snap(&a, "s 1");
    write(&a, "f", "two");
    let dir = pool.outside().join("to see");
    std::fs::create_dir(&dir).expect("mkdir");
    a.mount(&version.id, &dir).expect("mounted").keep();
    assert_eq!(std::fs::read_to_string(dir.join("f")).expect("read"), "one");
    assert!(std::fs::write(dir.join("g"), "x").is_err());
    let options = run("findmnt", &["-n", "-o", "OPTIONS,FSTYPE", dir.to_str().expect("utf-8")]).stdout;
    let options = String::from_utf8_lossy(&options).into_owned();
    assert!(
        ["ro", "nosuid", "nodev"].iter().all(|o| options.split([',', ' ']).any(|has| has == *o)),
        "{options}"
    );
    let busy = a.destroy(&version.id).expect_err("mounted");
    assert!(matches!(&busy, Error::Refused { why, .. } if why.contains("mounted at")), "{busy}");
    assert_eq!(busy.hint(), Some(format!("cowsnap unmount '{}'", dir.display())));
    let open = std::fs::File::open(dir.join("f")).expect("open");
    assert!(matches!(backend::unmount(&dir, false), Err(Error::Refused { .. })), "in use");
    backend::unmount(&dir, true).expect("detached");
    assert!(!dir.join("f").exists());
    drop(open);
    assert!(matches!(backend::unmount(&dir, false), Err(Error::NotFound { .. })));
    assert!(
        matches!(backend::unmount(&path(&a), false), Err(Error::Refused { .. })),
        "a live one is not ours"
    );
    {
        let _mount = a.mount(&version.id, &dir).expect("mounted");
        assert!(dir.join("f").exists());
    }
    assert!(!dir.join("f").exists(), "it goes with its owner");
    let missing = a.mount(&version.id, &pool.outside().join("none")).expect_err("no directory");
    assert!(matches!(missing, Error::NotFound { what: "directory", .. }), "{missing}");
    a.destroy(&version.id).expect("destroyed");
}

#[test]
fn what_is_seen_in_dot_zfs_does_not_keep_a_snapshot() {
    ground!("zfs");
    let pool = Pool::with("256M", &[]);
    let a = create(&pool, "a b:c");
    write(&a, "f", "one");
    let version = snap(&a, "s 1");
    let seen = path(&a).join(".zfs/snapshot/s 1/f");
    assert_eq!(std::fs::read_to_string(seen).expect("read"), "one");
    let renamed = a.rename_version(&version.id, &name("t 2")).expect("renamed");
    a.destroy(&renamed).expect("destroyed");
}

#[test]
fn bookmarks_are_versions_without_content() {
    ground!("zfs");
    let pool = Pool::with("256M", &[]);
    let a = create(&pool, "a b:c");
    let s = snap(&a, "s");
    let (snapshot, mark) = (format!("{}@s", a.name()), format!("{}#m:1 x", a.name()));
    zfs(&["bookmark", &snapshot, &mark]);
    zfs(&["bookmark", &snapshot, &format!("{}#s", a.name())]);
    let inventory = a.inventory().expect("there");
    assert!(inventory.caps.bookmarks && inventory.caps.resume && inventory.caps.atomic_set);
    let shown: Vec<_> = inventory.versions().iter().map(|v| (v.id.name.to_string(), v.kind)).collect();
    assert_eq!(shown.len(), 3, "{shown:?}");
    let marks: Vec<_> = inventory.versions().iter().filter(|v| v.kind == VersionKind::Bookmark).collect();
    assert!(marks.iter().all(|m| (m.id.guid, m.order, m.created) == (s.id.guid, s.order, s.created)));
    assert_eq!(inventory.by_guid(s.id.guid), Some(&s), "what has content goes first");
    let marked = a.version(&name("m:1 x")).expect("there");
    assert_eq!(marked.kind, VersionKind::Bookmark);
    for refused in [a.hold(&marked.id, &tag("t")), a.mount(&marked.id, pool.outside()).map(drop)] {
        assert!(
            matches!(&refused, Err(Error::Refused { why, .. }) if why.contains("bookmark")),
            "{refused:?}"
        );
    }
    assert_eq!(a.version(&name("s")).expect("there").kind, VersionKind::Snapshot);
    a.destroy(&s.id).expect("the snapshot goes first");
    assert_eq!(a.version(&name("s")).expect("there").kind, VersionKind::Bookmark);
    a.destroy(&s.id).expect("then the bookmark");
    a.destroy(&marked.id).expect("destroyed");
    assert!(matches!(a.version(&name("s")), Err(Error::NotFound { .. })));
    assert_eq!(a.inventory().expect("there").versions(), []);
}

#[test]
fn a_snapshot_is_renamed_and_its_old_name_is_free() {
    ground!("zfs");
    let pool = Pool::with("256M", &[]);
    let a = create(&pool, "a b:c");
    let s = snap(&a, "s 1");
    snap(&a, "t");
    assert!(matches!(a.rename_version(&s.id, &name("t")), Err(Error::Exists { .. })));
    let renamed = a.rename_version(&s.id, &name("u: 2")).expect("renamed");
    assert_eq!((renamed.guid, renamed.name.as_str()), (s.id.guid, "u: 2"));
    assert_eq!(snapshots(a.name().as_str()), ["u: 2", "t"]);
    assert!(matches!(a.rename_version(&s.id, &name("v")), Err(Error::NotFound { .. })));
    snap(&a, "s 1");
    assert!(matches!(a.rename_version(&s.id, &name("v")), Err(Error::Reused { .. })));
}

#[test]
fn a_snapshot_that_is_held_or_cloned_says_by_whom() {
    ground!("zfs");
    let pool = Pool::with("256M", &[]);
    let a = create(&pool, "a b:c");
    let s = snap(&a, "s");
    // Tags that cowsnap can not say are shown as near as can be.
    zfs(&["hold", "other/tool", &format!("{}@s", a.name())]);
    let held = a.destroy(&s.id);
    assert!(matches!(&held, Err(Error::Held { tags, .. }) if *tags == ["other_tool"]), "{held:?}");
    assert_eq!(a.inventory().expect("there").holds_of(&s.id).count(), 1);
    zfs(&["release", "other/tool", &format!("{}@s", a.name())]);
    let before = jiff::Timestamp::now().as_second();
    a.hold(&s.id, &tag("mine")).expect("held");
    let since = a.details(false).expect("details")[0].holds[&tag("mine")].as_second();
    assert!((before - 1..=before + 60).contains(&since), "{since} {before}");
    a.release(&s.id, &tag("mine")).expect("released");
    let clone = dataset(&pool.full("cl one"));
    a.clone_at(&s.id, &clone).expect("cloned");
    let refused = a.destroy(&s.id).expect_err("cloned");
    let wanted = format!("cannot destroy {a}@s: datasets were cloned from it: {clone}");
    assert_eq!((refused.to_string(), refused.class()), (wanted, Class::Conflict));
    assert_eq!(a.details(false).expect("details")[0].clones, [clone.to_string()]);
    clone.take_clone_back().expect("taken back");
    a.destroy_and_wait(&s.id, std::time::Duration::from_secs(60)).expect("destroyed, and waited");
    assert!(snapshots(a.name().as_str()).is_empty());
}

/// A `zfs` and a `zpool` that write down how they are called, and do it.
fn counting(pool: &Pool) -> (std::path::PathBuf, String) {
    let (bin, log) = (pool.outside().join("bin"), pool.outside().join("calls"));
    std::fs::create_dir(&bin).expect("mkdir");
    for program in ["zfs", "zpool"] {
        let script =
            format!("#!/bin/sh\necho \"{program} $*\" >> {}\nexec /sbin/{program} \"$@\"\n", log.display());
        std::fs::write(bin.join(program), script).expect("written");
        run("chmod", &["+x", bin.join(program).to_str().expect("utf-8")]);
    }
    (log, format!("{}:{}", bin.display(), std::env::var("PATH").expect("a path")))
}

/// Other processes rename what they receive meanwhile.
#[test]
fn a_dataset_that_goes_while_others_are_looked_for_is_no_error() {
    ground!("zfs");
    let pool = Pool::new();
    let bin = pool.outside().join("bin");
    std::fs::create_dir(&bin).expect("mkdir");
    let gone = pool.full("gone");
    let script = format!(
        "#!/bin/sh\n/sbin/zfs \"$@\" || exit\ncase \"$*\" in *'-o name cowsnap:'*) echo '{gone}';; esac\n"
    );
    std::fs::write(bin.join("zfs"), script).expect("written");
    run("chmod", &["+x", bin.join("zfs").to_str().expect("utf-8")]);
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").expect("a path"));
    let absent = pool.full("absent");
    let output = crate::ground::cowsnap(&pool.outside().join("state"))
        .args(["list", &absent])
        .env("PATH", path)
        .output()
        .expect("started");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(&absent) && !said.contains(&gone), "{said}");
}

#[test]
fn one_program_is_started_for_a_listing_whatever_the_number_of_snapshots() {
    ground!("zfs");
    let pool = Pool::new();
    let a = create(&pool, "a b:c");
    create(&pool, "other");
    // COWSNAP_SNAPSHOTS=10000 measures what docs/BENCHMARKS.md tells.
    let count: usize = std::env::var("COWSNAP_SNAPSHOTS").map_or(30, |text| text.parse().expect("a number"));
    let lzc = cowsnap::sys::lzc::open().expect("ZFS");
    for n in 0..count {
        lzc.snapshot(&[format!("{}@s {n}", a.name())], &BTreeMap::new()).expect("taken");
    }
    let (log, path) = counting(&pool);
    let list = |args: &[&str]| {
        let _ = std::fs::remove_file(&log);
        let began = std::time::Instant::now();
        let output = crate::ground::cowsnap(&pool.outside().join("state"))
            .args([&["--json", "list"], args].concat())
            .env("PATH", &path)
            .output()
            .expect("started");
        println!("{args:?}: {:?}", began.elapsed());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).expect("json");
        (found["datasets"].clone(), std::fs::read_to_string(&log).expect("calls"))
    };
    let full = a.name().as_str();
    let (found, calls) = list(&[full]);
    let listed = found[0]["snapshots"].as_array().expect("snapshots");
    assert_eq!(listed.len(), count);
    assert!(
        listed.iter().enumerate().all(|(n, snapshot)| snapshot["name"] == format!("s {n}")),
        "oldest first"
    );
    assert_eq!(calls.lines().count(), 1, "{calls}");
    assert!(calls.ends_with(&format!(" {full}\n")) && calls.contains("-d 1"), "of it alone: {calls}");

    // Nor does it matter what is inside, or what was noted.
    let inside: Vec<_> = ["in", "in/deep", "in 2"].map(|n| create(&pool, &format!("a b:c/{n}"))).into();
    let labels = ["x", "y z", "="].map(|key| (key.to_owned(), format!("{key}, of\tit"))).into();
    let request = SnapshotRequest { labels, holds: vec![tag("t")], ..SnapshotRequest::named(name("n")) };
    let all: Vec<_> = [a.clone()].into_iter().chain(inside).collect();
    Dataset::snapshot(&all, &request).expect("taken");
    let (found, calls) = list(&["-r", full]);
    let told: Vec<_> = found
        .as_array()
        .expect("datasets")
        .iter()
        .map(|one| (one["dataset"].clone(), one["snapshots"].as_array().expect("snapshots").last().cloned()))
        .collect();
    let names = [full.to_owned(), format!("{full}/in"), format!("{full}/in/deep"), format!("{full}/in 2")];
    assert_eq!(told.iter().map(|(dataset, _)| dataset).collect::<Vec<_>>(), names.each_ref());
    for (_, newest) in &told {
        let newest = newest.as_ref().expect("one");
        assert_eq!(newest["labels"]["y z"], "y z, of\tit");
        assert_eq!(
            (&newest["labels"]["="], &newest["holds"]),
            (&"=, of\tit".into(), &serde_json::json!(["t"]))
        );
    }
    assert_eq!(calls.lines().count(), 1, "{calls}");
    // What others write may cost another look, and no more for more snapshots.
    zfs(&["set", "cowsnap:labels=tab\there", full]);
    let (_, calls) = list(&["-r", full]);
    assert!(calls.lines().count() <= 2 + 2 * 4, "{calls}");
    assert_eq!(a.inventory().expect("there").versions().len(), count + 1);
}
