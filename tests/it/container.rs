//! The container: round trips, golden files, and every kind of damage.

use std::collections::BTreeMap;
use std::io::Read;

use cowsnap::stream::container::{Backend, Header};
use cowsnap::stream::reader::Reader;
use cowsnap::stream::writer::{self, Options};

fn header() -> Header {
    Header {
        backend: Backend::Btrfs,
        dataset: "tank/chainstate".into(),
        snapshot: "20261120T020000Z".parse().unwrap(),
        guid: "00112233445566778899aabbccddeeff".parse().unwrap(),
        base: None,
        created: "2026-11-20T02:00:00Z".parse().unwrap(),
        stream_version: 2,
        compressed: false,
        properties: BTreeMap::new(),
    }
}

fn mixed(len: usize) -> Vec<u8> {
    (0..len).map(|n| if (n >> 19) % 2 == 0 { n as u8 } else { blake3_byte(n) }).collect()
}

fn blake3_byte(n: usize) -> u8 {
    (n as u64)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(23)
        .wrapping_mul(0xbf58_476d_1ce4_e5b9)
        .to_be_bytes()[1]
}

#[test]
fn what_is_written_is_read_and_its_root_is_the_plain_blake3() {
    let level = Some(3);
    for (len, level) in [(0, level), (1, None), (1 << 20, level), ((1 << 20) + 1, None), (7_654_321, level)] {
        let bytes = mixed(len);
        let mut out = Vec::new();
        let sealed = writer::write(&header(), &bytes[..], &mut out, &Options { level, threads: 2 }).unwrap();
        assert_eq!(sealed.root, blake3::hash(&bytes));
        assert_eq!(sealed.container_len, out.len() as u64);
        let mut reader = Reader::open(std::io::Cursor::new(out)).unwrap();
        assert_eq!(*reader.header(), header());
        let mut back = Vec::new();
        reader.read_to_end(&mut back).unwrap();
        assert!(back == bytes, "length {len}");
        assert_eq!(reader.sealed(), Some(&sealed));
    }
}
