//! What a command about metadata acts on: an open descriptor, or a name in a directory that no symlink stands for.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, Stat, Timestamps, Uid, XattrFlags, chmodat, chownat, fchmod, fchown,
    fremovexattr, fsetxattr, fstat, futimens, lgetxattr, lremovexattr, lsetxattr, statat, utimensat,
};
use rustix::io::Errno;

use super::apply::Applier;
use super::fault::Fault;
use super::tree::{Dir, Place, xattr_of};

/// What a command about metadata acts on.
#[derive(Debug)]
pub(super) enum Target<'a> {
    /// The subvolume's root.
    Root(Rc<Dir>),
    /// The file that is open.
    File(Rc<OwnedFd>),
    /// Anything else.
    At(Place<'a>),
}

impl Applier<'_> {
    pub(super) fn target<'a>(&mut self, path: &'a [u8]) -> Result<Target<'a>, Fault> {
        if path.is_empty() {
            return Ok(Target::Root(Rc::clone(self.tree.root())));
        }
        if let Some(file) = self.opened(path).and_then(|open| open.file.as_ref()) {
            return Ok(Target::File(Rc::clone(file)));
        }
        Ok(Target::At(self.tree.place(path)?))
    }
}

impl Target<'_> {
    pub(super) fn stat(&self) -> Result<Stat, Errno> {
        match self.fd() {
            Ok(fd) => fstat(fd),
            Err(place) => statat(&*place.dir, place.name, AtFlags::SYMLINK_NOFOLLOW),
        }
    }

    /// Sets the permission bits; refuses symbolic links, which have none and would be followed.
    pub(super) fn chmod(&self, mode: u32) -> Result<(), Fault> {
        let mode = Mode::from_raw_mode(mode & 0o7777);
        match self.fd() {
            Ok(fd) => Ok(fchmod(fd, mode)?),
            Err(_) if kind(&self.stat()?) == FileType::Symlink => {
                Err(Fault::Hostile("permissions for a symbolic link"))
            }
            Err(place) => Ok(chmodat(&*place.dir, place.name, mode, AtFlags::empty())?),
        }
    }

    pub(super) fn chown(&self, uid: u32, gid: u32) -> Result<(), Errno> {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        match self.fd() {
            Ok(fd) => fchown(fd, uid, gid),
            Err(place) => chownat(&*place.dir, place.name, uid, gid, AtFlags::SYMLINK_NOFOLLOW),
        }
    }

    pub(super) fn set_times(&self, times: &Timestamps) -> Result<(), Errno> {
        match self.fd() {
            Ok(fd) => futimens(fd, times),
            Err(place) => utimensat(&*place.dir, place.name, times, AtFlags::SYMLINK_NOFOLLOW),
        }
    }

    pub(super) fn xattr(&self, name: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
        let place = match self.fd() {
            Ok(fd) => return xattr_of(fd, name),
            Err(place) => place,
        };
        let mut value = vec![0; 1 << 16];
        match lgetxattr(proc_path(place), name, &mut value[..]) {
            Ok(len) => {
                value.truncate(len);
                Ok(Some(value))
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn set_xattr(&self, name: &[u8], data: &[u8]) -> Result<(), Errno> {
        match self.fd() {
            Ok(fd) => fsetxattr(fd, name, data, XattrFlags::empty()),
            Err(place) => lsetxattr(proc_path(place), name, data, XattrFlags::empty()),
        }
    }

    pub(super) fn remove_xattr(&self, name: &[u8]) -> Result<(), Errno> {
        match self.fd() {
            Ok(fd) => fremovexattr(fd, name),
            Err(place) => lremovexattr(proc_path(place), name),
        }
    }

    fn fd(&self) -> Result<BorrowedFd<'_>, &Place<'_>> {
        match self {
            Self::Root(dir) => Ok(dir.as_fd()),
            Self::File(file) => Ok(file.as_fd()),
            Self::At(place) => Err(place),
        }
    }
}

/// What kind of inode it is.
pub(super) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// A path for the calls that take neither a directory nor a descriptor of a symlink: the directory's magic link leads
/// to exactly that directory, and the calls do not follow the last component.
fn proc_path(place: &Place<'_>) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", place.dir.as_fd().as_raw_fd()).into_bytes();
    path.extend(place.name);
    path
}
