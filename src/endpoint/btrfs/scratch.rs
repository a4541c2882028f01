//! Writable clones that are no datasets: what overlays show. They have no history, and lie in the store's `overlays/`.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Timespec, Timestamps};
use rustix::io::Errno;

use crate::endpoint::btrfs::Dataset;
use crate::endpoint::btrfs::clone::{reachable, take_placeholder_away};
use crate::endpoint::btrfs::store::{STORE_DIR, Store, list, open_beneath};
use crate::endpoint::{Error, Result};
use crate::sys::btrfs;
use crate::sys::mount;

const FOLDER: &str = "overlays";

/// The clones of one filesystem.
#[derive(Debug)]
pub struct Scratch {
    store: Arc<Store>,
}

impl Scratch {
    /// Those of the filesystem that holds `path`.
    ///
    /// # Errors
    /// As [`Store::open_as_it_is`].
    pub fn of(path: &Path) -> Result<Self> {
        Ok(Self { store: Store::open_as_it_is(path)? })
    }

    /// Those of the filesystem of a dataset, which need not be there, but for its snapshots.
    pub fn beside(dataset: &Dataset) -> Self {
        Self { store: dataset.store().clone() }
    }

    /// A place at which the filesystem is mounted: it stays what it is though the base may go.
    ///
    /// # Errors
    /// A table of mounts that can not be read.
    pub fn mounted_at(&self) -> Result<PathBuf> {
        let failed = || Error::io("read", "the table of mounts");
        let id = mount::mount_id(self.store.anchor()).map_err(failed())?;
        let mounts = mount::mounts().map_err(failed())?;
        let found = mounts.into_iter().find(|mounted| mounted.id == id).map(|mounted| mounted.dir);
        Ok(found.unwrap_or_else(|| self.store.opened_by().to_owned()))
    }

    /// What the clones are called.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn names(&self) -> Result<Vec<String>> {
        let Some(folder) = self.store.open_in_store(FOLDER)? else { return Ok(Vec::new()) };
        let names = list(folder.as_fd()).map_err(self.store.io("list", FOLDER))?;
        Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect())
    }

    /// Makes the clone `name` of the subvolume whose root `source` is. It is there as a whole or not at all.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn make(&self, name: &str, source: BorrowedFd<'_>) -> Result<()> {
        let folder = self.store.make_in_store(FOLDER)?;
        btrfs::snap_create(folder.as_fd(), OsStr::new(name), source, false)
            .map_err(self.store.io("make", name))
    }

    /// Makes `name` a read-only snapshot of the subvolume whose root `source` is, to make clones of.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn make_origin(&self, name: &str, source: BorrowedFd<'_>) -> Result<()> {
        let folder = self.store.make_in_store(FOLDER)?;
        btrfs::snap_create(folder.as_fd(), OsStr::new(name), source, true)
            .map_err(self.store.io("snapshot", name))
    }

    /// Makes `name` a snapshot of the clone `clone` as it is at one instant, with the subvolumes that were made in it, each at its own. It is
    /// read-only if there are none; false if there is no such clone.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn take_view(&self, name: &str, clone: &str) -> Result<bool> {
        let (from, to) = (self.path(clone), self.path(name));
        let source = match open_beneath(self.store.top(), &from) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            other => other.map_err(self.store.io("open", clone))?,
        };
        let nested = self.store.dataset(&from).nested()?;
        let folder = self.store.make_in_store(FOLDER)?;
        btrfs::snap_create(folder.as_fd(), OsStr::new(name), source.as_fd(), nested.is_empty())
            .map_err(self.store.io("snapshot", clone))?;
        self.take_inside(&from, &to, &nested)?;
        Ok(true)
    }

    /// A snapshot holds an empty directory where its source has a subvolume.
    fn take_inside(&self, from: &Path, to: &Path, nested: &[Dataset]) -> Result<()> {
        for nested in nested {
            let failed = || Error::io("snapshot", nested);
            let refused = |errno: Errno| failed()(errno.into());
            let Ok(below) = nested.path().strip_prefix(from) else { continue };
            let at = to.join(below);
            let (Some(dir), Some(name)) = (at.parent(), at.file_name()) else { continue };
            let dir = open_beneath(self.store.top(), dir).map_err(failed())?;
            let was = rustix::fs::fstat(&dir).map_err(refused)?;
            match take_placeholder_away(&dir, name) {
                // It was not there yet.
                Err(Errno::NOENT) => continue,
                other => other.map_err(refused)?,
            }
            let source = open_beneath(self.store.top(), nested.path()).map_err(failed())?;
            btrfs::snap_create(dir.as_fd(), name, source.as_fd(), false).map_err(failed())?;
            let time = |tv_sec, nsec: u64| Timespec { tv_sec, tv_nsec: nsec as _ };
            let times = Timestamps {
                last_access: time(was.st_atime, was.st_atime_nsec),
                last_modification: time(was.st_mtime, was.st_mtime_nsec),
            };
            rustix::fs::futimens(&dir, &times).map_err(refused)?;
            self.take_inside(nested.path(), &at, &nested.nested()?)?;
        }
        Ok(())
    }

    /// Opens the root of the clone `name` so that it can be mounted; `None` if there is none.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(&self, name: &str) -> Result<Option<OwnedFd>> {
        let found = match open_beneath(self.store.top(), &self.path(name)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(self.store.io("open", name))?,
        };
        let id = btrfs::subvol_id(found.as_fd()).map_err(self.store.io("open", name))?;
        Ok(Some(reachable(&self.store, id, found)))
    }

    /// Makes the clone `name` read-only, once all that was written to it is on disk.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn seal(&self, name: &str) -> Result<()> {
        let root = open_beneath(self.store.top(), &self.path(name)).map_err(self.store.io("open", name))?;
        rustix::fs::syncfs(&root).map_err(self.store.io("sync", name))?;
        btrfs::subvol_set_readonly(root.as_fd(), true).map_err(self.store.io("seal", name))?;
        btrfs::sync(root.as_fd()).map_err(self.store.io("sync", name))
    }

    /// Whether the clone `name` is there, and was sealed.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn is_sealed(&self, name: &str) -> Result<bool> {
        match self.open(name)? {
            Some(root) => btrfs::subvol_is_readonly(root.as_fd()).map_err(self.store.io("read", name)),
            None => Ok(false),
        }
    }

    /// Gives the clone `name` another one; false if there is none.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn rename(&self, name: &str, new: &str) -> Result<bool> {
        let Some(folder) = self.store.open_in_store(FOLDER)? else { return Ok(false) };
        match rustix::fs::renameat(&folder, name, &folder, new) {
            Err(Errno::NOENT) => Ok(false),
            other => other.map(|()| true).map_err(self.store.io("rename", name)),
        }
    }

    /// Destroys the clone `name` with the subvolumes that were made in it; one that is not there is gone.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn destroy(&self, name: &str) -> Result<()> {
        let Some(folder) = self.store.open_in_store(FOLDER)? else { return Ok(()) };
        let destroy = || btrfs::snap_destroy(folder.as_fd(), OsStr::new(name));
        match destroy().map_err(|error| (error.raw_os_error(), error)) {
            Ok(()) | Err((Some(libc::ENOENT), _)) => Ok(()),
            Err((Some(libc::ENOTEMPTY), _)) => {
                self.destroy_inside(&self.path(name))?;
                destroy().map_err(self.store.io("destroy", name))
            }
            Err((_, error)) => Err(self.store.io("destroy", name)(error)),
        }
    }

    fn destroy_inside(&self, path: &Path) -> Result<()> {
        for nested in self.store.dataset(path).nested()? {
            self.destroy_inside(nested.path())?;
            let (parent, name) = nested.parent()?;
            btrfs::snap_destroy(parent.as_fd(), name).map_err(Error::io("destroy", &nested))?;
        }
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new(STORE_DIR).join(FOLDER).join(name)
    }
}
