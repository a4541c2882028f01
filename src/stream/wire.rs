//! The frames in which two programs talk to each other (docs/FORMAT-wire.md).
//!
//! **Invariant:** bytes only. What a frame means is for [`crate::endpoint::peer`] to say.

use std::io::{self, Read, Write};

/// The protocol's version that is spoken.
pub const VERSION: u32 = 1;
/// Bytes before each payload.
pub const HEAD_LEN: usize = 8;
/// What each frame begins with.
pub const MAGIC: [u8; 2] = [0xC5, 0x57];
/// The longest payload in bytes.
pub const MAX_PAYLOAD_LEN: usize = 1 << 20;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// The first frame of each side: who speaks, and which versions.
    Hello = 1,
    /// What the client wants.
    Request = 2,
    /// A part of an answer.
    Answer = 3,
    /// Why there is no answer, or no more of it.
    Refusal = 4,
    /// Bytes of a stream.
    Data = 5,
    /// The end of an answer, or of a stream.
    End = 6,
    /// Nothing but that the side that sends it is there.
    Alive = 7,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Hello, Self::Request, Self::Answer, Self::Refusal, Self::Data, Self::End, Self::Alive];

    fn of(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|&kind| kind as u8 == byte)
    }

    /// The longest payload that a frame of this kind has, in bytes.
    pub fn max_payload_len(self) -> usize {
        match self {
            Self::Hello => 4 << 10,
            Self::Request | Self::Refusal => 256 << 10,
            Self::Answer | Self::Data => MAX_PAYLOAD_LEN,
            Self::End | Self::Alive => 0,
        }
    }
}

/// Why there is no next frame.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The other side does not speak this protocol.
    #[error("what answers is not cowsnap: it says {:?}", String::from_utf8_lossy(.found))]
    Magic {
        /// What it says instead.
        found: Vec<u8>,
    },
    /// A frame of no known kind.
    #[error("a frame of unknown kind {found}")]
    Kind {
        /// The number of its kind.
        found: u8,
    },
    /// A frame with a length that none has.
    #[error("a frame of kind {kind:?} with {len} bytes; it has at most {}", .kind.max_payload_len())]
    Length {
        /// Its kind.
        kind: Kind,
        /// Its length in bytes.
        len: usize,
    },
    /// The other side went away within a frame.
    #[error("the connection was cut within a frame")]
    Cut,
    /// The connection failed.
    #[error("the connection failed")]
    Io(#[from] io::Error),
}

/// What this module's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Writes one frame. The caller flushes.
///
/// # Errors
/// [`Error::Length`] before anything is written; [`Error::Io`].
pub fn write(out: &mut impl Write, kind: Kind, payload: &[u8]) -> Result<()> {
    if payload.len() > kind.max_payload_len() {
        return Err(Error::Length { kind, len: payload.len() });
    }
    let mut head = [0; HEAD_LEN];
    head[..2].copy_from_slice(&MAGIC);
    head[2] = kind as u8;
    head[4..].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    out.write_all(&head)?;
    out.write_all(payload)?;
    Ok(())
}

/// Reads the next frame into `payload`, which it replaces; `None` once the other side has gone between two frames.
///
/// Its length is checked before anything is allocated; there are never more than [`MAX_PAYLOAD_LEN`] bytes in memory.
///
/// # Errors
/// [`Error`].
pub fn read(input: &mut impl Read, payload: &mut Vec<u8>) -> Result<Option<Kind>> {
    let mut head = [0; HEAD_LEN];
    let got = fill(input, &mut head)?;
    if got == 0 {
        return Ok(None);
    }
    let magic = got.min(MAGIC.len());
    if head[..magic] != MAGIC[..magic] || (got == HEAD_LEN && head[3] != 0) {
        return Err(Error::Magic { found: said(&head[..got], input) });
    }
    if got < HEAD_LEN {
        return Err(Error::Cut);
    }
    let kind = Kind::of(head[2]).ok_or(Error::Kind { found: head[2] })?;
    let len = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
    if len > kind.max_payload_len() {
        return Err(Error::Length { kind, len });
    }
    payload.resize(len, 0);
    match fill(input, payload)? {
        got if got == len => Ok(Some(kind)),
        _ => Err(Error::Cut),
    }
}

/// The line that was read instead of a frame, as far as it is there already: what a shell or an `ssh` says.
fn said(first: &[u8], input: &mut impl Read) -> Vec<u8> {
    const MOST: usize = 200;
    let mut found = first.to_vec();
    let mut byte = [0];
    while found.len() < MOST && !found.contains(&b'\n') && matches!(input.read(&mut byte), Ok(1)) {
        found.push(byte[0]);
    }
    let line = found.iter().position(|&byte| byte == b'\n').unwrap_or(found.len());
    found.truncate(line);
    found
}

/// Reads until `buffer` is full or the input ends.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    super::writer::fill(input, buffer).map_err(|(_, error)| error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out, kind, payload).unwrap();
        out
    }

    fn read_one(mut bytes: &[u8]) -> Result<Option<(Kind, Vec<u8>)>> {
        let mut payload = Vec::new();
        Ok(read(&mut bytes, &mut payload)?.map(|kind| (kind, payload)))
    }

    #[test]
    fn what_was_written_is_read() {
        let mut bytes = Vec::new();
        for kind in Kind::ALL {
            for len in [0, 1, kind.max_payload_len()] {
                write(&mut bytes, kind, &vec![len as u8; len.min(kind.max_payload_len())]).unwrap();
            }
        }
        let (mut input, mut payload) = (&bytes[..], Vec::new());
        for kind in Kind::ALL {
            for len in [0, 1, kind.max_payload_len()] {
                assert_eq!(read(&mut input, &mut payload).unwrap(), Some(kind));
                assert!(payload == vec![len as u8; len.min(kind.max_payload_len())]);
            }
        }
        assert_eq!(read(&mut input, &mut payload).unwrap(), None);
    }

    #[test]
    fn the_bytes_are_as_the_format_says() {
        assert_eq!(frame(Kind::Data, b"ab"), [0xC5, 0x57, 5, 0, 2, 0, 0, 0, b'a', b'b']);
        assert_eq!(frame(Kind::Alive, b""), [0xC5, 0x57, 7, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_frame_cut_anywhere_is_noticed() {
        let whole = frame(Kind::Request, b"{}");
        for len in 1..whole.len() {
            assert!(matches!(read_one(&whole[..len]), Err(Error::Cut)), "{len} bytes");
        }
    }

    #[test]
    fn lengths_are_checked_before_anything_is_read() {
        for kind in Kind::ALL {
            let mut bytes = frame(kind, b"");
            bytes[4..].copy_from_slice(&(kind.max_payload_len() as u32 + 1).to_le_bytes());
            assert!(matches!(read_one(&bytes), Err(Error::Length { .. })), "{kind:?}");
            let long = vec![0; kind.max_payload_len() + 1];
            let mut out = Vec::new();
            assert!(matches!(write(&mut out, kind, &long), Err(Error::Length { .. })) && out.is_empty());
        }
    }

    #[test]
    fn who_does_not_speak_the_protocol_is_quoted() {
        let error = read_one(b"Welcome to backup-7!\nLast login").unwrap_err();
        assert_eq!(error.to_string(), r#"what answers is not cowsnap: it says "Welcome to backup-7!""#);
        assert!(matches!(read_one(b"?"), Err(Error::Magic { .. })));
        let endless = [b'x'; 5000];
        assert!(matches!(read_one(&endless), Err(Error::Magic { found }) if found.len() == 200));
        let mut reserved = frame(Kind::Data, b"");
        reserved[3] = 1;
        assert!(matches!(read_one(&reserved), Err(Error::Magic { .. })));
        let mut unknown = frame(Kind::Data, b"");
        unknown[2] = 99;
        assert!(matches!(read_one(&unknown), Err(Error::Kind { found: 99 })));
    }
}
