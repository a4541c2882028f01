//! What is proven of places that got their snapshots from others than the source.

use std::fs;

use super::program::{Lab, said, text};
use crate::ground::{Btrfs, ground};
use crate::peer::lab::noise;

/// What the third place has verified is what the replica has, and that came raw.
#[test]
fn what_was_seeded_from_a_replica_that_came_raw_is_not_proven_once_the_base_is_gone() {
    ground!("btrfs");
    let (lab, other) = (Lab::new(), Btrfs::new());
    let third = text(&other.path().join("third"));
    lab.write("a", b"some");
    lab.snapshot("one");
    let raw = text(&lab.source.outside().join("raw"));
    lab.does(&["send", &format!("{}@one", lab.from()), "--raw", "-o", &raw]);
    lab.does(&["receive", &lab.to(), &raw, "--name", "one"]);
    lab.does(&["replicate", &lab.to(), &third]);
    lab.write("b", b"more");
    lab.snapshot("two");
    lab.does(&["replicate", &lab.from(), &third]);
    lab.does(&["destroy", &format!("{}@one", lab.from())]);
    let verify = |more: &[&str]| {
        let from = lab.from();
        let all = [&["verify", &from, "--against", &third], more].concat();
        said(&lab.command(&all).output().unwrap())
    };
    let (code, out, _) = verify(&[]);
    assert!(code == Some(7) && out.contains("of which nothing is proven"), "{code:?} {out}");
    assert_eq!(verify(&["--content"]).0, Some(0), "reading it proves it");
}

/// A stream of the same snapshot, in which one byte of what is `like` is another.
fn with_another_byte(mut stream: Vec<u8>, like: &[u8]) -> Vec<u8> {
    const HEADER: usize = 17;
    let at = stream.windows(like.len()).position(|bytes| bytes == like).unwrap();
    let mut command = HEADER;
    loop {
        let len = u32::from_le_bytes(stream[command..command + 4].try_into().unwrap()) as usize;
        let end = command + 10 + len;
        if at < end {
            stream[at] ^= 0xff;
            stream[command + 6..command + 10].fill(0);
            let crc = !crc32c::crc32c_append(!0, &stream[command..end]);
            stream[command + 6..command + 10].copy_from_slice(&crc.to_le_bytes());
            return stream;
        }
        command = end;
    }
}

/// The third place has an increment upon what it was seeded with from a replica that is another; then the source's comes in its place.
#[test]
fn a_base_that_was_sent_again_proves_nothing_of_what_was_built_upon_the_one_before() {
    ground!("btrfs");
    let (lab, other) = (Lab::new(), Btrfs::new());
    let third = text(&other.path().join("third"));
    let bytes = noise(1, 10_000);
    lab.write("a", &bytes);
    lab.snapshot("one");
    let (one, raw) = (format!("{}@one", lab.from()), lab.source.outside().join("raw"));
    lab.does(&["send", &one, "--raw", "-o", &text(&raw)]);
    fs::write(&raw, with_another_byte(fs::read(&raw).unwrap(), &bytes[100..200])).unwrap();
    lab.does(&["receive", &lab.to(), &text(&raw), "--name", "one"]);
    let sent = text(&lab.source.outside().join("sent"));
    lab.does(&["send", &format!("{}@one", lab.to()), "-o", &sent]);
    lab.does(&["receive", &third, &sent]);
    lab.write("b", b"more");
    lab.snapshot("two");
    lab.does(&["replicate", &lab.from(), &third]);
    let verify = |more: &[&str]| {
        let from = lab.from();
        let all = [&["verify", &from, "--against", &third], more].concat();
        said(&lab.command(&all).output().unwrap())
    };
    assert_eq!(verify(&[]).0, Some(7));
    lab.does(&["destroy", &format!("{third}@one")]);
    lab.does(&["replicate", "--full", &one, &third]);
    let (code, out, _) = verify(&[]);
    assert!(
        code == Some(7) && out.contains("it builds upon @one, of which nothing is proven"),
        "{code:?} {out}"
    );
    assert_eq!(verify(&["--content"]).0, Some(4), "reading it shows it");
}

/// A relay that had another snapshot is repaired: what it sends since builds, at the third place, upon what it had before.
#[test]
fn what_a_relay_sent_before_it_was_repaired_is_not_what_it_has() {
    ground!("btrfs");
    let (lab, other) = (Lab::new(), Btrfs::new());
    let (relay, third) = (lab.to(), text(&other.path().join("third")));
    let bytes = noise(1, 10_000);
    lab.write("a", &bytes);
    lab.snapshot("one");
    let (one, raw) = (format!("{}@one", lab.from()), lab.source.outside().join("raw"));
    lab.does(&["send", &one, "--raw", "-o", &text(&raw)]);
    fs::write(&raw, with_another_byte(fs::read(&raw).unwrap(), &bytes[100..200])).unwrap();
    lab.does(&["receive", &relay, &text(&raw), "--name", "one"]);
    let (relay_one, sent) = (format!("{relay}@one"), text(&lab.source.outside().join("sent")));
    lab.does(&["send", &relay_one, "-o", &sent]);
    lab.does(&["receive", &third, &sent]);
    lab.does(&["destroy", &relay_one]);
    lab.does(&["replicate", &one, &relay]);
    lab.write("b", b"more");
    lab.snapshot("two");
    lab.does(&["replicate", &lab.from(), &relay]);
    lab.does(&["replicate", &relay, &third]);
    lab.does(&["destroy", &relay_one]);
    let verify = |more: &[&str]| {
        let two = format!("{relay}@two");
        let all = [&["verify", &two, "--against", &third], more].concat();
        said(&lab.command(&all).output().unwrap())
    };
    let (code, out, _) = verify(&[]);
    assert!(code == Some(7) && out.contains("of which nothing is proven"), "{code:?} {out}");
    assert_eq!(verify(&["--content"]).0, Some(4), "reading it shows it");
}
