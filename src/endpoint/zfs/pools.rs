//! What there is of ZFS on this machine: pools, and the datasets of one or of all.

use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::{error, program};
use crate::endpoint::{Error, Result};
use crate::model::DatasetName;

/// Whether ZFS can be worked with here.
///
/// # Errors
/// [`Error::Denied`] with what is missing; `subject` is what was named.
pub fn available(subject: &str) -> Result<()> {
    error::lzc(subject).map(drop)
}

/// Whether there is a pool of that name. Where there is no ZFS, there is none.
pub fn has_pool(name: &str) -> bool {
    error::lzc(name).is_ok_and(|lzc| lzc.exists(name))
}

/// All filesystems and volumes of the pool `name`, the pool's own root first.
///
/// # Errors
/// [`Error::NotFound`]; no ZFS on this machine.
pub fn all_of_pool(name: &str) -> Result<Vec<Dataset>> {
    error::lzc(name)?;
    listed(&["-r", name]).map_err(|failure| match failure.into_error("list", name) {
        Error::NotFound { subject, .. } => {
            Error::NotFound { what: "pool", subject, hint: Some("zpool import; zpool list".into()) }
        }
        error => error,
    })
}

/// All filesystems and volumes of all pools; nothing where there is no ZFS.
///
/// # Errors
/// A listing that fails.
pub fn everything() -> Result<Vec<Dataset>> {
    if error::lzc("ZFS").is_err() {
        return Ok(Vec::new());
    }
    match listed(&[]) {
        Err(program::Failure::Missing(..)) => Ok(Vec::new()),
        Err(failure) => Err(failure.into_error("list", "the datasets of ZFS")),
        Ok(datasets) => Ok(datasets),
    }
}

fn listed(which: &[&str]) -> Result<Vec<Dataset>, program::Failure> {
    let mut args = vec!["list", "-Hp", "-t", "filesystem,volume", "-o", "name"];
    args.extend(which);
    let text = program::zfs(&args)?;
    let text = String::from_utf8_lossy(&text);
    // What has a name that cowsnap can not say is not cowsnap's to work on.
    Ok(text.lines().filter_map(|name| name.parse::<DatasetName>().ok()).map(Dataset::by_name).collect())
}
