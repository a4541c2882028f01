//! What is other where a plain tree is made, on whatever filesystem: what that can not hold is told, not an error.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{
    Dir, FallocateFlags, FileType, IFlags, fstat, fstatvfs, ftruncate, ioctl_getflags, ioctl_setflags,
};
use rustix::io::Errno;

use super::apply::Applier;
use super::data::write_all;
use super::fault::Fault;
use super::frozen::FROZEN;
use crate::endpoint::beneath::open_dir;

/// The flags of a stream that other filesystems than btrfs may have.
const KEPT: IFlags = IFlags::SYNC.union(IFlags::NODUMP).union(IFlags::NOATIME).union(IFlags::DIRSYNC);

/// The flags that a directory of any filesystem may hand down.
pub(super) const HANDED_DOWN_PLAINLY: IFlags = KEPT.union(super::tree::INHERITED);

/// How many bytes of zeros are written at a time.
const ZEROS: usize = 1 << 20;

/// An inode's flags: none where the filesystem has no such thing.
pub(super) fn flags_of(inode: BorrowedFd<'_>) -> Result<IFlags, Errno> {
    match ioctl_getflags(inode) {
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(IFlags::empty()),
        flags => flags,
    }
}

/// Does what `fallocate` would, as far as it can be read: space that is only reserved is not.
pub(super) fn allocate_plainly(
    file: BorrowedFd<'_>,
    mode: FallocateFlags,
    offset: u64,
    len: u64,
) -> Result<(), Fault> {
    let size = fstat(file)?.st_size as u64;
    let end = offset.checked_add(len).filter(|end| i64::try_from(*end).is_ok()).ok_or(Errno::FBIG)?;
    if mode.intersects(FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE) {
        let zeros = vec![0; ZEROS];
        let mut at = offset;
        while at < end.min(size) {
            let wanted = (end.min(size) - at).min(ZEROS as u64);
            write_all(file, at, &zeros[..wanted as usize])?;
            at += wanted;
        }
    }
    match mode.contains(FallocateFlags::KEEP_SIZE) || end <= size {
        true => Ok(()),
        false => Ok(ftruncate(file, end)?),
    }
}

impl Applier<'_> {
    /// The flags that what is made takes from its directory.
    pub(super) fn inherited(&self) -> IFlags {
        if self.plain { HANDED_DOWN_PLAINLY } else { super::tree::INHERITED }
    }

    pub(super) fn set_xattr_plainly(&mut self, path: &[u8], name: &[u8], data: &[u8]) -> Result<(), Fault> {
        let shown = name.escape_ascii().to_string();
        if name.starts_with(b"btrfs.") {
            self.ground.lacks(&shown, path);
            return Ok(());
        }
        match self.target(path)?.set_xattr(name, data) {
            Err(Errno::OPNOTSUPP | Errno::TOOBIG | Errno::RANGE) => {
                self.ground.lacks(&shown, path);
                return Ok(());
            }
            // ext4 says so also of one that is longer than a block.
            Err(Errno::NOSPC) if self.has_room(data.len())? => {
                self.ground.lacks(&shown, path);
                return Ok(());
            }
            done => done?,
        }
        self.after_xattr(path, name, Some(data))
    }

    /// Whether the filesystem has so much room that it is not why a few bytes found none.
    fn has_room(&self, len: usize) -> Result<bool, Errno> {
        let free = fstatvfs(&**self.tree.root())?;
        Ok(free.f_bavail.saturating_mul(free.f_frsize) > (len as u64).max(1 << 20) && free.f_favail != 0)
    }

    pub(super) fn fileattr_plainly(&mut self, path: &[u8], inode: u64, wanted: IFlags) -> Result<(), Fault> {
        if inode != self.root_inode {
            self.frozen.wish(inode, wanted & FROZEN)?;
        }
        let file = self.open_for_flags(path)?;
        let now = flags_of(file.as_fd())?;
        let next = (now - KEPT) | (wanted & KEPT);
        if next != now {
            let _ = ioctl_setflags(&file, next); // It is looked at.
        }
        let now = flags_of(file.as_fd())?;
        for (flag, _) in (wanted - FROZEN - now).iter_names() {
            self.ground.lacks(&format!("the flag {flag}"), path);
        }
        self.tree.look_again(path)
    }

    /// Gives all remembered inodes the flags that they are to end with: they are found by looking through all of the tree.
    pub(super) fn freeze_plainly(&mut self) -> Result<(), Fault> {
        let wishes = self.frozen.take();
        let mut directories = if wishes.is_empty() { Vec::new() } else { vec![Vec::new()] };
        while let Some(directory) = directories.pop() {
            let root = self.tree.root();
            for entry in Dir::read_from(open_dir(root.as_fd(), &directory)?)? {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                let kind = entry.file_type();
                if matches!(name, b"." | b"..")
                    || !matches!(kind, FileType::Directory | FileType::RegularFile)
                {
                    continue;
                }
                let path =
                    if directory.is_empty() { name.to_vec() } else { [&directory, &b"/"[..], name].concat() };
                if let Some(wanted) = wishes.get(&entry.ino()) {
                    self.freeze_one(&path, *wanted)?;
                }
                if kind == FileType::Directory {
                    directories.push(path);
                }
            }
        }
        Ok(())
    }

    fn freeze_one(&mut self, path: &[u8], wanted: IFlags) -> Result<(), Fault> {
        let file = self.open_for_flags(path)?;
        let now = flags_of(file.as_fd())?;
        if now & FROZEN != wanted {
            let _ = ioctl_setflags(&file, (now - FROZEN) | wanted); // It is looked at.
        }
        for (flag, _) in (wanted - flags_of(file.as_fd())?).iter_names() {
            self.ground.lacks(&format!("the flag {flag}"), path);
        }
        Ok(())
    }
}
