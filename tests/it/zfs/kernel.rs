//! What OpenZFS itself does with calls that cowsnap makes, or keeps from making (kernel-notes/zfs.md).

use std::collections::BTreeMap;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::path::Path;

use cowsnap::endpoint::{Backend, Error, History};
use cowsnap::sys::lzc::{self, BEGIN_LEN, Prop, Receive, Received};
use cowsnap::sys::mount::{self, Restrict};

use super::ground::{Pool, zfs};
use super::lab::{create, dataset, path, property, snap, write};
use crate::ground::{ground, run};

fn tags(snapshot: &str) -> Vec<String> {
    lzc::open().expect("ZFS").holds(snapshot).expect("there").into_keys().collect()
}

fn hold(snapshot: &str, tag: &str, with: Option<std::os::fd::BorrowedFd<'_>>) {
    let holds = [(snapshot.to_owned(), tag.to_owned())];
    lzc::open().expect("ZFS").hold(&holds, with).expect("held");
}

#[test]
fn a_hold_that_is_bound_to_a_descriptor_goes_with_it() {
    ground!("zfs");
    let pool = Pool::with("256M", &[]);
    let a = create(&pool, "a b:c");
    let version = snap(&a, "s 1");
    let full = format!("{}@s 1", a.name());
    let bound = lzc::cleanup_fd().expect("a descriptor");
    hold(&full, "bound", Some(bound.as_fd()));
    hold(&full, "bound too", Some(bound.as_fd()));
    hold(&full, "free", None);
    assert_eq!(tags(&full), ["bound", "bound too", "free"]);
    assert!(matches!(a.destroy(&version.id), Err(Error::Held { .. })));
    drop(bound);
    // The kernel may take its time.
    for _ in (0..100).take_while(|_| tags(&full) != ["free"]) {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(tags(&full), ["free"]);
    zfs(&["release", "free", &full]);
    a.destroy(&version.id).expect("destroyed");
}

/// What a mount at `dir` forbids.
fn restrictions(dir: &Path) -> Restrict {
    let dir = dir.canonicalize().expect("a directory");
    let all = mount::mounts().expect("a table of mounts");
    all.into_iter().rfind(|info| info.dir == dir).expect("it is mounted").restrictions()
}

#[test]
fn a_clone_is_mounted_with_what_its_properties_forbid_of_which_mount_2_alone_knows_nothing() {
    ground!("zfs");
    let pool = Pool::with("256M", &[]);
    let a = create(&pool, "a b:c");
    for set in ["exec=off", "setuid=off", "devices=off"] {
        zfs(&["set", set, &pool.name]);
    }
    write(&a, "f", "one");
    let version = snap(&a, "s 1");
    let clone = dataset(&pool.full("cl one"));
    a.clone_at(&version.id, &clone).expect("cloned");
    let all = Restrict { readonly: false, nodev: true, nosuid: true, noexec: true };
    assert_eq!(restrictions(&path(&clone)), all);
    // What the kernel mounts by itself: anywhere, whatever `mountpoint` and `canmount` say, and without them.
    let dir = pool.outside().join("seen here");
    std::fs::create_dir(&dir).expect("mkdir");
    for set in ["canmount=off", "mountpoint=none"] {
        zfs(&["set", set, clone.name().as_str()]);
    }
    mount::mount_at("zfs", clone.name().as_str(), &dir, Restrict::default()).expect("mounted");
    assert_eq!(restrictions(&dir), Restrict::default());
    assert_eq!(std::fs::read_to_string(dir.join("f")).expect("read"), "one");
    std::fs::write(dir.join("g"), "it can be written to").expect("written");
    mount::unmount(&dir).expect("unmounted");
    // But that it can not be written to, the filesystem knows by itself.
    zfs(&["set", "readonly=on", clone.name().as_str()]);
    mount::mount_at("zfs", clone.name().as_str(), &dir, Restrict::default()).expect("mounted");
    assert!(std::fs::write(dir.join("g"), "again").is_err());
    mount::unmount(&dir).expect("unmounted");
}

#[test]
fn no_program_is_started_from_the_mounted_snapshot_of_what_allows_none() {
    ground!("zfs");
    let pool = Pool::with("256M", &[]);
    let a = create(&pool, "a b:c");
    let dir = pool.outside().join("seen here");
    std::fs::create_dir(&dir).expect("mkdir");
    let version = snap(&a, "s 1");
    for (exec, noexec) in [("on", false), ("off", true)] {
        zfs(&["set", &format!("exec={exec}"), a.name().as_str()]);
        let _mount = a.mount(&version.id, &dir).expect("mounted");
        let wanted = Restrict { readonly: true, nodev: true, nosuid: true, noexec };
        assert_eq!(restrictions(&dir), wanted, "exec={exec}");
    }
}

/// Receives a raw stream of a volume with these properties.
fn receive(stream: &[u8], snapshot: &str, received: &[(&str, Prop)], local: &[(&str, Prop)]) -> Received {
    let owned = |props: &[(&str, Prop)]| {
        props.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect::<Vec<_>>()
    };
    let mut rest = tempfile::tempfile().expect("a file");
    rest.write_all(&stream[BEGIN_LEN..]).expect("written");
    rest.seek(SeekFrom::Start(0)).expect("a file");
    let what = Receive {
        snapshot,
        received_props: &owned(received),
        local_props: &owned(local),
        origin: None,
        resumable: true,
        raw: false,
        fd: rest.as_fd(),
        begin: stream.first_chunk().expect("a stream"),
    };
    lzc::open().expect("ZFS").receive(&what).expect("received")
}

#[test]
fn what_is_left_out_or_set_of_a_volume_may_be_what_volumes_do_not_have() {
    ground!("zfs");
    let pool = Pool::new();
    let volume = pool.volume("disk:1", "16M");
    zfs(&["snapshot", &format!("{volume}@s")]);
    let stream = run("zfs", &["send", &format!("{volume}@s")]).stdout;
    let lz4 = Prop::Number(15);
    let received = [("compression", lz4.clone()), ("com.example:note", Prop::Text("theirs".into()))];
    let out: Vec<_> =
        ["canmount", "mountpoint", "sharenfs", "compression", "com.example:note", "atime", "exec"]
            .map(|name| (name, Prop::Exclude))
            .into();
    let copy = pool.full("copy of:it");
    let errors = receive(&stream, &format!("{copy}@s"), &received, &out).property_errors;
    assert_eq!(errors, BTreeMap::new(), "what a volume does not have is passed over");
    let shown = |name: &str| {
        zfs(&["get", "-H", "-o", "value,received,source", name, &copy]).trim_end().replace('\t', " ")
    };
    // It was received, and is not used: `zfs inherit -S` would bring it back.
    let default = property(&volume, "compression"); // On from 2.2 on.
    assert_eq!(shown("compression"), format!("{default} lz4 default"));
    assert_eq!(shown("com.example:note"), "- theirs -");
    for name in ["canmount", "mountpoint", "sharenfs", "atime", "exec"] {
        assert_eq!(shown(name), "- - -", "{name}");
    }
    // Nor does the kernel say anything of what is set and can not be.
    let set = [("canmount", Prop::Number(2)), ("mountpoint", Prop::Text("none".into()))];
    let other = pool.full("other");
    let errors = receive(&stream, &format!("{other}@s"), &[], &set).property_errors;
    assert_eq!((errors, property(&other, "canmount")), (BTreeMap::new(), "-".into()));
}
