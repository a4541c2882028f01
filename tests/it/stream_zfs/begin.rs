//! BEGIN records.

use cowsnap::stream::zfs::{Begin, ByteOrder, Error, Feature, Features, Flags, Kind, RECORD_LEN, encode};
use expect_test::expect;
use proptest::prelude::*;

use super::sample_begin as sample;

/// The record's bytes with some replaced.
fn with(at: usize, bytes: &[u8]) -> [u8; RECORD_LEN] {
    let mut record = encode::begin(&sample());
    record[at..at + bytes.len()].copy_from_slice(bytes);
    record
}

#[test]
fn the_layout_is_that_of_the_format() {
    let record = encode::begin(&Begin { from_guid: 0xfeed, ..sample() });
    let hex: Vec<_> =
        record[..72].chunks(8).map(|c| c.iter().map(|b| format!("{b:02x}")).collect::<String>()).collect();
    expect!["0000000000000000 accbbaf502000000 0100240000000000 00a5186a00000000 020000000c000000 efcdab8967452301 edfe000000000000 74616e6b2f6d7920 6461746140613a31"]
    .assert_eq(&hex.join(" "));
    assert_eq!(record[72..75], *b" b_");
    assert!(record[75..].iter().all(|&byte| byte == 0));
}

#[test]
fn both_byte_orders_say_the_same() {
    let little = sample();
    let big = Begin { order: ByteOrder::Big, ..sample() };
    let (of_little, of_big) = (encode::begin(&little), encode::begin(&big));
    assert_eq!(of_big[8..16], [0, 0, 0, 2, 0xf5, 0xba, 0xcb, 0xac]);
    assert_eq!(Begin::parse(&of_little).unwrap(), little);
    assert_eq!(Begin::parse(&of_big).unwrap(), big);
    assert!(Begin::is_at_start_of(&of_little) && Begin::is_at_start_of(&of_big[..16]));
    assert!(!Begin::is_at_start_of(&of_big[..15]) && !Begin::is_at_start_of(b"btrfs-stream\0\x01\0\0\0"));
}

#[test]
fn what_is_no_single_stream_is_refused() {
    let refusals = [
        with(0, &[1]),
        with(8, &[0]),
        with(16, &[2]),
        with(16, &[0]),
        with(32, &[1]),
        with(4, &[0, 0, 0, 1]),
        with(4, &[6]),
        with(40, &[0; 8]),
        with(48, &0x0123_4567_89ab_cdef_u64.to_le_bytes()),
        with(56, &[b'a'; 256]),
        with(56, &[0; 256]),
    ];
    let text: String = refusals.iter().map(|r| format!("{}\n", Begin::parse(r).unwrap_err())).collect();
    expect![[r#"
        not a ZFS send stream: it does not begin with a BEGIN record
        not a ZFS send stream: it does not begin with a BEGIN record
        a package of ZFS streams (zfs send -R or -p), of which cowsnap reads none: send one snapshot without them
        the BEGIN record at byte 0 has the header type 0, which can not be
        the BEGIN record at byte 0 has the dataset type 1, which can not be
        the BEGIN record at byte 0 has the payload length 16777216, which can not be
        the BEGIN record at byte 0 has the payload length 6, which can not be
        the BEGIN record at byte 0 has the guid 0, which can not be
        the BEGIN record at byte 0 has the guid 81985529216486895, which can not be
        the BEGIN record at byte 0 has the name 256, which can not be
        the BEGIN record at byte 0 has the name 0, which can not be
    "#]]
    .assert_eq(&text);
}

#[test]
fn a_name_that_is_not_utf8_is_escaped() {
    let begin = Begin::parse(&with(56, b"tank\xff@\n")).unwrap();
    assert!(begin.to_name.starts_with(r"tank\xff@\n"), "{}", begin.to_name);
    assert_eq!(sample().names(), ("tank/my data", "a:1 b_"));
    assert_eq!(Begin { to_name: "tank".into(), ..sample() }.names(), ("tank", ""));
}

#[test]
fn the_time_is_one_of_the_calendar_or_none() {
    assert_eq!(sample().created().unwrap().to_string(), "2026-05-28T20:26:40Z");
    assert_eq!(Begin { creation: u64::MAX, ..sample() }.created(), None);
    assert_eq!(Begin { creation: 1 << 60, ..sample() }.created(), None);
}

/// A set of features whose bits are these.
fn features(bits: u64) -> Features {
    let mut record = encode::begin(&sample());
    record[16..24].copy_from_slice(&(bits << 2 | 1).to_le_bytes());
    Begin::parse(&record).unwrap().features
}

#[test]
fn every_feature_has_the_name_of_its_bit() {
    let text: String = (0..62).map(|bit| features(1 << bit)).map(|set| format!("{set}\n")).collect();
    let known: Vec<_> = text.lines().enumerate().filter(|(_, name)| !name.starts_with("bit ")).collect();
    expect![[r#"[(0, "dedup"), (1, "dedup_props"), (2, "sa_spill"), (16, "embed_data"), (17, "lz4"), (19, "large_blocks"), (20, "resuming"), (21, "redacted"), (22, "compressed"), (23, "large_dnode"), (24, "raw"), (25, "zstd"), (26, "holds"), (27, "switch_to_large_blocks"), (28, "longname"), (29, "large_microzap")]"#]]
    .assert_eq(&format!("{known:?}"));
    assert_eq!(features(0).to_string(), "none");
    assert_eq!(features(1 << 24 | 1 << 40).to_string(), "raw, bit 40");
    assert!(features(1 << 24).has(Feature::Raw) && !features(1 << 24).has(Feature::Compressed));
    assert_eq!(features(1 << 24).bits(), 0x100_0000);
}

#[test]
fn what_no_receiver_takes_is_refused_by_name() {
    let check = |bits| Begin { features: features(bits), ..sample() }.check_receivable();
    let all_that_2_4_receives = 0b11_1111_1111_1011 << 16 | 1 << 2;
    for bits in [0, 1 << 16, all_that_2_4_receives] {
        assert!(check(bits).is_ok(), "{bits:x}");
    }
    let text: String = [1, 2, 1 << 18, 1 << 30 | 1 << 16, 1 << 55, 1 << 61]
        .map(|bits| format!("{}\n", check(bits).unwrap_err()))
        .concat();
    expect![[r#"
        the ZFS send stream needs what no receiver known to this cowsnap has: dedup
        the ZFS send stream needs what no receiver known to this cowsnap has: dedup_props
        the ZFS send stream needs what no receiver known to this cowsnap has: bit 18
        the ZFS send stream needs what no receiver known to this cowsnap has: bit 30
        the ZFS send stream needs what no receiver known to this cowsnap has: bit 55
        the ZFS send stream needs what no receiver known to this cowsnap has: bit 61
    "#]]
    .assert_eq(&text);
    assert!(matches!(check(1), Err(Error::Features { .. })));
}

proptest! {
    #[test]
    fn what_is_parsed_is_what_was_written(
        bits in 0_u64..1 << 62, flags: u32, to_guid in 1_u64.., from_guid: u64, name in "[a-zA-Z0-9_.:/ @%é-]{1,100}",
        creation: u64, words in 0_u32..=65536, big: bool, volume: bool,
    ) {
        prop_assume!(to_guid != from_guid);
        let begin = Begin {
            order: if big { ByteOrder::Big } else { ByteOrder::Little },
            features: features(bits),
            kind: if volume { Kind::Volume } else { Kind::Filesystem },
            flags: Flags(flags),
            to_guid,
            from_guid,
            to_name: name,
            creation,
            payload_len: 4 * words,
        };
        let parsed = Begin::parse(&encode::begin(&begin)).unwrap();
        prop_assert_eq!(parsed.is_full(), from_guid == 0);
        prop_assert_eq!(parsed, begin);
    }

    #[test]
    fn any_bytes_are_a_record_or_an_error(bytes: Vec<u8>) {
        let mut record = encode::begin(&sample());
        for (place, byte) in record.iter_mut().zip(bytes) {
            *place = byte;
        }
        if let Ok(begin) = Begin::parse(&record) {
            prop_assert!(begin.to_name.len() <= 4 * 255);
        }
    }
}
