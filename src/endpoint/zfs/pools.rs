//! What there is of ZFS on this machine: pools, and the datasets of one or of all.

use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::hidden::Hidden;
use crate::endpoint::zfs::overlays::PATIENCE;
use crate::endpoint::zfs::{error, list, program};
use crate::endpoint::{Error, Result};
use crate::model::{DatasetName, Guid};

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

/// The guid of the pool `name`, which one that was split off another has for itself, though the guids of the datasets are the same.
///
/// # Errors
/// What `zpool` says.
pub(super) fn guid_of(name: &str) -> Result<Guid> {
    let args = ["get", "-Hp", "-o", "value", "guid", name];
    let text = program::zpool_within(&args, PATIENCE);
    let text = text.map_err(|failure| failure.into_error("read the guid of", name))?;
    Ok(Guid::of_zfs(list::number(&list::value(&text))?))
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

/// The datasets of all pools into which a receive was begun that can be resumed, or is being done; nothing where there is
/// no ZFS.
///
/// # Errors
/// A listing that fails.
pub fn begun() -> Result<Vec<Dataset>> {
    if error::lzc("ZFS").is_err() {
        return Ok(Vec::new());
    }
    match program::zfs(&["list", "-Hp", "-t", "filesystem,volume", "-o", "name,receive_resume_token"]) {
        Err(program::Failure::Missing(..)) => Ok(Vec::new()),
        Err(failure) => Err(failure.into_error("list", "the receives of ZFS")),
        Ok(text) => Ok(with_token(&String::from_utf8_lossy(&text))),
    }
}

/// Of lines of a name and a token, or `-` for none, the datasets that have one.
fn with_token(text: &str) -> Vec<Dataset> {
    let fields = text.lines().filter_map(|line| line.split_once('\t'));
    let begun = fields.filter(|(_, token)| *token != "-");
    begun.filter_map(|(name, _)| name.parse::<DatasetName>().ok()).map(Dataset::by_name).collect()
}

fn listed(which: &[&str]) -> Result<Vec<Dataset>, program::Failure> {
    let mut args = vec!["list", "-Hp", "-t", "filesystem,volume", "-o", "name"];
    args.extend(which);
    let text = program::zfs(&args)?;
    let text = String::from_utf8_lossy(&text);
    // What can not be told is shown.
    let hidden = Hidden::of(text.lines()).unwrap_or_default();
    let shown = text.lines().filter(|name| !hidden.has(name));
    // What has a name that cowsnap can not say is not cowsnap's to work on.
    Ok(shown.filter_map(|name| name.parse::<DatasetName>().ok()).map(Dataset::by_name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dataset_with_a_token_was_begun_to_be_received() {
        let names = |text| with_token(text).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names("tank\t-\ntank/a b:c\t1-e604ea4bf-e0-789c\ntank/z\t-\n"), ["tank/a b:c"]);
        assert!(names("").is_empty());
    }
}
