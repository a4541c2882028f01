//! Archives that some alone can read, and that are known as their maker's.

use std::process::Stdio;

use super::{Ground, Victim, ended};
use crate::ground::ground;
use crate::s3::Fault;

impl Ground {
    /// Makes a key of either kind, and answers where its halves are.
    pub(super) fn key(&self, name: &str, kind: &str) -> (String, String) {
        let path = self.fs.outside().join(name).display().to_string();
        self.run(&format!("keygen {path} --kind {kind}"));
        (path.clone(), format!("{path}.pub"))
    }
}

#[test]
fn what_is_encrypted_and_signed_comes_back_for_who_has_the_keys_and_for_nobody_else() {
    ground!("btrfs");
    let ground = Ground::on_dir();
    let (sign, signer) = ground.key("sign", "sign");
    let (_, other) = ground.key("other", "sign");
    let (identity, recipient) = ground.key("identity", "encrypt");
    let (stranger, _) = ground.key("stranger", "encrypt");
    ground.run("archive add URL FS/d");
    ground.take("a", 3 << 20);
    let sealed = format!("--sign {sign} --encrypt-to {recipient}");
    let pushed = ground.json(&format!("archive push FS/d URL {sealed}"));
    let digest = pushed["blake3"].as_str().expect("a digest").to_owned();
    ground.take("b", 1 << 20);
    ground.run(&format!("archive push FS/d URL {sealed}"));
    assert!(!ground.state.join("unfinished").read_dir().is_ok_and(|mut left| left.next().is_some()));
    // Nothing there tells what is in it.
    for entry in ground.store().list("").expect("listed") {
        let bytes = ground.store().get(&entry.key, 1 << 30).expect("got").expect("there");
        let holds = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
        assert!(!holds(digest.as_bytes()) && !holds(b"of-a"), "{}", entry.key);
    }
    // Without keys, damage is seen all the same.
    ground.run("archive verify URL");
    ground.run(&format!("archive verify URL --identity {identity} --verify-key {signer}"));
    let (_, said) = ground.ends(4, &format!("archive verify URL --verify-key {other}"));
    assert!(said.contains("@a") && said.contains("@b"), "{said}");
    assert!(ground.ends(2, "archive pull URL FS/no").1.contains("--identity"));
    ground.ends(6, &format!("archive pull URL FS/no --identity {stranger}"));
    ground.ends(4, &format!("archive pull URL FS/no --identity {identity} --verify-key {other}"));
    assert!(!ground.fs.path().join(".cowsnap/datasets/no/snap").exists());
    ground.run(&format!("archive pull URL FS/back --identity {identity} --verify-key {signer}"));
    let snap = |of: &str| ground.fs.path().join(".cowsnap/datasets").join(of).join("snap/b");
    crate::ground::run("diff", &["-r".as_ref(), snap("d").as_os_str(), snap("back").as_os_str()]);
    ground.run(&format!("restore {}@a --to FS/live --identity {identity} --verify-key {signer}", ground.url));
    assert!(ground.fs.path().join("live/of-a").exists() && !ground.fs.path().join("live/of-b").exists());
}

#[test]
fn what_nobody_signed_becomes_nothing_where_somebody_must_have() {
    ground!("btrfs");
    let ground = Ground::on_dir();
    let (sign, signer) = ground.key("sign", "sign");
    ground.run("archive add URL FS/d");
    ground.take("a", 1 << 20);
    ground.run("archive push FS/d URL");
    let (_, said) = ground.ends(4, &format!("restore {}@a --to FS/live --verify-key {signer}", ground.url));
    assert!(said.contains("it is not signed"), "{said}");
    assert!(!ground.fs.path().join("live").exists());
    // Somebody who can write there puts an own version in place of a signed one: its manifest is not signed.
    ground.take("b", 1 << 20);
    ground.run(&format!("archive push FS/d URL --full --sign {sign}"));
    ground.run(&format!("restore {}@b --to FS/live --verify-key {signer}", ground.url));
    let archive = ground.archive();
    let all = archive.listing().expect("listed").stored;
    let signed = all.iter().find(|stored| stored.version.name.as_str() == "b").expect("there");
    let key = signed.to_string();
    let text = archive.store().get(&key, 1 << 20).expect("got").expect("there");
    let text = String::from_utf8(text).expect("a text");
    let without: String =
        text.lines().filter(|line| !line.starts_with("ed25519")).map(|l| format!("{l}\n")).collect();
    archive.store().put(&key, without.into_bytes().into()).expect("put");
    ground.ends(4, &format!("restore {}@b --to FS/other --verify-key {signer}", ground.url));
    assert!(!ground.fs.path().join("other").exists());
}

#[test]
fn an_encrypted_push_that_was_killed_goes_on_with_the_parts_that_are_there() {
    ground!("btrfs");
    let ground = Ground::on_s3();
    let (identity, recipient) = ground.key("identity", "encrypt");
    ground.run("archive add URL FS/d");
    ground.take("a", 70 << 20);
    ground.server().forget();
    let victim = Victim::default();
    // Claim and its look, then the first parts.
    ground.server().fault(8, Fault::After(victim.signal(rustix::process::Signal::KILL)));
    let child = ground.start(&format!("archive push FS/d URL --encrypt-to {recipient}"));
    victim.is(&child);
    let (code, said) = ended(child);
    assert_eq!(code, None, "{said}");
    let left = ground.archive().parts(None).expect("listed").len();
    assert!(left > 0, "the case is about parts that are there");
    let pushed = ground.json(&format!("archive push FS/d URL --encrypt-to {recipient}"));
    let number = |key: &str| pushed[key].as_u64().expect("a number");
    assert!(number("sent_parts") < number("parts"), "{pushed}");
    assert!(!ground.state.join("unfinished").read_dir().is_ok_and(|mut left| left.next().is_some()));
    let mut verify = ground.command(&format!("archive verify URL --identity {identity}"));
    assert!(verify.stdout(Stdio::null()).status().expect("started").success());
    ground.run(&format!("archive pull URL FS/back --identity {identity}"));
}
