//! Subvolumes: made, snapshotted, destroyed, and what the filesystem knows of them.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use super::{READ, WRITE, code, ioctl};

const SUBVOL_NAME_MAX: usize = 4039;
const SUBVOL_RDONLY: u64 = 1 << 1;
const SUBVOL_SPEC_BY_ID: u64 = 1 << 4;

#[repr(C)]
struct VolArgsV2 {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; SUBVOL_NAME_MAX + 1],
}

impl VolArgsV2 {
    fn new(name: &OsStr) -> io::Result<Box<Self>> {
        let bytes = name.as_bytes();
        if bytes.is_empty() || bytes.len() > 255 || bytes.contains(&b'/') || bytes.contains(&0) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let mut args =
            Box::new(Self { fd: 0, transid: 0, flags: 0, unused: [0; 4], name: [0; SUBVOL_NAME_MAX + 1] });
        args.name[..bytes.len()].copy_from_slice(bytes);
        Ok(args)
    }
}

/// Makes the empty subvolume `name` in `parent` (a directory).
pub fn subvol_create(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let mut args = VolArgsV2::new(name)?;
    // SAFETY: BTRFS_IOC_SUBVOL_CREATE_V2 reads one vol_args_v2.
    unsafe { ioctl(parent, code::<VolArgsV2>(WRITE, 24), &mut *args) }.map(drop)
}

/// Makes `name` in `parent` a snapshot of the subvolume whose root `source` is. Its transaction is on disk on return.
pub fn snap_create(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    source: BorrowedFd<'_>,
    readonly: bool,
) -> io::Result<()> {
    let mut args = VolArgsV2::new(name)?;
    args.fd = i64::from(source.as_raw_fd());
    args.flags = if readonly { SUBVOL_RDONLY } else { 0 };
    // SAFETY: BTRFS_IOC_SNAP_CREATE_V2 reads one vol_args_v2; `source` is open during the call.
    unsafe { ioctl(parent, code::<VolArgsV2>(WRITE, 23), &mut *args) }.map(drop)
}

/// Destroys the subvolume `name` in `parent`. Its space comes back later, by the cleaner thread.
pub fn snap_destroy(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let mut args = VolArgsV2::new(name)?;
    // SAFETY: BTRFS_IOC_SNAP_DESTROY_V2 reads one vol_args_v2.
    unsafe { ioctl(parent, code::<VolArgsV2>(WRITE, 63), &mut *args) }.map(drop)
}

/// Destroys the subvolume with that id, wherever it is reachable on the filesystem of `any`.
pub fn snap_destroy_by_id(any: BorrowedFd<'_>, id: u64) -> io::Result<()> {
    let mut args = VolArgsV2::new(OsStr::new("x"))?;
    args.name = [0; SUBVOL_NAME_MAX + 1];
    args.name[..8].copy_from_slice(&id.to_ne_bytes());
    args.flags = SUBVOL_SPEC_BY_ID;
    // SAFETY: BTRFS_IOC_SNAP_DESTROY_V2 reads one vol_args_v2, whose union holds the id.
    unsafe { ioctl(any, code::<VolArgsV2>(WRITE, 63), &mut *args) }.map(drop)
}

/// Whether the subvolume is read-only.
pub fn subvol_is_readonly(subvolume: BorrowedFd<'_>) -> io::Result<bool> {
    let mut flags = 0u64;
    // SAFETY: BTRFS_IOC_SUBVOL_GETFLAGS writes one u64.
    unsafe { ioctl(subvolume, code::<u64>(READ, 25), &mut flags) }?;
    Ok(flags & SUBVOL_RDONLY != 0)
}

/// Makes the subvolume read-only or writable.
pub fn subvol_set_readonly(subvolume: BorrowedFd<'_>, readonly: bool) -> io::Result<()> {
    let mut flags = 0u64;
    // SAFETY: BTRFS_IOC_SUBVOL_GETFLAGS writes one u64.
    unsafe { ioctl(subvolume, code::<u64>(READ, 25), &mut flags) }?;
    let mut wanted = if readonly { flags | SUBVOL_RDONLY } else { flags & !SUBVOL_RDONLY };
    // SAFETY: BTRFS_IOC_SUBVOL_SETFLAGS reads one u64.
    unsafe { ioctl(subvolume, code::<u64>(WRITE, 26), &mut wanted) }.map(drop)
}

/// A point in time as btrfs stores it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timespec {
    /// Seconds since 1970.
    pub sec: u64,
    /// Nanoseconds.
    pub nsec: u32,
}

#[repr(C)]
struct GetSubvolInfoArgs {
    treeid: u64,
    name: [u8; 256],
    parent_id: u64,
    dirid: u64,
    generation: u64,
    flags: u64,
    uuid: [u8; 16],
    parent_uuid: [u8; 16],
    received_uuid: [u8; 16],
    ctransid: u64,
    otransid: u64,
    stransid: u64,
    rtransid: u64,
    ctime: Timespec,
    otime: Timespec,
    stime: Timespec,
    rtime: Timespec,
    reserved: [u64; 8],
}

/// What the filesystem knows of one subvolume.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SubvolInfo {
    /// The subvolume's id.
    pub id: u64,
    /// The id of the subvolume that it stands in; 0 for the top level.
    pub parent_id: u64,
    /// The inode number of the directory that it stands in.
    pub dir_id: u64,
    /// Its name there.
    pub name: Vec<u8>,
    /// The generation of its last change.
    pub generation: u64,
    /// Whether it is read-only.
    pub readonly: bool,
    /// Its own uuid.
    pub uuid: [u8; 16],
    /// The uuid of what it is a snapshot of; zero if it is none.
    pub parent_uuid: [u8; 16],
    /// The uuid of what it was received from; zero if it was not.
    pub received_uuid: [u8; 16],
    /// The transaction of its last change of content.
    pub ctransid: u64,
    /// The transaction in which it was made.
    pub otransid: u64,
    /// The source's ctransid if it was received.
    pub stransid: u64,
    /// The transaction in which it was marked as received.
    pub rtransid: u64,
    /// When it was made.
    pub otime: Timespec,
    /// When its source was made, as far as its sender said.
    pub stime: Timespec,
    /// When it was marked as received.
    pub rtime: Timespec,
}

/// Reads what the filesystem knows of the subvolume that holds `fd`. Needs no privilege.
pub fn get_subvol_info(fd: BorrowedFd<'_>) -> io::Result<SubvolInfo> {
    // SAFETY: all-zero bytes are a valid GetSubvolInfoArgs: integers and arrays of integers.
    let mut args: Box<GetSubvolInfoArgs> = Box::new(unsafe { std::mem::zeroed() });
    // SAFETY: BTRFS_IOC_GET_SUBVOL_INFO writes one get_subvol_info_args.
    unsafe { ioctl(fd, code::<GetSubvolInfoArgs>(READ, 60), &mut *args) }?;
    let length = args.name.iter().position(|&b| b == 0).unwrap_or(args.name.len());
    Ok(SubvolInfo {
        id: args.treeid,
        parent_id: args.parent_id,
        dir_id: args.dirid,
        name: args.name[..length].to_vec(),
        generation: args.generation,
        readonly: args.flags & 1 != 0, // BTRFS_ROOT_SUBVOL_RDONLY: the item's flag, not the ioctl's
        uuid: args.uuid,
        parent_uuid: args.parent_uuid,
        received_uuid: args.received_uuid,
        ctransid: args.ctransid,
        otransid: args.otransid,
        stransid: args.stransid,
        rtransid: args.rtransid,
        otime: args.otime,
        stime: args.stime,
        rtime: args.rtime,
    })
}

#[repr(C)]
struct ReceivedSubvolArgs {
    uuid: [u8; 16],
    stransid: u64,
    rtransid: u64,
    stime: Timespec,
    rtime: Timespec,
    flags: u64,
    reserved: [u64; 16],
}

/// Records that the subvolume was received from `uuid`, which was made at `stime`, at its `stransid`. The subvolume must be writable.
pub fn set_received_subvol(
    subvolume: BorrowedFd<'_>,
    uuid: [u8; 16],
    stransid: u64,
    stime: Timespec,
) -> io::Result<()> {
    let mut args = ReceivedSubvolArgs {
        uuid,
        stransid,
        rtransid: 0,
        stime,
        rtime: Timespec::default(),
        flags: 0,
        reserved: [0; 16],
    };
    // SAFETY: BTRFS_IOC_SET_RECEIVED_SUBVOL reads and writes one received_subvol_args.
    unsafe { ioctl(subvolume, code::<ReceivedSubvolArgs>(READ | WRITE, 37), &mut args) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_codes_are_those_of_the_kernels_header() {
        assert_eq!(code::<VolArgsV2>(WRITE, 23), 0x5000_9417);
        assert_eq!(code::<VolArgsV2>(WRITE, 63), 0x5000_943f);
        assert_eq!(code::<u64>(READ, 25), 0x8008_9419);
        assert_eq!(code::<GetSubvolInfoArgs>(READ, 60), 0x81f8_943c);
        assert_eq!(code::<ReceivedSubvolArgs>(READ | WRITE, 37), 0xc0c8_9425);
    }
}
