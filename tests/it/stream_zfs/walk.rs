//! Streams that are sound.

use std::io::{self, Read};

use cowsnap::stream::zfs::encode::Encoder;
use cowsnap::stream::zfs::{Begin, ByteOrder, Count, RECORD_LEN, Record, Summary, Walker};
use expect_test::expect;
use proptest::prelude::*;

use super::{data, error_of, object, one_of_each, sample_begin, sample_list, stream_of, text_of, write};

#[test]
fn every_record_is_shown_with_its_place_and_the_length_of_its_data() {
    let text = text_of(&stream_of(ByteOrder::Little, &one_of_each())[..]);
    expect![[r#"
        408 OBJECT object=2 kind=19 block=131072 bonus=168 bonus_kind=44 +168
        888 OBJECT object=2 kind=19 block=131072 bonus=13 bonus_kind=44 +16
        1216 OBJECT object=2 kind=19 block=131072 bonus=13 bonus_kind=44 raw_bonus=192 levels=1 max_block=9 +192
        1720 FREEOBJECTS first=3 count=29 +0
        2032 WRITE object=2 offset=0 len=512 kind=19 +512
        2856 WRITE object=2 offset=0 len=131072 kind=19 compression=15 compressed=84 +84
        3252 FREE object=2 offset=131072 len=all +0
        3564 WRITE_BYREF object=2 offset=0 len=512 from=000000000000feed/5/1024 +0
        3876 SPILL object=2 len=512 +512
        4700 SPILL object=2 len=1024 compression=15 compressed=512 +512
        5524 WRITE_EMBEDDED object=2 offset=4096 len=512 compression=15 compressed=51 +56
        5892 OBJECT_RANGE first=32 count=32 +0
        6204 REDACT object=2 offset=0 len=4096 +0
        6516 END checksum=10920dd332d/2eef59fb2ebe7/5671e19e9d5415a/b2d63280d8c6cd81 guid=0123456789abcdef +0
        end of input
    "#]].assert_eq(&text);
}

#[test]
fn a_stream_of_the_other_byte_order_says_the_same() {
    let (little, big) = (ByteOrder::Little, ByteOrder::Big);
    let text = text_of(&stream_of(big, &one_of_each())[..]);
    // The data is the same bytes and not the same words.
    let without_sums =
        |text: &str| text.lines().filter(|line| !line.contains(" END ")).collect::<Vec<_>>().join("\n");
    let of_little = text_of(&stream_of(little, &one_of_each())[..]);
    assert_eq!(without_sums(&text), without_sums(&of_little));
    assert_ne!(text, of_little);
}

/// fletcher-4 as its definition has it.
fn fletcher_4(bytes: &[u8], word: fn([u8; 4]) -> u32) -> [u64; 4] {
    let mut sums = [0_u64; 4];
    for bytes in bytes.as_chunks::<4>().0 {
        let mut carry = u64::from(word(*bytes));
        for sum in &mut sums {
            *sum = sum.wrapping_add(carry);
            carry = *sum;
        }
    }
    sums
}

#[test]
fn the_checksum_is_fletcher_4_of_all_before_it() {
    for (order, word, long) in [
        (
            ByteOrder::Little,
            u32::from_le_bytes as fn([u8; 4]) -> u32,
            u64::from_le_bytes as fn([u8; 8]) -> u64,
        ),
        (ByteOrder::Big, u32::from_be_bytes, u64::from_be_bytes),
    ] {
        let stream = stream_of(order, &one_of_each());
        let mut walker = Walker::open(&stream[..]).unwrap();
        let mut n = 0;
        while let Some(item) = walker.next_record().unwrap() {
            let at = item.offset as usize + RECORD_LEN - 32;
            let stored: Vec<_> = stream[at..at + 32].as_chunks::<8>().0.iter().map(|c| long(*c)).collect();
            assert_eq!(stored, fletcher_4(&stream[..at], word), "{}", item.record);
            n += 1;
        }
        assert_eq!((n, walker.total()), (14, Some(fletcher_4(&stream[..stream.len() - RECORD_LEN], word))));
    }
}

#[test]
fn the_list_behind_begin_is_read() {
    let stream = stream_of(ByteOrder::Big, &[]);
    let walker = Walker::open(&stream[..]).unwrap();
    assert_eq!(walker.list(), Some(&sample_list()));
    assert_eq!(walker.begin().to_name, "tank/my data@a:1 b_");
    assert_eq!(walker.total(), None);
    let bare = Encoder::new(&sample_begin()).finish();
    assert_eq!(Walker::open(&bare[..]).unwrap().list(), None);
}

/// Old senders wrote none; END's total tells all the same.
#[test]
fn a_record_without_a_checksum_is_covered_by_the_total() {
    let sound = stream_of(ByteOrder::Little, &[(write(512, 0, 0), data(512))]);
    let at = sound.len() - 2 * RECORD_LEN - 512;
    let clear = |stream: &mut [u8], at: usize| stream[at + RECORD_LEN - 32..at + RECORD_LEN].fill(0);
    let mut stream = sound.clone();
    clear(&mut stream, at);
    let last = stream.len() - RECORD_LEN;
    clear(&mut stream, last);
    let total = fletcher_4(&stream[..last], u32::from_le_bytes);
    for (n, sum) in total.iter().enumerate() {
        stream[last + 8 + 8 * n..][..8].copy_from_slice(&sum.to_le_bytes());
    }
    assert!(text_of(&stream[..]).ends_with("end of input\n"), "{}", text_of(&stream[..]));
    stream[at + RECORD_LEN + 100] ^= 1;
    assert!(text_of(&stream[..]).contains("up to the END record"), "{}", text_of(&stream[..]));
}

#[test]
fn a_summary_counts_records_and_data() {
    let stream = stream_of(ByteOrder::Little, &one_of_each());
    let summary = Summary::of(&stream[..]).unwrap();
    assert_eq!(summary.objects(), 3);
    assert_eq!(summary.stream_bytes, stream.len() as u64);
    assert_eq!(summary.block_bytes, 512 + 131_072 + 512 + 1024 + 512);
    assert_eq!(summary.counts["WRITE"], Count { records: 2, data_bytes: 596 });
    assert_eq!(summary.counts["END"], Count { records: 1, data_bytes: 0 });
    assert_eq!(summary.list, Some(sample_list()));
    let records: u64 = summary.counts.values().map(|count| count.records).sum();
    let data: u64 = summary.counts.values().map(|count| count.data_bytes).sum();
    assert_eq!(records, 14);
    let list_len = u64::from(summary.begin.payload_len);
    assert_eq!(data + list_len + (records + 1) * RECORD_LEN as u64, summary.stream_bytes);
    let empty = Summary::of(&Encoder::new(&sample_begin()).finish()[..]).unwrap();
    assert_eq!((empty.objects(), empty.block_bytes, empty.stream_bytes), (0, 0, 624));
}

/// Gives `1..=most` bytes at a time, and notes the longest read that it was asked for.
struct Crumbs<'a> {
    bytes: &'a [u8],
    most: usize,
    asked: usize,
}

impl Read for Crumbs<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.asked = self.asked.max(buffer.len());
        let len = buffer.len().min(self.most).min(self.bytes.len());
        buffer[..len].copy_from_slice(&self.bytes[..len]);
        self.bytes = &self.bytes[len..];
        self.most = self.most % 7 + 1;
        Ok(len)
    }
}

#[test]
fn how_the_bytes_arrive_makes_no_difference() {
    let stream = stream_of(ByteOrder::Little, &one_of_each());
    for most in 1..8 {
        assert_eq!(text_of(Crumbs { bytes: &stream, most, asked: 0 }), text_of(&stream[..]));
    }
}

/// Repeats a WRITE of 16 MiB whose data is made as it is read.
struct Large {
    left: u64,
    asked: usize,
}

impl Read for Large {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.asked = self.asked.max(buffer.len());
        let len = self.left.min(buffer.len() as u64) as usize;
        buffer[..len].fill(0);
        self.left -= len as u64;
        Ok(len)
    }
}

#[test]
fn the_largest_block_passes_through_one_buffer() {
    let mut encoder = Encoder::new(&sample_begin());
    encoder.push(&write(16 << 20, 0, 0), &[]);
    let head = encoder.into_bytes();
    let mut input = head.chain(Large { left: 16 << 20, asked: 0 });
    let mut walker = Walker::open(&mut input).unwrap();
    assert_eq!(walker.next_record().unwrap().unwrap().data_len, 16 << 20);
    assert_eq!(walker.offset(), (16 << 20) + 624);
    drop(walker);
    let (_, tail) = input.into_inner();
    assert_eq!((tail.left, tail.asked), (0, 1 << 20));
}

#[test]
fn an_input_that_fails_is_told_from_one_that_ends() {
    struct Fails;
    impl Read for Fails {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("unplugged"))
        }
    }
    let stream = stream_of(ByteOrder::Little, &one_of_each());
    for len in [0, 100, 400, 5000, stream.len()] {
        let error = error_of(stream[..len].chain(Fails));
        assert_eq!(error.to_string(), format!("cannot read the ZFS send stream at byte {len}"));
    }
    struct Interrupted(bool);
    impl Read for Interrupted {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            match std::mem::replace(&mut self.0, true) {
                false => Err(io::ErrorKind::Interrupted.into()),
                true => Ok(0),
            }
        }
    }
    assert_eq!(text_of(Interrupted(false).chain(&stream[..])), text_of(&stream[..]));
}

fn record() -> impl Strategy<Value = (Record, Vec<u8>)> {
    let number = prop_oneof![any::<u64>(), 0_u64..1000];
    (number.clone(), number.clone(), number, 0_u32..300, any::<[u8; 4]>(), 0_usize..14).prop_map(
        |(a, b, c, len, bytes, which)| {
            let words = u64::from(len) / 4 * 4;
            let [flags, compression, kind, _] = bytes;
            let record = match which {
                0 => object(len, 0),
                1 if words > 0 => object(len, words as u32),
                2 => Record::FreeObjects { first: a, count: b },
                3 => write(words, 0, c),
                4 => write(c, compression.max(1), words),
                5 => Record::Free { object: a, offset: b, len: c },
                6 => Record::WriteByRef {
                    object: a,
                    offset: b,
                    len: c,
                    from_guid: b,
                    from_object: c,
                    from_offset: a,
                },
                7 => Record::Spill { object: a, len: words, flags, compression, compressed_len: 0 },
                8 if words > 0 => {
                    Record::Spill { object: a, len: c, flags, compression, compressed_len: words }
                }
                9 => Record::WriteEmbedded {
                    object: a,
                    offset: b,
                    len: c,
                    compression,
                    kind,
                    block_len: len,
                    stored_len: len % 113,
                },
                10 => Record::ObjectRange { first: a, count: b, flags },
                _ => Record::Redact { object: a, offset: b, len: c },
            };
            let len = match record {
                Record::Object { bonus_len, raw_bonus_len: 0, .. } => bonus_len.next_multiple_of(8),
                Record::Object { raw_bonus_len, .. } => raw_bonus_len,
                Record::WriteEmbedded { stored_len, .. } => stored_len.next_multiple_of(8),
                Record::Write { .. } | Record::Spill { .. } => words as u32,
                _ => 0,
            };
            (record, data(len as usize))
        },
    )
}

proptest! {
    #[test]
    fn what_is_encoded_is_walked(records in prop::collection::vec(record(), 0..12), big: bool, full: bool) {
        let order = if big { ByteOrder::Big } else { ByteOrder::Little };
        let begin = Begin { order, from_guid: if full { 0 } else { 5 }, ..sample_begin() };
        let mut encoder = Encoder::with_list(&begin, &sample_list());
        for (record, data) in &records {
            encoder.push(record, data);
        }
        let stream = encoder.finish();
        let mut walker = Walker::open(&stream[..]).unwrap();
        for (record, data) in &records {
            let item = walker.next_record().unwrap().unwrap();
            prop_assert_eq!(&item.record, record);
            prop_assert_eq!(item.data_len, data.len() as u64);
            prop_assert!(!item.record.to_string().contains('\n'));
        }
        let last = walker.next_record().unwrap().unwrap().record;
        let is_end = matches!(last, Record::End { .. });
        prop_assert!(is_end);
        prop_assert!(walker.next_record().unwrap().is_none());
        prop_assert_eq!(walker.offset(), stream.len() as u64);
    }
}
