//! A call of /dev/fuse that the safe crates lack.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

const FUSE_DEV_IOC_BACKING_CLOSE: u64 = 0x4004_e502;

/// The kernel no longer opens files of the filesystem by the backing file of this number; what is open stays so.
///
/// ENOENT: there is none of this number.
pub fn close_backing(device: BorrowedFd<'_>, id: u32) -> io::Result<()> {
    // SAFETY: FUSE_DEV_IOC_BACKING_CLOSE reads one u32; the descriptor is open during the call.
    match unsafe { libc::ioctl(device.as_raw_fd(), FUSE_DEV_IOC_BACKING_CLOSE as _, &id) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
