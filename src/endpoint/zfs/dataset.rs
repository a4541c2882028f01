//! One dataset of a ZFS pool: a filesystem or a volume.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::endpoint::zfs::error::{self, Rights, above, failed};
use crate::endpoint::zfs::hidden::{self, Hidden};
use crate::endpoint::zfs::{exchange, in_use, interrupted, list, mounted, place, program, was};
use crate::endpoint::{DestroyDataset, Error, History, Result};
use crate::model::{DatasetName, Inventory, SnapshotName, quoted};
use crate::sys::lzc::{Errno, Failed, Kind, Lzc};

/// A filesystem or volume by its name. What it was a moment ago is not remembered: each call looks again.
#[derive(Debug, Clone)]
pub struct Dataset {
    name: DatasetName,
    label: String,
}

impl fmt::Display for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.label)
    }
}

impl PartialEq for Dataset {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Dataset {}

impl Dataset {
    /// The dataset of that name, whether it is there or not.
    pub fn by_name(name: DatasetName) -> Self {
        let label = name.as_str().to_owned();
        Self { name, label }
    }

    /// The filesystem whose root is mounted at the directory `path`.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is nothing; [`Error::Foreign`] if it is on another filesystem, or a plain directory
    /// inside a ZFS filesystem, which can not be snapshotted by itself.
    pub fn at(path: &Path) -> Result<Self> {
        let name = place::name_of_root(path)?;
        Ok(Self { name, label: path.display().to_string() })
    }

    /// The filesystem that `path` names, whether it is there or not; the directory above it is the root of one.
    ///
    /// # Errors
    /// As [`Dataset::at`], but for nothing being there.
    pub fn named(path: &Path) -> Result<Self> {
        match Self::at(path) {
            Err(Error::NotFound { .. }) => {}
            other => return other,
        }
        let (Some(parent), Some(last)) = (path.parent(), path.file_name()) else { return Self::at(path) };
        let name = format!("{}/{}", place::name_of_root(parent)?, last.display());
        let name = name.parse().map_err(|why: crate::model::name::Error| Error::Foreign {
            subject: path.display().to_string(),
            wanted: "place for a ZFS filesystem",
            why: why.to_string(),
            hint: None,
        })?;
        Ok(Self { name, label: path.display().to_string() })
    }

    /// The same dataset, called `label` where people see it.
    pub fn with_label(self, label: impl Into<String>) -> Self {
        Self { label: label.into(), ..self }
    }

    /// Its name, which begins with its pool's.
    pub fn name(&self) -> &DatasetName {
        &self.name
    }

    /// The pool that it is in.
    pub fn pool(&self) -> &str {
        self.name.pool()
    }

    /// `tank/chainstate@name`, as ZFS calls it whatever its label is.
    pub fn full_name(&self, name: &SnapshotName) -> String {
        format!("{}@{name}", self.name)
    }

    /// `tank/chainstate@name`, as people see it.
    pub fn at_name(&self, name: &SnapshotName) -> String {
        format!("{self}@{name}")
    }

    /// The dataset at `relative` below this one.
    ///
    /// # Panics
    /// If `relative` can not be a part of a dataset's name.
    pub fn below(&self, relative: &Path) -> Self {
        let name = format!("{}/{}", self.name, relative.display());
        Self::by_name(name.parse().expect("what is below a dataset has a dataset's name"))
    }

    /// The library and the module, to work on this dataset.
    pub(super) fn lzc(&self) -> Result<&'static Lzc> {
        error::lzc(self)
    }

    /// As [`Dataset::lzc`]. A rollback or a receive that was broken off may have left the dataset without its name: then it
    /// gets it back.
    pub(super) fn settled(&self) -> Result<&'static Lzc> {
        let lzc = self.lzc()?;
        if !lzc.exists(self.name.as_str()) {
            interrupted::settle_absent(self)?;
        }
        if !lzc.exists(self.name.as_str()) {
            exchange::settle_absent(self)?;
        }
        Ok(lzc)
    }

    /// What a call of ZFS on it failed with; `rights` are those that an ordinary user needs for it.
    pub(super) fn failed(&self, op: &'static str, rights: &Rights<'_>) -> impl Fn(Failed) -> Error {
        failed(op, self, rights)
    }

    /// Whether it is there, and not only the beginning of what a first receive will make.
    ///
    /// # Errors
    /// No ZFS on this machine.
    pub fn exists(&self) -> Result<bool> {
        let lzc = self.settled()?;
        Ok(lzc.exists(self.name.as_str()) && !self.is_begun()?)
    }

    /// Whether it is there only as far as a first receive that was broken off, or goes on, has come.
    pub(super) fn is_begun(&self) -> Result<bool> {
        match self.get("inconsistent") {
            Ok(value) => Ok(value == "1"),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Says why not if it is not there.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn expect_live(&self) -> Result<()> {
        match self.settled()?.exists(self.name.as_str()) {
            true => Ok(()),
            false => Err(self.no_such_dataset()),
        }
    }

    /// One of its properties, numbers unrounded; `-` for one that it does not have.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub(super) fn get(&self, property: &str) -> Result<String> {
        get(self.name.as_str(), property).map_err(|failure| failure.into_error("read", self))
    }

    /// Makes it, a filesystem with nothing in it, and mounts it where its parent's properties say. What it stands in must
    /// exist.
    ///
    /// # Errors
    /// [`Error::Exists`]; [`Error::NotFound`] if what it would stand in is not there.
    pub fn create(&self) -> Result<()> {
        let lzc = self.settled()?;
        let name = self.name.as_str();
        let rights = [("create,mount", above(name))];
        lzc.create(name, Kind::Filesystem, &[]).map_err(|failed| match failed.errno {
            Errno::Exists => self.is_there(),
            Errno::NotFound => self.no_place(),
            _ => self.failed("create", &rights)(failed),
        })?;
        mounted::mount_if_meant(self)
    }

    /// Destroys the dataset, with its snapshots and bookmarks if `options` say so.
    ///
    /// # Errors
    /// [`Error::Refused`] if it is used, or has nested datasets, or clones, or snapshots that were not asked for;
    /// [`Error::Held`] if one of those is held.
    pub fn destroy_dataset(&self, options: DestroyDataset) -> Result<()> {
        let lzc = self.settled()?;
        let name = self.name.as_str();
        let destroy = || {
            lzc.destroy(name).map_err(|failed| match failed.errno {
                Errno::Busy => self.refused("destroy", "something uses it".into(), None),
                _ => self.failed("destroy", &[("destroy,mount", name)])(failed),
            })
        };
        if lzc.exists(name) && self.is_begun()? {
            return destroy();
        }
        let versions = self.inventory()?;
        self.check_can_go(&versions, options)?;
        in_use::check(self)?;
        let unmounted = mounted::Down::take(self, "destroy")?;
        in_use::check_other_namespaces(self).inspect_err(|_| unmounted.put_back())?;
        let snapshots: Vec<_> = self.snapshots_of(&versions).collect();
        let gone = match snapshots.is_empty() {
            true => Ok(()),
            false => lzc
                .destroy_snapshots(&snapshots, false)
                .map_err(self.failed("destroy the snapshots of", &[("destroy,mount", name)])),
        };
        gone.and_then(|()| destroy()).inspect_err(|_| unmounted.put_back())
    }

    /// As [`destroy_dataset`](Self::destroy_dataset), but nothing is done: what can be seen to be in the way is told.
    ///
    /// # Errors
    /// As [`destroy_dataset`](Self::destroy_dataset).
    pub fn expect_destroyable(&self, options: DestroyDataset) -> Result<()> {
        let lzc = self.settled()?;
        if lzc.exists(self.name.as_str()) && self.is_begun()? {
            return Ok(());
        }
        self.check_can_go(&self.inventory()?, options)?;
        in_use::check(self)?;
        in_use::check_open_files(self)
    }

    fn check_can_go(&self, versions: &Inventory, options: DestroyDataset) -> Result<()> {
        let count = versions.versions().len();
        if count > 0 && !options.snapshots {
            let hint = Some(format!("cowsnap destroy --snapshots {}", quoted(self)));
            return Err(self.refused("destroy", format!("it has {count} snapshots"), hint));
        }
        if let Some((version, _)) = versions.holds().first() {
            let tags = versions.holds_of(version).map(ToString::to_string).collect();
            return Err(Error::Held { subject: self.at_name(&version.name), tags });
        }
        if let Some(nested) = self.nested()?.first() {
            let hint = Some(format!("cowsnap destroy {}", quoted(nested)));
            return Err(self.refused("destroy", format!("the dataset {nested} is inside"), hint));
        }
        if let Some(partial) = versions.partials.first() {
            let why = format!("{} was received into it in part", self.at_name(&partial.name));
            return Err(self.refused(
                "destroy",
                why,
                Some(format!("cowsnap destroy {}", quoted(format!("{self}@%partial")))),
            ));
        }
        if let Some(clone) = self.clones_of_hidden()?.first() {
            let upon = hidden::told([clone.as_str()].into_iter()).concat();
            let hint = Some(hidden::how_to_destroy(clone));
            return Err(self.refused("destroy", format!("{upon} lies on it"), hint));
        }
        for version in versions.versions() {
            if let Some(clone) = self.clones_of(&version.id)?.first() {
                let upon = hidden::told([clone.as_str()].into_iter()).concat();
                let why = match hidden::overlay_of(clone) {
                    Some(_) => format!("{upon} lies on its snapshot {}", version.id.name),
                    None => format!("{upon} is a clone of its snapshot {}", version.id.name),
                };
                return Err(self.refused("destroy", why, Some(hidden::how_to_destroy(clone))));
            }
        }
        Ok(())
    }

    fn snapshots_of(&self, versions: &Inventory) -> impl Iterator<Item = String> {
        use crate::model::VersionKind::Snapshot;
        let snapshots = versions.versions().iter().filter(|version| version.kind == Snapshot);
        snapshots.map(|version| self.full_name(&version.id.name)).collect::<Vec<_>>().into_iter()
    }

    /// Gives the dataset, with its snapshots and what is inside it, another name of the same pool. What is mounted where its
    /// name says is mounted where its new one says.
    ///
    /// One that a rollback set aside, and that gets the name back which it had, is mounted as it was.
    ///
    /// # Errors
    /// [`Error::Exists`]; [`Error::Refused`] for another pool, or if something uses it.
    pub fn rename_dataset(&self, new: &Self) -> Result<()> {
        let lzc = self.settled()?;
        if self.pool() != new.pool() {
            let why = "it can not leave its pool by being renamed".into();
            let from = quoted(format!("{self}@…"));
            let hint = format!("cowsnap send {from} | cowsnap receive {}", quoted(new));
            return Err(self.refused("rename", why, Some(hint)));
        }
        self.expect_live()?;
        if new.settled()?.exists(new.name.as_str()) {
            return Err(new.is_there());
        }
        let (old, to) = (self.name.as_str(), new.name.as_str());
        if to.starts_with(&format!("{old}/")) {
            return Err(self.refused("rename", "a dataset can not move into itself".into(), None));
        }
        let unmounted = mounted::Down::take(self, "rename")?;
        let rights = [("rename,mount", old), ("create,mount", above(to))];
        let renamed = lzc.rename(old, to).map_err(|failed| match failed.errno {
            Errno::Exists => new.is_there(),
            Errno::NotFound => new.no_place(),
            Errno::Invalid if self.name.within_pool().is_none() => {
                self.refused("rename", "it is the pool itself".into(), None)
            }
            _ => self.failed("rename", &rights)(failed),
        });
        if let Err(error) = renamed {
            unmounted.put_back();
            return Err(error);
        }
        was::take_back_in(new)?;
        unmounted.put_back_as(new);
        Ok(())
    }

    /// The datasets directly inside this one, by name.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it does not exist.
    pub fn nested(&self) -> Result<Vec<Self>> {
        self.list_inside("1")
    }

    /// All datasets inside this one at any depth, parents first.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it does not exist.
    pub fn all_inside(&self) -> Result<Vec<Self>> {
        let mut all = self.list_inside("255")?;
        all.sort_by_key(|dataset| dataset.name.as_str().matches('/').count());
        Ok(all)
    }

    fn list_inside(&self, depth: &str) -> Result<Vec<Self>> {
        self.settled()?;
        let name = self.name.as_str();
        let args = ["list", "-Hp", "-t", "filesystem,volume", "-d", depth, "-o", "name", name];
        let text = program::zfs(&args).map_err(|failure| failure.into_error("list", self))?;
        let names = list::rows::<1>(&text)?;
        let hidden = Hidden::of(names.iter().map(|[inside]| *inside))?;
        let names: Vec<_> = names.into_iter().filter(|[inside]| !hidden.has(inside)).collect();
        // What has a name that cowsnap can not say is not cowsnap's to work on.
        let inside = names.iter().filter_map(|[inside]| inside.parse::<DatasetName>().ok());
        Ok(inside.filter(|inside| *inside != self.name).map(Self::by_name).collect())
    }

    /// Where the filesystem can be seen.
    ///
    /// # Errors
    /// A table of mounts that can not be read.
    pub fn mountpoint(&self) -> Result<Option<PathBuf>> {
        mounted::seen_at(self.name.as_str())
    }

    pub(super) fn no_such_dataset(&self) -> Error {
        Error::NotFound {
            what: "dataset",
            subject: self.to_string(),
            hint: Some(format!("cowsnap create {}", quoted(self))),
        }
    }

    pub(super) fn is_there(&self) -> Error {
        Error::Exists {
            what: "dataset",
            subject: self.to_string(),
            hint: Some(format!("cowsnap list {}", quoted(self))),
        }
    }

    /// That what it would stand in is not there.
    pub(super) fn no_place(&self) -> Error {
        let hint = match self.name.within_pool() {
            Some(_) => format!("cowsnap create {}", quoted(above(self.name.as_str()))),
            None => format!("zpool create {} DEVICE", quoted(&self.name)),
        };
        Error::NotFound { what: "the place for", subject: self.to_string(), hint: Some(hint) }
    }

    pub(super) fn refused(&self, op: &'static str, why: String, hint: Option<String>) -> Error {
        Error::Refused { op, subject: self.to_string(), why, hint }
    }
}

/// One property of what is called `name`, with everything that its value holds.
pub(super) fn get(name: &str, property: &str) -> Result<String, program::Failure> {
    let text = program::zfs(&["get", "-Hp", "-o", "value", property, name])?;
    Ok(list::value(&text))
}
