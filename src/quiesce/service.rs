//! Whether a service runs, how it is stopped, and how it is started.

use std::os::fd::OwnedFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Signal, pidfd_send_signal};

use crate::model::Service;
use crate::quiesce::family::Family;
use crate::quiesce::process::Process;
use crate::quiesce::systemd::{self, Trouble};
use crate::quiesce::telling::Telling;
use crate::quiesce::{command, container, program};
use crate::sys::interrupt;

/// How long a question about a service may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether it runs.
///
/// # Errors
/// It can not be found out.
pub fn runs(service: &Service) -> Result<bool, String> {
    runs_since(service, None)
}

/// As [`runs`]; of a program, processes alone that have begun since that tick: what it has left running is not it.
///
/// # Errors
/// It can not be found out.
pub fn runs_since(service: &Service, since: Option<u64>) -> Result<bool, String> {
    match service {
        Service::Unit { name } => systemd::runs(name),
        Service::Process { .. } => Ok(process(service)?.is_some()),
        Service::Program { exe, argument, user, .. } => {
            Ok(program::find(exe, argument.as_deref(), user.as_deref(), since)?.is_some())
        }
        Service::Container { name, socket } => container::runs(socket, name),
        Service::Hook { .. } | Service::Frozen { .. } => Ok(true),
        Service::Commands { status, .. } => match command::run(status, PATIENCE, false)? {
            None => Err(format!("{} took longer than {PATIENCE:?}", status.join(" "))),
            Some(ended) => match ended.code() {
                Some(0) => Ok(true),
                Some(1..=3) => Ok(false),
                _ => Err(format!(
                    "{}: {ended}, which is neither 0 (it runs) nor 1 to 3 (it does not)",
                    status.join(" ")
                )),
            },
        },
    }
}

/// The process that would be told to stop, of what is one.
///
/// # Errors
/// It can not be found out; it could not be started again.
pub fn process(service: &Service) -> Result<Option<Process>, String> {
    match service {
        Service::Process { pidfile, .. } => Ok(Process::of_pidfile(pidfile)?.map(|(process, _)| process)),
        Service::Program { exe, argument, user, .. } => {
            program::find(exe, argument.as_deref(), user.as_deref(), None)
        }
        Service::Container { name, socket } => container::process(socket, name),
        Service::Unit { .. } | Service::Hook { .. } | Service::Frozen { .. } | Service::Commands { .. } => {
            Ok(None)
        }
    }
}

/// Whether it is gone, or goes again and again.
pub fn has_ended(service: &Service) -> bool {
    match service {
        Service::Unit { name } => systemd::has_ended(name),
        _ => runs(service) == Ok(false),
    }
}

/// Of what is down, what is another one if it has run since; nothing where that is not known.
///
/// # Errors
/// It can not be found out.
pub fn mark(service: &Service) -> Result<Vec<u8>, String> {
    match service {
        Service::Unit { name } => systemd::invocation(name),
        _ => Ok(Vec::new()),
    }
}

/// How a stop ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Stop {
    /// It is down.
    Down,
    /// It is not when its time is over.
    Late,
    /// It says why it has not, or the command that stops it does.
    Refused(String),
    /// It could not be told to.
    NotAsked(Trouble),
    /// Nothing was done to it, and so nothing is to be undone.
    NotBegun(String),
}

/// Stops it, and waits until it is. Of a process, the one that is named. `sent` is called once it can not be taken back, and of commands, which may have told it, once more when one has ended well; it has `kept` open.
///
/// # Errors
/// It can not be stopped; a signal came.
pub fn stop(
    service: &Service,
    process: Option<&Process>,
    within: Duration,
    kept: Option<OwnedFd>,
    sent: &mut dyn FnMut(Telling),
) -> Result<Stop, String> {
    let until = Some(Instant::now() + within);
    let is_down = match service {
        Service::Unit { name } => {
            if let Err(trouble) = systemd::ask_to_stop(name) {
                return Ok(Stop::NotAsked(trouble));
            }
            sent(Telling::Told);
            let is_down = is_down(service, until, true)?;
            if let (false, Err(why)) = (is_down, systemd::left_behind(name)) {
                return Ok(Stop::Refused(why));
            }
            if is_down {
                systemd::has_ended_by_itself(name)?;
            }
            is_down
        }
        Service::Container { name, socket } => {
            return container::stop(socket, name, process, within, &mut || sent(Telling::Told));
        }
        Service::Hook { before, .. } => {
            return Ok(match command::run_with(before, within, true, kept, &mut || sent(Telling::About))? {
                Some(ended) if ended.success() => Stop::Down,
                Some(ended) => Stop::Refused(format!("{}: {ended}", before.join(" "))),
                None => Stop::Refused(format!("{} took longer than {within:?}", before.join(" "))),
            });
        }
        Service::Frozen { .. } => return Ok(Stop::NotBegun("it is frozen elsewhere".into())),
        Service::Process { .. } | Service::Program { .. } => {
            let Some(pidfd) = process.map(Process::open).transpose()?.flatten() else {
                return Ok(Stop::Down);
            };
            // Once it has ended, nobody can tell any more whom it has begun.
            let is_named = matches!(service, Service::Process { .. });
            let mut family = process.filter(|_| is_named).map(|process| Family::of(process.number()));
            match pidfd_send_signal(&pidfd, Signal::TERM) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(format!("SIGTERM: {error}")),
            }
            sent(Telling::Told);
            // What it has begun itself, and leaves running, may write still.
            let is_over = || !matches!(service, Service::Program { .. }) || runs(service) == Ok(false);
            command::ends(&pidfd, until, true)?
                && eventually(until, true, || Ok(is_over()))?
                && eventually(until, true, || Ok(family.as_mut().is_none_or(Family::is_gone)))?
                || outlived(service, family.as_ref())
        }
        Service::Commands { stop, .. } => {
            match command::run_with(stop, within, true, kept, &mut || sent(Telling::About))? {
                None => false,
                Some(ended) if !ended.success() => {
                    return Ok(Stop::Refused(format!("{}: {ended}", stop.join(" "))));
                }
                Some(_) => {
                    sent(Telling::Told);
                    is_down(service, until, true)?
                }
            }
        }
    };
    Ok(if is_down { Stop::Down } else { Stop::Late })
}

/// Says who is there still of those that a process has begun: they may write.
fn outlived(service: &Service, family: Option<&Family>) -> bool {
    let left = family.map(Family::left).unwrap_or_default();
    if !left.is_empty() {
        tracing::warn!(%service, ?left, "processes that it has begun are there still");
    }
    false
}

/// Waits until it does not run. `Ok(false)`: it does when the time is over, or nobody knows.
///
/// # Errors
/// A signal came, if it is `interrupted` by them.
pub fn is_down(service: &Service, until: Option<Instant>, interrupted: bool) -> Result<bool, String> {
    eventually(until, interrupted, || Ok(runs(service) == Ok(false)))
}

/// Whether it runs. That can not be found out at any moment: a node that warms up has no answer yet.
///
/// # Errors
/// It could not be found out in that time.
pub fn known_to_run(service: &Service, since: Option<u64>, within: Duration) -> Result<bool, String> {
    let mut last = Ok(false);
    eventually(Some(Instant::now() + within), false, || {
        last = runs_since(service, since);
        Ok(last.is_ok())
    })?;
    last
}

/// Why it does not run, and whether it may yet: of a command that failed, or could not be begun, that is known.
#[derive(Debug)]
pub struct NotStarted {
    /// Why.
    pub why: String,
    /// It may run yet.
    pub goes_on: bool,
}

/// Starts it, and waits until it runs; of a unit, which is told to start elsewhere, the latter alone. The command may end or stay; it has `kept` open, and is what `spawned` is told of.
///
/// # Errors
/// It does not run.
pub fn start(
    service: &Service,
    since: Option<u64>,
    within: Duration,
    kept: Option<OwnedFd>,
    spawned: &mut dyn FnMut(Option<Process>),
) -> Result<(), NotStarted> {
    let over = |why| NotStarted { why, goes_on: false };
    let start = match service {
        Service::Unit { name } => return systemd::comes_up(name, within).map_err(over),
        Service::Container { name, socket } => return container::start(socket, name, within).map_err(over),
        Service::Hook { after, .. } => return tell(after, within).map_err(over),
        Service::Frozen { .. } => return Ok(()),
        Service::Process { start, .. } | Service::Program { start, .. } | Service::Commands { start, .. } => {
            start
        }
    };
    let mut child = command::spawn(start, false, kept).map_err(over)?;
    spawned(i32::try_from(child.id()).ok().and_then(Process::of));
    let mut unknown = None;
    let ended = eventually(Some(Instant::now() + within), false, || {
        match runs_since(service, since) {
            Ok(true) => return Ok(true),
            Ok(false) => unknown = None,
            Err(why) => unknown = Some(why),
        }
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(ended) if !ended.success() => Err(format!("{}: {ended}", start.join(" "))),
            _ => Ok(false),
        }
    });
    match ended {
        Ok(true) => Ok(()),
        Ok(false) => {
            let what = unknown
                .map_or("it did not run".to_owned(), |why| format!("nobody knows whether it runs: {why}"));
            Err(NotStarted {
                why: format!("{} was called, and within {within:?} {what}", start.join(" ")),
                // One that has ended well may have begun what takes its time.
                goes_on: true,
            })
        }
        Err(why) => {
            let has_failed = matches!(child.try_wait(), Ok(Some(ended)) if !ended.success());
            Err(NotStarted { why, goes_on: !has_failed })
        }
    }
}

/// Tells what goes on that the snapshot is over; nothing if it has not to be told.
fn tell(after: &[String], within: Duration) -> Result<(), String> {
    if after.is_empty() {
        return Ok(());
    }
    match command::run(after, within, false)? {
        Some(ended) if ended.success() => Ok(()),
        Some(ended) => Err(format!("{}: {ended}", after.join(" "))),
        None => Err(format!("{} took longer than {within:?}", after.join(" "))),
    }
}

/// Asks again and again, ever more seldom. `Ok(false)`: it is not so when the time is over.
///
/// # Errors
/// It can not be found out; a signal came, if it is `interrupted` by them.
pub fn eventually(
    until: Option<Instant>,
    interrupted: bool,
    mut is_so: impl FnMut() -> Result<bool, String>,
) -> Result<bool, String> {
    let mut pause = Duration::from_millis(10);
    loop {
        if is_so()? {
            return Ok(true);
        }
        if interrupted {
            interrupt::check().map_err(|error| error.to_string())?;
        }
        let left = until.map(command::left);
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(false);
        }
        sleep(left.map_or(pause, |left| left.min(pause)));
        pause = (pause * 3 / 2).min(Duration::from_secs(1));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_can_not_be_found_out_is_asked_again_and_is_no_no() {
        let folder = tempfile::tempdir().expect("a folder");
        let (up, told) = (folder.path().join("up"), folder.path().join("told"));
        // 28 is what bitcoin-cli ends with while the node warms up.
        let warms_up = format!("[ -e {} ] || {{ touch {0}; exit 28; }}; exit 0", up.display());
        let status = Service::Commands {
            status: ["sh", "-c", &warms_up].map(str::to_owned).to_vec(),
            stop: vec!["true".into()],
            start: vec!["touch".into(), told.display().to_string()],
        };
        assert!(runs(&status).is_err());
        fs::remove_file(&up).expect("removed");
        assert_eq!(known_to_run(&status, None, PATIENCE), Ok(true));
        fs::remove_file(&up).expect("removed");
        let mut starter = None;
        start(&status, None, PATIENCE, None, &mut |process| starter = process).expect("it runs in the end");
        assert!(starter.is_some());
        let never = Service::Commands {
            status: ["sh", "-c", "exit 28"].map(str::to_owned).to_vec(),
            stop: vec!["true".into()],
            start: vec!["true".into()],
        };
        assert!(known_to_run(&never, None, Duration::from_millis(30)).is_err());
        assert_eq!(is_down(&never, Some(Instant::now()), false), Ok(false));
    }

    #[test]
    fn a_status_that_is_neither_yes_nor_no_is_an_error() {
        let status = |code: &str| Service::Commands {
            status: ["sh", "-c", code].map(str::to_owned).to_vec(),
            stop: vec!["true".into()],
            start: vec!["true".into()],
        };
        assert_eq!(runs(&status("exit 0")), Ok(true));
        assert_eq!(runs(&status("exit 3")), Ok(false));
        assert!(runs(&status("exit 4")).is_err() && runs(&status("kill $$")).is_err());
        let short = Duration::from_millis(30);
        let mut sent = Vec::new();
        assert_eq!(stop(&status("exit 0"), None, short, None, &mut |how| sent.push(how)), Ok(Stop::Late));
        // Its command has ended well, and so it stops, however long that takes.
        assert_eq!(sent, [Telling::About, Telling::Told]);
        let refuses = Service::Commands {
            status: vec!["true".into()],
            stop: vec!["false".into()],
            start: vec!["true".into()],
        };
        sent.clear();
        let done = stop(&refuses, None, PATIENCE, None, &mut |how| sent.push(how));
        assert!(matches!(done, Ok(Stop::Refused(_))) && sent == [Telling::About], "{sent:?}");
        assert!(start(&status("exit 3"), None, short, None, &mut |_| ()).is_err());
    }

    #[test]
    fn what_was_started_in_vain_may_run_yet_unless_its_command_failed() {
        let goes_on = |start_with: &[&str], within| {
            let service = Service::Commands {
                status: ["sh", "-c", "exit 3"].map(str::to_owned).to_vec(),
                stop: vec!["true".into()],
                start: start_with.iter().map(|&word| word.to_owned()).collect(),
            };
            start(&service, None, within, None, &mut |_| ()).expect_err("it never runs").goes_on
        };
        // A daemon that has left for the background, and has no file of this process open.
        assert!(goes_on(&["true"], Duration::from_millis(300)));
        assert!(!goes_on(&["false"], PATIENCE));
        assert!(!goes_on(&["/nonexistent/node"], PATIENCE));
    }
}
