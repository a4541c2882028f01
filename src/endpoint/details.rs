//! What there is to say about a version beyond an inventory.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::endpoint::Verified;
use crate::model::{Guid, HoldTag, Partial, Version};

/// All that is known of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Details {
    /// Which one.
    pub version: Version,
    /// What the user says about it.
    pub labels: BTreeMap<String, String>,
    /// Who keeps it, and since when.
    pub holds: BTreeMap<HoldTag, Timestamp>,
    /// The digest of its stream that was checked here.
    pub verified: Option<Verified>,
    /// Live datasets that were made from it (btrfs: by path below the top level; ZFS: by name).
    pub clones: Vec<String>,
    /// It was made writable and changed since: it is no base any more, here or anywhere.
    pub altered: bool,
    /// What it was known as before it was altered, where that is another identity.
    pub was: Option<Guid>,
    /// It is writable now.
    pub writable: bool,
    /// How many bytes it refers to, where that was asked for.
    pub usage: Option<Usage>,
}

/// What one version refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Usage {
    /// Bytes on disk of all that it refers to.
    pub referenced: u64,
    /// Bytes on disk that nothing else on the filesystem or pool refers to.
    pub exclusive: u64,
}

/// What a listing says of one dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing<D> {
    /// Which one.
    pub dataset: D,
    /// Whether it is there: not only its history, or what was received for it so far.
    pub is_live: bool,
    /// All that is known of every version, oldest first.
    pub details: Vec<Details>,
    /// The receives into it that are not finished.
    pub partials: Vec<Partial>,
}
