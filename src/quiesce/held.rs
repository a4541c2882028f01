//! Services that stay down since their run hangs: a disk that does not answer holds up the snapshot, and is not to hold up the services.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::model::Service;
use crate::quiesce::lease::{Entry, Lease, Leases, Stopping};
use crate::quiesce::real::{GRACE, Patience, start};
use crate::quiesce::{Error, service};

/// Since when all services of a lease are down, as far as its guard has seen, which looks at it again and again.
#[derive(Debug, Default)]
pub struct Held {
    since: Option<Instant>,
    is_over: bool,
}

impl Held {
    /// Starts them once the snapshot has taken for longer than it may, though the run goes on. It has no snapshot then: before anything is started, that is written down.
    /// Answers what came of it, once.
    pub fn look(&mut self, leases: &Leases, job: &str) -> Option<Resumed> {
        if self.is_over {
            return None;
        }
        let lease = leases.read(job).ok().flatten()?;
        let most = lease.snapshot_within?;
        if !lease.services.iter().all(is_down) {
            self.since = None;
            return None;
        }
        if self.since.get_or_insert_with(Instant::now).elapsed() < most {
            return None;
        }
        self.is_over = true;
        // The run may wait for a probe: what it has started runs.
        let runs = |entry: &Entry| goes_on(entry) || service::runs(&entry.service) == Ok(true);
        if lease.services.iter().all(runs) {
            return None;
        }
        tracing::warn!(job, ?most, "the services are down for longer than snapshot_within: they are started");
        note(leases.clone(), job.into());
        let begun = lease.begun;
        let why = start_all(leases, lease).unwrap_or(Error::Overdue { within: most });
        let down = begun.map(|begun| Timestamp::now().duration_since(begun));
        // A clock may have been set back.
        Some(Resumed { job: job.into(), why, down: down.and_then(|down| Duration::try_from(down).ok()) })
    }
}

/// Services that a guard has started though their run goes on, which has no snapshot.
#[derive(Debug)]
pub struct Resumed {
    /// Whose.
    pub job: String,
    /// That they were down for too long, or why one of them still is.
    pub why: Error,
    /// How long they were.
    pub down: Option<Duration>,
}

/// Whether it was told to stop, has stopped, and is not being started.
fn is_down(entry: &Entry) -> bool {
    goes_on(entry) || entry.since.is_some() && entry.stopping == Stopping::No && !entry.starting
}

/// Whether it is no service that is stopped, but told, or a filesystem that is frozen.
fn goes_on(entry: &Entry) -> bool {
    matches!(entry.service, Service::Hook { .. } | Service::Frozen { .. })
}

/// A disk that does not answer is not waited for.
fn note(leases: Leases, job: String) {
    let (noted, heard) = mpsc::channel();
    std::thread::spawn(move || {
        if let Err(error) = leases.note_overdue(&job) {
            tracing::warn!(job, %error, "that they are started can not be noted");
        }
        let _ = noted.send(());
    });
    let _ = heard.recv_timeout(Duration::from_secs(2));
}

/// In reverse; one that does not start keeps none of the others down, and is the answer. If all run, the lease says so: nothing is stopped any more.
fn start_all(leases: &Leases, mut lease: Lease) -> Option<Error> {
    let mut failed = None;
    for nth in (0..lease.services.len()).rev() {
        if goes_on(&lease.services[nth]) {
            continue;
        }
        let until = Instant::now() + GRACE;
        let patience = Patience { sent: Some(until), asked: until, is_last: true };
        if let Err(error) = start(leases, &mut lease, nth, patience) {
            tracing::warn!(job = lease.job, %error, "cannot start it");
            failed = Some(error);
        }
    }
    // What is over since has no lease any more.
    if failed.is_none() && leases.path(&lease.job).exists() {
        lease.resumed = Some(Timestamp::now());
        if let Err(error) = leases.write(&lease) {
            tracing::warn!(job = lease.job, %error, "that they run can not be written down");
        }
    }
    failed
}
