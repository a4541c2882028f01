//! What is so on this machine: the facts from which a mode is chosen.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::endpoint::overlay::Home;
use crate::endpoint::overlay::layer::Layer;
use crate::endpoint::{Error, Result, zfs};
use crate::model::overlay::{Base, BaseKind, Xattrs};
use crate::model::quoted;
use crate::sys::{file, mount, namespace};

/// The magic number of overlayfs.
const OVERLAYFS: i64 = 0x794c_7630;
/// Who files belong to whose owner a user namespace does not have.
const NOBODY: u32 = 65534;
/// How much of a file a reflink is tried with.
const TRIED: u64 = 64 * 1024;
/// Among how many entries the largest file is looked for. A number and not a time: the same tree gives the same answer, whatever else the
/// machine does and whatever of it is in memory.
pub const LOOKED_AT: usize = 100_000;

/// What a tree's files tell of what a first write to one of them costs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Files {
    /// The largest regular file that was found, and its size in bytes.
    pub largest: Option<(PathBuf, u64)>,
    /// False if there are more than [`LOOKED_AT`], or if some of it can not be looked at.
    pub all: bool,
}

/// A tree below an overlay's changes: what is written to is copied from there.
#[derive(Debug)]
pub struct Below {
    /// What people call it.
    label: PathBuf,
    /// The path by which this process reaches it.
    dir: PathBuf,
    /// Keeps that path.
    _opened: Option<OwnedFd>,
}

impl Below {
    /// The tree of a base that is a directory or a snapshot, which need not be mounted anywhere; `None` of any other, or if this
    /// process can not come at it.
    pub fn of_base(base: &Base) -> Option<Self> {
        let label = base.path.as_path().to_owned();
        match base.kind {
            BaseKind::Dir => Some(Self { dir: label.clone(), label, _opened: None }),
            BaseKind::Snapshot => {
                let opened = super::base::open_snapshot(base)
                    .inspect_err(|error| tracing::debug!(%error, "the base's files can not be looked at"))
                    .ok()?;
                let label = snapshot_label(&label, base);
                let dir = format!("/proc/self/fd/{}", opened.as_raw_fd()).into();
                Some(Self { label, dir, _opened: Some(opened) })
            }
            BaseKind::Image | BaseKind::None => None,
        }
    }

    /// The tree of a layer.
    pub fn of_layer(layer: &Layer) -> Self {
        Self { label: layer.label().into(), dir: layer.tree_dir(), _opened: None }
    }

    /// Its largest file, as people call it.
    pub fn largest_file(&self) -> Files {
        let files = largest_file(&self.dir);
        let named = |(path, len): (PathBuf, u64)| {
            let within = path.strip_prefix(&self.dir).map(Path::to_owned).unwrap_or(path);
            (self.label.join(within), len)
        };
        Files { largest: files.largest.map(named), all: files.all }
    }

    /// Whether its files can share blocks with the home's; `None` if there is none to try it with.
    pub fn can_reflink(&self, home: &Home) -> Result<Option<bool>> {
        can_reflink(&self.dir, home)
    }
}

fn snapshot_label(of: &Path, base: &Base) -> PathBuf {
    let name = base.version.as_ref().map(|version| format!("@{}", version.name)).unwrap_or_default();
    let mut label = of.as_os_str().to_owned();
    label.push(name);
    label.into()
}

/// The largest file at or below `dir`, on its filesystem; looked for among the first [`LOOKED_AT`] entries.
pub fn largest_file(dir: &Path) -> Files {
    largest_among(dir, LOOKED_AT)
}

fn largest_among(dir: &Path, most: usize) -> Files {
    let mut left = most;
    let mut files = Files { largest: None, all: true };
    let Ok(device) = fs::metadata(dir).map(|meta| meta.dev()) else { return Files { all: false, ..files } };
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            files.all = false;
            continue;
        };
        for entry in entries.flatten() {
            if left == 0 {
                return Files { all: false, ..files };
            }
            left -= 1;
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() && meta.dev() == device {
                folders.push(entry.path());
            } else if meta.is_file() && files.largest.as_ref().is_none_or(|(_, len)| meta.len() > *len) {
                files.largest = Some((entry.path(), meta.len()));
            }
        }
    }
    files
}

/// Something at or below `dir` that belongs to a user or a group that this process' user namespace does not have; looked for
/// among the first [`LOOKED_AT`] entries. Overlayfs can not copy it when it is written to (EOVERFLOW).
pub fn somebody_elses(dir: &Path) -> Option<PathBuf> {
    if !namespace::has_users_of_its_own() {
        return None;
    }
    let mut left = LOOKED_AT;
    let is_foreign = |meta: &fs::Metadata| [meta.uid(), meta.gid()].contains(&NOBODY);
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten().take(left) {
            left -= 1;
            let Ok(meta) = entry.metadata() else { continue };
            if is_foreign(&meta) {
                return Some(entry.path());
            }
            if meta.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    fs::metadata(dir).is_ok_and(|meta| is_foreign(&meta)).then(|| dir.to_owned())
}

/// Whether files of the base can share blocks with the home's; `None` if that is not known.
pub fn can_reflink_base(base: &Base, home: &Home) -> Result<Option<bool>> {
    Below::of_base(base).map_or(Ok(None), |below| below.can_reflink(home))
}

/// Whether a file of `dir` can share its blocks with one in `home`; `None` if there is no file to try it with, or none that this
/// process may read.
pub fn can_reflink(dir: &Path, home: &Home) -> Result<Option<bool>> {
    let Some(from) = some_file(dir) else { return Ok(None) };
    let len = from.metadata().map_or(0, |meta| meta.len());
    let to = nameless(&home.dir().join("trash")).map_err(Error::io("write in", home.dir().display()))?;
    // A length of zero is all of it.
    let tried = if len > TRIED { TRIED } else { 0 };
    Ok(Some(file::clone_range(from.as_fd(), 0, tried, to.as_fd(), 0).is_ok()))
}

fn nameless(dir: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    Ok(rustix::fs::open(dir, flags, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?.into())
}

/// Some regular file below `dir` that is not empty and can be read, searched for among a few thousand.
fn some_file(dir: &Path) -> Option<File> {
    let mut folders = vec![dir.to_owned()];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_file()
                && meta.len() > 0
                && let Ok(file) = File::open(entry.path())
            {
                return Some(file);
            }
            if meta.is_dir() {
                folders.push(entry.path());
            }
            seen += 1;
            if seen > 5000 {
                return None;
            }
        }
    }
    None
}

/// Which attributes layers in `home` are marked with here: root's, unless this process may not set them.
///
/// # Errors
/// [`Error::Foreign`] for a home whose filesystem can not hold layers: it is overlayfs itself, or has no extended attributes,
/// or does not say what is a directory.
pub fn xattrs(home: &Home) -> Result<Xattrs> {
    let dir = home.dir();
    let unfit = |why: &str| Error::Foreign {
        subject: dir.display().to_string(),
        wanted: "place for layers",
        why: why.into(),
        hint: Some(format!(
            "cowsnap overlay --home DIR …, with a DIR on ext4, XFS, btrfs or tmpfs (of {}: findmnt -T {})",
            dir.display(),
            quoted(dir.display())
        )),
    };
    let kind = rustix::fs::statfs(dir).map_err(Error::io("examine", dir.display()))?.f_type as i64;
    if kind == OVERLAYFS {
        return Err(unfit("its filesystem is overlayfs, and the kernel puts no changes of one onto another"));
    }
    if !tells_types(dir).map_err(Error::io("list", dir.display()))? {
        return Err(unfit(
            "its filesystem does not tell directories from files when it lists them (XFS: ftype=0)",
        ));
    }
    let set = |name: &str| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(dir.join("trash"), name, b"y", flags)
            .and_then(|()| rustix::fs::removexattr(dir.join("trash"), name))
    };
    match set("trusted.overlay.cowsnap") {
        Ok(()) => return Ok(Xattrs::Trusted),
        Err(Errno::PERM | Errno::ACCESS) => {}
        Err(_) => return Err(unfit("its filesystem has no extended attributes")),
    }
    match set("user.overlay.cowsnap") {
        Ok(()) => Ok(Xattrs::User),
        Err(_) => Err(unfit("its filesystem has no extended attributes for ordinary users")),
    }
}

fn tells_types(dir: &Path) -> io::Result<bool> {
    let fd = File::open(dir)?;
    for entry in rustix::fs::Dir::read_from(&fd)? {
        if entry?.file_type() == rustix::fs::FileType::Unknown {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What overlayfs can not do with `home`; `None` if that has all that it needs. ZFS has `RENAME_WHITEOUT` since 2.2: without it, what is
/// below can not be renamed.
///
/// # Errors
/// A home that can not be looked at.
pub fn against_overlayfs(home: &Home) -> Result<Option<String>> {
    let dir = home.dir();
    let is_poor = zfs::is_on_zfs(dir)? && !zfs::release_is_at_least(2, 2);
    Ok(is_poor.then(|| {
        format!(
            "nothing that is in the base can be renamed in it (EINVAL), as the home {} is on ZFS before 2.2; a home on ext4, XFS, btrfs or tmpfs will do",
            dir.display()
        )
    }))
}

/// Whether this process may mount overlayfs where it is; the text says why not.
pub fn may_mount() -> Result<(), String> {
    mount::may_mount("overlay").map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::NODEV) => "the kernel has no overlayfs (modprobe overlay)".into(),
        Some(Errno::PERM | Errno::ACCESS | Errno::NOSYS) => may_not_mount(&error),
        _ => format!("overlayfs can not be mounted: {error}"),
    })
}

/// Why a process may not mount that was answered this (EPERM, EACCES, ENOSYS), with what would help root.
pub(super) fn may_not_mount(error: &io::Error) -> String {
    let is_filtered = namespace::has_filter();
    let is_root = rustix::process::geteuid().is_root();
    match Errno::from_io_error(error) {
        Some(Errno::NOSYS) if is_filtered => {
            "a filter of system calls keeps this process from fsopen (in a container: a newer \
             runtime, or --security-opt seccomp=unconfined)"
                .into()
        }
        Some(Errno::NOSYS) => "the kernel has no fsopen (Linux 5.2 has)".into(),
        _ if is_root && is_filtered => {
            "this process may not mount (in a container: --cap-add SYS_ADMIN, and \
             --security-opt seccomp=unconfined if that is not enough)"
                .into()
        }
        _ if is_root => "this process may not mount (in a container: --cap-add SYS_ADMIN)".into(),
        _ => "this process may not mount".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_file_is_found_and_some_file_is_not_an_empty_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path();
        assert_eq!(largest_file(dir), Files { largest: None, all: true });
        fs::create_dir_all(dir.join("a/b")).expect("made");
        fs::write(dir.join("a/empty"), "").expect("written");
        assert!(some_file(dir).is_none());
        fs::write(dir.join("a/b/large"), vec![0; 5000]).expect("written");
        fs::write(dir.join("small"), "x").expect("written");
        assert_eq!(largest_file(dir).largest, Some((dir.join("a/b/large"), 5000)));
        assert!(some_file(dir).is_some_and(|file| file.metadata().is_ok_and(|meta| meta.len() > 0)));
        assert_eq!(largest_file(&dir.join("none")), Files { largest: None, all: false });
    }

    #[test]
    fn how_many_entries_are_looked_at_is_a_number_and_not_a_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path();
        (0..20).for_each(|n| fs::write(dir.join(n.to_string()), vec![0; n]).expect("written"));
        let largest = Some((dir.join("19"), 19));
        assert_eq!(largest_among(dir, 20), Files { largest: largest.clone(), all: true });
        let few = largest_among(dir, 19);
        assert!(!few.all);
        (0..5).for_each(|_| assert_eq!(largest_among(dir, 19), few));
    }
}
