//! The btrfs ioctls: one function per call (include/uapi/linux/btrfs.h, kernel 6.18).

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// The inode number of every subvolume's root directory.
pub const FIRST_FREE_OBJECTID: u64 = 256;
/// The id of the top-level subvolume.
pub const FS_TREE_OBJECTID: u64 = 5;
/// The tree that lists all subvolumes.
pub const ROOT_TREE_OBJECTID: u64 = 1;
/// Key types of the root tree.
pub const ROOT_ITEM_KEY: u32 = 132;
/// A child's reference to its parent: (child, ROOT_BACKREF, parent).
pub const ROOT_BACKREF_KEY: u32 = 144;
/// A parent's reference to its child: (parent, ROOT_REF, child).
pub const ROOT_REF_KEY: u32 = 156;
/// A file, directory or other inode.
pub const INODE_ITEM_KEY: u32 = 1;
/// A file's extent.
pub const EXTENT_DATA_KEY: u32 = 108;

/// The superblock magic in `statfs`.
pub const SUPER_MAGIC: i64 = 0x9123_683E;

const MAGIC: u32 = 0x94;
const SUBVOL_NAME_MAX: usize = 4039;
const SUBVOL_RDONLY: u64 = 1 << 1;
const SUBVOL_SPEC_BY_ID: u64 = 1 << 4;

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

/// Records that the subvolume was received from `uuid` at its `stransid`. The subvolume must be writable.
pub fn set_received_subvol(subvolume: BorrowedFd<'_>, uuid: [u8; 16], stransid: u64) -> io::Result<()> {
    let mut args = ReceivedSubvolArgs {
        uuid,
        stransid,
        rtransid: 0,
        stime: Timespec::default(),
        rtime: Timespec::default(),
        flags: 0,
        reserved: [0; 16],
    };
    // SAFETY: BTRFS_IOC_SET_RECEIVED_SUBVOL reads and writes one received_subvol_args.
    unsafe { ioctl(subvolume, code::<ReceivedSubvolArgs>(READ | WRITE, 37), &mut args) }.map(drop)
}

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

/// A range of keys of one tree, both ends included.
#[derive(Debug, Clone, Copy)]
pub struct SearchKey {
    /// The tree.
    pub tree: u64,
    /// First objectid, type and offset, compared as one key.
    pub min: (u64, u32, u64),
    /// Last objectid, type and offset, compared as one key.
    pub max: (u64, u32, u64),
    /// Leaves out leaves older than this generation.
    pub min_transid: u64,
}

/// One item of a tree.
#[derive(Debug, Clone, Copy)]
pub struct Item<'a> {
    /// The generation of the leaf that holds it.
    pub transid: u64,
    /// Its key.
    pub key: (u64, u32, u64),
    /// Its bytes, little-endian as on disk.
    pub data: &'a [u8],
}

#[repr(C)]
#[derive(Default)]
struct RawSearchKey {
    tree_id: u64,
    min_objectid: u64,
    max_objectid: u64,
    min_offset: u64,
    max_offset: u64,
    min_transid: u64,
    max_transid: u64,
    min_type: u32,
    max_type: u32,
    nr_items: u32,
    unused: u32,
    unused1: u64,
    unused2: u64,
    unused3: u64,
    unused4: u64,
}

#[repr(C)]
struct SearchHeaderV2 {
    key: RawSearchKey,
    buf_size: u64,
}

const SEARCH_BUFFER: usize = 1 << 20;
// Any item fits, as nodes are at most this large. The kernel faults in all that it is offered: a short search is done sooner so.
const FIRST_SEARCH: usize = 64 << 10;

#[repr(C)]
struct SearchArgsV2 {
    header: SearchHeaderV2,
    buffer: [u64; SEARCH_BUFFER / 8],
}

/// Calls `each` for every item between `range.min` and `range.max`, in key order, until it answers `false`.
///
/// The kernel compares whole keys, so items of other types come too: `each` filters. Needs CAP_SYS_ADMIN.
pub fn tree_search(
    fd: BorrowedFd<'_>,
    range: SearchKey,
    mut each: impl FnMut(Item<'_>) -> bool,
) -> io::Result<()> {
    const HEADER: usize = 32;
    // SAFETY: all-zero bytes are a valid SearchArgsV2: integers only.
    let mut args: Box<SearchArgsV2> = unsafe { Box::<SearchArgsV2>::new_zeroed().assume_init() };
    let mut next = Some(range.min);
    let mut room = FIRST_SEARCH;
    while let Some((objectid, kind, offset)) = next.filter(|min| *min <= range.max) {
        args.header = SearchHeaderV2 {
            key: RawSearchKey {
                tree_id: range.tree,
                min_objectid: objectid,
                max_objectid: range.max.0,
                min_offset: offset,
                max_offset: range.max.2,
                min_transid: range.min_transid,
                max_transid: u64::MAX,
                min_type: kind,
                max_type: range.max.1,
                nr_items: u32::MAX,
                ..RawSearchKey::default()
            },
            buf_size: room as u64,
        };
        room = SEARCH_BUFFER;
        // SAFETY: BTRFS_IOC_TREE_SEARCH_V2 reads and writes the header, and at most `buf_size` bytes after it.
        unsafe { ioctl(fd, code::<SearchHeaderV2>(READ | WRITE, 17), &mut *args) }?;
        let found = args.header.key.nr_items as usize;
        if found == 0 {
            return Ok(());
        }
        // SAFETY: the buffer is SEARCH_BUFFER initialised bytes.
        let bytes = unsafe { std::slice::from_raw_parts(args.buffer.as_ptr().cast::<u8>(), SEARCH_BUFFER) };
        let u64_at = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let u32_at = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let mut at = 0;
        for _ in 0..found {
            let key = (u64_at(at + 8), u32_at(at + 24), u64_at(at + 16));
            let length = u32_at(at + 28) as usize;
            let item = Item { transid: u64_at(at), key, data: &bytes[at + HEADER..at + HEADER + length] };
            if !each(item) {
                return Ok(());
            }
            at += HEADER + length;
            next = successor(key);
        }
    }
    Ok(())
}

/// The smallest key after `key`; `None` after the last one.
fn successor((objectid, kind, offset): (u64, u32, u64)) -> Option<(u64, u32, u64)> {
    match (offset.checked_add(1), kind < 255) {
        (Some(offset), _) => Some((objectid, kind, offset)),
        (None, true) => Some((objectid, kind + 1, 0)),
        (None, false) => objectid.checked_add(1).map(|objectid| (objectid, 0, 0)),
    }
}

#[repr(C)]
struct InoLookupArgs {
    treeid: u64,
    objectid: u64,
    name: [u8; 4080],
}

/// The id of the subvolume that holds `fd`. Needs no privilege.
pub fn subvol_id(fd: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(ino_lookup(fd, 0, FIRST_FREE_OBJECTID)?.0)
}

/// The subvolume's id and the path of directory `inode` below the root of subvolume `tree`, with a closing `/` unless
/// it is the root itself. `tree` 0 is the one that holds `fd`; other than its root needs CAP_SYS_ADMIN.
pub fn ino_lookup(fd: BorrowedFd<'_>, tree: u64, inode: u64) -> io::Result<(u64, Vec<u8>)> {
    let mut args = Box::new(InoLookupArgs { treeid: tree, objectid: inode, name: [0; 4080] });
    // SAFETY: BTRFS_IOC_INO_LOOKUP reads and writes one ino_lookup_args.
    unsafe { ioctl(fd, code::<InoLookupArgs>(READ | WRITE, 18), &mut *args) }?;
    let length = args.name.iter().position(|&b| b == 0).unwrap_or(args.name.len());
    Ok((args.treeid, args.name[..length].to_vec()))
}

#[repr(C)]
struct FileHandle {
    handle_bytes: u32,
    handle_type: i32,
    handle: [u8; 20],
}

/// Opens directory `inode` of subvolume `tree`, wherever it is in the filesystem of `any`, and even where no mount
/// reaches it. The descriptor is bound to the mount of `any`. Needs CAP_DAC_READ_SEARCH.
pub fn open_by_id(any: BorrowedFd<'_>, tree: u64, inode: u64) -> io::Result<OwnedFd> {
    const FILEID_BTRFS_WITHOUT_PARENT: i32 = 0x4d;
    let mut file = FileHandle { handle_bytes: 20, handle_type: FILEID_BTRFS_WITHOUT_PARENT, handle: [0; 20] };
    file.handle[..8].copy_from_slice(&inode.to_ne_bytes());
    file.handle[8..16].copy_from_slice(&tree.to_ne_bytes()); // generation 0 fits any
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: `file` is laid out as a file_handle followed by `handle_bytes` bytes, all initialised; it is only read.
    let fd = unsafe { libc::open_by_handle_at(any.as_raw_fd(), (&raw mut file).cast(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

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

/// Opens a file by subvolume, inode number and generation, without a path. `any` is on the same filesystem.
/// Needs CAP_DAC_READ_SEARCH.
pub fn open_inode(any: BorrowedFd<'_>, subvolume: u64, inode: u64, generation: u64) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        id: [u8; 20],
    }
    const FILEID_BTRFS_WITHOUT_PARENT: i32 = 0x4d;
    let mut handle = Handle { bytes: 20, kind: FILEID_BTRFS_WITHOUT_PARENT, id: [0; 20] };
    handle.id[..8].copy_from_slice(&inode.to_ne_bytes());
    handle.id[8..16].copy_from_slice(&subvolume.to_ne_bytes());
    handle.id[16..].copy_from_slice(&(generation as u32).to_ne_bytes());
    let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NOATIME | libc::O_NONBLOCK;
    // SAFETY: `handle` is a file_handle header with the 20 bytes that it announces; the kernel only reads it.
    let fd = unsafe { libc::open_by_handle_at(any.as_raw_fd(), (&raw mut handle).cast(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

const PATHS_BUFFER: usize = 64 << 10;

#[repr(C)]
struct DataContainer {
    bytes_left: u32,
    bytes_missing: u32,
    elem_cnt: u32,
    elem_missed: u32,
    values: [u64; PATHS_BUFFER / 8 - 2],
}

#[repr(C)]
struct InoPathArgs {
    inum: u64,
    size: u64,
    reserved: [u64; 4],
    fspath: *mut DataContainer,
}

/// The paths of `inode` below the root of the subvolume that holds `fd`, as many as fit into 64 KiB.
/// Needs CAP_DAC_READ_SEARCH.
pub fn paths_of_inode(fd: BorrowedFd<'_>, inode: u64) -> io::Result<Vec<Vec<u8>>> {
    // SAFETY: all-zero bytes are a valid DataContainer: integers only.
    let mut found: Box<DataContainer> = unsafe { Box::<DataContainer>::new_zeroed().assume_init() };
    let mut args =
        InoPathArgs { inum: inode, size: PATHS_BUFFER as u64, reserved: [0; 4], fspath: &raw mut *found };
    // SAFETY: BTRFS_IOC_INO_PATHS reads one ino_path_args and writes at most `size` bytes where `fspath` points.
    unsafe { ioctl(fd, code::<InoPathArgs>(READ | WRITE, 35), &mut args) }?;
    let texts = found.values.iter().flat_map(|value| value.to_ne_bytes()).collect::<Vec<u8>>();
    let path_at = |offset: &u64| {
        // Offsets count from `values`, where the texts follow the offsets.
        let text = texts.get(usize::try_from(*offset).ok()?..)?;
        text.split(|&b| b == 0).next().map(<[u8]>::to_vec)
    };
    Ok(found.values[..found.elem_cnt as usize].iter().filter_map(path_at).collect())
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
        assert_eq!(code::<VolArgsV2>(WRITE, 23), 0x5000_9417);
        assert_eq!(code::<VolArgsV2>(WRITE, 63), 0x5000_943f);
        assert_eq!(code::<u64>(READ, 25), 0x8008_9419);
        assert_eq!(code::<GetSubvolInfoArgs>(READ, 60), 0x81f8_943c);
        assert_eq!(code::<ReceivedSubvolArgs>(READ | WRITE, 37), 0xc0c8_9425);
        assert_eq!(code::<SendArgs>(WRITE, 38), 0x4048_9426);
        assert_eq!(code::<SearchHeaderV2>(READ | WRITE, 17), 0xc070_9411);
        assert_eq!(code::<InoLookupArgs>(READ | WRITE, 18), 0xd000_9412);
        assert_eq!(code::<FsInfoArgs>(READ, 31), 0x8400_941f);
        assert_eq!(code::<InoPathArgs>(READ | WRITE, 35), 0xc038_9423);
        assert_eq!(code::<VolArgs>(WRITE, 3), 0x5000_9403);
    }
}
