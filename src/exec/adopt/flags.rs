//! What `chattr` sets: copied as far as the target takes it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use super::scan::{Entry, Kind};
use crate::endpoint::{Error, Result};
use crate::exec::{Event, Observe};

/// With these, nobody may change, rename or remove it.
const LOCKING: IFlags = IFlags::IMMUTABLE.union(IFlags::APPEND);
/// What btrfs keeps.
const KEPT: IFlags = LOCKING
    .union(IFlags::NODUMP)
    .union(IFlags::NOATIME)
    .union(IFlags::NOCOW)
    .union(IFlags::SYNC)
    .union(IFlags::DIRSYNC);
/// What a user may have set, with the letter that `chattr` has for it. Others tell how a filesystem stores the file.
const LETTERS: [(IFlags, char); 13] = [
    (IFlags::IMMUTABLE, 'i'),
    (IFlags::APPEND, 'a'),
    (IFlags::NODUMP, 'd'),
    (IFlags::NOATIME, 'A'),
    (IFlags::NOCOW, 'C'),
    (IFlags::SYNC, 'S'),
    (IFlags::DIRSYNC, 'D'),
    (IFlags::JOURNALING, 'j'),
    (IFlags::NOTAIL, 't'),
    (IFlags::TOPDIR, 'T'),
    (IFlags::UNRM, 'u'),
    (IFlags::SECURE_REMOVAL, 's'),
    (IFlags::PROJECT_INHERIT, 'P'),
];

/// Refuses a directory that can not be moved aside because of its flags.
///
/// # Errors
/// [`Error::Refused`].
pub fn check_root(root: &Path) -> Result<()> {
    if !of(root).intersects(LOCKING) {
        return Ok(());
    }
    Err(Error::Refused {
        op: "adopt",
        subject: root.display().to_string(),
        why: "it is immutable or append-only, and can not be moved aside".into(),
        hint: Some(format!("chattr -ia {}", crate::model::quoted(root.display()))),
    })
}

/// Gives the copy the source's flags, and names those that it does not take. Nothing can be changed about some files then.
pub(super) fn copy(source: &Path, target: &Path, entry: &Entry, observe: &dyn Observe) {
    if !matches!(entry.kind, Kind::File | Kind::Directory) {
        return;
    }
    let (from, to) = (source.join(&entry.path), target.join(&entry.path));
    let wanted = of(&from);
    if let Err(error) = set(&to, KEPT, wanted) {
        tracing::debug!(%error, path = %to.display(), "flags are not taken");
    }
    // Some are ignored without a word.
    let lost = wanted - of(&to);
    let letters: String = LETTERS.iter().filter(|(flag, _)| lost.contains(*flag)).map(|(_, c)| c).collect();
    if !letters.is_empty() {
        let text = format!("{}: the copy does not have its chattr flags {letters}", from.display());
        observe.observe(Event::Warning { text });
    }
}

/// Lets the empty file `to` be written in place or not, as `from` is: with content in it, that can not be changed.
pub(super) fn copy_nocow(from: &File, to: &File) {
    let of = |file: &File| ioctl_getflags(file).unwrap_or(IFlags::empty());
    let changed = (of(from) ^ of(to)) & IFlags::NOCOW;
    if !changed.is_empty() {
        // If it is not taken, `copy` says so.
        let _ = ioctl_setflags(to, of(to) ^ changed);
    }
}

/// Lets a file or directory be changed and removed again.
pub(super) fn unlock(path: &Path) -> io::Result<()> {
    set(path, LOCKING, IFlags::empty())
}

/// Removes a directory with all that is in it, be it locked by flags.
///
/// # Errors
/// What can not be removed.
pub fn remove_dir_all(root: &Path) -> io::Result<()> {
    match fs::remove_dir_all(root) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        other => return other,
    }
    let mut folders = vec![PathBuf::from(root)];
    while let Some(folder) = folders.pop() {
        unlock(&folder)?;
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            match kind.is_dir() {
                true => folders.push(entry.path()),
                false if kind.is_file() => unlock(&entry.path())?,
                false => {}
            }
        }
    }
    fs::remove_dir_all(root)
}

/// Those of a file or directory; none where the filesystem has none.
fn of(path: &Path) -> IFlags {
    open(path).and_then(|file| Ok(ioctl_getflags(file)?)).unwrap_or(IFlags::empty())
}

/// Makes the flags of `mask` what they are in `wanted`.
fn set(path: &Path, mask: IFlags, wanted: IFlags) -> io::Result<()> {
    let file = open(path)?;
    let now = match ioctl_getflags(&file) {
        // A filesystem that has none.
        Err(_) if (wanted & mask).is_empty() => return Ok(()),
        other => other?,
    };
    let new = (now - mask) | (wanted & mask);
    if new == now { Ok(()) } else { Ok(ioctl_setflags(&file, new)?) }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}
