//! Containers of version 1 that were written once, and are read for ever (tests/golden/README.md).

use std::path::{Path, PathBuf};

use cowsnap::stream::container::{Backend, Header};
use cowsnap::stream::crypt::Identity;
use cowsnap::stream::reader::Keys;
use cowsnap::stream::sign::{SigningKey, Trusted};
use cowsnap::stream::writer::Options;

use super::sealed::{encryption, golden_identity, keys, outline, read_with, write_with};
use super::{FRAME, header, read, stored, write, zstd};

struct Golden {
    name: &'static str,
    header: Header,
    stream: Vec<u8>,
    options: Options,
    /// The plain blake3 of the file, so that nobody changes it unnoticed.
    file: &'static str,
}

fn lines(len: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for n in 0u32.. {
        if out.len() >= len {
            break;
        }
        out.extend(format!("line {n} of a golden file, {}\n", n.wrapping_mul(2_654_435_761)).bytes());
    }
    out.truncate(len);
    out
}

fn zeros_and_lines(len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    out[FRAME - 100..FRAME + 100].copy_from_slice(&lines(200));
    out
}

fn increment() -> Header {
    let properties = [("compression", "zstd"), ("label", "before the fork ⑂"), ("note", "")];
    Header {
        backend: Backend::Zfs,
        dataset: "tank/node one/chainstate".into(),
        snapshot: "20261121T030000Z-1".parse().unwrap(),
        guid: "0000000000000000fedcba9876543210".parse().unwrap(),
        base: Some("00000000000000000123456789abcdef".parse().unwrap()),
        created: "1969-12-31T23:59:59.123456789Z".parse().unwrap(),
        stream_version: 1,
        compressed: false,
        properties: properties.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        zfs: None,
        place: None,
    }
}

fn all() -> Vec<Golden> {
    let packed = Options { level: Some(3), threads: 2 };
    let golden = |name, header, stream, options, file| Golden { name, header, stream, options, file };
    vec![
        golden("empty", header(), Vec::new(), stored(), EMPTY),
        golden("byte", header(), vec![0x42], stored(), BYTE),
        golden("stored", header(), lines(FRAME + 1000), stored(), STORED),
        golden("zstd", header(), zeros_and_lines(2 * FRAME + FRAME / 2), packed, ZSTD),
        golden("increment", increment(), lines(3000), stored(), INCREMENT),
    ]
}

const EMPTY: &str = "80f6cfa94273087f6e1b27b8e51bf78d1fe705e1e4aea299587d72f7b80b8878";
const BYTE: &str = "25d072138beef77465c3d7e3b104fc694ceb9187e82bb16d33cc3819d518cc7b";
const STORED: &str = "2ffdf71287e2b4173de5b06d4c4d90b3ebf482df2c945a774a377545b13908ce";
const ZSTD: &str = "f47508c4ca9d815431d033db586ccc6309ba9e099daab03b69650d44ae40bae3";
const INCREMENT: &str = "14bd121da3cecda894e0096fa22dbd65c35bdb2425cad6d14114b4dad6c13d5a";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn load(golden: &Golden) -> Vec<u8> {
    let path = folder().join(format!("v1-{}.cowsnap", golden.name));
    if std::env::var_os("COWSNAP_MAKE_GOLDEN").is_some() && !path.exists() {
        let (container, _) = write(&golden.header, &golden.stream, &golden.options);
        std::fs::write(&path, container).unwrap();
    }
    std::fs::read(&path).unwrap()
}

#[test]
fn every_golden_file_is_read() {
    let loaded: Vec<_> = all().into_iter().map(|golden| (load(&golden), golden)).collect();
    for (container, golden) in loaded {
        let hash = blake3::hash(&container).to_hex();
        assert_eq!(hash.as_str(), golden.file, "tests/golden/v1-{}.cowsnap was changed", golden.name);
        let (header, stream, sealed) = read(&container).unwrap();
        assert_eq!(header, golden.header);
        assert_eq!(sealed.root, blake3::hash(&golden.stream));
        assert!(stream == golden.stream, "{}", golden.name);
    }
}

#[test]
fn the_writer_still_writes_the_stored_ones_byte_for_byte() {
    for golden in all().into_iter().filter(|golden| golden.options.level.is_none()) {
        let (container, _) = write(&golden.header, &golden.stream, &golden.options);
        assert!(container == load(&golden), "{}", golden.name);
    }
}

fn golden_signer() -> SigningKey {
    SigningKey::from_seed([42; 32])
}

/// The file, made by `make` if it is missing and may be made.
fn load_or_make(name: &str, make: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
    let path = folder().join(format!("v1-{name}.cowsnap"));
    if std::env::var_os("COWSNAP_MAKE_GOLDEN").is_some() && !path.exists() {
        std::fs::write(&path, make()).unwrap();
    }
    std::fs::read(&path).unwrap()
}

/// `b3sum --check B3SUMS` says the same.
fn assert_is_as_ever(name: &str, container: &[u8]) {
    let sums = std::fs::read_to_string(folder().join("B3SUMS")).unwrap();
    let line = format!("{}  v1-{name}.cowsnap", blake3::hash(container).to_hex());
    assert!(sums.lines().any(|sum| sum == line), "tests/golden/v1-{name}.cowsnap was changed: {line}");
}

#[test]
fn the_signed_golden_file_is_read_and_still_written_byte_for_byte() {
    let stream = lines(3000);
    let write = || write_with(&increment(), &stream, &stored(), None, &[golden_signer()]).0;
    let container = load_or_make("signed", write);
    assert_is_as_ever("signed", &container);
    assert!(container == write());
    let trusted = Some(Trusted::new([golden_signer().public()]));
    let (back, _) = read_with(&container, &Keys { trusted, ..Keys::default() }).unwrap();
    assert!(back == stream);
    assert_eq!(read(&container).unwrap().0, increment());
}

#[test]
fn the_encrypted_golden_file_is_read_by_its_recipient_and_checked_by_everybody() {
    let stream = zeros_and_lines(2 * FRAME + FRAME / 2);
    let identity = golden_identity();
    let container = load_or_make("encrypted", || {
        let by = encryption(&[&Identity::generate(), &identity]);
        write_with(&header(), &stream, &zstd(), Some(&by), &[golden_signer()]).0
    });
    assert_is_as_ever("encrypted", &container);
    let trusted = Some(Trusted::new([golden_signer().public()]));
    let (back, sealed) = read_with(&container, &Keys { trusted, ..keys(&[&identity]) }).unwrap();
    assert!(back == stream && sealed.root == blake3::hash(&stream));
    assert_eq!(outline(&container).unwrap().signers, [golden_signer().public()]);
}
