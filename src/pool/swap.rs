//! The dataset in the directory's place: exchanging, mounting, undoing, discarding the old copy.
//!
//! The directory is exchanged with an empty one beside it in one call, and the dataset is mounted on that in the next. Between
//! the two, there is a directory that nobody may enter.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use rustix::fs::{CWD, IFlags, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

use super::adopt::{Staging, canonical, lock, refused, unpublish};
use super::adoption::{Adoption, Phase};
use super::mounts;
use super::record::{Pool, fsid_at};
use super::registry::{Registry, sync_folder};
use crate::endpoint::btrfs::store::Store;
use crate::endpoint::{Error, Result};
use crate::exec::Observe;
use crate::exec::adopt::{Journal, flags, verify::verify_content};
use crate::model::quoted;
use crate::sys;

/// Moves the directory aside and mounts the dataset in its place; undoes itself if the mount fails.
pub(super) fn swap(pool: &Pool, adoption: &Adoption) -> Result<()> {
    let (dir, old) = (&adoption.dir, adoption.old());
    match fs::DirBuilder::new().mode(0o000).create(&old) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_placeholder(&old) => {}
        other => other.map_err(Error::io("create directory", old.display()))?,
    }
    let tree = dataset_tree(pool, adoption)?;
    exchange(dir, &old)?;
    set_immutable(dir, true);
    attach(&tree, dir).inspect_err(|_| {
        set_immutable(dir, false);
        if exchange(dir, &old).is_ok() {
            let _ = fs::remove_dir(&old);
        }
    })?;
    sync_folder(dir.parent().unwrap_or(Path::new("/")))
}

/// Mounts the dataset at its directory; `false` if it is.
///
/// # Errors
/// A dataset or directory that is not there, or no right to mount.
pub(crate) fn mount(pool: &Pool, adoption: &Adoption) -> Result<bool> {
    if is_mounted(pool, adoption) {
        return Ok(false);
    }
    if !is_placeholder(&adoption.dir) {
        return Err(Error::Refused {
            op: "mount the adopted directory",
            subject: adoption.dir.display().to_string(),
            why: "something has been put there since it was moved aside".into(),
            hint: Some(format!(
                "move away what is in {}, then: cowsnap pool mount {}",
                adoption.dir.display(),
                quoted(&pool.name)
            )),
        });
    }
    attach(&dataset_tree(pool, adoption)?, &adoption.dir)?;
    Ok(true)
}

/// Whether nothing has to be mounted for the adoption: it is not so far, or it is mounted.
pub(crate) fn needs_no_mount(pool: &Pool, adoption: &Adoption) -> bool {
    match adoption.phase {
        Phase::Copying => true,
        Phase::Committing | Phase::Discarding => false,
        Phase::Done | Phase::Discarded => is_mounted(pool, adoption),
    }
}

/// Mounts the dataset at its directory again, after ending what was interrupted.
pub(super) fn mount_again(registry: &Registry, pool: &Pool, dir: &Path) -> Result<bool> {
    let _lock = lock(registry, dir)?;
    settle(registry, dir)?;
    match registry.adoption(dir)? {
        Some(adoption) if adoption.phase != Phase::Copying => mount(pool, &adoption),
        _ => Ok(false),
    }
}

/// Whether the pool shows at the adopted directory.
pub(crate) fn is_mounted(pool: &Pool, adoption: &Adoption) -> bool {
    fsid_at(&adoption.dir).is_ok_and(|fsid| fsid == Some(pool.fsid))
        && mounts::all().is_ok_and(|all| all.iter().any(|mounted| mounted.dir == adoption.dir))
}

/// Takes the dataset away from the adopted directory.
///
/// # Errors
/// [`Error::Refused`] while it is in use, naming who uses it.
pub(crate) fn unmount(pool: &Pool, adoption: &Adoption) -> Result<bool> {
    let dir = &adoption.dir;
    if !is_mounted(pool, adoption) {
        return Ok(false);
    }
    let in_use = || Error::Refused {
        op: "unmount",
        subject: dir.display().to_string(),
        why: match mounts::list_users(&mounts::users(std::slice::from_ref(dir))) {
            users if users.is_empty() => "it is in use".into(),
            users => format!("it is in use by {users}"),
        },
        hint: Some("stop what uses it and try again".into()),
    };
    match sys::mount::unmount(dir) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Err(in_use()),
        other => other.map(|()| true).map_err(Error::io("unmount", dir.display())),
    }
}

/// Brings an adoption that was interrupted while it was committed to one side: done, if the directory was moved aside;
/// else back to before, with the directory as it was. Also ends a discarding that was interrupted.
///
/// The caller has the adoption's lock.
pub(crate) fn settle(registry: &Registry, dir: &Path) -> Result<()> {
    let Some(mut adoption) = registry.adoption(dir)? else { return Ok(()) };
    match adoption.phase {
        Phase::Committing => {}
        Phase::Discarding => return remove_old(registry, &mut adoption),
        Phase::Copying | Phase::Done | Phase::Discarded => return Ok(()),
    }
    let pool = registry.expect(adoption.to.pool())?;
    pool.ready()?;
    if adoption.is_moved_aside() {
        mount(&pool, &adoption)?;
        adoption.phase = Phase::Done;
    } else {
        unpublish(&pool, &adoption)?;
        remove_placeholder(&adoption);
        adoption.phase = Phase::Copying;
        adoption.snapshot = None;
    }
    registry.record_adoption(&adoption)
}

/// [`settle`] for who has no lock.
pub(super) fn settle_alone(registry: &Registry, dir: &Path) -> Result<()> {
    let _lock = lock(registry, dir)?;
    settle(registry, dir)
}

/// Puts the old copy back at its place and forgets the adoption. The dataset stays. An adoption that was never
/// completed is cleared away.
///
/// # Errors
/// [`Error::NotFound`] if the directory was not adopted; [`Error::Refused`] if the old copy was discarded or the
/// directory is in use.
pub fn undo(registry: &Registry, dir: &Path) -> Result<Adoption> {
    let dir = &canonical(dir)?;
    let _lock = lock(registry, dir)?;
    settle(registry, dir)?;
    let adoption = expect(registry, dir)?;
    let pool = registry.expect(adoption.to.pool())?;
    match adoption.phase {
        Phase::Copying => pool.ready().map(drop)?,
        Phase::Done => put_back(&pool, &adoption)?,
        // Nothing is left to be mounted there: what remains is an empty directory.
        Phase::Discarded if is_gone(&pool, &adoption)? => set_immutable(dir, false),
        _ => return Err(refused(dir, "its old copy was discarded: the dataset is the only one")),
    }
    clear_staging(&pool, &adoption)?;
    registry.forget_adoption(&adoption)?;
    Ok(adoption)
}

/// Removes the old copy, after comparing the first snapshot with the manifest; how many files were compared.
///
/// # Errors
/// [`Error::Corrupt`] if the snapshot is not what was copied; [`Error::NotFound`] if the snapshot is gone.
pub fn discard_old(registry: &Registry, dir: &Path, observe: &dyn Observe) -> Result<usize> {
    let dir = &canonical(dir)?;
    let _lock = lock(registry, dir)?;
    settle(registry, dir)?;
    let mut adoption = expect(registry, dir)?;
    if adoption.phase != Phase::Done {
        return Err(refused(dir, "there is no old copy to discard"));
    }
    let pool = registry.expect(adoption.to.pool())?;
    let n_files = check_first_snapshot(&pool, &adoption, observe)?;
    if !adoption.is_moved_aside() {
        return Err(refused(dir, &format!("{} is not its old copy", adoption.old().display())));
    }
    adoption.phase = Phase::Discarding;
    registry.record_adoption(&adoption)?;
    remove_old(registry, &mut adoption)?;
    clear_staging(&pool, &adoption)?;
    Ok(n_files)
}

/// Forgets the directories adopted into a pool that goes; where each was, an empty directory stays.
pub(super) fn forget_all(registry: &Registry, pool: &Pool) -> Result<()> {
    for adoption in registry.adopted_into(&pool.name)? {
        set_immutable(&adoption.dir, false);
        registry.forget_adoption(&adoption)?;
    }
    Ok(())
}

fn check_first_snapshot(pool: &Pool, adoption: &Adoption, observe: &dyn Observe) -> Result<usize> {
    let store = Store::open(pool.ready()?)?;
    let dataset =
        store.dataset(adoption.to.within_pool().unwrap_or_default()).with_label(adoption.to.as_str());
    let Some(version) = &adoption.snapshot else {
        return Err(refused(&adoption.dir, "no snapshot was taken of it"));
    };
    let snapshot = dataset.open_version(version)?;
    let journal = Journal::open(&Staging::of(pool, &adoption.dir).manifest)?;
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&snapshot));
    verify_content(Path::new(&path), &journal, observe)
}

fn remove_old(registry: &Registry, adoption: &mut Adoption) -> Result<()> {
    let old = adoption.old();
    match flags::remove_dir_all(&old) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Error::io("remove", old.display())(error));
        }
        _ => {}
    }
    adoption.phase = Phase::Discarded;
    registry.record_adoption(adoption)
}

fn expect(registry: &Registry, dir: &Path) -> Result<Adoption> {
    registry.adoption(dir)?.ok_or_else(|| Error::NotFound {
        what: "adoption of",
        subject: dir.display().to_string(),
        hint: Some(format!("cowsnap adopt {} --to POOL/NAME", quoted(dir.display()))),
    })
}

fn is_gone(pool: &Pool, adoption: &Adoption) -> Result<bool> {
    let place = pool.ready()?.join(adoption.to.within_pool().unwrap_or_default());
    Ok(place.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound))
}

fn put_back(pool: &Pool, adoption: &Adoption) -> Result<()> {
    let (dir, old) = (&adoption.dir, adoption.old());
    if !adoption.is_moved_aside() {
        return Err(refused(dir, &format!("{} is not its old copy", old.display())));
    }
    unmount(pool, adoption)?;
    if !is_placeholder(dir) {
        return Err(refused(dir, "something has been put there since it was moved aside"));
    }
    set_immutable(dir, false);
    exchange(dir, &old)?;
    fs::remove_dir(&old).map_err(Error::io("remove", old.display()))?;
    sync_folder(dir.parent().unwrap_or(Path::new("/")))
}

/// Removes what was staged: the unfinished copy and the manifest. A pool that is not mounted keeps them, for `doctor`.
fn clear_staging(pool: &Pool, adoption: &Adoption) -> Result<()> {
    if pool.is_mounted() { clear_folder(&Staging::of(pool, &adoption.dir).folder) } else { Ok(()) }
}

/// Removes a staging directory with the subvolume in it.
pub(crate) fn clear_folder(folder: &Path) -> Result<()> {
    let failed = || Error::io::<_, io::Error>("remove", folder.display());
    let open = match File::open(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed())?,
    };
    match sys::btrfs::snap_destroy(open.as_fd(), "data".as_ref()) {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(failed()(error)),
        _ => {}
    }
    fs::remove_dir_all(folder).map_err(failed())
}

/// Whether an empty directory is at `path`: what stands in for what is moved aside.
pub(crate) fn is_placeholder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir() && meta.uid() == 0)
        && fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

fn remove_placeholder(adoption: &Adoption) {
    let old = adoption.old();
    if is_placeholder(&old) {
        set_immutable(&old, false);
        let _ = fs::remove_dir(&old);
    }
}

/// Keeps, where the filesystem can, anybody from writing into the empty directory while the dataset is not mounted there:
/// a service that starts too early fails instead of starting anew.
fn set_immutable(dir: &Path, on: bool) {
    let change = || -> io::Result<()> {
        let folder = File::open(dir)?;
        let mut flags = rustix::fs::ioctl_getflags(&folder)?;
        flags.set(IFlags::IMMUTABLE, on);
        Ok(rustix::fs::ioctl_setflags(&folder, flags)?)
    };
    if let Err(error) = change() {
        tracing::debug!(%error, dir = %dir.display(), "no immutable flag here");
    }
}

fn exchange(dir: &Path, old: &Path) -> Result<()> {
    rustix::fs::renameat_with(CWD, dir, CWD, old, RenameFlags::EXCHANGE)
        .map_err(Error::io("exchange", format!("{} and {}", dir.display(), old.display())))
}

/// A mount of the dataset that is nowhere yet.
fn dataset_tree(pool: &Pool, adoption: &Adoption) -> Result<sys::mount::Detached> {
    let top = File::open(pool.ready()?).map_err(Error::io("open", pool.mountpoint.display()))?;
    let within = adoption.to.within_pool().unwrap_or_default();
    // Who owns a directory on the way may have put a link there: what it leads to is not mounted.
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dataset =
        rustix::fs::openat2(&top, within, flags, Mode::empty(), resolve).map_err(|errno| match errno {
            Errno::NOENT => Error::NotFound {
                what: "dataset",
                subject: adoption.to.to_string(),
                hint: Some(format!(
                    "if it was destroyed: cowsnap adopt --undo {}",
                    quoted(adoption.dir.display())
                )),
            },
            errno => Error::io("open", &adoption.to)(errno),
        })?;
    sys::mount::bind(dataset.as_fd()).map_err(Error::io("mount", &adoption.to))
}

fn attach(tree: &sys::mount::Detached, dir: &Path) -> Result<()> {
    sys::mount::attach(tree, dir).map_err(Error::io("mount the dataset at", dir.display()))
}
