//! What pruning asks of a place beyond the history of a dataset.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::endpoint::{Dataset, Details, History, Result, btrfs};
use crate::model::VersionRef;

/// A snapshot that is destroyed, whose space may not be back yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dying {
    /// What it was called, with its dataset.
    pub subject: String,
    /// On btrfs: the id of its subvolume.
    pub root: Option<u64>,
}

/// How long the space of a snapshot is waited for while nothing at all comes back.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What an error is about whose snapshot is destroyed, and only its space is not back.
pub const WAIT_FOR_SPACE: &str = "wait for the space of";

/// How long space is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// No longer than until so many bytes are free.
    pub wanted: u64,
    /// No longer than that without anything coming back.
    pub patience: Duration,
}

/// Enough to prune with reasons, and until there is enough space.
pub trait Prunable: History {
    /// All that is known of every version but its size, oldest first; nothing of a dataset that has none. Clones only where they
    /// [keep](Self::has_dependent_clones) their snapshots.
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

    /// How many bytes could be written there at best, whatever snapshots are destroyed.
    ///
    /// # Errors
    /// A place that can not be read.
    fn most_free_bytes(&self) -> Result<u64>;

    /// Whether what is freed by destroying a snapshot of the one is there for the other.
    fn shares_space_with(&self, other: &Self) -> bool;

    /// As [`History::destroy`], but of nothing other than the snapshot: where only its bookmark is left, there is none.
    ///
    /// # Errors
    /// As [`History::destroy`].
    fn destroy_snapshot(&self, version: &VersionRef) -> Result<Dying>;

    /// Waits until the space of what was destroyed has come back, or there is enough.
    ///
    /// # Errors
    /// A place that can not be read; an interruption; [`Error::Io`](crate::endpoint::Error::Io) with `TimedOut` if nothing comes back, as somebody keeps it open.
    fn wait_for_space(&self, dying: &Dying, wait: Wait) -> Result<()>;
}

impl Dataset {
    /// What [`Prunable::described`] answers for each of `datasets`, where it takes less to read them together: several of one btrfs
    /// filesystem. `None` for one that is to be read by itself, be it that it could not be read.
    pub fn described_together(datasets: &[&Self]) -> Vec<Option<Vec<Details>>> {
        let mut described: Vec<_> = datasets.iter().map(|_| None).collect();
        let mut groups: BTreeMap<[u8; 16], Vec<(usize, &btrfs::Dataset)>> = BTreeMap::new();
        for (at, dataset) in datasets.iter().enumerate() {
            if let Self::Btrfs(dataset) = dataset {
                groups.entry(dataset.store().fsid()).or_default().push((at, dataset));
            }
        }
        for group in groups.into_values().filter(|group| group.len() > 1) {
            let (places, members): (Vec<_>, Vec<_>) = group.into_iter().unzip();
            let read = btrfs::Dataset::described_together(&members).into_iter().flatten();
            places.into_iter().zip(read).for_each(|(at, details)| described[at] = Some(details));
        }
        described
    }
}

impl Prunable for Dataset {
    fn described(&self) -> Result<Vec<Details>> {
        if let Self::Btrfs(dataset) = self {
            return dataset.described();
        }
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

    fn most_free_bytes(&self) -> Result<u64> {
        match self {
            Self::Zfs(dataset) => dataset.most_free_bytes(),
            Self::Btrfs(_) | Self::Tree(_) => Ok(u64::MAX),
        }
    }

    fn shares_space_with(&self, other: &Self) -> bool {
        self.shares_storage_with(other)
    }

    fn destroy_snapshot(&self, version: &VersionRef) -> Result<Dying> {
        let root = match self {
            Self::Btrfs(dataset) => Some(dataset.destroy_root(version)?),
            Self::Zfs(dataset) => dataset.destroy_but_no_bookmark(version).map(|()| None)?,
            Self::Tree(dataset) => dataset.destroy(version).map(|()| None)?,
        };
        Ok(Dying { subject: format!("{self}@{}", version.name), root })
    }

    fn wait_for_space(&self, dying: &Dying, wait: Wait) -> Result<()> {
        match (self, dying.root) {
            (Self::Btrfs(dataset), Some(root)) => dataset.wait_for_space_of(root, &dying.subject, wait),
            (Self::Zfs(dataset), _) => dataset.wait_for_space_of(&dying.subject, wait.patience),
            (Self::Btrfs(_) | Self::Tree(_), _) => Ok(()),
        }
    }
}
