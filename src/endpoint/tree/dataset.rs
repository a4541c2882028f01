//! One plain directory with what is kept of it, or what is left of the history of one.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::endpoint::btrfs::store::key_of;
use crate::endpoint::dir::{open_beneath, read_at, rename_new};
use crate::endpoint::tree::about::About;
use crate::endpoint::tree::copy::{Copier, Hint, Watch};
use crate::endpoint::tree::home::{self, Home, Locked};
use crate::endpoint::tree::manifest;
use crate::endpoint::tree::place;
use crate::endpoint::tree::scan::{Entry, Scan, scan};
use crate::endpoint::tree::staging::{Intent, Move, Staging};
use crate::endpoint::tree::store::{Base, STORE_DIR, Store};
use crate::endpoint::tree::taking::{MANIFEST, TREE};
use crate::endpoint::{DestroyDataset, Details, Error, History, Result};
use crate::model::{Partial, SnapshotName, Version, VersionRef, quoted};

/// A plain directory. What it was a moment ago is not remembered: each call looks again.
#[derive(Clone)]
pub struct Dataset {
    base: Arc<Base>,
    /// In the base; `None` if it is the base: a mount point, beside which nothing is on its filesystem.
    name: Option<OsString>,
    label: String,
    copying: bool,
    watch: Watch,
}

impl fmt::Display for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.label)
    }
}

impl fmt::Debug for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dataset").field("label", &self.label).finish_non_exhaustive()
    }
}

impl PartialEq for Dataset {
    fn eq(&self, other: &Self) -> bool {
        self.base == other.base && self.name == other.name
    }
}

impl Eq for Dataset {}

impl Dataset {
    /// The dataset that `path` names, whether it is there or not; the directory above it is.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no directory above it; [`Error::Foreign`] if it is no directory, or in a place where
    /// snapshots are kept.
    pub fn named(path: &Path) -> Result<Self> {
        let (base, name) = place::find(path)?;
        let label = path.display().to_string();
        let label = if label.len() > 1 { label.trim_end_matches('/').into() } else { label };
        Ok(Self { base: Arc::new(base), name, label, copying: false, watch: Watch::default() })
    }

    /// The same dataset, whose bytes may be copied where blocks can not be shared: that takes time and space.
    pub fn copying(self, copying: bool) -> Self {
        Self { copying, ..self }
    }

    /// The same dataset; `watch` is told how far a copy is.
    pub fn watched(self, watch: Watch) -> Self {
        Self { watch, ..self }
    }

    /// Where it is, or would be: without symbolic links.
    pub fn path(&self) -> PathBuf {
        self.name.as_ref().map_or_else(|| self.base.path().to_owned(), |name| self.base.path().join(name))
    }

    /// What it is told by, whichever path leads to it.
    pub fn identity(&self) -> Vec<u8> {
        let (device, inode) = self.base.id();
        let name = self.name.as_deref().unwrap_or_default();
        [&device.to_le_bytes()[..], &inode.to_le_bytes(), name.as_bytes()].concat()
    }

    /// Whether a version of it can be cloned to `other`.
    pub fn shares_storage_with(&self, other: &Self) -> bool {
        self.base.device() == other.base.device()
    }

    pub(super) fn base(&self) -> &Base {
        &self.base
    }

    pub(super) fn name(&self) -> Option<&OsStr> {
        self.name.as_deref()
    }

    pub(super) fn label(&self) -> &str {
        &self.label
    }

    pub(super) fn is_copying(&self) -> bool {
        self.copying
    }

    pub(super) fn watch(&self) -> &Watch {
        &self.watch
    }

    /// The name of its directory in the store.
    pub(super) fn key(&self) -> String {
        key_of(Path::new(self.name.as_deref().unwrap_or_default()))
    }

    /// Whether the directory is there.
    ///
    /// # Errors
    /// A path that can not be looked at.
    pub fn exists(&self) -> Result<bool> {
        match self.open() {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Says why not if the directory is not there.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Foreign`] if something else is in its place.
    pub fn expect_live(&self) -> Result<()> {
        self.open().map(drop)
    }

    pub(super) fn open(&self) -> Result<OwnedFd> {
        let Some(name) = &self.name else {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            return rustix::fs::openat(self.base.fd(), ".", flags, Mode::empty())
                .map_err(Error::io("open", self));
        };
        open_beneath(self.base.fd(), Path::new(name)).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT) => {
                Error::NotFound { what: "directory", subject: self.to_string(), hint: None }
            }
            Some(libc::ENOTDIR | libc::ELOOP) => place::no_directory(Path::new(&self.label)),
            _ => Error::io("open", self)(error),
        })
    }

    /// Plain directories are made by who needs them.
    ///
    /// # Errors
    /// Always; with what would help.
    pub fn create(&self) -> Result<()> {
        if self.exists()? {
            return Err(Error::Exists { what: "directory", subject: self.to_string(), hint: None });
        }
        Err(Error::Foreign {
            subject: self.to_string(),
            wanted: "place for a dataset",
            why: "it is neither on btrfs nor on ZFS; a plain directory there can be snapshotted without being made by cowsnap"
                .into(),
            hint: Some(format!(
                "mkdir {}, or cowsnap pool create POOL for datasets whose snapshots are of one instant",
                quoted(self)
            )),
        })
    }

    /// Destroys the history of a directory that is gone. One that is there is its owner's, and only its versions are cowsnap's.
    ///
    /// # Errors
    /// [`Error::Refused`] if the directory is there, or versions were not asked for; [`Error::Held`].
    pub fn destroy_dataset(&self, options: DestroyDataset) -> Result<()> {
        if self.exists()? {
            let why = "it is a plain directory: only its snapshots are cowsnap's to destroy".to_owned();
            let hint = format!("cowsnap destroy {}; rm -r {}", quoted(format!("{self}@NAME")), quoted(self));
            return Err(self.refused("destroy", why, Some(hint)));
        }
        let versions = self.inventory()?;
        if !versions.versions().is_empty() && !options.snapshots {
            let why = format!("it has {} snapshots", versions.versions().len());
            let hint = format!("cowsnap destroy --snapshots {}", quoted(self));
            return Err(self.refused("destroy", why, Some(hint)));
        }
        if let Some((version, _)) = versions.holds().first() {
            let tags = versions.holds_of(version).map(ToString::to_string).collect();
            return Err(Error::Held { subject: self.at_name(&version.name), tags });
        }
        versions.versions().iter().try_for_each(|version| self.destroy(&version.id))
    }

    /// Gives the directory and its history another name beside it.
    ///
    /// # Errors
    /// [`Error::Exists`] if something is there or has a history; [`Error::Refused`] if it would stand elsewhere.
    pub fn rename_dataset(&self, new: &Self) -> Result<()> {
        let (Some(from), Some(to)) = (self.name(), new.name()) else {
            return Err(self.refused("rename", "a mount point can not be renamed".into(), None));
        };
        if self.base != new.base {
            let why = "its snapshots are kept beside it, and can not go elsewhere".into();
            return Err(self.refused("rename", why, None));
        }
        let taken = || Error::Exists { what: "directory", subject: new.to_string(), hint: None };
        let store = self.base.store_or_made()?;
        if new.exists()? || Home::open(&store, &new.key())?.is_some() {
            return Err(taken());
        }
        let history = self.locked(&store)?;
        let (key, new_key) = (self.key(), new.key());
        if !self.exists()? && history.is_some() {
            return store.rename(&home::path_of(&key), &home::path_of(&new_key));
        }
        let inode = rustix::fs::fstat(self.open()?).map_err(Error::io("examine", self))?.st_ino;
        let staging = Staging::new(&store)?;
        let name = to.as_bytes().to_vec();
        staging.declare(&Intent::Rename(Move { key, new_key, name, inode }))?;
        rename_new((self.base.fd(), from), (self.base.fd(), to)).map_err(|errno| match errno {
            Errno::EXIST => taken(),
            errno => Error::io("rename", self)(errno),
        })?;
        staging.complete(&history.iter().collect::<Vec<_>>())?;
        drop(history);
        self.base.remove_if_empty();
        rustix::fs::fsync(self.base.fd()).map_err(Error::io("rename", self))
    }

    /// The version called `name`.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn version(&self, name: &SnapshotName) -> Result<Version> {
        let home = self.home()?.ok_or_else(|| self.no_such(name))?;
        let (_, about) = self.find_in(&home, name)?;
        Ok(about.version(name.clone()))
    }

    /// Gives `version` another name.
    ///
    /// # Errors
    /// [`Error::Exists`] if it is taken; [`Error::Reused`], [`Error::NotFound`].
    pub fn rename_version(&self, version: &VersionRef, new: &SnapshotName) -> Result<VersionRef> {
        let store = self.base.store()?.ok_or_else(|| self.no_such(&version.name))?;
        let home = self.locked(&store)?.ok_or_else(|| self.no_such(&version.name))?;
        self.expect_in(&home, version)?;
        let (from, to) = (OsStr::new(version.name.as_str()), OsStr::new(new.as_str()));
        rename_new((home.snap(), from), (home.snap(), to)).map_err(|errno| match errno {
            Errno::EXIST => self.taken(new),
            errno => Error::io("rename", self.at_name(&version.name))(errno),
        })?;
        rustix::fs::fsync(home.snap()).map_err(Error::io("rename", self.at_name(&version.name)))?;
        Ok(VersionRef { guid: version.guid, name: new.clone() })
    }

    /// Where it can be seen; `None` if it is not there.
    ///
    /// # Errors
    /// A path that can not be looked at.
    pub fn mountpoint(&self) -> Result<Option<PathBuf>> {
        Ok(self.exists()?.then(|| self.path()))
    }

    /// All that is known of every version, oldest first. How much of their space is shared is not known.
    ///
    /// # Errors
    /// As [`History::inventory`].
    pub fn details(&self, _sizes: bool) -> Result<Vec<Details>> {
        let Some(home) = self.home()? else { return Ok(Vec::new()) };
        let mut details = Vec::new();
        for name in home.names()? {
            let Some((_, about)) = self.try_find_in(&home, &name)? else { continue };
            details.push(Details {
                version: about.version(name),
                labels: about.labels,
                holds: about.holds,
                verified: None,
                clones: Vec::new(),
                altered: false,
                was: None,
                writable: false,
                usage: None,
            });
        }
        details.sort_by_key(|d| d.version.order);
        Ok(details)
    }

    /// The datasets inside: a plain directory has none.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is not there.
    pub fn nested(&self) -> Result<Vec<Self>> {
        self.expect_live().map(|()| Vec::new())
    }

    /// Receives that are not finished: there are none.
    ///
    /// # Errors
    /// None.
    pub fn partials(&self) -> Result<Vec<Partial>> {
        Ok(Vec::new())
    }

    /// How many bytes its filesystem has room for.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn free_bytes(&self) -> Result<u64> {
        let space = rustix::fs::fstatvfs(self.base.fd());
        let space = space.map_err(Error::io("read the free space of", self))?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }

    /// How many bytes can be written there, and of how many in all.
    pub(in crate::endpoint) fn space(&self) -> Result<(u64, u64)> {
        let space = rustix::fs::fstatvfs(self.base.fd());
        let space = space.map_err(Error::io("read the free space of", self))?;
        Ok((space.f_bavail.saturating_mul(space.f_frsize), space.f_blocks.saturating_mul(space.f_frsize)))
    }

    /// What goes back with it: nothing else.
    ///
    /// # Errors
    /// None.
    pub fn to_roll_back(&self, version: &VersionRef, _recursive: bool) -> Result<Vec<(Self, VersionRef)>> {
        Ok(vec![(self.clone(), version.clone())])
    }

    /// Takes away the clone that was just made here and nothing else.
    ///
    /// # Errors
    /// What can not be removed.
    pub fn take_clone_back(&self) -> Result<()> {
        let Some(name) = self.name() else {
            return Err(self.refused("take back", "it is a mount point".into(), None));
        };
        let store = self.base.store_or_made()?;
        let staging = Staging::new(&store)?;
        rename_new((self.base.fd(), name), (staging.fd(), OsStr::new(TREE)))
            .map_err(Error::io("take back", self))
    }

    /// The tree's directories; `None` if it has no history.
    pub(super) fn home(&self) -> Result<Option<Home>> {
        let Some(store) = self.base.store()? else { return Ok(None) };
        Home::open(&store, &self.key())
    }

    /// The same, for the caller alone.
    pub(super) fn locked(&self, store: &Store) -> Result<Option<Locked>> {
        Locked::open(store, &self.key(), &self.label)
    }

    /// The directory of `version` and what is said of it.
    pub(super) fn expect_in(&self, home: &Home, version: &VersionRef) -> Result<(OwnedFd, About)> {
        let (dir, about) = self.find_in(home, &version.name)?;
        match about.guid == version.guid {
            true => Ok((dir, about)),
            false => Err(Error::Reused {
                subject: self.at_name(&version.name),
                expected: version.guid,
                found: about.guid,
            }),
        }
    }

    pub(super) fn find_in(&self, home: &Home, name: &SnapshotName) -> Result<(OwnedFd, About)> {
        self.try_find_in(home, name)?.ok_or_else(|| self.no_such(name))
    }

    pub(super) fn try_find_in(&self, home: &Home, name: &SnapshotName) -> Result<Option<(OwnedFd, About)>> {
        let Some(dir) = home.find(name)? else { return Ok(None) };
        let about = About::read(dir.as_fd(), &self.at_name(name))?;
        Ok(about.map(|about| (dir, about)))
    }

    /// The content of a version, opened.
    pub(super) fn open_tree(&self, dir: &OwnedFd, version: &VersionRef) -> Result<OwnedFd> {
        open_beneath(dir.as_fd(), Path::new(TREE)).map_err(Error::io("open", self.at_name(&version.name)))
    }

    /// What a version held when it was taken.
    pub(super) fn manifest_of(&self, dir: &OwnedFd, about: &About, version: &VersionRef) -> Result<Scan> {
        let bytes = read_at(dir.as_fd(), MANIFEST)?.unwrap_or_default();
        if blake3::hash(&bytes).to_hex().as_str() != about.manifest {
            return Err(self.altered(version, "its manifest is not what was written"));
        }
        manifest::parse(&bytes)
    }

    /// Copies a version into the staging directory, as `tree`; answers what the copy's root is.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the version is not what was taken.
    pub(super) fn copy_version(
        &self,
        dir: &OwnedFd,
        version: &VersionRef,
        staging: &Staging<'_>,
        hint: Hint<'_>,
    ) -> Result<Entry> {
        let about = self.find_about(dir, version)?;
        let wanted = self.manifest_of(dir, &about, version)?;
        let from = self.open_tree(dir, version)?;
        let label = self.at_name(&version.name);
        let found = scan(from.as_fd(), &label)?;
        self.check_unaltered(&wanted, &found, version)?;
        let to = staging.make(TREE)?;
        let watch = self.watch();
        let copier =
            Copier { from: from.as_fd(), label: &label, to: to.as_fd(), copying: self.copying, hint, watch };
        copier.copy(&found)?;
        let inode = rustix::fs::fstat(&to).map_err(Error::io("examine", &label))?.st_ino;
        let root = found.entries.into_iter().next().expect("the root is the first");
        Ok(Entry { inode, ..root })
    }

    fn find_about(&self, dir: &OwnedFd, version: &VersionRef) -> Result<About> {
        About::read(dir.as_fd(), &self.at_name(&version.name))?.ok_or_else(|| self.no_such(&version.name))
    }

    fn check_unaltered(&self, wanted: &Scan, found: &Scan, version: &VersionRef) -> Result<()> {
        let there = found.by_path();
        let differs =
            wanted.entries.iter().find(|e| there.get(e.path.as_path()).is_none_or(|now| !now.looks_like(e)));
        let known = wanted.by_path();
        let new = || found.entries.iter().find(|e| !known.contains_key(e.path.as_path()));
        match differs.or_else(new) {
            None => Ok(()),
            Some(entry) => {
                let why = format!("{} in it is not what was taken", entry.path.display());
                Err(self.altered(version, &why))
            }
        }
    }

    fn altered(&self, version: &VersionRef, why: &str) -> Error {
        Error::Corrupt {
            what: "snapshot",
            why: format!("{}: {why}", self.at_name(&version.name)),
            source: None,
        }
    }

    /// `/srv/chain@name`
    pub(super) fn at_name(&self, name: &SnapshotName) -> String {
        format!("{self}@{name}")
    }

    pub(super) fn no_such(&self, name: &SnapshotName) -> Error {
        let hint = Some(format!("cowsnap list {}", quoted(self)));
        Error::NotFound { what: "snapshot", subject: self.at_name(name), hint }
    }

    pub(super) fn taken(&self, name: &SnapshotName) -> Error {
        let hint = Some(format!("cowsnap list {}", quoted(self)));
        Error::Exists { what: "snapshot", subject: self.at_name(name), hint }
    }

    pub(super) fn refused(&self, op: &'static str, why: String, hint: Option<String>) -> Error {
        Error::Refused { op, subject: self.to_string(), why, hint }
    }

    /// That it has no stream.
    pub fn has_no_stream(&self, op: &'static str) -> Error {
        let why = "it is a plain directory, which has no stream".to_owned();
        let hint = format!(
            "cowsnap adopt {} --to POOL/NAME, and send that; or cowsnap mount a snapshot and rsync from there",
            quoted(self)
        );
        Error::Foreign {
            subject: self.to_string(),
            wanted: match op {
                "receive" => "dataset that can receive",
                _ => "dataset that can be sent",
            },
            why,
            hint: Some(match op {
                "receive" => "cowsnap pool create POOL, and receive into POOL/NAME".into(),
                _ => hint,
            }),
        }
    }

    /// Where the content of a version stands, seen from the filesystem's own root.
    pub(super) fn store_dir(&self) -> PathBuf {
        self.base.path().join(STORE_DIR)
    }
}
