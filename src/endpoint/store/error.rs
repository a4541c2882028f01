//! What can go wrong with a store.

use std::io;

use crate::error::Class;
use crate::model::BadStoreUrl;

/// What may not be there: where objects are.
pub(super) const BUCKET: &str = "the bucket";
/// The same, as Azure calls it.
pub(super) const CONTAINER: &str = "the container";

/// Why a store can not do what it was asked. No text of it holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A text that is no store's address.
    #[error(transparent)]
    Url(#[from] BadStoreUrl),
    /// A key that no object may have.
    #[error("{key:?} can not be an object's key: {why}")]
    Key {
        /// The key.
        key: String,
        /// Why not.
        why: &'static str,
    },
    /// What the store is to be reached with can not be used.
    #[error("cannot open {url}: {why}")]
    Options {
        /// The store.
        url: String,
        /// What is wrong.
        why: String,
        /// What would help.
        hint: Option<String>,
    },
    /// There is no such object, or no such bucket.
    #[error("cannot {op} {subject}: {what} does not exist")]
    NotFound {
        /// What was attempted.
        op: &'static str,
        /// On what.
        subject: String,
        /// `the object`, `the bucket` …
        what: &'static str,
    },
    /// The store does not let us.
    #[error("cannot {op} {subject}")]
    Denied {
        /// What was attempted.
        op: &'static str,
        /// On what.
        subject: String,
        /// What the store said.
        #[source]
        source: Cause,
        /// What would help.
        hint: Option<String>,
    },
    /// The store could not be reached, or was not able to, for as long as was waited.
    #[error("cannot {op} {subject}, tried {tries} times in {seconds} s")]
    Unreachable {
        /// What was attempted.
        op: &'static str,
        /// On what.
        subject: String,
        /// How often.
        tries: u32,
        /// For how long.
        seconds: u64,
        /// What happened the last time.
        #[source]
        source: Cause,
    },
    /// A signal asked the work to stop.
    #[error("interrupted while trying to {op} {subject}")]
    Interrupted {
        /// What was attempted.
        op: &'static str,
        /// On what.
        subject: String,
        /// Which signal.
        #[source]
        source: io::Error,
    },
    /// What the store answers is not what it has to be.
    #[error("cannot {op} {subject}: {why}")]
    Corrupt {
        /// What was attempted.
        op: &'static str,
        /// On what.
        subject: String,
        /// What is wrong.
        why: String,
    },
    /// An object is longer than what is read of its kind.
    #[error("cannot {op} {subject}: it is {len} bytes long, of at most {max}")]
    TooLong {
        /// What was attempted.
        op: &'static str,
        /// On what.
        subject: String,
        /// How long it is.
        len: u64,
        /// How long it may be.
        max: u64,
    },
    /// The store refuses, or can not do such a thing.
    #[error("cannot {op} {subject}")]
    Refused {
        /// What was attempted.
        op: &'static str,
        /// On what.
        subject: String,
        /// What the store said.
        #[source]
        source: Cause,
        /// What would help.
        hint: Option<String>,
    },
    /// What was to be stored could not be read.
    #[error("cannot read what is to be stored as {subject}")]
    Source {
        /// The object.
        subject: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A call to the kernel failed: a store that is a directory.
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

/// What a store or the way to it said, in words, without anything secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Cause(pub String);

impl Error {
    /// What it means for whoever runs the program.
    pub fn class(&self) -> Class {
        match self {
            Self::Url(_) | Self::Key { .. } | Self::Options { .. } | Self::NotFound { .. } => Class::Usage,
            Self::Denied { .. } => Class::Denied,
            Self::Unreachable { .. } | Self::Interrupted { .. } => Class::Unreachable,
            Self::Corrupt { .. } | Self::TooLong { .. } => Class::Corrupt,
            Self::Refused { .. } => Class::Conflict,
            Self::Source { source, .. } | Self::Io { source, .. } => crate::error::class_of_io(source),
        }
    }

    /// The command that would help, if there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Options { hint, .. } | Self::Denied { hint, .. } | Self::Refused { hint, .. } => {
                hint.clone()
            }
            Self::NotFound { what: BUCKET | CONTAINER, .. } => Some(
                "see its name and the endpoint; or make it first, with its provider's own program".into(),
            ),
            _ => None,
        }
    }

    /// Whether it says that there is no such object.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

/// For who reads an object through `Read`: [`crate::error::class_of_io`] finds it again.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::other(error)
    }
}
