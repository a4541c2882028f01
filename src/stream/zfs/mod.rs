//! The ZFS send stream, one record at a time, and the tokens that resume one (`kernel-notes/zfs.md` has the layout).
//!
//! A stream is a row of records of 312 bytes, some with data behind them: BEGIN first, END last. Its numbers are in the
//! byte order of the machine that sent it. Each record but BEGIN ends with the fletcher-4 checksum of all bytes before it.
//!
//! ```
//! use cowsnap::stream::zfs::{Begin, ByteOrder, Features, Flags, Kind, Record, Walker, encode::Encoder};
//!
//! let begin = Begin {
//!     order: ByteOrder::Little,
//!     features: Features::default(),
//!     kind: Kind::Filesystem,
//!     flags: Flags::default(),
//!     to_guid: 7,
//!     from_guid: 0,
//!     to_name: "tank/a@b".into(),
//!     creation: 1_780_000_000,
//!     payload_len: 0,
//! };
//! let mut encoder = Encoder::new(&begin);
//! encoder.push(&Record::Free { object: 1, offset: 0, len: u64::MAX }, &[]);
//! let bytes = encoder.finish();
//! let mut walker = Walker::open(&bytes[..])?;
//! assert_eq!(walker.begin(), &begin);
//! while let Some(item) = walker.next_record()? {
//!     println!("{} {}", item.offset, item.record);
//! }
//! # Ok::<(), cowsnap::stream::zfs::Error>(())
//! ```
//!
//! **Invariant:** no length of a stream is believed before the checksum of its record has been compared and it is within the
//! format's limit, and nothing of such a length is allocated.

mod begin;
pub mod encode;
mod error;
mod features;
mod fletcher;
pub mod nvlist;
mod order;
mod record;
mod rest;
pub mod resume;
mod show;
mod summary;
mod walker;
mod whole;

pub use begin::{Begin, Flags};
pub use error::{Error, Result};
pub use features::{Feature, Features};
pub use order::ByteOrder;
pub use record::{MAX_DATA_LEN, Record};
pub use rest::{Rest, is_before, saved_at};
pub use summary::{Count, Summary};
pub use walker::{Located, Walker};
pub use whole::Whole;

pub use super::container::ZfsKind as Kind;

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
