//! Going back: nothing is lost, everything goes along, and what was broken off is completed or undone.

use cowsnap::endpoint::zfs::{Dataset, interrupted, strange_rollbacks};
use cowsnap::endpoint::{Backend, Error, History, RollbackRequest, RolledBack};
use cowsnap::model::{Guid, Version, VersionKind};
use serde_json::json;

use super::ground::{Pool, zfs};
use super::lab::{
    create, dataset, exists, name, no_doctor, only_doctor, path, property, read, snap, snapshots, tag, write,
};
use crate::ground::{ground, run};

fn keep_as(text: &str) -> RollbackRequest {
    RollbackRequest { keep_as: Some(name(text)), ..RollbackRequest::default() }
}

fn aside(done: &RolledBack) -> Dataset {
    dataset(done.aside.as_ref().expect("a dataset aside"))
}

#[test]
fn newer_snapshots_holds_properties_and_bookmarks_outlive_a_rollback() {
    ground!("zfs");
    let pool = Pool::new();
    let a = create(&pool, "a b:c");
    let full = a.name().to_string();
    let dir = pool.outside().join("srv chain");
    for set in ["compression=off", "quota=100M", "reservation=1M", "org.example:note=a b\tc", "atime=off"] {
        zfs(&["set", set, &full]);
    }
    zfs(&["set", &format!("mountpoint={}", dir.display()), &full]);
    let gone = snap(&a, "gone");
    zfs(&["bookmark", &format!("{full}@gone"), &format!("{full}#gone")]);
    a.destroy(&gone.id).expect("destroyed");
    write(&a, "f", "one");
    let first = snap(&a, "first");
    zfs(&["bookmark", &format!("{full}@first"), &format!("{full}#mark")]);
    write(&a, "f", "two");
    let second = snap(&a, "second");
    zfs(&["bookmark", &format!("{full}@second"), &format!("{full}#newer")]);
    a.hold(&first.id, &tag("keep")).expect("held");
    write(&a, "f", "three");
    let done = a.rollback(&first.id, &keep_as("kept")).expect("rolled back");
    assert_eq!(done.warnings, [""; 0]);
    assert_eq!(done.remounted, std::slice::from_ref(&dir));
    assert_eq!((path(&a), read(&a, "f").as_deref()), (dir.clone(), Some("one")));
    let old = aside(&done);
    assert!(old.name().as_str().starts_with(&format!("{full}.before-")), "{old}");
    assert_eq!(snapshots(&full), ["first"]);
    assert_eq!(snapshots(old.name().as_str()), ["second", "kept"]);
    assert_eq!(old.version(&name("second")).expect("there"), second);
    assert_eq!(a.inventory().expect("there").holds_of(&first.id).count(), 1);
    // What is marked goes with the history that it is of.
    let marks = |of: &str| zfs(&["list", "-H", "-t", "bookmark", "-d", "1", "-o", "name", "-s", "name", of]);
    assert_eq!(marks(&full), format!("{full}#gone\n{full}#mark\n"));
    assert_eq!(marks(old.name().as_str()), format!("{old}#newer\n"));
    assert_eq!(a.version(&name("mark")).expect("there").kind, VersionKind::Bookmark);
    for (what, value) in [
        ("compression", "off"),
        ("quota", "104857600"),
        ("reservation", "1048576"),
        ("org.example:note", "a b\tc"),
        ("atime", "off"),
        ("canmount", "on"),
        ("cowsnap:rollback", "-"),
        ("origin", "-"),
    ] {
        assert_eq!(property(&full, what), value, "{what}");
    }
    assert_eq!(property(old.name().as_str(), "canmount"), "noauto", "nothing mounts it at the next boot");
    assert_eq!(property(old.name().as_str(), "reservation"), "0", "it is reserved once");
    assert_eq!(old.mountpoint().expect("looked"), None);
    // The way back is a rename, and what was set is set again.
    a.rename_dataset(&dataset(&pool.full("went back"))).expect("renamed");
    zfs(&["unmount", &pool.full("went back")]);
    old.rename_dataset(&a).expect("renamed");
    assert_eq!((path(&a), read(&a, "f").as_deref()), (dir, Some("three")));
    assert_eq!(
        (property(&full, "canmount"), property(&full, "reservation")),
        ("on".into(), "1048576".into())
    );
    assert_eq!(property(&full, "cowsnap:aside"), "-");
}

#[test]
fn datasets_inside_move_along_and_go_back_too_if_they_can() {
    ground!("zfs");
    let pool = Pool::new();
    let a = create(&pool, "a b:c");
    let (with, without) = (create(&pool, "a b:c/with it"), create(&pool, "a b:c/without"));
    let deep = create(&pool, "a b:c/without/deep");
    for dataset in [&a, &with, &deep, &without] {
        write(dataset, "f", "one");
    }
    for dataset in [&a, &with, &deep] {
        snap(dataset, "s");
    }
    for dataset in [&a, &with, &deep, &without] {
        write(dataset, "f", "two");
    }
    let s = a.version(&name("s")).expect("there");
    let refused = a.rollback(&s.id, &RollbackRequest::default()).expect_err("nested");
    assert!(matches!(refused, Error::Refused { .. }), "{refused}");
    assert_eq!(refused.hint(), Some(format!("cowsnap rollback -r '{a}@s'")));
    let all = a.to_roll_back(&s.id, true).expect("seen");
    assert_eq!(all.iter().map(|(dataset, _)| dataset).collect::<Vec<_>>(), [&a, &with, &deep]);
    let request = RollbackRequest { recursive: true, ..keep_as("kept") };
    let done = a.rollback(&s.id, &request).expect("rolled back");
    assert_eq!(done.warnings, [""; 0]);
    let content = |dataset: &Dataset| read(dataset, "f").expect("a file");
    assert_eq!([&a, &with, &deep, &without].map(content), ["one", "one", "one", "two"]);
    for within in ["a b:c", "a b:c/with it", "a b:c/without", "a b:c/without/deep"] {
        assert_eq!(path(&dataset(&pool.full(within))), pool.path(within), "each is where it was");
    }
    assert_eq!(done.kept_inside.len(), 2, "{:?}", done.kept_inside);
    for kept in &done.kept_inside {
        assert!(exists(kept) && kept.ends_with("@kept"), "{kept}");
    }
    assert_eq!(done.moved, [with.to_string(), without.to_string()]);
}

#[test]
fn a_volume_goes_back() {
    ground!("zfs");
    let pool = Pool::new();
    let volume = dataset(&pool.volume("vol ume:1", "16M"));
    let s = snap(&volume, "s");
    snap(&volume, "t");
    let done = volume.rollback(&s.id, &keep_as("kept")).expect("rolled back");
    assert_eq!(done.warnings, [""; 0]);
    assert_eq!(snapshots(volume.name().as_str()), ["s"]);
    assert_eq!(snapshots(aside(&done).name().as_str()), ["t", "kept"]);
    assert_eq!(property(volume.name().as_str(), "volsize"), (16 << 20).to_string());
}

#[test]
fn what_can_not_go_back_is_refused_before_anything_changes() {
    ground!("zfs");
    let pool = Pool::new();
    let root = dataset(&pool.name);
    let s = snap(&root, "s");
    let refused = root.rollback(&s.id, &RollbackRequest::default()).expect_err("a pool");
    assert!(matches!(&refused, Error::Refused { why, .. } if why.contains("pool itself")), "{refused}");
    let a = create(&pool, "a b");
    let s = snap(&a, "s");
    let inside = path(&a).join("tmp");
    std::fs::create_dir(&inside).expect("mkdir");
    run("mount", &["-t", "tmpfs", "none", inside.to_str().expect("utf-8")]);
    let refused = a.rollback(&s.id, &RollbackRequest::default()).expect_err("something is mounted inside");
    run("umount", &[inside.to_str().expect("utf-8")]);
    assert_eq!(refused.hint(), Some(format!("umount '{}'", inside.display())), "{refused}");
    let taken = a.rollback(&s.id, &keep_as("s"));
    assert!(matches!(taken, Err(Error::Exists { .. })), "{taken:?}");
    zfs(&["bookmark", &format!("{}@s", a.name()), &format!("{}#m", a.name())]);
    let mark = a.version(&name("m")).expect("there");
    let refused = a.rollback(&mark.id, &RollbackRequest::default());
    assert!(matches!(&refused, Err(Error::Refused { why, .. }) if why.contains("bookmark")), "{refused:?}");
    assert_eq!(snapshots(a.name().as_str()), ["s"]);
    assert_eq!(property(a.name().as_str(), "cowsnap:rollback"), "-");
}

#[test]
fn a_look_into_dot_zfs_is_not_in_the_way() {
    ground!("zfs");
    let pool = Pool::new();
    let a = create(&pool, "a b:c");
    write(&a, "f", "one");
    let s = snap(&a, "s 1");
    write(&a, "f", "two");
    let newer = snap(&a, "newer");
    for seen in ["s 1", "newer"] {
        std::fs::read(path(&a).join(".zfs/snapshot").join(seen).join("f")).expect("read");
    }
    a.changes(&s.id, Some(&newer.id)).expect("compared");
    let done = a.rollback(&s.id, &RollbackRequest::default()).expect("rolled back");
    assert_eq!((read(&a, "f").as_deref(), &done.warnings), (Some("one"), &Vec::new()));
}

#[test]
fn a_mounted_snapshot_is_in_the_way_if_it_would_be_handed_over() {
    ground!("zfs");
    let pool = Pool::new();
    let a = create(&pool, "a b:c");
    let s = snap(&a, "s 1");
    let newer = snap(&a, "newer");
    let dir = pool.outside().join("to see");
    std::fs::create_dir(&dir).expect("mkdir");
    {
        let _mount = a.mount(&s.id, &dir).expect("mounted");
        let refused = a.rollback(&s.id, &RollbackRequest::default()).expect_err("mounted");
        assert_eq!(refused.hint(), Some(format!("cowsnap unmount '{}'", dir.display())), "{refused}");
    }
    let _mount = a.mount(&newer.id, &dir).expect("mounted");
    a.rollback(&s.id, &RollbackRequest::default()).expect("rolled back");
}

#[test]
fn what_can_not_be_handed_over_is_undone() {
    ground!("zfs");
    let pool = Pool::new();
    let a = create(&pool, "a b:c");
    let inner = create(&pool, "a b:c/in side");
    let full = a.name().as_str();
    write(&a, "f", "one");
    write(&inner, "g", "inner");
    let s = snap(&a, "s 1");
    snap(&a, "newer");
    write(&a, "f", "two");
    // Mounted where nobody else sees it, as a container has it.
    let held = format!(
        "mkdir /tmp/x.$$; mount -t zfs '{full}@s 1' /tmp/x.$$ && echo ready && read line; umount /tmp/x.$$; rmdir /tmp/x.$$"
    );
    let mut container = std::process::Command::new("unshare")
        .args(["--mount", "sh", "-c", &held])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("a container");
    let mut ready = [0; 5];
    std::io::Read::read_exact(&mut container.stdout.take().expect("piped"), &mut ready).expect("ready");
    let request = RollbackRequest { recursive: true, ..keep_as("kept") };
    let refused = a.rollback(&s.id, &request).expect_err("a snapshot of it is mounted");
    drop(container.stdin.take());
    assert!(container.wait().expect("it ends").success());
    assert!(matches!(&refused, Error::Refused { why, .. } if why.contains("mounted")), "{refused}");
    assert_eq!((read(&a, "f").as_deref(), read(&inner, "g").as_deref()), (Some("two"), Some("inner")));
    assert_eq!(snapshots(full), ["s 1", "newer"], "nothing is left of it");
    assert_eq!((property(full, "canmount"), property(full, "cowsnap:rollback")), ("on".into(), "-".into()));
    assert_eq!(a.nested().expect("listed"), [inner]);
    assert_eq!(dataset(&pool.name).nested().expect("listed"), std::slice::from_ref(&a));
    a.rollback(&s.id, &request).expect("now it can be");
    assert_eq!(read(&a, "f").as_deref(), Some("one"));
}

#[test]
fn whoever_has_a_file_open_keeps_what_was_replaced() {
    use std::io::{Read, Write};
    ground!("zfs");
    let pool = Pool::new();
    let a = create(&pool, "a b");
    write(&a, "f", "one");
    let s = snap(&a, "s");
    let mut open = std::fs::File::options().read(true).append(true).open(path(&a).join("f")).expect("open");
    let done = a.rollback(&s.id, &RollbackRequest::default()).expect("rolled back");
    open.write_all(b" more").expect("written");
    assert_eq!(read(&a, "f").as_deref(), Some("one"));
    drop(open);
    let dir = pool.outside().join("old");
    std::fs::create_dir(&dir).expect("mkdir");
    let dir = dir.to_str().expect("utf-8");
    run("mount", &["-t", "zfs", "-o", "zfsutil", aside(&done).name().as_str(), dir]);
    let mut text = String::new();
    std::fs::File::open(format!("{dir}/f")).and_then(|mut f| f.read_to_string(&mut text)).expect("read");
    run("umount", &[dir]);
    assert_eq!(text, "one more");
}

/// What a rollback of `a` writes down before its first step.
fn intent(a: &Dataset, to: &Version, aside: &str) -> String {
    let guid = Guid::of_zfs(property(a.name().as_str(), "guid").parse().expect("a number"));
    let intent = json!({ "dataset": a.name(), "guid": guid, "aside": aside, "to": to.id, "keep": "kept", "canmount": null });
    format!("cowsnap:rollback={intent}")
}

/// The steps of a rollback as the oracle's program takes them, up to the `n`-th.
pub(super) fn begin(a: &Dataset, to: &Version, n: usize) -> String {
    let full = a.name().as_str();
    let aside = format!("{full}.before-then");
    let (intent, kept) = (intent(a, to, &aside), format!("cowsnap:kept={aside}"));
    let (snapshot, origin) = (format!("{full}@kept"), format!("{aside}@{}", to.id.name));
    let (from, back) = (format!("{aside}/in side"), format!("{full}/in side"));
    let steps: [&[&str]; 8] = [
        &["set", &intent, full],
        &["snapshot", "-o", &kept, &snapshot],
        &["rename", "-u", full, &aside],
        &["set", "canmount=noauto", &aside],
        &["clone", "-o", "canmount=noauto", &origin, full],
        &["set", &intent, full],
        &["promote", full],
        &["rename", "-u", &from, &back],
    ];
    for step in &steps[..n] {
        zfs(step);
    }
    aside
}

fn prepared(pool: &Pool, within: &str) -> (Dataset, Version, Dataset) {
    let a = create(pool, within);
    let inner = create(pool, &format!("{within}/in side"));
    write(&a, "f", "one");
    write(&inner, "g", "inner");
    let s = snap(&a, "s");
    snap(&a, "newer");
    write(&a, "f", "two");
    (a, s, inner)
}

#[test]
fn a_rollback_that_died_is_undone_before_its_clone_and_completed_after_it() {
    ground!("zfs");
    let _alone = no_doctor();
    let pool = Pool::new();
    for n in [2, 3, 5, 7] {
        let (a, s, inner) = prepared(&pool, &format!("died at {n}"));
        let aside = begin(&a, &s, n);
        let names: Vec<_> = a
            .inventory()
            .expect("whoever looks settles it")
            .versions()
            .iter()
            .map(|v| v.id.name.to_string())
            .collect();
        let completed = n >= 5;
        assert_eq!(exists(&aside), completed, "{n}");
        match completed {
            true => assert_eq!(
                (names.as_slice(), read(&a, "f").as_deref()),
                (&["s".to_owned()][..], Some("one")),
                "{n}"
            ),
            false => assert_eq!((names.len(), read(&a, "f").as_deref()), (2, Some("two")), "{n}: {names:?}"),
        }
        if completed {
            assert_eq!(snapshots(&aside), ["newer", "kept"], "{n}");
            assert_eq!(property(&aside, "canmount"), "noauto", "{n}");
        }
        assert_eq!(read(&inner, "g").as_deref(), Some("inner"), "{n}");
        assert_eq!(
            (path(&a), path(&inner)),
            (pool.path(&format!("died at {n}")), pool.path(&format!("died at {n}/in side")))
        );
        assert_eq!(property(a.name().as_str(), "canmount"), "on", "{n}");
        assert_eq!(property(a.name().as_str(), "cowsnap:rollback"), "-", "{n}");
        assert_eq!(interrupted(Some(&pool.name)).expect("listed"), [], "{n}");
    }
}

#[test]
fn the_machine_may_have_been_off_between_dying_and_settling() {
    ground!("zfs");
    let _alone = no_doctor();
    let pool = Pool::new();
    for n in [4, 8] {
        let (a, s, inner) = prepared(&pool, &format!("off at {n}"));
        let aside = begin(&a, &s, n);
        // What a boot does: nothing is mounted, then everything that says so itself.
        for name in [a.name().as_str(), &aside] {
            for mounted in [format!("{name}/in side"), name.to_owned()] {
                let _ = std::process::Command::new("zfs").args(["unmount", &mounted]).output();
            }
        }
        pool.mount_all();
        let found = interrupted(Some(&pool.name)).expect("listed");
        assert_eq!(found.len(), 1, "{n}");
        assert_eq!((found[0].dataset(), found[0].aside().as_str()), (a.name(), aside.as_str()));
        assert!(!found[0].is_live().expect("looked") && found[0].settle().expect("settled"));
        let wanted = if n >= 5 { "one" } else { "two" };
        assert_eq!(
            (read(&a, "f").as_deref(), read(&inner, "g").as_deref()),
            (Some(wanted), Some("inner")),
            "{n}"
        );
    }
}

#[test]
fn a_snapshot_that_only_has_the_name_of_what_is_kept_is_left_alone() {
    ground!("zfs");
    let _alone = no_doctor();
    let pool = Pool::new();
    let (a, s, _) = prepared(&pool, "a b");
    begin(&a, &s, 1);
    snap(&a, "kept");
    assert_eq!(a.inventory().expect("settled").versions().len(), 3);
    assert_eq!(property(a.name().as_str(), "cowsnap:rollback"), "-");
}

#[test]
fn what_anybody_may_write_on_a_dataset_is_not_acted_on() {
    ground!("zfs");
    let _alone = only_doctor();
    let pool = Pool::new();
    let (victim, s, inner) = prepared(&pool, "victim");
    let user = create(&pool, "us er");
    let kept = snap(&user, "kept");
    let beside = create(&pool, "us er.before-then");
    let nested = create(&pool, "us er.before-then/nested");
    let forged = [victim.name().as_str(), beside.name().as_str()].map(|aside| intent(&user, &s, aside));
    let lines = format!("cowsnap:rollback=a\tb\n{}\tc", victim.name());
    for text in forged.iter().chain([&lines]) {
        zfs(&["set", text, user.name().as_str()]);
        assert_eq!(user.inventory().expect("it is listed").versions(), std::slice::from_ref(&kept), "{text}");
        assert_eq!(interrupted(Some(&pool.name)).expect("listed"), [], "{text}");
        let strange = strange_rollbacks(Some(&pool.name)).expect("listed");
        let strange: Vec<_> = strange.iter().map(|found| found.dataset.as_str()).collect();
        assert_eq!(strange, [user.name().as_str()], "{text}");
        let doctor = crate::ground::cowsnap(&pool.outside().join("state"))
            .args(["doctor", "--fix"])
            .output()
            .expect("it runs");
        let told = String::from_utf8_lossy(&[doctor.stdout, doctor.stderr].concat()).into_owned();
        assert!(told.contains("cowsnap:rollback says"), "{told}");
        for dataset in [&victim, &inner, &user, &beside, &nested] {
            assert!(exists(dataset.name().as_str()), "{dataset} after {text}");
        }
    }
    // What is inherited says nothing of the dataset either.
    zfs(&["inherit", "cowsnap:rollback", user.name().as_str()]);
    zfs(&["set", &forged[0], &pool.name]);
    assert_eq!(user.inventory().expect("it is listed").versions(), [kept]);
}

#[test]
fn space_is_not_reserved_because_somebody_wrote_that_it_was() {
    ground!("zfs");
    let pool = Pool::new();
    let a = create(&pool, "us er");
    let s = snap(&a, "s");
    let reserved = |dataset: &Dataset| property(dataset.name().as_str(), "reservation");
    let says = |on: &Dataset, of: &Dataset| {
        let was = json!({ "of": of.name(), "canmount": null, "reserved": { "reservation": "67108864" } });
        zfs(&["set", &format!("cowsnap:aside={was}"), on.name().as_str()]);
    };
    let (mib_8, mib_64) = ("8388608", "67108864");
    zfs(&["set", "reservation=8M", a.name().as_str()]);
    // Granted on what it is in, too.
    zfs(&["allow", "somebody", "userprop", &pool.name]);
    says(&a, &a);
    let done = a.rollback(&s.id, &RollbackRequest::default()).expect("rolled back");
    assert_eq!((reserved(&a).as_str(), reserved(&aside(&done)).as_str()), (mib_8, "0"));
    let other = super::lab::dataset(&pool.full("other"));
    says(&a, &other);
    a.rename_dataset(&other).expect("renamed");
    assert_eq!(
        (reserved(&other).as_str(), property(other.name().as_str(), "cowsnap:aside").as_str()),
        (mib_8, "-")
    );
    // As only root can have written it.
    zfs(&["unallow", "somebody", "userprop", &pool.name]);
    says(&other, &a);
    other.rename_dataset(&a).expect("renamed");
    assert_eq!(reserved(&a), mib_64);
}

#[test]
fn whenever_the_program_is_killed_nothing_is_lost() {
    ground!("zfs");
    let _alone = no_doctor();
    let pool = Pool::new();
    let start = |a: &Dataset| {
        crate::ground::cowsnap(&pool.outside().join("state"))
            .args(["-q", "rollback", "-r", &format!("{a}@s"), "--keep-as", "kept"])
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("started")
    };
    let (a, ..) = prepared(&pool, "not killed");
    let before = std::time::Instant::now();
    assert!(start(&a).wait().expect("it ends").success());
    let took = before.elapsed();
    let mut ends = [0; 2];
    for nth in 1..=4 {
        let (a, _, inner) = prepared(&pool, &format!("killed at {nth}"));
        let mut child = start(&a);
        std::thread::sleep(took * nth / 5);
        child.kill().and_then(|()| child.wait()).expect("killed");
        a.inventory().expect("whoever looks settles it");
        let gone_back = read(&a, "f").as_deref() == Some("one");
        ends[usize::from(gone_back)] += 1;
        let others = dataset(&pool.name).nested().expect("listed");
        let prefix = format!("{a}.before-");
        let aside: Vec<_> = others.iter().filter(|other| other.to_string().starts_with(&prefix)).collect();
        match gone_back {
            true => {
                assert_eq!(snapshots(a.name().as_str()), ["s"], "{nth}");
                assert_eq!(snapshots(aside[0].name().as_str()), ["newer", "kept"], "{nth}");
            }
            false => {
                assert_eq!(
                    (snapshots(a.name().as_str()).as_slice(), aside.len()),
                    (&["s".to_owned(), "newer".to_owned()][..], 0),
                    "{nth}"
                );
                assert_eq!(read(&a, "f").as_deref(), Some("two"), "{nth}");
            }
        }
        assert_eq!(read(&inner, "g").as_deref(), Some("inner"), "{nth}");
        assert_eq!(interrupted(Some(&pool.name)).expect("listed"), [], "{nth}");
    }
    assert!(ends.iter().all(|n| *n > 0), "it was killed early and late: {ends:?}, a whole one took {took:?}");
}
