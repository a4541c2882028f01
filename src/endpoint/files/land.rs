//! Where what is unpacked becomes a dataset: nowhere until all of it is there and durable.

use std::os::fd::BorrowedFd;

use crate::endpoint::{Dataset, Error, Result};
use crate::model::quoted;

impl Dataset {
    /// Makes this dataset, which is not there yet, of what `fill` makes below the directory that it is given: staged on the same filesystem,
    /// synced, and then there at once. If `fill` fails, or this process dies, nothing is there, and what was staged goes, with the next use at
    /// the latest.
    ///
    /// # Errors
    /// [`Error::Exists`] if it is there; what `fill` says; what can not be made.
    pub fn land<T>(&self, fill: impl FnOnce(BorrowedFd<'_>) -> Result<T>) -> Result<T> {
        match self {
            Self::Btrfs(dataset) => dataset.land(fill),
            Self::Zfs(dataset) => dataset.land(fill),
            Self::Tree(dataset) => dataset.land(fill),
        }
    }

    /// Says so if there is something where it is to land.
    ///
    /// # Errors
    /// [`Error::Exists`].
    pub fn expect_free(&self) -> Result<()> {
        match self.is_in_use()? {
            false => Ok(()),
            true => Err(Error::Exists {
                what: "dataset",
                subject: self.to_string(),
                hint: Some(format!("name one that is not there yet; cowsnap list {}", quoted(self))),
            }),
        }
    }
}
