//! Who holds versions: the traits that every backend implements, and what can go wrong there.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::Class;
use crate::model::{Dates, Digest, Guid, HoldTag, Inventory, SnapshotName, Version, VersionRef, quoted};
use crate::stream::container::ZfsStream;
use crate::sys::interrupt::Bell;
use crate::sys::lzc::Errno;

pub mod any;
pub mod archive;
pub mod backup;
mod beneath;
pub mod btrfs;
pub mod change;
pub mod content;
pub mod contract;
pub mod details;
pub mod dir;
pub(crate) mod each;
pub mod fake;
pub mod fault;
pub mod files;
pub mod mounted;
pub mod overlay;
pub mod path;
pub mod peer;
pub mod plain;
pub mod prunable;
pub mod record;
mod recorded;
pub mod store;
pub mod tree;
mod written;
pub mod zfs;

pub use any::{Dataset, unmount};
pub use change::Change;
pub use details::{Details, Listing, Usage};
pub use prunable::{Dying, PATIENCE, Prunable, WAIT_FOR_SPACE, Wait};

/// What an endpoint's calls return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Enough to list, keep and prune: the versions of one dataset at one place.
pub trait History {
    /// Reads what the place holds of the dataset now.
    fn inventory(&self) -> Result<Inventory>;
    /// Keeps `version` from being destroyed until the tag is released. Holding twice is holding once.
    fn hold(&self, version: &VersionRef, tag: &HoldTag) -> Result<()>;
    /// Takes the tag off. A tag that is not there is [`Error::NotFound`].
    fn release(&self, version: &VersionRef, tag: &HoldTag) -> Result<()>;
    /// Destroys `version`; refuses if it is held ([`Error::Held`]) or its name now means another ([`Error::Reused`]).
    /// Once this has returned, no power cut brings it back.
    fn destroy(&self, version: &VersionRef) -> Result<()>;
}

/// Enough to replicate.
pub trait Endpoint: History {
    /// Starts to send; the stream is read from the answer.
    fn send(&self, request: &SendRequest) -> Result<Outgoing>;
    /// Applies a stream to a staging place and, once `stream` has ended without an error, makes it a version.
    ///
    /// Reads `stream` to its end before anything becomes visible. An error of `stream`, or of applying it, leaves no
    /// version and no staging.
    fn receive(&self, request: &ReceiveRequest, stream: &mut dyn Read) -> Result<Version>;
}

/// Enough to schedule, isolate and go back.
pub trait Backend: History + Sized {
    /// A version made visible; unmounts itself when dropped.
    type Mount;

    /// Snapshots all datasets of `set` back to back. Either all of them exist afterwards or none, whatever happens.
    ///
    /// # Errors
    /// [`Error::Exists`] if one of them has a snapshot of that name.
    fn snapshot(set: &[Self], request: &SnapshotRequest) -> Result<SnapshotSet>;
    /// Makes `to` a new writable dataset with the content of `version`.
    fn clone_at(&self, version: &VersionRef, to: &Self) -> Result<()>;
    /// Makes `version` visible at the directory `dir`, read-only.
    fn mount(&self, version: &VersionRef, dir: &Path) -> Result<Self::Mount>;
    /// Gives the dataset the content of `version`. What it replaces is kept as a snapshot; no version is destroyed.
    fn rollback(&self, version: &VersionRef, request: &RollbackRequest) -> Result<RolledBack>;
}

/// What to take, over a set of datasets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRequest {
    /// The name that each of them gets.
    pub name: SnapshotName,
    /// What the user says about it.
    pub labels: BTreeMap<String, String>,
    /// Who keeps it from the start.
    pub holds: Vec<HoldTag>,
    /// Datasets that can not be taken together (ZFS: of several pools; plain directories that do not stand beside each
    /// other) are taken one after another.
    pub not_atomic: bool,
}

impl SnapshotRequest {
    /// Of that name, with nothing said about it.
    pub fn named(name: SnapshotName) -> Self {
        Self { name, labels: BTreeMap::new(), holds: Vec::new(), not_atomic: false }
    }
}

/// What was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotSet {
    /// One for each dataset, in the order asked.
    pub versions: Vec<Version>,
    /// From the first snapshot's instant to the last one's: at most this long. Zero if it was one instant.
    pub spread: Duration,
    /// Whether what each of them holds is of one instant. Where it is not, nothing changed during the spread.
    pub atomic: bool,
}

/// How to go back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RollbackRequest {
    /// The name under which the replaced content is kept; `None` makes `pre-rollback-` and the time in UTC.
    pub keep_as: Option<SnapshotName>,
    /// Take nested datasets along; each goes back too if it has a version of the same name.
    pub recursive: bool,
}

/// What going back did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RolledBack {
    /// What was replaced, kept: versions of the dataset, or of the one set aside.
    pub kept: Vec<Version>,
    /// The dataset, by label, that what was replaced is now, together with every version newer than the one gone back to.
    /// `None` where all of them stay versions of the dataset itself.
    pub aside: Option<String>,
    /// Whether what was set aside has versions newer than the one gone back to, beside what was replaced.
    pub newer_aside: bool,
    /// What was replaced of nested datasets, kept: DATASET@NAME each.
    pub kept_inside: Vec<String>,
    /// Nested datasets that were moved along, by label.
    pub moved: Vec<String>,
    /// Where a mount was exchanged for one of the new content.
    pub remounted: Vec<std::path::PathBuf>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// What else to destroy with a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DestroyDataset {
    /// Its snapshots too.
    pub snapshots: bool,
}

/// What to send, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendRequest {
    /// What to send.
    pub version: VersionRef,
    /// What the receiver has already; `None` sends in full.
    pub base: Option<VersionRef>,
    /// Other versions of this dataset that the receiver has and that may be cloned from.
    pub clone_sources: Vec<VersionRef>,
    /// The version of the filesystem's stream format; 0 takes the best that both this kernel and version 1 readers know.
    pub stream_version: u32,
    /// Pass compressed data through as it lies on disk, where the stream format can.
    pub compressed: bool,
    /// What only ZFS is asked.
    pub zfs: zfs::SendOptions,
}

/// A stream on its way out.
pub struct Outgoing {
    /// The bytes, exactly as the filesystem makes them. An error of the sender comes out of `read`.
    pub stream: Box<dyn Read + Send>,
    /// About how many bytes it will be, where that is known.
    pub estimate: Option<u64>,
    /// The properties of the dataset that travel with it.
    pub properties: BTreeMap<String, String>,
    /// More about a ZFS stream.
    pub zfs: Option<ZfsStream>,
    /// What tells the dataset that it comes from from all others, where that is known.
    pub place: Option<Digest>,
}

/// What is about to be received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiveRequest {
    /// The name that the version gets.
    pub name: SnapshotName,
    /// The identity that it must turn out to have; `None` where a raw stream does not say beforehand.
    pub guid: Option<Guid>,
    /// The base that must be here; `None` for a full stream, which it must turn out to be if `guid` is said.
    pub base: Option<Guid>,
    /// The properties that came with it.
    pub properties: BTreeMap<String, String>,
    /// What its container says about a ZFS stream.
    pub stream: Option<ZfsStream>,
    /// What its container says of the dataset that it was sent from.
    pub place: Option<Digest>,
    /// When its source was made, as far as whoever sends it says.
    pub created: Option<Timestamp>,
    /// Between when that may be, if whoever says so is not believed.
    pub dates: Option<Dates>,
    /// Whether each byte of it is verified before it can be read.
    pub is_verified: bool,
    /// What only ZFS is asked.
    pub zfs: zfs::ReceiveOptions,
    /// Keep what has come now and then, or on ZFS how the stream goes on, so that a receive that is broken off can go on.
    pub keep: Option<btrfs::Keeping>,
    /// Rung once no more of the stream is wanted: a source that stalls does not hold up the error.
    pub bell: Option<Bell>,
}

impl ReceiveRequest {
    /// A version of that name, of which nothing else is known beforehand.
    pub fn named(name: SnapshotName) -> Self {
        Self {
            name,
            guid: None,
            base: None,
            properties: BTreeMap::new(),
            stream: None,
            place: None,
            created: None,
            dates: None,
            is_verified: false,
            zfs: zfs::ReceiveOptions::default(),
            keep: None,
            bell: None,
        }
    }
}

/// A version that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrived {
    /// Which one.
    pub version: Version,
    /// What was set aside for it, by label.
    pub aside: Option<String>,
    /// The snapshot of another dataset that its dataset was made as a clone of: DATASET@NAME.
    pub origin: Option<String>,
    /// If it was the rest of a stream that came: how what came before it was checked.
    pub earlier: Option<Earlier>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

impl From<Version> for Arrived {
    fn from(version: Version) -> Self {
        Self { version, aside: None, origin: None, earlier: None, warnings: Vec::new() }
    }
}

/// A stream's digest that was checked here, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// The blake3 root of the filesystem's own stream, hexadecimal.
    pub blake3: String,
    /// The base of that stream; `None` if it was full.
    pub base: Option<Guid>,
    /// The stream's length in bytes.
    pub len: u64,
    /// When it was checked.
    pub at: Timestamp,
    /// If that stream was the rest of one that had been broken off: how what came before it was checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earlier: Option<Earlier>,
    /// Whether all that it builds upon here had come verified, too, down to a full stream or to a snapshot that was made here.
    #[serde(default)]
    pub grounded: bool,
    /// The place that it came from with all that it builds upon; `None` if these are several, or one is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Digest>,
    /// What its base had come as: the blake3 root of that stream, if all of it was checked here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upon: Option<Digest>,
}

impl Verified {
    /// Whether what is built upon it is as certain as what it came as itself.
    pub fn is_ground(&self) -> bool {
        self.grounded && self.earlier != Some(Earlier::Unknown)
    }

    /// What tells it from whatever else comes under its identity; `None` if only a part of what came is known.
    pub fn digest(&self) -> Option<Digest> {
        self.blake3.parse().ok().filter(|_| self.earlier != Some(Earlier::Unknown))
    }

    /// Where what is built upon it comes from, if that comes from the same place.
    pub fn ground_from(&self) -> Option<Digest> {
        self.from.filter(|_| self.is_ground())
    }
}

/// How the parts of a stream were checked that were applied before its rest came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Earlier {
    /// Each byte of them was verified before it was applied.
    Verified,
    /// That is not known: they came raw, or who received them was killed or is another program.
    Unknown,
}

/// Why an endpoint can not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was named is not there.
    #[error("{what} {subject} does not exist")]
    NotFound {
        /// `dataset`, `snapshot`, `hold`, `base` …
        what: &'static str,
        /// Its name.
        subject: String,
        /// The command that would help.
        hint: Option<String>,
    },
    /// What was to be made is there already.
    #[error("{what} {subject} exists already")]
    Exists {
        /// `dataset`, `snapshot`, `pool` …
        what: &'static str,
        /// Its name.
        subject: String,
        /// The command that would help.
        hint: Option<String>,
    },
    /// The version is held.
    #[error("snapshot {subject} is held by {}", tags.join(", "))]
    Held {
        /// The snapshot, with its dataset.
        subject: String,
        /// By whom.
        tags: Vec<String>,
    },
    /// The name means another version than when it was read.
    #[error("{subject} is no longer {expected}: the name was reused for {found}")]
    Reused {
        /// The name.
        subject: String,
        /// The identity that was meant.
        expected: Guid,
        /// The identity that is there.
        found: Guid,
    },
    /// It can not be done as things stand; somebody has to decide.
    #[error("cannot {op} {subject}: {why}")]
    Refused {
        /// What was attempted.
        op: &'static str,
        /// On what.
        subject: String,
        /// Why not.
        why: String,
        /// The command that would help.
        hint: Option<String>,
    },
    /// The target went another way than the source since the version that both have.
    #[error("cannot {op} {subject}: it went another way since {since}")]
    Diverged {
        /// What was attempted.
        op: &'static str,
        /// On what.
        subject: String,
        /// What both have, and what happened to the target since.
        since: Box<zfs::Since>,
        /// The command that would help.
        hint: Option<String>,
    },
    /// The target is not what this backend serves.
    #[error("{subject} is not a {wanted}: {why}")]
    Foreign {
        /// What was named.
        subject: String,
        /// What would be needed.
        wanted: &'static str,
        /// What it is instead.
        why: String,
        /// The command that would help.
        hint: Option<String>,
    },
    /// Bytes of a stream, or of what is stored, are not what they should be.
    #[error("corrupt {what}: {why}")]
    Corrupt {
        /// `btrfs stream`, `container` …
        what: &'static str,
        /// Where and how.
        why: String,
        /// What noticed it.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The machine or the user's rights lack something.
    #[error("cannot {op} {subject}: {lacking}")]
    Denied {
        /// What was attempted.
        op: &'static str,
        /// On what.
        subject: String,
        /// What is missing.
        lacking: String,
        /// What to grant or install.
        hint: Option<String>,
    },
    /// The work was interrupted from outside.
    #[error("interrupted while trying to {op} {subject}")]
    Interrupted {
        /// What was attempted.
        op: &'static str,
        /// On what.
        subject: String,
    },
    /// A peer could not do it, or is gone.
    #[error("{place}: {what}")]
    Remote {
        /// Which peer.
        place: String,
        /// What it says.
        what: String,
        /// What that means.
        class: Class,
        /// The command that would help.
        hint: Option<String>,
    },
    /// Some of it was done before the error, some not.
    #[error("{what}")]
    Halfway {
        /// How much of what.
        what: String,
        /// What ended it.
        #[source]
        source: Box<Error>,
    },
    /// A store of objects refused or failed.
    #[error(transparent)]
    Store(Box<store::Error>),
    /// A call of ZFS failed.
    #[error("cannot {op} {subject}")]
    Zfs {
        /// What was attempted.
        op: &'static str,
        /// On what.
        subject: String,
        /// Why it failed.
        #[source]
        source: Errno,
    },
    /// A call to the kernel failed.
    #[error("cannot {op} {subject}")]
    Io {
        /// What was attempted.
        op: &'static str,
        /// On what.
        subject: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Self::Store(Box::new(error))
    }
}

impl Error {
    /// Wraps what the kernel said: `.map_err(Error::io("open", path.display()))`.
    pub fn io<S: ToString, E: Into<io::Error>>(op: &'static str, subject: S) -> impl FnOnce(E) -> Self {
        let subject = subject.to_string();
        move |source| Self::Io { op, subject, source: source.into() }
    }

    /// What it means for whoever runs the program.
    pub fn class(&self) -> Class {
        match self {
            Self::NotFound { .. } | Self::Foreign { .. } => Class::Usage,
            Self::Exists { .. }
            | Self::Held { .. }
            | Self::Reused { .. }
            | Self::Refused { .. }
            | Self::Diverged { .. } => Class::Conflict,
            Self::Corrupt { .. } => Class::Corrupt,
            Self::Denied { .. } => Class::Denied,
            Self::Interrupted { .. } => Class::Unreachable,
            Self::Remote { class, .. } => *class,
            Self::Halfway { .. } => Class::Partial,
            Self::Store(error) => error.class(),
            Self::Zfs { source, .. } => source.class(),
            Self::Io { source, .. } => crate::error::class_of_io(source),
        }
    }

    /// The command that would help, if there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { hint, .. }
            | Self::Exists { hint, .. }
            | Self::Refused { hint, .. }
            | Self::Diverged { hint, .. }
            | Self::Foreign { hint, .. }
            | Self::Remote { hint, .. }
            | Self::Denied { hint, .. } => hint.clone(),
            Self::Held { subject, tags } => {
                tags.first().map(|tag| format!("cowsnap release {} {}", quoted(tag), quoted(subject)))
            }
            Self::Halfway { source, .. } => source.hint(),
            Self::Store(error) => error.hint(),
            Self::Io { source, .. } => hint_for(source),
            Self::Reused { .. } | Self::Corrupt { .. } | Self::Interrupted { .. } | Self::Zfs { .. } => None,
        }
    }
}

fn hint_for(source: &io::Error) -> Option<String> {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => Some("run it as root (CAP_SYS_ADMIN)".into()),
        Some(libc::ENOSPC) => Some("cowsnap pool grow POOL SIZE, or destroy what is no longer needed".into()),
        Some(libc::ELOOP) => Some("name it by a path without symbolic links".into()),
        Some(libc::EROFS) => Some("mount the filesystem read-write: mount -o remount,rw MOUNTPOINT".into()),
        _ => None,
    }
}
