//! Whether what an increment is built upon is certain to be what its sender has.

use std::path::Path;

use super::meta;
use super::roots::{Paths, Root};
use super::store::{STORE_DIR, Store};
use crate::endpoint::Result;
use crate::model::SnapshotName;
use crate::sys::btrfs::{FS_TREE_OBJECTID, SubvolInfo};

/// Whether the subvolume was made here and never changed, or came verified, and all that it builds upon in its turn. What can not be
/// told is not certain.
pub(super) fn is_ground(store: &Store, info: &SubvolInfo) -> bool {
    let root = Root::from(info.clone());
    match root.received_uuid == [0; 16] {
        _ if root.is_altered() => false,
        true => true,
        false => came_verified(store, &root).is_ok_and(|came| came == Some(true)),
    }
}

/// What is written down of a snapshot that was received; `None` if nothing is, or it is none in the store.
fn came_verified(store: &Store, root: &Root) -> Result<Option<bool>> {
    let name: Option<SnapshotName> = std::str::from_utf8(&root.name).ok().and_then(|name| name.parse().ok());
    let snap = Paths::new(store.top()).dir(root.parent, root.dir).filter(|_| root.parent == FS_TREE_OBJECTID);
    let home = snap.as_deref().and_then(Path::parent).and_then(|home| home.strip_prefix(STORE_DIR).ok());
    let (Some(name), Some(home)) = (name, home) else { return Ok(None) };
    let Some(said) = store.open_in_store(home.join("meta"))? else { return Ok(None) };
    let meta = meta::read(std::os::fd::AsFd::as_fd(&said), &name, root)?;
    Ok(meta.verified.map(|verified| verified.is_ground()))
}
