//! From a directory to the ZFS filesystem that is mounted there.

use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::{Error, Result};
use crate::model::{DatasetName, quoted};
use crate::sys::mount::{self, MountInfo};

/// `ZFS_SUPER_MAGIC`
const MAGIC: i64 = 0x2fc1_2fc1;

/// Whether `path`, or what is nearest above it and there, is on ZFS.
///
/// # Errors
/// A path that can not be looked at.
pub fn is_on_zfs(path: &Path) -> Result<bool> {
    for path in path.ancestors() {
        match rustix::fs::statfs(path) {
            #[expect(clippy::unnecessary_cast, reason = "the width of the field differs between machines")]
            Ok(found) => return Ok(found.f_type as i64 == MAGIC),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(error) => return Err(Error::io("examine", path.display())(error)),
        }
    }
    Ok(false)
}

/// Whether the directory `path`, which is on ZFS, is where a filesystem or a snapshot is mounted.
///
/// # Errors
/// A path that can not be looked at.
pub fn is_root(path: &Path) -> Result<bool> {
    let shown = || path.display();
    let opened = rustix::fs::open(path.join("."), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(Error::io("open", shown()))?;
    let id = mount::mount_id(opened.as_fd()).map_err(Error::io("examine", shown()))?;
    let mounts = mount::mounts().map_err(Error::io("read", "the table of mounts"))?;
    let real = path.canonicalize().map_err(Error::io("examine", shown()))?;
    let is_root = |info: &MountInfo| info.root == Path::new("/") && info.dir == real;
    // In a snapshot nothing is made, and nothing kept beside it.
    let is_snapshot = |info: &MountInfo| info.source.to_string_lossy().contains('@');
    Ok(mounts.iter().find(|info| info.id == id).is_none_or(|info| is_snapshot(info) || is_root(info)))
}

/// The name of the filesystem whose root is `path`.
///
/// # Errors
/// As [`Dataset::at`](super::Dataset::at).
pub(super) fn name_of_root(path: &Path) -> Result<DatasetName> {
    let shown = || path.display();
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    // With a dot behind it, a directory on which something is mounted when it is walked through is walked through.
    let opened = rustix::fs::open(path.join("."), flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT | Errno::NOTDIR => {
            Error::NotFound { what: "directory", subject: shown().to_string(), hint: None }
        }
        errno => Error::io("open", shown())(errno),
    })?;
    if !is_on_zfs(path)? {
        return Err(foreign(path, "it is on another filesystem".into(), None));
    }
    let id = mount::mount_id(opened.as_fd()).map_err(Error::io("examine", shown()))?;
    let mounts = mount::mounts().map_err(Error::io("read", "the table of mounts"))?;
    let Some(info) = mounts.iter().find(|info| info.id == id) else {
        return Err(foreign(path, "its mount is in another namespace".into(), None));
    };
    let real = path.canonicalize().map_err(Error::io("examine", shown()))?;
    name_of_mount(path, &real, info)
}

impl Dataset {
    /// Whether the filesystem is mounted at `path` itself, or would be by its name in the one that it is in.
    ///
    /// # Errors
    /// A table of mounts that can not be read.
    pub fn is_directly_at(&self, path: &Path) -> Result<bool> {
        let mounts = mount::mounts().map_err(Error::io("read", "the table of mounts"))?;
        Ok(is_directly_at(&mounts, self.name().as_str(), path))
    }
}

fn is_directly_at(mounts: &[MountInfo], name: &str, path: &Path) -> bool {
    let is_mounted = |name: &str, dir: &Path| {
        let is_it = |info: &&MountInfo| info.kind == "zfs" && info.root == Path::new("/") && info.dir == dir;
        // What was mounted over it last is what is seen there.
        mounts.iter().rfind(is_it).is_some_and(|info| info.source == Path::new(name))
    };
    let in_it = || {
        let ((parent, last), dir) = (name.rsplit_once('/')?, path.parent()?);
        Some(path.file_name()? == last && is_mounted(parent, dir))
    };
    is_mounted(name, path) || in_it() == Some(true)
}

/// The filesystem that is mounted as `info` says, if the directory `real`, named by `path`, is its root.
fn name_of_mount(path: &Path, real: &Path, info: &MountInfo) -> Result<DatasetName> {
    let source = info.source.to_string_lossy();
    if source.contains('@') {
        let hint = Some(format!("cowsnap list {}", quoted(source.split('@').next().unwrap_or_default())));
        return Err(foreign(path, format!("it is in the snapshot {source}, which is named as such"), hint));
    }
    if info.root != Path::new("/") || info.dir != real {
        let inside = format!("it is a plain directory inside the filesystem {source}");
        let hint = format!(
            "cowsnap adopt {} --to POOL/NAME, or snapshot {} as a whole",
            quoted(path.display()),
            quoted(&source)
        );
        return Err(foreign(path, inside, Some(hint)));
    }
    source.parse().map_err(|_| foreign(path, format!("cowsnap can not work on {source:?}"), None))
}

fn foreign(path: &Path, why: String, hint: Option<String>) -> Error {
    Error::Foreign { subject: path.display().to_string(), wanted: "ZFS filesystem", why, hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(root: &str, dir: &str, source: &str) -> MountInfo {
        MountInfo {
            id: 36,
            parent: 35,
            groups: Vec::new(),
            device: "0:47".into(),
            root: root.into(),
            dir: dir.into(),
            options: vec!["rw".into()],
            kind: "zfs".into(),
            source: source.into(),
        }
    }

    #[test]
    fn a_filesystem_is_where_it_is_mounted_or_would_be() {
        let mounts =
            [info("/", "/tank", "tank"), info("/", "/t/b", "tank/b"), info("/x", "/bound", "tank/b")];
        for (name, path, direct) in [
            ("tank", "/tank", true),
            ("tank/b", "/t/b", true),
            ("tank/b", "/tank/b", true), // not there yet, as far as anybody can see
            ("tank/b/new", "/t/b/new", true),
            ("tank/b/new", "/tank/b/new", false),
            ("tank/b", "/bound", false),
            ("tank/secret", "/t/b", false),
            ("tank/secret", "/t/b/link", false),
        ] {
            assert_eq!(is_directly_at(&mounts, name, Path::new(path)), direct, "{name} at {path}");
        }
        let over = [info("/", "/t/b", "tank/b"), info("/", "/t/b", "tank/c")];
        assert!(!is_directly_at(&over, "tank/b", Path::new("/t/b")));
    }

    fn name(path: &str, info: &MountInfo) -> String {
        match name_of_mount(Path::new(path), Path::new(path), info) {
            Ok(name) => name.to_string(),
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn the_root_of_a_mounted_filesystem_is_the_filesystem() {
        assert_eq!(name("/tank/a b:c", &info("/", "/tank/a b:c", "tank/a b:c")), "tank/a b:c");
        assert_eq!(name("/srv/chain", &info("/", "/srv/chain", "tank/a")), "tank/a");
        assert_eq!(name("/", &info("/", "/", "rpool/ROOT/debian")), "rpool/ROOT/debian");
    }

    #[test]
    fn a_directory_inside_and_a_bind_mount_of_one_are_none() {
        let inside = "is not a ZFS filesystem: it is a plain directory inside the filesystem tank/a";
        assert_eq!(name("/tank/a/b", &info("/", "/tank/a", "tank/a")), format!("error: /tank/a/b {inside}"));
        assert_eq!(name("/mnt", &info("/b", "/mnt", "tank/a")), format!("error: /mnt {inside}"));
    }

    #[test]
    fn a_mounted_snapshot_is_named_as_one() {
        let text = name("/mnt", &info("/", "/mnt", "tank/a b@s 1"));
        assert_eq!(
            text,
            "error: /mnt is not a ZFS filesystem: it is in the snapshot tank/a b@s 1, which is named as such"
        );
    }

    #[test]
    fn what_is_on_no_zfs_is_said_to_be_foreign() {
        let here = name_of_root(Path::new("/proc"));
        assert!(matches!(&here, Err(Error::Foreign { .. })), "{here:?}");
        let nowhere = name_of_root(Path::new("/proc/nowhere"));
        assert!(matches!(&nowhere, Err(Error::NotFound { .. })), "{nowhere:?}");
    }
}
