//! The ZFS send stream, one record at a time, and the tokens that resume one (`kernel-notes/zfs.md` has the layout).
//!
//! A stream is a row of records of 312 bytes, some with data behind them: BEGIN first, END last. Its numbers are in the
//! byte order of the machine that sent it. Each record but BEGIN ends with the fletcher-4 checksum of all bytes before it.

mod begin;
pub mod encode;
mod error;
mod features;
mod fletcher;
pub mod nvlist;
mod order;
pub mod resume;

pub use begin::{Begin, Flags, Kind};
pub use error::{Error, Result};
pub use features::{Feature, Features};
pub use order::ByteOrder;

/// The length of a record in bytes, without the data behind it.
pub const RECORD_LEN: usize = 312;
/// The longest name of a snapshot, `DATASET@SNAPSHOT`, in bytes.
pub const MAX_NAME_LEN: usize = 255;
/// The longest list behind a BEGIN record that is read, in bytes. Those of single streams have a few hundred; redacted
/// ones, eight more for each snapshot that they were redacted against.
pub const MAX_BEGIN_PAYLOAD: u32 = nvlist::MAX_LEN as u32;

/// What a stream calls something. What is not UTF-8 is escaped.
fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.escape_ascii().to_string(),
    }
}
