//! The token that is asked for: read from a file that nobody else can, and never told.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::{Error, Result};

/// One, as the digest of what it is: two digests are compared in the same time whatever they are.
pub(super) struct Token(blake3::Hash);

/// So long it is, at least: 16 characters are not guessed over a network.
const MIN_LEN: usize = 16;
const MAX_LEN: usize = 4096;

impl Token {
    /// The first line of the file at `path`, which may be a link.
    ///
    /// # Errors
    /// A file that can not be read, that others may read or write, or that holds no token.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let read = || Error::io("read", path.display());
        let mut file = File::open(path).map_err(read())?;
        let meta = file.metadata().map_err(read())?;
        let wrong = |what: String, hint: String| {
            Err(Error::Usage { what: format!("{}: {what}", path.display()), hint: Some(hint) })
        };
        let make = "(umask 077; head -c 24 /dev/urandom | base64 > FILE) makes one".to_owned();
        if !meta.is_file() {
            return wrong("it is no file".into(), make);
        }
        if meta.mode() & 0o037 != 0 {
            let shell = crate::model::quoted(path.display());
            let what = format!("its mode {:o} lets others read the token, or write it", meta.mode() & 0o777);
            return wrong(what, format!("chmod 600 {shell}"));
        }
        let mut bytes = Vec::new();
        file.by_ref().take(MAX_LEN as u64 + 1).read_to_end(&mut bytes).map_err(read())?;
        let line = bytes.trim_ascii();
        if line.len() < MIN_LEN || bytes.len() > MAX_LEN || !line.iter().all(u8::is_ascii_graphic) {
            let what = format!("a token is one word of {MIN_LEN} characters at least, and {MAX_LEN} at most");
            return wrong(what, make);
        }
        Ok(Self(blake3::hash(line)))
    }

    /// Whether that is it.
    pub(super) fn is(&self, offered: &[u8]) -> bool {
        // Of digests, `==` takes the same time for all.
        blake3::hash(offered) == self.0
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::error::Class;

    #[test]
    fn a_token_is_one_long_word_of_a_file_that_others_can_not_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        let read = |text: &str, mode: u32| {
            write(&path, text).expect("written");
            set_permissions(&path, Permissions::from_mode(mode)).expect("changed");
            Token::read(&path)
        };
        let token = read("0123456789abcdef\n", 0o600).expect("good");
        assert!(token.is(b"0123456789abcdef"));
        for wrong in ["", "0123456789abcde", "0123456789abcdef\n", "0123456789abcdeF"] {
            assert!(!token.is(wrong.as_bytes()), "{wrong}");
        }
        assert!(read("0123456789abcdef", 0o640).is_ok() && read("0123456789abcdef", 0o400).is_ok());
        for mode in [0o644, 0o602, 0o620, 0o601] {
            let error = read("0123456789abcdef", mode).map(drop).expect_err("others");
            assert_eq!((error.class(), error.to_string().contains("0123")), (Class::Usage, false));
        }
        for wrong in
            ["", "\n", "0123456789abcde", "0123456789 abcdef", "0123456789abcdef\nx", "0123456789äöüßxyz"]
        {
            assert!(read(wrong, 0o600).is_err(), "{wrong:?}");
        }
        assert!(read(&"x".repeat(5000), 0o600).is_err());
        assert!(Token::read(folder.path()).is_err() && Token::read(&folder.path().join("none")).is_err());
    }
}
