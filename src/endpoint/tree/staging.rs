//! Work that is not done yet: `staging/<pid>-<random>`, one directory per running operation, locked while its process
//! lives. Whoever opens the store next finishes what dead ones left, or clears it away.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::endpoint::dir::{list, lock, open_beneath, random, read_at, rename_new, write_at};
use crate::endpoint::tree::copy::remove_all;
use crate::endpoint::tree::home::{self, Home, Locked};
use crate::endpoint::tree::rollback::Exchange;
use crate::endpoint::tree::store::Store;
use crate::endpoint::{Error, Result};
use crate::model::SnapshotName;

const SEALED: &str = "commit-";
const INTENT: &str = "intent";

/// What an operation will have done when it is committed. Without one, all that is staged is cleared away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(super) enum Intent {
    /// Snapshots are taken, all or none.
    Set { entries: Vec<Entry> },
    /// A live tree is exchanged for another.
    Rollback(Exchange),
    /// A tree gets another name.
    Rename(Move),
}

/// A snapshot to be: the directory with its number in the staging directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// The tree's directory in the store.
    pub(super) key: String,
    /// The name that the snapshot gets.
    pub(super) name: SnapshotName,
}

/// A tree on its way to another name. Once the directory has it, the history follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Move {
    /// The tree's directory in the store.
    pub(super) key: String,
    /// The directory that it gets there.
    pub(super) new_key: String,
    /// The new name, its bytes.
    pub(super) name: Vec<u8>,
    /// The directory's inode.
    pub(super) inode: u64,
}

impl Move {
    fn finish(&self, store: &Store) -> Result<()> {
        let name = Path::new("..").join(OsStr::from_bytes(&self.name));
        let found = rustix::fs::statat(store.fd(), &name, AtFlags::SYMLINK_NOFOLLOW);
        match found.is_ok_and(|found| found.st_ino == self.inode) {
            true => store.rename(&home::path_of(&self.key), &home::path_of(&self.new_key)),
            false => Ok(()),
        }
    }
}

/// One operation's directory. Whatever is in it when it is dropped goes, unless it is committed.
#[derive(Debug)]
pub(super) struct Staging<'a> {
    store: &'a Store,
    fd: OwnedFd,
    id: OsString,
    done: bool,
}

impl<'a> Staging<'a> {
    pub(super) fn new(store: &'a Store) -> Result<Self> {
        let parent = store.make("staging")?;
        loop {
            let id = OsString::from(format!("{}-{:016x}", std::process::id(), random()));
            rustix::fs::mkdirat(&parent, &id, Mode::RWXU)
                .map_err(store.io("create", "a staging directory"))?;
            // A sweeper may have found it before it was locked.
            if let Some(fd) = lock(parent.as_fd(), &id).map_err(store.io("lock", "a staging directory"))? {
                return Ok(Self { store, fd, id, done: false });
            }
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Makes the directory `path` in it, for what nobody else may enter.
    pub(super) fn make(&self, path: impl AsRef<Path>) -> Result<OwnedFd> {
        let path = path.as_ref();
        rustix::fs::mkdirat(&self.fd, path, Mode::RWXU)
            .map_err(self.store.io("create", "a staging directory"))?;
        open_beneath(self.fd(), path).map_err(self.store.io("open", "a staging directory"))
    }

    /// Says on disk what is about to happen.
    pub(super) fn declare(&self, intent: &Intent) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(intent).expect("its keys are texts");
        write_at(self.fd(), OsStr::new(INTENT), &bytes).map_err(self.store.io("write", INTENT))
    }

    /// From here on a set will be completed, by whoever gets to it: the directory is called `commit-…`.
    pub(super) fn seal(&mut self) -> Result<()> {
        let mut sealed = OsString::from(SEALED);
        sealed.push(&self.id);
        let parent = self.store.make("staging")?;
        rename_new((parent.as_fd(), &self.id), (parent.as_fd(), &sealed)).map_err(|errno| match errno {
            Errno::INVAL => self.store.can_not_rename(errno),
            errno => self.store.io("commit", "a staging directory")(errno),
        })?;
        rustix::fs::fsync(&parent).map_err(self.store.io("commit", "a staging directory"))?;
        self.id = sealed;
        Ok(())
    }

    /// Does what is left to do, for who has the `homes` of the intent locked; answers the names that were given. If it
    /// fails, whoever opens the store next does it.
    pub(super) fn complete(mut self, homes: &[&Locked]) -> Result<Vec<SnapshotName>> {
        self.done = true;
        finish(self.store, self.fd(), &self.id, homes)
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        if let Err(error) = clear(self.store, self.fd.as_fd(), &self.id) {
            tracing::warn!(%error, staging = %self.id.display(), "something staged stays behind");
        }
    }
}

/// Completes or clears away what dead processes left. What can not be is left for the next one.
pub(super) fn recover(store: &Store) {
    let Ok(Some(parent)) = store.find("staging") else { return };
    for id in list(parent.as_fd()).unwrap_or_default() {
        let Ok(Some(fd)) = lock(parent.as_fd(), &id) else { continue };
        tracing::info!(staging = %id.display(), "finishing what a dead process left");
        if let Err(error) = recover_one(store, fd.as_fd(), &id) {
            tracing::warn!(%error, staging = %id.display(), "it can not be finished now");
        }
    }
}

fn recover_one(store: &Store, staging: BorrowedFd<'_>, id: &OsStr) -> Result<()> {
    let keys = match read_intent(staging)? {
        Some(Intent::Set { entries }) if is_sealed(id) => entries.into_iter().map(|e| e.key).collect(),
        Some(Intent::Rollback(exchange)) if exchange.is_done(staging) => vec![exchange.key],
        Some(Intent::Rename(change)) if Home::open(store, &change.key)?.is_some() => vec![change.key],
        _ => Vec::new(),
    };
    let mut homes = Vec::new();
    for key in &keys {
        // Where a living process has it, it is for the next time.
        let Some(home) = Locked::try_open_or_made(store, key)? else { return Ok(()) };
        homes.push(home);
    }
    finish(store, staging, id, &homes.iter().collect::<Vec<_>>()).map(drop)
}

/// Makes the intent so and clears the directory away.
fn finish(
    store: &Store,
    staging: BorrowedFd<'_>,
    id: &OsStr,
    homes: &[&Locked],
) -> Result<Vec<SnapshotName>> {
    let mut names = Vec::new();
    match read_intent(staging)? {
        Some(Intent::Set { entries }) if is_sealed(id) => {
            for (n, (entry, home)) in entries.iter().zip(homes).enumerate() {
                let staged = OsString::from(n.to_string());
                if rustix::fs::statat(staging, &staged, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                    names.push(home.take_in(staging, &staged, &entry.name)?);
                }
            }
        }
        Some(Intent::Rollback(exchange)) => {
            for home in homes {
                names.extend(exchange.keep(staging, home)?);
            }
        }
        Some(Intent::Rename(change)) if !homes.is_empty() => change.finish(store)?,
        _ => {}
    }
    clear(store, staging, id)?;
    Ok(names)
}

/// Removes the directory, unless what a rollback replaced is in it.
fn clear(store: &Store, staging: BorrowedFd<'_>, id: &OsStr) -> Result<()> {
    if let Some(Intent::Rollback(exchange)) = read_intent(staging)?
        && exchange.is_done(staging)
    {
        return Ok(());
    }
    let parent = store.make("staging")?;
    remove_all(parent.as_fd(), Path::new(id))
        .map_err(store.io("clear", Path::new("staging").join(id).display()))
}

fn is_sealed(id: &OsStr) -> bool {
    id.to_string_lossy().starts_with(SEALED)
}

fn read_intent(staging: BorrowedFd<'_>) -> Result<Option<Intent>> {
    let Some(bytes) = read_at(staging, INTENT)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| Error::Corrupt {
        what: "intent of a staging directory",
        why: "it is not what was written".into(),
        source: Some(Box::new(error)),
    })
}
