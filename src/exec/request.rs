//! Requests for a run of a job: files in `requests` below the state directory. What is in one does not matter; that it is there does.
//!
//! **Invariant:** a request is gone only when there is a snapshot that was begun after it was made. A run takes it aside first, so that one that is made meanwhile
//! is another one; one that was taken aside by a run that died counts still.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::{Error, Result};

/// All of a machine.
#[derive(Debug, Clone)]
pub struct Requests {
    dir: PathBuf,
}

impl Requests {
    /// Those below `state_dir`.
    pub fn below(state_dir: &Path) -> Self {
        Self { dir: state_dir.join("requests") }
    }

    /// Where that of `job` is.
    pub fn path(&self, job: &str) -> PathBuf {
        self.dir.join(job)
    }

    /// Asks for a run of `job`, and comes back when that is on the disk. Answers whether somebody had asked already, and nobody has heard it.
    ///
    /// # Errors
    /// A directory that can not be written to; something else of that name.
    pub fn add(&self, job: &str) -> Result<bool> {
        fs::create_dir_all(&self.dir).map_err(Error::io("make", self.dir.display()))?;
        let path = self.path(job);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let is_new = match rustix::fs::open(&path, flags, Mode::from_raw_mode(0o644)) {
            Ok(_) => true,
            Err(rustix::io::Errno::EXIST) if is_file(&path)? => false,
            Err(error) => return Err(Error::io("make", path.display())(error.into())),
        };
        self.sync().map_err(Error::io("sync", self.dir.display()))?;
        Ok(!is_new)
    }

    /// Whether there is a request that no snapshot has followed on.
    ///
    /// # Errors
    /// A directory that can not be read.
    pub fn is_open(&self, job: &str) -> Result<bool> {
        Ok(is_file(&self.path(job))? || is_file(&self.aside(job))?)
    }

    /// Takes it aside, if there is one: for who is about to take the snapshot, and no other run is.
    ///
    /// # Errors
    /// A directory that can not be written to.
    pub fn take_aside(&self, job: &str) -> Result<()> {
        let path = self.path(job);
        if !is_file(&path)? {
            return Ok(());
        }
        match fs::rename(&path, self.aside(job)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            renamed => renamed.map_err(Error::io("rename", path.display())),
        }
    }

    /// There is a snapshot: what was taken aside is done.
    ///
    /// # Errors
    /// A directory that can not be written to.
    pub fn fulfil(&self, job: &str) -> Result<()> {
        let path = self.aside(job);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(Error::io("remove", path.display())),
        }
    }

    /// The names of all that are there.
    ///
    /// # Errors
    /// A directory that can not be read.
    pub fn names(&self) -> Result<Vec<String>> {
        let read = || Error::io("read", self.dir.display());
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(read())?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry.map_err(read())?.file_name().to_string_lossy().into_owned();
            found.extend((!name.starts_with('.')).then_some(name));
        }
        found.sort();
        Ok(found)
    }

    /// No job's name begins so.
    fn aside(&self, job: &str) -> PathBuf {
        self.dir.join(format!(".taken.{job}"))
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(File::open(&self.dir)?.as_fd())?)
    }
}

/// A link, or a directory, asks for nothing: it could be taken aside, but not away.
fn is_file(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(meta) => Ok(meta.is_file()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io("look at", path.display())(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_open_until_a_snapshot_that_was_begun_after_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let requests = Requests::below(folder.path());
        let is_open = || requests.is_open("a").expect("it is read");
        requests.take_aside("a").expect("nothing is there");
        requests.fulfil("a").expect("nothing is there");
        assert!(!is_open() && requests.names().expect("read").is_empty());
        assert!(!requests.add("a").expect("made") && requests.add("a").expect("made"));
        assert!(is_open());
        // One that dies between leaves it open.
        requests.take_aside("a").expect("taken");
        assert!(is_open());
        // One that is made meanwhile is another one.
        assert!(!requests.add("a").expect("made"));
        requests.fulfil("a").expect("done");
        assert!(is_open() && requests.names().expect("read") == ["a"]);
        requests.take_aside("a").expect("taken");
        requests.take_aside("a").expect("taken once");
        requests.fulfil("a").expect("done");
        assert!(!is_open());
    }

    #[test]
    fn what_is_no_file_asks_for_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let requests = Requests::below(folder.path());
        fs::create_dir_all(requests.path("a")).expect("made");
        std::os::unix::fs::symlink("/etc/passwd", requests.path("b")).expect("made");
        for job in ["a", "b"] {
            assert!(!requests.is_open(job).expect("it is read"));
            requests.take_aside(job).expect("nothing to take");
            assert!(requests.add(job).is_err());
        }
    }
}
