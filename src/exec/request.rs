//! Requests for a run of a job: files in `requests` below the state directory. What is in one does not matter; that it is there does.
//!
//! **Invariant:** a request is gone only when there is a snapshot that was begun after it was made. A run takes it aside first, so that one that is made meanwhile
//! is another one; one that was taken aside by a run that died counts still.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

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
        let is_new = loop {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match rustix::fs::open(&path, flags, Mode::from_raw_mode(0o644)) {
                Ok(_) => break true,
                Err(error) => match fs::symlink_metadata(&path) {
                    Ok(meta) if error == Errno::EXIST && meta.is_file() => break false,
                    // A run has taken it aside in between: that one may be too late for whoever asks now.
                    Err(gone) if error == Errno::EXIST && gone.kind() == io::ErrorKind::NotFound => {}
                    _ => return Err(Error::io("make", path.display())(error.into())),
                },
            }
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

    /// Whether there is one that no run has begun to do.
    ///
    /// # Errors
    /// A directory that can not be read.
    pub fn is_new(&self, job: &str) -> Result<bool> {
        is_file(&self.path(job))
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
        self.make_room(job)?;
        match fs::rename(&path, self.aside(job)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            renamed => renamed.map_err(Error::io("rename", path.display())),
        }
    }

    /// What is no request, and has the name of what is taken aside, gets another name: no file can be put in a directory's place.
    fn make_room(&self, job: &str) -> Result<()> {
        let aside = self.aside(job);
        if is_file(&aside)? || !is_there(&aside)? {
            return Ok(());
        }
        let mut other = (0..).map(|n: u32| self.dir.join(format!(".no-request.{n}.{job}")));
        let free = loop {
            match other.next() {
                Some(path) if is_there(&path)? => {}
                free => break free.expect("numbers do not end"),
            }
        };
        fs::rename(&aside, free).map_err(Error::io("rename", aside.display()))
    }

    /// There is a snapshot: what was taken aside is done.
    ///
    /// # Errors
    /// A directory that can not be written to.
    pub fn fulfil(&self, job: &str) -> Result<()> {
        let path = self.aside(job);
        if !is_file(&path)? {
            return Ok(());
        }
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

fn is_there(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
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

    #[test]
    fn what_is_in_the_place_of_what_is_taken_aside_stops_no_job_and_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let requests = Requests::below(folder.path());
        for n in 0..2 {
            requests.add("a").expect("made");
            fs::create_dir(requests.aside("a")).expect("made");
            fs::write(requests.aside("a").join("file"), "").expect("written");
            requests.take_aside("a").expect("taken");
            assert!(requests.is_open("a").expect("it is read"));
            requests.fulfil("a").expect("done");
            assert!(!requests.is_open("a").expect("it is read"));
            let kept = folder.path().join(format!("requests/.no-request.{n}.a/file"));
            assert!(kept.exists(), "{}", kept.display());
        }
        // Where nothing was asked for, it is in nobody's way.
        fs::create_dir(requests.aside("a")).expect("made");
        requests.take_aside("a").expect("nothing is there");
        requests.fulfil("a").expect("nothing is there");
    }

    #[test]
    fn who_asks_while_another_request_is_taken_aside_is_heard() {
        let folder = tempfile::tempdir().expect("a folder");
        let requests = Requests::below(folder.path());
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    requests.take_aside("a").expect("taken");
                    requests.fulfil("a").expect("done");
                }
            });
            let all: Vec<_> = (0..2000).map(|_| requests.add("a").map(drop)).collect();
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(all.iter().all(Result::is_ok), "{:?}", all.iter().find(|one| one.is_err()));
        });
    }
}
