//! The filesystem as a whole.

use std::io;
use std::os::fd::BorrowedFd;

use super::{NONE, READ, WRITE, code, ioctl};

#[repr(C)]
struct FsInfoArgs {
    max_id: u64,
    num_devices: u64,
    fsid: [u8; 16],
    nodesize: u32,
    sectorsize: u32,
    rest: [u8; 984],
}

/// What the filesystem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FsInfo {
    /// Its uuid.
    pub fsid: [u8; 16],
    /// The block size of data in bytes.
    pub sectorsize: u32,
}

/// Reads the filesystem's uuid and sizes. Needs no privilege.
pub fn fs_info(fd: BorrowedFd<'_>) -> io::Result<FsInfo> {
    let mut args = Box::new(FsInfoArgs {
        max_id: 0,
        num_devices: 0,
        fsid: [0; 16],
        nodesize: 0,
        sectorsize: 0,
        rest: [0; 984],
    });
    // SAFETY: BTRFS_IOC_FS_INFO reads and writes one fs_info_args of 1024 bytes.
    unsafe { ioctl(fd, code::<FsInfoArgs>(READ, 31), &mut *args) }?;
    Ok(FsInfo { fsid: args.fsid, sectorsize: args.sectorsize })
}

/// Commits the filesystem's running transaction.
pub fn sync(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: BTRFS_IOC_SYNC takes no argument.
    unsafe { ioctl(fd, code::<()>(NONE, 8), &mut ()) }.map(drop)
}

#[repr(C)]
struct VolArgs {
    fd: i64,
    name: [u8; 4088],
}

/// Resizes the mounted filesystem that holds `fd`: `max`, `+1G`, `1:20G` …
pub fn resize(fd: BorrowedFd<'_>, amount: &str) -> io::Result<()> {
    let mut args = Box::new(VolArgs { fd: 0, name: [0; 4088] });
    if amount.len() >= args.name.len() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    args.name[..amount.len()].copy_from_slice(amount.as_bytes());
    // SAFETY: BTRFS_IOC_RESIZE reads one vol_args, whose name ends with a NUL.
    unsafe { ioctl(fd, code::<VolArgs>(WRITE, 3), &mut *args) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_codes_are_those_of_the_kernels_header() {
        assert_eq!(code::<FsInfoArgs>(READ, 31), 0x8400_941f);
        assert_eq!(code::<VolArgs>(WRITE, 3), 0x5000_9403);
    }
}
