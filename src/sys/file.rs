//! Calls on files that the safe crates lack: clone ranges, encoded writes, fs-verity, a thread's own umask.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::Mode;

#[repr(C)]
struct CloneRange {
    from: i64,
    from_offset: u64,
    len: u64,
    to_offset: u64,
}

const FICLONERANGE: u64 = 0x4020_940D;
const BTRFS_ENCODED_WRITE: u64 = 0x4080_9440;
const FS_IOC_ENABLE_VERITY: u64 = 0x4080_6685;

/// Makes `len` bytes of `to` share the storage of those of `from`. A `len` of 0 means up to the end of `from`.
///
/// EINVAL: the offsets are no multiples of the sector size, or the files differ in how they are stored.
pub fn clone_range(
    from: BorrowedFd<'_>,
    from_offset: u64,
    len: u64,
    to: BorrowedFd<'_>,
    to_offset: u64,
) -> io::Result<()> {
    let args = CloneRange { from: i64::from(from.as_raw_fd()), from_offset, len, to_offset };
    // SAFETY: FICLONERANGE reads one file_clone_range; both descriptors are open during the call.
    check(unsafe { libc::ioctl(to.as_raw_fd(), FICLONERANGE as _, &args) })
}

/// Where the bytes of an encoded extent appear, and how they are encoded.
#[derive(Debug, Clone, Copy)]
pub struct Encoding {
    /// Where in the file.
    pub offset: u64,
    /// How many bytes appear there.
    pub len: u64,
    /// How many bytes the extent decodes to.
    pub unencoded_len: u64,
    /// Which of those appear first.
    pub unencoded_offset: u64,
    /// btrfs's number of the compression.
    pub compression: u32,
}

#[repr(C)]
struct EncodedIo {
    iov: *const libc::iovec,
    iovcnt: libc::c_ulong,
    offset: i64,
    flags: u64,
    len: u64,
    unencoded_len: u64,
    unencoded_offset: u64,
    compression: u32,
    encryption: u32,
    reserved: [u8; 64],
}

/// Writes an extent as it is to lie on disk (btrfs, kernel 6.0, CAP_SYS_ADMIN). Wrongly encoded bytes are noticed by
/// whoever reads them, not here.
pub fn encoded_write(file: BorrowedFd<'_>, encoding: &Encoding, data: &[u8]) -> io::Result<()> {
    let iov = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    let args = EncodedIo {
        iov: &raw const iov,
        iovcnt: 1,
        offset: i64::try_from(encoding.offset).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?,
        flags: 0,
        len: encoding.len,
        unencoded_len: encoding.unencoded_len,
        unencoded_offset: encoding.unencoded_offset,
        compression: encoding.compression,
        encryption: 0,
        reserved: [0; 64],
    };
    // SAFETY: BTRFS_IOC_ENCODED_WRITE reads one encoded_io_args and the bytes that `iov` names; both outlive the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), BTRFS_ENCODED_WRITE as _, &args) })
}

#[repr(C)]
struct EnableVerity {
    version: u32,
    hash_algorithm: u32,
    block_size: u32,
    salt_size: u32,
    salt: u64,
    signature_size: u32,
    reserved1: u32,
    signature: u64,
    reserved2: [u64; 11],
}

/// Builds the fs-verity tree of a file that is open for reading and that nobody has open for writing.
pub fn enable_verity(
    file: BorrowedFd<'_>,
    algorithm: u32,
    block_size: u32,
    salt: &[u8],
    signature: &[u8],
) -> io::Result<()> {
    let address = |bytes: &[u8]| if bytes.is_empty() { 0 } else { bytes.as_ptr() as u64 };
    let size =
        |bytes: &[u8]| u32::try_from(bytes.len()).map_err(|_| io::Error::from_raw_os_error(libc::EMSGSIZE));
    let args = EnableVerity {
        version: 1,
        hash_algorithm: algorithm,
        block_size,
        salt_size: size(salt)?,
        salt: address(salt),
        signature_size: size(signature)?,
        reserved1: 0,
        signature: address(signature),
        reserved2: [0; 11],
    };
    // SAFETY: FS_IOC_ENABLE_VERITY reads one fsverity_enable_arg and the bytes it names, which outlive the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_ENABLE_VERITY as _, &args) })
}

/// Gives the calling thread a umask of its own, of zero: modes are then exactly those asked for. The thread also gets
/// its own working directory.
pub fn clear_umask_of_this_thread() -> io::Result<()> {
    // SAFETY: CLONE_FS touches the working directory, root and umask only; no descriptor table is unshared.
    check(unsafe { libc::unshare(libc::CLONE_FS) })?;
    rustix::process::umask(Mode::empty());
    Ok(())
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn argument_sizes_are_those_in_the_request_codes() {
        let size_in = |code: u64| ((code >> 16) & 0x3fff) as usize;
        assert_eq!(size_of::<CloneRange>(), size_in(FICLONERANGE));
        assert_eq!(size_of::<EncodedIo>(), size_in(BTRFS_ENCODED_WRITE));
        assert_eq!(size_of::<EnableVerity>(), size_in(FS_IOC_ENABLE_VERITY));
    }
}
