//! `cowsnap verify`, here and through a real sshd.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::ground::{self, Btrfs, ground, run};
use crate::peer::lab::noise;
use crate::peer::program::Sshd;

/// A source with data, and a replica of it on another filesystem.
pub(super) struct Lab {
    pub(super) source: Btrfs,
    target: Btrfs,
}

/// How a run ended, what it wrote to standard output, and what to standard error.
pub(super) type Said = (Option<i32>, String, String);

pub(super) fn said(output: &Output) -> Said {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

pub(super) fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

impl Lab {
    pub(super) fn new() -> Self {
        Self::with("")
    }

    /// Whose target is mounted with these options.
    fn with(options: &str) -> Self {
        let (source, target) = (Btrfs::new(), Btrfs::with("1G", &[], options));
        source.subvolume("data");
        Self { source, target }
    }

    pub(super) fn from(&self) -> String {
        text(&self.source.path().join("data"))
    }

    pub(super) fn to(&self) -> String {
        text(&self.target.path().join("copy"))
    }

    pub(super) fn write(&self, file: &str, bytes: &[u8]) {
        fs::write(self.source.path().join("data").join(file), bytes).unwrap();
    }

    pub(super) fn command(&self, args: &[&str]) -> Command {
        let mut command = ground::cowsnap(&self.source.outside().join("state"));
        command.args(args).stdin(Stdio::null());
        command
    }

    pub(super) fn does(&self, args: &[&str]) {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {:?}", said(&output));
    }

    pub(super) fn snapshot(&self, name: &str) {
        self.does(&["snapshot", &self.from(), "--name", name]);
    }

    fn replicate(&self) {
        self.does(&["replicate", "-I", &self.from(), &self.to()]);
    }

    fn verify(&self, args: &[&str]) -> Said {
        self.verify_of(&self.from(), args)
    }

    fn verify_of(&self, source: &str, args: &[&str]) -> Said {
        let to = self.to();
        let all = [&["verify", source, "--against", &to], args].concat();
        said(&self.command(&all).output().unwrap())
    }

    fn json(&self, args: &[&str]) -> (Option<i32>, Value) {
        let (code, out, err) = self.verify(&[args, &["--json"]].concat());
        let value: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"));
        (code, value["verified"].clone())
    }

    /// What the target says of a snapshot.
    fn meta(&self, name: &str) -> PathBuf {
        self.target.path().join(format!(".cowsnap/datasets/copy/meta/{name}.json"))
    }

    /// Changes one byte on the target's disk, behind the filesystem's back: the first of the bytes that `like` are.
    fn flip(&self, like: &[u8]) {
        let (mount, image) = (text(&self.target.path()), self.target.outside().join("image"));
        let options = fs::read_to_string("/proc/self/mounts").unwrap();
        let options = options.lines().find(|line| line.contains(&format!(" {mount} "))).unwrap().to_owned();
        let nodatasum = options.contains("nodatasum");
        run("umount", &[&mount]);
        let bytes = fs::read(&image).unwrap();
        let at =
            bytes.windows(like.len()).position(|part| part == like).expect("it is there, as it was written");
        let file = File::options().write(true).open(&image).unwrap();
        file.write_all_at(&[!like[0]], at as u64).unwrap();
        file.sync_all().unwrap();
        let options = if nodatasum { "loop,nodatasum" } else { "loop" };
        run("mount", &["-t", "btrfs", "-o", options, &text(&image), &mount]);
    }
}

#[test]
fn what_was_brought_is_proven_by_its_digest_and_by_what_is_read() {
    ground!("btrfs");
    let lab = Lab::new();
    lab.write("a", &noise(1, 2_000_000));
    lab.snapshot("one");
    lab.replicate();
    let (code, out, _) = lab.verify(&[]);
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains("copy: same") && out.contains("received as sent, full"), "{out}");
    assert!(out.contains("not compared: what is on the disks since (--content)"), "{out}");
    let (code, first) = lab.json(&["--content"]);
    let same = &first["snapshots"][0]["content"]["same"];
    assert_eq!((code, same["source"]["blake3"] == same["target"]["blake3"]), (Some(0), true), "{first}");
    assert!(same["target"]["read_bytes"].as_u64().unwrap() >= 2_000_000 && same["target"]["upon"].is_null());

    lab.write("b", b"little");
    lab.snapshot("two");
    lab.replicate();
    lab.snapshot("three");
    let (code, second) = lab.json(&["--content"]);
    let of = |n: usize, side: &str, what: &str| second["snapshots"][n]["content"]["same"][side][what].clone();
    assert_eq!((code, second["snapshots"].as_array().unwrap().len()), (Some(0), 2), "{second}");
    for side in ["source", "target"] {
        assert_eq!((of(0, side, "kept"), of(0, side, "read_bytes")), (true.into(), 0.into()));
        assert_eq!(
            (of(1, side, "upon"), of(1, side, "read_bytes")),
            ("one".into(), 6.into()),
            "only what changed"
        );
    }
    assert_eq!(second["snapshots"][1]["digests"], "same");
    assert_eq!(second["only_source"], serde_json::json!(["three"]));
    let (code, out, _) = lab.verify(&["--content", "--read-all"]);
    assert!(code == Some(0) && out.matches("MiB read").count() == 4, "{out}");
    assert!(out.contains("only") && out.contains("has them: @three"), "{out}");

    // What is asked for and not there is not proven; what can not be asked for is refused.
    let (code, _, err) = lab.verify_of(&format!("{}@three", lab.from()), &[]);
    assert!(
        code == Some(7) && err.contains("has no snapshot @three") && err.contains("hint: cowsnap replicate"),
        "{err}"
    );
    assert_eq!(lab.verify_of(&format!("{}@none", lab.from()), &[]).0, Some(2));
    assert_eq!(lab.verify_of(&format!("{}/none", lab.from()), &[]).0, Some(2));
    assert_eq!(lab.verify_of(&lab.from(), &["--read-all"]).0, Some(2));
    let (code, out, _) = lab.verify_of(&format!("{}@two", lab.from()), &["--content"]);
    assert!(code == Some(0) && !out.contains("@one and") && !out.contains("@three"), "{out}");
    // The other way round it is as true.
    let back = lab.command(&["verify", &lab.to(), "--against", &lab.from()]).output().unwrap();
    assert_eq!(back.status.code(), Some(0), "{:?}", said(&back));
}

#[test]
fn a_digest_that_was_changed_or_lost_is_told() {
    ground!("btrfs");
    let lab = Lab::new();
    lab.write("a", b"some");
    lab.snapshot("one");
    lab.replicate();
    let meta = fs::read_to_string(lab.meta("one")).unwrap();
    let mut json: Value = serde_json::from_str(&meta).unwrap();
    let blake3 = json["verified"]["blake3"].as_str().unwrap().to_owned();
    let other = format!("{}{}", if blake3.starts_with('0') { "1" } else { "0" }, &blake3[1..]);
    fs::write(lab.meta("one"), meta.replace(&blake3, &other)).unwrap();
    let (code, out, err) = lab.verify(&[]);
    assert!(
        code == Some(4) && out.contains("copy: DIFFERENT") && out.contains(&other) && out.contains(&blake3),
        "{out}"
    );
    assert!(err.contains("corrupt replica") && err.contains("@one"), "{err}");
    // A difference in what is recorded is not made good by what is read: somebody should look.
    assert_eq!(lab.verify(&["--content"]).0, Some(4));

    json.as_object_mut().unwrap().remove("verified");
    fs::write(lab.meta("one"), json.to_string()).unwrap();
    let (code, out, err) = lab.verify(&[]);
    assert!(
        code == Some(7) && out.contains("copy: not proven") && out.contains("recorded no digest"),
        "{out}"
    );
    assert!(err.contains("hint: cowsnap verify") && err.contains("--content"), "{err}");
    let (code, out, _) = lab.verify(&["--content"]);
    assert!(code == Some(0) && out.contains("content: the same"), "{out}");
}

#[test]
fn a_stream_that_went_by_a_file_is_known_too() {
    ground!("btrfs");
    let lab = Lab::new();
    lab.write("a", b"some");
    lab.snapshot("one");
    let file = text(&lab.source.outside().join("stream"));
    lab.does(&["send", &format!("{}@one", lab.from()), "-o", &file]);
    lab.does(&["receive", &lab.to(), &file]);
    assert_eq!(lab.verify(&[]).0, Some(0));
    // A raw one proves nothing.
    lab.write("b", b"more");
    lab.snapshot("two");
    let raw = text(&lab.source.outside().join("raw"));
    lab.does(&["send", &format!("{}@two", lab.from()), "--raw", "-o", &raw]);
    lab.does(&["receive", &lab.to(), &raw, "--name", "two"]);
    let (code, found) = lab.json(&[]);
    assert_eq!(code, Some(7), "{found}");
    assert_eq!(
        (&found["snapshots"][0]["outcome"], &found["snapshots"][1]["outcome"]),
        (&"same".into(), &"unproven".into())
    );
    assert_eq!(lab.json(&["--content"]).0, Some(0));
}

#[test]
fn a_byte_that_flipped_in_the_replica_is_found_and_its_file_named() {
    ground!("btrfs");
    let mark = noise(7, 64);
    // Without checksums of its own, the filesystem gives back what is there.
    let lab = Lab::with("nodatasum");
    fs::create_dir(lab.source.path().join("data/d")).unwrap();
    lab.write("d/victim", &[&mark[..], &noise(8, 100_000)].concat());
    lab.write("other", &noise(9, 100_000));
    lab.snapshot("one");
    lab.replicate();
    assert_eq!(lab.verify(&["--content"]).0, Some(0));
    lab.flip(&mark);
    // The digest is of what was received; and what is kept of what was read says so.
    let (code, out, _) = lab.verify(&["--content"]);
    assert!(code == Some(0) && out.contains("not read again, as it was on"), "{out}");
    let (code, found) = lab.json(&["--content", "--read-all"]);
    let different = &found["snapshots"][0]["content"]["different"];
    assert_eq!((code, different["differences"][0]["path"].as_str()), (Some(4), Some("d/victim")), "{found}");
    assert_eq!((different["differences"].as_array().unwrap().len(), &different["more"]), (1, &false.into()));
    let (code, out, err) = lab.verify(&["--content"]);
    assert!(code == Some(4) && out.contains("    d/victim: blake3 "), "what was read last counts: {out}");
    assert!(err.starts_with("error: corrupt replica"), "{err}");
}

#[test]
fn a_byte_that_the_filesystem_itself_does_not_give_is_damage() {
    ground!("btrfs");
    let mark = noise(17, 64);
    let lab = Lab::new();
    lab.write("victim", &[&mark[..], &noise(18, 100_000)].concat());
    lab.snapshot("one");
    lab.replicate();
    lab.flip(&mark);
    assert_eq!(lab.verify(&[]).0, Some(0));
    let (code, out, err) = lab.verify(&["--content"]);
    assert!(
        code == Some(4) && out.contains("content: the target is damaged: cannot read victim"),
        "{out}{err}"
    );
}

#[test]
fn a_snapshot_that_was_made_writable_and_changed_is_no_replica() {
    ground!("btrfs");
    let lab = Lab::new();
    lab.write("a", b"some");
    lab.snapshot("one");
    lab.replicate();
    let at = lab.target.path().join(".cowsnap/datasets/copy/snap/one");
    run("btrfs", &["property", "set", "-f", &text(&at), "ro", "false"]);
    fs::write(at.join("a"), "s0me").unwrap();
    run("btrfs", &["property", "set", &text(&at), "ro", "true"]);
    let (code, out, _) = lab.verify(&[]);
    assert!(
        code == Some(4)
            && out.contains("the snapshot at the target was made writable, and is not what it was"),
        "{out}"
    );
    let (code, out, _) = lab.verify(&["--content"]);
    assert!(code == Some(4) && out.contains("    a: blake3 "), "{out}");
}

#[test]
fn an_increment_upon_what_is_not_proven_is_not_proven() {
    ground!("btrfs");
    let lab = Lab::new();
    lab.write("a", b"some");
    lab.snapshot("one");
    let raw = text(&lab.source.outside().join("raw"));
    lab.does(&["send", &format!("{}@one", lab.from()), "--raw", "-o", &raw]);
    lab.does(&["receive", &lab.to(), &raw, "--name", "one"]);
    lab.write("b", b"more");
    lab.snapshot("two");
    lab.replicate();
    let two = format!("{}@two", lab.from());
    let (code, out, _) = lab.verify_of(&two, &[]);
    assert!(
        code == Some(7) && out.contains("it builds upon @one, of which nothing is proven"),
        "{code:?} {out}"
    );
    assert_eq!(lab.verify_of(&two, &["--content"]).0, Some(0), "reading it proves it");
    // Nor is what builds upon that, nor once the base is gone.
    lab.snapshot("three");
    lab.replicate();
    assert_eq!(lab.verify_of(&format!("{}@three", lab.from()), &[]).0, Some(7));
    for side in [lab.from(), lab.to()] {
        lab.does(&["destroy", &format!("{side}@one")]);
        let (code, found) = lab.json(&[]);
        let outcomes: Vec<_> =
            found["snapshots"].as_array().unwrap().iter().map(|checked| checked["outcome"].clone()).collect();
        assert_eq!((code, outcomes), (Some(7), vec!["unproven".into(), "unproven".into()]), "{found}");
    }
}

#[test]
fn the_datasets_inside_are_compared_with_their_counterparts() {
    ground!("btrfs");
    let lab = Lab::new();
    for inner in ["data/in", "data/out"] {
        lab.source.subvolume(inner);
    }
    lab.write("a", b"some");
    lab.does(&["snapshot", "-r", &lab.from(), "--name", "one"]);
    lab.does(&["replicate", "-r", &lab.from(), &lab.to()]);
    let (code, found) = lab.json(&["-r"]);
    let of = |found: &Value| {
        let all = found.as_array().unwrap().iter();
        let told =
            |one: &Value| format!("{} {}", one["source"].as_str().unwrap(), one["snapshots"][0]["outcome"]);
        let from = lab.from();
        all.map(|one| told(one).replace(&from, "").replace('"', "")).collect::<Vec<_>>().join(",")
    };
    assert_eq!((code, of(&found)), (Some(0), " same,/in same,/out same".into()), "{found}");
    // One that is not there stops no other, and a difference is one whatever else there is.
    lab.source.subvolume("data/late");
    lab.does(&["snapshot", &format!("{}/late", lab.from())]);
    let (code, out, err) = lab.verify(&["-r"]);
    assert!(
        code == Some(7) && out.contains("/out: same") && err.contains("data/late"),
        "{code:?} {out} {err}"
    );
    let meta = lab.target.path().join(".cowsnap/datasets/copy%2Fout/meta/one.json");
    let mut other: Value = serde_json::from_str(&fs::read_to_string(&meta).unwrap()).unwrap();
    other["verified"]["blake3"] = "00".repeat(32).into();
    fs::write(&meta, other.to_string()).unwrap();
    let (code, out, err) = lab.verify(&["-r"]);
    assert!(code == Some(4) && out.contains("/out: DIFFERENT"), "{code:?} {out} {err}");
}

#[test]
fn a_root_without_snapshots_stops_nothing_that_is_inside() {
    ground!("btrfs");
    let lab = Lab::new();
    lab.source.subvolume("data/in");
    lab.target.subvolume("copy");
    let (from, to) = (lab.from() + "/in", lab.to() + "/in");
    assert_eq!(lab.verify(&["-r"]).0, Some(7), "none has any: nothing is proven");
    lab.does(&["snapshot", &from, "--name", "one"]);
    lab.does(&["replicate", &from, &to]);
    let (code, out, err) = lab.verify(&["-r"]);
    assert!(code == Some(0) && out.contains("/in: same"), "{code:?} {out} {err}");
}

#[test]
fn a_chain_of_increments_stays_proven_once_its_first_links_are_gone() {
    ground!("btrfs");
    let lab = Lab::new();
    for (n, name) in ["one", "two", "three"].iter().enumerate() {
        lab.write(name, &noise(n as u64, 10_000));
        lab.snapshot(name);
        lab.replicate();
    }
    assert_eq!(lab.verify(&[]).0, Some(0));
    lab.does(&["destroy", &format!("{}@one", lab.to())]);
    assert_eq!(lab.verify(&[]).0, Some(0), "at one side");
    lab.does(&["destroy", &format!("{}@one", lab.from())]);
    lab.does(&["destroy", &format!("{}@two", lab.from())]);
    let (code, out, _) = lab.verify(&[]);
    assert!(code == Some(0) && out.contains("copy: same"), "at both: {out}");
    // What another program, or an older one, wrote down does not say that, and the base is not there to be asked.
    let meta = fs::read_to_string(lab.meta("three")).unwrap();
    let mut older: Value = serde_json::from_str(&meta).unwrap();
    older["verified"].as_object_mut().unwrap().remove("grounded").expect("it is said");
    fs::write(lab.meta("three"), older.to_string()).unwrap();
    assert_eq!(lab.verify(&[]).0, Some(7));
}

#[test]
fn a_snapshot_that_was_changed_is_known_under_another_name() {
    ground!("btrfs");
    let lab = Lab::new();
    lab.write("a", b"some");
    lab.snapshot("one");
    lab.replicate();
    lab.write("b", b"more");
    lab.snapshot("two");
    lab.replicate();
    lab.does(&["rename", &format!("{}@one", lab.from()), "eins"]);
    let at = lab.target.path().join(".cowsnap/datasets/copy/snap/one");
    run("btrfs", &["property", "set", "-f", &text(&at), "ro", "false"]);
    fs::write(at.join("a"), "s0me").unwrap();
    run("btrfs", &["property", "set", &text(&at), "ro", "true"]);
    for args in [&[][..], &["--content"]] {
        let (code, out, err) = lab.verify(args);
        assert!(code == Some(4) && out.contains("(there @one): DIFFERENT"), "{code:?} {out}{err}");
    }
    // Whatever is said of it since.
    lab.does(&["hold", "mine", &format!("{}@one", lab.to())]);
    assert_eq!(lab.verify_of(&format!("{}@eins", lab.from()), &[]).0, Some(4));
    // Once the source has it no more, nobody knows what it was.
    lab.does(&["destroy", &format!("{}@eins", lab.from())]);
    let (code, out, err) = lab.verify(&[]);
    assert!(
        code == Some(4) && out.contains("DIFFERENT, only ") && out.contains("made writable: @one"),
        "{out}"
    );
    assert!(err.contains("@one, which was made writable there"), "{err}");
}

#[test]
fn a_snapshot_that_is_writable_is_no_replica_whatever_is_on_disk_of_its_change() {
    ground!("btrfs");
    let lab = Lab::new();
    lab.write("a", b"some");
    lab.snapshot("one");
    lab.replicate();
    assert_eq!(lab.verify(&["--content"]).0, Some(0));
    let at = lab.target.path().join(".cowsnap/datasets/copy/snap/one");
    run("btrfs", &["property", "set", "-f", &text(&at), "ro", "false"]);
    assert_eq!(lab.verify(&[]).0, Some(4));
    fs::write(at.join("a"), "s0me").unwrap();
    assert_eq!(lab.verify(&[]).0, Some(4));
    let (code, out, _) = lab.verify(&["--content"]);
    assert!(code == Some(4) && out.contains("    a: blake3 "), "{out}");
}

#[test]
fn a_replica_that_came_from_another_replica_is_no_alarm() {
    ground!("btrfs");
    let lab = Lab::new();
    lab.write("a", &noise(1, 10_000));
    lab.snapshot("one");
    lab.replicate();
    let third = text(&lab.target.path().join("third"));
    lab.does(&["replicate", &lab.from(), &third]);
    let verify = |args: &[&str]| {
        said(&lab.command(&[&["verify", &lab.from(), "--against", &third], args].concat()).output().unwrap())
    };
    assert_eq!(verify(&[]).0, Some(0));
    // The target loses it, and gets it from the other one.
    let holds = lab.command(&["holds", &format!("{third}@one"), "--json"]).output().unwrap();
    let found = said(&holds).1;
    for tag in found.split('"').filter(|word| word.starts_with("cowsnap:")) {
        lab.does(&["release", tag, &format!("{third}@one")]);
    }
    lab.does(&["destroy", &format!("{third}@one")]);
    lab.does(&["replicate", &lab.to(), &third]);
    let (code, out, _) = verify(&[]);
    assert!(code == Some(7) && out.contains("a stream that the other side did not send"), "{code:?} {out}");
    assert_eq!(verify(&["--content"]).0, Some(0));
}

#[test]
fn a_peer_tells_digests_to_who_may_verify_and_content_to_nobody() {
    ground!("btrfs", "sshd", "ssh");
    let lab = Lab::new();
    lab.write("a", &noise(1, 1_000_000));
    lab.write("b", b"some");
    lab.snapshot("one");
    let there = text(&lab.target.outside().join("state there"));
    let serve = |allowed: &str| {
        let (program, under) = (env!("CARGO_BIN_EXE_cowsnap"), text(&lab.target.path()));
        format!("'{program}' --state-dir '{there}' serve --allow {allowed} --under '{under}' --append-only")
    };
    let adds = Sshd::start(&serve("receive"));
    let proves = Sshd::start(&serve("receive,verify"));
    let at = |sshd: &Sshd, args: &[&str]| {
        said(&lab.command(args).env("COWSNAP_SSH", sshd.ssh()).output().unwrap())
    };
    let copy = lab.target.path().join("copy");
    assert_eq!(at(&adds, &["replicate", &lab.from(), &adds.url(&copy)]).0, Some(0));
    // Digests of streams are told to whoever sees what is there; those of files are not.
    let by = |sshd: &Sshd, args: &[&str]| {
        at(sshd, &[&["verify", &lab.from(), "--against", &sshd.url(&copy)], args].concat())
    };
    let (code, out, err) = by(&adds, &[]);
    assert!(code == Some(0) && out.contains("received as sent"), "{out}{err}");
    let (code, out, _) = by(&adds, &["--content"]);
    assert!(
        code == Some(7) && out.contains("the target can not tell") && out.contains("this key is for receive"),
        "{out}"
    );
    // Another port is another address: whose the records are is not known, and the digest tells all the same.
    let (code, out, err) = by(&proves, &["--content"]);
    assert!(code == Some(0) && out.contains("content: the same 3 entries"), "{out}{err}");
    assert!(Path::new(&there).join("manifests").is_dir(), "each machine keeps its own");
    let (_, out, _) = by(&proves, &["--content"]);
    assert_eq!(out.matches("not read again").count(), 2, "{out}");

    lab.write("a", &noise(2, 500));
    lab.snapshot("two");
    assert_eq!(at(&proves, &["replicate", &lab.from(), &proves.url(&copy)]).0, Some(0));
    let (code, out, _) = by(&proves, &["--content"]);
    assert!(
        code == Some(0) && out.matches("500 B read, the rest is as it was in @one").count() == 2,
        "{out}"
    );
    // Backwards, with the peer as what is to be proven.
    let turned = at(&proves, &["verify", &proves.url(&copy), "--against", &lab.from(), "--content"]);
    assert!(turned.0 == Some(0) && turned.1.contains("@two and"), "{turned:?}");

    // What differs there is named.
    let snap = lab.target.path().join(".cowsnap/datasets/copy/snap/two");
    run("btrfs", &["property", "set", "-f", &text(&snap), "ro", "false"]);
    fs::write(snap.join("b"), "s0me").unwrap();
    fs::write(snap.join("new \u{1b}[31m"), "").unwrap();
    let (code, out, _) = by(&proves, &["--content"]);
    assert_eq!(code, Some(4), "{out}");
    assert!(
        out.contains("    b: blake3 ") && out.contains("    new\\x20\\x1b[31m: only at the target"),
        "{out}"
    );
    // Elsewhere the key is worth nothing.
    let elsewhere = proves.url(&lab.source.path().join("data"));
    assert_eq!(at(&proves, &["verify", &lab.from(), "--against", &elsewhere]).0, Some(6));
}

#[test]
fn a_run_that_is_killed_leaves_nothing_behind_that_the_next_one_minds() {
    ground!("btrfs");
    let lab = Lab::new();
    for n in 0..40 {
        lab.write(&format!("f{n}"), &noise(n, 1_000_000));
    }
    lab.snapshot("one");
    lab.replicate();
    // Those of these two filesystems, wherever they are.
    let table = || fs::read_to_string("/proc/self/mounts").unwrap();
    let places = [text(&lab.source.path()), text(&lab.target.path())];
    let device = |place: &String| {
        let table = table();
        let line = table.lines().find(|line| line.contains(&format!(" {place} "))).unwrap();
        line.split(' ').next().unwrap().to_owned()
    };
    let devices = places.each_ref().map(device);
    let is_ours = |line: &&str| devices.iter().any(|device| line.starts_with(&format!("{device} ")));
    let mounts = || table().lines().filter(is_ours).count();
    let before = mounts();
    assert_eq!(before, 2);
    let args = ["verify", &lab.from(), "--against", &lab.to(), "--content", "--read-all"];
    let start = Instant::now();
    lab.does(&args);
    let whole = start.elapsed();
    for point in 0..8 {
        let mut child = lab.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(whole * point / 8 + Duration::from_millis(1));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(mounts(), before);
    }
    lab.does(&args);
    let folders = fs::read_dir(lab.source.outside().join("state/manifests")).unwrap();
    let left = folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
    let left: Vec<_> = left.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    assert!(left.len() == 2 && left.iter().all(|name| name.ends_with(".manifest")), "{left:?}");
}

#[test]
fn a_server_does_not_read_on_for_a_client_that_is_gone() {
    ground!("btrfs");
    let lab = Lab::new();
    // Minutes of work, which would leave a manifest.
    File::create(lab.source.path().join("data/sparse")).unwrap().set_len(200 << 30).unwrap();
    lab.snapshot("one");
    let listed = lab.command(&["list", &lab.from(), "--json"]).output().unwrap();
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let guid = listed["datasets"][0]["snapshots"][0]["guid"].as_str().unwrap().to_owned();
    let mut server = lab
        .command(&["serve"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = server.stdin.take().unwrap();
    let mut say = |kind, json: Value| {
        cowsnap::stream::wire::write(&mut input, kind, json.to_string().as_bytes()).unwrap();
    };
    use cowsnap::stream::wire::Kind;
    say(Kind::Hello, serde_json::json!({ "protocol": 1, "oldest": 1, "program": "a test" }));
    let version = serde_json::json!({ "guid": guid, "name": "one" });
    say(Kind::Request, serde_json::json!({ "verb": "manifest", "target": lab.from(), "version": version }));
    let mut output = server.stdout.take().unwrap();
    let mut payload = Vec::new();
    // It says hello, and that it is there as it reads.
    for wanted in [Kind::Hello, Kind::Alive] {
        assert_eq!(cowsnap::stream::wire::read(&mut output, &mut payload).unwrap(), Some(wanted));
    }
    drop((input, output));
    server.wait().unwrap();
    let kept = fs::read_dir(lab.source.outside().join("state/manifests"));
    assert_eq!(kept.map_or(0, |folders| folders.count()), 0, "it read all of it");
}
