//! Reads the keys that a command line names: in files, or (public ones) as they are; and makes new ones.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;

use crate::stream::crypt::{Encryption, Identity, Recipient};
use crate::stream::sign::{PUBLIC_PREFIX, PublicKey, SECRET_PREFIX, SigningKey, Trusted};
use crate::{Error, Result};

/// The longest file of keys that is read, in bytes.
const MAX_FILE_LEN: u64 = 1 << 20;

/// How age's secret keys begin.
const IDENTITY_PREFIX: &str = "AGE-SECRET-KEY-";

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
        expect_no_secret(Path::new(one))?;
        match one.starts_with(PUBLIC_PREFIX) {
            true => keys.push(one.parse::<PublicKey>().map_err(|why| usage(why.to_string()))?),
            false => {
                let path = Path::new(one);
                keys.extend(PublicKey::parse_file(&text_of(path)?).map_err(|why| bad(path, why))?);
            }
        }
    }
    Ok((!given.is_empty()).then(|| Trusted::new(keys)))
}

/// The recipients in `given`, each of which is one (`age1…`) or the file that holds several.
///
/// # Errors
/// As [`signing_key`].
pub fn recipients(given: &[String]) -> Result<Vec<Recipient>> {
    let mut all = Vec::new();
    for one in given {
        let path = Path::new(one);
        expect_no_secret(path)?;
        match one.parse::<Recipient>() {
            Ok(recipient) => all.push(recipient),
            Err(why) if one.to_ascii_lowercase().starts_with("age") && !path.exists() => {
                return Err(usage(format!("{}: {why}", shortened(one))));
            }
            Err(_) => all.extend(Recipient::parse_file(&text_of(path)?).map_err(|why| bad(path, why))?),
        }
    }
    Ok(all)
}

/// What encrypts for the recipients in `given`; `None` if nothing is given.
///
/// # Errors
/// As [`signing_key`]; too many of them.
pub fn encryption(given: &[String]) -> Result<Option<Encryption>> {
    let all = recipients(given)?;
    let made = (!given.is_empty()).then(|| Encryption::to(&all)).transpose();
    made.map_err(|error| usage(error.to_string()))
}

/// The identities in several files of `cowsnap keygen --kind encrypt` or `age-keygen`.
///
/// # Errors
/// As [`signing_key`].
pub fn identities(paths: &[PathBuf]) -> Result<Vec<Identity>> {
    let mut all = Vec::new();
    for path in paths {
        all.extend(Identity::parse_file(&text_of(path)?).map_err(|why| bad(path, why))?);
    }
    Ok(all)
}

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// To sign, and to verify with its public half.
    Sign,
    /// To decrypt, and to encrypt for its public half.
    Encrypt,
}

/// A key that was made.
#[derive(Debug, Clone, Serialize)]
pub struct Made {
    /// What for.
    pub kind: Kind,
    /// The file with its secret half.
    pub secret_file: String,
    /// The file with its public half.
    pub public_file: String,
    /// Its public half.
    pub public: String,
}

/// Where the public half of the key in `path` stands.
pub fn public_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}

/// Makes a key: the secret half in `path`, which nobody else may read, the public half in `path.pub`. Neither file may be there.
///
/// # Errors
/// Files that are there, or can not be written. Then neither is left.
pub fn generate(path: &Path, kind: Kind, now: Timestamp) -> Result<Made> {
    let (secret, public) = match kind {
        Kind::Sign => {
            let key = SigningKey::generate();
            (key.to_secret_text(), key.public().to_string())
        }
        Kind::Encrypt => {
            let identity = Identity::generate();
            (identity.to_secret_text(), identity.recipient().to_string())
        }
    };
    let public_file = public_path(path);
    // As age-keygen writes it.
    let now = now.strftime("%Y-%m-%dT%H:%M:%SZ");
    let secret = format!("# created: {now}\n# public key: {public}\n{secret}\n");
    create(&public_file, 0o644, &format!("{public}\n"))?;
    if let Err(error) = create(path, 0o600, &secret) {
        drop(std::fs::remove_file(&public_file));
        return Err(error);
    }
    let (secret_file, public_file) = (path.display().to_string(), public_file.display().to_string());
    Ok(Made { kind, secret_file, public_file, public })
}

/// Writes a file that is not there yet, down to the disk.
fn create(path: &Path, mode: u32, text: &str) -> Result<()> {
    let failed = |error| Error::io("create", path.display())(error);
    let file = File::options().write(true).create_new(true).mode(mode).open(path);
    let mut file = file.map_err(failed)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.and_then(|()| sync_folder_of(path)).map_err(|error| {
        drop(std::fs::remove_file(path));
        failed(error)
    })
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// Not more of it than names it: it may be a secret.
fn shortened(text: &str) -> String {
    text.chars().take(8).chain("…".chars()).collect()
}

/// Refuses a secret that was given where the file that holds it, or a public key, belongs: errors show the names of files.
fn expect_no_secret(given: &Path) -> Result<()> {
    let given = given.to_string_lossy().trim_start().to_ascii_lowercase();
    let secrets = [IDENTITY_PREFIX, SECRET_PREFIX];
    match secrets.iter().find(|prefix| given.starts_with(&prefix.to_ascii_lowercase())) {
        None => Ok(()),
        Some(prefix) => {
            let what = format!(
                "a secret key ({prefix}…) stands on the command line, where others see it: name the file that holds it, and make a new one"
            );
            Err(usage(what))
        }
    }
}

fn text_of(path: &Path) -> Result<String> {
    expect_no_secret(path)?;
    let failed = Error::io("read", path.display());
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE_LEN + 1).read_to_string(&mut text));
    match read {
        Ok(_) if text.len() as u64 > MAX_FILE_LEN => Err(bad(path, "it is longer than 1 MiB")),
        Ok(_) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(bad(path, "it is no text")),
        Err(error) => Err(failed(error)),
    }
}

fn bad(path: &Path, why: impl std::fmt::Display) -> Error {
    usage(format!("{}: {why}", path.display()))
}

fn usage(what: String) -> Error {
    Error::Usage { what, hint: Some("cowsnap keygen FILE makes a key, and FILE.pub".into()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_that_was_made_is_read_again_and_nobody_else_may_read_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let (sign, encrypt) = (folder.path().join("s"), folder.path().join("e"));
        let now = Timestamp::UNIX_EPOCH;
        let made = generate(&sign, Kind::Sign, now).expect("made");
        assert_eq!(signing_key(&sign).expect("read").public().to_string(), made.public);
        let given = [made.public.clone(), made.public_file.clone()];
        let trusted = trusted(&given).expect("read").expect("given");
        assert_eq!(trusted.keys().len(), 2);
        assert_eq!(trusted.keys()[0], trusted.keys()[1]);
        let made = generate(&encrypt, Kind::Encrypt, now).expect("made");
        assert_eq!(
            identities(std::slice::from_ref(&encrypt)).expect("read")[0].recipient().to_string(),
            made.public
        );
        let both = recipients(&[made.public.clone(), made.public_file]).expect("read");
        assert!(both.iter().all(|one| one.to_string() == made.public) && both.len() == 2);
        for path in [sign, encrypt] {
            let mode = std::fs::metadata(&path).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let before = std::fs::read(&path).expect("read");
            assert!(generate(&path, Kind::Sign, now).is_err(), "a key is not replaced");
            assert!(std::fs::read(&path).expect("read") == before);
        }
    }

    #[test]
    fn nothing_is_left_of_a_key_whose_files_are_there_in_part() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("k");
        std::fs::write(&path, "another's").expect("written");
        assert!(generate(&path, Kind::Sign, Timestamp::UNIX_EPOCH).is_err());
        assert!(!public_path(&path).exists());
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "another's");
    }

    #[test]
    fn a_secret_given_for_a_public_key_is_refused_and_not_shown() {
        let identity = Identity::generate().to_secret_text();
        let signer = SigningKey::generate().to_secret_text();
        for secret in [&identity, &signer, &identity.to_lowercase(), &format!(" {signer}")] {
            let (given, files) = (std::slice::from_ref(secret), [PathBuf::from(secret)]);
            for error in [
                recipients(given).map(drop),
                encryption(given).map(drop),
                trusted(given).map(drop),
                signing_key(&files[0]).map(drop),
                signing_keys(&files).map(drop),
                identities(&files).map(drop),
            ] {
                let error = error.expect_err("a secret");
                assert_eq!(error.class(), crate::Class::Usage);
                let shown = error.to_string().to_lowercase();
                let (identity, signer) = (identity.to_lowercase(), signer.to_lowercase());
                assert!(!shown.contains(&identity[20..30]) && !shown.contains(&signer[30..40]), "{shown}");
            }
        }
        assert!(trusted(&[]).expect("nothing").is_none());
        assert!(encryption(&[]).expect("nothing").is_none());
    }
}
