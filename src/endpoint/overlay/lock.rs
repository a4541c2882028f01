//! Locks of a home and of its overlays: flock on a file, gone with the process.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::endpoint::{Error, Result};
use crate::sys::interrupt;

/// How long another process that changes the same overlay is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// How soon a lock is tried again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_micros(200), Duration::from_millis(20));

/// A lock; gone when dropped, or with the process.
#[derive(Debug)]
pub struct Lock {
    pub(super) _file: File,
}

pub(super) fn lock_names(dir: &Path) -> Result<Lock> {
    let file = open_lock(&dir.join("lock"))?;
    wait_for(&file, PATIENCE, &|| Error::Refused {
        op: "lock",
        subject: dir.display().to_string(),
        why: "another process makes or destroys overlays in it".into(),
        hint: None,
    })?;
    Ok(Lock { _file: file })
}

pub(super) fn open_lock(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    options.open(path).map_err(Error::io("open", path.display()))
}

pub(super) fn wait_for(file: &File, patience: Duration, busy: &dyn Fn() -> Error) -> Result<()> {
    let until = Instant::now() + patience;
    let mut pause = RETRY.0;
    loop {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) if Instant::now() < until => {
                interrupt::check().map_err(Error::io("wait for", "a lock"))?;
                std::thread::sleep(pause);
                pause = (pause * 2).min(RETRY.1);
            }
            Err(Errno::WOULDBLOCK) => return Err(busy()),
            Err(errno) => return Err(Error::io("lock", "an overlay home")(errno)),
        }
    }
}

pub(super) fn is_still_at(file: &File, path: &Path) -> bool {
    let id = |meta: fs::Metadata| (meta.dev(), meta.ino());
    file.metadata().ok().map(id) == fs::metadata(path).ok().map(id)
}
