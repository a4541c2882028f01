//! What there is to ask of ZFS beyond what every backend is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::endpoint::zfs::notes::Note;
use crate::stream::container::ZfsFlags;

/// How to send.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SendOptions {
    /// How the stream is made. `None`: as the stream that brought the base, if that is known; otherwise raw if the
    /// dataset is encrypted, and with large, embedded and compressed blocks if not.
    pub flags: Option<ZfsFlags>,
    /// The token of a receive that was broken off: only what it lacks is sent.
    pub resume: Option<String>,
    /// Nothing that is encrypted goes out readable, whatever is asked.
    pub sealed: bool,
}

/// How to receive.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReceiveOptions {
    /// A new dataset gets the properties that came with the stream, but for those that could do harm here.
    pub take_properties: bool,
    /// Properties that are set here, over what the stream or cowsnap says.
    pub set: BTreeMap<String, String>,
    /// Properties that are left as they are, whatever the stream or cowsnap says.
    pub leave: BTreeSet<String>,
    /// If the target went another way than the source: set it aside as `TARGET.conflict-TIME`, and receive in its place.
    pub keep_conflict: bool,
    /// A dataset that is made by it is not live before it is put in place.
    pub restoring: bool,
    /// Keep nothing of a stream that is broken off, instead of what a resumption needs.
    pub keep_no_partial: bool,
    /// If a receive of the same stream was broken off: apply what it lacks, out of the whole stream, and note on the way where that is.
    pub go_on: Option<GoOn>,
}

/// How a receive that was broken off goes on with a stream that is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoOn {
    /// The digest of the container that the stream is in: only what was begun of that same one goes on.
    pub container: String,
    /// The file in which it is noted where the stream goes on.
    pub notes: PathBuf,
    /// Where what is read begins; `None` at the stream's beginning.
    pub behind: Option<Box<Note>>,
}
