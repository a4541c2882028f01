//! What changed between two versions, whoever found it out.

use std::fmt;

use serde::Serialize;

/// How a path changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// `D`: it is gone.
    Destroyed,
    /// `R`: it is called otherwise now. What is below a directory is not told again.
    Renamed,
    /// `A`: it is new.
    Added,
    /// `T`: what is there now is of another type.
    Retyped,
    /// `M`: its bytes were written to, or another of the same type is in its place.
    Modified,
    /// `m`: only owners, mode, attributes or times changed. A directory's times do not count.
    Metadata,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Destroyed => "D",
            Self::Renamed => "R",
            Self::Added => "A",
            Self::Retyped => "T",
            Self::Modified => "M",
            Self::Metadata => "m",
        })
    }
}

/// One change. Paths are relative to the dataset's root, which itself is `.`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Where it is in the newer version; for what is gone, where it was in the older one.
    pub path: Vec<u8>,
    /// How it changed.
    pub kind: Kind,
    /// Where it was before it was renamed.
    pub from: Option<Vec<u8>>,
}
