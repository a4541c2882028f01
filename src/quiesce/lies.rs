//! On what a filesystem lies, and what lies on it: who freezes it is not to wait for it.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::sys::mount::MountInfo;
use crate::sys::{loopdev, mount};

/// How many disks may lie on one another.
const MAX_DEPTH: usize = 8;
/// Of these nothing is on a disk.
const IN_MEMORY: [&str; 8] = ["tmpfs", "ramfs", "devtmpfs", "proc", "sysfs", "devpts", "cgroup2", "mqueue"];

/// The number of the device of the filesystem that is mounted at `place`, if its images lie in `roots`, and nothing that is needed while it is frozen lies on it: another of the roots,
/// `state_dir`, what this process prints. What can not be found out is refused.
///
/// # Errors
/// Why it is not to be frozen.
pub fn check(place: &Path, roots: &[PathBuf], state_dir: &Path) -> Result<u64, String> {
    let told = |error: io::Error| format!("{}: {error}", place.display());
    let device = place.metadata().map_err(told)?.dev();
    let real = place.canonicalize().map_err(told)?;
    let mounts = mount::mounts().map_err(told)?;
    if !mounts.iter().any(|mount| mount.dir == real) {
        return Err("nothing is mounted there".into());
    }
    let images = images(device, 0).unwrap_or_default();
    let (holding, others): (Vec<_>, Vec<_>) =
        roots.iter().partition(|root| images.iter().any(|image| image.lies_in(root)));
    if images.is_empty() || !images.iter().all(|image| holding.iter().any(|root| image.lies_in(root))) {
        return Err("it lies in no dataset of the job: only what is on a disk's image there is frozen".into());
    }
    // What it lies on itself does not lie on it, even where nobody can say more.
    let mut below = Lies::default();
    holding.iter().for_each(|root| below.add(root, &mounts, 0));
    let needed = others.iter().map(|root| (root.as_path(), "of which a snapshot is to be taken meanwhile"));
    for (path, what) in needed.chain([(state_dir, "to which has to be written meanwhile")]) {
        let mut lies = Lies::default();
        lies.add(path, &mounts, 0);
        if lies.on.contains(&device) {
            return Err(format!("{} lies in it, {what}", path.display()));
        }
        if let Some(unknown) = lies.unknown.iter().find(|unknown| !below.unknown.contains(unknown)) {
            return Err(format!("nobody can say whether {} lies in it: it is on {unknown}", path.display()));
        }
    }
    for (fd, name) in [(1, "output"), (2, "error output")] {
        let path = PathBuf::from(format!("/proc/self/fd/{fd}"));
        let mut lies = Lies::default();
        if path.metadata().is_ok_and(|meta| meta.is_file()) {
            lies.add(&path, &mounts, 0);
        }
        if lies.on.contains(&device) {
            return Err(format!("this run's {name} goes there, and would have it wait for itself"));
        }
    }
    Ok(device)
}

/// What something lies on, however deep.
#[derive(Debug, Default)]
struct Lies {
    on: Vec<u64>,
    unknown: Vec<String>,
}

impl Lies {
    fn add(&mut self, path: &Path, mounts: &[MountInfo], depth: usize) {
        let Ok(meta) = path.metadata() else { return self.unknown.push(path.display().to_string()) };
        let device = meta.dev();
        if rustix::fs::major(device) != 0 {
            return self.add_block(device, mounts, depth);
        }
        self.on.push(device);
        let mount = path.canonicalize().ok().and_then(|path| {
            let above = mounts.iter().filter(|mount| path.starts_with(&mount.dir));
            above.max_by_key(|mount| mount.dir.components().count())
        });
        let Some(mount) = mount else { return self.unknown.push(path.display().to_string()) };
        let source = mount.source.display().to_string();
        match mount.kind.as_str() {
            kind if IN_MEMORY.contains(&kind) => {}
            "btrfs" => match members(&mount.source) {
                Some(all) => all.into_iter().for_each(|member| self.add_block(member, mounts, depth + 1)),
                None => self.unknown.push(format!("btrfs {source}")),
            },
            "zfs" => self.unknown.push(format!("zfs {}", source.split('/').next().unwrap_or_default())),
            kind => self.unknown.push(format!("{kind} {}", rustix::fs::minor(device))),
        }
    }

    fn add_block(&mut self, device: u64, mounts: &[MountInfo], depth: usize) {
        self.on.push(device);
        let number = number(device);
        let Some(images) = images(device, 0).filter(|_| depth < MAX_DEPTH) else {
            return self.unknown.push(format!("block device {number}"));
        };
        for image in images {
            match image.found() {
                Some(path) => self.add(path, mounts, depth + 1),
                None if rustix::fs::major(image.device) != 0 => {
                    self.add_block(image.device, mounts, depth + 1)
                }
                None => self.unknown.push(format!("block device {number}")),
            }
        }
    }
}

/// A file that a block device shows.
#[derive(Debug)]
struct Image {
    device: u64,
    inode: u64,
    path: PathBuf,
}

impl Image {
    /// Where it is, if it is there still, and this process sees it.
    fn found(&self) -> Option<&Path> {
        let meta = self.path.metadata().ok()?;
        ((meta.dev(), meta.ino()) == (self.device, self.inode)).then_some(self.path.as_path())
    }

    fn lies_in(&self, root: &Path) -> bool {
        /// Of the top of a subvolume.
        const TOP: u64 = 256;
        let Ok(meta) = root.metadata() else { return false };
        if meta.dev() != self.device {
            return false;
        }
        // A subvolume of btrfs and a filesystem of ZFS have a number of their own; a folder is a part of what has one.
        let is_mounted = || root.join("..").metadata().is_ok_and(|above| above.dev() != meta.dev());
        let is_all = rustix::fs::major(meta.dev()) == 0 && (meta.ino() == TOP || is_mounted());
        let is_below = |path: &Path| {
            let both = path.canonicalize().ok().zip(root.canonicalize().ok());
            both.is_some_and(|(path, root)| path.starts_with(root))
        };
        is_all || self.found().is_some_and(is_below)
    }
}

fn number(device: u64) -> String {
    format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device))
}

fn number_in(dir: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(dir.join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// The block devices of a btrfs one of which is `source`.
fn members(source: &Path) -> Option<Vec<u64>> {
    let meta = source.metadata().ok()?;
    let of = |filesystem: &Path| {
        let devices = std::fs::read_dir(filesystem.join("devices")).into_iter().flatten().flatten();
        devices.map(|entry| number_in(&entry.path())).collect::<Option<Vec<_>>>()
    };
    let filesystems = std::fs::read_dir("/sys/fs/btrfs").ok()?.flatten();
    let mut all = filesystems.filter_map(|entry| of(&entry.path()));
    all.find(|devices| devices.contains(&meta.rdev()))
}

/// The files that a block device shows: through partitions, and what a device mapper makes. `None`: nobody can say.
fn images(device: u64, depth: usize) -> Option<Vec<Image>> {
    let place = Path::new("/sys/dev/block").join(number(device)).canonicalize().ok()?;
    if depth == MAX_DEPTH {
        return None;
    }
    let name = place.file_name()?.to_str()?;
    if ["nbd", "ublk"].iter().any(|other| name.starts_with(other)) {
        return None; // A process shows what it likes.
    }
    if rustix::fs::major(device) == loopdev::MAJOR {
        let shown = File::open(Path::new("/dev").join(name)).and_then(|file| loopdev::status(file.as_fd()));
        let path = std::fs::read_to_string(place.join("loop/backing_file")).unwrap_or_default();
        let path = PathBuf::from(path.trim_end_matches('\n'));
        return shown.ok()?.map(|shown| vec![Image { device: shown.filesystem(), inode: shown.inode, path }]);
    }
    let whole = place.join("partition").exists().then(|| place.parent().and_then(number_in)).flatten();
    let slaves = std::fs::read_dir(place.join("slaves")).into_iter().flatten().flatten();
    let slaves = slaves.filter_map(|entry| number_in(&entry.path()));
    let mut all = Vec::new();
    for below in whole.into_iter().chain(slaves) {
        all.extend(images(below, depth + 1)?);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_memory_lies_on_no_disk_and_what_nobody_knows_is_unknown() {
        let mounts = mount::mounts().expect("read");
        let mut lies = Lies::default();
        lies.add(Path::new("/proc/self"), &mounts, 0);
        assert!(lies.on.len() == 1 && lies.unknown.is_empty(), "{lies:?}");
        lies.add(Path::new("/none/at/all"), &mounts, 0);
        // The same, of a kind of which nothing is known.
        let other = |mount: &MountInfo| MountInfo { kind: "strange".into(), ..mount.clone() };
        lies.add(Path::new("/proc/self"), &mounts.iter().map(other).collect::<Vec<_>>(), 0);
        assert_eq!(lies.unknown.len(), 2, "{lies:?}");
        assert!(lies.unknown[1].starts_with("strange "), "{lies:?}");
    }
}
