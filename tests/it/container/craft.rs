//! Containers made by hand, with whatever is wrong sealed as if it were right.

use cowsnap::stream::container::header::header_hash;
use cowsnap::stream::container::record::{HEAD_LEN, trailer};
use cowsnap::stream::container::tree::Leaf;
use cowsnap::stream::container::{Head, Header, HeaderHash, Kind, MAGIC};

/// Writes a container piece by piece.
pub struct Craft {
    pub bytes: Vec<u8>,
    pub key: HeaderHash,
}

impl Craft {
    pub fn new(header: &Header) -> Self {
        let (bytes, key) = header.encode().unwrap();
        Self { bytes, key }
    }

    /// Of a list of fields that no [`Header`] gives.
    pub fn of_fields(fields: &[(u16, &[u8])]) -> Self {
        Self::of_header(1, &list(fields))
    }

    pub fn of_header(version: u32, header: &[u8]) -> Self {
        let mut bytes = prelude(version, header.len() as u32).to_vec();
        bytes.extend(header);
        let key = header_hash(&bytes);
        bytes.extend(key);
        Self { bytes, key }
    }

    pub fn record(mut self, head: Head, payload: &[u8]) -> Self {
        self.bytes.extend(head.seal(&self.key, payload).as_bytes());
        self.bytes.extend(payload);
        self
    }

    /// A stored frame that is right.
    pub fn stored(self, number: u64, stream: &[u8]) -> Self {
        let digest = Leaf::of(number, stream).chaining_value;
        self.record(Head::new(Kind::Stored, stream.len(), number, stream.len() as u64, &digest), stream)
    }

    /// A zstd frame that says it holds the `len` bytes whose digest is that of `stream`.
    pub fn zstd(self, number: u64, stream: &[u8], len: u64, payload: &[u8]) -> Self {
        let digest = Leaf::of(number, stream).chaining_value;
        self.record(Head::new(Kind::Zstd, payload.len(), number, len, &digest), payload)
    }

    pub fn trailer(mut self, frames: u64, len: u64, root: &blake3::Hash) -> Vec<u8> {
        self.bytes.extend(trailer(&self.key, frames, len, root));
        self.bytes
    }

    /// A trailer with this digest and these fields.
    pub fn end(self, frames: u64, len: u64, digest: &[u8; 32], fields: &[(u16, &[u8])]) -> Vec<u8> {
        let payload = list(fields);
        let head = Head::new(Kind::Trailer, payload.len(), frames, len, digest);
        let whole = (HEAD_LEN + payload.len() + 8) as u32;
        let mut bytes = self.record(head, &payload).bytes;
        bytes.extend(whole.to_le_bytes());
        bytes.extend(b"\x89END");
        bytes
    }

    /// A trailer of an empty stream with these fields and, if they differ from what is right, these last bytes.
    pub fn trailer_of(self, fields: &[(u16, &[u8])], tail: Option<[u8; 8]>) -> Vec<u8> {
        let payload = list(fields);
        let head = Head::new(Kind::Trailer, payload.len(), 0, 0, blake3::hash(b"").as_bytes());
        let len = (HEAD_LEN + payload.len() + 8) as u32;
        let mut right = [0; 8];
        right[..4].copy_from_slice(&len.to_le_bytes());
        right[4..].copy_from_slice(b"\x89END");
        let mut bytes = self.record(head, &payload).bytes;
        bytes.extend(tail.unwrap_or(right));
        bytes
    }
}

pub fn prelude(version: u32, header_len: u32) -> [u8; 32] {
    let mut out = [0; 32];
    out[..12].copy_from_slice(&MAGIC);
    out[12..16].copy_from_slice(&version.to_le_bytes());
    out[16..20].copy_from_slice(&header_len.to_le_bytes());
    let check = blake3::derive_key("cowsnap container prelude", &out[..20]);
    out[20..].copy_from_slice(&check[..12]);
    out
}

fn list(fields: &[(u16, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (tag, value) in fields {
        out.extend(tag.to_le_bytes());
        out.extend((value.len() as u32).to_le_bytes());
        out.extend(*value);
    }
    out
}

/// The fields of a header that is complete, to be changed.
pub fn fields() -> Vec<(u16, &'static [u8])> {
    vec![
        (1, b"btrfs"),
        (2, b"tank"),
        (3, b"snap"),
        (4, &[7; 16]),
        (6, &[0; 12]),
        (7, &[1, 0, 0, 0, 0, 0, 0, 0]),
    ]
}

/// As [`fields`], with one replaced, added, or (`None`) taken away.
pub fn fields_with(tag: u16, value: Option<&'static [u8]>) -> Vec<(u16, &'static [u8])> {
    let mut all = fields();
    all.retain(|(other, _)| *other != tag);
    all.extend(value.map(|value| (tag, value)));
    all.sort();
    all
}
