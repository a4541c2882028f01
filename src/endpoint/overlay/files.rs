//! Directories made to look like others, and trees removed whatever they are like.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, IFlags, Mode, OFlags, StatxFlags, unlinkat};
use rustix::io::Errno;
use rustix::path::Arg;

use crate::endpoint::overlay::home::random;

/// Gives the directory `to` the owner, mode, times and extended attributes of `from`, but no marks of overlayfs.
///
/// What a merged directory shows of itself is the upper one's.
pub(super) fn look_like(from: &Path, to: &Path) -> io::Result<()> {
    let meta = fs::metadata(from)?;
    let to_dir = File::open(to)?;
    let mine = to_dir.metadata()?;
    if (mine.uid(), mine.gid()) != (meta.uid(), meta.gid()) {
        // Who may not give it away keeps it: in a user namespace an owner outside of it can not be set.
        let _ = std::os::unix::fs::fchown(&to_dir, Some(meta.uid()), Some(meta.gid()));
    }
    rustix::fs::fchmod(&to_dir, rustix::fs::Mode::from_raw_mode(meta.mode() & 0o7777))?;
    copy_xattrs(from, to)?;
    let time = |secs, nanos| rustix::fs::Timespec { tv_sec: secs, tv_nsec: nanos as _ };
    let times = rustix::fs::Timestamps {
        last_access: time(meta.atime(), meta.atime_nsec()),
        last_modification: time(meta.mtime(), meta.mtime_nsec()),
    };
    Ok(rustix::fs::futimens(&to_dir, &times)?)
}

/// What `statfs` says of ext4, as of ext2 and ext3.
const EXT4_MAGIC: i64 = 0xEF53;

/// Has ext4 put each directory that is made in this one into a group of blocks of its own, and what is made in that near to it.
///
/// ext4 gives no inode out again for a minute after it was freed, for five as long as it is not written back, and looks at each such one of a group
/// before it finds a free one: where suites are reset one after the other, all in one group, each file that is made took up to a millisecond. Elsewhere
/// there is nothing to do, and a directory that can not be marked is no worse than before.
pub(super) fn spread(dir: &Path) {
    let marked = || -> rustix::io::Result<()> {
        let dir = open_dir(CWD, dir, OFlags::empty())?;
        if rustix::fs::fstatfs(&dir)?.f_type as i64 != EXT4_MAGIC {
            return Ok(());
        }
        match rustix::fs::ioctl_getflags(&dir)? {
            flags if flags.contains(IFlags::TOPDIR) => Ok(()),
            flags => rustix::fs::ioctl_setflags(&dir, flags | IFlags::TOPDIR),
        }
    };
    if let Err(errno) = marked() {
        tracing::debug!("{}: {errno}", dir.display());
    }
}

fn copy_xattrs(from: &Path, to: &Path) -> io::Result<()> {
    let mut names = vec![0; 64 * 1024];
    let len = match rustix::fs::listxattr(from, &mut names[..]) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        other => other?,
    };
    let mut value = vec![0; 64 * 1024];
    for name in names[..len].split(|&b| b == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            continue;
        }
        let len = match rustix::fs::getxattr(from, name, &mut value[..]) {
            Err(Errno::NODATA) => continue,
            other => other?,
        };
        match rustix::fs::setxattr(to, name, &value[..len], rustix::fs::XattrFlags::empty()) {
            // Labels and capabilities that only the system sets.
            Err(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Removes a tree, whatever the modes of its directories are (overlayfs' work directory lets nobody in). What is mounted
/// in it stays, with its mount point. What goes meanwhile is gone.
///
/// Each directory is held open while it is emptied: a process that still sees the tree, and puts a symbolic link in the place of
/// a directory of it, leads nobody out of it.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::INVAL.into());
    };
    let top = match open_dir(CWD, folder, OFlags::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let mut walk = Walk { top: &top, moved: Vec::new(), first_error: None };
    walk.remove(&top, name, 0);
    while let Some(deep) = walk.moved.pop() {
        walk.remove(&top, &deep, 0);
    }
    walk.first_error.map_or(Ok(()), |errno| Err(errno.into()))
}

/// How deep directories are held open within one another; those below are moved beside the tree first.
const DEEP: usize = 100;

struct Walk<'a> {
    /// What the tree is in.
    top: &'a OwnedFd,
    /// The names there of what was moved out of the tree's depth.
    moved: Vec<OsString>,
    /// The first thing that could not be removed; all others are, nevertheless.
    first_error: Option<Errno>,
}

impl Walk<'_> {
    fn remove(&mut self, folder: &OwnedFd, name: &OsStr, depth: usize) {
        match self.try_remove(folder, name, depth) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => {
                self.first_error.get_or_insert(errno);
            }
        }
    }

    fn try_remove(&mut self, folder: &OwnedFd, name: &OsStr, depth: usize) -> rustix::io::Result<()> {
        match unlinkat(folder, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => {}
            other => return other,
        }
        let dir = open_whatever_its_mode(folder, name)?;
        if mount_of(&dir)? != mount_of(folder)? {
            return Err(Errno::BUSY);
        }
        if depth >= DEEP {
            let beside = OsString::from(format!("deep-{:016x}", random().map_err(|_| Errno::IO)?));
            rustix::fs::renameat(folder, name, self.top, &beside)?;
            self.moved.push(beside);
            return Ok(());
        }
        // All names first: what is removed while it is listed may hide others.
        for entry in names(&dir)? {
            self.remove(&dir, &entry, depth + 1);
        }
        match unlinkat(folder, name, AtFlags::REMOVEDIR) {
            // The reason is told already.
            Err(Errno::NOTEMPTY) if self.first_error.is_some() => Ok(()),
            other => other,
        }
    }
}

fn names(dir: &OwnedFd) -> rustix::io::Result<Vec<OsString>> {
    let entries = rustix::fs::Dir::read_from(dir)?.filter_map(|entry| match entry {
        Ok(entry) if matches!(entry.file_name().to_bytes(), b"." | b"..") => None,
        other => Some(other.map(|entry| OsStr::from_bytes(entry.file_name().to_bytes()).to_owned())),
    });
    entries.collect()
}

fn open_dir(folder: impl AsFd, name: impl Arg, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(folder, name, flags, Mode::empty())
}

/// Opens the directory itself, and lets its owner in.
fn open_whatever_its_mode(folder: &OwnedFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    match open_dir(folder, name, OFlags::NOFOLLOW) {
        Err(Errno::ACCESS) => {
            let seen = open_dir(folder, name, OFlags::NOFOLLOW | OFlags::PATH)?;
            rustix::fs::chmod(format!("/proc/self/fd/{}", seen.as_raw_fd()), Mode::RWXU)?;
            open_dir(folder, name, OFlags::NOFOLLOW)
        }
        Ok(dir) => {
            // It can be listed, and perhaps nothing in it removed.
            let mode = Mode::from_raw_mode(rustix::fs::fstat(&dir)?.st_mode);
            if !mode.contains(Mode::RWXU) {
                let _ = rustix::fs::fchmod(&dir, Mode::RWXU);
            }
            Ok(dir)
        }
        other => other,
    }
}

/// Which mount a directory was opened through: also a bind of the same filesystem is another one (before kernel 5.8: the filesystem).
fn mount_of(dir: &OwnedFd) -> rustix::io::Result<u64> {
    match rustix::fs::statx(dir, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID) {
        Ok(found) if found.stx_mask & StatxFlags::MNT_ID.bits() != 0 => Ok(found.stx_mnt_id),
        Ok(_) | Err(Errno::NOSYS) => Ok(rustix::fs::fstat(dir)?.st_dev),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_tree_goes_whatever_the_modes_of_its_directories() {
        let folder = tempfile::tempdir().expect("a folder");
        let tree = folder.path().join("tree");
        fs::create_dir_all(tree.join("work/work")).expect("made");
        fs::write(tree.join("work/file"), "x").expect("written");
        fs::set_permissions(tree.join("work/work"), fs::Permissions::from_mode(0o000)).expect("set");
        fs::set_permissions(tree.join("work"), fs::Permissions::from_mode(0o500)).expect("set");
        remove_tree(&tree).expect("removed");
        remove_tree(&tree).expect("what is gone is gone");
        assert!(!tree.exists());
    }

    #[test]
    fn a_tree_goes_however_deep_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let tree = folder.path().join("tree");
        fs::create_dir(&tree).expect("made");
        let mut dir = open_dir(CWD, &tree, OFlags::empty()).expect("opened");
        for _ in 0..1100 {
            rustix::fs::mkdirat(&dir, "d", Mode::RWXU).expect("made");
            rustix::fs::symlinkat("/", &dir, "link").expect("linked");
            dir = open_dir(&dir, "d", OFlags::empty()).expect("opened");
        }
        drop(dir);
        remove_tree(&tree).expect("removed");
        assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 0);
    }

    #[test]
    fn a_link_that_took_a_directorys_place_leads_nobody_out_of_the_tree() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("precious")).expect("made");
        fs::set_permissions(folder.path().join("precious"), fs::Permissions::from_mode(0o500)).expect("set");
        std::os::unix::fs::symlink("precious", folder.path().join("link")).expect("linked");
        let opened = open_dir(CWD, folder.path(), OFlags::empty()).expect("opened");
        // A directory until it was looked at, and a link now.
        let followed = open_whatever_its_mode(&opened, "link".as_ref());
        assert!(matches!(followed, Err(Errno::NOTDIR | Errno::LOOP)), "{followed:?}");
        let mode = fs::metadata(folder.path().join("precious")).expect("there").mode();
        assert_eq!(mode & 0o777, 0o500);
        remove_tree(&folder.path().join("link")).expect("removed");
        assert!(folder.path().join("precious").exists());
    }
}
