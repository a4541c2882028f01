//! From ids and inode numbers to paths and descriptors, and back.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::search::{INODE_ITEM_KEY, SearchKey, tree_search};
use super::{FIRST_FREE_OBJECTID, READ, WRITE, code, ioctl};

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
/// reaches it. The descriptor is bound to the mount of `any`. Needs CAP_DAC_READ_SEARCH; before kernel 6.2 CAP_SYS_ADMIN
/// too.
pub fn open_by_id(any: BorrowedFd<'_>, tree: u64, inode: u64) -> io::Result<OwnedFd> {
    let stale = match open_directory(any, tree, inode, 0) {
        Err(error) if error.raw_os_error() == Some(libc::ESTALE) => error,
        opened => return opened,
    };
    // Generation 0 fits any since 6.2 only (kernel-notes/btrfs-subvolumes.md).
    match generation_of(any, tree, inode)? {
        Some(generation) => open_directory(any, tree, inode, generation),
        None => Err(stale),
    }
}

fn open_directory(any: BorrowedFd<'_>, tree: u64, inode: u64, generation: u32) -> io::Result<OwnedFd> {
    const FILEID_BTRFS_WITHOUT_PARENT: i32 = 0x4d;
    let mut file = FileHandle { handle_bytes: 20, handle_type: FILEID_BTRFS_WITHOUT_PARENT, handle: [0; 20] };
    file.handle[..8].copy_from_slice(&inode.to_ne_bytes());
    file.handle[8..16].copy_from_slice(&tree.to_ne_bytes());
    file.handle[16..].copy_from_slice(&generation.to_ne_bytes());
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: `file` is laid out as a file_handle followed by `handle_bytes` bytes, all initialised; it is only read.
    let fd = unsafe { libc::open_by_handle_at(any.as_raw_fd(), (&raw mut file).cast(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What tells `inode` from earlier ones of that number; `None` if it is not there. A handle holds its low half.
fn generation_of(any: BorrowedFd<'_>, tree: u64, inode: u64) -> io::Result<Option<u32>> {
    let key = (inode, INODE_ITEM_KEY, 0);
    let mut generation = None;
    tree_search(any, SearchKey { tree, min: key, max: key, min_transid: 0 }, |item| {
        let first = item.data.get(..8).and_then(|bytes| bytes.try_into().ok());
        generation = first.map(|bytes| u64::from_le_bytes(bytes) as u32);
        false
    })?;
    Ok(generation)
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

/// The kernel uses no more, whatever it is offered (`btrfs_ioctl_ino_to_path`).
const PATHS_BUFFER: usize = 4 << 10;

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

/// The paths of `inode` below the root of the subvolume that holds `fd`; `None` if they are more than the kernel tells, about 4 KiB with
/// all directories, be it one path alone. Needs CAP_DAC_READ_SEARCH.
pub fn paths_of_inode(fd: BorrowedFd<'_>, inode: u64) -> io::Result<Option<Vec<Vec<u8>>>> {
    // SAFETY: all-zero bytes are a valid DataContainer: integers only.
    let mut found: Box<DataContainer> = unsafe { Box::<DataContainer>::new_zeroed().assume_init() };
    let mut args =
        InoPathArgs { inum: inode, size: PATHS_BUFFER as u64, reserved: [0; 4], fspath: &raw mut *found };
    // SAFETY: BTRFS_IOC_INO_PATHS reads one ino_path_args and writes at most `size` bytes where `fspath` points.
    unsafe { ioctl(fd, code::<InoPathArgs>(READ | WRITE, 35), &mut args) }?;
    Ok(paths_in(&found))
}

fn paths_in(found: &DataContainer) -> Option<Vec<Vec<u8>>> {
    // What did not fit is counted, and nothing else says so.
    if found.elem_missed > 0 {
        return None;
    }
    let path_at = |offset: &u64| {
        // Offsets count from `values`, where the texts follow the offsets.
        let offset = usize::try_from(*offset).ok()?;
        let bytes = found.values.get(offset / 8..)?.iter().flat_map(|value| value.to_ne_bytes());
        let text: Vec<u8> = bytes.skip(offset % 8).take_while(|&byte| byte != 0).collect();
        Some(text)
    };
    found.values.get(..found.elem_cnt as usize)?.iter().map(path_at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_codes_are_those_of_the_kernels_header() {
        assert_eq!(code::<InoLookupArgs>(READ | WRITE, 18), 0xd000_9412);
        assert_eq!(code::<InoPathArgs>(READ | WRITE, 35), 0xc038_9423);
    }

    #[test]
    fn paths_of_which_one_did_not_fit_are_none() {
        let mut found = DataContainer {
            bytes_left: 0,
            bytes_missing: 0,
            elem_cnt: 2,
            elem_missed: 0,
            values: [0; PATHS_BUFFER / 8 - 2],
        };
        found.values[..2].copy_from_slice(&[16, 21]);
        found.values[2] = u64::from_ne_bytes(*b"dir/\0oth");
        found.values[3] = u64::from_ne_bytes(*b"er\0\0\0\0\0\0");
        assert_eq!(paths_in(&found), Some(vec![b"dir/".to_vec(), b"other".to_vec()]));
        found.elem_missed = 1;
        assert_eq!(paths_in(&found), None);
    }
}
