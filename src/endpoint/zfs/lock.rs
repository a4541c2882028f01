//! Who works on a dataset now, so that others do not take its work for what a dead process left.
//!
//! A name in the abstract namespace of Unix sockets: it needs no rights and no directory, and goes with its process however
//! that ends. It is of one network namespace, so a container of its own does not see it.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use crate::endpoint::{Error, Result};
use crate::sys::interrupt;

/// How long to wait for work of moments.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is done that nobody else may do meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// A stream is received into it.
    Receive,
    /// It goes back to a version.
    Rollback,
    /// What is noted of its snapshots is read, changed and written.
    Note,
}

impl Work {
    fn word(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Rollback => "rollback",
            Self::Note => "note",
        }
    }
}

/// The sole right to do some work on a dataset, until it is dropped.
#[derive(Debug)]
pub(super) struct Locked(UnixDatagram);

impl AsFd for Locked {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Takes the lock; `None` if a living process has it.
///
/// # Errors
/// A socket that can not be made.
pub(super) fn try_lock(work: Work, dataset: &str) -> Result<Option<Locked>> {
    let address = address(work, dataset).map_err(Error::io("lock", dataset))?;
    match UnixDatagram::bind_addr(&address) {
        Ok(socket) => Ok(Some(Locked(socket))),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Ok(None),
        Err(error) => Err(Error::io("lock", dataset)(error)),
    }
}

/// Takes the lock, waiting for who has it: this is for work of moments.
///
/// # Errors
/// As [`try_lock`]; `TimedOut` after half a minute; [`Error::Interrupted`].
pub(super) fn lock(work: Work, dataset: &str) -> Result<Locked> {
    let since = Instant::now();
    loop {
        if let Some(locked) = try_lock(work, dataset)? {
            return Ok(locked);
        }
        if since.elapsed() > PATIENCE {
            let why = std::io::Error::new(std::io::ErrorKind::TimedOut, "another process has it");
            return Err(Error::io("lock", dataset)(why));
        }
        interrupt::check().map_err(|_| Error::Interrupted { op: "lock", subject: dataset.into() })?;
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a living process has the lock.
///
/// # Errors
/// As [`try_lock`].
pub(super) fn is_locked(work: Work, dataset: &str) -> Result<bool> {
    let failed = || Error::io("look at the lock of", dataset);
    let asking = UnixDatagram::unbound().map_err(failed())?;
    match asking.connect_addr(&address(work, dataset).map_err(failed())?) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(false),
        Err(error) => Err(failed()(error)),
    }
}

/// A dataset's name may be longer than a socket's.
fn address(work: Work, dataset: &str) -> std::io::Result<SocketAddr> {
    let digest = blake3::hash(dataset.as_bytes()).to_hex();
    SocketAddr::from_abstract_name(format!("cowsnap-zfs-{}-{digest}", work.word()))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn a_lock_is_of_one_work_on_one_dataset_and_goes_with_its_owner() {
        let name = format!("tank/{} a b:c", "x".repeat(200));
        let lock = try_lock(Work::Rollback, &name).expect("a socket").expect("free");
        assert!(try_lock(Work::Rollback, &name).expect("a socket").is_none());
        assert!(is_locked(Work::Rollback, &name).expect("a socket"));
        assert!(!is_locked(Work::Receive, &name).expect("a socket"));
        assert!(!is_locked(Work::Rollback, "tank/other").expect("a socket"));
        drop(lock);
        assert!(!is_locked(Work::Rollback, &name).expect("a socket"));
    }

    #[test]
    fn who_waits_for_a_lock_has_it_alone() {
        let name = format!("tank/{}", std::process::id());
        let inside = std::sync::atomic::AtomicUsize::new(0);
        let enter = || {
            let _lock = super::lock(Work::Note, &name).expect("a lock");
            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
            std::thread::sleep(Duration::from_millis(2));
            inside.fetch_sub(1, Ordering::SeqCst);
        };
        std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(enter))));
    }
}
