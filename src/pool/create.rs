//! Making a pool: each step can fail, or the process die after it, and the same undoing serves both.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::record::{Pool, is_component};
use super::registry::Registry;
use super::size::human;
use super::{device, image, mounting};
use crate::endpoint::{Error, Result};
use crate::exec::{Event, Observe};
use crate::model::{DatasetName, Guid, quoted};

/// The pool to make.
#[derive(Debug, Clone)]
pub struct New {
    /// Its name: the first component of its datasets' names.
    pub name: DatasetName,
    /// How large it may become, in bytes.
    pub size: u64,
    /// Where its image goes; `None` for `<state>/images`.
    pub folder: Option<PathBuf>,
}

/// What making a pool consists of, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Write down what is about to be made.
    Announce,
    /// Make the sparse file under a staging name.
    Image,
    /// Make the filesystem in it.
    Format,
    /// Give the file its name.
    Place,
    /// Attach a loop device and mount it.
    Mount,
    /// Turn the announcement into the registration.
    Register,
}

impl Step {
    /// All steps in their order.
    pub const ALL: [Self; 6] =
        [Self::Announce, Self::Image, Self::Format, Self::Place, Self::Mount, Self::Register];
}

/// Makes a pool and mounts it. `before` is called before each step; its error, and any other, undoes what was done.
///
/// What a killed `create` of the same name left is removed first.
///
/// # Errors
/// [`Error::Exists`] if a pool, a ZFS pool or a file has that name; [`Error::Denied`] without the rights, a loop device
/// or `mkfs.btrfs`; [`Error::Refused`] for a size that is too small, or while another process makes it.
pub fn create(
    registry: &Registry,
    new: &New,
    observe: &dyn Observe,
    before: &mut dyn FnMut(Step) -> Result<()>,
) -> Result<Pool> {
    let pool = plan(registry, new)?;
    device::check_rights("make pool", &pool.name)?;
    let _lock = registry.lock(&pool.name)?;
    check_free(registry, &pool)?;
    remove_unfinished_locked(registry, &pool.name)?;
    let size = image::usable_size(&pool.name, new.size)?;
    make_folder(&pool, new)?;
    warn_if_short(&pool, size, observe);
    let undo = Undo { registry, name: &pool.name };
    for step in Step::ALL {
        before(step)?;
        tracing::debug!(?step, pool = pool.name, "making a pool");
        do_step(registry, &pool, size, step)?;
    }
    std::mem::forget(undo);
    Ok(pool)
}

/// The pool that [`create`] would make, if nothing stands in its way.
///
/// # Errors
/// [`Error::Refused`] for a name that is none of a pool, [`Error::Exists`], [`Error::NotFound`] for the folder.
pub fn plan(registry: &Registry, new: &New) -> Result<Pool> {
    let name = new.name.as_str().to_owned();
    if new.name.within_pool().is_some() || !is_component(name.as_ref()) {
        return Err(Error::Refused {
            op: "make pool",
            subject: name,
            why: "a pool's name has no / and at most 200 bytes".into(),
            hint: Some(format!("cowsnap pool create {}", quoted(new.name.pool()))),
        });
    }
    image::usable_size(&name, new.size)?;
    let folder = match &new.folder {
        None => registry.state().join("images"),
        Some(folder) => fs::canonicalize(folder).map_err(|source| no_folder(folder, source))?,
    };
    let pool = Pool {
        image: folder.join(format!("{name}.img")),
        mountpoint: registry.mountpoint(&name),
        fsid: new_guid()?,
        options: mounting::OPTIONS.into(),
        created: jiff::Timestamp::now(),
        name,
    };
    check_free(registry, &pool)?;
    Ok(pool)
}

/// Removes what is left of a pool that was being made or destroyed when its process died; `false` if there is nothing.
///
/// # Errors
/// [`Error::Refused`] while that process lives, or while what is left is in use.
pub fn remove_unfinished(registry: &Registry, name: &str) -> Result<bool> {
    let _lock = registry.lock(name)?;
    remove_unfinished_locked(registry, name)
}

/// [`remove_unfinished`] for who has the pool's lock.
pub(super) fn remove_unfinished_locked(registry: &Registry, name: &str) -> Result<bool> {
    let Some(pool) = registry.unfinished(name)? else { return Ok(false) };
    mounting::unmount_locked(&pool)?;
    image::remove(&pool)?;
    match fs::remove_dir(&pool.mountpoint) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, path = %pool.mountpoint.display(), "the mount point stays");
        }
        _ => {}
    }
    registry.retract(name)?;
    Ok(true)
}

/// Undoes on the way out.
struct Undo<'a> {
    registry: &'a Registry,
    name: &'a str,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if let Err(error) = remove_unfinished_locked(self.registry, self.name) {
            tracing::warn!(%error, "something of pool {} is left: cowsnap doctor --fix", self.name);
        }
    }
}

fn do_step(registry: &Registry, pool: &Pool, size: u64, step: Step) -> Result<()> {
    match step {
        Step::Announce => registry.announce(pool),
        Step::Image => image::create(pool, size),
        Step::Format => image::format(pool),
        Step::Place => image::place(pool),
        Step::Mount => mounting::mount_locked(pool).map(drop),
        Step::Register => registry.commit(&pool.name),
    }
}

fn check_free(registry: &Registry, pool: &Pool) -> Result<()> {
    if registry.get(&pool.name)?.is_some() {
        return Err(Error::Exists {
            what: "pool",
            subject: pool.name.clone(),
            hint: Some("cowsnap pool list".into()),
        });
    }
    if is_zfs_pool(&pool.name) {
        return Err(Error::Exists {
            what: "ZFS pool",
            subject: pool.name.clone(),
            hint: Some("choose another name: POOL/DATASET must mean one thing".into()),
        });
    }
    let dead = registry.unfinished(&pool.name)?.is_some_and(|dead| dead.image == pool.image);
    match fs::symlink_metadata(&pool.image) {
        Ok(_) if !dead => Err(image::taken(&pool.image)),
        _ => Ok(()),
    }
}

/// Whether ZFS has an imported pool of that name.
fn is_zfs_pool(name: &str) -> bool {
    let known = |program: &str| {
        let mut command = Command::new(program);
        command.args(["list", "-H", "-o", "name", "--", name]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    Path::new("/proc/spl/kstat/zfs").join(name).exists() || known("zpool")
}

fn make_folder(pool: &Pool, new: &New) -> Result<()> {
    let folder = pool.image.parent().unwrap_or(Path::new("/"));
    if new.folder.is_some() {
        return Ok(());
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(Error::io("create directory", folder.display()))
}

fn warn_if_short(pool: &Pool, size: u64, observe: &dyn Observe) {
    if let Ok(free) = image::host_free(&pool.image)
        && free < size
    {
        let text = format!(
            "pool {} may grow to {}, but the disk below it has {} free: it fills before the pool does",
            pool.name,
            human(size),
            human(free)
        );
        observe.observe(Event::Warning { text });
    }
}

fn no_folder(folder: &Path, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::NotFound => Error::NotFound {
            what: "directory",
            subject: folder.display().to_string(),
            hint: Some(format!("mkdir -p {}", quoted(folder.display()))),
        },
        _ => Error::io("find directory", folder.display())(source),
    }
}

/// A random uuid (version 4), from the kernel.
fn new_guid() -> Result<Guid> {
    let path = "/proc/sys/kernel/random/uuid";
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    text.trim().parse().map_err(|_| Error::Corrupt { what: "uuid", why: text, source: None })
}
