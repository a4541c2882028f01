//! What makes one whole tree of another, as a layer would have it: a clone of the base, in which nobody kept changes apart, is walked beside
//! the base, and what differs is set apart.
//!
//! What a clone did not change has the inode number, the time of birth and the time of change that it has in the base: no program
//! can set these back. By the first two, what was renamed is found again.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;

use rustix::fs::{AtFlags, FileType, Statx, StatxFlags, statx};
use rustix::io::Errno;

use super::merge::joined;
use super::origin::handle_of;
use super::tree::{Attributes, Tree};
use crate::endpoint::{Error, Result, beneath};
use crate::model::overlay::Xattrs;
use crate::sys::interrupt;

/// The inode number of `.zfs`, which shows snapshots where that is asked for (`snapdir=visible`), and is in no dataset.
const ZFS_CONTROL: u64 = 0xffff_ffff_ffff;

/// The longest path that the kernel writes into a redirect, in bytes.
const MAX_REDIRECT: usize = 256;

/// What the filesystem tells of a clone and its base at less than the cost of walking both.
pub trait Origins {
    /// Whether something in this directory of the clone, or below it, may not be as it is in the base.
    fn may_differ(&self, dir: &[u8]) -> bool;

    /// What the base's file or directory with this inode number is called there: nothing if there is none, `None` if it has more names than
    /// are told.
    ///
    /// # Errors
    /// What the kernel says.
    fn names(&self, inode: u64) -> Result<Option<Vec<Vec<u8>>>>;
}

/// An entry of the layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mark {
    /// Nothing is there any more.
    Whiteout,
    /// What is there in the tree, with these marks.
    Here(Attributes),
}

/// The entries of a layer, by directory and name.
#[derive(Debug, Default)]
pub(super) struct Apart {
    dirs: BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Mark>>,
    root: Mark,
    /// Whether a file of it may be the same as one of the base though it is another one.
    is_of_another: bool,
}

impl Default for Mark {
    fn default() -> Self {
        Self::Here(Attributes::new())
    }
}

impl Apart {
    /// What is at `path`; `None` for what the layer has not.
    pub(super) fn mark(&self, path: &[u8]) -> Option<&Mark> {
        match path {
            b"" => Some(&self.root),
            _ => {
                let (dir, name) = beneath::split(path);
                self.dirs.get(dir)?.get(name)
            }
        }
    }

    /// Whether that a file is another one than the base's says nothing of its data.
    pub(super) fn is_of_another(&self) -> bool {
        self.is_of_another
    }

    /// The names that the layer has in a directory. What each is, whoever needs it asks.
    pub(super) fn names(&self, dir: &[u8]) -> Vec<(Vec<u8>, FileType)> {
        let names = self.dirs.get(dir).into_iter().flatten();
        let of_type = |mark: &Mark| match mark {
            Mark::Whiteout => FileType::CharacterDevice,
            Mark::Here(_) => FileType::Unknown,
        };
        names.map(|(name, mark)| (name.clone(), of_type(mark))).collect()
    }

    /// The paths of all entries but the root, directories before what is in them.
    pub(super) fn paths(&self) -> impl Iterator<Item = Vec<u8>> {
        self.dirs.iter().flat_map(|(dir, names)| names.keys().map(|name| joined(dir, name)))
    }

    fn set(&mut self, path: &[u8], mark: Mark) {
        let (dir, name) = beneath::split(path);
        self.dirs.entry(dir.to_vec()).or_default().insert(name.to_vec(), mark);
    }
}

/// Sets apart in `tree`, a clone of `base` that somebody changed, what makes it another tree: it is that layer then.
///
/// Without `origins`, both trees are walked as wholes.
///
/// # Errors
/// What can not be read; a signal.
pub fn set_apart(base: &Tree, tree: Tree, origins: Option<&dyn Origins>) -> Result<Tree> {
    let apart = apart_from(base, &tree, origins)?;
    Ok(tree.with(apart))
}

/// As [`set_apart`], where `base` is no ancestor of `tree`, but both come from one: what was made in each may be the same, and is told only if
/// its data says so.
///
/// # Errors
/// As [`set_apart`].
pub fn set_apart_of_another(base: &Tree, tree: Tree, origins: Option<&dyn Origins>) -> Result<Tree> {
    let apart = Apart { is_of_another: true, ..apart_from(base, &tree, origins)? };
    Ok(tree.with(apart))
}

fn apart_from(base: &Tree, tree: &Tree, origins: Option<&dyn Origins>) -> Result<Apart> {
    let unknown = Walked { base, names: OnceCell::new() };
    let device = seen(tree, b"")?.map(|root| root.device);
    let mut walk = Walk {
        base,
        tree,
        origins: origins.unwrap_or(&unknown),
        unknown: &unknown,
        device,
        apart: Apart::default(),
    };
    walk.dir(b"", Some(b""))?;
    Ok(walk.apart)
}

/// What is known where the filesystem tells nothing.
struct Walked<'a> {
    base: &'a Tree,
    names: OnceCell<HashMap<u64, Vec<Vec<u8>>>>,
}

impl Origins for Walked<'_> {
    fn may_differ(&self, _: &[u8]) -> bool {
        true
    }

    fn names(&self, inode: u64) -> Result<Option<Vec<Vec<u8>>>> {
        self.names_walked(inode).map(Some)
    }
}

impl Walked<'_> {
    fn names_walked(&self, inode: u64) -> Result<Vec<Vec<u8>>> {
        let names = match self.names.get() {
            Some(names) => names,
            None => {
                let all = self.all()?;
                self.names.get_or_init(|| all)
            }
        };
        Ok(names.get(&inode).cloned().unwrap_or_default())
    }

    fn all(&self) -> Result<HashMap<u64, Vec<Vec<u8>>>> {
        let mut names = HashMap::<u64, Vec<Vec<u8>>>::new();
        let mut waiting = vec![Vec::new()];
        while let Some(dir) = waiting.pop() {
            check_interrupt()?;
            for (name, _) in self.base.names_on_disk(&dir).map_err(failed("list", &dir))? {
                let path = joined(&dir, &name);
                let Some(found) = seen(self.base, &path)? else { continue };
                if found.file_type == FileType::Directory && found.inode != ZFS_CONTROL {
                    waiting.push(path.clone());
                }
                names.entry(found.inode).or_default().push(path);
            }
        }
        Ok(names)
    }
}

/// What tells whether something is what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    file_type: FileType,
    device: (u32, u32),
    inode: u64,
    born: Option<(i64, u32)>,
    changed: (i64, u32),
    written: (i64, u32),
    size: u64,
    links: u32,
    mode: u16,
    owner: (u32, u32),
    node: (u32, u32),
}

impl Seen {
    fn of(found: &Statx) -> Self {
        let time = |time: rustix::fs::StatxTimestamp| (time.tv_sec, time.tv_nsec);
        let is_known = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME);
        Self {
            file_type: FileType::from_raw_mode(found.stx_mode.into()),
            device: (found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
            born: is_known.then(|| time(found.stx_btime)),
            changed: time(found.stx_ctime),
            written: time(found.stx_mtime),
            size: found.stx_size,
            links: found.stx_nlink,
            mode: found.stx_mode,
            owner: (found.stx_uid, found.stx_gid),
            node: (found.stx_rdev_major, found.stx_rdev_minor),
        }
    }

    /// Whether it is the same file or directory, changed or not.
    fn is(&self, other: &Self) -> bool {
        (self.inode, self.born, self.file_type) == (other.inode, other.born, other.file_type)
    }

    /// Whether nothing of it itself was changed. The names in a directory are not part of it.
    fn is_unchanged(&self, base: &Self) -> bool {
        *self == Self { device: self.device, ..base.clone() }
    }
}

struct Walk<'a> {
    base: &'a Tree,
    tree: &'a Tree,
    origins: &'a dyn Origins,
    /// The device of the clone: what lies on another one, a subvolume in it, was never in the base.
    unknown: &'a Walked<'a>,
    device: Option<(u32, u32)>,
    apart: Apart,
}

impl Walk<'_> {
    /// Compares a directory with what lies below it: `old` in the base, or nothing.
    fn dir(&mut self, path: &[u8], old: Option<&[u8]>) -> Result<()> {
        check_interrupt()?;
        if old.is_some() && !self.origins.may_differ(path) {
            return Ok(());
        }
        let mut names = BTreeSet::new();
        let trees = [(self.tree, Some(path)), (self.base, old)];
        for (tree, dir) in trees.into_iter().filter_map(|(tree, dir)| Some((tree, dir?))) {
            let listed = tree.names_on_disk(dir).map_err(failed("list", dir))?;
            names.extend(listed.into_iter().map(|(name, _)| name));
        }
        names.into_iter().try_for_each(|name| {
            let below = old.map(|old| joined(old, &name));
            self.name(&joined(path, &name), below)
        })
    }

    fn name(&mut self, path: &[u8], below: Option<Vec<u8>>) -> Result<()> {
        let was = below.as_deref().map(|below| seen(self.base, below)).transpose()?.flatten();
        let now = seen(self.tree, path)?;
        if [&was, &now].into_iter().flatten().any(|found| found.inode == ZFS_CONTROL) {
            return Ok(());
        }
        let Some(now) = now else {
            if was.is_some() {
                self.apart.set(path, Mark::Whiteout);
            }
            return Ok(());
        };
        let own = was.as_ref().filter(|was| self.is_of_the_clone(&now) && now.is(was));
        if now.file_type == FileType::Directory {
            return match (own, below) {
                (Some(was), Some(below)) => self.kept_dir(path, &now, (was, &below)),
                _ => self.other_dir(path, &now, was.is_some()),
            };
        }
        if !own.is_some_and(|was| now.is_unchanged(was)) {
            let marks = match own.and(below) {
                Some(below) => self.origin(&below),
                None => self.found_again(&now)?.map(|from| self.origin(&from)).unwrap_or_default(),
            };
            self.apart.set(path, Mark::Here(marks));
        }
        Ok(())
    }

    /// A directory that is where it was.
    fn kept_dir(&mut self, path: &[u8], now: &Seen, (was, below): (&Seen, &[u8])) -> Result<()> {
        self.dir(path, Some(below))?;
        if !now.is_unchanged(was) || self.apart.dirs.contains_key(path) {
            self.apart.set(path, Mark::default());
        }
        Ok(())
    }

    /// A directory where none was, or another one.
    fn other_dir(&mut self, path: &[u8], now: &Seen, hides: bool) -> Result<()> {
        // In `user.overlay.…`, the kernel follows no redirects.
        let can_redirect = self.tree.xattrs() == Xattrs::Trusted;
        let from = if can_redirect { self.found_again(now)? } else { None };
        let from = from.filter(|from| !from.is_empty() && from.len() < MAX_REDIRECT);
        let marks = match &from {
            Some(from) => self.marks("redirect", [b"/", from.as_slice()].concat()),
            None if hides => self.marks("opaque", b"y".to_vec()),
            None => Attributes::new(),
        };
        self.apart.set(path, Mark::Here(marks));
        self.dir(path, from.as_deref())
    }

    /// What it is called in the base.
    fn found_again(&self, now: &Seen) -> Result<Option<Vec<u8>>> {
        if !self.is_of_the_clone(now) {
            return Ok(None);
        }
        let names = match self.origins.names(now.inode)? {
            Some(names) => names,
            None => self.unknown.names_walked(now.inode)?,
        };
        for path in names {
            if seen(self.base, &path)?.is_some_and(|was| now.is(&was)) {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    fn is_of_the_clone(&self, now: &Seen) -> bool {
        Some(now.device) == self.device
    }

    fn origin(&self, from: &[u8]) -> Attributes {
        let handle = handle_of(self.base, from).and_then(|handle| handle.as_mark());
        handle.map(|mark| self.marks("origin", mark)).unwrap_or_default()
    }

    fn marks(&self, mark: &str, value: Vec<u8>) -> Attributes {
        Attributes::from([([self.tree.xattrs().prefix(), mark].concat().into_bytes(), value)])
    }
}

fn seen(tree: &Tree, path: &[u8]) -> Result<Option<Seen>> {
    let (dir, name) = beneath::split(path);
    let found = tree.dir(dir).and_then(|dir| {
        let name = if name.is_empty() { b"." } else { name };
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        statx(&dir, name, flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME)
    });
    match found {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        other => other.map(|found| Some(Seen::of(&found))).map_err(failed("read", path)),
    }
}

fn check_interrupt() -> Result<()> {
    interrupt::check()
        .map_err(|_| Error::Interrupted { op: "compare", subject: "an overlay with its base".into() })
}

fn failed<E: Into<io::Error>>(op: &'static str, path: &[u8]) -> impl FnOnce(E) -> Error {
    Error::io(op, path.escape_ascii())
}
