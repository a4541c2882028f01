//! What a tree can do: be taken, cloned, shown and rolled back.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;

use crate::endpoint::dir::rename_new;
use crate::endpoint::mounted::{Mount, no_directory, not_allowed};
use crate::endpoint::tree::copy::copy_hint;
use crate::endpoint::tree::dataset::Dataset;
use crate::endpoint::tree::staging::Staging;
use crate::endpoint::tree::taking::{TREE, take};
use crate::endpoint::{Backend, Error, Result, RollbackRequest, RolledBack, SnapshotRequest, SnapshotSet};
use crate::model::{VersionRef, quoted};
use crate::sys::mount::{self, Restrict};
use std::os::fd::OwnedFd;

impl Backend for Dataset {
    type Mount = Mount;

    fn snapshot(set: &[Self], request: &SnapshotRequest) -> Result<SnapshotSet> {
        match set {
            [] => Ok(SnapshotSet { versions: Vec::new(), spread: Duration::ZERO, atomic: true }),
            _ => take(set, request),
        }
    }

    fn clone_at(&self, version: &VersionRef, to: &Self) -> Result<()> {
        let Some(name) = to.name() else { return Err(to.is_there()) };
        if to.exists()? {
            return Err(to.is_there());
        }
        if !self.shares_storage_with(to) {
            let why = format!("{to} is on another filesystem");
            let hint = "cowsnap mount the snapshot, and cp -a from there".into();
            return Err(self.refused("clone", why, Some(hint)));
        }
        let store = self.base().store()?.ok_or_else(|| self.no_such(&version.name))?;
        let home = self.home()?.ok_or_else(|| self.no_such(&version.name))?;
        let (dir, _) = self.expect_in(&home, version)?;
        let staging = Staging::new(&store)?;
        let hint = |bytes: u64| {
            let command =
                format!("cowsnap clone --copy {} {}", quoted(self.at_name(&version.name)), quoted(to));
            copy_hint(&command, self.label(), bytes)
        };
        self.copy_version(&dir, version, &staging, &hint)?;
        store.sync()?;
        rename_new((staging.fd(), OsStr::new(TREE)), (to.base().fd(), name)).map_err(
            |errno| match errno {
                Errno::EXIST => to.is_there(),
                Errno::XDEV => to.refused("clone to", "it is reached through another mount".into(), None),
                errno => Error::io("clone to", to)(errno),
            },
        )?;
        rustix::fs::fsync(to.base().fd()).map_err(Error::io("clone to", to))
    }

    fn mount(&self, version: &VersionRef, dir: &Path) -> Result<Mount> {
        let tree = self.open_snapshot(version)?;
        let denied = |error: std::io::Error| not_allowed(error, "mount", &self.at_name(&version.name));
        let bound = mount::bind(tree.as_fd()).map_err(denied)?;
        let restrict = Restrict { readonly: true, nodev: true, nosuid: true, noexec: false };
        mount::restrict(&bound, restrict).map_err(denied)?;
        let dir = dir.canonicalize().map_err(|error| no_directory(error, dir))?;
        mount::attach(&bound, &dir).map_err(Error::io("mount at", dir.display()))?;
        Ok(Mount::new(dir))
    }

    fn rollback(&self, version: &VersionRef, request: &RollbackRequest) -> Result<RolledBack> {
        self.roll_back(version, request)
    }
}

impl Dataset {
    /// Opens the root of a snapshot.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Reused`](crate::endpoint::Error::Reused).
    pub fn open_snapshot(&self, version: &VersionRef) -> Result<OwnedFd> {
        let home = self.home()?.ok_or_else(|| self.no_such(&version.name))?;
        let (found, _) = self.expect_in(&home, version)?;
        self.open_tree(&found, version)
    }

    pub(super) fn is_there(&self) -> Error {
        Error::Exists { what: "directory", subject: self.to_string(), hint: None }
    }
}
