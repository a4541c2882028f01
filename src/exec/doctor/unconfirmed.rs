//! Snapshots of runs that were killed before it was known that nobody wrote meanwhile, or are at work.

use super::Finding;
use crate::Result;
use crate::endpoint::{Dataset, Prunable};

/// What such a snapshot is.
pub(super) const WHAT: &str =
    "a snapshot of which nobody knows yet whether it is good: the next run of its job destroys it";

/// Those of a dataset, whatever backend it is of; what was never snapshotted has none.
///
/// # Errors
/// A dataset that can not be read.
pub fn unconfirmed(dataset: &Dataset) -> Result<Vec<Finding<'static>>> {
    let taken = dataset.described()?.into_iter().map(|details| details.version);
    let finding = |(name, created)| Finding {
        since: Some(created),
        ..Finding::note(WHAT, format!("{dataset}@{name}"))
    };
    let all = taken.filter(|version| version.id.name.is_unconfirmed());
    Ok(all.map(|version| (version.id.name, version.created)).map(finding).collect())
}
