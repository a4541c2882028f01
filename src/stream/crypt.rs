//! Encryption of containers: for whom they are (`age`), and how their frames are closed and opened (docs/FORMAT.md).
//!
//! Each frame has a key of its own, made from the container's secret, its header and all that is in the frame: the same key for other
//! bytes, and so the same cipher stream twice, there is not, also if a container is written once more with the same secret.

use std::fmt;
use std::io::{Read, Write};
use std::str::FromStr;

use age::secrecy::ExposeSecret;
use blake3::hazmat::ChainingValue;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

use super::container::error::{Error, Result};
use super::container::{Head, HeaderHash, Kind};
use super::sign::lines;

/// Bytes of an encrypted payload before the data: the kind of the frame within, and its chaining value.
pub const FRONT_LEN: usize = 1 + 32;
/// Bytes of it behind the data.
pub const TAG_LEN: usize = 16;
/// The longest envelope in bytes: that of some five hundred recipients.
pub const MAX_ENVELOPE_LEN: usize = 64 << 10;
/// Bytes of an encrypted root.
pub const ROOT_LEN: usize = 32 + TAG_LEN;

const SECRET_LEN: usize = 32;
const SCHEME: [u8; 2] = 1u16.to_le_bytes();
const DIGESTS: &str = "cowsnap encrypted container 1 digests";
const FRAMES: &str = "cowsnap encrypted container 1 frames";
const ROOT: &str = "cowsnap encrypted container 1 root";
const HEADS: &str = "cowsnap encrypted container 1 heads";

/// Who can read: age's X25519 recipient, `age1…`.
#[derive(Clone)]
pub struct Recipient(age::x25519::Recipient);

/// What reads: age's X25519 identity, `AGE-SECRET-KEY-1…`. It is never shown.
#[derive(Clone)]
pub struct Identity(age::x25519::Identity);

/// A text that is no key of age's. It does not say what the text was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is no key to encrypt or decrypt with: {0}")]
pub struct BadKey(pub &'static str);

impl Recipient {
    /// Reads a file of recipients: one on a line, beside comments (`#`).
    ///
    /// # Errors
    /// [`BadKey`]; none at all.
    pub fn parse_file(text: &str) -> Result<Vec<Self>, BadKey> {
        some(lines(text).map(str::parse).collect::<Result<_, _>>()?)
    }
}

impl FromStr for Recipient {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        if text.to_ascii_uppercase().starts_with("AGE-SECRET-KEY-") {
            return Err(BadKey("it is an identity, which is secret: its recipient, age1…, is needed"));
        }
        text.parse()
            .map(Self)
            .map_err(|_| BadKey("a recipient of age's is needed, age1…; ssh keys and plugins are not known"))
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.to_string())
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Identity {
    /// A new one.
    pub fn generate() -> Self {
        Self(age::x25519::Identity::generate())
    }

    /// For whom is to be encrypted what it reads.
    pub fn recipient(&self) -> Recipient {
        Recipient(self.0.to_public())
    }

    /// As it stands in its file: a secret.
    pub fn to_secret_text(&self) -> String {
        self.0.to_string().expose_secret().to_owned()
    }

    /// Reads a file of identities, as `cowsnap keygen --kind encrypt` and `age-keygen` make it.
    ///
    /// # Errors
    /// [`BadKey`], also for kinds of identities that are not known here; none at all.
    pub fn parse_file(text: &str) -> Result<Vec<Self>, BadKey> {
        some(lines(text).map(str::parse).collect::<Result<_, _>>()?)
    }
}

impl FromStr for Identity {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        if text.starts_with("age-encryption.org/") || text.starts_with("-----BEGIN AGE ENCRYPTED") {
            return Err(BadKey("it is encrypted itself: `age -d` opens it"));
        }
        if text.starts_with("age1") {
            return Err(BadKey(
                "it is a recipient, which is public: its identity, AGE-SECRET-KEY-1…, is needed",
            ));
        }
        text.parse().map(Self).map_err(|_| {
            BadKey("an identity of age's is needed, AGE-SECRET-KEY-1…; ssh keys and plugins are not known")
        })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.recipient())
    }
}

fn some<T>(keys: Vec<T>) -> Result<Vec<T>, BadKey> {
    match keys.is_empty() {
        true => Err(BadKey("there is none in it")),
        false => Ok(keys),
    }
}

/// The secret that a container's frames are encrypted with.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; SECRET_LEN]);

/// What a container is encrypted with: its secret, and the envelope that brings it to its recipients. Who has the secret reads the
/// container; it is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Encryption {
    secret: Secret,
    envelope: Envelope,
}

impl Encryption {
    /// A new secret, for these recipients.
    ///
    /// # Errors
    /// [`Error::Recipients`] if there are none, or too many.
    pub fn to(recipients: &[Recipient]) -> Result<Self> {
        let mut secret = [0; SECRET_LEN];
        SystemRandom::new().fill(&mut secret).expect("Linux gives random numbers");
        let secret = Secret(secret);
        Ok(Self { envelope: Envelope::around(&secret, recipients)?, secret })
    }

    /// Secret and envelope, for whoever must write the same container once more. A secret.
    pub fn to_secret_bytes(&self) -> Vec<u8> {
        [&self.secret.0[..], &self.envelope.0].concat()
    }

    /// Takes what [`Self::to_secret_bytes`] gave: the same stream with the same header makes the same container.
    pub fn from_secret_bytes(bytes: &[u8]) -> Option<Self> {
        let (secret, envelope) = bytes.split_first_chunk::<SECRET_LEN>()?;
        let envelope = Envelope::parse(envelope).ok()?;
        Some(Self { secret: Secret(*secret), envelope })
    }

    /// What stands in the header.
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// What the container with this header hash is written with.
    pub(super) fn keys(&self, hash: &HeaderHash) -> FrameKeys {
        FrameKeys::of(&self.secret, hash)
    }
}

impl fmt::Debug for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encryption({} recipients)", self.envelope.recipients())
    }
}

/// The value of the header's field `encryption`: the scheme, and an age file that holds the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope(Vec<u8>);

impl Envelope {
    fn around(secret: &Secret, recipients: &[Recipient]) -> Result<Self> {
        let failed = |why: String| Error::Recipients { count: recipients.len(), why };
        let all = recipients.iter().map(|recipient| &recipient.0 as &dyn age::Recipient);
        let encryptor = age::Encryptor::with_recipients(all).map_err(|error| failed(error.to_string()))?;
        let mut out = SCHEME.to_vec();
        let written = encryptor.wrap_output(&mut out).and_then(|mut writer| {
            writer.write_all(&secret.0)?;
            writer.finish()
        });
        written.map_err(|error| failed(error.to_string()))?;
        match out.len() > MAX_ENVELOPE_LEN {
            true => Err(failed("they are too many for a container's header".into())),
            false => Ok(Self(out)),
        }
    }

    /// Takes what stands in a header.
    ///
    /// # Errors
    /// [`Error::NeedsNewer`] for another scheme; [`Error::Field`] for a length that none has.
    pub(super) fn parse(value: &[u8]) -> Result<Self> {
        if value.len() < SCHEME.len() || value.len() > MAX_ENVELOPE_LEN {
            return Err(senseless(format!("{} bytes", value.len())));
        }
        if !value.starts_with(&SCHEME) {
            let scheme = u16::from_le_bytes([value[0], value[1]]);
            return Err(Error::NeedsNewer { what: format!("it is encrypted by the scheme {scheme}") });
        }
        Ok(Self(value.to_vec()))
    }

    /// As it stands in the header.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// For how many it is, as its beginning says. age adds lines that are nobody's.
    pub fn recipients(&self) -> usize {
        let lines = self.0[SCHEME.len()..].split(|&byte| byte == b'\n');
        lines
            .take_while(|line| !line.starts_with(b"---"))
            .filter(|line| line.starts_with(b"-> X25519 "))
            .count()
    }

    /// Takes the secret out.
    ///
    /// # Errors
    /// [`Error::Encrypted`] if it is for none of `identities`; [`Error::Field`] if it is no sound age file.
    pub fn open(&self, identities: &[Identity]) -> Result<Secret> {
        let all = identities.iter().map(|identity| &identity.0 as &dyn age::Identity);
        let opened = age::Decryptor::new_buffered(&self.0[SCHEME.len()..])
            .and_then(|decryptor| decryptor.decrypt(all));
        let reader = match opened {
            Ok(reader) => reader,
            Err(age::DecryptError::NoMatchingKeys) => {
                return Err(Error::Encrypted { recipients: self.recipients(), tried: identities.len() });
            }
            Err(error) => return Err(senseless(error.to_string())),
        };
        let mut secret = Vec::new();
        let read = reader.take(SECRET_LEN as u64 + 1).read_to_end(&mut secret);
        read.map_err(|error| senseless(error.to_string()))?;
        secret.try_into().map(Secret).map_err(|_| senseless("there is no key in it".into()))
    }
}

fn senseless(why: String) -> Error {
    Error::Field { part: "header", field: "encryption", why }
}

/// The keys of one container.
#[derive(Clone)]
pub struct FrameKeys {
    digests: [u8; 32],
    frames: [u8; 32],
    root: [u8; 32],
}

/// What was in an encrypted frame, before its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inner {
    /// How the data is stored.
    pub kind: Kind,
    /// The stream's chaining value.
    pub chaining_value: ChainingValue,
}

impl FrameKeys {
    /// Those of the container whose secret and header hash these are.
    pub(super) fn of(secret: &Secret, hash: &HeaderHash) -> Self {
        let bytes = [secret.0, *hash].concat();
        let key = |context| blake3::derive_key(context, &bytes);
        Self { digests: key(DIGESTS), frames: key(FRAMES), root: key(ROOT) }
    }

    /// Encrypts a frame in place: `payload` is room for what stands before the data, the data, and room for the tag. Its head, which still
    /// has to be sealed.
    pub(super) fn close(&self, inner: Inner, number: u64, len: u64, payload: &mut [u8]) -> Head {
        let head = |digest| Head::new(Kind::Encrypted, payload.len(), number, len, digest);
        let data = &payload[FRONT_LEN..payload.len() - TAG_LEN];
        let digest = self.digest(&head(&[0; 32]), &inner, data);
        let head = head(&digest);
        payload[0] = inner.kind.to_byte();
        payload[1..FRONT_LEN].copy_from_slice(&inner.chaining_value);
        let (plain, tag) = payload.split_at_mut(payload.len() - TAG_LEN);
        let sealed = self.cipher(&digest).seal_in_place_separate_tag(
            nonce(number),
            Aad::from(head.sealed_part()),
            plain,
        );
        tag.copy_from_slice(sealed.expect("a frame is not too long for its cipher").as_ref());
        head
    }

    /// Decrypts a frame in place, whose data then stands from [`FRONT_LEN`] to [`TAG_LEN`] before the end; `None` if it is not what was
    /// encrypted.
    pub(super) fn open(&self, head: &Head, payload: &mut [u8]) -> Option<Inner> {
        let cipher = self.cipher(&head.digest());
        let plain =
            cipher.open_in_place(nonce(head.number()), Aad::from(head.sealed_part()), payload).ok()?;
        let (front, _) = plain.split_first_chunk::<FRONT_LEN>()?;
        let chaining_value = front[1..].try_into().expect("32 bytes");
        Some(Inner { kind: Kind::from_byte(front[0]), chaining_value })
    }

    /// What a frame's head shows instead of its chaining value: it depends on all that is in the frame, and tells nothing of it.
    fn digest(&self, head: &Head, inner: &Inner, data: &[u8]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.digests);
        hasher.update(head.before_digest()).update(&[inner.kind.to_byte()]).update(&inner.chaining_value);
        if inner.kind != Kind::Stored {
            hasher.update(data); // Otherwise the chaining value covers it.
        }
        *hasher.finalize().as_bytes()
    }

    fn cipher(&self, digest: &[u8; 32]) -> LessSafeKey {
        cipher(blake3::keyed_hash(&self.frames, digest).as_bytes())
    }

    /// Encrypts the root for the trailer that begins so.
    pub(super) fn close_root(&self, head: &Head, root: &blake3::Hash) -> [u8; ROOT_LEN] {
        let mut out = [0; ROOT_LEN];
        let (plain, tag) = out.split_at_mut(ROOT_LEN - TAG_LEN);
        plain.copy_from_slice(root.as_bytes());
        let cipher = self.root_cipher(head);
        let sealed = cipher.seal_in_place_separate_tag(nonce(0), Aad::from(head.signed_part()), plain);
        tag.copy_from_slice(sealed.expect("a root is not too long for its cipher").as_ref());
        out
    }

    /// Decrypts it; `None` if it is not what was encrypted.
    pub(super) fn open_root(&self, head: &Head, mut closed: [u8; ROOT_LEN]) -> Option<blake3::Hash> {
        let cipher = self.root_cipher(head);
        let plain = cipher.open_in_place(nonce(0), Aad::from(head.signed_part()), &mut closed).ok()?;
        blake3::Hash::from_slice(plain).ok()
    }

    fn root_cipher(&self, head: &Head) -> LessSafeKey {
        cipher(blake3::keyed_hash(&self.root, &head.digest()).as_bytes())
    }
}

fn cipher(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).expect("32 bytes are a key"))
}

fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// The digest in the trailer of an encrypted container: of the header's hash and all frames' heads, which anybody can check.
#[derive(Debug, Clone)]
pub(super) struct Heads(Box<blake3::Hasher>);

impl Heads {
    pub fn new(hash: &HeaderHash) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(HEADS);
        hasher.update(hash);
        Self(Box::new(hasher))
    }

    pub fn push(&mut self, head: &[u8]) {
        self.0.update(head);
    }

    pub fn digest(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}
