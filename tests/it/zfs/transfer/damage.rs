//! A stream that is not what it was, anywhere, leaves no snapshot.

use std::fs;
use std::io::Cursor;

use cowsnap::Class;
use cowsnap::endpoint::archive::Archive;
use cowsnap::endpoint::store::{Options, Store};
use cowsnap::endpoint::zfs::{Dataset, ReceiveOptions};
use cowsnap::exec::Silent;
use cowsnap::exec::receive::Incoming;

use super::{Lab, get, noise};
use crate::archive_reading::lab::parts;
use crate::ground::ground;

fn receive(target: &Dataset, bytes: Vec<u8>, keep_no_partial: bool) -> Result<(), cowsnap::Error> {
    let options = ReceiveOptions { keep_no_partial, ..ReceiveOptions::default() };
    let incoming = Incoming::open(Cursor::new(bytes), "the test", None)?.with(options);
    incoming.receive(&target.clone().into(), &Silent).map(drop)
}

#[test]
fn a_flipped_bit_anywhere_in_a_container_leaves_no_snapshot() {
    ground!("zfs");
    let lab = Lab::new();
    lab.write("f", &noise(1, 1_300_000));
    let file = lab.send("full", &[&lab.snapshot("one"), "--no-compress"]);
    let whole = fs::read(file).expect("read");
    let target = Dataset::by_name(lab.target.parse().expect("a name"));
    const PLACES: usize = 16;
    for n in 0..PLACES {
        // Evenly, and the very first and last bytes.
        let at = n * (whole.len() - 1) / (PLACES - 1);
        let mut changed = whole.clone();
        changed[at] ^= 1 << (n % 8);
        let error = receive(&target, changed, true).expect_err("it is damaged");
        // A bit of the version or of what it needs may also say "newer"; of the first bytes, "no container".
        assert!(matches!(error.class(), Class::Corrupt | Class::Usage), "byte {at}: {error:?}");
        assert!(lab.snapshots(&lab.target).is_empty(), "byte {at}: a snapshot");
        assert!(target.expect_live().is_err(), "byte {at}: something is left");
    }
    receive(&target, whole, true).expect("it is whole");
    lab.assert_same("one");
}

#[test]
fn a_flipped_bit_or_a_cut_in_a_raw_stream_leaves_no_snapshot() {
    ground!("zfs");
    let lab = Lab::new();
    lab.write("f", &noise(1, 400_000));
    let whole = fs::read(lab.send("full", &[&lab.snapshot("one"), "--raw"])).expect("read");
    let target = Dataset::by_name(lab.target.parse().expect("a name"));
    const PLACES: usize = 8;
    for n in 0..PLACES {
        let at = n * (whole.len() - 1) / (PLACES - 1);
        let mut changed = whole.clone();
        changed[at] ^= 1 << (n % 8);
        for bytes in [changed, whole[..at].to_vec()] {
            let error = receive(&target, bytes, true).expect_err("it is damaged");
            assert!(matches!(error.class(), Class::Corrupt | Class::Usage), "byte {at}: {error:?}");
            assert!(lab.snapshots(&lab.target).is_empty() && target.expect_live().is_err(), "byte {at}");
        }
    }
    // All of it but END is there, and then something that is none of it.
    let mut longer = whole.clone();
    longer.push(0);
    let error = receive(&target, longer, true).expect_err("too long");
    assert_eq!(error.class(), Class::Corrupt);
    assert!(lab.snapshots(&lab.target).is_empty() && target.expect_live().is_err());
    receive(&target, whole, true).expect("it is whole");
    lab.assert_same("one");
}

#[test]
fn a_container_whose_root_is_wrong_is_applied_but_for_its_end_and_then_forgotten() {
    ground!("zfs");
    let lab = Lab::new();
    lab.write("f", &noise(1, 100_000));
    let file = lab.send("full", &[&lab.snapshot("one")]);
    let mut bytes = fs::read(&file).expect("read");
    let at = bytes.len() - 90; // in the trailer, behind all frames
    bytes[at] ^= 1;
    let target = Dataset::by_name(lab.target.parse().expect("a name"));
    assert_eq!(receive(&target, bytes.clone(), true).expect_err("damaged").class(), Class::Corrupt);
    assert!(target.expect_live().is_err(), "something is left");
    // Kept for a resumption: a partial, and no snapshot.
    assert_eq!(receive(&target, bytes, false).expect_err("damaged").class(), Class::Corrupt);
    assert!(lab.snapshots(&lab.target).is_empty());
    assert_eq!(target.partials().expect("readable").len(), 1);
    lab.does(&["destroy", &format!("{}@%partial", lab.target)]);
    receive(&target, fs::read(file).expect("read"), false).expect("it is whole");
    lab.assert_same("one");
}

/// That a pull of an archive whose second part is damaged leaves what is `left` in part, however often it is tried, and works once the
/// part is whole. With `push` and `pull` as arguments of these.
fn assert_a_pull_works_after_damage(push: &[&str], pull: &[&str], left: usize) {
    let lab = Lab::new();
    lab.write("f", &noise(1, 40 << 20));
    let identity = lab.file("identity");
    let keyed = |arguments: &[&str]| -> Vec<String> {
        arguments.iter().map(|argument| argument.replace("IDENTITY", &identity)).collect()
    };
    lab.does(&["keygen", &identity, "--kind", "encrypt"]);
    let store = tempfile::tempdir().expect("a directory");
    let url = format!("file://{}", store.path().display());
    lab.does(&["archive", "add", &url, &lab.source]);
    let run = |verb: &str, of: [&str; 2], more: &[&str]| -> Vec<String> {
        let arguments = ["archive", verb, of[0], of[1]].map(str::to_owned).into_iter();
        arguments.chain(keyed(more)).collect()
    };
    let pulled = run("pull", [&url, &lab.target], pull);
    let pulled: Vec<&str> = pulled.iter().map(String::as_str).collect();
    let pushed = run("push", [&lab.snapshot("one"), &url], push);
    lab.does(&pushed.iter().map(String::as_str).collect::<Vec<_>>());
    let opened = Store::open(&url.parse().expect("an address"), &Options::default()).expect("opens");
    let archive = Archive::open(opened).expect("an archive");
    let (part, _) = parts(&archive).into_iter().find(|(part, _)| part.number == 1).expect("a second part");
    let part = store.path().join(part.to_string());
    let good = fs::read(&part).expect("read");
    fs::write(&part, b"damaged").expect("written");
    let target = Dataset::by_name(lab.target.parse().expect("a name"));
    for _ in 0..2 {
        lab.fails(&pulled, 4);
        assert!(lab.snapshots(&lab.target).is_empty());
        assert_eq!(target.partials().expect("readable").len(), left);
    }
    fs::write(&part, good).expect("written");
    lab.does(&pulled);
    assert!(target.partials().expect("readable").is_empty());
    assert_eq!(get(&lab.target, "cowsnap:pulling"), "-");
    lab.assert_same("one");
}

#[test]
fn a_pull_of_an_archive_with_a_damaged_part_is_kept_and_goes_on_once_the_part_is_whole() {
    ground!("zfs");
    assert_a_pull_works_after_damage(&[], &[], 1);
}

#[test]
fn a_pull_that_could_not_go_on_leaves_nothing_in_the_way_of_the_next_one() {
    ground!("zfs");
    let (push, pull) = (["--encrypt-to", "IDENTITY.pub"], ["--identity", "IDENTITY"]);
    assert_a_pull_works_after_damage(&push, &pull, 0);
}
