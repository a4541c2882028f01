//! Manifests: what a version in an archive is, and of which parts (docs/FORMAT-archive.md).
//!
//! Of a part, no more than its digest stays in memory: 32 bytes. The lines are read one by one, and made again where they are needed.
//!
//! **Invariant:** what is read is bounded by the bytes that are there, and these by what a manifest may have.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::model::archive::{Group, MAX_MANIFEST, MAX_PARTS, PART_LEN, Part, Stored};
use crate::model::{Digest, Guid, SnapshotName, VersionRef};
use crate::stream::container::Backend;
use crate::stream::sign::{Message, Signature, SigningKey, Trusted, Untrusted};

/// What a manifest begins with.
const FIRST: &str = "cowsnap-version 1";
/// The longest line of JSON, in bytes.
const MAX_ABOUT: usize = 1 << 20;
/// What a signature is of, beside the bytes.
const CONTEXT: &str = "cowsnap archive manifest 1";
/// The most signatures that are read.
const MAX_SIGNATURES: usize = 64;
/// How much of the lines is made at once, in bytes.
const SOME: usize = 64 << 10;

/// A version in an archive, in one of the ways that it is stored. What it says adds up. Clones share what is long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    about: About,
    /// The first two lines, as they were written.
    head: Arc<str>,
    digests: Arc<Vec<Digest>>, // Invariant: not empty, and no more than `MAX_PARTS`.
    /// How long the last part is; all others are as long as a part can be.
    last: u64,
    digest: Digest,
    signatures: Vec<Signature>,
}

/// How long the manifest of `stored` may be, as its key says how many parts it has.
pub(super) fn most_of(stored: &Stored) -> u64 {
    const LINE: u64 = 8 + 1 + 64 + 1;
    const BESIDE: u64 = MAX_ABOUT as u64 + (64 << 10); // The first lines, the digest, the signatures.
    MAX_MANIFEST.min(stored.parts().saturating_mul(LINE).saturating_add(BESIDE))
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
    /// It broke off while it was read.
    #[error("it can not be read")]
    Read(#[source] io::Error),
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
    /// As [`Self::of`]; pieces that no container is cut into.
    pub fn new(about: About, pieces: impl IntoIterator<Item = Piece>) -> Result<Self, Flaw> {
        let (mut digests, mut last) = (Vec::new(), PART_LEN);
        for Piece { len, digest } in pieces {
            check_len(digests.len() + 3, last, len)?;
            digests.push(digest);
            last = len;
        }
        Self::of(about, digests, last)
    }

    /// Makes one of a container whose parts have these digests, and the last one that length.
    ///
    /// # Errors
    /// [`Flaw`] if no manifest can say it: too many parts, or too much said about it.
    pub fn of(about: About, digests: Vec<Digest>, last: u64) -> Result<Self, Flaw> {
        let json = serde_json::to_string(&about).map_err(Flaw::About)?;
        // What was read is what others read.
        let about = read_about(&json, 2)?;
        if digests.is_empty() || digests.len() > MAX_PARTS as usize {
            return Err(Flaw::Line { line: 3, why: "there is no part, or there are too many" });
        }
        check_len(digests.len() + 2, PART_LEN, last)?;
        let (head, digests) = (format!("{FIRST}\n{json}\n").into(), Arc::new(digests));
        let mut made = Self { about, head, digests, last, digest: Digest([0; 32]), signatures: Vec::new() };
        let mut hasher = blake3::Hasher::new();
        made.each_line(&mut |lines| {
            hasher.update(lines);
        });
        made.digest = Digest(*hasher.finalize().as_bytes());
        Ok(made)
    }

    /// Reads one, with its own digest.
    ///
    /// # Errors
    /// [`Flaw`] with where it is.
    pub fn parse(bytes: &[u8]) -> Result<Self, Flaw> {
        Self::read(bytes)
    }

    /// The same, as it comes.
    ///
    /// # Errors
    /// As [`Self::parse`]; [`Flaw::Read`].
    pub fn read(input: impl BufRead) -> Result<Self, Flaw> {
        let mut lines = Lines { input, line: Vec::new(), at: 0, read: 0 };
        let mut hasher = blake3::Hasher::new();
        let mut head = String::new();
        if lines.next()?.is_none_or(|first| first != FIRST) {
            return Err(lines.wrong("no manifest, or one of a later version of the format"));
        }
        head.push_str(FIRST);
        head.push('\n');
        let json = lines.expect_next()?;
        let about = read_about(json, 2)?;
        head.push_str(json);
        head.push('\n');
        hasher.update(head.as_bytes());
        let (digests, last, digest) = read_parts(&mut lines, &mut hasher)?;
        let found = Digest(*hasher.finalize().as_bytes());
        if found != digest {
            return Err(Flaw::Digest { found, written: digest });
        }
        let signatures = read_signatures(&mut lines)?;
        Ok(Self { about, head: head.into(), digests: Arc::new(digests), last, digest, signatures })
    }

    /// What it is, as it was put: the lines, and the signatures.
    pub fn to_bytes(&self) -> Vec<u8> {
        let signatures = self.signatures.iter().map(|signature| format!("ed25519 {signature}\n"));
        let signatures: String = signatures.collect();
        let mut bytes = Vec::with_capacity(self.signed_len() + signatures.len());
        self.each_signed(&mut |lines| bytes.extend_from_slice(lines));
        bytes.extend_from_slice(signatures.as_bytes());
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
        (self.digests.len() as u64 - 1) * PART_LEN + self.last
    }

    /// How many parts there are.
    pub fn n_parts(&self) -> usize {
        self.digests.len()
    }

    /// The parts, in their order.
    pub fn pieces(&self) -> impl ExactSizeIterator<Item = Piece> + '_ {
        self.parts().map(|(part, len)| Piece { len, digest: part.digest })
    }

    /// The parts in their order, with where they are.
    pub fn parts(&self) -> impl ExactSizeIterator<Item = (Part, u64)> + '_ {
        (0..self.digests.len()).map(|number| self.part(number))
    }

    /// One of its parts, from 0, with its length.
    ///
    /// # Panics
    /// If it has none of that number.
    pub fn part(&self, number: usize) -> (Part, u64) {
        let group = Group { guid: self.about.guid, base: self.about.base };
        let len = if number + 1 == self.digests.len() { self.last } else { PART_LEN };
        let digest = self.digests[number];
        let number = u32::try_from(number).expect("a manifest has no room for that many");
        (Part { group, number, digest }, len)
    }

    /// What is signed: all lines up to and with the digest.
    pub fn signed(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.signed_len());
        self.each_signed(&mut |lines| bytes.extend_from_slice(lines));
        bytes
    }

    fn signed_len(&self) -> usize {
        let line = |len: u64| format!("{len} {}\n", self.digest).len();
        self.head.len() + (self.digests.len() - 1) * line(PART_LEN) + line(self.last) + self.seal().len()
    }

    fn seal(&self) -> String {
        format!("blake3 {}\n", self.digest)
    }

    fn each_signed(&self, each: &mut dyn FnMut(&[u8])) {
        self.each_line(each);
        each(self.seal().as_bytes());
    }

    /// All lines before the digest, some at a time.
    fn each_line(&self, each: &mut dyn FnMut(&[u8])) {
        let mut some = self.head.to_string();
        for Piece { len, digest } in self.pieces() {
            some += &format!("{len} {digest}\n");
            if some.len() >= SOME {
                each(some.as_bytes());
                some.clear();
            }
        }
        each(some.as_bytes());
    }

    fn message(&self) -> Message {
        let mut message = Message::new(CONTEXT, self.signed_len());
        self.each_signed(&mut |lines| message.add(lines));
        message
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
            let line = self.digests.len() + 4 + self.signatures.len();
            return Err(Flaw::Line { line, why: "one signature too many" });
        }
        self.signatures.push(key.sign_message(&self.message()));
        Ok(())
    }

    /// That one of those signed it.
    ///
    /// # Errors
    /// [`Flaw::Untrusted`].
    pub fn expect_signed(&self, trusted: &Trusted) -> Result<(), Flaw> {
        trusted.check_message(&self.message(), &self.signatures).map(drop).map_err(Flaw::Untrusted)
    }
}

/// The lines of a text, each ended by a line feed.
struct Lines<R> {
    input: R,
    line: Vec<u8>,
    at: usize,
    read: u64,
}

impl<R: BufRead> Lines<R> {
    /// The next one, without its end; `None` where the text ends.
    fn next(&mut self) -> Result<Option<&str>, Flaw> {
        self.at += 1;
        self.line.clear();
        let most = MAX_ABOUT as u64 + 1;
        let read = self.input.by_ref().take(most).read_until(b'\n', &mut self.line).map_err(Flaw::Read)?;
        self.read += read as u64;
        if self.read > MAX_MANIFEST {
            return Err(Flaw::TooLong);
        }
        match self.line.pop() {
            None => return Ok(None),
            Some(b'\n') => {}
            Some(_) if read as u64 == most => return Err(self.wrong("it is too long")),
            Some(_) => return Err(self.wrong("it is cut off")),
        }
        let at = self.at;
        let text = std::str::from_utf8(&self.line);
        text.map(Some).map_err(|_| Flaw::Line { line: at, why: "it is no text" })
    }

    fn expect_next(&mut self) -> Result<&str, Flaw> {
        let line = self.at + 1;
        self.next()?.ok_or(Flaw::Line { line, why: "it is cut off" })
    }

    fn wrong(&self, why: &'static str) -> Flaw {
        Flaw::Line { line: self.at, why }
    }
}

fn read_about(line: &str, at: usize) -> Result<About, Flaw> {
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

/// That a part may be so long which stands in that line, behind one that is as long as `before`.
fn check_len(line: usize, before: u64, len: u64) -> Result<(), Flaw> {
    if len == 0 || len > PART_LEN {
        return Err(Flaw::Line { line, why: "no length that a part can have" });
    }
    match before {
        PART_LEN => Ok(()),
        _ => Err(Flaw::Line { line, why: "behind a part that is shorter" }),
    }
}

/// The parts' digests, the length of the last one, and the digest that is written behind them.
fn read_parts(
    lines: &mut Lines<impl BufRead>,
    hasher: &mut blake3::Hasher,
) -> Result<(Vec<Digest>, u64, Digest), Flaw> {
    let (mut digests, mut last) = (Vec::new(), PART_LEN);
    loop {
        let at = lines.at + 1;
        let wrong = |why| Flaw::Line { line: at, why };
        let line = lines.expect_next()?;
        let (first, digest) = line.split_once(' ').ok_or_else(|| wrong("neither part nor digest"))?;
        let digest = digest.parse().map_err(|_| wrong("no digest"))?;
        if first == "blake3" {
            return match digests.is_empty() {
                true => Err(wrong("there is no part")),
                false => Ok((digests, last, digest)),
            };
        }
        let len: u64 = first.parse().map_err(|_| wrong("no length"))?;
        if len.to_string() != first {
            return Err(wrong("no length that a part can have"));
        }
        check_len(at, last, len)?;
        if digests.len() == MAX_PARTS as usize {
            return Err(wrong("more parts than there can be"));
        }
        hasher.update(line.as_bytes()).update(b"\n");
        digests.push(digest);
        last = len;
    }
}

fn read_signatures(lines: &mut Lines<impl BufRead>) -> Result<Vec<Signature>, Flaw> {
    let mut signatures = Vec::new();
    loop {
        let line = lines.at + 1;
        let Some(text) = lines.next()? else { return Ok(signatures) };
        let signature = text.strip_prefix("ed25519 ").and_then(|text| text.parse::<Signature>().ok());
        // As this program writes it, and in no other way.
        let signature =
            signature.filter(|signature| text.strip_prefix("ed25519 ") == Some(&signature.to_string()));
        let Some(signature) = signature.filter(|_| signatures.len() < MAX_SIGNATURES) else {
            return Err(Flaw::Line { line, why: "no signature, or one too many" });
        };
        signatures.push(signature);
    }
}

#[cfg(test)]
mod tests;
