//! The trash of a home: what waits there is destroyed by whoever has its lock.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::endpoint::overlay::files::remove_tree;
use crate::endpoint::overlay::lock::{PATIENCE, wait_for};
use crate::endpoint::overlay::{Home, native};
use crate::endpoint::{Error, Result};

/// The right to destroy what is in the trash: as long as the value is there, nobody else does.
#[derive(Debug)]
pub struct Trash<'a> {
    home: &'a Home,
    _lock: File,
}

impl Home {
    /// Destroys what is in the trash, until there is nothing more. Returns at once if another process is doing so.
    ///
    /// # Errors
    /// The first thing that can not be destroyed, after all others were.
    pub fn sweep(&self) -> Result<()> {
        let lock = self.open_trash()?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => Ok(()),
            Err(errno) => Err(Error::io("lock", self.dir().join("trash").display())(errno)),
            Ok(()) => Trash { home: self, _lock: lock }.empty(),
        }
    }

    /// Waits for another process that destroys what is in the trash, and takes its place: the space is needed now.
    ///
    /// # Errors
    /// [`Error::Refused`] if the other one takes too long.
    pub fn lock_trash(&self) -> Result<Trash<'_>> {
        let lock = self.open_trash()?;
        wait_for(&lock, PATIENCE, &|| Error::Refused {
            op: "make room in",
            subject: self.dir().display().to_string(),
            why: "another process is destroying what was discarded, and is not done yet".into(),
            hint: None,
        })?;
        Ok(Trash { home: self, _lock: lock })
    }

    /// Whether somebody destroys what is in the trash now.
    ///
    /// # Errors
    /// A trash that can not be locked.
    pub fn is_swept(&self) -> Result<bool> {
        match rustix::fs::flock(self.open_trash()?, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(errno) => Err(Error::io("lock", self.dir().join("trash").display())(errno)),
        }
    }

    fn open_trash(&self) -> Result<File> {
        let trash = self.dir().join("trash");
        File::open(&trash).map_err(Error::io("open", trash.display()))
    }

    /// What waits to be destroyed.
    pub fn trash(&self) -> Result<Vec<PathBuf>> {
        let trash = self.dir().join("trash");
        let entries = fs::read_dir(&trash).map_err(Error::io("list", trash.display()))?;
        let paths = entries.map(|entry| entry.map(|e| e.path()));
        paths.collect::<io::Result<_>>().map_err(Error::io("list", trash.display()))
    }
}

impl Trash<'_> {
    /// Destroys what is in the trash, until there is nothing more.
    ///
    /// # Errors
    /// The first thing that can not be destroyed, after all others were.
    pub fn empty(&self) -> Result<()> {
        self.destroy_all()?.into_values().next().map_or(Ok(()), Err)
    }

    /// As [`Trash::empty`]; answers all that can not be destroyed, and why.
    ///
    /// # Errors
    /// A trash that can not be read.
    pub fn destroy_all(&self) -> Result<BTreeMap<PathBuf, Error>> {
        let mut stuck = BTreeMap::new();
        loop {
            let found = self.home.trash()?;
            let left: Vec<_> = found.into_iter().filter(|path| !stuck.contains_key(path)).collect();
            if left.is_empty() {
                return Ok(stuck);
            }
            for path in left {
                let gone = native::destroy_clones_in(self.home, &path)
                    .and_then(|()| remove_tree(&path).map_err(Error::io("destroy", path.display())));
                if let Err(error) = gone {
                    stuck.insert(path, error);
                }
            }
        }
    }
}
