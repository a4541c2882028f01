//! What a container says of a ZFS stream beyond what it says of any: enough to refuse it before its first byte is applied.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::fields::Take;

/// The longest text that says which OpenZFS made the stream, in bytes.
pub const MAX_RELEASE_LEN: usize = 64;

const RESUMES: u32 = 1 << 4;
const FILESYSTEM: u32 = 2; // as in the stream's BEGIN record
const VOLUME: u32 = 3;

/// What a ZFS stream is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZfsStream {
    /// What kind of dataset it is of.
    pub kind: ZfsKind,
    /// How it was asked for: the same for all streams of a chain.
    pub flags: ZfsFlags,
    /// The feature bits of its BEGIN record.
    pub features: u64,
    /// It is the rest of a stream that was broken off; from here on.
    pub resumes: Option<ResumePoint>,
    /// The release of OpenZFS that made it, where that is known; otherwise empty. At most 64 bytes.
    pub release: String,
}

/// What kind of dataset a ZFS stream is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ZfsKind {
    /// Files.
    Filesystem,
    /// A block device.
    Volume,
}

impl fmt::Display for ZfsKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Filesystem => "filesystem",
            Self::Volume => "volume",
        })
    }
}

/// Where in a dataset a stream goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumePoint {
    /// The object's number.
    pub object: u64,
    /// The offset in it, in bytes.
    pub offset: u64,
}

/// How a ZFS stream is asked for. All streams of a chain must be asked for alike: to change it within one loses data
/// (large blocks), or is refused by the kernel too late (raw).
///
/// As text: `raw+large-blocks+embedded+compressed`, each only if it is so; `plain` if none is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ZfsFlags {
    /// Blocks come as they lie on disk, encrypted: neither side needs the key.
    pub raw: bool,
    /// Blocks of more than 128 KiB come whole.
    pub large_blocks: bool,
    /// Blocks that fit into the pointer to them come so. Not onto an encrypted dataset.
    pub embedded: bool,
    /// Blocks come compressed as they lie on disk.
    pub compressed: bool,
}

impl ZfsFlags {
    const ALL: Self = Self { raw: true, large_blocks: true, embedded: true, compressed: true };

    fn words(self) -> [(&'static str, u32, bool); 4] {
        [
            ("raw", 1 << 3, self.raw),
            ("large-blocks", 1 << 1, self.large_blocks),
            ("embedded", 1, self.embedded),
            ("compressed", 1 << 2, self.compressed),
        ]
    }

    fn bits(self) -> u32 {
        self.words().into_iter().filter(|(.., is_set)| *is_set).map(|(_, bit, _)| bit).sum()
    }

    fn from_bits(bits: u32) -> Self {
        let has = |wanted: &str| {
            Self::ALL.words().into_iter().any(|(word, bit, _)| word == wanted && bits & bit != 0)
        };
        Self {
            raw: has("raw"),
            large_blocks: has("large-blocks"),
            embedded: has("embedded"),
            compressed: has("compressed"),
        }
    }
}

impl fmt::Display for ZfsFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> =
            self.words().into_iter().filter_map(|(word, _, is_set)| is_set.then_some(word)).collect();
        f.pad(&if words.is_empty() { "plain".into() } else { words.join("+") })
    }
}

/// A text that names no flags of a ZFS stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not what a ZFS stream can be: plain, or of raw, large-blocks, embedded, compressed with + between them"
)]
pub struct BadFlags(pub String);

impl FromStr for ZfsFlags {
    type Err = BadFlags;

    fn from_str(text: &str) -> Result<Self, BadFlags> {
        if text == "plain" {
            return Ok(Self::default());
        }
        let mut bits = 0;
        for word in text.split('+') {
            let known = Self::ALL.words().into_iter().find(|(known, ..)| *known == word);
            bits |= known.ok_or_else(|| BadFlags(text.into()))?.1;
        }
        Ok(Self::from_bits(bits))
    }
}

impl TryFrom<String> for ZfsFlags {
    type Error = BadFlags;
    fn try_from(text: String) -> Result<Self, BadFlags> {
        text.parse()
    }
}

impl From<ZfsFlags> for String {
    fn from(flags: ZfsFlags) -> String {
        flags.to_string()
    }
}

impl ZfsStream {
    /// As it stands in the header.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>> {
        if self.release.len() > MAX_RELEASE_LEN {
            let (len, max) = (self.release.len(), MAX_RELEASE_LEN);
            return Err(Error::TooLong { field: "OpenZFS release", len, max });
        }
        let kind = match self.kind {
            ZfsKind::Filesystem => FILESYSTEM,
            ZfsKind::Volume => VOLUME,
        };
        let flags = self.flags.bits() | if self.resumes.is_some() { RESUMES } else { 0 };
        let at = self.resumes.unwrap_or(ResumePoint { object: 0, offset: 0 });
        let mut out = Vec::new();
        out.extend(kind.to_le_bytes());
        out.extend(flags.to_le_bytes());
        for number in [self.features, at.object, at.offset] {
            out.extend(number.to_le_bytes());
        }
        out.extend(self.release.as_bytes());
        Ok(out)
    }

    /// Reads what [`Self::to_bytes`] wrote.
    pub(super) fn from_bytes(mut value: Take) -> Result<Self> {
        const FIELD: &str = "zfs";
        let kind = match u32::from_le_bytes(value.array(FIELD)?) {
            FILESYSTEM => ZfsKind::Filesystem,
            VOLUME => ZfsKind::Volume,
            other => {
                return Err(Error::NeedsNewer { what: format!("its ZFS stream is of the type {other}") });
            }
        };
        let flags = u32::from_le_bytes(value.array(FIELD)?);
        if flags & !(ZfsFlags::ALL.bits() | RESUMES) != 0 {
            return Err(Error::NeedsNewer { what: format!("its ZFS stream has the flags {flags:#x}") });
        }
        let mut number = || Ok::<_, Error>(u64::from_le_bytes(value.array(FIELD)?));
        let (features, object, offset) = (number()?, number()?, number()?);
        let resumes = (flags & RESUMES != 0).then_some(ResumePoint { object, offset });
        if resumes.is_none() && (object, offset) != (0, 0) {
            return Err(value.bad(FIELD, "it says where it goes on, but not that it does"));
        }
        let release =
            if value.is_empty() { String::new() } else { value.all_text(FIELD, MAX_RELEASE_LEN)? };
        Ok(Self { kind, flags: ZfsFlags::from_bits(flags), features, resumes, release })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_as_they_are_written_each_of_the_sixteen() {
        for n in 0..16u32 {
            let flags = ZfsFlags {
                raw: n & 1 != 0,
                large_blocks: n & 2 != 0,
                embedded: n & 4 != 0,
                compressed: n & 8 != 0,
            };
            assert_eq!(flags.to_string().parse(), Ok(flags));
            assert_eq!(ZfsFlags::from_bits(flags.bits()), flags);
        }
        assert_eq!(ZfsFlags::ALL.to_string(), "raw+large-blocks+embedded+compressed");
        assert_eq!(ZfsFlags::default().to_string(), "plain");
        for bad in ["", "raw+", "Raw", "plain+raw", "large_blocks"] {
            assert_eq!(bad.parse::<ZfsFlags>(), Err(BadFlags(bad.into())));
        }
    }

    fn stream() -> ZfsStream {
        ZfsStream {
            kind: ZfsKind::Volume,
            flags: ZfsFlags { large_blocks: true, ..ZfsFlags::default() },
            features: 0x48_0004,
            resumes: Some(ResumePoint { object: 7, offset: 1 << 40 }),
            release: "2.1.11-1".into(),
        }
    }

    #[test]
    fn the_bytes_are_those_that_the_format_says() {
        let bytes = stream().to_bytes().expect("short");
        assert_eq!(bytes[..8], [3, 0, 0, 0, 0b1_0010, 0, 0, 0]);
        assert_eq!(bytes[8..16], 0x48_0004u64.to_le_bytes());
        assert_eq!(bytes[16..24], 7u64.to_le_bytes());
        assert_eq!(bytes[24..32], (1u64 << 40).to_le_bytes());
        assert_eq!(&bytes[32..], b"2.1.11-1");
        assert_eq!(ZfsStream::from_bytes(Take::new("header", &bytes)).expect("read"), stream());
        let short = ZfsStream { resumes: None, release: String::new(), ..stream() };
        let bytes = short.to_bytes().expect("short");
        assert_eq!(bytes.len(), 32);
        assert_eq!(ZfsStream::from_bytes(Take::new("header", &bytes)).expect("read"), short);
    }

    #[test]
    fn what_is_not_known_needs_a_newer_reader_and_what_makes_no_sense_is_said() {
        let sound = stream().to_bytes().expect("short");
        let changed = |at: usize, byte: u8| {
            let mut bytes = sound.clone();
            bytes[at] = byte;
            ZfsStream::from_bytes(Take::new("header", &bytes))
        };
        for (at, byte) in [(0, 1), (0, 4), (3, 1), (4, 0b11_0010), (7, 1)] {
            let error = changed(at, byte).expect_err("unknown");
            assert!(matches!(error, Error::NeedsNewer { .. }), "{error}");
        }
        let error = changed(4, 0b0_0010).expect_err("a place to go on at, in a stream that begins");
        assert!(matches!(error, Error::Field { .. }), "{error}");
        assert!(ZfsStream::from_bytes(Take::new("header", &sound[..31])).is_err());
        let long = ZfsStream { release: "x".repeat(65), ..stream() };
        assert!(matches!(long.to_bytes(), Err(Error::TooLong { len: 65, .. })));
    }
}
