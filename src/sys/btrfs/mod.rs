//! The btrfs ioctls: one function per call (include/uapi/linux/btrfs.h, kernel 6.18).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

mod filesystem;
mod lookup;
mod search;
mod send;
mod subvolume;

pub use filesystem::{FsInfo, fs_info, resize, sync};
pub use lookup::{ino_lookup, open_by_id, open_inode, paths_of_inode, subvol_id};
pub use search::{
    EXTENT_DATA_KEY, INODE_ITEM_KEY, Item, ROOT_BACKREF_KEY, ROOT_ITEM_KEY, ROOT_REF_KEY, ROOT_TREE_OBJECTID,
    SearchKey, tree_search,
};
pub use send::{SendOptions, send};
pub use subvolume::{
    SubvolInfo, Timespec, get_subvol_info, set_received_subvol, snap_create, snap_destroy,
    snap_destroy_by_id, subvol_create, subvol_is_readonly, subvol_set_readonly,
};

/// The inode number of every subvolume's root directory.
pub const FIRST_FREE_OBJECTID: u64 = 256;
/// The id of the top-level subvolume.
pub const FS_TREE_OBJECTID: u64 = 5;
/// The superblock magic in `statfs`.
pub const SUPER_MAGIC: i64 = 0x9123_683E;

const MAGIC: u32 = 0x94;

const NONE: u32 = 0;
const WRITE: u32 = 1;
const READ: u32 = 2;

const fn code<T>(direction: u32, number: u32) -> u64 {
    ((direction << 30) | ((size_of::<T>() as u32) << 16) | (MAGIC << 8) | number) as u64
}

/// Calls `ioctl` with a pointer to `argument`.
///
/// # Safety
/// `request` must read and write no more than a `T`, and each pointer inside must be good for as long as the call.
unsafe fn ioctl<T>(fd: BorrowedFd<'_>, request: u64, argument: &mut T) -> io::Result<u32> {
    // SAFETY: the caller vouches for the request; the pointer is to a live, exclusive T.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request as _, argument as *mut T) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as u32) }
}
