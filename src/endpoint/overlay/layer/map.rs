//! Maps of blocks: which blocks of a file are here, and which are those of the file below (docs/FORMAT-overlay.md).

use std::ops::Range;

/// A longer map is damaged: at 4 KiB a block, it is that of 2 TiB. Longer files have larger blocks.
pub const MAX_LEN: usize = 64 << 20;
/// log2 of the smallest and of the largest block's size in bytes.
pub const BLOCK_LOG2: std::ops::RangeInclusive<u32> = 12..=24;

const MAGIC: [u8; 8] = *b"cowblk\x01\n";
const HEAD_LEN: usize = 24;

/// Which blocks of a file are here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockMap {
    block_log2: u32, // Invariant: within BLOCK_LOG2.
    below: u64,      // Invariant: at most i64::MAX.
    bits: Vec<u8>,   // Invariant: at most as many as `below` has blocks, none of them beyond.
}

/// Why bytes are no map.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// It is cut off, or something else.
    #[error("it does not begin as a map of blocks does")]
    Magic,
    /// Its blocks have no possible size.
    #[error("its blocks have 2^{0} bytes; 2^12 to 2^24 are possible")]
    Block(u32),
    /// What is zero in version 1 is not.
    #[error("a field that must be zero is {0:#x}")]
    Reserved(u32),
    /// No file is as long.
    #[error("the file below it is said to have {0} bytes")]
    Below(u64),
    /// No map is as long.
    #[error("it has {0} bytes, and {MAX_LEN} are possible")]
    Long(usize),
}

impl BlockMap {
    /// The map of a file below of which `below` bytes count, with no block here.
    ///
    /// # Panics
    /// If `block_log2` is not within [`BLOCK_LOG2`].
    pub fn new(block_log2: u32, below: u64) -> Self {
        assert!(BLOCK_LOG2.contains(&block_log2), "blocks have 4 KiB to 16 MiB");
        Self { block_log2, below: below.min(i64::MAX as u64), bits: Vec::new() }
    }

    /// log2 of the smallest block's size for which the map of a file of `below` bytes is not too long; at least `wanted`.
    pub fn block_log2_for(below: u64, wanted: u32) -> u32 {
        let fits = |log2: &u32| bits_len(below, *log2) <= (MAX_LEN - HEAD_LEN) as u64;
        (wanted.max(*BLOCK_LOG2.start())..*BLOCK_LOG2.end()).find(fits).unwrap_or(*BLOCK_LOG2.end())
    }

    /// A block's size in bytes.
    pub fn block_len(&self) -> u64 {
        1 << self.block_log2
    }

    /// log2 of a block's size in bytes.
    pub fn block_log2(&self) -> u32 {
        self.block_log2
    }

    /// How many bytes of the file below count; what lies beyond is here, or zeros.
    pub fn below(&self) -> u64 {
        self.below
    }

    /// How many blocks the bytes of the file below that count are.
    pub fn blocks(&self) -> u64 {
        self.below.div_ceil(self.block_len())
    }

    /// Whether a block is here. Blocks beyond what counts of the file below are.
    pub fn has(&self, block: u64) -> bool {
        block >= self.blocks()
            || usize::try_from(block / 8)
                .ok()
                .and_then(|at| self.bits.get(at))
                .is_some_and(|byte| byte >> (block % 8) & 1 == 1)
    }

    /// Says that a block is here.
    pub fn set(&mut self, block: u64) {
        if self.has(block) {
            return;
        }
        let at = (block / 8) as usize; // Below MAX_LEN * 8 blocks, where `block_log2_for` chose.
        if self.bits.len() <= at {
            self.bits.resize(at + 1, 0);
        }
        self.bits[at] |= 1 << (block % 8);
    }

    /// What lies beyond `len` bytes of the file below counts no longer.
    pub fn cut(&mut self, len: u64) {
        if len >= self.below {
            return;
        }
        self.below = len;
        self.bits.truncate(bits_len(len, self.block_log2) as usize);
        self.clear_beyond();
    }

    /// Clears the bits of the last byte that stand for no block.
    fn clear_beyond(&mut self) {
        let blocks = self.blocks();
        if self.bits.len() as u64 * 8 > blocks
            && let Some(last) = self.bits.last_mut()
        {
            *last &= (1 << (blocks % 8)) - 1;
        }
    }

    /// The blocks below that are here, or that are not, as ranges in ascending order.
    pub fn ranges(&self, here: bool) -> impl Iterator<Item = Range<u64>> + '_ {
        let (end, mut at) = (self.blocks(), 0);
        std::iter::from_fn(move || {
            while at < end && self.has(at) != here {
                at = self.past(at, end);
            }
            let start = at;
            while at < end && self.has(at) == here {
                at = self.past(at, end);
            }
            (start < at).then_some(start..at)
        })
    }

    /// The block after `at`; after the whole byte if all its blocks are alike.
    fn past(&self, at: u64, end: u64) -> u64 {
        let byte = self.bits.get((at / 8) as usize);
        match byte {
            None => end,
            Some(0 | 0xff) if at.is_multiple_of(8) => (at + 8).min(end),
            Some(_) => at + 1,
        }
    }

    /// As it is on disk.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD_LEN + self.bits.len());
        out.extend(MAGIC);
        out.extend(self.block_log2.to_le_bytes());
        out.extend([0; 4]);
        out.extend(self.below.to_le_bytes());
        out.extend(&self.bits);
        out
    }

    /// What [`BlockMap::to_bytes`] wrote.
    ///
    /// # Errors
    /// Bytes that no map has.
    pub fn parse(bytes: &[u8]) -> Result<Self, Bad> {
        let (head, bits) = bytes.split_at_checked(HEAD_LEN).ok_or(Bad::Magic)?;
        if head[..8] != MAGIC {
            return Err(Bad::Magic);
        }
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("4 bytes"));
        let (block_log2, reserved) = (word(8), word(12));
        let below = u64::from(word(16)) | u64::from(word(20)) << 32;
        if !BLOCK_LOG2.contains(&block_log2) {
            return Err(Bad::Block(block_log2));
        }
        if reserved != 0 {
            return Err(Bad::Reserved(reserved));
        }
        if below > i64::MAX as u64 {
            return Err(Bad::Below(below));
        }
        if bytes.len() > MAX_LEN {
            return Err(Bad::Long(bytes.len()));
        }
        // What lies beyond the part of the file below that counts is here anyway: those bits say nothing.
        let len = bits.len().min(usize::try_from(bits_len(below, block_log2)).unwrap_or(usize::MAX));
        let mut map = Self { block_log2, below, bits: bits[..len].to_vec() };
        map.clear_beyond();
        Ok(map)
    }
}

/// How many bytes of bits the map of a file of `below` bytes has at most.
fn bits_len(below: u64, block_log2: u32) -> u64 {
    below.div_ceil(1 << block_log2).div_ceil(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(below: u64, here: &[u64]) -> BlockMap {
        let mut map = BlockMap::new(12, below);
        here.iter().for_each(|&block| map.set(block));
        map
    }

    fn one(range: Range<u64>) -> Vec<Range<u64>> {
        vec![range; 1]
    }

    fn ranges(map: &BlockMap, here: bool) -> Vec<Range<u64>> {
        map.ranges(here).collect()
    }

    #[test]
    fn the_layout_is_that_of_the_format() {
        let bytes = map(40_961, &[0, 9, 10]).to_bytes();
        assert_eq!(bytes[..8], *b"cowblk\x01\n");
        assert_eq!(bytes[8..], [12, 0, 0, 0, 0, 0, 0, 0, 1, 0xa0, 0, 0, 0, 0, 0, 0, 0b1, 0b110]);
        assert_eq!(BlockMap::parse(&bytes), Ok(map(40_961, &[0, 9, 10])));
    }

    #[test]
    fn blocks_are_here_once_they_are_set_and_beyond_the_file_below() {
        let map = map(10 * 4096, &[0, 1, 8]);
        let here: Vec<_> = (0..12).filter(|&block| map.has(block)).collect();
        assert_eq!(here, [0, 1, 8, 10, 11]);
        assert_eq!(ranges(&map, true), [0..2, 8..9]);
        assert_eq!(ranges(&map, false), [2..8, 9..10]);
        assert_eq!(ranges(&BlockMap::new(12, 1 << 50), false), one(0..1 << 38), "at once");
        let all = (0..64).collect::<Vec<_>>();
        assert_eq!(ranges(&self::map(64 * 4096, &all), true), one(0..64));
    }

    #[test]
    fn what_was_cut_off_does_not_come_back() {
        let mut map = map(100 * 4096, &[3, 8, 9, 50]);
        map.cut(9 * 4096 - 1);
        assert_eq!((map.blocks(), ranges(&map, true)), (9, vec![3..4, 8..9]));
        assert!(map.has(50), "beyond: it is not below");
        assert_eq!(BlockMap::parse(&map.to_bytes()).as_ref(), Ok(&map));
        map.cut(1 << 40);
        assert_eq!(map.blocks(), 9);
        map.cut(0);
        assert_eq!(map.to_bytes().len(), HEAD_LEN);
    }

    #[test]
    fn bytes_that_no_map_has_are_refused() {
        let good = map(10 * 4096, &[9]).to_bytes();
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            BlockMap::parse(&bytes)
        };
        assert_eq!(BlockMap::parse(&good[..23]), Err(Bad::Magic));
        assert_eq!(with(0, b'x'), Err(Bad::Magic));
        assert_eq!(with(8, 11), Err(Bad::Block(11)));
        assert_eq!(with(8, 25), Err(Bad::Block(25)));
        assert_eq!(with(15, 1), Err(Bad::Reserved(1 << 24)));
        assert_eq!(with(23, 0x80), Err(Bad::Below(0x8000_0000_0000_a000)));
        assert_eq!(BlockMap::parse(&vec![b'c'; MAX_LEN + 1]), Err(Bad::Magic));
        let mut long = good.clone();
        long.resize(MAX_LEN + 1, 0);
        assert_eq!(BlockMap::parse(&long), Err(Bad::Long(MAX_LEN + 1)));
        let sound = BlockMap::parse(&good).expect("sound");
        assert_eq!(with(25, 0b1110), Ok(sound.clone()), "bits beyond the file below say nothing");
        assert_eq!(BlockMap::parse(&[&good[..], &[0xff]].concat()), Ok(sound));
        assert!(BlockMap::parse(&good[..25]).is_ok_and(|map| !map.has(9)), "a shorter one has zeros");
    }

    #[test]
    fn the_map_of_a_long_file_has_larger_blocks() {
        assert_eq!(BlockMap::block_log2_for(10 << 30, 12), 12);
        assert_eq!(BlockMap::block_log2_for(10 << 30, 16), 16);
        assert!(bits_len(8 << 40, BlockMap::block_log2_for(8 << 40, 12)) < MAX_LEN as u64);
        assert!(BlockMap::block_log2_for(8 << 40, 12) > 12);
    }
}
