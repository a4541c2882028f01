//! Reads the keys that a command line names: in files, or (public ones) as they are.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::stream::sign::{PUBLIC_PREFIX, PublicKey, SECRET_PREFIX, SigningKey, Trusted};
use crate::{Error, Result};

/// The longest file of keys that is read, in bytes.
const MAX_FILE_LEN: u64 = 1 << 20;

/// The secret key in a file of `cowsnap keygen`.
///
/// # Errors
/// A file that can not be read, or holds something else.
pub fn signing_key(path: &Path) -> Result<SigningKey> {
    SigningKey::parse_file(&text_of(path)?).map_err(|why| bad(path, why))
}

/// The secret keys in several files.
///
/// # Errors
/// As [`signing_key`].
pub fn signing_keys(paths: &[PathBuf]) -> Result<Vec<SigningKey>> {
    paths.iter().map(|path| signing_key(path)).collect()
}

/// The public keys in `given`, each of which is a key or the file that holds several; `None` if nothing is given, and then nobody's
/// signature is asked for.
///
/// # Errors
/// As [`signing_key`].
pub fn trusted(given: &[String]) -> Result<Option<Trusted>> {
    let mut keys = Vec::new();
    for one in given {
        match one.starts_with(PUBLIC_PREFIX) || one.starts_with(SECRET_PREFIX) {
            true => keys.push(one.parse::<PublicKey>().map_err(|why| usage(why.to_string()))?),
            false => {
                let path = Path::new(one);
                keys.extend(PublicKey::parse_file(&text_of(path)?).map_err(|why| bad(path, why))?);
            }
        }
    }
    Ok((!given.is_empty()).then(|| Trusted::new(keys)))
}

fn text_of(path: &Path) -> Result<String> {
    let failed = Error::io("read", path.display());
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE_LEN + 1).read_to_string(&mut text));
    match read {
        Ok(_) if text.len() as u64 > MAX_FILE_LEN => Err(bad(path, "it is longer than 1 MiB")),
        Ok(_) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => Err(bad(path, "it is no text")),
        Err(error) => Err(failed(error)),
    }
}

fn bad(path: &Path, why: impl std::fmt::Display) -> Error {
    usage(format!("{}: {why}", path.display()))
}

fn usage(what: String) -> Error {
    Error::Usage { what, hint: Some("cowsnap keygen FILE makes a key, and FILE.pub".into()) }
}
