//! What can be wrong with a container, and where.

use std::{fmt, io};

use crate::error::Class;
use crate::stream::sign::Untrusted;

/// What reading and writing containers returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Where in a container a frame stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Place {
    /// The frame's number, from 0.
    pub frame: u64,
    /// Its offset in the stream, in bytes.
    pub offset: u64,
    /// Its head's offset in the container, in bytes.
    pub at: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "frame {} (stream offset {}, container byte {})", self.frame, self.offset, self.at)
    }
}

/// Why a container can not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The first bytes are no container's.
    #[error("this is no container: it begins with {found:02x?}")]
    Magic {
        /// What stands there.
        found: Vec<u8>,
    },
    /// The first bytes are those of `btrfs send`.
    #[error("this is a raw btrfs stream, not a container")]
    RawBtrfs,
    /// The first bytes are those of `zfs send`.
    #[error("this is a raw ZFS stream, not a container")]
    RawZfs,
    /// The version or the header's length is damaged.
    #[error("the first 32 bytes of the container are damaged")]
    Prelude,
    /// Sound, but made by a newer program.
    #[error("the container needs a newer cowsnap: {what}")]
    NeedsNewer {
        /// What this program does not know.
        what: String,
    },
    /// The header's bytes do not match its hash.
    #[error("the container's header is damaged (container bytes 32 to {end})")]
    HeaderHash {
        /// Where the header ends in the container.
        end: u64,
    },
    /// The header's bytes are what was written, and make no sense.
    #[error("the container's {part} has a bad {field}: {why}")]
    Field {
        /// `header` or `trailer`.
        part: &'static str,
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A header that no container can carry was to be written.
    #[error("a container can not carry this {field}: it has {len} bytes, at most {max} are possible")]
    TooLong {
        /// Which field.
        field: &'static str,
        /// How long it is.
        len: usize,
        /// How long it may be.
        max: usize,
    },
    /// It is encrypted, and nothing at hand decrypts it.
    #[error("the container is encrypted {}", for_whom(*.recipients, *.tried))]
    Encrypted {
        /// For how many.
        recipients: usize,
        /// How many identities were tried.
        tried: usize,
    },
    /// It can not be encrypted for these.
    #[error("cannot encrypt for {count} recipients: {why}")]
    Recipients {
        /// How many there are.
        count: usize,
        /// Why not.
        why: String,
    },
    /// None of those signed it who should have.
    #[error("the container is not believed")]
    Untrusted(#[source] Untrusted),
    /// Encrypted and plain frames in one container.
    #[error("{place} is {found}, and the container is not")]
    FrameKind {
        /// Where.
        place: Place,
        /// What it is.
        found: &'static str,
    },
    /// An encrypted frame is not what was encrypted.
    #[error("{place} is damaged: it does not decrypt")]
    FrameDecrypt {
        /// Where.
        place: Place,
    },
    /// The stream does not begin with the bytes that it is to be gone on behind.
    #[error("the first {frames} MiB of the stream are not what they were")]
    OtherPrefix {
        /// How many frames were compared.
        frames: u64,
    },
    /// The input ends too early.
    #[error("the container is cut off at byte {end}, in {what}")]
    Truncated {
        /// `its header`, or where among the records.
        what: String,
        /// How many bytes there are.
        end: u64,
    },
    /// A length that no frame has.
    #[error("{place} is damaged: its {what} of {len} bytes is not possible (at most {max})")]
    FrameLength {
        /// Where.
        place: Place,
        /// `payload` or `part of the stream`.
        what: &'static str,
        /// What stands there.
        len: u64,
        /// What could stand there.
        max: u64,
    },
    /// The frame's bytes, or the container that it belongs to, are not what they were.
    #[error("{place} is damaged: its seal does not match")]
    FrameSeal {
        /// Where.
        place: Place,
    },
    /// A sound frame stands where another belongs.
    #[error("{place} is missing: frame {found} stands in its place")]
    FrameOrder {
        /// Where.
        place: Place,
        /// The number of the frame that is there.
        found: u64,
    },
    /// A frame follows one that was shorter than 1 MiB.
    #[error("{place} follows a frame that can only be the last")]
    FrameAfterLast {
        /// Where.
        place: Place,
    },
    /// Decompression failed, or gave another length than it should.
    #[error("{place} does not decompress to {len} bytes")]
    FrameDecode {
        /// Where.
        place: Place,
        /// How long it should be.
        len: usize,
        /// What zstd says; none if only the length is wrong.
        #[source]
        source: Option<io::Error>,
    },
    /// The stream's bytes are not those that were hashed.
    #[error("{place} is damaged: its bytes do not match their blake3")]
    FrameHash {
        /// Where.
        place: Place,
    },
    /// The trailer is not what it was.
    #[error("the container's trailer (container byte {at}) is damaged: {why}")]
    Trailer {
        /// Its offset in the container.
        at: u64,
        /// How.
        why: String,
    },
    /// Something follows the trailer.
    #[error("the container ends at byte {end}, but more bytes follow")]
    TrailingBytes {
        /// Where it ends.
        end: u64,
    },
    /// The input failed: the container's when reading, the stream's when writing.
    #[error("cannot read the input at byte {at}")]
    Read {
        /// How many bytes had been read.
        at: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The output failed.
    #[error("cannot write the container at byte {at}")]
    Write {
        /// How many bytes had been written.
        at: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// zstd could not be set up or failed to compress.
    #[error("cannot compress")]
    Compress(#[source] io::Error),
    /// It was read on after an error.
    #[error("the container could not be read further after an earlier error")]
    Spent,
}

impl Error {
    /// What it means for whoever runs the program.
    pub fn class(&self) -> Class {
        match self {
            Self::RawBtrfs | Self::RawZfs | Self::NeedsNewer { .. } | Self::TooLong { .. } => Class::Usage,
            Self::Encrypted { tried: 0, .. } | Self::Recipients { .. } => Class::Usage,
            Self::Encrypted { .. } => Class::Denied,
            Self::Read { source, .. } | Self::Write { source, .. } => crate::error::class_of_io(source),
            Self::Compress(_) => Class::Internal,
            _ => Class::Corrupt,
        }
    }

    /// The command that would help, if there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::RawBtrfs | Self::RawZfs => Some("cowsnap stream wrap FILE -o CONTAINER".into()),
            Self::NeedsNewer { .. } => Some("install the newest cowsnap".into()),
            Self::Encrypted { .. } => {
                Some("give the file of an identity that it is for: --identity FILE".into())
            }
            Self::Untrusted(Untrusted::Others { .. }) => {
                Some("if one of them is to be trusted: --verify-key KEY".into())
            }
            _ => None,
        }
    }

    /// What the input or the output said, if that is what failed.
    pub fn io_source(&self) -> Option<&io::Error> {
        match self {
            Self::Read { source, .. } | Self::Write { source, .. } => Some(source),
            _ => None,
        }
    }

    /// Where the damage is, if it is in a frame.
    pub fn place(&self) -> Option<Place> {
        match self {
            Self::FrameLength { place, .. }
            | Self::FrameSeal { place }
            | Self::FrameOrder { place, .. }
            | Self::FrameAfterLast { place }
            | Self::FrameKind { place, .. }
            | Self::FrameDecrypt { place }
            | Self::FrameDecode { place, .. }
            | Self::FrameHash { place } => Some(*place),
            _ => None,
        }
    }

    /// The container's error within an error that [`Reader`](crate::stream::reader::Reader) returned as a `Read`.
    pub fn within(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// Takes the container's error out of an error that [`Reader`](crate::stream::reader::Reader) returned as a `Read`.
    ///
    /// # Errors
    /// The error itself, if none is within.
    pub fn from_io(error: io::Error) -> Result<Self, io::Error> {
        error.downcast()
    }
}

fn for_whom(recipients: usize, tried: usize) -> String {
    match tried {
        0 => format!("for {recipients} recipients"),
        _ => format!("for {recipients} recipients, and none of them is among the {tried} identities given"),
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Read { source, .. } | Error::Write { source, .. } => source.kind(),
            Error::Truncated { .. } => io::ErrorKind::UnexpectedEof,
            _ => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}
