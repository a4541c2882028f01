//! Work on directories by descriptor: what is read and written below one can not be led elsewhere.

use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

use crate::endpoint::{Error, Result};
use crate::sys::interrupt;

/// Opens the directory `path` below `dir`; follows no link and enters no other mount. The empty path is `dir` itself.
pub(in crate::endpoint) fn open_beneath(dir: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    Ok(rustix::fs::openat2(dir, path, flags, Mode::empty(), resolve)?)
}

/// The names in a directory but `.` and `..`, sorted.
pub(in crate::endpoint) fn list(dir: BorrowedFd<'_>) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    names.sort();
    Ok(names)
}

/// The names in a directory but `.` and `..`, each with the number that the directory has for it: of a subvolume, on btrfs, its id.
pub(in crate::endpoint) fn numbered(dir: BorrowedFd<'_>) -> io::Result<Vec<(OsString, u64)>> {
    let mut entries = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            entries.push((OsString::from_vec(name.to_vec()), entry.ino()));
        }
    }
    Ok(entries)
}

/// The bytes of a small file; `None` if it is not there.
pub(in crate::endpoint) fn read_at(dir: BorrowedFd<'_>, path: impl AsRef<Path>) -> Result<Option<Vec<u8>>> {
    const MAX_LEN: u64 = 16 << 20;
    let path = path.as_ref();
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(dir, path, flags, Mode::empty()) {
        Ok(fd) => std::fs::File::from(fd),
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(Error::io("open", path.display())(error)),
    };
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, MAX_LEN), &mut bytes)
        .map_err(Error::io("read", path.display()))?;
    Ok(Some(bytes))
}

/// Writes a small file so that it is whole or not there, whatever happens.
pub(in crate::endpoint) fn write_at(dir: BorrowedFd<'_>, name: &OsStr, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = OsString::from("%");
    temporary.push(name);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, &temporary, flags, Mode::RUSR | Mode::WUSR)?;
    let mut file = std::fs::File::from(fd);
    let written = io::Write::write_all(&mut file, bytes).and_then(|()| file.sync_all());
    written.and_then(|()| Ok(rustix::fs::renameat(dir, &temporary, dir, name)?)).inspect_err(|_| {
        let _ = remove_at(dir, &temporary); // It is written anew the next time, if it stays.
    })?;
    // Without this a power cut may bring the old file back.
    Ok(rustix::fs::fsync(dir)?)
}

/// Removes a file; one that is not there is fine.
pub(in crate::endpoint) fn remove_at(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Renames within a directory or across; never over something that is there.
pub(in crate::endpoint) fn rename_new(
    from: (BorrowedFd<'_>, &OsStr),
    to: (BorrowedFd<'_>, &OsStr),
) -> Result<(), Errno> {
    rustix::fs::renameat_with(from.0, from.1, to.0, to.1, RenameFlags::NOREPLACE)
}

/// Takes the lock of a directory for as long as it is open, unless somebody else has it.
pub(in crate::endpoint) fn try_lock(dir: &OwnedFd) -> std::io::Result<bool> {
    match rustix::fs::flock(dir, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Ok(false),
        other => other.map(|()| true).map_err(Into::into),
    }
}

/// Waits until nobody else has the lock of `dir`, a dataset's directory in the store, or a signal has come: a call that
/// waits would not see it.
///
/// # Errors
/// [`Error::Interrupted`]; what the kernel says.
pub fn wait_for_lock(dir: &OwnedFd, subject: &str) -> Result<()> {
    let mut wait = Duration::from_millis(1);
    while !try_lock(dir).map_err(Error::io("lock", subject))? {
        interrupt::check()
            .map_err(|_| Error::Interrupted { op: "wait for the lock of", subject: subject.into() })?;
        std::thread::sleep(wait);
        wait = (wait * 2).min(Duration::from_millis(50));
    }
    Ok(())
}

/// A number that nobody else has: for names.
pub(in crate::endpoint) fn random() -> u64 {
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// Opens and locks the directory `id` of `parent`; `None` if another process has it or it is gone.
pub(in crate::endpoint) fn lock(parent: BorrowedFd<'_>, id: &OsStr) -> io::Result<Option<OwnedFd>> {
    let fd = match open_beneath(parent, Path::new(id)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Ok(None),
        other => other?,
    }
    let now = rustix::fs::statat(parent, id, AtFlags::SYMLINK_NOFOLLOW);
    let ours = rustix::fs::fstat(&fd)?;
    Ok(now.is_ok_and(|now| now.st_ino == ours.st_ino).then_some(fd))
}
