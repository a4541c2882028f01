//! Keys of what is in an archive: see `docs/FORMAT-archive.md`.

use std::fmt;

use jiff::Timestamp;

use crate::model::digests::Digest;
use crate::model::{Guid, HoldTag, SnapshotName, VersionRef};

mod claim;

pub use claim::{Claim, Use};

/// How long every part of a container is but the last, in bytes.
pub const PART_LEN: u64 = 16 << 20;
/// The longest name that fits into a key, as it stands there: a key's parts have at most 255 bytes.
pub const MAX_NAME: usize = 151;
/// The longest manifest that is read, in bytes.
pub const MAX_MANIFEST: u64 = 300 << 20;
/// The most parts that a container is cut into: a manifest has room for them, whatever else it says.
pub const MAX_PARTS: u32 = 4 << 20;
/// The longest container, in bytes: 64 TiB.
pub const MAX_LEN: u64 = MAX_PARTS as u64 * PART_LEN;

/// The key of what says what an archive is.
pub const ARCHIVE: &str = "archive.json";
/// Below which manifests are.
pub const VERSIONS: &str = "versions/";
/// Below which parts are.
pub const PARTS: &str = "parts/";
/// Below which holds are.
pub const HOLDS: &str = "holds/";
/// Below which is who is at work.
pub const CLAIMS: &str = "claims/";

/// A way in which a version is in an archive: all that its manifest's key tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Which version.
    pub version: VersionRef,
    /// What it builds upon; `None` if it is full.
    pub base: Option<Guid>,
    /// When it was made, by its source's clock.
    pub created: Timestamp,
    /// How long its container is, in bytes.
    pub len: u64,
}

/// Where the parts of a container are: those of one version on one base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group {
    /// The version.
    pub guid: Guid,
    /// What it builds upon; `None` if it is full.
    pub base: Option<Guid>,
}

/// A part of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Part {
    /// Of which container.
    pub group: Group,
    /// Its place in it, from 0.
    pub number: u32,
    /// The blake3 of its bytes.
    pub digest: Digest,
}

/// Who keeps a version from being destroyed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hold {
    /// Which version.
    pub guid: Guid,
    /// By which tag.
    pub tag: HoldTag,
}

/// A key that says nothing: of another format, or of another program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no key of an archive of version 1")]
pub struct NoKey(pub String);

impl Stored {
    /// Whether a version of that name can be stored.
    pub fn has_room_for(name: &SnapshotName) -> bool {
        escaped(name.as_str()).len() <= MAX_NAME
    }

    /// Where its parts are.
    pub fn group(&self) -> Group {
        Group { guid: self.version.guid, base: self.base }
    }

    /// How many parts its container has.
    pub fn parts(&self) -> u64 {
        self.len.div_ceil(PART_LEN).max(1)
    }

    /// Reads the key of a manifest.
    ///
    /// # Errors
    /// [`NoKey`] if it is none, or not written as this program writes it.
    pub fn parse(key: &str) -> Result<Self, NoKey> {
        Self::read(key).filter(|stored| stored.to_string() == key).ok_or_else(|| NoKey(key.into()))
    }

    fn read(key: &str) -> Option<Self> {
        let mut rest = key.strip_prefix(VERSIONS)?;
        let mut field = |len: usize| {
            let (field, more) = rest.split_at_checked(len)?;
            rest = more.strip_prefix('-')?;
            Some(field)
        };
        let created = Timestamp::from_nanosecond(field(20)?.parse().ok()?).ok()?;
        let guid = field(32)?.parse().ok()?;
        let base: Guid = field(32)?.parse().ok()?;
        let len = u64::from_str_radix(field(16)?, 16).ok()?;
        let name: SnapshotName = unescaped(rest).parse().ok()?;
        Some(Self { version: VersionRef { guid, name }, base: some(base), created, len })
    }
}

/// The key of its manifest.
impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.created.as_nanosecond().max(0);
        let name = escaped(self.version.name.as_str());
        let (guid, base) = (Digits(self.version.guid), Digits(self.base.unwrap_or(Guid::NIL)));
        write!(f, "{VERSIONS}{time:020}-{guid}-{base}-{:016x}-{name}", self.len)
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PARTS}{}.{}/", Digits(self.guid), Digits(self.base.unwrap_or(Guid::NIL)))
    }
}

impl Part {
    /// Reads the key of a part.
    ///
    /// # Errors
    /// [`NoKey`] if it is none, or not written as this program writes it.
    pub fn parse(key: &str) -> Result<Self, NoKey> {
        let read = || {
            let (group, part) = key.strip_prefix(PARTS)?.split_once('/')?;
            let (guid, base) = group.split_once('.')?;
            let (number, digest) = part.split_once('-')?;
            let group = Group { guid: guid.parse().ok()?, base: some(base.parse().ok()?) };
            Some(Self { group, number: number.parse().ok()?, digest: digest.parse().ok()? })
        };
        read().filter(|part| part.to_string() == key).ok_or_else(|| NoKey(key.into()))
    }
}

/// Its key.
impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:06}-{}", self.group, self.number, self.digest)
    }
}

impl Hold {
    /// Reads the key of a hold.
    ///
    /// # Errors
    /// [`NoKey`] if it is none, or not written as this program writes it.
    pub fn parse(key: &str) -> Result<Self, NoKey> {
        let read = || {
            let (guid, tag) = key.strip_prefix(HOLDS)?.split_once('/')?;
            Some(Self { guid: guid.parse().ok()?, tag: unescaped(tag).parse().ok()? })
        };
        read().filter(|hold| hold.to_string() == key).ok_or_else(|| NoKey(key.into()))
    }
}

/// Its key.
impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{HOLDS}{}/{}", Digits(self.guid), escaped(self.tag.as_str()))
    }
}

/// A name as it stands in a key: never with a dot at its end, which Azure would take away.
fn escaped(name: &str) -> String {
    let mut text = name.replace(' ', "!_").replace(':', "!.");
    if text.ends_with('.') {
        text.push('!');
    }
    text
}

fn unescaped(name: &str) -> String {
    let name = name.strip_suffix('!').filter(|name| name.ends_with('.')).unwrap_or(name);
    name.replace("!_", " ").replace("!.", ":")
}

fn some(guid: Guid) -> Option<Guid> {
    Some(guid).filter(|guid| !guid.is_nil())
}

/// A guid in digits alone.
struct Digits(Guid);

impl fmt::Display for Digits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// How much of an archive is read to verify it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The manifests; of parts, that they are there and as long as they should be.
    Quick,
    /// Beside that, one part in so many: another one each run, so that all are read within so many runs.
    Sample(u64),
    /// Every byte.
    Full,
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = "versions/01732292700000000005-00112233445566778899aabbccddeeff-\
                        00000000000000000000000000000000-0000000008000001-daily!_2!.a.b-c";

    #[test]
    fn a_key_says_what_a_version_is_and_the_same_says_the_same_key() {
        let stored = Stored::parse(FULL).unwrap();
        assert_eq!(stored.version.name.as_str(), "daily 2:a.b-c");
        assert_eq!(stored.version.guid.to_string(), "00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!((stored.base, stored.len, stored.parts()), (None, 0x800_0001, 9));
        assert_eq!(stored.created.to_string(), "2024-11-22T16:25:00.000000005Z");
        assert_eq!(stored.to_string(), FULL);
        let base = Some(Guid([0xab; 16]));
        let key = Stored { base, ..stored.clone() }.to_string();
        assert!(key.contains(&format!("-{}-", "ab".repeat(16))), "{key}");
        assert_eq!(Stored::parse(&key), Ok(Stored { base, ..stored.clone() }));
        for (name, written) in
            [("a.", "-a.!"), ("a:", "-a!.!"), ("a.:", "-a.!.!"), ("a. ", "-a.!_"), ("...", "-...!")]
        {
            let version = VersionRef { name: name.parse().unwrap(), ..stored.version.clone() };
            let key = Stored { version, ..stored.clone() }.to_string();
            assert!(key.ends_with(written), "{key}");
            assert_eq!(Stored::parse(&key).unwrap().version.name.as_str(), name);
        }
        let old = Stored { created: Timestamp::from_second(-5).unwrap(), len: 0, ..stored };
        let read = Stored::parse(&old.to_string()).unwrap();
        assert_eq!((read.created, read.parts()), (Timestamp::UNIX_EPOCH, 1));
    }

    #[test]
    fn what_is_no_key_is_none() {
        let wrong = [
            "",
            "versions/",
            "other/01732292700000000005-x",
            &FULL.replace("!_", " "),
            &FULL.replace("aabb", "AABB"),
            &FULL.replace("0000000008000001", "+000000008000001"),
            &FULL.replace("/0173", "/+173"),
            &FULL.replace("-daily", "daily"),
            &FULL.replace("daily", "d/aily"),
            &FULL.replace("!_", "!x"),
            &FULL[..90],
        ];
        for key in wrong {
            assert_eq!(Stored::parse(key), Err(NoKey(key.into())));
        }
        // Whatever a store lists is read without a panic, also if it is cut within a character.
        for end in (0..FULL.len()).filter(|end| FULL.is_char_boundary(*end)) {
            let _ = Stored::parse(&format!("{}é", &FULL[..end]));
        }
    }

    #[test]
    fn a_part_is_found_by_its_key() {
        let group = Group { guid: Guid([1; 16]), base: Some(Guid([2; 16])) };
        let digest = blake3::hash(b"a part").to_hex().parse().unwrap();
        let part = Part { group, number: 12, digest };
        let key = part.to_string();
        let (one, two) = ("01".repeat(16), "02".repeat(16));
        assert_eq!(key, format!("parts/{one}.{two}/000012-{}", blake3::hash(b"a part").to_hex()));
        assert_eq!(Part::parse(&key), Ok(part));
        let full = Part { group: Group { base: None, ..group }, ..part };
        assert_eq!(Part::parse(&full.to_string()), Ok(full));
        for wrong in
            [&key[1..], &key.replace("/000012", "/12"), &key.replace('.', "/"), &key[..key.len() - 1]]
        {
            assert_eq!(Part::parse(wrong), Err(NoKey(wrong.into())));
        }
    }

    #[test]
    fn a_hold_is_found_by_its_key() {
        let hold = Hold { guid: Guid([0xab; 16]), tag: "to be:kept".parse().unwrap() };
        let key = hold.to_string();
        assert_eq!(key, format!("holds/{}/to!_be!.kept", "ab".repeat(16)));
        assert_eq!(Hold::parse(&key), Ok(hold));
        for wrong in ["holds/", &key[1..], &key.replace("!_", " "), &key.replace("ab/", "ab"), &key[..39]] {
            assert_eq!(Hold::parse(wrong), Err(NoKey(wrong.into())));
        }
    }
}
