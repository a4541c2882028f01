//! What a record says: its fields, typed, and how much data follows it.

use super::error::{Error, Result};
use super::order::Fields;

/// The longest block, and so the most data behind a record, in bytes.
pub const MAX_DATA_LEN: u64 = 16 << 20;
/// The longest bonus buffer in bytes: less than the largest dnode.
const MAX_BONUS_LEN: u64 = 16 << 10;
/// What fits into the pointer to a block, in bytes.
const MAX_EMBEDDED_LEN: u64 = 112;

/// One record. Objects are numbered within the dataset; offsets and lengths are bytes of an object.
#[expect(missing_docs, reason = "the fields are those of the format")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// An object (a file, a directory, a volume's data) begins; its bonus buffer follows.
    Object {
        object: u64,
        kind: u32,
        bonus_kind: u32,
        block_len: u32,
        bonus_len: u32,
        checksum: u8,
        compression: u8,
        dnode_slots: u8,
        flags: u8,
        raw_bonus_len: u32,
        indirect_shift: u8,
        levels: u8,
        block_pointers: u8,
        max_block: u64,
    },
    /// Objects are gone.
    FreeObjects { first: u64, count: u64 },
    /// A block, which follows: as it is, or as compressed as it lies on disk.
    Write {
        object: u64,
        kind: u32,
        offset: u64,
        len: u64,
        checksum: u8,
        flags: u8,
        compression: u8,
        compressed_len: u64,
    },
    /// A range is a hole; to the object's end if `len` is 2^64-1.
    Free { object: u64, offset: u64, len: u64 },
    /// The stream is complete. `checksum` is of all bytes before this record.
    End { checksum: [u64; 4], to_guid: u64 },
    /// A block that came before; only in deduplicated streams, which no receiver takes any more.
    WriteByRef { object: u64, offset: u64, len: u64, from_guid: u64, from_object: u64, from_offset: u64 },
    /// What of an object's attributes does not fit into its bonus buffer; it follows.
    Spill { object: u64, len: u64, flags: u8, compression: u8, compressed_len: u64 },
    /// A block that lies in the pointer to it; its `stored_len` bytes follow, up to a multiple of eight.
    WriteEmbedded {
        object: u64,
        offset: u64,
        len: u64,
        compression: u8,
        kind: u8,
        block_len: u32,
        stored_len: u32,
    },
    /// How the dnodes of a range of objects are encrypted; only in raw streams.
    ObjectRange { first: u64, count: u64, flags: u8 },
    /// A range is left out.
    Redact { object: u64, offset: u64, len: u64 },
}

impl Record {
    /// Reads any record but BEGIN. `offset` is where it stands, for errors.
    pub(super) fn parse(fields: Fields, offset: u64) -> Result<Self> {
        Ok(match fields.u32(0) {
            0 => return Err(Error::SecondBegin { offset }),
            1 => Self::object(fields),
            2 => Self::FreeObjects { first: fields.u64(8), count: fields.u64(16) },
            3 => Self::write(fields),
            4 => Self::Free { object: fields.u64(8), offset: fields.u64(16), len: fields.u64(24) },
            5 => Self::End { checksum: [8, 16, 24, 32].map(|at| fields.u64(at)), to_guid: fields.u64(40) },
            6 => Self::write_by_ref(fields),
            7 => Self::Spill {
                object: fields.u64(8),
                len: fields.u64(16),
                flags: fields.u8(32),
                compression: fields.u8(33),
                compressed_len: fields.u64(40),
            },
            8 => Self::write_embedded(fields),
            9 => Self::ObjectRange { first: fields.u64(8), count: fields.u64(16), flags: fields.u8(68) },
            10 => Self::Redact { object: fields.u64(8), offset: fields.u64(16), len: fields.u64(24) },
            number => return Err(Error::UnknownRecord { offset, number }),
        })
    }

    fn object(fields: Fields) -> Self {
        Self::Object {
            object: fields.u64(8),
            kind: fields.u32(16),
            bonus_kind: fields.u32(20),
            block_len: fields.u32(24),
            bonus_len: fields.u32(28),
            checksum: fields.u8(32),
            compression: fields.u8(33),
            dnode_slots: fields.u8(34),
            flags: fields.u8(35),
            raw_bonus_len: fields.u32(36),
            indirect_shift: fields.u8(48),
            levels: fields.u8(49),
            block_pointers: fields.u8(50),
            max_block: fields.u64(56),
        }
    }

    fn write(fields: Fields) -> Self {
        Self::Write {
            object: fields.u64(8),
            kind: fields.u32(16),
            offset: fields.u64(24),
            len: fields.u64(32),
            checksum: fields.u8(48),
            flags: fields.u8(49),
            compression: fields.u8(50),
            compressed_len: fields.u64(96),
        }
    }

    fn write_by_ref(fields: Fields) -> Self {
        Self::WriteByRef {
            object: fields.u64(8),
            offset: fields.u64(16),
            len: fields.u64(24),
            from_guid: fields.u64(40),
            from_object: fields.u64(48),
            from_offset: fields.u64(56),
        }
    }

    fn write_embedded(fields: Fields) -> Self {
        Self::WriteEmbedded {
            object: fields.u64(8),
            offset: fields.u64(16),
            len: fields.u64(24),
            compression: fields.u8(40),
            kind: fields.u8(41),
            block_len: fields.u32(48),
            stored_len: fields.u32(52),
        }
    }

    /// What the format calls it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Object { .. } => "OBJECT",
            Self::FreeObjects { .. } => "FREEOBJECTS",
            Self::Write { .. } => "WRITE",
            Self::Free { .. } => "FREE",
            Self::End { .. } => "END",
            Self::WriteByRef { .. } => "WRITE_BYREF",
            Self::Spill { .. } => "SPILL",
            Self::WriteEmbedded { .. } => "WRITE_EMBEDDED",
            Self::ObjectRange { .. } => "OBJECT_RANGE",
            Self::Redact { .. } => "REDACT",
        }
    }

    /// The length of the data that follows, in bytes. `offset` is where the record stands, for errors.
    ///
    /// # Errors
    /// Data longer than the format's largest block, or not of whole 32-bit words: those that are left over would not be in the
    /// checksum, and no ZFS sends such.
    pub(super) fn data_len(&self, offset: u64) -> Result<u64> {
        let (len, max) = match *self {
            Self::Object { bonus_len, raw_bonus_len: 0, .. } => {
                (u64::from(bonus_len).next_multiple_of(8), MAX_BONUS_LEN)
            }
            Self::Object { raw_bonus_len, .. } => (raw_bonus_len.into(), MAX_BONUS_LEN),
            Self::Write { compression: 0, len, .. } => (len, MAX_DATA_LEN),
            Self::Write { compressed_len, .. } => (compressed_len, MAX_DATA_LEN),
            Self::Spill { compressed_len: 0, len, .. } => (len, MAX_DATA_LEN),
            Self::Spill { compressed_len, .. } => (compressed_len, MAX_DATA_LEN),
            Self::WriteEmbedded { stored_len, .. } => {
                (u64::from(stored_len).next_multiple_of(8), MAX_EMBEDDED_LEN)
            }
            _ => (0, 0),
        };
        match () {
            () if len > max => Err(Error::TooLong { offset, record: self.name(), len, max }),
            () if !len.is_multiple_of(4) => {
                Err(Error::Malformed { offset, record: self.name(), field: "data length", value: len })
            }
            () => Ok(len),
        }
    }
}
