//! Making a tree that equals another.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, SeekFrom, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::CHUNK;
use super::flags;
use super::journal::{Done, Journal};
use super::scan::{Entry, Kind, Stamp, Tree};
use crate::endpoint::{Error, Result};
use crate::exec::{Event, Observe};
use crate::sys::interrupt;

/// Copies `tree`, which was read at `source`, to the directory `target`; files that `journal` says are there already are
/// left as they are, and what is in `target` beyond the tree is removed. Brings all of it to disk.
///
/// # Errors
/// [`Error::Io`] naming the file; what was copied until then is written down.
pub fn copy(
    source: &Path,
    tree: &Tree,
    target: &Path,
    journal: &mut Journal,
    observe: &dyn Observe,
) -> Result<()> {
    remove_others(tree, target)?;
    journal.keep_only(&tree.entries);
    let subject = source.display().to_string();
    observe.observe(Event::Started { op: "copy", subject, total: Some(tree.bytes()) });
    let mut copier =
        Copier { source, target, journal, observe, bytes: 0, reflinks: true, names: HashMap::new() };
    for entry in &tree.entries {
        interrupt::check().map_err(Error::io("copy", source.display()))?;
        copier.copy(entry)?;
    }
    let bytes = copier.bytes;
    // Last and deepest first: what is made in a directory changes its times.
    for entry in tree.entries.iter().rev().filter(|entry| entry.kind == Kind::Directory) {
        describe(source, target, entry, observe)?;
    }
    for entry in &tree.entries {
        flags::copy(source, target, entry, observe);
    }
    let folder = File::open(target).map_err(Error::io("open", target.display()))?;
    rustix::fs::syncfs(&folder).map_err(Error::io("sync", target.display()))?;
    journal.seal()?;
    observe.observe(Event::Finished { bytes });
    Ok(())
}

struct Copier<'a> {
    source: &'a Path,
    target: &'a Path,
    journal: &'a mut Journal,
    observe: &'a dyn Observe,
    bytes: u64,
    /// Whether the target may share the source's extents; found out with the first file.
    reflinks: bool,
    /// The first names of files that have several, by inode.
    names: HashMap<u64, PathBuf>,
}

impl Copier<'_> {
    fn copy(&mut self, entry: &Entry) -> Result<()> {
        let target = self.target.join(&entry.path);
        if entry.is_linked() {
            if let Some(first) = self.names.get(&entry.stamp.inode) {
                return link(&self.target.join(first), &target);
            }
            self.names.insert(entry.stamp.inode, entry.path.clone());
        }
        match entry.kind {
            Kind::Directory => return make_directory(&target),
            Kind::File => return self.copy_file(entry, &target),
            Kind::Symlink => make_symlink(&self.source.join(&entry.path), &target)?,
            Kind::Special => make_special(entry, &target)?,
        }
        describe(self.source, self.target, entry, self.observe)
    }

    fn copy_file(&mut self, entry: &Entry, target: &Path) -> Result<()> {
        if let Ok(there) = fs::symlink_metadata(target) {
            let linked = there.nlink() == 1 || entry.is_linked();
            if linked && there.len() == entry.stamp.size && self.journal.current(entry).is_some() {
                self.progress(entry.stamp.size);
                return Ok(());
            }
            // Never written to in place: an interrupted copy may have given it names that it no longer has.
            fs::remove_file(target).map_err(remove_failed(target))?;
        }
        let source = self.source.join(&entry.path);
        let hash = self.copy_content(&source, target).map_err(Error::io("copy", source.display()))?;
        describe(self.source, self.target, entry, self.observe)?;
        self.journal.add(&entry.path, Done { hash, stamp: entry.stamp })
    }

    fn copy_content(&mut self, source: &Path, target: &Path) -> io::Result<blake3::Hash> {
        let mut from = open_quietly(source)?;
        let mut to = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(target)?;
        flags::copy_nocow(&from, &to);
        let length = from.metadata()?.len();
        if self.reflinks && length > 0 {
            match rustix::fs::ioctl_ficlone(&to, &from) {
                Ok(()) => return self.each_chunk(&mut from, length, |_, _| Ok(())),
                Err(_) => self.reflinks = false,
            }
        }
        to.set_len(length)?;
        self.each_chunk(&mut from, length, |at, bytes| {
            to.seek(io::SeekFrom::Start(at))?;
            to.write_all(bytes)
        })
    }

    /// Hands each piece of data to `take` with its offset, hashes all, holes as zeros.
    fn each_chunk(
        &mut self,
        from: &mut File,
        length: u64,
        mut take: impl FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; CHUNK];
        let mut at = 0;
        while at < length {
            interrupt::check()?;
            let (start, end) = next_data(from, at, length)?;
            zeros(&mut hasher, start - at);
            from.seek(io::SeekFrom::Start(start))?;
            at = start;
            while at < end {
                interrupt::check()?;
                let wanted = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
                let n = from.read(&mut buffer[..wanted])?;
                if n == 0 {
                    return Err(io::Error::other("it became shorter while it was copied"));
                }
                hasher.update(&buffer[..n]);
                take(at, &buffer[..n])?;
                at += n as u64;
                self.progress(n as u64);
            }
        }
        Ok(hasher.finalize())
    }

    fn progress(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.observe.observe(Event::Progress { bytes: self.bytes });
    }
}

/// Opens a file to read without changing its access time, where that is allowed.
pub(super) fn open_quietly(path: &Path) -> io::Result<File> {
    let open = |flags| OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | flags).open(path);
    open(libc::O_NOATIME).or_else(|_| open(0))
}

/// Where the next data at or after `at` begins and ends; both are `length` if there is none.
pub(super) fn next_data(file: &File, at: u64, length: u64) -> io::Result<(u64, u64)> {
    let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Err(Errno::NXIO) => return Ok((length, length)),
        // A filesystem that knows no holes.
        Err(Errno::INVAL) => return Ok((at, length)),
        other => other?.min(length),
    };
    let end = rustix::fs::seek(file, SeekFrom::Hole(start)).unwrap_or(length);
    Ok((start, end.min(length)))
}

/// Hashes `n` zeros.
pub(super) fn zeros(hasher: &mut blake3::Hasher, mut n: u64) {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    while n > 0 {
        let now = n.min(ZEROS.len() as u64);
        hasher.update(&ZEROS[..now as usize]);
        n -= now;
    }
}

/// Removes what stands below `target` and not in the tree, or is of another kind there. What is left can be changed.
fn remove_others(tree: &Tree, target: &Path) -> Result<()> {
    let kinds: HashMap<&Path, Kind> = tree.entries.iter().map(|e| (e.path.as_path(), e.kind)).collect();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let full = target.join(&folder);
        for entry in fs::read_dir(&full).map_err(Error::io("read directory", full.display()))?.flatten() {
            let relative = folder.join(entry.file_name());
            let meta = entry.metadata().map_err(Error::io("read", entry.path().display()))?;
            let wanted = kinds.get(relative.as_path());
            if meta.is_dir() || meta.is_file() {
                flags::unlock(&entry.path()).map_err(Error::io("unlock", entry.path().display()))?;
            }
            match (meta.is_dir(), wanted) {
                (true, Some(Kind::Directory)) => folders.push(relative),
                (false, Some(Kind::File)) if meta.is_file() => {}
                (true, _) => flags::remove_dir_all(&entry.path()).map_err(remove_failed(&entry.path()))?,
                (false, _) => fs::remove_file(entry.path()).map_err(remove_failed(&entry.path()))?,
            }
        }
    }
    Ok(())
}

fn remove_failed(path: &Path) -> impl FnOnce(io::Error) -> Error {
    Error::io("remove", path.display())
}

fn make_directory(target: &Path) -> Result<()> {
    match rustix::fs::mkdir(target, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(Error::io("create directory", target.display())(errno)),
    }
}

fn make_symlink(source: &Path, target: &Path) -> Result<()> {
    let to = fs::read_link(source).map_err(Error::io("read symbolic link", source.display()))?;
    std::os::unix::fs::symlink(to, target).map_err(Error::io("create symbolic link", target.display()))
}

fn make_special(entry: &Entry, target: &Path) -> Result<()> {
    let kind = FileType::from_raw_mode(entry.mode);
    rustix::fs::mknodat(CWD, target, kind, Mode::RUSR | Mode::WUSR, entry.rdev)
        .map_err(Error::io("create special file", target.display()))
}

/// Makes `target` another name of `first`.
fn link(first: &Path, target: &Path) -> Result<()> {
    let inode = |path: &Path| fs::symlink_metadata(path).map(|meta| meta.ino()).ok();
    match inode(target) {
        Some(there) if Some(there) == inode(first) => return Ok(()),
        Some(_) => fs::remove_file(target).map_err(remove_failed(target))?,
        None => {}
    }
    fs::hard_link(first, target).map_err(Error::io("create hard link", target.display()))
}

/// Gives the copy the source's owner, mode, extended attributes and times. In this order: a change of owner takes
/// set-user-id bits and capabilities away.
fn describe(source: &Path, target: &Path, entry: &Entry, observe: &dyn Observe) -> Result<()> {
    let (from, to) = (source.join(&entry.path), target.join(&entry.path));
    let failed = |op| Error::io::<_, Errno>(op, to.display());
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    rustix::fs::chownat(CWD, &to, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(failed("set the owner of"))?;
    if entry.kind != Kind::Symlink {
        rustix::fs::chmod(&to, Mode::from_raw_mode(entry.mode)).map_err(failed("set the mode of"))?;
    }
    copy_attributes(&from, &to, observe)?;
    let time = |(sec, nsec): (i64, i64)| Timespec { tv_sec: sec, tv_nsec: nsec };
    let Stamp { mtime, .. } = entry.stamp;
    let times = Timestamps { last_access: time(entry.atime), last_modification: time(mtime) };
    rustix::fs::utimensat(CWD, &to, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("set the times of"))
}

/// Copies the extended attributes, ACLs among them.
fn copy_attributes(from: &Path, to: &Path, observe: &dyn Observe) -> Result<()> {
    for (name, value) in attributes(from)? {
        match rustix::fs::lsetxattr(to, name.as_slice(), &value, XattrFlags::empty()) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP) => observe.observe(Event::Warning {
                text: format!(
                    "{}: btrfs can not keep its attribute {}",
                    from.display(),
                    String::from_utf8_lossy(&name)
                ),
            }),
            Err(errno) => return Err(Error::io("set an attribute of", to.display())(errno)),
        }
    }
    Ok(())
}

/// The names and values of a file's extended attributes.
pub(super) fn attributes(path: &Path) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    /// XATTR_LIST_MAX and XATTR_SIZE_MAX: no list and no value is longer.
    const MAX: usize = 64 << 10;
    let failed = || Error::io::<_, Errno>("read the attributes of", path.display());
    let mut list = Vec::with_capacity(MAX);
    match rustix::fs::llistxattr(path, rustix::buffer::spare_capacity(&mut list)) {
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        other => other.map_err(failed())?,
    };
    let mut found = Vec::new();
    for name in list.split(|&b| b == 0).filter(|name| !name.is_empty()) {
        let mut value = Vec::with_capacity(MAX);
        rustix::fs::lgetxattr(path, name, rustix::buffer::spare_capacity(&mut value)).map_err(failed())?;
        found.push((name.to_vec(), value));
    }
    found.sort();
    Ok(found)
}
