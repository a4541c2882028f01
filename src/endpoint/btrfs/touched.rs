//! What may have been changed in a subvolume since it was cloned, and in what it was cloned from: inodes, found by searching leaves that are
//! younger than the clone. The cost is that of the change.

use std::collections::HashSet;
use std::os::fd::BorrowedFd;

use crate::endpoint::{Error, Result};
use crate::sys::btrfs::{self, FIRST_FREE_OBJECTID, INODE_ITEM_KEY, Item, SearchKey};

/// The inode numbers in the subvolume of `root` that were written since the transaction `since`. That something was only read may make it
/// one of them; what was removed is told by its directory.
///
/// # Errors
/// A tree that can not be searched.
pub fn inodes_since(root: BorrowedFd<'_>, since: u64) -> Result<HashSet<u64>> {
    // What is not in the tree yet is not found.
    rustix::fs::syncfs(root).map_err(Error::io("sync", "a subvolume"))?;
    let search = || Error::io("search", "a subvolume");
    let tree = btrfs::subvol_id(root).map_err(search())?;
    let range = SearchKey {
        tree,
        min: (FIRST_FREE_OBJECTID, INODE_ITEM_KEY, 0),
        max: (u64::MAX, INODE_ITEM_KEY, u64::MAX),
        min_transid: since.saturating_add(1),
    };
    let mut found = HashSet::new();
    let note = |item: Item<'_>| {
        if item.key.1 == INODE_ITEM_KEY && transaction(item.data).is_none_or(|of_it| of_it > since) {
            found.insert(item.key.0);
        }
        true
    };
    btrfs::tree_search(root, range, note).map_err(search())?;
    Ok(found)
}

/// What an inode of the subvolume of `root` is called there: nothing if there is none, `None` if it has more names, or longer paths, than the
/// kernel tells.
///
/// # Errors
/// What the kernel says.
pub fn names(root: BorrowedFd<'_>, inode: u64) -> Result<Option<Vec<Vec<u8>>>> {
    if inode == FIRST_FREE_OBJECTID {
        return Ok(Some(vec![Vec::new()]));
    }
    match btrfs::paths_of_inode(root, inode) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Some(Vec::new())),
        other => other.map_err(Error::io("look up", format!("inode {inode}"))),
    }
}

/// `btrfs_inode_item.transid`: the transaction of its last change.
fn transaction(item: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(item.get(8..16)?.try_into().ok()?))
}
