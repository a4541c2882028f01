//! Why bytes are no ZFS send stream; every offset counts bytes from the start of the input.

use std::io;

use super::{RECORD_LEN, nvlist};

/// What reading a stream returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why bytes are no ZFS send stream that this reader can read.
#[expect(missing_docs, reason = "each variant's text names its fields")]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No stream at all.
    #[error("not a ZFS send stream: it does not begin with a BEGIN record")]
    Magic,
    /// Several streams within one, as `zfs send -R` and `-p` write them.
    #[error(
        "a package of ZFS streams (zfs send -R or -p), of which cowsnap reads none: send one snapshot without them"
    )]
    Compound,
    /// Made for something newer, or by something very old.
    #[error("the ZFS send stream needs what no receiver known to this cowsnap has: {}", names.join(", "))]
    Features { names: Vec<String> },
    /// A record with a field that can not be.
    #[error("the {record} record at byte {offset} has the {field} {value}, which can not be")]
    Malformed { offset: u64, record: &'static str, field: &'static str, value: u64 },
    /// The list behind BEGIN can not be read.
    #[error("the list behind the BEGIN record, at byte {RECORD_LEN}, can not be read")]
    List {
        #[source]
        source: nvlist::Error,
    },
    /// A record of a type that there is none of.
    #[error("the record at byte {offset} has the unknown type {number}")]
    UnknownRecord { offset: u64, number: u32 },
    /// A second BEGIN.
    #[error("a second BEGIN record stands at byte {offset}")]
    SecondBegin { offset: u64 },
    /// More data than the format's largest block; nothing of that length has been allocated.
    #[error("the {record} record at byte {offset} claims {len} bytes of data; at most {max} are possible")]
    TooLong { offset: u64, record: &'static str, len: u64, max: u64 },
    /// Bytes have changed before or in this record.
    #[error(
        "the bytes up to the {record} record at byte {offset} have another fletcher-4 checksum than it says"
    )]
    Checksum { offset: u64, record: &'static str },
    /// It ends too early.
    #[error("the ZFS send stream ends at byte {offset}, within {what}")]
    Truncated { offset: u64, what: &'static str },
    /// Something follows the end.
    #[error("bytes follow the end of the ZFS send stream, at byte {offset}")]
    Trailing { offset: u64 },
    /// BEGIN and END are of different snapshots.
    #[error("the END record at byte {offset} is of the snapshot {found:016x}, the stream of {expected:016x}")]
    Guid { offset: u64, expected: u64, found: u64 },
    /// Not the stream that a receive was broken off in.
    #[error(
        "the ZFS send stream has no record, or none in its order, where the receive that was broken off stopped"
    )]
    Point,
    /// It was read on after an error.
    #[error("the ZFS send stream could not be read further after an earlier error")]
    Spent,
    /// The input failed.
    #[error("cannot read the ZFS send stream at byte {offset}")]
    Io {
        offset: u64,
        #[source]
        source: io::Error,
    },
}
