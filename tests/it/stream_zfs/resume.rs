//! Resume tokens: untrusted text.

use std::io::Read;

use cowsnap::stream::container::ZfsFlags as Flags;
use cowsnap::stream::zfs::ByteOrder;
use cowsnap::stream::zfs::nvlist::{List, Value, encode};
use cowsnap::stream::zfs::resume::{Error, MAX_TOKEN_LEN, Token};
use expect_test::expect;
use proptest::prelude::*;

fn sample() -> Token {
    Token {
        to_guid: 0xfedc_ba98_7654_3210,
        from_guid: 0x11,
        to_name: "tank/my data@a:1".into(),
        object: 12,
        offset: 131_072,
        bytes: 4_000_000,
        flags: Flags { large_blocks: true, compressed: true, ..Flags::default() },
        saved: false,
        redact_snapshots: None,
        redact_bookmark: None,
    }
}

/// A token whose checksum, length and zlib stream are right, whatever it packs.
fn token_of(packed: &[u8]) -> String {
    let mut bytes = Vec::new();
    flate2::read::ZlibEncoder::new(packed, flate2::Compression::new(6)).read_to_end(&mut bytes).unwrap();
    sealed(packed.len() as u64, &bytes)
}

fn sealed(len: u64, bytes: &[u8]) -> String {
    let words = bytes.as_chunks::<4>().0;
    let sum = words.iter().fold(0_u64, |sum, word| sum.wrapping_add(u32::from_le_bytes(*word).into()));
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("1-{sum:x}-{len:x}-{hex}")
}

fn with(field: &str, value: Option<Value>) -> String {
    let mut pairs = vec![
        ("toguid", Value::Uint(1)),
        ("toname", Value::Text("a@b".into())),
        ("object", Value::Uint(2)),
        ("offset", Value::Uint(3)),
        ("bytes", Value::Uint(4)),
    ];
    pairs.retain(|(name, _)| *name != field);
    pairs.extend(value.map(|value| (field, value)));
    token_of(&encode::native(&pairs.into_iter().collect::<List>(), ByteOrder::Little))
}

#[test]
fn a_token_is_read() {
    let token = Token::decode(&sample().encode()).unwrap();
    assert_eq!(token, sample());
    let all = Token {
        from_guid: 0,
        flags: Flags { large_blocks: true, embedded: true, compressed: true, raw: true },
        saved: true,
        redact_snapshots: Some(vec![]),
        redact_bookmark: Some(vec![1, 2]),
        ..sample()
    };
    assert_eq!(Token::decode(&all.encode()).unwrap(), all);
}

#[test]
fn a_list_in_any_encoding_is_read() {
    let list: List = [
        ("toguid", Value::Uint(1)),
        ("toname", Value::Text("a@b".into())),
        ("object", Value::Uint(2)),
        ("offset", Value::Uint(3)),
        ("bytes", Value::Uint(4)),
        ("what a later version may add", Value::Flag),
    ]
    .into_iter()
    .collect();
    let expected =
        Token { to_guid: 1, to_name: "a@b".into(), object: 2, offset: 3, bytes: 4, ..Token::default() };
    for packed in
        [encode::native(&list, ByteOrder::Little), encode::native(&list, ByteOrder::Big), encode::xdr(&list)]
    {
        assert_eq!(Token::decode(&token_of(&packed)), Ok(expected.clone()));
    }
}

#[test]
fn what_is_no_token_is_refused() {
    let whole = sample().encode();
    let parts: Vec<_> = whole.split('-').collect();
    let text: String = [
        String::new(),
        "-".into(),
        "1-2-3".into(),
        format!("{whole}-"),
        whole.replacen('1', "2", 1),
        whole.replacen("1-", "01-", 1),
        format!("1-+{}-{}-{}", parts[1], parts[2], parts[3]),
        format!("1-{}-0x{}-{}", parts[1], parts[2], parts[3]),
        format!("1--{}-{}", parts[2], parts[3]),
        format!("1-{}-{}0000000000000000-{}", parts[1], parts[2], parts[3]),
        format!("{whole}0"),
        format!("{whole}0g"),
        format!("1-7-{}-{}", parts[2], parts[3]),
        format!("1-{}-7fffffff-{}", parts[1], parts[3]),
        format!("1-{}-8-{}", parts[1], parts[3]),
        format!("1-{}-ffff-{}", parts[1], parts[3]),
        sealed(8, b"not zlib"),
        sealed(0, b""),
        format!("{whole}00"),
        token_of(b"\x02\x01\0\0"),
        "1".repeat(MAX_TOKEN_LEN + 1),
    ]
    .map(|text| format!("{}\n", Token::decode(&text).unwrap_err()))
    .concat();
    expect![[r#"
        the resume token is not of the form 1-CHECKSUM-LENGTH-BYTES
        the resume token is not of the form 1-CHECKSUM-LENGTH-BYTES
        the resume token is not of the form 1-CHECKSUM-LENGTH-BYTES
        the resume token is not of the form 1-CHECKSUM-LENGTH-BYTES
        the resume token has version "2"; this cowsnap reads version 1
        the resume token has version "01"; this cowsnap reads version 1
        the checksum of the resume token is not hexadecimal
        the length of the resume token is not hexadecimal
        the checksum of the resume token is not hexadecimal
        the length of the resume token is not hexadecimal
        the list of the resume token is not hexadecimal
        the list of the resume token is not hexadecimal
        the resume token has checksum 15654ef88d and says 7
        the resume token claims a list of 2147483647 bytes; at most 65536 are read
        the resume token can not be inflated to 8 bytes
        the resume token can not be inflated to 65535 bytes
        the resume token can not be inflated to 8 bytes
        the resume token can not be inflated to 0 bytes
        the resume token can not be inflated to 296 bytes
        the list of the resume token can not be read
        the resume token has 65537 bytes; at most 65536 are read
    "#]]
    .assert_eq(&text);
}

#[test]
fn fields_that_are_missing_or_of_another_type_are_refused() {
    assert!(Token::decode(&with("x", None)).is_ok());
    let text = Value::Text("1".into());
    for field in ["toguid", "toname", "object", "offset", "bytes"] {
        for value in [None, Some(Value::Flag), Some(Value::Int(1))] {
            assert_eq!(Token::decode(&with(field, value)), Err(Error::Field { field }));
        }
    }
    for field in [
        "fromguid",
        "largeblockok",
        "embedok",
        "compressok",
        "rawok",
        "savedok",
        "redact_snaps",
        "book_redact_snaps",
    ] {
        assert_eq!(Token::decode(&with(field, Some(text.clone()))), Err(Error::Field { field }));
    }
    assert_eq!(Token::decode(&with("toguid", Some(Value::Uint(0)))), Err(Error::Field { field: "toguid" }));
    assert_eq!(
        Token::decode(&with("toname", Some(Value::Text("a".repeat(2000))))),
        Err(Error::Field { field: "toname" })
    );
    assert_eq!(
        Token::decode(&with("toname", Some(Value::Text("".into())))),
        Err(Error::Field { field: "toname" })
    );
}

/// Inflated, it would be 1 GiB.
#[test]
fn a_bomb_is_not_inflated() {
    let mut zlib = Vec::new();
    flate2::read::ZlibEncoder::new(std::io::repeat(0).take(16 << 20), flate2::Compression::best())
        .read_to_end(&mut zlib)
        .unwrap();
    assert_eq!(
        Token::decode(&sealed(16 << 20, &zlib)),
        Err(Error::PackedTooLong { len: 16 << 20, max: 64 << 10 })
    );
    assert_eq!(Token::decode(&sealed(64 << 10, &zlib)), Err(Error::Inflate { len: 64 << 10 }));
}

#[test]
fn every_changed_bit_is_noticed() {
    let whole = sample().encode();
    for bit in 0..8 * whole.len() {
        let mut bytes = whole.clone().into_bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let Ok(text) = String::from_utf8(bytes) else { continue };
        // The same number in capitals.
        if text.eq_ignore_ascii_case(&whole) {
            continue;
        }
        assert!(Token::decode(&text).is_err(), "bit {bit}: {text}");
    }
}

#[test]
fn no_beginning_of_a_token_is_a_token() {
    let whole = sample().encode();
    for len in 0..whole.len() {
        assert!(Token::decode(&whole[..len]).is_err(), "{len} bytes");
    }
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(
        to_guid in 1_u64.., from_guid: u64, to_name in "[a-zA-Z0-9_.:/ @%-]{1,100}", object: u64, offset: u64, bytes: u64,
        bits: [bool; 5], redact_snapshots: Option<Vec<u64>>,
    ) {
        let [large_blocks, embedded, compressed, raw, saved] = bits;
        let flags = Flags { large_blocks, embedded, compressed, raw };
        let token = Token {
            to_guid, from_guid, to_name, object, offset, bytes, flags, saved, redact_snapshots, redact_bookmark: None,
        };
        prop_assert_eq!(Token::decode(&token.encode()), Ok(token));
    }

    #[test]
    fn any_text_is_a_token_or_an_error(text in "1-[0-9a-f]{0,4}-[0-9a-f]{0,3}-[0-9a-f]{0,64}|.{0,64}") {
        prop_assert!(Token::decode(&text).is_err());
    }
}
