//! Going back: the live subvolume is exchanged for a writable clone of a version, and kept as a snapshot.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, RenameFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::endpoint::btrfs::clone::{mounts_of, reachable};
use crate::endpoint::btrfs::dataset::Dataset;
use crate::endpoint::btrfs::home::Home;
use crate::endpoint::btrfs::staging::{Intent, Staging};
use crate::endpoint::btrfs::store::{Store, open_beneath};
use crate::endpoint::{Error, Result, RollbackRequest, RolledBack};
use crate::model::{Guid, SnapshotName, VersionRef, quoted};
use crate::sys::btrfs;
use crate::sys::mount::{self, Detached, MountInfo};

const STAGED: &str = "new";

/// A live subvolume on its way out. The exchange of the names is the instant in which it is replaced; what comes after
/// is completed by whoever gets to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    /// The dataset's path below the top level, its bytes.
    path: Vec<u8>,
    /// The uuid of the live subvolume that is replaced.
    live: Guid,
    /// The name under which its content is kept.
    keep: SnapshotName,
}

impl Exchange {
    /// Keeps what was replaced, and moves what is nested in it along. Nothing is to do if it was not replaced yet.
    pub(super) fn finish(&self, store: &Arc<Store>, staging: BorrowedFd<'_>) -> Result<()> {
        let Ok(replaced) = open_beneath(staging, Path::new(STAGED)) else { return Ok(()) };
        let info = btrfs::get_subvol_info(replaced.as_fd()).map_err(store.io("read", "what was replaced"))?;
        if Guid(info.uuid) != self.live {
            return Ok(());
        }
        let dataset = store.dataset(PathBuf::from(OsString::from_vec(self.path.clone())));
        let home = Home::open(store, &dataset.key())?.ok_or_else(|| dataset.no_such(&self.keep))?;
        if let Some(keep) = self.name_still_to_give(store, &home)? {
            btrfs::snap_create(home.snap(), OsStr::new(keep.as_str()), replaced.as_fd(), true)
                .map_err(store.io("keep", dataset.at_name(&keep)))?;
        }
        let live = dataset.open()?;
        for path in dataset.paths_inside(info.id)? {
            move_nested(&replaced, &live, &path).map_err(store.io("move", path.display()))?;
        }
        Ok(())
    }

    /// The name under which what was replaced is to be kept: another one if somebody has taken it since. `None` if it is
    /// kept already.
    fn name_still_to_give(&self, store: &Store, home: &Home) -> Result<Option<SnapshotName>> {
        for nth in 1.. {
            let name = if nth == 1 { self.keep.clone() } else { self.keep.numbered(nth) };
            let Some(found) = home.snapshot(OsStr::new(name.as_str()))? else { return Ok(Some(name)) };
            let info = btrfs::get_subvol_info(found.as_fd()).map_err(store.io("read", "a snapshot"))?;
            if Guid(info.parent_uuid) == self.live {
                return Ok(None);
            }
        }
        unreachable!("the numbers do not end")
    }
}

/// Moves a subvolume to the same place in another one, over the empty directory that its parent's snapshot has there.
fn move_nested(from: &OwnedFd, to: &OwnedFd, path: &Path) -> Result<(), Errno> {
    let mut so_far = PathBuf::new();
    for component in path.parent().into_iter().flatten() {
        so_far.push(component);
        match rustix::fs::mkdirat(to, &so_far, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
    rustix::fs::renameat(from, path, to, path)
}

impl Dataset {
    pub(super) fn roll_back(&self, version: &VersionRef, request: &RollbackRequest) -> Result<RolledBack> {
        let all = self.to_roll_back(version, request.recursive)?;
        let mut done = self.roll_back_one(version, request)?;
        for (n, (inner, version)) in all.iter().enumerate().skip(1) {
            let theirs = inner
                .roll_back_one(version, request)
                .map_err(|error| self.rolled_back_halfway(&done, (n, all.len()), error))?;
            done.kept_inside.extend(theirs.kept.iter().map(|kept| inner.at_name(&kept.id.name)));
            done.moved.extend(theirs.moved);
            done.remounted.extend(theirs.remounted);
            done.warnings.extend(theirs.warnings);
        }
        Ok(done)
    }

    fn rolled_back_halfway(&self, done: &RolledBack, (n, of): (usize, usize), error: Error) -> Error {
        let mut kept: Vec<_> = done.kept.iter().map(|kept| self.at_name(&kept.id.name)).collect();
        kept.extend(done.kept_inside.iter().cloned());
        let what = format!("{n} of {of} datasets rolled back; what they were is kept as {}", kept.join(", "));
        Error::Halfway { what, source: Box::new(error) }
    }

    /// What goes back when this dataset goes back to `version`: itself, then those inside it that have a version of the
    /// same name, parents first.
    ///
    /// # Errors
    /// [`Error::Refused`] if there are nested datasets and it is not to be `recursive`; a version that can not be read.
    pub fn to_roll_back(&self, version: &VersionRef, recursive: bool) -> Result<Vec<(Self, VersionRef)>> {
        let mut inside = self.nested()?;
        if !inside.is_empty() && !recursive {
            let names: Vec<_> = inside.iter().map(ToString::to_string).collect();
            let why = format!("datasets are inside it: {}", names.join(", "));
            let hint = format!("cowsnap rollback -r {}", quoted(self.at_name(&version.name)));
            return Err(self.refused("roll back", why, Some(hint)));
        }
        let mut all = vec![(self.clone(), version.clone())];
        while !inside.is_empty() {
            let mut deeper = Vec::new();
            for inner in inside {
                deeper.extend(inner.nested()?);
                match inner.version(&version.name) {
                    Ok(theirs) => all.push((inner, theirs.id)),
                    Err(Error::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            inside = deeper;
        }
        Ok(all)
    }

    fn roll_back_one(&self, version: &VersionRef, request: &RollbackRequest) -> Result<RolledBack> {
        let home = self.locked()?.ok_or_else(|| self.no_such(&version.name))?;
        let (source, _) = self.expect_in(&home, version)?;
        let live = self.live()?;
        let moved = self.nested()?.iter().map(ToString::to_string).collect();
        let keep = self.name_to_keep(&home, request)?;
        let mounts = self.mounts_to_exchange()?;
        let (parent, name) = self.parent()?;
        let path = self.path().as_os_str().as_bytes().to_vec();
        let exchange = Exchange { path, live: Guid(live.uuid), keep: keep.clone() };
        let staging = Staging::new(self.store(), &Intent::Rollback(exchange))?;
        btrfs::snap_create(staging.fd(), OsStr::new(STAGED), source.as_fd(), false)
            .map_err(Error::io("clone", self.at_name(&version.name)))?;
        self.check_nested_fit(&staging, live.id)?;
        rustix::fs::renameat_with(staging.fd(), STAGED, &parent, name, RenameFlags::EXCHANGE)
            .map_err(|error| self.not_exchanged(error, live.readonly))?;
        let mut done = RolledBack { moved, ..RolledBack::default() };
        self.exchange_mounts(mounts, &mut done)?;
        staging.complete()?;
        done.kept.push(self.version(&keep)?);
        Ok(done)
    }

    fn not_exchanged(&self, error: Errno, readonly: bool) -> Error {
        match error {
            Errno::ROFS if readonly => self.refused("roll back", "its subvolume is read-only".into(), None),
            Errno::BUSY => self.refused("roll back", "something is mounted over it".into(), None),
            error => Error::io("roll back", self)(error),
        }
    }

    fn name_to_keep(&self, home: &Home, request: &RollbackRequest) -> Result<SnapshotName> {
        let is_taken =
            |name: &SnapshotName| Ok::<_, Error>(home.snapshot(OsStr::new(name.as_str()))?.is_some());
        if let Some(name) = &request.keep_as {
            return if is_taken(name)? { Err(self.taken(name)) } else { Ok(name.clone()) };
        }
        let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        for nth in 1.. {
            let number = if nth == 1 { String::new() } else { format!("-{nth}") };
            let name = format!("pre-rollback-{now}{number}")
                .parse()
                .expect("letters, digits and hyphens are a name");
            if !is_taken(&name)? {
                return Ok(name);
            }
        }
        unreachable!("the numbers do not end")
    }

    /// Whether everything nested can move to its place in the staged clone.
    fn check_nested_fit(&self, staging: &Staging, live: u64) -> Result<()> {
        let new = open_beneath(staging.fd(), Path::new(STAGED)).map_err(Error::io("roll back", self))?;
        for path in self.paths_inside(live)? {
            let refuse = |why: String| Err(self.refused("roll back", why, None));
            if self.below(&path).live()?.readonly {
                return refuse(format!("{} inside it is read-only and can not be moved", path.display()));
            }
            let fits = match open_beneath(new.as_fd(), &path) {
                Ok(dir) => super::store::list(dir.as_fd()).is_ok_and(|names| names.is_empty()),
                Err(error) => error.kind() == std::io::ErrorKind::NotFound,
            };
            if !fits {
                return refuse(format!("the version has something else at {}", path.display()));
            }
        }
        Ok(())
    }

    /// The paths of the subvolumes directly inside the subvolume `id`.
    fn paths_inside(&self, id: u64) -> Result<Vec<PathBuf>> {
        Ok(self.children_of(id)?.into_iter().map(|(_, path)| path).collect())
    }

    /// The mounts of the live subvolume or of something in it, which would go on showing what was replaced.
    fn mounts_to_exchange(&self) -> Result<Vec<MountInfo>> {
        let root = Path::new("/").join(self.path());
        let nested: Vec<_> = self.children()?.into_iter().map(|(_, path)| root.join(path)).collect();
        let mine = |m: &MountInfo| m.root.starts_with(&root) && !nested.iter().any(|n| m.root.starts_with(n));
        let mounts: Vec<_> = mounts_of(self.store())?.into_iter().filter(mine).collect();
        let all = mount::mounts().map_err(Error::io("read", "the table of mounts"))?;
        for exchanged in &mounts {
            let below = all.iter().find(|m| m.dir != exchanged.dir && m.dir.starts_with(&exchanged.dir));
            if let Some(below) = below {
                let why = format!("{} is mounted inside it", below.dir.display());
                let hint = Some(format!("umount {}", quoted(below.dir.display())));
                return Err(self.refused("roll back", why, hint));
            }
        }
        Ok(mounts)
    }

    fn exchange_mounts(&self, mounts: Vec<MountInfo>, done: &mut RolledBack) -> Result<()> {
        let live = self.open()?;
        let id = self.live()?.id;
        let live = reachable(self.store(), id, live);
        let root = Path::new("/").join(self.path());
        // All are made before the first goes: `live` may have been opened through one of them.
        let made: Vec<_> = mounts
            .iter()
            .map(|old| bind_like(&live, old.root.strip_prefix(&root).unwrap_or(Path::new("")), old))
            .collect();
        for (old, new) in mounts.into_iter().zip(made) {
            match new.and_then(|new| mount::exchange(&new, &old.dir)) {
                Ok(()) => done.remounted.push(old.dir),
                Err(error) => done.warnings.push(format!(
                    "{} still shows what was replaced ({error}): umount it and mount it again",
                    old.dir.display()
                )),
            }
        }
        Ok(())
    }
}

/// A mount of the new content that forbids what the old one does.
fn bind_like(live: &OwnedFd, below: &Path, old: &MountInfo) -> std::io::Result<Detached> {
    let new = mount::bind(open_beneath(live.as_fd(), below)?.as_fd())?;
    mount::restrict(&new, old.restrictions())?;
    Ok(new)
}
