//! Manifests of real trees: any change of one is noticed, and one that is read in part is the one that is read in full.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use cowsnap::endpoint::content::{Content, Reading};
use cowsnap::endpoint::{Backend, Dataset, History, SnapshotRequest};
use cowsnap::model::Version;
use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid, XattrFlags};

use crate::ground::{Btrfs, ground, run};

/// A dataset, and where its manifests are kept.
struct Lab {
    ground: Btrfs,
    data: PathBuf,
}

impl Lab {
    fn new() -> Self {
        let ground = Btrfs::new();
        let data = ground.subvolume("data");
        Self { ground, data }
    }

    fn dataset(&self) -> Dataset {
        cowsnap::endpoint::path::named(&self.data).unwrap()
    }

    fn snapshot(&self, name: &str) -> Version {
        let request = SnapshotRequest::named(name.parse().unwrap());
        Dataset::snapshot(&[self.dataset()], &request).unwrap().versions.remove(0)
    }

    fn state(&self) -> PathBuf {
        self.ground.outside().join("state")
    }

    fn read_with(&self, state: &Path, version: &Version, all: bool) -> Content {
        let reading = Reading { state_dir: state, all, told: &|_| Ok(()) };
        reading.of(&self.dataset(), &version.id).unwrap()
    }

    fn read(&self, version: &Version) -> Content {
        self.read_with(&self.state(), version, false)
    }

    /// What is read of it by who knows nothing yet.
    fn read_anew(&self, version: &Version) -> Content {
        self.read_with(
            &self.ground.outside().join("nothing known").join(version.id.guid.to_string()),
            version,
            false,
        )
    }
}

fn xattr(path: &Path, value: &[u8]) {
    rustix::fs::lsetxattr(path, "user.x", value, XattrFlags::empty()).unwrap();
}

/// Lets something happen to a tree.
type Change = fn(&Path);

fn keeping_times(path: &Path, change: impl FnOnce()) {
    let before = rustix::fs::lstat(path).unwrap();
    change();
    let time = |tv_sec, nsec| rustix::fs::Timespec { tv_sec, tv_nsec: nsec };
    let times = rustix::fs::Timestamps {
        last_access: time(before.st_atime, before.st_atime_nsec as i64),
        last_modification: time(before.st_mtime, before.st_mtime_nsec as i64),
    };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn fill(root: &Path) {
    for dir in ["d", "d/e", "f"] {
        fs::create_dir(root.join(dir)).unwrap();
    }
    fs::write(root.join("d/a"), "some words").unwrap();
    fs::write(root.join("d/e/large"), vec![7; 5 << 20]).unwrap();
    fs::write(root.join("d/e/empty"), "").unwrap();
    fs::write(root.join("linked"), "by two names").unwrap();
    fs::hard_link(root.join("linked"), root.join("f/linked too")).unwrap();
    fs::write(root.join("alone 1"), "the same").unwrap();
    fs::write(root.join("alone 2"), "the same").unwrap();
    symlink("d/a", root.join("f/link")).unwrap();
    let dev = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(rustix::fs::CWD, root.join("f/null"), FileType::CharacterDevice, Mode::RUSR, dev)
        .unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(b"end", 3 << 20).unwrap();
    fs::write(root.join("odd \n\\\u{e4}"), "name").unwrap();
    xattr(&root.join("d/a"), b"1");
}

#[test]
fn any_change_of_a_tree_is_noticed_and_named() {
    ground!("btrfs");
    let lab = Lab::new();
    fill(&lab.data);
    let first = lab.snapshot("first");
    let before = lab.read(&first);
    assert_eq!((before.summary.entries, before.summary.read_bytes > (8 << 20)), (15, true));
    let changes: [(&str, Change); 16] = [
        ("d/a", |root| fs::write(root.join("d/a"), "some w0rds").unwrap()),
        ("d/a", |root| {
            let path = root.join("d/a");
            keeping_times(&path, || fs::write(&path, "same words").unwrap());
        }),
        ("d/e/large", |root| {
            let path = root.join("d/e/large");
            keeping_times(&path, || {
                let file = File::options().write(true).open(&path).unwrap();
                file.write_all_at(&[8], (5 << 20) - 1).unwrap();
            });
        }),
        ("d/e/empty", |root| {
            File::options().write(true).open(root.join("d/e/empty")).unwrap().set_len(1).unwrap()
        }),
        ("d", |root| fs::set_permissions(root.join("d"), PermissionsExt::from_mode(0o700)).unwrap()),
        ("f/link", |root| {
            let (uid, gid) = (Uid::from_raw(7), Gid::from_raw(8));
            rustix::fs::chownat(
                rustix::fs::CWD,
                root.join("f/link"),
                Some(uid),
                Some(gid),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .unwrap();
        }),
        ("d/a", |root| xattr(&root.join("d/a"), b"2")),
        ("d/e", |root| xattr(&root.join("d/e"), b"")),
        ("f/link", |root| {
            let (path, dir) = (root.join("f/link"), root.join("f"));
            keeping_times(&dir, || {
                let times = rustix::fs::lstat(&path).unwrap();
                fs::remove_file(&path).unwrap();
                symlink("d/b", &path).unwrap();
                assert_eq!(times.st_size, 3);
            });
        }),
        ("f/null", |root| {
            let dir = root.join("f");
            keeping_times(&dir, || {
                fs::remove_file(root.join("f/null")).unwrap();
                let (cwd, dev) = (rustix::fs::CWD, rustix::fs::makedev(1, 5));
                rustix::fs::mknodat(cwd, root.join("f/null"), FileType::CharacterDevice, Mode::RUSR, dev)
                    .unwrap();
            });
        }),
        ("linked", |root| fs::write(root.join("f/linked too"), "by two n4mes").unwrap()),
        ("alone 1", |root| {
            // Two files become one: only how many there are tells.
            let (a, b) = (root.join("alone 1"), root.join("alone 2"));
            keeping_times(root, || {
                fs::remove_file(&b).unwrap();
                fs::hard_link(&a, &b).unwrap();
            });
        }),
        ("new", |root| keeping_times(root, || fs::write(root.join("new"), "").unwrap())),
        ("alone 1", |root| keeping_times(root, || fs::remove_file(root.join("alone 1")).unwrap())),
        ("alone 1", |root| {
            keeping_times(root, || fs::rename(root.join("alone 1"), root.join("alone 3")).unwrap());
        }),
        ("d/a", |root| {
            let now = rustix::fs::Timespec { tv_sec: 5, tv_nsec: 6 };
            let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
            rustix::fs::utimensat(rustix::fs::CWD, root.join("d/a"), &times, AtFlags::empty()).unwrap();
        }),
    ];
    for (n, (path, change)) in changes.into_iter().enumerate() {
        let work = lab.ground.path().join("work");
        let first_at = lab.ground.path().join(".cowsnap/datasets/data/snap/first");
        // Each upon the same: the dataset is the first snapshot again.
        run("btrfs", &["subvolume", "delete", lab.data.to_str().unwrap()]);
        run("btrfs", &["subvolume", "snapshot", first_at.to_str().unwrap(), work.to_str().unwrap()]);
        fs::rename(&work, &lab.data).unwrap();
        change(&lab.data);
        let version = lab.snapshot(&format!("change {n}"));
        let now = lab.read(&version);
        assert_ne!(now.summary.blake3, before.summary.blake3, "change {n}");
        assert_eq!(now.summary.upon.as_ref().map(|name| name.as_str()), Some("first"));
        assert_eq!(now.lines, lab.read_anew(&version).lines, "change {n}");
        let found = differences(&before, &now);
        assert!(found.contains(&path.to_owned()), "change {n} is of {path}, and {found:?} are named");
        lab.dataset().destroy(&version.id).unwrap();
    }
}

fn differences(a: &Content, b: &Content) -> Vec<String> {
    use cowsnap::endpoint::content::{compare, page};
    let (found, _) = compare(&mut |dir, after| Ok(page(&a.lines, dir, after)), &mut |dir, after| {
        Ok(page(&b.lines, dir, after))
    })
    .unwrap();
    found.into_iter().map(|difference| difference.path.replace("\\x20", " ")).collect()
}

/// Numbers that are the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}

/// Everything in the tree, by kind.
fn places(root: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut dirs, mut files) = (vec![root.to_owned()], Vec::new());
    let mut at = 0;
    while at < dirs.len() {
        let mut entries: Vec<_> = fs::read_dir(&dirs[at]).unwrap().map(|entry| entry.unwrap()).collect();
        entries.sort_by_key(|entry| entry.file_name());
        for entry in entries {
            let kind = entry.file_type().unwrap();
            match kind.is_dir() {
                true => dirs.push(entry.path()),
                false if kind.is_file() => files.push(entry.path()),
                false => {}
            }
        }
        at += 1;
    }
    (dirs, files)
}

fn step(root: &Path, dice: &mut Dice) {
    let (dirs, files) = places(root);
    let dir = dirs[dice.roll(dirs.len())].clone();
    let name = dir.join(format!("n{}", dice.roll(12)));
    let file = (!files.is_empty()).then(|| files[dice.roll(files.len())].clone());
    let bytes = vec![dice.roll(250) as u8; 1 + dice.roll(40_000)];
    // What is not possible as things stand does not happen.
    let _ = match (dice.roll(12), file) {
        (0, _) => fs::create_dir(&name),
        (1 | 2, _) => fs::write(&name, &bytes),
        (3, Some(file)) => fs::remove_file(file),
        (4, Some(file)) => fs::rename(file, &name),
        (5, Some(file)) => fs::hard_link(file, &name),
        (6, Some(file)) => {
            File::options().write(true).open(file).and_then(|file| file.write_all_at(b"x", 10))
        }
        (7, Some(file)) => {
            let other = bytes.len() as u64;
            keeping_times(&file, || File::options().write(true).open(&file).unwrap().set_len(other).unwrap());
            Ok(())
        }
        (8, Some(file)) => {
            let len = fs::metadata(&file).unwrap().len() as usize;
            keeping_times(&file, || fs::write(&file, vec![b'!'; len]).unwrap());
            Ok(())
        }
        (9, Some(file)) => fs::set_permissions(file, PermissionsExt::from_mode(0o600 + dice.roll(8) as u32)),
        (10, _) => fs::rename(&dir, root.join(format!("moved {}", dice.roll(5)))),
        (11, _) if dir != root => fs::remove_dir_all(&dir),
        _ => Ok(()),
    };
}

#[test]
fn what_is_read_in_part_is_what_is_read_in_full() {
    ground!("btrfs");
    for seed in 1..=4 {
        let lab = Lab::new();
        let mut dice = Dice(seed);
        (0..60).for_each(|_| step(&lab.data, &mut dice));
        let mut parts = 0;
        for round in 0..12 {
            (0..1 + dice.roll(14)).for_each(|_| step(&lab.data, &mut dice));
            let version = lab.snapshot(&format!("round {round}"));
            let (part, full) = (lab.read(&version), lab.read_anew(&version));
            assert_eq!(part.lines, full.lines, "seed {seed}, round {round}");
            assert_eq!((part.summary.blake3, full.summary.upon), (full.summary.blake3, None));
            assert!(part.summary.upon.is_some() || round == 0);
            parts += u32::from(part.summary.read_bytes < full.summary.read_bytes);
        }
        assert!(parts > 0, "seed {seed}: all was read each time");
    }
}

#[test]
fn a_manifest_that_is_damaged_or_of_something_else_is_made_anew() {
    ground!("btrfs");
    let lab = Lab::new();
    fill(&lab.data);
    let first = lab.snapshot("first");
    let read = lab.read(&first);
    assert!(!read.summary.kept && lab.read(&first).summary.kept, "the second time nothing is read");
    let kept = |state: &Path| -> BTreeMap<PathBuf, Vec<u8>> {
        let folders = fs::read_dir(state.join("manifests")).unwrap().map(|entry| entry.unwrap().path());
        let files =
            folders.flat_map(|folder| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
        files.map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
    };
    let all = kept(&lab.state());
    let (path, bytes) = all.first_key_value().unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(
        fs::metadata(path).unwrap().permissions().mode() & 0o777,
        0o600,
        "names are nobody's business"
    );
    let mut damaged = bytes.clone();
    damaged[200] ^= 4;
    fs::write(path, damaged).unwrap();
    let again = lab.read(&first);
    assert!(!again.summary.kept && again.summary.notes[0].contains("is damaged"), "{:?}", again.summary);
    assert_eq!(again.lines, read.lines);
    assert!(lab.read(&first).summary.kept, "it was put right");
    // All of it is read if that is wanted, whatever is kept.
    let anew = lab.read_with(&lab.state(), &first, true);
    assert!(!anew.summary.kept && anew.summary.read_bytes == read.summary.read_bytes);
    // Where nothing can be kept, that is said.
    fs::write(lab.ground.outside().join("no directory"), "").unwrap();
    let nowhere = lab.read_with(&lab.ground.outside().join("no directory"), &first, false);
    assert_eq!(nowhere.lines, read.lines);
    assert!(nowhere.summary.notes[0].contains("is not kept for the next time"), "{:?}", nowhere.summary);
    // What is kept goes with the snapshot.
    let second = lab.snapshot("second");
    assert_eq!(lab.read(&second).summary.read_bytes, 0);
    assert_eq!(kept(&lab.state()).len(), 2);
    lab.dataset().destroy(&first.id).unwrap();
    let third = lab.snapshot("third");
    assert_eq!(lab.read(&third).summary.upon.unwrap().as_str(), "second");
    assert_eq!(kept(&lab.state()).len(), 2);
    let gone =
        Reading { state_dir: &lab.state(), all: true, told: &|_| Ok(()) }.of(&lab.dataset(), &first.id);
    assert!(matches!(gone, Err(cowsnap::endpoint::Error::NotFound { .. })), "{gone:?}");
}

#[test]
fn a_nested_dataset_is_none_of_the_content_and_said() {
    ground!("btrfs");
    let lab = Lab::new();
    fs::write(lab.data.join("a"), "a").unwrap();
    run("btrfs", &["subvolume", "create", lab.data.join("inner").to_str().unwrap()]);
    fs::write(lab.data.join("inner/b"), "b").unwrap();
    let read = lab.read(&lab.snapshot("s"));
    assert_eq!(read.summary.entries, 2);
    assert_eq!(read.summary.notes, ["1 nested dataset(s) are left out: inner …"]);
}

#[test]
fn a_snapshot_that_goes_while_it_is_read_is_said_to_be_gone() {
    ground!("btrfs");
    let lab = Lab::new();
    (0..40).for_each(|n| fs::write(lab.data.join(format!("f{n}")), vec![n; 3 << 20]).unwrap());
    let version = lab.snapshot("s");
    let (dataset, state) = (lab.dataset(), lab.state());
    let once = std::sync::Once::new();
    let destroy = |_| {
        once.call_once(|| dataset.destroy(&version.id).unwrap());
        Ok(())
    };
    let read = Reading { state_dir: &state, all: false, told: &destroy }.of(&dataset, &version.id);
    let gone = read.unwrap_err();
    assert!(matches!(gone, cowsnap::endpoint::Error::NotFound { .. }), "{gone:?}");
}

#[test]
fn what_was_read_of_a_snapshot_before_it_was_changed_is_not_believed() {
    ground!("btrfs");
    let lab = Lab::new();
    fill(&lab.data);
    let first = lab.snapshot("first");
    let before = lab.read(&first);
    let at = lab.ground.path().join(".cowsnap/datasets/data/snap/first");
    run("btrfs", &["property", "set", at.to_str().unwrap(), "ro", "false"]);
    let file = at.join("d/a");
    keeping_times(&file, || fs::write(&file, "same words").unwrap());
    run("btrfs", &["property", "set", at.to_str().unwrap(), "ro", "true"]);
    let second = lab.snapshot("second");
    let of_second = lab.read(&second);
    assert_eq!((of_second.lines, of_second.summary.upon), (lab.read_anew(&second).lines, None));
    let now = lab.read(&first);
    assert!(!now.summary.kept && now.summary.blake3 != before.summary.blake3);
}

#[test]
fn a_snapshot_that_is_writable_is_read_each_time() {
    ground!("btrfs");
    let lab = Lab::new();
    fill(&lab.data);
    let first = lab.snapshot("first");
    let at = lab.ground.path().join(".cowsnap/datasets/data/snap/first");
    run("btrfs", &["property", "set", at.to_str().unwrap(), "ro", "false"]);
    let before = lab.read(&first);
    let file = at.join("d/a");
    keeping_times(&file, || fs::write(&file, "same words").unwrap());
    let now = lab.read(&first);
    assert!(!now.summary.kept && now.summary.upon.is_none() && now.summary.blake3 != before.summary.blake3);
    let second = lab.snapshot("second");
    assert_eq!(lab.read(&second).summary.upon, None, "nothing is known of what may change");
}

#[test]
fn what_is_kept_is_held_against_what_stands_there_and_dated_by_its_oldest_reading() {
    ground!("btrfs");
    let lab = Lab::new();
    fill(&lab.data);
    let first = lab.snapshot("first");
    let of_first = lab.read(&first).summary;
    fs::write(lab.data.join("new"), "new").unwrap();
    let second = lab.snapshot("second");
    let part = lab.read(&second);
    assert_eq!((part.summary.read_bytes, part.summary.at), (3, of_first.at));
    let again = lab.read(&second).summary;
    assert!(again.kept && again.at == of_first.at && again.upon == part.summary.upon);
    assert!(lab.read_with(&lab.state(), &second, true).summary.at > of_first.at);
    // Its manifest is of another size of a file than stands there now.
    let folder = fs::read_dir(lab.state().join("manifests")).unwrap().next().unwrap().unwrap().path();
    let path = folder.join(format!("{}.manifest", second.id.guid));
    let text = fs::read_to_string(&path).unwrap();
    let (sealed, _) = text.split_at(text.len() - 70);
    let size = format!("\t{}\t", 5 << 20);
    assert_eq!(sealed.matches(&size).count(), 1, "{sealed}");
    let sealed = sealed.replace(&size, &format!("\t{}\t", 4 << 20));
    let seal = blake3::derive_key("cowsnap content manifest 1", sealed.as_bytes());
    let seal: String = seal.iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(&path, format!("{sealed}seal {seal}\n")).unwrap();
    let now = lab.read(&second);
    assert_eq!((now.lines, now.summary.kept, now.summary.read_bytes), (part.lines, false, 5 << 20));
    assert!(now.summary.notes[0].contains("is not what was read before"), "{:?}", now.summary);
    assert!(lab.read(&second).summary.kept, "it was put right");
}
