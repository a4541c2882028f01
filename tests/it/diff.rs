//! What changed, against a comparison of all files of both trees.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use cowsnap::endpoint::btrfs::diff::changes;
use cowsnap::endpoint::change::{Change, Kind};
use expect_test::expect;

use crate::ground::{Btrfs, ground, run};

fn snapshot(ground: &Btrfs, name: &str) -> PathBuf {
    let path = ground.path().join(name);
    let source = ground.path().join("data");
    run("btrfs", &["subvolume", "snapshot", "-r", source.to_str().unwrap(), path.to_str().unwrap()]);
    path
}

fn diff(old: &Path, new: &Path) -> Vec<Change> {
    let open = |path: &Path| File::open(path).unwrap().into();
    changes(open(old), open(new), "the test's snapshots").unwrap()
}

fn told(changes: &[Change]) -> String {
    let line = |change: &Change| {
        let from = change.from.as_ref().map_or(String::new(), |from| format!("{} -> ", from.escape_ascii()));
        format!("{} {from}{}\n", change.kind, change.path.escape_ascii())
    };
    changes.iter().map(line).collect()
}

#[test]
fn of_a_file_with_more_names_than_the_kernel_tells_all_are_told() {
    ground!("btrfs");
    let ground = Btrfs::new();
    let data = ground.subvolume("data");
    fs::write(data.join("first"), "1").unwrap();
    let mut names = BTreeSet::from([b"first".to_vec()]);
    for number in 0..120 {
        let name = format!("d{number}/{}", "n".repeat(60));
        fs::create_dir(data.join(format!("d{number}"))).unwrap();
        fs::hard_link(data.join("first"), data.join(&name)).unwrap();
        names.insert(name.into_bytes());
    }
    let old = snapshot(&ground, "old");
    fs::write(data.join("first"), "changed").unwrap();
    let changes = diff(&old, &snapshot(&ground, "new"));
    assert!(changes.iter().all(|change| change.kind == Kind::Modified), "{}", told(&changes));
    assert_eq!(changes.into_iter().map(|change| change.path).collect::<BTreeSet<_>>(), names);
}

#[test]
fn each_kind_of_change_has_its_letter_and_final_names() {
    ground!("btrfs");
    let ground = Btrfs::new();
    let data = ground.subvolume("data");
    for dir in ["swap a", "swap b", "moved", "gone"] {
        fs::create_dir(data.join(dir)).unwrap();
        fs::write(data.join(dir).join("inside"), dir).unwrap();
    }
    for file in ["kept", "written", "chmodded", "replaced", "retyped", "touched and named"] {
        fs::write(data.join(file), file).unwrap();
    }
    fs::hard_link(data.join("written"), data.join("other name")).unwrap();
    let old = snapshot(&ground, "old");

    fs::rename(data.join("swap a"), data.join("x")).unwrap();
    fs::rename(data.join("swap b"), data.join("swap a")).unwrap();
    fs::rename(data.join("x"), data.join("swap b")).unwrap();
    fs::rename(data.join("moved"), data.join("swap a/deep")).unwrap();
    fs::write(data.join("swap a/deep/inside"), "written below a moved directory").unwrap();
    fs::remove_dir_all(data.join("gone")).unwrap();
    fs::write(data.join("written"), "other words").unwrap();
    fs::set_permissions(data.join("chmodded"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(data.join("tmp"), "by rename").unwrap();
    fs::rename(data.join("tmp"), data.join("replaced")).unwrap();
    fs::remove_file(data.join("retyped")).unwrap();
    symlink("kept", data.join("retyped")).unwrap();
    fs::hard_link(data.join("kept"), data.join("second name\n")).unwrap();
    fs::rename(data.join("touched and named"), data.join("named")).unwrap();
    fs::write(data.join("named"), "and written").unwrap();
    fs::create_dir(data.join("new")).unwrap();
    let new = snapshot(&ground, "new");

    expect![[r#"
        m chmodded
        D gone
        D gone/inside
        R touched and named -> named
        M named
        A new
        M other name
        M replaced
        T retyped
        A second name\n
        R swap b -> swap a
        R moved -> swap a/deep
        M swap a/deep/inside
        R swap a -> swap b
        M written
    "#]]
    .assert_eq(&told(&diff(&old, &new)));
    assert_eq!(told(&diff(&new, &new)), "");
}

/// What a path is, in as much as a diff speaks of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    kind: u32,
    content: Vec<u8>,
    metadata: (u32, u32, u32, Option<(i64, i64)>),
}

fn tree(root: &Path) -> BTreeMap<Vec<u8>, Node> {
    let mut nodes = BTreeMap::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let stat = fs::symlink_metadata(&path).unwrap();
            let content = match stat.file_type() {
                t if t.is_dir() => {
                    todo.push(path.clone());
                    Vec::new()
                }
                t if t.is_symlink() => fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec(),
                _ => fs::read(&path).unwrap(),
            };
            let times = (!stat.is_dir()).then(|| (stat.mtime(), stat.mtime_nsec()));
            let node = Node {
                kind: stat.mode() & libc::S_IFMT,
                content,
                metadata: (stat.mode(), stat.uid(), stat.gid(), times),
            };
            nodes.insert(path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec(), node);
        }
    }
    nodes
}

/// Where each path of the old tree is in the new one, by what the changes say; those destroyed are left out.
fn moved(old: &BTreeMap<Vec<u8>, Node>, changes: &[Change]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let gone: BTreeSet<_> = changes.iter().filter(|c| c.kind == Kind::Destroyed).map(|c| &c.path).collect();
    let renamed: BTreeMap<_, _> =
        changes.iter().filter_map(|c| Some((c.from.clone()?, c.path.clone()))).collect();
    let now = |path: &Vec<u8>| {
        let ends = (1..=path.len()).rev().filter(|&end| end == path.len() || path[end] == b'/');
        let longest = ends.filter_map(|end| Some([renamed.get(&path[..end])?, &path[end..]].concat())).next();
        longest.unwrap_or_else(|| path.clone())
    };
    old.keys().filter(|path| !gone.contains(path)).map(|path| (path.clone(), now(path))).collect()
}

fn check_against_trees(old_root: &Path, new_root: &Path) {
    let (old, new) = (tree(old_root), tree(new_root));
    let changes = diff(old_root, new_root);
    let told = told(&changes);
    let moved = moved(&old, &changes);
    let added = changes.iter().filter(|c| c.kind == Kind::Added).map(|c| c.path.clone());
    let paths: BTreeSet<_> = moved.values().cloned().chain(added).collect();
    assert_eq!(paths, new.keys().cloned().collect(), "{told}");

    let said: BTreeMap<_, _> = changes
        .iter()
        .filter(|c| matches!(c.kind, Kind::Modified | Kind::Metadata | Kind::Retyped))
        .map(|c| (&c.path, c.kind))
        .collect();
    for (before, now) in &moved {
        let (a, b) = (&old[before], &new[now]);
        let expected = match () {
            () if a.kind != b.kind => Some(Kind::Retyped),
            () if a.content != b.content => Some(Kind::Modified),
            () if a.metadata != b.metadata => Some(Kind::Metadata),
            () => None,
        };
        let found = said.get(now).copied();
        // A file replaced by an equal one, or written with what it held, may be called modified.
        let fits = found == expected || (found == Some(Kind::Modified) && expected != Some(Kind::Retyped));
        assert!(
            fits,
            "{} -> {}: {expected:?} but told {found:?}\n{told}",
            before.escape_ascii(),
            now.escape_ascii()
        );
    }
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % sides
    }

    fn pick(&mut self, root: &Path, want: impl Fn(&fs::Metadata) -> bool) -> Option<PathBuf> {
        let paths: Vec<_> =
            tree(root).into_keys().map(|p| root.join(std::ffi::OsStr::from_bytes(&p))).collect();
        let fitting: Vec<_> = paths.into_iter().filter(|p| want(&fs::symlink_metadata(p).unwrap())).collect();
        (!fitting.is_empty()).then(|| fitting[self.roll(fitting.len())].clone())
    }

    fn place(&mut self, root: &Path) -> PathBuf {
        let dir = self.pick(root, fs::Metadata::is_dir).filter(|_| self.roll(4) > 0);
        dir.unwrap_or_else(|| root.to_path_buf()).join(format!("n {}", self.roll(12)))
    }

    /// One change, whatever it is; one that can not be made is none.
    fn mutate(&mut self, root: &Path) {
        let place = self.place(root);
        let words = format!("{:x}", self.0).repeat(1 + self.roll(2000));
        let file = self.pick(root, fs::Metadata::is_file);
        let _ = match (self.roll(12), file) {
            (0 | 1, _) => fs::create_dir(place),
            (2 | 3, _) => fs::write(place, words),
            (4, Some(file)) => fs::write(file, words),
            (5, Some(file)) => fs::remove_file(file),
            (6, Some(file)) => fs::hard_link(file, place),
            (7, _) => symlink(words.get(..9).unwrap_or("x"), place),
            (8, Some(file)) => {
                let mode = [0o600, 0o644, 0o755][self.roll(3)];
                fs::set_permissions(file, fs::Permissions::from_mode(mode))
            }
            (9, _) => match self.pick(root, fs::Metadata::is_dir).filter(|_| self.roll(3) == 0) {
                Some(dir) => fs::remove_dir_all(dir),
                None => Ok(()),
            },
            _ => match self.pick(root, |_| true) {
                Some(path) => fs::rename(path, place),
                None => Ok(()),
            },
        };
    }
}

#[test]
fn random_changes_are_told_as_a_comparison_of_both_trees_finds_them() {
    ground!("btrfs");
    let seed = std::env::var("COWSNAP_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let ground = Btrfs::new();
    let data = ground.subvolume("data");
    let mut dice = Dice(seed);
    (0..60).for_each(|_| dice.mutate(&data));
    let mut old = snapshot(&ground, "s0");
    for round in 1..=30 {
        let n_changes = 1 + dice.roll(30);
        (0..n_changes).for_each(|_| dice.mutate(&data));
        let new = snapshot(&ground, &format!("s{round}"));
        check_against_trees(&old, &new);
        check_against_trees(&new, &old);
        old = new;
    }
}
