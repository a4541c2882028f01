//! Paths in JSON: any bytes survive.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A path in JSON: a text where it is UTF-8, else its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PathText {
    /// UTF-8.
    Text(String),
    /// Anything else.
    Bytes {
        /// As the kernel has it.
        bytes: Vec<u8>,
    },
}

impl PathText {
    /// The path's bytes.
    pub fn as_path(&self) -> &Path {
        match self {
            Self::Text(text) => Path::new(text),
            Self::Bytes { bytes } => Path::new(OsStr::from_bytes(bytes)),
        }
    }
}

impl From<&Path> for PathText {
    fn from(path: &Path) -> Self {
        match path.to_str() {
            Some(text) => Self::Text(text.into()),
            None => Self::Bytes { bytes: path.as_os_str().as_bytes().into() },
        }
    }
}

impl From<PathText> for PathBuf {
    fn from(text: PathText) -> Self {
        match text {
            PathText::Text(text) => text.into(),
            PathText::Bytes { bytes } => OsString::from_vec(bytes).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_any_bytes_survives_json() {
        for bytes in [&b"/srv/pools"[..], b"/srv/\xff\xfe\n", b"/"] {
            let path = PathBuf::from(OsStr::from_bytes(bytes));
            let json = serde_json::to_string(&PathText::from(path.as_path())).expect("serialises");
            let back: PathText = serde_json::from_str(&json).expect("parses");
            assert_eq!(back.as_path(), path);
            assert_eq!(PathBuf::from(back), path);
        }
    }
}
