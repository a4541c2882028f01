//! What a dataset wrote down of the streams that its snapshots came as and went out as, and where their content is read.

use std::os::fd::{AsFd, OwnedFd};

use crate::endpoint::{Dataset, Details, Earlier, Error, History, Result, Verified};
use crate::model::{Digest, ReceivedStream, Recorded, SentStream, StreamDigest, VersionKind, VersionRef};
use crate::sys::btrfs;

impl Dataset {
    /// What is written down of each snapshot, oldest first.
    ///
    /// # Errors
    /// As [`History::inventory`]; [`Error::Foreign`] for a plain directory, which has no streams.
    pub fn recorded(&self) -> Result<Vec<Recorded>> {
        self.inventory()?;
        let (details, mut sent) = match self {
            Self::Btrfs(dataset) => (dataset.details(false)?, dataset.sent()?),
            Self::Zfs(dataset) => (dataset.details(false)?, dataset.sent()?),
            Self::Tree(dataset) => return Err(dataset.has_no_stream("verify")),
        };
        let place = self.place_id().ok().map(|id| Digest::of_place(&id));
        let snapshots = details.into_iter().filter(|told| told.version.kind == VersionKind::Snapshot);
        let recorded = snapshots.map(|told: Details| Recorded {
            received: told.verified.and_then(received),
            sent: sent.remove(&told.version.id).unwrap_or_default(),
            // What is written to it is not on disk at once, and seen only then.
            altered: told.altered || told.writable,
            was: told.was,
            place,
            version: told.version.id,
        });
        Ok(recorded.collect())
    }

    /// Writes down that `version` was sent as that stream; on disk when it returns.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Reused`]; a place that can not
    /// be written to.
    pub fn note_sent(&self, version: &VersionRef, sent: SentStream) -> Result<()> {
        match self {
            Self::Btrfs(dataset) => dataset.describe(version, |meta| {
                crate::model::digests::remember(&mut meta.sent, sent);
                Ok(())
            }),
            Self::Zfs(dataset) => dataset.note_sent(version, sent),
            Self::Tree(dataset) => Err(dataset.has_no_stream("send")),
        }
    }

    /// Opens the root of `version`, read-only. Where it has to be mounted for that, nobody sees the mount, and it goes with the answer.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Reused`];
    /// [`Error::Refused`] for what has no files or whose key is not loaded.
    pub fn open_content(&self, version: &VersionRef) -> Result<OwnedFd> {
        match self {
            Self::Btrfs(dataset) => dataset.open_version(version),
            Self::Zfs(dataset) => dataset.open_content(version),
            Self::Tree(dataset) => Err(dataset.has_no_stream("verify")),
        }
    }

    /// As [`Dataset::open_content`], of a plain directory's snapshot too.
    ///
    /// # Errors
    /// As there.
    pub fn open_tree(&self, version: &VersionRef) -> Result<OwnedFd> {
        match self {
            Self::Tree(dataset) => dataset.open_snapshot(version),
            _ => self.open_content(version),
        }
    }

    /// A number that is another one once the content of `version` was changed, which somebody may do who makes it writable; `None` while it
    /// is: what is changed then is seen only later.
    ///
    /// # Errors
    /// As [`Dataset::open_content`].
    pub fn content_state(&self, version: &VersionRef) -> Result<Option<u64>> {
        match self {
            Self::Btrfs(dataset) => {
                let root = dataset.open_version(version)?;
                let info = btrfs::get_subvol_info(root.as_fd());
                let info = info.map_err(Error::io("read", format!("{self}@{}", version.name)))?;
                Ok(info.readonly.then_some(info.ctransid))
            }
            Self::Zfs(_) => Ok(Some(0)), // Nobody can.
            Self::Tree(dataset) => Err(dataset.has_no_stream("verify")),
        }
    }

    /// What tells it from every other dataset, on this machine and others, whatever it is called.
    ///
    /// # Errors
    /// A place that can not be read.
    pub fn place_id(&self) -> Result<String> {
        match self {
            Self::Btrfs(dataset) => Ok(dataset.place_id()),
            Self::Zfs(dataset) => dataset.place_id(),
            Self::Tree(dataset) => Err(dataset.has_no_stream("verify")),
        }
    }
}

/// Of a digest that is none, nothing is known.
fn received(verified: Verified) -> Option<ReceivedStream> {
    let whole = verified.earlier != Some(Earlier::Unknown);
    let Verified { blake3, base, len, at, grounded, from, upon, .. } = verified;
    let stream = StreamDigest { blake3: blake3.parse().ok()?, base, len };
    Some(ReceivedStream { stream, whole, grounded, from, upon, at: Some(at) })
}
