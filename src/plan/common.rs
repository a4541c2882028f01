//! What two places have in common, by identity alone: names and clocks say nothing.

use crate::model::{Inventory, Version, VersionKind};

/// The newest snapshot of `here`, by its order, of which `there` has the snapshot or a bookmark: what the next increment between the
/// two starts from, whichever of them sends.
pub fn newest_common<'a>(here: &'a Inventory, there: &Inventory) -> Option<&'a Version> {
    let snapshots = here.versions().iter().filter(|version| version.kind == VersionKind::Snapshot);
    snapshots.rev().find(|version| there.by_guid(version.id.guid).is_some())
}
