//! Who has files open for writing, by `/proc` (kernel-notes/proc.md).

use std::borrow::Cow;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, makedev, statx};
use rustix::io::Errno;

mod survey;

pub use survey::{Asked, Survey};

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
pub struct Files<'a> {
    device: u64,
    inodes: Option<Cow<'a, [u64]>>, // Sorted. None: all of the device.
    below: Option<&'a Path>,        // What is made there later belongs to them, too.
}

impl Files<'_> {
    /// These of a device.
    pub fn these(device: u64, inodes: impl IntoIterator<Item = u64>) -> Self {
        let mut inodes: Vec<_> = inodes.into_iter().collect();
        inodes.sort_unstable();
        Self { device, inodes: Some(inodes.into()), below: None }
    }

    fn hold(&self, device: u64, inode: u64, path: &Path) -> bool {
        let is_named = || self.below.is_some_and(|below| path.starts_with(below));
        let is_known = |all: &[u64]| all.binary_search(&inode).is_ok() || is_named();
        device == self.device && self.inodes.as_deref().is_none_or(is_known)
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
pub fn find(files: &[Files<'_>]) -> io::Result<Found> {
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
        match unless_gone(writes_to(&process, files)) {
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

/// One of these that it can write to. Of one whose first thread has ended, the others tell.
fn writes_to(process: &Path, files: &[Files<'_>]) -> io::Result<Option<PathBuf>> {
    let of = |process: &Path| match open(process, files)? {
        None => mapped(process, files),
        open => Ok(open),
    };
    let found = of(process)?;
    let stat = || fs::read_to_string(process.join("stat")).unwrap_or_default();
    if found.is_some() || !stat().rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')) {
        return Ok(found);
    }
    for thread in fs::read_dir(process.join("task"))? {
        // Each has a folder of its own there as if it were a process, with all that one has.
        let thread = Path::new("/proc").join(thread?.file_name());
        if let Some(Some(file)) = unless_gone(of(&thread))? {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// One of these that this process itself has open for writing, or in memory so.
///
/// # Errors
/// A `/proc` that can not be read.
pub fn own(files: &[Files<'_>]) -> io::Result<Option<PathBuf>> {
    let process = Path::new("/proc/self");
    match open(process, files)? {
        None => mapped(process, files),
        open => Ok(open),
    }
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
fn open(process: &Path, files: &[Files<'_>]) -> io::Result<Option<PathBuf>> {
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
fn mapped(process: &Path, files: &[Files<'_>]) -> io::Result<Option<PathBuf>> {
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
fn held(link: &Path, files: &[Files<'_>]) -> io::Result<Option<PathBuf>> {
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

    /// What is found while a shell has descriptor 9 open `how`, of that child only.
    fn with(files: &[Files<'_>], how: &str) -> Vec<PathBuf> {
        let line = format!("exec 9{how}; exec sleep 600");
        let mut command = Command::new("sh");
        let mut child = command.args(["-c", &line]).stdin(Stdio::null()).spawn().expect("it starts");
        // By then the shell has let go of all else.
        let name = format!("/proc/{}/comm", child.id());
        while fs::read_to_string(&name).expect("it runs") != "sleep\n" {
            std::thread::yield_now();
        }
        let found = find(files).expect("/proc is read");
        child.kill().and_then(|()| child.wait()).expect("killed");
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
        let survey = Survey::of(folder.path()).expect("read");
        for files in [vec![survey.files()], vec![Files::these(device, [inode])]] {
            for (how, writes) in [(">>", true), ("<>", true), ("<", false)] {
                let found = with(&files, &format!("{how}{}", path.display()));
                let expected = if writes { vec![path.clone()] } else { Vec::new() };
                assert_eq!(found, expected, "{how}");
            }
        }
        assert_eq!(find(&[]).expect("nobody is looked at"), Found::default());
    }

    #[test]
    fn what_is_made_after_the_look_belongs_to_it_and_what_lies_elsewhere_does_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let inside = folder.path().canonicalize().expect("there").join("inside");
        fs::create_dir(&inside).expect("made");
        let survey = Survey::of(&inside).expect("read");
        let files = [survey.files()];
        let new = inside.join("new");
        let found = with(&files, &format!(">{}", new.display()));
        assert_eq!(found, [new]);
        let beside = folder.path().join("beside");
        let found = with(&files, &format!(">{}", beside.display()));
        assert_eq!(found, [""; 0].map(PathBuf::from));
        assert_eq!(own(&files).expect("read"), None);
        let _mine = fs::File::create(inside.join("mine")).expect("made");
        assert_eq!(own(&files).expect("read"), Some(inside.join("mine")));
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
