//! Who has files open for writing, by `/proc` (kernel-notes/proc.md).

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, makedev, statx};
use rustix::io::Errno;

/// The inode of every subvolume's root.
const FIRST_FREE_OBJECTID: u64 = 256;
const BTRFS: u64 = 0x9123_683e;
const ZFS: u64 = 0x2fc1_2fc1;
/// Of `include/uapi/asm-generic/fcntl.h`.
const F_SETSIG: libc::c_int = 10;

/// What may stand at the root of a dataset and holds its snapshots, to which nobody can write: there may be many.
const SNAPSHOTS: [&str; 2] = [".zfs", ".cowsnap-trees"];

/// A process, and a file that it can write to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writer {
    /// Its number.
    pub pid: u32,
    /// Its name, as `ps` shows it.
    pub name: String,
    /// One of its files.
    pub file: PathBuf,
}

impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by {} ({})", self.file.display(), self.name, self.pid)
    }
}

/// What may not be written to. A file is told by device and inode, whatever path a process knows it by: a container has paths of its own.
#[derive(Debug)]
pub struct Files {
    device: u64,
    inodes: Option<HashSet<u64>>, // None: all of the device.
    below: Option<PathBuf>,       // What is made there later belongs to them, too.
}

impl Files {
    /// These of a device.
    pub fn these(device: u64, inodes: HashSet<u64>) -> Self {
        Self { device, inodes: Some(inodes), below: None }
    }

    /// All below the directory `path`, on its filesystem. A subvolume's and a ZFS filesystem's device is its own, elsewhere all files are
    /// looked at.
    ///
    /// # Errors
    /// A directory that can not be read.
    pub fn below(path: &Path) -> io::Result<Self> {
        let path = path.canonicalize()?;
        let meta = path.metadata()?;
        let is_whole = match rustix::fs::statfs(&path)?.f_type as u64 {
            BTRFS => meta.ino() == FIRST_FREE_OBJECTID,
            ZFS => path.parent().is_none_or(|above| above.metadata().is_ok_and(|a| a.dev() != meta.dev())),
            _ => false,
        };
        let inodes = if is_whole { None } else { Some(inodes(&path, meta.dev())?) };
        Ok(Self { device: meta.dev(), inodes, below: Some(path) })
    }

    fn hold(&self, device: u64, inode: u64, path: &Path) -> bool {
        let is_named = || self.below.as_ref().is_some_and(|below| path.starts_with(below));
        device == self.device && self.inodes.as_ref().is_none_or(|all| all.contains(&inode) || is_named())
    }
}

/// Of all below `root` that is no directory.
fn inodes(root: &Path, device: u64) -> io::Result<HashSet<u64>> {
    let mut found = HashSet::new();
    walk(root, device, &mut |_, meta| {
        found.insert(meta.ino());
        Ok(())
    })?;
    Ok(found)
}

/// Shows all below `root` on its filesystem that is no directory. What goes meanwhile is left out.
fn walk(
    root: &Path,
    device: u64,
    show: &mut dyn FnMut(&Path, &Metadata) -> io::Result<()>,
) -> io::Result<()> {
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let is_root = folder == root;
        let Some(entries) = unless_gone(fs::read_dir(folder))? else { continue };
        for entry in entries {
            let entry = entry?;
            if is_root && SNAPSHOTS.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            let Some(meta) = unless_gone(entry.metadata())? else { continue };
            if meta.is_dir() && meta.dev() == device {
                folders.push(entry.path());
            } else if !meta.is_dir() {
                show(&entry.path(), &meta)?;
            }
        }
    }
    Ok(())
}

/// A file below `root`, on its filesystem, that somebody has open for writing, whoever it is: the kernel is asked of each. It knows of more than
/// [`find`], and not who.
///
/// # Errors
/// A file that can not be opened.
pub fn any_below(root: &Path) -> io::Result<Option<PathBuf>> {
    let root = root.canonicalize()?;
    let mut found = None;
    walk(&root, root.metadata()?.dev(), &mut |path, meta| {
        if meta.is_file() && unless_gone(is_written(path))?.unwrap_or(false) {
            found.get_or_insert_with(|| path.to_owned());
        }
        Ok(())
    })?;
    Ok(found)
}

/// A lease for reading is not granted of a file that is open for writing, or in memory to be written.
fn is_written(path: &Path) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::WOULDBLOCK) => return Ok(true), // It is leased to a writer.
        opened => opened?,
    };
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
        // The filesystem has no leases.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What [`find`] saw.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Processes, each with one of the files.
    pub writers: Vec<Writer>,
    /// How many processes this one may not look into. Of these nothing is known.
    pub n_unseen: usize,
}

/// Each process, this one aside, that has one of these open for writing, or in memory as shared and to be written.
///
/// # Errors
/// A `/proc` that can not be read.
pub fn find(files: &[Files]) -> io::Result<Found> {
    let mut found = Found::default();
    if files.is_empty() {
        return Ok(found);
    }
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if pid == std::process::id() {
            continue;
        }
        let process = entry.path();
        let file = match open(&process, files) {
            Ok(None) => mapped(&process, files),
            open => open,
        };
        match unless_gone(file) {
            Ok(Some(Some(file))) => {
                let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
                found.writers.push(Writer { pid, name: name.trim_end().into(), file });
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => found.n_unseen += 1,
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// A process may end while it is looked at.
fn unless_gone<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    const ESRCH: i32 = Errno::SRCH.raw_os_error();
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(ESRCH) => {
            Ok(None)
        }
        read => read.map(Some),
    }
}

/// A file that it has a descriptor of that can write.
fn open(process: &Path, files: &[Files]) -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir(process.join("fd"))? {
        let link = entry?.path();
        let Some(file) = unless_gone(held(&link, files))?.flatten() else { continue };
        let info = process.join("fdinfo").join(link.file_name().unwrap_or_default());
        let Some(info) = unless_gone(fs::read_to_string(info))? else { continue };
        if writes(&info) {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// A file whose pages it can write to: a mapping outlives its descriptor.
fn mapped(process: &Path, files: &[Files]) -> io::Result<Option<PathBuf>> {
    let maps = fs::read(process.join("maps"))?;
    for line in String::from_utf8_lossy(&maps).lines() {
        let Some(range) = writable_mapping(line) else { continue };
        // The device in the line is not the subvolume's on btrfs; that of the file behind the link is.
        if let Some(Some(file)) = unless_gone(held(&process.join("map_files").join(range), files))? {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// Where it is in memory, if it is a file's that others see changed: `7f00-7f01 rw-s 00000000 fe:00 10018962   /srv/chain/db`
fn writable_mapping(line: &str) -> Option<&str> {
    let (range, rest) = line.split_once(' ')?;
    let mode = rest.split(' ').next()?.as_bytes();
    (mode.get(1) == Some(&b'w') && mode.last() == Some(&b's') && line.contains('/')).then_some(range)
}

/// The file behind a link of `/proc`, if it is one of these.
fn held(link: &Path, files: &[Files]) -> io::Result<Option<PathBuf>> {
    // The device alone is told without asking a server that may not answer, or may not want to.
    let seen = statx(CWD, link, AtFlags::STATX_DONT_SYNC, StatxFlags::empty())?;
    let device = makedev(seen.stx_dev_major, seen.stx_dev_minor);
    if files.iter().all(|files| files.device != device) {
        return Ok(None);
    }
    let meta = fs::metadata(link)?;
    if !meta.is_file() {
        return Ok(None);
    }
    let file = fs::read_link(link)?;
    Ok(files.iter().any(|files| files.hold(meta.dev(), meta.ino(), &file)).then_some(file))
}

/// From `fdinfo`: its flags are those of a descriptor that can write.
fn writes(info: &str) -> bool {
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
    const ACCESS_MODE: u32 = 0o3;
    flags.is_none_or(|flags| flags & ACCESS_MODE != 0)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// What is found below `folder` while a shell has descriptor 9 open `how`, of that child only.
    fn with(folder: &Path, files: &[Files], how: &str) -> Vec<PathBuf> {
        let up = folder.join("up");
        let line = format!("exec 9{how}; : > {}; exec sleep 600", up.display());
        let mut command = Command::new("sh");
        let mut child = command.args(["-c", &line]).stdin(Stdio::null()).spawn().expect("it starts");
        while !up.exists() {
            std::thread::yield_now();
        }
        let found = find(files).expect("/proc is read");
        child.kill().and_then(|()| child.wait()).expect("killed");
        fs::remove_file(up).expect("removed");
        found
            .writers
            .into_iter()
            .filter(|writer| writer.pid == child.id())
            .map(|writer| writer.file)
            .collect()
    }

    #[test]
    fn who_can_write_is_found_and_who_reads_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().canonicalize().expect("there").join("file");
        fs::write(&path, "x").expect("written");
        let inode = path.metadata().expect("there").ino();
        let device = path.metadata().expect("there").dev();
        for files in [
            vec![Files::below(folder.path()).expect("read")],
            vec![Files::these(device, HashSet::from([inode]))],
        ] {
            for (how, writes) in [(">>", true), ("<>", true), ("<", false)] {
                let found = with(folder.path(), &files, &format!("{how}{}", path.display()));
                let expected = if writes { vec![path.clone()] } else { Vec::new() };
                assert_eq!(found, expected, "{how}");
                assert_eq!(any_below(folder.path()).expect("asked"), None, "{how}: it is closed again");
            }
        }
        assert_eq!(find(&[]).expect("nobody is looked at"), Found::default());
    }

    #[test]
    fn the_kernel_tells_of_a_descriptor_or_a_mapping_that_writes_and_of_no_reader() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().canonicalize().expect("there").join("file");
        fs::write(&path, [0; 4096]).expect("written");
        let asked = || any_below(folder.path()).expect("asked");
        let reader = fs::File::open(&path).expect("opened");
        assert_eq!(asked(), None);
        drop(reader);
        let writer = fs::File::options().read(true).write(true).open(&path).expect("opened");
        assert_eq!(asked().as_ref(), Some(&path));
        let null = std::ptr::null_mut();
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping of a file that is as long.
        let at = unsafe { libc::mmap(null, 4096, rights, libc::MAP_SHARED, writer.as_raw_fd(), 0) };
        assert_ne!(at, libc::MAP_FAILED);
        drop(writer);
        assert_eq!(asked().as_ref(), Some(&path), "mapped");
        // SAFETY: the mapping of above, which nothing refers to.
        assert_eq!(unsafe { libc::munmap(at, 4096) }, 0);
        assert_eq!(asked(), None);
    }

    #[test]
    fn snapshots_at_the_root_are_not_walked() {
        let folder = tempfile::tempdir().expect("a folder");
        let written = |path: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            let _writer = fs::File::create(&path).expect("made");
            any_below(folder.path()).expect("asked").is_some()
        };
        assert!(!written(".zfs/snapshot/a/file") && !written(".cowsnap-trees/file"));
        assert!(written("inside/.zfs/file"));
    }

    #[test]
    fn what_is_made_after_the_look_belongs_to_it_and_what_lies_elsewhere_does_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let inside = folder.path().canonicalize().expect("there").join("inside");
        fs::create_dir(&inside).expect("made");
        let files = [Files::below(&inside).expect("read")];
        let new = inside.join("new");
        let found = with(folder.path(), &files, &format!(">{}", new.display()));
        assert_eq!(found, [new]);
        let beside = folder.path().join("beside");
        let found = with(folder.path(), &files, &format!(">{}", beside.display()));
        assert_eq!(found, [""; 0].map(PathBuf::from));
    }

    #[test]
    fn only_shared_writable_mappings_of_files_count() {
        let line = |rights: &str| format!("7f00-7f01 {rights} 00000000 fe:00 42   /srv/a db");
        assert_eq!(writable_mapping(&line("rw-s")), Some("7f00-7f01"));
        assert_eq!(writable_mapping(&line("rw-p")), None);
        assert_eq!(writable_mapping(&line("r--s")), None);
        assert_eq!(writable_mapping("7f00-7f01 rw-s 00000000 00:00 0"), None);
    }

    #[test]
    fn what_is_read_of_flags() {
        assert!(writes("pos:\t0\nflags:\t0100001\n") && writes("flags:\t02\n") && writes("nothing"));
        assert!(!writes("pos:\t0\nflags:\t0100000\n"));
    }
}
