//! A backend in memory: what the others promise, without a kernel. For tests of what stands above.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::Timestamp;

use crate::endpoint::{
    Backend, Details, Dying, Error, History, Prunable, Result, RollbackRequest, RolledBack, SnapshotRequest,
    SnapshotSet, Wait,
};
use crate::model::{Guid, HoldTag, Inventory, Partial, SnapshotName, Version, VersionKind, VersionRef};

mod endpoint;

/// The files of a dataset or a version.
pub type Content = BTreeMap<String, Vec<u8>>;

/// A filesystem in memory. Copies share what is in it.
#[derive(Debug, Clone, Default)]
pub struct FakeStore(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    transaction: u64,
    live: BTreeMap<String, Content>,
    snapshots: BTreeMap<(String, SnapshotName), Stored>,
    origins: BTreeMap<String, Guid>, // What clones were made from.
    clock: Option<Timestamp>,
    bookmarks: BTreeMap<(String, SnapshotName), (Version, Content)>,
    makes_no_bookmarks: bool,
    capacity: Option<u64>,
    quotas: BTreeMap<String, u64>,
    partials: BTreeMap<String, Partial>,
    kept_open: BTreeMap<Guid, Content>, // What is destroyed, and its space does not come back.
}

#[derive(Debug, Clone)]
struct Stored {
    version: Version,
    content: Content,
    labels: BTreeMap<String, String>,
    holds: BTreeSet<HoldTag>,
}

/// One dataset of a [`FakeStore`].
#[derive(Debug, Clone)]
pub struct Fake {
    store: FakeStore,
    name: String,
}

/// A version made visible nowhere: the fake has no kernel to show it.
#[derive(Debug)]
pub struct FakeMount {
    /// Where it would be.
    pub dir: PathBuf,
    /// What would be seen there.
    pub content: Content,
}

impl FakeStore {
    /// The dataset of that name, whether it is there or not.
    pub fn dataset(&self, name: impl Into<String>) -> Fake {
        Fake { store: self.clone(), name: name.into() }
    }

    /// Lets its clock say `now` until it is told otherwise; at first a second passes with each snapshot.
    pub fn set_clock(&self, now: Timestamp) {
        self.lock().clock = Some(now);
    }

    /// Lets it have room for that many bytes; at first it has room for all.
    pub fn set_capacity(&self, bytes: u64) {
        self.lock().capacity = Some(bytes);
    }

    /// Lets whoever asks for a bookmark be denied it, or not.
    pub fn deny_bookmarks(&self, denied: bool) {
        self.lock().makes_no_bookmarks = denied;
    }

    /// Lets the space of this version stay away when it is destroyed.
    pub fn keep_open(&self, version: &VersionRef) {
        self.lock().kept_open.insert(version.guid, Content::new());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no holder of the lock panics")
    }
}

impl State {
    /// Bytes of all files but of these snapshots; what several hold alike is there once.
    fn used_without(&self, gone: &BTreeSet<&(String, SnapshotName)>) -> u64 {
        let kept = self.snapshots.iter().filter(|(key, _)| !gone.contains(key));
        let contents = kept.map(|(_, stored)| &stored.content).chain(self.live.values());
        bytes_in(contents.chain(self.kept_open.values()))
    }

    /// Bytes of all files of one dataset and its snapshots.
    fn used_by(&self, name: &str) -> u64 {
        let stored = self.snapshots.iter().filter(|((of, _), _)| of == name);
        bytes_in(stored.map(|(_, stored)| &stored.content).chain(self.live.get(name)))
    }

    fn clones_of(&self, version: &Version) -> Vec<String> {
        let clones = self.origins.iter().filter(|(_, origin)| **origin == version.id.guid);
        clones.map(|(clone, _)| clone.clone()).collect()
    }
}

fn bytes_in<'a>(contents: impl Iterator<Item = &'a Content>) -> u64 {
    let files: BTreeSet<_> = contents.flatten().collect();
    files.into_iter().map(|(_, bytes)| bytes.len() as u64).sum()
}

impl fmt::Display for Fake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Fake {
    /// Makes it, empty.
    ///
    /// # Errors
    /// [`Error::Exists`].
    pub fn create(&self) -> Result<()> {
        let mut state = self.store.lock();
        self.check_absent(&state)?;
        state.live.insert(self.name.clone(), Content::new());
        Ok(())
    }

    /// Writes a file.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such dataset.
    pub fn write(&self, file: &str, bytes: &[u8]) -> Result<()> {
        let mut state = self.store.lock();
        let content = state.live.get_mut(&self.name).ok_or_else(|| self.absent())?;
        content.insert(file.into(), bytes.into());
        Ok(())
    }

    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such dataset.
    pub fn remove(&self, file: &str) -> Result<()> {
        let mut state = self.store.lock();
        state.live.get_mut(&self.name).ok_or_else(|| self.absent())?.remove(file);
        Ok(())
    }

    /// What is in it.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such dataset.
    pub fn content(&self) -> Result<Content> {
        self.store.lock().live.get(&self.name).cloned().ok_or_else(|| self.absent())
    }

    /// What is in one of its versions.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Reused`].
    pub fn content_of(&self, version: &VersionRef) -> Result<Content> {
        Ok(self.stored(&mut self.store.lock(), version)?.content.clone())
    }

    /// Lets it and its snapshots have no more than that many bytes.
    pub fn set_quota(&self, bytes: u64) {
        self.store.lock().quotas.insert(self.name.clone(), bytes);
    }

    /// Makes a bookmark of a snapshot, of the same name.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Reused`].
    pub fn bookmark(&self, version: &VersionRef) -> Result<()> {
        self.mark(version, &version.name)
    }

    /// Makes a bookmark of that name of a snapshot, or of another bookmark; one that is there already is it.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Reused`]; [`Error::Denied`] after [`FakeStore::deny_bookmarks`].
    pub fn mark(&self, version: &VersionRef, name: &SnapshotName) -> Result<()> {
        let mut state = self.store.lock();
        if state.makes_no_bookmarks {
            let (subject, lacking) = (self.at(name), "the right to make bookmarks".into());
            return Err(Error::Denied { op: "bookmark", subject, lacking, hint: None });
        }
        let (of, content) = self.marked(&mut state, version)?;
        let id = VersionRef { name: name.clone(), ..of.id };
        let bookmark = Version { id, kind: VersionKind::Bookmark, ..of };
        state.bookmarks.insert((self.name.clone(), name.clone()), (bookmark, content));
        Ok(())
    }

    /// A version and what it held, which a bookmark remembers here: what is new since then can be told from it.
    fn marked(&self, state: &mut State, version: &VersionRef) -> Result<(Version, Content)> {
        let bookmark = state.bookmarks.get(&(self.name.clone(), version.name.clone()));
        match bookmark.filter(|(bookmark, _)| bookmark.id == *version).cloned() {
            Some(marked) => Ok(marked),
            None => {
                self.stored(state, version).map(|stored| (stored.version.clone(), stored.content.clone()))
            }
        }
    }

    /// As [`History::destroy`], but of the snapshot only.
    fn destroy_in(&self, state: &mut State, version: &VersionRef) -> Result<()> {
        let stored = self.stored(state, version)?;
        if !stored.holds.is_empty() {
            let tags = stored.holds.iter().map(ToString::to_string).collect();
            return Err(Error::Held { subject: self.at(&version.name), tags });
        }
        let (found, content) = (stored.version.clone(), stored.content.clone());
        if let Some(clone) = state.clones_of(&found).first() {
            let (subject, why) = (self.at(&version.name), format!("{clone} is a clone of it"));
            return Err(Error::Refused { op: "destroy", subject, why, hint: None });
        }
        state.snapshots.remove(&(self.name.clone(), version.name.clone()));
        state.kept_open.entry(version.guid).and_modify(|open| *open = content);
        Ok(())
    }

    fn absent(&self) -> Error {
        Error::NotFound { what: "dataset", subject: self.name.clone(), hint: None }
    }

    fn check_absent(&self, state: &State) -> Result<()> {
        match state.live.contains_key(&self.name) {
            true => Err(Error::Exists { what: "dataset", subject: self.name.clone(), hint: None }),
            false => Ok(()),
        }
    }

    fn check_free(&self, state: &State, name: &SnapshotName) -> Result<()> {
        match state.snapshots.contains_key(&(self.name.clone(), name.clone())) {
            true => Err(Error::Exists { what: "snapshot", subject: self.at(name), hint: None }),
            false => Ok(()),
        }
    }

    fn at(&self, name: &SnapshotName) -> String {
        format!("{}@{name}", self.name)
    }

    fn stored<'a>(&self, state: &'a mut State, version: &VersionRef) -> Result<&'a mut Stored> {
        let subject = self.at(&version.name);
        let found = state.snapshots.get_mut(&(self.name.clone(), version.name.clone()));
        match found {
            None => Err(Error::NotFound { what: "snapshot", subject, hint: None }),
            Some(stored) if stored.version.id.guid != version.guid => {
                Err(Error::Reused { subject, expected: version.guid, found: stored.version.id.guid })
            }
            Some(stored) => Ok(stored),
        }
    }

    fn keep(&self, state: &mut State, request: &SnapshotRequest) -> Result<Version> {
        let name = &request.name;
        let content = state.live.get(&self.name).cloned().ok_or_else(|| self.absent())?;
        state.transaction += 1;
        let guid = Guid((0x5eed_u128 << 64 | u128::from(state.transaction)).to_be_bytes());
        let version = Version {
            id: VersionRef { guid, name: name.clone() },
            kind: VersionKind::Snapshot,
            order: state.transaction,
            created: state.clock.unwrap_or(Timestamp::UNIX_EPOCH + Duration::from_secs(state.transaction)),
        };
        let (labels, holds) = (request.labels.clone(), request.holds.iter().cloned().collect());
        let stored = Stored { version: version.clone(), content, labels, holds };
        state.snapshots.insert((self.name.clone(), name.clone()), stored);
        Ok(version)
    }
}

impl History for Fake {
    fn inventory(&self) -> Result<Inventory> {
        let state = self.store.lock();
        let mine: Vec<_> = state.snapshots.iter().filter(|((of, _), _)| *of == self.name).collect();
        let partials: Vec<_> = state.partials.get(&self.name).cloned().into_iter().collect();
        if mine.is_empty() && partials.is_empty() && !state.live.contains_key(&self.name) {
            return Err(self.absent());
        }
        let bookmarks = state.bookmarks.iter().filter(|((of, _), _)| *of == self.name);
        let snapshots = mine.iter().map(|(_, stored)| stored.version.clone());
        let versions = snapshots.chain(bookmarks.map(|(_, (version, _))| version.clone())).collect();
        let held = |stored: &Stored| {
            let id = stored.version.id.clone();
            stored.holds.iter().map(|tag| (id.clone(), tag.clone())).collect::<Vec<_>>()
        };
        let holds = mine.iter().flat_map(|(_, stored)| held(stored)).collect();
        let mut inventory = Inventory::new(self.name.clone(), versions, holds);
        inventory.partials = partials;
        inventory.caps.bookmarks = true;
        Ok(inventory)
    }

    fn hold(&self, version: &VersionRef, tag: &HoldTag) -> Result<()> {
        self.stored(&mut self.store.lock(), version)?.holds.insert(tag.clone());
        Ok(())
    }

    fn release(&self, version: &VersionRef, tag: &HoldTag) -> Result<()> {
        match self.stored(&mut self.store.lock(), version)?.holds.remove(tag) {
            true => Ok(()),
            false => {
                let subject = format!("{tag} of {}", self.at(&version.name));
                Err(Error::NotFound { what: "hold", subject, hint: None })
            }
        }
    }

    fn destroy(&self, version: &VersionRef) -> Result<()> {
        let mut state = self.store.lock();
        let key = (self.name.clone(), version.name.clone());
        // As on ZFS: a name means the snapshot, and its bookmark where only that is left.
        let is_meant = state.bookmarks.get(&key).is_some_and(|(bookmark, _)| bookmark.id == *version);
        if is_meant && !state.snapshots.contains_key(&key) {
            state.bookmarks.remove(&key);
            return Ok(());
        }
        self.destroy_in(&mut state, version)
    }
}

impl Prunable for Fake {
    fn described(&self) -> Result<Vec<Details>> {
        let inventory = self.inventory()?;
        let state = self.store.lock();
        let key = |version: &Version| (self.name.clone(), version.id.name.clone());
        let known = |version: &Version| {
            let stored = state.snapshots.get(&key(version)).filter(|_| version.kind == VersionKind::Snapshot);
            let holds = stored.into_iter().flat_map(|stored| &stored.holds);
            Details {
                version: version.clone(),
                labels: stored.map(|stored| stored.labels.clone()).unwrap_or_default(),
                holds: holds.map(|tag| (tag.clone(), version.created)).collect(),
                verified: None,
                clones: stored.map(|_| state.clones_of(version)).unwrap_or_default(),
                altered: false,
                was: None,
                writable: false,
                usage: None,
            }
        };
        Ok(inventory.versions().iter().map(known).collect())
    }

    fn has_dependent_clones(&self) -> bool {
        true
    }

    fn would_free(&self, versions: &[VersionRef], _thorough: bool) -> Result<Option<u64>> {
        let gone: Vec<_> = versions.iter().map(|v| (self.name.clone(), v.name.clone())).collect();
        let state = self.store.lock();
        let used = |gone: &[_]| state.used_without(&gone.iter().collect());
        Ok(Some(used(&[]) - used(&gone)))
    }

    fn free_bytes(&self) -> Result<u64> {
        let state = self.store.lock();
        let of_all = state.capacity.unwrap_or(u64::MAX).saturating_sub(state.used_without(&BTreeSet::new()));
        let of_quota =
            state.quotas.get(&self.name).map(|quota| quota.saturating_sub(state.used_by(&self.name)));
        Ok(of_all.min(of_quota.unwrap_or(u64::MAX)))
    }

    fn most_free_bytes(&self) -> Result<u64> {
        Ok(self.store.lock().quotas.get(&self.name).copied().unwrap_or(u64::MAX))
    }

    fn shares_space_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.store.0, &other.store.0)
    }

    fn destroy_snapshot(&self, version: &VersionRef) -> Result<Dying> {
        self.destroy_in(&mut self.store.lock(), version)?;
        Ok(Dying { subject: self.at(&version.name), root: None })
    }

    fn wait_for_space(&self, dying: &Dying, wait: Wait) -> Result<()> {
        let is_open = self.store.lock().kept_open.values().any(|content| !content.is_empty());
        match is_open && self.free_bytes()? < wait.wanted {
            true => {
                let why = std::io::Error::from(std::io::ErrorKind::TimedOut);
                Err(Error::io(crate::endpoint::WAIT_FOR_SPACE, &dying.subject)(why))
            }
            false => Ok(()),
        }
    }
}

impl Backend for Fake {
    type Mount = FakeMount;

    fn snapshot(set: &[Self], request: &SnapshotRequest) -> Result<SnapshotSet> {
        let Some(first) = set.first() else {
            return Ok(SnapshotSet { versions: Vec::new(), spread: Duration::ZERO, atomic: true });
        };
        let mut state = first.store.lock();
        for dataset in set {
            dataset.check_free(&state, &request.name)?;
            state.live.get(&dataset.name).ok_or_else(|| dataset.absent())?;
        }
        let keep = |dataset: &Self| dataset.keep(&mut state, request);
        let versions = set.iter().map(keep).collect::<Result<_>>()?;
        Ok(SnapshotSet { versions, spread: Duration::ZERO, atomic: true })
    }

    fn clone_at(&self, version: &VersionRef, to: &Self) -> Result<()> {
        let mut state = self.store.lock();
        let content = self.stored(&mut state, version)?.content.clone();
        to.check_absent(&state)?;
        state.live.insert(to.name.clone(), content);
        state.origins.insert(to.name.clone(), version.guid);
        Ok(())
    }

    fn mount(&self, version: &VersionRef, dir: &Path) -> Result<FakeMount> {
        Ok(FakeMount { dir: dir.to_owned(), content: self.content_of(version)? })
    }

    fn rollback(&self, version: &VersionRef, request: &RollbackRequest) -> Result<RolledBack> {
        let mut state = self.store.lock();
        let content = self.stored(&mut state, version)?.content.clone();
        let default = || format!("pre-rollback-{}", state.transaction).parse();
        let keep = request.keep_as.clone().map_or_else(default, Ok).expect("digits make a name");
        self.check_free(&state, &keep)?;
        let kept = vec![self.keep(&mut state, &SnapshotRequest::named(keep))?];
        state.live.insert(self.name.clone(), content);
        Ok(RolledBack { kept, ..RolledBack::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::contract::{self, Ground};

    struct InMemory(FakeStore);

    impl Ground for InMemory {
        type Backend = Fake;

        fn create(&self, name: &str) -> Fake {
            let dataset = self.absent(name);
            dataset.create().expect("created");
            dataset
        }

        fn absent(&self, name: &str) -> Fake {
            self.0.dataset(name)
        }

        fn write(&self, dataset: &Fake, file: &str, bytes: &[u8]) {
            dataset.write(file, bytes).expect("written");
        }

        fn read(&self, dataset: &Fake, file: &str) -> Option<Vec<u8>> {
            dataset.content().expect("there").get(file).cloned()
        }

        fn read_version(&self, dataset: &Fake, version: &Version, file: &str) -> Option<Vec<u8>> {
            dataset.content_of(&version.id).expect("there").get(file).cloned()
        }

        fn aside(&self, name: &str) -> Fake {
            panic!("{name}: all versions stay in the dataset")
        }
    }

    #[test]
    fn the_fake_keeps_the_contract() {
        contract::check(&InMemory(FakeStore::default()));
        contract::check_replica(&InMemory(FakeStore::default()));
    }
}
