//! `cowsnap stream` as a process: what it prints, its exit codes, and what it leaves behind.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use cowsnap::stream::btrfs::encode::Encoder;
use cowsnap::stream::btrfs::{Command as Op, Version};

use super::{FRAME, header, mixed, stored, write, zstd};
use crate::ground::cowsnap;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &[u8], bytes: &[u8]) {
        std::fs::write(self.path().join(OsStr::from_bytes(name)), bytes).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path().join(name)).unwrap()
    }

    fn stream(&self, args: &[&str]) -> Command {
        let mut command = cowsnap(self.path());
        command.current_dir(self.path()).arg("stream").args(args).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> (i32, String, String) {
        said(self.stream(args).output().unwrap())
    }

    /// With the file as standard input.
    fn run_on(&self, file: &str, args: &[&str]) -> Output {
        let file = std::fs::File::open(self.path().join(file)).unwrap();
        self.stream(args).stdin(file).output().unwrap()
    }

    fn names(&self) -> Vec<String> {
        let names = self.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

fn said(output: Output) -> (i32, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

pub fn raw() -> Vec<u8> {
    let mut encoder = Encoder::new(Version::V2);
    encoder.push(&Op::Snapshot {
        path: b"snaps/now",
        uuid: [1; 16],
        ctransid: 9,
        clone_uuid: [2; 16],
        clone_ctransid: 8,
    });
    encoder.push(&Op::Mkfile { path: b"a\nb", inode: 257 });
    for n in 0..30 {
        encoder.push(&Op::Write { path: b"a\nb", offset: n * 49_152, data: &mixed(49_152) });
    }
    encoder.finish()
}

#[test]
fn wrap_and_unwrap_give_the_stream_back_byte_for_byte() {
    let folder = Folder::new();
    folder.write(b"raw", &raw());
    let (code, out, _) = folder.run(&["wrap", "raw", "-o", "a", "--dataset", "tank/x", "--name", "s1"]);
    let root = blake3::hash(&raw()).to_hex();
    assert_eq!((code, out), (0, format!("{root}  a\n")));
    let (read, back, _) = super::read(&folder.read("a")).unwrap();
    assert!(back == raw());
    assert_eq!((read.dataset.as_str(), read.snapshot.as_str(), read.stream_version), ("tank/x", "s1", 2));
    assert_eq!((read.guid.0, read.base.unwrap().0), ([1; 16], [2; 16]));
    assert_eq!(folder.run(&["unwrap", "a", "-o", "b"]), (0, "".into(), "".into()));
    assert!(folder.read("b") == raw());
    let through = folder.run_on("raw", &["wrap", "--no-compress"]);
    assert_eq!(through.status.code(), Some(0));
    folder.write(b"c", &through.stdout);
    assert_eq!(super::read(&through.stdout).unwrap().0.dataset, "snaps/now");
    assert!(folder.run_on("c", &["unwrap", "-"]).stdout == raw());
    assert_eq!(folder.run(&["unwrap", "c", "-o", "/dev/null"]).0, 0);
}

#[test]
fn verify_prints_the_root_or_names_the_damage() {
    let folder = Folder::new();
    let (good, sealed) = write(&header(), &mixed(3 * FRAME), &stored());
    let mut bad = good.clone();
    bad[2 * FRAME + FRAME / 2] ^= 4;
    folder.write(b"good", &good);
    folder.write(b"bad \xff name", &bad);
    assert_eq!(folder.run(&["verify", "good"]), (0, format!("{}  good\n", sealed.root.to_hex()), "".into()));
    let output =
        folder.stream(&["verify", "good"]).arg(OsStr::from_bytes(b"bad \xff name")).output().unwrap();
    let (code, out, err) = said(output);
    assert_eq!(code, 4);
    assert!(out.starts_with(sealed.root.to_hex().as_str()));
    assert!(err.contains("frame 2 (stream offset 2097152, container byte 2097"), "{err}");
    let (code, out, _) = folder.run(&["--json", "verify", "good"]);
    assert_eq!(code, 0);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&out).unwrap()["stream_bytes"], 3 * FRAME);
    let (code, _, err) = folder.run(&["verify", "absent", "good"]);
    assert_eq!(code, 2, "{err}");
    let (code, _, err) = folder.run(&["verify"]);
    assert_eq!(code, 2, "{err}");
    let piped = folder.run_on("good", &["verify", "-"]);
    assert_eq!(piped.status.code(), Some(0));
}

#[test]
fn a_damaged_container_leaves_no_file_under_the_final_name() {
    let folder = Folder::new();
    let (mut bad, _) = write(&header(), &mixed(3 * FRAME), &stored());
    bad.truncate(2 * FRAME);
    folder.write(b"bad", &bad);
    let (code, _, err) = folder.run(&["unwrap", "bad", "-o", "out"]);
    assert_eq!(code, 4);
    assert!(err.contains("cut off at byte 2097152"), "{err}");
    assert_eq!(folder.names(), ["bad"]);
}

#[test]
fn an_output_that_exists_is_a_conflict_and_stays() {
    let folder = Folder::new();
    folder.write(b"raw", &raw());
    folder.write(b"kept", b"precious");
    let (code, _, err) = folder.run(&["wrap", "raw", "-o", "kept"]);
    assert_eq!((code, err.contains("file kept exists already")), (3, true), "{err}");
    assert_eq!(folder.read("kept"), b"precious");
    let (code, _, err) = folder.run(&["wrap", "raw", "-o", "absent/folder"]);
    assert_eq!(code, 2, "{err}");
    assert_eq!(folder.names(), ["kept", "raw"]);
}

#[test]
fn what_is_no_stream_of_btrfs_is_not_wrapped() {
    let folder = Folder::new();
    let mut newer = raw();
    newer[13] = 9;
    let odd = Encoder::new(Version::V1);
    for (name, bytes, code) in [
        (&b"text"[..], &b"hello"[..], 4),
        (b"empty", b"", 4),
        (b"newer", &newer, 2),
        (b"odd", &odd.finish(), 4),
        (b"cut", &raw()[..40], 4),
    ] {
        folder.write(name, bytes);
        let said = folder.run(&["wrap", std::str::from_utf8(name).unwrap(), "-o", "out"]);
        assert_eq!(said.0, code, "{said:?}");
        assert!(!folder.path().join("out").exists());
    }
    folder.write(b"raw", &raw());
    assert_eq!(folder.run(&["wrap", "raw", "--level", "99", "-o", "out"]).0, 2);
    let mut unnamed = Encoder::new(Version::V1);
    unnamed.push(&Op::Subvol { path: b"caf\xc3\xa9", uuid: [1; 16], ctransid: 1 });
    folder.write(b"unnamed", &unnamed.finish());
    let (code, _, err) = folder.run(&["wrap", "unnamed", "-o", "out"]);
    assert_eq!((code, err.contains("--name")), (2, true), "{err}");
    assert_eq!(folder.run(&["wrap", "unnamed", "-o", "out", "--name", "x", "--level", "1"]).0, 0);
    assert_eq!(super::read(&folder.read("out")).unwrap().0.dataset, "café");
}

#[test]
fn a_stream_that_is_cut_off_or_damaged_is_not_wrapped() {
    let folder = Folder::new();
    let whole = raw();
    let mut flipped = whole.clone();
    flipped[1_000_000] ^= 1;
    let end_command = 10;
    for (bytes, words) in [
        (&whole[..whole.len() / 2], "ends at byte"),
        (&whole[..whole.len() - end_command], "no end command came"),
        (&whole[..whole.len() - 1], "ends at byte"),
        (&flipped, "has checksum"),
        (&[&whole[..], b"more"].concat(), "follow the end"),
    ] {
        folder.write(b"raw", bytes);
        for level in [&[][..], &["--no-compress"]] {
            let (code, _, err) = folder.run(&[&["wrap", "raw", "-o", "out"], level].concat());
            assert_eq!((code, err.contains(words)), (4, true), "{err}");
            assert_eq!(folder.names(), ["raw"]);
        }
        let through = folder.run_on("raw", &["wrap"]);
        assert_eq!(through.status.code(), Some(4));
        assert!(super::read(&through.stdout).is_err(), "no container came of it");
    }
}

#[test]
fn inspect_shows_a_container_from_its_ends_and_all_of_it_when_asked() {
    let folder = Folder::new();
    let mut header = header();
    header.dataset = "odd\x1b[2Jname".into();
    header.properties = [("k".to_owned(), "v".to_owned())].into();
    let (container, sealed) = write(&header, &raw(), &zstd());
    folder.write(b"c", &container);
    let (code, out, _) = folder.run(&["inspect", "c"]);
    assert_eq!(code, 0);
    for text in
        ["odd\\u{1b}[2Jname", "k=v", sealed.root.to_hex().as_str(), "in 2 frames", "stream verify 'c'"]
    {
        assert!(out.contains(text), "{text} is not in {out}");
    }
    let (_, out, _) = folder.run(&["inspect", "c", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((value["frames"].as_u64(), value["verified"].as_bool()), (Some(2), Some(false)));
    assert_eq!(value["header"]["dataset"], "odd\x1b[2Jname");
    let through = Command::new("sh")
        .args(["-c", "cat c | \"$0\" stream inspect --json", env!("CARGO_BIN_EXE_cowsnap")])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let value: serde_json::Value = serde_json::from_slice(&through.stdout).unwrap();
    assert_eq!(value["verified"].as_bool(), Some(true));
    let (code, frames, _) = folder.run(&["inspect", "--frames", "c"]);
    assert_eq!((code, frames.lines().count()), (0, 2));
    let (_, frames, _) = folder.run(&["inspect", "--frames", "--json", "c"]);
    assert!(frames.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
}

#[test]
fn inspect_lists_the_operations_of_containers_and_raw_streams() {
    let folder = Folder::new();
    folder.write(b"raw", &raw());
    folder.write(b"c", &write(&header(), &raw(), &zstd()).0);
    let (code, of_raw, _) = folder.run(&["inspect", "--ops", "raw"]);
    let (_, of_container, _) = folder.run(&["inspect", "--ops", "c"]);
    assert_eq!((code, of_raw.lines().count()), (0, 33));
    assert_eq!(of_raw, of_container);
    assert!(of_raw.contains("mkfile \"a\\nb\" inode=257"), "{of_raw}");
    let (_, json, _) = folder.run(&["inspect", "--ops", "--json", "c"]);
    let first: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert_eq!((first["op"].as_str(), first["offset"].as_u64()), (Some("snapshot"), Some(17)));
    let (_, summary, _) = folder.run(&["inspect", "raw"]);
    assert!(summary.starts_with("raw btrfs stream, version 2\nsnapshot \"snaps/now\""), "{summary}");
    assert!(summary.contains("30 write"), "{summary}");
    let (_, json, _) = folder.run(&["inspect", "raw", "--json"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["operations"]["write"], 30);
}

#[test]
fn inspect_names_damage() {
    let folder = Folder::new();
    let (whole, _) = write(&header(), &raw(), &zstd());
    let mut zfs = header();
    zfs.backend = cowsnap::stream::container::Backend::Zfs;
    let mut bad_end = whole.clone();
    *bad_end.iter_mut().rev().nth(60).unwrap() ^= 1;
    for (name, bytes, args, code) in [
        ("cut", &whole[..whole.len() - 1], &["inspect", "cut"][..], 4),
        ("end", &bad_end, &["inspect", "end"], 4),
        ("head", &whole[..90], &["inspect", "head"], 4),
        ("text", b"hello", &["inspect", "text"], 4),
        ("ops", &whole[..whole.len() - 300], &["inspect", "--ops", "ops"], 4),
        ("frames", &whole[..whole.len() - 300], &["inspect", "--frames", "frames"], 4),
        ("zfs", &write(&zfs, b"zfs", &stored()).0, &["inspect", "--ops", "zfs"], 4),
        ("notraw", &write(&header(), b"not raw", &stored()).0, &["inspect", "--ops", "notraw"], 4),
        ("rawcut", &raw()[..5000], &["inspect", "rawcut"], 4),
    ] {
        folder.write(name.as_bytes(), bytes);
        let said = folder.run(args);
        assert_eq!(said.0, code, "{said:?}");
        assert!(said.2.starts_with("error: "), "{said:?}");
    }
}

#[test]
fn a_container_of_a_future_version_asks_for_a_newer_program() {
    let folder = Folder::new();
    folder.write(b"new", &super::craft::Craft::of_header(2, b"").bytes);
    let (code, _, err) = folder.run(&["verify", "new"]);
    assert_eq!((code, err.contains("needs a newer cowsnap")), (2, true), "{err}");
}
