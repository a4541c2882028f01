//! A directory that is made of files: it is staged until all of them are there.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

use crate::endpoint::dir::rename_new;
use crate::endpoint::tree::dataset::Dataset;
use crate::endpoint::tree::staging::Staging;
use crate::endpoint::tree::taking::TREE;
use crate::endpoint::{Error, Result};

impl Dataset {
    /// As [`crate::endpoint::Dataset::land`].
    ///
    /// # Errors
    /// As there.
    pub fn land<T>(&self, fill: impl FnOnce(BorrowedFd<'_>) -> Result<T>) -> Result<T> {
        let Some(name) = self.name() else { return Err(self.is_there()) };
        if rustix::fs::statat(self.base().fd(), name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            return Err(self.is_there());
        }
        let store = self.base().store_or_made()?;
        let landed = (|| {
            let staging = Staging::new(&store)?;
            let tree = staging.make(TREE)?;
            let filled = fill(tree.as_fd())?;
            store.sync()?;
            rename_new((staging.fd(), OsStr::new(TREE)), (self.base().fd(), name)).map_err(|errno| {
                match errno {
                    Errno::EXIST => self.is_there(),
                    Errno::XDEV => self.refused("make", "it is reached through another mount".into(), None),
                    errno => Error::io("put in place", self)(errno),
                }
            })?;
            rustix::fs::fsync(self.base().fd()).map_err(Error::io("sync", self))?;
            Ok(filled)
        })();
        self.base().remove_if_empty();
        landed
    }
}
