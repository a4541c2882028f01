//! Archives: versions of one dataset as objects in a store (docs/FORMAT-archive.md). Putting the manifest commits.
//!
//! What there is, is known by listing; nothing is kept here between two calls.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use self::ranges::Ranges;
use crate::endpoint::store::{self, Bytes, Object, Put, Store};
use crate::error::Class;
use crate::model::archive::{ARCHIVE, Group, PARTS, Part, Stored, VERSIONS};
use crate::model::{Digest, Guid};
use crate::stream::reader::Keys;

mod claim;
pub mod error;
mod held;
pub mod manifest;
mod probe;
mod ranges;

pub use claim::{Claim, Claims, GRACE};
pub use error::{Error, Result};
pub use manifest::{About, Flaw, Manifest, Piece, Stream};
pub use probe::probe;

/// The longest description of an archive, in bytes.
const MAX_CHARTER: u64 = 64 << 10;
/// How far a source's clock may be ahead of the store's.
const AHEAD: SignedDuration = SignedDuration::from_hours(24);
/// The format that is written.
const FORMAT: u32 = 1;

/// An archive, as it was described when it was opened.
#[derive(Clone)]
pub struct Archive {
    store: Store,
    charter: Charter,
    keys: Keys,
}

/// What an archive is: put once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charter {
    /// The version of its format.
    pub format: u32,
    /// Tells it from all others, wherever it is.
    pub id: Guid,
    /// How the dataset was called when it was made.
    pub dataset: String,
    /// Who may write to it at once.
    pub writers: Writers,
    /// What a later program says besides.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// Who may write at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Writers {
    /// Anybody: the store puts a key only once.
    Many,
    /// One machine: it does not.
    One,
}

impl Charter {
    /// Of a new archive.
    ///
    /// # Errors
    /// [`Error::Random`].
    pub fn new(dataset: String, writers: Writers) -> Result<Self> {
        Ok(Self { format: FORMAT, id: Guid(claim::random()?), dataset, writers, more: Map::new() })
    }
}

/// What an archive holds, as its keys say.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// The versions, in each way that they are stored; by key.
    pub stored: Vec<Stored>,
    /// Those of them that are said to be made more than a day after they were put, by the store's clock.
    pub ahead: Vec<Stored>,
    /// Keys among theirs that are none of this format.
    pub strangers: Vec<String>,
}

/// What is there of one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// How many parts.
    pub parts: u64,
    /// How many bytes these are.
    pub bytes: u64,
    /// When the last of them was put.
    pub youngest: Timestamp,
}

impl Archive {
    /// Makes one. Of two who do at once, one makes it.
    ///
    /// # Errors
    /// [`Error::Exists`]; what the store says.
    pub fn create(store: Store, charter: Charter) -> Result<Self> {
        let json = serde_json::to_vec(&charter).expect("its keys are texts");
        match store.put_new(ARCHIVE, Bytes::from(json))? {
            Put::Done => Ok(Self { store, charter, keys: Keys::default() }),
            Put::Taken => {
                let there = Self::open(store)?;
                Err(Error::Exists { url: there.url(), dataset: there.charter.dataset })
            }
        }
    }

    /// Opens the one that is there.
    ///
    /// # Errors
    /// [`Error::None`], [`Error::Newer`]; a description that is damaged; what the store says.
    pub fn open(store: Store) -> Result<Self> {
        let url = || store.url().to_string();
        let bytes = store.get(ARCHIVE, MAX_CHARTER)?.ok_or_else(|| Error::None { url: url() })?;
        let unreadable = |source| Error::Charter { url: url(), key: ARCHIVE, source };
        // Its format is asked first: what a later one says may not be readable otherwise.
        let format: Format = serde_json::from_slice(&bytes).map_err(unreadable)?;
        if format.format != FORMAT {
            return Err(Error::Newer { url: url(), why: format!("its format is {}", format.format) });
        }
        let charter: Charter = serde_json::from_slice(&bytes).map_err(unreadable)?;
        match charter.more.keys().find(|name| name.starts_with('!')) {
            Some(name) => Err(Error::Newer { url: url(), why: format!("{ARCHIVE} says {name:?}") }),
            None => Ok(Self { store, charter, keys: Keys::default() }),
        }
    }

    /// What is read from now on is decrypted by these, and of whom they trust, or it is not believed.
    #[must_use]
    pub fn with_keys(self, keys: Keys) -> Self {
        Self { keys, ..self }
    }

    /// What decrypts what is read, and whose it must be.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Where it is.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What it is.
    pub fn charter(&self) -> &Charter {
        &self.charter
    }

    /// Its address, without secrets.
    pub fn url(&self) -> String {
        self.store.url().to_string()
    }

    /// What it holds: one walk over its manifests' keys.
    ///
    /// # Errors
    /// What the store says.
    pub fn listing(&self) -> Result<Listing> {
        let mut listing = Listing::default();
        self.store.list_each(VERSIONS, &mut |object| {
            match Stored::parse(&object.key) {
                Ok(stored) => {
                    if stored.created.duration_since(object.modified) > AHEAD {
                        listing.ahead.push(stored.clone());
                    }
                    listing.stored.push(stored);
                }
                Err(_) => listing.strangers.push(object.key),
            }
            Ok(())
        })?;
        Ok(listing)
    }

    /// Whether it still holds that.
    ///
    /// # Errors
    /// What the store says.
    pub fn has(&self, stored: &Stored) -> Result<bool> {
        match self.store.head(&stored.to_string()) {
            // Who may only write may list.
            Err(error) if error.class() == Class::Denied => Ok(self.listing()?.stored.contains(stored)),
            found => Ok(found?.is_some()),
        }
    }

    /// The manifest of `stored`, checked: its own digest, that it is the one which its key promises, that its parts add up, and that somebody who is trusted signed it.
    /// A long one is read piece by piece.
    ///
    /// # Errors
    /// [`Error::Object`] if it is gone, [`Error::Manifest`] if it is not what it should be; what the store says.
    pub fn manifest(&self, stored: &Stored) -> Result<Manifest> {
        let key = stored.to_string();
        let gone = || Error::Object { url: self.url(), key: key.clone(), what: "is gone" };
        let most = manifest::most_of(stored);
        let read = match most <= ranges::SHORT {
            true => Manifest::parse(&self.store.get(&key, most)?.ok_or_else(gone)?),
            false => {
                let len = self.store.head(&key)?.ok_or_else(gone)?.len;
                Manifest::read(Ranges::open(&self.store, &key, len, most)?)
            }
        };
        let read = read.and_then(|manifest| {
            manifest.expect_key(stored)?;
            self.keys.trusted.as_ref().map_or(Ok(()), |trusted| manifest.expect_signed(trusted))?;
            Ok(manifest)
        });
        read.map_err(|flaw| match flaw {
            Flaw::Read(error) => match error.downcast::<store::Error>() {
                Ok(error) => error.into(),
                Err(error) => Error::Manifest { url: self.url(), key, source: Flaw::Read(error) },
            },
            source => Error::Manifest { url: self.url(), key, source },
        })
    }

    /// Puts a manifest: from here on the version is there. [`Put::Taken`] if it was already.
    ///
    /// # Errors
    /// What the store says.
    pub fn commit(&self, manifest: &Manifest) -> Result<Put> {
        Ok(self.store.put_new(&manifest.stored().to_string(), Bytes::from(manifest.to_bytes()))?)
    }

    /// Puts a manifest, whatever is there.
    ///
    /// # Errors
    /// What the store says.
    pub fn commit_over(&self, manifest: &Manifest) -> Result<()> {
        Ok(self.store.put(&manifest.stored().to_string(), Bytes::from(manifest.to_bytes()))?)
    }

    /// One part, checked: as long as it should be, and of the digest that its key says.
    ///
    /// # Errors
    /// [`Error::Object`] if it is gone or of another length, [`Error::Part`] if it is changed; what the store says.
    pub fn part(&self, part: &Part, len: u64) -> Result<Vec<u8>> {
        self.part_into(part, len, Vec::new())
    }

    /// The same, in the memory of `buffer`, whatever that holds.
    ///
    /// # Errors
    /// As [`Self::part`].
    pub fn part_into(&self, part: &Part, len: u64, buffer: Vec<u8>) -> Result<Vec<u8>> {
        let key = part.to_string();
        let flaw = |what| Error::Object { url: self.url(), key: key.clone(), what };
        let bytes = self.store.get_into(&key, len, buffer)?.ok_or_else(|| flaw("is gone"))?;
        if bytes.len() as u64 != len {
            return Err(flaw("is too short"));
        }
        let found = Digest(*blake3::hash(&bytes).as_bytes());
        match found == part.digest {
            true => Ok(bytes),
            false => Err(Error::Part { url: self.url(), key, found }),
        }
    }

    /// Destroys objects; those that are not there are no error.
    ///
    /// # Errors
    /// What the store says.
    pub fn destroy(&self, keys: &[String]) -> Result<()> {
        match keys.is_empty() {
            true => Ok(()),
            false => Ok(self.store.destroy(keys)?),
        }
    }

    /// What is there of each container, added up while it is listed.
    ///
    /// # Errors
    /// What the store says.
    pub fn groups(&self) -> Result<BTreeMap<Group, Parts>> {
        let mut groups: BTreeMap<Group, Parts> = BTreeMap::new();
        self.each_part(None, &mut |part, object| {
            let new = Parts { parts: 0, bytes: 0, youngest: object.modified };
            groups.entry(part.group).or_insert(new).add(&object);
            Ok::<_, Error>(())
        })?;
        Ok(groups)
    }

    /// What is there of one container; `None` if nothing is.
    ///
    /// # Errors
    /// What the store says.
    pub fn group(&self, group: Group) -> Result<Option<Parts>> {
        let mut found: Option<Parts> = None;
        self.each_part(Some(group), &mut |_, object| {
            let new = Parts { parts: 0, bytes: 0, youngest: object.modified };
            found.get_or_insert(new).add(&object);
            Ok::<_, Error>(())
        })?;
        Ok(found)
    }

    /// Hands on the parts that are there of one container, or of all, with their objects, as they are listed: there may be too many to keep them all in
    /// memory. Keys that are none of a part are passed over. What was handed on may be destroyed meanwhile.
    ///
    /// # Errors
    /// What the store says; the first of `each`.
    pub fn each_part<E: From<Error>>(
        &self,
        of: Option<Group>,
        each: &mut dyn FnMut(Part, Object) -> Result<(), E>,
    ) -> Result<(), E> {
        let prefix = of.map_or_else(|| PARTS.to_owned(), |group| group.to_string());
        let mut failed = None;
        let listed = self.store.list_each(&prefix, &mut |object| {
            let Ok(part) = Part::parse(&object.key) else { return Ok(()) };
            each(part, object).map_err(|error| {
                failed = Some(error);
                // Whatever it is: it ends the list.
                let source = std::io::ErrorKind::Interrupted.into();
                store::Error::Interrupted { op: "list", subject: String::new(), source }
            })
        });
        match failed {
            Some(error) => Err(error),
            None => Ok(listed.map_err(Error::from)?),
        }
    }

    /// The parts that are there of one container, or of all; with their objects. Each takes some hundred bytes of memory.
    ///
    /// # Errors
    /// What the store says.
    pub fn parts(&self, of: Option<Group>) -> Result<Vec<(Part, Object)>> {
        let mut parts = Vec::new();
        self.each_part(of, &mut |part, object| {
            parts.push((part, object));
            Ok::<_, Error>(())
        })?;
        Ok(parts)
    }
}

impl Parts {
    fn add(&mut self, object: &Object) {
        self.parts += 1;
        self.bytes += object.len;
        self.youngest = self.youngest.max(object.modified);
    }
}

/// As much of a description as all formats have.
#[derive(Deserialize)]
struct Format {
    format: u32,
}
