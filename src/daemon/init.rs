//! As the first process of a container: what ends is waited for, whoever's child it was, and signals are handed on.
//!
//! **Invariant:** it begins one process and waits for all, so nobody in it waits for one of his own.

use std::env;
use std::process::{ExitCode, id};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::daemon::child::this_program;
use crate::sys::interrupt;
use crate::{Error, Result, sys};

/// How long what is left has to come to its end when the daemon is gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether this process is the first one, to which all others come whose parents are gone.
pub fn is_first() -> bool {
    id() == 1
}

/// Has the same command line run by another process, and is there for the others until that one is over; then they are to end, too.
///
/// # Errors
/// It can not be begun.
pub fn run() -> Result<ExitCode> {
    let begin = || Error::io("run", "/proc/self/exe");
    let mut signals = Signals::new([SIGCHLD, SIGTERM, SIGINT, SIGHUP]).map_err(begin())?;
    let early = interrupt::release();
    let mut command = this_program();
    // It speaks to who started the container: that one is not told of a process that comes and goes.
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC"] {
        if let Some(value) = env::var_os(name) {
            command.env(name, value);
        }
    }
    // A terminal's signals come from here alone, or one would be two.
    sys::child::own_session(&mut command);
    let daemon = Pid::from_child(&command.args(env::args_os().skip(1)).spawn().map_err(begin())?);
    early.into_iter().for_each(|early| pass_on(daemon, early.signal));
    let code = loop {
        if let Some(code) = reap(daemon) {
            break code;
        }
        signals.wait().filter(|&signal| signal != SIGCHLD).for_each(|signal| pass_on(daemon, signal));
    };
    end_the_others();
    Ok(code)
}

fn pass_on(daemon: Pid, signal: i32) {
    // It has not been waited for, so the number is its own.
    if let Some(signal) = Signal::from_named_raw(signal) {
        let _ = kill_process(daemon, signal);
    }
}

/// Waits for all that have ended; answers how the daemon did, if it is among them.
fn reap(daemon: Pid) -> Option<ExitCode> {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == daemon => return Some(as_code(status)),
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(_) => return None,
        }
    }
}

/// As a shell has it.
fn as_code(status: WaitStatus) -> ExitCode {
    let code = status.exit_status().or(status.terminating_signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// What is left is to end by itself, as the kernel kills it with this process: jobs whose daemon has died, services that a job has started.
fn end_the_others() {
    // Anywhere else that would be every process of the machine.
    if !is_first()
        || nix::sys::signal::kill(nix::unistd::Pid::from_raw(-1), nix::sys::signal::SIGTERM).is_err()
    {
        return;
    }
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => std::thread::sleep(Duration::from_millis(20)),
            Err(_) => return,
        }
    }
}
