//! What an import of a layer reads, on any bytes: the archive, `layer.json`, the manifest, maps of blocks.
//!
//! Bounds (scripts/fuzz): no single allocation over 8 MiB, 512 MiB resident in all, libFuzzer and the sanitizer included.
#![no_main]

use std::io::Read;

use cowsnap::endpoint::overlay::layer::LayerRecord;
use cowsnap::endpoint::overlay::layer::manifest;
use cowsnap::endpoint::overlay::layer::map::BlockMap;
use cowsnap::stream::tar::Reader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    match input.split_first() {
        Some((b'M', rest)) => lines(rest),
        Some((b'B', rest)) => map(rest),
        Some((b'J', rest)) => record(rest),
        _ => archive(input),
    }
});

/// An entry has as much data as it says, and no more is taken of the input than there is.
fn archive(input: &[u8]) {
    let mut reader = Reader::new(input);
    while let Ok(Some(member)) = reader.entry() {
        let mut data = Vec::new();
        let read = (&mut reader).take(input.len() as u64 + 1).read_to_end(&mut data);
        assert!(read.is_err() || data.len() as u64 <= member.stored());
        if let Some(ranges) = &member.ranges {
            assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start));
            assert!(ranges.last().is_none_or(|last| last.end <= member.size));
        }
    }
    assert!(reader.position() <= input.len() as u64);
}

/// There is one way to write each entry, and none leads out.
fn lines(input: &[u8]) {
    let Ok(lines) = manifest::parse(input) else { return };
    assert_eq!(manifest::to_text(&lines).as_bytes(), input);
    for line in lines {
        assert!(!line.path.starts_with(b"/") && line.path.split(|&byte| byte == b'/').all(|part| part != b".."));
    }
}

fn map(input: &[u8]) {
    let Ok(map) = BlockMap::parse(input) else { return };
    assert_eq!(BlockMap::parse(&map.to_bytes()), Ok(map));
}

fn record(input: &[u8]) {
    let Ok(record) = LayerRecord::parse(input) else { return };
    assert_eq!(LayerRecord::parse(record.to_text().as_bytes()).ok(), Some(record));
}
