//! Why one command can not be applied, and what that means for the whole.

use std::io;

use rustix::io::Errno;

use super::tree::is_at_or_below;
use crate::endpoint::Error;
use crate::stream::btrfs::{self, Command};
use crate::sys::interrupt;

/// Why one command can not be applied.
#[derive(Debug)]
pub(super) enum Fault {
    /// The kernel says no.
    Os(io::Error),
    /// The stream asks for what no sender asks.
    Hostile(&'static str),
    /// The ground says no.
    Endpoint(Error),
}

impl Fault {
    /// Whether the kernel says that an immutable or append-only flag, or a missing privilege, is in the way.
    pub(super) fn is_not_permitted(&self) -> bool {
        matches!(self, Self::Os(error) if error.raw_os_error() == Some(libc::EPERM))
    }

    /// As [`Fault::at`] of a plain tree, on a filesystem that may hold less than btrfs. `unheld` says that what is not permitted here is what
    /// that filesystem does not have.
    pub(super) fn at_plain(self, offset: u64, command: &Command<'_>, unheld: bool) -> Error {
        const LIMITS: [i32; 5] =
            [libc::EMLINK, libc::EFBIG, libc::ENAMETOOLONG, libc::EOVERFLOW, libc::EOPNOTSUPP];
        let is_limit = |errno: i32| {
            LIMITS.contains(&errno)
                || (errno == libc::EPERM && unheld)
                || (errno == libc::EINVAL && names_something(command))
        };
        match self {
            Self::Os(error) if error.raw_os_error().is_some_and(is_limit) => Error::Refused {
                op: "apply",
                subject: format!("byte {offset} of the stream: {command}"),
                why: format!("the target's filesystem can not hold it: {error}"),
                hint: Some(
                    "restore to a btrfs dataset, or to a plain directory of another filesystem".into(),
                ),
            },
            other => other.at(offset, command),
        }
    }

    /// The whole receive's error, with the command and its address.
    pub(super) fn at(self, offset: u64, command: &Command<'_>) -> Error {
        let subject = || format!("byte {offset} of the stream: {command}");
        match self {
            Self::Endpoint(error) => error,
            Self::Hostile(why) => {
                Error::Corrupt { what: "btrfs stream", why: format!("{why}, at {}", subject()), source: None }
            }
            Self::Os(error) if speaks_of_the_stream(&error) => Error::Corrupt {
                what: "btrfs stream",
                why: format!("it does not fit what is here, at {}", subject()),
                source: Some(Box::new(error)),
            },
            Self::Os(error) => Error::io("apply", subject())(error),
        }
    }
}

/// Whether it gives something a name, which a filesystem may not take; not if it is to be its own child.
fn names_something(command: &Command<'_>) -> bool {
    match command {
        Command::Rename { path, to } => !is_at_or_below(to, path),
        Command::Mkfile { .. }
        | Command::Mkdir { .. }
        | Command::Symlink { .. }
        | Command::Mkfifo { .. }
        | Command::Mksock { .. }
        | Command::Mknod { .. }
        | Command::Link { .. } => true,
        _ => false,
    }
}

/// Whether the kernel refused because of what the stream names, and not because of the machine.
fn speaks_of_the_stream(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::NOENT
                | Errno::EXIST
                | Errno::NOTDIR
                | Errno::ISDIR
                | Errno::NOTEMPTY
                | Errno::LOOP
                | Errno::XDEV
                | Errno::NAMETOOLONG
                | Errno::NODATA
                | Errno::INVAL
                | Errno::FBIG
                | Errno::RANGE
                | Errno::BUSY
                | Errno::MLINK
                | Errno::MSGSIZE
                | Errno::TOOBIG
                | Errno::OVERFLOW
        )
    )
}

/// The whole receive's error where the stream itself can not be read.
pub(super) fn of_stream(error: btrfs::Error) -> Error {
    match error {
        btrfs::Error::Io { source, .. } if interrupt::is_interrupt(&source) => interrupted(),
        btrfs::Error::Io { offset, source } => {
            Error::Io { op: "read", subject: format!("the stream at byte {offset}"), source }
        }
        other => {
            Error::Corrupt { what: "btrfs stream", why: other.to_string(), source: Some(Box::new(other)) }
        }
    }
}

/// The whole receive's error once somebody asked it to stop.
pub(super) fn interrupted() -> Error {
    Error::Interrupted { op: "receive", subject: "the stream".into() }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Os(error)
    }
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        Self::Os(errno.into())
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Endpoint(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Class;

    fn class(errno: Errno, command: &Command<'_>, unheld: bool) -> Class {
        Fault::from(errno).at_plain(1, command, unheld).class()
    }

    #[test]
    fn what_a_filesystem_has_not_is_neither_damage_nor_a_missing_right() {
        let link = Command::Link { path: b"a", target: b"b" };
        let odd = Command::Rename { path: b"o257-1-0", to: b"a:b" };
        let own_child = Command::Rename { path: b"a", to: b"a/b" };
        assert_eq!(class(Errno::PERM, &link, true), Class::Conflict);
        assert_eq!(class(Errno::PERM, &link, false), Class::Denied);
        assert_eq!(class(Errno::INVAL, &odd, false), Class::Conflict);
        assert_eq!(class(Errno::INVAL, &own_child, false), Class::Corrupt);
    }
}
