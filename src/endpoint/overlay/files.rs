//! Directories made to look like others, and trees removed whatever they are like.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::io::Errno;

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
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    let gone = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    };
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) => return gone(error),
    };
    if !meta.is_dir() {
        return fs::remove_file(path).or_else(gone);
    }
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(path)?;
            fs::read_dir(path)?
        }
        Err(error) => return gone(error),
        Ok(entries) => entries,
    };
    if meta.mode() & 0o700 != 0o700 {
        // It can be listed, and nothing in it removed.
        let _ = open_up(path);
    }
    let mut stuck = None;
    for entry in entries {
        let entry = entry?.path();
        if entry.symlink_metadata().is_ok_and(|inner| inner.dev() != meta.dev()) {
            stuck.get_or_insert(io::Error::from(Errno::BUSY));
            continue;
        }
        if let Err(error) = remove_tree(&entry) {
            stuck.get_or_insert(error);
        }
    }
    stuck.map_or_else(|| fs::remove_dir(path).or_else(gone), Err)
}

fn open_up(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::chmod(path, rustix::fs::Mode::RWXU)?)
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
}
