//! Growing and destroying pools.

use std::fs::OpenOptions;
use std::os::fd::AsFd;

use super::create::remove_unfinished_locked;
use super::record::Pool;
use super::registry::Registry;
use super::{device, image, mounting};
use crate::endpoint::{Error, Result};
use crate::model::quoted;
use crate::sys;

/// Makes the pool larger; the size that it has then, in bytes. The same size again finishes what was interrupted.
///
/// # Errors
/// [`Error::Refused`] for a smaller size than it has, or while it is not mounted.
pub fn grow(registry: &Registry, name: &str, size: u64) -> Result<u64> {
    let pool = registry.expect(name)?;
    device::check_rights("grow pool", name)?;
    let _lock = registry.lock(name)?;
    let size = check_growth(&pool, size)?;
    let file = OpenOptions::new()
        .write(true)
        .open(&pool.image)
        .map_err(Error::io("open image", pool.image.display()))?;
    file.set_len(size)
        .and_then(|()| file.sync_all())
        .map_err(Error::io("enlarge image", pool.image.display()))?;
    if let Some(device) = device::find(&pool.image)? {
        device.grow()?;
    }
    let top = std::fs::File::open(&pool.mountpoint).map_err(Error::io("open", pool.mountpoint.display()))?;
    sys::btrfs::resize(top.as_fd(), "max").map_err(Error::io("grow the filesystem of pool", name))?;
    Ok(size)
}

/// The size that [`grow`] would give the pool: `size`, rounded down to what an image can have.
///
/// # Errors
/// As [`grow`].
pub fn check_growth(pool: &Pool, size: u64) -> Result<u64> {
    pool.ready()?;
    let size = image::usable_size(&pool.name, size)?;
    let now = std::fs::metadata(&pool.image).map_err(Error::io("read image", pool.image.display()))?.len();
    if size >= now {
        return Ok(size);
    }
    Err(Error::Refused {
        op: "grow pool",
        subject: pool.name.clone(),
        why: format!("it has {now} bytes, and pools do not shrink"),
        hint: Some(format!("cowsnap pool grow {} {}", quoted(&pool.name), now.saturating_mul(2))),
    })
}

/// Unmounts the pool and removes its image with all that is in it.
///
/// # Errors
/// [`Error::Refused`] while it is in use, naming who uses it, if the file at its image is not its own, or if the old copy of
/// a directory adopted into it can still be put back.
pub fn destroy(registry: &Registry, name: &str) -> Result<()> {
    let _lock = registry.lock(name)?;
    let pool = registry.expect(name)?;
    if image::is_ours(&pool)? == Some(false) {
        return Err(Error::Refused {
            op: "destroy pool",
            subject: name.into(),
            why: format!("{} does not hold its filesystem {}", pool.image.display(), pool.fsid),
            hint: Some("move that file away first".into()),
        });
    }
    super::status::loss(registry, &pool)?;
    mounting::unmount_with_adopted(registry, &pool)?;
    mounting::check_gone(&pool)?;
    super::swap::forget_all(registry, &pool)?;
    registry.uncommit(name)?;
    remove_unfinished_locked(registry, name).map(drop)
}
