//! The small files beside snapshots: labels, holds, digests. A snapshot of which nothing is said has none.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use jiff::Timestamp;
use rustix::buffer::spare_capacity;
use rustix::fs::{Mode, OFlags, XattrFlags, fgetxattr, fsetxattr, fsync, openat, renameat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::endpoint::btrfs::roots::Root;
use crate::endpoint::btrfs::store::{read_at, remove_at, write_at};
use crate::endpoint::{Error, Result, Verified};
use crate::model::{Guid, HoldTag, SentStream, SnapshotName};

/// Where a full filesystem keeps what it has no room for in the file itself; replaced with the file.
const ATTRIBUTE: &str = "user.cowsnap.meta";
/// No filesystem's attribute is longer (XATTR_SIZE_MAX).
const MAX_ATTRIBUTE: usize = 64 << 10;

/// What is said about one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Of which snapshot: a file that names another than the one beside it is of a snapshot that is gone.
    pub guid: Guid,
    /// What the user says about it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Who keeps it, and since when.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub holds: BTreeMap<HoldTag, Timestamp>,
    /// The digest of its stream that was checked here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verified>,
    /// The streams that it was sent as.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sent: Vec<SentStream>,
    /// Of which snapshot it was before that was altered, if that is said of it since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<Guid>,
    /// When its source was made, where the subvolume itself can not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// What a later cowsnap says about it: kept as it is.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

impl Meta {
    /// Nothing said yet.
    pub fn new(guid: Guid) -> Self {
        Self {
            guid,
            labels: BTreeMap::new(),
            holds: BTreeMap::new(),
            verified: None,
            sent: Vec::new(),
            was: None,
            created: None,
            other: BTreeMap::new(),
        }
    }

    /// Whether there is nothing to keep.
    pub fn is_empty(&self) -> bool {
        *self == Self::new(self.guid)
    }
}

/// The file's name in the dataset's `meta` directory.
pub(super) fn file_name(name: &SnapshotName) -> OsString {
    format!("{name}.json").into()
}

/// What is said about the snapshot `name`, which `root` is; empty if nothing is, or of another one only.
///
/// # Errors
/// [`Error::Corrupt`] for a file that is not what was written: a hold in it would be overlooked.
pub(super) fn read(dir: BorrowedFd<'_>, name: &SnapshotName, root: &Root) -> Result<Meta> {
    let found = read_any(dir, name)?.filter(|meta| root.is_meant_by(meta));
    let found = found.unwrap_or_else(|| Meta::new(root.guid()));
    Ok(Meta { guid: root.guid(), was: root.was(&found), ..found })
}

/// What the file says, of whichever snapshot; `None` if there is none.
///
/// # Errors
/// [`Error::Corrupt`] for a file that is not what was written.
pub fn read_any(dir: BorrowedFd<'_>, name: &SnapshotName) -> Result<Option<Meta>> {
    let Some(bytes) = read_bytes(dir, &file_name(name))? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| Error::Corrupt {
        what: "snapshot metadata",
        why: format!("meta/{name}.json is not what was written"),
        source: Some(Box::new(error)),
    })
}

/// Makes `meta` what is said about the snapshot `name`, on disk.
pub(super) fn write(dir: BorrowedFd<'_>, name: &SnapshotName, meta: &Meta) -> Result<()> {
    if meta.is_empty() {
        remove(dir, name)?;
        // Without this a power cut may bring back what was said.
        return fsync(dir).map_err(Error::io("write", format!("meta/{name}.json")));
    }
    let bytes = serde_json::to_vec_pretty(meta).expect("its keys are texts");
    let written = match write_at(dir, &file_name(name), &bytes) {
        Err(error) if error.kind() == io::ErrorKind::StorageFull => {
            // The error to tell is the first one: that there is no space.
            write_attribute(dir, &file_name(name), &bytes).map_err(|_| error)
        }
        other => other,
    };
    written.map_err(Error::io("write", format!("meta/{name}.json")))
}

/// The bytes of a file, or of its attribute, which was written later if it is there.
fn read_bytes(dir: BorrowedFd<'_>, file: &OsStr) -> Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut value = Vec::with_capacity(MAX_ATTRIBUTE);
    let read = openat(dir, file, flags, Mode::empty())
        .and_then(|file| fgetxattr(&file, ATTRIBUTE, spare_capacity(&mut value)));
    match read {
        Ok(_) => Ok(Some(value)),
        Err(Errno::NOENT) => Ok(None),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => read_at(dir, file),
        Err(errno) => Err(Error::io("read", Path::new(file).display())(errno)),
    }
}

/// Puts the bytes where no data block is needed: a filesystem that is full of data has room there, and who is to make
/// room must be able to say that a snapshot is no longer held (kernel-notes/btrfs-subvolumes.md).
fn write_attribute(dir: BorrowedFd<'_>, file: &OsStr, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = OsString::from("%");
    temporary.push(file);
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let (fd, is_new) = match openat(dir, file, flags, mode) {
        Err(Errno::NOENT) => (openat(dir, &temporary, flags | OFlags::CREATE | OFlags::TRUNC, mode)?, true),
        other => (other?, false),
    };
    fsetxattr(&fd, ATTRIBUTE, bytes, XattrFlags::empty())?;
    fsync(&fd)?;
    if is_new {
        renameat(dir, &temporary, dir, file)?;
        fsync(dir)?;
    }
    Ok(())
}

/// Says nothing about the snapshot `name` any more.
pub(super) fn remove(dir: BorrowedFd<'_>, name: &SnapshotName) -> Result<()> {
    remove_at(dir, &file_name(name)).map_err(Error::io("remove", format!("meta/{name}.json")))
}
