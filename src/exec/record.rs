//! The record of a job's runs on the disk ([FORMAT-runs](../../docs/FORMAT-runs.md)).
//!
//! What is not there, or is damaged, is begun anew: nothing depends on it but what people are told.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::model::JobRecord;
use crate::{Error, Result};

/// The largest that is read: a hundred times what is written.
const MAX_LEN: u64 = 4 << 20;

/// How long is waited for somebody else who writes it: he needs milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// The records below a state directory.
#[derive(Debug, Clone)]
pub struct Records {
    dir: PathBuf,
}

/// Held while a job's run is at work, so that one that was killed is told from it.
#[derive(Debug)]
pub struct AtWork(#[expect(dead_code, reason = "held, never read")] File);

/// What was found of a job.
#[derive(Debug)]
pub struct Found {
    /// What is known; `None` if nothing was ever written.
    pub record: Option<JobRecord>,
    /// Whether a run is at work now.
    pub is_at_work: bool,
    /// Why what is there can not be used, if that is so.
    pub damage: Option<String>,
}

impl Records {
    /// Those below `state_dir`, which need not be there.
    pub fn of(state_dir: &Path) -> Self {
        Self { dir: state_dir.join("runs") }
    }

    /// Where that of `job` is.
    pub fn path(&self, job: &str) -> PathBuf {
        self.file(job, "json")
    }

    fn file(&self, job: &str, extension: &str) -> PathBuf {
        self.dir.join(format!("{job}.{extension}"))
    }

    /// The jobs of which there is one, by their names.
    ///
    /// # Errors
    /// A directory that can not be read; one that is not there is none.
    pub fn jobs(&self) -> Result<Vec<String>> {
        let read = || Error::io("read", self.dir.display());
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            read_dir => read_dir.map_err(read())?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry.map_err(read())?.file_name();
            found.extend(name.to_str().and_then(|name| name.strip_suffix(".json")).map(str::to_owned));
        }
        found.sort();
        Ok(found)
    }

    /// What is known of `job`. Writes nothing.
    ///
    /// # Errors
    /// A file that can not be read. One that can be, and is none, is told in the answer.
    pub fn read(&self, job: &str) -> Result<Found> {
        // First who is at work: a run that ends in between has written its end then.
        let is_at_work = self.is_at_work(job)?;
        let (record, damage) = match self.parse(job)? {
            None => (None, None),
            Some(Ok(record)) => (Some(record), None),
            Some(Err(damage)) => (None, Some(damage)),
        };
        // One that has begun in between was not killed.
        let may_have = !is_at_work && record.as_ref().is_some_and(|record| record.running.is_some());
        let is_at_work = is_at_work || may_have && self.is_at_work(job)?;
        Ok(Found { record, is_at_work, damage })
    }

    fn parse(&self, job: &str) -> Result<Option<Result<JobRecord, String>>> {
        let path = self.path(job);
        let mut bytes = Vec::new();
        match File::open(&path).and_then(|file| file.take(MAX_LEN + 1).read_to_end(&mut bytes)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(Error::io("read", path.display()))?,
        };
        if bytes.len() as u64 > MAX_LEN {
            return Ok(Some(Err(format!("it is longer than {MAX_LEN} bytes"))));
        }
        Ok(Some(match serde_json::from_slice::<JobRecord>(&bytes) {
            Ok(record) if record.is_of(job) => Ok(record),
            Ok(_) => Err("it is of another version of the format, or of another job".into()),
            Err(error) => Err(error.to_string()),
        }))
    }

    /// Says that a run of `job` is at work until the answer goes; `None` if another one is.
    ///
    /// # Errors
    /// A directory that can not be written to.
    pub fn at_work(&self, job: &str) -> Result<Option<AtWork>> {
        self.make()?;
        let (path, until) = (self.file(job, "lock"), Instant::now() + PATIENCE);
        loop {
            if let Some(lock) = lock(&path, FlockOperation::NonBlockingLockExclusive)? {
                return Ok(Some(AtWork(lock)));
            }
            // Whoever only looks shares it for a moment; a run does not.
            if lock(&path, FlockOperation::NonBlockingLockShared)?.is_none() || Instant::now() >= until {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether a run of `job` is at work now.
    ///
    /// # Errors
    /// A file that can not be opened.
    pub fn is_at_work(&self, job: &str) -> Result<bool> {
        let path = self.file(job, "lock");
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io("open", path.display())(error)),
            Ok(file) => match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
                Err(Errno::WOULDBLOCK) => Ok(true),
                _ => Ok(false),
            },
        }
    }

    /// Changes what is known of `job`: reads it, lets `change` have it, and writes it, while nobody else does. The answer says why what was there was
    /// put aside, if it was.
    ///
    /// # Errors
    /// A full disk, and the like; somebody who writes it and does not come to an end.
    pub fn change(
        &self,
        job: &str,
        now: Timestamp,
        change: impl FnOnce(&mut JobRecord),
    ) -> Result<Option<String>> {
        self.make()?;
        let _lock = self.lock_to_write(job)?;
        let (mut record, damage) = match self.parse(job)? {
            None => (JobRecord::new(job, now), None),
            Some(Ok(record)) => (record, None),
            Some(Err(damage)) => {
                let path = self.path(job);
                let aside = self.file(job, "damaged");
                fs::rename(&path, &aside).map_err(Error::io("put aside", path.display()))?;
                let damage =
                    format!("{} is now {}, and begun anew: {damage}", path.display(), aside.display());
                (JobRecord::new(job, now), Some(damage))
            }
        };
        change(&mut record);
        self.write(job, &record)?;
        Ok(damage)
    }

    fn lock_to_write(&self, job: &str) -> Result<File> {
        let path = self.file(job, "write");
        let until = Instant::now() + PATIENCE;
        loop {
            match lock(&path, FlockOperation::NonBlockingLockExclusive)? {
                Some(lock) => return Ok(lock),
                None if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
                None => {
                    let what = format!("write the record of job {job}");
                    return Err(Error::Busy { what, hint: "see whether that process is suspended" });
                }
            }
        }
    }

    /// Whole or not at all; it is on the disk then.
    fn write(&self, job: &str, record: &JobRecord) -> Result<()> {
        let (path, new) = (self.path(job), self.file(job, "new"));
        let bytes = serde_json::to_vec_pretty(record).expect("texts and numbers");
        let mut options = File::options();
        options.create(true).truncate(true).write(true).mode(0o600);
        let written = options.open(&new).and_then(|mut file| {
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.dir)?.sync_all()
        });
        written.map_err(Error::io("write", path.display()))
    }

    fn make(&self) -> Result<()> {
        fs::create_dir_all(&self.dir).map_err(Error::io("make", self.dir.display()))?;
        // Who can open a lock can hold it, and who can read an error can read names.
        let private = fs::set_permissions(&self.dir, Permissions::from_mode(0o700));
        private.map_err(Error::io("close to others", self.dir.display()))
    }
}

/// `None`: somebody has it. It is opened for reading alone: a file that is open for writing is what a job looks for in its datasets.
fn lock(path: &Path, how: FlockOperation) -> Result<Option<File>> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::CREATE | OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR);
    let file = file.map_err(|error| Error::io("open", path.display())(error.into()))?;
    match rustix::fs::flock(&file, how) {
        Ok(()) => Ok(Some(file.into())),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(Error::io("lock", path.display())(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn records() -> (tempfile::TempDir, Records) {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::of(dir.path());
        (dir, records)
    }

    #[test]
    fn what_is_written_is_found_and_nothing_is_made_by_looking() {
        let (dir, records) = records();
        let found = records.read("node").unwrap();
        assert!(found.record.is_none() && !found.is_at_work && found.damage.is_none());
        assert_eq!(records.jobs().unwrap(), [""; 0]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(records.change("node", at(1), |record| record.begin(at(2), 7)).unwrap(), None);
        let found = records.read("node").unwrap().record.unwrap();
        assert_eq!((found.since, found.running.map(|running| running.since)), (at(1), Some(at(2))));
        assert_eq!(records.jobs().unwrap(), ["node"]);
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(records.dir.clone()), mode(records.path("node"))), (0o700, 0o600));
    }

    #[test]
    fn whoever_is_at_work_is_seen_until_he_goes() {
        let (_dir, records) = records();
        let lock = records.at_work("node").unwrap().expect("nobody is");
        assert!(records.at_work("node").unwrap().is_none());
        assert!(records.read("node").unwrap().is_at_work);
        // What is skipped meanwhile is noted.
        records.change("node", at(1), |record| record.skip(at(1), "busy")).unwrap();
        assert_eq!(records.read("node").unwrap().record.unwrap().skipped.n, 1);
        drop(lock);
        assert!(!records.read("node").unwrap().is_at_work);
    }

    #[test]
    fn whoever_looks_is_not_taken_for_a_run() {
        let (_dir, records) = records();
        drop(records.at_work("node").unwrap());
        let path = records.file("node", "lock");
        // As a look has it, and for longer than any.
        let look = lock(&path, FlockOperation::NonBlockingLockShared).unwrap().expect("nobody is");
        let looking = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            drop(look);
        });
        let at_work = records.at_work("node").unwrap();
        looking.join().unwrap();
        assert!(at_work.is_some());
        assert!(records.at_work("node").unwrap().is_none());
    }

    #[test]
    fn what_is_damaged_is_told_kept_and_begun_anew() {
        let (_dir, records) = records();
        records.change("node", at(1), |record| record.skip(at(1), "busy")).unwrap();
        let path = records.path("node");
        let whole = fs::read(&path).unwrap();
        let newer = String::from_utf8(whole.clone()).unwrap().replace("\"version\": 1", "\"version\": 2");
        let huge = vec![b' '; MAX_LEN as usize + 1];
        for damaged in [&whole[..whole.len() / 2], b"", b"{}", b"\xff\xfe", newer.as_bytes(), &huge] {
            fs::write(&path, damaged).unwrap();
            let found = records.read("node").unwrap();
            assert!(found.record.is_none() && found.damage.is_some());
            assert_eq!(fs::read(&path).unwrap(), damaged, "looking changed it");
            let told = records.change("node", at(2), |record| record.skip(at(2), "busy")).unwrap();
            assert!(told.unwrap().contains("begun anew"));
            assert_eq!(records.read("node").unwrap().record.unwrap().since, at(2));
            assert_eq!(fs::read(path.with_extension("damaged")).unwrap(), damaged);
        }
    }

    #[test]
    fn those_who_write_at_once_lose_nothing() {
        let (_dir, records) = records();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..10 {
                        records.change("node", at(0), |record| record.skip(at(n), "busy")).unwrap();
                    }
                });
            }
        });
        assert_eq!(records.read("node").unwrap().record.unwrap().skipped.n, 40);
    }

    #[test]
    fn a_directory_that_can_not_be_made_is_an_error() {
        let (dir, records) = records();
        fs::write(dir.path().join("runs"), "").unwrap();
        assert!(records.change("node", at(0), |_| {}).is_err());
        assert!(records.at_work("node").is_err());
    }
}
