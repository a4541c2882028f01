//! Searching a tree of the filesystem.

use std::io;
use std::os::fd::BorrowedFd;

use super::{READ, WRITE, code, ioctl};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_codes_are_those_of_the_kernels_header() {
        assert_eq!(code::<SearchHeaderV2>(READ | WRITE, 17), 0xc070_9411);
    }
}
