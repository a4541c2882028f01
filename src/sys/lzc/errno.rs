//! What the calls of OpenZFS fail with: the system's error numbers as ZFS uses them, and its own from 1024 on.

use std::fmt;

use crate::error::Class;

/// Declares [`Errno`] and the table behind it: variant, number, meaning.
macro_rules! errnos {
    ($($variant:ident = $raw:expr, $words:literal;)*) => {
        /// Why a call failed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Errno {
            $(#[doc = concat!("It failed because: ", $words, ".")] $variant,)*
            /// A number that OpenZFS is not known to give.
            Other(i32),
        }

        const TABLE: &[(Errno, i32, &str)] = &[$((Errno::$variant, $raw, $words),)*];
    };
}

errnos! {
    NotPermitted = libc::EPERM, "not permitted";
    NotFound = libc::ENOENT, "it does not exist";
    NotOfThisDataset = libc::ESRCH, "there is no such snapshot or hold of this dataset";
    Interrupted = libc::EINTR, "interrupted by a signal";
    Io = libc::EIO, "reading or writing failed";
    NoSuchDevice = libc::ENXIO, "there is no such device";
    TooLong = libc::E2BIG, "a tag, value or list is too long";
    BadDescriptor = libc::EBADF, "the descriptor can not be used for this";
    TryAgain = libc::EAGAIN, "the pool is suspended, or another change was in the way: try again";
    NoMemory = libc::ENOMEM, "the kernel has not enough memory for it";
    NoAccess = libc::EACCES, "no access: the encryption key is not loaded, or the rights are missing";
    BadAddress = libc::EFAULT, "the kernel could not read or write the caller's memory";
    Busy = libc::EBUSY, "it is in use: held, mounted, being sent or received, or partly received";
    Exists = libc::EEXIST, "it exists already, or something that depends on it does";
    CrossPool = libc::EXDEV, "not all in one pool, or not one history: the base is no earlier point of the same dataset";
    NoBase = libc::ENODEV, "the snapshot that the stream builds on is not here";
    NotADirectory = libc::ENOTDIR, "it is no directory or filesystem";
    IsADirectory = libc::EISDIR, "it is a directory";
    Invalid = libc::EINVAL, "a name, property or combination of them is not valid here";
    WrongIoctl = libc::ENOTTY, "the ZFS module does not know the call";
    Modified = libc::ETXTBSY, "it has changed since the snapshot that the stream builds on";
    FileTooLarge = libc::EFBIG, "larger than it may be";
    NoSpace = libc::ENOSPC, "no space is left";
    ReadOnly = libc::EROFS, "the pool or dataset is read-only";
    BrokenPipe = libc::EPIPE, "nobody reads the stream any more";
    OutOfDomain = libc::EDOM, "the property can not have that value here";
    OutOfRange = libc::ERANGE, "a value is out of range";
    NameTooLong = libc::ENAMETOOLONG, "the name is too long";
    NotEmpty = libc::ENOTEMPTY, "it is not empty";
    NotImplemented = libc::ENOSYS, "the ZFS library or module has no such call";
    ProgramFailed = libc::ECHRNG, "a channel program failed";
    Checksum = libc::EBADE, "a checksum does not agree: the data is damaged";
    Fragmented = libc::EBADR, "too many fragments, or the label is damaged";
    Overflow = libc::EOVERFLOW, "a value does not fit";
    NotAClone = libc::ENOTSOCK, "it is no clone";
    Unsupported = libc::EOPNOTSUPP, "the pool's or the stream's version or features do not allow it";
    TimedOut = libc::ETIMEDOUT, "it took too long";
    ProgramTimedOut = libc::ETIME, "a channel program took too long";
    Already = libc::EALREADY, "it is so already";
    QuotaExceeded = libc::EDQUOT, "a quota or limit is reached";
    NotText = libc::EILSEQ, "a name is not valid UTF-8";
    Restarted = libc::ERESTART, "interrupted by a signal, and to be begun again";
    Suspended = libc::ESHUTDOWN, "the pool is suspended";
    Stale = libc::ESTALE, "it was read already and has changed since";
    Canceled = libc::ECANCELED, "it was cancelled";
    CheckpointExists = 1024, "the pool has a checkpoint";
    DiscardingCheckpoint = 1025, "the pool's checkpoint is being discarded";
    NoCheckpoint = 1026, "the pool has no checkpoint";
    RemovingDevice = 1027, "a device is being removed from the pool";
    DeviceTooBig = 1028, "the device is too big";
    CallUnavailable = 1029, "the ZFS module is older than the ZFS library: it does not know the call";
    ArgumentUnavailable = 1030, "the ZFS module is older than the ZFS library: it does not know an argument";
    ArgumentRequired = 1031, "the ZFS module asks for an argument that the ZFS library does not give";
    ArgumentBadType = 1032, "the ZFS module and the ZFS library do not agree on an argument's type";
    WrongParent = 1033, "the parent is a volume, not a filesystem";
    BaseIvsetMissing = 1034, "the base has no IV set guid, which a raw increment needs";
    BaseIvsetMismatch = 1035, "the base's IV set guid is another: raw and other streams were mixed";
    SpillFlagMissing = 1036, "the stream lacks the flag that spill blocks need";
    UnknownStreamFeature = 1037, "the stream has a feature that this ZFS does not know";
    ExportInProgress = 1038, "the pool is being exported";
    BookmarkSourceNotAncestor = 1039, "the bookmark's source is no earlier point of the same dataset";
    StreamTruncated = 1040, "the stream ends too early";
    LargeBlockMismatch = 1041, "the chain was begun with large blocks: this stream lacks them";
    Resilvering = 1042, "the pool is resilvering";
    Rebuilding = 1043, "the pool is being rebuilt";
    BadProperty = 1044, "a property is not valid here";
    DeviceUnsupported = 1045, "a device of the pool does not support it";
    NotUserNamespace = 1046, "it is no user namespace";
    ResumeExists = 1047, "a receive that was broken off is waiting to be resumed or given up";
    CryptoUnsupported = 1048, "the kernel does not support this encryption";
    ExpandingRaidz = 1049, "a raidz device is being expanded";
    AshiftMismatch = 1050, "the sector sizes differ";
    LargeMicrozap = 1051, "the snapshot has large directories, which need large blocks or a raw stream";
    TooManySitouts = 1052, "too many devices of the group sit out already";
    NoUserNamespaces = 1053, "the kernel has no user namespaces";
}

impl Errno {
    /// The meaning of `raw`, as a call of OpenZFS returned it.
    pub fn from_raw(raw: i32) -> Self {
        TABLE.iter().find(|(_, number, _)| *number == raw).map_or(Self::Other(raw), |(errno, ..)| *errno)
    }

    /// The number.
    pub fn raw(self) -> i32 {
        match self {
            Self::Other(raw) => raw,
            known => Self::entry(known).1,
        }
    }

    fn entry(known: Self) -> &'static (Self, i32, &'static str) {
        TABLE.iter().find(|(errno, ..)| *errno == known).expect("every variant but Other is in the table")
    }

    /// What it means for whoever runs the program.
    pub fn class(self) -> Class {
        match self {
            Self::NotFound
            | Self::NotOfThisDataset
            | Self::TooLong
            | Self::NotADirectory
            | Self::IsADirectory
            | Self::Invalid
            | Self::OutOfDomain
            | Self::OutOfRange
            | Self::NameTooLong
            | Self::NotText
            | Self::NotAClone
            | Self::BadProperty
            | Self::WrongParent => Class::Usage,
            Self::Busy
            | Self::Exists
            | Self::CrossPool
            | Self::NoBase
            | Self::Modified
            | Self::NoSpace
            | Self::NotEmpty
            | Self::QuotaExceeded
            | Self::BaseIvsetMissing
            | Self::BaseIvsetMismatch
            | Self::BookmarkSourceNotAncestor
            | Self::LargeBlockMismatch
            | Self::LargeMicrozap
            | Self::SpillFlagMissing
            | Self::ResumeExists
            | Self::CheckpointExists
            | Self::Already => Class::Conflict,
            Self::Io | Self::Checksum | Self::Fragmented | Self::StreamTruncated => Class::Corrupt,
            Self::Interrupted
            | Self::Restarted
            | Self::Suspended
            | Self::TryAgain
            | Self::BrokenPipe
            | Self::TimedOut
            | Self::Canceled
            | Self::ExportInProgress => Class::Unreachable,
            Self::NotPermitted
            | Self::NoAccess
            | Self::ReadOnly
            | Self::Unsupported
            | Self::WrongIoctl
            | Self::NotImplemented
            | Self::NoSuchDevice
            | Self::CallUnavailable
            | Self::ArgumentUnavailable
            | Self::ArgumentRequired
            | Self::ArgumentBadType
            | Self::UnknownStreamFeature
            | Self::CryptoUnsupported => Class::Denied,
            _ => Class::Internal,
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Other(raw) if raw < 1024 => write!(f, "{}", std::io::Error::from_raw_os_error(raw)),
            Self::Other(raw) => write!(f, "ZFS error {raw}"),
            known => f.write_str(Self::entry(known).2),
        }
    }
}

impl std::error::Error for Errno {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_gives_its_variant_and_every_variant_its_number() {
        for (errno, raw, words) in TABLE {
            assert_eq!(Errno::from_raw(*raw), *errno, "{words}");
            assert_eq!(errno.raw(), *raw, "{words}");
            assert_eq!(errno.to_string(), *words);
        }
        assert_eq!(Errno::from_raw(9999), Errno::Other(9999));
        assert_eq!(Errno::Other(9999).raw(), 9999);
    }

    #[test]
    fn no_number_and_no_meaning_stands_twice() {
        for (at, (errno, raw, words)) in TABLE.iter().enumerate() {
            let rest = &TABLE[at + 1..];
            assert!(!rest.iter().any(|(_, r, w)| r == raw || w == words), "{errno:?} = {raw}");
        }
    }

    #[test]
    fn the_numbers_of_zfs_are_all_there_without_a_gap() {
        let own: Vec<_> = TABLE.iter().map(|(_, raw, _)| *raw).filter(|raw| *raw >= 1024).collect();
        assert_eq!(own, (1024..=1053).collect::<Vec<_>>());
    }

    #[test]
    fn the_numbers_that_tell_something_are_named_as_the_source_names_them() {
        let named = [
            (libc::EXDEV, Errno::CrossPool),
            (libc::ENODEV, Errno::NoBase),
            (libc::ETXTBSY, Errno::Modified),
            (52, Errno::Checksum),
            (95, Errno::Unsupported),
            (1033, Errno::WrongParent),
            (1040, Errno::StreamTruncated),
            (1047, Errno::ResumeExists),
        ];
        for (raw, errno) in named {
            assert_eq!(Errno::from_raw(raw), errno);
        }
    }

    #[test]
    fn a_number_without_a_meaning_is_shown_as_the_system_says_it() {
        assert_eq!(Errno::Other(libc::ENOEXEC).to_string(), "Exec format error (os error 8)");
        assert_eq!(Errno::Other(1999).to_string(), "ZFS error 1999");
    }
}
