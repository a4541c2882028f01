//! A dataset that is made of files: a subvolume in a staging directory until all of them are there.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::io::Errno;

use crate::endpoint::btrfs::dataset::Dataset;
use crate::endpoint::btrfs::staging::{Intent, Staging};
use crate::endpoint::btrfs::store::{open_beneath, rename_new};
use crate::endpoint::{Error, Result};
use crate::sys::btrfs;

const TREE: &str = "tree";

impl Dataset {
    /// As [`crate::endpoint::Dataset::land`].
    ///
    /// # Errors
    /// As there.
    pub fn land<T>(&self, fill: impl FnOnce(BorrowedFd<'_>) -> Result<T>) -> Result<T> {
        let (parent, name) = self.parent()?;
        if self.exists()? || rustix::fs::statat(&parent, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_ok()
        {
            return Err(self.is_there());
        }
        let staging = Staging::new(self.store(), &Intent::Prepare)?;
        let failed = || Error::io("make", self);
        btrfs::subvol_create(staging.fd(), OsStr::new(TREE)).map_err(failed())?;
        let tree = open_beneath(staging.fd(), Path::new(TREE)).map_err(failed())?;
        let filled = fill(tree.as_fd())?;
        btrfs::sync(tree.as_fd()).map_err(Error::io("sync", self))?;
        drop(tree);
        rename_new((staging.fd(), OsStr::new(TREE)), (parent.as_fd(), name)).map_err(
            |errno| match errno {
                Errno::EXIST => self.is_there(),
                errno => Error::io("put in place", self)(errno),
            },
        )?;
        btrfs::sync(self.store().top()).map_err(Error::io("sync", self))?;
        Ok(filled)
    }
}
