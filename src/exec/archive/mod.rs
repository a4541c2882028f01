//! Archives: what is there, looked at for those who decide.

pub mod add;
pub mod asked;
mod behind;
mod counted;
mod fetch;
pub mod left;
mod parts;
pub mod prune;
pub mod pull;
pub mod push;
mod unfinished;
pub mod usage;
pub mod verify;

use std::collections::BTreeMap;

use crate::Result;
use crate::endpoint::archive::Archive;
use crate::model::archive::Stored;
use crate::model::{Guid, HoldTag};
use crate::plan::archive::Archive as Chains;

pub use fetch::Fetch;

/// What an archive held when it was looked at.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Its versions, and how they come back.
    pub chains: Chains,
    /// Those that are said to be made after they were put.
    pub ahead: Vec<Stored>,
    /// Keys among theirs that this program does not know.
    pub strangers: Vec<String>,
    /// Who keeps what.
    pub holds: BTreeMap<Guid, Vec<HoldTag>>,
}

impl Seen {
    /// Looks: one walk over the keys of manifests, and one over those of holds. No object is read.
    ///
    /// # Errors
    /// What the store says.
    pub fn of(archive: &Archive) -> Result<Self> {
        let listing = archive.listing()?;
        let mut holds: BTreeMap<Guid, Vec<HoldTag>> = BTreeMap::new();
        for (hold, _) in archive.holds()? {
            holds.entry(hold.guid).or_default().push(hold.tag);
        }
        Ok(Self {
            chains: Chains::new(listing.stored),
            ahead: listing.ahead,
            strangers: listing.strangers,
            holds,
        })
    }
}
