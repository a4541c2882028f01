//! What the store holds of one dataset: `datasets/<key>/{dataset,snap,meta}`.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::io::Errno;

use crate::endpoint::btrfs::dataset::Dataset;
use crate::endpoint::btrfs::roots::Root;
use crate::endpoint::btrfs::staging::{Intent, Staging};
use crate::endpoint::btrfs::store::{Store, key_of, open_beneath, rename_new, write_at};
use crate::endpoint::dir::{try_lock, wait_for_lock};
use crate::endpoint::{Error, Result};
use crate::model::{SnapshotName, VersionRef, quoted};
use crate::sys::btrfs;

/// A dataset's directories in the store.
#[derive(Debug)]
pub(super) struct Home {
    dir: OwnedFd,
    snap: OwnedFd,
    meta: OwnedFd,
}

/// The sole right to change what the store holds of a dataset, until it is dropped.
#[derive(Debug)]
pub(super) struct Locked(Home);

impl std::ops::Deref for Locked {
    type Target = Home;
    fn deref(&self) -> &Home {
        &self.0
    }
}

impl Home {
    /// Opens it; `None` if the dataset has no history.
    pub(super) fn open(store: &Store, key: &str) -> Result<Option<Self>> {
        let Some(dir) = store.open_in_store(Path::new("datasets").join(key))? else { return Ok(None) };
        let part = |name: &str| open_beneath(dir.as_fd(), Path::new(name)).map_err(store.io("open", name));
        let (snap, meta) = (part("snap")?, part("meta")?);
        Ok(Some(Self { dir, snap, meta }))
    }

    /// Takes the sole right to change it for as long as it is open, unless somebody else has it.
    pub(super) fn try_lock(&self) -> std::io::Result<bool> {
        try_lock(&self.dir)
    }

    /// Says whose history this is.
    pub(super) fn record_path(&self, path: &Path) -> std::io::Result<()> {
        write_at(self.dir.as_fd(), OsStr::new("dataset"), path.as_os_str().as_bytes())
    }

    /// The directory of the snapshots.
    pub(super) fn snap(&self) -> BorrowedFd<'_> {
        self.snap.as_fd()
    }

    /// The directory of what is said about them.
    pub(super) fn meta(&self) -> BorrowedFd<'_> {
        self.meta.as_fd()
    }

    /// The snapshot `name`, opened; `None` if there is none.
    pub(super) fn snapshot(&self, name: &OsStr) -> Result<Option<OwnedFd>> {
        match open_beneath(self.snap(), Path::new(name)) {
            Ok(fd) => Ok(Some(fd)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("open", Path::new(name).display())(error)),
        }
    }
}

impl Dataset {
    /// The name of the dataset's directory in the store.
    pub(super) fn key(&self) -> String {
        key_of(self.path())
    }

    /// The dataset's directories; `None` if it has no history.
    pub(super) fn home(&self) -> Result<Option<Home>> {
        Home::open(self.store(), &self.key())
    }

    /// The dataset's directories, for the caller alone; `None` if it has no history.
    pub(super) fn locked(&self) -> Result<Option<Locked>> {
        loop {
            let Some(home) = self.home()? else { return Ok(None) };
            wait_for_lock(&home.dir, &self.to_string())?;
            // It may have been renamed or destroyed while we waited.
            let path = Path::new(".cowsnap/datasets").join(self.key());
            let now = rustix::fs::statat(self.store().top(), &path, rustix::fs::AtFlags::empty());
            let ours = rustix::fs::fstat(&home.dir).map_err(self.store().io("examine", self))?;
            if now.is_ok_and(|now| now.st_ino == ours.st_ino) {
                return Ok(Some(Locked(home)));
            }
        }
    }

    /// The dataset's directories, for the caller alone, made if they are not there.
    pub(super) fn locked_or_made(&self) -> Result<Locked> {
        loop {
            match self.locked()? {
                Some(home) => return Ok(home),
                None => self.make_home()?,
            }
        }
    }

    fn make_home(&self) -> Result<()> {
        let datasets = self.store().make_in_store("datasets")?;
        let staging = Staging::new(self.store(), &Intent::Prepare)?;
        let make = |name: &str| rustix::fs::mkdirat(staging.fd(), name, Mode::RWXU);
        let path = self.path().as_os_str().as_bytes();
        let made = make("home")
            .and_then(|()| make("home/snap"))
            .and_then(|()| make("home/meta"))
            .map_err(Into::into)
            .and_then(|()| staging.write("home/dataset", path));
        made.map_err(self.store().io("create the history of", self))?;
        let key = self.key();
        match rename_new((staging.fd(), OsStr::new("home")), (datasets.as_fd(), OsStr::new(&key))) {
            Ok(()) | Err(Errno::EXIST) => Ok(()), // another process was faster
            Err(error) => Err(self.store().io("create the history of", self)(error)),
        }
    }

    /// The snapshot that `version` names, opened.
    pub(super) fn expect_in(&self, home: &Home, version: &VersionRef) -> Result<(OwnedFd, Root)> {
        let (fd, root) = self.find_in(home, &version.name)?;
        match root.guid() == version.guid {
            true => Ok((fd, root)),
            false => Err(Error::Reused {
                subject: self.at_name(&version.name),
                expected: version.guid,
                found: root.guid(),
            }),
        }
    }

    /// The snapshot of that name, opened.
    pub(super) fn find_in(&self, home: &Home, name: &SnapshotName) -> Result<(OwnedFd, Root)> {
        let fd = home.snapshot(OsStr::new(name.as_str()))?.ok_or_else(|| self.no_such(name))?;
        let info = btrfs::get_subvol_info(fd.as_fd()).map_err(Error::io("read", self.at_name(name)))?;
        Ok((fd, info.into()))
    }

    /// `tank/chainstate@name`
    pub(super) fn at_name(&self, name: &SnapshotName) -> String {
        format!("{self}@{name}")
    }

    /// That a snapshot is not there.
    pub(super) fn no_such(&self, name: &SnapshotName) -> Error {
        Error::NotFound {
            what: "snapshot",
            subject: self.at_name(name),
            hint: Some(format!("cowsnap list {}", quoted(self))),
        }
    }

    /// That a snapshot is there already.
    pub(super) fn taken(&self, name: &SnapshotName) -> Error {
        Error::Exists {
            what: "snapshot",
            subject: self.at_name(name),
            hint: Some(format!("cowsnap list {}", quoted(self))),
        }
    }

    /// Where a snapshot stands below the top level.
    pub(super) fn path_of(&self, name: &OsStr) -> PathBuf {
        Path::new(super::store::STORE_DIR).join("datasets").join(self.key()).join("snap").join(name)
    }
}
