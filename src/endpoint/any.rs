//! A dataset of whichever backend serves it: what the command line and the verbs work with.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::endpoint::{
    Arrived, Backend, Change, DestroyDataset, Details, Endpoint, History, Outgoing, ReceiveRequest, Result,
    RollbackRequest, RolledBack, SendRequest, SnapshotRequest, SnapshotSet, Verified, btrfs,
};
use crate::model::{HoldTag, Inventory, Partial, SnapshotName, Version, VersionRef};
use crate::stream::container;

/// A dataset. What it was a moment ago is not remembered: each call looks again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dataset {
    /// A btrfs subvolume, or what is left of the history of one.
    Btrfs(btrfs::Dataset),
}

/// Does the same whatever backend it is.
macro_rules! whichever {
    ($self:expr, $dataset:ident => $what:expr) => {
        match $self {
            Dataset::Btrfs($dataset) => $what,
        }
    };
}

impl From<btrfs::Dataset> for Dataset {
    fn from(dataset: btrfs::Dataset) -> Self {
        Self::Btrfs(dataset)
    }
}

impl fmt::Display for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        whichever!(self, dataset => dataset.fmt(f))
    }
}

impl Dataset {
    /// Whose streams it sends and receives.
    pub fn backend(&self) -> container::Backend {
        match self {
            Self::Btrfs(_) => container::Backend::Btrfs,
        }
    }

    /// Whether a version of `self` can be cloned to `other`: both are in one filesystem or pool.
    pub fn shares_storage_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Btrfs(a), Self::Btrfs(b)) => a.store().fsid() == b.store().fsid(),
        }
    }

    /// Whether it is live: not only what is left of a history.
    ///
    /// # Errors
    /// A place that can not be read.
    pub fn exists(&self) -> Result<bool> {
        whichever!(self, dataset => dataset.exists())
    }

    /// Says why not if it is not live.
    ///
    /// # Errors
    /// [`super::Error::NotFound`]; [`super::Error::Foreign`] if something else is in its place.
    pub fn expect_live(&self) -> Result<()> {
        match self {
            Self::Btrfs(dataset) => dataset.open().map(drop),
        }
    }

    /// Makes it, empty.
    ///
    /// # Errors
    /// [`super::Error::Exists`]; no place for it.
    pub fn create(&self) -> Result<()> {
        whichever!(self, dataset => dataset.create())
    }

    /// Destroys the live dataset, and its snapshots if that is asked for.
    ///
    /// # Errors
    /// [`super::Error::Refused`] if something is in it, uses it or was left out; [`super::Error::Held`].
    pub fn destroy_dataset(&self, options: DestroyDataset) -> Result<()> {
        whichever!(self, dataset => dataset.destroy_dataset(options))
    }

    /// Gives the dataset, with its history, the name of `new`.
    ///
    /// # Errors
    /// [`super::Error::Exists`]; [`super::Error::Refused`] if `new` is in another place.
    pub fn rename_dataset(&self, new: &Self) -> Result<()> {
        match (self, new) {
            (Self::Btrfs(old), Self::Btrfs(new)) => old.rename_dataset(new),
        }
    }

    /// The datasets directly inside.
    ///
    /// # Errors
    /// [`super::Error::NotFound`] if it is not live.
    pub fn nested(&self) -> Result<Vec<Self>> {
        whichever!(self, dataset => Ok(dataset.nested()?.into_iter().map(Self::from).collect()))
    }

    /// All datasets below it, live or not, at any depth: parents first.
    ///
    /// # Errors
    /// A place that can not be read.
    pub fn all_inside(&self) -> Result<Vec<Self>> {
        match self {
            Self::Btrfs(dataset) => {
                let mut all = dataset.store().datasets()?;
                all.retain(|other| other != dataset && other.path().starts_with(dataset.path()));
                all.sort_by_key(|dataset| dataset.path().components().count());
                Ok(all.into_iter().map(Self::from).collect())
            }
        }
    }

    /// What is to `to` as `self`, which is `from` or inside it, is to `from`.
    ///
    /// # Panics
    /// If it is not.
    pub fn counterpart(&self, from: &Self, to: &Self) -> Self {
        if self == from {
            return to.clone();
        }
        match (self, from, to) {
            (Self::Btrfs(child), Self::Btrfs(from), Self::Btrfs(to)) => {
                let relative = child.path().strip_prefix(from.path());
                to.below(relative.expect("a nested dataset's path begins with its parent's")).into()
            }
        }
    }

    /// The version called `name`.
    ///
    /// # Errors
    /// [`super::Error::NotFound`].
    pub fn version(&self, name: &SnapshotName) -> Result<Version> {
        whichever!(self, dataset => dataset.version(name))
    }

    /// Gives `version` another name.
    ///
    /// # Errors
    /// [`super::Error::Exists`] if it is taken; [`super::Error::Reused`], [`super::Error::NotFound`].
    pub fn rename_version(&self, version: &VersionRef, new: &SnapshotName) -> Result<VersionRef> {
        whichever!(self, dataset => dataset.rename_version(version, new))
    }

    /// Where the live dataset can be seen.
    ///
    /// # Errors
    /// A table of mounts that can not be read.
    pub fn mountpoint(&self) -> Result<Option<PathBuf>> {
        whichever!(self, dataset => dataset.mountpoint())
    }

    /// All that is known of every version, oldest first; of sizes only if they are asked for.
    ///
    /// # Errors
    /// As [`History::inventory`].
    pub fn details(&self, sizes: bool) -> Result<Vec<Details>> {
        whichever!(self, dataset => dataset.details(sizes))
    }

    /// The receives into it that are not finished.
    ///
    /// # Errors
    /// A place that can not be read.
    pub fn partials(&self) -> Result<Vec<Partial>> {
        whichever!(self, dataset => dataset.partials())
    }

    /// Destroys `version` and waits until its space has come back.
    ///
    /// # Errors
    /// As [`History::destroy`].
    pub fn destroy_and_wait(&self, version: &VersionRef) -> Result<()> {
        whichever!(self, dataset => dataset.destroy_and_wait(version))
    }

    /// What goes back when this dataset goes back to `version`: itself, then those inside it that have a version of the
    /// same name, parents first.
    ///
    /// # Errors
    /// [`super::Error::Refused`] if there are nested datasets and it is not to be `recursive`.
    pub fn to_roll_back(&self, version: &VersionRef, recursive: bool) -> Result<Vec<(Self, VersionRef)>> {
        whichever!(self, dataset => {
            let all = dataset.to_roll_back(version, recursive)?;
            Ok(all.into_iter().map(|(dataset, version)| (dataset.into(), version)).collect())
        })
    }

    /// Takes away the clone that was just made here and nothing else.
    ///
    /// # Errors
    /// A clone with datasets inside it.
    pub fn take_clone_back(&self) -> Result<()> {
        whichever!(self, dataset => dataset.take_clone_back())
    }

    /// What changed from `old` to `new`, or to what the dataset is now; sorted by path.
    ///
    /// # Errors
    /// [`super::Error::NotFound`], [`super::Error::Reused`]; a comparison that fails.
    pub fn changes(&self, old: &VersionRef, new: Option<&VersionRef>) -> Result<Vec<Change>> {
        whichever!(self, dataset => dataset.changes(old, new))
    }

    /// As [`Endpoint::receive`]; what `verified` answers once `stream` has been read is kept with the version.
    ///
    /// # Errors
    /// As [`Endpoint::receive`].
    pub fn receive_checked<R: Read + Send>(
        &self,
        request: &ReceiveRequest,
        stream: &mut R,
        verified: impl FnOnce(&R) -> Option<Verified>,
    ) -> Result<Arrived> {
        whichever!(self, dataset => dataset.receive_checked(request, stream, verified).map(Arrived::from))
    }
}

impl History for Dataset {
    fn inventory(&self) -> Result<Inventory> {
        whichever!(self, dataset => dataset.inventory())
    }

    fn hold(&self, version: &VersionRef, tag: &HoldTag) -> Result<()> {
        whichever!(self, dataset => dataset.hold(version, tag))
    }

    fn release(&self, version: &VersionRef, tag: &HoldTag) -> Result<()> {
        whichever!(self, dataset => dataset.release(version, tag))
    }

    fn destroy(&self, version: &VersionRef) -> Result<()> {
        whichever!(self, dataset => dataset.destroy(version))
    }
}

impl Endpoint for Dataset {
    fn send(&self, request: &SendRequest) -> Result<Outgoing> {
        whichever!(self, dataset => dataset.send(request))
    }

    fn receive(&self, request: &ReceiveRequest, stream: &mut dyn Read) -> Result<Version> {
        whichever!(self, dataset => dataset.receive(request, stream))
    }
}

impl Backend for Dataset {
    type Mount = Mount;

    fn snapshot(set: &[Self], request: &SnapshotRequest) -> Result<SnapshotSet> {
        let on_btrfs: Vec<_> = set.iter().map(|Self::Btrfs(dataset)| dataset.clone()).collect();
        Backend::snapshot(&on_btrfs, request)
    }

    fn clone_at(&self, version: &VersionRef, to: &Self) -> Result<()> {
        match (self, to) {
            (Self::Btrfs(of), Self::Btrfs(to)) => of.clone_at(version, to),
        }
    }

    fn mount(&self, version: &VersionRef, dir: &Path) -> Result<Mount> {
        match self {
            Self::Btrfs(dataset) => dataset.mount(version, dir).map(Mount::Btrfs),
        }
    }

    fn rollback(&self, version: &VersionRef, request: &RollbackRequest) -> Result<RolledBack> {
        whichever!(self, dataset => dataset.rollback(version, request))
    }
}

/// A version made visible at a directory, until this is dropped.
#[derive(Debug)]
pub enum Mount {
    /// Of btrfs.
    Btrfs(btrfs::Mount),
}

impl Mount {
    /// Leaves it there for good: [`unmount`] takes it away.
    pub fn keep(self) {
        match self {
            Self::Btrfs(mount) => mount.keep(),
        }
    }
}

/// Unmounts the version that is mounted at `dir`; `lazily` takes it out of sight at once, and it goes when its last user
/// does.
///
/// # Errors
/// [`super::Error::NotFound`] if nothing is mounted there; [`super::Error::Refused`] if it is not a version, or in use.
pub fn unmount(dir: &Path, lazily: bool) -> Result<()> {
    match lazily {
        true => btrfs::unmount_lazily(dir),
        false => btrfs::unmount(dir),
    }
}
