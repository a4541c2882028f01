//! What lies below a directory, and whether somebody has a file there open for writing, whoever it is: the kernel is asked of each.
//!
//! That takes long where there are many files. It is done once while there is time, and then again of what may have changed.

use std::collections::HashSet;
use std::fs::{self, DirEntry, Metadata};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{Files, unless_gone};
use crate::sys::interrupt;

/// The inode of every subvolume's root.
const FIRST_FREE_OBJECTID: u64 = 256;
const BTRFS: u64 = 0x9123_683e;
const ZFS: u64 = 0x2fc1_2fc1;
/// Of `include/uapi/asm-generic/fcntl.h`.
const F_SETSIG: libc::c_int = 10;
/// What may stand at the root of a dataset and holds its snapshots, to which nobody can write: there may be many.
const SNAPSHOTS: [&str; 2] = [".zfs", ".cowsnap-trees"];
/// How much later than a folder was changed its time says so: the kernel's clock for that has ticks, and some filesystems have whole seconds.
const TICK: Duration = Duration::from_secs(2);

/// All below a directory on its filesystem, as it was found.
#[derive(Debug)]
pub struct Survey {
    root: PathBuf,
    device: u64,
    is_whole: bool, // All of the device lies below the root.
    folders: Vec<Folder>,
    inodes: Vec<u64>, // Sorted, of what is no folder.
    written: Vec<PathBuf>,
}

/// A folder whose names are known.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    changed: Option<Changed>, // None: it may have changed since within the same tick.
}

/// When the names in which folder were changed last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Changed(i64, i64, u64);

impl Changed {
    fn of(meta: &Metadata) -> Self {
        Self(meta.ctime(), meta.ctime_nsec(), meta.ino())
    }
}

/// What was asked of the kernel a second time.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// A file that somebody has open for writing.
    pub written: Option<PathBuf>,
    /// Of how many files the kernel was not asked again, for want of time.
    pub n_left: usize,
}

impl Survey {
    /// Looks at all of it, and asks of each file, for as long as that takes.
    ///
    /// # Errors
    /// What can not be read, or asked of: a filesystem without leases, a file of others without CAP_LEASE; a signal.
    pub fn of(root: &Path) -> io::Result<Self> {
        let root = root.canonicalize()?;
        let meta = root.metadata()?;
        let is_whole = match rustix::fs::statfs(&root)?.f_type as u64 {
            BTRFS => meta.ino() == FIRST_FREE_OBJECTID,
            ZFS => root.parent().is_none_or(|above| above.metadata().is_ok_and(|a| a.dev() != meta.dev())),
            _ => false,
        };
        let (device, folders, inodes, written) = (meta.dev(), Vec::new(), Vec::new(), Vec::new());
        let mut survey = Self { root: root.clone(), device, is_whole, folders, inodes, written };
        survey.add(root, &mut |_| true)?;
        survey.inodes.sort_unstable();
        survey.inodes.dedup();
        Ok(survey)
    }

    /// What of it may not be written to, for [`find`](super::find).
    pub fn files(&self) -> Files<'_> {
        let inodes = (!self.is_whole).then_some(self.inodes.as_slice().into());
        Files { device: self.device, inodes, below: Some(&self.root) }
    }

    /// How many files there are.
    pub fn len(&self) -> usize {
        self.inodes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.inodes.is_empty()
    }

    /// Asks again, of every file that is new and every one that somebody had open for writing before; and of all others as long as there is time.
    ///
    /// # Errors
    /// As [`Survey::of`].
    pub fn again(&mut self, within: Duration) -> io::Result<Asked> {
        let until = Instant::now() + within;
        self.renew()?;
        for path in &self.written {
            if unless_gone(is_written(path))?.unwrap_or(false) {
                return Ok(Asked { written: Some(path.clone()), n_left: 0 });
            }
        }
        let (mut n_asked, mut written) = (0, None);
        for folder in &self.folders {
            entries(&folder.path, &self.root, &mut |entry| {
                let kind = entry.file_type()?;
                if kind.is_dir() {
                    return Ok(true);
                }
                if Instant::now() >= until {
                    return Ok(false);
                }
                n_asked += 1;
                if kind.is_file() {
                    written = unless_gone(is_written(&entry.path()))?.unwrap_or(false).then(|| entry.path());
                }
                Ok(written.is_none())
            })?;
            if written.is_some() {
                break;
            }
            if Instant::now() >= until {
                return Ok(Asked { written, n_left: self.inodes.len().saturating_sub(n_asked) });
            }
        }
        self.written.extend(written.clone());
        Ok(Asked { written, n_left: 0 })
    }

    /// Looks at the folders whose names may be others now. What was changed last is what is asked of first.
    fn renew(&mut self) -> io::Result<()> {
        let mut fresh = Vec::new();
        let mut kept = Vec::new();
        for folder in std::mem::take(&mut self.folders) {
            match unless_gone(fs::symlink_metadata(&folder.path))? {
                Some(meta) if meta.is_dir() && meta.dev() == self.device => {
                    let is_same = folder.changed == Some(Changed::of(&meta));
                    if is_same { kept.push(folder) } else { fresh.push(folder.path) }
                }
                _ => {}
            }
        }
        let old = std::mem::take(&mut self.inodes);
        let known: HashSet<PathBuf> =
            kept.iter().map(|folder| folder.path.clone()).chain(fresh.iter().cloned()).collect();
        for path in fresh {
            let mut only_new = |path: &Path| !known.contains(path);
            self.add_known(path, &mut only_new, &old)?;
        }
        self.folders.extend(kept);
        self.folders
            .sort_by_key(|folder| std::cmp::Reverse(folder.changed.unwrap_or(Changed(i64::MAX, 0, 0))));
        self.inodes.extend(old);
        self.inodes.sort_unstable();
        self.inodes.dedup();
        Ok(())
    }

    fn add(&mut self, folder: PathBuf, enters: &mut dyn FnMut(&Path) -> bool) -> io::Result<()> {
        self.add_known(folder, enters, &[])
    }

    /// Takes a folder in, and those inside that it `enters`; asks of files that are not `known`.
    fn add_known(
        &mut self,
        folder: PathBuf,
        enters: &mut dyn FnMut(&Path) -> bool,
        known: &[u64],
    ) -> io::Result<()> {
        let mut todo = vec![folder];
        while let Some(path) = todo.pop() {
            interrupt::check()?;
            let Some(changed) = unless_gone(changed(&path))? else { continue };
            let (device, inodes, written) = (self.device, &mut self.inodes, &mut self.written);
            entries(&path, &self.root, &mut |entry| {
                let kind = entry.file_type()?;
                if !kind.is_dir() && known.binary_search(&entry.ino()).is_ok() {
                    return Ok(true);
                }
                let (path, Some(meta)) = (entry.path(), unless_gone(entry.metadata())?) else {
                    return Ok(true);
                };
                if meta.is_dir() {
                    if meta.dev() == device && enters(&path) {
                        todo.push(path);
                    }
                    return Ok(true);
                }
                inodes.push(meta.ino());
                if meta.is_file() && unless_gone(is_written(&path))?.unwrap_or(false) {
                    written.push(path);
                }
                Ok(true)
            })?;
            self.folders.push(Folder { path, changed });
        }
        Ok(())
    }
}

/// When the folder's names were changed last, unless that may be this moment.
fn changed(folder: &Path) -> io::Result<Option<Changed>> {
    let meta = fs::symlink_metadata(folder)?;
    let then = UNIX_EPOCH + Duration::from_secs(meta.ctime().try_into().unwrap_or(0));
    let is_past = SystemTime::now().duration_since(then).is_ok_and(|gone| gone > TICK);
    Ok(is_past.then(|| Changed::of(&meta)))
}

/// Shows what is in a folder as long as `show` wants to see more. What goes meanwhile is left out.
fn entries(
    folder: &Path,
    root: &Path,
    show: &mut dyn FnMut(&DirEntry) -> io::Result<bool>,
) -> io::Result<()> {
    let Some(entries) = unless_gone(fs::read_dir(folder))? else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        if folder == root && SNAPSHOTS.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        if unless_gone(show(&entry))? == Some(false) {
            break;
        }
    }
    Ok(())
}

/// A lease for reading is not granted of a file that is open for writing, or in memory to be written. Nothing but a regular file is opened: a device
/// may do something then.
fn is_written(path: &Path) -> io::Result<bool> {
    let told = |error: io::Error| match error.kind() {
        kind @ (io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported) => {
            io::Error::new(kind, format!("{}: {error}", path.display()))
        }
        _ => error,
    };
    let Some(file) = opened(path).map_err(|errno| told(errno.into()))? else { return Ok(false) };
    let Some(file) = file else { return Ok(true) }; // It is leased to a writer.
    let set = |op, value: libc::c_int| {
        // SAFETY: sets what the kernel keeps of an open file, by an integer.
        match unsafe { libc::fcntl(file.as_raw_fd(), op, value) } {
            ..0 => Err(io::Error::last_os_error()),
            0.. => Ok(()),
        }
    };
    // Who opens it for writing at this moment has the kernel send a signal here, which would end this process were it SIGIO.
    set(F_SETSIG, libc::SIGURG)?;
    match set(libc::F_SETLEASE, libc::F_RDLCK) {
        Ok(()) => set(libc::F_SETLEASE, libc::F_UNLCK).map(|()| false),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) => Err(told(refused(error))),
    }
}

/// Why the kernel does not say it.
fn refused(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EINVAL | libc::EOPNOTSUPP) => io::Error::new(
            io::ErrorKind::Unsupported,
            "its filesystem can not say whether a file is open for writing (it has no leases)",
        ),
        Some(libc::EACCES | libc::EPERM) => io::Error::new(
            io::ErrorKind::PermissionDenied,
            "whether another user's file is open for writing is told to who has CAP_LEASE",
        ),
        _ => error,
    }
}

/// `None`: it is no regular file; `Some(None)`: nobody may read it now.
fn opened(path: &Path) -> rustix::io::Result<Option<Option<OwnedFd>>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = rustix::fs::open(path, flags, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) != FileType::RegularFile {
        return Ok(None);
    }
    let same = format!("/proc/self/fd/{}", found.as_raw_fd());
    match rustix::fs::openat(CWD, same, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::WOULDBLOCK) => Ok(Some(None)),
        file => Ok(Some(Some(file?))),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn asked(survey: &mut Survey, within: Duration) -> Asked {
        survey.again(within).expect("asked")
    }

    fn any_below(root: &Path) -> Option<PathBuf> {
        let survey = Survey::of(root).expect("asked");
        survey.written.first().cloned()
    }

    #[test]
    fn the_kernel_tells_of_a_descriptor_or_a_mapping_that_writes_and_of_no_reader() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().canonicalize().expect("there").join("file");
        fs::write(&path, [0; 4096]).expect("written");
        let reader = fs::File::open(&path).expect("opened");
        assert_eq!(any_below(folder.path()), None);
        drop(reader);
        let writer = fs::File::options().read(true).write(true).open(&path).expect("opened");
        let mut survey = Survey::of(folder.path()).expect("asked");
        assert_eq!((survey.len(), survey.written.first()), (1, Some(&path)));
        let null = std::ptr::null_mut();
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping of a file that is as long.
        let at = unsafe { libc::mmap(null, 4096, rights, libc::MAP_SHARED, writer.as_raw_fd(), 0) };
        assert_ne!(at, libc::MAP_FAILED);
        drop(writer);
        assert_eq!(asked(&mut survey, Duration::ZERO).written.as_ref(), Some(&path), "mapped");
        // SAFETY: the mapping of above, which nothing refers to.
        assert_eq!(unsafe { libc::munmap(at, 4096) }, 0);
        assert_eq!(asked(&mut survey, LONG), Asked::default());
    }

    #[test]
    fn snapshots_at_the_root_are_not_walked() {
        let folder = tempfile::tempdir().expect("a folder");
        let written = |path: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            let _writer = fs::File::create(&path).expect("made");
            any_below(folder.path()).is_some()
        };
        assert!(!written(".zfs/snapshot/a/file") && !written(".cowsnap-trees/file"));
        assert!(written("inside/.zfs/file"));
    }

    #[test]
    fn without_time_what_is_new_and_what_was_open_is_asked_of_and_the_rest_is_counted() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().canonicalize().expect("there");
        fs::create_dir_all(root.join("a/b")).expect("made");
        ["one", "a/two", "a/b/three"]
            .iter()
            .for_each(|name| fs::write(root.join(name), "").expect("written"));
        let opened = |name: &str| fs::File::options().write(true).open(root.join(name)).expect("opened");
        let first = opened("one");
        let mut survey = Survey::of(&root).expect("asked");
        assert_eq!(asked(&mut survey, Duration::ZERO).written, Some(root.join("one")));
        drop(first);
        assert_eq!(asked(&mut survey, Duration::ZERO), Asked { written: None, n_left: 3 });
        let second = opened("a/two");
        assert_eq!(
            asked(&mut survey, Duration::ZERO),
            Asked { written: None, n_left: 3 },
            "it was closed before"
        );
        assert_eq!(asked(&mut survey, LONG).written, Some(root.join("a/two")));
        drop(second);
        assert_eq!(asked(&mut survey, LONG), Asked::default());
        fs::create_dir_all(root.join("a/new/c")).expect("made");
        let third = fs::File::create(root.join("a/new/c/four")).expect("made");
        assert_eq!(asked(&mut survey, Duration::ZERO).written, Some(root.join("a/new/c/four")));
        assert!(survey.files().hold(
            survey.device,
            third.metadata().expect("there").ino(),
            Path::new("/elsewhere")
        ));
        drop(third);
        fs::remove_dir_all(root.join("a")).expect("removed");
        assert_eq!(asked(&mut survey, LONG).written, None);
    }

    #[test]
    fn neither_a_device_nor_a_pipe_nor_what_a_link_leads_to_is_opened() {
        let folder = tempfile::tempdir().expect("a folder");
        let (link, pipe) = (folder.path().join("link"), folder.path().join("pipe"));
        symlink("/dev/null", &link).expect("made");
        rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).expect("made");
        for path in [&link, &pipe, &PathBuf::from("/dev/null")] {
            assert!(opened(path).expect("looked at").is_none(), "{path:?}");
        }
        // A writer of the pipe would be told if it had a reader.
        assert!(!Survey::of(folder.path()).expect("asked").is_empty());
    }

    #[test]
    fn a_filesystem_without_leases_and_a_user_without_the_right_to_them_are_told() {
        let told = |errno: i32| {
            let error = refused(io::Error::from_raw_os_error(errno));
            (error.kind(), error.to_string())
        };
        let (kind, why) = told(libc::EINVAL);
        assert!(kind == io::ErrorKind::Unsupported && why.contains("its filesystem can not say"), "{why}");
        let (kind, why) = told(libc::EACCES);
        assert!(kind == io::ErrorKind::PermissionDenied && why.contains("CAP_LEASE"), "{why}");
        if rustix::process::geteuid().is_root() {
            return;
        }
        let error = is_written(Path::new("/etc/hostname")).expect_err("it is root's");
        assert!(error.to_string().starts_with("/etc/hostname: "), "{error}");
    }
}
