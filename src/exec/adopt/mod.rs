//! Copying a plain directory into a dataset so that it can be believed: with owners, modes, extended attributes, times,
//! flags, hard links, holes and special files; hashed while it is read, and read again from where it was written.
//!
//! What is copied is written down as it goes ([`journal`]), so an interrupted copy goes on where it stopped.

pub mod copy;
pub mod flags;
pub mod journal;
pub mod scan;
pub mod verify;

pub use copy::copy;
pub use journal::Journal;
pub use scan::{Entry, Kind, Tree, scan};
pub use verify::{unchanged, verify};

/// Bytes read or written at a time.
const CHUNK: usize = 1 << 20;
