//! The header: what the stream is.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::fields::{Take, put, unknown};
use super::zfs::ZfsStream;
use super::{HASH_LEN, HeaderHash, MAGIC, MAX_HEADER_LEN, PRELUDE_LEN, VERSION};
use crate::model::{Digest, Guid, SnapshotName};
use crate::stream::crypt::Envelope;
use crate::stream::zfs::Begin;

/// The longest dataset name in bytes.
pub const MAX_DATASET_LEN: usize = 4096;
/// The longest key of a property in bytes.
pub const MAX_KEY_LEN: usize = 255;
/// The longest value of a property in bytes.
pub const MAX_VALUE_LEN: usize = 64 << 10;

const CHECKED_LEN: usize = 20; // of the prelude: all before its check
const COMPRESSED: u32 = 1;
const RAW_BTRFS: &[u8] = b"btrfs-stream\0";

mod tag {
    pub const BACKEND: u16 = 1;
    pub const DATASET: u16 = 2;
    pub const SNAPSHOT: u16 = 3;
    pub const GUID: u16 = 4;
    pub const BASE: u16 = 5;
    pub const CREATED: u16 = 6;
    pub const STREAM: u16 = 7;
    pub const PROPERTIES: u16 = 8;
    pub const ZFS: u16 = 9;
    pub const ENCRYPTION: u16 = 16;
    pub const PLACE: u16 = 0x8001;
}

/// Whose stream it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// `btrfs send`
    Btrfs,
    /// `zfs send`
    Zfs,
    /// A layer of an overlay: a tar archive
    Overlay,
}

impl Backend {
    /// As it stands in the header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Btrfs => "btrfs",
            Self::Zfs => "zfs",
            Self::Overlay => "overlay",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What the stream is. Texts may hold control characters: escape them when printing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Whose stream it is.
    pub backend: Backend,
    /// How the source calls the dataset: 1 to 4,096 bytes.
    pub dataset: String,
    /// The snapshot's name.
    pub snapshot: SnapshotName,
    /// The version's identity.
    pub guid: Guid,
    /// What it builds upon; `None` if the stream is full.
    pub base: Option<Guid>,
    /// When the snapshot was taken, by its source's clock.
    pub created: Timestamp,
    /// The version of the filesystem's stream format.
    pub stream_version: u32,
    /// The stream may carry data compressed as it lies on disk.
    pub compressed: bool,
    /// The dataset's properties.
    pub properties: BTreeMap<String, String>,
    /// More about a ZFS stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zfs: Option<ZfsStream>,
    /// What tells the dataset that it was sent from, and no copy of it, from all others; `None` from who does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Digest>,
}

impl Header {
    /// Prelude, header and hash, ready to be written; and the hash.
    ///
    /// # Errors
    /// [`Error::TooLong`] if a text, or all together, is longer than the format allows.
    pub fn encode(&self) -> Result<(Vec<u8>, HeaderHash)> {
        self.encode_for(None)
    }

    /// As [`Self::encode`], of a container that is encrypted so.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_for(&self, envelope: Option<&Envelope>) -> Result<(Vec<u8>, HeaderHash)> {
        let mut out = vec![0; PRELUDE_LEN];
        self.put_fields(envelope, &mut out)?;
        let len = out.len() - PRELUDE_LEN;
        within("header", len, MAX_HEADER_LEN)?;
        out[..PRELUDE_LEN].copy_from_slice(&prelude(VERSION, len as u32));
        let hash = header_hash(&out);
        out.extend(hash);
        Ok((out, hash))
    }

    fn put_fields(&self, envelope: Option<&Envelope>, out: &mut Vec<u8>) -> Result<()> {
        within("dataset", self.dataset.len(), MAX_DATASET_LEN)?;
        if self.dataset.is_empty() {
            return Err(Error::TooLong { field: "empty dataset", len: 0, max: MAX_DATASET_LEN });
        }
        put(out, tag::BACKEND, self.backend.as_str().as_bytes());
        put(out, tag::DATASET, self.dataset.as_bytes());
        put(out, tag::SNAPSHOT, self.snapshot.as_str().as_bytes());
        put(out, tag::GUID, &self.guid.0);
        if let Some(base) = self.base {
            put(out, tag::BASE, &base.0);
        }
        put(out, tag::CREATED, &time_to_bytes(self.created));
        let flags = if self.compressed { COMPRESSED } else { 0 };
        put(out, tag::STREAM, &[self.stream_version.to_le_bytes(), flags.to_le_bytes()].concat());
        if !self.properties.is_empty() {
            put(out, tag::PROPERTIES, &self.properties_to_bytes()?);
        }
        if let Some(zfs) = &self.zfs {
            put(out, tag::ZFS, &zfs.to_bytes()?);
        }
        if let Some(envelope) = envelope {
            put(out, tag::ENCRYPTION, envelope.as_bytes());
        }
        if let Some(place) = &self.place {
            put(out, tag::PLACE, &place.0);
        }
        Ok(())
    }

    fn properties_to_bytes(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        for (key, value) in &self.properties {
            within("property's name", key.len(), MAX_KEY_LEN)?;
            within("property's value", value.len(), MAX_VALUE_LEN)?;
            out.extend((key.len() as u16).to_le_bytes());
            out.extend(key.as_bytes());
            out.extend((value.len() as u32).to_le_bytes());
            out.extend(value.as_bytes());
            within("header", out.len(), MAX_HEADER_LEN)?;
        }
        Ok(out)
    }

    /// Reads the fields of a header whose hash was found to match.
    ///
    /// # Errors
    /// [`Error::NeedsNewer`] for critical fields or values that are not known, [`Error::Field`] for senseless ones.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        Self::decode_all(bytes).map(|(header, _)| header)
    }

    /// As [`Self::decode`], and what the container is encrypted with.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub fn decode_all(bytes: &[u8]) -> Result<(Self, Option<Envelope>)> {
        let mut fields = Take::new("header", bytes);
        let mut found = Found::default();
        let mut before = None;
        while let Some((tag, value)) = fields.field(before)? {
            found.take(tag, value)?;
            before = Some(tag);
        }
        let envelope = found.envelope.take();
        Ok((found.complete(&fields)?, envelope))
    }
}

/// What has been read of a header.
#[derive(Default)]
struct Found {
    backend: Option<Backend>,
    dataset: Option<String>,
    snapshot: Option<SnapshotName>,
    guid: Option<Guid>,
    base: Option<Guid>,
    created: Option<Timestamp>,
    stream: Option<(u32, u32)>,
    properties: BTreeMap<String, String>,
    zfs: Option<ZfsStream>,
    envelope: Option<Envelope>,
    place: Option<Digest>,
}

impl Found {
    fn take(&mut self, tag: u16, value: Take) -> Result<()> {
        match tag {
            tag::BACKEND => self.backend = Some(backend(value)?),
            tag::DATASET => self.dataset = Some(value.all_text("dataset", MAX_DATASET_LEN)?),
            tag::SNAPSHOT => self.snapshot = Some(snapshot(value)?),
            tag::GUID => self.guid = Some(Guid(value.all("guid")?)),
            tag::BASE => self.base = Some(Guid(value.all("base")?)),
            tag::CREATED => self.created = Some(time_from_bytes(&value)?),
            tag::STREAM => self.stream = Some(stream(&value)?),
            tag::PROPERTIES => self.properties = properties(value)?,
            tag::ZFS => self.zfs = Some(ZfsStream::from_bytes(value)?),
            tag::ENCRYPTION => self.envelope = Some(Envelope::parse(value.rest())?),
            tag::PLACE => self.place = Some(Digest(value.all("place")?)),
            _ => unknown("header", tag)?,
        }
        Ok(())
    }

    fn complete(self, fields: &Take) -> Result<Header> {
        let missing = |field| move || fields.bad(field, "it is missing");
        let (stream_version, flags) = self.stream.ok_or_else(missing("stream"))?;
        Ok(Header {
            backend: self.backend.ok_or_else(missing("backend"))?,
            dataset: self.dataset.ok_or_else(missing("dataset"))?,
            snapshot: self.snapshot.ok_or_else(missing("snapshot"))?,
            guid: self.guid.ok_or_else(missing("guid"))?,
            base: self.base,
            created: self.created.ok_or_else(missing("created"))?,
            stream_version,
            compressed: flags & COMPRESSED != 0,
            properties: self.properties,
            zfs: self.zfs,
            place: self.place,
        })
    }
}

fn within(field: &'static str, len: usize, max: usize) -> Result<()> {
    if len > max {
        return Err(Error::TooLong { field, len, max });
    }
    Ok(())
}

fn backend(value: Take) -> Result<Backend> {
    match value.all_text("backend", 64)?.as_str() {
        "btrfs" => Ok(Backend::Btrfs),
        "zfs" => Ok(Backend::Zfs),
        "overlay" => Ok(Backend::Overlay),
        other => Err(Error::NeedsNewer { what: format!("it is of the backend {other:?}") }),
    }
}

fn snapshot(value: Take) -> Result<SnapshotName> {
    let text = value.all_text("snapshot", crate::model::name::MAX_COMPONENT_LEN)?;
    text.parse().map_err(|error: crate::model::name::Error| Error::Field {
        part: "header",
        field: "snapshot",
        why: error.to_string(),
    })
}

fn stream(value: &Take) -> Result<(u32, u32)> {
    let [a, b, c, d, e, f, g, h] = value.all("stream")?;
    let flags = u32::from_le_bytes([e, f, g, h]);
    if flags & !COMPRESSED != 0 {
        return Err(Error::NeedsNewer { what: format!("its stream has the flags {flags:#x}") });
    }
    Ok((u32::from_le_bytes([a, b, c, d]), flags))
}

fn properties(mut value: Take) -> Result<BTreeMap<String, String>> {
    let mut map = BTreeMap::<String, String>::new();
    while !value.is_empty() {
        let len = u16::from_le_bytes(value.array("property")?) as usize;
        if len == 0 || len > MAX_KEY_LEN {
            return Err(value.bad("property", format!("a name of {len} bytes")));
        }
        let key = value.text("property", len)?;
        if map.last_key_value().is_some_and(|(last, _)| *last >= key) {
            return Err(value.bad("property", format!("{key:?} is out of order")));
        }
        let len = u32::from_le_bytes(value.array("property")?) as usize;
        if len > MAX_VALUE_LEN {
            return Err(value.bad("property", format!("a value of {len} bytes")));
        }
        map.insert(key, value.text("property", len)?);
    }
    Ok(map)
}

const NANOS: i128 = 1_000_000_000;

fn time_to_bytes(time: Timestamp) -> [u8; 12] {
    let nanos = time.as_nanosecond();
    let mut out = [0; 12];
    out[..8].copy_from_slice(&(nanos.div_euclid(NANOS) as i64).to_le_bytes());
    out[8..].copy_from_slice(&(nanos.rem_euclid(NANOS) as u32).to_le_bytes());
    out
}

fn time_from_bytes(value: &Take) -> Result<Timestamp> {
    let bytes: [u8; 12] = value.all("created")?;
    let (seconds, nanos) = bytes.split_at(8);
    let seconds = i64::from_le_bytes(seconds.try_into().expect("8 bytes"));
    let nanos = u32::from_le_bytes(nanos.try_into().expect("4 bytes"));
    if i128::from(nanos) >= NANOS {
        return Err(value.bad("created", format!("{nanos} nanoseconds")));
    }
    Timestamp::from_nanosecond(i128::from(seconds) * NANOS + i128::from(nanos))
        .map_err(|error| value.bad("created", error.to_string()))
}

fn prelude(version: u32, header_len: u32) -> [u8; PRELUDE_LEN] {
    let mut out = [0; PRELUDE_LEN];
    out[..12].copy_from_slice(&MAGIC);
    out[12..16].copy_from_slice(&version.to_le_bytes());
    out[16..20].copy_from_slice(&header_len.to_le_bytes());
    let check = blake3::derive_key("cowsnap container prelude", &out[..CHECKED_LEN]);
    out[CHECKED_LEN..].copy_from_slice(&check[..PRELUDE_LEN - CHECKED_LEN]);
    out
}

/// Checks a prelude; the length of the header that follows, without its hash.
///
/// # Errors
/// [`Error::Magic`], [`Error::RawBtrfs`] or [`Error::RawZfs`] if it is something else, [`Error::Prelude`] if it is damaged,
/// [`Error::NeedsNewer`] if it is sound and of another version.
pub fn check_prelude(bytes: &[u8; PRELUDE_LEN]) -> Result<usize> {
    if bytes.starts_with(RAW_BTRFS) {
        return Err(Error::RawBtrfs);
    }
    if Begin::is_at_start_of(bytes) {
        return Err(Error::RawZfs);
    }
    if !bytes.starts_with(&MAGIC) {
        return Err(Error::Magic { found: bytes[..MAGIC.len()].to_vec() });
    }
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
    let (version, len) = (word(12), word(16));
    if *bytes != prelude(version, len) {
        return Err(Error::Prelude);
    }
    if version != VERSION {
        return Err(Error::NeedsNewer {
            what: format!("it is of version {version}, this one reads {VERSION}"),
        });
    }
    if len as usize > MAX_HEADER_LEN {
        return Err(Error::Field { part: "header", field: "length", why: format!("{len} bytes") });
    }
    Ok(len as usize)
}

/// The hash of a prelude and the header after it.
pub fn header_hash(prelude_and_header: &[u8]) -> HeaderHash {
    blake3::derive_key("cowsnap container v1 header", prelude_and_header)
}

/// Checks what follows a prelude: a header and its hash.
///
/// # Errors
/// [`Error::HeaderHash`], or those of [`Header::decode`].
pub fn check_header(prelude_header_hash: &[u8]) -> Result<(Header, Option<Envelope>, HeaderHash)> {
    let end = prelude_header_hash.len() - HASH_LEN;
    let (checked, hash) = prelude_header_hash.split_at(end);
    if header_hash(checked) != *hash {
        return Err(Error::HeaderHash { end: end as u64 });
    }
    let (header, envelope) = Header::decode_all(&checked[PRELUDE_LEN..])?;
    Ok((header, envelope, hash.try_into().expect("as long as a hash")))
}
