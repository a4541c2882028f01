//! What can go wrong with an archive.

use super::manifest::Flaw;
use crate::endpoint::store;
use crate::error::Class;
use crate::model::archive::MAX_PARTS;
use crate::model::{Digest, VersionRef, quoted};

/// What an archive's calls return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an archive can not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// There is no archive.
    #[error("there is no archive at {url}")]
    None {
        /// Where.
        url: String,
    },
    /// There is one already.
    #[error("there is an archive at {url} already, of {dataset}")]
    Exists {
        /// Where.
        url: String,
        /// Of which dataset.
        dataset: String,
    },
    /// Its store is no place for an archive that several write to.
    #[error("{url} is no place for an archive: its store is not to be relied on: {found}")]
    Unfit {
        /// Where.
        url: String,
        /// What the store does.
        found: String,
    },
    /// It needs a later version of the program.
    #[error("the archive at {url} needs a later version of cowsnap: {why}")]
    Newer {
        /// Where.
        url: String,
        /// What is not known.
        why: String,
    },
    /// What says what the archive is, is damaged.
    #[error("{key} at {url} is no description of an archive")]
    Charter {
        /// Where.
        url: String,
        /// Which object.
        key: &'static str,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A manifest that can not be used.
    #[error("the manifest {key} at {url} can not be used")]
    Manifest {
        /// Where.
        url: String,
        /// Its key.
        key: String,
        /// What is wrong.
        #[source]
        source: Flaw,
    },
    /// A part that is not what its key says.
    #[error("the part {key} at {url} has the blake3 {found}")]
    Part {
        /// Where.
        url: String,
        /// Its key.
        key: String,
        /// What it has.
        found: Digest,
    },
    /// An object is gone, or too short or long.
    #[error("{key} at {url} {what}")]
    Object {
        /// Where.
        url: String,
        /// Which.
        key: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Somebody is destroying it.
    #[error("{version} is being destroyed at {url} by somebody else")]
    Going {
        /// Where.
        url: String,
        /// What was asked for.
        version: VersionRef,
    },
    /// Nobody could say for too long that he is at work.
    #[error("for too long it could not be said at {url} that {key} is going on")]
    Lapsed {
        /// Where.
        url: String,
        /// The claim.
        key: String,
    },
    /// The store calls a key taken under which there is nothing.
    #[error("the store of {url} says that somebody else has put {version}, and has nothing there")]
    Untold {
        /// Where.
        url: String,
        /// What was put.
        version: VersionRef,
    },
    /// A container of more parts than a manifest has room for.
    #[error(
        "the container is too long: it has more than {MAX_PARTS} parts, which is all that a manifest has room for"
    )]
    TooMany,
    /// There is no source of random numbers.
    #[error("cannot read random numbers")]
    Random(#[source] std::io::Error),
}

impl Error {
    /// What it means for whoever runs the program.
    pub fn class(&self) -> Class {
        match self {
            Self::Store(error) => error.class(),
            Self::None { .. } | Self::Newer { .. } => Class::Usage,
            Self::Manifest { source: Flaw::Newer(_), .. } => Class::Usage,
            Self::Exists { .. } | Self::Unfit { .. } | Self::TooMany => Class::Conflict,
            Self::Charter { .. } | Self::Manifest { .. } | Self::Part { .. } | Self::Object { .. } => {
                Class::Corrupt
            }
            Self::Going { .. } | Self::Lapsed { .. } | Self::Untold { .. } => Class::Unreachable,
            Self::Random(_) => Class::Denied,
        }
    }

    /// The command that would help, if there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.hint(),
            Self::None { url } => Some(format!("cowsnap archive add {} makes one", quoted(url))),
            Self::Unfit { url, .. } => Some(format!(
                "cowsnap archive add {} --single-writer, if one machine alone pushes, one push at a time",
                quoted(url)
            )),
            Self::Exists { url, .. } => Some(format!("cowsnap archive list {}", quoted(url))),
            Self::Charter { url, .. }
            | Self::Manifest { url, .. }
            | Self::Part { url, .. }
            | Self::Object { url, .. } => {
                Some(format!("cowsnap archive verify {} shows all that is damaged", quoted(url)))
            }
            Self::Going { .. } | Self::Lapsed { .. } | Self::Untold { .. } => {
                Some("the same command, again".into())
            }
            Self::TooMany => Some(
                "split the dataset, or push what changed since another version; cowsnap archive prune sweeps what was put"
                    .into(),
            ),
            Self::Newer { .. } | Self::Random(_) => None,
        }
    }
}
