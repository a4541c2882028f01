//! ed25519 signatures: of containers ([`super::writer`]), and of whatever else is to be known as its maker's.
//!
//! **Invariant:** bytes and texts only; `exec::keys` reads the files.

use std::fmt;
use std::str::FromStr;

use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::model::Digest;

/// What a secret key begins with as text.
pub const SECRET_PREFIX: &str = "cowsnap-sign-secret-1:";
/// What a public key begins with as text.
pub const PUBLIC_PREFIX: &str = "cowsnap-sign-1:";
/// Bytes of a signature with the key that it is by.
pub const SIGNED_LEN: usize = 32 + SIGNATURE_LEN;

const SIGNATURE_LEN: usize = 64;
const DOMAIN: &str = "cowsnap signature 1\n";

/// A key that signs. It is never shown.
pub struct SigningKey {
    seed: [u8; 32],
    pair: Ed25519KeyPair,
}

impl SigningKey {
    /// A new one, by the system's random numbers.
    ///
    /// # Panics
    /// If the system has none.
    pub fn generate() -> Self {
        let mut seed = [0; 32];
        SystemRandom::new().fill(&mut seed).expect("Linux gives random numbers");
        Self::from_seed(seed)
    }

    /// The key of these 32 secret bytes.
    ///
    /// # Panics
    /// Never: any 32 bytes are a key.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).expect("any 32 bytes are a key");
        Self { seed, pair }
    }

    /// Reads a secret key's file: one key on a line, beside comments (`#`).
    ///
    /// # Errors
    /// [`BadKey`], which never repeats what stands there.
    pub fn parse_file(text: &str) -> Result<Self, BadKey> {
        match &lines(text).collect::<Vec<_>>()[..] {
            [one] => one.parse(),
            others => Err(BadKey(format!("it holds {} keys, not one", others.len()))),
        }
    }

    /// As it stands in its file: a secret.
    pub fn to_secret_text(&self) -> String {
        format!("{SECRET_PREFIX}{}", Digest(self.seed))
    }

    /// What its signatures are checked with.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.pair.public_key().as_ref().try_into().expect("a public key has 32 bytes"))
    }

    /// Signs `bytes` as what `context` says: `cowsnap container 1`. A signature in one context says nothing in another.
    ///
    /// # Panics
    /// If `context` has more than one line.
    pub fn sign(&self, context: &str, bytes: &[u8]) -> Signature {
        self.sign_message(&Message::of(context, bytes))
    }

    /// The same of what was put together piece by piece.
    pub fn sign_message(&self, message: &Message) -> Signature {
        let signature = self.pair.sign(&message.0);
        Signature {
            by: self.public(),
            bytes: signature.as_ref().try_into().expect("a signature has 64 bytes"),
        }
    }
}

impl FromStr for SigningKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        if text.starts_with(PUBLIC_PREFIX) {
            return Err(BadKey("it is a public key: the secret one signs".into()));
        }
        let hex = text.strip_prefix(SECRET_PREFIX);
        let seed = hex.and_then(|hex| hex.parse::<Digest>().ok());
        let why = || BadKey(format!("{SECRET_PREFIX} and 64 hexadecimal digits are needed"));
        seed.map(|seed| Self::from_seed(seed.0)).ok_or_else(why)
    }
}

impl Clone for SigningKey {
    fn clone(&self) -> Self {
        Self::from_seed(self.seed)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public())
    }
}

/// A text that is no key of cowsnap's. It does not say what the text was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is no key to sign or verify with: {0}")]
pub struct BadKey(pub String);

/// What a signature is checked with; as text `cowsnap-sign-1:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// Reads a file of public keys: one on a line, beside comments (`#`).
    ///
    /// # Errors
    /// [`BadKey`] with the number of its line; none at all.
    pub fn parse_file(text: &str) -> Result<Vec<Self>, BadKey> {
        let keys = lines(text).map(str::parse).collect::<Result<Vec<_>, _>>()?;
        match keys.is_empty() {
            true => Err(BadKey("it holds none".into())),
            false => Ok(keys),
        }
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{PUBLIC_PREFIX}{}", Digest(self.0)))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        if text.starts_with(SECRET_PREFIX) {
            return Err(BadKey(
                "it is a secret key: the public one verifies, and the secret one stays where it signs".into(),
            ));
        }
        let hex = text.strip_prefix(PUBLIC_PREFIX);
        let key = hex.and_then(|hex| hex.parse::<Digest>().ok());
        let why = || BadKey(format!("{PUBLIC_PREFIX} and 64 hexadecimal digits are needed"));
        key.map(|key| Self(key.0)).ok_or_else(why)
    }
}

impl TryFrom<String> for PublicKey {
    type Error = BadKey;
    fn try_from(text: String) -> Result<Self, BadKey> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> String {
        key.to_string()
    }
}

/// A signature and whose it says it is; as text the public key, a space, and 128 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature {
    /// By which key.
    pub by: PublicKey,
    /// The signature itself.
    pub bytes: [u8; SIGNATURE_LEN],
}

impl Signature {
    /// Whether its key signed these bytes in this context.
    pub fn is_of(&self, context: &str, bytes: &[u8]) -> bool {
        self.is_of_message(&Message::of(context, bytes))
    }

    fn is_of_message(&self, message: &Message) -> bool {
        UnparsedPublicKey::new(&ED25519, self.by.0).verify(&message.0, &self.bytes).is_ok()
    }

    /// As it stands in a container: the key, then the signature.
    pub fn to_bytes(&self) -> [u8; SIGNED_LEN] {
        let mut out = [0; SIGNED_LEN];
        out[..32].copy_from_slice(&self.by.0);
        out[32..].copy_from_slice(&self.bytes);
        out
    }

    /// Takes what [`Self::to_bytes`] made.
    pub fn from_bytes(bytes: &[u8; SIGNED_LEN]) -> Self {
        let (key, signature) = bytes.split_at(32);
        Self {
            by: PublicKey(key.try_into().expect("32 bytes")),
            bytes: signature.try_into().expect("64 bytes"),
        }
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.by)?;
        self.bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Signature {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        let bad = || BadKey("a signature is a public key, a space, and 128 hexadecimal digits".into());
        let (by, hex) = text.split_once(' ').ok_or_else(bad)?;
        let (first, last) = hex.split_at_checked(64).ok_or_else(bad)?;
        let half = |hex: &str| hex.parse::<Digest>().map_err(|_| bad());
        let bytes = [half(first)?.0, half(last)?.0].concat();
        Ok(Self { by: by.parse()?, bytes: bytes.try_into().expect("twice 32 bytes") })
    }
}

/// The keys of which one must have signed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trusted(Vec<PublicKey>);

/// Why something is not believed to be whose it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Untrusted {
    /// Nobody signed it.
    #[error("it is not signed")]
    Unsigned,
    /// Others signed it.
    #[error("none of the keys that are trusted signed it, but {}", listed(.by))]
    Others {
        /// Who, by what it says.
        by: Vec<PublicKey>,
    },
    /// A signature does not match.
    #[error("the signature by {by} does not match it")]
    Forged {
        /// Whose it says it is.
        by: PublicKey,
    },
}

fn listed(keys: &[PublicKey]) -> String {
    let all: Vec<_> = keys.iter().map(ToString::to_string).collect();
    all.join(", ")
}

impl Trusted {
    /// These.
    pub fn new(keys: impl IntoIterator<Item = PublicKey>) -> Self {
        Self(keys.into_iter().collect())
    }

    /// Those who are trusted.
    pub fn keys(&self) -> &[PublicKey] {
        &self.0
    }

    /// Who of the trusted signed `bytes` in `context`. Signatures by others are not looked at.
    ///
    /// # Errors
    /// [`Untrusted`] if none did, or if a signature that says it is of one is not.
    pub fn check(
        &self,
        context: &str,
        bytes: &[u8],
        signatures: &[Signature],
    ) -> Result<PublicKey, Untrusted> {
        self.check_message(&Message::of(context, bytes), signatures)
    }

    /// The same of what was put together piece by piece.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn check_message(&self, message: &Message, signatures: &[Signature]) -> Result<PublicKey, Untrusted> {
        let mut of_trusted = signatures.iter().filter(|signature| self.0.contains(&signature.by));
        let Some(first) = of_trusted.next() else {
            return Err(match signatures.is_empty() {
                true => Untrusted::Unsigned,
                false => Untrusted::Others { by: signatures.iter().map(|signature| signature.by).collect() },
            });
        };
        match [first].into_iter().chain(of_trusted).find(|signature| !signature.is_of_message(message)) {
            Some(forged) => Err(Untrusted::Forged { by: forged.by }),
            None => Ok(first.by),
        }
    }
}

/// What is signed: the domain, the context, and the bytes, each on lines of its own. It is in memory once, however long it is.
pub struct Message(Vec<u8>);

impl Message {
    /// Without any bytes yet, with room for so many.
    ///
    /// # Panics
    /// If `context` has more than one line.
    pub fn new(context: &str, room: usize) -> Self {
        assert!(!context.contains('\n'), "a context is one line");
        let mut message = Vec::with_capacity(DOMAIN.len() + context.len() + 1 + room);
        [DOMAIN, context, "\n"].iter().for_each(|piece| message.extend_from_slice(piece.as_bytes()));
        Self(message)
    }

    /// Adds bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn of(context: &str, bytes: &[u8]) -> Self {
        let mut message = Self::new(context, bytes.len());
        message.add(bytes);
        message
    }
}

/// The lines of a key file without comments and blank ones.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SigningKey {
        SigningKey::from_seed([byte; 32])
    }

    #[test]
    fn what_was_signed_verifies_and_nothing_else_does() {
        let signature = key(1).sign("a", b"bytes");
        assert!(signature.is_of("a", b"bytes"));
        assert!(!signature.is_of("b", b"bytes"), "another context");
        assert!(!signature.is_of("a", b"byteS"), "other bytes");
        assert!(!Signature { by: key(2).public(), ..signature }.is_of("a", b"bytes"), "another key");
        let all = signature.to_bytes();
        assert_eq!(Signature::from_bytes(&all), signature);
        for bit in 0..8 * SIGNED_LEN {
            let mut flipped = all;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!Signature::from_bytes(&flipped).is_of("a", b"bytes"), "bit {bit}");
        }
    }

    /// The first vector of RFC 8032 names the key; the signature is of the message as docs/FORMAT.md says it.
    #[test]
    fn keys_are_those_of_rfc_8032() {
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        let key: SigningKey = format!("{SECRET_PREFIX}{seed}").parse().unwrap();
        assert_eq!(key.public().to_string(), format!("{PUBLIC_PREFIX}{public}"));
        let signature = key.sign("x", b"y");
        let whole = UnparsedPublicKey::new(&ED25519, key.public().0);
        assert!(whole.verify(b"cowsnap signature 1\nx\ny", &signature.bytes).is_ok());
    }

    #[test]
    fn keys_and_signatures_are_read_as_they_are_written() {
        let (secret, public) = (key(7).to_secret_text(), key(7).public());
        assert_eq!(SigningKey::parse_file(&format!("# mine\n\n{secret}\n")).unwrap().public(), public);
        let file = format!("# ours\n{public}\n  {}  \n", key(8).public());
        assert_eq!(PublicKey::parse_file(&file), Ok(vec![public, key(8).public()]));
        let signature = key(7).sign("a", b"b");
        assert_eq!(signature.to_string().parse(), Ok(signature));
        assert_eq!(serde_json::from_str::<PublicKey>(&format!("{:?}", public.to_string())).unwrap(), public);
        assert!(!format!("{:?}", key(7)).contains(&secret[SECRET_PREFIX.len()..]), "a secret is not shown");
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_repeated() {
        let (secret, public) = (key(7).to_secret_text(), key(7).public().to_string());
        for bad in ["", "x", &public, &secret[1..], &secret[..secret.len() - 1], &format!("{secret}0")] {
            let error = bad.parse::<SigningKey>().unwrap_err().to_string();
            assert!(!error.contains(&secret[30..60]), "{error}");
        }
        for bad in ["", &secret, &public.to_uppercase(), &format!("{public}é"), &public[..70]] {
            assert!(bad.parse::<PublicKey>().is_err(), "{bad}");
        }
        assert!(SigningKey::parse_file(&format!("{secret}\n{secret}")).is_err());
        assert!(PublicKey::parse_file("# none\n").is_err());
        for bad in ["", &public, &format!("{public} 00"), &format!("{public} {}", "é".repeat(64))] {
            assert!(bad.parse::<Signature>().is_err(), "{bad}");
        }
    }

    #[test]
    fn one_of_the_trusted_must_have_signed_and_none_may_be_forged() {
        let trusted = Trusted::new([key(1).public(), key(2).public()]);
        let check = |signatures: &[Signature]| trusted.check("a", b"x", signatures);
        let (one, two, other) = (key(1).sign("a", b"x"), key(2).sign("a", b"x"), key(3).sign("a", b"x"));
        assert_eq!(check(&[one]), Ok(key(1).public()));
        assert_eq!(check(&[other, two]), Ok(key(2).public()));
        assert_eq!(check(&[]), Err(Untrusted::Unsigned));
        assert_eq!(check(&[other]), Err(Untrusted::Others { by: vec![other.by] }));
        let forged = key(2).sign("a", b"y");
        assert_eq!(check(&[one, forged]), Err(Untrusted::Forged { by: forged.by }));
        assert_eq!(Trusted::default().check("a", b"x", &[one]), Err(Untrusted::Others { by: vec![one.by] }));
    }
}
