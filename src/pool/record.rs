//! What is written down of a pool.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::endpoint::{Error, Result};
use crate::model::{Guid, PathText, quoted};
use crate::pool::image;
use crate::sys;

/// A registered pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// What its datasets' names begin with.
    pub name: String,
    /// The file that holds the filesystem.
    pub image: PathBuf,
    /// Where its top-level subvolume is mounted while it is.
    pub mountpoint: PathBuf,
    /// The uuid of the filesystem, chosen before the image was made.
    pub fsid: Guid,
    /// The options that it is mounted with, as `mount -o` takes them.
    pub options: String,
    /// When it was made.
    pub created: jiff::Timestamp,
}

impl Pool {
    /// Whether this pool, and no other filesystem, is mounted at its mount point.
    pub fn is_mounted(&self) -> bool {
        fsid_at(&self.mountpoint).is_ok_and(|fsid| fsid == Some(self.fsid))
    }

    /// By how many bytes the image can still grow where it lies; `None` if there is room for all of it, or nobody can say.
    pub fn room(&self) -> Option<u64> {
        let whole = std::fs::metadata(&self.image).ok()?.len();
        let missing = whole.saturating_sub(image::real_bytes(&self.image)?);
        image::host_free(&self.image).ok().filter(|free| *free < missing)
    }

    /// Where the pool's top level is to be reached now.
    ///
    /// # Errors
    /// [`Error::Refused`] if the pool is not mounted, with the command that mounts it.
    pub fn ready(&self) -> Result<&Path> {
        if self.is_mounted() {
            return Ok(&self.mountpoint);
        }
        Err(Error::Refused {
            op: "use pool",
            subject: self.name.clone(),
            why: format!("it is not mounted at {}", self.mountpoint.display()),
            hint: Some(format!("cowsnap pool mount {}", quoted(&self.name))),
        })
    }
}

/// The uuid of the btrfs filesystem at `path`; `None` if another kind of filesystem is there.
pub(crate) fn fsid_at(path: &Path) -> io::Result<Option<Guid>> {
    let folder = File::open(path)?;
    if rustix::fs::fstatfs(&folder)?.f_type as i64 != sys::btrfs::SUPER_MAGIC {
        return Ok(None);
    }
    Ok(Some(Guid(sys::btrfs::fs_info(folder.as_fd())?.fsid)))
}

/// Whether `name` can be a file's name here: not empty, no `/`, and short enough to be given an ending.
pub(crate) fn is_component(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    !bytes.is_empty() && bytes.len() <= crate::model::name::MAX_COMPONENT_LEN && !bytes.contains(&b'/')
}

/// A [`Pool`] as it is written down: the mount point follows from the state directory.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    format: u32,
    name: String,
    image: PathText,
    fsid: Guid,
    options: String,
    created: jiff::Timestamp,
}

/// The version of [`Record`] that this program reads and writes.
const FORMAT: u32 = 1;

impl Record {
    pub(super) fn of(pool: &Pool) -> Self {
        Self {
            format: FORMAT,
            name: pool.name.clone(),
            image: pool.image.as_path().into(),
            fsid: pool.fsid,
            options: pool.options.clone(),
            created: pool.created,
        }
    }

    /// The pool that it describes, or why it is none.
    pub(super) fn into_pool(self, name: &str, mountpoint: PathBuf) -> Result<Pool, String> {
        if self.format != FORMAT {
            return Err(format!("it has format {}; this program knows {FORMAT}", self.format));
        }
        if self.name != name {
            return Err(format!("it describes pool {:?}", self.name));
        }
        Ok(Pool {
            name: self.name,
            image: self.image.into(),
            mountpoint,
            fsid: self.fsid,
            options: self.options,
            created: self.created,
        })
    }
}
