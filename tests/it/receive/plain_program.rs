//! `cowsnap restore FILE… --to DIRECTORY` where that is no btrfs: what is asked, refused, kept, and left after the worst.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::ground::{Btrfs, Plain, cowsnap, ground, run};
use crate::tree_compare::{Also, assert_same};

/// A dataset with three snapshots, the streams of them in files, and a filesystem of another kind.
struct Lab {
    source: Btrfs,
    target: Plain,
}

impl Lab {
    fn new(target: Plain, bytes: usize) -> Self {
        let source = Btrfs::new();
        let live = source.subvolume("s");
        let mount = target.path();
        run("mount", &["-o", "remount,noatime", mount.to_str().expect("utf-8")]);
        let lab = Self { source, target };
        for n in 1..=3u8 {
            fs::create_dir_all(live.join("d")).expect("mkdir");
            let mut noise = vec![0; bytes];
            blake3::Hasher::new().update(&[n]).finalize_xof().fill(&mut noise);
            fs::write(live.join(format!("d/f{n}")), noise).expect("writes");
            for i in 0..200 {
                fs::write(live.join(format!("d/{n}-{i}")), [n; 3000]).expect("writes");
            }
            fs::write(live.join("height"), n.to_string()).expect("writes");
            lab.good(&["snapshot", &lab.live(), "--name", &format!("s{n}")]);
            let from = [format!("s{}", n - 1)];
            let snapshot = format!("{}@s{n}", lab.live());
            let mut words = vec!["send", &snapshot, "-o"];
            let file = lab.file(n);
            words.push(&file);
            if n > 1 {
                words.extend(["--from", &from[0]]);
            }
            lab.good(&words);
        }
        lab
    }

    fn live(&self) -> String {
        self.source.path().join("s").to_str().expect("utf-8").into()
    }

    fn file(&self, n: u8) -> String {
        self.source.outside().join(format!("s{n}.cow")).to_str().expect("utf-8").into()
    }

    fn to(&self) -> PathBuf {
        self.target.path().join("node")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = cowsnap(self.source.outside());
        command.args(words).stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("runs")
    }

    fn good(&self, words: &[&str]) -> Output {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// The words of a restore of all, with `more`.
    fn restore(&self, more: &[&str]) -> Vec<String> {
        let files = (1..=3).map(|n| self.file(n));
        let to = self.to().to_str().expect("utf-8").to_owned();
        ["restore".to_owned()]
            .into_iter()
            .chain(files)
            .chain(["--to".into(), to])
            .chain(more.iter().map(|w| (*w).into()))
            .collect()
    }

    fn restored(&self, more: &[&str]) -> Output {
        let words = self.restore(more);
        self.run(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn assert_is(&self, n: u8) {
        let snapshot = self.source.path().join("look");
        fs::create_dir_all(&snapshot).expect("mkdir");
        let (at, of) = (snapshot.to_str().expect("utf-8").to_owned(), format!("{}@s{n}", self.live()));
        self.good(&["mount", &of, &at]);
        assert_same(&snapshot, &self.to(), Also::default(), "restored");
        self.good(&["unmount", &at]);
    }

    /// What is in the directory that the tree is restored to.
    fn beside(&self) -> Vec<String> {
        let entries = fs::read_dir(self.target.path()).expect("lists");
        let mut names: Vec<_> =
            entries.map(|e| e.expect("an entry").file_name().into_string().expect("utf-8")).collect();
        names.retain(|name| name != "lost+found");
        names.sort();
        names
    }
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn streams_become_a_plain_tree_that_is_said_to_be_one_and_what_was_there_is_kept() {
    ground!("btrfs", "ext4", "xfs");
    for target in [Plain::ext4(), Plain::xfs()] {
        let lab = Lab::new(target, 300_000);
        let dry = lab.restored(&["--dry-run"]);
        let text = String::from_utf8_lossy(&dry.stdout).into_owned();
        assert!(
            text.contains("would apply @s2 to a plain tree")
                && text.contains("would make the plain tree of @s3 be"),
            "{text}"
        );
        assert!(lab.beside().is_empty());
        let done = lab.restored(&["--json"]);
        assert_eq!(code(&done), Some(0), "{}", errors(&done));
        let said: Value = serde_json::from_slice(&done.stdout).expect("JSON");
        assert_eq!((&said["plain"], &said["restored"]["version"]["name"]), (&true.into(), &"s3".into()));
        assert_eq!(said["restored"]["received"].as_array().map(Vec::len), Some(3));
        assert!(errors(&done).contains("a plain tree, no dataset"), "{}", errors(&done));
        lab.assert_is(3);
        assert_eq!(lab.beside(), ["node"]);
        // It is not empty now.
        let refused = lab.restored(&["--name", "s1"]);
        assert_eq!(code(&refused), Some(3), "{}", errors(&refused));
        assert!(errors(&refused).contains("--replace"), "{}", errors(&refused));
        lab.assert_is(3);
        let replaced = lab.restored(&["--name", "s1", "--replace"]);
        assert_eq!(code(&replaced), Some(0), "{}", errors(&replaced));
        lab.assert_is(1);
        let names = lab.beside();
        assert!(names.len() == 2 && names[1].starts_with("node.before-restore-"), "{names:?}");
        assert_eq!(fs::read(lab.target.path().join(&names[1]).join("height")).expect("it is kept"), b"3");
    }
}

#[test]
fn an_empty_directory_is_taken_and_a_file_or_a_mount_point_is_not() {
    ground!("btrfs", "ext4");
    let lab = Lab::new(Plain::ext4(), 1000);
    let mount = lab.target.path();
    let (file, at) = (lab.file(1), mount.to_str().expect("utf-8"));
    let refused = lab.run(&["restore", &file, "--to", at, "--replace"]);
    assert_eq!(code(&refused), Some(3), "{}", errors(&refused));
    assert!(errors(&refused).contains("mount point"), "{}", errors(&refused));
    let in_place = mount.join("file");
    fs::write(&in_place, "x").expect("writes");
    assert_ne!(
        code(&lab.run(&["restore", &file, "--to", in_place.to_str().expect("utf-8"), "--replace"])),
        Some(0)
    );
    assert_eq!(fs::read(&in_place).expect("it is there"), b"x");
    fs::create_dir(lab.to()).expect("mkdir");
    assert_eq!(code(&lab.restored(&[])), Some(0));
    lab.assert_is(3);
    // Nothing that is not a restore's own is cleared away.
    let own = mount.join(".other.cowsnap-restoring");
    fs::create_dir(&own).expect("mkdir");
    fs::write(own.join("precious"), "x").expect("writes");
    let refused = lab.run(&["restore", &file, "--to", mount.join("other").to_str().expect("utf-8")]);
    assert_eq!(code(&refused), Some(3), "{}", errors(&refused));
    assert_eq!(fs::read(own.join("precious")).expect("it is there"), b"x");
}

#[test]
fn a_damaged_stream_leaves_nothing_and_a_whole_one_goes_on_after_it() {
    ground!("btrfs", "ext4");
    let lab = Lab::new(Plain::ext4(), 2 << 20);
    for n in 1..=3 {
        let good = fs::read(lab.file(n)).expect("reads");
        for at in [good.len() / 3, good.len() - 20] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(lab.file(n), bad).expect("writes");
            let failed = lab.restored(&[]);
            assert_eq!(code(&failed), Some(4), "{}", errors(&failed));
            assert!(lab.beside().is_empty(), "{:?}", lab.beside());
        }
        fs::write(lab.file(n), &good[..good.len() - 40]).expect("writes");
        assert_eq!(code(&lab.restored(&[])), Some(4));
        assert!(lab.beside().is_empty(), "{:?}", lab.beside());
        fs::write(lab.file(n), good).expect("writes");
    }
    assert_eq!(code(&lab.restored(&[])), Some(0));
    lab.assert_is(3);
}

#[test]
fn a_full_filesystem_is_said_and_nothing_is_left_on_it() {
    ground!("btrfs", "ext4");
    let small = Plain::with("ext4", "mkfs.ext4", &["-q", "-F"], "40M");
    let lab = Lab::new(small, 16 << 20);
    let full = lab.restored(&[]);
    assert_eq!(code(&full), Some(3), "{}", errors(&full));
    assert!(errors(&full).contains("No space"), "{}", errors(&full));
    assert!(lab.beside().is_empty(), "{:?}", lab.beside());
    assert_eq!(code(&lab.restored(&["--name", "s1"])), Some(0));
    lab.assert_is(1);
}

#[test]
fn a_restore_that_is_killed_anywhere_is_done_by_the_next_one() {
    ground!("btrfs", "ext4", "xfs");
    let lab = Lab::new(Plain::xfs(), 12 << 20);
    fs::create_dir(lab.to()).expect("mkdir");
    fs::write(lab.to().join("precious"), "x").expect("writes");
    let words = lab.restore(&["--replace"]);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let mut finished = 0;
    for wait in (0..40).map(|n| Duration::from_millis(5 + n * n / 2)) {
        let mut child =
            lab.command(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
        std::thread::sleep(wait);
        let _ = child.kill();
        if child.wait().expect("it ends").success() {
            finished += 1;
            break;
        }
        let all: Vec<_> = lab.beside();
        let precious = all.iter().any(|name| {
            let at = lab.target.path().join(name);
            at.join("precious").exists() || at.join("tree/precious").exists()
        });
        assert!(precious, "what was there is lost: {all:?}");
    }
    if finished == 0 {
        let done = lab.restored(&["--replace"]);
        assert_eq!(code(&done), Some(0), "{}", errors(&done));
    }
    lab.assert_is(3);
    let kept = lab.beside().into_iter().find(|name| lab.target.path().join(name).join("precious").exists());
    assert!(kept.is_some_and(|name| name.starts_with("node.before-restore-")), "{:?}", lab.beside());
    assert!(!lab.beside().iter().any(|name| name.ends_with("restoring")), "{:?}", lab.beside());
}

#[test]
fn a_restore_that_was_broken_off_between_two_streams_goes_on_there() {
    ground!("btrfs", "ext4");
    let lab = Lab::new(Plain::ext4(), 100_000);
    let away = |n: u8| Path::new(&lab.file(n)).with_extension("away");
    // Who reads from a FIFO waits: killed then, it has applied what came before.
    fs::rename(lab.file(3), away(3)).expect("renames");
    let pipe = lab.file(3);
    fs::copy(away(3), &pipe).expect("copies");
    let words = lab.restore(&[]);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let staged = lab.target.path().join(".node.cowsnap-restoring/state");
    let mut went_on = false;
    for wait in 0..60 {
        let mut child =
            lab.command(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
        std::thread::sleep(Duration::from_millis(4 * wait + 2));
        let _ = child.kill();
        let over = child.wait().expect("it ends").success();
        if over {
            fs::remove_dir_all(lab.to()).expect("removes");
            continue;
        }
        let state: Value =
            fs::read(&staged).ok().and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default();
        if state["applying"].is_null() && state["holds"]["name"].is_string() && !lab.to().exists() {
            went_on = true;
            break;
        }
    }
    let done = lab.restored(&[]);
    assert_eq!(code(&done), Some(0), "{}", errors(&done));
    if went_on {
        assert!(errors(&done).contains("went on from @s"), "{}", errors(&done));
    }
    lab.assert_is(3);
}
