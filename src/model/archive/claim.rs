//! Claims: who is at work in an archive, and on what.

use std::fmt;

use super::{CLAIMS, Digits, Group, NoKey, some};

/// What somebody is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Use {
    /// To push the version upon its base: the base stays, and so do the parts.
    Push,
    /// To read the version: it stays, and all that it builds upon.
    Read,
    /// To destroy the version as it is stored upon that base, or the parts that were left of it: nobody begins to use them.
    Destroy,
}

/// That somebody is at work: an object that is put before, and taken away afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim {
    /// What is done.
    pub to: Use,
    /// With what.
    pub group: Group,
    /// Tells it from all other claims.
    pub nonce: [u8; 16],
}

impl Use {
    const ALL: [Self; 3] = [Self::Push, Self::Read, Self::Destroy];

    fn as_str(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Read => "read",
            Self::Destroy => "destroy",
        }
    }
}

impl Claim {
    /// Reads the key of a claim.
    ///
    /// # Errors
    /// [`NoKey`] if it is none, or not written as this program writes it.
    pub fn parse(key: &str) -> Result<Self, NoKey> {
        let read = || {
            let (word, rest) = key.strip_prefix(CLAIMS)?.split_once('-')?;
            let to = Use::ALL.into_iter().find(|to| to.as_str() == word)?;
            let (group, nonce) = rest.split_once('-')?;
            let (guid, base) = group.split_once('.')?;
            let nonce: crate::model::Guid = nonce.parse().ok()?;
            let group = Group { guid: guid.parse().ok()?, base: some(base.parse().ok()?) };
            Some(Self { to, group, nonce: nonce.0 })
        };
        read().filter(|claim| claim.to_string() == key).ok_or_else(|| NoKey(key.into()))
    }
}

/// Its key.
impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { to, group: Group { guid, base }, nonce } = self;
        let base = base.unwrap_or(crate::model::Guid::NIL);
        let nonce = Digits(crate::model::Guid(*nonce));
        write!(f, "{CLAIMS}{}-{}.{}-{nonce}", to.as_str(), Digits(*guid), Digits(base))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Guid;

    #[test]
    fn a_claim_is_found_by_its_key() {
        let (one, two, three) = ("01".repeat(16), "02".repeat(16), "03".repeat(16));
        let group = Group { guid: Guid([1; 16]), base: Some(Guid([2; 16])) };
        for (to, word) in [(Use::Push, "push"), (Use::Read, "read"), (Use::Destroy, "destroy")] {
            let claim = Claim { to, group, nonce: [3; 16] };
            let key = claim.to_string();
            assert_eq!(key, format!("claims/{word}-{one}.{two}-{three}"));
            assert_eq!(Claim::parse(&key), Ok(claim));
            let full = Claim { group: Group { base: None, ..group }, ..claim };
            assert_eq!(Claim::parse(&full.to_string()), Ok(full));
            for wrong in [&key[1..], &key[..key.len() - 1], &key.replace('.', "-"), &key.replace(word, "sit")]
            {
                assert_eq!(Claim::parse(wrong), Err(NoKey(wrong.into())));
            }
        }
    }
}
