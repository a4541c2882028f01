//! Streams that are damaged or never were any.

use cowsnap::stream::zfs::encode::{self, Encoder};
use cowsnap::stream::zfs::nvlist::{List, Value};
use cowsnap::stream::zfs::{Begin, ByteOrder, Error, RECORD_LEN, Record, Summary};
use expect_test::expect;

use super::{data, embedded, error_of, object, one_of_each, sample_begin, stream_of, text_of, write};

#[test]
fn every_changed_bit_is_noticed() {
    // Of the other byte order one bit of each byte: how bytes become words is all that differs.
    for (order, bits) in [(ByteOrder::Little, 8), (ByteOrder::Big, 1)] {
        let mut stream = stream_of(order, &one_of_each());
        for at in 0..stream.len() {
            for bit in (0..bits).map(|bit| (at + bit) % 8) {
                stream[at] ^= 1 << bit;
                assert!(Summary::of(&stream[..]).is_err(), "byte {at}, bit {bit}");
                stream[at] ^= 1 << bit;
            }
        }
        assert!(Summary::of(&stream[..]).is_ok());
    }
}

#[test]
fn every_truncation_is_noticed_with_its_place() {
    let stream = stream_of(ByteOrder::Little, &one_of_each());
    for len in 0..stream.len() {
        match error_of(&stream[..len]) {
            Error::Magic if len < 16 => {}
            Error::Truncated { offset, .. } => assert_eq!(offset, len as u64),
            error => panic!("{len} bytes: {error}"),
        }
    }
}

#[test]
fn a_truncation_names_what_it_cuts() {
    let stream = stream_of(ByteOrder::Little, &one_of_each());
    let text: String = [15, 16, 320, 424, 430, 800, stream.len() - 312, stream.len() - 1]
        .map(|len| text_of(&stream[..len]).lines().last().unwrap_or_default().to_owned() + "\n")
        .concat();
    expect![[r#"
        error: not a ZFS send stream: it does not begin with a BEGIN record
        error: the ZFS send stream ends at byte 16, within its BEGIN record
        error: the ZFS send stream ends at byte 320, within the list behind its BEGIN record
        error: the ZFS send stream ends at byte 424, within a record
        error: the ZFS send stream ends at byte 430, within a record
        error: the ZFS send stream ends at byte 800, within the data of a record
        error: the ZFS send stream ends at byte 6516, within its records: no END came
        error: the ZFS send stream ends at byte 6827, within a record
    "#]]
    .assert_eq(&text);
}

#[test]
fn bytes_after_the_end_are_refused() {
    let stream = stream_of(ByteOrder::Little, &one_of_each());
    let twice = [&stream[..], &stream[..]].concat();
    for after in [&stream[..1], &[0], &stream] {
        let offset = match error_of(&[&stream[..], after].concat()[..]) {
            Error::Trailing { offset } => offset,
            error => panic!("{error}"),
        };
        assert_eq!(offset, stream.len() as u64);
    }
    assert!(text_of(&twice[..]).contains("END"));
}

/// The last line for a stream of these records, whose checksums are right.
fn last_line(records: &[(Record, Vec<u8>)]) -> String {
    text_of(&stream_of(ByteOrder::Little, records)[..]).lines().last().unwrap_or_default().to_owned() + "\n"
}

/// For one raw record whose first bytes are these.
fn last_line_of_raw(bytes: &[u8]) -> String {
    let mut record = [0; RECORD_LEN];
    record[..bytes.len()].copy_from_slice(bytes);
    let mut encoder = Encoder::new(&sample_begin());
    encoder.push_raw(record, &[]);
    text_of(&encoder.finish()[..]).lines().last().unwrap_or_default().to_owned() + "\n"
}

#[test]
fn lengths_over_the_formats_limits_are_refused_before_anything_is_read() {
    let over = (16 << 20) + 4;
    let spill =
        |len, compressed_len| Record::Spill { object: 1, len, flags: 0, compression: 15, compressed_len };
    let text: String = [
        object(16_385, 0),
        object(u32::MAX, 0),
        object(8, 16_388),
        object(8, u32::MAX),
        write(over, 0, 0),
        write(u64::MAX, 0, 512),
        write(512, 15, over),
        write(512, 255, u64::MAX),
        spill(over, 0),
        spill(512, u64::MAX),
        embedded(113),
        embedded(u32::MAX),
        object(8, 190),
        write(513, 0, 0),
        write(512, 15, 3),
    ]
    .map(|record| last_line(&[(record, vec![])]))
    .concat();
    expect![[r#"
        error: the OBJECT record at byte 408 claims 16392 bytes of data; at most 16384 are possible
        error: the OBJECT record at byte 408 claims 4294967296 bytes of data; at most 16384 are possible
        error: the OBJECT record at byte 408 claims 16388 bytes of data; at most 16384 are possible
        error: the OBJECT record at byte 408 claims 4294967295 bytes of data; at most 16384 are possible
        error: the WRITE record at byte 408 claims 16777220 bytes of data; at most 16777216 are possible
        error: the WRITE record at byte 408 claims 18446744073709551615 bytes of data; at most 16777216 are possible
        error: the WRITE record at byte 408 claims 16777220 bytes of data; at most 16777216 are possible
        error: the WRITE record at byte 408 claims 18446744073709551615 bytes of data; at most 16777216 are possible
        error: the SPILL record at byte 408 claims 16777220 bytes of data; at most 16777216 are possible
        error: the SPILL record at byte 408 claims 18446744073709551615 bytes of data; at most 16777216 are possible
        error: the WRITE_EMBEDDED record at byte 408 claims 120 bytes of data; at most 112 are possible
        error: the WRITE_EMBEDDED record at byte 408 claims 4294967296 bytes of data; at most 112 are possible
        error: the OBJECT record at byte 408 has the data length 190, which can not be
        error: the WRITE record at byte 408 has the data length 513, which can not be
        error: the WRITE record at byte 408 has the data length 3, which can not be
    "#]].assert_eq(&text);
}

#[test]
fn records_that_can_not_be_are_refused_with_their_place() {
    let mut of_another = Encoder::new(&sample_begin());
    of_another.push(&Record::End { checksum: of_another.checksum(), to_guid: 1 }, &[]);
    let mut with_another_sum = Encoder::new(&sample_begin());
    with_another_sum.push(&Record::End { checksum: [1, 2, 3, 4], to_guid: sample_begin().to_guid }, &[]);
    let text = [
        last_line_of_raw(&[0]),
        last_line_of_raw(&[11]),
        last_line_of_raw(&[0xff, 0xff, 0xff, 0xff]),
        text_of(&of_another.into_bytes()[..]),
        text_of(&with_another_sum.into_bytes()[..]),
    ]
    .concat();
    expect![[r#"
        error: a second BEGIN record stands at byte 312
        error: the record at byte 312 has the unknown type 11
        error: the record at byte 312 has the unknown type 4294967295
        error: the END record at byte 312 is of the snapshot 0000000000000001, the stream of 0123456789abcdef
        error: the bytes up to the END record at byte 312 have another fletcher-4 checksum than it says
    "#]]
    .assert_eq(&text);
}

#[test]
fn a_list_behind_begin_that_is_none_is_refused() {
    let begin = Begin { payload_len: 8, ..sample_begin() };
    let stream = [&encode::begin(&begin)[..], &[7; 8]].concat();
    let error = error_of(&stream[..]);
    assert!(matches!(error, Error::List { .. }), "{error}");
    let cause = std::error::Error::source(&error).expect("the list's own error").to_string();
    assert_eq!(cause, "the packed list has the unknown encoding 7, endian 7");
}

#[test]
fn the_longest_list_behind_begin_is_read_and_no_longer_one() {
    let list: List = [("n", Value::Bytes(data((256 << 10) - 40)))].into_iter().collect();
    let stream = Encoder::with_list(&sample_begin(), &list).finish();
    assert_eq!(stream.len(), 312 + (256 << 10) + 312);
    assert!(text_of(&stream[..]).ends_with("end of input\n"), "{}", text_of(&stream[..]));
    let list: List = [("n", Value::Bytes(data((256 << 10) - 32)))].into_iter().collect();
    let stream = Encoder::with_list(&sample_begin(), &list).finish();
    expect![[r#"
        error: the BEGIN record at byte 0 has the payload length 262152, which can not be
    "#]]
    .assert_eq(&text_of(&stream[..]));
}

#[test]
fn a_package_and_what_is_no_stream_are_told_apart() {
    let mut package = encode::begin(&sample_begin());
    package[16] = 2;
    assert!(matches!(error_of(&package[..]), Error::Compound));
    assert!(matches!(error_of(&b""[..]), Error::Magic));
    assert!(matches!(error_of(&data(1000)[..]), Error::Magic));
}
