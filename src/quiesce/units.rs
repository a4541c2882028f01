//! What is particular to services that are units of systemd.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use crate::model::Service;
use crate::quiesce::{Error, Result, service, systemd};

/// That each of them could be stopped, with no other one, and started again.
///
/// # Errors
/// [`Error::Unit`].
pub fn check(services: &[Service]) -> Result<()> {
    let units: BTreeSet<_> = services.iter().filter_map(Service::unit).collect();
    for unit in &units {
        let checked = systemd::check(unit, &units);
        checked.map_err(|why| Error::Unit { unit: (*unit).into(), why })?;
    }
    Ok(())
}

/// Of each service, what is another one if it has run meanwhile.
///
/// # Errors
/// It can not be found out.
pub fn marks(services: &[Service]) -> Result<Vec<Vec<u8>>> {
    let mark = |of: &Service| {
        let told = |why| Error::Service { op: "look at", service: of.to_string(), why };
        service::mark(of).map_err(told)
    };
    services.iter().map(mark).collect()
}

/// That none has, also if it is down again.
///
/// # Errors
/// Which.
pub fn have_not_run(services: &[Service], then: &[Vec<u8>]) -> Result<()> {
    let now = marks(services)?;
    let other = then.iter().zip(&now).position(|(then, now)| !now.is_empty() && then != now);
    other.map_or(Ok(()), |nth| {
        let why = "it has run meanwhile: something has started it".to_owned();
        Err(Error::Service { op: "stop", service: services[nth].to_string(), why })
    })
}

/// Starts one. systemd knows what it is about to do: it puts a start behind a stop, makes one of two, and does what it was told though all who told it have
/// died. If it stops still, it has until `sent`, or without end.
///
/// # Errors
/// It does not run.
pub fn start(name: &str, service: &Service, within: Duration, sent: Option<Instant>) -> Result<()> {
    let failed = |why| Error::NotStarted { service: service.to_string(), why };
    systemd::ask_to_start(name).map_err(|trouble| failed(trouble.why))?;
    if !systemd::has_stopped(name, sent).map_err(failed)? {
        return Err(Error::StillStopping { service: service.to_string() });
    }
    service::start(service, None, within, None, &mut |_| ()).map_err(|error| failed(error.why))
}

/// Has a guard leave the unit that its run belongs to; a line that says why it has not, or is empty.
pub fn leave(job: &str) -> String {
    let moved = systemd::leave(&format!("cowsnap: starts what job {job} leaves stopped"));
    moved.err().unwrap_or_default().replace('\n', " ") + "\n"
}

/// That line, once the guard runs.
///
/// # Errors
/// It has ended, or takes too long.
pub fn heard(mut guard: impl Read) -> io::Result<String> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    loop {
        guard.read_exact(&mut byte)?;
        match byte {
            [b'\n'] => return Ok(String::from_utf8_lossy(&line).into_owned()),
            _ => line.extend(byte),
        }
    }
}

/// A guard that is in no scope of its own, and `why`, if that is of any account.
pub fn warn_of_its_place(job: &str, why: &str) {
    if !why.is_empty() && systemd::is_a_service() {
        tracing::warn!(
            job,
            why,
            "the guard ends with the unit of this run, unless that has KillMode=process"
        );
    }
}
