//! Owner, mode, attributes, flags and times of what was copied.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::buffer::spare_capacity;
use rustix::fs::{
    AtFlags, IFlags, Mode, OFlags, Timespec, Timestamps, XattrFlags, ioctl_getflags, ioctl_setflags,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use crate::endpoint::tree::scan::{Entry, Kind, open};

/// XATTR_LIST_MAX and XATTR_SIZE_MAX: no list and no value is longer.
const MAX: usize = 64 << 10;
/// Most files have no attribute, or a short one.
const USUAL: usize = 256;

/// With these, nobody may change, rename or remove it.
pub(super) const LOCKING: IFlags = IFlags::IMMUTABLE.union(IFlags::APPEND);
/// What `chattr` sets and every filesystem that can share blocks keeps.
const KEPT: IFlags = LOCKING
    .union(IFlags::NODUMP)
    .union(IFlags::NOATIME)
    .union(IFlags::NOCOW)
    .union(IFlags::SYNC)
    .union(IFlags::DIRSYNC);

/// An extended attribute's name and value.
pub(super) type Attribute = (Vec<u8>, Vec<u8>);

/// Where a copy comes from and goes to: two open things of the same kind.
pub(super) struct Pair<'a> {
    pub(super) from: BorrowedFd<'a>,
    pub(super) to: BorrowedFd<'a>,
}

/// Gives the open file or directory `to` all that `entry` says and what attributes and flags `from` has. In this order: a change
/// of owner takes set-user-id bits and capabilities away, any change sets the times, and nothing can be changed after
/// the flags. The root of a tree is never locked: it must be renamed yet.
pub(super) fn describe(entry: &Entry, pair: &Pair<'_>) -> Result<(), Errno> {
    let Pair { from, to } = pair;
    rustix::fs::fchown(to, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(entry.mode))?;
    for (name, value) in attributes(&Node::Open(*from))? {
        set_attribute(&Node::Open(*to), &name, &value)?;
    }
    set_times(*to, entry)?;
    let is_root = entry.path.as_os_str().is_empty();
    copy_flags(*from, *to, if is_root { KEPT.difference(LOCKING) } else { KEPT })
}

/// The same for what can not be opened: symbolic links, devices, FIFOs and sockets.
pub(super) fn describe_unopened(
    entry: &Entry,
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
) -> Result<(), Errno> {
    let no_follow = AtFlags::SYMLINK_NOFOLLOW;
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    rustix::fs::chownat(to, &entry.path, Some(uid), Some(gid), no_follow)?;
    if entry.kind != Kind::Symlink {
        rustix::fs::chmodat(to, &entry.path, Mode::from_raw_mode(entry.mode), AtFlags::empty())?;
    }
    let source = open(from, &entry.path, OFlags::PATH | OFlags::NOFOLLOW)?;
    let target = open(to, &entry.path, OFlags::PATH | OFlags::NOFOLLOW)?;
    for (name, value) in attributes(&Node::named(&source))? {
        set_attribute(&Node::named(&target), &name, &value)?;
    }
    rustix::fs::utimensat(to, &entry.path, &times(entry), no_follow)
}

/// Lets the empty file `to` be written in place or not, as `from` is: with content in it, that can not be changed, and
/// blocks are shared only between files that are alike in this.
pub(super) fn copy_nocow(from: BorrowedFd<'_>, to: BorrowedFd<'_>) {
    let of = |file: BorrowedFd<'_>| ioctl_getflags(file).unwrap_or(IFlags::empty());
    let changed = (of(from) ^ of(to)) & IFlags::NOCOW;
    if !changed.is_empty() {
        // If it is not taken, sharing fails and says so.
        let _ = ioctl_setflags(to, of(to) ^ changed);
    }
}

/// A file that has attributes: open, or by a name that leads to it alone, as for what can not be opened.
enum Node<'a> {
    Open(BorrowedFd<'a>),
    Named(PathBuf),
}

impl Node<'_> {
    /// `fd` was opened with O_PATH. What it is of is not followed any further.
    fn named(fd: &impl AsRawFd) -> Self {
        Self::Named(Path::new("/proc/self/fd").join(fd.as_raw_fd().to_string()))
    }

    fn list(&self, space: &mut Vec<u8>) -> Result<usize, Errno> {
        match self {
            Self::Open(fd) => rustix::fs::flistxattr(fd, spare_capacity(space)),
            Self::Named(path) => rustix::fs::listxattr(path, spare_capacity(space)),
        }
    }

    fn get(&self, name: &CStr, space: &mut Vec<u8>) -> Result<usize, Errno> {
        match self {
            Self::Open(fd) => rustix::fs::fgetxattr(fd, name, spare_capacity(space)),
            Self::Named(path) => rustix::fs::getxattr(path, name, spare_capacity(space)),
        }
    }
}

/// The sorted names and values of the extended attributes of what was opened with O_PATH.
pub(super) fn attributes_of(fd: &impl AsRawFd) -> Result<Vec<Attribute>, Errno> {
    let mut found = attributes(&Node::named(fd))?;
    found.sort();
    Ok(found)
}

/// The names and values of extended attributes, ACLs among them.
fn attributes(node: &Node<'_>) -> Result<Vec<Attribute>, Errno> {
    let list = match growing(|space| node.list(space)) {
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for name in list.split_inclusive(|&b| b == 0) {
        let name = CStr::from_bytes_with_nul(name).map_err(|_| Errno::INVAL)?;
        let value = match growing(|space| node.get(name, space)) {
            Err(Errno::NODATA) => continue, // It went meanwhile: the next look at the file tells.
            other => other?,
        };
        found.push((name.to_bytes().to_vec(), value));
    }
    Ok(found)
}

fn growing(call: impl Fn(&mut Vec<u8>) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut space = Vec::with_capacity(USUAL);
    match call(&mut space) {
        Err(Errno::RANGE) => space = Vec::with_capacity(MAX),
        other => return other.map(|_| space),
    }
    call(&mut space).map(|_| space)
}

/// One that may not be set is fine if it is there already, as a label of the system's that every file gets.
fn set_attribute(node: &Node<'_>, name: &[u8], value: &[u8]) -> Result<(), Errno> {
    let set = match node {
        Node::Open(fd) => rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()),
        Node::Named(path) => rustix::fs::setxattr(path, name, value, XattrFlags::empty()),
    };
    let Err(errno) = set else { return Ok(()) };
    let there = attributes(node)?;
    match there.iter().any(|(n, v)| n == name && v == value) {
        true => Ok(()),
        false => Err(errno),
    }
}

/// Gives the open file or directory the times of `entry`.
pub(super) fn set_times(fd: BorrowedFd<'_>, entry: &Entry) -> Result<(), Errno> {
    rustix::fs::futimens(fd, &times(entry))
}

fn times(entry: &Entry) -> Timestamps {
    let time = |(sec, nsec): (i64, u32)| Timespec { tv_sec: sec, tv_nsec: nsec.into() };
    Timestamps { last_access: time(entry.atime), last_modification: time(entry.mtime) }
}

fn copy_flags(from: BorrowedFd<'_>, to: BorrowedFd<'_>, mask: IFlags) -> Result<(), Errno> {
    let Ok(wanted) = ioctl_getflags(from) else { return Ok(()) }; // A filesystem that has none.
    let now = ioctl_getflags(to)?;
    let new = (now - mask) | (wanted & mask);
    match new == now {
        true => Ok(()),
        false => ioctl_setflags(to, new),
    }
}
