//! blake3's tree over frames: chaining values in, the plain root out.

use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

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
#[derive(Debug, Clone, Default)]
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
    fn a_chaining_value_depends_on_its_place() {
        assert_ne!(Leaf::of(1, b"x").chaining_value, Leaf::of(2, b"x").chaining_value);
        assert_ne!(Leaf::of(0, b"x").chaining_value, *blake3::hash(b"x").as_bytes());
    }
}
