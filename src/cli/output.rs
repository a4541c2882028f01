//! Where bytes go: standard output, or a file that gets its name only when it is complete.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::endpoint;
use crate::sys::interrupt;
use crate::{Error, Result};

/// An output that is not there under its final name before [`Output::commit`]. Dropped before, it leaves nothing.
pub struct Output {
    file: interrupt::Output<File>,
    at: Name,
}

/// What has to be done to give the file its name.
enum Name {
    /// It has it: standard output, a device, a FIFO.
    Already,
    /// It has none; the kernel removes it when it is closed.
    Nameless(PathBuf),
    /// It has another one.
    Temporary { temporary: Temporary, path: PathBuf },
}

/// A name that is taken away with the value.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // Gone already if it was renamed; otherwise there is nobody left to tell.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Output {
    /// `path`, or standard output without one or for `-`.
    ///
    /// # Errors
    /// Standard output that is a terminal, a file that exists already, a directory that is not there or not writable.
    pub fn open(path: Option<&Path>) -> Result<Self> {
        match path {
            Some(path) if path.as_os_str() != "-" => Self::create(path),
            _ => Self::stdout(),
        }
    }

    fn stdout() -> Result<Self> {
        let stdout = io::stdout();
        if stdout.is_terminal() {
            let what = "standard output is a terminal, which can not take a stream".into();
            return Err(Error::Usage { what, hint: Some("give -o FILE, or pipe it on".into()) });
        }
        let file = stdout.as_fd().try_clone_to_owned().map_err(Error::io("write to", "standard output"))?;
        Ok(Self { file: interrupt::Output(file.into()), at: Name::Already })
    }

    fn create(path: &Path) -> Result<Self> {
        if path.metadata().is_ok_and(|meta| !meta.is_file() && !meta.is_dir()) {
            let file = interrupt::open_to_write(path).map_err(Error::io("open", path.display()))?;
            return Ok(Self { file: interrupt::Output(file), at: Name::Already });
        }
        if path.symlink_metadata().is_ok() {
            return Err(exists(path));
        }
        let (file, at) = nameless(path).or_else(|_| temporary(path))?;
        Ok(Self { file: interrupt::Output(file), at })
    }

    /// Makes the bytes durable and gives the file its name, unless something else has taken that meanwhile.
    ///
    /// # Errors
    /// What the kernel says; a name that is taken is a conflict. The bytes are gone then.
    pub fn commit(self) -> Result<()> {
        let file = self.file.0;
        let (path, named) = match &self.at {
            Name::Already => return Ok(()),
            Name::Nameless(path) => (path, sync(&file).and_then(|()| link(&file, path))),
            Name::Temporary { temporary, path } => {
                (path, sync(&file).and_then(|()| rename(&temporary.0, path)))
            }
        };
        match named {
            Ok(()) => sync_folder(path),
            Err(Errno::EXIST) => Err(exists(path)),
            Err(errno) => Err(Error::io("write", path.display())(errno.into())),
        }
    }
}

/// Puts `bytes` in place of what is at `path`, whole or not at all, with these permission bits. Nobody who reads it sees a part.
///
/// # Errors
/// A folder that is not there or not writable, a full disk.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let (file, at) = nameless(path).or_else(|_| temporary(path))?;
    let written = (&file).write_all(bytes).and_then(|()| {
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        sync(&file)?;
        match &at {
            Name::Temporary { temporary, path } => std::fs::rename(&temporary.0, path),
            Name::Nameless(_) | Name::Already => put_in_place(&file, path),
        }
    });
    written.map_err(Error::io("write", path.display()))?;
    sync_folder(path)
}

/// Through a name of its own, as the kernel gives a nameless file none that is taken.
fn put_in_place(file: &File, path: &Path) -> io::Result<()> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    let new = folder(path).join(name);
    loop {
        match link(file, &new) {
            Ok(()) => break,
            // Of a run that was killed here, or of one that is at it: then the later one's bytes are put in place, by whoever comes first.
            Err(Errno::EXIST) => match std::fs::remove_file(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            },
            Err(errno) => return Err(errno.into()),
        }
    }
    match std::fs::rename(&new, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => {
            let _ = std::fs::remove_file(&new);
            Err(error)
        }
        Ok(()) => Ok(()),
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn exists(path: &Path) -> Error {
    let subject = path.display().to_string();
    let hint = Some("remove it first, or choose another name".into());
    Error::Endpoint(endpoint::Error::Exists { what: "file", subject, hint })
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn nameless(path: &Path) -> Result<(File, Name)> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(folder(path), flags, Mode::from_raw_mode(0o666))
        .map_err(|errno| Error::io("create", path.display())(errno.into()))?;
    Ok((file.into(), Name::Nameless(path.into())))
}

/// Where the filesystem knows no nameless files.
fn temporary(path: &Path) -> Result<(File, Name)> {
    let name = format!(".cowsnap-{}.part", std::process::id());
    let temporary = folder(path).join(name);
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&temporary)
        .map_err(Error::io("create", path.display()))?;
    Ok((file, Name::Temporary { temporary: Temporary(temporary), path: path.into() }))
}

fn sync(file: &File) -> rustix::io::Result<()> {
    rustix::fs::fsync(file)
}

fn link(file: &File, path: &Path) -> rustix::io::Result<()> {
    use std::os::fd::AsRawFd;
    let magic = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::linkat(CWD, magic, CWD, path, AtFlags::SYMLINK_FOLLOW)
}

fn rename(from: &Path, to: &Path) -> rustix::io::Result<()> {
    rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)
}

fn sync_folder(path: &Path) -> Result<()> {
    let folder = folder(path);
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io("sync", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_replaced_at_once_is_one_of_them_whole_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.prom");
        std::fs::write(folder.path().join(".out.prom.new"), "left by who was killed").unwrap();
        let texts = ["a".repeat(100_000), "b".repeat(50_000)];
        std::thread::scope(|scope| {
            for text in &texts {
                scope.spawn(|| (0..20).for_each(|_| replace(&path, text.as_bytes(), 0o644).unwrap()));
            }
        });
        assert!(texts.contains(&std::fs::read_to_string(&path).unwrap()));
        assert_eq!(folder.path().read_dir().unwrap().count(), 1);
        std::fs::create_dir(folder.path().join("dir")).unwrap();
        assert!(replace(&folder.path().join("dir"), b"x", 0o644).is_err());
        assert_eq!(folder.path().read_dir().unwrap().count(), 2);
    }

    #[test]
    fn a_temporary_name_goes_with_the_value_and_a_taken_name_is_a_conflict() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let open = |path: &Path| {
            let (file, at) = temporary(path).unwrap();
            let mut output = Output { file: interrupt::Output(file), at };
            output.write_all(b"bytes").unwrap();
            output
        };
        drop(open(&path));
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
        open(&path).commit().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"bytes");
        assert_eq!(open(&path).commit().unwrap_err().class(), crate::Class::Conflict);
        assert_eq!(folder.path().read_dir().unwrap().count(), 1);
    }
}
