//! `cowsnap verify` between datasets of real pools, here and through `cowsnap serve`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::super::ground::zfs;
use super::raw::encrypted;
use super::{Lab, get, noise};
use crate::ground::ground;

/// Runs it with `--json`: how it ended, and what it found.
fn found(mut command: Command) -> (Option<i32>, Value) {
    let output = command.arg("--json").output().expect("it starts");
    let value: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", super::said(&output)));
    (output.status.code(), value["verified"].clone())
}

impl Lab {
    fn verify(&self, args: &[&str]) -> (Option<i32>, Value) {
        found(self.command(&[&["verify", &self.source, "--against", &self.target], args].concat()))
    }

    /// The same, the target being on another machine.
    fn verify_there(&self, args: &[&str]) -> (Option<i32>, Value) {
        let shim = self.file("ssh");
        fs::write(&shim, "#!/bin/sh\nfor last; do :; done\nexec sh -c \"$last\"\n").expect("write");
        fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).expect("chmod");
        let serve =
            format!("'{}' --state-dir '{}' serve", env!("CARGO_BIN_EXE_cowsnap"), self.file("state there"));
        let target = format!("ssh://there/{}", self.target);
        let mut command =
            self.command(&["verify", &self.source, "--against", &target, "--remote-command", &serve]);
        command.env("COWSNAP_SSH", shim).args(args);
        found(command)
    }

    fn mounts_of_snapshots(&self) -> usize {
        let all = fs::read_to_string("/proc/self/mounts").expect("read");
        all.lines().filter(|line| line.starts_with(&self.pool.name) && line.contains('@')).count()
    }
}

#[test]
fn what_was_brought_is_proven_by_its_digest_and_by_what_is_read() {
    ground!("zfs");
    let lab = Lab::new();
    lab.write("a", &noise(1, 2_000_000));
    let one = lab.snapshot("one");
    lab.does(&["replicate", &lab.source, &lab.target]);
    assert!(get(&one, "cowsnap:streams").contains("\"blake3\""), "{}", get(&one, "cowsnap:streams"));
    lab.write("b", b"little");
    lab.snapshot("two");
    lab.does(&["replicate", &lab.source, &lab.target]);
    lab.snapshot("three");
    let (code, by_digest) = lab.verify(&[]);
    assert_eq!((code, &by_digest["only_source"]), (Some(0), &serde_json::json!(["three"])), "{by_digest}");
    let of = |found: &Value, n: usize| {
        let checked = &found["snapshots"][n];
        (checked["outcome"].as_str().map(str::to_owned), checked["digests"].as_str().map(str::to_owned))
    };
    for n in [0, 1] {
        assert_eq!(of(&by_digest, n), (Some("same".into()), Some("same".into())), "{by_digest}");
    }
    for there in [false, true] {
        let verify = |args: &[&str]| if there { lab.verify_there(args) } else { lab.verify(args) };
        let (code, read) = verify(&["--content"]);
        assert_eq!(code, Some(0), "{read}");
        let second = &read["snapshots"][1]["content"]["same"];
        assert_eq!(second["source"]["entries"], second["target"]["entries"]);
        // The source is mounted: of it, only what changed was read. What is received is not, and is read in full, which is said.
        assert!(
            there || second["source"]["upon"] == "one" && second["source"]["read_bytes"] == 6,
            "{second}"
        );
        let notes = second["target"]["notes"].to_string();
        assert!(second["target"]["upon"].is_null() && notes.contains("all of it is read"), "{second}");
        assert_eq!(verify(&["--content", "--read-all"]).0, Some(0));
    }
    assert_eq!(lab.mounts_of_snapshots(), 0);
    // A digest that somebody changed is noticed; one that is gone proves nothing, and reading does.
    let copy = format!("{}@two", lab.target);
    let verified = get(&copy, "cowsnap:verified");
    let at = verified.find("\"blake3\":\"").expect("a digest") + 10;
    let mut changed = verified.clone();
    changed.replace_range(at..at + 1, if &verified[at..at + 1] == "0" { "1" } else { "0" });
    zfs(&["set", &format!("cowsnap:verified={changed}"), &copy]);
    let (code, differs) = lab.verify(&[]);
    assert_eq!(
        (code, of(&differs, 1)),
        (Some(4), (Some("different".into()), Some("differ".into()))),
        "{differs}"
    );
    zfs(&["inherit", "cowsnap:verified", &copy]);
    let (code, lost) = lab.verify(&[]);
    assert_eq!((code, of(&lost, 1)), (Some(7), (Some("unproven".into()), Some("unknown".into()))), "{lost}");
    assert_eq!(lab.verify(&["--content"]).0, Some(0));
}

#[test]
fn an_increment_upon_what_is_not_proven_is_not_proven() {
    ground!("zfs");
    let lab = Lab::new();
    lab.write("a", b"some");
    let one = lab.snapshot("one");
    let raw = lab.file("raw");
    lab.does(&["send", &one, "--raw", "-o", &raw]);
    lab.does(&["receive", &lab.target, &raw, "--name", "one"]);
    for name in ["two", "three"] {
        lab.write(name, b"more");
        lab.snapshot(name);
        lab.does(&["replicate", &lab.source, &lab.target]);
    }
    let (code, found) = lab.verify(&[]);
    assert_eq!(code, Some(7), "{found}");
    for n in 0..3 {
        assert_eq!(found["snapshots"][n]["outcome"], "unproven", "{found}");
    }
    assert!(found["snapshots"][1]["why"].to_string().contains("it builds upon @one"), "{found}");
    assert_eq!(lab.verify(&["--content"]).0, Some(0));
    lab.does(&["destroy", &format!("{}@one", lab.target)]);
    assert_eq!(lab.verify(&[]).0, Some(7), "once it is gone, either");
}

#[test]
fn what_can_not_be_read_without_its_key_is_not_proven_by_content() {
    ground!("zfs");
    let lab = encrypted();
    lab.write("secret", &noise(1, 500_000));
    lab.snapshot("one");
    lab.does(&["replicate", "--zfs-flags", "raw", &lab.source, &lab.target]);
    assert_eq!(lab.verify(&[]).0, Some(0), "that the stream arrived is proven all the same");
    let (code, found) = lab.verify(&["--content"]);
    let unknown = &found["snapshots"][0]["content"]["unknown"];
    assert_eq!((code, unknown["side"].as_str()), (Some(7), Some("target")), "{found}");
    assert!(unknown["why"].to_string().contains("key of its encryption is not loaded"), "{found}");
    super::raw::unlock(&lab, &lab.target);
    assert_eq!(lab.verify(&["--content"]).0, Some(0));
}

#[test]
fn a_run_that_is_killed_leaves_nothing_mounted() {
    ground!("zfs");
    let lab = Lab::new();
    for n in 0..20 {
        lab.write(&format!("f{n}"), &noise(n, 1_000_000));
    }
    lab.snapshot("one");
    lab.does(&["replicate", &lab.source, &lab.target]);
    let args = ["verify", &lab.source, "--against", &lab.target, "--content", "--read-all"];
    let start = Instant::now();
    lab.does(&args);
    let whole = start.elapsed();
    for point in 0..6 {
        let mut child =
            lab.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        std::thread::sleep(whole * point / 6 + Duration::from_millis(1));
        child.kill().expect("killed");
        child.wait().expect("waited for");
        assert_eq!(lab.mounts_of_snapshots(), 0);
    }
    lab.does(&args);
    // Nobody uses the snapshots any more: they can be destroyed once they are not held.
    for dataset in [&lab.source, &lab.target] {
        let snapshot = format!("{dataset}@one");
        let holds = zfs(&["holds", "-H", &snapshot]);
        holds.lines().filter_map(|line| line.split('\t').nth(1)).for_each(|tag| {
            zfs(&["release", tag, &snapshot]);
        });
        zfs(&["destroy", &snapshot]);
    }
}

#[test]
fn a_volume_has_no_files_and_its_stream_is_proven() {
    ground!("zfs");
    let mut lab = Lab::new();
    lab.source = lab.pool.volume("vol", "8M");
    lab.snapshot("one");
    lab.does(&["replicate", &lab.source, &lab.target]);
    assert_eq!(lab.verify(&[]).0, Some(0));
    let (code, found) = lab.verify(&["--content"]);
    assert_eq!(code, Some(7), "{found}");
    assert!(
        found["snapshots"][0]["content"]["unknown"]["why"].to_string().contains("has no files"),
        "{found}"
    );
}
