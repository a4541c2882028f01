//! With what an archive's store is reached.

use std::ffi::OsString;

use crate::Result;
use crate::cli::store::StoreArgs as Way;
use crate::endpoint::archive::{Archive, Error};
use crate::endpoint::store::Store;
use crate::model::StoreUrl;

/// Where an archive is, and with what its store is reached.
#[derive(Debug, Clone, clap::Args)]
pub struct Reach {
    /// The archive: s3://BUCKET/PREFIX, gs://, az://, http(s)://, file:///DIR, or the absolute path of a directory
    #[arg(value_name = "URL")]
    url: OsString,
    #[command(flatten)]
    way: Way,
}

impl Way {
    /// The archive at `url`.
    ///
    /// # Errors
    /// A store that can not be reached; as [`Archive::open`].
    pub fn archive(&self, url: &StoreUrl) -> Result<Archive> {
        let store = Store::open(url, &self.options()).map_err(Error::Store)?;
        Ok(Archive::open(store)?)
    }
}

impl Reach {
    /// The store, whether there is an archive or not.
    ///
    /// # Errors
    /// An address that is none; a store that can not be reached.
    pub fn store(&self) -> Result<Store> {
        let store = Store::open(&super::url(&self.url)?, &self.way.options());
        Ok(store.map_err(Error::Store)?)
    }

    /// The archive that is there.
    ///
    /// # Errors
    /// As [`Reach::store`] and [`Archive::open`].
    pub fn archive(&self) -> Result<Archive> {
        Ok(Archive::open(self.store()?)?)
    }
}
