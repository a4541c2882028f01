//! The mounts of a dataset that was set aside show the one that is in its place.

use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::process::geteuid;

use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::mounted;
use crate::endpoint::{Error, Result, RolledBack};
use crate::model::{SnapshotName, Version, quoted};
use crate::sys::mount::{self, Detached, MountInfo};

/// Says why not if the mounts of `dataset` could not be exchanged, or its history up to `to` not be handed over.
///
/// # Errors
/// [`Error::Refused`] if something that is not its own is mounted inside it, or a snapshot that would be handed over is
/// mounted; [`Error::Denied`] for whoever may not mount.
pub(super) fn check(dataset: &Dataset, to: &Version) -> Result<()> {
    let name = dataset.name().as_str();
    let mine = mounted::mounts_of(name)?;
    let all = mount::mounts().map_err(Error::io("read", "the table of mounts"))?;
    let foreign = all.iter().find(|info| is_inside(info, &mine) && !belongs(info, name));
    if let Some(foreign) = foreign {
        let why = format!("{} is mounted inside it", foreign.dir.display());
        return Err(dataset.refused(
            "roll back",
            why,
            Some(format!("umount {}", quoted(foreign.dir.display()))),
        ));
    }
    if !mine.is_empty() && !geteuid().is_root() {
        return Err(Error::Denied {
            op: "roll back",
            subject: dataset.to_string(),
            lacking: "it is mounted, and only root can mount what takes its place".into(),
            hint: Some("run it as root".into()),
        });
    }
    free_snapshots(dataset, to, &mine)
}

/// ZFS hands over no snapshot that is mounted. Those that the kernel mounted in `.zfs`, for somebody who looked, go.
fn free_snapshots(dataset: &Dataset, to: &Version, mine: &[MountInfo]) -> Result<()> {
    for info in mounted::mounts()? {
        let source = info.source.to_string_lossy().into_owned();
        let Some((of, name)) = source.split_once('@') else { continue };
        let is_older =
            |name: SnapshotName| dataset.version(&name).is_ok_and(|version| version.order <= to.order);
        if of != dataset.name().as_str() || !name.parse().is_ok_and(is_older) {
            continue;
        }
        let in_dot_zfs = mine.iter().any(|outer| info.dir.starts_with(outer.dir.join(".zfs/snapshot")));
        if in_dot_zfs && mount::unmount(&info.dir).is_ok() {
            continue;
        }
        let why = format!("its snapshot {name} is mounted at {}", info.dir.display());
        let hint = format!("cowsnap unmount {}", quoted(info.dir.display()));
        return Err(dataset.refused("roll back", why, Some(hint)));
    }
    Ok(())
}

fn is_inside(info: &MountInfo, mounts: &[MountInfo]) -> bool {
    mounts.iter().any(|outer| info.dir != outer.dir && info.dir.starts_with(&outer.dir))
}

/// Whether it is the dataset, one inside it, or a snapshot that the kernel shows in `.zfs`.
fn belongs(info: &MountInfo, name: &str) -> bool {
    let source = info.source.to_string_lossy();
    let rest = source.strip_prefix(name);
    info.kind == "zfs" && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '@']))
}

/// Puts mounts of `name` where `aside` is mounted, with those of the datasets inside it that were mounted inside.
pub(super) fn exchange(aside: &str, name: &str, done: &mut RolledBack) -> Result<()> {
    let mut old = mounted::mounts_of(aside)?;
    // Mounts of a part need one of the whole to be made from.
    old.sort_by_key(|info| info.root.components().count());
    for info in old {
        match exchange_one(name, &info, done) {
            Ok(()) => done.remounted.push(info.dir),
            Err(error) => done.warnings.push(format!(
                "{} still shows what was replaced ({error}): umount it, and zfs mount {}",
                info.dir.display(),
                quoted(name)
            )),
        }
    }
    Ok(())
}

fn exchange_one(name: &str, old: &MountInfo, done: &mut RolledBack) -> std::io::Result<()> {
    let inside: Vec<_> = mount::mounts()?
        .into_iter()
        .filter(|info| is_inside(info, std::slice::from_ref(old)) && belongs(info, name))
        .filter(|info| !info.source.to_string_lossy().contains('@'))
        .collect();
    let copies = inside.iter().map(copy_of).collect::<std::io::Result<Vec<_>>>()?;
    match new_mount(name, old) {
        Ok(new) => mount::exchange(&new, &old.dir)?,
        // For an instant nothing is mounted.
        Err(error) if old.root != Path::new("/") => return Err(error),
        Err(_) => {
            mount::unmount_lazily(&old.dir)?;
            mount::mount_at("zfs", name, &old.dir, old.restrictions())?;
        }
    }
    for (info, copy) in inside.iter().zip(&copies) {
        let put = std::fs::create_dir_all(&info.dir).and_then(|()| mount::attach(copy, &info.dir));
        if let Err(error) = put {
            let source = info.source.display();
            done.warnings
                .push(format!("{source} is not mounted at {} any more: {error}", info.dir.display()));
        }
    }
    Ok(())
}

fn copy_of(info: &MountInfo) -> std::io::Result<Detached> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(&info.dir, flags, Mode::empty())?;
    mount::bind(std::os::fd::AsFd::as_fd(&dir))
}

/// A mount of `name` that shows the same part as `old` does, and forbids what it does.
fn new_mount(name: &str, old: &MountInfo) -> std::io::Result<Detached> {
    let Some(below) = old.root.strip_prefix("/").ok().filter(|below| !below.as_os_str().is_empty()) else {
        return mount::detached_as("zfs", Path::new(name), &[], old.restrictions());
    };
    let seen = mounted::seen_at(name).map_err(std::io::Error::other)?;
    let seen = seen.ok_or_else(|| std::io::Error::other("the whole of it is mounted nowhere"))?;
    let part = MountInfo { dir: seen.join(below), ..old.clone() };
    let new = copy_of(&part)?;
    mount::restrict(&new, old.restrictions())?;
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(dir: &str, source: &str, kind: &str) -> MountInfo {
        MountInfo {
            id: 1,
            parent: 0,
            groups: Vec::new(),
            device: "0:47".into(),
            root: "/".into(),
            dir: dir.into(),
            options: Vec::new(),
            kind: kind.into(),
            source: source.into(),
        }
    }

    #[test]
    fn what_is_mounted_inside_belongs_to_the_dataset_or_is_in_the_way() {
        let outer = [info("/tank/a b", "tank/a b", "zfs")];
        for (dir, source, kind, inside, own) in [
            ("/tank/a b/c", "tank/a b/c", "zfs", true, true),
            ("/tank/a b/.zfs/snapshot/s 1", "tank/a b@s 1", "zfs", true, true),
            ("/tank/a b/x", "tank/a bc", "zfs", true, false),
            ("/tank/a b/x", "tmpfs", "tmpfs", true, false),
            ("/tank/a b/x", "tank/a b/x", "ext4", true, false),
            ("/tank/a bc", "tank/a bc", "zfs", false, false),
            ("/tank/a b", "tank/a b", "zfs", false, true),
        ] {
            let info = info(dir, source, kind);
            assert_eq!(
                (is_inside(&info, &outer), belongs(&info, "tank/a b")),
                (inside, own),
                "{dir} {source}"
            );
        }
    }
}
