//! How a container is checked, and what spans its frames: lengths, counts, the root, the signatures.

use super::{Opened, Trailer};
use crate::stream::container::error::{Error, Result};
use crate::stream::container::record::{HEAD_LEN, Trailing, check_trailer, trailer_len};
use crate::stream::container::tree::Tree;
use crate::stream::container::{FRAME_LEN, Head, HeaderHash, Kind, Sealed, TAIL_LEN};
use crate::stream::crypt::{Envelope, FrameKeys, Heads, Identity};
use crate::stream::sign::{PublicKey, Trusted};

/// What the reader of a container has: what decrypts it, and whose it must be. The default has nothing and asks for nothing.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    /// What decrypts it, if it is encrypted.
    pub identities: Vec<Identity>,
    /// One of these must have signed it; `None` if nobody has to.
    pub trusted: Option<Trusted>,
}

/// How the frames and the trailer of one container are checked.
#[derive(Clone)]
pub struct Checks {
    pub(super) hash: HeaderHash,
    pub(super) secrecy: Secrecy,
    trusted: Option<Trusted>,
}

#[derive(Clone)]
pub(super) enum Secrecy {
    /// It is not encrypted.
    Plain,
    /// It is, and this decrypts it.
    Open(Box<FrameKeys>),
    /// It is, and only what anybody can check is checked.
    Shut,
}

impl Checks {
    /// Of the container with this header.
    ///
    /// # Errors
    /// [`Error::Encrypted`] if it is, and none of `keys` decrypts it; what is wrong with its envelope.
    pub fn of(hash: HeaderHash, envelope: Option<&Envelope>, keys: &Keys) -> Result<Self> {
        let secrecy = match envelope {
            None => Secrecy::Plain,
            Some(envelope) => {
                let secret = envelope.open(&keys.identities)?;
                Secrecy::Open(Box::new(FrameKeys::of(&secret, &hash)))
            }
        };
        Ok(Self { hash, secrecy, trusted: keys.trusted.clone() })
    }

    /// The same without what decrypts: of an encrypted container only seals are checked.
    pub fn of_seals(hash: HeaderHash, envelope: Option<&Envelope>, keys: &Keys) -> Self {
        let secrecy = if envelope.is_some() { Secrecy::Shut } else { Secrecy::Plain };
        Self { hash, secrecy, trusted: keys.trusted.clone() }
    }

    pub(super) fn is_encrypted(&self) -> bool {
        !matches!(self.secrecy, Secrecy::Plain)
    }
}

/// What spans frames: lengths, counts, the root.
#[derive(Debug, Clone, Default)]
pub(super) struct Sequence {
    pub tree: Tree,
    pub frames: u64,
    pub len: u64,
    pub last: bool,
    pub heads: Option<Heads>, // Of an encrypted container.
}

/// What a container turned out to be, known when its trailer was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// Frames that carry the stream.
    pub frames: u64,
    /// Bytes of the stream.
    pub len: u64,
    /// Bytes of the container, from its magic to its end.
    pub container_len: u64,
    /// The plain blake3 of the stream; `None` if it is encrypted and nothing was given that decrypts it.
    pub root: Option<blake3::Hash>,
    /// Who signed it: each signature matches.
    pub signers: Vec<PublicKey>,
}

impl Outline {
    /// What was verified; `None` if it was not decrypted.
    pub fn sealed(&self) -> Option<Sealed> {
        let &Self { root, len, frames, container_len, .. } = self;
        root.map(|root| Sealed { root, len, frames, container_len })
    }
}

impl Sequence {
    pub fn of(checks: &Checks) -> Self {
        Self { heads: checks.is_encrypted().then(|| Heads::new(&checks.hash)), ..Self::default() }
    }

    pub fn accept(&mut self, frame: &Opened) -> Result<()> {
        if self.last {
            return Err(Error::FrameAfterLast { place: frame.place });
        }
        if let Some(leaf) = &frame.leaf {
            self.tree.push(leaf);
        }
        if let Some(heads) = &mut self.heads {
            heads.push(frame.head.as_bytes());
        }
        self.frames += 1;
        self.len += frame.head.len();
        self.last = frame.head.len() < FRAME_LEN as u64;
        Ok(())
    }

    pub fn finish(&self, trailer: &Trailer, checks: &Checks) -> Result<Outline> {
        let Trailer { at, head, rest } = trailer;
        let trailing = check_trailer(head, rest, &checks.hash, *at)?;
        let (frames, len) = (self.frames, self.len);
        let differs = |why: String| Error::Trailer { at: *at, why };
        if head.number() != frames {
            return Err(differs(format!("it counts {} frames, there are {frames}", head.number())));
        }
        if head.len() != len {
            return Err(differs(format!("it counts {} bytes of stream, there are {len}", head.len())));
        }
        if self.heads.as_ref().is_some_and(|heads| heads.digest() != head.digest()) {
            return Err(differs("its digest is not that of the frames' heads".into()));
        }
        let said = said_root(head, &trailing, checks, *at)?;
        if said.is_some_and(|said| said != self.tree.root()) {
            return Err(differs("its root is not that of the frames".into()));
        }
        if let Some(trusted) = &checks.trusted {
            trailing.check(trusted, &checks.hash, head)?;
        }
        let container_len = at + (HEAD_LEN + rest.len()) as u64;
        Ok(Outline { frames, len, container_len, root: said, signers: trailing.signers() })
    }
}

/// The root as a sound trailer says it; `None` if it is encrypted and stays so.
fn said_root(head: &Head, trailing: &Trailing, checks: &Checks, at: u64) -> Result<Option<blake3::Hash>> {
    let damaged = |why: &str| Error::Trailer { at, why: why.into() };
    match (&checks.secrecy, trailing.closed_root) {
        (Secrecy::Plain, None) => Ok(Some(blake3::Hash::from_bytes(head.digest()))),
        (Secrecy::Plain, Some(_)) => Err(damaged("its root is encrypted, and the container is not")),
        (Secrecy::Open(_) | Secrecy::Shut, None) => Err(damaged("its root is not there")),
        (Secrecy::Open(keys), Some(closed)) => {
            let root = keys.open_root(head, closed);
            root.map(Some).ok_or_else(|| damaged("its root does not decrypt"))
        }
        (Secrecy::Shut, Some(_)) => Ok(None),
    }
}

/// What the trailer at the end of a container says, checked by itself: its seal and its signatures, not that the frames bear it out. `end`
/// holds the container's last bytes, `container_len` says how long it is.
///
/// # Errors
/// [`Error::Trailer`] if there is no sound trailer of this container, which is so too if it was cut off; [`Error::Untrusted`].
pub fn trailer_of(end: &[u8], container_len: u64, checks: &Checks) -> Result<Outline> {
    let none = || Error::Truncated { what: "what should be its trailer".into(), end: container_len };
    let tail = end.last_chunk::<TAIL_LEN>().ok_or_else(none)?;
    let from = trailer_len(tail).and_then(|len| end.len().checked_sub(len)).ok_or_else(none)?;
    let (head, rest) = end[from..].split_first_chunk::<HEAD_LEN>().ok_or_else(none)?;
    let (head, at) = (Head::from_bytes(*head), container_len - (end.len() - from) as u64);
    if head.kind() != Kind::Trailer {
        return Err(Error::Trailer { at, why: "another record stands there".into() });
    }
    let trailing = check_trailer(&head, rest, &checks.hash, at)?;
    let root = said_root(&head, &trailing, checks, at)?;
    if let Some(trusted) = &checks.trusted {
        trailing.check(trusted, &checks.hash, &head)?;
    }
    Ok(Outline { root, len: head.len(), frames: head.number(), container_len, signers: trailing.signers() })
}
