//! What changed between two versions, as `zfs diff` tells it, with what that leaves out looked up in both trees.
//!
//! `zfs diff` tells of files by their numbers: whether a file was written to or only given another mode, and by which further
//! names it is known, it does not say. Both trees can be seen in `.zfs/snapshot`, so the files that it names are looked at.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, openat, statat};

use crate::endpoint::change::{Change, Kind};
use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::{mounted, program};
use crate::endpoint::{Error, Result};
use crate::model::{VersionRef, quoted};
use crate::sys::{interrupt, mount};

/// Up to this length in bytes, a file that `zfs diff` calls modified is read to see whether it is.
const READ_TO_COMPARE: i64 = 1 << 20;

impl Dataset {
    /// What changed from `old` to `new`, or to what the dataset is now; sorted by path.
    ///
    /// A file of more than 1 MiB whose times changed counts as modified; a smaller one is looked at.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Reused`]; [`Error::Refused`] for a volume, or a filesystem that is not mounted.
    pub fn changes(&self, old: &VersionRef, new: Option<&VersionRef>) -> Result<Vec<Change>> {
        let from = self.expect_snapshot(old, "compare")?;
        let to = match new {
            Some(new) => self.expect_snapshot(new, "compare")?,
            None => self.name().to_string(),
        };
        let dir = self.seen()?;
        if from == to {
            return Ok(Vec::new()); // Which zfs diff calls an error.
        }
        let text = program::zfs(&["diff", "-FHt", &from, &to])
            .map_err(|failure| self.not_compared(failure, &from))?;
        let snapshot = |version: &VersionRef| open_snapshot(&dir, &self.full_name(&version.name), version);
        let live = || open_dir(&dir).map_err(Error::io("open", dir.display()));
        let trees = Trees { old: snapshot(old)?, new: new.map_or_else(live, snapshot)?, subject: &from };
        let mounts: Vec<_> =
            mounted::mounts_of(self.name().as_str())?.into_iter().map(|info| info.dir).collect();
        trees.changes(&told(&text, &mounts)?)
    }

    /// Where the whole of it is mounted: neither is a volume's content comparable, nor one that is not mounted.
    fn seen(&self) -> Result<PathBuf> {
        if self.is_volume()? {
            return Err(self.refused("compare", "it is a volume, which has no files".into(), None));
        }
        self.mountpoint()?.ok_or_else(|| {
            let why = "it is not mounted, and ZFS compares what is".into();
            self.refused("compare", why, Some(format!("zfs mount {}", quoted(self.name()))))
        })
    }

    fn not_compared(&self, failure: program::Failure, from: &str) -> Error {
        match failure.into_error("compare", from) {
            Error::Denied { op, subject, .. } => {
                super::error::not_permitted(op, subject, &[("diff", self.name().as_str())])
            }
            error => error,
        }
    }
}

/// The root of a snapshot, through a mount that nobody sees and that goes with the descriptor. Who may not mount sees it in
/// `.zfs`, where the kernel leaves it mounted for some minutes.
fn open_snapshot(dir: &Path, full_name: &str, version: &VersionRef) -> Result<OwnedFd> {
    if let Ok(mount) = mount::detached("zfs", Path::new(full_name), mount::READ_ONLY) {
        return Ok(mount.into());
    }
    let path = dir.join(".zfs/snapshot").join(version.name.as_str());
    open_dir(&path).map_err(Error::io("open", path.display()))
}

fn open_dir(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// One line of `zfs diff -FHt`. Paths are relative to the dataset's root.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    change: u8,
    kind: u8,
    path: Vec<u8>,
    to: Option<Vec<u8>>,
}

/// Reads what `zfs diff` says of a dataset that is mounted at one of `mounts`.
fn told(text: &[u8], mounts: &[PathBuf]) -> Result<Vec<Told>> {
    let lines = text.split(|&b| b == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| told_by(line, mounts).ok_or_else(|| strange(line))).collect()
}

fn strange(line: &[u8]) -> Error {
    let why = format!("{:?} is not what was asked for", line.escape_ascii().to_string());
    Error::Corrupt { what: "listing by zfs diff", why, source: None }
}

/// `1792549893.123456789 R F /tank/a/old /tank/a/new`, with tabs between; `(+1)` in the last place counts further names.
fn told_by(line: &[u8], mounts: &[PathBuf]) -> Option<Told> {
    let fields: Vec<_> = line.split(|&b| b == b'\t').collect();
    let (&[_, &[change], &[kind], path], rest) = fields.split_first_chunk::<4>()? else { return None };
    let below = |path: &[u8]| below_one_of(&unescape(path)?, mounts);
    let to = match (change, rest) {
        (b'R', [to]) => Some(below(to)?),
        (b'R', _) => return None,
        (b'M' | b'+' | b'-', [] | [[b'(', ..]]) => None,
        _ => return None,
    };
    Some(Told { change, kind, path: below(path)?, to })
}

fn below_one_of(path: &[u8], mounts: &[PathBuf]) -> Option<Vec<u8>> {
    // Where it can not find a name, `zfs diff` puts a number: that is no path.
    if path.split(|&b| b == b'/').any(|part| part.starts_with(b"???<object#")) {
        return None;
    }
    let path = Path::new(OsStr::from_bytes(path));
    let below = mounts
        .iter()
        .filter_map(|dir| path.strip_prefix(dir).ok())
        .min_by_key(|rest| rest.as_os_str().len())?;
    Some(below.as_os_str().as_bytes().to_vec())
}

/// What is no printable ASCII comes as a backslash and four octal digits.
fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        if first != b'\\' {
            bytes.push(first);
            rest = tail;
            continue;
        }
        let digits = std::str::from_utf8(tail.get(..4)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 8).ok()?);
        rest = &tail[4..];
    }
    Some(bytes)
}

/// Both trees, to look up what is not told.
struct Trees<'a> {
    old: OwnedFd,
    new: OwnedFd,
    subject: &'a str,
}

impl Trees<'_> {
    fn changes(&self, told: &[Told]) -> Result<Vec<Change>> {
        let mut changes = BTreeSet::new();
        for told in told {
            interrupt::check()
                .map_err(|_| Error::Interrupted { op: "compare", subject: self.subject.to_owned() })?;
            let extended = part_of_attributes(&told.path);
            match (told.change, extended) {
                (_, Some(path)) => note(&mut changes, path.to_vec(), Kind::Metadata, None),
                (b'+', None) => note(&mut changes, told.path.clone(), Kind::Added, None),
                (b'-', None) => note(&mut changes, told.path.clone(), Kind::Destroyed, None),
                (b'R', None) => {
                    let to = told.to.clone().unwrap_or_default();
                    if let Some(kind) = self.modified(&told.path, &to, true) {
                        note(&mut changes, to.clone(), kind, None);
                    }
                    note(&mut changes, to, Kind::Renamed, Some(told.path.clone()));
                }
                _ => {
                    if let Some(kind) = self.modified(&told.path, &told.path, false) {
                        note(&mut changes, told.path.clone(), kind, None);
                    }
                }
            }
        }
        self.note_further_names(told, &mut changes);
        self.join_replaced(&mut changes);
        Ok(changes.into_iter().collect())
    }

    /// How a file or directory changed that `zfs diff` tells of; `None` if only its names did. One that was `renamed` need not
    /// have changed otherwise.
    fn modified(&self, before: &[u8], now: &[u8], renamed: bool) -> Option<Kind> {
        let (Ok(old), Ok(new)) = (stat(&self.old, before), stat(&self.new, now)) else {
            return Some(Kind::Modified); // It has changed again.
        };
        let metadata = (old.st_mode, old.st_uid, old.st_gid) != (new.st_mode, new.st_uid, new.st_gid);
        match type_of(&new) {
            FileType::Directory => metadata.then_some(Kind::Metadata),
            FileType::RegularFile if self.was_written((before, &old), (now, &new)) => Some(Kind::Modified),
            _ if metadata || times(&old) != times(&new) => Some(Kind::Metadata),
            // Attributes, then, which no call tells cheaply.
            _ => (!renamed && old.st_nlink == new.st_nlink).then_some(Kind::Metadata),
        }
    }

    fn was_written(&self, (before, old): (&[u8], &Stat), (now, new): (&[u8], &Stat)) -> bool {
        if old.st_size != new.st_size {
            return true;
        }
        match new.st_size <= READ_TO_COMPARE {
            true => !same_bytes(&self.old, before, &self.new, now).unwrap_or(false),
            false => times(old) != times(new),
        }
    }

    /// `zfs diff` tells of a file by one of its names: the others that came or went are in directories that it tells of.
    fn note_further_names(&self, told: &[Told], changes: &mut BTreeSet<Change>) {
        let known: HashSet<Vec<u8>> =
            changes.iter().flat_map(|c| [Some(c.path.clone()), c.from.clone()]).flatten().collect();
        let is_kept_dir = |told: &&Told| told.kind == b'/' && matches!(told.change, b'M' | b'R');
        for told in told.iter().filter(is_kept_dir) {
            let now = told.to.as_ref().unwrap_or(&told.path);
            let (Some(old), Some(new)) = (names_in(&self.old, &told.path), names_in(&self.new, now)) else {
                continue;
            };
            for name in new.difference(&old) {
                note_if_new(changes, &known, joined(now, name), Kind::Added);
            }
            for name in old.difference(&new) {
                note_if_new(changes, &known, joined(&told.path, name), Kind::Destroyed);
            }
        }
    }

    /// What went and came under the same name is one change.
    fn join_replaced(&self, changes: &mut BTreeSet<Change>) {
        let of = |kind| -> BTreeSet<Vec<u8>> {
            changes.iter().filter(|c| c.kind == kind).map(|c| c.path.clone()).collect()
        };
        let both: Vec<_> = of(Kind::Added).intersection(&of(Kind::Destroyed)).cloned().collect();
        for path in both {
            changes.retain(|change| {
                change.path != path || !matches!(change.kind, Kind::Added | Kind::Destroyed)
            });
            let types = |path: &[u8]| {
                Some((type_of(&stat(&self.old, path).ok()?), type_of(&stat(&self.new, path).ok()?)))
            };
            let kind = match types(&path) {
                Some((old, new)) if old != new => Some(Kind::Retyped),
                Some((FileType::Directory, _)) => self.modified(&path, &path, false),
                _ => Some(Kind::Modified),
            };
            if let Some(kind) = kind {
                note(changes, path, kind, None);
            }
        }
    }
}

fn note(changes: &mut BTreeSet<Change>, path: Vec<u8>, kind: Kind, from: Option<Vec<u8>>) {
    let path = if path.is_empty() { b".".to_vec() } else { path };
    changes.insert(Change { path, kind, from });
}

fn note_if_new(changes: &mut BTreeSet<Change>, known: &HashSet<Vec<u8>>, path: Vec<u8>, kind: Kind) {
    if !known.contains(&path) {
        note(changes, path, kind, None);
    }
}

/// The file whose extended attributes, kept as files of their own, `path` is among.
fn part_of_attributes(path: &[u8]) -> Option<&[u8]> {
    let mark = b"/<xattrdir>";
    path.windows(mark.len()).position(|part| part == mark).map(|at| &path[..at])
}

fn joined(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = dir.to_vec();
    if !dir.is_empty() {
        path.push(b'/');
    }
    path.extend(name);
    path
}

fn shown(path: &[u8]) -> &Path {
    if path.is_empty() { Path::new(".") } else { Path::new(OsStr::from_bytes(path)) }
}

fn stat(root: &OwnedFd, path: &[u8]) -> rustix::io::Result<Stat> {
    statat(root, shown(path), AtFlags::SYMLINK_NOFOLLOW)
}

fn times(stat: &Stat) -> (i64, u64) {
    (stat.st_mtime, stat.st_mtime_nsec)
}

fn type_of(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn open_beneath(root: &OwnedFd, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    openat(root.as_fd(), shown(path), flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn names_in(root: &OwnedFd, dir: &[u8]) -> Option<BTreeSet<Vec<u8>>> {
    let fd = open_beneath(root, dir, OFlags::RDONLY | OFlags::DIRECTORY).ok()?;
    let names =
        Dir::read_from(&fd).ok()?.map(|entry| entry.map(|entry| entry.file_name().to_bytes().to_vec()));
    let names = names.collect::<rustix::io::Result<BTreeSet<_>>>().ok()?;
    Some(names.into_iter().filter(|name| name != b"." && name != b"..").collect())
}

fn same_bytes(old_root: &OwnedFd, before: &[u8], new_root: &OwnedFd, now: &[u8]) -> std::io::Result<bool> {
    let read = |root, path| {
        let mut bytes = Vec::new();
        let file = File::from(open_beneath(root, path, OFlags::RDONLY)?);
        file.take(READ_TO_COMPARE.unsigned_abs() + 1).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    Ok(read(old_root, before)? == read(new_root, now)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(line: &[u8]) -> String {
        let mounts = [PathBuf::from("/tank/a b:c")];
        let text = |path: &[u8]| path.escape_ascii().to_string();
        match told_by(line, &mounts) {
            None => "none".into(),
            Some(told) => {
                let to = told.to.map(|to| format!(" -> {}", text(&to))).unwrap_or_default();
                format!("{} {} {}{to}", char::from(told.change), char::from(told.kind), text(&told.path))
            }
        }
    }

    #[test]
    fn lines_are_read_with_their_escapes() {
        for (line, wanted) in [
            (&b"1792549893.000000001\tM\t/\t/tank/a\\0040b:c"[..], "M / "),
            (b"1792549893.123456789\t+\tF\t/tank/a\\0040b:c/new", "+ F new"),
            (b"1.2\t-\t@\t/tank/a\\0040b:c/d/x\\0134y\\0012z", "- @ d/x\\\\y\\nz"),
            (b"1.2\tR\tF\t/tank/a\\0040b:c/\\0303\\0244\t/tank/a\\0040b:c/d/b", "R F \\xc3\\xa4 -> d/b"),
            (b"1.2\tM\tF\t/tank/a\\0040b:c/f\t(+1)", "M F f"),
        ] {
            assert_eq!(shown(line), wanted, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn what_is_no_line_of_it_is_noticed() {
        for line in [
            &b"1.2\tM\tF"[..],
            b"1.2\tX\tF\t/tank/a\\0040b:c/f",
            b"1.2\tR\tF\t/tank/a\\0040b:c/f",
            b"1.2\tM\tF\t/elsewhere/f",
            b"1.2\tM\tF\t/tank/a\\0040b:c/\\9",
            b"1.2\tM\tF\t/tank/a\\0040b:c/d/???<object#17>",
            b"1.2\tR\tF\t/tank/a\\0040b:c/f\t/tank/a\\0040b:c/???<object#17>/x",
            b"1.2\tMM\tF\t/tank/a\\0040b:c/f",
            b"",
        ] {
            assert_eq!(shown(line), "none", "{}", line.escape_ascii());
        }
        assert!(told(b"rubbish\n", &[]).is_err());
        assert_eq!(told(b"", &[]).expect("nothing"), []);
    }

    #[test]
    fn a_filesystem_at_the_root_has_paths_too() {
        let told = told_by(b"1.2\t+\tF\t//etc/x", &[PathBuf::from("/")]).expect("a line");
        assert_eq!(told.path, b"etc/x");
    }

    #[test]
    fn attributes_that_are_files_are_of_their_file() {
        assert_eq!(part_of_attributes(b"d/f/<xattrdir>/user.x"), Some(&b"d/f"[..]));
        assert_eq!(part_of_attributes(b"d/f/<xattrdir>"), Some(&b"d/f"[..]));
        assert_eq!(part_of_attributes(b"d/f"), None);
    }

    /// What `changes` makes of lines about two trees that `make` fills.
    fn changes(make: impl FnOnce(&Path, &Path), lines: &str) -> Vec<String> {
        let dir = tempfile::tempdir().expect("a directory");
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        std::fs::create_dir(&old).and_then(|()| std::fs::create_dir(&new)).expect("mkdir");
        make(&old, &new);
        let trees = Trees {
            old: open_dir(&old).expect("opened"),
            new: open_dir(&new).expect("opened"),
            subject: "tank/a",
        };
        let text: String = lines.lines().map(|line| format!("1.2\t{}\n", line.replace(' ', "\t"))).collect();
        let told = told(text.as_bytes(), &[PathBuf::from("/m")]).expect("lines");
        let found = trees.changes(&told).expect("changes");
        let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
        let from = |from: &Option<Vec<u8>>| {
            from.as_ref().map(|from| format!("{} -> ", text(from))).unwrap_or_default()
        };
        found.iter().map(|c| format!("{} {}{}", c.kind, from(&c.from), text(&c.path))).collect()
    }

    fn write(path: PathBuf, text: &str, seconds: u64) {
        std::fs::write(&path, text).expect("written");
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        File::options().write(true).open(path).and_then(|f| f.set_modified(time)).expect("times");
    }

    #[test]
    fn what_was_written_to_is_told_from_what_was_only_touched() {
        let found = changes(
            |old, new| {
                for (name, before, now) in
                    [("w", ("a", 1), ("b", 1)), ("t", ("a", 1), ("a", 2)), ("l", ("a", 1), ("aa", 1))]
                {
                    write(old.join(name), before.0, before.1);
                    write(new.join(name), now.0, now.1);
                }
                let large = "x".repeat(READ_TO_COMPARE as usize + 1);
                write(old.join("large"), &large, 1);
                write(new.join("large"), &large, 2);
            },
            "M F /m/w\nM F /m/t\nM F /m/l\nM F /m/large\nM / /m",
        );
        assert_eq!(found, ["M l", "M large", "m t", "M w"]);
    }

    #[test]
    fn further_names_of_a_file_are_told_of_too() {
        let found = changes(
            |old, new| {
                write(old.join("a"), "x", 1);
                write(old.join("gone"), "x", 1);
                std::fs::hard_link(old.join("gone"), old.join("gone too")).expect("a link");
                write(new.join("a"), "x", 1);
                std::fs::hard_link(new.join("a"), new.join("b")).expect("a link");
            },
            "M / /m\nM F /m/a (+1)\n- F /m/gone",
        );
        assert_eq!(found, ["A b", "D gone", "D gone too"]);
    }

    #[test]
    fn what_was_replaced_is_one_change() {
        let found = changes(
            |old, new| {
                write(old.join("f"), "x", 1);
                write(new.join("f"), "y", 1);
                write(old.join("t"), "x", 1);
                std::fs::create_dir(new.join("t")).expect("mkdir");
                for root in [old, new] {
                    std::fs::create_dir(root.join("d")).expect("mkdir");
                }
            },
            "- F /m/f\n+ F /m/f\n- F /m/t\n+ / /m/t\n- / /m/d\n+ / /m/d",
        );
        assert_eq!(found, ["M f", "T t"]);
    }

    #[test]
    fn what_was_renamed_and_written_to_is_told_twice() {
        let found = changes(
            |old, new| {
                write(old.join("a"), "x", 1);
                write(new.join("b"), "longer", 1);
                write(old.join("c"), "x", 1);
                write(new.join("d"), "x", 1);
            },
            "R F /m/a /m/b\nR F /m/c /m/d\nM / /m",
        );
        assert_eq!(found, ["R a -> b", "M b", "R c -> d"]);
    }
}
