//! Transactions with real services, and what makes up for one that died.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::model::{Quiesce, Service};
use crate::plan::quiesce::{Machine, Outcome, Step};
use crate::quiesce::guard::{Recovered, fulfil, start_guard};
use crate::quiesce::lease::{Doing, Entry, Lock, Stopping, is_among};
use crate::quiesce::process::{self, Process};
use crate::quiesce::service::{self, Stop};
use crate::quiesce::telling::{self, Fate, Telling};
use crate::quiesce::{
    Error, Finished, Lease, Leases, Result, World, command, frozen, is_callable, is_known, lies, probe,
    transact, units,
};
use crate::sys::interrupt;
use crate::sys::writers::{self, Asked, Found, Survey};

/// How long a service that stops too late is waited for before its guard is left to it.
pub(super) const GRACE: Duration = Duration::from_secs(2);
/// How long after its command has ended a service may take to show that it runs, if nobody knows how the command ended.
const SETTLES: Duration = Duration::from_secs(5);
/// How long after the start, which is over, services are looked at once more.
pub(super) const SETTLED: Duration = Duration::from_secs(1);
/// How long the kernel is asked of files again while services are down, at most, each of the two times.
const ASKING: Duration = Duration::from_secs(5);
/// Between two attempts to start.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// Where a transaction takes place.
#[derive(Debug, Clone, Copy)]
pub struct Ground<'a> {
    /// Where leases are.
    pub state_dir: &'a Path,
    /// Whose transaction it is.
    pub job: &'a str,
    /// What is stopped, and how.
    pub quiesce: &'a Quiesce,
    /// The directories in which nobody may have a file open for writing.
    pub roots: &'a [PathBuf],
    /// The program whose command `job guard` is the guard; else it is the running one.
    pub program: Option<&'a Path>,
    /// The configuration that says whom its guard tells; else what it finds by itself.
    pub config: Option<&'a Path>,
}

/// What is done while the services are down.
pub trait Acts {
    /// What taking a snapshot answers.
    type Taken;
    /// Why it fails.
    type Error: From<Error>;
    /// What comes first: nobody else stops or starts these services, and what an earlier run left stopped runs.
    ///
    /// # Errors
    /// Nothing is to be stopped.
    fn begins(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
    /// What a run of some job has left stopped runs again, before anything else is done.
    fn recovered(&mut self, _: &Recovered) {}
    /// Takes the snapshot, which does not count yet.
    ///
    /// # Errors
    /// There is none.
    fn take(&mut self) -> Result<Self::Taken, Self::Error>;
    /// Nobody wrote meanwhile: it counts.
    ///
    /// # Errors
    /// It does not, and is discarded.
    fn keep(&mut self, taken: &mut Self::Taken) -> Result<(), Self::Error>;
    /// Gives it up.
    ///
    /// # Errors
    /// It is there still, and does not count.
    fn discard(&mut self, taken: Self::Taken) -> Result<(), Self::Error>;
}

/// Stops the services, takes the snapshot, starts them again. `before` is told of each step. A snapshot is discarded if somebody wrote, or may have, while it was taken.
///
/// A lease that an earlier run left is fulfilled first.
///
/// # Errors
/// Nothing was begun: the lease is somebody's, or [`Acts::begins`] fails. All else is in the answer.
pub fn quiesced<A: Acts>(
    ground: Ground<'_>,
    mut acts: A,
    before: &mut dyn FnMut(Step),
) -> Result<Finished<A::Taken, A::Error>, A::Error> {
    let leases = Leases::open(ground.state_dir)?;
    let lock = leases.lock(ground.job, false)?;
    if let Some(lease) = leases.read(ground.job)? {
        let _services = leases.lock_services(lease.services(), false)?;
        acts.recovered(&fulfil(&leases, lease, false, before)?);
    }
    let services = leases.lock_services(&ground.quiesce.services, false)?;
    fulfil_others(&leases, ground, &mut acts, before)?;
    acts.begins()?;
    let locks = (lock, services);
    let mut real = Real {
        ground,
        leases,
        lease: None,
        is_counted: false,
        surveys: Vec::new(),
        n_unasked: 0,
        guard: None,
        marks: Vec::new(),
        acts,
        _locks: locks,
    };
    let done = transact(&mut real, Machine::default(), before);
    if done.snapshot.is_ok() {
        real.leases.forgive(ground.job);
    }
    let Finished { snapshot, running, stopped, answers, not_started, afterwards, downtime, .. } = done;
    let snapshot = snapshot.map(|taken| taken.expect("what did not fail before was taken"));
    let n_unasked = real.n_unasked;
    // What its guard has started was down no longer than that, however long the snapshot hangs.
    let downtime =
        downtime.map(|down| real.lease.as_ref().and_then(Lease::held).map_or(down, |held| held.min(down)));
    Ok(Finished { snapshot, running, stopped, answers, not_started, afterwards, downtime, n_unasked })
}

/// What another job's run left down is not down for good: it is started before it is looked at.
fn fulfil_others(
    leases: &Leases,
    ground: Ground<'_>,
    acts: &mut impl Acts,
    before: &mut dyn FnMut(Step),
) -> Result<()> {
    let own = &ground.quiesce.services;
    for job in leases.jobs()?.iter().filter(|job| *job != ground.job) {
        let names_own = |lease: &Lease| lease.services().any(|service| is_among(service, own));
        match leases.read(job) {
            Ok(Some(lease)) if names_own(&lease) => {}
            Ok(_) => continue,
            // What it names is down as if nobody had stopped it, and stays so: that is told by whoever is to start it.
            Err(error) => {
                tracing::warn!(job, error = error.told(), "cannot tell what a run of it has left stopped");
                continue;
            }
        }
        let _lock = leases.lock(job, false)?;
        let Some(lease) = leases.read(job)? else { continue };
        let _rest =
            leases.lock_services(lease.services().filter(|service| !is_among(service, own)), false)?;
        acts.recovered(&fulfil(leases, lease, false, before)?);
    }
    Ok(())
}

struct Real<'a, A> {
    ground: Ground<'a>,
    leases: Leases,
    lease: Option<Lease>,
    is_counted: bool,
    surveys: Vec<Survey>,
    n_unasked: usize,
    guard: Option<OwnedFd>, // Its end is this process's.
    marks: Vec<Vec<u8>>,
    acts: A,
    _locks: (Lock, Vec<Lock>), // After the guard, which waits for them.
}

impl<A> Real<'_, A> {
    fn service(&self, nth: usize) -> &Service {
        &self.ground.quiesce.services[nth]
    }

    /// What of its lease is about it.
    fn entry(&self, nth: usize) -> usize {
        let lease = self.lease.as_ref().expect("nothing is stopped without a lease");
        let entry = lease.services().position(|service| service == self.service(nth));
        entry.expect("what was stopped is in the lease")
    }

    fn runs(&self, nth: usize) -> Result<bool> {
        let of = self.service(nth);
        service::runs(of).map_err(|why| Error::Service { op: "look at", service: of.to_string(), why })
    }

    /// The number of the device of a filesystem that is to be frozen.
    fn device(&self, place: &Path) -> Result<u64> {
        let Ground { roots, state_dir, .. } = self.ground;
        let what = format!("the filesystem at {}", place.display());
        lies::check(place, roots, state_dir).map_err(|why| Error::Flush { what, why })
    }

    /// Stops a service of the lease, as far as that can be told.
    fn told_to_stop(
        &self,
        at: usize,
        kept: Option<OwnedFd>,
        sent: &mut dyn FnMut(Telling),
    ) -> Result<Stop, String> {
        let Entry { service, process, device, .. } = &self.lease.as_ref().expect("a lease").services[at];
        let within = self.ground.quiesce.stop_within;
        match (service, device) {
            (Service::Frozen { place }, Some(device)) => {
                // Without it nobody would know whether it is to be thawed.
                let Some(kept) = kept else {
                    return Ok(Stop::NotBegun("the file can not be made that says so".into()));
                };
                sent(Telling::Told);
                frozen::begin(self.ground.program, place, *device, within, kept)
            }
            _ => service::stop(service, process.as_ref(), within, kept, sent),
        }
    }

    /// What was frozen is so still.
    fn is_frozen(&self) -> Result<()> {
        for entry in self.lease.iter().flat_map(|lease| &lease.services) {
            let (Service::Frozen { place }, Some(device)) = (&entry.service, entry.device) else { continue };
            let what = entry.service.to_string();
            frozen::is_held(place, device).map_err(|why| Error::Flush { what, why })?;
        }
        Ok(())
    }

    fn is_quiet(&mut self) -> Result<()> {
        if self.ground.quiesce.goes_on() {
            return self.is_frozen();
        }
        for nth in 0..self.ground.quiesce.services.len() {
            if self.runs(nth)? {
                let why = "it runs again: somebody has started it".to_owned();
                return Err(Error::Service { op: "stop", service: self.service(nth).to_string(), why });
            }
        }
        self.nobody_writes()
    }

    fn failed(&self) -> impl FnOnce(io::Error) -> Error + use<A> {
        Error::io("look for writers of the datasets of job", self.ground.job.to_owned())
    }

    /// Looks at all that there is while there is time for that, and finds what would keep the snapshot from being taken later for certain.
    fn survey(&mut self) -> Result<()> {
        let surveys = self.ground.roots.iter().map(|root| Survey::of(root)).collect::<io::Result<_>>();
        self.surveys = surveys.map_err(self.failed())?;
        let files: Vec<_> = self.surveys.iter().map(Survey::files).collect();
        writers::find(&files).map_err(self.failed())?;
        match writers::own(&files).map_err(self.failed())? {
            Some(file) => Err(Error::Own { file }),
            None => Ok(()),
        }
    }

    /// Not all who can write are processes with a descriptor: a loop device, an overlay of a container, a server of files. So the kernel is asked, too.
    fn nobody_writes(&mut self) -> Result<()> {
        let files: Vec<_> = self.surveys.iter().map(Survey::files).collect();
        let Found { writers, .. } = writers::find(&files).map_err(self.failed())?;
        if !writers.is_empty() {
            return Err(Error::Writers { writers });
        }
        let until = Instant::now() + asking(self.ground.quiesce.max_downtime);
        self.n_unasked = 0;
        for nth in 0..self.surveys.len() {
            let asked = self.surveys[nth].again(command::left(until));
            let Asked { written, n_left } = asked.map_err(self.failed())?;
            if let Some(file) = written {
                return Err(Error::Unseen { file });
            }
            self.n_unasked += n_left;
        }
        Ok(())
    }
}

pub(super) fn own() -> Option<Process> {
    i32::try_from(std::process::id()).ok().and_then(Process::of)
}

/// How long the kernel may be asked of files while services are down, each of the two times.
fn asking(max_downtime: Option<Duration>) -> Duration {
    max_downtime.map_or(ASKING, |max| (max / 8).min(ASKING))
}

impl<A: Acts> World for Real<'_, A> {
    type Snapshot = A::Taken;
    type Error = A::Error;

    fn look(&mut self) -> Result<Vec<usize>, A::Error> {
        units::check(&self.ground.quiesce.services)?;
        self.ground.quiesce.services.iter().try_for_each(is_known)?;
        let mut running = Vec::new();
        for nth in 0..self.ground.quiesce.services.len() {
            running.extend(self.runs(nth)?.then_some(nth));
        }
        // Nothing is to be stopped for a snapshot that could not be taken, nor if it could not be started again.
        for &nth in &running {
            let (of, op) = (self.service(nth), "stop");
            is_callable(of)?;
            service::process(of).map_err(|why| Error::Service { op, service: of.to_string(), why })?;
        }
        for place in self.ground.quiesce.frozen() {
            self.device(place)?;
        }
        if !self.ground.quiesce.goes_on() {
            self.survey()?;
        }
        Ok(running)
    }

    fn probe(&mut self) -> Result<(), A::Error> {
        let Some(probe) = &self.ground.quiesce.probe else { return Ok(()) };
        Ok(probe::ask(probe).map_err(|why| Error::Silent { probe: probe.to_string(), why })?)
    }

    fn lease(&mut self, running: &[usize]) -> Result<(), A::Error> {
        let entry = |&nth: &usize| Entry::new(self.service(nth).clone());
        let lease = Lease {
            job: self.ground.job.into(),
            services: running.iter().map(entry).collect(),
            stop_within: self.ground.quiesce.stop_within,
            start_within: self.ground.quiesce.start_within,
            snapshot_within: self.ground.quiesce.snapshot_within,
            run: own(),
            guard: None,
            begun: Some(jiff::Timestamp::now()),
            failed: None,
            resumed: None,
            boot: process::boot_id(),
        };
        self.leases.forget_overdue(self.ground.job);
        self.leases.write(&lease)?;
        self.lease = Some(lease);
        Ok(())
    }

    fn guard(&mut self) -> Result<(), A::Error> {
        let Ground { state_dir, job, program, config, .. } = self.ground;
        let guarded = start_guard(state_dir, job, program, config, &self.leases);
        let (guard, why) = guarded.map_err(|error| Error::Guard { why: error.to_string() })?;
        self.guard = Some(guard);
        units::warn_of_its_place(job, &why);
        Ok(())
    }

    fn stop(&mut self, nth: usize) -> Result<(), A::Error> {
        interrupt::check().map_err(Error::io("stop", self.service(nth)))?;
        let (at, of) = (self.entry(nth), self.service(nth).clone());
        let device = match &of {
            Service::Frozen { place } => Some(self.device(place)?),
            _ => None,
        };
        let op = match of {
            Service::Frozen { .. } => "freeze",
            // It is called what its command tells, and is not stopped.
            Service::Hook { .. } => "do",
            _ => "stop",
        };
        let lease = self.lease.as_mut().expect("nothing is stopped without a lease");
        let told = |why| Error::Service { op, service: of.to_string(), why };
        lease.services[at].process = service::process(&of).map_err(told)?;
        lease.services[at].device = device;
        lease.services[at].since = process::now();
        let is_first = !std::mem::replace(&mut self.is_counted, true);
        let counted = if is_first { self.leases.count(self.ground.job) } else { Ok(()) };
        // Before the lease says so: what an earlier one has left there is not about this one.
        let kept = self.leases.begin(&of, Doing::Stop);
        // Before it is told: whoever dies in between leaves one of which that can be found out, and not one that stops unseen.
        lease.services[at].stopping = marked(&of, kept.is_some());
        let is_marked = lease.services[at].stopping == Stopping::Marked;
        if let Err(error) = counted.and_then(|()| self.leases.write(lease)) {
            lease.services[at].stopping = Stopping::No;
            return Err(error.into());
        }
        let leases = self.leases.clone();
        let mark = |telling: Telling| match is_marked {
            true => telling.tell(&leases, &of),
            false => Ok(()),
        };
        let within = self.ground.quiesce.stop_within;
        let mut was_sent = false;
        let mut sent = |telling| {
            was_sent = true;
            // A command that was begun has told nobody yet.
            if telling == Telling::Told {
                let _ = mark(telling);
            }
        };
        let done = match mark(Telling::About) {
            Ok(()) => self.told_to_stop(at, kept, &mut sent),
            Err(error) => Ok(Stop::NotBegun(format!("nobody would know that it was told: {error}"))),
        };
        if matches!(done, Ok(Stop::Down)) && device.is_some() {
            return Ok(());
        }
        let lease = self.lease.as_mut().expect("nothing is stopped without a lease");
        lease.services[at].stopping = match &done {
            // It may have heard of it all the same.
            Ok(Stop::Refused(_)) => Stopping::Asked,
            // Whatever its engine says of it later: it stops, and is to be started then.
            Ok(Stop::Late) | Err(_) if was_sent => Stopping::Sent,
            // Nobody has to wait for what is down, nor for what was not told: whoever runs it from here on is not stopping.
            _ => Stopping::No,
        };
        if self.leases.write(lease).is_err() && lease.services[at].stopping == Stopping::Sent {
            let _ = mark(Telling::Told);
        }
        match done {
            Ok(Stop::Down) => Ok(()),
            Ok(Stop::Late) => Err(Error::StopDeadline { service: of.to_string(), within }.into()),
            Ok(Stop::NotAsked(why)) => Err(Error::Unit { unit: of.to_string(), why }.into()),
            Ok(Stop::NotBegun(why) | Stop::Refused(why)) | Err(why) => Err(told(why).into()),
        }
    }

    fn verify(&mut self) -> Result<(), A::Error> {
        self.marks = units::marks(&self.ground.quiesce.services)?;
        self.is_quiet()?;
        Ok(interrupt::check().map_err(Error::io("take a snapshot for job", self.ground.job))?)
    }

    fn confirm(&mut self) -> Result<(), A::Error> {
        if let Some(within) =
            self.ground.quiesce.snapshot_within.filter(|_| self.leases.is_overdue(self.ground.job))
        {
            return Err(Error::Overdue { within }.into());
        }
        units::have_not_run(&self.ground.quiesce.services, &self.marks)?;
        Ok(self.is_quiet()?)
    }

    fn keep(&mut self, taken: &mut A::Taken) -> Result<(), A::Error> {
        self.acts.keep(taken)
    }

    fn discard(&mut self, taken: A::Taken) -> Result<(), A::Error> {
        self.acts.discard(taken)
    }

    fn snapshot(&mut self) -> Result<A::Taken, A::Error> {
        self.acts.take()
    }

    fn start(&mut self, nth: usize) -> Result<(), A::Error> {
        let at = self.entry(nth);
        let lease = self.lease.as_mut().expect("nothing is stopped without a lease");
        // What its guard is at is not begun a second time.
        if self.leases.is_overdue(self.ground.job)
            && let Ok(Some(told)) = self.leases.read(self.ground.job)
        {
            *lease = told;
        }
        let until = Instant::now() + GRACE;
        let patience = Patience { sent: Some(until), asked: until, is_last: false };
        Ok(start(&self.leases, lease, at, patience)?)
    }

    fn answer(&mut self) -> Result<(), (Outcome, A::Error)> {
        let Quiesce { probe, start_within, .. } = self.ground.quiesce;
        let until = Instant::now() + *start_within;
        let running: Vec<_> = self.lease.iter().flat_map(Lease::services).collect();
        answers(
            &running,
            || {
                probe.as_ref().map_or(Ok(()), |probe| {
                    probe::ask(probe).map_err(|why| Error::Silent { probe: probe.to_string(), why })
                })
            },
            until,
        )
        .map_err(|(outcome, error)| (outcome, error.into()))
    }

    fn settle(&mut self) -> Result<(), A::Error> {
        sleep(SETTLED);
        let running: Vec<_> = self.lease.iter().flat_map(Lease::services).collect();
        Ok(all_run(&running)?)
    }

    fn unlease(&mut self) -> Result<(), A::Error> {
        Ok(self.leases.remove(self.ground.job)?)
    }

    fn pause(&mut self) {
        sleep(PAUSE);
    }
}

/// What is written of a service that is about to be told. systemd and a frozen filesystem know more of it themselves, and a hook is not stopped.
fn marked(service: &Service, has_file: bool) -> Stopping {
    match service {
        Service::Unit { .. } | Service::Frozen { .. } | Service::Hook { .. } => Stopping::Sent,
        Service::Process { .. }
        | Service::Program { .. }
        | Service::Container { .. }
        | Service::Commands { .. } => match has_file {
            true => Stopping::Marked,
            // Nobody could say later that it was not told, so it was.
            false => Stopping::Sent,
        },
    }
}

/// How long a service is waited for that may be stopping.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub sent: Option<Instant>, // It stops for certain; `None`: without end.
    pub asked: Instant,
    pub is_last: bool, // Nobody else waits for it afterwards.
}

/// Starts a service of a lease. It may be stopping still, or starting.
pub(super) fn start(leases: &Leases, lease: &mut Lease, nth: usize, patience: Patience) -> Result<()> {
    let within = lease.start_within;
    let entry = lease.services[nth].clone();
    let service = &entry.service;
    if let Service::Unit { name } = service {
        return units::start(name, service, within, patience.sent);
    }
    if let Service::Frozen { place } = service {
        stops(leases, &entry, lease.stop_within, patience)?;
        frozen::end(leases, &entry, place)?;
        lease.services[nth].stopping = Stopping::No;
        // Who thaws it once more does nothing.
        let _ = leases.write(lease);
        return Ok(());
    }
    let failed = |why| Error::NotStarted { service: service.to_string(), why };
    let is_of_now = entry.boot == process::boot_id();
    if is_of_now && !entry.starting && !stops(leases, &entry, lease.stop_within, patience)? {
        return Ok(()); // It was not told to, or thinks nothing of it.
    }
    let since = entry.since.filter(|_| is_of_now);
    let runs = match is_of_now && !entry.starting {
        true => service::known_to_run(service, since, within).map_err(failed)?,
        false => comes_up(leases, &entry, within, is_of_now).map_err(failed)?,
    };
    if runs && !matches!(service, Service::Hook { .. }) {
        return Ok(());
    }
    let kept = leases.begin(service, Doing::Start);
    let mut begun = |starter| {
        let now = &mut lease.services[nth];
        now.boot = process::boot_id();
        (now.stopping, now.process, now.starting, now.starter) = (Stopping::No, None, true, starter);
        // If that can not be written, it is started nonetheless.
        let _ = leases.write(lease);
    };
    begun(None);
    let done = service::start(service, since, within, kept, &mut begun);
    let goes_on = done.as_ref().is_err_and(|failed| failed.goes_on);
    lease.services[nth].starting = goes_on || done.is_err() && leases.is_at(service, Doing::Start);
    if done.is_err() {
        // Who takes over has not to wait for what is known to have failed, and has to for what took too long alone.
        let _ = leases.write(lease);
    }
    done.map_err(|error| failed(error.why))
}

/// Whether a service that may have been told to stop has: it may run again since. If nobody told it to, it has not to be waited for.
///
/// # Errors
/// [`Error::StillStopping`].
fn stops(leases: &Leases, entry: &Entry, within: Duration, patience: Patience) -> Result<bool> {
    let Entry { service, stopping, .. } = entry;
    let unknown = |why| Error::NotStarted { service: service.to_string(), why };
    let fate = match stopping {
        Stopping::No => return Ok(true),
        Stopping::Asked => Fate::May(patience.asked),
        Stopping::Sent => Fate::Stops,
        Stopping::Marked => telling::fate(leases, entry, within, patience.asked),
    };
    let is_still = || Error::StillStopping { service: service.to_string() };
    match fate {
        // If it has ended by itself, it is started.
        Fate::Runs => Ok(!service::known_to_run(service, None, within).map_err(unknown)?),
        Fate::Stops if has_stopped(leases, entry, patience.sent, patience.asked).map_err(unknown)? => {
            Ok(true)
        }
        Fate::May(until) if has_stopped(leases, entry, Some(until), patience.asked).map_err(unknown)? => {
            Ok(true)
        }
        Fate::May(_) if patience.is_last && !telling::was_told(entry) => Ok(false),
        Fate::May(_)
            if patience.is_last
                && has_stopped(leases, entry, patience.sent, patience.asked).map_err(unknown)? =>
        {
            Ok(true)
        }
        _ => Err(is_still()),
    }
}

/// Waits until a service has stopped that may have been told to. `Ok(false)`: it has not when its time is over.
fn has_stopped(
    leases: &Leases,
    entry: &Entry,
    until: Option<Instant>,
    asked: Instant,
) -> Result<bool, String> {
    let Entry { service, process, .. } = entry;
    let is_left = || Ok(!leases.is_at(service, Doing::Stop));
    if let Service::Hook { .. } = service {
        // What it has left running may have the file for ever: who was told of a snapshot is to hear that it is over.
        service::eventually(Some(asked), false, is_left)?;
        return Ok(true);
    }
    // What stops it could stop what is started now.
    if !service::eventually(until, false, is_left)? {
        return Ok(false);
    }
    match (service, process) {
        (Service::Process { .. } | Service::Program { .. }, Some(process)) => match process.open()? {
            Some(pidfd) => command::ends(&pidfd, until, false),
            None => Ok(true),
        },
        (Service::Process { .. } | Service::Program { .. }, None) => Ok(true), // There was none.
        (Service::Hook { .. } | Service::Frozen { .. }, _) => Ok(true),
        // One that runs as another process was stopped, and somebody has started it since.
        (Service::Container { .. }, Some(process)) => service::eventually(until, false, || {
            let is_gone = process.open()?.is_none();
            let is_other = || service::process(service).ok().flatten().is_some_and(|now| now != *process);
            Ok(is_gone && (service::runs(service) == Ok(false) || is_other()))
        }),
        _ => service::is_down(service, until, false),
    }
}

/// Whether a service that somebody has begun to start runs in the end. If not, nobody is at it any more: two of one service would be worse than none.
///
/// # Errors
/// Somebody is.
fn comes_up(leases: &Leases, entry: &Entry, within: Duration, is_of_now: bool) -> Result<bool, String> {
    let service = &entry.service;
    let (mut runs, mut quiet_since) = (Ok(false), None);
    // A command that has ended may have left something behind that takes its time, and has closed the file.
    let settles = if is_of_now && entry.starter.is_some() { within } else { SETTLES.min(within / 2) };
    let is_known = service::eventually(Some(Instant::now() + within + settles), false, || {
        runs = service::runs_since(service, entry.since.filter(|_| is_of_now));
        let goes_on = match &entry.starter {
            Some(starter) => starter.open()?.is_some(),
            None => false,
        };
        // Of what nobody knows whether it runs, nobody knows that it does not.
        quiet_since = match goes_on || runs.is_err() || leases.is_at(service, Doing::Start) {
            true => None,
            false => quiet_since.or_else(|| Some(Instant::now())),
        };
        Ok(runs == Ok(true) || quiet_since.is_some_and(|since| since.elapsed() >= settles))
    });
    match (is_known?, runs) {
        (_, Err(why)) => Err(format!("nobody knows whether it runs: {why}")),
        (true, runs) => runs,
        (false, _) => Err("its start was begun earlier, goes on still, and it does not run".into()),
    }
}

/// That none of these is gone.
pub(super) fn all_run(services: &[&Service]) -> Result<()> {
    match services.iter().find(|service| service::has_ended(service)) {
        None => Ok(()),
        Some(service) => {
            let why = "it ended again at once".to_owned();
            Err(Error::NotStarted { service: service.to_string(), why })
        }
    }
}

/// Waits until `probe` answers, as long as these run.
pub(super) fn answers(
    services: &[&Service],
    probe: impl Fn() -> Result<()>,
    until: Instant,
) -> Result<(), (Outcome, Error)> {
    let mut pause = Duration::from_millis(20);
    loop {
        all_run(services).map_err(|error| (Outcome::Failed, error))?;
        let Err(error) = probe() else { return Ok(()) };
        if command::left(until).is_zero() || interrupt::pending().is_some() {
            return Err((Outcome::Silent, error));
        }
        sleep(pause.min(command::left(until)));
        pause = (pause * 3 / 2).min(Duration::from_secs(2));
    }
}
