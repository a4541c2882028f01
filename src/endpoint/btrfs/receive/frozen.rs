//! Immutable and append-only inodes: thawed when a command needs it, frozen again at the end.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FileType, IFlags, ioctl_getflags, ioctl_setflags};
use rustix::io::Errno;

use super::apply::Applier;
use super::fault::Fault;
use super::plain::flags_of;
use super::target::kind;
use crate::stream::btrfs::Command;
use crate::sys::btrfs::ino_lookup;

/// The flags that stand in the way of everything else.
pub(super) const FROZEN: IFlags = IFlags::IMMUTABLE.union(IFlags::APPEND);
/// How many inodes are remembered, so that a stream can not fill the memory.
const MOST: usize = 1 << 20;

/// The flags that inodes get at the end, by inode number.
#[derive(Debug, Default)]
pub(super) struct Frozen {
    wishes: BTreeMap<u64, IFlags>,
}

impl Frozen {
    /// The flags, to be written down.
    pub(super) fn to_bits(&self) -> BTreeMap<u64, u32> {
        self.wishes.iter().map(|(&inode, flags)| (inode, flags.bits())).collect()
    }

    /// What was written down.
    pub(super) fn from_bits(bits: BTreeMap<u64, u32>) -> Self {
        let wishes = bits.into_iter().map(|(inode, bits)| (inode, IFlags::from_bits_retain(bits) & FROZEN));
        Self { wishes: wishes.collect() }
    }

    /// What is left to do, for who does it.
    pub(super) fn take(&mut self) -> BTreeMap<u64, IFlags> {
        std::mem::take(&mut self.wishes)
    }

    /// The stream wants `inode`, which is not the root, to end with exactly these of [`FROZEN`].
    pub(super) fn wish(&mut self, inode: u64, flags: IFlags) -> Result<(), Fault> {
        if flags.is_empty() && !self.wishes.contains_key(&inode) {
            return Ok(());
        }
        if self.wishes.len() >= MOST {
            return Err(Fault::Hostile("more immutable files than can be remembered"));
        }
        self.wishes.insert(inode, flags);
        Ok(())
    }
}

/// Takes [`FROZEN`] off a subvolume's root, for good: with it, the subvolume can be neither named nor destroyed.
pub(super) fn thaw_root(root: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = flags_of(root)?;
    match flags.intersects(FROZEN) {
        true => ioctl_setflags(root, flags - FROZEN),
        false => Ok(()),
    }
}

impl Applier<'_> {
    /// Takes [`FROZEN`] off whatever `command` is about, and off the directories that hold it. `true` if any had it.
    pub(super) fn thaw(&mut self, command: &Command<'_>) -> Result<bool, Fault> {
        let other = match *command {
            Command::Rename { to, .. } => Some(to),
            Command::Link { target, .. } => Some(target),
            _ => None,
        };
        let mut any = false;
        for path in command.path().into_iter().chain(other) {
            any |= self.thaw_path(path)?;
            let parent = path.iter().rposition(|&b| b == b'/').map_or(&b""[..], |slash| &path[..slash]);
            any |= self.thaw_path(parent)?;
        }
        Ok(any)
    }

    fn thaw_path(&mut self, path: &[u8]) -> Result<bool, Fault> {
        let Ok(stat) = self.target(path)?.stat() else { return Ok(false) };
        if !matches!(kind(&stat), FileType::RegularFile | FileType::Directory) {
            return Ok(false);
        }
        let file = self.open_for_flags(path)?;
        let flags = flags_of(file.as_fd())?;
        if !flags.intersects(FROZEN) {
            return Ok(false);
        }
        if self.frozen.wishes.len() >= MOST {
            return Err(Fault::Hostile("more changed immutable files than can be remembered"));
        }
        if stat.st_ino != self.root_inode {
            self.frozen.wishes.entry(stat.st_ino).or_insert(flags & FROZEN);
        }
        ioctl_setflags(&file, flags - FROZEN)?;
        Ok(true)
    }

    /// Gives all remembered inodes the flags that they are to end with.
    pub(super) fn freeze_again(&mut self) -> Result<(), Fault> {
        if self.plain {
            return self.freeze_plainly();
        }
        for (inode, wanted) in self.frozen.take() {
            let (_, mut path) = match ino_lookup(self.tree.root().as_fd(), 0, inode) {
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue, // Unlinked since.
                found => found?,
            };
            if path.last() == Some(&b'/') {
                path.pop();
            }
            let file = self.open_for_flags(&path)?;
            let flags = ioctl_getflags(&file)?;
            if flags & FROZEN != wanted {
                ioctl_setflags(&file, (flags - FROZEN) | wanted)?;
            }
        }
        Ok(())
    }
}
