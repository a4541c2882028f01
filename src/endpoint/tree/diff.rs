//! What changed between two versions of a tree, or since one.
//!
//! A file that is the same inode, with the same times, as when a version was taken is not read: its bytes are the same.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::endpoint::change::Kind as Change;
use crate::endpoint::each::each;
use crate::endpoint::tree::dataset::Dataset;
use crate::endpoint::tree::describe::attributes_of;
use crate::endpoint::tree::home::Home;
use crate::endpoint::tree::scan::{Entry, Kind, Scan, Time, open, open_quietly, scan, shown};
use crate::endpoint::{self, Error, Result};
use crate::model::VersionRef;

/// One side: what stood there, and where its content is.
struct Side {
    entries: Scan,
    root: OwnedFd,
}

/// The same file at both sides, wherever it stands.
struct Pair<'a> {
    old: &'a Entry,
    new: &'a Entry,
}

impl Dataset {
    /// What changed from `old` to `new`, or to what the directory is now; sorted by path.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Reused`]; a tree that can not be read.
    pub fn changes(&self, old: &VersionRef, new: Option<&VersionRef>) -> Result<Vec<endpoint::Change>> {
        let home = self.home()?.ok_or_else(|| self.no_such(&old.name))?;
        let old = self.side_of(&home, old)?;
        let new = match new {
            Some(version) => self.side_of(&home, version)?,
            None => {
                let root = self.open()?;
                Side { entries: scan(root.as_fd(), &self.to_string())?, root }
            }
        };
        compare(&old, &new, &self.to_string())
    }

    fn side_of(&self, home: &Home, version: &VersionRef) -> Result<Side> {
        let (dir, about) = self.expect_in(home, version)?;
        let entries = self.manifest_of(&dir, &about, version)?;
        Ok(Side { entries, root: self.open_tree(&dir, version)? })
    }
}

fn compare(old: &Side, new: &Side, label: &str) -> Result<Vec<endpoint::Change>> {
    let (pairs, added, gone) = pair_up(&old.entries, &new.entries);
    let change = |path: &Path, kind: Change, from: Option<&Path>| endpoint::Change {
        path: as_bytes(path),
        kind,
        from: from.map(as_bytes),
    };
    let mut changes: Vec<_> = added.iter().map(|e| change(&e.path, Change::Added, None)).collect();
    changes.extend(gone.iter().map(|e| change(&e.path, Change::Destroyed, None)));
    let renamed: HashMap<&Path, &Path> =
        pairs.iter().map(|p| (p.new.path.as_path(), p.old.path.as_path())).collect();
    for Pair { old, new } in &pairs {
        if !stands_where_it_stood(&old.path, &new.path, &renamed) {
            changes.push(change(&new.path, Change::Renamed, Some(&old.path)));
        }
    }
    let kinds = each(&pairs, |pair| pair.kind(old, new, label))?;
    let differing = pairs.iter().zip(kinds).filter_map(|(pair, kind)| Some((pair, kind?)));
    changes.extend(differing.map(|(pair, kind)| change(&pair.new.path, kind, None)));
    changes.sort();
    Ok(changes)
}

/// What is below a renamed directory is not renamed itself.
fn stands_where_it_stood(old: &Path, new: &Path, renamed: &HashMap<&Path, &Path>) -> bool {
    let (Some(old_parent), Some(new_parent)) = (old.parent(), new.parent()) else { return true };
    old.file_name() == new.file_name() && renamed.get(new_parent) == Some(&old_parent)
}

/// What makes a file the same one, whatever it is called: an inode's number is used again, but not at the same time.
type Identity = (u64, Time);

fn identity(entry: &Entry) -> Identity {
    (entry.inode, entry.btime)
}

type Paired<'a> = (Vec<Pair<'a>>, Vec<&'a Entry>, Vec<&'a Entry>);

/// Finds for each new entry the old one that it was: at the same place, also below a directory that was renamed; or else
/// the same file elsewhere, if that is no longer there. Then those that are new, and those that are gone.
fn pair_up<'a>(old: &'a Scan, new: &'a Scan) -> Paired<'a> {
    let by_path = old.by_path();
    let mut elsewhere: HashMap<Identity, Vec<&Entry>> = HashMap::new();
    let still_there: HashSet<(&Path, Identity)> =
        new.entries.iter().map(|e| (e.path.as_path(), identity(e))).collect();
    for entry in &old.entries {
        if !still_there.contains(&(entry.path.as_path(), identity(entry))) {
            elsewhere.entry(identity(entry)).or_default().push(entry);
        }
    }
    let mut was_at: HashMap<&Path, &Path> = HashMap::new();
    let mut taken: HashSet<&Path> = HashSet::new();
    let (mut pairs, mut added) = (Vec::new(), Vec::new());
    for entry in &new.entries {
        let there = counterpart(&entry.path, &was_at).and_then(|path| by_path.get(path.as_path()).copied());
        let there = there.filter(|old| !taken.contains(old.path.as_path()));
        let moved = || {
            let candidates = elsewhere.get(&identity(entry))?;
            candidates.iter().copied().find(|e| e.kind == entry.kind && !taken.contains(e.path.as_path()))
        };
        let same = there.filter(|old| identity(old) == identity(entry));
        match same.or_else(moved).or(there) {
            None => added.push(entry),
            Some(old) => {
                taken.insert(&old.path);
                was_at.insert(&entry.path, &old.path);
                pairs.push(Pair { old, new: entry });
            }
        }
    }
    let gone = old.entries.iter().filter(|e| !taken.contains(e.path.as_path())).collect();
    (pairs, added, gone)
}

/// Where what stands at `path` now would have stood.
fn counterpart(path: &Path, was_at: &HashMap<&Path, &Path>) -> Option<PathBuf> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Some(PathBuf::new()) };
    was_at.get(parent).map(|old| old.join(name))
}

impl Pair<'_> {
    /// How the content or what is said of it changed; `None` if it did not.
    fn kind(&self, old_side: &Side, new_side: &Side, label: &str) -> Result<Option<Change>> {
        let Self { old, new } = self;
        if identity(old) == identity(new) && old.ctime == new.ctime {
            return Ok(None);
        }
        if old.kind != new.kind {
            return Ok(Some(Change::Retyped));
        }
        let failed = |error: io::Error| Error::io("compare", shown(label, &new.path))(error);
        let (a, b) = (old_side.root.as_fd(), new_side.root.as_fd());
        if self.content_differs(a, b).map_err(failed)? {
            return Ok(Some(Change::Modified));
        }
        Ok(self.metadata_differs(a, b).map_err(failed)?.then_some(Change::Metadata))
    }

    fn content_differs(&self, a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> io::Result<bool> {
        let Self { old, new } = self;
        if old.size != new.size || old.device != new.device {
            return Ok(true);
        }
        let link = |root: BorrowedFd<'_>, path: &Path| rustix::fs::readlinkat(root, path, Vec::new());
        match old.kind {
            Kind::Symlink => Ok(link(a, &old.path)? != link(b, &new.path)?),
            Kind::File => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
                let (a, b) = (open_quietly(a, &old.path, flags)?, open_quietly(b, &new.path, flags)?);
                bytes_differ(a.into(), b.into())
            }
            _ => Ok(false),
        }
    }

    fn metadata_differs(&self, a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> io::Result<bool> {
        let Self { old, new } = self;
        let seen = |e: &Entry| {
            // A directory's times tell of what is in it.
            let mtime = if e.kind == Kind::Directory { (0, 0) } else { e.mtime };
            (e.mode, e.uid, e.gid, mtime)
        };
        if seen(old) != seen(new) {
            return Ok(true);
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let of = |root: BorrowedFd<'_>, path: &Path| -> io::Result<_> {
            Ok(attributes_of(&open(root, path, flags)?)?)
        };
        Ok(of(a, &old.path)? != of(b, &new.path)?)
    }
}

fn bytes_differ(mut a: File, mut b: File) -> io::Result<bool> {
    const CHUNK: u64 = 1 << 20;
    let (mut left, mut right) = (Vec::new(), Vec::new());
    loop {
        crate::sys::interrupt::check()?;
        left.clear();
        right.clear();
        a.by_ref().take(CHUNK).read_to_end(&mut left)?;
        b.by_ref().take(CHUNK).read_to_end(&mut right)?;
        if left != right {
            return Ok(true);
        }
        if left.is_empty() {
            return Ok(false);
        }
    }
}

fn as_bytes(path: &Path) -> Vec<u8> {
    let path = if path.as_os_str().is_empty() { OsStr::new(".") } else { path.as_os_str() };
    path.as_bytes().to_vec()
}
