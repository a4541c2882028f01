//! One error over the layers; its [`Class`] decides the exit code and whether to try again, here and nowhere else.

use std::fmt;
use std::io;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// What an error means for whoever runs the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// A defect of cowsnap or something that it has no word for.
    Internal,
    /// The command line asks for what can not be: a wrong name, a thing that does not exist.
    Usage,
    /// The state of things needs a decision: it exists already, is held, in use, diverged, full.
    Conflict,
    /// Bytes are not what they were.
    Corrupt,
    /// Something is out of reach or was interrupted: try again.
    Unreachable,
    /// Not permitted, or the machine lacks what is needed.
    Denied,
    /// Some of it was done, some not.
    Partial,
}

impl Class {
    /// As it is written: `unreachable`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::Usage => "usage",
            Self::Conflict => "conflict",
            Self::Corrupt => "corrupt",
            Self::Unreachable => "unreachable",
            Self::Denied => "denied",
            Self::Partial => "partial",
        }
    }

    /// The program's exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Internal => 1,
            Self::Usage => 2,
            Self::Conflict => 3,
            Self::Corrupt => 4,
            Self::Unreachable => 5,
            Self::Denied => 6,
            Self::Partial => 7,
        }
    }

    /// Whether the same call may go well later without anybody doing anything.
    pub fn is_transient(self) -> bool {
        self == Self::Unreachable
    }

    /// The class of an error that the kernel gave.
    pub fn of_io(error: &io::Error) -> Self {
        match Errno::from_io_error(error) {
            Some(Errno::PERM | Errno::ACCESS | Errno::ROFS) => Self::Denied,
            Some(Errno::NOENT | Errno::NOTDIR | Errno::ISDIR | Errno::NAMETOOLONG | Errno::LOOP) => {
                Self::Usage
            }
            Some(
                Errno::EXIST | Errno::NOTEMPTY | Errno::BUSY | Errno::NOSPC | Errno::DQUOT | Errno::TXTBSY,
            ) => Self::Conflict,
            Some(Errno::INTR | Errno::AGAIN | Errno::TIMEDOUT | Errno::PIPE | Errno::CONNRESET) => {
                Self::Unreachable
            }
            Some(Errno::NOSYS | Errno::OPNOTSUPP | Errno::NODEV) => Self::Denied,
            Some(Errno::BADMSG | Errno::UCLEAN | Errno::IO) => Self::Corrupt,
            _ if crate::sys::interrupt::is_interrupt(error) => Self::Unreachable,
            _ => match error.kind() {
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Self::Corrupt,
                io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported => Self::Denied,
                io::ErrorKind::BrokenPipe | io::ErrorKind::Interrupted | io::ErrorKind::TimedOut => {
                    Self::Unreachable
                }
                _ => Self::Internal,
            },
        }
    }
}

/// What can go wrong, whichever layer it comes from.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name, target or guid that is not one.
    #[error(transparent)]
    Name(#[from] crate::model::name::Error),
    /// A configuration that can not be used.
    #[error(transparent)]
    Config(#[from] crate::config::Error),
    /// A service could not be stopped or started, or a snapshot not taken without it.
    #[error(transparent)]
    Quiesce(#[from] crate::quiesce::Error),
    /// An endpoint refused or failed.
    #[error(transparent)]
    Endpoint(#[from] crate::endpoint::Error),
    /// An archive refused or failed.
    #[error(transparent)]
    Archive(Box<crate::endpoint::archive::Error>),
    /// A container that can not be read or written.
    #[error("cannot {op} {subject}")]
    Container {
        /// What was attempted.
        op: &'static str,
        /// On what.
        subject: String,
        /// Why it failed, and where.
        #[source]
        source: crate::stream::container::Error,
    },
    /// Streams and snapshots that together do not bring a version back.
    #[error("cannot restore to {to}")]
    Restore {
        /// The dataset that would have got it.
        to: String,
        /// Why not, with the evidence.
        #[source]
        source: crate::plan::restore::Conflict,
    },
    /// A target that can not be brought up to its source without a decision.
    #[error("cannot replicate {from} to {to}")]
    Replicate {
        /// The source.
        from: String,
        /// The target.
        to: String,
        /// Why not, with the evidence.
        #[source]
        source: Box<crate::plan::replicate::Conflict>,
    },
    /// A target that got some of what it was to get.
    #[error(transparent)]
    Behind(Behind),
    /// Another run does the same.
    #[error("another process is about to {what}")]
    Busy {
        /// What it does.
        what: String,
        /// What would help.
        hint: &'static str,
    },
    /// A command that asks for what can not be.
    #[error("{what}")]
    Usage {
        /// What is wrong with it.
        what: String,
        /// The command that would help.
        hint: Option<String>,
    },
    /// Some of several things went wrong.
    #[error("cannot {op}: {failed} of {of} failed: {why}")]
    Partial {
        /// What was attempted.
        op: &'static str,
        /// How many failed.
        failed: usize,
        /// Of how many.
        of: usize,
        /// Which, and why.
        why: String,
        /// The command that would help.
        hint: Option<String>,
    },
    /// Some of it was done before the error, some not.
    #[error("{what}")]
    Halfway {
        /// How much of what.
        what: String,
        /// What ended it.
        #[source]
        source: Box<Error>,
    },
    /// What was to be proven is not, and nothing says that it is not so.
    #[error("{what}")]
    Unproven {
        /// Of what.
        what: String,
        /// The command that would help.
        hint: Option<String>,
    },
    /// A call to the kernel failed outside any endpoint.
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

/// Why a target has not got all, and what it got before that. It says what the error says.
#[derive(Debug)]
pub struct Behind {
    /// What was brought.
    pub moved: Vec<crate::model::Moved>,
    /// What ended it.
    pub error: Box<Error>,
}

impl fmt::Display for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Behind {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl From<crate::endpoint::store::Error> for Error {
    fn from(error: crate::endpoint::store::Error) -> Self {
        Self::Endpoint(error.into())
    }
}

/// What most functions above the endpoints return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<crate::endpoint::archive::Error> for Error {
    fn from(error: crate::endpoint::archive::Error) -> Self {
        Self::Archive(Box::new(error))
    }
}

impl Error {
    /// Wraps what the kernel said: `.map_err(Error::io("open", path.display()))`.
    pub fn io<S: ToString>(op: &'static str, subject: S) -> impl FnOnce(io::Error) -> Self {
        let subject = subject.to_string();
        move |source| Self::Io { op, subject, source }
    }

    /// Wraps what is wrong with a container: `.map_err(Error::container("verify", path.display()))`.
    pub fn container<S: ToString>(
        op: &'static str,
        subject: S,
    ) -> impl FnOnce(crate::stream::container::Error) -> Self {
        let subject = subject.to_string();
        move |source| Self::Container { op, subject, source }
    }

    /// What it means for whoever runs the program.
    pub fn class(&self) -> Class {
        match self {
            Self::Name(_) | Self::Usage { .. } => Class::Usage,
            Self::Endpoint(error) => error.class(),
            Self::Archive(error) => error.class(),
            Self::Config(error) => error.class(),
            Self::Quiesce(error) => error.class(),
            Self::Container { source, .. } => match source.io_source() {
                Some(io) => class_of_io(io),
                None => source.class(),
            },
            Self::Replicate { source, .. } if source.is_transient() => Class::Unreachable,
            Self::Restore { .. } | Self::Replicate { .. } => Class::Conflict,
            Self::Behind(behind) => behind.error.class(),
            Self::Busy { .. } => Class::Unreachable,
            Self::Partial { .. } | Self::Halfway { .. } | Self::Unproven { .. } => Class::Partial,
            Self::Io { source, .. } => class_of_io(source),
        }
    }

    /// The command that would help, if there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Endpoint(error) => error.hint(),
            Self::Archive(error) => error.hint(),
            Self::Config(error) => error.hint(),
            Self::Quiesce(error) => error.hint(),
            Self::Container { source, .. } => source.hint(),
            Self::Usage { hint, .. } | Self::Partial { hint, .. } | Self::Unproven { hint, .. } => {
                hint.clone()
            }
            Self::Halfway { source, .. } => source.hint(),
            Self::Replicate { from, to, source } => source.hint(from, to),
            Self::Behind(behind) => behind.error.hint(),
            Self::Busy { hint, .. } => Some((*hint).into()),
            Self::Name(_) | Self::Restore { .. } | Self::Io { .. } => None,
        }
    }
}

/// The class of an error that came through a `Read` or a `Write`: of the error of ours within it, or the kernel's.
pub fn class_of_io(error: &io::Error) -> Class {
    let Some(inner) = error.get_ref() else { return Class::of_io(error) };
    if crate::sys::interrupt::is_interrupt(error) {
        return Class::Unreachable;
    }
    if let Some(error) = inner.downcast_ref::<crate::endpoint::Error>() {
        return error.class();
    }
    if let Some(error) = inner.downcast_ref::<crate::endpoint::store::Error>() {
        return error.class();
    }
    if let Some(error) = inner.downcast_ref::<crate::endpoint::archive::Error>() {
        return error.class();
    }
    match inner.downcast_ref::<crate::stream::container::Error>() {
        Some(error) => error.class(),
        None => Class::of_io(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_has_a_class() {
        let table = [
            (libc::EPERM, Class::Denied),
            (libc::EROFS, Class::Denied),
            (libc::EOPNOTSUPP, Class::Denied),
            (libc::ENOENT, Class::Usage),
            (libc::ENOTDIR, Class::Usage),
            (libc::ELOOP, Class::Usage),
            (libc::EEXIST, Class::Conflict),
            (libc::ENOSPC, Class::Conflict),
            (libc::EINTR, Class::Unreachable),
            (libc::EPIPE, Class::Unreachable),
            (libc::EUCLEAN, Class::Corrupt),
            (libc::EIO, Class::Corrupt),
            (libc::EXDEV, Class::Internal),
        ];
        for (errno, class) in table {
            let error = io::Error::from_raw_os_error(errno);
            assert_eq!(Class::of_io(&error), class, "{error}");
            assert_eq!(Error::io("open", "/x")(error).class(), class);
        }
    }

    #[test]
    fn what_the_library_says_of_bytes_has_a_class() {
        let class = |kind| Class::of_io(&io::Error::from(kind));
        assert_eq!(class(io::ErrorKind::InvalidData), Class::Corrupt);
        assert_eq!(class(io::ErrorKind::UnexpectedEof), Class::Corrupt);
        assert_eq!(class(io::ErrorKind::BrokenPipe), Class::Unreachable);
        assert_eq!(class(io::ErrorKind::Other), Class::Internal);
    }

    #[test]
    fn only_what_is_unreachable_is_worth_another_try() {
        let all = [
            Class::Internal,
            Class::Usage,
            Class::Conflict,
            Class::Corrupt,
            Class::Unreachable,
            Class::Denied,
            Class::Partial,
        ];
        let codes: Vec<_> = all.iter().map(|class| class.exit_code()).collect();
        assert_eq!(codes, [1, 2, 3, 4, 5, 6, 7]);
        for class in all {
            assert_eq!(serde_json::to_value(class).unwrap(), class.name());
        }
        assert_eq!(
            all.into_iter().filter(|class| class.is_transient()).collect::<Vec<_>>(),
            [Class::Unreachable]
        );
    }

    #[test]
    fn the_hint_of_what_lies_below_is_passed_on() {
        let held = crate::endpoint::Error::Held { subject: "tank/a@b".into(), tags: vec!["x".into()] };
        let error = Error::from(held);
        assert_eq!(error.class(), Class::Conflict);
        assert_eq!(error.hint().as_deref(), Some("cowsnap release 'x' 'tank/a@b'"));
        let usage = Error::Usage { what: "no".into(), hint: Some("try".into()) };
        assert_eq!((usage.class(), usage.hint().as_deref()), (Class::Usage, Some("try")));
        let name = Error::from("".parse::<crate::model::SnapshotName>().unwrap_err());
        assert_eq!((name.class(), name.hint()), (Class::Usage, None));
    }

    #[test]
    fn the_cause_is_not_in_the_text() {
        let error = Error::io("open", "/x")(io::Error::from_raw_os_error(libc::ENOENT));
        assert_eq!(error.to_string(), "cannot open /x");
        assert!(std::error::Error::source(&error).is_some());
    }
}
