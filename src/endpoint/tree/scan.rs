//! What stands in a directory tree, read so that nobody who may write to it can lead the reader out of it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags, StatxTimestamp};
use rustix::io::Errno;

use crate::endpoint::each::each;
use crate::endpoint::tree::store::STORE_DIR;
use crate::endpoint::{Error, Result};

/// A point in time: seconds and nanoseconds since 1970.
pub(super) type Time = (i64, u32);

/// Two changes closer together than this may leave the same time behind (kernel-notes/reflink.md).
const TICK: Duration = Duration::from_millis(20);

/// What kind of thing an [`Entry`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Directory,
    File,
    Symlink,
    CharDevice,
    BlockDevice,
    Fifo,
    Socket,
}

/// One thing in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Where, below the tree's root; empty for the root.
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
    /// The permissions, without the type.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Which device a device file is: major and minor.
    pub(super) device: (u32, u32),
    pub(super) links: u32,
    /// In bytes; 0 for a directory, whose size says nothing about what is in it.
    pub(super) size: u64,
    pub(super) inode: u64,
    pub(super) atime: Time,
    pub(super) mtime: Time,
    pub(super) ctime: Time,
    /// When the inode was made; zeros where the filesystem does not say.
    pub(super) btime: Time,
}

impl Entry {
    fn new(path: PathBuf, stat: &Statx) -> Self {
        let mode = u32::from(stat.stx_mode);
        let kind = match FileType::from_raw_mode(mode) {
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            FileType::CharacterDevice => Kind::CharDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            _ => Kind::File,
        };
        let time = |time: StatxTimestamp| (time.tv_sec, time.tv_nsec);
        Self {
            path,
            kind,
            mode: mode & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            device: (stat.stx_rdev_major, stat.stx_rdev_minor),
            links: stat.stx_nlink,
            size: if kind == Kind::Directory { 0 } else { stat.stx_size },
            inode: stat.stx_ino,
            atime: time(stat.stx_atime),
            mtime: time(stat.stx_mtime),
            ctime: time(stat.stx_ctime),
            btime: time(stat.stx_btime),
        }
    }

    /// Whether it has, or may have, other names in the tree.
    pub(super) fn is_linked(&self) -> bool {
        self.kind != Kind::Directory && self.links > 1
    }

    /// Whether it is the same file as `other`, unchanged since: when it was read does not count.
    pub(super) fn is_unchanged_since(&self, other: &Self) -> bool {
        let same = Self { atime: other.atime, ..self.clone() };
        same == *other
    }

    /// Whether the two can not be told apart by who only looks at the tree: that is what a copy must be.
    pub(super) fn looks_like(&self, other: &Self) -> bool {
        let seen = |e: &Self| (e.kind, e.mode, e.uid, e.gid, e.device, e.size, e.mtime);
        self.path == other.path && seen(self) == seen(other)
    }
}

/// A directory tree as it was when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scan {
    /// Invariant: the root first, each directory before what is in it, names sorted within a directory.
    pub(super) entries: Vec<Entry>,
    /// Directories in which snapshots of trees inside are kept: left out.
    pub(super) stores: Vec<PathBuf>,
}

impl Scan {
    /// By their paths.
    pub(super) fn by_path(&self) -> HashMap<&Path, &Entry> {
        self.entries.iter().map(|entry| (entry.path.as_path(), entry)).collect()
    }

    /// Waits until whatever changes from now on gets a later time than everything that was seen.
    pub(super) fn let_a_tick_pass(&self) {
        let Some(newest) = self.entries.iter().map(|e| e.ctime).max() else { return };
        let newest = Duration::new(u64::try_from(newest.0).unwrap_or(0), newest.1);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        if now.abs_diff(newest) < TICK {
            std::thread::sleep(TICK);
        }
    }

    /// The first path at which this one is not as `before`, if there is one.
    pub(super) fn changed_since(&self, before: &Self) -> Option<PathBuf> {
        let (now, then) = (self.by_path(), before.by_path());
        let differs = |e: &&Entry| then.get(e.path.as_path()).is_none_or(|old| !e.is_unchanged_since(old));
        let gone = |e: &&Entry| !now.contains_key(e.path.as_path());
        let new = self.entries.iter().find(differs);
        new.or_else(|| before.entries.iter().find(gone)).map(|entry| entry.path.clone())
    }
}

/// Reads what is in the tree whose root is `root` and which people call `label`. Follows no symbolic link.
///
/// # Errors
/// [`Error::Refused`] if another filesystem or a subvolume stands in it: its data would be left out.
pub(super) fn scan(root: BorrowedFd<'_>, label: &str) -> Result<Scan> {
    let stat = statx(root, Path::new("")).map_err(Error::io("read", label))?;
    let device = (stat.stx_dev_major, stat.stx_dev_minor);
    let mut found = Scan { entries: vec![Entry::new(PathBuf::new(), &stat)], stores: Vec::new() };
    let mut level = vec![PathBuf::new()];
    // Level by level, those of one in parallel: no depth of the tree is too deep for a stack.
    while !level.is_empty() {
        let listed = each(&level, |folder| list(root, folder, device, label))?;
        level.clear();
        for (entries, stores) in listed {
            level.extend(entries.iter().filter(|e| e.kind == Kind::Directory).map(|e| e.path.clone()));
            found.entries.extend(entries);
            found.stores.extend(stores);
        }
    }
    Ok(found)
}

fn list(
    root: BorrowedFd<'_>,
    folder: &Path,
    device: (u32, u32),
    label: &str,
) -> Result<(Vec<Entry>, Vec<PathBuf>)> {
    let shown = || shown(label, folder);
    let opened = open_directory(root, folder).map_err(|errno| unreadable(errno, label, folder))?;
    // Not read through a descriptor of its own, which would change when the directory was last read.
    let mut dir = Dir::new(opened).map_err(Error::io("read directory", shown()))?;
    let mut names = Vec::new();
    while let Some(entry) = dir.read() {
        let entry = entry.map_err(Error::io("read directory", shown()))?;
        names.push(OsStr::from_bytes(entry.file_name().to_bytes()).to_owned());
    }
    names.retain(|name| name != "." && name != "..");
    names.sort();
    let fd = dir.fd().map_err(Error::io("read directory", shown()))?;
    let (mut entries, mut stores) = (Vec::new(), Vec::new());
    for name in names {
        let path = folder.join(&name);
        let stat = match statx(fd, Path::new(&name)) {
            Err(Errno::NOENT) => continue, // It went while we looked: the other look finds that out.
            other => other.map_err(|errno| unreadable(errno, label, &path))?,
        };
        if (stat.stx_dev_major, stat.stx_dev_minor) != device {
            return Err(foreign(label, &path));
        }
        let entry = Entry::new(path, &stat);
        match entry.kind == Kind::Directory && name == STORE_DIR {
            true => stores.push(entry.path),
            false => entries.push(entry),
        }
    }
    Ok((entries, stores))
}

/// Opens something of the tree without following links and without leaving it.
pub(super) fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// To read, and without changing when it was last read where that is allowed.
pub(super) fn open_quietly(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    match open(root, path, flags | OFlags::NOATIME) {
        Err(Errno::PERM) => open(root, path, flags),
        other => other,
    }
}

fn open_directory(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    open_quietly(root, path, OFlags::RDONLY | OFlags::DIRECTORY)
}

/// What an open descriptor is now; `path` is what the answer is called.
pub(super) fn entry_of(fd: BorrowedFd<'_>, path: &Path) -> Result<Entry, Errno> {
    Ok(Entry::new(path.to_owned(), &statx(fd, Path::new(""))?))
}

fn statx(dir: BorrowedFd<'_>, name: &Path) -> Result<Statx, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(dir, name, flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME)
}

/// A path of the tree as people see it.
pub(super) fn shown(label: &str, path: &Path) -> String {
    match path.as_os_str().is_empty() {
        true => label.into(),
        false => format!("{}/{}", label.trim_end_matches('/'), path.display()),
    }
}

fn unreadable(errno: Errno, label: &str, path: &Path) -> Error {
    match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE => changed(label, path),
        Errno::XDEV => foreign(label, path),
        errno => Error::io("read", shown(label, path))(errno),
    }
}

/// That the tree did not keep still.
pub(super) fn changed(label: &str, path: &Path) -> Error {
    let quoted = crate::model::quoted(label);
    Error::Refused {
        op: "take",
        subject: format!("a snapshot of {label}"),
        why: format!("{} changed meanwhile", shown(label, path)),
        hint: Some(format!(
            "stop what writes to it (fuser -v {quoted}) and try again; in a dataset, where a snapshot is of one instant, \
             that is not needed: cowsnap adopt {quoted} --to POOL/NAME"
        )),
    }
}

fn foreign(label: &str, path: &Path) -> Error {
    Error::Refused {
        op: "take",
        subject: format!("a snapshot of {label}"),
        why: format!("{} is another filesystem or a subvolume; it would be left out", shown(label, path)),
        hint: Some(format!("unmount or move {}", crate::model::quoted(shown(label, path)))),
    }
}
