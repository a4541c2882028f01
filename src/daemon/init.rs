//! As the first process of a container: what ends is waited for, whoever's child it was, and signals are handed on.
//!
//! **Invariant:** it begins one process and waits for all, so nobody in it waits for one of his own.

use std::env;
use std::path::Path;
use std::process::{ExitCode, id};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::daemon::child::this_program;
use crate::daemon::{Say, Word};
use crate::quiesce::here::{self, AtWork, Does};
use crate::sys::interrupt;
use crate::{Error, Result, sys};

/// How long what is left has to come to its end when the daemon is gone, and no service is left stopped.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether this process is the first one, to which all others come whose parents are gone.
pub fn is_first() -> bool {
    id() == 1
}

/// Has the same command line run by another process, and is there for the others until that one is over; then they are to end, too, but not before what is stopped
/// has been started.
///
/// # Errors
/// It can not be begun.
pub fn run(state_dir: &Path, say: &Say) -> Result<ExitCode> {
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
    let mut first = First { state_dir, say, is_asked: false };
    early.into_iter().for_each(|early| first.hear(early.signal, Some(daemon)));
    let code = loop {
        if let Some(code) = reap(daemon) {
            break code;
        }
        signals.wait().for_each(|signal| first.hear(signal, Some(daemon)));
    };
    // Anywhere else that would be every process of the machine.
    if is_first() {
        first.end_the_others(&mut signals);
    }
    Ok(code)
}

/// What it knows.
struct First<'a> {
    state_dir: &'a Path,
    say: &'a Say,
    /// All are to end, and jobs have been told so: a second time would cut them off.
    is_asked: bool,
}

impl First<'_> {
    /// A signal, while there is that `daemon`, or is none any more.
    fn hear(&mut self, signal: i32, daemon: Option<Pid>) {
        match (signal, daemon) {
            (SIGCHLD, _) | (SIGHUP, None) => {}
            (SIGHUP, Some(daemon)) => pass_on(daemon, SIGHUP),
            (signal, Some(daemon)) if !self.is_asked => {
                self.is_asked = true;
                pass_on(daemon, signal);
            }
            _ => self.wait_is_told(&here::to_be_started(self.state_dir)),
        }
    }

    fn wait_is_told(&self, to_be_started: &[String]) {
        let runs = runs().into_iter().map(|(_, job)| format!("the end of job {job}"));
        let starts = to_be_started.iter().map(|services| format!("the start of {services}"));
        let all: Vec<_> = starts.chain(runs).collect();
        let what = if all.is_empty() { "the end of all processes".to_owned() } else { all.join(", ") };
        let last =
            "who can not wait kills it (SIGKILL), and what is stopped then is started by the next daemon";
        (self.say)(Word::Warning(format!("waits for {what}; {last}")));
    }

    /// What is left is to end by itself, as the kernel kills it with this process: jobs whose daemon has died, and then services that a job has started. What is
    /// stopped has to be started before that, however long that takes.
    fn end_the_others(&mut self, signals: &mut Signals) {
        if !std::mem::replace(&mut self.is_asked, true) {
            for (pid, _) in runs() {
                let _ = Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::TERM));
            }
        }
        if self.are_there(signals, || !runs().is_empty()) {
            // That reaches a run that hangs a second time; none has stopped anything.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(-1), nix::sys::signal::SIGTERM);
            self.are_there(signals, || true);
        }
    }

    /// Waits while any are, for as long as they may take. `false`: nobody at all is left.
    fn are_there(&mut self, signals: &mut Signals, are_there: impl Fn() -> bool) -> bool {
        let (mut until, mut told) = (Instant::now() + PATIENCE, Vec::new());
        loop {
            let is_alone = loop {
                match wait(WaitOptions::NOHANG) {
                    Ok(Some(_)) | Err(Errno::INTR) => {}
                    Ok(None) => break false,
                    Err(_) => break true,
                }
            };
            // Among them may be a run that somebody has begun from outside, and that is nobody's child here.
            let left = here::to_be_started(self.state_dir);
            if !left.is_empty() {
                until = Instant::now() + PATIENCE;
                if told != left {
                    self.wait_is_told(&left);
                    told = left;
                }
            } else if is_alone || !are_there() || Instant::now() >= until {
                return !is_alone;
            }
            signals.pending().for_each(|signal| self.hear(signal, None));
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The runs of jobs whose daemon has died.
fn runs() -> Vec<(i32, String)> {
    let own = |one: AtWork| match one.does {
        Does::Run(job) => Some((one.pid, job)),
        Does::Guard(_) | Does::Recover => None,
    };
    here::at_work().into_iter().filter_map(own).collect()
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
