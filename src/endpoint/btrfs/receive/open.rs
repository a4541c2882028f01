//! The one file that is open at a time.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, XattrFlags, fsetxattr, openat, statat};

use super::apply::Applier;
use super::fault::Fault;
use super::tree::{Place, open_parent, xattr_of};

/// Where file capabilities are kept; the kernel takes them away at every change of owner and at writes.
pub(super) const CAPABILITY: &[u8] = b"security.capability";

/// What is known of an inode that this receive has made and nothing else has touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fresh {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
}

/// What the last commands were about. It is left at every rename, unlink and rmdir: its path may mean another inode then.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) path: Vec<u8>,
    /// Open for reading and writing, if it is a regular file.
    pub(super) file: Option<Rc<OwnedFd>>,
    pub(super) fresh: Option<Fresh>,
    /// The capability that it has, or had before a write took it.
    pub(super) capability: Option<Vec<u8>>,
}

impl Applier<'_> {
    /// What is open, if it is `path`.
    pub(super) fn opened(&mut self, path: &[u8]) -> Option<&mut Open> {
        self.open.as_mut().filter(|open| open.path == path)
    }

    /// The regular file `path`, open for writing.
    pub(super) fn file(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, Fault> {
        if let Some(file) = self.opened(path).and_then(|open| open.file.as_ref()) {
            return Ok(Rc::clone(file));
        }
        self.leave()?;
        let place = self.tree.place(path)?;
        let file = Rc::new(open_regular(&place, OFlags::RDWR)?);
        let capability = xattr_of(file.as_fd(), CAPABILITY)?;
        let opened = Open { path: path.to_vec(), file: Some(Rc::clone(&file)), fresh: None, capability };
        self.open = Some(opened);
        Ok(file)
    }

    /// Closes what is open, and gives it back a capability that a write took.
    pub(super) fn leave(&mut self) -> Result<(), Fault> {
        match self.open.take() {
            Some(Open { file: Some(file), capability: Some(capability), .. }) => {
                Ok(fsetxattr(&*file, CAPABILITY, &capability, XattrFlags::empty())?)
            }
            _ => Ok(()),
        }
    }
}

/// Opens what is a regular file; anything else is refused before it is opened, as opening a device or a FIFO acts on it.
pub(super) fn open_regular(place: &Place<'_>, access: OFlags) -> Result<OwnedFd, Fault> {
    open_regular_at(place.dir.as_fd(), place.name, access)
}

/// The regular file `path` beneath the root of another subvolume, for reading.
pub(super) fn open_regular_beneath(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Fault> {
    let (dir, name) = open_parent(root, path)?;
    open_regular_at(dir.as_fd(), name, OFlags::RDONLY)
}

fn open_regular_at(dir: BorrowedFd<'_>, name: &[u8], access: OFlags) -> Result<OwnedFd, Fault> {
    let mode = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode;
    if FileType::from_raw_mode(mode) != FileType::RegularFile {
        return Err(Fault::Hostile("data of something that is no regular file"));
    }
    let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(openat(dir, name, flags, Mode::empty())?)
}
