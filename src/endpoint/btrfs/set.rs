//! Snapshots of one dataset or of several, all or none.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::RwLock;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::fs::IFlags;

use crate::endpoint::btrfs::dataset::Dataset;
use crate::endpoint::btrfs::home::Locked;
use crate::endpoint::btrfs::meta::Meta;
use crate::endpoint::btrfs::staging::{Entry, Intent, Staging};
use crate::endpoint::mounted::Mount;
use crate::endpoint::{Backend, Error, Result, RollbackRequest, RolledBack, SnapshotRequest, SnapshotSet};
use crate::model::{Guid, Version, VersionRef, quoted};
use crate::sys::btrfs;

impl Backend for Dataset {
    type Mount = Mount;

    fn snapshot(set: &[Self], request: &SnapshotRequest) -> Result<SnapshotSet> {
        match set {
            [] => Ok(SnapshotSet { versions: Vec::new(), spread: Duration::ZERO, atomic: true }),
            [one] if request.labels.is_empty() && request.holds.is_empty() => one.snapshot_directly(request),
            _ => snapshot_together(set, request),
        }
    }

    fn clone_at(&self, version: &VersionRef, to: &Self) -> Result<()> {
        self.clone_to(version, to)
    }

    fn mount(&self, version: &VersionRef, dir: &Path) -> Result<Mount> {
        self.mount_at(version, dir)
    }

    fn rollback(&self, version: &VersionRef, request: &RollbackRequest) -> Result<RolledBack> {
        self.roll_back(version, request)
    }
}

impl Dataset {
    /// One call under the final name: there as a whole or not at all, and on disk when it returns.
    fn snapshot_directly(&self, request: &SnapshotRequest) -> Result<SnapshotSet> {
        let live = self.open()?;
        let home = self.locked_or_made()?;
        let name = OsStr::new(request.name.as_str());
        match btrfs::snap_create(home.snap(), name, live.as_fd(), true) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => return Err(self.taken(&request.name)),
            other => other.map_err(|error| self.not_taken(request, error))?,
        }
        let (_, root) = self.find_in(&home, &request.name)?;
        Ok(SnapshotSet {
            versions: vec![root.version(request.name.clone(), None)],
            spread: Duration::ZERO,
            atomic: true,
        })
    }

    fn not_taken(&self, request: &SnapshotRequest, error: std::io::Error) -> Error {
        let subject = self.at_name(&request.name);
        match error.raw_os_error() {
            Some(libc::EROFS) => self.store().readonly("take", subject),
            _ => Error::io("take", subject)(error),
        }
    }
}

/// Staged under names that no snapshot has; the staging directory's new name is what commits all of them.
fn snapshot_together(set: &[Dataset], request: &SnapshotRequest) -> Result<SnapshotSet> {
    let store = set[0].store();
    let live = set.iter().map(Dataset::open).collect::<Result<Vec<_>>>()?;
    for (dataset, live) in set.iter().zip(&live) {
        check_can_be_renamed(dataset, live)?;
    }
    let homes = lock_all(set)?;
    for (dataset, home) in set.iter().zip(&homes) {
        if home.snapshot(OsStr::new(request.name.as_str()))?.is_some() {
            return Err(dataset.taken(&request.name));
        }
    }
    let entries: Vec<_> = set.iter().map(|dataset| entry(dataset, request)).collect();
    let mut staging = Staging::new(store, &Intent::Set { entries })?;
    if set.len() > 1 {
        // What is dirty goes to disk before the first instant, and not between the first and the last.
        btrfs::sync(store.top()).map_err(store.io("flush", "the datasets"))?;
    }
    let spread = take_all(set, &homes, &live, &staging, request)?;
    let (versions, spread) = describe(set, &homes, &staging, request, spread)?;
    staging.seal()?;
    staging.complete()?;
    Ok(SnapshotSet { versions, spread, atomic: true })
}

/// A snapshot of a locked root is locked too: what is staged could neither be given its name nor be destroyed.
fn check_can_be_renamed(dataset: &Dataset, live: &OwnedFd) -> Result<()> {
    let flags = rustix::fs::ioctl_getflags(live).map_err(Error::io("examine", dataset))?;
    if !flags.intersects(IFlags::IMMUTABLE | IFlags::APPEND) {
        return Ok(());
    }
    let why = "its root directory is immutable or append-only, and only a snapshot of one dataset, without labels and \
               holds, needs no second name"
        .into();
    let at = dataset.mountpoint()?.map_or_else(|| dataset.to_string(), |at| at.display().to_string());
    Err(dataset.refused("snapshot", why, Some(format!("chattr -ia {}", quoted(at)))))
}

fn entry(dataset: &Dataset, request: &SnapshotRequest) -> Entry {
    let now = Timestamp::now();
    let holds = request.holds.iter().map(|tag| (tag.clone(), now)).collect();
    let meta = Meta { labels: request.labels.clone(), holds, ..Meta::new(Guid::NIL) };
    let meta = (!meta.is_empty()).then_some(meta);
    Entry { key: dataset.key(), name: request.name.clone(), guid: None, meta }
}

/// Always in the same order, so that two sets wait for each other and not both for ever.
fn lock_all(set: &[Dataset]) -> Result<Vec<Locked>> {
    let mut order: Vec<_> = (0..set.len()).collect();
    order.sort_by_key(|&n| set[n].path());
    let mut homes: Vec<Option<Locked>> = set.iter().map(|_| None).collect();
    for pair in order.windows(2) {
        if set[pair[0]] == set[pair[1]] {
            return Err(set[pair[0]].refused("snapshot", "it is named twice".into(), None));
        }
    }
    for n in order {
        if set[n].store().fsid() != set[0].store().fsid() {
            let why = format!("it is on another filesystem than {}", set[0]);
            return Err(set[n].refused("snapshot", why, Some("snapshot each filesystem by itself".into())));
        }
        homes[n] = Some(set[n].locked_or_made()?);
    }
    Ok(homes.into_iter().flatten().collect())
}

/// All at once, a thread each: calls that meet in the kernel become one transaction, and so one instant. The answer
/// is the time from before the first to after the last.
fn take_all(
    set: &[Dataset],
    homes: &[Locked],
    live: &[OwnedFd],
    staging: &Staging,
    request: &SnapshotRequest,
) -> Result<Duration> {
    let name = staging.staged_name();
    let gate = RwLock::new(());
    let take = &|home: &Locked, live: &OwnedFd| {
        drop(gate.read());
        let before = Instant::now();
        let taken = btrfs::snap_create(home.snap(), &name, live.as_fd(), true);
        (before, Instant::now(), taken)
    };
    let took: Vec<_> = std::thread::scope(|scope| {
        let shut = gate.write();
        let start = |(h, l)| std::thread::Builder::new().spawn_scoped(scope, move || take(h, l));
        let running: Vec<_> = homes.iter().zip(live).map(start).collect();
        drop(shut);
        // Where no more threads are to be had, this one takes the rest.
        let each = running.into_iter().zip(homes.iter().zip(live));
        each.map(|(thread, (h, l))| match thread {
            Ok(thread) => thread.join().expect("it does not panic"),
            Err(_) => take(h, l),
        })
        .collect()
    });
    let first = took.iter().map(|(before, ..)| *before).min();
    let last = took.iter().map(|(_, after, _)| *after).max();
    for (dataset, (.., taken)) in set.iter().zip(took) {
        taken.map_err(|error| dataset.not_taken(request, error))?;
    }
    Ok(first.zip(last).map_or(Duration::ZERO, |(first, last)| last - first))
}

/// The versions that the staged snapshots will be. Those of one transaction are of one instant.
fn describe(
    set: &[Dataset],
    homes: &[Locked],
    staging: &Staging,
    request: &SnapshotRequest,
    spread: Duration,
) -> Result<(Vec<Version>, Duration)> {
    let mut versions = Vec::new();
    for (dataset, home) in set.iter().zip(homes) {
        let fd = home.snapshot(&staging.staged_name())?.ok_or_else(|| dataset.no_such(&request.name))?;
        let info = btrfs::get_subvol_info(fd.as_fd()).map_err(Error::io("read", dataset))?;
        versions.push(super::roots::Root::from(info).version(request.name.clone(), None));
    }
    let one_instant = versions.iter().all(|v| v.order == versions[0].order);
    Ok((versions, if one_instant { Duration::ZERO } else { spread }))
}
