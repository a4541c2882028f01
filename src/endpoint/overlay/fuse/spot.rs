//! One existing file, wherever it is: at a path below a root, or behind a descriptor once it has no name.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Stat, Timestamps, Uid, XattrFlags};

use super::root::{Root, grown};
use super::{Errno, Fallible};

/// A file to act on.
#[derive(Debug)]
pub enum Spot<'a> {
    /// At a path below a root.
    Named(&'a Root, PathBuf),
    /// Behind a descriptor; it has no name.
    Orphan(Arc<OwnedFd>),
}

impl Spot<'_> {
    pub fn stat(&self) -> Fallible<Stat> {
        match self {
            Self::Named(root, path) => root.stat(path),
            Self::Orphan(fd) => rustix::fs::fstat(fd),
        }
    }

    pub fn open(&self, flags: OFlags) -> Fallible<OwnedFd> {
        match self {
            Self::Named(root, path) => root.open_at(path, flags),
            Self::Orphan(fd) => rustix::fs::open(seen(fd), flags | OFlags::CLOEXEC, Mode::empty()),
        }
    }

    /// Gives the file one more name, in `root`. ENOENT: it lost its last one.
    pub fn link(&self, root: &Root, target: &Path) -> Fallible<()> {
        match self {
            Self::Named(from, path) => from.link(path, root, target),
            Self::Orphan(fd) => root.link_open(fd, target),
        }
    }

    pub fn chmod(&self, mode: u32) -> Fallible<()> {
        match self {
            Self::Named(root, path) => root.chmod(path, mode),
            Self::Orphan(fd) => rustix::fs::chmod(seen(fd), Mode::from_raw_mode(mode & 0o7777)),
        }
    }

    pub fn chown(&self, uid: Option<u32>, gid: Option<u32>) -> Fallible<()> {
        match self {
            Self::Named(root, path) => root.chown(path, uid, gid),
            Self::Orphan(fd) => rustix::fs::chown(seen(fd), uid.map(Uid::from_raw), gid.map(Gid::from_raw)),
        }
    }

    pub fn utimes(&self, times: &Timestamps) -> Fallible<()> {
        match self {
            Self::Named(root, path) => root.utimes(path, times),
            Self::Orphan(fd) => rustix::fs::utimensat(rustix::fs::CWD, seen(fd), times, AtFlags::empty()),
        }
    }

    pub fn readlink(&self) -> Fallible<Vec<u8>> {
        match self {
            Self::Named(root, path) => root.readlink(path),
            Self::Orphan(fd) => Ok(rustix::fs::readlinkat(fd, "", Vec::new())?.into_bytes()),
        }
    }

    pub fn xattr(&self, name: &[u8]) -> Fallible<Option<Vec<u8>>> {
        let Self::Orphan(fd) = self else {
            let Self::Named(root, path) = self else { return Ok(None) };
            return root.xattr(path, name);
        };
        match grown(|buffer| rustix::fs::getxattr(seen(fd), name, buffer)) {
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
            value => value.map(Some),
        }
    }

    pub fn xattrs(&self) -> Fallible<Vec<Vec<u8>>> {
        match self {
            Self::Named(root, path) => root.xattrs(path),
            Self::Orphan(fd) => {
                let names = grown(|buffer| rustix::fs::listxattr(seen(fd), buffer))?;
                let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
                Ok(names.map(<[u8]>::to_vec).collect())
            }
        }
    }

    pub fn set_xattr(&self, name: &[u8], value: &[u8], flags: XattrFlags) -> Fallible<()> {
        match self {
            Self::Named(root, path) => root.set_xattr(path, name, value, flags),
            Self::Orphan(fd) => rustix::fs::setxattr(seen(fd), name, value, flags),
        }
    }

    pub fn remove_xattr(&self, name: &[u8]) -> Fallible<()> {
        match self {
            Self::Named(root, path) => root.remove_xattr(path, name),
            Self::Orphan(fd) => rustix::fs::removexattr(seen(fd), name),
        }
    }

    /// Opens a file's data. An owner's own file is opened whatever its mode: who may read it was decided before.
    pub fn open_data(&self, writable: bool) -> Fallible<OwnedFd> {
        if !writable {
            return self.open(OFlags::RDONLY | OFlags::NONBLOCK);
        }
        match self.open(OFlags::RDWR | OFlags::NONBLOCK) {
            Err(Errno::ACCESS) => {
                let mode = self.stat()?.st_mode;
                self.chmod(mode | 0o600)?;
                let opened = self.open(OFlags::RDWR | OFlags::NONBLOCK);
                self.chmod(mode)?;
                opened
            }
            opened => opened,
        }
    }
}

fn seen(fd: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}
