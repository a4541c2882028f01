//! How much was written since a snapshot, without qgroups and without reading all that is there.
//!
//! Leaves older than the snapshot are left out by the kernel, so that the cost is that of the change. Counted are bytes on disk, after compression, that are there
//! still: what was written and overwritten again is not, nor what has not reached the disk, nor metadata.

use std::collections::HashSet;
use std::os::fd::AsFd;

use crate::endpoint::btrfs::dataset::Dataset;
use crate::endpoint::{Error, Result};
use crate::sys::btrfs::{self, EXTENT_DATA_KEY, FIRST_FREE_OBJECTID, Item, SearchKey};

impl Dataset {
    /// How many bytes were written since the transaction `since`; it stops counting at `enough`.
    ///
    /// # Errors
    /// A tree that can not be searched.
    pub fn written_since(&self, since: u64, enough: u64) -> Result<u64> {
        let search = || Error::io("search", self);
        let root = self.open()?;
        let tree = btrfs::subvol_id(root.as_fd()).map_err(search())?;
        let (mut sum, mut seen) = (0_u64, HashSet::new());
        let range = SearchKey {
            tree,
            min: (FIRST_FREE_OBJECTID, EXTENT_DATA_KEY, 0),
            max: (u64::MAX, u32::from(u8::MAX), u64::MAX),
            min_transid: since.saturating_add(1),
        };
        let count = |item: Item<'_>| {
            if let Some(extent) = extent(item).filter(|extent| extent.generation > since)
                && extent.at.is_none_or(|at| seen.insert(at))
            {
                sum = sum.saturating_add(extent.len);
            }
            sum < enough
        };
        btrfs::tree_search(root.as_fd(), range, count).map_err(search())?;
        Ok(sum)
    }
}

struct Extent {
    generation: u64,
    at: Option<u64>, // None within the tree.
    len: u64,
}

/// `btrfs_file_extent_item`; `None` for other items and holes.
fn extent(item: Item<'_>) -> Option<Extent> {
    const TYPE: usize = 20;
    const DATA: usize = 21;
    let u64_at = |at: usize| Some(u64::from_le_bytes(item.data.get(at..at + 8)?.try_into().ok()?));
    let generation = u64_at(0)?;
    match (item.key.1 == EXTENT_DATA_KEY, *item.data.get(TYPE)?) {
        (false, _) => None,
        (true, 0) => Some(Extent { generation, at: None, len: (item.data.len() - DATA) as u64 }),
        (true, _) => {
            let at = u64_at(DATA)?;
            (at != 0).then_some(Extent { generation, at: Some(at), len: u64_at(DATA + 8)? })
        }
    }
}
