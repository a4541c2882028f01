//! blake3's tree over frames: chaining values in, the plain root out.

use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use serde::{Deserialize, Serialize};

use super::FRAME_LEN;

/// A frame's hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf {
    /// Of the subtree, at its place in the stream.
    pub chaining_value: ChainingValue,
    /// Of the bytes alone: the root if the frame turns out to be the only one.
    root_if_alone: Option<blake3::Hash>,
}

impl Leaf {
    /// Hashes the bytes of frame `number`.
    ///
    /// # Panics
    /// If `bytes` is empty or longer than a frame.
    pub fn of(number: u64, bytes: &[u8]) -> Self {
        assert!((1..=FRAME_LEN).contains(&bytes.len()), "a frame has 1 byte to 1 MiB");
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(number * FRAME_LEN as u64).update(bytes);
        let root_if_alone = (number == 0).then(|| hasher.finalize());
        Self { chaining_value: hasher.finalize_non_root(), root_if_alone }
    }
}

/// The chaining values of complete subtrees, left to right: one per bit of the frame count, or a few more.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tree {
    subtrees: Vec<ChainingValue>,
    frames: u64,
    only: Option<blake3::Hash>,
}

impl Tree {
    /// How many frames it has.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Adds the next frame.
    pub fn push(&mut self, leaf: &Leaf) {
        // Merging waits until something follows, because the topmost merge is finished as the root.
        while self.subtrees.len() > self.frames.count_ones() as usize {
            self.merge_last();
        }
        self.subtrees.push(leaf.chaining_value);
        self.only = leaf.root_if_alone;
        self.frames += 1;
    }

    fn merge_last(&mut self) {
        if let (Some(right), Some(left)) = (self.subtrees.pop(), self.subtrees.pop()) {
            self.subtrees.push(merge_subtrees_non_root(&left, &right, Mode::Hash));
        }
    }

    /// The plain blake3 of all frames' bytes.
    pub fn root(&self) -> blake3::Hash {
        if let Some(only) = self.only {
            return only;
        }
        let mut lefts = self.subtrees.iter().rev();
        let Some(mut right) = lefts.next().copied() else { return blake3::hash(b"") };
        while let Some(left) = lefts.next() {
            if lefts.len() == 0 {
                return merge_subtrees_root(left, &right, Mode::Hash);
            }
            right = merge_subtrees_non_root(left, &right, Mode::Hash);
        }
        unreachable!("a single subtree without `only` has no frame 0")
    }
}

/// The most frames that a stream can have: its length is told in 64 bits.
const MAX_FRAMES: u64 = u64::MAX / FRAME_LEN as u64;

/// What a stream's first frames hash to: enough to hash on behind them, and to tell whether another stream begins with the
/// same bytes. All of these frames are full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Text", into = "Text")]
pub struct Prefix {
    tree: Tree,
    passed: Option<Piece>,
}

/// Some bytes of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Piece {
    /// How many.
    pub len: u64,
    /// Their blake3, hexadecimal.
    pub blake3: String,
}

impl Piece {
    /// None of nothing.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let hash = || blake3::hash(bytes).to_hex().to_string();
        (!bytes.is_empty()).then(|| Self { len: bytes.len() as u64, blake3: hash() })
    }

    /// Refuses what is no part of a frame.
    ///
    /// # Errors
    /// What it is instead.
    pub fn check(&self) -> Result<(), BadPrefix> {
        hash_of(&self.blake3)?;
        match (1..FRAME_LEN as u64).contains(&self.len) {
            true => Ok(()),
            false => Err(BadPrefix("what was passed behind the frames is a part of one")),
        }
    }

    /// Whether `bytes` begin with it.
    fn begins(&self, bytes: &[u8]) -> bool {
        let first = usize::try_from(self.len).ok().and_then(|len| bytes.get(..len));
        first.and_then(Self::of).as_ref() == Some(self)
    }
}

impl Prefix {
    /// How many frames there are.
    pub fn frames(&self) -> u64 {
        self.tree.frames
    }

    /// How many bytes they hold.
    pub fn stream_len(&self) -> u64 {
        self.tree.frames * FRAME_LEN as u64
    }

    /// With what of the frame behind them was taken already, though it comes again: a stream that goes on otherwise is another one.
    #[must_use]
    pub fn with_passed(self, passed: Option<Piece>) -> Self {
        Self { passed, ..self }
    }

    /// What of the frame behind them was taken already.
    pub fn passed(&self) -> Option<&Piece> {
        self.passed.as_ref()
    }

    /// Whether these are the frames of `tree`.
    pub(in crate::stream) fn is_of(&self, tree: &Tree) -> bool {
        self.tree == *tree
    }

    /// Whether the frame behind them, which is `next`, begins with what was taken of it.
    pub(in crate::stream) fn goes_on_in(&self, next: &[u8]) -> bool {
        self.passed.as_ref().is_none_or(|passed| passed.begins(next))
    }

    /// Where hashing goes on.
    pub(in crate::stream) fn tree(&self) -> Tree {
        self.tree.clone()
    }
}

impl Tree {
    /// What there is so far, as the beginning of a longer stream. Right only if every frame was full.
    pub(in crate::stream) fn prefix(&self) -> Prefix {
        Prefix { tree: self.clone(), passed: None }
    }

    /// How many subtrees stand unmerged behind `frames` frames.
    fn unmerged(frames: u64) -> usize {
        frames.checked_sub(1).map_or(0, |before| before.count_ones() as usize + 1)
    }
}

/// A prefix as it is written: 64 hexadecimal digits for each hash.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    frames: u64,
    subtrees: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    only: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    passed: Option<Piece>,
}

impl From<Prefix> for Text {
    fn from(Prefix { tree, passed }: Prefix) -> Self {
        let hex = |value: &ChainingValue| blake3::Hash::from_bytes(*value).to_hex().to_string();
        Self {
            frames: tree.frames,
            subtrees: tree.subtrees.iter().map(hex).collect(),
            only: tree.only.map(|root| root.to_hex().to_string()),
            passed,
        }
    }
}

/// A text that says what no frames hash to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is not what the first frames of a stream hash to: {0}")]
pub struct BadPrefix(&'static str);

fn hash_of(hex: &str) -> Result<blake3::Hash, BadPrefix> {
    blake3::Hash::from_hex(hex).map_err(|_| BadPrefix("a hash has 64 hexadecimal digits"))
}

impl TryFrom<Text> for Prefix {
    type Error = BadPrefix;

    fn try_from(text: Text) -> Result<Self, BadPrefix> {
        if text.frames > MAX_FRAMES {
            return Err(BadPrefix("no stream has so many frames"));
        }
        if text.subtrees.len() != Tree::unmerged(text.frames) {
            return Err(BadPrefix("so many frames do not have so many subtrees"));
        }
        if text.only.is_some() != (text.frames == 1) {
            return Err(BadPrefix("a frame is the only one, or it is not"));
        }
        text.passed.as_ref().map_or(Ok(()), Piece::check)?;
        let subtrees = text.subtrees.iter().map(|hex| hash_of(hex).map(|hash| *hash.as_bytes()));
        let tree = Tree {
            frames: text.frames,
            subtrees: subtrees.collect::<Result<_, _>>()?,
            only: text.only.as_deref().map(hash_of).transpose()?,
        };
        Ok(Self { tree, passed: text.passed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_of_frames_is_the_plain_blake3_of_their_bytes() {
        let bytes: Vec<u8> = (0..9 * FRAME_LEN + 5000).map(|n| (n / 7 % 251) as u8).collect();
        for len in [0, 1, 1023, 1024, 1025, FRAME_LEN - 1, FRAME_LEN, FRAME_LEN + 1, 2 * FRAME_LEN]
            .into_iter()
            .chain((2..10).map(|n| n * FRAME_LEN + 4321))
        {
            let mut tree = Tree::default();
            for (number, frame) in bytes[..len].chunks(FRAME_LEN).enumerate() {
                tree.push(&Leaf::of(number as u64, frame));
            }
            assert_eq!(tree.root(), blake3::hash(&bytes[..len]), "length {len}");
            assert_eq!(tree.frames(), len.div_ceil(FRAME_LEN) as u64);
        }
    }

    #[test]
    fn a_part_of_a_frame_has_a_length_and_a_hash() {
        let of = |len, blake3: &str| Piece { len, blake3: blake3.into() }.check();
        let hash = blake3::hash(b"x").to_hex().to_string();
        assert_eq!(of(1, &hash), Ok(()));
        assert_eq!(Piece::of(b"x").map(|piece| piece.check()), Some(Ok(())));
        for (len, blake3) in [(0, &*hash), (FRAME_LEN as u64, &hash), (1, &hash[1..]), (1, "of whatever")] {
            assert!(of(len, blake3).is_err(), "{len} {blake3}");
        }
    }

    #[test]
    fn a_chaining_value_depends_on_its_place() {
        assert_ne!(Leaf::of(1, b"x").chaining_value, Leaf::of(2, b"x").chaining_value);
        assert_ne!(Leaf::of(0, b"x").chaining_value, *blake3::hash(b"x").as_bytes());
    }

    fn tree_of(frames: std::ops::Range<u64>, mut tree: Tree) -> Tree {
        for number in frames {
            tree.push(&Leaf::of(number, &[number as u8; FRAME_LEN]));
        }
        tree
    }

    #[test]
    fn hashing_goes_on_from_a_prefix_that_was_written_down() {
        for cut in 0..9 {
            let passed = Piece::of(&vec![1; cut as usize]);
            let prefix = tree_of(0..cut, Tree::default()).prefix().with_passed(passed);
            let written = serde_json::to_string(&prefix).unwrap();
            let read: Prefix = serde_json::from_str(&written).unwrap();
            assert_eq!((&read, read.stream_len()), (&prefix, cut * FRAME_LEN as u64));
            for end in cut..9 {
                let whole = tree_of(0..end, Tree::default()).root();
                assert_eq!(tree_of(cut..end, read.tree()).root(), whole, "{cut} of {end}");
            }
        }
    }

    #[test]
    fn what_was_passed_is_found_at_the_beginning_of_the_next_frame_alone() {
        let prefix = Tree::default().prefix();
        assert!(prefix.goes_on_in(b"") && prefix.goes_on_in(b"x"), "nothing was passed");
        let prefix = prefix.with_passed(Piece::of(b"abc"));
        for (next, is_it) in
            [("abc", true), ("abcd", true), ("ab", false), ("", false), ("abd", false), ("xabc", false)]
        {
            assert_eq!(prefix.goes_on_in(next.as_bytes()), is_it, "{next}");
        }
    }

    #[test]
    fn what_no_frames_hash_to_is_no_prefix() {
        let hash = "0".repeat(64);
        let prefix = |json: String| serde_json::from_str::<Prefix>(&json).map(|prefix| prefix.frames());
        assert_eq!(prefix(format!(r#"{{"frames":2,"subtrees":["{hash}","{hash}"]}}"#)).unwrap(), 2);
        for wrong in [
            format!(r#"{{"frames":2,"subtrees":["{hash}"]}}"#),
            format!(r#"{{"frames":0,"subtrees":["{hash}"]}}"#),
            format!(r#"{{"frames":1,"subtrees":["{hash}"]}}"#),
            format!(r#"{{"frames":2,"subtrees":["{hash}","{hash}"],"only":"{hash}"}}"#),
            format!(r#"{{"frames":2,"subtrees":["{hash}","{}"]}}"#, &hash[1..]),
            r#"{"frames":18446744073709551615,"subtrees":[]}"#.into(),
            format!(r#"{{"frames":0,"subtrees":[],"passed":{{"len":0,"blake3":"{hash}"}}}}"#),
            format!(r#"{{"frames":0,"subtrees":[],"passed":{{"len":1048576,"blake3":"{hash}"}}}}"#),
            format!(r#"{{"frames":0,"subtrees":[],"passed":{{"len":5,"blake3":"{}"}}}}"#, &hash[1..]),
        ] {
            assert!(prefix(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
