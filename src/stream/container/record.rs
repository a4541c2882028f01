//! Records: the heads of frames and trailers, their seals, and the trailer's payload.

use super::error::{Error, Result};
use super::fields::{Take, put, unknown};
use super::{END, FRAME_LEN, HASH_LEN, HeaderHash, MAX_PAYLOAD_LEN, MAX_TRAILER_LEN, TAIL_LEN};

/// Bytes of a head.
pub const HEAD_LEN: usize = 72;
const SEALED_LEN: usize = 56; // of the head: all before its seal
const HEADER_HASH: u16 = 1;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A frame whose payload is the stream's bytes.
    Stored,
    /// A frame whose payload is zstd data.
    Zstd,
    /// A frame of a kind that this version does not know.
    Unknown(u8),
    /// The trailer.
    Trailer,
}

impl Kind {
    fn to_byte(self) -> u8 {
        match self {
            Self::Stored => 1,
            Self::Zstd => 2,
            Self::Unknown(byte) => byte,
            Self::Trailer => 255,
        }
    }

    /// The longest payload that such a record has.
    pub fn max_payload_len(self) -> usize {
        match self {
            Self::Stored | Self::Zstd => FRAME_LEN,
            Self::Unknown(_) => MAX_PAYLOAD_LEN,
            Self::Trailer => MAX_TRAILER_LEN,
        }
    }
}

/// The first 72 bytes of a record, as they stand in the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    bytes: [u8; HEAD_LEN],
}

impl Head {
    /// A head that still has to be sealed.
    pub fn new(kind: Kind, payload_len: usize, number: u64, len: u64, digest: &[u8; 32]) -> Self {
        let payload_len = u32::try_from(payload_len).expect("a payload has little over 1 MiB at most");
        let mut bytes = [0; HEAD_LEN];
        bytes[0] = kind.to_byte();
        bytes[4..8].copy_from_slice(&payload_len.to_le_bytes());
        bytes[8..16].copy_from_slice(&number.to_le_bytes());
        bytes[16..24].copy_from_slice(&len.to_le_bytes());
        bytes[24..SEALED_LEN].copy_from_slice(digest);
        Self { bytes }
    }

    /// Seals it together with its payload.
    pub fn seal(mut self, key: &HeaderHash, payload: &[u8]) -> Self {
        let seal = self.seal_of(key, payload);
        self.bytes[SEALED_LEN..].copy_from_slice(&seal);
        self
    }

    fn seal_of(&self, key: &HeaderHash, payload: &[u8]) -> [u8; HEAD_LEN - SEALED_LEN] {
        let mut hasher = blake3::Hasher::new_keyed(key);
        hasher.update(&self.bytes[..SEALED_LEN]);
        if self.kind() != Kind::Stored {
            hasher.update(payload);
        }
        let mut seal = [0; HEAD_LEN - SEALED_LEN];
        hasher.finalize_xof().fill(&mut seal);
        seal
    }

    /// Whether its seal is the one that it should have.
    pub fn is_sealed(&self, key: &HeaderHash, payload: &[u8]) -> bool {
        self.seal_of(key, payload) == self.bytes[SEALED_LEN..]
    }

    /// Takes what stands in a container; nothing is checked.
    pub fn from_bytes(bytes: [u8; HEAD_LEN]) -> Self {
        Self { bytes }
    }

    /// As it stands in a container.
    pub fn as_bytes(&self) -> &[u8; HEAD_LEN] {
        &self.bytes
    }

    /// What the record is.
    pub fn kind(&self) -> Kind {
        match self.bytes[0] {
            1 => Kind::Stored,
            2 => Kind::Zstd,
            255 => Kind::Trailer,
            other => Kind::Unknown(other),
        }
    }

    /// Whether the bytes that are not used yet are zero.
    pub fn is_plain(&self) -> bool {
        self.bytes[1..4] == [0; 3]
    }

    /// How long the payload claims to be.
    pub fn payload_len(&self) -> usize {
        u32::from_le_bytes(self.bytes[4..8].try_into().expect("4 bytes")) as usize
    }

    /// A frame's number; in the trailer, how many frames there are.
    pub fn number(&self) -> u64 {
        u64::from_le_bytes(self.bytes[8..16].try_into().expect("8 bytes"))
    }

    /// How much of the stream the frame holds; in the trailer, how much there is in all. In bytes.
    pub fn len(&self) -> u64 {
        u64::from_le_bytes(self.bytes[16..24].try_into().expect("8 bytes"))
    }

    /// Whether nothing of the stream is in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A frame's chaining value; in the trailer, the root.
    pub fn digest(&self) -> [u8; 32] {
        self.bytes[24..SEALED_LEN].try_into().expect("32 bytes")
    }
}

/// A whole trailer, ready to be written.
pub fn trailer(key: &HeaderHash, frames: u64, len: u64, root: &blake3::Hash) -> Vec<u8> {
    let mut payload = Vec::new();
    put(&mut payload, HEADER_HASH, key);
    let head = Head::new(Kind::Trailer, payload.len(), frames, len, root.as_bytes()).seal(key, &payload);
    let mut out = head.as_bytes().to_vec();
    out.extend(&payload);
    out.extend(tail(payload.len()));
    out
}

fn tail(payload_len: usize) -> [u8; TAIL_LEN] {
    let len = (HEAD_LEN + payload_len + TAIL_LEN) as u32;
    let mut tail = [0; TAIL_LEN];
    tail[..4].copy_from_slice(&len.to_le_bytes());
    tail[4..].copy_from_slice(&END);
    tail
}

/// The trailer's length, from its head to the container's end, as a container's last bytes say it; `None` if they can
/// not be a container's.
pub fn trailer_len(tail: &[u8; TAIL_LEN]) -> Option<usize> {
    let len = u32::from_le_bytes(tail[..4].try_into().expect("4 bytes")) as usize;
    let possible = HEAD_LEN + TAIL_LEN..=HEAD_LEN + MAX_TRAILER_LEN + TAIL_LEN;
    (tail[4..] == END && possible.contains(&len)).then_some(len)
}

/// Checks a trailer by itself: its seal, its payload, its tail. `rest` is what follows the head: payload and tail.
///
/// # Errors
/// [`Error::Trailer`] if it is damaged, [`Error::NeedsNewer`] if it is sound and has what this version does not know.
pub fn check_trailer(head: &Head, rest: &[u8], key: &HeaderHash, at: u64) -> Result<()> {
    let damaged = |why: &str| Error::Trailer { at, why: why.into() };
    let Some((payload, end)) = rest.split_at_checked(head.payload_len()) else {
        return Err(damaged("its length is wrong"));
    };
    if !head.is_sealed(key, payload) {
        return Err(damaged("its seal does not match"));
    }
    if end != tail(payload.len()) {
        return Err(damaged("its last 8 bytes are wrong"));
    }
    if !head.is_plain() {
        return Err(Error::NeedsNewer { what: "its trailer has reserved bytes".into() });
    }
    check_payload(payload, key)
}

fn check_payload(payload: &[u8], key: &HeaderHash) -> Result<()> {
    let mut fields = Take::new("trailer", payload);
    let (mut before, mut found) = (None, None);
    while let Some((tag, value)) = fields.field(before)? {
        match tag {
            HEADER_HASH => found = Some(value.all::<HASH_LEN>("header hash")?),
            _ => unknown("trailer", tag)?,
        }
        before = Some(tag);
    }
    match found {
        Some(hash) if hash == *key => Ok(()),
        Some(_) => Err(fields.bad("header hash", "it is another container's")),
        None => Err(fields.bad("header hash", "it is missing")),
    }
}
