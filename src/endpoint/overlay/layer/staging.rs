//! Where something of a layer is made before it has a name: in `layers/`, out of everybody's sight.

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::commit::random_guid;
use crate::endpoint::overlay::home::Home;
use crate::endpoint::{Error, Result};
use crate::model::overlay::LayerId;

const PREFIX: &str = ".staging-";

/// A directory in the making, gone with the value.
pub(super) struct Staging<'a> {
    home: &'a Home,
    dir: PathBuf,
    lock: File,
}

impl<'a> Staging<'a> {
    /// A new one, with an empty `tree` and an empty `blocks` in it. What killed makers left is taken away.
    pub(super) fn new(home: &'a Home) -> Result<Self> {
        // One that was made and not locked yet is not taken for one that somebody left.
        let _lock = home.lock()?;
        sweep(home)?;
        let dir = home.layers().join(format!("{PREFIX}{}", LayerId(random_guid()?)));
        let make = |path: &Path| fs::DirBuilder::new().mode(0o700).create(path);
        make(&dir).map_err(Error::io("make", dir.display()))?;
        let lock = File::open(&dir).map_err(Error::io("open", dir.display()))?;
        let staging = Self { home, dir, lock };
        rustix::fs::flock(&staging.lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(Error::io("lock", staging.dir.display()))?;
        for dir in [staging.tree(), staging.blocks()] {
            make(&dir).map_err(Error::io("make", dir.display()))?;
        }
        Ok(staging)
    }

    /// Its directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where its entries go.
    pub(super) fn tree(&self) -> PathBuf {
        self.dir.join("tree")
    }

    /// Where its maps of blocks go.
    pub(super) fn blocks(&self) -> PathBuf {
        self.dir.join("blocks")
    }

    /// Gives it its name. The caller has synced it, and has the home's lock.
    pub(super) fn become_that(self, to: &Path) -> Result<()> {
        fs::rename(&self.dir, to).map_err(Error::io("make layer", to.display()))
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        // Renamed if all went well. What can not be taken away now is taken away by the next one.
        let _ = self.home.discard(&self.dir);
        let _ = self.home.sweep();
    }
}

/// Takes away what imports left that were killed, and who was killed making files whole.
///
/// # Errors
/// What the kernel says; [`Error::Refused`] while somebody else has the home's lock for long.
pub fn sweep_staging(home: &Home) -> Result<()> {
    let _lock = home.lock()?;
    sweep(home)
}

/// As [`sweep_staging`], by whoever has the home's lock.
fn sweep(home: &Home) -> Result<()> {
    let folder = home.layers();
    for entry in fs::read_dir(&folder).map_err(Error::io("list", folder.display()))? {
        let entry = entry.map_err(Error::io("list", folder.display()))?;
        let is_staging = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        let Some(dir) = is_staging.then(|| File::open(entry.path()).ok()).flatten() else { continue };
        if rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok() {
            home.discard(&entry.path())?;
        }
    }
    Ok(())
}
