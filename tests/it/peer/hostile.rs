//! Clients that mean ill, through a real sshd: a key that may only add is worth no more to them, whatever they say and in whichever order.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use cowsnap::endpoint::{History, path};
use cowsnap::model::Inventory;
use cowsnap::stream::wire::{self, Kind};
use serde_json::{Value, json};

use super::lab::{Lab, noise};
use super::program::Sshd;
use crate::ground::{self, Btrfs, ground};

/// A client of the test's own. It ends with the value.
struct Client {
    ssh: Child,
    into: Option<ChildStdin>,
    from: ChildStdout,
}

impl Client {
    fn connect(sshd: &Sshd) -> Self {
        let mut ssh = sshd.command("whatever the client asks for");
        let mut ssh = ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (into, from) = (ssh.stdin.take(), ssh.stdout.take().unwrap());
        Self { ssh, into, from }
    }

    /// One that has been greeted.
    fn greeted(sshd: &Sshd) -> Self {
        let mut client = Self::connect(sshd);
        client.hello();
        assert_eq!(client.hears().map(|(kind, _)| kind), Some(Kind::Hello));
        client
    }

    fn hello(&mut self) {
        self.say(Kind::Hello, &json!({ "protocol": 1, "oldest": 1, "program": "cowsnap 0.1.0" }));
    }

    fn say(&mut self, kind: Kind, thing: &Value) {
        let mut frame = Vec::new();
        wire::write(&mut frame, kind, thing.to_string().as_bytes()).unwrap();
        self.put(&frame);
    }

    /// Who was sent away already does not take it.
    fn put(&mut self, bytes: &[u8]) {
        let into = self.into.as_mut().unwrap();
        let _ = into.write_all(bytes).and_then(|()| into.flush());
    }

    /// The kind of the next frame, whatever it says.
    fn next(&mut self) -> Option<Kind> {
        wire::read(&mut self.from, &mut Vec::new()).unwrap()
    }

    /// The next frame that says something; `None` once the conversation is over.
    fn hears(&mut self) -> Option<(Kind, Value)> {
        let mut payload = Vec::new();
        loop {
            match wire::read(&mut self.from, &mut payload).unwrap()? {
                Kind::Alive | Kind::End => {}
                kind => return Some((kind, serde_json::from_slice(&payload).unwrap())),
            }
        }
    }

    /// What it is refused for.
    fn is_refused(&mut self) -> (String, String) {
        let (kind, said) = self.hears().expect("it is told why");
        assert_eq!(kind, Kind::Refusal, "{said}");
        (said["class"].as_str().unwrap().into(), said["message"].as_str().unwrap().into())
    }

    /// That the conversation is over, without a word or with a refusal, and that nothing more is answered.
    fn ends_sent_away(mut self) {
        self.say(Kind::Request, &json!({ "verb": "inventory", "target": "/" }));
        self.into = None;
        let mut said = Vec::new();
        while let Some(heard) = self.hears() {
            said.push(heard);
        }
        let is_bad = |(kind, said): &(Kind, Value)| *kind == Kind::Refusal && said["class"] == "corrupt";
        assert!(said.len() <= 1 && said.iter().all(is_bad), "{said:?}");
        // A panic is 101, a signal 128 or more, and what ssh itself does not understand 255.
        let code = self.ssh.wait().unwrap().code();
        assert!(code.is_some_and(|code| (1..=100).contains(&code)), "{code:?}");
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.ssh.kill();
        let _ = self.ssh.wait();
    }
}

/// A target with one snapshot in it, behind an sshd whose key may only add below `vault` there.
fn guarded() -> (Lab, Sshd, Inventory) {
    let lab = Lab::new();
    fs::create_dir(lab.target.path().join("vault")).unwrap();
    let under = lab.target.path().join("vault");
    let serve = lab.serve(&format!("--allow receive --under '{}' --append-only", under.display()));
    let sshd = Sshd::start(&serve);
    lab.write("a", &noise(1, 300_000));
    lab.snapshot("one");
    let there = inventory(&lab);
    assert!(there.versions().is_empty());
    (lab, sshd, there)
}

fn inventory(lab: &Lab) -> Inventory {
    let copy = cowsnap::endpoint::path::named(&lab.target.path().join("vault/copy")).unwrap();
    let mut found = match copy.inventory() {
        Err(cowsnap::endpoint::Error::NotFound { .. }) => Inventory::default(),
        inventory => inventory.unwrap(),
    };
    // An empty place for it may have been made.
    found.dataset.clear();
    found.caps = Default::default();
    found
}

/// Once whoever served is gone, there is what was there.
fn expect_untouched(lab: &Lab, before: &Inventory) {
    ground::waits("the target to be as it was", || inventory(lab) == *before && lab.left().is_empty());
}

fn at(lab: &Lab, below: &str) -> String {
    lab.target.path().join(below).to_str().unwrap().to_owned()
}

fn receive(target: &str, name: &str) -> Value {
    let guid = "00112233-4455-6677-8899-aabbccddeeff";
    json!({ "verb": "receive", "target": target, "version": { "guid": guid, "name": name } })
}

#[test]
fn what_is_said_out_of_order_ends_the_conversation() {
    ground!("btrfs", "sshd", "ssh");
    let (lab, sshd, before) = guarded();
    let copy = at(&lab, "vault/copy");
    let data = json!("bytes of a stream");
    for (kind, first) in [
        (Kind::Data, data.clone()),
        (Kind::Request, json!({ "verb": "inventory", "target": copy })),
        (Kind::Answer, json!(null)),
    ] {
        let mut client = Client::connect(&sshd);
        client.say(kind, &first);
        assert_eq!(client.hears().map(|(kind, _)| kind), Some(Kind::Hello), "{kind:?} before hello");
        client.ends_sent_away();
    }
    for (kind, second) in [
        (Kind::Hello, json!({ "protocol": 1, "oldest": 1, "program": "again" })),
        (Kind::Data, data.clone()),
        (Kind::Answer, json!(null)),
        (Kind::Request, json!({ "verb": "stream", "behind": false })),
    ] {
        let mut client = Client::greeted(&sshd);
        client.say(kind, &second);
        client.ends_sent_away();
    }
    // Instead of the stream that was announced.
    for (kind, instead) in [
        (Kind::Request, json!({ "verb": "inventory", "target": copy })),
        (Kind::Request, receive(&copy, "two")),
        (Kind::Request, json!({ "verb": "stream", "behind": true })),
        (Kind::Data, data.clone()),
        (Kind::Hello, json!({ "protocol": 1, "oldest": 1, "program": "again" })),
    ] {
        let mut client = Client::greeted(&sshd);
        client.say(Kind::Request, &receive(&copy, "one"));
        assert_eq!(client.hears().map(|(kind, _)| kind), Some(Kind::Answer));
        client.say(kind, &instead);
        client.ends_sent_away();
    }
    // A stream that is none.
    let mut client = Client::greeted(&sshd);
    client.say(Kind::Request, &receive(&copy, "one"));
    assert_eq!(client.hears().map(|(kind, _)| kind), Some(Kind::Answer));
    client.say(Kind::Request, &json!({ "verb": "stream", "behind": false }));
    client.say(Kind::Data, &data);
    client.ends_sent_away();
    expect_untouched(&lab, &before);
}

#[test]
fn a_frame_that_is_too_long_is_not_waited_for() {
    ground!("btrfs", "sshd", "ssh");
    let (lab, sshd, before) = guarded();
    for (kind, len) in [
        (Kind::Request, (256 << 10) + 1),
        (Kind::Data, (1 << 20) + 1),
        (Kind::Hello, (4 << 10) + 1),
        (Kind::End, 1),
        (Kind::Request, u32::MAX),
    ] {
        let mut client = Client::greeted(&sshd);
        let mut head = vec![wire::MAGIC[0], wire::MAGIC[1], kind as u8, 0];
        head.extend(len.to_le_bytes());
        // Nothing of the payload comes: who waited for it would do so until the client goes.
        client.put(&head);
        assert_ne!(client.next(), Some(Kind::Alive), "{kind:?} of {len}: it waits");
        client.ends_sent_away();
    }
    for head in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[wire::MAGIC[0], wire::MAGIC[1], 99, 0, 0, 0, 0, 0]] {
        let mut client = Client::greeted(&sshd);
        client.put(head);
        client.ends_sent_away();
    }
    expect_untouched(&lab, &before);
}

#[test]
fn no_name_leads_out_of_what_the_key_is_for() {
    ground!("btrfs", "sshd", "ssh");
    let (lab, sshd, before) = guarded();
    let outside = lab.target.subvolume("outside");
    symlink(&outside, lab.target.path().join("vault/link")).unwrap();
    symlink("../outside", lab.target.path().join("vault/up")).unwrap();
    let mut client = Client::greeted(&sshd);
    for below in [
        "outside",
        "vault",
        "vault/../outside",
        "vault/x/../../outside",
        "vault/link",
        "vault/link/in",
        "vault/up",
        "vaulted",
        "vault/.cowsnap",
        "vault/.cowsnap/x",
    ] {
        for request in [
            json!({ "verb": "inventory", "target": at(&lab, below) }),
            json!({ "verb": "inside", "target": at(&lab, below) }),
            receive(&at(&lab, below), "own"),
        ] {
            if below == "vault" && request["verb"] != "receive" {
                continue;
            }
            client.say(Kind::Request, &request);
            let (class, why) = client.is_refused();
            assert!(["denied", "usage", "conflict"].contains(&&*class), "{request}: {class}: {why}");
        }
    }
    let copy = at(&lab, "vault/copy");
    let version = json!({ "guid": "00112233-4455-6677-8899-aabbccddeeff", "name": "one" });
    for request in [
        json!({ "verb": "inventory", "target": "tank/a" }),
        json!({ "verb": "inventory", "target": "ssh://127.0.0.1/tank/a" }),
        json!({ "verb": "inventory", "target": "" }),
        json!({ "verb": "inventory", "target": "vault/copy" }),
        json!({ "verb": "inventory", "target": format!("{copy}\0") }),
        json!({ "verb": "inventory", "target": copy, "force": true }),
        json!({ "verb": "destroy", "target": copy, "version": version }),
        json!({ "verb": "release", "target": copy, "version": version, "tag": "mine" }),
        json!({ "verb": "send", "target": copy, "version": version }),
        json!({ "verb": "manifest", "target": copy, "version": version }),
        json!({ "verb": "format", "target": copy }),
        receive(&copy, "../one"),
        receive(&copy, "%1-2"),
        receive(&copy, "a\nb"),
        json!([[[[[[]]]]]]),
    ] {
        client.say(Kind::Request, &request);
        let (class, why) = client.is_refused();
        assert!(class != "internal" && !why.is_empty(), "{request}: {class}: {why}");
    }
    client.put(
        &[&wire::MAGIC[..], &[Kind::Request as u8, 0], &200_000_u32.to_le_bytes(), &[b'['; 200_000]].concat(),
    );
    client.is_refused();
    // None of it has ended the conversation, nor changed anything.
    client.say(Kind::Request, &json!({ "verb": "inventory", "target": copy }));
    assert_eq!(client.hears(), Some((Kind::Answer, Value::Null)));
    drop(client);
    expect_untouched(&lab, &before);
    assert!(fs::read_dir(outside).unwrap().next().is_none());
}

/// Between the look at a path and its use somebody may put a link there, or move what was opened: what is used is what stands at the path, by no link.
#[test]
fn what_is_exchanged_on_the_way_leads_nowhere_else() {
    ground!("btrfs");
    let ground = Btrfs::new();
    let [vault, outside] = ["vault", "outside"].map(|name| {
        fs::create_dir(ground.path().join(name)).unwrap();
        ground.path().join(name)
    });
    fs::create_dir(vault.join("real")).unwrap();
    for dataset in ["vault/real/data", "outside/data"] {
        ground.subvolume(dataset);
    }
    symlink(&outside, vault.join("link")).unwrap();
    // A link that is there by the time of the use is not followed, neither to what is there nor to what is to be.
    for below in ["link/data", "link/new"] {
        let error = path::named_directly(&vault.join(below)).unwrap_err();
        assert_eq!(error.class(), cowsnap::Class::Denied, "{below}: {error:?}");
    }
    for below in ["real/data", "real/new"] {
        let at = vault.join(below);
        path::named_directly(&at).unwrap().expect_direct(&at).unwrap();
    }
    // What was opened at the path is elsewhere as its place is looked up, and at the path again as that is checked.
    for below in ["real/data", "real/new"] {
        let at = vault.join(below);
        let moved: cowsnap::endpoint::btrfs::Open = |path| {
            let store = cowsnap::endpoint::btrfs::Store::open_directly(path)?;
            let real = path.ancestors().find(|above| above.ends_with("vault/real")).unwrap();
            fs::rename(real, real.parent().unwrap().parent().unwrap().join("outside/real")).unwrap();
            Ok(store)
        };
        let dataset = cowsnap::endpoint::btrfs::Dataset::named_by(&at, moved).unwrap();
        fs::rename(outside.join("real"), vault.join("real")).unwrap();
        assert!(dataset.store().is_opened_directly() && dataset.path().starts_with("outside"), "{dataset:?}");
        let error = cowsnap::endpoint::Dataset::from(dataset).expect_direct(&at).unwrap_err();
        assert_eq!(error.class(), cowsnap::Class::Denied, "{error:?}");
    }
}

/// The same of a whole conversation: while a directory and a link out take turns at one path, nobody is told of what is outside, or adds to it.
#[test]
fn a_path_that_is_exchanged_again_and_again_shows_nothing_outside() {
    ground!("btrfs", "sshd", "ssh");
    let (lab, sshd, _) = guarded();
    // Another filesystem: to open its store would clear away what has died there.
    let outside = lab.source.path().join("outside");
    fs::create_dir(&outside).unwrap();
    lab.source.subvolume("outside/data");
    crate::ground::run(
        env!("CARGO_BIN_EXE_cowsnap"),
        &["snapshot", outside.join("data").to_str().unwrap(), "--name", "secret"],
    );
    let dead = lab.source.path().join(".cowsnap/staging/1-0123456789abcdef");
    fs::create_dir_all(&dead).unwrap();
    let vault = lab.target.path().join("vault");
    fs::create_dir_all(vault.join("flip")).unwrap();
    lab.target.subvolume("vault/flip/data");
    symlink(&outside, vault.join("other")).unwrap();
    let over = std::sync::atomic::AtomicBool::new(false);
    /// Ends the exchange, also if the test fails.
    struct Over<'a>(&'a std::sync::atomic::AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }
    std::thread::scope(|scope| {
        let _over = Over(&over);
        scope.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                std::thread::sleep(std::time::Duration::from_micros(300));
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                let (flip, other) = (vault.join("flip"), vault.join("other"));
                rustix::fs::renameat_with(rustix::fs::CWD, &flip, rustix::fs::CWD, &other, exchange).unwrap();
            }
        });
        let mut client = Client::greeted(&sshd);
        let mut answers = [0; 2];
        while answers.contains(&0) || answers.iter().sum::<usize>() < 300 {
            assert!(answers.iter().sum::<usize>() < 20_000, "refused and answered: {answers:?}");
            client.say(Kind::Request, &json!({ "verb": "inventory", "target": at(&lab, "vault/flip/data") }));
            let (kind, said) = client.hears().expect("it goes on");
            assert!(!said["versions"].to_string().contains("secret"), "{said}");
            answers[usize::from(kind == Kind::Answer)] += 1;
        }
    });
    assert!(dead.exists(), "the filesystem outside was opened for use");
    // That is what is left of who died: whoever may use the filesystem clears it away.
    crate::ground::run(
        env!("CARGO_BIN_EXE_cowsnap"),
        &["snapshot", outside.join("data").to_str().unwrap(), "--name", "later"],
    );
    assert!(!dead.exists());
}

/// All that an honest client said, said again and again: what is there stays as it is, and what was destroyed comes as what it was.
#[test]
fn what_was_said_once_can_be_said_again_for_nothing() {
    ground!("btrfs", "sshd", "ssh", "tee");
    let (lab, sshd, _) = guarded();
    let (heard, script) = (lab.source.outside().join("heard"), lab.source.outside().join("tapped"));
    fs::write(&script, format!("#!/bin/sh\ntee -a '{}' | {} \"$@\"\n", heard.display(), sshd.ssh())).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let to = sshd.url(Path::new(&at(&lab, "vault/copy")));
    let from = lab.source.path().join("data");
    let replicate = || {
        let mut command = ground::cowsnap(&lab.source.outside().join("state"));
        let output =
            command.env("COWSNAP_SSH", &script).arg("replicate").arg(&from).arg(&to).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    replicate();
    lab.write("b", &noise(2, 300_000));
    lab.snapshot("two");
    replicate();
    let before = inventory(&lab);
    assert_eq!(before.versions().len(), 2);
    let replay = || {
        let mut ssh = sshd.command("whatever");
        let said = fs::File::open(&heard).unwrap();
        let output = ssh.stdin(said).stderr(Stdio::null()).output().unwrap();
        let (mut answers, mut payload, mut refused) = (&output.stdout[..], Vec::new(), 0);
        while let Ok(Some(kind)) = wire::read(&mut answers, &mut payload) {
            refused += usize::from(kind == Kind::Refusal);
        }
        refused
    };
    for _ in 0..2 {
        assert!(replay() > 0);
        let mut after = inventory(&lab);
        after.partials.clear();
        assert_eq!(after.versions(), before.versions());
        // What replication keeps, the key may keep and let go of, on what is there by that identity.
        assert!(after.holds().iter().all(|(_, tag)| tag.as_str().starts_with("cowsnap:from:")), "{after:?}");
    }
    replicate();
    assert_eq!(inventory(&lab), before);
}

impl Sshd {
    /// A client of it that asks for `command`.
    fn command(&self, command: &str) -> Command {
        let url = self.url(Path::new(""));
        let ssh = self.ssh();
        let mut words = ssh.split(' ');
        let mut client = Command::new(words.next().unwrap());
        client.args(words).arg(url.trim_end_matches('/')).arg(command);
        client
    }
}
