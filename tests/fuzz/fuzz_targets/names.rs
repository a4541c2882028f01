//! Names and targets from any bytes: what is taken prints as what is taken again.
//!
//! Bounds (scripts/fuzz): no single allocation over 2 MiB, 512 MiB resident in all, libFuzzer and the sanitizer included.
#![no_main]

use std::ffi::OsStr;
use std::fmt::Display;
use std::os::unix::ffi::OsStrExt;
use std::str::FromStr;

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
    let Ok(text) = std::str::from_utf8(input) else { return };
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

fn reads_back<T: FromStr + Display + PartialEq + std::fmt::Debug>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string().parse::<T>().ok().as_ref(), Some(&value));
    }
}
