//! Encrypted datasets go back and are restored with their keys, and say what is missing without them.

use std::fs;
use std::process::Command;

use cowsnap::endpoint::History;
use cowsnap::endpoint::zfs::Dataset;

use super::ground::{Pool, zfs};
use super::lab::{create, dataset, exists, name, no_doctor, path, property, read, snap, snapshots, write};
use crate::ground::{ground, run};

/// A dataset that is encrypted with a key in a file, with one inside it that has the same key.
fn encrypted(pool: &Pool) -> (Dataset, Dataset) {
    let key = pool.outside().join("key");
    fs::write(&key, [7; 32]).expect("write");
    let location = format!("keylocation=file://{}", key.display());
    let full = pool.full("a b:c");
    zfs(&["create", "-o", "encryption=aes-256-gcm", "-o", "keyformat=raw", "-o", &location, &full]);
    let (a, inner) = (dataset(&full), create(pool, "a b:c/in side"));
    for dataset in [&a, &inner] {
        write(dataset, "f", "one");
        snap(dataset, "s 1");
        write(dataset, "f", "two");
        snap(dataset, "newer");
        write(dataset, "f", "three");
    }
    (a, inner)
}

fn lock(dataset: &Dataset) {
    let _ = Command::new("zfs").args(["unmount", &format!("{dataset}/in side")]).output();
    zfs(&["unmount", dataset.name().as_str()]);
    zfs(&["unload-key", dataset.name().as_str()]);
}

fn cowsnap(pool: &Pool, args: &[&str]) -> (Option<i32>, String) {
    let output = crate::ground::cowsnap(&pool.outside().join("state")).args(args).output().expect("started");
    let said = [output.stderr, output.stdout].map(|said| String::from_utf8_lossy(&said).into_owned());
    (output.status.code(), said.concat())
}

#[test]
fn an_encrypted_dataset_goes_back_and_both_can_be_locked_and_unlocked_afterwards() {
    ground!("zfs");
    let pool = Pool::new();
    let (a, inner) = encrypted(&pool);
    let full = a.name().as_str();
    let (code, said) = cowsnap(&pool, &["rollback", "-r", &format!("{a}@s 1"), "--keep-as", "kept"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("warning"), "{said}");
    assert_eq!([&a, &inner].map(|dataset| read(dataset, "f")), [Some("one".into()), Some("one".into())]);
    let listed = zfs(&["list", "-H", "-o", "name", "-r", &pool.name]);
    let asides: Vec<_> = listed.lines().filter(|name| name.contains(".before-")).collect();
    let [aside, inner_aside] = asides[..] else { panic!("{listed}") };
    assert_eq!(snapshots(aside), ["newer", "kept"]);
    for (of, root) in [(full, full), (inner.name().as_str(), full), (aside, full), (inner_aside, full)] {
        assert_eq!(property(of, "encryptionroot"), root, "{of}");
    }
    assert!(property(full, "keylocation").ends_with("/key"));
    // The machine is booted anew.
    lock(&a);
    assert_eq!(property(aside, "keystatus"), "unavailable");
    zfs(&["load-key", full]);
    zfs(&["mount", full]);
    assert_eq!(read(&a, "f").as_deref(), Some("one"));
    let dir = pool.outside().join("old");
    fs::create_dir(&dir).expect("mkdir");
    run("mount", &["-t", "zfs", "-o", "zfsutil", aside, dir.to_str().expect("utf-8")]);
    assert_eq!(fs::read_to_string(dir.join("f")).expect("read"), "three");
    run("umount", &[dir.to_str().expect("utf-8")]);
    // And it can go back again, and there.
    assert_eq!(cowsnap(&pool, &["rename", full, &pool.full("gone")]).0, Some(0));
    assert_eq!(cowsnap(&pool, &["rename", aside, full]).0, Some(0));
    assert_eq!(read(&a, "f").as_deref(), Some("three"));
}

#[test]
fn a_rollback_that_died_after_its_promotion_has_the_key_of_what_was_mounted() {
    ground!("zfs");
    let _alone = no_doctor();
    let pool = Pool::new();
    let (a, inner) = encrypted(&pool);
    let first = a.version(&name("s 1")).expect("there");
    super::rollback::begin(&a, &first, 7);
    assert_eq!(property(a.name().as_str(), "keystatus"), "unavailable", "it died before that was mended");
    a.inventory().expect("whoever looks settles it");
    assert_eq!(property(a.name().as_str(), "keystatus"), "available");
    assert_eq!(
        [&a, &inner].map(|dataset| read(dataset, "f")),
        ["one", "three"].map(|text| Some(text.into()))
    );
    lock(&a);
    zfs(&["load-key", a.name().as_str()]);
    zfs(&["mount", a.name().as_str()]);
    assert_eq!(read(&a, "f").as_deref(), Some("one"));
}

#[test]
fn without_the_key_nothing_is_put_in_place_and_the_command_that_loads_it_is_told() {
    ground!("zfs");
    let pool = Pool::new();
    let (a, inner) = encrypted(&pool);
    let container = pool.outside().join("one.cow");
    let container = container.to_str().expect("utf-8");
    let one = format!("{a}@s 1");
    assert_eq!(cowsnap(&pool, &["send", &one, "-o", container]).0, Some(0));
    lock(&a);
    let hint = format!("hint: zfs load-key '{a}'");
    let new = pool.full("new");
    for args in [
        &["rollback", "-r", &one][..],
        &["rollback", &format!("{inner}@s 1")],
        &["restore", &one, "--to", &new],
        &["clone", &one, &new],
        &["restore", &one, "--to", a.name().as_str(), "--replace", "-r"],
    ] {
        let (code, said) = cowsnap(&pool, args);
        assert_eq!(code, Some(6), "{args:?}: {said}");
        assert!(said.contains(&hint), "{args:?}: {said}");
    }
    assert_eq!((snapshots(a.name().as_str()), exists(&new)), (vec!["s 1".into(), "newer".into()], false));
    assert_eq!(zfs(&["list", "-H", "-o", "name", "-r", &pool.name]).lines().count(), 3);
    // From a file it comes raw: it is there, and mounted once it is unlocked.
    let (code, said) = cowsnap(&pool, &["restore", container, "--to", &new]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&format!("zfs load-key '{new}'")), "{said}");
    zfs(&["load-key", "-L", &format!("file://{}", pool.outside().join("key").display()), &new]);
    zfs(&["mount", &new]);
    assert_eq!(read(&dataset(&new), "f").as_deref(), Some("one"));
    assert_eq!((property(&new, "readonly"), property(&new, "cowsnap:restoring")), ("off".into(), "-".into()));
    // With the key loaded and nothing mounted, it goes back and is mounted where it belongs.
    zfs(&["load-key", a.name().as_str()]);
    let (code, said) = cowsnap(&pool, &["rollback", "-r", &one]);
    assert_eq!(code, Some(0), "{said}");
    pool.mount_all();
    assert_eq!((path(&a), read(&a, "f").as_deref()), (pool.path("a b:c"), Some("one")));
    assert!(a.version(&name("s 1")).is_ok());
}

#[test]
fn a_key_that_somebody_types_is_asked_for_again_after_a_rollback() {
    ground!("zfs");
    let pool = Pool::new();
    let full = pool.full("a b:c");
    let words = ["-o", "encryption=on", "-o", "keyformat=passphrase", "-o", "keylocation=prompt"];
    run("sh", &[&["-c", "echo 'pass phrase' | zfs create \"$@\"", "sh"][..], &words, &[&full]].concat());
    let a = dataset(&full);
    write(&a, "f", "one");
    snap(&a, "s 1");
    write(&a, "f", "two");
    let back = ["rollback", &format!("{a}@s 1")];
    let (code, said) = cowsnap(&pool, &back);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&format!("zfs load-key '{a}' before it is mounted anew")), "{said}");
    assert_eq!(read(&a, "f").as_deref(), Some("one"), "it is mounted still");
    let (code, said) = cowsnap(&pool, &back);
    assert_eq!(code, Some(6), "{said}");
    run("sh", &["-c", "echo 'pass phrase' | zfs load-key \"$1\"", "sh", &full]);
    assert_eq!(cowsnap(&pool, &back).0, Some(0));
    assert_eq!(read(&a, "f").as_deref(), Some("one"));
}
