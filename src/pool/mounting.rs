//! Mounting pools and unmounting them.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use sys_mount::{Mount, MountFlags};

use super::record::{Pool, fsid_at};
use super::registry::Registry;
use super::{device, image, mounts, swap};
use crate::endpoint::{Error, Result};
use crate::model::quoted;

/// What a new pool is mounted with. `discard=async` gives freed blocks back to the host's filesystem. Not
/// `user_subvol_rm_allowed`: only root destroys.
pub const OPTIONS: &str = "noatime,discard=async";

/// How long a loop device may take to detach itself after its last mount is gone.
const DETACH: Duration = Duration::from_secs(5);

/// Mounts the pool of that name and the directories adopted into it; `false` if all of them were mounted already.
///
/// # Errors
/// [`Error::NotFound`] without such a pool or its image; [`Error::Refused`] if the image holds something else, or
/// something else is mounted there; [`Error::Denied`] without the rights or a loop device.
pub fn mount(registry: &Registry, name: &str) -> Result<bool> {
    let pool = registry.expect(name)?;
    let adopted = registry.adopted_into(name)?;
    if pool.is_mounted() && adopted.iter().all(|adoption| swap::needs_no_mount(&pool, adoption)) {
        return Ok(false);
    }
    device::check_rights("mount pool", name)?;
    let _lock = registry.lock(name)?;
    let mut changed = mount_locked(&pool)?;
    for adoption in adopted.iter().filter(|adoption| !swap::needs_no_mount(&pool, adoption)) {
        changed |= swap::mount_again(registry, &pool, &adoption.dir)?;
    }
    Ok(changed)
}

/// [`mount`] for who has the pool's lock.
pub(super) fn mount_locked(pool: &Pool) -> Result<bool> {
    if pool.is_mounted() {
        return Ok(false);
    }
    check_place(pool)?;
    check_image(pool)?;
    let device = device::attach(&pool.image)?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&pool.mountpoint)
        .map_err(Error::io("create directory", pool.mountpoint.display()))?;
    let (flags, data) = options(&pool.options)?;
    Mount::builder()
        .fstype("btrfs")
        .flags(flags)
        .data(&data)
        .mount(&device.path, &pool.mountpoint)
        .map_err(|error| mount_error(pool, error))?;
    match fsid_at(&pool.mountpoint) {
        Ok(Some(fsid)) if fsid == pool.fsid => Ok(true),
        _ => {
            let _ = rustix::mount::unmount(&pool.mountpoint, UnmountFlags::DETACH);
            Err(refused(pool, "mount pool", "another filesystem came up".into(), None))
        }
    }
}

/// Unmounts the directories adopted into the pool of that name, then the pool, and detaches its image; `false` if it was
/// not mounted.
///
/// # Errors
/// [`Error::NotFound`] without such a pool; [`Error::Refused`] while it is in use, naming who uses it.
pub fn unmount(registry: &Registry, name: &str) -> Result<bool> {
    let pool = registry.expect(name)?;
    let _lock = registry.lock(name)?;
    unmount_with_adopted(registry, &pool)
}

/// [`unmount`] for who has the pool's lock.
pub(super) fn unmount_with_adopted(registry: &Registry, pool: &Pool) -> Result<bool> {
    unmount_adopted(registry, pool)?;
    unmount_locked(pool).inspect_err(|_| {
        // All or nothing: a service whose directory was adopted may go on.
        for adoption in registry.adopted_into(&pool.name).unwrap_or_default() {
            let _ = swap::mount_again(registry, pool, &adoption.dir);
        }
    })
}

/// Whether nobody has the pool's filesystem any more: not through another state directory, nor by a mount of their own.
///
/// # Errors
/// [`Error::Refused`] naming who has.
pub(super) fn check_gone(pool: &Pool) -> Result<()> {
    match shown_at(pool)?.as_slice() {
        [] => wait_detached(pool),
        elsewhere => Err(busy(pool, "destroy pool", elsewhere)),
    }
}

/// Unmounts the directories adopted into the pool.
fn unmount_adopted(registry: &Registry, pool: &Pool) -> Result<()> {
    for adoption in registry.adopted_into(&pool.name)? {
        swap::unmount(pool, &adoption)?;
    }
    Ok(())
}

/// Unmounts the pool alone, for who has its lock.
pub(super) fn unmount_locked(pool: &Pool) -> Result<bool> {
    if !pool.is_mounted() {
        return Ok(false);
    }
    check_unused(pool, "unmount pool")?;
    rustix::mount::unmount(&pool.mountpoint, UnmountFlags::empty()).map_err(|errno| match errno {
        Errno::BUSY => busy(pool, "unmount pool", &[]),
        Errno::PERM => no_right(pool),
        _ => Error::io("unmount", pool.mountpoint.display())(errno),
    })?;
    wait_detached(pool)?;
    Ok(true)
}

/// Says who uses the pool beside its own mount: other mounts, processes.
pub(super) fn check_unused(pool: &Pool, op: &'static str) -> Result<()> {
    let elsewhere: Vec<_> = shown_at(pool)?.into_iter().filter(|at| *at != pool.mountpoint).collect();
    let users = mounts::users(&[std::slice::from_ref(&pool.mountpoint), elsewhere.as_slice()].concat());
    if elsewhere.is_empty() && users.is_empty() { Ok(()) } else { Err(busy(pool, op, &elsewhere)) }
}

/// Where the pool's filesystem, or a part of it, is mounted.
pub(crate) fn shown_at(pool: &Pool) -> Result<Vec<PathBuf>> {
    let shows = |at: &Path| fsid_at(at).is_ok_and(|fsid| fsid == Some(pool.fsid));
    let btrfs = mounts::all()?.into_iter().filter(|mounted| mounted.kind == "btrfs");
    Ok(btrfs.map(|mounted| mounted.dir).filter(|at| shows(at)).collect())
}

fn wait_detached(pool: &Pool) -> Result<()> {
    let since = Instant::now();
    while let Some(device) = device::find(&pool.image)? {
        let path = device.path.clone();
        drop(device);
        if since.elapsed() > DETACH {
            return Err(refused(
                pool,
                "detach pool",
                format!("{} still shows its image: it is mounted in another mount namespace", path.display()),
                Some(format!("grep -l {} /proc/[0-9]*/mounts", quoted(format!("{} ", path.display())))),
            ));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn check_place(pool: &Pool) -> Result<()> {
    match mounts::all()?.into_iter().rfind(|mounted| mounted.dir == pool.mountpoint) {
        None => Ok(()),
        Some(other) => Err(refused(
            pool,
            "mount pool",
            format!(
                "{} ({}) is mounted at {}",
                other.source.display(),
                other.kind,
                pool.mountpoint.display()
            ),
            Some(format!("umount {}", quoted(pool.mountpoint.display()))),
        )),
    }
}

fn check_image(pool: &Pool) -> Result<()> {
    match image::is_ours(pool)? {
        Some(true) => Ok(()),
        Some(false) => Err(refused(
            pool,
            "mount pool",
            format!("{} does not hold the filesystem {}", pool.image.display(), pool.fsid),
            Some("put the pool's own image back there".into()),
        )),
        None => Err(Error::NotFound {
            what: "image",
            subject: pool.image.display().to_string(),
            hint: Some(format!(
                "mount the disk that holds it, or: cowsnap pool destroy {} --yes",
                quoted(&pool.name)
            )),
        }),
    }
}

/// Splits what `mount -o` takes into flags and the filesystem's own options.
fn options(text: &str) -> Result<(MountFlags, String)> {
    let mut flags = MountFlags::empty();
    let mut data = String::from("subvolid=5");
    for option in text.split(',').filter(|option| !option.is_empty()) {
        match option {
            "noatime" => flags |= MountFlags::NOATIME,
            "nodiratime" => flags |= MountFlags::NODIRATIME,
            "relatime" => flags |= MountFlags::RELATIME,
            "nodev" => flags |= MountFlags::NODEV,
            "noexec" => flags |= MountFlags::NOEXEC,
            "nosuid" => flags |= MountFlags::NOSUID,
            "ro" => flags |= MountFlags::RDONLY,
            other => data = format!("{data},{other}"),
        }
    }
    if data.contains('\0') {
        let why = format!("the mount options {text:?} hold a NUL");
        return Err(Error::Corrupt { what: "pool record", why, source: None });
    }
    Ok((flags, data))
}

fn mount_error(pool: &Pool, error: io::Error) -> Error {
    match Errno::from_io_error(&error) {
        Some(Errno::NODEV) => Error::Denied {
            op: "mount pool",
            subject: pool.name.clone(),
            lacking: "the kernel has no btrfs".into(),
            hint: Some("modprobe btrfs".into()),
        },
        Some(Errno::PERM | Errno::ACCESS) => no_right(pool),
        Some(Errno::EXIST) => refused(
            pool,
            "mount pool",
            format!("a filesystem with the same uuid {} is in use: a copy of the image?", pool.fsid),
            Some("unmount the copy first".into()),
        ),
        _ => Error::Io { op: "mount pool", subject: pool.name.clone(), source: error },
    }
}

fn no_right(pool: &Pool) -> Error {
    Error::Denied {
        op: "mount or unmount pool",
        subject: pool.name.clone(),
        lacking: "the process may not mount".into(),
        hint: Some("run it as root; in a container grant --cap-add SYS_ADMIN (and an AppArmor profile that lets mount)".into()),
    }
}

fn busy(pool: &Pool, op: &'static str, elsewhere: &[PathBuf]) -> Error {
    let folders = [std::slice::from_ref(&pool.mountpoint), elsewhere].concat();
    let users = mounts::users(&folders);
    let mut why = vec!["it is in use".to_owned()];
    if !users.is_empty() {
        why.push(format!("by {}", mounts::list_users(&users)));
    }
    if !elsewhere.is_empty() {
        let places: Vec<_> = elsewhere.iter().map(|at| at.display().to_string()).collect();
        why.push(format!("mounted at {}", places.join(", ")));
    }
    let hint = match elsewhere.first() {
        Some(at) => format!("umount {}", quoted(at.display())),
        None => "stop what uses it and try again".into(),
    };
    refused(pool, op, why.join(", "), Some(hint))
}

fn refused(pool: &Pool, op: &'static str, why: String, hint: Option<String>) -> Error {
    Error::Refused { op, subject: pool.name.clone(), why, hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_split_into_flags_and_data() {
        let (flags, data) = options("noatime,discard=async,ro,,compress=zstd").expect("options");
        assert_eq!(flags, MountFlags::NOATIME | MountFlags::RDONLY);
        assert_eq!(data, "subvolid=5,discard=async,compress=zstd");
    }
}
