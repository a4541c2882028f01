//! Why bytes are no btrfs send stream; every offset counts bytes from the start of the input.

use std::io;

/// What reading a stream returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why bytes are no btrfs send stream that this reader can read.
#[expect(missing_docs, reason = "each variant's text names its fields")]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No stream at all.
    #[error("not a btrfs send stream: it does not begin with \"btrfs-stream\"")]
    Magic,
    /// Made by something newer.
    #[error(
        "the btrfs send stream at byte {offset} has version {found}: a newer cowsnap is needed (this one reads 1 to 3)"
    )]
    Version { offset: u64, found: u32 },
    /// It ends too early.
    #[error("the btrfs send stream ends at byte {offset}, within {what}")]
    Truncated { offset: u64, what: &'static str },
    /// Something follows the end that is no further stream.
    #[error("bytes that are no stream follow the end of the btrfs send stream, at byte {offset}")]
    Trailing { offset: u64 },
    /// A further stream follows where one alone is wanted.
    #[error(
        "another btrfs send stream begins at byte {offset}, and a container holds one: cut them apart there"
    )]
    Several { offset: u64 },
    /// A command longer than its version allows; nothing of that length has been allocated.
    #[error("the command at byte {offset} claims {len} bytes; at most {max} are possible")]
    TooLong { offset: u64, len: u64, max: u64 },
    /// Bytes have changed.
    #[error("the command at byte {offset} has checksum {found:08x} and says {stored:08x}")]
    Checksum { offset: u64, stored: u32, found: u32 },
    /// A command that no version up to the stream's own has.
    #[error("the command at byte {offset} has number {code}, which version {version} does not have")]
    UnknownCommand { offset: u64, code: u16, version: u32 },
    /// An attribute that no version has.
    #[error("the {command} command has an unknown attribute {code} at byte {offset}")]
    UnknownAttribute { offset: u64, command: &'static str, code: u16 },
    /// An attribute that stands twice in one command.
    #[error("the {command} command has a second {attribute} at byte {offset}")]
    RepeatedAttribute { offset: u64, command: &'static str, attribute: &'static str },
    /// An attribute that runs over its command's end.
    #[error("an attribute of the {command} command runs over its end at byte {offset}")]
    Overrun { offset: u64, command: &'static str },
    /// An attribute that the command can not do without.
    #[error("the {command} command at byte {offset} lacks its {attribute}")]
    Missing { offset: u64, command: &'static str, attribute: &'static str },
    /// An attribute of the wrong length or with a value that can not be.
    #[error("the {attribute} of the {command} command at byte {offset} {why}")]
    Malformed { offset: u64, command: &'static str, attribute: &'static str, why: &'static str },
    /// The input failed.
    #[error("cannot read the btrfs send stream at byte {offset}")]
    Io {
        offset: u64,
        #[source]
        source: io::Error,
    },
}
