//! The kernel's send.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{WRITE, code, ioctl};

#[repr(C)]
struct SendArgs {
    send_fd: i64,
    clone_sources_count: u64,
    clone_sources: *const u64,
    parent_root: u64,
    flags: u64,
    version: u32,
    reserved: [u8; 28],
}

/// How to send.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SendOptions {
    /// The id of the base's subvolume; `None` sends in full.
    pub base: Option<u64>,
    /// Ids of subvolumes that the receiver has and that may be cloned from; the base belongs among them.
    pub clone_sources: Vec<u64>,
    /// Stream version 1, 2 or 3; 0 leaves it to the kernel (1).
    pub version: u32,
    /// Leave compressed extents compressed (version 2).
    pub compressed: bool,
    /// Send which ranges changed and not their bytes.
    pub no_data: bool,
}

/// Writes the send stream of `subvolume` (read-only) to `output`, a pipe. Blocks until all of it is written.
pub fn send(subvolume: BorrowedFd<'_>, output: BorrowedFd<'_>, options: &SendOptions) -> io::Result<()> {
    const NO_FILE_DATA: u64 = 1;
    const VERSION: u64 = 8;
    const COMPRESSED: u64 = 16;
    let mut flags = 0;
    flags |= if options.no_data { NO_FILE_DATA } else { 0 };
    flags |= if options.version > 0 { VERSION } else { 0 };
    flags |= if options.compressed { COMPRESSED } else { 0 };
    let mut args = SendArgs {
        send_fd: i64::from(output.as_raw_fd()),
        clone_sources_count: options.clone_sources.len() as u64,
        clone_sources: options.clone_sources.as_ptr(),
        parent_root: options.base.unwrap_or(0),
        flags,
        version: options.version,
        reserved: [0; 28],
    };
    // SAFETY: BTRFS_IOC_SEND reads one send_args; `clone_sources` outlives the call and holds that many ids.
    unsafe { ioctl(subvolume, code::<SendArgs>(WRITE, 38), &mut args) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_codes_are_those_of_the_kernels_header() {
        assert_eq!(code::<SendArgs>(WRITE, 38), 0x4048_9426);
    }
}
