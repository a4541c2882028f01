//! Resume tokens: what a target says of a receive that was interrupted, so that its source can go on from there.
//!
//! `1-CHECKSUM-LENGTH-BYTES`, all but the first in hexadecimal digits: the first word of the fletcher-4 checksum of the bytes, how
//! long they are when inflated, and the zlib stream of a packed list. A token comes from the target, and a hostile target could ask
//! for another snapshot, or for one in the clear: whoever sends compares its guids and flags with what was to be sent.

use std::io::Read;

use super::fletcher::Fletcher4;
use super::nvlist::{self, List, Value};
use super::order::ByteOrder;
use super::{MAX_NAME_LEN, nvlist::encode};
use crate::stream::container::ZfsFlags;

/// The longest token that is read, in bytes. ZFS's own have a few hundred.
pub const MAX_TOKEN_LEN: usize = 64 << 10;
/// The longest packed list within a token, in bytes.
pub const MAX_PACKED_LEN: usize = 64 << 10;

const VERSION: &str = "1";

/// Where a receive stopped.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Token {
    /// The guid of the snapshot that was being received.
    pub to_guid: u64,
    /// The guid of the base; 0 if the stream is full.
    pub from_guid: u64,
    /// How the source called the snapshot: `DATASET@SNAPSHOT`.
    pub to_name: String,
    /// The object to go on with.
    pub object: u64,
    /// The offset in that object, in bytes.
    pub offset: u64,
    /// How many bytes of the stream had been applied.
    pub bytes: u64,
    /// How the stream was sent, and so must be resumed.
    pub flags: ZfsFlags,
    /// It is not of a snapshot, but of a partial receive that the source itself has.
    pub saved: bool,
    /// The guids of the snapshots that the stream is redacted against; `None` if it is not redacted.
    pub redact_snapshots: Option<Vec<u64>>,
    /// The same of the redaction bookmark that it is sent with.
    pub redact_bookmark: Option<Vec<u64>>,
}

/// Why a text is no resume token.
#[expect(missing_docs, reason = "each variant's text names its fields")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Longer than is read.
    #[error("the resume token has {len} bytes; at most {max} are read")]
    TooLong { len: usize, max: usize },
    /// Not four parts.
    #[error("the resume token is not of the form 1-CHECKSUM-LENGTH-BYTES")]
    Form,
    /// Made by something newer.
    #[error("the resume token has version {found:?}; this cowsnap reads version 1")]
    Version { found: String },
    /// A part that is no hexadecimal number.
    #[error("the {part} of the resume token is not hexadecimal")]
    Digits { part: &'static str },
    /// Characters have changed.
    #[error("the resume token has checksum {found:x} and says {stored:x}")]
    Checksum { stored: u64, found: u64 },
    /// A list longer than is read; nothing of that length has been allocated.
    #[error("the resume token claims a list of {len} bytes; at most {max} are read")]
    PackedTooLong { len: u64, max: usize },
    /// Not a zlib stream of the length that it says.
    #[error("the resume token can not be inflated to {len} bytes")]
    Inflate { len: u64 },
    /// Not a packed list.
    #[error("the list of the resume token can not be read")]
    List(#[from] nvlist::Error),
    /// A field that it can not do without, or of another type.
    #[error("the {field} of the resume token is missing or can not be")]
    Field { field: &'static str },
}

impl Token {
    /// Reads what ZFS has as `receive_resume_token`.
    ///
    /// # Errors
    /// [`Error`]. No memory beyond [`MAX_TOKEN_LEN`] and what a list of [`MAX_PACKED_LEN`] takes is used.
    pub fn decode(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_TOKEN_LEN {
            return Err(Error::TooLong { len: text.len(), max: MAX_TOKEN_LEN });
        }
        let parts: Vec<_> = text.split('-').collect();
        let [version, checksum, len, bytes] = parts[..] else { return Err(Error::Form) };
        if version != VERSION {
            return Err(Error::Version { found: version.chars().take(20).collect() });
        }
        let (stored, len) = (number("checksum", checksum)?, number("length", len)?);
        let bytes = unhex(bytes).ok_or(Error::Digits { part: "list" })?;
        let found = checksum_of(&bytes);
        if stored != found {
            return Err(Error::Checksum { stored, found });
        }
        let list = List::parse(&inflate(&bytes, len)?)?;
        Self::from_list(&list)
    }

    /// As ZFS writes it: what [`Self::decode`] reads back.
    pub fn encode(&self) -> String {
        let packed = encode::native(&self.to_list(), ByteOrder::Little);
        let mut bytes = Vec::new();
        flate2::read::ZlibEncoder::new(&packed[..], flate2::Compression::new(6))
            .read_to_end(&mut bytes)
            .expect("memory can be read");
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{VERSION}-{:x}-{:x}-{hex}", checksum_of(&bytes), packed.len())
    }

    fn from_list(list: &List) -> Result<Self, Error> {
        let to_name = match list.get("toname") {
            Some(Value::Text(name)) if !name.is_empty() && name.len() <= 4 * MAX_NAME_LEN => name.clone(),
            _ => return Err(Error::Field { field: "toname" }),
        };
        let to_guid = uint(list, "toguid")?.filter(|&guid| guid != 0);
        Ok(Self {
            to_guid: to_guid.ok_or(Error::Field { field: "toguid" })?,
            from_guid: uint(list, "fromguid")?.unwrap_or(0),
            to_name,
            object: uint(list, "object")?.ok_or(Error::Field { field: "object" })?,
            offset: uint(list, "offset")?.ok_or(Error::Field { field: "offset" })?,
            bytes: uint(list, "bytes")?.ok_or(Error::Field { field: "bytes" })?,
            flags: ZfsFlags {
                large_blocks: flag(list, "largeblockok")?,
                embedded: flag(list, "embedok")?,
                compressed: flag(list, "compressok")?,
                raw: flag(list, "rawok")?,
            },
            saved: flag(list, "savedok")?,
            redact_snapshots: uints(list, "redact_snaps")?,
            redact_bookmark: uints(list, "book_redact_snaps")?,
        })
    }

    fn to_list(&self) -> List {
        let numbers = [
            ("object", self.object),
            ("offset", self.offset),
            ("bytes", self.bytes),
            ("toguid", self.to_guid),
        ];
        let from = (self.from_guid != 0).then_some(("fromguid", self.from_guid));
        let flags = [
            ("largeblockok", self.flags.large_blocks),
            ("embedok", self.flags.embedded),
            ("compressok", self.flags.compressed),
            ("rawok", self.flags.raw),
            ("savedok", self.saved),
        ];
        let redacted =
            [("redact_snaps", &self.redact_snapshots), ("book_redact_snaps", &self.redact_bookmark)];
        let numbers = numbers.into_iter().chain(from).map(|(name, number)| (name, Value::Uint(number)));
        let flags = flags.into_iter().filter(|(_, set)| *set).map(|(name, _)| (name, Value::Flag));
        let redacted = redacted.into_iter().filter_map(|(name, guids)| Some((name, guids.clone()?)));
        numbers
            .chain(flags)
            .chain(redacted.map(|(name, guids)| (name, Value::Uints(guids))))
            .chain([("toname", Value::Text(self.to_name.clone()))])
            .collect()
    }
}

fn number(part: &'static str, digits: &str) -> Result<u64, Error> {
    // from_str_radix takes a sign.
    let number =
        digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then(|| u64::from_str_radix(digits, 16));
    number.and_then(Result::ok).ok_or(Error::Digits { part })
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|&[high, low]| Some((digit(high)? << 4 | digit(low)?) as u8));
    rest.is_empty().then(|| bytes.collect())?
}

/// Always over little-endian words: what wrote the token is not known before it is read, and all that run ZFS today are.
fn checksum_of(bytes: &[u8]) -> u64 {
    let mut sums = Fletcher4::default();
    sums.update(bytes, ByteOrder::Little);
    sums.0[0]
}

fn inflate(bytes: &[u8], len: u64) -> Result<Vec<u8>, Error> {
    if len > MAX_PACKED_LEN as u64 {
        return Err(Error::PackedTooLong { len, max: MAX_PACKED_LEN });
    }
    let mut decoder = flate2::bufread::ZlibDecoder::new(bytes);
    let mut packed = Vec::new();
    let read = (&mut decoder).take(len + 1).read_to_end(&mut packed);
    match read.is_ok() && packed.len() as u64 == len && decoder.total_in() == bytes.len() as u64 {
        true => Ok(packed),
        false => Err(Error::Inflate { len }),
    }
}

fn uint(list: &List, field: &'static str) -> Result<Option<u64>, Error> {
    match list.get(field) {
        None => Ok(None),
        Some(Value::Uint(number)) => Ok(Some(*number)),
        Some(_) => Err(Error::Field { field }),
    }
}

fn flag(list: &List, field: &'static str) -> Result<bool, Error> {
    match list.get(field) {
        None => Ok(false),
        Some(Value::Flag) => Ok(true),
        Some(_) => Err(Error::Field { field }),
    }
}

fn uints(list: &List, field: &'static str) -> Result<Option<Vec<u64>>, Error> {
    match list.get(field) {
        None => Ok(None),
        Some(Value::Uints(guids)) => Ok(Some(guids.clone())),
        Some(_) => Err(Error::Field { field }),
    }
}
