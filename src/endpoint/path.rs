//! From an absolute path to the dataset that it names, whichever backend serves it.

use std::path::Path;

use crate::endpoint::{Dataset, Result, btrfs, tree, zfs};

/// Who serves a path.
enum Serving {
    Btrfs,
    Zfs,
    Tree,
}

/// The dataset that `path` names, whether it is there or not: a btrfs subvolume, the ZFS filesystem that is mounted there, or
/// else a plain directory. What is not there yet is of the filesystem that it would be on.
///
/// # Errors
/// [`Error::NotFound`](crate::endpoint::Error::NotFound) if there is nothing above it;
/// [`Error::Foreign`](crate::endpoint::Error::Foreign) for a file.
pub fn named(path: &Path) -> Result<Dataset> {
    match serving(path)? {
        Serving::Btrfs => Ok(btrfs::Dataset::named(path)?.into()),
        Serving::Zfs => Ok(zfs::Dataset::named(path)?.into()),
        Serving::Tree => Ok(tree::Dataset::named(path)?.into()),
    }
}

/// As [`named`], if no symbolic link leads there, be it one that somebody puts there meanwhile: where one leads, nothing is touched.
///
/// # Errors
/// As [`named`]; [`Error::Denied`](crate::endpoint::Error::Denied) for a link.
pub fn named_directly(path: &Path) -> Result<Dataset> {
    match serving(path)? {
        Serving::Btrfs => Ok(btrfs::Dataset::named_by(path, btrfs::Store::open_directly)?.into()),
        Serving::Zfs => Ok(zfs::Dataset::named(path)?.into()),
        Serving::Tree => Ok(tree::Dataset::named(path)?.into()),
    }
}

/// As [`named`], and nothing is written to the filesystem: what died there is left to who works on it.
///
/// # Errors
/// As [`named`].
pub fn named_as_it_is(path: &Path) -> Result<Dataset> {
    match serving(path)? {
        Serving::Btrfs => Ok(btrfs::Dataset::named_by(path, btrfs::Store::open_as_it_is)?.into()),
        Serving::Zfs | Serving::Tree => named(path),
    }
}

/// The dataset that `path` names and that is there.
///
/// # Errors
/// As [`named`]; [`Error::NotFound`](crate::endpoint::Error::NotFound) if it is not.
pub fn existing(path: &Path) -> Result<Dataset> {
    match serving(path)? {
        Serving::Btrfs => Ok(btrfs::Dataset::at(path)?.into()),
        Serving::Zfs => Ok(zfs::Dataset::at(path)?.into()),
        Serving::Tree => Ok(tree::Dataset::named(path)?.into()),
    }
}

/// The dataset that `path` names where it is to hold what `of` does: beside plain directories nothing else is made.
///
/// # Errors
/// As [`named`].
pub fn named_for(of: &Dataset, path: &Path) -> Result<Dataset> {
    match (of, serving(path)?) {
        (Dataset::Tree(_), _) if !path.exists() => Ok(tree::Dataset::named(path)?.into()),
        _ => named(path),
    }
}

fn serving(path: &Path) -> Result<Serving> {
    let is_plain = |is_dataset: fn(&Path) -> Result<bool>| -> Result<bool> {
        if !path.exists() {
            return Ok(tree::has_history(path));
        }
        Ok(path.is_dir() && !is_dataset(path)?)
    };
    if zfs::is_on_zfs(path)? {
        return Ok(if is_plain(zfs::is_root)? { Serving::Tree } else { Serving::Zfs });
    }
    match btrfs::is_on_btrfs(path)? {
        true if is_plain(btrfs::is_subvolume)? => Ok(Serving::Tree),
        true => Ok(Serving::Btrfs),
        false => Ok(Serving::Tree),
    }
}
