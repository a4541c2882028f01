//! Making a tree that equals another, file by file, on all cores.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, FileType, Mode, OFlags, SeekFrom, makedev};
use rustix::io::Errno;

use crate::endpoint::each::each;
use crate::endpoint::tree::describe::{Pair, copy_nocow, describe, describe_unopened};
use crate::endpoint::tree::scan::{Entry, Kind, Scan, changed, entry_of, open, open_quietly, scan, shown};
use crate::endpoint::{Error, Result};
use crate::model::quoted;
use crate::sys::interrupt;

/// Who is told how many bytes of how many are done.
#[derive(Clone, Default)]
pub struct Watch(Option<Arc<Tell>>);

type Tell = dyn Fn(u64, u64) + Send + Sync;

impl Watch {
    /// `tell` is called from any of the threads that copy.
    pub fn new(tell: impl Fn(u64, u64) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Watch(…)" } else { "Watch" })
    }
}

/// How a whole tree is copied.
#[derive(Debug, Clone, Copy)]
pub struct CopyWhole<'a> {
    /// What people call what is copied.
    pub label: &'a str,
    /// Whether bytes may be copied where blocks can not be shared.
    pub copying: bool,
    /// Who is told how far it is.
    pub watch: &'a Watch,
}

/// Makes `to`, an empty directory that nobody else may enter, equal to the tree `from`: content, owners, modes, times, attributes,
/// hard links, holes.
///
/// # Errors
/// [`Error::Refused`] if another filesystem or a subvolume stands in it, if it changes meanwhile, or if blocks can not be shared
/// and may not be copied. What was made by then is left.
pub fn copy_whole(from: BorrowedFd<'_>, to: BorrowedFd<'_>, how: &CopyWhole<'_>) -> Result<()> {
    let CopyWhole { label, copying, watch } = *how;
    let hint = |_| "--mode copy".to_owned();
    Copier { from, label, to, copying, hint: &hint, watch }.copy(&scan(from, label)?)
}

/// The command that would allow to copy so many bytes.
pub(super) type Hint<'a> = &'a (dyn Fn(u64) -> String + Sync);

/// How, and for whom.
pub(super) struct Copier<'a> {
    /// The root of what is copied.
    pub(super) from: BorrowedFd<'a>,
    /// What people call it.
    pub(super) label: &'a str,
    /// An empty directory that nobody else may enter.
    pub(super) to: BorrowedFd<'a>,
    /// Whether bytes may be copied where blocks can not be shared.
    pub(super) copying: bool,
    /// The command that would allow that.
    pub(super) hint: Hint<'a>,
    pub(super) watch: &'a Watch,
}

impl Copier<'_> {
    /// Copies all of `scan`, which was read at `from`.
    ///
    /// # Errors
    /// [`Error::Refused`] if something is not as it was scanned, or if blocks can not be shared and may not be copied.
    pub(super) fn copy(&self, scan: &Scan) -> Result<()> {
        let (directories, others) = scan.entries.iter().partition::<Vec<_>, _>(|e| e.kind == Kind::Directory);
        for entry in directories.iter().skip(1) {
            rustix::fs::mkdirat(self.to, &entry.path, Mode::RWXU).map_err(self.failed("copy", entry))?;
        }
        let (firsts, further) = by_first_names(others);
        // A file of several names is copied once.
        let total = firsts.iter().map(|entry| bytes_of(entry)).sum();
        let progress = Progress { watch: self.watch, total, done: AtomicU64::new(0) };
        each(&firsts, |entry| {
            let told = self.copy_one(entry, &progress)?;
            progress.add(bytes_of(entry).saturating_sub(told));
            Ok(())
        })?;
        for (first, entry) in further {
            self.link(first, entry)?;
        }
        // Deepest first: what is made in a directory changes its times. All are there by now, and none is changed again.
        for entry in directories.iter().rev() {
            self.describe_directory(entry)?;
        }
        Ok(())
    }

    /// Copies what is no directory; how many of its bytes `progress` has been told of.
    fn copy_one(&self, entry: &Entry, progress: &Progress<'_>) -> Result<u64> {
        match entry.kind {
            Kind::File => self.copy_file(entry, progress),
            Kind::Symlink => self.copy_symlink(entry).map(|()| 0),
            _ => self.copy_special(entry).map(|()| 0),
        }
    }

    fn copy_file(&self, entry: &Entry, progress: &Progress<'_>) -> Result<u64> {
        let from = open_quietly(self.from, &entry.path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW)
            .map_err(|errno| self.unreadable(errno, entry))?;
        self.check_unchanged(from.as_fd(), entry)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let to = rustix::fs::openat(self.to, &entry.path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(self.failed("copy", entry))?;
        copy_nocow(from.as_fd(), to.as_fd());
        let (from, to, told) = self.copy_content(from, to, entry, progress)?;
        describe(entry, &Pair { from: from.as_fd(), to: to.as_fd() }).map_err(self.failed("copy", entry))?;
        self.check_unchanged(from.as_fd(), entry).map(|()| told)
    }

    fn copy_content(
        &self,
        from: OwnedFd,
        to: OwnedFd,
        entry: &Entry,
        progress: &Progress<'_>,
    ) -> Result<(OwnedFd, OwnedFd, u64)> {
        if entry.size == 0 {
            return Ok((from, to, 0));
        }
        match rustix::fs::ioctl_ficlone(&to, &from) {
            Ok(()) => return Ok((from, to, 0)),
            Err(errno) if !can_not_be_shared(errno) => return Err(self.failed("copy", entry)(errno)),
            Err(errno) if !self.copying => return Err(self.not_shared(errno, entry, progress.total)),
            Err(_) => {}
        }
        let (mut from, mut to) = (File::from(from), File::from(to));
        let told = copy_data(&mut from, &mut to, entry.size, progress);
        let told = told.map_err(Error::io("copy", self.shown(entry)))?;
        Ok((from.into(), to.into(), told))
    }

    fn not_shared(&self, errno: Errno, entry: &Entry, total: u64) -> Error {
        Error::Refused {
            op: "copy",
            subject: self.label.into(),
            why: format!(
                "its filesystem can not share blocks between files (FICLONE of {}: {})",
                self.shown(entry),
                io::Error::from(errno)
            ),
            hint: Some((self.hint)(total)),
        }
    }

    fn copy_symlink(&self, entry: &Entry) -> Result<()> {
        let link = open(self.from, &entry.path, OFlags::PATH | OFlags::NOFOLLOW)
            .map_err(|errno| self.unreadable(errno, entry))?;
        self.check_unchanged(link.as_fd(), entry)?;
        let to = rustix::fs::readlinkat(&link, "", Vec::new()).map_err(|e| self.unreadable(e, entry))?;
        rustix::fs::symlinkat(&to, self.to, &entry.path).map_err(self.failed("copy", entry))?;
        self.describe_unopened(entry)
    }

    fn copy_special(&self, entry: &Entry) -> Result<()> {
        let kind = match entry.kind {
            Kind::CharDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
            Kind::Fifo => FileType::Fifo,
            _ => FileType::Socket,
        };
        let device = makedev(entry.device.0, entry.device.1);
        rustix::fs::mknodat(self.to, &entry.path, kind, Mode::RUSR | Mode::WUSR, device)
            .map_err(self.failed("copy", entry))?;
        self.describe_unopened(entry)
    }

    fn describe_unopened(&self, entry: &Entry) -> Result<()> {
        describe_unopened(entry, self.from, self.to).map_err(self.failed("copy", entry))
    }

    fn describe_directory(&self, entry: &Entry) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let from = open_quietly(self.from, &entry.path, flags).map_err(|e| self.unreadable(e, entry))?;
        self.check_unchanged(from.as_fd(), entry)?;
        let to = open(self.to, &entry.path, flags).map_err(self.failed("copy", entry))?;
        describe(entry, &Pair { from: from.as_fd(), to: to.as_fd() }).map_err(self.failed("copy", entry))
    }

    /// Gives the copy of `first` the further name of `entry`.
    fn link(&self, first: &Entry, entry: &Entry) -> Result<()> {
        let flags = rustix::fs::AtFlags::empty();
        rustix::fs::linkat(self.to, &first.path, self.to, &entry.path, flags)
            .map_err(self.failed("copy", entry))
    }

    fn check_unchanged(&self, fd: BorrowedFd<'_>, entry: &Entry) -> Result<()> {
        let now = entry_of(fd, &entry.path).map_err(self.failed("examine", entry))?;
        match now.is_unchanged_since(entry) {
            true => Ok(()),
            false => Err(changed(self.label, &entry.path)),
        }
    }

    fn unreadable(&self, errno: Errno, entry: &Entry) -> Error {
        match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::STALE => {
                changed(self.label, &entry.path)
            }
            errno => self.failed("read", entry)(errno),
        }
    }

    fn failed(&self, op: &'static str, entry: &Entry) -> impl FnOnce(Errno) -> Error {
        Error::io(op, self.shown(entry))
    }

    fn shown(&self, entry: &Entry) -> String {
        shown(self.label, &entry.path)
    }
}

/// Those that are made, and beside them the further names of some: (the first name, another).
fn by_first_names(entries: Vec<&Entry>) -> (Vec<&Entry>, Vec<(&Entry, &Entry)>) {
    let mut seen: HashMap<u64, &Entry> = HashMap::new();
    let (mut firsts, mut further) = (Vec::new(), Vec::new());
    for entry in entries {
        match seen.get(&entry.inode) {
            Some(first) if entry.is_linked() => further.push((*first, entry)),
            _ => {
                seen.insert(entry.inode, entry);
                firsts.push(entry);
            }
        }
    }
    (firsts, further)
}

/// What FICLONE says where two files can not have blocks in common, or this one not (kernel-notes/reflink.md).
pub(super) fn can_not_be_shared(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::OPNOTSUPP | Errno::NOTTY | Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::TXTBSY
    )
}

/// How many bytes of data something has.
fn bytes_of(entry: &Entry) -> u64 {
    if entry.kind == Kind::File { entry.size } else { 0 }
}

/// How far all of it is.
struct Progress<'a> {
    watch: &'a Watch,
    total: u64,
    done: AtomicU64,
}

impl Progress<'_> {
    fn add(&self, bytes: u64) {
        if let Some(tell) = &self.watch.0 {
            tell(self.done.fetch_add(bytes, Ordering::Relaxed) + bytes, self.total);
        }
    }
}

/// Copies what is not a hole, and tells of it; how many bytes that were. Both are empty beyond.
fn copy_data(from: &mut File, to: &mut File, length: u64, progress: &Progress<'_>) -> io::Result<u64> {
    const CHUNK: u64 = 16 << 20;
    to.set_len(length)?;
    let (mut at, mut told) = (0, 0);
    while at < length {
        let (start, end) = next_data(from, at, length)?;
        at = start;
        while at < end {
            interrupt::check()?;
            let wanted = CHUNK.min(end - at);
            from.seek(io::SeekFrom::Start(at))?;
            to.seek(io::SeekFrom::Start(at))?;
            // Within the kernel where that is possible.
            let n = io::copy(&mut from.by_ref().take(wanted), to)?;
            if n == 0 {
                return Err(io::Error::other("it became shorter while it was copied"));
            }
            at += n;
            if at < length {
                // The last of it is told with the file.
                progress.add(n);
                told += n;
            }
        }
    }
    Ok(told)
}

/// Where the next data at or after `at` begins and ends; both are `length` if there is none.
fn next_data(file: &File, at: u64, length: u64) -> io::Result<(u64, u64)> {
    let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Err(Errno::NXIO) => return Ok((length, length)),
        Err(Errno::INVAL) => return Ok((at, length)), // A filesystem that knows no holes.
        other => other?.min(length),
    };
    let end = rustix::fs::seek(file, SeekFrom::Hole(start)).unwrap_or(length);
    Ok((start, end.min(length)))
}

/// Removes the directory `name` of `parent` with all that is in it, be it locked by flags.
pub(in crate::endpoint) fn remove_all(parent: BorrowedFd<'_>, name: &Path) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // By the descriptor, so that nothing but what is below it can be meant.
    let path = Path::new("/proc/self/fd").join(parent.as_raw_fd().to_string()).join(name);
    match std::fs::remove_dir_all(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            unlock_all(&path)?;
            std::fs::remove_dir_all(&path)
        }
        other => other,
    }
}

/// Lets everything below be removed again: takes flags off that lock it, and gives its owner the right to enter it.
fn unlock_all(root: &Path) -> io::Result<()> {
    use crate::endpoint::tree::describe::LOCKING;
    let mut folders = vec![root.to_owned()];
    let unlock = |path: &Path, flags: OFlags| -> io::Result<()> {
        let file = rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::NOFOLLOW | flags, Mode::empty())?;
        match rustix::fs::ioctl_getflags(&file) {
            Ok(now) if now.intersects(LOCKING) => Ok(rustix::fs::ioctl_setflags(&file, now - LOCKING)?),
            _ => Ok(()),
        }
    };
    while let Some(folder) = folders.pop() {
        // An owner who may not enter his directory may allow himself to.
        let _ = rustix::fs::chmodat(CWD, &folder, Mode::RWXU, rustix::fs::AtFlags::empty());
        unlock(&folder, OFlags::DIRECTORY)?;
        let _ = rustix::fs::chmodat(CWD, &folder, Mode::RWXU, rustix::fs::AtFlags::empty());
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            match kind.is_dir() {
                true => folders.push(entry.path()),
                false if kind.is_file() => {
                    let _ = unlock(&entry.path(), OFlags::NONBLOCK); // If it matters, its removal says so.
                }
                false => {}
            }
        }
    }
    Ok(())
}

/// The hint of what needs `--copy`: the command with it, and what it will cost.
pub(super) fn copy_hint(command: &str, label: &str, bytes: u64) -> String {
    format!(
        "{command} (copies {} MiB), or cowsnap adopt {} --to POOL/NAME: snapshots take milliseconds there",
        bytes.div_ceil(1 << 20),
        quoted(label)
    )
}
