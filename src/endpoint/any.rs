//! A dataset of whichever backend serves it: what the command line and the verbs work with.

use std::ffi::OsStr;
use std::fmt;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::endpoint::{
    Arrived, Backend, Change, DestroyDataset, Endpoint, Error, History, Listing, Outgoing, ReceiveRequest,
    Result, RollbackRequest, RolledBack, SendRequest, SnapshotRequest, SnapshotSet, Verified, beneath, btrfs,
    mounted, tree, zfs,
};
use crate::model::{DatasetName, Guid, HoldTag, Inventory, Partial, SnapshotName, Version, VersionRef};
use crate::stream::container;

/// A dataset. What it was a moment ago is not remembered: each call looks again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dataset {
    /// A btrfs subvolume, or what is left of the history of one.
    Btrfs(btrfs::Dataset),
    /// A ZFS filesystem or volume.
    Zfs(zfs::Dataset),
    /// A plain directory.
    Tree(tree::Dataset),
}

/// Does the same whatever backend it is.
macro_rules! whichever {
    ($self:expr, $dataset:ident => $what:expr) => {
        match $self {
            Dataset::Btrfs($dataset) => $what,
            Dataset::Zfs($dataset) => $what,
            Dataset::Tree($dataset) => $what,
        }
    };
}

impl From<btrfs::Dataset> for Dataset {
    fn from(dataset: btrfs::Dataset) -> Self {
        Self::Btrfs(dataset)
    }
}

impl From<zfs::Dataset> for Dataset {
    fn from(dataset: zfs::Dataset) -> Self {
        Self::Zfs(dataset)
    }
}

impl From<tree::Dataset> for Dataset {
    fn from(dataset: tree::Dataset) -> Self {
        Self::Tree(dataset)
    }
}

impl fmt::Display for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        whichever!(self, dataset => dataset.fmt(f))
    }
}

impl Dataset {
    /// Whose streams it sends and receives; `op` is what is asked of it.
    ///
    /// # Errors
    /// [`Error::Foreign`]: a plain directory has no stream.
    pub fn backend(&self, op: &'static str) -> Result<container::Backend> {
        match self {
            Self::Btrfs(_) => Ok(container::Backend::Btrfs),
            Self::Zfs(_) => Ok(container::Backend::Zfs),
            Self::Tree(dataset) => Err(dataset.has_no_stream(op)),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Btrfs(_) => "a btrfs subvolume",
            Self::Zfs(_) => "a ZFS dataset",
            Self::Tree(_) => "a plain directory",
        }
    }

    /// The same dataset; of a plain directory, `watch` is told how far its files are copied.
    pub fn watched(self, watch: tree::Watch) -> Self {
        match self {
            Self::Tree(dataset) => dataset.watched(watch).into(),
            other => other,
        }
    }

    /// The same dataset, whose bytes may be copied where its filesystem can not share blocks.
    ///
    /// # Errors
    /// [`Error::Refused`] for what needs no copies.
    pub fn copying(self) -> Result<Self> {
        match self {
            Self::Tree(dataset) => Ok(dataset.copying(true).into()),
            Self::Btrfs(_) | Self::Zfs(_) => Err(Error::Refused {
                op: "copy",
                subject: self.to_string(),
                why: "it is no plain directory: its snapshots and clones share all that is in it".into(),
                hint: Some("leave out --copy".into()),
            }),
        }
    }

    /// Whether a version of `self` can be cloned to `other`: both are in one filesystem or pool.
    pub fn shares_storage_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Btrfs(a), Self::Btrfs(b)) => a.store().fsid() == b.store().fsid(),
            (Self::Zfs(a), Self::Zfs(b)) => a.name().pool() == b.name().pool(),
            (Self::Tree(a), Self::Tree(b)) => a.shares_storage_with(b),
            _ => false,
        }
    }

    /// What it is told by, however it is named: equal for equal datasets, in every process, as long as the machine runs.
    pub fn identity(&self) -> Vec<u8> {
        match self {
            Self::Btrfs(dataset) => {
                [&b"btrfs "[..], &dataset.store().fsid(), dataset.path().as_os_str().as_bytes()].concat()
            }
            Self::Zfs(dataset) => [&b"zfs "[..], dataset.name().as_str().as_bytes()].concat(),
            Self::Tree(dataset) => [&b"tree "[..], &dataset.identity()].concat(),
        }
    }

    /// What it is called, and what it is told by from every other one of this machine, for as long as it stays where it is and however it
    /// is named.
    pub fn lasting_name(&self) -> (String, String) {
        match self {
            Self::Btrfs(dataset) => (dataset.path().display().to_string(), dataset.place_id()),
            Self::Zfs(dataset) => (dataset.name().as_str().to_owned(), dataset.name().as_str().to_owned()),
            Self::Tree(_) => (self.to_string(), self.to_string()),
        }
    }

    /// Whether it is live: not only what is left of a history.
    ///
    /// # Errors
    /// A place that can not be read.
    pub fn exists(&self) -> Result<bool> {
        whichever!(self, dataset => dataset.exists())
    }

    /// Whether it is live and not only what a restore has received for it so far.
    ///
    /// # Errors
    /// A place that can not be read.
    pub fn is_in_use(&self) -> Result<bool> {
        match self {
            Self::Btrfs(dataset) => dataset.exists(),
            Self::Zfs(dataset) => Ok(dataset.exists()? && !dataset.is_being_restored()?),
            Self::Tree(dataset) => dataset.exists(),
        }
    }

    /// Makes `version`, which a restore has received here, the content of the dataset, which is not in use.
    ///
    /// # Errors
    /// A step that fails; called again, it goes on.
    pub fn put_in_place(&self, version: &VersionRef) -> Result<()> {
        match self {
            Self::Btrfs(dataset) => dataset.clone_at(version, dataset),
            Self::Zfs(dataset) => match dataset.is_being_restored()? {
                true => dataset.put_in_place(version),
                false => dataset.clone_at(version, dataset),
            },
            Self::Tree(dataset) => dataset.clone_at(version, dataset),
        }
    }

    /// Says why not if it is not live.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Foreign`] if something else is in its place.
    pub fn expect_live(&self) -> Result<()> {
        match self {
            Self::Btrfs(dataset) => dataset.open().map(drop),
            Self::Zfs(dataset) => dataset.expect_live(),
            Self::Tree(dataset) => dataset.expect_live(),
        }
    }

    /// Makes it, empty.
    ///
    /// # Errors
    /// [`Error::Exists`]; no place for it.
    pub fn create(&self) -> Result<()> {
        whichever!(self, dataset => dataset.create())
    }

    /// Destroys the live dataset, and its snapshots if that is asked for.
    ///
    /// # Errors
    /// [`Error::Refused`] if something is in it, uses it or was left out; [`Error::Held`].
    pub fn destroy_dataset(&self, options: DestroyDataset) -> Result<()> {
        whichever!(self, dataset => dataset.destroy_dataset(options))
    }

    /// Gives the dataset, with its history, the name of `new`.
    ///
    /// # Errors
    /// [`Error::Exists`]; [`Error::Refused`] if `new` is in another place.
    pub fn rename_dataset(&self, new: &Self) -> Result<()> {
        match (self, new) {
            (Self::Btrfs(old), Self::Btrfs(new)) => old.rename_dataset(new),
            (Self::Zfs(old), Self::Zfs(new)) => old.rename_dataset(new),
            (Self::Tree(old), Self::Tree(new)) => old.rename_dataset(new),
            _ => Err(self.elsewhere("rename", new)),
        }
    }

    /// The datasets directly inside.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is not live.
    pub fn nested(&self) -> Result<Vec<Self>> {
        whichever!(self, dataset => Ok(dataset.nested()?.into_iter().map(Self::from).collect()))
    }

    /// All datasets below it, live or not, at any depth: parents first.
    ///
    /// # Errors
    /// A place that can not be read.
    pub fn all_inside(&self) -> Result<Vec<Self>> {
        match self {
            Self::Btrfs(dataset) => {
                let mut all = dataset.store().datasets()?;
                all.retain(|other| other != dataset && other.path().starts_with(dataset.path()));
                all.sort_by_key(|dataset| dataset.path().components().count());
                Ok(all.into_iter().map(Self::from).collect())
            }
            Self::Zfs(dataset) => Ok(dataset.all_inside()?.into_iter().map(Self::from).collect()),
            Self::Tree(_) => Ok(Vec::new()),
        }
    }

    fn elsewhere(&self, op: &'static str, to: &Self) -> Error {
        let why = format!("{to} would be {}, and it is {}", to.kind(), self.kind());
        Error::Refused { op, subject: self.to_string(), why, hint: None }
    }

    /// What is to `to` as `self`, which is `from` or inside it, is to `from`.
    ///
    /// # Panics
    /// If it is not.
    pub fn counterpart(&self, from: &Self, to: &Self) -> Self {
        if self == from {
            return to.clone();
        }
        match (self, from, to) {
            (Self::Btrfs(child), Self::Btrfs(from), Self::Btrfs(to)) => {
                let relative = child.path().strip_prefix(from.path());
                to.below(relative.expect("a nested dataset's path begins with its parent's")).into()
            }
            (Self::Zfs(child), Self::Zfs(from), Self::Zfs(to)) => {
                let relative = child.name().as_str().strip_prefix(from.name().as_str());
                let relative = relative.and_then(|rest| rest.strip_prefix('/'));
                to.below(Path::new(relative.expect("a nested dataset's name begins with its parent's")))
                    .into()
            }
            _ => unreachable!("what is inside a dataset is of its backend"),
        }
    }

    /// How the datasets inside are called behind this one's name, parents first.
    ///
    /// # Errors
    /// As [`Dataset::all_inside`].
    pub fn names_inside(&self) -> Result<Vec<PathBuf>> {
        Ok(self.all_inside()?.iter().filter_map(|inside| inside.name_inside(self)).collect())
    }

    /// How it is called behind the name of `outer`; `None` if it is not inside it.
    pub fn name_inside(&self, outer: &Self) -> Option<PathBuf> {
        match (outer, self) {
            (Self::Btrfs(outer), Self::Btrfs(inside)) => {
                inside.path().strip_prefix(outer.path()).ok().map(PathBuf::from)
            }
            (Self::Zfs(outer), Self::Zfs(inside)) => {
                let rest = inside.name().as_str().strip_prefix(outer.name().as_str())?;
                rest.strip_prefix('/').map(PathBuf::from)
            }
            _ => None,
        }
    }

    /// The dataset that is called `relative` below this one, whether it is there or not. Somebody else may have said that name.
    ///
    /// # Errors
    /// [`Error::Refused`] for a name that could lead elsewhere, or that no dataset can have here.
    pub fn named_below(&self, relative: &Path) -> Result<Self> {
        check_relative(self.to_string(), relative)?;
        match self {
            Self::Btrfs(dataset) => Ok(dataset.below(relative).into()),
            Self::Zfs(dataset) => {
                match format!("{}/{}", dataset.name(), relative.display()).parse::<DatasetName>() {
                    Ok(_) => Ok(dataset.below(relative).into()),
                    Err(error) => Err(not_below(self.to_string(), relative, &error.to_string())),
                }
            }
            Self::Tree(_) => Err(not_below(self.to_string(), relative, "it is a plain directory")),
        }
    }

    /// That it is what stands at `path` itself, by which it was named: no link led to it, whoever exchanged what on the way, and what is done
    /// with it is done from there.
    ///
    /// # Errors
    /// [`Error::Denied`] if not; a table of mounts that can not be read; [`Error::Foreign`] for a plain directory, which is walked to each time.
    pub fn expect_direct(&self, path: &Path) -> Result<()> {
        let is_direct = match self {
            Self::Btrfs(dataset) => dataset.is_directly_at(path)?,
            Self::Zfs(dataset) => dataset.is_directly_at(path)?,
            Self::Tree(dataset) => return Err(dataset.has_no_stream("serve")),
        };
        match is_direct {
            true => Ok(()),
            false => Err(Error::Denied {
                op: "serve",
                subject: path.display().to_string(),
                lacking: "it lies behind a symbolic link, or was moved while it was looked at".into(),
                hint: None,
            }),
        }
    }

    /// The version called `name`.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn version(&self, name: &SnapshotName) -> Result<Version> {
        whichever!(self, dataset => dataset.version(name))
    }

    /// Gives `version` another name.
    ///
    /// # Errors
    /// [`Error::Exists`] if it is taken; [`Error::Reused`], [`Error::NotFound`].
    pub fn rename_version(&self, version: &VersionRef, new: &SnapshotName) -> Result<VersionRef> {
        whichever!(self, dataset => dataset.rename_version(version, new))
    }

    /// Where the live dataset can be seen.
    ///
    /// # Errors
    /// A table of mounts that can not be read.
    pub fn mountpoint(&self) -> Result<Option<PathBuf>> {
        whichever!(self, dataset => dataset.mountpoint())
    }

    /// All that is known of it, whether it is live or not; if `recursive`, of every dataset inside it too, each behind the one that it is
    /// in. Of sizes only if they are asked for.
    ///
    /// # Errors
    /// As [`History::inventory`].
    pub fn listings(&self, recursive: bool, sizes: bool) -> Result<Vec<Listing<Self>>> {
        let (is_live, details) = match self {
            Self::Zfs(dataset) => return Ok(any(dataset.listings(recursive, sizes)?)),
            Self::Btrfs(dataset) => return Ok(any(dataset.listings(recursive, sizes)?)),
            Self::Tree(dataset) => (dataset.exists()?, dataset.details(sizes)?),
        };
        let nested = if recursive && is_live { self.nested()? } else { Vec::new() };
        let partials = self.partials()?;
        let mut all = vec![Listing { dataset: self.clone(), is_live, details, partials }];
        for inner in nested {
            all.extend(inner.listings(true, sizes)?);
        }
        Ok(all)
    }

    /// The receives into it that are not finished.
    ///
    /// # Errors
    /// A place that can not be read.
    pub fn partials(&self) -> Result<Vec<Partial>> {
        whichever!(self, dataset => dataset.partials())
    }

    /// How many bytes can be written on its filesystem or pool, and of how many in all; quotas and nested datasets do not count.
    ///
    /// # Errors
    /// A place that can not be read.
    pub fn space(&self) -> Result<(u64, u64)> {
        whichever!(self, dataset => dataset.space())
    }

    /// Gives up what was received in part: there is nothing to go on with any more. Answers of which container of an archive it was, where that is known.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is nothing; [`Error::Refused`] while it is being received, or where a partial goes by
    /// itself.
    pub fn give_up_partial(&self) -> Result<Option<String>> {
        match self {
            Self::Btrfs(dataset) => match dataset.give_up_kept(None)? {
                0 => Err(Error::Refused {
                    op: "destroy",
                    subject: format!("what was received into {dataset} in part"),
                    why: "it is being received, or goes by itself".into(),
                    hint: Some("cowsnap doctor --fix".into()),
                }),
                _ => Ok(None),
            },
            Self::Zfs(dataset) => dataset.give_up_partial(),
            Self::Tree(dataset) => Err(dataset.has_no_stream("receive")),
        }
    }

    /// What a receive has [left](zfs::BrokenOff) that was broken off, for who has the container with that digest; `None` if there is nothing. Only of ZFS,
    /// which keeps it by itself.
    ///
    /// # Errors
    /// A dataset that can not be read.
    pub fn broken_off(&self, container: &str) -> Result<Option<zfs::BrokenOff>> {
        match self {
            Self::Zfs(dataset) => dataset.broken_off(container),
            Self::Btrfs(_) | Self::Tree(_) => Ok(None),
        }
    }

    /// What is to be sent so that the receive whose `token` this is can go on.
    ///
    /// # Errors
    /// [`Error::Refused`] for what is no token, or where a receive can not go on; [`Error::NotFound`] for a token of what
    /// is not here.
    pub fn to_resume(&self, token: &str) -> Result<SendRequest> {
        match self {
            Self::Btrfs(dataset) => Err(Error::Refused {
                op: "resume sending",
                subject: dataset.to_string(),
                why: "a stream of btrfs can not go on where it was broken off".into(),
                hint: Some("send it anew, without --resume".into()),
            }),
            Self::Zfs(dataset) => dataset.to_resume(token),
            Self::Tree(dataset) => Err(dataset.has_no_stream("send")),
        }
    }

    /// As [`History::inventory`], with what replication goes by besides.
    ///
    /// # Errors
    /// As [`History::inventory`].
    pub fn inventory_to_replicate(&self) -> Result<Inventory> {
        let mut inventory = self.inventory()?;
        if let Self::Zfs(dataset) = self {
            inventory.caps.encrypted = dataset.is_encrypted().ok();
        }
        Ok(inventory)
    }

    /// About how many bytes the stream would be that `request` asks for; `None` where nobody can tell without sending it.
    ///
    /// # Errors
    /// A version or a base that can not be sent from.
    pub fn estimate(&self, request: &SendRequest) -> Result<Option<u64>> {
        match self {
            Self::Btrfs(dataset) => dataset.estimate(request),
            Self::Zfs(dataset) => dataset.estimate(request),
            Self::Tree(dataset) => Err(dataset.has_no_stream("send")),
        }
    }

    /// Destroys `version` and waits until its space has come back, no longer than `patience` while none does.
    ///
    /// # Errors
    /// As [`History::destroy`]; [`Error::Io`] with `TimedOut`, once it is destroyed, if nothing comes back.
    pub fn destroy_and_wait(&self, version: &VersionRef, patience: Duration) -> Result<()> {
        match self {
            Self::Btrfs(dataset) => dataset.destroy_and_wait(version, patience),
            Self::Zfs(dataset) => dataset.destroy_and_wait(version, patience),
            Self::Tree(dataset) => dataset.destroy(version),
        }
    }

    /// What goes back when this dataset goes back to `version`: itself, then those inside it that have a version of the
    /// same name, parents first.
    ///
    /// # Errors
    /// [`Error::Refused`] if there are nested datasets and it is not to be `recursive`.
    pub fn to_roll_back(&self, version: &VersionRef, recursive: bool) -> Result<Vec<(Self, VersionRef)>> {
        whichever!(self, dataset => {
            let all = dataset.to_roll_back(version, recursive)?;
            Ok(all.into_iter().map(|(dataset, version)| (dataset.into(), version)).collect())
        })
    }

    /// Takes away the clone that was just made here and nothing else.
    ///
    /// # Errors
    /// A clone with datasets inside it.
    pub fn take_clone_back(&self) -> Result<()> {
        whichever!(self, dataset => dataset.take_clone_back())
    }

    /// What changed from `old` to `new`, or to what the dataset is now; sorted by path.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Reused`]; a comparison that fails.
    pub fn changes(&self, old: &VersionRef, new: Option<&VersionRef>) -> Result<Vec<Change>> {
        whichever!(self, dataset => dataset.changes(old, new))
    }

    /// The receive of `guid` upon `base` that was broken off here and can go on from within the stream; none on ZFS, where a
    /// [partial](Self::partials)'s token says how.
    ///
    /// # Errors
    /// A place that can not be read.
    pub fn kept(&self, guid: Guid, base: Option<Guid>) -> Result<Option<btrfs::Kept>> {
        match self {
            Self::Btrfs(dataset) => dataset.kept(guid, base),
            Self::Zfs(_) | Self::Tree(_) => Ok(None),
        }
    }

    /// As [`Endpoint::receive`]; what `verified` answers once `stream` has been read is kept with the version. With `kept`, which
    /// is of this dataset, `stream` begins behind its prefix.
    ///
    /// # Errors
    /// As [`Endpoint::receive`].
    pub fn receive_checked<R: Read + Send>(
        &self,
        request: &ReceiveRequest,
        kept: Option<btrfs::Kept>,
        stream: &mut R,
        verified: impl FnOnce(&R) -> Option<Verified>,
    ) -> Result<Arrived> {
        match self {
            Self::Btrfs(dataset) => {
                dataset.receive_checked(request, kept, stream, verified).map(Arrived::from)
            }
            Self::Zfs(dataset) => dataset.receive_checked(request, stream, verified),
            Self::Tree(dataset) => Err(dataset.has_no_stream("receive")),
        }
    }
}

impl History for Dataset {
    fn inventory(&self) -> Result<Inventory> {
        whichever!(self, dataset => dataset.inventory())
    }

    fn hold(&self, version: &VersionRef, tag: &HoldTag) -> Result<()> {
        whichever!(self, dataset => dataset.hold(version, tag))
    }

    fn release(&self, version: &VersionRef, tag: &HoldTag) -> Result<()> {
        whichever!(self, dataset => dataset.release(version, tag))
    }

    fn destroy(&self, version: &VersionRef) -> Result<()> {
        whichever!(self, dataset => dataset.destroy(version))
    }
}

impl Endpoint for Dataset {
    fn send(&self, request: &SendRequest) -> Result<Outgoing> {
        match self {
            Self::Btrfs(dataset) => dataset.send(request),
            Self::Zfs(dataset) => dataset.send(request),
            Self::Tree(dataset) => Err(dataset.has_no_stream("send")),
        }
    }

    fn receive(&self, request: &ReceiveRequest, stream: &mut dyn Read) -> Result<Version> {
        match self {
            Self::Btrfs(dataset) => dataset.receive(request, stream),
            Self::Zfs(dataset) => dataset.receive(request, stream),
            Self::Tree(dataset) => Err(dataset.has_no_stream("receive")),
        }
    }
}

impl Backend for Dataset {
    type Mount = mounted::Mount;

    fn snapshot(set: &[Self], request: &SnapshotRequest) -> Result<SnapshotSet> {
        let (mut on_btrfs, mut on_zfs, mut trees) = (Vec::new(), Vec::new(), Vec::new());
        for dataset in set {
            match dataset {
                Self::Btrfs(dataset) => on_btrfs.push(dataset.clone()),
                Self::Zfs(dataset) => on_zfs.push(dataset.clone()),
                Self::Tree(dataset) => trees.push(dataset.clone()),
            }
        }
        match (on_btrfs.is_empty(), on_zfs.is_empty(), trees.is_empty()) {
            (_, true, true) => Backend::snapshot(&on_btrfs, request),
            (true, false, true) => Backend::snapshot(&on_zfs, request),
            (true, true, false) => Backend::snapshot(&trees, request),
            _ => Err(Error::Refused {
                op: "snapshot",
                subject: set.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
                why: "not all are on btrfs, on ZFS or plain directories: all or none can not be promised"
                    .into(),
                hint: Some("one cowsnap snapshot for each filesystem".into()),
            }),
        }
    }

    fn clone_at(&self, version: &VersionRef, to: &Self) -> Result<()> {
        match (self, to) {
            (Self::Btrfs(of), Self::Btrfs(to)) => of.clone_at(version, to),
            (Self::Zfs(of), Self::Zfs(to)) => of.clone_at(version, to),
            (Self::Tree(of), Self::Tree(to)) => of.clone_at(version, to),
            _ => Err(self.elsewhere("clone", to)),
        }
    }

    fn mount(&self, version: &VersionRef, dir: &Path) -> Result<mounted::Mount> {
        whichever!(self, dataset => dataset.mount(version, dir))
    }

    fn rollback(&self, version: &VersionRef, request: &RollbackRequest) -> Result<RolledBack> {
        whichever!(self, dataset => dataset.rollback(version, request))
    }
}

/// Refuses a name below `of` that could lead elsewhere, or into what is cowsnap's own.
pub(in crate::endpoint) fn check_relative(of: String, relative: &Path) -> Result<()> {
    let is_own = |part: &OsStr| part == ".cowsnap" || part == ".cowsnap-trees";
    match beneath::check(relative.as_os_str().as_bytes()) {
        Err(why) => Err(not_below(of, relative, why)),
        Ok(()) if relative.iter().any(is_own) => Err(not_below(of, relative, "that is cowsnap's own")),
        Ok(()) => Ok(()),
    }
}

fn not_below(of: String, relative: &Path, why: &str) -> Error {
    Error::Refused { op: "look at", subject: format!("{relative:?} below {of}"), why: why.into(), hint: None }
}

/// Unmounts the version that is mounted at `dir`; `lazily` takes it out of sight at once, and it goes when its last user
/// does.
///
/// # Errors
/// [`Error::NotFound`] if nothing is mounted there; [`Error::Refused`] if it is not a version, or in use.
pub fn unmount(dir: &Path, lazily: bool) -> Result<()> {
    match lazily {
        true => mounted::unmount_lazily(dir),
        false => mounted::unmount(dir),
    }
}

/// Listings of a backend's own, as of any.
fn any<D: Into<Dataset>>(listings: Vec<Listing<D>>) -> Vec<Listing<Dataset>> {
    let one = |Listing { dataset, is_live, details, partials }| Listing {
        dataset: D::into(dataset),
        is_live,
        details,
        partials,
    };
    listings.into_iter().map(one).collect()
}
