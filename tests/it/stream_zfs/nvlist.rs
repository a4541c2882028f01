//! Packed lists.

use cowsnap::stream::zfs::ByteOrder;
use cowsnap::stream::zfs::nvlist::{Error, List, MAX_DEPTH, MAX_LEN, Value, encode};
use expect_test::expect;
use proptest::prelude::*;

/// One of each kind of value.
pub fn sample() -> List {
    let inner: List = [("a", Value::Uint(7)), ("b", Value::Flag)].into_iter().collect();
    [
        ("flag", Value::Flag),
        ("yes", Value::Bool(true)),
        ("int", Value::Int(-5)),
        ("uint", Value::Uint(u64::MAX)),
        ("double", Value::Double(1.5)),
        ("text", Value::Text("tank/a b\n".into())),
        ("bytes", Value::Bytes(vec![1, 2, 0xff])),
        ("bools", Value::Bools(vec![true, false])),
        ("ints", Value::Ints(vec![-1, 2])),
        ("uints", Value::Uints(vec![1, u64::MAX])),
        ("texts", Value::Texts(vec!["".into(), "é".into()])),
        ("list", Value::List(inner.clone())),
        ("lists", Value::Lists(vec![inner, List::default()])),
    ]
    .into_iter()
    .collect()
}

/// A list in each encoding.
fn packings(list: &List) -> [Vec<u8>; 3] {
    [encode::native(list, ByteOrder::Little), encode::native(list, ByteOrder::Big), encode::xdr(list)]
}

#[test]
fn every_encoding_says_the_same() {
    for packed in packings(&sample()) {
        let list = List::parse(&packed).unwrap();
        assert_eq!(list, sample());
        expect![[r#"{bools: [true, false], bytes: 0102ff, double: 1.5, flag, int: -5, ints: [-1, 2], list: {a: 7, b}, lists: [{a: 7, b}, {}], text: "tank/a b\n", texts: ["", "é"], uint: 18446744073709551615, uints: [1, 18446744073709551615], yes: true}"#]]
        .assert_eq(&list.to_string());
        assert_eq!((list.len(), list.is_empty()), (13, false));
    }
}

/// A list of one pair `n` in the native encoding, as a little-endian machine packs it.
fn native_pair(kind: u32, n_elements: u32, value: &[u8]) -> Vec<u8> {
    let mut out = vec![0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
    let len = 24 + value.len().next_multiple_of(8);
    out.extend((len as u32).to_le_bytes());
    out.extend([2, 0, 0, 0]);
    out.extend(n_elements.to_le_bytes());
    out.extend(kind.to_le_bytes());
    out.extend(b"n\0\0\0\0\0\0\0");
    out.extend(value);
    out.resize(12 + len, 0);
    out.extend([0; 4]);
    out
}

fn xdr_pair(kind: u32, n_elements: u32, value: &[u8]) -> Vec<u8> {
    let mut out = vec![1, 1, 0, 0];
    for word in [0, 1, 24 + value.len() as u32, 32, 1] {
        out.extend(word.to_be_bytes());
    }
    out.extend(b"n\0\0\0");
    out.extend(kind.to_be_bytes());
    out.extend(n_elements.to_be_bytes());
    out.extend(value);
    out.extend([0; 8]);
    out
}

/// What `n` stands for.
fn value_of(packed: &[u8]) -> String {
    match List::parse(packed) {
        Ok(list) => format!("{:?}", list.get("n").expect("the pair")),
        Err(error) => format!("error: {error}"),
    }
}

#[test]
fn every_width_of_number_is_read() {
    let kinds = [2, 3, 4, 5, 6, 7, 8, 18, 21, 22, 23, 27];
    let native: String =
        kinds.map(|k| format!("{k} {}\n", value_of(&native_pair(k, 1, &[0xfe; 8])))).concat();
    expect![[r#"
        2 Uint(254)
        3 Int(-258)
        4 Uint(65278)
        5 Int(-16843010)
        6 Uint(4278124286)
        7 Int(-72340172838076674)
        8 Uint(18374403900871474942)
        18 Int(-72340172838076674)
        21 Bool(true)
        22 Int(-2)
        23 Uint(254)
        27 Double(-5.3140103725178076e303)
    "#]]
    .assert_eq(&native);
    let words = |kind| if matches!(kind, 7 | 8 | 18 | 27) { 8 } else { 4 };
    let xdr = kinds.map(|k| format!("{k} {}\n", value_of(&xdr_pair(k, 1, &[0xfe; 8][..words(k)])))).concat();
    assert_eq!(xdr, native);
}

#[test]
fn every_width_of_numbers_is_read() {
    let kinds = [10, 11, 12, 13, 14, 15, 16, 24, 25, 26];
    let native: String =
        kinds.map(|k| format!("{k} {}\n", value_of(&native_pair(k, 2, &[0xfe; 16])))).concat();
    expect![[r#"
        10 Bytes([254, 254])
        11 Ints([-258, -258])
        12 Uints([65278, 65278])
        13 Ints([-16843010, -16843010])
        14 Uints([4278124286, 4278124286])
        15 Ints([-72340172838076674, -72340172838076674])
        16 Uints([18374403900871474942, 18374403900871474942])
        24 Bools([true, true])
        25 Bytes([254, 254])
        26 Bytes([254, 254])
    "#]]
    .assert_eq(&native);
    let value = |kind: u32| match kind {
        10 => vec![0xfe, 0xfe, 0, 0],
        15 | 16 => [&[0, 0, 0, 2][..], &[0xfe; 16]].concat(),
        _ => [&[0, 0, 0, 2][..], &[0xfe; 8]].concat(),
    };
    let xdr = kinds.map(|k| format!("{k} {}\n", value_of(&xdr_pair(k, 2, &value(k))))).concat();
    assert_eq!(xdr, native);
}

#[test]
fn what_can_not_be_is_refused_with_its_offset() {
    let mut repeated = native_pair(1, 0, &[]);
    let pair = repeated[12..repeated.len() - 4].to_vec();
    repeated.splice(12..12, pair);
    let cut = |mut bytes: Vec<u8>, at: usize, byte: u8| {
        bytes[at] = byte;
        bytes
    };
    let text: String = [
        vec![],
        vec![2, 1, 0, 0],
        vec![0, 2, 0, 0],
        cut(native_pair(1, 0, &[]), 4, 1),
        cut(xdr_pair(1, 0, &[]), 7, 1),
        native_pair(0, 1, &[0; 8]),
        xdr_pair(28, 1, &[0; 8]),
        native_pair(8, 2, &[0; 16]),
        native_pair(1, 1, &[]),
        native_pair(16, u32::MAX, &[0; 8]),
        native_pair(16, 2, &[0; 8]),
        native_pair(17, 1 << 17, &[0; 8]),
        native_pair(20, 1 << 17, &[0; 8]),
        native_pair(9, 1, b"12345678"),
        native_pair(19, 1, &[1; 24]),
        cut(native_pair(1, 0, &[]), 12, 3),
        cut(native_pair(1, 0, &[]), 15, 0xff),
        cut(native_pair(1, 0, &[]), 16, 0),
        cut(native_pair(1, 0, &[]), 16, 1),
        cut(native_pair(1, 0, &[]), 16, 200),
        cut(native_pair(1, 0, &[]), 28, 0),
        xdr_pair(16, 2, &[0; 20]),
        xdr_pair(16, 1 << 18, &[0, 4, 0, 0]),
        xdr_pair(17, 1 << 18, &[0; 8]),
        xdr_pair(20, 1 << 18, &[0; 16]),
        xdr_pair(9, 1, &[0, 0, 0, 1, 0, 0, 0, 0]),
        xdr_pair(9, 1, &[0xff; 4]),
        cut(xdr_pair(1, 0, &[]), 15, 0),
        repeated,
        [native_pair(1, 0, &[]), vec![0; 8]].concat(),
        [native_pair(1, 0, &[]), vec![1]].concat(),
        vec![0; MAX_LEN + 1],
    ]
    .map(|packed| format!("{}\n", List::parse(&packed).unwrap_err()))
    .concat();
    expect![[r#"
        the packed list ends within what begins at byte 0
        the packed list has the unknown encoding 2, endian 1
        the packed list has the unknown encoding 0, endian 2
        the packed list has a version that can not be at byte 4
        the packed list has a version that can not be at byte 4
        the packed list has a value of the unknown type 0 at byte 12
        the packed list has a value of the unknown type 28 at byte 12
        the packed list has a number of elements that can not be at byte 12
        the packed list has a number of elements that can not be at byte 12
        the packed list has a number of elements that can not be at byte 12
        the packed list ends within what begins at byte 36
        the packed list ends within what begins at byte 36
        the packed list ends within what begins at byte 36
        the packed list ends within what begins at byte 36
        the packed list has a version that can not be at byte 36
        the packed list has a length that can not be at byte 12
        the packed list ends within what begins at byte 16
        the packed list has a name that can not be at byte 12
        the packed list has a name that can not be at byte 12
        the packed list ends within what begins at byte 28
        the packed list has a name that can not be at byte 12
        the packed list has a number of elements that can not be at byte 36
        the packed list ends within what begins at byte 40
        the packed list ends within what begins at byte 52
        the packed list ends within what begins at byte 60
        the packed list has a text that can not be at byte 36
        the packed list ends within what begins at byte 40
        the packed list has a length that can not be at byte 12
        the packed list has a name for the second time at byte 36
        bytes that do not belong to the packed list follow it at byte 40
        bytes that do not belong to the packed list follow it at byte 40
        the packed list has 262145 bytes; at most 262144 are read
    "#]]
    .assert_eq(&text);
}

#[test]
fn up_to_seven_zeros_may_follow() {
    for packed in packings(&sample()) {
        for n in 1..8 {
            assert_eq!(List::parse(&[&packed[..], &vec![0; n]].concat()), Ok(sample()));
        }
    }
}

#[test]
fn lists_are_read_to_a_depth() {
    let nested = |depth: usize| {
        let wrap = |list: List, _| [("n", Value::List(list))].into_iter().collect();
        (1..depth).fold(List::default(), wrap)
    };
    for packed in packings(&nested(MAX_DEPTH)) {
        assert_eq!(List::parse(&packed), Ok(nested(MAX_DEPTH)));
    }
    for packed in packings(&nested(MAX_DEPTH + 1)) {
        assert!(matches!(List::parse(&packed), Err(Error::TooDeep { .. })));
    }
}

fn value() -> impl Strategy<Value = Value> {
    let name = "[a-z:_]{0,6}";
    let leaf = prop_oneof![
        Just(Value::Flag),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<u64>().prop_map(Value::Uint),
        "[^\0]{0,12}".prop_map(Value::Text),
        any::<Vec<u8>>().prop_map(Value::Bytes),
        any::<Vec<bool>>().prop_map(Value::Bools),
        any::<Vec<i64>>().prop_map(Value::Ints),
        any::<Vec<u64>>().prop_map(Value::Uints),
        prop::collection::vec("[^\0]{0,6}", 0..4).prop_map(Value::Texts),
    ];
    leaf.prop_recursive(3, 24, 4, move |inner| {
        let list =
            prop::collection::vec((name, inner), 0..4).prop_map(|pairs| pairs.into_iter().collect::<List>());
        prop_oneof![
            list.clone().prop_map(Value::List),
            prop::collection::vec(list, 0..3).prop_map(Value::Lists),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_packed_is_read_back(value in value()) {
        let list: List = [("value", value)].into_iter().collect();
        for packed in packings(&list) {
            prop_assert_eq!(List::parse(&packed), Ok(list.clone()));
        }
    }

    #[test]
    fn no_beginning_of_a_list_is_a_list(value in value(), at: prop::sample::Index) {
        let list: List = [("value", value), ("z", Value::Uint(1))].into_iter().collect();
        for packed in packings(&list) {
            prop_assert!(List::parse(&packed[..at.index(packed.len() - 3)]).is_err());
        }
    }

    #[test]
    fn changed_bytes_are_a_list_or_an_error(value in value(), at: prop::sample::Index, byte: u8) {
        let list: List = [("value", value)].into_iter().collect();
        for mut packed in packings(&list) {
            let at = at.index(packed.len());
            packed[at] = byte;
            if let Ok(list) = List::parse(&packed) {
                // No more pairs than there are bytes for: each begins with 16 at least.
                prop_assert!(list.len() <= packed.len() / 16);
            }
        }
    }
}

#[test]
fn of_many_the_first_are_shown() {
    let list: List =
        [("bytes", Value::Bytes(vec![7; 33])), ("uints", Value::Uints(vec![1; 40]))].into_iter().collect();
    let expected = format!("{{bytes: {}…(33 bytes), uints: [{}…8 more]}}", "07".repeat(32), "1, ".repeat(32));
    assert_eq!(list.to_string(), expected);
}
