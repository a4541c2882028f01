//! Datasets that a restore receives: not live before the last stream has come, then put in place without a copy.

use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::{mounted, props};
use crate::endpoint::{Backend, History, Result, RollbackRequest};
use crate::model::{VersionKind, VersionRef};

/// The property of a dataset that a restore receives; taken away once it is in place.
pub(super) const RESTORING: &str = "cowsnap:restoring";

impl Dataset {
    /// Whether it is what a restore has received so far, which nobody uses yet.
    ///
    /// # Errors
    /// As [`Dataset::exists`].
    pub fn is_being_restored(&self) -> Result<bool> {
        Ok(self.exists()? && props::local(self.name().as_str(), RESTORING)?.is_some())
    }

    /// Makes what a restore has received live, with the content of `version`: it can be written to and is mounted where its
    /// properties say. What is newer than `version` is set aside as by a rollback.
    ///
    /// # Errors
    /// [`crate::endpoint::Error::NotFound`] if it has no such version; a step that fails, after which it is still being
    /// restored.
    pub fn put_in_place(&self, version: &VersionRef) -> Result<()> {
        let name = self.name().as_str();
        let inventory = self.inventory()?;
        let newest = inventory.versions().iter().rfind(|version| version.kind == VersionKind::Snapshot);
        if newest.is_none_or(|newest| newest.id != *version) {
            let done = self.rollback(version, &RollbackRequest::default())?;
            if let Some(aside) = &done.aside {
                props::clear(aside, RESTORING)?;
                tracing::warn!(
                    "what is newer than {} had been received before, and is in {aside}",
                    self.at_name(&version.name)
                );
            }
        }
        props::clear(name, "readonly")?;
        if !self.is_volume()? {
            props::set(name, "canmount", "on")?; // It can not be inherited.
        }
        mounted::mount_if_meant(self)?;
        props::clear(name, RESTORING)
    }
}
