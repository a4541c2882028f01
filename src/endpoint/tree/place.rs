//! From a path to the directory that it names, and to where its versions are kept.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::endpoint::btrfs::store::key_of;
use crate::endpoint::tree::home::path_of;
use crate::endpoint::tree::store::{Base, STORE_DIR, is_inside};
use crate::endpoint::{Error, Result};
use crate::sys::mount;

/// Whether the store beside `path` has versions of a directory of that name.
pub fn has_history(path: &Path) -> bool {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return false };
    parent.join(STORE_DIR).join(path_of(&key_of(Path::new(name)))).is_dir()
}

/// The directory that the versions are kept in, and the name of the tree there: `None` if it is that directory itself.
pub(super) fn find(path: &Path) -> Result<(Base, Option<OsString>)> {
    let real = real_path(path)?;
    if is_inside(&real) {
        return Err(Error::Foreign {
            subject: path.display().to_string(),
            wanted: "dataset",
            why: "it is where snapshots are kept; name a snapshot as TARGET@NAME".into(),
            hint: Some("cowsnap list".into()),
        });
    }
    match (real.parent(), real.file_name()) {
        (Some(parent), Some(name)) if !is_mount_point(&real, parent)? => {
            Ok((Base::open(parent)?, Some(name.to_owned())))
        }
        _ => Ok((Base::open(&real)?, None)),
    }
}

/// Without symbolic links; what is named need not be there, but the directory above it.
fn real_path(path: &Path) -> Result<PathBuf> {
    match path.canonicalize() {
        Ok(real) if real.is_dir() => return Ok(real),
        Ok(_) => return Err(no_directory(path)),
        Err(error) if error.raw_os_error() == Some(libc::ENOTDIR) => return Err(no_directory(path)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io("open", path.display())(error)),
    }
    let missing = || Error::NotFound { what: "directory", subject: path.display().to_string(), hint: None };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(missing()) };
    match parent.canonicalize() {
        Ok(real) if real.is_dir() => Ok(real.join(name)),
        _ => Err(missing()),
    }
}

/// Whether what is seen at `path` is another mount than what is seen at `parent`.
fn is_mount_point(path: &Path, parent: &Path) -> Result<bool> {
    let id = |path: &Path| {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(Error::io("open", path.display()))?;
        mount::mount_id(fd.as_fd()).map_err(Error::io("examine", path.display()))
    };
    match path.exists() {
        true => Ok(id(path)? != id(parent)?),
        false => Ok(false),
    }
}

/// A file, or something below one.
pub(super) fn no_directory(path: &Path) -> Error {
    Error::Foreign {
        subject: path.display().to_string(),
        wanted: "dataset",
        why: "it is no directory; a file is snapshotted with the dataset that it is in".into(),
        hint: Some("cowsnap list".into()),
    }
}
