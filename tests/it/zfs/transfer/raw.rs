//! Encrypted datasets: sent and received without their keys.

use std::fs;

use super::super::ground::zfs;
use super::{Lab, get, noise};
use crate::ground::ground;

/// A lab whose source is encrypted with a key in a file.
pub fn encrypted() -> Lab {
    let lab = Lab::new();
    zfs(&["destroy", &lab.source]);
    let key = lab.file("key");
    fs::write(&key, [7; 32]).expect("write");
    let location = format!("keylocation=file://{key}");
    zfs(&["create", "-o", "encryption=aes-256-gcm", "-o", "keyformat=raw", "-o", &location, &lab.source]);
    lab
}

pub fn unlock(lab: &Lab, dataset: &str) {
    zfs(&["load-key", "-L", &format!("file://{}", lab.file("key")), dataset]);
}

#[test]
fn an_encrypted_chain_goes_raw_without_the_key_and_never_mixes() {
    ground!("zfs");
    let lab = encrypted();
    lab.write("secret", &noise(1, 500_000));
    let one = lab.snapshot("one");
    lab.write("secret 2", b"more");
    let two = lab.snapshot("two");
    zfs(&["bookmark", &two, &format!("{}#mark", lab.source)]);
    lab.write("secret 3", b"and more");
    let three = lab.snapshot("three");
    let open = lab.send("open", &["-i", &two, "--zfs-flags", "large-blocks+compressed"]);
    zfs(&["inherit", "cowsnap:sent", &two]);
    zfs(&["unmount", &lab.source]);
    zfs(&["unload-key", &lab.source]);

    let full = lab.send("full", &[&one]);
    lab.receive(&full);
    assert_eq!(get(&lab.target, "cowsnap:flags"), "raw+large-blocks+compressed");
    assert_eq!(get(&lab.target, "keystatus"), "unavailable");
    let mixed = lab.fails(&["receive", &lab.target, &open], 3);
    assert!(mixed.contains("all of a chain must be made alike"), "{mixed}");
    let locked =
        lab.fails(&["send", "-i", &two, "--zfs-flags", "large-blocks+compressed", "-o", &lab.file("no")], 6);
    assert!(locked.contains("key is not loaded"), "{locked}");
    let increment = lab.send("increment", &["-i", &two]);
    lab.receive(&increment);
    zfs(&["destroy", &two]);
    let upon_mark = lab.send("upon-mark", &["--from", "#mark", &three]);
    lab.receive(&upon_mark);

    unlock(&lab, &lab.source);
    unlock(&lab, &lab.target);
    lab.assert_same("one");
    lab.assert_same("three");
    assert!(lab.content(&format!("{}@two", lab.target)).len() == 2);
}

#[test]
fn a_token_can_not_have_an_encrypted_dataset_sent_in_the_clear() {
    ground!("zfs");
    use cowsnap::stream::zfs::resume::Token;
    let lab = encrypted();
    lab.write("secret", b"text");
    let one = lab.snapshot("one");
    let guid = get(&one, "guid").parse().expect("a number");
    let mut token = Token { to_guid: guid, to_name: one.clone(), object: 1, ..Token::default() };
    token.flags = "large-blocks+compressed".parse().expect("flags");
    let refused = lab.fails(&["send", &lab.source, "--resume", &token.encode(), "-o", &lab.file("no")], 3);
    assert!(refused.contains("the token asks for large-blocks+compressed"), "{refused}");
    // Of a snapshot that this dataset does not have.
    let other = Token { to_guid: 77, ..token };
    let refused = lab.fails(&["send", &lab.source, "--resume", &other.encode(), "-o", &lab.file("no")], 2);
    assert!(refused.contains("with the guid 77"), "{refused}");
    let refused = lab.fails(&["send", &lab.source, "--resume", "1-x-y-z", "-o", &lab.file("no")], 3);
    assert!(refused.contains("token"), "{refused}");
}

#[test]
fn raw_onto_what_is_there_unencrypted_is_refused() {
    ground!("zfs");
    let lab = encrypted();
    let one = lab.snapshot("one");
    lab.write("f", b"more");
    let two = lab.snapshot("two");
    let open = lab.send("open", &[&one, "--zfs-flags", "large-blocks+embedded+compressed"]);
    lab.receive(&open);
    assert_eq!(get(&lab.target, "encryption"), "off");
    zfs(&["inherit", "cowsnap:sent", &one]);
    let raw = lab.send("raw", &["-i", &two]);
    let refused = lab.fails(&["receive", &lab.target, &raw], 3);
    assert!(refused.contains("all of a chain must be made alike"), "{refused}");
    // The kernel says so too, where cowsnap does not know the chain.
    zfs(&["inherit", "cowsnap:flags", &lab.target]);
    lab.fails(&["receive", &lab.target, &raw], 3);
    assert_eq!(lab.snapshots(&lab.target), ["one"]);
}
