//! What overlays lie on: made out when one is made, and reached as a directory afterwards.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, StatxFlags};

use crate::endpoint::overlay::Entry;
use crate::endpoint::{Backend, Dataset, Error, Result, zfs};
use crate::model::overlay::{Base, BaseKind, Record};
use crate::model::{PathText, VersionRef};
use crate::sys::mount;

/// The option of a record: when the directory that is its base was made, as far as its filesystem tells.
pub const BORN: &str = "base_born";

/// When a directory was made: `SECONDS.NANOSECONDS`; `None` if its filesystem does not tell.
pub fn birth(dir: &Path) -> Option<String> {
    let wanted = StatxFlags::BTIME;
    let stat = rustix::fs::statx(rustix::fs::CWD, dir, AtFlags::empty(), wanted).ok()?;
    let is_told = stat.stx_mask & wanted.bits() != 0;
    is_told.then(|| format!("{}.{:09}", stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec))
}

/// The base that is the directory `dir`.
///
/// # Errors
/// [`Error::NotFound`] if there is none; [`Error::Foreign`] for what is no directory.
pub fn of_dir(dir: &Path) -> Result<Base> {
    let dir = dir.canonicalize().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Error::NotFound { what: "base", subject: dir.display().to_string(), hint: None }
        }
        _ => Error::io("find", dir.display())(error),
    })?;
    let identity = identity_of_dir(&dir)?;
    Ok(Base { kind: BaseKind::Dir, path: dir.as_path().into(), version: None, identity })
}

/// The base that is the snapshot `version` of `dataset`.
///
/// # Errors
/// [`Error::NotFound`] for one of a dataset that is not to be seen anywhere now, unless it is of ZFS.
pub fn of_snapshot(dataset: &Dataset, version: &VersionRef) -> Result<Base> {
    let name = dataset.to_string();
    let path = match dataset {
        // Wherever it is mounted, if anywhere: its name is its own.
        Dataset::Zfs(dataset) => dataset.name().as_str().into(),
        _ => dataset.mountpoint()?.ok_or(Error::NotFound {
            what: "mounted dataset",
            subject: name,
            hint: None,
        })?,
    };
    let identity = format!("snapshot:{}", version.guid);
    let path = path.as_path().into();
    Ok(Base { kind: BaseKind::Snapshot, path, version: Some(version.clone()), identity })
}

/// An empty tree.
pub fn empty() -> Base {
    Base { kind: BaseKind::None, path: PathText::Text(String::new()), version: None, identity: "none".into() }
}

/// The base as a directory: a snapshot is mounted at [`Entry::base_dir`], unless it is already.
///
/// # Errors
/// [`Error::NotFound`] if it is gone, [`Error::Reused`] or [`Error::Refused`] if another one is in its place.
pub fn reach(overlay: &Entry, record: &Record) -> Result<PathBuf> {
    let base = &record.base;
    match base.kind {
        BaseKind::Dir => {
            let dir = base.path.as_path();
            let found = of_dir(dir)?;
            // An inode number is used again, as soon as its directory is gone.
            let born = record.options.more.get(BORN).and_then(|born| born.as_str());
            let is_other = born.is_some_and(|born| birth(dir).is_some_and(|now| now != born));
            if found.identity != base.identity || is_other {
                return Err(Error::Refused {
                    op: "use base",
                    subject: dir.display().to_string(),
                    why: "another directory is in its place since the overlay was made".into(),
                    hint: Some(format!("cowsnap overlay destroy {}", crate::model::quoted(&record.name))),
                });
            }
            Ok(dir.to_owned())
        }
        BaseKind::None => {
            let dir = overlay.base_dir();
            fs::create_dir_all(&dir).map_err(Error::io("make directory", dir.display()))?;
            Ok(dir)
        }
        BaseKind::Snapshot => mounted_snapshot(overlay, base),
        BaseKind::Image => Err(Error::Foreign {
            subject: base.path.as_path().display().to_string(),
            wanted: "directory or snapshot",
            why: "it is an image".into(),
            hint: None,
        }),
    }
}

/// Takes away what [`reach`] mounted.
pub fn let_go(overlay: &Entry, _: &Record) -> Result<()> {
    let dir = overlay.base_dir();
    while is_mounted(&dir)? {
        mount::unmount_lazily(&dir).map_err(Error::io("unmount", dir.display()))?;
    }
    Ok(())
}

fn mounted_snapshot(overlay: &Entry, base: &Base) -> Result<PathBuf> {
    let dir = overlay.base_dir();
    if is_mounted(&dir)? {
        return Ok(dir);
    }
    fs::create_dir_all(&dir).map_err(Error::io("make directory", dir.display()))?;
    let version = base.version.as_ref().ok_or_else(|| Error::Corrupt {
        what: "overlay record",
        why: format!("{} has a snapshot as base and does not say which", overlay.name()),
        source: None,
    })?;
    dataset(base.path.as_path())?.mount(version, &dir)?.keep();
    Ok(dir)
}

/// Opens the root of the snapshot that is the base, which need not be mounted anywhere.
///
/// # Errors
/// As [`reach`]; [`Error::Denied`] without the right to mount, where that is needed.
pub fn open_snapshot(base: &Base) -> Result<OwnedFd> {
    let none = || Error::NotFound {
        what: "snapshot",
        subject: base.path.as_path().display().to_string(),
        hint: None,
    };
    dataset(base.path.as_path())?.open_tree(base.version.as_ref().ok_or_else(none)?)
}

/// The dataset that a record names: by its name on ZFS, else by its path.
fn dataset(path: &Path) -> Result<Dataset> {
    if path.is_absolute() {
        return crate::endpoint::path::named(path);
    }
    let name = path.display().to_string();
    let parsed = name.parse().map_err(|_| Error::NotFound { what: "dataset", subject: name, hint: None })?;
    Ok(zfs::Dataset::by_name(parsed).into())
}

fn is_mounted(dir: &Path) -> Result<bool> {
    let mounts = mount::mounts().map_err(Error::io("read", "the table of mounts"))?;
    Ok(mounts.iter().any(|mounted| mounted.dir == dir))
}

/// A directory's filesystem and inode: another one in its place is another base.
fn identity_of_dir(dir: &Path) -> Result<String> {
    let meta = fs::metadata(dir).map_err(Error::io("examine", dir.display()))?;
    if !meta.is_dir() {
        return Err(Error::Foreign {
            subject: dir.display().to_string(),
            wanted: "directory",
            why: "a file is no base in this mode".into(),
            hint: None,
        });
    }
    let id = rustix::fs::statvfs(dir).map_err(Error::io("examine", dir.display()))?.f_fsid;
    Ok(format!("dir:{id:x}:{}", meta.ino()))
}
