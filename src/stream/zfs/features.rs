//! What a receiver must know of to receive a stream.

use std::fmt;

/// One feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Feature {
    /// Repeated blocks are sent once; no receiver since 2.0 takes it.
    Dedup = 0,
    /// As above, with the blocks' properties.
    DedupProps = 1,
    /// Spill blocks hold system attributes.
    SaSpill = 2,
    /// Small blocks as they lie in their pointers.
    EmbedData = 16,
    /// Data may be compressed with lz4.
    Lz4 = 17,
    /// Blocks over 128 KiB.
    LargeBlocks = 19,
    /// It goes on where an interrupted one stopped.
    Resuming = 20,
    /// Some of the data is left out.
    Redacted = 21,
    /// Blocks are as compressed as they lie on disk.
    Compressed = 22,
    /// Dnodes over 512 bytes.
    LargeDnode = 23,
    /// Blocks are as they lie on disk, encrypted ones too.
    Raw = 24,
    /// Data may be compressed with zstd.
    Zstd = 25,
    /// Holds come with it.
    Holds = 26,
    /// Large blocks although the base was sent without.
    SwitchToLargeBlocks = 27,
    /// Names over 255 bytes.
    LongName = 28,
    /// Small directories in blocks over 128 KiB.
    LargeMicrozap = 29,
}

const ALL: [(Feature, &str); 16] = [
    (Feature::Dedup, "dedup"),
    (Feature::DedupProps, "dedup_props"),
    (Feature::SaSpill, "sa_spill"),
    (Feature::EmbedData, "embed_data"),
    (Feature::Lz4, "lz4"),
    (Feature::LargeBlocks, "large_blocks"),
    (Feature::Resuming, "resuming"),
    (Feature::Redacted, "redacted"),
    (Feature::Compressed, "compressed"),
    (Feature::LargeDnode, "large_dnode"),
    (Feature::Raw, "raw"),
    (Feature::Zstd, "zstd"),
    (Feature::Holds, "holds"),
    (Feature::SwitchToLargeBlocks, "switch_to_large_blocks"),
    (Feature::LongName, "longname"),
    (Feature::LargeMicrozap, "large_microzap"),
];

/// A set of features, with the bits that have no name here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features(u64);

impl Features {
    const N_BITS: u32 = 62;

    /// The set that a BEGIN record's `versioninfo` holds, above the two bits of its header type. ZFS gives 56 bits to
    /// features and reserves the eight above them: those count as unknown features.
    pub(super) fn from_version_info(number: u64) -> Self {
        Self(number >> 2)
    }

    /// The set that [`Self::bits`] gave. The two highest bits are no features.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits & (u64::MAX >> (64 - Self::N_BITS)))
    }

    /// What [`Self::from_version_info`] reads, for a single stream.
    pub(super) fn to_version_info(self) -> u64 {
        self.0 << 2 | 1
    }

    /// Whether `feature` is in the set.
    pub fn has(self, feature: Feature) -> bool {
        self.0 & (1 << feature as u8) != 0
    }

    /// The set with `feature` in it.
    #[must_use]
    pub fn with(self, feature: Feature) -> Self {
        Self(self.0 | 1 << feature as u8)
    }

    /// The bits, as `zstream dump` prints them.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// The names, in the bits' order; `bit 30` for one that has none here.
    pub fn names(self) -> Vec<String> {
        self.numbers().map(name).collect()
    }

    /// The names of those that no known receiver takes: deduplicated streams, and what is not known.
    pub fn not_receivable(self) -> Vec<String> {
        let refused = |&bit: &u32| match known(bit) {
            Some((Feature::Dedup | Feature::DedupProps, _)) | None => true,
            Some(_) => false,
        };
        self.numbers().filter(refused).map(name).collect()
    }

    fn numbers(self) -> impl Iterator<Item = u32> {
        (0..Self::N_BITS).filter(move |bit| self.0 & (1 << bit) != 0)
    }
}

fn known(bit: u32) -> Option<&'static (Feature, &'static str)> {
    ALL.iter().find(|(feature, _)| *feature as u32 == bit)
}

fn name(bit: u32) -> String {
    known(bit).map_or_else(|| format!("bit {bit}"), |(_, name)| (*name).to_owned())
}

/// The names with commas between them; `none` if there is none.
impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.names() {
            names if names.is_empty() => f.write_str("none"),
            names => f.write_str(&names.join(", ")),
        }
    }
}
