//! Whether what an increment is built upon is certain to be what its sender has, and where that came from.

use std::path::Path;

use super::meta;
use super::roots::{Paths, Root};
use super::store::{STORE_DIR, Store};
use crate::endpoint::{Result, Verified};
use crate::model::{Digest, SnapshotName};
use crate::sys::btrfs::{FS_TREE_OBJECTID, SubvolInfo};

/// What is known of a subvolume that something is built upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    /// It was made here and never changed, or came verified, and all that it builds upon in its turn. What can not be told is not certain.
    pub is_ground: bool,
    /// The place that it came from, with all of that; `None` if it was made here.
    pub from: Option<Digest>,
    /// What it came as, if all of it was checked.
    pub came_as: Option<Digest>,
}

/// What is known of the subvolume.
pub(super) fn known(store: &Store, info: &SubvolInfo) -> Known {
    let root = Root::from(info.clone());
    match root.received_uuid == [0; 16] {
        _ if root.is_altered() => Known { is_ground: false, from: None, came_as: None },
        true => Known { is_ground: true, from: None, came_as: None },
        false => {
            let came = came_verified(store, &root).ok().flatten();
            let is_ground = came.as_ref().is_some_and(Verified::is_ground);
            let came_as = came.as_ref().and_then(Verified::digest);
            Known { is_ground, from: came.and_then(|came| came.ground_from()), came_as }
        }
    }
}

/// What is written down of a snapshot that was received; `None` if nothing is, or it is none in the store.
fn came_verified(store: &Store, root: &Root) -> Result<Option<Verified>> {
    let name: Option<SnapshotName> = std::str::from_utf8(&root.name).ok().and_then(|name| name.parse().ok());
    let snap = Paths::new(store.top()).dir(root.parent, root.dir).filter(|_| root.parent == FS_TREE_OBJECTID);
    let home = snap.as_deref().and_then(Path::parent).and_then(|home| home.strip_prefix(STORE_DIR).ok());
    let (Some(name), Some(home)) = (name, home) else { return Ok(None) };
    let Some(said) = store.open_in_store(home.join("meta"))? else { return Ok(None) };
    let meta = meta::read(std::os::fd::AsFd::as_fd(&said), &name, root)?;
    Ok(meta.verified)
}
