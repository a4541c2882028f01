//! What pruning asks of a place beyond the history of a dataset.

use crate::endpoint::{Dataset, Details, History, Result};
use crate::model::VersionRef;

/// Enough to prune with reasons, and until there is enough space.
pub trait Prunable: History {
    /// All that is known of every version but its size, oldest first; nothing of a dataset that has none.
    ///
    /// # Errors
    /// As [`History::inventory`].
    fn described(&self) -> Result<Vec<Details>>;

    /// Whether a clone keeps its snapshot from being destroyed.
    fn has_dependent_clones(&self) -> bool;

    /// How many bytes would come back if these snapshots, and no others, were destroyed; `None` where the place can not say.
    /// A `thorough` one may look at all that is stored.
    ///
    /// # Errors
    /// A place that can not be read.
    fn would_free(&self, versions: &[VersionRef], thorough: bool) -> Result<Option<u64>>;

    /// How many bytes can be written where the dataset is.
    ///
    /// # Errors
    /// A place that can not be read.
    fn free_bytes(&self) -> Result<u64>;

    /// Whether what is freed by destroying a snapshot of the one is there for the other.
    fn shares_space_with(&self, other: &Self) -> bool;

    /// As [`History::destroy`], and waits until the space has come back.
    ///
    /// # Errors
    /// As [`History::destroy`]; an interruption while it waits.
    fn destroy_and_see_space(&self, version: &VersionRef) -> Result<()>;
}

impl Prunable for Dataset {
    fn described(&self) -> Result<Vec<Details>> {
        let listed = self.listings(false, false)?.into_iter().next();
        Ok(listed.map(|listing| listing.details).unwrap_or_default())
    }

    fn has_dependent_clones(&self) -> bool {
        // A clone of btrfs, and one of a plain directory, is whole without what it was made from.
        matches!(self, Self::Zfs(_))
    }

    fn would_free(&self, versions: &[VersionRef], thorough: bool) -> Result<Option<u64>> {
        match self {
            Self::Btrfs(dataset) if thorough => dataset.would_free(versions).map(Some),
            Self::Zfs(dataset) => dataset.would_free(versions),
            Self::Btrfs(_) | Self::Tree(_) => Ok(None),
        }
    }

    fn free_bytes(&self) -> Result<u64> {
        match self {
            Self::Btrfs(dataset) => dataset.free_bytes(),
            Self::Zfs(dataset) => dataset.free_bytes(),
            Self::Tree(dataset) => dataset.free_bytes(),
        }
    }

    fn shares_space_with(&self, other: &Self) -> bool {
        self.shares_storage_with(other)
    }

    fn destroy_and_see_space(&self, version: &VersionRef) -> Result<()> {
        self.destroy_and_wait(version)
    }
}
