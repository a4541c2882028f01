//! What is wrong with the pools of a state directory: what `doctor` names, and how `doctor --fix` puts it right.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::UnmountFlags;

use super::create::remove_unfinished;
use super::record::{Pool, fsid_at};
use super::registry::Registry;
use super::size::human;
use super::{change, check_adoptions, image, mounting, mounts};
use crate::endpoint::{Error, Result};
use crate::exec::doctor::{self, Finding};
use crate::model::quoted;
use crate::sys::mount::MountInfo;

/// Examines all pools of the state directory.
///
/// # Errors
/// A state directory that can not be read.
pub fn check(registry: &Registry) -> Result<Vec<Finding<'_>>> {
    let mut found = Vec::new();
    found.extend(no_mkfs(registry));
    for name in registry.unfinished_names()? {
        found.extend(unfinished(registry, name));
    }
    for (name, pool) in registry.pools()? {
        match pool {
            Err(error) => found.push(Finding::problem(error.to_string(), format!("pool {name}"))),
            Ok(pool) => found.extend(registered(registry, &pool)),
        }
    }
    found.extend(check_adoptions::check(registry)?);
    found.extend(stray_mounts(registry)?);
    found.extend(stray_files(registry)?);
    Ok(found)
}

fn no_mkfs(registry: &Registry) -> Option<Finding<'_>> {
    let found = image::mkfs().arg("--version").output().is_ok();
    (!found).then(|| {
        Finding::note("mkfs.btrfs is not installed, so no pool can be made", registry.state().display())
            .fixed_by("apt-get install btrfs-progs")
    })
}

fn unfinished(registry: &Registry, name: String) -> Option<Finding<'_>> {
    // A pool that is being made now is no finding.
    drop(registry.lock(&name).ok()?);
    let pool = match registry.unfinished(&name) {
        Ok(pool) => pool?,
        Err(error) => return Some(Finding::problem(error.to_string(), format!("unfinished pool {name}"))),
    };
    let what = format!("unfinished pool {name}: the process that made or destroyed it died");
    let finding = Finding::problem(what, pool.image.display());
    Some(Finding { since: Some(pool.created), ..finding }.repaired_by(move || {
        remove_unfinished(registry, &name)?;
        Ok(())
    }))
}

fn registered<'a>(registry: &'a Registry, pool: &Pool) -> Vec<Finding<'a>> {
    let name = pool.name.clone();
    let place = pool.image.display().to_string();
    match image::is_ours(pool) {
        Err(error) => return vec![Finding::problem(error.to_string(), place)],
        Ok(None) => {
            let what = format!("the image of pool {name} is gone");
            let fix =
                format!("mount the disk that holds it, or: cowsnap pool destroy {} --yes", quoted(&name));
            return vec![Finding::problem(what, place).fixed_by(fix)];
        }
        Ok(Some(false)) => {
            let what = format!("the file does not hold the filesystem of pool {name}, {}", pool.fsid);
            return vec![Finding::problem(what, place).fixed_by("put the pool's own image back there")];
        }
        Ok(Some(true)) => {}
    }
    let mut found = Vec::new();
    if !pool.is_mounted() {
        let fix = format!("cowsnap pool mount {}", quoted(&name));
        let finding = Finding::problem(format!("pool {name} is not mounted"), pool.mountpoint.display());
        found.push(finding.fixed_by(fix).repaired_by({
            let name = name.clone();
            move || {
                mounting::mount(registry, &name)?;
                Ok(())
            }
        }));
    }
    if pool.is_mounted() {
        let looked = doctor::store(&pool.mountpoint);
        found.extend(looked.unwrap_or_else(|error| vec![Finding::problem(error.to_string(), &place)]));
    }
    found.extend(unfinished_growth(registry, pool));
    found.extend(short_of_space(pool));
    found
}

/// `pool grow` makes the file larger first and the filesystem last.
fn unfinished_growth<'a>(registry: &'a Registry, pool: &Pool) -> Option<Finding<'a>> {
    let length = fs::metadata(&pool.image).ok()?.len();
    let block = image::superblock(&pool.image).ok()??;
    // Read through the page cache: after a growth, the superblock on disk follows with the next commit.
    let total = match pool.is_mounted() {
        true => rustix::fs::statvfs(&pool.mountpoint).map(|s| s.f_blocks * s.f_frsize).ok()?,
        false => block.total,
    };
    if total >= length {
        return None;
    }
    let what = format!("growing pool {} was interrupted: its file has room for {}", pool.name, human(length));
    let name = pool.name.clone();
    let fix = format!("cowsnap pool grow {} {length}", quoted(&name));
    Some(Finding::problem(what, pool.image.display()).fixed_by(fix).repaired_by(move || {
        mounting::mount(registry, &name)?;
        change::grow(registry, &name, length)?;
        Ok(())
    }))
}

fn short_of_space(pool: &Pool) -> Option<Finding<'static>> {
    let room = fs::metadata(&pool.image).ok()?.len().saturating_sub(image::real_bytes(&pool.image)?);
    let free = image::host_free(&pool.image).ok()?;
    (free < room).then(|| {
        let what = format!(
            "pool {} may still grow by {}, but the disk below has {} free",
            pool.name,
            human(room),
            human(free)
        );
        Finding::note(what, pool.image.display())
            .fixed_by("free space there, or destroy old snapshots in time")
    })
}

/// Mounts below `<state>/mnt` that belong to no pool, registered or unfinished.
fn stray_mounts(registry: &Registry) -> Result<Vec<Finding<'_>>> {
    let folder = registry.state().join("mnt");
    let ours = |at: &Path| {
        let name = at.strip_prefix(&folder).ok()?.to_str()?;
        let known = [registry.get(name), registry.unfinished(name)];
        Some(known.into_iter().any(|pool| pool.map_or(true, |pool| pool.is_some())))
    };
    let strays = mounts::below(&folder)?.into_iter().filter(|mount| mount.dir != folder);
    let strays = strays.filter(|mount| ours(&mount.dir) != Some(true));
    Ok(strays.map(|mount| stray_mount(&mount, &folder)).collect())
}

fn stray_mount(mount: &MountInfo, folder: &Path) -> Finding<'static> {
    let at = mount.dir.clone();
    let what = format!("{} ({}) is mounted where only pools are", mount.source.display(), mount.kind);
    let finding = Finding::problem(what, at.display()).fixed_by(format!("umount {}", quoted(at.display())));
    // Directly below `mnt`, btrfs from a loop device: a pool's mount whose record is gone.
    let is_pool = at.parent() == Some(folder) && matches!(fsid_at(&at), Ok(Some(_)));
    match is_pool && mount.source.starts_with("/dev") && mount.source.to_string_lossy().contains("/loop") {
        true => finding.repaired_by(move || {
            let unmounted = rustix::mount::unmount(&at, UnmountFlags::NOFOLLOW);
            Ok(unmounted.map_err(Error::io("unmount", at.display()))?)
        }),
        false => finding,
    }
}

/// Records that were being written when their writer died.
fn stray_files(registry: &Registry) -> Result<Vec<Finding<'_>>> {
    let mut found = Vec::new();
    for folder in ["pools", "adopted"].map(|name| registry.state().join(name)) {
        for path in entries(&folder)? {
            let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
            let Some(pid) = ending.strip_prefix("tmp").and_then(|pid| pid.parse::<u32>().ok()) else {
                continue;
            };
            if Path::new(&format!("/proc/{pid}")).exists() {
                continue;
            }
            let finding = Finding::problem("a record that was being written", path.display());
            found.push(finding.since_change_of(&path).repaired_by(move || {
                Ok(fs::remove_file(&path).map_err(Error::io("remove", path.display()))?)
            }));
        }
    }
    Ok(found)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::io("list", folder.display())(error)),
        Ok(entries) => Ok(entries.flatten().map(|entry| entry.path()).collect()),
    }
}
