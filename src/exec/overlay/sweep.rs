//! The trash emptied: by a process that nobody waits for, or by this one.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::io::FdFlags;
use serde::{Deserialize, Serialize};

use crate::endpoint::overlay::{Home, native, owner};
use crate::endpoint::{Error, Result};
use crate::sys::interrupt;

/// How long what can not be destroyed is tried again: on ZFS, what was used a moment ago still is.
const LINGERS: Duration = Duration::from_secs(3);
/// How long who destroys is waited for that does not get on.
pub const PATIENCE: Duration = Duration::from_secs(30);
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
    command(home, program).spawn().map(drop).map_err(Error::io("start", program.display()))
}

/// What the started process does.
///
/// # Errors
/// As [`Home::sweep`].
pub fn here(dir: &Path) -> Result<()> {
    crate::sys::child::go_to_the_background().map_err(Error::io("leave", "the terminal"))?;
    let Some(home) = Home::find(dir)? else { return Ok(()) };
    make_spares(&home)?;
    let swept = home.sweep();
    forget_stacks(&home)?;
    make_spares(&home)?;
    swept
}

fn make_spares(home: &Home) -> Result<()> {
    for (entry, record) in native::without_spares(home)? {
        if let Err(error) = native::make_spares(&entry, &record) {
            tracing::warn!(overlay = %entry.name(), %error, "the next reset makes its clone itself");
        }
    }
    Ok(())
}

/// Destroys the trees of layers that nobody needs any more.
fn forget_stacks(home: &Home) -> Result<()> {
    for entry in home.entries()? {
        let Ok(Some(record)) = entry.record() else { continue };
        if let Err(error) = native::forget_stacks(&entry, &record) {
            tracing::warn!(overlay = %entry.name(), %error, "a tree of layers stays until the next sweep");
        }
    }
    Ok(())
}

/// What can not be destroyed, and why. What [`stuck`] reads is written by [`reported`], in another process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stuck {
    /// Where it is in the trash.
    pub path: PathBuf,
    /// Why, with what caused that.
    pub why: String,
    /// What would help.
    pub hint: Option<String>,
}

/// What the process does that [`stuck`] waits for: empties the trash, and answers what stays in it.
///
/// # Errors
/// [`Error::Refused`] if another process is doing so, and takes too long; a trash that can not be read.
pub fn reported(dir: &Path) -> Result<Vec<Stuck>> {
    crate::sys::child::go_to_the_background().map_err(Error::io("leave", "the terminal"))?;
    let Some(home) = Home::find(dir)? else { return Ok(Vec::new()) };
    let trash = home.lock_trash()?;
    let until = Instant::now() + LINGERS;
    loop {
        let stuck = trash.destroy_all()?;
        forget_stacks(&home)?;
        if stuck.is_empty() || Instant::now() > until {
            return Ok(stuck.into_iter().map(|(path, error)| Stuck::of(path, &error)).collect());
        }
        interrupt::check().map_err(Error::io("destroy", home.dir().join("trash").display()))?;
        std::thread::sleep(PAUSE);
    }
}

impl Stuck {
    fn of(path: PathBuf, error: &Error) -> Self {
        let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
        let why = causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"));
        Self { path, why, hint: error.hint() }
    }
}

/// Has `program` empty the trash. Answers what stays in it, and why; it is tried again by the next command. Who gets on is waited for; who has
/// not for all of `patience` is left to itself, and all that is there yet is answered: a pool that hangs keeps nobody.
///
/// # Errors
/// A trash that can not be read; a program that can not be started; a signal, after which the program goes on in the background.
pub fn stuck(home: &Home, program: &Path, patience: Duration) -> Result<Vec<Stuck>> {
    if home.trash()?.is_empty() {
        return Ok(Vec::new());
    }
    let child = command(home, program).arg("--report").stdout(Stdio::piped()).spawn();
    let child = child.map_err(Error::io("start", program.display()))?;
    let pid = child.id();
    let (done, answer) = mpsc::channel();
    std::thread::spawn(move || done.send(child.wait_with_output()));
    let mut seen = (None, Instant::now());
    loop {
        match answer.recv_timeout(PAUSE / 2) {
            Ok(Ok(output)) if output.status.success() => return Ok(told(home, &output.stdout)),
            Ok(_) => return left(home, "another process is destroying it, and is not done yet"),
            Err(_) => {}
        }
        interrupt::check().map_err(Error::io("destroy", home.dir().join("trash").display()))?;
        let now = Some((home.trash()?.len(), owner::worked(pid)));
        if seen.0 != now {
            seen = (now, Instant::now());
        }
        if seen.1.elapsed() > patience {
            let why =
                format!("process {pid} is destroying it, and has not got on for {} s", patience.as_secs());
            return left(home, &why);
        }
    }
}

/// What it says that is there still: another process may have gone on meanwhile.
fn told(home: &Home, text: &[u8]) -> Vec<Stuck> {
    match serde_json::from_slice::<Vec<Stuck>>(text) {
        Ok(stuck) => stuck.into_iter().filter(|stuck| stuck.path.starts_with(home.dir())).collect(),
        Err(_) => Vec::new(),
    }
}

fn left(home: &Home, why: &str) -> Result<Vec<Stuck>> {
    let stuck = |path| Stuck {
        path,
        why: why.to_owned(),
        hint: Some("cowsnap overlay reap, later; zpool status".into()),
    };
    Ok(home.trash()?.into_iter().map(stuck).collect())
}

fn command(home: &Home, program: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["overlay", "--home"]).arg(home.dir()).arg("sweep").current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}
