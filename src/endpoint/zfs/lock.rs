//! Who works on a dataset now, so that others do not take its work for what a dead process left.
//!
//! A name in the abstract namespace of Unix sockets: it needs no rights and no directory, and goes with its process however
//! that ends. It is of one network namespace, so a container of its own does not see it.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::endpoint::{Error, Result};

/// What is done that nobody else may do meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// A stream is received into it.
    Receive,
    /// It goes back to a version.
    Rollback,
}

impl Work {
    fn word(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Rollback => "rollback",
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
}
