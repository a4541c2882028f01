//! The parser of btrfs send streams on any bytes, and on streams whose checksums are right and whose contents are not.
//!
//! Bounds (scripts/fuzz): no single allocation over 2 MiB, 512 MiB resident in all, libFuzzer and the sanitizer included.
#![no_main]

use cowsnap::stream::btrfs::encode::Encoder;
use cowsnap::stream::btrfs::{Parser, Version};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    match input.split_first() {
        Some((b'1', rest)) => parse(&summed(Version::V1, rest)),
        Some((b'2', rest)) => parse(&summed(Version::V2, rest)),
        Some((b'3', rest)) => parse(&summed(Version::V3, rest)),
        _ => parse(input),
    }
});

/// Each command must print as one line that begins with its name.
fn parse(stream: &[u8]) {
    let mut parser = Parser::new(stream);
    while let Ok(Some(item)) = parser.next_command() {
        let line = item.command.to_string();
        assert!(!line.contains('\n') && line.starts_with(item.command.name()));
    }
}

/// A u16 command, a u16 length and a payload of that length, again and again: made into a stream with checksums.
fn summed(version: Version, mut input: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::new(version);
    while let Some((&[a, b, c, d], rest)) = input.split_first_chunk::<4>() {
        let (payload, rest) = rest.split_at(rest.len().min(u16::from_le_bytes([c, d]) as usize));
        encoder.push_raw(u16::from_le_bytes([a, b]), payload);
        input = rest;
    }
    encoder.finish()
}
