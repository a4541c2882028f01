//! Versions made usable: writable clones, and read-only mounts that undo themselves.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::AtFlags;
use rustix::io::Errno;

use crate::endpoint::btrfs::dataset::Dataset;
use crate::endpoint::btrfs::store::Store;
use crate::endpoint::mounted::{Mount, no_directory, not_allowed};
use crate::endpoint::{Error, Result};
use crate::model::{VersionRef, quoted};
use crate::sys::btrfs::{self, FIRST_FREE_OBJECTID};
use crate::sys::mount::{self, MountInfo, Restrict};

impl Dataset {
    pub(super) fn clone_to(&self, version: &VersionRef, to: &Self) -> Result<()> {
        if self.store().fsid() != to.store().fsid() {
            let hint = format!("cowsnap restore {} --to {}", quoted(self.at_name(&version.name)), quoted(to));
            return Err(to.refused("clone to", "it is on another filesystem".into(), Some(hint)));
        }
        let source = self.open_version(version)?;
        let (parent, name) = to.parent()?;
        // One call, one transaction: it is there as a whole or not at all.
        match btrfs::snap_create(parent.as_fd(), name, source.as_fd(), false) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                take_placeholder_away(&parent, name).map_err(|_| to.is_there())?;
                btrfs::snap_create(parent.as_fd(), name, source.as_fd(), false)
                    .map_err(Error::io("clone to", to))
            }
            Err(error) if error.raw_os_error() == Some(libc::EROFS) => Err(to.store().readonly("create", to)),
            other => other.map_err(Error::io("clone to", to)),
        }
    }

    /// Takes away the clone that was just made here and nothing else: a history that the dataset had before stays.
    ///
    /// # Errors
    /// A clone with datasets inside it.
    pub fn take_clone_back(&self) -> Result<()> {
        let (parent, name) = self.parent()?;
        btrfs::snap_destroy(parent.as_fd(), name).map_err(Error::io("take back", self))
    }

    pub(super) fn mount_at(&self, version: &VersionRef, dir: &Path) -> Result<Mount> {
        let fd = self.open_version(version)?;
        let id = btrfs::subvol_id(fd.as_fd()).map_err(Error::io("mount", self.at_name(&version.name)))?;
        let denied = |error: std::io::Error| not_allowed(error, "mount", &self.at_name(&version.name));
        let tree = reachable(self.store(), id, fd);
        let bound = mount::bind(tree.as_fd()).map_err(denied)?;
        let restrict = Restrict { readonly: true, nodev: true, nosuid: true, noexec: false };
        mount::restrict(&bound, restrict).map_err(denied)?;
        let dir = dir.canonicalize().map_err(|error| no_directory(error, dir))?;
        mount::attach(&bound, &dir).map_err(Error::io("mount at", dir.display()))?;
        Ok(Mount::new(dir))
    }
}

/// Removes the empty directory that a snapshot has where its source had a subvolume. It has inode 2, like no other.
pub(super) fn take_placeholder_away(parent: &OwnedFd, name: &std::ffi::OsStr) -> Result<(), Errno> {
    const EMPTY_SUBVOL_DIR_OBJECTID: u64 = 2;
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?.st_ino {
        EMPTY_SUBVOL_DIR_OBJECTID => rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR),
        _ => Err(Errno::EXIST),
    }
}

/// The root of subvolume `id` through a mount that can be copied: kernels before 6.15 copy no detached one.
pub(super) fn reachable(store: &Store, id: u64, otherwise: OwnedFd) -> OwnedFd {
    btrfs::open_by_id(store.anchor(), id, FIRST_FREE_OBJECTID).unwrap_or(otherwise)
}

/// The mounts of the store's filesystem that this process sees.
pub(super) fn mounts_of(store: &Store) -> Result<Vec<MountInfo>> {
    let failed = || Error::io("read", "the table of mounts");
    let id = mount::mount_id(store.anchor()).map_err(failed())?;
    let mounts = mount::mounts().map_err(failed())?;
    let device = mounts.iter().find(|m| m.id == id).map(|m| m.device.clone());
    // A store that was opened through a mount which has gone since then is known by its source no more.
    Ok(mounts.into_iter().filter(|m| Some(&m.device) == device.as_ref()).collect())
}

/// Where `path` below the top level, or something inside, is itself mounted.
pub(super) fn mounted_at(store: &Store, path: &Path) -> Result<Vec<PathBuf>> {
    let root = Path::new("/").join(path);
    let mounts = mounts_of(store)?;
    Ok(mounts.into_iter().filter(|m| m.root.starts_with(&root)).map(|m| m.dir).collect())
}

/// Where `path` below the top level can be seen: below the mount that reaches furthest down to it.
pub(super) fn visible_at(store: &Store, path: &Path) -> Result<Option<PathBuf>> {
    let root = Path::new("/").join(path);
    let mounts = mounts_of(store)?;
    let nearest =
        mounts.iter().filter(|m| root.starts_with(&m.root)).max_by_key(|m| m.root.components().count());
    // By components: joining nothing would leave a slash at the end.
    Ok(nearest.and_then(|m| Some(m.dir.join(root.strip_prefix(&m.root).ok()?).components().collect())))
}
