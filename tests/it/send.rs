//! Send: the kernel's stream, byte for byte, and what ends it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use cowsnap::endpoint::History;
use cowsnap::endpoint::btrfs::Store;
use cowsnap::endpoint::btrfs::send::{Source, newest_stream_version, stream};
use cowsnap::stream::container::{Backend, Header};
use cowsnap::stream::writer;
use cowsnap::sys::btrfs::{self, SendOptions};
use rustix::process::{Pid, Signal, kill_process};

use crate::ground::{self, Btrfs, ground, run};

fn source(path: &Path, options: SendOptions) -> Source {
    let subvolume = File::open(path).expect("the snapshot is there").into();
    Source { subvolume, subject: path.display().to_string(), options, since: 0 }
}

fn id_of(path: &Path) -> u64 {
    btrfs::subvol_id(File::open(path).expect("it is there").as_fd()).expect("a subvolume")
}

fn bytes_of(source: Source) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream(source).expect("the send starts").read_to_end(&mut bytes).expect("the send ends well");
    bytes
}

fn snapshot(ground: &Btrfs, name: &str) -> std::path::PathBuf {
    let path = ground.path().join(name);
    let source = ground.path().join("data");
    run("btrfs", &["subvolume", "snapshot", "-r", source.to_str().unwrap(), path.to_str().unwrap()]);
    path
}

/// A file's worth of bytes that compress a little.
fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        if state >> 63 == 0 { (state >> 33) as u8 } else { b'x' }
    };
    (0..len).map(|_| next()).collect()
}

fn populated() -> Btrfs {
    let ground = Btrfs::with("1G", &[], "compress-force=zstd");
    let data = ground.subvolume("data");
    for n in 0..200 {
        fs::write(data.join(format!("file {n} %\n")), content(n, 1 << (n % 18))).unwrap();
    }
    ground
}

#[test]
fn the_stream_is_what_btrfs_send_writes_full_and_incremental_in_every_version() {
    ground!("btrfs");
    let ground = populated();
    let first = snapshot(&ground, "first");
    fs::write(ground.path().join("data/file 7 %\n"), content(700, 300_000)).unwrap();
    fs::rename(ground.path().join("data/file 8 %\n"), ground.path().join("data/eight")).unwrap();
    let second = snapshot(&ground, "second");
    let (a, b) = (first.to_str().unwrap(), second.to_str().unwrap());
    let base =
        SendOptions { base: Some(id_of(&first)), clone_sources: vec![id_of(&first)], ..Default::default() };
    let mut cases =
        vec![(vec!["send", "-q", b], SendOptions::default()), (vec!["send", "-q", "-p", a, b], base.clone())];
    if newest_stream_version() >= 2 {
        let (version, compressed) = (2, true);
        cases.push((vec!["send", "-q", "--proto", "2", b], SendOptions { version, ..Default::default() }));
        let options = SendOptions { version, compressed, ..base };
        cases.push((vec!["send", "-q", "--proto", "2", "--compressed-data", "-p", a, b], options));
    }
    for (args, options) in cases {
        let oracle = run("btrfs", &args).stdout;
        assert!(oracle.len() > 1000, "{args:?} wrote next to nothing");
        assert!(bytes_of(source(&second, options)) == oracle, "{args:?}");
    }
}

/// Upon this stands that a transfer that was cut goes on: who sends compares what it makes anew with what had come.
#[test]
fn the_kernel_writes_the_same_stream_each_time_also_after_a_remount() {
    ground!("btrfs");
    let ground = populated();
    let data = ground.path().join("data");
    let at = |name: &str| data.join(name).to_str().unwrap().to_owned();
    run("cp", &["--reflink=always", &at("file 17 %\n"), &at("shared")]);
    fs::hard_link(at("file 3 %\n"), at("linked")).unwrap();
    run("setfattr", &["-n", "user.one", "-v", "two", &at("linked")]);
    run("truncate", &["-s", "5M", &at("with a hole")]);
    let first = snapshot(&ground, "first");
    for n in 0..60 {
        fs::rename(at(&format!("file {n} %\n")), at(&format!("moved {n}"))).unwrap();
        fs::write(at(&format!("file {} %\n", n + 100)), content(n, 20_000)).unwrap();
    }
    let second = snapshot(&ground, "second");
    let all = || {
        let base = Some(id_of(&first));
        let upon = SendOptions { base, clone_sources: vec![id_of(&first)], ..Default::default() };
        let newer = (newest_stream_version() >= 2).then(|| SendOptions {
            version: 2,
            compressed: true,
            ..upon.clone()
        });
        let each = [SendOptions::default(), upon].into_iter().chain(newer);
        each.map(|options| blake3::hash(&bytes_of(source(&second, options)))).collect::<Vec<_>>()
    };
    let once = all();
    assert!(once[0] != once[1], "in full, and upon the first");
    assert_eq!(all(), once, "at once again");
    // Others come and go, and nothing of it is in memory any more.
    snapshot(&ground, "third");
    run("btrfs", &["subvolume", "delete", ground.path().join("third").to_str().unwrap()]);
    let (image, mount) = (ground.outside().join("image"), ground.path());
    run("umount", &[&mount]);
    run(
        "mount",
        &[
            "-t".as_ref(),
            "btrfs".as_ref(),
            "-o".as_ref(),
            "loop".as_ref(),
            image.as_os_str(),
            mount.as_os_str(),
        ],
    );
    assert_eq!(all(), once, "after a remount");
}

#[test]
fn an_error_of_the_kernel_comes_out_of_read_and_names_what_was_sent() {
    ground!("btrfs");
    let ground = Btrfs::new();
    let writable = ground.subvolume("data");
    let mut stream = stream(source(&writable, SendOptions::default())).unwrap();
    let error = stream.read_to_end(&mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains(writable.to_str().unwrap()), "{error}");
}

#[test]
fn a_reader_that_goes_away_ends_the_send_and_its_threads() {
    ground!("btrfs");
    let ground = populated();
    let snapshot = snapshot(&ground, "first");
    let mut stream = stream(source(&snapshot, SendOptions::default())).unwrap();
    stream.read_exact(&mut [0; 1000]).unwrap();
    drop(stream);
    // The sender held the snapshot's root open: with it gone, the filesystem can be unmounted.
    run("umount", &[ground.path()]);
}

/// A dataset with two snapshots, `one` and `two`, and another, empty one, on a filesystem of its own.
struct Pair {
    source: Btrfs,
    target: Btrfs,
}

impl Pair {
    fn new() -> Self {
        let pair = Self { source: populated(), target: Btrfs::new() };
        pair.target.subvolume("data");
        ok(pair.cowsnap(&["snapshot", &pair.from(""), "--name", "one"]));
        fs::write(pair.source.path().join("data/more"), content(9, 700_000)).unwrap();
        ok(pair.cowsnap(&["snapshot", &pair.from(""), "--name", "two"]));
        pair
    }

    fn from(&self, suffix: &str) -> String {
        format!("{}{suffix}", self.source.path().join("data").display())
    }

    fn to(&self, suffix: &str) -> String {
        format!("{}{suffix}", self.target.path().join("data").display())
    }

    fn file(&self, name: &str) -> String {
        self.source.outside().join(name).to_str().unwrap().to_owned()
    }

    fn cowsnap(&self, args: &[&str]) -> Command {
        let mut command = ground::cowsnap(&self.source.outside().join("state"));
        command.args(args);
        command
    }

    fn snapshots_at_target(&self) -> Vec<String> {
        let list = ok(self.cowsnap(&["list", &self.to(""), "--json"]));
        let text = String::from_utf8(list.stdout).unwrap();
        ["one", "two", "renamed"]
            .iter()
            .filter(|n| text.contains(&format!("\"{n}\"")))
            .map(|n| n.to_string())
            .collect()
    }

    fn kept(&self, ground: &Btrfs, name: &str) -> std::path::PathBuf {
        ground.path().join(".cowsnap/datasets/data/snap").join(name)
    }

    fn assert_same(&self, name: &str) {
        let (a, b) = (self.kept(&self.source, name), self.kept(&self.target, name));
        run("diff", &["-r", a.to_str().unwrap(), b.to_str().unwrap()]);
    }

    fn assert_nothing_half_made(&self) {
        let staging = self.target.path().join(".cowsnap/staging");
        let left = fs::read_dir(staging).map_or(0, Iterator::count);
        assert_eq!(left, 0, "something is left in staging");
        let text = run("btrfs", &["subvolume", "list", self.target.path().to_str().unwrap()]).stdout;
        let half = String::from_utf8_lossy(&text).lines().filter(|line| line.contains('%')).count();
        assert_eq!(half, 0, "{}", String::from_utf8_lossy(&text));
    }
}

fn ok(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Expects that exit code; answers what was said.
fn fails(mut command: Command, code: i32) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{command:?}\n{said}");
    said
}

#[test]
fn containers_go_from_one_filesystem_to_another_in_full_and_as_increments() {
    ground!("btrfs");
    let pair = Pair::new();
    let (one, two) = (pair.file("one.cs"), pair.file("two.cs"));
    ok(pair.cowsnap(&["send", &pair.from("@one"), "-o", &one]));
    ok(pair.cowsnap(&["send", "-i", &pair.from("@two"), "-o", &two]));
    let said = fails(pair.cowsnap(&["receive", &pair.to(""), &two]), 3);
    assert!(said.contains("builds upon") && said.contains("hint: cowsnap send"), "{said}");
    pair.assert_nothing_half_made();
    ok(pair.cowsnap(&["receive", &pair.to(""), &one]));
    let received = ok(pair.cowsnap(&["receive", &pair.to(""), &two, "--json"]));
    let received: serde_json::Value = serde_json::from_slice(&received.stdout).unwrap();
    assert_eq!(received["verified"], true);
    assert_eq!(received["name"], "two");
    pair.assert_same("one");
    pair.assert_same("two");
    assert_eq!(pair.snapshots_at_target(), ["one", "two"]);
    // The same again is a conflict, under whatever name.
    fails(pair.cowsnap(&["receive", &pair.to(""), &one, "--name", "renamed"]), 3);
    pair.assert_nothing_half_made();
}

#[test]
fn what_was_received_can_be_sent_on_and_is_the_same_version() {
    ground!("btrfs");
    let pair = Pair::new();
    let (one, back) = (pair.file("one.cs"), pair.file("back.cs"));
    let sent = ok(pair.cowsnap(&["send", "--json", &pair.from("@one"), "-o", &one]));
    ok(pair.cowsnap(&["receive", &pair.to(""), &one]));
    let sent_on = ok(pair.cowsnap(&["send", "--json", &pair.to("@one"), "-o", &back]));
    let guid = |output: &Output| {
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()["guid"].clone()
    };
    assert_eq!(guid(&sent), guid(&sent_on));
    // An increment from the original applies to the copy: they are one version.
    let two = pair.file("two.cs");
    ok(pair.cowsnap(&[
        "send",
        &pair.from("@two"),
        "--from",
        "@one",
        "--proto",
        "1",
        "--no-compress",
        "-o",
        &two,
    ]));
    ok(pair.cowsnap(&["receive", &pair.to(""), &two]));
    pair.assert_same("two");
}

#[test]
fn raw_streams_are_the_oracles_and_are_read_from_it() {
    ground!("btrfs");
    let pair = Pair::new();
    let kept = pair.kept(&pair.source, "one");
    let oracle = run("btrfs", &["send", "-q", kept.to_str().unwrap()]).stdout;
    let ours = ok(pair.cowsnap(&["send", "--raw", &pair.from("@one")]));
    assert!(ours.stdout == oracle);
    let said = String::from_utf8_lossy(&ours.stderr).into_owned();
    assert!(said.contains(&blake3::hash(&oracle).to_hex().to_string()), "{said}");

    let raw = pair.file("raw");
    fs::write(&raw, &oracle).unwrap();
    ok(pair.cowsnap(&["receive", &pair.to(""), &raw, "--name", "renamed"]));
    assert_eq!(pair.snapshots_at_target(), ["renamed"]);
    let (a, b) = (kept, pair.kept(&pair.target, "renamed"));
    run("diff", &["-r", a.to_str().unwrap(), b.to_str().unwrap()]);
}

#[test]
fn a_damaged_container_is_exit_4_and_leaves_nothing() {
    ground!("btrfs");
    let pair = Pair::new();
    let (file, bad) = (pair.file("one.cs"), pair.file("bad.cs"));
    ok(pair.cowsnap(&["send", &pair.from("@one"), "-o", &file]));
    let whole = fs::read(&file).unwrap();
    let middle = whole.len() / 2;
    let mut flipped = whole.clone();
    flipped[middle] ^= 1;
    let cases: [(&str, Vec<u8>); 4] = [
        ("flipped", flipped),
        ("cut", whole[..middle].to_vec()),
        ("without its last byte", whole[..whole.len() - 1].to_vec()),
        ("with a byte more", [&whole[..], b"x"].concat()),
    ];
    for (what, bytes) in cases {
        fs::write(&bad, bytes).unwrap();
        let said = fails(pair.cowsnap(&["receive", &pair.to(""), &bad]), 4);
        assert!(said.contains("error:"), "{what}: {said}");
        pair.assert_nothing_half_made();
        assert!(pair.snapshots_at_target().is_empty(), "{what}");
    }
    let raw = pair.file("raw");
    let bytes = ok(pair.cowsnap(&["send", "--raw", &pair.from("@one")])).stdout;
    fs::write(&raw, &bytes[..bytes.len() / 2]).unwrap();
    fails(pair.cowsnap(&["receive", &pair.to(""), &raw]), 4);
    fs::write(&raw, "neither of both").unwrap();
    fails(pair.cowsnap(&["receive", &pair.to(""), &raw]), 4);
    pair.assert_nothing_half_made();
}

#[test]
fn a_container_of_another_filesystem_is_refused_before_anything_is_made() {
    ground!("btrfs");
    let pair = Pair::new();
    let header = Header {
        backend: Backend::Zfs,
        dataset: "tank/x".into(),
        snapshot: "one".parse().unwrap(),
        guid: cowsnap::model::Guid([1; 16]),
        base: None,
        created: jiff::Timestamp::UNIX_EPOCH,
        stream_version: 1,
        compressed: false,
        properties: Default::default(),
        zfs: None,
        place: None,
    };
    let file = pair.file("zfs.cs");
    let out = File::create(&file).unwrap();
    writer::write(&header, &b"a zfs stream"[..], out, &writer::Options::default()).unwrap();
    let said = fails(pair.cowsnap(&["receive", &pair.to(""), &file]), 2);
    assert!(said.contains("zfs"), "{said}");
    assert!(!pair.target.path().join(".cowsnap/datasets/data/snap/one").exists());
}

#[test]
fn what_nobody_trusted_signed_or_nobody_decrypts_leaves_nothing() {
    ground!("btrfs");
    let pair = Pair::new();
    let file = |name: &str| pair.file(name);
    for (key, kind) in [("sign", "sign"), ("other", "sign"), ("id", "encrypt"), ("stranger", "encrypt")] {
        ok(pair.cowsnap(&["keygen", &file(key), "--kind", kind]));
    }
    let closed = ["--encrypt-to", &file("id.pub"), "--sign", &file("sign")];
    ok(pair.cowsnap(&[&["send", &pair.from("@one"), "-o", &file("one")][..], &closed].concat()));
    ok(pair.cowsnap(&[&["send", &pair.from("@two"), "-i", "-o", &file("two")][..], &closed].concat()));
    ok(pair.cowsnap(&["send", &pair.from("@one"), "-o", &file("plain")]));
    ok(pair.cowsnap(&["send", &pair.from("@one"), "--raw", "-o", &file("raw")]));
    fails(pair.cowsnap(&["send", &pair.from("@one"), "--raw", "--sign", &file("sign")]), 2);
    let restored = pair.target.path().join("restored");
    let to = restored.display().to_string();
    for (code, name, identity, key, words) in [
        (4, "one", "id", "other.pub", "none of the keys that are trusted signed it"),
        (4, "plain", "id", "sign.pub", "it is not signed"),
        (4, "raw", "id", "sign.pub", "it is not signed"),
        (6, "one", "stranger", "sign.pub", "none of them is among the 1 identities given"),
    ] {
        let keys = ["--identity", &file(identity), "--verify-key", &file(key)];
        let receive = pair.cowsnap(&[&["receive", &pair.to(""), &file(name)][..], &keys].concat());
        let said = fails(receive, code);
        assert!(said.contains(words), "{said}");
        fails(pair.cowsnap(&[&["restore", &file(name), "--to", &to][..], &keys].concat()), code);
        assert!(pair.snapshots_at_target().is_empty() && !restored.exists(), "{name} by {key}");
        pair.assert_nothing_half_made();
    }
    fails(pair.cowsnap(&["receive", &pair.to(""), &file("one")]), 2);
    let keys = ["--identity", &file("id"), "--verify-key", &file("sign.pub")];
    ok(pair.cowsnap(&[&["restore", &file("two"), &file("one"), "--to", &to][..], &keys].concat()));
    run("diff", &["-r", pair.kept(&pair.source, "two").to_str().unwrap(), &to]);
    let received =
        ok(pair.cowsnap(&[&["receive", &pair.to(""), &file("one"), "--json"][..], &keys].concat()));
    let text = String::from_utf8_lossy(&received.stdout).into_owned();
    assert!(text.contains("\"signed_by\":[\"cowsnap-sign-1:"), "{text}");
    pair.assert_same("one");
}

#[test]
fn an_output_file_appears_when_it_is_complete_and_never_replaces_one() {
    ground!("btrfs");
    let pair = Pair::new();
    let file = pair.file("taken.cs");
    fs::write(&file, "mine").unwrap();
    fails(pair.cowsnap(&["send", &pair.from("@one"), "-o", &file]), 3);
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    fails(pair.cowsnap(&["send", &pair.from("@three")]), 2);
    fails(pair.cowsnap(&["send", &pair.from("@one"), "-i"]), 2);
    fails(pair.cowsnap(&["send", &pair.from("@one"), "--from", &pair.to("@one")]), 2);
}

#[test]
fn a_dry_run_says_what_would_happen_and_does_nothing() {
    ground!("btrfs");
    let pair = Pair::new();
    let file = pair.file("one.cs");
    ok(pair.cowsnap(&["send", &pair.from("@one"), "-o", &file]));
    let would = ok(pair.cowsnap(&["receive", &pair.to(""), &file, "--dry-run"]));
    assert!(String::from_utf8_lossy(&would.stdout).contains("would receive"));
    assert!(pair.snapshots_at_target().is_empty());
    let would = ok(pair.cowsnap(&["send", &pair.from("@two"), "-i", "--dry-run"]));
    assert!(String::from_utf8_lossy(&would.stdout).contains("what changed since @one"));
}

/// A receive that has half of its input, and its process; the other half never comes.
fn half_received(pair: &Pair) -> Child {
    let file = pair.file("half.cs");
    let _ = fs::remove_file(&file);
    ok(pair.cowsnap(&["send", "--no-compress", &pair.from("@two"), "-o", &file]));
    let bytes = fs::read(&file).unwrap();
    let mut command = pair.cowsnap(&["receive", &pair.to("")]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(&bytes[..bytes.len() * 3 / 4]).unwrap();
    let snap = pair.target.path().join(".cowsnap/datasets/data/snap");
    wait_until(|| {
        fs::read_dir(&snap).is_ok_and(|d| d.flatten().any(|e| e.file_name().as_bytes()[0] == b'%'))
    });
    child
}

fn wait_until(mut done: impl FnMut() -> bool) {
    for _ in 0..600 {
        if done() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("it has not happened in half a minute");
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn a_signal_in_the_middle_of_a_receive_leaves_nothing_and_is_exit_5() {
    ground!("btrfs");
    let pair = Pair::new();
    for which in [Signal::INT, Signal::TERM, Signal::HUP] {
        let child = half_received(&pair);
        signal(&child, which);
        // Its standard input stays open: it must not need an end of input to stop.
        let mut child = child;
        let stdin = child.stdin.take();
        let output = child.wait_with_output().unwrap();
        drop(stdin);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(5), "{which:?}: {said}");
        assert!(said.contains("interrupted"), "{said}");
        pair.assert_nothing_half_made();
        assert!(pair.snapshots_at_target().is_empty());
    }
}

#[test]
fn a_killed_receive_is_listed_as_partial_and_the_next_one_sweeps_it() {
    ground!("btrfs");
    let pair = Pair::new();
    let mut child = half_received(&pair);
    child.kill().unwrap();
    child.wait().unwrap();
    let store = Store::open_as_it_is(&pair.target.path()).unwrap();
    let partials = store.dataset("data").inventory().unwrap().partials;
    assert_eq!(partials.iter().map(|p| (p.name.as_str(), p.live)).collect::<Vec<_>>(), [("two", false)]);
    assert!(pair.snapshots_at_target().is_empty());
    let file = pair.file("half.cs");
    ok(pair.cowsnap(&["receive", &pair.to(""), &file]));
    pair.assert_same("two");
    pair.assert_nothing_half_made();
}

#[test]
fn a_signal_in_the_middle_of_a_send_leaves_no_file_and_is_exit_5() {
    ground!("btrfs");
    let pair = Pair::new();
    for which in [Signal::INT, Signal::TERM] {
        // Nobody reads: the send waits with the pipe full.
        let mut command = pair.cowsnap(&["send", "--no-compress", &pair.from("@two")]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = child.stdout.as_ref().unwrap().as_fd().try_clone_to_owned().unwrap();
        wait_until(|| rustix::io::ioctl_fionread(&out).is_ok_and(|len| len >= 4096));
        signal(&child, which);
        let mut child = child;
        let stdout = child.stdout.take();
        let output = child.wait_with_output().unwrap();
        drop(stdout);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(5), "{said}");
        assert!(said.contains("interrupted"), "{said}");
    }
}

/// Starts it, and waits until a SIGINT no longer kills it.
fn taking_signals(mut command: Command) -> Child {
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until(|| {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(caught.trim(), 16).unwrap() & (1 << (Signal::INT.as_raw() - 1)) != 0
    });
    child
}

#[test]
fn a_signal_ends_the_wait_for_the_other_end_of_a_fifo() {
    ground!("btrfs");
    let pair = Pair::new();
    let fifo = pair.file("fifo");
    run("mkfifo", &[&fifo]);
    for args in [["send", &pair.from("@two"), "-o", &fifo].as_slice(), &["receive", &pair.to(""), &fifo]] {
        let mut child = taking_signals(pair.cowsnap(args));
        std::thread::sleep(std::time::Duration::from_millis(300)); // Long enough to reach the wait.
        assert!(child.try_wait().unwrap().is_none(), "{args:?} has not waited");
        signal(&child, Signal::INT);
        let ended = (0..200).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(50));
            child.try_wait().unwrap().is_some()
        });
        if !ended {
            child.kill().unwrap();
        }
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(5), "{args:?}: {said}");
        pair.assert_nothing_half_made();
    }
    let mut receiver = taking_signals(pair.cowsnap(&["receive", &pair.to(""), &fifo]));
    ok(pair.cowsnap(&["send", &pair.from("@two"), "-o", &fifo]));
    assert!(receiver.wait().unwrap().success());
    pair.assert_same("two");
}

#[test]
fn a_received_snapshot_has_its_digest_as_soon_as_it_has_its_name() {
    ground!("btrfs");
    let pair = Pair::new();
    let file = pair.file("one.cs");
    ok(pair.cowsnap(&["send", &pair.from("@one"), "-o", &file]));
    let home = pair.target.path().join(".cowsnap/datasets/data");
    let mut receiver = pair.cowsnap(&["receive", &pair.to(""), &file]).stdout(Stdio::null()).spawn().unwrap();
    while !home.join("snap/one").exists() {
        assert!(receiver.try_wait().unwrap().is_none_or(|status| status.success()), "it failed");
        std::thread::yield_now();
    }
    let said = fs::read_to_string(home.join("meta/one.json"));
    assert!(receiver.wait().unwrap().success());
    assert!(said.unwrap().contains("blake3"));
}
