//! Records: small files that are replaced whole, or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::endpoint::{Error, Result};

/// A record longer than this is none.
const MAX_RECORD: u64 = 1 << 20;

/// Reads a small file whole; `None` if there is none.
pub(crate) fn read_record(path: &Path) -> Result<Option<Vec<u8>>> {
    let length = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(Error::io("read", path.display()))?.len(),
    };
    if length > MAX_RECORD {
        return Err(Error::Corrupt {
            what: "record",
            why: format!("{} is {length} bytes long; at most {MAX_RECORD} are possible", path.display()),
            source: None,
        });
    }
    fs::read(path).map(Some).map_err(Error::io("read", path.display()))
}

/// As [`read_record`]; what the disk does not give back as it was written is as damaged as a text that makes no sense.
///
/// # Errors
/// [`Error::Corrupt`] for that: a checksum that does not match, a bad sector, something that is no file.
pub(crate) fn read_damageable(path: &Path, what: &'static str) -> Result<Option<Vec<u8>>> {
    const OF_DAMAGE: [i32; 4] = [libc::EIO, libc::EUCLEAN, libc::EBADMSG, libc::EISDIR];
    read_record(path).map_err(|error| match error {
        Error::Io { source, .. } if source.raw_os_error().is_some_and(|code| OF_DAMAGE.contains(&code)) => {
            let why = format!("{}: {source}", path.display());
            Error::Corrupt { what, why, source: Some(Box::new(source)) }
        }
        other => other,
    })
}

/// Puts `text` at `path` so that after a power cut either the old file is there or the new one, whole.
pub(crate) fn replace_file(path: &Path, text: &[u8]) -> Result<()> {
    replace(path, text, File::sync_all)?;
    sync_folder(path.parent().unwrap_or(Path::new("/")))
}

/// Puts `text` at `path` so that after a kill either the old file is there or the new one, whole. After a power cut there
/// may be neither.
pub(crate) fn replace_file_unsynced(path: &Path, text: &[u8]) -> Result<()> {
    replace(path, text, |_| Ok(()))
}

fn replace(path: &Path, text: &[u8], finish: impl FnOnce(&File) -> io::Result<()>) -> Result<()> {
    let staging = path.with_extension(format!("tmp{}", std::process::id()));
    let write = || -> io::Result<()> {
        let mut file =
            OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&staging)?;
        file.write_all(text)?;
        finish(&file)?;
        fs::rename(&staging, path)
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&staging);
        Error::io("write", path.display())(error)
    })
}

/// Makes the names in a directory last through a power cut.
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(Error::io("sync", path.display()))
}
