//! Where pools are written down, and the lock that lets one process at a time change one.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::record::{Pool, Record, is_component};
pub(crate) use crate::endpoint::record::{read_record, replace_file, sync_folder};
use crate::endpoint::{Error, Result};
use crate::model::quoted;

/// The ending of a registered pool's record.
const MADE: &str = "json";
/// The ending of the record of a pool that is being made or destroyed.
const MAKING: &str = "unfinished";

/// How long another process that changes the same pool is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// The pools of one state directory.
#[derive(Debug, Clone)]
pub struct Registry {
    state: PathBuf,
}

/// The right to change one pool; gone when dropped, or with the process.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Registry {
    /// The pools of `state`. A directory that does not exist holds none.
    ///
    /// # Errors
    /// None today: nothing is read before it is asked for.
    pub fn open(state: &Path) -> Result<Self> {
        let state = std::path::absolute(state).map_err(Error::io("find", state.display()))?;
        Ok(Self { state })
    }

    /// The directory that holds everything of these pools.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The pool of that name; `None` if none is registered.
    ///
    /// # Errors
    /// A record that can not be read ([`Error::Io`]) or is none ([`Error::Corrupt`]).
    pub fn get(&self, name: &str) -> Result<Option<Pool>> {
        self.read(name, MADE)
    }

    /// The pool of that name.
    ///
    /// # Errors
    /// [`Error::NotFound`] if none is registered, with the command that makes it; and those of [`Registry::get`].
    pub fn expect(&self, name: &str) -> Result<Pool> {
        self.get(name)?.ok_or_else(|| Error::NotFound {
            what: "pool",
            subject: name.into(),
            hint: Some(match self.names() {
                Ok(names) if !names.is_empty() => {
                    format!("cowsnap pool list (there are: {})", names.join(", "))
                }
                _ => format!("cowsnap pool create {}", quoted(name)),
            }),
        })
    }

    /// The names of all registered pools, sorted.
    pub fn names(&self) -> Result<Vec<String>> {
        self.records(MADE)
    }

    /// All registered pools by name, each or why its record can not be read.
    pub fn pools(&self) -> Result<Vec<(String, Result<Pool>)>> {
        let read = |name: String| {
            let pool = self.expect(&name);
            (name, pool)
        };
        Ok(self.names()?.into_iter().map(read).collect())
    }

    /// Where pool `name` is mounted while it is.
    pub fn mountpoint(&self, name: &str) -> PathBuf {
        self.state.join("mnt").join(name)
    }

    /// Takes the right to change pool `name`.
    ///
    /// # Errors
    /// [`Error::Refused`] while another process has it.
    pub fn lock(&self, name: &str) -> Result<Lock> {
        let folder = self.make_folder("locks")?;
        let path = folder.join(format!("{name}.lock"));
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(Error::io("open", path.display()))?;
        // A helper of a killed process may have the lock for the moment until it becomes the other program.
        let patience = Instant::now() + PATIENCE;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(Errno::WOULDBLOCK) if Instant::now() < patience => std::thread::sleep(PATIENCE / 100),
                Err(Errno::WOULDBLOCK) => {
                    return Err(Error::Refused {
                        op: "change pool",
                        subject: name.into(),
                        why: "another process is changing it".into(),
                        hint: None,
                    });
                }
                Err(errno) => return Err(Error::io("lock", path.display())(errno)),
            }
        }
    }

    /// The pool that was being made or destroyed under that name; `None` if none was.
    pub(super) fn unfinished(&self, name: &str) -> Result<Option<Pool>> {
        self.read(name, MAKING)
    }

    /// The names of pools that are being made or destroyed, or were when that process died.
    pub(crate) fn unfinished_names(&self) -> Result<Vec<String>> {
        self.records(MAKING)
    }

    /// Writes down that `pool` is being made, before anything of it exists.
    pub(super) fn announce(&self, pool: &Pool) -> Result<()> {
        self.make_folder("pools")?;
        let text = serde_json::to_vec_pretty(&Record::of(pool)).expect("a record's keys are texts");
        replace_file(&self.path(&pool.name, MAKING), &text)
    }

    /// Turns the announced pool into a registered one.
    pub(super) fn commit(&self, name: &str) -> Result<()> {
        let (from, to) = (self.path(name, MAKING), self.path(name, MADE));
        fs::rename(&from, &to).map_err(Error::io("register pool", name))?;
        sync_folder(&self.folder())
    }

    /// Forgets the unfinished pool of that name.
    pub(super) fn retract(&self, name: &str) -> Result<()> {
        self.remove(name, MAKING)
    }

    /// Makes the registered pool an unfinished one again: whatever happens next, it is to be removed.
    pub(super) fn uncommit(&self, name: &str) -> Result<()> {
        let (from, to) = (self.path(name, MADE), self.path(name, MAKING));
        fs::rename(&from, &to).map_err(Error::io("unregister pool", name))?;
        sync_folder(&self.folder())
    }

    /// Makes a directory below the state directory if it is not there.
    pub(crate) fn make_folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.state.join(name);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&path)
            .map_err(Error::io("create directory", path.display()))?;
        Ok(path)
    }

    fn folder(&self) -> PathBuf {
        self.state.join("pools")
    }

    fn path(&self, name: &str, ending: &str) -> PathBuf {
        self.folder().join(format!("{name}.{ending}"))
    }

    fn read(&self, name: &str, ending: &str) -> Result<Option<Pool>> {
        if !is_component(name.as_ref()) {
            return Ok(None);
        }
        let path = self.path(name, ending);
        let Some(text) = read_record(&path)? else { return Ok(None) };
        let corrupt = |why: String| Error::Corrupt {
            what: "pool record",
            why: format!("{}: {why}", path.display()),
            source: None,
        };
        let record: Record = serde_json::from_slice(&text).map_err(|error| corrupt(error.to_string()))?;
        record.into_pool(name, self.mountpoint(name)).map(Some).map_err(corrupt)
    }

    fn remove(&self, name: &str, ending: &str) -> Result<()> {
        let path = self.path(name, ending);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::io("remove", path.display())(error)),
            Ok(()) => sync_folder(&self.folder()),
        }
    }

    fn records(&self, ending: &str) -> Result<Vec<String>> {
        let folder = self.folder();
        let mut names = Vec::new();
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(names),
            other => other.map_err(Error::io("list", folder.display()))?,
        };
        for entry in entries {
            let name = entry.map_err(Error::io("list", folder.display()))?.file_name();
            let name = name.to_str().and_then(|name| name.strip_suffix(ending)?.strip_suffix('.'));
            names.extend(name.map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }
}
