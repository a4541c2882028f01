//! A private overlay for one command: in a mount namespace of its own where that is possible, gone with it.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

use super::enter::Seen;
use super::{Created, New, Survivors, create, destroy, opened, unhindered};
use crate::endpoint::overlay::fuse::serve;
use crate::endpoint::overlay::{Entry, Home, Locked, Place, kernel, owner, survivors};
use crate::endpoint::{Error, Result};
use crate::model::overlay::{Base, LayerId, Mode, OverlayName, Record};
use crate::sys::{child, interrupt};

/// Where the command finds its tree.
pub const DIR: &str = "COWSNAP_OVERLAY_DIR";
/// A number that no other running command of the home has: 1, 2, 3 … A lower one is free again once its command is over.
pub const WORKER: &str = "COWSNAP_OVERLAY_WORKER";

/// The option of a record of what a failed command changed: since when it is kept.
pub(super) const KEPT: &str = "kept";

/// What to run, on what.
#[derive(Debug)]
pub struct Run {
    /// What the tree lies on.
    pub base: Base,
    /// The layers on the base, the lowest first.
    pub layers: Vec<LayerId>,
    /// How it is served; `None` chooses.
    pub mode: Option<Mode>,
    /// The program and its arguments.
    pub command: Vec<OsString>,
    /// Keeps the changes if the command fails.
    pub keep_on_failure: bool,
    /// The processors that it may run on; none named: all.
    pub cpus: Vec<usize>,
    /// Who sees the tree.
    pub seen: Seen,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ran {
    /// The overlay that it had.
    pub record: Record,
    /// How it ended.
    pub status: ExitStatus,
    /// How many processes it left behind, which were ended.
    pub ended: usize,
    /// Where its changes are kept, if they are.
    pub kept: Option<PathBuf>,
}

/// Runs the command on a tree of its own and does away with the tree. `started` is called once the tree is there.
///
/// A signal that asks this process to end is passed on to the command, which is waited for. If this process is killed, so is
/// the command, and the next reap takes what is left.
///
/// # Errors
/// As [`create()`]; a program that can not be started.
pub fn run(home: &Home, run: &Run, started: &mut dyn FnMut(&Created)) -> Result<Ran> {
    let (number, created) = create_numbered(home, run)?;
    started(&created);
    let name = created.record.name.clone();
    let at = created.record.copies[0].at().to_owned();
    // In a PID namespace whose first process this is, the process that serves the tree is a child as well.
    let own = children();
    let outcome = rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(Error::io("watch over", "the command"))
        .and_then(|()| start(run, number, &at))
        .and_then(wait);
    let ended = end_what_is_left(|| {
        let spared = if run.seen == Seen::ByTheUser { serving_others(home, &name) } else { Vec::new() };
        [own.as_slice(), &spared].concat()
    });
    match outcome {
        Ok(status) if run.keep_on_failure && !status.success() => {
            let kept = keep(home, &name)?;
            Ok(Ran { record: created.record, status, ended, kept: Some(kept) })
        }
        outcome => {
            let gone = destroy(home, &name, Survivors::Leave, &mut unhindered);
            let status = outcome?;
            gone?;
            Ok(Ran { record: created.record, status, ended, kept: None })
        }
    }
}

/// Makes an overlay of the first free number.
fn create_numbered(home: &Home, run: &Run) -> Result<(u32, Created)> {
    let owner = owner::of(std::process::id())?;
    for number in 1.. {
        let name: OverlayName =
            format!("run-{number}").parse().expect("letters, digits and a hyphen are a name");
        let entry = home.entry(&name);
        if entry.dir().exists() {
            continue;
        }
        let new = New {
            at: tree(&entry),
            name,
            base: run.base.clone(),
            copies: 1,
            mode: run.mode,
            owner: owner.clone(),
            durable: false,
            layers: run.layers.clone(),
            more: run.seen.option(),
        };
        match create(home, &new, &mut unhindered) {
            Err(Error::Exists { .. }) => {}
            other => return other.map(|created| (number, created)),
        }
    }
    unreachable!("the numbers do not end")
}

/// Where a command's tree shows, in its own mount namespace.
pub(super) fn tree(entry: &Entry) -> PathBuf {
    entry.dir().join("tree")
}

fn start(run: &Run, number: u32, at: &std::path::Path) -> Result<Child> {
    let [program, arguments @ ..] = run.command.as_slice() else {
        return Err(Error::NotFound { what: "command", subject: "to run".into(), hint: None });
    };
    let mut command = Command::new(program);
    command.args(arguments).current_dir(at).env(DIR, at).env(WORKER, number.to_string());
    child::bind(&mut command, &run.cpus);
    command.spawn().map_err(Error::io("start", program.display()))
}

/// How often it is looked whether a signal has come.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

fn wait(mut child: Child) -> Result<ExitStatus> {
    let failed = |error: std::io::Error| Error::io("wait for", "the command")(error);
    let pid = Pid::from_raw(child.id() as i32).expect("a process has an id");
    let fd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|error| failed(error.into()))?;
    let mut passed_on = false;
    loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            return Ok(status);
        }
        let _ = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&TICK));
        if let (false, Some(interrupted)) = (passed_on, interrupt::pending()) {
            passed_on = true;
            // The terminal sends an interrupt to all of them itself.
            let signal = Signal::from_named_raw(interrupted.signal);
            if let Some(signal) = signal.filter(|&signal| signal != Signal::INT || !has_the_terminal()) {
                let _ = rustix::process::pidfd_send_signal(&fd, signal);
            }
        }
    }
}

fn has_the_terminal() -> bool {
    let Ok(terminal) = fs::File::open("/dev/tty") else { return false };
    rustix::termios::tcgetpgrp(&terminal).is_ok_and(|group| {
        owner::stat_of(std::process::id()).is_some_and(|own| own.group == group.as_raw_nonzero().get() as u32)
    })
}

/// Ends the processes that the command left behind, which have become children of this one: all but those that are `spared` now. How
/// many there were.
fn end_what_is_left(spared: impl Fn() -> Vec<Pid>) -> usize {
    let mut ended = 0;
    loop {
        let (children, spared) = (children(), spared());
        let left: Vec<_> = children.into_iter().filter(|pid| !spared.contains(pid)).collect();
        if left.is_empty() {
            return ended;
        }
        for pid in left {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
            ended += usize::from(rustix::process::waitpid(Some(pid), WaitOptions::empty()).is_ok());
        }
    }
}

/// The processes that serve the other overlays of the home. Where the command's mounts are everybody's, one that it made goes on after it; in a mount
/// namespace of its own it goes with that.
fn serving_others(home: &Home, own: &OverlayName) -> Vec<Pid> {
    let others = home.entries().unwrap_or_default().into_iter().filter(|entry| entry.name() != own);
    others.filter_map(|entry| serve::process(&entry)).collect()
}

/// The children of this process' first thread, which starts all of them and is given all orphans.
fn children() -> Vec<Pid> {
    let own = std::process::id();
    let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

/// Ends what a command left behind whose caller was killed: whoever sees its tree, which nobody else ever did.
pub(super) fn end_what_was_left(locked: &Locked, record: &Record) -> Result<()> {
    let own = tree(locked);
    if Seen::of(record) == Seen::ByTheUser {
        // Who sees the tree need not be of the command.
        let started = format!("{DIR}={}", own.display());
        let spared = serving_others(locked.home(), &record.name);
        let mut left = survivors::with_variable(&started);
        left.retain(|one| !spared.iter().any(|pid| pid.as_raw_nonzero().get() as u32 == one.pid));
        return survivors::kill(&left);
    }
    for copy in record.copies.iter().filter(|copy| copy.at() == own) {
        let place = Place { overlay: locked, record, lower: &[], copy };
        survivors::kill(&survivors::in_private(&place)?)?;
    }
    Ok(())
}

/// Takes the tree out of sight and keeps what was changed; where that is.
fn keep(home: &Home, name: &OverlayName) -> Result<PathBuf> {
    let (locked, mut record) = opened(home, name)?;
    record.owner = None;
    record.options.more.insert(KEPT.into(), jiff::Timestamp::now().to_string().into());
    locked.write(&record)?;
    let server = super::server(&record)?;
    let copy = record.copies[0].clone();
    let generation = locked.generation(copy.number, copy.generation);
    let place = Place { overlay: &locked, record: &record, lower: &[], copy: &copy };
    server.take_down(&place)?;
    let changes = server.changes(&place, &generation);
    if record.mode.keeps_changes_apart() && record.options.volatile {
        // Whatever becomes of the machine, they are whole from here on: they can be shown again.
        let dir = generation.upper();
        let synced = fs::File::open(&dir).and_then(|dir| Ok(rustix::fs::syncfs(dir)?));
        synced.map_err(Error::io("sync", dir.display()))?;
        kernel::unmark_volatile(&generation)?;
        record.options.volatile = false;
        locked.write(&record)?;
    }
    Ok(changes)
}

/// Destroys all but the newest `last` of what was kept of failed commands; which those were. What is in use is left.
///
/// # Errors
/// A home that can not be read.
pub fn destroy_older(home: &Home, last: usize) -> Result<Vec<OverlayName>> {
    let mut kept = Vec::new();
    for entry in home.entries()? {
        let Ok(Some(record)) = entry.record() else { continue };
        let when =
            record.options.more.get(KEPT).and_then(|when| when.as_str()?.parse::<jiff::Timestamp>().ok());
        kept.extend(when.map(|when| (when, record.name)));
    }
    kept.sort();
    let older = kept.len().saturating_sub(last);
    let names = kept.into_iter().take(older).map(|(_, name)| name);
    Ok(names.filter(|name| destroy(home, name, Survivors::Refuse, &mut unhindered).is_ok()).collect())
}

/// The exit code that a shell gives for it: its own, or 128 and the signal that ended it.
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_passed_on_and_a_signal_is_above_128() {
        for (raw, code) in [(0, 0), (3 << 8, 3), (255 << 8, 255), (15, 143), (9, 137)] {
            assert_eq!(exit_code(ExitStatus::from_raw(raw)), code);
        }
    }
}
