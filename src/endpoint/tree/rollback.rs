//! Going back: the live tree is exchanged for a copy of a version, and kept as a version itself.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rustix::fs::{AtFlags, Mode, RenameFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::endpoint::dir::{open_beneath, write_at};
use crate::endpoint::tree::about::About;
use crate::endpoint::tree::copy::copy_hint;
use crate::endpoint::tree::dataset::Dataset;
use crate::endpoint::tree::describe::set_times;
use crate::endpoint::tree::home::{Home, Locked};
use crate::endpoint::tree::manifest;
use crate::endpoint::tree::scan::{Entry, Scan, Time, entry_of, scan};
use crate::endpoint::tree::staging::{Intent, Staging};
use crate::endpoint::tree::taking::{MANIFEST, TREE};
use crate::endpoint::{Error, Result, RollbackRequest, RolledBack};
use crate::model::{SnapshotName, VersionRef, quoted};
use crate::sys::mount;

/// What was replaced, on its way to be a version: a directory like those of versions.
const REPLACED: &str = "replaced";

/// A live tree on its way out. The exchange of the names is the instant in which it is replaced; what comes after is
/// completed by whoever gets to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Exchange {
    /// The tree's directory in the store.
    pub(super) key: String,
    /// The name under which its content is kept.
    keep: SnapshotName,
    /// The inode of what takes its place.
    new: u64,
    /// When it was last changed: XFS forgets that in the exchange.
    mtime: Time,
}

impl Exchange {
    /// Whether the exchange has happened: what was replaced is in the staging directory.
    pub(super) fn is_done(&self, staging: BorrowedFd<'_>) -> bool {
        let inode =
            |path: &Path| rustix::fs::statat(staging, path, AtFlags::SYMLINK_NOFOLLOW).map(|s| s.st_ino);
        let replaced = inode(Path::new(TREE)).is_ok_and(|inode| inode != self.new);
        replaced || inode(Path::new(REPLACED)).is_ok()
    }

    /// Makes what was replaced a version; its name, or none if nothing was replaced.
    pub(super) fn keep(&self, staging: BorrowedFd<'_>, home: &Locked) -> Result<Option<SnapshotName>> {
        if !self.is_done(staging) {
            return Ok(None);
        }
        let failed = || Error::io::<_, Errno>("keep", "what was replaced");
        match rustix::fs::mkdirat(staging, REPLACED, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed()(errno)),
        }
        let inside = Path::new(REPLACED).join(TREE);
        match rustix::fs::renameat_with(staging, TREE, staging, &inside, RenameFlags::NOREPLACE) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed()(errno)),
        }
        let replaced =
            open_beneath(staging, Path::new(REPLACED)).map_err(Error::io("open", "what was replaced"))?;
        self.describe(&replaced, home)?;
        home.take_in(staging, OsStr::new(REPLACED), &self.keep).map(Some)
    }

    /// Says of what was replaced what is said of every version.
    fn describe(&self, replaced: &OwnedFd, home: &Locked) -> Result<()> {
        let tree = open_beneath(replaced.as_fd(), Path::new(TREE))
            .map_err(Error::io("open", "what was replaced"))?;
        let root =
            entry_of(tree.as_fd(), Path::new("")).map_err(Error::io("examine", "what was replaced"))?;
        set_times(tree.as_fd(), &Entry { mtime: self.mtime, ..root })
            .map_err(Error::io("set the times of", "what was replaced"))?;
        let bytes = manifest::to_bytes(&scan_patiently(tree.as_fd())?.entries);
        write_at(replaced.as_fd(), OsStr::new(MANIFEST), &bytes)
            .map_err(Error::io("write", "the manifest of what was replaced"))?;
        About::new(home.next_order()?, Duration::ZERO, &bytes)?.write(replaced.as_fd(), "what was replaced")
    }
}

/// Somebody may have files of it open still, and change it while it is looked at.
fn scan_patiently(tree: BorrowedFd<'_>) -> Result<Scan> {
    const TRIES: u32 = 50;
    for _ in 1..TRIES {
        match scan(tree, "what was replaced") {
            Err(Error::Refused { .. }) => std::thread::sleep(Duration::from_millis(20)),
            other => return other,
        }
    }
    scan(tree, "what was replaced")
}

impl Dataset {
    pub(super) fn roll_back(&self, version: &VersionRef, request: &RollbackRequest) -> Result<RolledBack> {
        let Some(name) = self.name() else {
            let why = "it is a mount point, which can not be exchanged".to_owned();
            let hint =
                format!("cowsnap clone {} DIR, in the same filesystem", quoted(self.at_name(&version.name)));
            return Err(self.refused("roll back", why, Some(hint)));
        };
        let live = self.open()?;
        let store = self.base().store()?.ok_or_else(|| self.no_such(&version.name))?;
        let home = self.locked(&store)?.ok_or_else(|| self.no_such(&version.name))?;
        let (dir, _) = self.expect_in(&home, version)?;
        let before = self.check_can_go(&live)?;
        let keep = self.name_to_keep(&home, request)?;
        let staging = Staging::new(&store)?;
        let hint = |bytes: u64| {
            let command = format!("cowsnap rollback --copy {}", quoted(self.at_name(&version.name)));
            copy_hint(&command, self.label(), bytes)
        };
        let new = self.copy_version(&dir, version, &staging, &hint)?;
        store.sync()?;
        let exchange = Exchange { key: self.key(), keep, new: new.inode, mtime: before.mtime };
        staging.declare(&Intent::Rollback(exchange))?;
        rustix::fs::renameat_with(self.base().fd(), name, staging.fd(), TREE, RenameFlags::EXCHANGE)
            .map_err(Error::io("exchange", self.label()))?;
        set_times(self.open()?.as_fd(), &new).map_err(Error::io("set the times of", self.label()))?;
        let _ = rustix::fs::fsync(self.base().fd()); // What is decided is done, on disk or a moment later.
        let names = staging.complete(&[&home])?;
        let mut done = RolledBack { warnings: self.warnings(&live), ..RolledBack::default() };
        for name in names {
            done.kept.push(self.version_in(&home, &name)?);
        }
        Ok(done)
    }

    /// What was replaced is kept below the store, and with it would go the histories of trees inside. What its root is.
    fn check_can_go(&self, live: &OwnedFd) -> Result<Entry> {
        let now = scan(live.as_fd(), self.label())?;
        let Some(store) = now.stores.first() else {
            return Ok(now.entries.into_iter().next().expect("the root is the first"));
        };
        let why = format!("snapshots of trees inside it are kept in {}", self.path().join(store).display());
        Err(self.refused("roll back", why, Some("destroy those first, or roll those trees back".into())))
    }

    fn name_to_keep(&self, home: &Home, request: &RollbackRequest) -> Result<SnapshotName> {
        if let Some(name) = &request.keep_as {
            return match home.find(name)? {
                Some(_) => Err(self.taken(name)),
                None => Ok(name.clone()),
            };
        }
        let now =
            Timestamp::now().to_zoned(TimeZone::UTC).strftime("pre-rollback-%Y%m%dT%H%M%SZ").to_string();
        let first: SnapshotName = now.parse().expect("digits and letters are a name");
        for nth in 1.. {
            let name = if nth == 1 { first.clone() } else { first.numbered(nth) };
            if home.find(&name)?.is_none() {
                return Ok(name);
            }
        }
        unreachable!("the numbers do not end")
    }

    /// Mounts of the tree elsewhere go on showing what was replaced, which `live` is.
    fn warnings(&self, live: &OwnedFd) -> Vec<String> {
        let stat = |path: &Path| rustix::fs::stat(path).map(|s| (s.st_dev, s.st_ino)).ok();
        let ours = rustix::fs::fstat(live).map(|s| (s.st_dev, s.st_ino)).ok();
        let shows_it = |dir: &PathBuf| stat(dir) == ours && ours.is_some();
        let mounts = mount::mounts().unwrap_or_default().into_iter().map(|mount| mount.dir);
        mounts
            .filter(shows_it)
            .map(|dir| format!("the mount at {} still shows what was replaced", dir.display()))
            .collect()
    }
}
