//! The trash emptied by a process that nobody waits for.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::io::FdFlags;

use crate::endpoint::overlay::Home;
use crate::endpoint::{Error, Result};

/// Starts `program` to sweep the home, if there is something to sweep or to tear down. It has a session of its own, and none of the
/// caller's pipes; what is pinned by `old` it lets go.
///
/// # Errors
/// A program that can not be started: then it is swept the next time.
pub fn in_background(home: &Home, program: &Path, old: Vec<OwnedFd>) -> Result<()> {
    if old.is_empty() && home.trash()?.is_empty() {
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
    match Home::find(dir)? {
        Some(home) => home.sweep(),
        None => Ok(()),
    }
}
