//! What one place holds of one dataset.

use serde::{Deserialize, Serialize};

use crate::model::name::{HoldTag, SnapshotName};
use crate::model::version::{Guid, Version, VersionRef};

/// What a place can do, where places differ by degree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Caps {
    /// Several datasets can be snapshotted in one instant.
    pub atomic_set: bool,
    /// An interrupted receive can go on where it stopped.
    pub resume: bool,
    /// Bookmarks exist.
    pub bookmarks: bool,
}

/// A receive that was begun and not finished: it never counts as a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partial {
    /// The name that the version would have got.
    pub name: SnapshotName,
    /// The identity that it would have got.
    pub guid: Guid,
    /// What the endpoint needs to find it again (btrfs: the staging subvolume's name; ZFS: the resume token).
    pub token: String,
    /// Whether a process is writing it now.
    pub live: bool,
}

/// What one place holds of one dataset, read from the place each time and never cached.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Inventory {
    /// How the place calls the dataset.
    pub dataset: String,
    versions: Vec<Version>,            // Invariant: oldest first, by `order` then name.
    holds: Vec<(VersionRef, HoldTag)>, // Invariant: sorted; each names one of `versions`.
    /// What was begun and not finished.
    pub partials: Vec<Partial>,
    /// What the place can do.
    pub caps: Caps,
}

impl Inventory {
    /// Puts the versions in order and drops holds of what is not there.
    pub fn new(
        dataset: impl Into<String>,
        mut versions: Vec<Version>,
        holds: Vec<(VersionRef, HoldTag)>,
    ) -> Self {
        versions.sort_by(|a, b| (a.order, &a.id.name).cmp(&(b.order, &b.id.name)));
        let mut holds: Vec<_> =
            holds.into_iter().filter(|(held, _)| versions.iter().any(|v| v.id == *held)).collect();
        holds.sort();
        holds.dedup();
        Self { dataset: dataset.into(), versions, holds, partials: Vec::new(), caps: Caps::default() }
    }

    /// All versions, oldest first.
    pub fn versions(&self) -> &[Version] {
        &self.versions
    }

    /// The newest version.
    pub fn newest(&self) -> Option<&Version> {
        self.versions.last()
    }

    /// The version of that name.
    pub fn by_name(&self, name: &SnapshotName) -> Option<&Version> {
        self.versions.iter().find(|v| v.id.name == *name)
    }

    /// The version of that identity.
    pub fn by_guid(&self, guid: Guid) -> Option<&Version> {
        self.versions.iter().find(|v| v.id.guid == guid)
    }

    /// Who keeps `version`, sorted.
    pub fn holds_of<'a>(&'a self, version: &'a VersionRef) -> impl Iterator<Item = &'a HoldTag> {
        self.holds.iter().filter(move |(held, _)| held == version).map(|(_, tag)| tag)
    }

    /// All holds, sorted by version.
    pub fn holds(&self) -> &[(VersionRef, HoldTag)] {
        &self.holds
    }

    /// The newest version older than `version` that has content: the natural base of an increment.
    pub fn predecessor(&self, version: &VersionRef) -> Option<&Version> {
        let at = self.versions.iter().position(|v| v.id == *version)?;
        self.versions[..at].iter().rev().find(|v| v.kind == crate::model::version::VersionKind::Snapshot)
    }
}
