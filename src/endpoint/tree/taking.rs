//! Snapshots of one tree or of several that stand beside each other: all or none.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::endpoint::dir::write_at;
use crate::endpoint::tree::about::About;
use crate::endpoint::tree::copy::{Copier, copy_hint};
use crate::endpoint::tree::dataset::Dataset;
use crate::endpoint::tree::home::Locked;
use crate::endpoint::tree::manifest;
use crate::endpoint::tree::scan::{Scan, changed, scan};
use crate::endpoint::tree::staging::{Entry, Intent, Staging};
use crate::endpoint::tree::store::Store;
use crate::endpoint::{Error, Result, SnapshotRequest, SnapshotSet};
use crate::model::{SnapshotName, Version, quoted};

/// Where a version's directory has its content.
pub(super) const TREE: &str = "tree";
/// Where it has what the content is.
pub(super) const MANIFEST: &str = "manifest";

/// Takes `set`. The answer's spread is from the first look at the first of them to the last look at the last.
pub(super) fn take(set: &[Dataset], request: &SnapshotRequest) -> Result<SnapshotSet> {
    let groups = by_place(set, request)?;
    let (mut versions, mut spread) = (Vec::new(), Duration::ZERO);
    for (n, group) in groups.iter().enumerate() {
        let taken = take_together(group, request).map_err(|error| halfway(n, groups.len(), error))?;
        spread += taken.spread;
        versions.extend(group.iter().cloned().zip(taken.versions));
    }
    let version_of = |dataset: &Dataset| {
        let found = versions.iter().find(|(of, _)| of == dataset);
        found.map(|(_, version)| version.clone()).expect("each of the set is in a group")
    };
    Ok(SnapshotSet { versions: set.iter().map(version_of).collect(), spread, atomic: false })
}

fn halfway(n: usize, of: usize, error: Error) -> Error {
    match n {
        0 => error,
        _ => Error::Halfway {
            what: format!("{n} of {of} groups of directories taken"),
            source: Box::new(error),
        },
    }
}

/// Those whose versions are kept in one place can be taken together, all or none.
fn by_place(set: &[Dataset], request: &SnapshotRequest) -> Result<Vec<Vec<Dataset>>> {
    let mut groups: Vec<Vec<Dataset>> = Vec::new();
    for (n, dataset) in set.iter().enumerate() {
        if set[..n].contains(dataset) {
            return Err(dataset.refused("snapshot", "it is named twice".into(), None));
        }
        match groups.iter_mut().find(|group| group[0].base() == dataset.base()) {
            Some(group) => group.push(dataset.clone()),
            None => groups.push(vec![dataset.clone()]),
        }
    }
    if groups.len() > 1 && !request.not_atomic {
        let why = format!("it does not stand beside {}: all or none can not be promised", groups[0][0]);
        let hint = "--not-atomic takes those beside each other, one place after another".into();
        return Err(groups[1][0].refused("snapshot", why, Some(hint)));
    }
    Ok(groups)
}

fn take_together(set: &[Dataset], request: &SnapshotRequest) -> Result<SnapshotSet> {
    let live = set.iter().map(Dataset::open).collect::<Result<Vec<_>>>()?;
    let store = set[0].base().store_or_made()?;
    let homes = lock_all(&store, set)?;
    let taken = take_locked(&store, set, &live, &homes, request);
    if taken.is_err() {
        // What was made for the first version of a tree goes again.
        for (dataset, home) in set.iter().zip(&homes) {
            let _ = home.remove_if_empty(&store, &dataset.key());
        }
        set[0].base().remove_if_empty();
    }
    taken
}

fn take_locked(
    store: &Store,
    set: &[Dataset],
    live: &[OwnedFd],
    homes: &[Locked],
    request: &SnapshotRequest,
) -> Result<SnapshotSet> {
    for (dataset, home) in set.iter().zip(homes) {
        if home.find(&request.name)?.is_some() {
            return Err(dataset.taken(&request.name));
        }
    }
    let mut staging = Staging::new(store)?;
    let start = Instant::now();
    let copied = copy_all(set, live, &staging)?;
    for ((dataset, live), (before, _)) in set.iter().zip(live).zip(&copied) {
        if let Some(path) = scan(live.as_fd(), dataset.label())?.changed_since(before) {
            return Err(changed(dataset.label(), &path));
        }
    }
    let spread = start.elapsed();
    let mut versions = Vec::new();
    for ((home, (before, dir)), dataset) in homes.iter().zip(&copied).zip(set) {
        let about = about(home.next_order()?, spread, before, dir, dataset, request)?;
        versions.push(about.version(request.name.clone()));
    }
    let entry = |dataset: &Dataset| Entry { key: dataset.key(), name: request.name.clone() };
    staging.declare(&Intent::Set { entries: set.iter().map(entry).collect() })?;
    store.sync()?;
    staging.seal()?;
    staging.complete(&homes.iter().collect::<Vec<_>>())?;
    Ok(SnapshotSet { versions, spread, atomic: false })
}

/// Copies each into the directory of its number; what was seen of it before, and that directory.
fn copy_all(set: &[Dataset], live: &[OwnedFd], staging: &Staging<'_>) -> Result<Vec<(Scan, OwnedFd)>> {
    let mut copied = Vec::new();
    for (n, (dataset, live)) in set.iter().zip(live).enumerate() {
        let dir = staging.make(n.to_string())?;
        let to = staging.make(format!("{n}/{TREE}"))?;
        let before = scan(live.as_fd(), dataset.label())?;
        before.let_a_tick_pass();
        let hint = |bytes: u64| {
            let command = format!("cowsnap snapshot --copy {}", quoted(dataset));
            copy_hint(&command, dataset.label(), bytes)
        };
        let copier = Copier {
            from: live.as_fd(),
            label: dataset.label(),
            to: to.as_fd(),
            copying: dataset.is_copying(),
            hint: &hint,
            watch: dataset.watch(),
        };
        copier.copy(&before)?;
        copied.push((before, dir));
    }
    Ok(copied)
}

/// Writes what the version is and what is said of it.
fn about(
    order: u64,
    spread: Duration,
    before: &Scan,
    dir: &OwnedFd,
    dataset: &Dataset,
    request: &SnapshotRequest,
) -> Result<About> {
    let bytes = manifest::to_bytes(&before.entries);
    write_at(dir.as_fd(), OsStr::new(MANIFEST), &bytes)
        .map_err(Error::io("write the manifest of", dataset.at_name(&request.name)))?;
    let now = Timestamp::now();
    let about = About {
        labels: request.labels.clone(),
        holds: request.holds.iter().map(|tag| (tag.clone(), now)).collect(),
        ..About::new(order, spread, &bytes)?
    };
    about.write(dir.as_fd(), &dataset.at_name(&request.name))?;
    Ok(about)
}

/// Always in the same order, so that two sets wait for each other and not both for ever.
fn lock_all(store: &Store, set: &[Dataset]) -> Result<Vec<Locked>> {
    let mut order: Vec<_> = (0..set.len()).collect();
    order.sort_by_key(|&n| set[n].key());
    let mut homes: Vec<Option<Locked>> = set.iter().map(|_| None).collect();
    for n in order {
        let dataset = &set[n];
        homes[n] = Some(Locked::open_or_made(store, &dataset.key(), dataset.label())?);
    }
    Ok(homes.into_iter().flatten().collect())
}

impl Dataset {
    /// The version `name` of a history that is locked.
    pub(super) fn version_in(&self, home: &Locked, name: &SnapshotName) -> Result<Version> {
        let (_, about) = self.find_in(home, name)?;
        Ok(about.version(name.clone()))
    }
}
