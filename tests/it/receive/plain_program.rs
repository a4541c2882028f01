//! `cowsnap restore FILE… --to DIRECTORY` where that is no btrfs: what is asked, refused, kept, and left after the worst.

use std::fs;
use std::path::PathBuf;
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
    // The next stream is read to its end before it is begun with: so long it stands between two.
    let lab = Lab::new(Plain::ext4(), 24 << 20);
    let words = lab.restore(&[]);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let stands_between = || {
        let state = fs::read(lab.target.path().join(".node.cowsnap-restoring/state")).ok();
        let state: Value = state.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let holds = state["holds"]["name"].as_str();
        state["applying"].is_null() && matches!(holds, Some("s1" | "s2")) && !lab.to().exists()
    };
    let mut was_between = false;
    for _ in 0..20 {
        let mut child =
            lab.command(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
        while child.try_wait().expect("waits").is_none() && !stands_between() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = child.kill();
        child.wait().expect("it ends");
        was_between = stands_between();
        if was_between {
            break;
        }
        let _ = fs::remove_dir_all(lab.to());
        let _ = fs::remove_dir_all(lab.target.path().join(".node.cowsnap-restoring"));
    }
    assert!(was_between, "it is never between two streams");
    let done = lab.restored(&[]);
    assert_eq!(code(&done), Some(0), "{}", errors(&done));
    assert!(errors(&done).contains("went on from @s"), "{}", errors(&done));
    lab.assert_is(3);
}

#[test]
fn a_replacing_restore_that_was_killed_after_the_exchange_is_only_finished() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    ground!("btrfs", "ext4");
    let lab = Lab::new(Plain::ext4(), 10_000);
    let said: Value = serde_json::from_slice(&lab.restored(&["--json"]).stdout).expect("JSON");
    let inode = || fs::metadata(lab.to()).expect("it is there").ino();
    let (restored, staging) = (inode(), lab.target.path().join(".node.cowsnap-restoring"));
    let kept = lab.target.path().join("node.before-restore-x");
    for renamed in [false, true] {
        // As such a process leaves it, before and after what was there has got its name.
        fs::create_dir(&staging).expect("mkdir");
        fs::set_permissions(&staging, fs::Permissions::from_mode(0o700)).expect("chmod");
        let old = if renamed { kept.clone() } else { staging.join("tree") };
        fs::create_dir(&old).expect("mkdir");
        fs::write(old.join("precious"), "x").expect("writes");
        let state = serde_json::json!({
            "holds": said["restored"]["version"], "applying": null, "inode": restored,
            "keep_as": b"node.before-restore-x", "lacks": [],
        });
        fs::write(staging.join("state"), state.to_string()).expect("writes");
        let before = lab.beside();
        let dry = lab.restored(&["--dry-run"]);
        assert_eq!(code(&dry), Some(0), "{}", errors(&dry));
        assert!(String::from_utf8_lossy(&dry.stdout).contains("node.before-restore-x"));
        assert_eq!((lab.beside(), old.exists()), (before, true), "nothing is done");
        let done = lab.restored(&["--replace", "--json"]);
        assert_eq!(code(&done), Some(0), "{}", errors(&done));
        let done: Value = serde_json::from_slice(&done.stdout).expect("JSON");
        assert_eq!(done["restored"]["received"], serde_json::json!([]), "{done}");
        assert_eq!(done["kept"].as_str(), kept.to_str());
        assert_eq!((inode(), lab.beside()), (restored, vec!["node".into(), "node.before-restore-x".into()]));
        assert_eq!(fs::read(kept.join("precious")).expect("it is kept"), b"x");
        fs::remove_dir_all(&kept).expect("removes");
    }
    // Another version is wanted: what was exchanged is kept, and so is what took its place.
    fs::create_dir(&staging).expect("mkdir");
    fs::set_permissions(&staging, fs::Permissions::from_mode(0o700)).expect("chmod");
    fs::create_dir(staging.join("tree")).expect("mkdir");
    fs::write(staging.join("tree/precious"), "x").expect("writes");
    let state = serde_json::json!({
        "holds": said["restored"]["version"], "applying": null, "inode": restored,
        "keep_as": b"node.before-restore-x", "lacks": [],
    });
    fs::write(staging.join("state"), state.to_string()).expect("writes");
    let done = lab.restored(&["--replace", "--name", "s1"]);
    assert_eq!(code(&done), Some(0), "{}", errors(&done));
    lab.assert_is(1);
    assert_eq!(fs::read(kept.join("precious")).expect("it is kept"), b"x");
    assert_eq!(lab.beside().len(), 3, "{:?}", lab.beside());
}

#[test]
fn what_does_not_fit_a_restore_of_files_is_refused_and_not_passed_over() {
    ground!("btrfs", "ext4");
    let lab = Lab::new(Plain::ext4(), 1000);
    for option in ["-r", "--copy"] {
        let refused = lab.restored(&[option]);
        assert_eq!(code(&refused), Some(2), "{option}: {}", errors(&refused));
        assert!(lab.beside().is_empty());
    }
}
