//! Objects at a place: in a bucket, on a web server, in a directory.
//!
//! A [`Store`] is asked and answers while its caller waits; what goes on below, goes on in a runtime of its own. What fails for a
//! while is tried again for as long as [`Options::patience`] says; what an error says, it says finally.
//!
//! **Invariant:** no key leads out of the store, whoever made it up: [`check_key`].

use std::fmt;
use std::io::Read;
use std::ops::Range;
use std::sync::Arc;

use jiff::Timestamp;

use crate::model::{StoreKind, StoreUrl};
use crate::sys::{interrupt, memory};

mod dir;
mod error;
mod judge;
mod open;
mod options;
mod pace;
mod probe;
mod profile;
mod remote;
mod runtime;
mod upload;
mod web;
mod wire;

pub use error::{Cause, Error};
pub use hyper::body::Bytes;
pub use options::{Options, Secret};
pub use probe::Probed;
pub use profile::Files;

/// What a store's calls return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The longest key, with the prefix, in bytes: what all stores take.
pub const MAX_KEY: usize = 1024;

/// An object, without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its key below the store's prefix.
    pub key: String,
    /// How long it is, in bytes.
    pub len: u64,
    /// When it was put, by the store's clock.
    pub modified: Timestamp,
    /// What tells its content from others it may have had, if the store says so.
    pub etag: Option<String>,
}

/// What came of putting an object whose key had to be free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It is there.
    Done,
    /// The key was not free; what is there was left alone.
    Taken,
}

/// A place for objects. Clones are the same one; all of them may be used at once.
#[derive(Clone)]
pub struct Store {
    url: StoreUrl,
    place: Place,
}

#[derive(Clone)]
enum Place {
    Dir(Arc<dir::Dir>),
    Remote(Arc<remote::Remote>),
}

impl Store {
    /// A store that is at `url`. Nothing is asked of it yet.
    ///
    /// # Errors
    /// [`Error::Options`] if it can not be reached so.
    pub fn open(url: &StoreUrl, options: &Options) -> Result<Self> {
        // What is read and written here comes in large pieces, each on a thread of its own, whose share of memory would keep room for some.
        memory::keep_no_large_pieces();
        let place = match url.kind() {
            StoreKind::Dir => Place::Dir(Arc::new(dir::Dir::new(url, options))),
            _ => Place::Remote(Arc::new(open::open(url, options)?)),
        };
        Ok(Self { url: url.clone(), place })
    }

    /// Where it is.
    pub fn url(&self) -> &StoreUrl {
        &self.url
    }

    /// The bytes of an object of at most `max` bytes; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::TooLong`] before anything is read, and what else may happen.
    pub fn get(&self, key: &str, max: u64) -> Result<Option<Vec<u8>>> {
        self.get_into(key, max, Vec::new())
    }

    /// The same, in the memory of `buffer`, whatever that holds.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn get_into(&self, key: &str, max: u64, buffer: Vec<u8>) -> Result<Option<Vec<u8>>> {
        self.check(key)?;
        match &self.place {
            Place::Dir(dir) => dir.get(key, max, buffer),
            Place::Remote(remote) => remote.get(key, max, buffer),
        }
    }

    /// These bytes of an object: all of them, or an error.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such object, [`Error::Corrupt`] if it ends before.
    pub fn get_range(&self, key: &str, range: Range<u64>) -> Result<Vec<u8>> {
        self.check(key)?;
        if range.is_empty() {
            return Ok(Vec::new());
        }
        match &self.place {
            Place::Dir(dir) => dir.get_range(key, range),
            Place::Remote(remote) => remote.get_range(key, range),
        }
    }

    /// An object without its bytes; `None` if there is none.
    pub fn head(&self, key: &str) -> Result<Option<Object>> {
        self.check(key)?;
        match &self.place {
            Place::Dir(dir) => dir.head(key),
            Place::Remote(remote) => remote.head(key),
        }
    }

    /// Puts an object, in place of one that is there. Once this has returned, no power cut takes it away.
    pub fn put(&self, key: &str, bytes: Bytes) -> Result<()> {
        self.check(key)?;
        match &self.place {
            Place::Dir(dir) => dir.put(key, &bytes),
            Place::Remote(remote) => remote.put(key, &bytes),
        }
    }

    /// Puts an object if its key is free. If it is not known what came of a first try, and these very bytes are there, it is [`Put::Done`].
    pub fn put_new(&self, key: &str, bytes: Bytes) -> Result<Put> {
        self.check(key)?;
        match &self.place {
            Place::Dir(dir) => dir.put_new(key, &bytes),
            Place::Remote(remote) => remote.put_new(key, &bytes),
        }
    }

    /// All objects whose key begins with `prefix`, which is empty or ends in `/`, ordered by key.
    pub fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        let mut found = Vec::new();
        self.list_each(prefix, &mut |object| {
            found.push(object);
            Ok(())
        })?;
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// The same, one by one as the store's pages come, and in its order. What no key can be is passed over.
    ///
    /// # Errors
    /// The first of `each` too.
    pub fn list_each(&self, prefix: &str, each: &mut dyn FnMut(Object) -> Result<()>) -> Result<()> {
        self.check(&format!("{prefix}x"))?;
        let mut sound =
            |object: Object| match object.key.starts_with(prefix) && check_key(&object.key).is_ok() {
                true => each(object),
                false => Ok(()),
            };
        match &self.place {
            Place::Dir(dir) => dir.list_each(prefix, &mut sound),
            Place::Remote(remote) => remote.list_each(prefix, &mut sound),
        }
    }

    /// Destroys objects; those that are not there are no error.
    pub fn destroy(&self, keys: &[String]) -> Result<()> {
        for key in keys {
            self.check(key)?;
        }
        match &self.place {
            Place::Dir(dir) => dir.destroy(keys),
            Place::Remote(remote) => remote.destroy(keys),
        }
    }

    /// The same for what is to be left orderly: also when a signal came, but then for a few seconds only.
    pub fn destroy_at_last(&self, keys: &[String]) -> Result<()> {
        if interrupt::pending().is_none() {
            let destroyed = self.destroy(keys);
            if destroyed.is_ok() || interrupt::pending().is_none() {
                return destroyed;
            }
        }
        for key in keys {
            self.check(key)?;
        }
        match &self.place {
            Place::Dir(dir) => dir.destroy_at_last(keys),
            Place::Remote(remote) => remote.destroy_at_last(keys),
        }
    }

    /// Puts all that `stream` gives as one object, of any length, in parts that go at once; `moved` is told how many more bytes are there.
    /// Answers how many it were. After an error there is no object, or the one that was there before.
    pub fn upload(&self, key: &str, stream: &mut dyn Read, moved: &mut dyn FnMut(u64)) -> Result<u64> {
        self.check(key)?;
        match &self.place {
            Place::Dir(dir) => dir.upload(key, stream, moved),
            Place::Remote(remote) => remote.upload(key, stream, moved),
        }
    }

    fn check(&self, key: &str) -> Result<()> {
        check_key(key).map_err(|why| Error::Key { key: key.into(), why })?;
        match self.url.prefix().len() + 1 + key.len() <= MAX_KEY {
            true => Ok(()),
            false => Err(Error::Key { key: key.into(), why: "it is too long with the store's prefix" }),
        }
    }
}

/// Without what it is reached with.
impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.url)
    }
}

/// Refuses what is no plain path below a place.
pub fn check_key(key: &str) -> Result<(), &'static str> {
    if key.is_empty() || key.len() > MAX_KEY {
        return Err("it is empty or too long");
    }
    if key.chars().any(|c| c.is_control() || c == '\\') {
        return Err("it holds control characters or a backslash");
    }
    if key.split('/').any(|part| matches!(part, "" | "." | "..") || part.len() > 255) {
        return Err("a part of it is empty, '.', '..' or too long");
    }
    Ok(())
}
