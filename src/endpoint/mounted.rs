//! Versions made visible at directories, read-only: mounts that undo themselves, whatever the backend.

use std::path::{Path, PathBuf};

use crate::endpoint::btrfs::store::STORE_DIR;
use crate::endpoint::{Error, Result, tree};
use crate::model::quoted;
use crate::sys::mount::{self, MountInfo};

/// A version made visible at a directory, until this is dropped.
#[derive(Debug)]
pub struct Mount {
    dir: PathBuf,
    kept: bool,
}

impl Mount {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, kept: false }
    }

    /// Where.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Leaves it there for good: [`unmount`] takes it away.
    pub fn keep(mut self) {
        self.kept = true;
    }

    /// Unmounts it and says whether that went well.
    ///
    /// # Errors
    /// [`Error::Refused`] while something uses it.
    pub fn close(mut self) -> Result<()> {
        self.kept = true;
        unmount(&self.dir)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if let Err(error) = unmount_lazily(&self.dir) {
            tracing::warn!(dir = %self.dir.display(), %error, "a mount stays behind");
        }
    }
}

pub(super) fn no_directory(error: std::io::Error, dir: &Path) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => Error::NotFound {
            what: "directory",
            subject: dir.display().to_string(),
            hint: Some(format!("mkdir -p {}", quoted(dir.display()))),
        },
        _ => Error::io("mount at", dir.display())(error),
    }
}

pub(super) fn not_allowed(error: std::io::Error, op: &'static str, subject: &str) -> Error {
    match error.raw_os_error() {
        Some(libc::EPERM) => Error::Denied {
            op,
            subject: subject.into(),
            lacking: "CAP_SYS_ADMIN is needed to mount".into(),
            hint: Some("run it as root; in a container, add the capability SYS_ADMIN".into()),
        },
        _ => Error::io(op, subject)(error),
    }
}

/// Unmounts the version that is mounted at `dir`.
///
/// # Errors
/// [`Error::NotFound`] if nothing is mounted there; [`Error::Refused`] if it is not ours, or in use.
pub fn unmount(dir: &Path) -> Result<()> {
    let dir = our_mount(dir)?;
    mount::unmount(&dir).map_err(|error| match error.raw_os_error() {
        Some(libc::EBUSY) => Error::Refused {
            op: "unmount",
            subject: dir.display().to_string(),
            why: "something uses it".into(),
            hint: Some(format!("fuser -vm {0}, or cowsnap unmount --lazy {0}", quoted(dir.display()))),
        },
        _ => not_allowed(error, "unmount", &dir.display().to_string()),
    })
}

/// Takes the version that is mounted at `dir` out of sight at once; it goes when its last user does.
///
/// # Errors
/// [`Error::NotFound`] if nothing is mounted there; [`Error::Refused`] if it is not ours.
pub fn unmount_lazily(dir: &Path) -> Result<()> {
    let dir = our_mount(dir)?;
    mount::unmount_lazily(&dir).map_err(|error| not_allowed(error, "unmount", &dir.display().to_string()))
}

/// The directory without links, if a version is the topmost mount there.
fn our_mount(dir: &Path) -> Result<PathBuf> {
    let dir = dir.canonicalize().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => no_mount(dir),
        _ => Error::io("unmount", dir.display())(error),
    })?;
    let mounts = mount::mounts().map_err(Error::io("read", "the table of mounts"))?;
    let found = mounts.iter().rfind(|m| m.dir == dir).ok_or_else(|| no_mount(&dir))?;
    if is_of_a_version(found) {
        return Ok(dir);
    }
    Err(Error::Refused {
        op: "unmount",
        subject: dir.display().to_string(),
        why: format!("it is a mount of {}, not of a snapshot", found.source.display()),
        hint: Some(format!("umount {}", quoted(dir.display()))),
    })
}

fn no_mount(dir: &Path) -> Error {
    Error::NotFound { what: "a mount at", subject: dir.display().to_string(), hint: None }
}

/// Whether what is mounted is a snapshot: on btrfs one in the store, on ZFS what is called DATASET@NAME, of a plain directory
/// what is kept beside it.
fn is_of_a_version(info: &MountInfo) -> bool {
    if info.root.iter().any(|component| component == tree::STORE_DIR) {
        return true;
    }
    match info.kind.as_str() {
        "btrfs" => info.root.starts_with(Path::new("/").join(STORE_DIR)),
        "zfs" => info.source.to_string_lossy().contains('@'),
        _ => false,
    }
}
