//! What may have been changed in a subvolume since it was cloned, and in what it was cloned from: inodes, found by searching leaves that are
//! younger than the clone. The cost is that of the change.

use std::collections::{HashMap, HashSet};
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

/// Leaves out of `inodes` those that are in both subvolumes and the same but for when they were read: reading writes to an inode too, as most mounts
/// have it (`relatime`).
///
/// # Errors
/// A tree that can not be searched.
pub fn leave_out_read(inodes: &mut HashSet<u64>, now: BorrowedFd<'_>, then: BorrowedFd<'_>) -> Result<()> {
    let mut wanted: Vec<u64> = inodes.iter().copied().collect();
    wanted.sort_unstable();
    let then = lasting_of(then, &wanted)?;
    for (inode, lasting) in lasting_of(now, &wanted)? {
        if then.get(&inode) == Some(&lasting) {
            inodes.remove(&inode);
        }
    }
    Ok(())
}

/// How many items that nobody wants are passed before the search begins anew at the next one that is wanted.
const PASSED: usize = 64;

/// What lasts of these inodes, which are in order; those that are not there are left out.
fn lasting_of(root: BorrowedFd<'_>, mut wanted: &[u64]) -> Result<HashMap<u64, Lasting>> {
    let search = || Error::io("search", "a subvolume");
    let tree = btrfs::subvol_id(root).map_err(search())?;
    let mut found = HashMap::new();
    while let (Some(&first), Some(&last)) = (wanted.first(), wanted.last()) {
        let (min, max) = ((first, INODE_ITEM_KEY, 0), (last, INODE_ITEM_KEY, u64::MAX));
        let (mut passed, mut rest) = (0, wanted);
        btrfs::tree_search(root, SearchKey { tree, min, max, min_transid: 0 }, |item| {
            let inode = item.key.0;
            rest = &rest[rest.partition_point(|&one| one < inode)..];
            passed += 1;
            if item.key.1 == INODE_ITEM_KEY && rest.first() == Some(&inode) {
                found.extend(lasting(item.data).map(|lasting| (inode, lasting)));
                (rest, passed) = (&rest[1..], 0);
            }
            passed < PASSED && !rest.is_empty()
        })
        .map_err(search())?;
        // Of what is not there, nothing may have come.
        wanted = if rest.len() < wanted.len() { rest } else { &wanted[1..] };
        if passed < PASSED {
            // The search came to its end.
            break;
        }
    }
    Ok(found)
}

/// `btrfs_inode_item` without `transid` and `atime`: what of it reading leaves as it is. All else that is done to an inode changes its `ctime`, or
/// its `sequence` at least if the clock did not go on.
type Lasting = [u8; 140];

fn lasting(item: &[u8]) -> Option<Lasting> {
    let mut lasting = [0; 140];
    lasting[..8].copy_from_slice(item.get(..8)?);
    lasting[8..104].copy_from_slice(item.get(16..112)?);
    lasting[104..].copy_from_slice(item.get(124..160)?);
    Some(lasting)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_inode_all_lasts_but_its_transaction_and_when_it_was_read() {
        let whole: Vec<u8> = (0..160).collect();
        for at in 0..160 {
            let mut other = whole.clone();
            other[at] ^= 255;
            let by_reading = (8..16).contains(&at) || (112..124).contains(&at);
            assert_eq!(lasting(&whole) == lasting(&other), by_reading, "byte {at}");
        }
        assert_eq!(lasting(&whole[..159]), None);
    }
}
