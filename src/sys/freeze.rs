//! Holding all writes to a filesystem back (include/uapi/linux/fs.h): one function per call.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

const FIFREEZE: u64 = 0xC004_5877;
const FITHAW: u64 = 0xC004_5878;

/// Brings all of the filesystem to its device, and lets nobody write to it from then on. Waits, and hears no signal meanwhile. `EBUSY` says that it is frozen.
pub fn freeze(dir: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: FIFREEZE reads no argument.
    call(unsafe { libc::ioctl(dir.as_raw_fd(), FIFREEZE as _, 0) })
}

/// Lets everybody write again. `EINVAL` says that it was not frozen.
pub fn thaw(dir: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: FITHAW reads no argument.
    call(unsafe { libc::ioctl(dir.as_raw_fd(), FITHAW as _, 0) })
}

fn call(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
