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
/// No dataset's component: snapshots and what belongs to them are kept under this name.
pub const RESERVED: &str = ".cowsnap";

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
    /// A character outside the alphabet of overlays and layers.
    #[error("the {what} {text:?} holds {found:?}; allowed are letters, digits and _ . -")]
    OverlayCharacter { what: &'static str, text: String, found: char },
    /// `.` or `..`.
    #[error("{text:?} can not be a {what}: a component may not be . or ..")]
    Dots { what: &'static str, text: String },
    /// The component where snapshots are kept.
    #[error("{text:?} can not be a dataset name: .cowsnap is where snapshots are kept")]
    Reserved { text: String },
    /// Bytes that are no text, where only a path may hold such.
    #[error("{text:?} is not UTF-8; only an absolute path may be other bytes")]
    NotText { text: String },
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

/// Whether a name, of whatever is named here, may hold it.
pub(crate) fn is_of_names(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_.:- ".contains(c)
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
    match text.chars().find(|&c| !is_of_names(c)) {
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

/// What the name of a snapshot ends with of which nobody knows yet whether somebody wrote meanwhile.
pub const UNCONFIRMED: &str = "-unconfirmed";

impl SnapshotName {
    /// Whether nobody knows yet that it is good: it is no reason for anything.
    pub fn is_unconfirmed(&self) -> bool {
        self.as_str().ends_with(UNCONFIRMED)
    }

    /// The name with `-N` behind it; its own end is cut off where that would be too long.
    #[must_use]
    pub fn numbered(&self, n: u32) -> Self {
        let number = format!("-{n}");
        let kept = self.0.len().min(MAX_COMPONENT_LEN - number.len());
        Self(format!("{}{number}", &self.0[..kept])) // a name is ASCII
    }
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
            if component == RESERVED {
                return Err(Error::Reserved { text: text.into() });
            }
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
    /// A relative path, an unknown scheme, bytes that are neither path nor text, or a text that is no dataset's name.
    pub fn parse(text: &OsStr) -> Result<Self, Error> {
        let bytes = text.as_bytes();
        if bytes.starts_with(b"/") {
            return Ok(Self::Path(PathBuf::from(text)));
        }
        let Some(text) = text.to_str() else {
            return Err(Error::NotText { text: text.to_string_lossy().into_owned() });
        };
        if let Some((scheme, _)) = text.split_once("://") {
            return match scheme {
                "ssh" | "s3" | "gs" | "az" | "file" => Ok(Self::Remote(text.into())),
                _ => Err(Error::Scheme { text: text.into() }),
            };
        }
        if text.starts_with("./") || text.starts_with("../") || text == "." || text == ".." {
            return Err(Error::Relative { text: text.into() });
        }
        Ok(Self::Dataset(text.parse()?))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// `Ok` as it is printed, or the error's text.
    fn shown<T: fmt::Display>(result: Result<T, Error>) -> String {
        result.map_or_else(|error| format!("error: {error}"), |value| value.to_string())
    }

    #[test]
    fn good_names_are_kept_as_they_are() {
        for text in ["tank", "tank/chain state", "a/b/c.d-e_f:g", "0", "...", "tank/.hidden", "-x"] {
            assert_eq!(text.parse::<DatasetName>().unwrap().as_str(), text);
        }
        for text in ["20261120T020000Z", "before v2.1", "a:b", "-", &"x".repeat(MAX_COMPONENT_LEN)] {
            assert_eq!(text.parse::<SnapshotName>().unwrap().as_str(), text);
            assert_eq!(String::from(text.parse::<HoldTag>().unwrap()), text);
        }
    }

    #[test]
    fn bad_dataset_names_say_what_is_wrong() {
        let table = [
            ("", r#"the dataset name in "" is empty"#),
            ("/", r#"the dataset name in "/" is empty"#),
            ("tank/", r#"the dataset name in "tank/" is empty"#),
            ("tank//a", r#"the dataset name in "tank//a" is empty"#),
            ("tank/..", r#"".." can not be a dataset name: a component may not be . or .."#),
            ("./tank", r#""." can not be a dataset name: a component may not be . or .."#),
            (
                "tank/.cowsnap",
                r#""tank/.cowsnap" can not be a dataset name: .cowsnap is where snapshots are kept"#,
            ),
            ("tank@now", r#""tank@now" names a snapshot where a dataset is needed"#),
            ("tank/ä", r#"the dataset name "ä" holds 'ä'; allowed are letters, digits, space and _ . : -"#),
            ("a\nb", r#"the dataset name "a\nb" holds '\n'; allowed are letters, digits, space and _ . : -"#),
            ("a\0", r#"the dataset name "a\0" holds '\0'; allowed are letters, digits, space and _ . : -"#),
        ];
        for (text, message) in table {
            assert_eq!(shown(text.parse::<DatasetName>()), format!("error: {message}"));
        }
        let long = "a/".repeat(MAX_DATASET_LEN / 2) + "bc";
        let message = "error: the dataset name is 256 bytes long; at most 255 are possible";
        assert_eq!(shown(long.parse::<DatasetName>()), message);
    }

    #[test]
    fn bad_snapshot_names_and_tags_say_what_is_wrong() {
        let longest = "x".repeat(MAX_COMPONENT_LEN).parse::<SnapshotName>().expect("a name").numbered(2);
        assert_eq!(longest.as_str().parse(), Ok(longest));
        let long = "x".repeat(MAX_COMPONENT_LEN + 1);
        let table = [
            ("", r#"the snapshot name in "" is empty"#),
            (".", r#""." can not be a snapshot name: a component may not be . or .."#),
            ("..", r#"".." can not be a snapshot name: a component may not be . or .."#),
            ("a/b", r#"the snapshot name "a/b" holds '/'; allowed are letters, digits, space and _ . : -"#),
            ("50%", r#"the snapshot name "50%" holds '%'; allowed are letters, digits, space and _ . : -"#),
            ("a@b", r#"the snapshot name "a@b" holds '@'; allowed are letters, digits, space and _ . : -"#),
            (&long, "the snapshot name is 201 bytes long; at most 200 are possible"),
        ];
        for (text, message) in table {
            assert_eq!(shown(text.parse::<SnapshotName>()), format!("error: {message}"));
            let message = message.replace("snapshot name", "hold tag");
            assert_eq!(shown(text.parse::<HoldTag>()), format!("error: {message}"));
        }
    }

    #[test]
    fn a_dataset_knows_its_pool() {
        let name: DatasetName = "tank/a/b".parse().unwrap();
        assert_eq!((name.pool(), name.within_pool()), ("tank", Some("a/b")));
        let pool: DatasetName = "tank".parse().unwrap();
        assert_eq!((pool.pool(), pool.within_pool()), ("tank", None));
    }

    #[test]
    fn targets_are_told_apart_by_how_they_begin() {
        use Target::{Dataset, Path, Remote};
        let table = [
            ("tank/a", Ok(Dataset("tank/a".parse().unwrap()))),
            ("/srv/a b\nc", Ok(Path("/srv/a b\nc".into()))),
            ("/srv/x@y", Ok(Path("/srv/x@y".into()))),
            ("ssh://u@h:22/tank/a", Ok(Remote("ssh://u@h:22/tank/a".into()))),
            ("s3://bucket/prefix", Ok(Remote("s3://bucket/prefix".into()))),
            ("file:///dir", Ok(Remote("file:///dir".into()))),
            ("ftp://h/x", Err(Error::Scheme { text: "ftp://h/x".into() })),
            ("://", Err(Error::Scheme { text: "://".into() })),
            (".", Err(Error::Relative { text: ".".into() })),
            ("../x", Err(Error::Relative { text: "../x".into() })),
            ("tank@a", Err(Error::NotADataset { text: "tank@a".into() })),
        ];
        for (text, wanted) in table {
            let found = Target::parse(OsStr::new(text));
            assert_eq!(found, wanted);
            assert_eq!(found.map(|t| t.to_string()).ok(), wanted.map(|_| text.to_owned()).ok());
        }
    }

    #[test]
    fn only_a_path_may_be_other_bytes_than_text() {
        let path = OsStr::from_bytes(b"/srv/\xff");
        assert_eq!(Target::parse(path), Ok(Target::Path(path.into())));
        for bytes in [&b"tank/\xff"[..], b"ssh://\xff"] {
            let text = OsStr::from_bytes(bytes).to_string_lossy().into_owned();
            assert_eq!(Target::parse(OsStr::from_bytes(bytes)), Err(Error::NotText { text }));
        }
    }

    #[test]
    fn snapshots_are_split_at_the_last_at() {
        let parse = |text: &[u8]| {
            SnapshotRef::parse(OsStr::from_bytes(text)).map(|s| (s.target.to_string(), s.name.0))
        };
        assert_eq!(parse(b"tank/a@now"), Ok(("tank/a".into(), "now".into())));
        assert_eq!(parse(b"/srv/a@b@c"), Ok(("/srv/a@b".into(), "c".into())));
        assert_eq!(parse(b"ssh://u@h/tank@c"), Ok(("ssh://u@h/tank".into(), "c".into())));
        for text in ["tank", "/srv/a@b/c", ""] {
            assert_eq!(parse(text.as_bytes()), Err(Error::NotASnapshot { text: text.into() }));
        }
        assert!(matches!(parse(b"tank@\xff"), Err(Error::NotASnapshot { .. })));
        assert!(matches!(parse(b"tank@"), Err(Error::Empty { what: "snapshot name", .. })));
        assert!(matches!(parse(b"@now"), Err(Error::Empty { what: "dataset name", .. })));
        assert!(matches!(parse(b"tank@a@b"), Err(Error::NotADataset { .. })));
    }

    #[test]
    fn a_name_pads_in_a_column() {
        let name: SnapshotName = "a".parse().unwrap();
        assert_eq!(format!("[{name:>3}]"), "[  a]");
    }
}
