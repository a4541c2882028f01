//! From a target on the command line to the dataset that serves it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::cli::{Context, progress};
use crate::endpoint::btrfs::{self, Store};
use crate::endpoint::{self, Dataset, path, zfs};
use crate::model::{DatasetName, SnapshotName, SnapshotRef, Target, Version, quoted};
use crate::pool::{Pool, Registry};
use crate::{Error, Result};

/// The dataset that `target` names, whether it is there or not.
///
/// # Errors
/// An unknown pool, or one that is not mounted; a path below nothing; a target that only a later version serves.
pub fn dataset(target: &Target, context: &Context) -> Result<Dataset> {
    match target {
        Target::Dataset(name) => of_pool(name, context, Store::open),
        Target::Path(path) => Ok(path::named(path)?),
        Target::Remote(address) => Err(Error::Usage {
            what: format!("{address} is out of this version's reach: it works on this machine's filesystems"),
            hint: Some("cowsnap replicate TARGET ssh://HOST/TARGET; cowsnap send SNAP | ssh HOST cowsnap receive TARGET".into()),
        }),
    }
}

/// As [`dataset`], and nothing is written to the filesystem that it is on, which may hang: what died there is left to who works on it.
///
/// # Errors
/// As [`dataset`].
pub fn dataset_as_it_is(target: &Target, context: &Context) -> Result<Dataset> {
    match target {
        Target::Dataset(name) => of_pool(name, context, Store::open_as_it_is),
        Target::Path(path) => Ok(path::named_as_it_is(path)?),
        Target::Remote(_) => dataset(target, context),
    }
}

fn of_pool(name: &DatasetName, context: &Context, open: btrfs::Open) -> Result<Dataset> {
    let Some(pool) = embedded(name.pool(), context)? else {
        return Ok(zfs::Dataset::by_name(name.clone()).into());
    };
    let Some(within) = name.within_pool() else {
        return Err(Error::Usage {
            what: format!("{name} is a pool; a dataset of it is called {name}/NAME"),
            hint: Some(format!("cowsnap list {}", quoted(name))),
        });
    };
    Ok(open(pool.ready()?)?.dataset(within).with_label(name.as_str()).into())
}

/// The embedded pool of that name; `None` if it is ZFS's to say whether there is one.
///
/// # Errors
/// No embedded pool of that name where there is no ZFS either.
fn embedded(name: &str, context: &Context) -> Result<Option<Pool>> {
    let registry = Registry::open(context.state_dir())?;
    if let Some(pool) = registry.get(name)? {
        return Ok(Some(pool));
    }
    match zfs::available(name) {
        Ok(()) => Ok(None),
        Err(endpoint::Error::Denied { op, subject, lacking, hint }) => {
            let lacking = format!("no embedded pool is called {name}, and {lacking}");
            let hint = hint.map(|hint| {
                format!(
                    "cowsnap pool create {0}, if an embedded pool is meant; for ZFS: {hint}",
                    quoted(name)
                )
            });
            Err(endpoint::Error::Denied { op, subject, lacking, hint }.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// The dataset that `target` names where it is to hold what `of` does.
///
/// # Errors
/// As [`dataset`].
pub fn dataset_for(of: &Dataset, target: &Target, context: &Context) -> Result<Dataset> {
    match target {
        Target::Path(path) => Ok(path::named_for(of, path)?),
        _ => dataset(target, context),
    }
}

/// `dataset`, of which bytes may be copied if `copy` says so, for the verb `op`: that is shown if it takes long.
///
/// # Errors
/// A dataset that needs no copies.
pub fn with_copies(dataset: Dataset, copy: bool, op: &'static str, context: &Context) -> Result<Dataset> {
    let dataset = if copy { dataset.copying()? } else { dataset };
    let watch = progress::watch(context, op, dataset.to_string());
    Ok(dataset.watched(watch))
}

/// The dataset that `target` names and that is there to be snapshotted.
///
/// # Errors
/// As [`dataset`]; there is none, or a file in its place.
pub fn existing(target: &Target, context: &Context) -> Result<Dataset> {
    let dataset = match target {
        Target::Path(path) => path::existing(path)?,
        _ => dataset(target, context)?,
    };
    dataset.expect_live()?;
    Ok(dataset)
}

/// The snapshot that `text` (TARGET@NAME) names, with its dataset.
///
/// # Errors
/// As [`dataset`]; a text without a snapshot's name; no snapshot of that name.
pub fn version(text: &OsString, context: &Context) -> Result<(Dataset, Version)> {
    let snapshot = SnapshotRef::parse(text)?;
    let dataset = dataset(&snapshot.target, context)?;
    let version = dataset.version(&snapshot.name)?;
    Ok((dataset, version))
}

/// All of these snapshots. The first that is not there is the error.
pub fn versions(texts: &[OsString], context: &Context) -> Result<Vec<(Dataset, Version)>> {
    texts.iter().map(|text| version(text, context)).collect()
}

/// What was asked for, as far as it is there to be read.
pub struct Found {
    /// Datasets, with the one snapshot that is meant if not all are.
    pub datasets: Vec<(Dataset, Option<SnapshotName>)>,
    /// Why some of it is left out: to be returned once the rest is printed.
    pub left_out: Result<()>,
}

/// Datasets, or with TARGET@NAME one snapshot of them; every dataset of every pool if nothing is named. A pool's name
/// means all of its datasets.
pub fn datasets_or_versions(texts: &[OsString], context: &Context) -> Result<Found> {
    if texts.is_empty() {
        return all(context);
    }
    let mut found = Vec::new();
    for text in texts {
        if names_a_snapshot(text) {
            let (dataset, version) = version(text, context)?;
            found.push((dataset, Some(version.id.name)));
        } else {
            found.extend(with_whole_pools(&Target::parse(text)?, context)?.into_iter().map(|d| (d, None)));
        }
    }
    Ok(Found { datasets: found, left_out: Ok(()) })
}

/// A path with an `@` in its last component names a snapshot unless it exists as it stands.
pub fn names_a_snapshot(text: &OsString) -> bool {
    let bytes = text.as_bytes();
    SnapshotRef::parse(text).is_ok() && !(bytes.starts_with(b"/") && Path::new(text).exists())
}

/// The dataset that `target` names; if that is a pool, all datasets of it.
pub fn with_whole_pools(target: &Target, context: &Context) -> Result<Vec<Dataset>> {
    match target {
        Target::Dataset(name) if name.within_pool().is_none() => of_whole_pool(name.pool(), context),
        _ => Ok(vec![dataset(target, context)?]),
    }
}

fn of_whole_pool(name: &str, context: &Context) -> Result<Vec<Dataset>> {
    let Some(pool) = embedded(name, context)? else {
        return Ok(zfs::all_of_pool(name)?.into_iter().map(Dataset::from).collect());
    };
    let datasets = Store::open(pool.ready()?)?.datasets()?;
    let label = |dataset: btrfs::Dataset| {
        let label = format!("{name}/{}", dataset.path().display());
        dataset.with_label(label).into()
    };
    Ok(datasets.into_iter().filter(|d| !d.path().as_os_str().is_empty()).map(label).collect())
}

/// Every dataset of every pool that is mounted. One that is not is left out with a warning; one that can not be read is
/// an error, as nobody knows what is missing.
fn all(context: &Context) -> Result<Found> {
    let mut datasets = Vec::new();
    let mut unread = None;
    for (name, pool) in Registry::open(context.state_dir())?.pools()? {
        match pool.map(|pool| pool.ready().map(drop)) {
            Ok(Ok(())) => datasets.extend(of_whole_pool(&name, context)?.into_iter().map(|d| (d, None))),
            Ok(Err(error)) => context.warn(error.to_string()),
            Err(error) => unread = Some(Error::from(error)),
        }
    }
    datasets.extend(zfs::everything()?.into_iter().map(|dataset| (dataset.into(), None)));
    let left_out = match unread {
        None => Ok(()),
        Some(error) if datasets.is_empty() => Err(error),
        Some(error) => {
            Err(Error::Halfway { what: "not every pool can be read".into(), source: Box::new(error) })
        }
    };
    Ok(Found { datasets, left_out })
}
