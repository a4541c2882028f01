//! A store that is a directory: each object a file, written beside and moved to its place when it is on the disk.
//!
//! **Invariant:** every step down is taken from an open directory and follows no symbolic link, so nothing above or beside the store
//! is ever touched.

use std::collections::{BTreeSet, BinaryHeap};
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use super::{Error, Object, Options, Put, Result};
use crate::model::StoreUrl;
use crate::sys::interrupt;

/// Where objects are while they are written: a folder that no key names.
const WRITING: &str = ".writing";
/// How much is copied at once.
const PIECE: usize = 1 << 20;
/// How many names of one folder are in memory at once: where there are more, it is read again for each so many.
const NAMES: usize = 32 << 10;
/// How often a folder that went away while it was walked through is made again.
const TRIES: usize = 100;

static NUMBER: AtomicU64 = AtomicU64::new(0);

#[derive(Debug)]
pub struct Dir {
    url: StoreUrl,
    root: PathBuf,
}

/// A file that is not at its place yet; gone when dropped.
struct Writing<'a> {
    folder: &'a OwnedFd,
    name: String,
    file: File,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let _ = rustix::fs::unlinkat(self.folder, self.name.as_str(), AtFlags::empty());
    }
}

impl Dir {
    pub fn new(url: &StoreUrl, _options: &Options) -> Self {
        Self { url: url.clone(), root: url.dir().unwrap_or(std::path::Path::new("/")).into() }
    }

    fn io(&self, op: &'static str, key: &str) -> impl FnOnce(io::Error) -> Error + use<> {
        let subject = self.url.with_key(key);
        move |source| match interrupt::is_interrupt(&source) {
            true => Error::Interrupted { op, subject, source },
            false => Error::Io { op, subject, source },
        }
    }

    fn corrupt(&self, op: &'static str, key: &str, why: &str) -> Error {
        Error::Corrupt { op, subject: self.url.with_key(key), why: why.into() }
    }

    pub fn get(&self, key: &str, max: u64, mut bytes: Vec<u8>) -> Result<Option<Vec<u8>>> {
        let op = "read";
        let Some((mut file, stat)) = self.open(op, key)? else { return Ok(None) };
        let len = stat.st_size as u64;
        if len > max {
            return Err(Error::TooLong { op, subject: self.url.with_key(key), len, max });
        }
        bytes.clear();
        bytes.reserve_exact(len as usize);
        Read::by_ref(&mut file).take(len).read_to_end(&mut bytes).map_err(self.io(op, key))?;
        match bytes.len() as u64 == len {
            true => Ok(Some(bytes)),
            false => Err(self.corrupt(op, key, "it became shorter while it was read")),
        }
    }

    pub fn get_range(&self, key: &str, range: Range<u64>) -> Result<Vec<u8>> {
        let op = "read";
        let Some((file, stat)) = self.open(op, key)? else { return Err(self.absent(op, key)) };
        if stat.st_size as u64 - range.start.min(stat.st_size as u64) < range.end - range.start {
            let why = format!(
                "it ends after {} bytes, of which {}..{} are needed",
                stat.st_size, range.start, range.end
            );
            return Err(self.corrupt(op, key, &why));
        }
        let mut bytes = vec![0; (range.end - range.start) as usize];
        file.read_exact_at(&mut bytes, range.start).map_err(self.io(op, key))?;
        Ok(bytes)
    }

    fn absent(&self, op: &'static str, key: &str) -> Error {
        Error::NotFound { op, subject: self.url.with_key(key), what: "the object" }
    }

    pub fn head(&self, key: &str) -> Result<Option<Object>> {
        Ok(self.open("look at", key)?.map(|(_, stat)| object(key.into(), &stat)))
    }

    pub fn put(&self, key: &str, bytes: &[u8]) -> Result<()> {
        self.place(key, &mut &bytes[..], &mut |_| {}, true).map(drop)
    }

    pub fn put_new(&self, key: &str, bytes: &[u8]) -> Result<Put> {
        Ok(self.place(key, &mut &bytes[..], &mut |_| {}, false)?.0)
    }

    pub fn upload(&self, key: &str, stream: &mut dyn Read, moved: &mut dyn FnMut(u64)) -> Result<u64> {
        Ok(self.place(key, stream, moved, true)?.1)
    }

    /// Opens an object to read it; nothing if there is none.
    fn open(&self, op: &'static str, key: &str) -> Result<Option<(File, Stat)>> {
        let open = || {
            let (folder, name) = self.folder(key, false)?;
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = rustix::fs::openat(folder, name, flags, Mode::empty())?;
            let stat = rustix::fs::fstat(&file)?;
            Ok((File::from(file), stat))
        };
        match open() {
            Ok((_, stat)) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => Ok(None),
            Ok((_, stat)) if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile => {
                Err(self.corrupt(op, key, "it is no file"))
            }
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(Errno::LOOP) => Err(self.corrupt(op, key, "it is a symbolic link")),
            Err(error) => Err(self.io(op, key)(error.into())),
        }
    }

    /// The directory of the store, made if it is to be written to.
    fn root(&self, make: bool) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(&self.root, flags, Mode::empty()) {
            Err(Errno::NOENT) if make => {}
            opened => return opened,
        }
        let errno = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        std::fs::create_dir_all(&self.root).map_err(errno)?;
        for above in self.root.ancestors().skip(1) {
            File::open(above).and_then(|dir| dir.sync_all()).map_err(errno)?;
        }
        rustix::fs::open(&self.root, flags, Mode::empty())
    }

    /// The open folder of a key, and its name there.
    fn folder<'a>(&self, key: &'a str, make: bool) -> Result<(OwnedFd, &'a str), Errno> {
        let mut folder = self.root(make)?;
        let (above, name) = key.rsplit_once('/').unwrap_or(("", key));
        for part in above.split('/').filter(|part| !part.is_empty()) {
            folder = step(&folder, part, make)?;
        }
        Ok((folder, name))
    }

    /// Writes an object and puts it at its place: over what is there, or not.
    fn place(
        &self,
        key: &str,
        stream: &mut dyn Read,
        moved: &mut dyn FnMut(u64),
        over: bool,
    ) -> Result<(Put, u64)> {
        let op = "write";
        if key.split('/').next() == Some(WRITING) {
            return Err(Error::Key {
                key: key.into(),
                why: "it names the folder that objects are written in",
            });
        }
        let root = self.root(true).map_err(|error| self.io(op, key)(error.into()))?;
        let folder = step(&root, WRITING, true).map_err(|error| self.io(op, key)(error.into()))?;
        let mut writing = begin(&folder).map_err(self.io(op, key))?;
        let len = self.copy(key, stream, &mut writing.file, moved)?;
        writing.file.sync_all().map_err(self.io(op, key))?;
        let mut tries = 0;
        loop {
            tries += 1;
            match self.settle(key, &writing, over) {
                Ok(put) => return Ok((put, len)),
                // Who destroyed the last object of a folder took the folder along.
                Err(Errno::NOENT) if tries < TRIES => {}
                Err(error) => return Err(self.io(op, key)(error.into())),
            }
        }
    }

    fn copy(
        &self,
        key: &str,
        stream: &mut dyn Read,
        file: &mut File,
        moved: &mut dyn FnMut(u64),
    ) -> Result<u64> {
        let (mut piece, mut len) = (vec![0; PIECE], 0);
        loop {
            let got = match stream.read(&mut piece) {
                Ok(0) => return Ok(len),
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(Error::Source { subject: self.url.with_key(key), source }),
            };
            interrupt::check().and_then(|()| file.write_all(&piece[..got])).map_err(self.io("write", key))?;
            len += got as u64;
            moved(got as u64);
        }
    }

    /// Gives what is written its name, on the disk too.
    fn settle(&self, key: &str, writing: &Writing<'_>, over: bool) -> Result<Put, Errno> {
        let (folder, name) = self.folder(key, true)?;
        if over {
            rustix::fs::renameat(writing.folder, writing.name.as_str(), &folder, name)?;
        } else {
            let linked =
                rustix::fs::linkat(writing.folder, writing.name.as_str(), &folder, name, AtFlags::empty());
            let linked = match linked {
                // No hard links there.
                Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => {
                    rustix::fs::renameat_with(
                        writing.folder,
                        writing.name.as_str(),
                        &folder,
                        name,
                        RenameFlags::NOREPLACE,
                    )
                }
                linked => linked,
            };
            match linked {
                Err(Errno::EXIST) => return Ok(Put::Taken),
                linked => linked?,
            }
        }
        rustix::fs::fsync(&folder)?;
        Ok(Put::Done)
    }

    pub fn list_each(&self, prefix: &str, each: &mut dyn FnMut(Object) -> Result<()>) -> Result<()> {
        let op = "list";
        let top = prefix.trim_end_matches('/');
        let start = match top.is_empty() {
            true => self.root(false),
            false => self.folder(top, false).and_then(|(folder, name)| step(&folder, name, false)),
        };
        match start {
            Ok(folder) => self.walk(folder, top, each),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(error) => Err(self.io(op, prefix)(error.into())),
        }
    }

    /// The objects below a folder, ordered by key; no more than [`NAMES`] of a folder are in memory.
    fn walk(&self, folder: OwnedFd, at: &str, each: &mut dyn FnMut(Object) -> Result<()>) -> Result<()> {
        let mut after = None;
        loop {
            interrupt::check().map_err(self.io("list", at))?;
            let names = self.names(&folder, at, after.as_deref())?;
            for name in &names {
                self.entry(&folder, at, name, each)?;
            }
            match names.len() < NAMES {
                true => return Ok(()),
                false => after = names.into_iter().next_back(),
            }
        }
    }

    /// The first names of a folder behind `after`, as they stand in keys, in their order: that of a folder ends in `/`.
    fn names(&self, folder: &OwnedFd, at: &str, after: Option<&str>) -> Result<Vec<String>> {
        let failed = |error: Errno| self.io("list", at)(error.into());
        let mut names: BinaryHeap<String> = BinaryHeap::new();
        let entries = match rustix::fs::Dir::read_from(folder) {
            // It was destroyed with the last object in it.
            Err(Errno::NOENT) => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            // A name that is no text is no key.
            let Ok(name) = entry.file_name().to_str() else { continue };
            if matches!(name, "." | "..") || (at.is_empty() && name == WRITING) {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
                    .map(|stat| FileType::from_raw_mode(stat.st_mode)),
                kind => Ok(kind),
            };
            let name = match kind {
                Ok(FileType::Directory) => format!("{name}/"),
                Ok(FileType::RegularFile) => name.to_owned(),
                Ok(_) | Err(Errno::NOENT) => continue,
                Err(error) => return Err(failed(error)),
            };
            if after.is_some_and(|after| name.as_str() <= after) {
                continue;
            }
            names.push(name);
            if names.len() > NAMES {
                names.pop();
            }
        }
        Ok(names.into_sorted_vec())
    }

    /// The object of that name in a folder, or those below it.
    fn entry(
        &self,
        folder: &OwnedFd,
        at: &str,
        name: &str,
        each: &mut dyn FnMut(Object) -> Result<()>,
    ) -> Result<()> {
        let failed = |error: Errno| self.io("list", at)(error.into());
        let key = if at.is_empty() { name.to_owned() } else { format!("{at}/{name}") };
        if let Some(key) = key.strip_suffix('/') {
            return match step(folder, name.trim_end_matches('/'), false) {
                Ok(below) => self.walk(below, key, each),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
                Err(error) => Err(failed(error)),
            };
        }
        match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                each(object(key, &stat))
            }
            Ok(_) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    pub fn destroy(&self, keys: &[String]) -> Result<()> {
        self.destroy_unless(keys, &interrupt::check)
    }

    /// Whatever signal came.
    pub fn destroy_at_last(&self, keys: &[String]) -> Result<()> {
        self.destroy_unless(keys, &|| Ok(()))
    }

    fn destroy_unless(&self, keys: &[String], check: &dyn Fn() -> io::Result<()>) -> Result<()> {
        let mut above = BTreeSet::new();
        for key in keys {
            check().map_err(self.io("destroy", key))?;
            let unlink = || {
                let (folder, name) = self.folder(key, false)?;
                rustix::fs::unlinkat(&folder, name, AtFlags::empty())
            };
            match unlink() {
                Ok(()) => drop(above.insert(key.rsplit_once('/').map_or("", |(above, _)| above))),
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => return Err(self.io("destroy", key)(error.into())),
            }
        }
        // The deepest first.
        above
            .into_iter()
            .rev()
            .try_for_each(|folder| self.destroyed_in(folder).map_err(self.io("destroy", folder)))
    }

    /// Makes it last that files are gone from a folder, and takes folders away that nothing is in any more: they are no part of any key.
    fn destroyed_in(&self, folder: &str) -> io::Result<()> {
        let mut at = folder;
        while !at.is_empty() {
            let removed = self
                .folder(at, false)
                .and_then(|(above, name)| rustix::fs::unlinkat(above, name, AtFlags::REMOVEDIR));
            if removed.is_err() {
                break;
            }
            at = at.rsplit_once('/').map_or("", |(above, _)| above);
        }
        let open = match at {
            "" => self.root(false),
            at => self.folder(at, false).and_then(|(above, name)| step(&above, name, false)),
        };
        match open.and_then(rustix::fs::fsync) {
            Err(Errno::NOENT) => Ok(()),
            synced => Ok(synced?),
        }
    }
}

/// Goes down into a folder, which is made if it is to be written to.
fn step(from: &OwnedFd, name: &str, make: bool) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(from, name, flags, Mode::empty()) {
        Err(Errno::NOENT) if make => {}
        opened => return opened,
    }
    match rustix::fs::mkdirat(from, name, Mode::from_raw_mode(0o777)) {
        Ok(()) => rustix::fs::fsync(from)?,
        Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    rustix::fs::openat(from, name, flags, Mode::empty())
}

/// Begins a file that nobody else writes, after those are swept that their writers left.
fn begin(folder: &OwnedFd) -> io::Result<Writing<'_>> {
    sweep(folder)?;
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}-{:x}", std::process::id(), super::remote::random());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(folder, name.as_str(), flags, Mode::from_raw_mode(0o666)) {
            Ok(file) => {
                let writing = Writing { folder, name, file: file.into() };
                match rustix::fs::flock(&writing.file, FlockOperation::NonBlockingLockExclusive) {
                    // Somebody sweeps it, or has, between the two calls. Where there are no locks, nobody sweeps.
                    Err(Errno::WOULDBLOCK) => {}
                    _ if rustix::fs::fstat(&writing.file)?.st_nlink == 0 => {}
                    _ => return Ok(writing),
                }
            }
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes away what nobody writes any more.
fn sweep(folder: &OwnedFd) -> io::Result<()> {
    for entry in rustix::fs::Dir::read_from(folder)? {
        let entry = entry?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(file) = rustix::fs::openat(folder, entry.file_name(), flags, Mode::empty()) else { continue };
        let is_file = rustix::fs::fstat(&file)
            .is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::RegularFile);
        if is_file && rustix::fs::flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = rustix::fs::unlinkat(folder, entry.file_name(), AtFlags::empty());
        }
    }
    Ok(())
}

fn object(key: String, stat: &Stat) -> Object {
    let modified = Timestamp::new(stat.st_mtime, stat.st_mtime_nsec as i32).unwrap_or_default();
    let etag = format!("{:x}-{:x}-{:x}", stat.st_ino, modified.as_nanosecond(), stat.st_size);
    Object { key, len: stat.st_size as u64, modified, etag: Some(etag) }
}
