//! Moving a plain directory into a dataset that is then mounted in its place.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::adoption::{Adoption, Phase, key_of, old_of};
use super::record::Pool;
use super::registry::{Lock, Registry};
use super::size::human;
use super::{device, image, mounts, swap};
use crate::endpoint::btrfs::Dataset;
use crate::endpoint::btrfs::store::{STORE_DIR, Store};
use crate::endpoint::{Backend, DestroyDataset, Error, Result, SnapshotRequest};
use crate::exec::Observe;
use crate::exec::adopt::{self as tree, Journal, Tree};
use crate::model::{DatasetName, SnapshotName, quoted};
use crate::sys;

/// What to adopt.
#[derive(Debug, Clone)]
pub struct Request {
    /// The directory.
    pub dir: PathBuf,
    /// The dataset to be.
    pub to: DatasetName,
    /// Copy although processes have files open for writing.
    pub force_open: bool,
}

/// What adopting will be, or was.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Plan {
    /// The directory, without symbolic links.
    pub dir: String,
    /// The dataset.
    pub to: DatasetName,
    /// How many files, directories and other things there are.
    pub entries: usize,
    /// How many bytes the files have.
    pub bytes: u64,
    /// How many bytes of disk they take.
    pub disk_bytes: u64,
    /// How many bytes an interrupted run has copied already.
    pub copied_bytes: u64,
    /// How many bytes can still be written to the pool.
    pub free: u64,
    /// Where the old copy is put.
    pub old: String,
    /// The first snapshot, once it was taken.
    pub snapshot: Option<SnapshotName>,
}

/// Where the copy is until it is complete.
pub(super) struct Staging {
    /// The directory that holds both.
    pub folder: PathBuf,
    /// The subvolume.
    pub data: PathBuf,
    /// What was copied.
    pub manifest: PathBuf,
}

impl Staging {
    pub(super) fn of(pool: &Pool, dir: &Path) -> Self {
        let folder = pool.mountpoint.join(STORE_DIR).join("adopt").join(key_of(dir));
        Self { data: folder.join("data"), manifest: folder.join("manifest"), folder }
    }
}

/// Takes the right to adopt `dir` or change its adoption.
pub(super) fn lock(registry: &Registry, dir: &Path) -> Result<Lock> {
    // No pool has such a name.
    registry.lock(&format!("%{}", key_of(dir)))
}

/// What [`adopt`] would do, if nothing stands in its way.
///
/// # Errors
/// As [`adopt`].
pub fn plan(registry: &Registry, request: &Request) -> Result<Plan> {
    let work = Work::prepare(registry, request)?;
    work.check(request.force_open)?;
    work.plan()
}

/// Copies the directory into a new dataset, verifies the copy, takes the first snapshot, mounts the dataset in the
/// directory's place, and keeps the old copy beside it. Interrupted and called again, it goes on.
///
/// # Errors
/// [`Error::Refused`] while a process writes there, if something changes meanwhile, or without the space; what is copied
/// by then is kept. [`Error::Corrupt`] if what was written is not what was read.
pub fn adopt(registry: &Registry, request: &Request, observe: &dyn Observe) -> Result<Plan> {
    device::check_rights("adopt", &request.dir.display().to_string())?;
    let dir = canonical(&request.dir)?;
    let _lock = lock(registry, &dir)?;
    swap::settle(registry, &dir)?;
    let mut work = Work::prepare(registry, request)?;
    work.check(request.force_open)?;
    registry.record_adoption(&work.adoption)?;
    work.copy(observe)?;
    work.commit(registry, request.force_open)?;
    work.plan()
}

struct Work {
    pool: Pool,
    dataset: Dataset,
    tree: Tree,
    staging: Staging,
    adoption: Adoption,
}

impl Work {
    fn prepare(registry: &Registry, request: &Request) -> Result<Self> {
        let dir = canonical(&request.dir)?;
        let pool = registry.expect(request.to.pool())?;
        pool.ready()?;
        let known = registry.adoption(&dir)?;
        check_place(registry, &dir, &request.to, known.as_ref())?;
        let within =
            request.to.within_pool().ok_or_else(|| refused(&dir, "a pool itself can not be adopted into"))?;
        let store = Store::open(&pool.mountpoint)?;
        let dataset = store.dataset(within).with_label(request.to.as_str());
        check_target(&dataset)?;
        tree::flags::check_root(&dir)?;
        let tree = tree::scan(&dir)?;
        let adoption = known.unwrap_or_else(|| Adoption {
            inode: tree.entries[0].stamp.inode,
            dir: dir.clone(),
            to: request.to.clone(),
            phase: Phase::Copying,
            snapshot: None,
            began: jiff::Timestamp::now(),
        });
        let adoption = Adoption { inode: tree.entries[0].stamp.inode, ..adoption };
        Ok(Self { staging: Staging::of(&pool, &dir), pool, dataset, tree, adoption })
    }

    fn plan(&self) -> Result<Plan> {
        Ok(Plan {
            dir: self.adoption.dir.display().to_string(),
            to: self.adoption.to.clone(),
            entries: self.tree.entries.len(),
            bytes: self.tree.bytes(),
            disk_bytes: self.tree.disk_bytes(),
            copied_bytes: self.copied_bytes()?,
            free: self.free()?,
            old: self.adoption.old().display().to_string(),
            snapshot: self.adoption.snapshot.as_ref().map(|version| version.name.clone()),
        })
    }

    fn copied_bytes(&self) -> Result<u64> {
        if !self.staging.manifest.exists() {
            return Ok(0);
        }
        let journal = Journal::open(&self.staging.manifest)?;
        let copied = self.tree.files().filter(|entry| journal.current(entry).is_some());
        Ok(copied.map(|entry| entry.disk_bytes).sum())
    }

    fn free(&self) -> Result<u64> {
        let at = &self.pool.mountpoint;
        let space = rustix::fs::statvfs(at).map_err(Error::io("read the free space of", at.display()))?;
        let host =
            image::host_free(&self.pool.image).map_err(Error::io("read the free space of", at.display()))?;
        Ok((space.f_bavail * space.f_frsize).min(host))
    }

    /// Says what stands in the way.
    fn check(&self, force_open: bool) -> Result<()> {
        if !force_open {
            self.check_writers()?;
        }
        let needed = self.tree.disk_bytes().saturating_sub(self.copied_bytes()?);
        // Metadata: about 4 KiB for each thing, twice.
        let needed = needed + self.tree.entries.len() as u64 * 2048;
        let free = self.free()?;
        if needed <= free {
            return Ok(());
        }
        let pool = &self.pool.name;
        Err(Error::Refused {
            op: "adopt",
            subject: self.adoption.dir.display().to_string(),
            why: format!(
                "it takes {}, and pool {pool} and the disk below have {} free",
                human(needed),
                human(free)
            ),
            hint: Some(format!("cowsnap pool grow {} SIZE, or free space on the disk below", quoted(pool))),
        })
    }

    fn check_writers(&self) -> Result<()> {
        let failed = Error::io("look for writers of", self.adoption.dir.display());
        // Without CAP_SYS_PTRACE, other users' processes are not seen.
        let writers = sys::writers::find(&[self.tree.writable()]).map_err(failed)?.writers;
        let Some(first) = writers.first() else { return Ok(()) };
        let names: Vec<_> =
            writers.iter().map(|writer| format!("{} ({})", writer.name, writer.pid)).collect();
        Err(Error::Refused {
            op: "adopt",
            subject: self.adoption.dir.display().to_string(),
            why: format!("it is being written to by {}: {}", names.join(", "), first.file.display()),
            hint: Some("stop the service and try again: a copy of a running one is corrupt".into()),
        })
    }

    fn copy(&mut self, observe: &dyn Observe) -> Result<()> {
        make_private(&self.staging.folder)?;
        self.make_subvolume()?;
        let mut journal = Journal::open(&self.staging.manifest)?;
        let (dir, data) = (&self.adoption.dir, &self.staging.data);
        tree::copy(dir, &self.tree, data, &mut journal, observe)?;
        if let Err(error) = tree::verify(dir, &self.tree, data, &journal, observe) {
            // Nothing of it is believed any more: the next run begins anew.
            let _ = fs::remove_file(&self.staging.manifest);
            return Err(error);
        }
        Ok(())
    }

    fn make_subvolume(&self) -> Result<()> {
        let folder =
            fs::File::open(&self.staging.folder).map_err(Error::io("open", self.staging.folder.display()))?;
        match sys::btrfs::subvol_create(folder.as_fd(), "data".as_ref()) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            other => other.map_err(Error::io("create subvolume", self.staging.data.display())),
        }
    }

    fn commit(&mut self, registry: &Registry, force_open: bool) -> Result<()> {
        if !force_open {
            self.check_writers()?;
        }
        tree::unchanged(&self.adoption.dir, &self.tree)?;
        self.enter(registry, Phase::Committing)?;
        let moved = self.publish(registry).and_then(|()| swap::swap(&self.pool, &self.adoption));
        if let Err(error) = moved {
            // Back to before: the directory is untouched, or was put back.
            return swap::settle(registry, &self.adoption.dir).and(Err(error));
        }
        self.enter(registry, Phase::Done)
    }

    /// Gives the copy its name and takes its first snapshot.
    fn publish(&mut self, registry: &Registry) -> Result<()> {
        let (parent, name) = self.dataset.parent()?;
        renameat_with(CWD, &self.staging.data, &parent, name, RenameFlags::NOREPLACE)
            .map_err(Error::io("create dataset", &self.dataset))?;
        let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
        let name: SnapshotName = format!("adopted-{now}").parse().expect("digits and letters make a name");
        let set = Dataset::snapshot(std::slice::from_ref(&self.dataset), &SnapshotRequest::named(name))?;
        self.adoption.snapshot = set.versions.into_iter().next().map(|version| version.id);
        registry.record_adoption(&self.adoption)
    }

    fn enter(&mut self, registry: &Registry, phase: Phase) -> Result<()> {
        self.adoption.phase = phase;
        registry.record_adoption(&self.adoption)
    }
}

/// Undoes what [`Work::publish`] did: the copy goes back to staging, or, if it has a snapshot already, goes.
pub(super) fn unpublish(pool: &Pool, adoption: &Adoption) -> Result<()> {
    let staging = Staging::of(pool, &adoption.dir);
    // Still in staging: whatever has the dataset's name is not ours.
    if staging.data.exists() {
        return Ok(());
    }
    let store = Store::open(&pool.mountpoint)?;
    let within = adoption.to.within_pool().unwrap_or_default();
    let dataset = store.dataset(within).with_label(adoption.to.as_str());
    if dataset.exists()? {
        dataset.destroy_dataset(DestroyDataset { snapshots: true })?;
    }
    match fs::remove_file(&staging.manifest) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("remove", staging.manifest.display())(error))
        }
        _ => Ok(()),
    }
}

/// The directory by its one path without symbolic links.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Refused`] if it is no directory.
pub(super) fn canonical(dir: &Path) -> Result<PathBuf> {
    let path = match fs::canonicalize(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::NotFound {
                what: "directory",
                subject: dir.display().to_string(),
                hint: None,
            });
        }
        other => other.map_err(Error::io("find directory", dir.display()))?,
    };
    if path.is_dir() { Ok(path) } else { Err(refused(dir, "it is no directory")) }
}

fn check_place(registry: &Registry, dir: &Path, to: &DatasetName, known: Option<&Adoption>) -> Result<()> {
    match known {
        Some(adoption) if adoption.phase != Phase::Copying => {
            return Err(Error::Exists {
                what: "adoption of",
                subject: format!("{} into {}", dir.display(), adoption.to),
                hint: Some("cowsnap list".into()),
            });
        }
        Some(adoption) if adoption.to != *to => {
            return Err(Error::Refused {
                op: "adopt",
                subject: dir.display().to_string(),
                why: format!("it is being adopted into {}", adoption.to),
                hint: Some(format!("cowsnap adopt --undo {}", quoted(dir.display()))),
            });
        }
        _ => {}
    }
    let device = |path: &Path| fs::symlink_metadata(path).map(|meta| meta.dev()).ok();
    let Some(parent) = dir.parent().filter(|parent| device(parent) == device(dir)) else {
        return Err(refused(dir, "it is a mount point or a subvolume, not a plain directory"));
    };
    if let Some(mount) = mounts::below(dir)?.first() {
        return Err(refused(dir, &format!("{} is mounted in it", mount.dir.display())));
    }
    for (_, pool) in registry.pools()? {
        if pool.is_ok_and(|pool| pool.image.starts_with(dir) || pool.mountpoint.starts_with(dir)) {
            return Err(refused(dir, "a pool lies in it"));
        }
    }
    let old = old_of(dir);
    match old.symlink_metadata().is_ok() && !swap::is_placeholder(&old) {
        true => Err(refused(dir, &format!("{} is in the way, in {}", old.display(), parent.display()))),
        false => Ok(()),
    }
}

fn check_target(dataset: &Dataset) -> Result<()> {
    let (parent, name) = dataset.parent()?;
    match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(Error::io("look for", dataset)(errno)),
        Ok(_) => Err(Error::Exists {
            what: "dataset",
            subject: dataset.to_string(),
            hint: Some("choose another name".into()),
        }),
    }
}

fn make_private(folder: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(Error::io("create directory", folder.display()))
}

pub(super) fn refused(dir: &Path, why: &str) -> Error {
    Error::Refused { op: "adopt", subject: dir.display().to_string(), why: why.into(), hint: None }
}
