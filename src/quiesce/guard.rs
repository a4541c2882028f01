//! What makes up for a run that died: its guard, and whoever finds its lease.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::process::{Signal, pidfd_send_signal};

use crate::plan::quiesce::{Machine, Outcome, Step};
use crate::quiesce::frozen::{self, Watch};
use crate::quiesce::held::{Held, Resumed};
use crate::quiesce::lease::Attempt;
use crate::quiesce::process::Process;
use crate::quiesce::real::{GRACE, PAUSE, Patience, SETTLED, all_run, answers, own, start};
use crate::quiesce::{Error, Lease, Leases, Result, World, command, transact, units};
use crate::sys::child;
use crate::sys::interrupt::{self, Timely};
use crate::sys::pipe::pipe;

/// How long a guard may take until it runs.
const GUARD_READY: Duration = Duration::from_secs(60);
/// How often a guard looks whether its run is suspended.
const LOOKS: Duration = Duration::from_secs(1);

/// Has a process of its own session wait for the end of this one, and answers what ends with this one, and why the guard is in no scope of its own.
pub(super) fn start_guard(
    state_dir: &Path,
    job: &str,
    program: Option<&Path>,
    config: Option<&Path>,
    leases: &Leases,
) -> io::Result<(OwnedFd, String)> {
    let ((its_end, mine), (ready, says_so)) = (pipe(4096)?, pipe(4096)?);
    let log = File::options().create(true).append(true).open(leases.log(job));
    // Where nothing can be written, it starts what is to be started nonetheless.
    let log = log.or_else(|_| File::options().write(true).open("/dev/null"))?;
    let mut command = Command::new(program.unwrap_or(Path::new("/proc/self/exe")));
    command.arg("--state-dir").arg(state_dir.canonicalize()?).args(["job", "guard", job]);
    command.stdin(its_end).stdout(says_so).stderr(log).current_dir("/");
    if let Some(config) = config {
        // It begins in another folder.
        command.env("COWSNAP_CONFIG", std::path::absolute(config)?);
    }
    child::orphan(&mut command);
    command.spawn()?.wait()?;
    drop(command);
    Ok((mine, units::heard(Timely::new(File::from(ready), Some(GUARD_READY)))?))
}

/// Waits for the end of who started this process, and then starts what is to be started. Says when it waits; `resumed` is told if that was started before, and is not to wait for anything.
///
/// # Errors
/// What could not be started.
pub fn guard(
    state_dir: &Path,
    job: &str,
    mut ready: impl Write,
    resumed: &mut dyn FnMut(Resumed),
) -> Result<Option<Recovered>> {
    // Who ends the run, be it by a signal to all of its group, is to find the services running again.
    interrupt::block_all_in_this_thread().map_err(Error::io("block", "signals"))?;
    let leases = Leases::open(state_dir)?;
    let told = ready.write_all(units::leave(job).as_bytes()).and_then(|()| ready.flush());
    told.map_err(Error::io("answer", "who is guarded"))?;
    drop(ready);
    // An error is an end, too.
    let (mut watch, mut held) = (Watch::default(), Held::default());
    while command::ends(io::stdin(), Some(Instant::now() + LOOKS), false) == Ok(false) {
        wake(&leases, job);
        watch.look(&leases, job);
        held.look(&leases, job).into_iter().for_each(&mut *resumed);
    }
    frozen::end_left(&leases, job);
    make_up(&leases, job, true)
}

/// A run that somebody suspends while services are down goes on.
fn wake(leases: &Leases, job: &str) {
    let run = leases.read(job).ok().flatten().and_then(|lease| lease.run);
    let suspended = run.filter(Process::is_suspended).map(|run| run.open());
    if let Some(Ok(Some(run))) = suspended {
        // It fails if it has ended, and then the pipe says so.
        let _ = pidfd_send_signal(&run, Signal::CONT);
    }
}

/// What was made up for.
#[derive(Debug, Clone)]
pub struct Recovered {
    /// Whose run had died.
    pub job: String,
    /// What runs now.
    pub services: Vec<String>,
    /// How long it was down, from when the run was about to stop it; not known of a lease of a version that did not say when that was.
    pub down: Option<Duration>,
}

/// Starts what a job that died had stopped. `None`: it has left nothing.
///
/// # Errors
/// [`Error::Busy`]: it runs still, or its guard is at it; what could not be started.
pub fn recover(state_dir: &Path, job: &str) -> Result<Option<Recovered>> {
    frozen::end_left(&Leases::there(state_dir), job);
    make_up(&Leases::open(state_dir)?, job, false)
}

pub(super) fn make_up(leases: &Leases, job: &str, waits: bool) -> Result<Option<Recovered>> {
    let _lock = leases.lock(job, waits)?;
    let Some(mut lease) = leases.read(job)? else { return Ok(None) };
    if waits {
        lease.guard = own();
        // Who can not read who it is can not have it forgotten.
        let _ = leases.write(&lease);
    }
    let _services = leases.lock_services(lease.services(), waits)?;
    fulfil(leases, lease, waits, &mut |_| ()).map(Some)
}

/// A lease alone.
struct Left<'a> {
    leases: &'a Leases,
    lease: Lease,
    waits: Waits,
}

/// How long a service is waited for that was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// A moment: others may be down that can be started at once.
    Shortly,
    /// As long as it had.
    AsLong,
    /// However long it takes.
    WithoutEnd,
}

/// Who guards `waits` for a process that was told to stop, however long it takes.
pub(super) fn fulfil(
    leases: &Leases,
    lease: Lease,
    waits: bool,
    before: &mut dyn FnMut(Step),
) -> Result<Recovered> {
    let services: Vec<_> = lease.services().map(ToString::to_string).collect();
    let begun = lease.begun;
    let (job, all) = (lease.job.clone(), || (0..services.len()).collect());
    let mut left = Left { leases, lease, waits: Waits::Shortly };
    let mut done = transact(&mut left, Machine::recovering(all()), before);
    // One that hangs keeps none of the others down.
    if done.not_started.iter().any(|error| matches!(error, Error::StillStopping { .. })) {
        left.waits = if waits { Waits::WithoutEnd } else { Waits::AsLong };
        done = transact(&mut left, Machine::recovering(all()), before);
    }
    match done.not_started.into_iter().chain(done.afterwards).next() {
        Some(error) => Err(error),
        None => {
            let down = begun.map(|begun| Timestamp::now().duration_since(begun));
            // A clock may have been set back.
            Ok(Recovered { job, services, down: down.and_then(|down| Duration::try_from(down).ok()) })
        }
    }
}

impl Left<'_> {
    /// Has the lease say that something was started in vain, for whoever waits for this one, or comes later.
    fn noted(&mut self, done: Result<()>) -> Result<()> {
        let why = match &done {
            Ok(()) | Err(Error::StillStopping { .. }) => return done,
            Err(Error::NotStarted { why, .. }) => why.clone(),
            Err(error) => error.told(),
        };
        self.lease.failed = Some(Attempt { at: Timestamp::now(), why });
        // Where nothing can be written, it is started nonetheless.
        let _ = self.leases.write(&self.lease);
        done
    }
}

impl World for Left<'_> {
    type Snapshot = ();
    type Error = Error;

    fn look(&mut self) -> Result<Vec<usize>> {
        Ok((0..self.lease.services.len()).collect())
    }

    fn probe(&mut self) -> Result<()> {
        Ok(())
    }

    fn lease(&mut self, _running: &[usize]) -> Result<()> {
        Ok(())
    }

    fn guard(&mut self) -> Result<()> {
        Ok(())
    }

    fn stop(&mut self, _nth: usize) -> Result<()> {
        Ok(())
    }

    fn verify(&mut self) -> Result<()> {
        Ok(())
    }

    fn snapshot(&mut self) -> Result<()> {
        Ok(())
    }

    fn confirm(&mut self) -> Result<()> {
        Ok(())
    }

    fn discard(&mut self, (): ()) -> Result<()> {
        Ok(())
    }

    fn start(&mut self, nth: usize) -> Result<()> {
        let asked = match self.waits {
            Waits::Shortly => Instant::now() + GRACE.min(self.lease.stop_within),
            Waits::AsLong | Waits::WithoutEnd => Instant::now() + self.lease.stop_within,
        };
        let sent = (self.waits != Waits::WithoutEnd).then_some(asked);
        let patience = Patience { sent, asked, is_last: self.waits != Waits::Shortly };
        let done = start(self.leases, &mut self.lease, nth, patience);
        self.noted(done)
    }

    fn answer(&mut self) -> Result<(), (Outcome, Error)> {
        let all: Vec<_> = self.lease.services().collect();
        answers(&all, || Ok(()), Instant::now())
    }

    /// What has been started over what it has itself left behind may end again at once: the lease stays until it does not.
    fn settle(&mut self) -> Result<()> {
        sleep(SETTLED);
        let done = all_run(&self.lease.services().collect::<Vec<_>>());
        self.noted(done)
    }

    fn unlease(&mut self) -> Result<()> {
        self.leases.remove(&self.lease.job)
    }

    fn pause(&mut self) {
        sleep(PAUSE);
    }
}
