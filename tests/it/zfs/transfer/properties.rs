//! Properties travel in the container, and arrive only where they are asked for.

use super::super::ground::zfs;
use super::{Lab, get};
use crate::ground::ground;

fn source_of(name: &str, property: &str) -> String {
    zfs(&["get", "-H", "-o", "source", property, name]).trim_end().to_owned()
}

#[test]
fn properties_come_along_if_asked_but_never_what_could_do_harm() {
    ground!("zfs");
    let lab = Lab::new();
    let note = "com.example:note=a\tb\nc";
    for set in ["compression=zstd-7", "recordsize=1M", "setuid=off", "sharenfs=off", "quota=500M", note] {
        zfs(&["set", set, &lab.source]);
    }
    let full = lab.send("full", &[&lab.snapshot("one")]);
    lab.receive(&full);
    assert_eq!(source_of(&lab.target, "compression"), "default");
    let other = format!("{}-2", lab.target);
    lab.does(&[
        "receive",
        &other,
        &full,
        "--properties",
        "-o",
        "atime=off",
        "-x",
        "recordsize",
        "-o",
        "readonly=off",
    ]);
    let value = |property| (get(&other, property), source_of(&other, property));
    let is = |value: &str, source: &str| (value.to_owned(), source.to_owned());
    assert_eq!(value("compression"), is("zstd-7", "received"));
    assert_eq!(value("com.example:note"), is("a\tb\nc", "received"));
    assert_eq!(value("atime"), is("off", "local"));
    assert_eq!(value("readonly"), is("off", "local"));
    assert_eq!(value("canmount"), is("noauto", "local"));
    for property in ["recordsize", "setuid", "sharenfs", "quota"] {
        assert_eq!(source_of(&other, property), "default", "{property}");
    }
    let refused = lab.fails(&["receive", &format!("{other}3"), &full, "-o", "encryption=on"], 3);
    assert!(refused.contains("encryption can not be set while receiving"), "{refused}");
}

/// Each word of each property that may come along, as far as ZFS 2.1 has it.
const ROUNDS: [&[&str]; 5] = [
    &[
        "compression=gzip-1",
        "checksum=fletcher2",
        "copies=2",
        "sync=always",
        "logbias=throughput",
        "primarycache=none",
        "secondarycache=metadata",
        "redundant_metadata=most",
        "atime=off",
        "dnodesize=auto",
        "xattr=sa",
        "acltype=posix",
        "snapdir=visible",
    ],
    &[
        "compression=gzip",
        "checksum=fletcher4",
        "copies=3",
        "logbias=latency",
        "primarycache=metadata",
        "secondarycache=none",
        "redundant_metadata=all",
        "relatime=on",
        "dnodesize=1k",
        "xattr=off",
        "acltype=nfsv4",
        "snapdir=hidden",
    ],
    &[
        "compression=zstd-19",
        "checksum=sha256",
        "sync=standard",
        "dnodesize=16k",
        "acltype=off",
        "recordsize=4K",
    ],
    &[
        "compression=zle",
        "checksum=sha512",
        "primarycache=all",
        "dnodesize=legacy",
        "special_small_blocks=8K",
    ],
    &["compression=lzjb", "checksum=skein", "secondarycache=all", "dnodesize=2k"],
];

#[test]
fn every_word_arrives_as_the_word_that_it_was() {
    ground!("zfs");
    let lab = Lab::new();
    for (round, words) in ROUNDS.iter().enumerate() {
        let mut args = vec!["set"];
        args.extend(*words);
        args.push(&lab.source);
        zfs(&args);
        let file = lab.send(&format!("full-{round}"), &[&lab.snapshot(&format!("s{round}"))]);
        let target = format!("{}-{round}", lab.target);
        lab.does(&["receive", &target, &file, "--properties"]);
        let all = |columns, names: &str, of: &str| zfs(&["get", "-H", "-o", columns, names, of]);
        let names_of = |words: &[&str]| {
            let names = words.iter().map(|word| word.split('=').next().expect("a name"));
            names.collect::<Vec<_>>().join(",")
        };
        // What ZFS shows by another word does not come along: 2.3 calls xattr=sa "on", by which 2.1 means "dir".
        let shown = all("property,value", &names_of(words), &lab.source).replace('\t', "=");
        let is_shown = |word: &&str| shown.lines().any(|line| line == *word);
        let (words, others): (Vec<&str>, Vec<&str>) = words.iter().copied().partition(is_shown);
        assert!(others.iter().all(|word| *word == "xattr=sa"), "{others:?} of {shown}");
        let names = names_of(&words);
        assert_eq!(all("property,value", &names, &target), all("property,value", &names, &lab.source));
        let sources = all("property,source", &names, &target);
        assert_eq!(sources.lines().count(), words.len());
        assert!(sources.lines().all(|line| line.ends_with("\treceived")), "{sources}");
    }
}

#[test]
fn mount_words_and_amounts_that_are_set_by_name_are_what_zfs_shows() {
    ground!("zfs");
    let lab = Lab::new();
    let file = lab.send("full", &[&lab.snapshot("one")]);
    let sets = "canmount=off quota=64M refquota=32M refreservation=1M setuid=off devices=off exec=off overlay=off \
                compression=zstd-3 mountpoint=/nowhere/at-all sharesmb=off recordsize=none";
    let mut args = vec!["receive", &lab.target, &file];
    args.extend(sets.split_whitespace().take(11).flat_map(|set| ["-o", set]));
    lab.does(&args);
    for set in sets.split_whitespace().take(11) {
        let (property, value) = set.split_once('=').expect("NAME=VALUE");
        let shown = zfs(&["get", "-H", "-o", "value,source", property, &lab.target]);
        assert_eq!(shown.trim_end(), format!("{value}\tlocal"), "{set}");
    }
    // The kernel would take it.
    let refused = lab.fails(&["receive", &format!("{}-2", lab.target), &file, "-o", "recordsize=3000"], 3);
    assert!(refused.contains("recordsize can not be \"3000\""), "{refused}");
    // What the kernel does not take is a warning: the snapshot is there all the same.
    let other = format!("{}-2", lab.target);
    let output = lab.cowsnap(&["receive", &other, &file, "-o", "refquota=1"]);
    assert!(output.status.success(), "{}", super::said(&output));
    assert!(super::said(&output).contains("refquota is not set"), "{}", super::said(&output));
    assert_eq!(lab.snapshots(&other), ["one"]);
}
