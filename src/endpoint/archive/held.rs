//! Holds: who keeps a version of an archive from being destroyed.

use super::{Archive, Error, Result};
use crate::endpoint::store::{Bytes, Object};
use crate::model::archive::{Claim as Key, HOLDS, Hold, Use};
use crate::model::{HoldTag, VersionRef};

impl Archive {
    /// Who keeps what, with when that was said.
    ///
    /// # Errors
    /// What the store says.
    pub fn holds(&self) -> Result<Vec<(Hold, Object)>> {
        let holds = self.store().list(HOLDS)?.into_iter();
        Ok(holds.filter_map(|object| Some((Hold::parse(&object.key).ok()?, object))).collect())
    }

    /// Keeps `version` from being destroyed. Holding twice is holding once.
    ///
    /// # Errors
    /// [`Error::Going`] if somebody destroys it, or did meanwhile: then nothing is held. What the store says.
    pub fn hold(&self, version: &VersionRef, tag: &HoldTag) -> Result<()> {
        let hold = Hold { guid: version.guid, tag: tag.clone() };
        let was_held = self.holds()?.iter().any(|(there, _)| *there == hold);
        let is_there = || {
            Ok::<_, Error>(self.listing()?.stored.iter().any(|stored| stored.version.guid == version.guid))
        };
        let going = || Error::Going { url: self.url(), version: version.clone() };
        if was_held {
            // Whoever destroys has seen it, or will; it is not ours to take away.
            return if is_there()? { Ok(()) } else { Err(going()) };
        }
        self.store().put(&hold.to_string(), Bytes::new())?;
        let stays = self.stays_held(version, &hold, &is_there);
        if !matches!(stays, Ok(true)) {
            self.store().destroy_at_last(&[hold.to_string()])?;
        }
        if stays? { Ok(()) } else { Err(going()) }
    }

    /// Whether nobody destroys what was held just now.
    fn stays_held(
        &self,
        version: &VersionRef,
        hold: &Hold,
        is_there: &dyn Fn() -> Result<bool>,
    ) -> Result<bool> {
        let now =
            self.holds()?.into_iter().find(|(there, _)| there == hold).map(|(_, object)| object.modified);
        let is_going = |claim: &Key| claim.to == Use::Destroy && claim.group.guid == version.guid;
        let is_going = self.claims_at(now)?.fresh.iter().any(is_going);
        Ok(!is_going && is_there()?)
    }

    /// Takes a hold off. Answers whether there was one.
    ///
    /// # Errors
    /// What the store says.
    pub fn release(&self, version: &VersionRef, tag: &HoldTag) -> Result<bool> {
        let hold = Hold { guid: version.guid, tag: tag.clone() };
        let is_there = self.holds()?.iter().any(|(there, _)| *there == hold);
        self.store().destroy(&[hold.to_string()])?;
        Ok(is_there)
    }
}
