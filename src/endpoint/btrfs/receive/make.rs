//! Making inodes, mostly at once under the name and with the mode that they will have.
//!
//! A sender makes everything under a temporary name and renames it at once. Where the next command is that rename,
//! one call makes it in place: nothing can have seen the temporary name. Where the place would hand something down
//! (a default ACL, a group, a property) the sender's way is gone, as it hands down nothing.

use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

use rustix::fs::{
    FileType, IFlags, Mode, OFlags, fremovexattr, ioctl_setflags, mkdirat, mknodat, openat, symlinkat,
};
use rustix::io::Errno;

use super::apply::Applier;
use super::fault::Fault;
use super::names::taken;
use super::open::{Fresh, Open};
use super::plain::{HANDED_DOWN_PLAINLY, flags_of};
use super::target::Target;
use super::tree::{INHERITED, Place};
use crate::stream::btrfs::Command;

/// What to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    File,
    Dir,
    Symlink { target: Vec<u8> },
    Special { kind: FileType, rdev: u64 },
}

impl Node {
    pub(super) fn of<'a>(command: &Command<'a>) -> Option<(Self, &'a [u8])> {
        let special = |kind| Self::Special { kind, rdev: 0 };
        Some(match *command {
            Command::Mkfile { path, .. } => (Self::File, path),
            Command::Mkdir { path, .. } => (Self::Dir, path),
            Command::Symlink { path, target, .. } => (Self::Symlink { target: target.to_vec() }, path),
            Command::Mkfifo { path, .. } => (special(FileType::Fifo), path),
            Command::Mksock { path, .. } => (special(FileType::Socket), path),
            Command::Mknod { path, mode, rdev, .. } => {
                (Self::Special { kind: FileType::from_raw_mode(mode as u32), rdev }, path)
            }
            _ => return None,
        })
    }
}

/// What was to be made, and waits for its name.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) offset: u64,
    pub(super) path: Vec<u8>,
    pub(super) node: Node,
    inode: u64,
    mode: u64,
}

impl Pending {
    pub(super) fn of(offset: u64, command: &Command<'_>) -> Option<Self> {
        let (node, path) = Node::of(command)?;
        let (inode, mode) = match *command {
            Command::Mknod { inode, mode, .. } => (inode, mode),
            Command::Mkfile { inode, .. }
            | Command::Mkdir { inode, .. }
            | Command::Symlink { inode, .. }
            | Command::Mkfifo { inode, .. }
            | Command::Mksock { inode, .. } => (inode, 0),
            _ => (0, 0),
        };
        Some(Self { offset, path: path.to_vec(), node, inode, mode })
    }

    /// Whether it is something that not every filesystem can have.
    pub(super) fn is_uncommon(&self) -> bool {
        !matches!(self.node, Node::File | Node::Dir)
    }

    /// The command that it was.
    pub(super) fn command(&self) -> Command<'_> {
        let (path, inode, mode) = (&self.path[..], self.inode, self.mode);
        match &self.node {
            Node::File => Command::Mkfile { path, inode },
            Node::Dir => Command::Mkdir { path, inode },
            Node::Symlink { target } => Command::Symlink { path, inode, target },
            Node::Special { kind: FileType::Fifo, .. } => Command::Mkfifo { path, inode },
            Node::Special { kind: FileType::Socket, .. } => Command::Mksock { path, inode },
            Node::Special { rdev, .. } => Command::Mknod { path, inode, mode, rdev: *rdev },
        }
    }
}

/// The mode that the next file and directory will probably get: that of the last one. Only plain permissions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Guess {
    pub(super) file: u32,
    pub(super) dir: u32,
}

impl Default for Guess {
    fn default() -> Self {
        Self { file: 0o644, dir: 0o755 }
    }
}

impl Applier<'_> {
    /// Makes an inode under exactly that name.
    pub(super) fn make(&mut self, node: &Node, path: &[u8]) -> Result<(), Fault> {
        self.leave()?;
        let place = self.tree.place(path)?;
        let mut open = self.create(node, &place)?;
        open.path = path.to_vec();
        if place.dir.bequeaths {
            open.fresh = None;
            disinherit(node, &open, place, self.inherited())?;
        }
        self.open = Some(open);
        Ok(())
    }

    /// Makes an inode under the name that it gets right after.
    pub(super) fn make_renamed(&mut self, pending: &Pending, to: &[u8]) -> Result<(), Fault> {
        let place = self.tree.place(to)?;
        if !place.dir.bequeaths {
            self.leave()?;
            match self.create(&pending.node, &place) {
                Err(Fault::Os(error)) if error.raw_os_error() == Some(libc::EEXIST) => {
                    if self.plain {
                        return Err(taken(&place));
                    }
                }
                made => {
                    self.open = Some(Open { path: to.to_vec(), ..made? });
                    return Ok(());
                }
            }
        }
        self.make(&pending.node, &pending.path)?;
        // By itself: what has been made is not made again if an immutable flag is in the way of its name.
        let rename = Command::Rename { path: &pending.path, to };
        self.retrying(&rename, |a| a.rename(&pending.path, to))
    }

    fn create(&self, node: &Node, place: &Place<'_>) -> Result<Open, Fault> {
        let (dir, name) = (&*place.dir, place.name);
        let (mut file, mut mode) = (None, 0o600);
        match node {
            Node::File => {
                mode = self.guess.file;
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                file = Some(Rc::new(openat(dir, name, flags, Mode::from_raw_mode(mode))?));
            }
            Node::Dir => {
                mode = self.guess.dir;
                mkdirat(dir, name, Mode::from_raw_mode(mode))?;
            }
            Node::Symlink { target } => symlinkat(&target[..], dir, name)?,
            Node::Special { kind, rdev } => {
                let known =
                    [FileType::Fifo, FileType::Socket, FileType::CharacterDevice, FileType::BlockDevice];
                if !known.contains(kind) {
                    return Err(Fault::Hostile("a node of an unknown type"));
                }
                mknodat(dir, name, *kind, Mode::from_raw_mode(mode), *rdev)?;
            }
        }
        // Elsewhere than on btrfs a mount may hand down a directory's group (grpid).
        let fresh = (!self.plain).then_some(Fresh { uid: self.owner.0, gid: self.owner.1, mode });
        Ok(Open { path: Vec::new(), file, fresh, capability: None })
    }
}

/// The attributes that a directory hands down.
const HANDED_DOWN: [&str; 3] = ["system.posix_acl_access", "system.posix_acl_default", "btrfs.compression"];

/// Takes away what a new inode got from the directory that it was made in.
fn disinherit(node: &Node, open: &Open, place: Place<'_>, inherited: IFlags) -> Result<(), Fault> {
    if matches!(node, Node::Symlink { .. }) {
        return Ok(());
    }
    let target = open.file.as_ref().map_or(Target::At(place), |file| Target::File(Rc::clone(file)));
    for name in HANDED_DOWN {
        match target.remove_xattr(name.as_bytes()) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::INVAL | Errno::ACCESS) => {}
            Err(Errno::PERM) if matches!(node, Node::Special { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    open.file.as_ref().map_or(Ok(()), |file| Ok(clear_flags(file.as_fd(), inherited)?))
}

/// Takes away what a new subvolume's root got from where it was made.
pub(super) fn disinherit_root(root: BorrowedFd<'_>, plain: bool) -> Result<(), Errno> {
    for name in HANDED_DOWN {
        match fremovexattr(root, name) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error),
        }
    }
    clear_flags(root, if plain { HANDED_DOWN_PLAINLY } else { INHERITED })
}

fn clear_flags(inode: BorrowedFd<'_>, inherited: IFlags) -> Result<(), Errno> {
    let flags = flags_of(inode)?;
    match flags.intersects(inherited) {
        true => ioctl_setflags(inode, flags - inherited),
        false => Ok(()),
    }
}
