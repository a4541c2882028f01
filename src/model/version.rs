//! Versions: what a snapshot or a bookmark is, apart from how it is called.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::name::SnapshotName;

/// The identity of a version wherever it is: the same snapshot has the same guid at its source and at each target.
///
/// btrfs: the received uuid if there is one, else the uuid. ZFS: the 64-bit guid in the last eight bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Guid(pub [u8; 16]);

impl Guid {
    /// Says that there is none.
    pub const NIL: Self = Self([0; 16]);

    /// Whether this stands for "none".
    pub fn is_nil(&self) -> bool {
        *self == Self::NIL
    }

    /// That of a ZFS snapshot or bookmark.
    pub fn of_zfs(guid: u64) -> Self {
        Self(u128::from(guid).to_be_bytes())
    }

    /// What ZFS calls it; `None` for one that can not be of ZFS.
    pub fn as_zfs(&self) -> Option<u64> {
        u64::try_from(u128::from_be_bytes(self.0)).ok().filter(|&guid| guid != 0)
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, byte) in self.0.iter().enumerate() {
            if matches!(n, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// A text that is no guid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no guid: 32 hexadecimal digits are needed, hyphens are ignored")]
pub struct BadGuid(pub String);

impl FromStr for Guid {
    type Err = BadGuid;

    fn from_str(text: &str) -> Result<Self, BadGuid> {
        let digits: Vec<u32> = text
            .chars()
            .filter(|&c| c != '-')
            .map(|c| c.to_digit(16))
            .collect::<Option<_>>()
            .ok_or_else(|| BadGuid(text.into()))?;
        if digits.len() != 32 {
            return Err(BadGuid(text.into()));
        }
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = (pair[0] << 4 | pair[1]) as u8;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Guid {
    type Error = BadGuid;
    fn try_from(text: String) -> Result<Self, BadGuid> {
        text.parse()
    }
}

impl From<Guid> for String {
    fn from(guid: Guid) -> String {
        guid.to_string()
    }
}

/// A name with the identity that it had when it was read. Acting on one whose name has since been reused is an error.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VersionRef {
    /// What it is.
    pub guid: Guid,
    /// How it is called.
    pub name: SnapshotName,
}

impl fmt::Display for VersionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{} ({})", self.name, self.guid)
    }
}

/// What kind of version it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VersionKind {
    /// It has content: can be sent, cloned, mounted.
    Snapshot,
    /// It can only be the base of an increment (ZFS).
    Bookmark,
}

/// One version of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Name and identity.
    #[serde(flatten)]
    pub id: VersionRef,
    /// Snapshot or bookmark.
    pub kind: VersionKind,
    /// The order of creation where it lives: btrfs generation at creation, ZFS createtxg. Never a wall clock.
    pub order: u64,
    /// When it was made, by its source's clock. To show and to fill calendar buckets, never to order.
    pub created: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "00112233-4455-6677-8899-aabbccddeeff";

    #[test]
    fn a_guid_is_printed_as_a_uuid_and_read_with_or_without_hyphens() {
        let guid: Guid = TEXT.parse().unwrap();
        assert_eq!(guid.0[..3], [0x00, 0x11, 0x22]);
        assert_eq!(guid.to_string(), TEXT);
        assert_eq!(TEXT.replace('-', "").to_uppercase().parse(), Ok(guid));
        assert_eq!(Guid::try_from(TEXT.to_owned()), Ok(guid));
        assert_eq!(String::from(guid), TEXT);
    }

    #[test]
    fn a_text_that_is_no_guid_is_named_in_the_error() {
        for text in ["", "0011", &TEXT[1..], &format!("{TEXT}0"), "g0112233-4455-6677-8899-aabbccddeeff"] {
            let error = text.parse::<Guid>().unwrap_err();
            assert_eq!(error, BadGuid(text.into()));
            assert_eq!(
                error.to_string(),
                format!("{text:?} is no guid: 32 hexadecimal digits are needed, hyphens are ignored")
            );
        }
    }

    #[test]
    fn only_zeroes_are_nil() {
        assert!(Guid::NIL.is_nil());
        assert!("0".repeat(32).parse::<Guid>().unwrap().is_nil());
        assert!(!TEXT.parse::<Guid>().unwrap().is_nil());
    }

    #[test]
    fn a_guid_of_zfs_is_in_the_last_eight_bytes() {
        let guid = Guid::of_zfs(0x8899_aabb_ccdd_eeff);
        assert_eq!(guid.to_string(), "00000000-0000-0000-8899-aabbccddeeff");
        assert_eq!(guid.as_zfs(), Some(0x8899_aabb_ccdd_eeff));
        assert_eq!((Guid::of_zfs(0), Guid::NIL.as_zfs()), (Guid::NIL, None));
        assert_eq!(TEXT.parse::<Guid>().unwrap().as_zfs(), None);
    }

    #[test]
    fn a_version_is_one_flat_object_in_json() {
        let id = VersionRef { guid: TEXT.parse().unwrap(), name: "now".parse().unwrap() };
        assert_eq!(id.to_string(), format!("@now ({TEXT})"));
        let created = Timestamp::from_second(1_800_000_000).unwrap();
        let version = Version { id, kind: VersionKind::Snapshot, order: 7, created };
        let json = format!(
            r#"{{"guid":"{TEXT}","name":"now","kind":"snapshot","order":7,"created":"2027-01-15T08:00:00Z"}}"#
        );
        assert_eq!(serde_json::to_string(&version).unwrap(), json);
        assert_eq!(serde_json::from_str::<Version>(&json).unwrap(), version);
        let bad = json.replace("now", "a/b");
        assert!(serde_json::from_str::<Version>(&bad).unwrap_err().to_string().contains("holds '/'"));
    }
}
