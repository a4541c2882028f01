//! Reads all versions of a dataset from the root tree: of one dataset, what is its own; of many, all in one search.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::endpoint::btrfs::dataset::Dataset;
use crate::endpoint::btrfs::home::{Home, Locked};
use crate::endpoint::btrfs::meta::{self, Meta};
use crate::endpoint::btrfs::roots::{self, Root};
use crate::endpoint::btrfs::store::{list, numbered};
use crate::endpoint::btrfs::usage;
use crate::endpoint::btrfs::{clone, staging};
use crate::endpoint::details::{Details, Listing};
use crate::endpoint::{Error, History, Result, Wait};
use crate::model::{
    Guid, HoldTag, Inventory, Partial, SentStream, SnapshotName, Version, VersionKind, VersionRef, quoted,
};
use crate::sys::btrfs::{self, FS_TREE_OBJECTID, Timespec};
use crate::sys::interrupt;

impl Root {
    /// The identity of a version: what it was received from, unless it was changed since, else its own uuid
    /// (kernel-notes/btrfs-subvolumes.md).
    pub fn guid(&self) -> Guid {
        match self.received_uuid == [0; 16] || self.is_altered() {
            true => Guid(self.uuid),
            false => Guid(self.received_uuid),
        }
    }

    /// Whether what `meta` says is said about it. A received version that was altered has another identity than when it
    /// was held, and is held all the same.
    pub(super) fn is_meant_by(&self, meta: &Meta) -> bool {
        meta.guid == self.guid() || self.is_altered()
    }

    /// What it was known as before it was altered, as it says itself or `meta` says of it; `None` if that is no other identity.
    pub(super) fn was(&self, meta: &Meta) -> Option<Guid> {
        let received = (self.received_uuid != [0; 16]).then_some(Guid(self.received_uuid));
        let was = received.or(meta.was).unwrap_or(meta.guid);
        (was != self.guid()).then_some(was)
    }

    /// It as a version called `name`; `created` is what is said beside it, which goes before what it says itself.
    pub(super) fn version(&self, name: SnapshotName, created: Option<Timestamp>) -> Version {
        let of_source = (self.stime != Timespec::default()).then_some(self.stime);
        let created = created.unwrap_or_else(|| timestamp(of_source.unwrap_or(self.otime)));
        let id = VersionRef { guid: self.guid(), name };
        Version { id, kind: VersionKind::Snapshot, order: self.otransid, created }
    }
}

fn timestamp(time: Timespec) -> Timestamp {
    Timestamp::new(time.sec as i64, time.nsec as i32).unwrap_or(Timestamp::UNIX_EPOCH)
}

impl History for Dataset {
    fn inventory(&self) -> Result<Inventory> {
        let Some(home) = self.home()? else {
            self.open()?;
            return Ok(Inventory::new(self.to_string(), Vec::new(), Vec::new()));
        };
        let said = self.all_meta(&home)?;
        let mut holds = Vec::new();
        let mut versions = Vec::new();
        for (name, root) in self.snapshots(&home)? {
            let meta = said.get(&name).filter(|meta| root.is_meant_by(meta));
            let version = root.version(name, meta.and_then(|meta| meta.created));
            let tags = meta.iter().flat_map(|meta| meta.holds.keys());
            holds.extend(tags.map(|tag| (version.id.clone(), tag.clone())));
            versions.push(version);
        }
        let mut inventory = Inventory::new(self.to_string(), versions, holds);
        inventory.partials = staging::partials(self)?;
        Ok(inventory)
    }

    fn hold(&self, version: &VersionRef, tag: &HoldTag) -> Result<()> {
        self.describe(version, |meta| {
            meta.holds.entry(tag.clone()).or_insert_with(Timestamp::now);
            Ok(())
        })
    }

    fn release(&self, version: &VersionRef, tag: &HoldTag) -> Result<()> {
        self.describe(version, |meta| match meta.holds.remove(tag) {
            Some(_) => Ok(()),
            None => Err(Error::NotFound {
                what: "hold",
                subject: format!("{tag} of {}", self.at_name(&version.name)),
                hint: Some(format!("cowsnap holds {}", quoted(self.at_name(&version.name)))),
            }),
        })
    }

    fn destroy(&self, version: &VersionRef) -> Result<()> {
        self.destroy_root(version).map(drop)
    }
}

impl Dataset {
    /// Changes what is said about `version`, on disk.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Reused`], and what `change` says.
    pub fn describe(&self, version: &VersionRef, change: impl FnOnce(&mut Meta) -> Result<()>) -> Result<()> {
        let home = self.locked()?.ok_or_else(|| self.no_such(&version.name))?;
        let (_, root) = self.expect_in(&home, version)?;
        let before = meta::read(home.meta(), &version.name, &root)?;
        let mut after = before.clone();
        change(&mut after)?;
        if after == before {
            return Ok(());
        }
        meta::write(home.meta(), &version.name, &after)
    }

    /// Destroys `version` and waits until its space has come back, no longer than `patience` while none does.
    ///
    /// # Errors
    /// As [`History::destroy`]; as [`Dataset::wait_for_space_of`].
    pub fn destroy_and_wait(&self, version: &VersionRef, patience: Duration) -> Result<()> {
        let id = self.destroy_root(version)?;
        self.wait_for_space_of(id, &self.at_name(&version.name), Wait { wanted: u64::MAX, patience })
    }

    /// Waits until the space of the destroyed subvolume `id`, which was called `subject`, has come back; with `wait` no longer than
    /// that says.
    ///
    /// # Errors
    /// What the kernel says; an interruption; a timeout if nothing comes back for too long: then somebody has a file open in it.
    pub fn wait_for_space_of(&self, id: u64, subject: &str, wait: Wait) -> Result<()> {
        let op = crate::endpoint::WAIT_FOR_SPACE;
        let mut pause = Duration::from_millis(1);
        let mut progress = Progress::from(Instant::now());
        loop {
            // A commit wakes the cleaner, which else sleeps until the next regular one.
            self.commit_end_of(subject)?;
            let Some(left) = roots::left(self.store().top(), id).map_err(Error::io(op, subject))? else {
                // What the cleaner freed last is there only after another one.
                return self.commit_end_of(subject);
            };
            let free = self.free_bytes()?;
            if free >= wait.wanted {
                return Ok(());
            }
            if progress.none_for((free, left), Instant::now()) > wait.patience {
                return Err(Error::io(op, subject)(nothing_comes_back()));
            }
            interrupt::check().map_err(|_| Error::Interrupted { op, subject: subject.into() })?;
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    /// Puts on disk that `subject` is gone: the kernel's call alone would let a power cut bring it back.
    pub(super) fn commit_end_of(&self, subject: &str) -> Result<()> {
        btrfs::sync(self.store().top()).map_err(Error::io("commit the end of", subject))
    }

    /// Destroys `version`, on disk; answers the id of its subvolume.
    ///
    /// # Errors
    /// As [`History::destroy`].
    pub fn destroy_root(&self, version: &VersionRef) -> Result<u64> {
        let home = self.locked()?.ok_or_else(|| self.no_such(&version.name))?;
        let id = self.destroy_in(&home, version)?;
        self.commit_end_of(&self.at_name(&version.name))?;
        Ok(id)
    }

    /// Destroys `version` for who has the history locked. Not on disk before that is [committed](Self::commit_end_of).
    pub(super) fn destroy_in(&self, home: &Locked, version: &VersionRef) -> Result<u64> {
        let (_, root) = self.expect_in(home, version)?;
        let subject = self.at_name(&version.name);
        let meta = meta::read(home.meta(), &version.name, &root)?;
        if !meta.holds.is_empty() {
            return Err(Error::Held { subject, tags: meta.holds.keys().map(ToString::to_string).collect() });
        }
        let name = OsStr::new(version.name.as_str());
        if let Some(at) = clone::mounted_at(self.store(), &self.path_of(name))?.first() {
            let why = format!("it is mounted at {}", at.display());
            let hint = Some(format!("cowsnap unmount {}", quoted(at.display())));
            return Err(Error::Refused { op: "destroy", subject, why, hint });
        }
        btrfs::snap_destroy(home.snap(), name).map_err(|error| match error.raw_os_error() {
            Some(libc::EROFS) => self.store().readonly("destroy", &subject),
            Some(libc::EPERM) if rustix::process::geteuid().is_root() => Error::Refused {
                op: "destroy",
                subject: subject.clone(),
                why: "the kernel keeps it: it is being sent, or its root directory is immutable".into(),
                hint: Some(
                    "wait for the send to end; lsattr -d shows the flag, chattr -i takes it off".into(),
                ),
            },
            _ => Error::io("destroy", &subject)(error),
        })?;
        // Of a snapshot that is gone, what is said means nothing: it may stay behind if we die here.
        meta::remove(home.meta(), &version.name)?;
        Ok(root.id)
    }

    /// Live subvolumes that were made from `version`, by path below the top level.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Reused`].
    pub fn clones_of(&self, version: &VersionRef) -> Result<Vec<std::path::PathBuf>> {
        let home = self.home()?.ok_or_else(|| self.no_such(&version.name))?;
        let (_, root) = self.expect_in(&home, version)?;
        let roots = roots::scan(self.store().top()).map_err(Error::io("search", self))?;
        Ok(self.clones_in(&roots).remove(&root.uuid).unwrap_or_default())
    }

    /// By the uuid of what they were made from.
    fn clones_in(&self, roots: &[Root]) -> Clones {
        let mut paths = roots::Paths::new(self.store().top());
        let mut clones = Clones::new();
        for root in roots.iter().filter(|root| root.parent_uuid != [0; 16] && !root.readonly) {
            clones.entry(root.parent_uuid).or_default().extend(paths.of(roots, root));
        }
        clones
    }

    /// All that is known of every version, oldest first, but clones. What it costs follows their number.
    ///
    /// # Errors
    /// As [`History::inventory`].
    pub fn described(&self) -> Result<Vec<Details>> {
        let Some(home) = self.home()? else { return Ok(Vec::new()) };
        self.details_of(self.snapshots(&home)?, &home, &Clones::new(), false)
    }

    /// As [`Dataset::described`] of each of `datasets`, which are of one filesystem: its subvolumes are read once for all of them, and not
    /// looked for one by one.
    ///
    /// # Errors
    /// As [`History::inventory`], of any of them.
    pub fn described_together(datasets: &[&Self]) -> Result<Vec<Vec<Details>>> {
        let Some(first) = datasets.first() else { return Ok(Vec::new()) };
        let mut by_dir = by_dir(roots::scan(first.store().top()).map_err(Error::io("search", first))?);
        let described = datasets.iter().map(|dataset| {
            let Some(home) = dataset.home()? else { return Ok(Vec::new()) };
            let found = by_dir.remove(&dataset.dir_of(&home)?).unwrap_or_default();
            dataset.details_of(named(found), &home, &Clones::new(), false)
        });
        described.collect()
    }

    /// All that is known of every version, oldest first. `sizes` walks every extent of the filesystem's subvolumes.
    ///
    /// # Errors
    /// As [`History::inventory`].
    pub fn details(&self, sizes: bool) -> Result<Vec<Details>> {
        Ok(self.listings(false, sizes)?.pop().map(|listing| listing.details).unwrap_or_default())
    }

    /// All that is known of it and, if `inside`, of every dataset inside it, each behind the one that it is in. The filesystem's
    /// subvolumes are read once for all of them. `sizes` walks every extent of them.
    ///
    /// # Errors
    /// As [`History::inventory`].
    pub fn listings(&self, inside: bool, sizes: bool) -> Result<Vec<Listing<Self>>> {
        let roots = roots::scan(self.store().top()).map_err(Error::io("search", self))?;
        let clones = self.clones_in(&roots);
        let mut listed = Vec::new();
        self.list_into(&mut listed, (&mut by_dir(roots), &clones), inside, sizes)?;
        Ok(listed)
    }

    fn list_into(
        &self,
        listed: &mut Vec<Listing<Self>>,
        (by_dir, clones): (&mut HashMap<u64, Vec<Root>>, &Clones),
        inside: bool,
        sizes: bool,
    ) -> Result<()> {
        let is_live = self.exists()?;
        let details = match self.home()? {
            None => Vec::new(),
            Some(home) => {
                let found = by_dir.remove(&self.dir_of(&home)?).unwrap_or_default();
                self.details_of(named(found), &home, clones, sizes)?
            }
        };
        listed.push(Listing { dataset: self.clone(), is_live, details, partials: self.partials()? });
        let nested = if inside && is_live { self.nested()? } else { Vec::new() };
        nested.iter().try_for_each(|inner| inner.list_into(listed, (by_dir, clones), true, sizes))
    }

    fn details_of(
        &self,
        found: Vec<(SnapshotName, Root)>,
        home: &Home,
        clones: &Clones,
        sizes: bool,
    ) -> Result<Vec<Details>> {
        let said = self.all_meta(home)?;
        let ids: Vec<_> = found.iter().map(|(_, root)| root.id).collect();
        let mut usage = if sizes { usage::of(self.store(), &ids)? } else { HashMap::new() };
        let mut details: Vec<_> = found
            .into_iter()
            .map(|(name, root)| {
                let meta = said.get(&name).filter(|meta| root.is_meant_by(meta)).cloned();
                let meta = meta.unwrap_or_else(|| Meta::new(root.guid()));
                let clones = clones.get(&root.uuid).into_iter().flatten();
                Details {
                    version: root.version(name, meta.created),
                    clones: clones.map(|path| path.display().to_string()).collect(),
                    altered: root.is_altered(),
                    was: root.was(&meta),
                    writable: !root.readonly,
                    usage: usage.remove(&root.id),
                    labels: meta.labels,
                    holds: meta.holds,
                    verified: meta.verified,
                }
            })
            .collect();
        let key = |d: &Details| (d.version.order, d.version.id.name.clone());
        details.sort_by_key(key);
        Ok(details)
    }

    /// The streams that each snapshot was sent as, oldest first.
    ///
    /// # Errors
    /// As [`History::inventory`].
    pub fn sent(&self) -> Result<HashMap<VersionRef, Vec<SentStream>>> {
        let Some(home) = self.home()? else { return Ok(HashMap::new()) };
        let said = self.all_meta(&home)?;
        let sent = self.snapshots(&home)?.into_iter().filter_map(|(name, root)| {
            let meta = said.get(&name).filter(|meta| root.is_meant_by(meta))?;
            Some((VersionRef { guid: root.guid(), name }, meta.sent.clone()))
        });
        Ok(sent.collect())
    }

    /// How many bytes of data would come back if these versions, and no others, were destroyed. Walks every extent of the
    /// filesystem's subvolumes.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Reused`]; a tree that can not be searched.
    pub fn would_free(&self, versions: &[VersionRef]) -> Result<u64> {
        let Some(home) = self.home()? else { return Ok(0) };
        let id = |version: &VersionRef| Ok(self.expect_in(&home, version)?.1.id);
        let victims = versions.iter().map(id).collect::<Result<Vec<_>>>()?;
        usage::freed_by(self.store(), &victims)
    }

    /// How many bytes the filesystem has room for.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn free_bytes(&self) -> Result<u64> {
        let space = rustix::fs::fstatvfs(self.store().top());
        let space = space.map_err(Error::io("read the free space of", self))?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }

    /// How many bytes can be written there, and of how many in all.
    pub(in crate::endpoint) fn space(&self) -> Result<(u64, u64)> {
        let space = rustix::fs::fstatvfs(self.store().top());
        let space = space.map_err(Error::io("read the free space of", self))?;
        Ok((space.f_bavail.saturating_mul(space.f_frsize), space.f_blocks.saturating_mul(space.f_frsize)))
    }

    /// The receives into it that are not finished, of living processes and of dead ones.
    ///
    /// # Errors
    /// A store that can not be read.
    pub fn partials(&self) -> Result<Vec<Partial>> {
        staging::partials(self)
    }

    /// The snapshots in `home`, in the order of their subvolumes' ids.
    fn snapshots(&self, home: &Home) -> Result<Vec<(SnapshotName, Root)>> {
        let (dir, search) = (self.dir_of(home)?, Error::io("search", self));
        // What is staged, or was put there by hand, has a name that no snapshot can have.
        let listed = numbered(home.snap()).map_err(Error::io("list the snapshots of", self))?;
        let named: Vec<_> = listed.into_iter().filter(|(name, _)| as_name(name).is_some()).collect();
        let ours = |roots: Vec<Root>| -> Vec<_> {
            let ours = roots.into_iter().filter(|root| root.dir == dir && root.parent == FS_TREE_OBJECTID);
            ours.filter_map(|root| Some((name_of(&root)?, root))).collect()
        };
        let ids = named.iter().map(|(_, id)| *id).collect();
        let found = ours(roots::find_all(self.store().top(), ids).map_err(search)?);
        if found.len() == named.len() {
            return Ok(found);
        }
        // Something went or came meanwhile, or is no snapshot: what the root tree says as a whole counts.
        Ok(ours(roots::scan(self.store().top()).map_err(Error::io("search", self))?))
    }

    /// The inode number of the directory that the snapshots are in.
    fn dir_of(&self, home: &Home) -> Result<u64> {
        Ok(rustix::fs::fstat(home.snap()).map_err(Error::io("examine", self))?.st_ino)
    }

    /// What is said about any snapshot, by name.
    fn all_meta(&self, home: &Home) -> Result<HashMap<SnapshotName, Meta>> {
        let mut said = HashMap::new();
        for file in list(home.meta().as_fd()).map_err(Error::io("list what is said of", self))? {
            let name =
                file.to_str().and_then(|file| file.strip_suffix(".json")?.parse::<SnapshotName>().ok());
            if let Some(name) = name
                && let Some(meta) = meta::read_any(home.meta(), &name)?
            {
                said.insert(name, meta);
            }
        }
        Ok(said)
    }
}

/// Live subvolumes by the uuid of what they were made from.
type Clones = HashMap<[u8; 16], Vec<std::path::PathBuf>>;

/// Since when nothing has changed any more.
struct Progress {
    since: Instant,
    seen: (u64, Vec<u8>),
}

impl From<Instant> for Progress {
    fn from(since: Instant) -> Self {
        Self { since, seen: (0, Vec::new()) }
    }
}

impl Progress {
    /// How long it is, `now`, that more was free than ever before, or that the cleaner got on with the subvolume.
    fn none_for(&mut self, (free, root): (u64, Vec<u8>), now: Instant) -> Duration {
        if free > self.seen.0 || root != self.seen.1 {
            self.seen = (free.max(self.seen.0), root);
            self.since = now;
        }
        now - self.since
    }
}

/// The subvolumes of the top level, by the directory that they stand in.
fn by_dir(roots: Vec<Root>) -> HashMap<u64, Vec<Root>> {
    let mut by_dir: HashMap<u64, Vec<Root>> = HashMap::new();
    for root in roots.into_iter().filter(|root| root.parent == FS_TREE_OBJECTID) {
        by_dir.entry(root.dir).or_default().push(root);
    }
    by_dir
}

fn named(found: Vec<Root>) -> Vec<(SnapshotName, Root)> {
    found.into_iter().filter_map(|root| Some((name_of(&root)?, root))).collect()
}

fn nothing_comes_back() -> io::Error {
    let why = "it is destroyed, and nothing of its space comes back: somebody has a file open in it";
    io::Error::new(io::ErrorKind::TimedOut, why)
}

fn name_of(root: &Root) -> Option<SnapshotName> {
    as_name(OsStr::from_bytes(&root.name))
}

fn as_name(name: &OsStr) -> Option<SnapshotName> {
    name.to_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_more_space_than_ever_or_a_changed_root_is_progress() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut progress = Progress::from(start);
        let steps = [
            (1, 100, 1, 0),
            (5, 100, 1, 4),
            (6, 90, 1, 5),
            (7, 100, 1, 6),
            (8, 101, 1, 0),
            (9, 101, 1, 1),
            (10, 90, 2, 0),
            (70, 101, 2, 60),
        ];
        for (second, free, root, expected) in steps {
            let none_for = progress.none_for((free, vec![root]), at(second));
            assert_eq!(none_for, Duration::from_secs(expected), "after {second} s");
        }
        assert_eq!(crate::error::Class::of_io(&nothing_comes_back()), crate::error::Class::Unreachable);
    }
}
