//! The map of blocks: which blocks of a file are in the upper layer (docs/FORMAT-overlay.md).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::root::Root;
use super::{Errno, Fallible, io};

/// What a map begins with.
const MAGIC: &[u8; 8] = b"cowblk\x01\n";
const HEADER: usize = 24;

/// A map of blocks, in memory and in its file.
///
/// **Invariant:** what is set here is set in the file before a call that sets it returns.
#[derive(Debug)]
pub struct Map {
    file: OwnedFd,
    shift: u32,
    counts: u64,
    bits: Vec<u8>,
}

impl Map {
    /// Makes the map of a file of which nothing is here and `len` bytes below count, under a number that is free in `dir`.
    pub fn create(dir: &Root, number: u64, shift: u32, len: u64) -> Fallible<Self> {
        let file = dir.create(&name_of(number), 0o600)?;
        let map =
            Self { file, shift, counts: len, bits: vec![0; len.div_ceil(1 << shift).div_ceil(8) as usize] };
        io::write_all(map.file.as_fd(), &map.header(), 0)?;
        Ok(map)
    }

    /// Reads the map `number`.
    ///
    /// EIO: it is damaged.
    pub fn open(dir: &Root, number: u64, writable: bool) -> Fallible<Self> {
        let flags = if writable { OFlags::RDWR } else { OFlags::RDONLY };
        let file = dir.open_at(&name_of(number), flags)?;
        let len = rustix::fs::fstat(&file)?.st_size as usize;
        let mut head = [0; HEADER];
        if len < HEADER || io::read_full(file.as_fd(), &mut head, 0)? < HEADER || &head[..8] != MAGIC {
            return Err(Errno::IO);
        }
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (shift, counts) = (word(8), u64::from(word(16)) | u64::from(word(20)) << 32);
        if !(12..=24).contains(&shift) {
            return Err(Errno::IO);
        }
        let mut bits = vec![0; len - HEADER];
        io::read_full(file.as_fd(), &mut bits, HEADER as u64)?;
        Ok(Self { file, shift, counts, bits })
    }

    fn header(&self) -> [u8; HEADER] {
        let mut head = [0; HEADER];
        head[..8].copy_from_slice(MAGIC);
        head[8..12].copy_from_slice(&self.shift.to_le_bytes());
        head[16..24].copy_from_slice(&self.counts.to_le_bytes());
        head
    }

    /// log2 of a block's size.
    pub fn shift(&self) -> u32 {
        self.shift
    }

    /// How many bytes of the file below still count.
    pub fn counts(&self) -> u64 {
        self.counts
    }

    /// Whether the block is here; a block wholly beyond what counts of the file below is.
    pub fn has(&self, block: u64) -> bool {
        block >= self.counts.div_ceil(1 << self.shift) || self.bit(block)
    }

    fn bit(&self, block: u64) -> bool {
        self.bits.get((block / 8) as usize).is_some_and(|byte| byte >> (block % 8) & 1 == 1)
    }

    /// Says that the blocks from `first` up to but not with `end` are here. Their data must have been written.
    pub fn set(&mut self, first: u64, end: u64) -> Fallible<()> {
        let end = end.min(self.counts.div_ceil(1 << self.shift));
        if first >= end || (first..end).all(|block| self.bit(block)) {
            return Ok(());
        }
        let bytes = (first / 8) as usize..end.div_ceil(8) as usize;
        if self.bits.len() < bytes.end {
            self.bits.resize(bytes.end, 0);
        }
        let mut changed = self.bits[bytes.clone()].to_vec();
        for block in first..end {
            changed[(block / 8) as usize - bytes.start] |= 1 << (block % 8);
        }
        io::write_all(self.file.as_fd(), &changed, (HEADER + bytes.start) as u64)?;
        self.bits[bytes].copy_from_slice(&changed);
        Ok(())
    }

    /// Says that of the file below no more than `len` bytes count.
    pub fn cut(&mut self, len: u64) -> Fallible<()> {
        if len >= self.counts {
            return Ok(());
        }
        io::write_all(self.file.as_fd(), &len.to_le_bytes(), 16)?;
        self.counts = len;
        Ok(())
    }

    /// Whether nothing of the file below shows any more.
    pub fn is_full(&self) -> bool {
        (0..self.counts.div_ceil(1 << self.shift)).all(|block| self.bit(block))
    }
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The file of the map of this number.
pub fn name_of(number: u64) -> PathBuf {
    PathBuf::from(number.to_string())
}

/// The first number above all maps of a directory.
pub fn next_number(dir: &Root) -> Fallible<u64> {
    let numbers = dir.list(Path::new(""))?.into_iter();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str().ok()?.parse::<u64>().ok());
    Ok(numbers.max().unwrap_or(0) + 1)
}
