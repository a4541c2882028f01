//! Snapshots of one dataset or of many: those of one pool in one call of the kernel, all or none, of one instant.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::endpoint::zfs::clone::Mount;
use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::error::of_errno;
use crate::endpoint::zfs::meta;
use crate::endpoint::zfs::version::read_snapshots;
use crate::endpoint::{Backend, Error, Result, RollbackRequest, RolledBack, SnapshotRequest, SnapshotSet};
use crate::model::{HoldTag, VersionRef, quoted};
use crate::sys::lzc::{Errno, Failed};

impl Backend for Dataset {
    type Mount = Mount;

    fn snapshot(set: &[Self], request: &SnapshotRequest) -> Result<SnapshotSet> {
        let Some(first) = set.first() else {
            return Ok(SnapshotSet { versions: Vec::new(), spread: Duration::ZERO, atomic: true });
        };
        let pools = by_pool(set)?;
        if let Some(other) = set.iter().find(|other| other.pool() != first.pool() && !request.not_atomic) {
            return Err(two_pools(first, other));
        }
        check_may_hold(&pools, request)?;
        let before = Instant::now();
        take_all(&pools, request)?;
        let spread = if pools.len() > 1 { before.elapsed() } else { Duration::ZERO };
        let wanted: Vec<_> = set.iter().map(|dataset| (dataset, &request.name)).collect();
        Ok(SnapshotSet { versions: read_snapshots(&wanted)?, spread, atomic: true })
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

/// The datasets of each pool, in the order asked.
fn by_pool(set: &[Dataset]) -> Result<Vec<Vec<&Dataset>>> {
    let mut pools: Vec<Vec<&Dataset>> = Vec::new();
    for dataset in set {
        match pools.iter_mut().find(|pool| pool[0].pool() == dataset.pool()) {
            Some(pool) if pool.contains(&dataset) => {
                return Err(dataset.refused("snapshot", "it is named twice".into(), None));
            }
            Some(pool) => pool.push(dataset),
            None => pools.push(vec![dataset]),
        }
    }
    Ok(pools)
}

fn two_pools(first: &Dataset, other: &Dataset) -> Error {
    let why =
        format!("it is in another pool than {first}, and only one pool can be snapshotted in one instant");
    let targets = format!("{} {}", quoted(first), quoted(other));
    let hint = format!("cowsnap snapshot --not-atomic {targets} … takes one pool after another");
    other.refused("snapshot", why, Some(hint))
}

/// All pools, or none: those that were taken are destroyed again if one can not be.
fn take_all(pools: &[Vec<&Dataset>], request: &SnapshotRequest) -> Result<()> {
    let mut taken = Vec::new();
    for pool in pools {
        let done = take(pool, request).and_then(|()| {
            taken.push(pool.as_slice());
            hold(pool, request)
        });
        if let Err(error) = done {
            return Err(take_back(&taken, request, error));
        }
    }
    Ok(())
}

fn names(pool: &[&Dataset], request: &SnapshotRequest) -> Vec<String> {
    pool.iter().map(|dataset| dataset.full_name(&request.name)).collect()
}

/// One call: there as a whole or not at all, labels and all, and on disk when it returns.
fn take(pool: &[&Dataset], request: &SnapshotRequest) -> Result<()> {
    const TRIES: u32 = 5;
    let lzc = pool[0].lzc()?;
    for dataset in pool {
        dataset.settled()?;
    }
    let props: BTreeMap<_, _> = meta::label_props(&request.labels);
    let mut nth = 1;
    loop {
        match lzc.snapshot(&names(pool, request), &props) {
            // Another change of the same dataset was in the same transaction.
            Err(failed) if failed.errno == Errno::TryAgain && nth < TRIES => nth += 1,
            Err(failed) => return Err(not_taken(pool, request, &failed)),
            Ok(()) => return Ok(()),
        }
    }
}

fn not_taken(pool: &[&Dataset], request: &SnapshotRequest, failed: &Failed) -> Error {
    let guilty = |dataset: &&&Dataset| failed.per_name.contains_key(&dataset.full_name(&request.name));
    let dataset = pool.iter().find(guilty).unwrap_or(&pool[0]);
    let errno = failed.per_name.get(&dataset.full_name(&request.name)).copied().unwrap_or(failed.errno);
    let subject = dataset.at_name(&request.name);
    match errno {
        Errno::Exists => dataset.taken(&request.name),
        Errno::NotFound => dataset.no_such_dataset(),
        Errno::Busy => dataset.refused("snapshot", "a stream is being received into it".into(), None),
        Errno::TooLong => Error::Refused {
            op: "take",
            subject,
            why: "its labels are longer than ZFS can keep: 8191 bytes in all".into(),
            hint: None,
        },
        _ => of_errno("take", subject, &needed(&rights(request), pool), errno),
    }
}

/// What an ordinary user needs to take and hold what is asked for.
fn rights(request: &SnapshotRequest) -> String {
    let mut rights = vec!["snapshot"];
    rights.extend((!request.labels.is_empty()).then_some("userprop"));
    rights.extend((!request.holds.is_empty()).then_some("hold"));
    rights.join(",")
}

fn needed<'a>(rights: &'a str, pool: &[&'a Dataset]) -> Vec<(&'a str, &'a str)> {
    pool.iter().map(|dataset| (rights, dataset.name().as_str())).collect()
}

/// Says before anything is taken that it could not be held: who may take need not be allowed to take back.
///
/// # Errors
/// [`Error::Denied`].
fn check_may_hold(pools: &[Vec<&Dataset>], request: &SnapshotRequest) -> Result<()> {
    let Some(tag) = request.holds.first() else { return Ok(()) };
    // The kernel looks at the rights before it looks for the snapshot.
    let nowhere = format!("cowsnap-may-it-hold-{}", jiff::Timestamp::now().as_nanosecond());
    for dataset in pools.iter().flatten() {
        let hold = [(format!("{}@{nowhere}", dataset.name()), tag.to_string())];
        if let Err(failed) = dataset.lzc()?.hold(&hold, None)
            && failed.errno == Errno::NotPermitted
        {
            let subject = dataset.at_name(&request.name);
            return Err(of_errno("hold", subject, &needed(&rights(request), &[*dataset]), failed.errno));
        }
    }
    Ok(())
}

fn hold(pool: &[&Dataset], request: &SnapshotRequest) -> Result<()> {
    request.holds.iter().try_for_each(|tag| hold_all(pool, request, tag))
}

fn hold_all(pool: &[&Dataset], request: &SnapshotRequest, tag: &HoldTag) -> Result<()> {
    let holds: Vec<_> = names(pool, request).into_iter().map(|name| (name, tag.to_string())).collect();
    let rights = needed("hold", pool);
    let failed = |failed: Failed| of_errno("hold", pool[0].at_name(&request.name), &rights, failed.errno);
    pool[0].lzc()?.hold(&holds, None).map_err(failed)
}

/// Destroys what was just taken. What comes of that: `error`, with the names of what stays behind.
fn take_back(taken: &[&[&Dataset]], request: &SnapshotRequest, error: Error) -> Error {
    let (mut left, mut why) = (Vec::new(), String::new());
    for pool in taken {
        if let Err(failed) = destroy_taken(pool, request) {
            why = failed;
            left.extend(pool.iter().map(|dataset| quoted(dataset.at_name(&request.name)).to_string()));
        }
    }
    match left.is_empty() {
        true => error,
        false => {
            let names = left.join(" ");
            let what = format!(
                "{names}: taken, and could not be taken back as the rest failed: {why}; cowsnap destroy {names}"
            );
            Error::Halfway { what, source: Box::new(error) }
        }
    }
}

/// Destroys what was just taken of one pool, with the holds that were just put on it, or says why not.
fn destroy_taken(pool: &[&Dataset], request: &SnapshotRequest) -> Result<(), String> {
    let lzc = pool[0].lzc().map_err(|error| error.to_string())?;
    let names = names(pool, request);
    for tag in &request.holds {
        let holds: Vec<_> = names.iter().map(|name| (name.clone(), tag.to_string())).collect();
        // Most will not be there: holding is what failed.
        let _ = lzc.release(&holds);
    }
    lzc.destroy_snapshots(&names, false).map_err(|failed| failed.errno.to_string())
}
