//! Records: the heads of frames and trailers, their seals, and the trailer's payload.

use super::error::{Error, Result};
use super::fields::{Take, put, unknown};
use super::{END, FRAME_LEN, HASH_LEN, HeaderHash, MAX_PAYLOAD_LEN, MAX_TRAILER_LEN, TAIL_LEN};
use crate::stream::crypt::{self, FrameKeys};
use crate::stream::sign::{PublicKey, SIGNED_LEN, Signature, SigningKey, Trusted};

/// Bytes of a head.
pub const HEAD_LEN: usize = 72;
const SEALED_LEN: usize = 56; // of the head: all before its seal
const DIGEST_AT: usize = 24;
const HEADER_HASH: u16 = 1;
const ROOT: u16 = 2;
const SIGNATURES: u16 = 0x8001;

/// What a container is signed as (docs/FORMAT.md).
pub const SIGNED_AS: &str = "cowsnap container 1";
/// The most signatures that a container has.
pub const MAX_SIGNATURES: usize = 64;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A frame whose payload is the stream's bytes.
    Stored,
    /// A frame whose payload is zstd data.
    Zstd,
    /// A frame whose payload is encrypted.
    Encrypted,
    /// A frame of a kind that this version does not know.
    Unknown(u8),
    /// The trailer.
    Trailer,
}

impl Kind {
    pub(in crate::stream) fn to_byte(self) -> u8 {
        match self {
            Self::Stored => 1,
            Self::Zstd => 2,
            Self::Encrypted => 3,
            Self::Unknown(byte) => byte,
            Self::Trailer => 255,
        }
    }

    pub(in crate::stream) fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Stored,
            2 => Self::Zstd,
            3 => Self::Encrypted,
            255 => Self::Trailer,
            other => Self::Unknown(other),
        }
    }

    /// The longest payload that such a record has.
    pub fn max_payload_len(self) -> usize {
        match self {
            Self::Stored | Self::Zstd => FRAME_LEN,
            Self::Encrypted => FRAME_LEN + crypt::FRONT_LEN + crypt::TAG_LEN,
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
        bytes[DIGEST_AT..SEALED_LEN].copy_from_slice(digest);
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
        Kind::from_byte(self.bytes[0])
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

    /// All that the digest follows.
    pub(in crate::stream) fn before_digest(&self) -> &[u8] {
        &self.bytes[..DIGEST_AT]
    }

    /// All that the seal follows.
    pub(in crate::stream) fn sealed_part(&self) -> &[u8] {
        &self.bytes[..SEALED_LEN]
    }

    /// Of a trailer: how many frames there are, how long the stream is, and its digest.
    pub(in crate::stream) fn signed_part(&self) -> &[u8] {
        &self.bytes[8..SEALED_LEN]
    }

    /// A frame's chaining value; in the trailer, the root. Otherwise in encrypted containers.
    pub fn digest(&self) -> [u8; 32] {
        self.bytes[DIGEST_AT..SEALED_LEN].try_into().expect("32 bytes")
    }
}

/// What a trailer is written from.
pub(in crate::stream) struct Ending<'a> {
    /// How many frames there are.
    pub frames: u64,
    /// How long the stream is.
    pub len: u64,
    /// Its root; of an encrypted container the digest of its heads.
    pub digest: [u8; 32],
    /// Of an encrypted container: its root, and what encrypts it.
    pub closed_root: Option<(&'a FrameKeys, blake3::Hash)>,
    /// Who signs.
    pub signers: &'a [SigningKey],
}

impl Ending<'_> {
    /// A whole trailer, ready to be written.
    pub fn to_bytes(&self, key: &HeaderHash) -> Vec<u8> {
        let head = |payload_len| Head::new(Kind::Trailer, payload_len, self.frames, self.len, &self.digest);
        let mut payload = Vec::new();
        put(&mut payload, HEADER_HASH, key);
        if let Some((keys, root)) = &self.closed_root {
            put(&mut payload, ROOT, &keys.close_root(&head(0), root));
        }
        if !self.signers.is_empty() {
            let message = signed(key, &head(0));
            let sign = |signer: &SigningKey| signer.sign(SIGNED_AS, &message).to_bytes();
            put(&mut payload, SIGNATURES, &self.signers.iter().flat_map(sign).collect::<Vec<_>>());
        }
        let mut out = head(payload.len()).seal(key, &payload).as_bytes().to_vec();
        out.extend(&payload);
        out.extend(tail(payload.len()));
        out
    }
}

/// A whole trailer of a container that is neither encrypted nor signed.
pub fn trailer(key: &HeaderHash, frames: u64, len: u64, root: &blake3::Hash) -> Vec<u8> {
    let digest = *root.as_bytes();
    Ending { frames, len, digest, closed_root: None, signers: &[] }.to_bytes(key)
}

/// What is signed: what the stream is, and what the trailer says of it.
fn signed(key: &HeaderHash, head: &Head) -> Vec<u8> {
    [key, head.signed_part()].concat()
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

/// What a trailer says beyond what its head does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trailing {
    /// Of an encrypted container: its root, encrypted.
    pub closed_root: Option<[u8; crypt::ROOT_LEN]>,
    /// The signatures, each of which matches.
    pub signatures: Vec<Signature>,
}

impl Trailing {
    /// Who signed.
    pub fn signers(&self) -> Vec<PublicKey> {
        self.signatures.iter().map(|signature| signature.by).collect()
    }

    /// Refuses a container that none of `trusted` signed.
    ///
    /// # Errors
    /// [`Error::Untrusted`].
    pub(in crate::stream) fn check(&self, trusted: &Trusted, key: &HeaderHash, head: &Head) -> Result<()> {
        trusted.check(SIGNED_AS, &signed(key, head), &self.signatures).map(drop).map_err(Error::Untrusted)
    }
}

/// Checks a trailer by itself: its seal, its payload, its signatures, its tail. `rest` is what follows the head: payload and tail.
///
/// # Errors
/// [`Error::Trailer`] if it is damaged, [`Error::NeedsNewer`] if it is sound and has what this version does not know.
pub fn check_trailer(head: &Head, rest: &[u8], key: &HeaderHash, at: u64) -> Result<Trailing> {
    let damaged = |why: String| Error::Trailer { at, why };
    let Some((payload, end)) = rest.split_at_checked(head.payload_len()) else {
        return Err(damaged("its length is wrong".into()));
    };
    if !head.is_sealed(key, payload) {
        return Err(damaged("its seal does not match".into()));
    }
    if end != tail(payload.len()) {
        return Err(damaged("its last 8 bytes are wrong".into()));
    }
    if !head.is_plain() {
        return Err(Error::NeedsNewer { what: "its trailer has reserved bytes".into() });
    }
    let found = check_payload(payload, key)?;
    let message = signed(key, head);
    match found.signatures.iter().find(|signature| !signature.is_of(SIGNED_AS, &message)) {
        Some(wrong) => Err(damaged(format!("the signature by {} does not match", wrong.by))),
        None => Ok(found),
    }
}

fn check_payload(payload: &[u8], key: &HeaderHash) -> Result<Trailing> {
    let mut fields = Take::new("trailer", payload);
    let (mut before, mut hash, mut found) = (None, None, Trailing::default());
    while let Some((tag, value)) = fields.field(before)? {
        match tag {
            HEADER_HASH => hash = Some(value.all::<HASH_LEN>("header hash")?),
            ROOT => found.closed_root = Some(value.all("root")?),
            SIGNATURES => found.signatures = signatures(value)?,
            _ => unknown("trailer", tag)?,
        }
        before = Some(tag);
    }
    match hash {
        Some(hash) if hash == *key => Ok(found),
        Some(_) => Err(fields.bad("header hash", "it is another container's")),
        None => Err(fields.bad("header hash", "it is missing")),
    }
}

fn signatures(mut value: Take) -> Result<Vec<Signature>> {
    let mut found = Vec::new();
    while !value.is_empty() {
        if found.len() == MAX_SIGNATURES {
            return Err(value.bad("signature", format!("there are more than {MAX_SIGNATURES}")));
        }
        found.push(Signature::from_bytes(&value.array::<SIGNED_LEN>("signature")?));
    }
    match found.is_empty() {
        true => Err(value.bad("signature", "there is none")),
        false => Ok(found),
    }
}
