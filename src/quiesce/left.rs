//! Leases that runs have left: what is done about them, and what is not.

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Signal, pidfd_send_signal};

use crate::model::Service;
use crate::quiesce::guard::start_guard;
use crate::quiesce::lease::{Attempt, Doing, Lock, Stopping};
use crate::quiesce::process::Process;
use crate::quiesce::{Error, Lease, Leases, Result, command, frozen, service};

/// How long a guard that was killed may take to end.
const DYING: Duration = Duration::from_secs(10);
/// A guard that nobody sees at work for so long has ended.
const ABSENT: Duration = Duration::from_secs(5);

/// Who sees to a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Nobody.
    Nobody,
    /// A guard, which waits for a service to stop, or starts it.
    Guard,
    /// A run, or `job recover`.
    Run,
}

/// A lease that is there.
#[derive(Debug, Clone)]
pub struct Left {
    /// Whose.
    pub job: String,
    /// What is to be started.
    pub services: Vec<String>,
    /// Who sees to it.
    pub by: By,
    /// Where it is.
    pub path: PathBuf,
    /// When it was written last.
    pub since: Option<SystemTime>,
}

/// All that are there. One that can not be read has no services.
///
/// # Errors
/// A directory that can not be read.
pub fn left(state_dir: &Path) -> Result<Vec<Left>> {
    if !state_dir.join("leases").exists() {
        return Ok(Vec::new());
    }
    let leases = Leases::open(state_dir)?;
    let mut all = Vec::new();
    for job in leases.jobs()? {
        let is_free = !leases.is_locked(&job);
        let lease = match leases.read(&job) {
            Ok(None) => continue, // It is over since.
            read => read.ok().flatten(),
        };
        let by = match is_free {
            true => By::Nobody,
            false if lease.as_ref().is_some_and(|lease| guards(lease).is_some()) => By::Guard,
            false => By::Run,
        };
        let services = lease.iter().flat_map(Lease::services).map(ToString::to_string).collect();
        let path = leases.path(&job);
        let since = path.metadata().and_then(|meta| meta.modified()).ok();
        all.push(Left { job, services, by, path, since });
    }
    Ok(all)
}

/// The guard that has the job's lock.
fn guards(lease: &Lease) -> Option<std::os::fd::OwnedFd> {
    lease.guard.as_ref().and_then(|guard: &Process| guard.open().ok().flatten())
}

/// What nobody starts any more.
#[derive(Debug, Clone)]
pub struct Forgotten {
    /// What was to be started.
    pub services: Vec<String>,
    /// Those that do not run.
    pub down: Vec<String>,
    /// Its guard was at it, and has been ended.
    pub had_guard: bool,
    /// Why nobody knows what was to be started.
    pub unreadable: Option<String>,
}

/// Takes the lease of `job` away without starting anything; ends its guard, if that is at it. `None`: there is none.
///
/// # Errors
/// [`Error::Busy`]: a run is at it, or `job recover`. [`Error::NotThawed`]: what nobody would thaw any more is frozen.
pub fn forget(state_dir: &Path, job: &str) -> Result<Option<Forgotten>> {
    let leases = Leases::open(state_dir)?;
    let mut had_guard = false;
    let _lock = match leases.lock(job, false) {
        Err(Error::Busy { .. }) => {
            let Some(guard) = leases.read(job)?.as_ref().and_then(guards) else {
                return Err(Error::Busy { job: job.into() });
            };
            // Whoever is killed at whatever moment leaves what can be made up for.
            let _ = pidfd_send_signal(&guard, Signal::KILL);
            had_guard = true;
            let until = Instant::now() + DYING;
            command::ends(&guard, Some(until), false).map_err(|why| Error::Guard { why })?;
            leases.lock(job, false)?
        }
        lock => lock?,
    };
    // One that can not be read is forgotten, too.
    let (lease, unreadable) = match leases.read(job) {
        Ok(None) => return Ok(None),
        Ok(lease) => (lease, None),
        Err(error) => (None, Some(error.told())),
    };
    if let Some(lease) = &lease {
        thaw(&leases, lease)?;
    }
    let is_down = |service: &&Service| service::runs(service) == Ok(false);
    let down = lease.iter().flat_map(Lease::services).filter(is_down).map(ToString::to_string).collect();
    leases.remove(job)?;
    let services = lease.iter().flat_map(Lease::services).map(ToString::to_string).collect();
    Ok(Some(Forgotten { services, down, had_guard, unreadable }))
}

/// Nobody thaws any more what is frozen and forgotten: it is thawed first.
fn thaw(leases: &Leases, lease: &Lease) -> Result<()> {
    for entry in lease.services.iter().filter(|entry| entry.stopping != Stopping::No) {
        let Service::Frozen { place } = &entry.service else { continue };
        let until = Some(Instant::now() + DYING);
        let is_left = || Ok(!leases.is_at(&entry.service, Doing::Stop));
        if service::eventually(until, false, is_left) != Ok(true) {
            let why = "somebody is about to freeze it still".into();
            return Err(Error::NotThawed { place: place.clone(), why });
        }
    }
    frozen::end_all(leases, lease)
}

/// Thaws what is frozen for longer than it may be, of all jobs, and answers what was: its run waits for something, and its guard is gone.
pub fn end_overdue(state_dir: &Path) -> Vec<(String, Error)> {
    let leases = Leases::there(state_dir);
    let read = |job: String| leases.read(&job).ok().flatten().map(|lease| (job, lease));
    let all = leases.jobs().unwrap_or_default().into_iter().filter_map(read);
    let overdue = |(job, lease): (String, Lease)| {
        frozen::end_overdue(&leases, &lease).into_iter().map(move |error| (job.clone(), error))
    };
    all.flat_map(overdue).collect()
}

/// What has come of a lease that somebody had left.
#[derive(Debug)]
pub enum MadeUp {
    /// These run again.
    Done(Vec<String>),
    /// A guard is at it still.
    UnderWay(Vec<String>),
}

/// Has a guard see to every lease that nobody sees to, all at once, and waits for them no longer than that: a service that does not stop, or does not start, is no
/// reason to let others wait.
pub fn make_up_all(
    state_dir: &Path,
    program: Option<&Path>,
    within: Duration,
) -> Result<Vec<(String, Result<MadeUp>)>> {
    let leases = Leases::open(state_dir)?;
    let (mut begun, mut done) = (Vec::new(), Vec::new());
    for Left { job, services, by, .. } in left(state_dir)? {
        // What has failed once is no better for being tried still.
        if by == By::Guard
            && let Some(failed) = failed(&leases, &job)
        {
            done.push((job.clone(), Err(failed.error(&services))));
        }
        if by != By::Nobody {
            continue;
        }
        match guarded(state_dir, &job, program, &leases) {
            Ok((before, turn)) => begun.push((job, services, before, turn)), // It waits for nobody's end.
            Err(error) => done.push((job, Err(error))),
        }
    }
    let until = Instant::now() + within;
    for (job, services, before, _turn) in begun {
        let outcome = awaited(&leases, &job, services, before.as_ref(), until);
        done.push((job, outcome));
    }
    Ok(done)
}

/// Has a guard begin, if it is this one's turn: who comes at the same moment waits for the same guard. Answers what had failed before.
fn guarded(
    state_dir: &Path,
    job: &str,
    program: Option<&Path>,
    leases: &Leases,
) -> Result<(Option<Attempt>, Option<Lock>)> {
    // Where no turn can be had, two guards are better than none.
    let turn = leases.turn(job);
    // One that can not be read is said to be so.
    let before = leases.read(job)?.and_then(|lease| lease.failed);
    if matches!(turn, Ok(None)) || leases.is_locked(job) {
        return Ok((before, None));
    }
    start_guard(state_dir, job, program, None, leases)
        .map_err(|error| Error::Guard { why: error.to_string() })?;
    Ok((before, turn.ok().flatten()))
}

fn failed(leases: &Leases, job: &str) -> Option<Attempt> {
    leases.read(job).ok().flatten().and_then(|lease| lease.failed)
}

impl Attempt {
    fn error(self, services: &[String]) -> Error {
        Error::NotStarted { service: services.join(", "), why: self.why }
    }
}

/// Waits until a guard has started them, or has given up, which had failed `before` so.
fn awaited(
    leases: &Leases,
    job: &str,
    services: Vec<String>,
    before: Option<&Attempt>,
    until: Instant,
) -> Result<MadeUp> {
    let mut absent: Option<Instant> = None;
    loop {
        if !leases.path(job).exists() {
            return Ok(MadeUp::Done(services));
        }
        let is_free = !leases.is_locked(job);
        let failed = failed(leases, job);
        if let Some(failed) = failed.clone().filter(|failed| is_free && before != Some(failed)) {
            return Err(failed.error(&services));
        }
        absent = if is_free { absent.or_else(|| Some(Instant::now())) } else { None };
        if absent.is_some_and(|since| since.elapsed() > ABSENT) && leases.path(job).exists() {
            let why = format!("{} says why", leases.log(job).display());
            return Err(Error::NotStarted { service: services.join(", "), why });
        }
        if command::left(until).is_zero() {
            return match failed {
                Some(failed) => Err(failed.error(&services)),
                None => Ok(MadeUp::UnderWay(services)),
            };
        }
        sleep(Duration::from_millis(50));
    }
}
