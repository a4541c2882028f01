//! Work that is not done yet: `staging/<pid>-<random>`, one directory per running operation, locked while its process
//! lives.
//!
//! A read-only subvolume can not be moved to another directory (kernel-notes/btrfs-subvolumes.md), so what becomes a
//! snapshot is made in the dataset's own `snap` directory as `%<pid>-<random>`, a name that no snapshot can have; the
//! staging directory's `intent` says where that is. What stays writable is made in the staging directory itself.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::endpoint::btrfs::dataset::{Dataset, Move};
use crate::endpoint::btrfs::home::Home;
use crate::endpoint::btrfs::kept;
use crate::endpoint::btrfs::meta::{self, Meta};
use crate::endpoint::btrfs::rollback::Exchange;
use crate::endpoint::btrfs::sealed;
use crate::endpoint::btrfs::store::{Store, list, open_beneath, read_at, remove_at, rename_new};
use crate::endpoint::dir::{lock, random};
use crate::endpoint::{Error, Result};
use crate::model::{Guid, Partial, SnapshotName, Version};
use crate::sys::btrfs;

/// What an operation will have done when it is committed, or leaves to be cleared away before that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Intent {
    /// Something writable is made in the staging directory.
    Prepare,
    /// A stream is received.
    Receive(Box<Entry>),
    /// Snapshots are taken, all or none.
    Set {
        /// One for each dataset.
        entries: Vec<Entry>,
    },
    /// A live subvolume is exchanged for another.
    Rollback(Exchange),
    /// A dataset gets another path.
    Rename(Move),
}

impl Intent {
    /// As it is written to the file `intent`.
    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("its keys are texts")
    }
}

/// A snapshot to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The dataset's directory in the store.
    pub key: String,
    /// The name that the snapshot gets.
    pub name: SnapshotName,
    /// The identity that it gets, where that is known beforehand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guid: Option<Guid>,
    /// What is said about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta: Option<Meta>,
}

/// One operation's directory. Whatever is in it when it is dropped is destroyed.
#[derive(Debug)]
pub struct Staging {
    store: Arc<Store>,
    fd: OwnedFd,
    id: OsString,
    done: bool,
}

impl Staging {
    /// Makes one and says in it what is about to happen.
    pub(super) fn new(store: &Arc<Store>, intent: &Intent) -> Result<Self> {
        let parent = store.make_in_store("staging")?;
        let (fd, id) = loop {
            let id = OsString::from(format!("{}-{:016x}", std::process::id(), random()));
            rustix::fs::mkdirat(&parent, &id, Mode::RWXU).map_err(|error| match error {
                Errno::ROFS => store.readonly("write to", "the store"),
                error => store.io("create", "a staging directory")(error),
            })?;
            // A sweeper may have found it before it was locked.
            if let Some(fd) = lock(parent.as_fd(), &id).map_err(store.io("lock", "a staging directory"))? {
                break (fd, id);
            }
        };
        let staging = Self { store: Arc::clone(store), fd, id, done: false };
        if *intent != Intent::Prepare {
            staging.declare(intent)?;
        }
        Ok(staging)
    }

    /// That of somebody who is gone, which the caller has locked as `fd`.
    pub(super) fn taken_up(store: &Arc<Store>, fd: OwnedFd, id: OsString) -> Self {
        Self { store: Arc::clone(store), fd, id, done: false }
    }

    /// The directory. Subvolumes that stay writable are made here.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Its name in `staging/`.
    pub fn id(&self) -> &OsStr {
        &self.id
    }

    /// How what becomes a snapshot is called in its dataset's `snap` until then.
    pub(super) fn staged_name(&self) -> OsString {
        staged_name(&self.id)
    }

    /// Says on disk what is about to happen.
    pub(super) fn declare(&self, intent: &Intent) -> Result<()> {
        self.write("intent", &intent.to_json()).map_err(self.store.io("write", "an intent"))
    }

    /// Writes a new file into the directory, on disk.
    pub(super) fn write(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut file =
            std::fs::File::from(rustix::fs::openat(&self.fd, path, flags, Mode::RUSR | Mode::WUSR)?);
        io::Write::write_all(&mut file, bytes)?;
        file.sync_all()
    }

    /// From here on the operation will be completed, by whoever gets to it: the directory is called `commit-…`.
    pub(super) fn seal(&mut self) -> Result<()> {
        let mut sealed = OsString::from(SEALED);
        sealed.push(&self.id);
        let parent = self.store.make_in_store("staging")?;
        rename_new((parent.as_fd(), &self.id), (parent.as_fd(), &sealed))
            .map_err(self.store.io("commit", "a staging directory"))?;
        self.id = sealed;
        Ok(())
    }

    /// Takes back what was said: nothing has happened and nothing will.
    pub(super) fn abandon(self) -> Result<()> {
        remove_at(self.fd(), OsStr::new("intent")).map_err(self.store.io("remove", "an intent"))
    }

    /// Does what is left to do, and says whether it went well; if not, whoever opens the store next does it.
    pub(super) fn complete(mut self) -> Result<()> {
        self.done = true;
        try_finish(&self.store, self.fd.as_fd(), &self.id)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        finish(&self.store, self.fd.as_fd(), &self.id);
    }
}

const SEALED: &str = "commit-";

/// The names in `snap` do not change when a staging directory is sealed.
pub(super) fn staged_name(id: &OsStr) -> OsString {
    let id = id.to_string_lossy();
    format!("%{}", id.strip_prefix(SEALED).unwrap_or(&id)).into()
}

fn is_sealed(id: &OsStr) -> bool {
    id.to_string_lossy().starts_with(SEALED)
}

/// Completes or clears away what dead processes left. What can not be is left for the next one.
pub(super) fn recover(store: &Arc<Store>) {
    let Ok(Some(parent)) = store.open_in_store("staging") else { return };
    for id in list(parent.as_fd()).unwrap_or_default() {
        let Ok(Some(fd)) = lock(parent.as_fd(), &id) else { continue };
        // A set is named under its datasets' locks; where a living process has one of them, it is for the next time.
        let Ok(Some(_locked)) = lock_what_is_named(store, fd.as_fd(), &id) else { continue };
        if kept::read(fd.as_fd()).is_some() {
            finish(store, fd.as_fd(), &id);
            continue;
        }
        tracing::info!(staging = %id.display(), "finishing what a dead process left");
        finish(store, fd.as_fd(), &id);
    }
}

fn lock_what_is_named(store: &Store, fd: BorrowedFd<'_>, id: &OsStr) -> Result<Option<Vec<Home>>> {
    match read_intent(fd)? {
        Some(Intent::Set { entries }) if is_sealed(id) => sealed::try_lock(store, &entries),
        _ => Ok(Some(Vec::new())),
    }
}

/// Completes a sealed operation, clears away another one, and removes its directory.
fn finish(store: &Arc<Store>, fd: BorrowedFd<'_>, id: &OsStr) {
    if let Err(error) = try_finish(store, fd, id) {
        tracing::warn!(staging = %id.display(), %error, "it stays until the next time");
    }
}

fn try_finish(store: &Arc<Store>, fd: BorrowedFd<'_>, id: &OsStr) -> Result<()> {
    let intent = read_intent(fd)?;
    let sealed = is_sealed(id);
    match intent {
        Some(Intent::Set { entries }) if sealed => {
            sealed::roll_forward(store, fd, &staged_name(id), entries)?
        }
        Some(Intent::Set { entries }) => clear_entries(store, id, &entries)?,
        Some(Intent::Receive(entry)) => {
            if can_go_on(store, fd, id, &entry)? {
                return Ok(());
            }
            clear_entries(store, id, &[*entry])?;
        }
        Some(Intent::Rollback(exchange)) => exchange.finish(store, fd)?,
        Some(Intent::Rename(moved)) => moved.finish(store)?,
        Some(Intent::Prepare) | None => {}
    }
    clear_dir(fd).map_err(store.io("clear", Path::new(id).display()))?;
    let parent = store.make_in_store("staging")?;
    rustix::fs::unlinkat(&parent, id, AtFlags::REMOVEDIR).map_err(store.io("clear", Path::new(id).display()))
}

/// Whether a receive that was broken off is kept until somebody goes on with it: with its last checkpoint alone.
fn can_go_on(store: &Store, fd: BorrowedFd<'_>, id: &OsStr, entry: &Entry) -> Result<bool> {
    let Some(checkpoint) = kept::read(fd) else { return Ok(false) };
    // Its dataset is not where it was: nothing of it can be cleared away before it is given up.
    let Some(home) = Home::open(store, &entry.key)? else { return Ok(true) };
    if home.snapshot(OsStr::new(entry.name.as_str()))?.is_some() {
        return Ok(false);
    }
    checkpoint.clear_others(&home, &staged_name(id)).map_err(store.io("clear", Path::new(id).display()))?;
    Ok(true)
}

/// What a staging directory says; `None` if its process died before it said so, and so before it did anything.
///
/// # Errors
/// An intent that can not be read, or that another version of cowsnap wrote: what it is about must not be cleared away.
pub(super) fn read_intent(fd: BorrowedFd<'_>) -> Result<Option<Intent>> {
    let Some(bytes) = read_at(fd, "intent")? else { return Ok(None) };
    match serde_json::from_slice(&bytes) {
        Ok(intent) => Ok(Some(intent)),
        Err(error) if error.is_eof() => Ok(None), // its process died as it wrote it
        Err(error) => Err(Error::Corrupt {
            what: "intent",
            why: "this version of cowsnap does not know it".into(),
            source: Some(Box::new(error)),
        }),
    }
}

fn clear_entries(store: &Store, id: &OsStr, entries: &[Entry]) -> Result<()> {
    let staged = staged_name(id);
    for entry in entries {
        let Some(home) = Home::open(store, &entry.key)? else { continue };
        kept::clear(&home, &staged, None).map_err(store.io("destroy", "a staged snapshot"))?;
    }
    Ok(())
}

/// Empties a staging directory: subvolumes are destroyed, directories emptied and removed, files removed. The intent
/// goes last.
fn clear_dir(dir: BorrowedFd<'_>) -> io::Result<()> {
    let mut names = list(dir)?;
    names.sort_by_key(|name| name == "intent");
    for name in names {
        match rustix::fs::unlinkat(dir, &name, AtFlags::empty()) {
            Ok(()) => continue,
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
        let inner = open_beneath(dir, Path::new(&name))?;
        if rustix::fs::fstat(&inner)?.st_ino == btrfs::FIRST_FREE_OBJECTID {
            btrfs::snap_destroy(dir, &name)?;
        } else {
            clear_dir(inner.as_fd())?;
            rustix::fs::unlinkat(dir, &name, AtFlags::REMOVEDIR)?;
        }
    }
    Ok(())
}

/// A snapshot on its way into a dataset: make the subvolume [`name`](Staged::name) in [`dir`](Staged::dir), fill it,
/// make it read-only, and [`commit`](Staged::commit). Dropped before that, it is destroyed.
#[derive(Debug)]
pub struct Staged {
    dataset: Dataset,
    home: Home,
    staging: Staging,
    name: OsString,
}

impl Dataset {
    /// Makes a place for a snapshot that will be called `name`.
    ///
    /// # Errors
    /// [`Error::Exists`] if the name is taken; a mount that can only be read.
    pub fn stage(&self, name: &SnapshotName, guid: Option<Guid>) -> Result<Staged> {
        drop(self.locked_or_made()?);
        let home = self.home()?.ok_or_else(|| self.no_such(name))?;
        if home.snapshot(OsStr::new(name.as_str()))?.is_some() {
            return Err(self.taken(name));
        }
        let entry = Entry { key: self.key(), name: name.clone(), guid, meta: None };
        let staging = Staging::new(self.store(), &Intent::Receive(Box::new(entry)))?;
        let name = staging.staged_name();
        Ok(Staged { dataset: self.clone(), home, staging, name })
    }
}

impl Staged {
    /// What was staged by somebody who is gone.
    pub(super) fn of(dataset: &Dataset, home: Home, staging: Staging) -> Self {
        let name = staging.staged_name();
        Self { dataset: dataset.clone(), home, staging, name }
    }

    /// Its staging directory.
    pub(super) fn staging(&self) -> &Staging {
        &self.staging
    }

    /// The directory in which the subvolume is to be made.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.home.snap()
    }

    /// What it is to be called there until it is committed.
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// The staging directory's name: the token of the partial in an inventory.
    pub fn token(&self) -> &OsStr {
        self.staging.id()
    }

    /// Makes it the snapshot `name`, on disk, with what `describe` says about it.
    ///
    /// # Errors
    /// [`Error::Exists`] if the name was taken meanwhile; [`Error::Refused`] if it is still writable.
    pub fn commit(self, name: &SnapshotName, describe: impl FnOnce(&mut Meta)) -> Result<Version> {
        let home = self.dataset.locked_or_made()?;
        let subject = || self.dataset.at_name(name);
        let fd = home.snapshot(&self.name)?.ok_or_else(|| self.dataset.no_such(name))?;
        let info = btrfs::get_subvol_info(fd.as_fd()).map_err(Error::io("read", subject()))?;
        let root = super::roots::Root::from(info);
        if !root.readonly {
            let why = "it is still writable".into();
            return Err(Error::Refused { op: "commit", subject: subject(), why, hint: None });
        }
        if home.snapshot(OsStr::new(name.as_str()))?.is_some() {
            return Err(self.dataset.taken(name));
        }
        let mut meta = Meta::new(root.guid());
        describe(&mut meta);
        meta::write(home.meta(), name, &meta)?;
        match rename_new((home.snap(), &self.name), (home.snap(), OsStr::new(name.as_str()))) {
            Err(Errno::EXIST) => return Err(self.dataset.taken(name)),
            other => other.map_err(Error::io("commit", subject()))?,
        }
        btrfs::sync(self.dataset.store().top()).map_err(Error::io("commit", subject()))?;
        kept::forget(self.staging.fd())?;
        Ok(root.version(name.clone(), meta.created))
    }
}

/// The receives into `dataset` that are not finished, of living processes and of dead ones.
pub(super) fn partials(dataset: &Dataset) -> Result<Vec<Partial>> {
    let store = dataset.store();
    let Some(parent) = store.open_in_store("staging")? else { return Ok(Vec::new()) };
    let key = dataset.key();
    let mut partials = Vec::new();
    for id in list(parent.as_fd()).map_err(store.io("list", "the staging directories"))? {
        // One that ends while we look is none.
        let Ok(fd) = open_beneath(parent.as_fd(), Path::new(&id)) else { continue };
        let Ok(Some(Intent::Receive(entry))) = read_intent(fd.as_fd()) else { continue };
        if entry.key == key {
            let (guid, token) = (entry.guid.unwrap_or(Guid::NIL), id.to_string_lossy().into_owned());
            let (live, bytes) = looked_at(store, fd.as_fd(), &id, &key);
            let (since, base) = (begun(fd.as_fd()), kept::base(fd.as_fd()));
            partials.push(Partial { name: entry.name, guid, token, live, since, bytes, base });
        }
    }
    Ok(partials)
}

/// When the operation began whose staging directory it is.
fn begun(staging: BorrowedFd<'_>) -> Option<Timestamp> {
    let said = rustix::fs::statat(staging, "intent", AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Timestamp::from_second(said.st_mtime).ok()
}

/// Whether a process works in the staging directory. Whoever wants to go on in it is not kept out by who looks.
fn is_live(staging: BorrowedFd<'_>) -> bool {
    let is_free = rustix::fs::flock(staging, FlockOperation::NonBlockingLockShared).is_ok();
    if is_free {
        let _ = rustix::fs::flock(staging, FlockOperation::Unlock); // Else it is over when the directory is closed.
    }
    !is_free
}

/// Whether a process receives in the staging directory `id`, and [`kept::len`].
fn looked_at(store: &Store, staging: BorrowedFd<'_>, id: &OsStr, key: &str) -> (bool, Option<u64>) {
    let len = |live| kept::len(store, staging, id, key, live);
    settled(|| is_live(staging), || kept::read(staging), len)
}

/// What is looked at without its lock may be taken up, or come to its end meanwhile, and looks damaged then: that is looked at again.
fn settled<T: PartialEq>(
    mut is_live: impl FnMut() -> bool,
    mut checkpoint: impl FnMut() -> T,
    mut len: impl FnMut(bool) -> Option<u64>,
) -> (bool, Option<u64>) {
    loop {
        let (live, before) = (is_live(), checkpoint());
        let bytes = len(live);
        if live || bytes != Some(0) || !is_live() && checkpoint() == before {
            return (live, bytes);
        }
    }
}

/// What dead processes have left of a receive that may go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InPart {
    /// So many bytes need not come again.
    GoesOn(u64),
    /// The disk has lost something of it.
    Damaged,
    /// The history of its dataset is not there. It is kept, until somebody gives it up.
    Homeless,
}

/// What dead processes have left in the staging directory `dir` of `store`, if a receive is to go on with it, and the name that its snapshot would get.
pub fn left_in_part(store: &Store, dir: &Path) -> Option<(SnapshotName, InPart)> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::open(dir, flags, Mode::empty()).ok()?;
    let Ok(Some(Intent::Receive(entry))) = read_intent(fd.as_fd()) else { return None };
    let (_, bytes) = looked_at(store, fd.as_fd(), dir.file_name()?, &entry.key);
    let left = match bytes? {
        0 if matches!(Home::open(store, &entry.key), Ok(None)) => InPart::Homeless,
        0 => InPart::Damaged,
        bytes => InPart::GoesOn(bytes),
    };
    Some((entry.name, left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_looks_keeps_nobody_out() {
        let dir = tempfile::tempdir().expect("a directory");
        let open = || OwnedFd::from(std::fs::File::open(dir.path()).expect("it is there"));
        let (looks, works) = (open(), open());
        assert!(!is_live(looks.as_fd()));
        rustix::fs::flock(&works, FlockOperation::NonBlockingLockExclusive).expect("nobody has it");
        assert!(is_live(looks.as_fd()));
    }

    /// The answers to one look after another; each as long as it is the last.
    fn check(lives: &[bool], checkpoints: &[u32], lens: &[Option<u64>], expected: (bool, Option<u64>)) {
        fn next<T: Copy>(answers: &[T]) -> impl FnMut() -> T {
            let (mut at, answers) = (0, answers.to_vec());
            move || {
                at += 1;
                answers[(at - 1).min(answers.len() - 1)]
            }
        }
        let mut len = next(lens);
        let settled = settled(next(lives), next(checkpoints), |_| len());
        assert_eq!(settled, expected, "{lives:?} {checkpoints:?} {lens:?}");
    }

    #[test]
    fn what_is_taken_up_as_it_is_looked_at_is_not_damaged() {
        check(&[false], &[1], &[Some(5)], (false, Some(5)));
        check(&[false], &[1], &[None], (false, None));
        check(&[false], &[1], &[Some(0)], (false, Some(0)));
        check(&[true], &[1], &[Some(0)], (true, Some(0)));
        // Taken up; and gone on with, by somebody who is gone by now.
        check(&[false, true], &[1], &[Some(0), Some(5)], (true, Some(5)));
        check(&[false], &[1, 2], &[Some(0), Some(7)], (false, Some(7)));
    }
}
