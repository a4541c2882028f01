//! Makes streams up, with every checksum right: to test what reads them.

use super::begin::{Begin, MAGIC};
use super::fletcher::Fletcher4;
use super::nvlist::{List, encode};
use super::order::ByteOrder;
use super::record::Record;
use super::walker::CHECKSUM_AT;
use super::{Kind, MAX_NAME_LEN, RECORD_LEN};

/// Puts a stream together, record by record.
#[derive(Debug, Clone)]
pub struct Encoder {
    order: ByteOrder,
    to_guid: u64,
    sums: Fletcher4,
    out: Vec<u8>,
}

impl Encoder {
    /// Begins a stream.
    pub fn new(begin: &Begin) -> Self {
        let mut encoder =
            Self { order: begin.order, to_guid: begin.to_guid, sums: Fletcher4::default(), out: Vec::new() };
        encoder.extend(&self::begin(begin));
        encoder
    }

    /// Begins a stream with a list behind BEGIN, packed as a sender of its byte order does.
    pub fn with_list(begin: &Begin, list: &List) -> Self {
        Self::with_packed(begin, &encode::native(list, begin.order))
    }

    /// Begins a stream with these bytes behind BEGIN.
    pub fn with_packed(begin: &Begin, packed: &[u8]) -> Self {
        let mut encoder = Self::new(&Begin { payload_len: packed.len() as u32, ..begin.clone() });
        encoder.extend(packed);
        encoder
    }

    /// Adds a record and the data behind it, which may be of another length than the record says.
    pub fn push(&mut self, record: &Record, data: &[u8]) {
        self.push_raw(record_bytes(record, self.order, self.to_guid), data);
    }

    /// Adds a record of any content: its last 32 bytes become its checksum.
    pub fn push_raw(&mut self, mut record: [u8; RECORD_LEN], data: &[u8]) {
        let (content, checksum) = record.split_at_mut(CHECKSUM_AT);
        self.sums.update(content, self.order);
        for (word, sum) in checksum.chunks_exact_mut(8).zip(self.sums.0) {
            word.copy_from_slice(&self.order.bytes_of_u64(sum));
        }
        self.sums.update(checksum, self.order);
        self.out.extend(record);
        self.extend(data);
    }

    /// The checksum of all that has been added.
    pub fn checksum(&self) -> [u64; 4] {
        self.sums.0
    }

    /// Adds the END record.
    pub fn finish(mut self) -> Vec<u8> {
        self.push(&Record::End { checksum: self.checksum(), to_guid: self.to_guid }, &[]);
        self.out
    }

    /// The stream as it is, without an END.
    pub fn into_bytes(self) -> Vec<u8> {
        self.out
    }

    fn extend(&mut self, bytes: &[u8]) {
        self.sums.update(bytes, self.order);
        self.out.extend(bytes);
    }
}

/// A record to be filled in.
struct Draft {
    order: ByteOrder,
    bytes: [u8; RECORD_LEN],
}

impl Draft {
    fn new(order: ByteOrder, number: u32) -> Self {
        Self { order, bytes: [0; RECORD_LEN] }.u32(0, number)
    }

    fn put(mut self, at: usize, bytes: &[u8]) -> Self {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn u8(self, at: usize, number: u8) -> Self {
        self.put(at, &[number])
    }

    fn u32(self, at: usize, number: u32) -> Self {
        let bytes = self.order.bytes_of_u32(number);
        self.put(at, &bytes)
    }

    fn u64(self, at: usize, number: u64) -> Self {
        let bytes = self.order.bytes_of_u64(number);
        self.put(at, &bytes)
    }
}

/// A BEGIN record. A name over 255 bytes is cut off.
pub fn begin(begin: &Begin) -> [u8; RECORD_LEN] {
    let kind = match begin.kind {
        Kind::Filesystem => 2,
        Kind::Volume => 3,
    };
    let name = begin.to_name.as_bytes();
    Draft::new(begin.order, 0)
        .u32(4, begin.payload_len)
        .u64(8, MAGIC)
        .u64(16, begin.features.to_version_info())
        .u64(24, begin.creation)
        .u32(32, kind)
        .u32(36, begin.flags.0)
        .u64(40, begin.to_guid)
        .u64(48, begin.from_guid)
        .put(56, &name[..name.len().min(MAX_NAME_LEN)])
        .bytes
}

/// A record without its checksum.
fn record_bytes(record: &Record, order: ByteOrder, guid: u64) -> [u8; RECORD_LEN] {
    let draft = |number| Draft::new(order, number);
    let draft = match *record {
        Record::Object { .. } => object(draft(1), record).u64(40, guid),
        Record::FreeObjects { first, count } => draft(2).u64(8, first).u64(16, count).u64(24, guid),
        Record::Write { object, kind, offset, len, checksum, flags, compression, compressed_len } => draft(3)
            .u64(8, object)
            .u32(16, kind)
            .u64(24, offset)
            .u64(32, len)
            .u64(40, guid)
            .put(48, &[checksum, flags, compression])
            .u64(96, compressed_len),
        Record::Free { object, offset, len } => range(draft(4), object, offset, len, guid),
        Record::End { checksum, to_guid } => {
            let sums = [(8, checksum[0]), (16, checksum[1]), (24, checksum[2]), (32, checksum[3])];
            sums.into_iter().fold(draft(5), |draft, (at, sum)| draft.u64(at, sum)).u64(40, to_guid)
        }
        Record::WriteByRef { object, offset, len, from_guid, from_object, from_offset } => {
            range(draft(6), object, offset, len, guid)
                .u64(40, from_guid)
                .u64(48, from_object)
                .u64(56, from_offset)
        }
        Record::Spill { object, len, flags, compression, compressed_len } => draft(7)
            .u64(8, object)
            .u64(16, len)
            .u64(24, guid)
            .put(32, &[flags, compression])
            .u64(40, compressed_len),
        Record::WriteEmbedded { object, offset, len, compression, kind, block_len, stored_len } => {
            range(draft(8), object, offset, len, guid)
                .put(40, &[compression, kind])
                .u32(48, block_len)
                .u32(52, stored_len)
        }
        Record::ObjectRange { first, count, flags } => {
            draft(9).u64(8, first).u64(16, count).u64(24, guid).u8(68, flags)
        }
        Record::Redact { object, offset, len } => range(draft(10), object, offset, len, guid),
    };
    draft.bytes
}

fn range(draft: Draft, object: u64, offset: u64, len: u64, guid: u64) -> Draft {
    draft.u64(8, object).u64(16, offset).u64(24, len).u64(32, guid)
}

fn object(draft: Draft, record: &Record) -> Draft {
    let Record::Object {
        object,
        kind,
        bonus_kind,
        block_len,
        bonus_len,
        checksum,
        compression,
        dnode_slots,
        flags,
        raw_bonus_len,
        indirect_shift,
        levels,
        block_pointers,
        max_block,
    } = *record
    else {
        return draft;
    };
    draft
        .u64(8, object)
        .u32(16, kind)
        .u32(20, bonus_kind)
        .u32(24, block_len)
        .u32(28, bonus_len)
        .put(32, &[checksum, compression, dnode_slots, flags])
        .u32(36, raw_bonus_len)
        .put(48, &[indirect_shift, levels, block_pointers])
        .u64(56, max_block)
}
