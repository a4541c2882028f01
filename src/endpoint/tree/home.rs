//! What the store holds of one tree: `trees/<key>/{last,snap}`.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;

use crate::endpoint::dir::{
    list, open_beneath, read_at, remove_at, rename_new, try_lock, wait_for_lock, write_at,
};
use crate::endpoint::tree::about::About;
use crate::endpoint::tree::store::Store;
use crate::endpoint::{Error, Result};
use crate::model::SnapshotName;

/// The file with the order that was given last.
const LAST: &str = "last";

/// A tree's directory in the store.
#[derive(Debug)]
pub(super) struct Home {
    dir: OwnedFd,
    snap: OwnedFd,
}

/// The sole right to change what the store holds of a tree, until it is dropped.
#[derive(Debug)]
pub(super) struct Locked(Home);

impl std::ops::Deref for Locked {
    type Target = Home;
    fn deref(&self) -> &Home {
        &self.0
    }
}

/// Where a tree's directory is, below the store.
pub(super) fn path_of(key: &str) -> PathBuf {
    Path::new("trees").join(key)
}

impl Home {
    /// Opens it; `None` if the tree has no history.
    pub(super) fn open(store: &Store, key: &str) -> Result<Option<Self>> {
        let Some(dir) = store.find(path_of(key))? else { return Ok(None) };
        match open_beneath(dir.as_fd(), Path::new("snap")) {
            Ok(snap) => Ok(Some(Self { dir, snap })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None), // It is just being made, or going.
            Err(error) => Err(store.io("open", path_of(key).display())(error)),
        }
    }

    /// The versions' names, sorted. What is not called as a version is called can be none.
    pub(super) fn names(&self) -> Result<Vec<SnapshotName>> {
        let names = list(self.snap.as_fd()).map_err(Error::io("list", "a tree's snapshots"))?;
        Ok(names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect())
    }

    /// The directory of the version `name`; `None` if there is none.
    pub(super) fn find(&self, name: &SnapshotName) -> Result<Option<OwnedFd>> {
        match open_beneath(self.snap(), Path::new(name.as_str())) {
            Ok(fd) => Ok(Some(fd)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("open", name)(error)),
        }
    }

    /// The directory of the versions.
    pub(super) fn snap(&self) -> BorrowedFd<'_> {
        self.snap.as_fd()
    }
}

impl Locked {
    /// The tree's history for the caller alone; `None` if it has none.
    pub(super) fn open(store: &Store, key: &str, label: &str) -> Result<Option<Self>> {
        loop {
            let Some(home) = Home::open(store, key)? else { return Ok(None) };
            wait_for_lock(&home.dir, label)?;
            // It may have gone, or have got another name, while we waited.
            if store.is_at(&home.dir, &path_of(key))? {
                return Ok(Some(Self(home)));
            }
        }
    }

    /// The same without waiting, made if it is not there; `None` if somebody else has it.
    pub(super) fn try_open_or_made(store: &Store, key: &str) -> Result<Option<Self>> {
        let Some(home) = Home::open(store, key)? else {
            make(store, key)?;
            return Self::try_open_or_made(store, key);
        };
        let got = try_lock(&home.dir).map_err(store.io("lock", key))?;
        Ok((got && store.is_at(&home.dir, &path_of(key))?).then_some(Self(home)))
    }

    /// The tree's history for the caller alone, made if it is not there.
    pub(super) fn open_or_made(store: &Store, key: &str, label: &str) -> Result<Self> {
        loop {
            match Self::open(store, key, label)? {
                Some(home) => return Ok(home),
                None => make(store, key)?,
            }
        }
    }

    /// The next version's place in the order of all; never a clock. On disk before it is given.
    pub(super) fn next_order(&self) -> Result<u64> {
        let text = read_at(self.0.dir.as_fd(), LAST)?.unwrap_or_default();
        let mut last: u64 = String::from_utf8_lossy(&text).trim().parse().unwrap_or(0);
        for name in self.names()? {
            let Some(fd) = self.find(&name)? else { continue };
            last = last.max(About::read(fd.as_fd(), name.as_str())?.map_or(0, |about| about.order));
        }
        let next = last + 1;
        write_at(self.0.dir.as_fd(), OsStr::new(LAST), next.to_string().as_bytes())
            .map_err(Error::io("write", LAST))?;
        Ok(next)
    }

    /// Gives what is staged as `staged` in `from` the name `name`, or if that was taken meanwhile the next free one.
    pub(super) fn take_in(
        &self,
        from: BorrowedFd<'_>,
        staged: &OsStr,
        name: &SnapshotName,
    ) -> Result<SnapshotName> {
        for nth in 1.. {
            let name = if nth == 1 { name.clone() } else { name.numbered(nth) };
            match rename_new((from, staged), (self.snap(), OsStr::new(name.as_str()))) {
                Err(Errno::EXIST) => {}
                other => {
                    other.and_then(|()| rustix::fs::fsync(self.snap())).map_err(Error::io("name", &name))?;
                    return Ok(name);
                }
            }
        }
        unreachable!("the numbers do not end")
    }

    /// Removes it if there is no version in it.
    pub(super) fn remove_if_empty(&self, store: &Store, key: &str) -> Result<()> {
        if rustix::fs::unlinkat(&self.0.dir, "snap", AtFlags::REMOVEDIR).is_err() {
            return Ok(());
        }
        remove_at(self.0.dir.as_fd(), OsStr::new(LAST)).map_err(store.io("remove", LAST))?;
        rustix::fs::unlinkat(store.fd(), path_of(key), AtFlags::REMOVEDIR)
            .map_err(store.io("remove", path_of(key).display()))
    }
}

fn make(store: &Store, key: &str) -> Result<()> {
    let dir = store.make(path_of(key))?;
    match rustix::fs::mkdirat(&dir, "snap", Mode::RWXU) {
        // Another process made it, or took all of it away again.
        Ok(()) | Err(Errno::EXIST | Errno::NOENT) => Ok(()),
        Err(errno) => Err(store.io("create", path_of(key).join("snap").display())(errno)),
    }
}
