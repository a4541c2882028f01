//! A directory tree named by one descriptor: everything in it is reached by its path below.
//!
//! **Invariant:** nothing here knows of layers, marks or nodes.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Gid, Mode, OFlags, RenameFlags, Stat, Timestamps, Uid, XattrFlags};

use super::{Errno, Fallible};
use crate::sys::mount;

/// What is longer is walked in parts: the kernel takes no path of 4096 bytes or more.
const PART: usize = 3500;

/// A directory, and what is below it.
#[derive(Debug)]
pub struct Root(OwnedFd);

impl Root {
    /// Opens the directory `path`.
    pub fn open(path: &Path) -> Fallible<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// Opens the directory `path` through a mount of its own on which nothing can be written, whatever is opened anew from its
    /// files. Without the right to mount, it is opened as it is.
    pub fn open_read_only(path: &Path) -> Fallible<Self> {
        let plain = Self::open(path)?;
        let Ok(clone) = mount::bind(plain.0.as_fd()) else { return Ok(plain) };
        let restrict = mount::Restrict { readonly: true, ..mount::Restrict::default() };
        match mount::restrict(&clone, restrict) {
            Ok(()) => Ok(Self(clone.into())),
            Err(_) => Ok(plain),
        }
    }

    /// What `lstat` says of `path`.
    pub fn stat(&self, path: &Path) -> Fallible<Stat> {
        self.near(path, |fd, path| rustix::fs::statat(fd, path, AtFlags::SYMLINK_NOFOLLOW))
    }

    /// Whether anything has this name.
    pub fn holds(&self, path: &Path) -> Fallible<bool> {
        match self.stat(path) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Opens what is there; links are not followed.
    pub fn open_at(&self, path: &Path, flags: OFlags) -> Fallible<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.near(path, |fd, path| rustix::fs::openat(fd, path, flags, Mode::empty()))
    }

    /// Makes a file that was not there, and opens it for reading and writing.
    pub fn create(&self, path: &Path, mode: u32) -> Fallible<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.near(path, |fd, path| rustix::fs::openat(fd, path, flags, bits(mode)))
    }

    /// Makes a file without a name in a directory, and opens it for reading and writing.
    pub fn create_unnamed(&self, dir: &Path, mode: u32) -> Fallible<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        self.near(dir, |fd, path| rustix::fs::openat(fd, path, flags, bits(mode)))
    }

    /// Makes a directory.
    pub fn mkdir(&self, path: &Path, mode: u32) -> Fallible<()> {
        self.near(path, |fd, path| rustix::fs::mkdirat(fd, path, bits(mode)))
    }

    /// Makes a file of any type but directory and link; `mode` has the type in it.
    pub fn mknod(&self, path: &Path, mode: u32, device: u64) -> Fallible<()> {
        let kind = rustix::fs::FileType::from_raw_mode(mode);
        self.near(path, |fd, path| rustix::fs::mknodat(fd, path, kind, bits(mode), device))
    }

    /// Makes a symbolic link.
    pub fn symlink(&self, target: &Path, path: &Path) -> Fallible<()> {
        self.near(path, |fd, path| rustix::fs::symlinkat(target, fd, path))
    }

    /// What a symbolic link says.
    pub fn readlink(&self, path: &Path) -> Fallible<Vec<u8>> {
        self.near(path, |fd, path| Ok(rustix::fs::readlinkat(fd, path, Vec::new())?.into_bytes()))
    }

    /// Takes a name of a file away.
    pub fn unlink(&self, path: &Path) -> Fallible<()> {
        self.near(path, |fd, path| rustix::fs::unlinkat(fd, path, AtFlags::empty()))
    }

    /// Takes an empty directory away.
    pub fn rmdir(&self, path: &Path) -> Fallible<()> {
        self.near(path, |fd, path| rustix::fs::unlinkat(fd, path, AtFlags::REMOVEDIR))
    }

    /// Renames to a path of another root.
    pub fn rename(&self, path: &Path, to: &Self, target: &Path, flags: RenameFlags) -> Fallible<()> {
        self.near(path, |from, path| {
            to.near(target, |to, target| rustix::fs::renameat_with(from, path, to, target, flags))
        })
    }

    /// Gives a file one more name, in another root.
    pub fn link(&self, path: &Path, to: &Self, target: &Path) -> Fallible<()> {
        self.near(path, |from, path| {
            to.near(target, |to, target| rustix::fs::linkat(from, path, to, target, AtFlags::empty()))
        })
    }

    /// Gives an open file a name. ENOENT: it lost its last one.
    pub fn link_open(&self, file: &OwnedFd, target: &Path) -> Fallible<()> {
        let seen = Path::new("/proc/self/fd").join(file.as_raw_fd().to_string());
        self.near(target, |to, target| {
            rustix::fs::linkat(rustix::fs::CWD, &seen, to, target, AtFlags::SYMLINK_FOLLOW)
        })
    }

    /// Sets owner and group; `None` leaves one as it is.
    pub fn chown(&self, path: &Path, uid: Option<u32>, gid: Option<u32>) -> Fallible<()> {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        self.near(path, |fd, path| rustix::fs::chownat(fd, path, uid, gid, AtFlags::SYMLINK_NOFOLLOW))
    }

    /// Sets the mode of what is no link.
    pub fn chmod(&self, path: &Path, mode: u32) -> Fallible<()> {
        self.near(path, |fd, path| rustix::fs::chmodat(fd, path, bits(mode), AtFlags::empty()))
    }

    /// Sets the times of access and change.
    pub fn utimes(&self, path: &Path, times: &Timestamps) -> Fallible<()> {
        self.near(path, |fd, path| rustix::fs::utimensat(fd, path, times, AtFlags::SYMLINK_NOFOLLOW))
    }

    /// The entries of a directory but `.` and `..`.
    pub fn list(&self, path: &Path) -> Fallible<Vec<rustix::fs::DirEntry>> {
        let dir = Dir::new(self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY)?)?;
        let entries = dir.filter(|entry| {
            !entry.as_ref().is_ok_and(|entry| matches!(entry.file_name().to_bytes(), b"." | b".."))
        });
        entries.collect()
    }

    /// The value of an extended attribute, if there is one.
    pub fn xattr(&self, path: &Path, name: &[u8]) -> Fallible<Option<Vec<u8>>> {
        let read = self.seen(path, |path| grown(|buffer| rustix::fs::lgetxattr(path, name, buffer)));
        match read {
            Ok(value) => Ok(Some(value)),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The names of all extended attributes.
    pub fn xattrs(&self, path: &Path) -> Fallible<Vec<Vec<u8>>> {
        let names = match self.seen(path, |path| grown(|buffer| rustix::fs::llistxattr(path, buffer))) {
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            names => names?,
        };
        Ok(names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
    }

    /// Sets an extended attribute.
    pub fn set_xattr(&self, path: &Path, name: &[u8], value: &[u8], flags: XattrFlags) -> Fallible<()> {
        self.seen(path, |path| rustix::fs::lsetxattr(path, name, value, flags))
    }

    /// Takes an extended attribute away.
    pub fn remove_xattr(&self, path: &Path, name: &[u8]) -> Fallible<()> {
        self.seen(path, |path| rustix::fs::lremovexattr(path, name))
    }

    /// Calls `act` with a path for calls that take no directory's descriptor.
    fn seen<T>(&self, path: &Path, act: impl FnOnce(&Path) -> Fallible<T>) -> Fallible<T> {
        self.near(path, |fd, path| {
            act(&Path::new("/proc/self/fd").join(fd.as_raw_fd().to_string()).join(path))
        })
    }

    /// Calls `act` with a descriptor and the path from there, which is short enough for the kernel.
    fn near<T>(&self, path: &Path, act: impl FnOnce(BorrowedFd<'_>, &Path) -> Fallible<T>) -> Fallible<T> {
        if path.as_os_str().is_empty() {
            return act(self.0.as_fd(), Path::new("."));
        }
        if path.as_os_str().len() <= PART {
            return act(self.0.as_fd(), path);
        }
        let bytes = path.as_os_str().as_bytes();
        let cut = bytes[..PART].iter().rposition(|byte| *byte == b'/').ok_or(Errno::NAMETOOLONG)?;
        let part = Path::new(std::ffi::OsStr::from_bytes(&bytes[..cut]));
        let rest = Path::new(std::ffi::OsStr::from_bytes(&bytes[cut + 1..]));
        Self(self.open_at(part, OFlags::PATH | OFlags::DIRECTORY)?).near(rest, act)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Permission bits, without the type.
fn bits(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o7777)
}

/// What a call writes into a buffer of unknown size.
pub fn grown(mut call: impl FnMut(&mut [u8]) -> Fallible<usize>) -> Fallible<Vec<u8>> {
    let mut buffer = vec![0; 256];
    loop {
        match call(&mut buffer) {
            Ok(len) => {
                buffer.truncate(len);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < 128 << 10 => buffer.resize(buffer.len() * 8, 0),
            Err(error) => return Err(error),
        }
    }
}
