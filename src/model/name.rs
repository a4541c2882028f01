//! Names, parsed once at the edge: whoever holds one of these types holds a valid name.
//!
//! One alphabet serves every backend: what ZFS accepts in a component, `[A-Za-z0-9_.:-]` and the space.
//! Paths of the local filesystem are not names; they are bytes, and stay [`PathBuf`]s.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest dataset name in bytes (ZFS: `ZFS_MAX_DATASET_NAME_LEN` less its NUL).
pub const MAX_DATASET_LEN: usize = 255;
/// The longest snapshot name or hold tag in bytes, so that a file beside a snapshot can carry its name.
pub const MAX_COMPONENT_LEN: usize = 200;

/// Why a text is not a name.
#[expect(missing_docs, reason = "each variant's text names its fields")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing stands where a name is needed.
    #[error("the {what} in {text:?} is empty")]
    Empty { what: &'static str, text: String },
    /// A character outside the alphabet.
    #[error("the {what} {text:?} holds {found:?}; allowed are letters, digits, space and _ . : -")]
    Character { what: &'static str, text: String, found: char },
    /// `.` or `..`.
    #[error("{text:?} can not be a {what}: a component may not be . or ..")]
    Dots { what: &'static str, text: String },
    /// Longer than every backend can store.
    #[error("the {what} is {len} bytes long; at most {max} are possible")]
    TooLong { what: &'static str, len: usize, max: usize },
    /// A dataset was needed and a snapshot was named.
    #[error("{text:?} names a snapshot where a dataset is needed")]
    NotADataset { text: String },
    /// A snapshot was needed and a dataset was named.
    #[error("{text:?} names no snapshot: TARGET@NAME is needed")]
    NotASnapshot { text: String },
    /// A relative path such as `./x`.
    #[error("{text:?} is a relative path: a dataset is POOL/NAME, a directory is an absolute path")]
    Relative { text: String },
    /// An address whose scheme is unknown.
    #[error("{text:?} has an unknown scheme; known are ssh, s3, gs, az and file")]
    Scheme { text: String },
}

fn check_component(what: &'static str, text: &str, max: usize) -> Result<(), Error> {
    if text.is_empty() {
        return Err(Error::Empty { what, text: text.into() });
    }
    if text.len() > max {
        return Err(Error::TooLong { what, len: text.len(), max });
    }
    if text == "." || text == ".." {
        return Err(Error::Dots { what, text: text.into() });
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.:- ".contains(c);
    match text.chars().find(|&c| !allowed(c)) {
        Some(found) => Err(Error::Character { what, text: text.into(), found }),
        None => Ok(()),
    }
}

macro_rules! text_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self, Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

text_name! {
    /// A dataset of a pool: `tank/chainstate`. At least the pool's name; components separated by `/`.
    DatasetName
}
text_name! {
    /// What stands after the `@` of a snapshot.
    SnapshotName
}
text_name! {
    /// Who keeps a snapshot: `release-2.1`, `cowsnap:job:chainstate`.
    HoldTag
}

impl FromStr for DatasetName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_DATASET_LEN {
            return Err(Error::TooLong { what: "dataset name", len: text.len(), max: MAX_DATASET_LEN });
        }
        if text.contains('@') {
            return Err(Error::NotADataset { text: text.into() });
        }
        for component in text.split('/') {
            check_component("dataset name", component, MAX_DATASET_LEN).map_err(|error| match error {
                Error::Empty { what, .. } => Error::Empty { what, text: text.into() },
                other => other,
            })?;
        }
        Ok(Self(text.into()))
    }
}

impl DatasetName {
    /// The pool: what stands before the first `/`.
    pub fn pool(&self) -> &str {
        self.0.split('/').next().unwrap_or(&self.0)
    }

    /// What stands after the pool's name; `None` for the pool itself.
    pub fn within_pool(&self) -> Option<&str> {
        self.0.split_once('/').map(|(_, rest)| rest)
    }
}

impl FromStr for SnapshotName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        check_component("snapshot name", text, MAX_COMPONENT_LEN)?;
        Ok(Self(text.into()))
    }
}

impl FromStr for HoldTag {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        check_component("hold tag", text, MAX_COMPONENT_LEN)?;
        Ok(Self(text.into()))
    }
}

/// Where data lives: a dataset of a pool, a directory, or somewhere else on the network.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// `tank/chainstate`
    Dataset(DatasetName),
    /// `/srv/chain`: always absolute, any bytes.
    Path(PathBuf),
    /// `ssh://…`, `s3://…`, `gs://…`, `az://…`, `file:///…`
    Remote(String),
}

impl Target {
    /// Reads a target as the command line gives it.
    ///
    /// # Errors
    /// A relative path, an unknown scheme, or a text that is no dataset's name.
    pub fn parse(text: &OsStr) -> Result<Self, Error> {
        let bytes = text.as_bytes();
        if bytes.starts_with(b"/") {
            return Ok(Self::Path(PathBuf::from(text)));
        }
        let lossy = text.to_string_lossy().into_owned();
        if let Some((scheme, _)) = lossy.split_once("://") {
            return match scheme {
                "ssh" | "s3" | "gs" | "az" | "file" => Ok(Self::Remote(lossy)),
                _ => Err(Error::Scheme { text: lossy }),
            };
        }
        if lossy.starts_with("./") || lossy.starts_with("../") || lossy == "." || lossy == ".." {
            return Err(Error::Relative { text: lossy });
        }
        Ok(Self::Dataset(lossy.parse()?))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dataset(name) => write!(f, "{name}"),
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Remote(address) => f.write_str(address),
        }
    }
}

/// `TARGET@NAME`, split at the last `@`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SnapshotRef {
    /// Whose snapshot.
    pub target: Target,
    /// Which one.
    pub name: SnapshotName,
}

impl SnapshotRef {
    /// Reads `TARGET@NAME` as the command line gives it.
    ///
    /// # Errors
    /// No `@`, or a half that is not valid.
    pub fn parse(text: &OsStr) -> Result<Self, Error> {
        let bytes = text.as_bytes();
        let not_a_snapshot = || Error::NotASnapshot { text: text.to_string_lossy().into_owned() };
        let at = bytes.iter().rposition(|&b| b == b'@').ok_or_else(not_a_snapshot)?;
        let name = std::str::from_utf8(&bytes[at + 1..]).map_err(|_| not_a_snapshot())?;
        // A snapshot's name holds no slash: `/srv/a@b/c` is a directory below one whose name has an `@`.
        if name.contains('/') {
            return Err(not_a_snapshot());
        }
        let target = Target::parse(&OsString::from_vec(bytes[..at].to_vec()))?;
        Ok(Self { target, name: name.parse()? })
    }
}

impl fmt::Display for SnapshotRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.target, self.name)
    }
}
