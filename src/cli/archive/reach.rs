//! With what an archive's store is reached.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::Result;
use crate::config::value::bandwidth;
use crate::endpoint::archive::{Archive, Error};
use crate::endpoint::store::{Options, Store};
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

/// With what a store is reached; what is not said is taken from the environment and the profiles of its provider.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Way {
    /// Where the store answers, if not where its provider does: https://HOST:PORT
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// The bucket's region
    #[arg(long, value_name = "REGION")]
    region: Option<String>,
    /// The bucket stands in the path, not before the host
    #[arg(long)]
    path_style: bool,
    /// The storage class of what is put
    #[arg(long, value_name = "CLASS")]
    storage_class: Option<String>,
    /// Certificates that are trusted beside the system's: a file in PEM
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The profile in ~/.aws/credentials
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Talk in the clear to others than this machine
    #[arg(long)]
    allow_http: bool,
    /// At most so many bytes per second, both ways together: 20M
    #[arg(long, value_name = "RATE", value_parser = bandwidth)]
    limit: Option<u64>,
}

impl Way {
    /// As the store wants it, over what the environment says.
    pub fn options(&self) -> Options {
        let mut options = Options::from_env();
        let own = self.clone();
        options.endpoint = own.endpoint.or(options.endpoint);
        options.region = own.region.or(options.region);
        options.path_style = own.path_style.then_some(true).or(options.path_style);
        options.storage_class = own.storage_class.or(options.storage_class);
        options.ca = own.ca.or(options.ca);
        options.profile = own.profile.or(options.profile);
        options.allow_http |= own.allow_http;
        options.bandwidth = own.limit.or(options.bandwidth);
        options
    }
}

impl Way {
    /// The archive at `url`.
    ///
    /// # Errors
    /// As [`Reach::archive`].
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
