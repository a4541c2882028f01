//! One dataset of a btrfs filesystem: a subvolume, or what is left of the history of one.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::endpoint::btrfs::home::Locked;
use crate::endpoint::btrfs::roots::{self, Child, Paths, Root};
use crate::endpoint::btrfs::staging::{Intent, Staging};
use crate::endpoint::btrfs::store::{Open, STORE_DIR, Store, open_beneath, rename_new};
use crate::endpoint::btrfs::{clone, meta};
use crate::endpoint::{DestroyDataset, Error, Result};
use crate::model::{SnapshotName, Version, VersionRef, quoted};
use crate::sys::btrfs::{self, FIRST_FREE_OBJECTID, FS_TREE_OBJECTID};
use crate::sys::mount;

/// A subvolume by its path below the top level. What it was a moment ago is not remembered: each call looks again.
#[derive(Clone)]
pub struct Dataset {
    store: Arc<Store>,
    path: PathBuf,
    label: String,
    visible: Option<PathBuf>,
}

impl fmt::Display for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.label)
    }
}

impl fmt::Debug for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dataset")
            .field("label", &self.label)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl PartialEq for Dataset {
    fn eq(&self, other: &Self) -> bool {
        self.store.fsid() == other.store.fsid() && self.path == other.path
    }
}

impl Eq for Dataset {}

impl Dataset {
    pub(super) fn new(store: Arc<Store>, path: PathBuf) -> Self {
        let label = store.opened_by().join(&path).display().to_string();
        Self { store, path, label: label.trim_end_matches('/').to_owned(), visible: None }
    }

    /// The dataset whose root is the directory `path`.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is nothing; [`Error::Foreign`] if it is on another filesystem, or a plain directory
    /// inside a subvolume, which can not be snapshotted by itself.
    pub fn at(path: &Path) -> Result<Self> {
        Self::at_by(path, Store::open)
    }

    fn at_by(path: &Path, open: Open) -> Result<Self> {
        let store = open(path)?;
        let fd = store.anchor();
        let inode = rustix::fs::fstat(fd).map_err(Error::io("examine", path.display()))?.st_ino;
        if inode != FIRST_FREE_OBJECTID {
            return Err(not_a_subvolume(path));
        }
        let info = btrfs::get_subvol_info(fd).map_err(Error::io("read", path.display()))?;
        let below_top =
            path_of_root(store.top(), info.into()).map_err(Error::io("find the place of", path.display()))?;
        check_outside_store(&below_top, path)?;
        let label = path.display().to_string();
        Ok(Self { store, path: below_top, label, visible: Some(path.to_owned()) })
    }

    /// The dataset that `path` names, whether it is there or not; the directory above it is, on btrfs.
    ///
    /// # Errors
    /// As [`Dataset::at`], but for nothing being there.
    pub fn named(path: &Path) -> Result<Self> {
        Self::named_by(path, Store::open)
    }

    /// As [`Dataset::named`], in a filesystem that is opened so.
    ///
    /// # Errors
    /// As [`Dataset::named`].
    pub fn named_by(path: &Path, open: Open) -> Result<Self> {
        match Self::at_by(path, open) {
            Err(Error::NotFound { .. }) => {}
            other => return other,
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Self::at_by(path, open);
        };
        let store = open(parent)?;
        let failed = |error| Error::io("find the place of", path.display())(error);
        let fd = store.anchor();
        let inode = rustix::fs::fstat(fd).map_err(|errno| failed(errno.into()))?.st_ino;
        let (_, inside) = btrfs::ino_lookup(fd, 0, inode).map_err(failed)?;
        let enclosing = btrfs::get_subvol_info(fd).map_err(failed)?;
        let mut below_top = path_of_root(store.top(), enclosing.into()).map_err(failed)?;
        below_top.push(OsStr::from_bytes(&inside));
        below_top.push(name);
        let path_below_top: PathBuf = below_top.components().collect();
        check_outside_store(&path_below_top, path)?;
        Ok(Self {
            store,
            path: path_below_top,
            label: path.display().to_string(),
            visible: Some(path.to_owned()),
        })
    }

    /// Whether it is what stands at `path`, by which it was named: no link led to it, and nothing on the way was renamed between when that was
    /// opened and when its place in the filesystem was found. All work is done beneath that place, by names that are no links.
    ///
    /// # Errors
    /// A table of mounts that can not be read.
    pub fn is_directly_at(&self, path: &Path) -> Result<bool> {
        let io = |error| Error::io("find the place of", path.display())(error);
        if !self.store.is_opened_directly() {
            return Ok(false);
        }
        let id = mount::mount_id(self.store.anchor()).map_err(io)?;
        let mounts = mount::mounts().map_err(io)?;
        let Some(through) = mounts.iter().find(|mount| mount.id == id) else { return Ok(false) };
        let place = path.strip_prefix(&through.dir).map(|rest| through.root.join(rest));
        Ok(place.is_ok_and(|place| place.strip_prefix("/") == Ok(&self.path)))
    }

    /// The same dataset, called `label` where people see it.
    pub fn with_label(self, label: impl Into<String>) -> Self {
        Self { label: label.into(), ..self }
    }

    /// The filesystem that it is in.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Its path below the filesystem's top level.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The dataset at `relative` below this one.
    pub fn below(&self, relative: &Path) -> Self {
        Self {
            store: Arc::clone(&self.store),
            path: self.path.join(relative),
            label: format!("{}/{}", self.label.trim_end_matches('/'), relative.display()),
            visible: self.visible.as_ref().map(|visible| visible.join(relative)),
        }
    }

    /// Whether its live subvolume exists.
    ///
    /// # Errors
    /// A path that can not be looked at.
    pub fn exists(&self) -> Result<bool> {
        match self.open_if_there() {
            Ok(found) => Ok(found.is_some()),
            Err(Error::Foreign { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Opens its live subvolume.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Foreign`] if a plain directory or a file is there.
    pub fn open(&self) -> Result<OwnedFd> {
        self.open_if_there()?.ok_or_else(|| self.is_not_there())
    }

    /// Nothing is at the path, or what is no directory.
    fn is_not_there(&self) -> Error {
        let found = rustix::fs::statat(self.store.top(), &self.path, AtFlags::SYMLINK_NOFOLLOW);
        if matches!(found, Ok(_) | Err(Errno::NOTDIR)) {
            return no_directory(Path::new(&self.label));
        }
        Error::NotFound {
            what: "dataset",
            subject: self.to_string(),
            hint: Some(format!("cowsnap create {}", quoted(self))),
        }
    }

    fn open_if_there(&self) -> Result<Option<OwnedFd>> {
        let fd = match open_beneath(self.store.top(), &self.path) {
            Ok(fd) => fd,
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
                return Ok(None);
            }
            Err(error) if error.raw_os_error() == Some(libc::EXDEV) => self.open_under_mounts()?,
            Err(error) => return Err(Error::io("open", self)(error)),
        };
        let inode = rustix::fs::fstat(&fd).map_err(Error::io("examine", self))?.st_ino;
        match inode == FIRST_FREE_OBJECTID {
            true => Ok(Some(fd)),
            false => Err(not_a_subvolume(Path::new(&self.label))),
        }
    }

    /// Something is mounted over the path: looked up in a copy of the mount that has nothing mounted on it.
    fn open_under_mounts(&self) -> Result<OwnedFd> {
        let bare = mount::bind(self.store.top()).map_err(Error::io("open", self))?;
        let fd = open_beneath(bare.as_fd(), &self.path).map_err(Error::io("open", self))?;
        let info = btrfs::get_subvol_info(fd.as_fd()).map_err(Error::io("open", self))?;
        self.store.open_subvolume(info.id)
    }

    /// What the filesystem knows of its live subvolume.
    ///
    /// # Errors
    /// As [`Dataset::open`].
    pub fn live(&self) -> Result<Root> {
        let fd = self.open()?;
        let info = btrfs::get_subvol_info(fd.as_fd()).map_err(Error::io("read", self))?;
        Ok(info.into())
    }

    /// Makes its live subvolume, empty. The directory that it stands in must exist.
    ///
    /// # Errors
    /// [`Error::Exists`] if something is there; [`Error::NotFound`] if the directory above is not.
    pub fn create(&self) -> Result<()> {
        let (parent, name) = self.parent()?;
        match btrfs::subvol_create(parent.as_fd(), name) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Err(self.is_there()),
            Err(error) if error.raw_os_error() == Some(libc::EROFS) => {
                Err(self.store.readonly("create", self))
            }
            other => other.map_err(Error::io("create", self)),
        }
    }

    /// Destroys the live subvolume, and the history if there is nothing in it or `options` say so.
    ///
    /// # Errors
    /// [`Error::Refused`] if it is mounted, or has nested datasets, or snapshots that were not asked for;
    /// [`Error::Held`] if one of those is held.
    pub fn destroy_dataset(&self, options: DestroyDataset) -> Result<()> {
        use crate::endpoint::History;
        self.check_no_link("destroy")?;
        // Locked from the first look to the end: no snapshot is taken in between and goes unseen.
        let home = self.locked()?;
        let versions = self.inventory()?;
        if !versions.versions().is_empty() && !options.snapshots {
            let why = format!("it has {} snapshots", versions.versions().len());
            return Err(self.refused(
                "destroy",
                why,
                Some(format!("cowsnap destroy --snapshots {}", quoted(self))),
            ));
        }
        self.check_can_go(&versions)?;
        if let Some(home) = home {
            self.check_only_versions_in(&home, &versions)?;
            for version in versions.versions() {
                self.destroy_in(&home, &version.id)?;
            }
            // The live subvolume goes last: while it is there, the same call finds the dataset and goes on.
            self.drop_history(&home)?;
        }
        if self.exists()? {
            let (parent, name) = self.parent()?;
            btrfs::snap_destroy(parent.as_fd(), name).map_err(Error::io("destroy", self))?;
        }
        self.commit_end_of(&self.to_string())
    }

    fn check_can_go(&self, versions: &crate::model::Inventory) -> Result<()> {
        if let Some((version, _)) = versions.holds().first() {
            let tags = versions.holds_of(version).map(ToString::to_string).collect();
            return Err(Error::Held { subject: self.at_name(&version.name), tags });
        }
        if !self.exists()? {
            return Ok(());
        }
        if let Some(at) = clone::mounted_at(&self.store, &self.path)?.first() {
            let why = format!("it is mounted at {}", at.display());
            return Err(self.refused("destroy", why, Some(format!("umount {}", quoted(at.display())))));
        }
        match self.nested()?.first() {
            Some(nested) => Err(self.refused(
                "destroy",
                format!("the dataset {nested} is inside"),
                Some(format!("cowsnap destroy {}", quoted(nested))),
            )),
            None => Ok(()),
        }
    }

    /// A dataset that is named by a link to it: what would go is not what was named.
    fn check_no_link(&self, op: &'static str) -> Result<()> {
        let Some(path) = &self.visible else { return Ok(()) };
        let path: PathBuf = path.components().collect(); // without a slash at the end, which would follow the link
        match std::fs::read_link(&path) {
            Ok(to) => Err(self.refused(op, format!("it is a symbolic link to {}", to.display()), None)),
            Err(_) => Ok(()),
        }
    }

    /// Whether nothing but `versions` is in the history: what is being received into it would go too.
    fn check_only_versions_in(&self, home: &Locked, versions: &crate::model::Inventory) -> Result<()> {
        let names = super::store::list(home.snap()).map_err(Error::io("list the history of", self))?;
        let known: HashSet<_> = versions.versions().iter().map(|v| OsStr::new(v.id.name.as_str())).collect();
        let why = match names.iter().find(|name| !known.contains(name.as_os_str())) {
            None => return Ok(()),
            Some(name) if name.as_bytes().starts_with(b"%") => "a stream is being received into it".into(),
            Some(name) => format!("its history holds {:?}, which is no snapshot", self.path_of(name)),
        };
        Err(self.refused("destroy", why, None))
    }

    /// Removes the dataset's directory from the store; it holds no snapshot.
    fn drop_history(&self, home: &Locked) -> Result<()> {
        for name in super::store::list(home.meta()).unwrap_or_default() {
            super::store::remove_at(home.meta(), &name).map_err(Error::io("destroy", self))?;
        }
        // Moved away in one step: what is half removed has no final name.
        let datasets = self.store.make_in_store("datasets")?;
        let staging = Staging::new(&self.store, &Intent::Prepare)?;
        let key = self.key();
        rename_new((datasets.as_fd(), OsStr::new(&key)), (staging.fd(), OsStr::new("home")))
            .map_err(Error::io("destroy the history of", self))
    }

    /// Gives the live subvolume and its history another path.
    ///
    /// # Errors
    /// [`Error::Exists`] if something is there or has a history; [`Error::Refused`] across filesystems or if it is mounted.
    pub fn rename_dataset(&self, new: &Self) -> Result<()> {
        if self.store.fsid() != new.store.fsid() {
            let why = "it can not leave its filesystem by being renamed".into();
            return Err(self.refused(
                "rename",
                why,
                Some(format!(
                    "cowsnap send {} | cowsnap receive {}",
                    quoted(format!("{self}@…")),
                    quoted(new)
                )),
            ));
        }
        self.check_no_link("rename")?;
        let in_the_way = |path: &PathBuf| path.starts_with(&new.path);
        if new.exists()? || self.store.paths_with_history()?.iter().any(in_the_way) {
            return Err(new.is_there());
        }
        if new.path.starts_with(&self.path) {
            return Err(self.refused("rename", "a dataset can not move into itself".into(), None));
        }
        if let Some(partial) = self.partials()?.iter().find(|partial| !partial.guid.is_nil()) {
            let why = format!("@{} is being received into it, or was in part", partial.name);
            let hint = Some(format!("cowsnap destroy {}", quoted(format!("{self}@%partial"))));
            return Err(self.refused("rename", why, hint));
        }
        let history = self.locked()?;
        let live = self.exists()?;
        if !live && history.is_none() {
            self.open()?;
        }
        let staging = Staging::new(&self.store, &Intent::Rename(Move::of(self, new, live)))?;
        if live && let Err(error) = self.rename_live(new) {
            staging.abandon()?;
            return Err(error);
        }
        staging.complete()?;
        btrfs::sync(self.store.top()).map_err(Error::io("rename", self))
    }

    fn rename_live(&self, new: &Self) -> Result<()> {
        let ((from, old_name), (to, new_name)) = (self.parent()?, new.parent()?);
        match rename_new((from.as_fd(), old_name), (to.as_fd(), new_name)) {
            Err(Errno::EXIST) => Err(new.is_there()),
            Err(Errno::ROFS) if self.live()?.readonly => Err(self.refused(
                "rename",
                "it is read-only, and such a subvolume can not move to another directory".into(),
                None,
            )),
            Err(Errno::BUSY) => Err(self.refused("rename", "something is mounted on it".into(), None)),
            other => other.map_err(Error::io("rename", self)),
        }
    }

    /// Puts the history where the live subvolume is by now.
    fn rename_history(&self, new: &Self) -> Result<()> {
        if self.home()?.is_some() {
            let datasets = self.store.make_in_store("datasets")?;
            let (from, to) = (self.key(), new.key());
            rename_new((datasets.as_fd(), OsStr::new(&from)), (datasets.as_fd(), OsStr::new(&to)))
                .map_err(Error::io("rename the history of", self))?;
        }
        let Some(home) = new.home()? else { return Ok(()) };
        home.record_path(&new.path).map_err(Error::io("rename the history of", self))
    }

    /// The datasets directly inside this one, by path.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it does not exist; a tree that can not be searched.
    pub fn nested(&self) -> Result<Vec<Self>> {
        let mut paths: Vec<_> = self.children()?.into_iter().map(|(_, path)| path).collect();
        paths.sort();
        Ok(paths.iter().map(|path| self.below(path)).collect())
    }

    /// The subvolumes directly inside, with their paths below this one. The store is none of them.
    pub(super) fn children(&self) -> Result<Vec<(Child, PathBuf)>> {
        self.children_of(self.live()?.id)
    }

    /// The subvolumes directly inside the subvolume `id`, with their paths below it.
    pub(super) fn children_of(&self, id: u64) -> Result<Vec<(Child, PathBuf)>> {
        let children = roots::children(self.store.top(), id).map_err(Error::io("search", self))?;
        let mut paths = Paths::new(self.store.top());
        let placed = children.into_iter().filter_map(|child| {
            let path = paths.dir(id, child.dir)?.join(OsStr::from_bytes(&child.name));
            Some((child, path))
        });
        Ok(placed.filter(|(_, path)| id != FS_TREE_OBJECTID || !path.starts_with(STORE_DIR)).collect())
    }

    /// The version called `name`.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn version(&self, name: &SnapshotName) -> Result<Version> {
        let home = self.home()?.ok_or_else(|| self.no_such(name))?;
        let (_, root) = self.find_in(&home, name)?;
        let meta = meta::read(home.meta(), name, &root)?;
        Ok(root.version(name.clone(), meta.created))
    }

    /// Opens the root of `version`, read-only.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Reused`] if the name means another by now.
    pub fn open_version(&self, version: &VersionRef) -> Result<OwnedFd> {
        let home = self.home()?.ok_or_else(|| self.no_such(&version.name))?;
        Ok(self.expect_in(&home, version)?.0)
    }

    /// Gives `version` another name.
    ///
    /// # Errors
    /// [`Error::Exists`] if it is taken; [`Error::Reused`], [`Error::NotFound`].
    pub fn rename_version(&self, version: &VersionRef, new: &SnapshotName) -> Result<VersionRef> {
        let home = self.locked()?.ok_or_else(|| self.no_such(&version.name))?;
        let (_, root) = self.expect_in(&home, version)?;
        let (old_name, new_name) = (OsStr::new(version.name.as_str()), OsStr::new(new.as_str()));
        if home.snapshot(new_name)?.is_some() {
            return Err(self.taken(new));
        }
        // What is said about it is there under both names until one of them means nothing.
        let meta = meta::read(home.meta(), &version.name, &root)?;
        meta::write(home.meta(), new, &meta)?;
        rename_new((home.snap(), old_name), (home.snap(), new_name))
            .map_err(Error::io("rename", self.at_name(&version.name)))?;
        btrfs::sync(self.store.top()).map_err(Error::io("rename", self.at_name(&version.name)))?;
        meta::remove(home.meta(), &version.name)?;
        Ok(VersionRef { guid: version.guid, name: new.clone() })
    }

    /// Where the live subvolume can be seen: the path that it was named by, or one below a mount.
    ///
    /// # Errors
    /// A table of mounts that can not be read.
    pub fn mountpoint(&self) -> Result<Option<PathBuf>> {
        if self.visible.is_some() {
            return Ok(self.visible.clone());
        }
        clone::visible_at(&self.store, &self.path)
    }

    /// The directory that the live subvolume stands in, and its name there. No symbolic link on the way is followed.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such directory; [`Error::Refused`] for the top level, and if something is mounted
    /// over the place.
    pub fn parent(&self) -> Result<(OwnedFd, &OsStr)> {
        let Some(name) = self.path.file_name() else {
            let why = "it is the filesystem's top level".into();
            return Err(self.refused("replace", why, None));
        };
        let parent = self.path.parent().unwrap_or(Path::new(""));
        match open_beneath(self.store.top(), parent) {
            Ok(fd) => Ok((fd, name)),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
                let hint = Some(format!("cowsnap create {}", quoted(parent_of_label(&self.label))));
                Err(Error::NotFound { what: "the place for", subject: self.to_string(), hint })
            }
            Err(error) if error.raw_os_error() == Some(libc::EXDEV) => {
                let why = "something else is mounted over the place where it stands".into();
                Err(self.refused(
                    "reach",
                    why,
                    Some("umount what is mounted there, or use its own path".into()),
                ))
            }
            Err(error) => Err(Error::io("open the place of", self)(error)),
        }
    }

    pub(super) fn is_there(&self) -> Error {
        Error::Exists {
            what: "dataset",
            subject: self.to_string(),
            hint: Some(format!("cowsnap list {}", quoted(self))),
        }
    }

    pub(super) fn refused(&self, op: &'static str, why: String, hint: Option<String>) -> Error {
        Error::Refused { op, subject: self.to_string(), why, hint }
    }
}

/// A dataset on its way to another path. The live subvolume's new name is what commits it; the history follows, be it by
/// whoever opens the store next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    from: Vec<u8>,
    to: Vec<u8>,
    live: bool,
}

impl Move {
    fn of(from: &Dataset, to: &Dataset, live: bool) -> Self {
        let bytes = |dataset: &Dataset| dataset.path.as_os_str().as_bytes().to_vec();
        Self { from: bytes(from), to: bytes(to), live }
    }

    /// Lets the history follow. Nothing is to do if the live subvolume has not moved.
    pub(super) fn finish(&self, store: &Arc<Store>) -> Result<()> {
        let dataset = |bytes: &[u8]| store.dataset(Path::new(OsStr::from_bytes(bytes)));
        let (from, to) = (dataset(&self.from), dataset(&self.to));
        if self.live && (from.exists()? || !to.exists()?) {
            return Ok(());
        }
        // What is nested has moved too, and its history follows it.
        for path in store.paths_with_history()? {
            if let Ok(inside) = path.strip_prefix(&from.path) {
                let new: PathBuf = to.path.join(inside).components().collect();
                store.dataset(&path).rename_history(&store.dataset(new))?;
            }
        }
        Ok(())
    }
}

fn parent_of_label(label: &str) -> &str {
    label.rsplit_once('/').map_or(label, |(parent, _)| parent)
}

/// What is kept in the store is reached as TARGET@NAME only: holds and names are looked after there.
fn check_outside_store(below_top: &Path, path: &Path) -> Result<()> {
    if !below_top.starts_with(STORE_DIR) {
        return Ok(());
    }
    Err(Error::Foreign {
        subject: path.display().to_string(),
        wanted: "dataset",
        why: "it is in .cowsnap, where snapshots are kept; name a snapshot as TARGET@NAME".into(),
        hint: Some("cowsnap list".into()),
    })
}

/// A file, or something below one.
pub(super) fn no_directory(path: &Path) -> Error {
    Error::Foreign {
        subject: path.display().to_string(),
        wanted: "dataset",
        why: "it is no directory; a file is snapshotted with the dataset that it is in".into(),
        hint: Some("cowsnap list".into()),
    }
}

fn not_a_subvolume(path: &Path) -> Error {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let is_root = |path: &Path| {
        let fd = rustix::fs::open(path, flags, Mode::empty()).ok()?;
        Some(rustix::fs::fstat(fd).ok()?.st_ino == FIRST_FREE_OBJECTID)
    };
    let enclosing = path.ancestors().skip(1).find(|path| is_root(path) == Some(true));
    let inside = enclosing.map(|path| format!(" inside the subvolume {}", path.display()));
    Error::Foreign {
        subject: path.display().to_string(),
        wanted: "btrfs subvolume",
        why: format!("it is a plain directory{}", inside.unwrap_or_default()),
        hint: Some(match enclosing {
            Some(enclosing) => format!(
                "cowsnap adopt {} --to POOL/NAME, or snapshot {} as a whole",
                quoted(path.display()),
                quoted(enclosing.display())
            ),
            None => format!("cowsnap adopt {} --to POOL/NAME", quoted(path.display())),
        }),
    }
}

/// The path below the top level of the subvolume that `root` tells of.
fn path_of_root(top: BorrowedFd<'_>, mut root: Root) -> std::io::Result<PathBuf> {
    let mut paths = Paths::new(top);
    let mut components = Vec::new();
    while root.id != FS_TREE_OBJECTID {
        let gone = || std::io::Error::from_raw_os_error(libc::ENOENT);
        components.push(PathBuf::from(OsStr::from_bytes(&root.name)));
        components.push(paths.dir(root.parent, root.dir).ok_or_else(gone)?);
        if root.parent == FS_TREE_OBJECTID {
            break;
        }
        root = roots::find(top, root.parent)?.ok_or_else(gone)?;
    }
    Ok(components.iter().rev().collect::<PathBuf>().components().collect())
}
