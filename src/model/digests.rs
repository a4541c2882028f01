//! Digests: what a blake3 is, and which ones of streams the places wrote down that sent and received them.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::name::HoldTag;
use crate::model::version::{Guid, VersionRef};

/// A blake3: 64 hexadecimal digits, and nothing else whoever says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Of what tells a dataset from all others: nobody learns that from it.
    pub fn of_place(id: &str) -> Self {
        Self(blake3::derive_key("cowsnap place 1", id.as_bytes()))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A text that is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no digest: 64 hexadecimal digits are needed")]
pub struct BadDigest(pub String);

impl FromStr for Digest {
    type Err = BadDigest;

    fn from_str(text: &str) -> Result<Self, BadDigest> {
        let bad = || BadDigest(text.chars().take(80).collect());
        let digits = text.bytes().map(|byte| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        });
        let digits: Vec<u8> = digits.collect::<Option<_>>().ok_or_else(bad)?;
        if digits.len() != 64 {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair[0] << 4 | pair[1];
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = BadDigest;
    fn try_from(text: String) -> Result<Self, BadDigest> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

/// A stream, by what it hashes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StreamDigest {
    /// The plain blake3 of the filesystem's own stream.
    pub blake3: Digest,
    /// What it builds upon; `None` if it is full.
    #[serde(default)]
    pub base: Option<Guid>,
    /// Its length in bytes.
    pub len: u64,
}

/// A stream that a version was sent as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentStream {
    /// Which one.
    #[serde(flatten)]
    pub stream: StreamDigest,
    /// When it had been sent.
    pub at: Timestamp,
    /// By which tag the source keeps what the place has that it was sent to; `None` if that place is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<HoldTag>,
}

/// No more streams than this are remembered of a version.
pub const MOST_SENT: usize = 16;

/// Puts `new` behind `sent`, each stream to each place once; the oldest go if there are too many.
pub fn remember(sent: &mut Vec<SentStream>, new: SentStream) {
    sent.retain(|old| (old.stream, &old.to) != (new.stream, &new.to));
    sent.push(new);
    let surplus = sent.len().saturating_sub(MOST_SENT);
    sent.drain(..surplus);
}

/// The stream that a version was received as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceivedStream {
    /// Which one, as it was checked there.
    #[serde(flatten)]
    pub stream: StreamDigest,
    /// Whether all of the version came verified: what came before the rest of a stream that had been broken off, too.
    pub whole: bool,
    /// Whether what it builds upon had come verified as well when it was received, down to a full stream or to a snapshot that was made
    /// there. Who does not say so does not know.
    #[serde(default)]
    pub grounded: bool,
    /// The place that it came from with all that it builds upon; `None` if these are several, or one is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Digest>,
    /// The blake3 of the stream that its base had been received as there; `None` if that had not come verified as a whole, was made there, or
    /// for a full stream. A base that came as another stream since is not what it builds upon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upon: Option<Digest>,
    /// When it was checked, by the clock there; `None` from who does not say.
    #[serde(default)]
    pub at: Option<Timestamp>,
}

/// What a place wrote down of one of its snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// Which one.
    pub version: VersionRef,
    /// What tells the dataset that has it from all others; `None` from who does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Digest>,
    /// It is writable, or was made so and changed since: what is written down is of what it was.
    #[serde(default)]
    pub altered: bool,
    /// What it was known as before it was altered, where that is another identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<Guid>,
    /// What it was received as, if that was checked.
    #[serde(default)]
    pub received: Option<ReceivedStream>,
    /// What it was sent as, oldest first.
    #[serde(default)]
    pub sent: Vec<SentStream>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(byte: u8, to: Option<&str>) -> SentStream {
        let stream = StreamDigest { blake3: Digest([byte; 32]), base: None, len: 7 };
        SentStream { stream, at: Timestamp::UNIX_EPOCH, to: to.map(|tag| tag.parse().unwrap()) }
    }

    #[test]
    fn a_digest_is_64_digits_and_nothing_else() {
        let text = "00ff".repeat(16);
        let digest: Digest = text.parse().unwrap();
        assert_eq!(digest.to_string(), text);
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
        for bad in ["", "00ff", &"00FF".repeat(16), &"g0".repeat(32), &"00".repeat(33), &"é".repeat(32)] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        let long = "x".repeat(1000).parse::<Digest>().unwrap_err();
        assert!(long.to_string().len() < 200, "what a peer says is not repeated at any length");
    }

    #[test]
    fn a_stream_is_remembered_once_for_each_place_and_the_oldest_go() {
        let mut all = Vec::new();
        remember(&mut all, sent(1, Some("a")));
        remember(&mut all, sent(1, None));
        remember(&mut all, sent(1, Some("a")));
        assert_eq!(all, [sent(1, None), sent(1, Some("a"))]);
        (0..40).for_each(|n| remember(&mut all, sent(n, Some("b"))));
        assert_eq!(all.len(), MOST_SENT);
        assert_eq!(all.last(), Some(&sent(39, Some("b"))));
    }

    #[test]
    fn what_is_written_down_reads_back() {
        let received = Some(ReceivedStream {
            stream: StreamDigest { base: Some(Guid([3; 16])), ..sent(2, None).stream },
            whole: false,
            grounded: true,
            from: Some(Digest([4; 32])),
            upon: Some(Digest([5; 32])),
            at: Some(Timestamp::UNIX_EPOCH),
        });
        let version = VersionRef { guid: Guid([1; 16]), name: "s".parse().unwrap() };
        let all = Recorded {
            version,
            place: Some(Digest([4; 32])),
            altered: true,
            was: Some(Guid([2; 16])),
            received,
            sent: vec![sent(1, Some("a")), sent(1, None)],
        };
        let json = serde_json::to_string(&all).unwrap();
        assert_eq!(serde_json::from_str::<Recorded>(&json).unwrap(), all);
        // Who knows less says less, and nothing is made of that.
        let mut older: serde_json::Value = serde_json::from_str(&json).unwrap();
        for key in ["was", "place"] {
            older.as_object_mut().unwrap().remove(key);
        }
        for key in ["grounded", "from", "upon", "at"] {
            older["received"].as_object_mut().unwrap().remove(key);
        }
        let read: Recorded = serde_json::from_value(older).unwrap();
        let received = read.received.unwrap();
        assert_eq!((read.was, read.place, received.from), (None, None, None));
        assert_eq!((received.grounded, received.upon, received.at), (false, None, None));
        assert!(json.contains(r#""blake3":"02"#), "{json}");
    }
}
