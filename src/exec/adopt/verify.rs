//! Whether a copy is what was read, and whether what was read is still so.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::Advice;

use super::CHUNK;
use super::copy::{attributes, next_data, open_quietly, zeros};
use super::journal::Journal;
use super::scan::{Entry, Kind, Tree, scan};
use crate::endpoint::{Error, Result};
use crate::exec::{Event, Observe};
use crate::sys::interrupt;

/// Reads the whole copy again and compares it with the journal, and everything that `stat` and the attributes tell
/// with the source.
///
/// The copy's pages are dropped from the cache before: what is compared comes from the device, through btrfs'
/// checksums. The copy must have been brought to disk.
///
/// # Errors
/// [`Error::Corrupt`] naming the first file that differs.
pub fn verify(
    source: &Path,
    tree: &Tree,
    target: &Path,
    journal: &Journal,
    observe: &dyn Observe,
) -> Result<()> {
    let subject = target.display().to_string();
    observe.observe(Event::Started { op: "verify", subject, total: Some(tree.bytes()) });
    let mut names = HashMap::new();
    for entry in &tree.entries {
        compare_names(source, target, entry, &mut names)?;
    }
    let mut bytes = 0;
    for entry in tree.files() {
        let path = target.join(&entry.path);
        let found = hash_from_disk(&path, &mut |n| {
            bytes += n;
            observe.observe(Event::Progress { bytes });
        });
        let found = found.map_err(Error::io("verify", path.display()))?;
        let Some(done) = journal.get(&entry.path) else {
            return Err(differs(&path, "the manifest does not have it".into()));
        };
        if found != done.hash {
            return Err(differs(&path, format!("blake3 {found} where {} was copied", done.hash)));
        }
    }
    observe.observe(Event::Finished { bytes });
    Ok(())
}

/// Whether the tree at `root` is still what `before` says; the first difference is named.
///
/// # Errors
/// [`Error::Refused`] with what changed.
pub fn unchanged(root: &Path, before: &Tree) -> Result<()> {
    let now = scan(root)?;
    let stamp = |entry: &Entry| (entry.stamp, entry.mode, entry.uid, entry.gid);
    let earlier: HashMap<&Path, &Entry> = before.entries.iter().map(|e| (e.path.as_path(), e)).collect();
    let changed =
        now.entries.iter().find(|e| earlier.get(e.path.as_path()).is_none_or(|b| stamp(b) != stamp(e)));
    let later: HashMap<&Path, &Entry> = now.entries.iter().map(|e| (e.path.as_path(), e)).collect();
    let gone = before.entries.iter().find(|e| !later.contains_key(e.path.as_path()));
    match changed.or(gone) {
        None => Ok(()),
        Some(entry) => Err(Error::Refused {
            op: "adopt",
            subject: root.display().to_string(),
            why: format!("{} changed while it was copied", root.join(&entry.path).display()),
            hint: Some(
                "stop what writes there and run the same command again: what is copied is kept".into(),
            ),
        }),
    }
}

/// Compares the files of a tree with the journal's hashes; how many were compared.
///
/// # Errors
/// [`Error::Corrupt`] naming the first file that differs or is missing.
pub fn verify_content(target: &Path, journal: &Journal, observe: &dyn Observe) -> Result<usize> {
    let total = journal.all().map(|(_, done)| done.stamp.size).sum();
    let subject = target.display().to_string();
    observe.observe(Event::Started { op: "verify", subject, total: Some(total) });
    let (mut bytes, mut n_files) = (0, 0);
    for (path, done) in journal.all() {
        let path = target.join(path);
        let found = hash_from_disk(&path, &mut |n| {
            bytes += n;
            observe.observe(Event::Progress { bytes });
        });
        match found {
            Ok(found) if found == done.hash => n_files += 1,
            Ok(found) => {
                return Err(differs(&path, format!("blake3 {found} where {} was adopted", done.hash)));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(differs(&path, "it is gone".into()));
            }
            Err(error) => return Err(Error::io("verify", path.display())(error)),
        }
    }
    observe.observe(Event::Finished { bytes });
    Ok(n_files)
}

/// The blake3 of a file as it is on the device.
fn hash_from_disk(path: &Path, progress: &mut dyn FnMut(u64)) -> io::Result<blake3::Hash> {
    let mut file = open_quietly(path)?;
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
    let length = file.metadata()?.len();
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while at < length {
        let (start, end) = next_data(&file, at, length)?;
        zeros(&mut hasher, start - at);
        at = start;
        file.seek(io::SeekFrom::Start(at))?;
        at += hash_range(&mut file, end - at, &mut hasher, &mut buffer, progress)?;
    }
    // What was read once is not read again soon: leave the cache to the service.
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
    Ok(hasher.finalize())
}

fn hash_range(
    file: &mut File,
    length: u64,
    hasher: &mut blake3::Hasher,
    buffer: &mut [u8],
    progress: &mut dyn FnMut(u64),
) -> io::Result<u64> {
    let mut left = length;
    while left > 0 {
        interrupt::check()?;
        let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let n = file.read(&mut buffer[..wanted])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        hasher.update(&buffer[..n]);
        left -= n as u64;
        progress(n as u64);
    }
    Ok(length)
}

/// Compares all but the bytes: kind, owner, mode, size, time, link's target, device, attributes, which names are one
/// file.
fn compare_names(source: &Path, target: &Path, entry: &Entry, names: &mut HashMap<u64, u64>) -> Result<()> {
    let path = target.join(&entry.path);
    let meta = fs::symlink_metadata(&path).map_err(Error::io("verify", path.display()))?;
    let what = |meta: &fs::Metadata| {
        // A directory's size, and the size of what has no bytes, are the filesystem's own affair.
        let size = if meta.is_file() { meta.len() } else { 0 };
        (meta.mode(), meta.uid(), meta.gid(), meta.rdev(), size, (meta.mtime(), meta.mtime_nsec()))
    };
    let size = if entry.kind == Kind::File { entry.stamp.size } else { 0 };
    let wanted = (entry.mode, entry.uid, entry.gid, entry.rdev, size, entry.stamp.mtime);
    if what(&meta) != wanted {
        return Err(differs(&path, format!("its state is {:?} where {wanted:?} was copied", what(&meta))));
    }
    if entry.is_linked() && *names.entry(entry.stamp.inode).or_insert(meta.ino()) != meta.ino() {
        return Err(differs(&path, "it is not the file that its other names are".into()));
    }
    let from = source.join(&entry.path);
    let link = |path: &Path| -> Option<PathBuf> { fs::read_link(path).ok() };
    if entry.kind == Kind::Symlink && link(&from) != link(&path) {
        return Err(differs(&path, "it leads elsewhere".into()));
    }
    let there = attributes(&path)?;
    match attributes(&from)?.into_iter().find(|attribute| !there.contains(attribute)) {
        // Named when it was copied; the filesystem can not keep it.
        Some((name, _)) if name.starts_with(b"system.") && !name.starts_with(b"system.posix_acl") => Ok(()),
        Some((name, _)) => {
            Err(differs(&path, format!("its attribute {} is not the same", String::from_utf8_lossy(&name))))
        }
        None => Ok(()),
    }
}

fn differs(path: &Path, why: String) -> Error {
    Error::Corrupt { what: "copy", why: format!("{}: {why}", path.display()), source: None }
}
