//! The BEGIN record: what a ZFS stream is, before any of its data.

use jiff::Timestamp;

use super::error::{Error, Result};
use super::features::Features;
use super::order::{ByteOrder, Fields};
use super::{Kind, MAX_BEGIN_PAYLOAD, MAX_NAME_LEN, RECORD_LEN};

/// What every BEGIN record has at [`MAGIC_AT`], as its sender writes a 64-bit number.
pub(super) const MAGIC: u64 = 0x2_f5ba_cbac;
pub(super) const MAGIC_AT: usize = 8;

const SUBSTREAM: u64 = 1;
const COMPOUND: u64 = 2;

/// What else a BEGIN record says of its stream; bits without a meaning here are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u32);

impl Flags {
    /// The base is a snapshot of the origin that the source was cloned from.
    pub fn is_clone(self) -> bool {
        self.0 & 1 != 0
    }

    /// The source's names are case-insensitive.
    pub fn is_case_insensitive(self) -> bool {
        self.0 & 2 != 0
    }

    /// A full stream says what is free, too, and so can be received as a clone.
    pub fn has_free_records(self) -> bool {
        self.0 & 4 != 0
    }

    /// The records say which spill blocks are there.
    pub fn has_spill_blocks(self) -> bool {
        self.0 & 8 != 0
    }
}

/// What a stream is: its first 312 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begin {
    /// The byte order of its sender, and of every number in it.
    pub order: ByteOrder,
    /// What a receiver must know; may hold unknown ones, see [`Self::check_receivable`].
    pub features: Features,
    /// Filesystem or volume.
    pub kind: Kind,
    /// What else it says of itself.
    pub flags: Flags,
    /// The guid of the snapshot that it carries.
    pub to_guid: u64,
    /// The guid of the base; 0 if the stream is full.
    pub from_guid: u64,
    /// How the source called the snapshot: `DATASET@SNAPSHOT`. What is not UTF-8 is escaped.
    pub to_name: String,
    /// When the snapshot was taken: seconds since 1970, by its source's clock.
    pub creation: u64,
    /// Length of the packed list that follows the record, in bytes: up to 256 KiB.
    pub payload_len: u32,
}

impl Begin {
    /// Whether `bytes`, of which at least 16 are needed, begin a ZFS stream.
    pub fn is_at_start_of(bytes: &[u8]) -> bool {
        let Some((kind, magic)) = bytes.first_chunk::<16>().map(|first| first.split_at(MAGIC_AT)) else {
            return false;
        };
        kind[..4] == [0; 4] && (magic == MAGIC.to_le_bytes() || magic == MAGIC.to_be_bytes())
    }

    /// Reads a stream's first record.
    ///
    /// # Errors
    /// [`Error::Magic`] if it is none, [`Error::Compound`] for what `zfs send -R` and `-p` wrap around streams, and
    /// fields that can not be. Unknown features are none: see [`Self::check_receivable`].
    pub fn parse(bytes: &[u8; RECORD_LEN]) -> Result<Self> {
        if !Self::is_at_start_of(bytes) {
            return Err(Error::Magic);
        }
        let is_little = bytes[MAGIC_AT..].starts_with(&MAGIC.to_le_bytes());
        let order = if is_little { ByteOrder::Little } else { ByteOrder::Big };
        let fields = Fields { order, bytes };
        let version_info = fields.u64(16);
        match version_info & 3 {
            SUBSTREAM => {}
            COMPOUND => return Err(Error::Compound),
            other => return Err(malformed("header type", other)),
        }
        let kind = match fields.u32(32) {
            2 => Kind::Filesystem,
            3 => Kind::Volume,
            other => return Err(malformed("dataset type", other.into())),
        };
        let payload_len = fields.u32(4);
        if payload_len > MAX_BEGIN_PAYLOAD || !payload_len.is_multiple_of(4) {
            return Err(malformed("payload length", payload_len.into()));
        }
        let (to_guid, from_guid) = (fields.u64(40), fields.u64(48));
        if to_guid == 0 || to_guid == from_guid {
            return Err(malformed("guid", to_guid));
        }
        Ok(Self {
            order,
            features: Features::from_version_info(version_info),
            kind,
            flags: Flags(fields.u32(36)),
            to_guid,
            from_guid,
            to_name: name(&fields.array(56))?,
            creation: fields.u64(24),
            payload_len,
        })
    }

    /// Whether there is no base.
    pub fn is_full(&self) -> bool {
        self.from_guid == 0
    }

    /// The dataset's name at the source, and the snapshot's; the latter is empty if there is none.
    pub fn names(&self) -> (&str, &str) {
        self.to_name.rsplit_once('@').unwrap_or((&self.to_name, ""))
    }

    /// When the snapshot was taken; `None` if no calendar has it.
    pub fn created(&self) -> Option<Timestamp> {
        Timestamp::from_second(i64::try_from(self.creation).ok()?).ok()
    }

    /// Whether a receiver may take it.
    ///
    /// # Errors
    /// [`Error::Features`] if it needs what no known version of ZFS receives.
    pub fn check_receivable(&self) -> Result<()> {
        match self.features.not_receivable() {
            names if names.is_empty() => Ok(()),
            names => Err(Error::Features { names }),
        }
    }
}

fn malformed(field: &'static str, value: u64) -> Error {
    Error::Malformed { offset: 0, record: "BEGIN", field, value }
}

/// A name that ends with a NUL, and has no other.
fn name(bytes: &[u8; MAX_NAME_LEN + 1]) -> Result<String> {
    let len = bytes.iter().position(|&byte| byte == 0).ok_or(malformed("name", bytes.len() as u64))?;
    match len {
        0 => Err(malformed("name", 0)),
        _ => Ok(super::text(&bytes[..len])),
    }
}
