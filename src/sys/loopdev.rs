//! Loop devices (include/uapi/linux/loop.h, kernel 5.8 and later for the atomic attach): one function per call.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

const CLR_FD: u32 = 0x4C01;
const SET_STATUS64: u32 = 0x4C04;
const GET_STATUS64: u32 = 0x4C05;
const SET_CAPACITY: u32 = 0x4C07;
const CONFIGURE: u32 = 0x4C0A;
const CTL_GET_FREE: u32 = 0x4C82;

const FLAG_READ_ONLY: u32 = 1;
const FLAG_AUTOCLEAR: u32 = 4;
const FLAG_DIRECT_IO: u32 = 16;

/// The major number of loop devices.
pub const MAJOR: u32 = 7;

#[repr(C)]
#[derive(Clone, Copy)]
struct Info64 {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

impl Info64 {
    fn zeroed() -> Self {
        // SAFETY: all-zero bytes are a valid Info64: integers and arrays of integers.
        unsafe { std::mem::zeroed() }
    }
}

#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info64,
    reserved: [u64; 8],
}

/// What a loop device shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// The device number of the filesystem that holds the backing file, in the kernel's 64-bit form.
    pub device: u64,
    /// The backing file's inode number.
    pub inode: u64,
    /// The first byte of the file that the device shows.
    pub offset: u64,
    /// How many bytes it shows at most; 0 for all.
    pub size_limit: u64,
    /// Whether it may only be read.
    pub read_only: bool,
    /// Whether it detaches itself when its last user is gone.
    pub autoclear: bool,
    /// Whether it bypasses the page cache of the backing file.
    pub direct_io: bool,
}

impl Status {
    /// The device number of the filesystem that holds the backing file, as `stat` gives it.
    pub fn filesystem(&self) -> u64 {
        let (major, minor) =
            ((self.device >> 8) & 0xfff, (self.device & 0xff) | ((self.device >> 12) & 0xf_ff00));
        rustix::fs::makedev(major as u32, minor as u32)
    }

    /// Whether the device shows all of the file with that device and inode number (as `stat` gives them).
    pub fn shows(&self, st_dev: u64, st_ino: u64) -> bool {
        // The kernel encodes dev_t as 12 bits major, 20 bits minor: what the low 32 bits of glibc's form are too.
        let encode = |dev: u64| {
            let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
            u64::from((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12))
        };
        self.inode == st_ino && self.device == encode(st_dev) && self.offset == 0 && self.size_limit == 0
    }
}

/// How to attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attach {
    /// The device's logical block size in bytes.
    pub block_size: u32,
    /// Detach when the last user is gone.
    pub autoclear: bool,
    /// Bypass the page cache of the backing file. The kernel drops the wish where the filesystem can not.
    pub direct_io: bool,
}

/// The number of a loop device that is free now; another process may take it before us.
pub fn get_free(control: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: LOOP_CTL_GET_FREE takes no argument.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), CTL_GET_FREE as _) };
    u32::try_from(number).map_err(|_| io::Error::last_os_error())
}

/// Attaches `image` to `device` in one step (kernel 5.8). `EBUSY` says that the device has been taken.
pub fn configure(device: BorrowedFd<'_>, image: &File, how: Attach) -> io::Result<()> {
    let mut info = Info64::zeroed();
    info.flags |= if how.autoclear { FLAG_AUTOCLEAR } else { 0 };
    info.flags |= if how.direct_io { FLAG_DIRECT_IO } else { 0 };
    let fd = u32::try_from(image.as_raw_fd()).expect("an open descriptor is not negative");
    let config = Config { fd, block_size: how.block_size, info, reserved: [0; 8] };
    // SAFETY: LOOP_CONFIGURE reads one loop_config; `image` is open during the call and then held by the kernel.
    call(unsafe { libc::ioctl(device.as_raw_fd(), CONFIGURE as _, &raw const config) })
}

/// What `device` shows; `None` if nothing is attached.
pub fn status(device: BorrowedFd<'_>) -> io::Result<Option<Status>> {
    let mut info = Info64::zeroed();
    // SAFETY: LOOP_GET_STATUS64 writes one loop_info64.
    match call(unsafe { libc::ioctl(device.as_raw_fd(), GET_STATUS64 as _, &raw mut info) }) {
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        Err(error) => Err(error),
        Ok(()) => Ok(Some(Status {
            device: info.device,
            inode: info.inode,
            offset: info.offset,
            size_limit: info.sizelimit,
            read_only: info.flags & FLAG_READ_ONLY != 0,
            autoclear: info.flags & FLAG_AUTOCLEAR != 0,
            direct_io: info.flags & FLAG_DIRECT_IO != 0,
        })),
    }
}

/// Makes `device` detach itself when its last user is gone.
pub fn set_autoclear(device: BorrowedFd<'_>) -> io::Result<()> {
    let mut info = Info64::zeroed();
    // SAFETY: LOOP_GET_STATUS64 writes one loop_info64.
    call(unsafe { libc::ioctl(device.as_raw_fd(), GET_STATUS64 as _, &raw mut info) })?;
    info.flags |= FLAG_AUTOCLEAR;
    // SAFETY: LOOP_SET_STATUS64 reads one loop_info64.
    call(unsafe { libc::ioctl(device.as_raw_fd(), SET_STATUS64 as _, &raw const info) })
}

/// Makes `device` as large as its backing file is now.
pub fn set_capacity(device: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: LOOP_SET_CAPACITY takes no argument.
    call(unsafe { libc::ioctl(device.as_raw_fd(), SET_CAPACITY as _) })
}

/// Detaches `device`, or makes it detach itself when its last user is gone.
pub fn clear(device: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: LOOP_CLR_FD takes no argument.
    call(unsafe { libc::ioctl(device.as_raw_fd(), CLR_FD as _) })
}

fn call(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_have_the_sizes_of_the_kernels_header() {
        assert_eq!((size_of::<Info64>(), size_of::<Config>()), (232, 304));
    }

    #[test]
    fn a_device_shows_a_file_only_whole_and_by_identity() {
        let dev = rustix::fs::makedev(254, 0x1_02);
        let status = Status {
            device: 0x02 | 254 << 8 | 0x100 << 12,
            inode: 7,
            offset: 0,
            size_limit: 0,
            read_only: false,
            autoclear: true,
            direct_io: false,
        };
        assert!(status.shows(dev, 7));
        assert!(!status.shows(dev, 8));
        assert!(!status.shows(rustix::fs::makedev(254, 2), 7));
        assert!(!Status { offset: 4096, ..status }.shows(dev, 7));
    }
}
