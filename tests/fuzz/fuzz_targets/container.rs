//! The container's readers on any bytes, and on containers whose checks are right and whose contents are not.
//!
//! Bounds (scripts/fuzz): no single allocation over 4 MiB, 512 MiB resident in all, libFuzzer and the sanitizer included.
#![no_main]

use std::io::{Cursor, Read};

use cowsnap::stream::container::header::header_hash;
use cowsnap::stream::container::record::HEAD_LEN;
use cowsnap::stream::container::{Head, MAGIC};
use cowsnap::stream::reader::{Frames, Keys, Reader, Step};
use cowsnap::stream::sign::{SigningKey, Trusted};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    match input.split_first() {
        Some((b'S', rest)) => read_one_by_one(&sealed(rest)),
        Some((b'T', rest)) => read_ahead(sealed(rest)),
        Some((b'O', rest)) => outline(sealed(rest)),
        Some((b'K', rest)) => read_with_keys(&sealed(rest)),
        _ => {
            read_one_by_one(input);
            read_with_keys(input);
        }
    }
});

/// For whom tests/golden/v1-encrypted.cowsnap is, and who signed it.
fn keys() -> Keys {
    let identity = "AGE-SECRET-KEY-178EL8HKR2Q5HPZGP4RXDM7Z3DND9AR7E0388THCA4TK6KU8WCHYS8FRELR";
    Keys {
        identities: vec![identity.parse().expect("a key of age's")],
        trusted: Some(Trusted::new([SigningKey::from_seed([42; 32]).public()])),
    }
}

/// Without keys: what anybody can check of an encrypted container, and of one that is not.
fn outline(container: Vec<u8>) {
    let len = container.len() as u64;
    if let Ok((_, outline)) = Reader::outline(Cursor::new(container), &Keys::default(), |_| {}) {
        assert_eq!(outline.container_len, len);
    }
}

/// Envelopes, encrypted frames and signatures. What it calls verified is signed, and has the root that it names.
fn read_with_keys(container: &[u8]) {
    let Ok(mut frames) = Frames::open_by(container, &keys()) else { return };
    let mut hasher = blake3::Hasher::new();
    while let Ok(step) = frames.step() {
        match step {
            Step::Frame(frame) => {
                hasher.update(frame.bytes());
                frames.recycle(frame);
            }
            Step::End(sealed) => return assert_eq!(sealed.root, hasher.finalize()),
        }
    }
}

/// What it calls verified must have the root that it names.
fn read_one_by_one(container: &[u8]) {
    let Ok(mut frames) = Frames::open(container) else { return };
    let mut hasher = blake3::Hasher::new();
    let mut len = 0;
    while let Ok(step) = frames.step() {
        match step {
            Step::Frame(frame) => {
                hasher.update(frame.bytes());
                len += frame.bytes().len() as u64;
                frames.recycle(frame);
            }
            Step::End(sealed) => {
                assert_eq!((sealed.root, sealed.len), (hasher.finalize(), len));
                assert_eq!(sealed.container_len, container.len() as u64);
                return;
            }
        }
    }
}

fn read_ahead(container: Vec<u8>) {
    let Ok(mut reader) = Reader::open_with(Cursor::new(container), 1) else { return };
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 70_000];
    while let Ok(len) = reader.read(&mut buffer) {
        if len == 0 {
            assert_eq!(reader.sealed().map(|sealed| sealed.root), Some(hasher.finalize()));
            return;
        }
        hasher.update(&buffer[..len]);
    }
}

/// A u16 length and a header of that length, then heads with their payloads: made into a container by putting the right
/// check, hash and seals in, so that what lies behind them is reached.
fn sealed(input: &[u8]) -> Vec<u8> {
    let Some((len, rest)) = input.split_first_chunk::<2>() else { return input.to_vec() };
    let (header, mut rest) = rest.split_at(rest.len().min(u16::from_le_bytes(*len) as usize));
    let mut out = MAGIC.to_vec();
    out.extend(1u32.to_le_bytes());
    out.extend((header.len() as u32).to_le_bytes());
    let check = blake3::derive_key("cowsnap container prelude", &out);
    out.extend(&check[..12]);
    out.extend(header);
    let key = header_hash(&out);
    out.extend(key);
    while let Some((head, after)) = rest.split_first_chunk::<HEAD_LEN>() {
        let head = Head::from_bytes(*head);
        let (payload, after) = after.split_at(after.len().min(head.payload_len()));
        out.extend(head.seal(&key, payload).as_bytes());
        out.extend(payload);
        rest = after;
    }
    out.extend(rest);
    out
}
