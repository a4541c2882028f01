//! How a pool is doing.

use std::path::PathBuf;

use serde::Serialize;

use super::adoption::Phase;
use super::record::Pool;
use super::registry::Registry;
use super::size::human;
use super::{device, image};
use crate::endpoint::btrfs::store::Store;
use crate::endpoint::{Error, Result};
use crate::model::{Guid, quoted};

/// What `pool list` shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The pool.
    pub name: String,
    /// How large its filesystem is, in bytes; `None` if the image is gone.
    pub size: Option<u64>,
    /// How much of that is used, in bytes; while it is not mounted, as of the last commit.
    pub used: Option<u64>,
    /// How much can still be written, in bytes; only while it is mounted.
    pub free: Option<u64>,
    /// How many bytes of the host's disk the image takes.
    pub image_bytes: Option<u64>,
    /// How many bytes the host's disk has left for the image to grow into.
    pub host_free: Option<u64>,
    /// How many datasets are in it; only while it is mounted, and for who may look.
    pub datasets: Option<usize>,
    /// Whether it is mounted.
    pub mounted: bool,
    /// Where it is, or would be, mounted.
    pub mountpoint: String,
    /// The file that holds it.
    pub image: String,
    /// The loop device that shows it.
    pub device: Option<String>,
    /// Whether that device bypasses the host's page cache.
    pub direct_io: Option<bool>,
    /// The uuid of its filesystem.
    pub fsid: Guid,
    /// When it was made.
    pub created: jiff::Timestamp,
}

/// Reads how the pool is doing. What can not be found out is `None`.
pub fn status(pool: &Pool) -> Status {
    let mounted = pool.is_mounted();
    let space = mounted.then(|| rustix::fs::statvfs(&pool.mountpoint).ok()).flatten();
    let block = image::superblock(&pool.image).ok().flatten();
    let device = device::find(&pool.image).ok().flatten();
    let text = |path: &PathBuf| path.display().to_string();
    Status {
        name: pool.name.clone(),
        size: space.as_ref().map(|s| s.f_blocks * s.f_frsize).or(block.map(|b| b.total)),
        used: space.as_ref().map(|s| (s.f_blocks - s.f_bfree) * s.f_frsize).or(block.map(|b| b.used)),
        free: space.as_ref().map(|s| s.f_bavail * s.f_frsize),
        image_bytes: image::real_bytes(&pool.image),
        host_free: image::host_free(&pool.image).ok(),
        datasets: mounted.then(|| datasets(pool).ok()).flatten().map(|all| all.len()),
        mounted,
        mountpoint: text(&pool.mountpoint),
        image: text(&pool.image),
        direct_io: device.as_ref().map(|d| d.direct_io),
        device: device.map(|d| text(&d.path)),
        fsid: pool.fsid,
        created: pool.created,
    }
}

/// What would go with a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// The file that holds it.
    pub image: String,
    /// How many bytes it takes now; `None` if it is gone already.
    pub image_bytes: Option<u64>,
    /// Its datasets; `None` while it is not mounted.
    pub datasets: Option<Vec<String>>,
    /// Directories whose only copy is in it.
    pub adopted: Vec<String>,
}

/// What would go with the pool if it were destroyed now.
///
/// # Errors
/// A pool that is mounted and can not be read; [`Error::Refused`] if the old copy of an adopted directory can still be put
/// back.
pub fn loss(registry: &Registry, pool: &Pool) -> Result<Loss> {
    let adopted = registry.adopted_into(&pool.name)?;
    if let Some(adoption) = adopted.iter().find(|adoption| adoption.phase != Phase::Discarded) {
        return Err(Error::Refused {
            op: "destroy pool",
            subject: pool.name.clone(),
            why: format!("{} was adopted into it and has its old copy still", adoption.dir.display()),
            hint: Some(format!("cowsnap adopt --undo {}", quoted(adoption.dir.display()))),
        });
    }
    let datasets = if pool.is_mounted() { Some(datasets(pool)?) } else { None };
    Ok(Loss {
        image: pool.image.display().to_string(),
        image_bytes: image::real_bytes(&pool.image),
        datasets,
        adopted: adopted.iter().map(|adoption| adoption.dir.display().to_string()).collect(),
    })
}

impl Loss {
    /// In one line.
    pub fn summary(&self) -> String {
        let size = self.image_bytes.map_or_else(|| "which is gone".into(), human);
        let datasets = match &self.datasets {
            Some(names) if names.len() == 1 => "1 dataset with its snapshots".into(),
            Some(names) => format!("{} datasets with their snapshots", names.len()),
            None => "all that is in it (it is not mounted)".into(),
        };
        format!("{datasets}, {} ({size})", self.image)
    }

    /// One line for each dataset.
    pub fn details(&self) -> String {
        let datasets = self.datasets.iter().flatten().map(|name| format!("  {name}\n"));
        let adopted = self.adopted.iter().map(|dir| format!("  {dir}, whose only copy is in it\n"));
        datasets.chain(adopted).collect()
    }
}

/// The names of the pool's datasets.
fn datasets(pool: &Pool) -> Result<Vec<String>> {
    let store = Store::open_as_it_is(&pool.mountpoint)?;
    let all = store.datasets()?.into_iter().filter(|dataset| !dataset.path().as_os_str().is_empty());
    Ok(all.map(|dataset| format!("{}/{}", pool.name, dataset.path().display())).collect())
}
