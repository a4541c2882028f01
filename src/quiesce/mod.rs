//! Services are stopped, a snapshot is taken, and they are started again, whatever happens in between ([ADR 7](../../docs/adr/0007-jobs.md)).
//!
//! [`plan::quiesce`](crate::plan::quiesce) says what comes next; here it is done, over a trait, so that tests can have each step fail.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::error::{Class, class_of_io};
use crate::plan::quiesce::{Machine, Outcome, Step};
use crate::sys::writers::Writer;

mod callable;
mod command;
mod container;
mod family;
mod flush;
mod frozen;
mod guard;
mod held;
pub mod here;
mod hook;
mod http;
mod lease;
mod left;
mod lies;
mod pidfile;
mod postgres;
mod probe;
mod process;
mod program;
mod real;
mod service;
mod systemd;
mod telling;
#[cfg(test)]
mod tests;
mod units;

pub use callable::{can_be_called, is_callable};
pub use flush::flush;
pub use frozen::freeze_marked;
pub use guard::{Recovered, guard, recover};
pub use held::Resumed;
pub use hook::call;
pub use lease::{Lease, Leases};
pub use left::{By, Forgotten, Left, MadeUp, end_overdue, forget, left, make_up_all};
pub use postgres::Session;
pub use program::is_known;
pub use real::{Acts, Ground, quiesced};
pub use systemd::Trouble;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It takes too long; the service is started again.
    #[error("{service} did not stop within {within:?}: there is no snapshot")]
    StopDeadline {
        /// Which.
        service: String,
        /// How long it had.
        within: Duration,
    },
    /// The snapshot took too long; its guard has started the services.
    #[error(
        "the services were down for longer than {within:?} (snapshot_within) and have been started: there is no snapshot"
    )]
    Overdue {
        /// How long it had.
        within: Duration,
    },
    /// It was told to stop, has not yet, and can not be started before that.
    #[error("{service} is stopping still: its guard starts it when it has stopped")]
    StillStopping {
        /// Which.
        service: String,
    },
    /// A service does not do as it is told.
    #[error("cannot {op} {service}: {why}")]
    Service {
        /// What was attempted: look at, stop.
        op: &'static str,
        /// Which.
        service: String,
        /// What happened.
        why: String,
    },
    /// No process runs a service's program, and there is no such file: another one may be meant, which runs.
    #[error("cannot tell whether {service} runs: {what}, and no process runs it")]
    NoProgram {
        /// Which.
        service: String,
        /// What is at its place.
        what: String,
    },
    /// What asks for a service, stops it or starts it can not be called: it would be found out after the stop.
    #[error("cannot stop {service} and start it again: {key}: {why}")]
    NotCallable {
        /// Which.
        service: String,
        /// Of its keys in the configuration.
        key: &'static str,
        /// What is wrong.
        why: String,
    },
    /// A unit is not to be stopped, or can not be.
    #[error("cannot stop {unit}: {why}")]
    Unit {
        /// Which.
        unit: String,
        /// What is wrong.
        why: Trouble,
    },
    /// A service is down that ran before.
    #[error("{service} IS DOWN: cannot start it: {why}")]
    NotStarted {
        /// Which.
        service: String,
        /// What happened.
        why: String,
    },
    /// A filesystem is frozen to which everybody could write before.
    #[error("{} IS FROZEN: cannot thaw it: {why}", place.display())]
    NotThawed {
        /// Where it is mounted.
        place: PathBuf,
        /// What happened.
        why: String,
    },
    /// A filesystem was frozen by somebody else.
    #[error("{} is frozen already, by somebody else", place.display())]
    Frozen {
        /// Where it is mounted.
        place: PathBuf,
    },
    /// A service is down, and nobody is to start it any more.
    #[error("{service} IS DOWN, and nobody starts it any more")]
    GivenUp {
        /// Which.
        service: String,
    },
    /// What should answer does not.
    #[error("{probe} does not answer: {why}")]
    Silent {
        /// What was asked.
        probe: String,
        /// What came instead.
        why: String,
    },
    /// Somebody would go on writing.
    #[error("files of the dataset are open for writing, so there is no snapshot: {}", list(writers))]
    Writers {
        /// By whom.
        writers: Vec<Writer>,
    },
    /// Somebody would go on writing who can not be looked into.
    #[error("{} is open for writing by an unknown process, so there is no snapshot", file.display())]
    Unseen {
        /// One of the files.
        file: PathBuf,
    },
    /// This process would go on writing.
    #[error(
        "{} lies in the dataset, and this run has it open for writing: its state directory, or where its output goes", file.display()
    )]
    Own {
        /// One of the files.
        file: PathBuf,
    },
    /// What is in memory alone could not be written down.
    #[error("cannot flush {what}, so there is no snapshot: {why}")]
    Flush {
        /// Of what.
        what: String,
        /// What happened.
        why: String,
    },
    /// What a job calls before or after does not do as it should.
    #[error("{hook} fails: {command}: {why}")]
    Hook {
        /// Which.
        hook: &'static str,
        /// What was called.
        command: String,
        /// What happened.
        why: String,
    },
    /// Nobody would start the service if this process died.
    #[error("the guard that would start the service does not run: {why}")]
    Guard {
        /// What happened.
        why: String,
    },
    /// A run has left services stopped, and nobody knows which.
    #[error("nobody knows what a run of job {job} has left stopped or frozen: {} can not be read: {why}", path.display())]
    Unreadable {
        /// Whose.
        job: String,
        /// The lease.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A lease is somebody's.
    #[error("another process is about to start the services of job {job}")]
    Busy {
        /// Whose.
        job: String,
    },
    /// A service is another job's, for now.
    #[error("another job is about to stop or start {service}")]
    Shared {
        /// Which.
        service: String,
    },
    /// A call to the kernel.
    #[error("cannot {op} {subject}")]
    Io {
        /// What was attempted.
        op: &'static str,
        /// On what.
        subject: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

fn list(writers: &[Writer]) -> String {
    let told: Vec<_> = writers.iter().take(5).map(ToString::to_string).collect();
    let more = if writers.len() > told.len() { ", and more" } else { "" };
    format!("{}{more}", told.join(", "))
}

/// What most functions here return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Wraps what the kernel said.
    fn io<S: ToString>(op: &'static str, subject: S) -> impl FnOnce(io::Error) -> Self {
        let subject = subject.to_string();
        move |source| Self::Io { op, subject, source }
    }

    /// In one line, with its cause.
    fn told(&self) -> String {
        match self {
            Self::Io { source, .. } => format!("{self}: {source}"),
            _ => self.to_string(),
        }
    }

    /// Whether somebody else is at work with what is needed.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Shared { .. })
    }

    /// Whether something is down, or stands still, that ran before: of all that can be told, this has to be.
    pub fn is_down(&self) -> bool {
        matches!(self, Self::NotStarted { .. } | Self::NotThawed { .. })
    }

    /// What it means for whoever runs the program.
    pub fn class(&self) -> Class {
        match self {
            Self::NotStarted { .. } | Self::NotThawed { .. } | Self::GivenUp { .. } => Class::Internal,
            Self::Unit { why, .. } => why.class,
            Self::NoProgram { .. } | Self::NotCallable { .. } => Class::Usage,
            Self::Writers { .. } | Self::Unseen { .. } | Self::Own { .. } | Self::Frozen { .. } => {
                Class::Conflict
            }
            Self::Io { source, .. } => class_of_io(source),
            Self::Unreadable { .. } => Class::Corrupt,
            _ => Class::Unreachable,
        }
    }

    /// The command that would help.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotStarted { .. } | Self::NotThawed { .. } => {
                Some("cowsnap job recover tries it again; cowsnap job recover --forget JOB gives up what is not to run any more".into())
            }
            Self::Busy { job } => Some(format!(
                "wait for its end; if what it waits for is not to run any more: cowsnap job recover --forget {job}"
            )),
            Self::Unreadable { job, .. } => Some(format!(
                "see that all services of the job run and nothing is frozen, then cowsnap job recover --forget {job}, and run it again"
            )),
            Self::NoProgram { .. } => {
                Some("readlink /proc/PID/exe names the file that a process runs, which may not be what it was called by".into())
            }
            Self::Own { .. } => Some("have --state-dir, and the output, elsewhere".into()),
            _ => None,
        }
    }
}

/// What a transaction is done with.
pub trait World {
    /// What taking a snapshot answers.
    type Snapshot;
    /// Why something fails.
    type Error;
    /// Which services run.
    fn look(&mut self) -> Result<Vec<usize>, Self::Error>;
    /// Whether it answers now; it does where there is no probe.
    fn probe(&mut self) -> Result<(), Self::Error>;
    /// Writes down, durably, that these are to be started again.
    fn lease(&mut self, running: &[usize]) -> Result<(), Self::Error>;
    /// Has a process started that does so if this one dies.
    fn guard(&mut self) -> Result<(), Self::Error>;
    /// Stops a service, and waits until it is stopped.
    fn stop(&mut self, nth: usize) -> Result<(), Self::Error>;
    /// Nothing runs, and nobody writes.
    fn verify(&mut self) -> Result<(), Self::Error>;
    /// Still nothing runs, and nobody writes.
    fn confirm(&mut self) -> Result<(), Self::Error>;
    /// It counts from here on.
    fn keep(&mut self, _snapshot: &mut Self::Snapshot) -> Result<(), Self::Error> {
        Ok(())
    }
    /// Gives up a snapshot while which somebody may have written.
    fn discard(&mut self, snapshot: Self::Snapshot) -> Result<(), Self::Error>;
    /// Takes the snapshot.
    fn snapshot(&mut self) -> Result<Self::Snapshot, Self::Error>;
    /// Starts a service, and waits until it runs; nothing if it does.
    fn start(&mut self, nth: usize) -> Result<(), Self::Error>;
    /// Waits until the probe answers; with an error, whether the services run at all.
    fn answer(&mut self) -> Result<(), (Outcome, Self::Error)>;
    /// The services run a moment later, too.
    fn settle(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
    /// Takes the lease back.
    fn unlease(&mut self) -> Result<(), Self::Error>;
    /// Lets some time go by before something is tried again.
    fn pause(&mut self) {}
}

/// How a transaction ended.
#[derive(Debug)]
pub struct Finished<S, E> {
    /// The snapshot, or why there is none.
    pub snapshot: Result<S, E>,
    /// The services that ran before.
    pub running: Vec<usize>,
    /// Those that were told to stop.
    pub stopped: Vec<usize>,
    /// Whether all answered in the end.
    pub answers: bool,
    /// Why some of them do not run now. Then the lease is still there.
    pub not_started: Vec<E>,
    /// What else went wrong once the services ran: a probe that does not answer, a lease that can not be taken back.
    pub afterwards: Vec<E>,
    /// From when the first was asked to stop to when all ran and answered, or ran if they do not answer; `None` if nothing was stopped, or some are down.
    pub downtime: Option<Duration>,
    /// Of how many files the kernel was asked only before the stop, for want of time.
    pub n_unasked: usize,
}

/// What was gathered on the way.
struct Gathered<S, E> {
    snapshot: Option<Result<S, E>>,
    failing: Option<(usize, E)>,
    not_started: Vec<E>,
    afterwards: Vec<E>,
    stopped: Vec<usize>,
    answers: bool,
    down: Option<Instant>,
    downtime: Option<Duration>,
}

/// Does all steps of `machine` in `world`; `before` is told of each.
pub fn transact<W: World>(
    world: &mut W,
    mut machine: Machine,
    before: &mut dyn FnMut(Step),
) -> Finished<Option<W::Snapshot>, W::Error> {
    let mut all = Gathered {
        snapshot: None,
        failing: None,
        not_started: Vec::new(),
        afterwards: Vec::new(),
        stopped: Vec::new(),
        answers: true,
        down: None,
        downtime: None,
    };
    while let Some(step) = machine.step() {
        before(step);
        if step == Step::Look {
            match world.look() {
                Ok(running) => machine.looked(running),
                Err(error) => {
                    all.snapshot = Some(Err(error));
                    machine.did(Outcome::Failed);
                }
            }
            continue;
        }
        let outcome = all.done(world, step, machine.running());
        machine.did(outcome);
        all.gave_up(machine.step());
        if outcome == Outcome::Failed
            && matches!(machine.step(), Some(Step::Start(_)))
            && all.failing.is_some()
        {
            world.pause();
        }
    }
    Finished {
        snapshot: all.snapshot.transpose(),
        running: machine.running().to_vec(),
        stopped: all.stopped,
        answers: all.answers && all.not_started.is_empty(),
        downtime: all.downtime.filter(|_| all.not_started.is_empty()),
        not_started: all.not_started,
        afterwards: all.afterwards,
        n_unasked: 0,
    }
}

impl<S, E> Gathered<S, E> {
    fn done<W: World<Snapshot = S, Error = E>>(
        &mut self,
        world: &mut W,
        step: Step,
        running: &[usize],
    ) -> Outcome {
        if let Step::Stop(nth) = step {
            self.stopped.push(nth);
            self.down.get_or_insert_with(Instant::now);
        }
        let done = match step {
            Step::Look => Ok(()),
            Step::Probe => world.probe(),
            Step::Lease => world.lease(running),
            Step::Guard => world.guard(),
            Step::Stop(nth) => world.stop(nth),
            Step::Verify => world.verify(),
            Step::Snapshot => world.snapshot().map(|taken| self.snapshot = Some(Ok(taken))),
            Step::Confirm => self.confirmed(world),
            Step::Start(nth) => return self.started(nth, world.start(nth)),
            Step::Answer => return self.answered(world.answer()),
            Step::Settle => return self.settled(world.settle()),
            Step::Unlease => {
                self.afterwards.extend(world.unlease().err());
                return Outcome::Done;
            }
        };
        match done {
            Ok(()) => Outcome::Done,
            Err(error) => {
                self.snapshot = Some(Err(error));
                Outcome::Failed
            }
        }
    }

    fn started(&mut self, nth: usize, done: Result<(), E>) -> Outcome {
        self.downtime = self.down.map(|since| since.elapsed());
        self.failing = done.err().map(|error| (nth, error));
        if self.failing.is_none() { Outcome::Done } else { Outcome::Failed }
    }

    fn confirmed<W: World<Snapshot = S, Error = E>>(&mut self, world: &mut W) -> Result<(), E> {
        let mut done = world.confirm();
        if let (Ok(()), Some(Ok(taken))) = (&done, &mut self.snapshot) {
            done = world.keep(taken);
        }
        if let (Err(_), Some(Ok(taken))) = (&done, self.snapshot.take_if(|_| done.is_err())) {
            self.afterwards.extend(world.discard(taken).err());
        }
        done
    }

    fn answered(&mut self, done: Result<(), (Outcome, E)>) -> Outcome {
        match done {
            Ok(()) => {
                self.downtime = self.down.map(|since| since.elapsed());
                Outcome::Done
            }
            Err((Outcome::Failed, error)) => self.settled(Err(error)),
            Err((_, error)) => {
                self.answers = false;
                self.afterwards.push(error);
                Outcome::Silent
            }
        }
    }

    /// All are to be started again if one is gone.
    fn settled(&mut self, done: Result<(), E>) -> Outcome {
        match done {
            Ok(()) => Outcome::Done,
            Err(error) => {
                self.failing = Some((usize::MAX, error));
                Outcome::Failed
            }
        }
    }

    /// A start that failed, and is not what comes `next`, is given up.
    fn gave_up(&mut self, next: Option<Step>) {
        match (&self.failing, next) {
            (Some((nth, _)), Some(Step::Start(next))) if *nth == next || *nth == usize::MAX => {}
            _ => self.not_started.extend(self.failing.take().map(|(_, error)| error)),
        }
    }
}
