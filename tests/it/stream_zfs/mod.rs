//! ZFS send streams and resume tokens: made up, damaged in every way, and compared with ZFS's own tools.

use std::io::Read;

use cowsnap::stream::zfs::encode::Encoder;
use cowsnap::stream::zfs::nvlist::{List, Value};
use cowsnap::stream::zfs::{Begin, ByteOrder, Error, Feature, Features, Flags, Kind, Record, Walker};

mod begin;
mod damage;
mod nvlist;
pub mod oracle;
mod program;
mod resume;
mod walk;
mod whole;

fn sample_begin() -> Begin {
    Begin {
        order: ByteOrder::Little,
        features: Features::default().with(Feature::EmbedData).with(Feature::LargeBlocks),
        kind: Kind::Filesystem,
        flags: Flags(0b1100),
        to_guid: 0x0123_4567_89ab_cdef,
        from_guid: 0,
        to_name: "tank/my data@a:1 b_".into(),
        creation: 1_780_000_000,
        payload_len: 0,
    }
}

fn sample_list() -> List {
    [("resume_object", Value::Uint(7)), ("resume_offset", Value::Uint(131_072))].into_iter().collect()
}

/// Bytes that repeat after 251.
fn data(len: usize) -> Vec<u8> {
    (0..251).cycle().take(len).collect()
}

fn object(bonus_len: u32, raw_bonus_len: u32) -> Record {
    Record::Object {
        object: 2,
        kind: 19,
        bonus_kind: 44,
        block_len: 131_072,
        bonus_len,
        checksum: 7,
        compression: 2,
        dnode_slots: 1,
        flags: 4,
        raw_bonus_len,
        indirect_shift: 17,
        levels: 1,
        block_pointers: 3,
        max_block: 9,
    }
}

fn write(len: u64, compression: u8, compressed_len: u64) -> Record {
    Record::Write { object: 2, kind: 19, offset: 0, len, checksum: 7, flags: 1, compression, compressed_len }
}

fn embedded(stored_len: u32) -> Record {
    Record::WriteEmbedded {
        object: 2,
        offset: 4096,
        len: 512,
        compression: 15,
        kind: 0,
        block_len: 512,
        stored_len,
    }
}

/// One of each record, with the data behind it. Little data each.
fn one_of_each() -> Vec<(Record, Vec<u8>)> {
    vec![
        (object(168, 0), data(168)),
        (object(13, 0), data(16)),
        (object(13, 192), data(192)),
        (Record::FreeObjects { first: 3, count: 29 }, vec![]),
        (write(512, 0, 0), data(512)),
        (write(131_072, 15, 84), data(84)),
        (Record::Free { object: 2, offset: 131_072, len: u64::MAX }, vec![]),
        (
            Record::WriteByRef {
                object: 2,
                offset: 0,
                len: 512,
                from_guid: 0xfeed,
                from_object: 5,
                from_offset: 1024,
            },
            vec![],
        ),
        (Record::Spill { object: 2, len: 512, flags: 4, compression: 0, compressed_len: 0 }, data(512)),
        (Record::Spill { object: 2, len: 1024, flags: 0, compression: 15, compressed_len: 512 }, data(512)),
        (embedded(51), data(56)),
        (Record::ObjectRange { first: 32, count: 32, flags: 1 }, vec![]),
        (Record::Redact { object: 2, offset: 0, len: 4096 }, vec![]),
    ]
}

fn stream_of(order: ByteOrder, records: &[(Record, Vec<u8>)]) -> Vec<u8> {
    let mut encoder = Encoder::with_list(&Begin { order, ..sample_begin() }, &sample_list());
    for (record, data) in records {
        encoder.push(record, data);
    }
    encoder.finish()
}

/// Every record as a line of text, then how reading ended.
fn text_of(input: impl Read) -> String {
    let mut walker = match Walker::open(input) {
        Ok(walker) => walker,
        Err(error) => return format!("error: {error}\n"),
    };
    let mut out = String::new();
    loop {
        match walker.next_record() {
            Ok(Some(item)) => out += &format!("{} {} +{}\n", item.offset, item.record, item.data_len),
            Ok(None) => return out + "end of input\n",
            Err(error) => return out + &format!("error: {error}\n"),
        }
    }
}

fn error_of(input: impl Read) -> Error {
    let mut walker = match Walker::open(input) {
        Ok(walker) => walker,
        Err(error) => return error,
    };
    loop {
        match walker.next_record() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("no error"),
            Err(error) => return error,
        }
    }
}
