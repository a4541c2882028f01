//! The clones of native overlays, whichever filesystem makes them.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::{CloneFile, refused, stacks};
use crate::endpoint::btrfs::scratch::Scratch;
use crate::endpoint::btrfs::store::STORE_DIR;
use crate::endpoint::overlay::home::random;
use crate::endpoint::overlay::{Entry, Place, shown};
use crate::endpoint::record::{read_record, replace_file};
use crate::endpoint::zfs::inside::{Found, Inside};
use crate::endpoint::zfs::overlays::{Clones as ZfsClones, Origin};
use crate::endpoint::{Dataset, Error, Result, zfs};
use crate::model::overlay::{Base, BaseKind, Record};
use crate::model::{Guid, PathText};
use crate::sys::btrfs::get_subvol_info;
use crate::sys::mount::Detached;

/// The file in an overlay's directory that says what its clones are made of, on ZFS.
const ORIGIN: &str = "origin";

/// Where clones are.
pub(super) enum Clones {
    /// On the btrfs filesystem of a path.
    Btrfs(Scratch),
    /// In a pool of ZFS.
    Zfs(ZfsClones),
}

impl Clones {
    /// Those where `on` says: a path, or a pool's name.
    pub(super) fn on(on: &Path) -> Result<Self> {
        match on.is_absolute() {
            true => Scratch::of(on).map(Self::Btrfs),
            false => Ok(Self::Zfs(ZfsClones::of_pool(&on.display().to_string()))),
        }
    }

    /// Those that the overlay in the directory `dir` has, or had.
    pub(super) fn of_overlay(dir: &Path, record: &Record) -> Result<Self> {
        match read_origin(dir)? {
            Some(origin) => {
                zfs::overlays::expect_pool(origin.pool(), origin.pool_guid())?;
                Ok(Self::Zfs(ZfsClones::of_pool(origin.pool())))
            }
            None => Scratch::of(record.base.path.as_path()).map(Self::Btrfs),
        }
    }

    pub(super) fn names(&self) -> Result<Vec<String>> {
        match self {
            Self::Btrfs(scratch) => scratch.names(),
            Self::Zfs(clones) => clones.names(),
        }
    }

    /// The tree of the clone `name`, to be attached at the place; `None` if there is no such clone.
    pub(super) fn tree(&self, place: &Place<'_>, name: &str) -> Result<Option<Detached>> {
        match self {
            Self::Btrfs(scratch) => scratch.open(name)?.map(|tree| shown::bound(place, tree)).transpose(),
            Self::Zfs(clones) => clones.open(name)?.map(|tree| shown::restricted(place, tree)).transpose(),
        }
    }

    /// Takes a snapshot of the clone to be looked at; false if there is no such clone.
    pub(super) fn take_view(&self, name: &str, clone: &str) -> Result<bool> {
        match self {
            Self::Btrfs(scratch) => scratch.take_view(name, clone),
            Self::Zfs(clones) => clones.take_view(name, clone),
        }
    }

    /// What a snapshot of the clone is called that is looked at.
    pub(super) fn name_of_view(&self, clone: &str, random: u64) -> String {
        match self {
            Self::Btrfs(_) => {
                let (stem, _) = clone.rsplit_once(':').unwrap_or((clone, ""));
                format!("{stem}:{random:016x}")
            }
            Self::Zfs(_) => ZfsClones::name_of_view(clone, random),
        }
    }

    /// The root of what is called so, to be read; `None` if there is none.
    pub(super) fn root(&self, name: &str) -> Result<Option<OwnedFd>> {
        match self {
            Self::Btrfs(scratch) => scratch.open(name),
            Self::Zfs(clones) => Ok(clones.open(name)?.map(OwnedFd::from)),
        }
    }

    pub(super) fn rename(&self, name: &str, new: &str) -> Result<bool> {
        match self {
            Self::Btrfs(scratch) => scratch.rename(name, new),
            Self::Zfs(clones) => clones.rename(name, new),
        }
    }

    /// Destroys the clone, with what is `given_up` of what was made in it; one that is not there is gone. False: another one is called so,
    /// and stays.
    pub(super) fn destroy(&self, name: &str, guid: Option<Guid>, given_up: &[Inside]) -> Result<bool> {
        match self {
            Self::Btrfs(scratch) => scratch.destroy(name).map(|()| true),
            Self::Zfs(clones) => clones.destroy(name, guid, given_up),
        }
    }

    /// What somebody made in these clones that may be all that is left of something; what a suite nests on btrfs is not.
    pub(super) fn inside(&self, names: &[String]) -> Result<Vec<Found>> {
        match self {
            Self::Btrfs(_) => Ok(Vec::new()),
            Self::Zfs(clones) => clones.inside(names),
        }
    }

    /// Where the clone `name` can be looked at though no overlay shows it; `None` if nowhere.
    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        match self {
            Self::Btrfs(scratch) => {
                Some(scratch.mounted_at().ok()?.join(STORE_DIR).join("overlays").join(name))
            }
            Self::Zfs(_) => None,
        }
    }
}

/// The base, ready to be cloned.
pub(super) enum Source {
    /// Its root; `is_live` if it may change.
    Btrfs {
        scratch: Scratch,
        root: OwnedFd,
        is_live: bool,
    },
    Zfs(Origin),
}

impl Source {
    /// What clones are made of: the base, or the tree of the record's layers, which has a name.
    pub(super) fn of(overlay: &Entry, record: &Record) -> Result<(Self, Option<String>)> {
        match record.layers.last() {
            Some(&top) => stacks::source(overlay, record, top),
            None => Self::of_base(overlay, record).map(|source| (source, None)),
        }
    }

    pub(super) fn of_base(overlay: &Entry, record: &Record) -> Result<Self> {
        if let Some(origin) = read_origin(overlay.dir())? {
            return Ok(Self::Zfs(origin));
        }
        let path = record.base.path.as_path();
        let Some(version) = &record.base.version else {
            let root = File::open(path).map_err(Error::io("open", path.display()))?.into();
            return Ok(Self::Btrfs { scratch: Scratch::of(path)?, root, is_live: true });
        };
        match crate::endpoint::path::named(path)? {
            // One that was received need not be there, but for its snapshots.
            Dataset::Btrfs(dataset) => {
                let root = dataset.open_version(version)?;
                Ok(Self::Btrfs { scratch: Scratch::beside(&dataset), root, is_live: false })
            }
            other => Err(refused(record, format!("{other} is not on btrfs"))),
        }
    }

    pub(super) fn on(&self) -> Result<PathText> {
        match self {
            Self::Btrfs { scratch, .. } => Ok(scratch.mounted_at()?.as_path().into()),
            Self::Zfs(origin) => Ok(Path::new(origin.pool()).into()),
        }
    }

    /// The guid of the pool that it is in, on ZFS.
    pub(super) fn pool(&self) -> Option<Guid> {
        match self {
            Self::Btrfs { .. } => None,
            Self::Zfs(origin) => origin.pool_guid(),
        }
    }

    /// The transaction of the last change of its content; `None` for what does not change.
    pub(super) fn transaction(&self) -> Result<Option<u64>> {
        match self {
            Self::Btrfs { root, .. } => {
                let info = get_subvol_info(root.as_fd()).map_err(Error::io("read", "a subvolume"))?;
                Ok(Some(info.ctransid))
            }
            Self::Zfs(_) => Ok(None),
        }
    }

    /// The generation that a clone is called after which waits: to rename one costs nothing on btrfs, and a transaction on ZFS.
    pub(super) fn generation_of_spare(&self, overlay: &Entry, copy: u32) -> Result<u64> {
        match self {
            Self::Btrfs { .. } => Ok(0),
            Self::Zfs(_) => Ok(overlay.generations(copy)?.last().map_or(1, |last| last + 1)),
        }
    }

    /// It, by what the base is called now, where that may have changed.
    pub(super) fn checked(self) -> Result<Self> {
        match self {
            Self::Zfs(origin) => origin.checked().map(Self::Zfs),
            btrfs => Ok(btrfs),
        }
    }

    /// What is written down of a clone before it is made.
    pub(super) fn clone_to_be(
        &self,
        name: String,
        transaction: Option<u64>,
        made_of: Option<String>,
    ) -> Result<CloneFile> {
        let origin = match self {
            Self::Btrfs { is_live: true, .. } => {
                let (stem, _) = name.rsplit_once(':').unwrap_or((&name, ""));
                Some(format!("{stem}:{:016x}", random()?))
            }
            _ => None,
        };
        Ok(CloneFile { on: self.on()?, name, transaction, origin, made_of, guid: None, pool: self.pool() })
    }

    /// Makes the clone.
    pub(super) fn make(&self, clone: &CloneFile) -> Result<()> {
        match self {
            Self::Btrfs { scratch, root, .. } => match &clone.origin {
                None => scratch.make(&clone.name, root.as_fd()),
                Some(origin) => {
                    scratch.make_origin(origin, root.as_fd())?;
                    let gone = || Error::NotFound { what: "snapshot", subject: origin.clone(), hint: None };
                    let root = scratch.open(origin)?.ok_or_else(gone)?;
                    scratch.make(&clone.name, root.as_fd())
                }
            },
            Self::Zfs(origin) => ZfsClones::of_pool(origin.pool()).make(&clone.name, origin),
        }
    }

    /// What the clone was made of, which nobody writes to.
    pub(super) fn tree(&self, among: &Clones, clone: &CloneFile) -> Result<OwnedFd> {
        match (self, &clone.origin) {
            (Self::Btrfs { .. }, Some(origin)) => among.root(origin)?.ok_or_else(|| Error::NotFound {
                what: "snapshot",
                subject: origin.clone(),
                hint: None,
            }),
            (Self::Btrfs { root, .. }, None) => {
                root.try_clone().map_err(Error::io("open", "the root of a snapshot"))
            }
            (Self::Zfs(origin), _) => origin.open().map(OwnedFd::from),
        }
    }

    /// By what the clone is known whatever it is called, where that takes more than its name.
    pub(super) fn guid(&self, clone: &CloneFile) -> Result<Option<Guid>> {
        match self {
            Self::Btrfs { .. } => Ok(None),
            Self::Zfs(origin) => ZfsClones::of_pool(origin.pool()).guid(&clone.name),
        }
    }
}

/// The dataset of ZFS that the base is, or is a snapshot of; `None` if it is on another filesystem.
///
/// # Errors
/// What is on ZFS, and no filesystem's root.
pub(super) fn dataset_of(base: &Base) -> Result<Option<zfs::Dataset>> {
    let path = base.path.as_path();
    match base.kind {
        BaseKind::Snapshot if !path.is_absolute() => {
            let name = path.display().to_string();
            let parsed = name.parse();
            let dataset =
                parsed.map_err(|_| Error::NotFound { what: "dataset", subject: name, hint: None })?;
            Ok(Some(zfs::Dataset::by_name(dataset)))
        }
        BaseKind::Dir if zfs::is_on_zfs(path)? => zfs::Dataset::at(path).map(Some),
        _ => Ok(None),
    }
}

/// Writes down what the clones of an overlay are made of, and takes the snapshot if there is none yet; on btrfs, there is no need.
pub(super) fn prepare(overlay: &Entry, record: &Record, random: u64) -> Result<()> {
    let Some(dataset) = dataset_of(&record.base)? else { return Ok(()) };
    if read_origin(overlay.dir())?.is_some() {
        return Ok(());
    }
    let mut origin = match &record.base.version {
        Some(version) => Origin::of_snapshot(&dataset, version)?,
        None => {
            let mark = format!("{}:{}:{random:016x}", overlay.home().id(), record.name);
            Origin::to_be_taken(&dataset, mark, random)?
        }
    };
    ZfsClones::of_pool(origin.pool()).prepare()?;
    // Before it is there: whoever finds the file destroys it.
    write_origin(overlay.dir(), &origin)?;
    origin.take()?;
    write_origin(overlay.dir(), &origin)
}

/// Destroys what was made for the clones of the overlay that was in `dir`.
pub(super) fn discard_origin(dir: &Path) -> Result<()> {
    // It is synced before anything is made of it: one that can not be read was not lost in a crash.
    let Some(origin) = read_origin(dir)? else { return Ok(()) };
    origin.destroy()?;
    super::remove(&dir.join(ORIGIN))
}

/// The root of the snapshot that was taken for the clones of the overlay in `dir`, on ZFS; `None` if none was.
pub(super) fn open_origin(dir: &Path) -> Result<Option<OwnedFd>> {
    match read_origin(dir)? {
        Some(origin) if origin.was_taken() => origin.checked()?.open().map(|tree| Some(tree.into())),
        _ => Ok(None),
    }
}

pub(super) fn read_origin(dir: &Path) -> Result<Option<Origin>> {
    let file = dir.join(ORIGIN);
    let Some(text) = read_record(&file)? else { return Ok(None) };
    serde_json::from_slice(&text).map(Some).map_err(|error| Error::Corrupt {
        what: "origin of an overlay's clones",
        why: format!("{}: {error}", file.display()),
        source: None,
    })
}

fn write_origin(dir: &Path, origin: &Origin) -> Result<()> {
    replace_file(&dir.join(ORIGIN), &serde_json::to_vec(origin).expect("its keys are texts"))
}
