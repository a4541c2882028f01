//! Names, targets, keys and manifests of archives from any bytes: what is taken prints as what is taken again.
//!
//! Bounds (scripts/fuzz): no single allocation over 2 MiB, 512 MiB resident in all, libFuzzer and the sanitizer included.
#![no_main]

use std::ffi::OsStr;
use std::fmt::Display;
use std::os::unix::ffi::OsStrExt;
use std::str::FromStr;

use cowsnap::endpoint::archive::Manifest;
use cowsnap::model::archive::{Claim, Hold, Part, Stored};
use cowsnap::model::{DatasetName, Guid, HoldTag, SnapshotName, SnapshotRef, Target};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let os = OsStr::from_bytes(input);
    if let Ok(target) = Target::parse(os) {
        comes_back(&target, os, Target::parse);
    }
    if let Ok(snapshot) = SnapshotRef::parse(os) {
        assert!(!snapshot.name.as_str().contains('@') && !snapshot.name.as_str().contains('/'));
        comes_back(&snapshot, os, SnapshotRef::parse);
    }
    if let Ok(manifest) = Manifest::parse(input) {
        assert!(manifest.to_bytes() == input);
        assert!(manifest.expect_key(&manifest.stored()).is_ok());
    }
    let Ok(text) = std::str::from_utf8(input) else { return };
    is_key(text, Stored::parse);
    is_key(text, Part::parse);
    is_key(text, Hold::parse);
    is_key(text, Claim::parse);
    reads_back::<DatasetName>(text);
    reads_back::<SnapshotName>(text);
    reads_back::<HoldTag>(text);
    reads_back::<Guid>(text);
});

/// Of bytes that are text, the printed form is read as the same again.
fn comes_back<T: Display + PartialEq + std::fmt::Debug, E: std::fmt::Debug>(
    value: &T,
    given: &OsStr,
    parse: impl Fn(&OsStr) -> Result<T, E>,
) {
    if given.to_str().is_some() {
        assert_eq!(parse(OsStr::new(&value.to_string())).as_ref().ok(), Some(value));
    }
}

/// A key that is read is the key that is written.
fn is_key<T: Display, E>(text: &str, parse: impl Fn(&str) -> Result<T, E>) {
    if let Ok(read) = parse(text) {
        assert_eq!(read.to_string(), text);
    }
}

fn reads_back<T: FromStr + Display + PartialEq + std::fmt::Debug>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string().parse::<T>().ok().as_ref(), Some(&value));
    }
}
