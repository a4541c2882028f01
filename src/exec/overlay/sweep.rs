//! The trash emptied: by a process that nobody waits for, or by this one.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::FdFlags;

use crate::endpoint::overlay::{Home, native};
use crate::endpoint::{Error, Result};
use crate::sys::interrupt;

/// How long what can not be destroyed is tried again: on ZFS, what was used a moment ago still is.
const LINGERS: Duration = Duration::from_secs(3);
/// After what pause.
const PAUSE: Duration = Duration::from_millis(100);

/// Starts `program` to sweep the home, if there is something to sweep or to tear down. It has a session of its own, and none of the
/// caller's pipes; what is pinned by `old` it lets go.
///
/// # Errors
/// A program that can not be started: then it is swept the next time.
pub fn in_background(home: &Home, program: &Path, old: Vec<OwnedFd>) -> Result<()> {
    if old.is_empty() && home.trash()?.is_empty() && native::without_spares(home)?.is_empty() {
        return Ok(());
    }
    for fd in &old {
        rustix::io::fcntl_setfd(fd, FdFlags::empty()).map_err(Error::io("keep", "an old tree"))?;
    }
    let spawned = Command::new(program)
        .args(["overlay", "--home"])
        .arg(home.dir())
        .arg("sweep")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    spawned.map(drop).map_err(Error::io("start", program.display()))
}

/// What the started process does.
///
/// # Errors
/// As [`Home::sweep`].
pub fn here(dir: &Path) -> Result<()> {
    crate::sys::child::go_to_the_background().map_err(Error::io("leave", "the terminal"))?;
    let Some(home) = Home::find(dir)? else { return Ok(()) };
    for (entry, record) in native::without_spares(&home)? {
        if let Err(error) = native::make_spares(&entry, &record) {
            tracing::warn!(overlay = %entry.name(), %error, "the next reset makes its clone itself");
        }
    }
    home.sweep()
}

/// Empties the trash. Answers what stays in it, and why; it is tried again by the next command.
///
/// # Errors
/// [`Error::Refused`] if another process is doing so, and takes too long; a trash that can not be read.
pub fn stuck(home: &Home) -> Result<BTreeMap<PathBuf, Error>> {
    let trash = home.lock_trash()?;
    let until = Instant::now() + LINGERS;
    loop {
        let stuck = trash.destroy_all()?;
        if stuck.is_empty() || Instant::now() > until {
            return Ok(stuck);
        }
        interrupt::check().map_err(Error::io("destroy", home.dir().join("trash").display()))?;
        std::thread::sleep(PAUSE);
    }
}
