//! What a receive that was broken off lacks, cut out of the whole stream.
//!
//! A resume token says which record was applied last. Its source makes the rest by walking the dataset again; whoever has the whole stream
//! and no source makes it here: BEGIN with the feature and the list that say where it goes on, all records from that one on as they are, and
//! every checksum anew, since each is of all before it. Records come in the order of objects and offsets, and the kernel writes down where it is
//! with what it applies (`save_resume_state`, module/zfs/dmu_recv.c): a write at its offset and, since 2.2.4, an object at offset 0. So all before that
//! record is there. As in a sender's rest, the record itself comes again, and what was said of its object before, but for the writes.
//!
//! A stream that has no record there is another one, and one whose records come in another order (before 2.0, senders told of 32 objects and then sent
//! their data) has no rest that could be told: both are errors, before anything is passed on, or before END.

use std::io::{self, Write};

use super::error::{Error, Result};
use super::fletcher::Fletcher4;
use super::nvlist::{List, Value, encode};
use super::order::ByteOrder;
use super::record::Record;
use super::walker::CHECKSUM_AT;
use super::{Begin, Feature, RECORD_LEN};
use crate::stream::container::ResumePoint;

const PAYLOAD_LEN_AT: usize = 4;
const VERSION_INFO_AT: usize = 16;
/// Where END has the sums of all before it.
const TOTAL_AT: usize = 8;

/// The rest of a stream, of which all is read.
#[derive(Debug)]
pub struct Rest {
    order: ByteOrder,
    point: ResumePoint,
    begin: [u8; RECORD_LEN],
    list: Vec<u8>,
    sums: Fletcher4,
    has_begun: bool,
    is_anchored: bool, // The record at the point has come.
}

impl Rest {
    /// Whether the rest of such a stream can be cut out of it: not of one that has a list of its own behind BEGIN (a raw or a redacted one),
    /// nor of a rest.
    pub fn is_possible(begin: &Begin) -> bool {
        begin.payload_len == 0
            && ![Feature::Resuming, Feature::Raw, Feature::Redacted].iter().any(|&f| begin.features.has(f))
    }

    /// What follows `point` of the stream whose first record is `bytes`, which says `begin`; `None` if it [can not be](Self::is_possible) cut out.
    pub fn of(begin: &Begin, bytes: &[u8; RECORD_LEN], point: ResumePoint) -> Option<Self> {
        if !Self::is_possible(begin) {
            return None;
        }
        let order = begin.order;
        let numbers = [("resume_object", point.object), ("resume_offset", point.offset)];
        let list: List = numbers.into_iter().map(|(name, number)| (name, Value::Uint(number))).collect();
        let list = encode::native(&list, order);
        let mut begin_bytes = *bytes;
        let len = u32::try_from(list.len()).expect("two numbers are short");
        begin_bytes[PAYLOAD_LEN_AT..][..4].copy_from_slice(&order.bytes_of_u32(len));
        let info = begin.features.with(Feature::Resuming).to_version_info();
        begin_bytes[VERSION_INFO_AT..][..8].copy_from_slice(&order.bytes_of_u64(info));
        let mut sums = Fletcher4::default();
        sums.update(&begin_bytes, order);
        sums.update(&list, order);
        Some(Self { order, point, begin: begin_bytes, list, sums, has_begun: false, is_anchored: false })
    }

    /// Its BEGIN record.
    pub fn begin(&self) -> &[u8; RECORD_LEN] {
        &self.begin
    }

    /// Whether the next record of the whole stream is one of the rest: each is asked for, in order.
    ///
    /// # Errors
    /// [`Error::Point`]: the stream has no record at the point, or its records do not come in order.
    pub fn wants(&mut self, record: &Record) -> Result<bool> {
        let at = saved_at(record);
        let (is_past, is_point) =
            (at.is_some_and(|at| is_before(at, self.point)), at.is_some_and(|at| at == self.point));
        self.is_anchored |= is_point;
        match (at.is_some(), is_past, self.is_anchored) {
            (true, true, true) | (true, false, false) => return Err(Error::Point),
            _ => {}
        }
        let is_write = !matches!(record, Record::Object { .. });
        if is_past && is_write || !self.has_begun && self.is_of_one_before(record) {
            return Ok(false);
        }
        Ok(true)
    }

    /// Writes to `out` a record that [it wants](Self::wants): `bytes` are the record and the data behind it. Before the first of them, the list behind
    /// BEGIN is written.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn pass(&mut self, bytes: &mut [u8], out: &mut impl Write) -> io::Result<()> {
        if !self.has_begun {
            self.has_begun = true;
            out.write_all(&self.list)?;
        }
        let (record, data) = bytes.split_at_mut(RECORD_LEN);
        self.seal(record);
        self.sums.update(data, self.order);
        out.write_all(bytes)
    }

    /// Its END record, made of the whole stream's.
    ///
    /// # Errors
    /// [`Error::Point`]: the record at the point has not come.
    pub fn end(&mut self, mut end: [u8; RECORD_LEN]) -> Result<[u8; RECORD_LEN]> {
        if !self.is_anchored {
            return Err(Error::Point);
        }
        self.put_sums(&mut end[TOTAL_AT..]);
        self.seal(&mut end);
        Ok(end)
    }

    fn is_of_one_before(&self, record: &Record) -> bool {
        object_of(record).is_none_or(|object| object < self.point.object)
    }

    /// Puts a record's checksum at its end, and adds the record to the sums.
    fn seal(&mut self, record: &mut [u8]) {
        let (content, checksum) = record.split_at_mut(CHECKSUM_AT);
        self.sums.update(content, self.order);
        self.put_sums(checksum);
        self.sums.update(checksum, self.order);
    }

    fn put_sums(&self, to: &mut [u8]) {
        for (word, sum) in to.chunks_exact_mut(8).zip(self.sums.0) {
            word.copy_from_slice(&self.order.bytes_of_u64(sum));
        }
    }
}

/// The object that a record is of; of several, the first.
fn object_of(record: &Record) -> Option<u64> {
    match *record {
        Record::Object { object, .. }
        | Record::Write { object, .. }
        | Record::Free { object, .. }
        | Record::WriteByRef { object, .. }
        | Record::Spill { object, .. }
        | Record::WriteEmbedded { object, .. }
        | Record::Redact { object, .. } => Some(object),
        Record::FreeObjects { first, .. } | Record::ObjectRange { first, .. } => Some(first),
        Record::End { .. } => None,
    }
}

/// What a token says that was made when this record had been applied last; `None` if it moves no token.
pub fn saved_at(record: &Record) -> Option<ResumePoint> {
    match *record {
        Record::Object { object, .. } => Some(ResumePoint { object, offset: 0 }),
        Record::Write { object, offset, .. } | Record::WriteEmbedded { object, offset, .. } => {
            Some(ResumePoint { object, offset })
        }
        _ => None,
    }
}

/// Whether `one` comes before `other` in a stream.
pub fn is_before(one: ResumePoint, other: ResumePoint) -> bool {
    (one.object, one.offset) < (other.object, other.offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::zfs::encode::Encoder;
    use crate::stream::zfs::{Features, Flags, Kind, Walker};
    use proptest::prelude::*;

    fn begin(order: ByteOrder) -> Begin {
        Begin {
            order,
            features: Features::default().with(Feature::EmbedData).with(Feature::Compressed),
            kind: Kind::Filesystem,
            flags: Flags(4),
            to_guid: 7,
            from_guid: 3,
            to_name: "tank/a@b".into(),
            creation: 1_780_000_000,
            payload_len: 0,
        }
    }

    fn write(object: u64, offset: u64, len: u64) -> Record {
        Record::Write {
            object,
            kind: 19,
            offset,
            len,
            checksum: 7,
            flags: 0,
            compression: 0,
            compressed_len: 0,
        }
    }

    fn object(object: u64) -> Record {
        Record::Object {
            object,
            kind: 19,
            bonus_kind: 44,
            block_len: 512,
            bonus_len: 0,
            checksum: 0,
            compression: 0,
            dnode_slots: 1,
            flags: 0,
            raw_bonus_len: 0,
            indirect_shift: 0,
            levels: 0,
            block_pointers: 0,
            max_block: 0,
        }
    }

    /// Objects, some without data, as a sender orders them.
    fn records(objects: &[(u64, u8)]) -> Vec<(Record, Vec<u8>)> {
        let mut all = Vec::new();
        for &(number, writes) in objects {
            all.push((Record::FreeObjects { first: number - 1, count: 1 }, Vec::new()));
            all.push((object(number), Vec::new()));
            all.push((Record::Free { object: number, offset: 1 << 20, len: u64::MAX }, Vec::new()));
            for n in 0..u64::from(writes) {
                all.push((write(number, n * 512, 512), vec![n as u8 ^ number as u8; 512]));
            }
            let spill =
                Record::Spill { object: number, len: 512, flags: 0, compression: 0, compressed_len: 0 };
            all.push((spill, vec![7; 512]));
        }
        all
    }

    fn whole(order: ByteOrder, records: &[(Record, Vec<u8>)]) -> Vec<u8> {
        let mut encoder = Encoder::new(&begin(order));
        records.iter().for_each(|(record, data)| encoder.push(record, data));
        encoder.finish()
    }

    /// The rest as it is handed to a kernel, put together again.
    fn rest(stream: &[u8], point: ResumePoint) -> Result<Vec<u8>> {
        let mut walker = Walker::open(stream).expect("a stream");
        let mut rest =
            Rest::of(walker.begin(), stream.first_chunk().expect("BEGIN"), point).expect("possible");
        let mut out = rest.begin().to_vec();
        let mut all = Vec::new();
        while let Some(located) = walker.next_record().expect("sound") {
            all.push(located);
        }
        for (n, located) in all.iter().enumerate() {
            let from = located.offset as usize;
            if let Record::End { .. } = located.record {
                out.extend(rest.end(stream[from..].try_into().expect("it is the last"))?);
            } else if rest.wants(&located.record)? {
                let to = all[n + 1].offset as usize;
                rest.pass(&mut stream[from..to].to_vec(), &mut out).expect("memory");
            }
        }
        Ok(out)
    }

    proptest! {
        #[test]
        fn the_rest_is_a_stream_of_all_from_the_point_on_that_says_so(
            objects in prop::collection::vec((1..5u64, 0..6u8), 1..6),
            at in prop::sample::Index::arbitrary(),
            is_little: bool,
        ) {
            let order = if is_little { ByteOrder::Little } else { ByteOrder::Big };
            let mut object = 0;
            let objects: Vec<_> = objects.into_iter().map(|(step, writes)| {
                object += step;
                (object, writes)
            }).collect();
            let records = records(&objects);
            let saved: Vec<_> = (0..records.len()).filter(|&n| saved_at(&records[n].0).is_some()).collect();
            let from = saved[at.index(saved.len())];
            let point = saved_at(&records[from].0).expect("it is saved");
            let rest = rest(&whole(order, &records), point).expect("it has the point");
            let list: List = [("resume_object", Value::Uint(point.object)), ("resume_offset", Value::Uint(point.offset))]
                .into_iter().collect();
            let announced = Begin { features: begin(order).features.with(Feature::Resuming), ..begin(order) };
            let mut expected = Encoder::with_list(&announced, &list);
            // The object, and what is freed of it, come again; its writes before the point do not.
            let first = records.iter().position(|(record, _)| saved_at(record).is_some_and(|at| at.object == point.object));
            let again = records[first.expect("its OBJECT")..].iter();
            let is_there = |record: &Record| {
                matches!(record, Record::Write { .. }) && saved_at(record).is_some_and(|at| is_before(at, point))
            };
            again.filter(|(record, _)| !is_there(record)).for_each(|(record, data)| expected.push(record, data));
            prop_assert_eq!(rest, expected.finish());
        }
    }

    #[test]
    fn a_stream_without_a_record_at_the_point_has_no_rest() {
        let stream = whole(ByteOrder::Little, &records(&[(2, 3), (5, 0)]));
        let has = |object, offset| rest(&stream, ResumePoint { object, offset }).is_ok();
        assert_eq!([has(2, 0), has(2, 1024), has(5, 0)], [true; 3]);
        assert_eq!([has(1, 0), has(2, 1), has(2, 1536), has(3, 0), has(5, 512), has(6, 0)], [false; 6]);
    }

    #[test]
    fn a_stream_that_tells_of_objects_before_it_sends_their_data_has_no_rest() {
        let data = |object| (write(object, 0, 512), vec![1; 512]);
        let told = |number| (object(number), Vec::new());
        let stream = whole(ByteOrder::Little, &[told(2), told(3), data(2), data(3)]);
        for point in [ResumePoint { object: 3, offset: 0 }, ResumePoint { object: 2, offset: 512 }] {
            assert!(matches!(rest(&stream, point), Err(Error::Point)), "{point:?}");
        }
    }

    #[test]
    fn of_what_has_a_list_or_is_raw_there_is_no_rest() {
        let possible = |begin: Begin| Rest::is_possible(&begin);
        let with = |feature| {
            let begin = begin(ByteOrder::Little);
            Begin { features: begin.features.with(feature), ..begin }
        };
        assert!(possible(begin(ByteOrder::Little)));
        assert!(!possible(Begin { payload_len: 8, ..begin(ByteOrder::Little) }));
        assert!([Feature::Resuming, Feature::Raw, Feature::Redacted].iter().all(|&f| !possible(with(f))));
        let (raw, point) = (with(Feature::Raw), ResumePoint { object: 1, offset: 0 });
        assert!(Rest::of(&raw, &[0; RECORD_LEN], point).is_none());
    }
}
