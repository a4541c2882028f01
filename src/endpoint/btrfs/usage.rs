//! Referenced and exclusive bytes without qgroups.
//!
//! Every file extent item of every subvolume is read once: the cost grows with the number of extents summed over all
//! subvolumes, not with bytes (memory: one small entry for each distinct extent). Counted is data as it lies on disk,
//! after compression, an extent as a whole even where only a part of it is referred to. Metadata, and the files of a
//! few hundred bytes that btrfs keeps inside it, are not.

use std::collections::{HashMap, HashSet};

use crate::endpoint::btrfs::roots;
use crate::endpoint::btrfs::store::Store;
use crate::endpoint::details::Usage;
use crate::endpoint::{Error, Result};
use crate::sys::btrfs::{self, EXTENT_DATA_KEY, FIRST_FREE_OBJECTID, FS_TREE_OBJECTID, Item, SearchKey};

const SHARED: u64 = 0; // no subvolume has this id

struct Extent {
    len: u64,
    owner: u64,
    last: u64,
}

/// The usage of the subvolumes `wanted`, by id.
///
/// # Errors
/// A tree that can not be searched.
pub fn of(store: &Store, wanted: &[u64]) -> Result<HashMap<u64, Usage>> {
    let mut usage: HashMap<u64, Usage> = wanted.iter().map(|&id| (id, Usage::default())).collect();
    if wanted.is_empty() {
        return Ok(usage);
    }
    let roots = roots::scan(store.top()).map_err(Error::io("search", "the root tree"))?;
    let mut extents: HashMap<u64, Extent> = HashMap::new();
    for id in roots.iter().map(|root| root.id).chain([FS_TREE_OBJECTID]) {
        let mut referenced = 0;
        each_extent(store, id, |at, len| {
            let extent = extents.entry(at).or_insert(Extent { len, owner: id, last: SHARED });
            if extent.last != id {
                referenced += extent.len;
                extent.last = id;
            }
            if extent.owner != id {
                extent.owner = SHARED;
            }
        })?;
        if let Some(usage) = usage.get_mut(&id) {
            usage.referenced = referenced;
        }
    }
    for extent in extents.values() {
        if let Some(usage) = usage.get_mut(&extent.owner) {
            usage.exclusive += extent.len;
        }
    }
    Ok(usage)
}

/// How many bytes would come back if these subvolumes, and no others, were destroyed.
///
/// # Errors
/// A tree that can not be searched.
pub fn freed_by(store: &Store, victims: &[u64]) -> Result<u64> {
    let roots = roots::scan(store.top()).map_err(Error::io("search", "the root tree"))?;
    let victims: HashSet<u64> = victims.iter().copied().collect();
    let mut theirs: HashMap<u64, u64> = HashMap::new();
    for &id in &victims {
        each_extent(store, id, |at, len| {
            theirs.insert(at, len);
        })?;
    }
    let others = roots.iter().map(|root| root.id).chain([FS_TREE_OBJECTID]);
    for id in others.filter(|id| !victims.contains(id)) {
        if theirs.is_empty() {
            break;
        }
        each_extent(store, id, |at, _| {
            theirs.remove(&at);
        })?;
    }
    Ok(theirs.values().sum())
}

/// Calls `each` with the place and length on disk of every extent that the subvolume `id` refers to, once for each
/// reference.
fn each_extent(store: &Store, id: u64, mut each: impl FnMut(u64, u64)) -> Result<()> {
    let range = SearchKey {
        tree: id,
        min: (FIRST_FREE_OBJECTID, EXTENT_DATA_KEY, 0),
        max: (u64::MAX, u32::from(u8::MAX), u64::MAX),
        min_transid: 0,
    };
    let searched = btrfs::tree_search(store.top(), range, |item| {
        if let Some((at, len)) = extent_on_disk(item) {
            each(at, len);
        }
        true
    });
    match searched {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()), // destroyed meanwhile
        other => other.map_err(Error::io("search", format!("subvolume {id}"))),
    }
}

/// `btrfs_file_extent_item`; `None` for other items, inline data and holes.
fn extent_on_disk(item: Item<'_>) -> Option<(u64, u64)> {
    const TYPE: usize = 20;
    if item.key.1 != EXTENT_DATA_KEY || *item.data.get(TYPE)? == 0 {
        return None;
    }
    let u64_at = |at: usize| Some(u64::from_le_bytes(item.data.get(at..at + 8)?.try_into().ok()?));
    let (at, len) = (u64_at(21)?, u64_at(29)?);
    (at != 0).then_some((at, len))
}
