//! A snapshot that a stream has brought to a target.

use serde::Serialize;

use crate::model::{Guid, SnapshotName};

/// What was brought.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Moved {
    /// Its name.
    pub snapshot: SnapshotName,
    /// Its identity.
    pub guid: Guid,
    /// What it builds upon; `None` if it is full.
    pub base: Option<Guid>,
    /// Bytes of the whole stream.
    pub stream_bytes: u64,
    /// Bytes of it that were there already, from a transfer that was broken off.
    pub resumed_bytes: u64,
    /// Bytes that travelled.
    pub wire_bytes: u64,
    /// The stream's blake3, as it was checked at the target.
    pub blake3: String,
    /// How long it took.
    pub seconds: f64,
    /// To how many targets the same stream went.
    pub targets: usize,
}
