//! Manifests: what a version in an archive is, and of which parts (docs/FORMAT-archive.md).
//!
//! **Invariant:** bytes in memory only; what is read is bounded by the bytes that are there.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::model::archive::{Group, MAX_MANIFEST, PART_LEN, Part, Stored};
use crate::model::{Digest, Guid, SnapshotName, VersionRef};
use crate::stream::container::Backend;
use crate::stream::sign::{Signature, SigningKey, Trusted, Untrusted};

/// What a manifest begins with.
const FIRST: &str = "cowsnap-version 1";
/// The longest line of JSON, in bytes.
const MAX_ABOUT: usize = 1 << 20;
/// What a signature is of, beside the bytes.
const CONTEXT: &str = "cowsnap archive manifest 1";
/// The most signatures that are read.
const MAX_SIGNATURES: usize = 64;

/// A version in an archive, in one of the ways that it is stored. What it says adds up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    about: About,
    pieces: Vec<Piece>,
    digest: Digest,
    signatures: Vec<Signature>,
    /// What is signed: all lines up to and with the digest.
    text: Vec<u8>,
}

/// What a version is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Whose stream it is.
    pub backend: Backend,
    /// How the source calls the dataset.
    pub dataset: String,
    /// The snapshot's name.
    pub snapshot: SnapshotName,
    /// The version's identity.
    pub guid: Guid,
    /// What it builds upon; `None` if it is full.
    pub base: Option<Guid>,
    /// When it was made, by its source's clock.
    pub created: Timestamp,
    /// The filesystem's own stream.
    pub stream: Stream,
    /// What the user said of it.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// How to come by the key of its frames; `None` if they are not encrypted.
    #[serde(default)]
    pub encryption: Option<Value>,
    /// What a later program says besides.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// The filesystem's own stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// Its length in bytes.
    pub length: u64,
    /// Its plain blake3; `None` where the container is encrypted, as it would tell what is in it.
    pub blake3: Option<Digest>,
}

/// A part of the container, without its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Its length in bytes.
    pub len: u64,
    /// The blake3 of its bytes.
    pub digest: Digest,
}

/// Why a text is no manifest.
#[derive(Debug, thiserror::Error)]
pub enum Flaw {
    /// It is longer than a manifest can be.
    #[error("it is longer than {MAX_MANIFEST} bytes")]
    TooLong,
    /// Another format, or damage.
    #[error("line {line}: {why}")]
    Line {
        /// Which one, from 1.
        line: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// What it says of the version can not be read.
    #[error("line 2 can not be read")]
    About(#[source] serde_json::Error),
    /// It needs a later version of the program.
    #[error("it has the field {0:?}, which this version of cowsnap does not know and may not pass over")]
    Newer(String),
    /// Its lines are not those that were written.
    #[error("its lines have the blake3 {found}, not {written}, as its last one says")]
    Digest {
        /// What they have.
        found: Digest,
        /// What is written.
        written: Digest,
    },
    /// Nobody signed it who is trusted.
    #[error(transparent)]
    Untrusted(Untrusted),
    /// It is of another version than its key.
    #[error("its {0} is not that of its key")]
    OtherKey(&'static str),
}

impl Manifest {
    /// Makes one of a container that was cut into `pieces`.
    ///
    /// # Errors
    /// [`Flaw`] if no manifest can say it: too many pieces, or too much said about it.
    pub fn new(about: About, pieces: Vec<Piece>) -> Result<Self, Flaw> {
        let mut text = format!("{FIRST}\n");
        text.push_str(&serde_json::to_string(&about).map_err(Flaw::About)?);
        text.push('\n');
        for Piece { len, digest } in &pieces {
            writeln!(text, "{len} {digest}").expect("a text can be written to");
        }
        let digest = Digest(*blake3::hash(text.as_bytes()).as_bytes());
        writeln!(text, "blake3 {digest}").expect("a text can be written to");
        // What was read is what others read.
        Self::parse(text.as_bytes())
    }

    /// Reads one, with its own digest.
    ///
    /// # Errors
    /// [`Flaw`] with where it is.
    pub fn parse(bytes: &[u8]) -> Result<Self, Flaw> {
        if bytes.len() as u64 > MAX_MANIFEST {
            return Err(Flaw::TooLong);
        }
        let mut lines = Lines { rest: bytes, at: 0 };
        if lines.next()? != FIRST {
            return Err(lines.wrong("no manifest, or one of a later version of the format"));
        }
        let about = about(lines.next()?, lines.at)?;
        let (pieces, digest, before) = pieces(&mut lines, bytes.len())?;
        let found = Digest(*blake3::hash(&bytes[..before]).as_bytes());
        if found != digest {
            return Err(Flaw::Digest { found, written: digest });
        }
        let text = bytes[..bytes.len() - lines.rest.len()].to_vec();
        let signatures = signatures(&mut lines)?;
        Ok(Self { about, pieces, digest, signatures, text })
    }

    /// What it is, as it was put: the lines, and the signatures.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.text.clone();
        for signature in &self.signatures {
            bytes.extend_from_slice(format!("ed25519 {signature}\n").as_bytes());
        }
        bytes
    }

    /// That it is the one which `stored`, its key, promises.
    ///
    /// # Errors
    /// [`Flaw::OtherKey`].
    pub fn expect_key(&self, stored: &Stored) -> Result<(), Flaw> {
        let own = self.stored();
        let differs = |is_other: bool, what| if is_other { Err(Flaw::OtherKey(what)) } else { Ok(()) };
        differs(own.version.guid != stored.version.guid, "guid")?;
        differs(own.base != stored.base, "base")?;
        differs(own.version.name != stored.version.name, "name")?;
        differs(own.len != stored.len, "length")?;
        // A key has no times before 1970.
        differs(own.to_string() != stored.to_string(), "time")
    }

    /// How it is stored: its key.
    pub fn stored(&self) -> Stored {
        let About { guid, base, created, snapshot, .. } = &self.about;
        let version = VersionRef { guid: *guid, name: snapshot.clone() };
        Stored { version, base: *base, created: *created, len: self.len() }
    }

    /// What the version is.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// The container's length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "no container is empty")]
    pub fn len(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len).sum()
    }

    /// The parts, in their order.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The parts in their order, with where they are.
    pub fn parts(&self) -> impl ExactSizeIterator<Item = (Part, u64)> + '_ {
        let group = Group { guid: self.about.guid, base: self.about.base };
        self.pieces.iter().enumerate().map(move |(number, piece)| {
            let number = u32::try_from(number).expect("a manifest has no room for that many");
            (Part { group, number, digest: piece.digest }, piece.len)
        })
    }

    /// What is signed: all lines up to and with the digest.
    pub fn signed(&self) -> &[u8] {
        &self.text
    }

    /// The digest of its lines.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Who vouches for it, as far as is written.
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// Signs all lines up to and with the digest.
    ///
    /// # Errors
    /// [`Flaw::Line`] if that is one signature too many.
    pub fn sign(&mut self, key: &SigningKey) -> Result<(), Flaw> {
        if self.signatures.len() == MAX_SIGNATURES {
            let line = self.pieces.len() + 4 + self.signatures.len();
            return Err(Flaw::Line { line, why: "one signature too many" });
        }
        self.signatures.push(key.sign(CONTEXT, &self.text));
        Ok(())
    }

    /// That one of those signed it.
    ///
    /// # Errors
    /// [`Flaw::Untrusted`].
    pub fn expect_signed(&self, trusted: &Trusted) -> Result<(), Flaw> {
        trusted.check(CONTEXT, &self.text, &self.signatures).map(drop).map_err(Flaw::Untrusted)
    }
}

/// The lines of a text, each ended by a line feed.
struct Lines<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Result<&'a str, Flaw> {
        self.at += 1;
        let end =
            self.rest.iter().position(|&byte| byte == b'\n').ok_or_else(|| self.wrong("it is cut off"))?;
        let (line, rest) = self.rest.split_at(end);
        self.rest = &rest[1..];
        std::str::from_utf8(line).map_err(|_| self.wrong("it is no text"))
    }

    fn wrong(&self, why: &'static str) -> Flaw {
        Flaw::Line { line: self.at, why }
    }
}

fn about(line: &str, at: usize) -> Result<About, Flaw> {
    if line.len() > MAX_ABOUT {
        return Err(Flaw::Line { line: at, why: "it is too long" });
    }
    let about: About = serde_json::from_str(line).map_err(Flaw::About)?;
    if let Some(name) = about.more.keys().find(|name| name.starts_with('!')) {
        return Err(Flaw::Newer(name.clone()));
    }
    if about.base.is_some_and(|base| base.is_nil()) || about.guid.is_nil() {
        return Err(Flaw::Line { line: at, why: "an identity of zeros is none" });
    }
    Ok(about)
}

/// The parts, the digest that is written behind them, and how many bytes stand before that.
fn pieces(lines: &mut Lines<'_>, len: usize) -> Result<(Vec<Piece>, Digest, usize), Flaw> {
    let mut pieces: Vec<Piece> = Vec::new();
    loop {
        let before = len - lines.rest.len();
        let line = lines.next()?;
        let (first, digest) = line.split_once(' ').ok_or_else(|| lines.wrong("neither part nor digest"))?;
        let digest = digest.parse().map_err(|_| lines.wrong("no digest"))?;
        if first == "blake3" {
            return match pieces.is_empty() {
                true => Err(lines.wrong("there is no part")),
                false => Ok((pieces, digest, before)),
            };
        }
        let len: u64 = first.parse().map_err(|_| lines.wrong("no length"))?;
        if len.to_string() != first || len == 0 || len > PART_LEN {
            return Err(lines.wrong("no length that a part can have"));
        }
        if pieces.last().is_some_and(|last| last.len != PART_LEN) {
            return Err(lines.wrong("behind a part that is shorter"));
        }
        pieces.push(Piece { len, digest });
    }
}

fn signatures(lines: &mut Lines<'_>) -> Result<Vec<Signature>, Flaw> {
    let mut signatures = Vec::new();
    while !lines.rest.is_empty() {
        let line = lines.next()?;
        let signature = line.strip_prefix("ed25519 ").and_then(|text| text.parse::<Signature>().ok());
        // As this program writes it, and in no other way.
        let signature =
            signature.filter(|signature| line.strip_prefix("ed25519 ") == Some(&signature.to_string()));
        let Some(signature) = signature.filter(|_| signatures.len() < MAX_SIGNATURES) else {
            return Err(lines.wrong("no signature, or one too many"));
        };
        signatures.push(signature);
    }
    Ok(signatures)
}

#[cfg(test)]
mod tests;
