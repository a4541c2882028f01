//! The container's layout: prelude, header, records (docs/FORMAT.md).
//!
//! **Invariant:** bytes in memory only. [`super::writer`] and [`super::reader`] move them.

pub mod error;
pub mod fields;
pub mod header;
pub mod record;
pub mod tree;
pub mod zfs;

pub use error::{Error, Place, Result};
pub use header::{Backend, Header};
pub use record::{Head, Kind};
pub use tree::{BadPrefix, Piece, Prefix};
pub use zfs::{ResumePoint, ZfsFlags, ZfsKind, ZfsStream};

/// The format's version that is written.
pub const VERSION: u32 = 1;
/// What every container begins with.
pub const MAGIC: [u8; 12] = *b"\x89COWSNAP\r\n\x1a\n";
/// What every container ends with.
pub const END: [u8; 4] = *b"\x89END";
/// Bytes of the prelude.
pub const PRELUDE_LEN: usize = 32;
/// Bytes of the header's hash.
pub const HASH_LEN: usize = 32;
/// The longest header, without its hash.
pub const MAX_HEADER_LEN: usize = 256 << 10;
/// Bytes of the stream in every frame but the last.
pub const FRAME_LEN: usize = 1 << 20;
/// The longest payload of a frame of a kind that this version does not know.
pub const MAX_PAYLOAD_LEN: usize = FRAME_LEN + (64 << 10);
/// The longest payload of a trailer.
pub const MAX_TRAILER_LEN: usize = 64 << 10;
/// Bytes after the trailer's payload.
pub const TAIL_LEN: usize = 8;

/// The hash of a header, which keys all seals of its container.
pub type HeaderHash = [u8; HASH_LEN];

/// What a container turned out to carry, known when its trailer has been written or checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    /// The plain blake3 of the stream.
    pub root: blake3::Hash,
    /// Bytes of the stream.
    pub len: u64,
    /// Frames that carry it.
    pub frames: u64,
    /// Bytes of the container, from its magic to its end.
    pub container_len: u64,
}
