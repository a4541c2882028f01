//! How much was written since a snapshot, as ZFS counts it.

use crate::endpoint::Result;
use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::list::number;
use crate::model::SnapshotName;

impl Dataset {
    /// How many bytes were written since `snapshot`, or in all if there is none: `written@NAME`, and `referenced`. What was overwritten again is not counted.
    ///
    /// # Errors
    /// A dataset that can not be read, or that has no such snapshot.
    pub fn written_since(&self, snapshot: Option<&SnapshotName>) -> Result<u64> {
        number(&match snapshot {
            Some(name) => self.get(&format!("written@{name}"))?,
            None => self.get("referenced")?,
        })
    }
}
