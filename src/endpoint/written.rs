//! How much was written to a dataset since a snapshot of it.

use crate::endpoint::{Dataset, Result};
use crate::model::Version;

impl Dataset {
    /// How many bytes were written since `version`, or in all if there is none; no more than `enough` are counted. `None` where nobody knows: files of plain
    /// directories have no history.
    ///
    /// # Errors
    /// A place that can not be read.
    pub fn written_since(&self, version: Option<&Version>, enough: u64) -> Result<Option<u64>> {
        match self {
            Self::Btrfs(dataset) => {
                dataset.written_since(version.map_or(0, |version| version.order), enough).map(Some)
            }
            Self::Zfs(dataset) => dataset.written_since(version.map(|version| &version.id.name)).map(Some),
            Self::Tree(_) => Ok(None),
        }
    }
}
