//! The data of a file that is in several layers: whole in one, or some of its blocks in each.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use blake3::Hash;
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

use super::map::{self, BlockMap};
use super::merge::Part;
use super::tree::Stack;
use crate::endpoint::overlay::fuse;
use crate::endpoint::{Error, Result};
use crate::sys::interrupt;

const CHUNK: usize = 256 << 10;

/// An open file that may be in several layers.
#[derive(Debug)]
pub struct Content {
    pieces: Vec<Piece>, // Invariant: top first; only the last one has no map.
    size: u64,
}

#[derive(Debug)]
struct Piece {
    file: File,
    size: u64,
    map: Option<BlockMap>,
}

impl Content {
    /// Opens the file of these parts, the top one first, which shows with `size` bytes.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if data is missing: the last part lacks some.
    pub fn open(stack: &Stack, parts: &[Part], size: u64) -> Result<Self> {
        let mut pieces = Vec::new();
        for part in parts {
            let failed = |error| Error::io("read", part.path.escape_ascii())(error);
            let tree = stack.tree(part.layer);
            let node = tree.node(&part.path).map_err(failed)?.ok_or_else(|| missing(part))?;
            if node.mark("metacopy").is_some() {
                continue;
            }
            let number = node.blocks().transpose().map_err(|bad| Error::Corrupt {
                what: "layer",
                why: format!("{}: {bad}", part.path.escape_ascii()),
                source: None,
            })?;
            let map = number.map(|number| read_map(tree.blocks(), number)).transpose()?.map(|(map, _)| map);
            let is_whole = map.is_none();
            pieces.push(Piece { file: tree.file(&part.path).map_err(failed)?, size: node.size(), map });
            if is_whole {
                return Ok(Self { pieces, size });
            }
        }
        Err(parts.first().map_or_else(|| missing(&Part { layer: 0, path: Vec::new() }), missing))
    }

    /// How many bytes it has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Fills `buffer` from `at` on; how many bytes there were.
    pub fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.size.saturating_sub(at).min(buffer.len() as u64) as usize;
        let buffer = &mut buffer[..len];
        buffer.fill(0);
        fill(&self.pieces, at, buffer)?;
        Ok(len)
    }

    /// Writes it to `to`, an empty file: what lies below shares its blocks where the filesystem can, and holes stay holes.
    pub fn copy_to(&self, to: &File) -> io::Result<()> {
        let (lowest, above) = self.pieces.split_last().expect("there is one at least");
        if rustix::fs::ioctl_ficlone(to, &lowest.file).is_err() {
            copy_data(&lowest.file, to, 0..lowest.size)?;
        }
        to.set_len(lowest.size)?;
        for (piece, map) in above.iter().rev().filter_map(|piece| Some((piece, piece.map.as_ref()?))) {
            // What was cut off of the file below reads as zeros, also where the file grew again.
            to.set_len(to.metadata()?.len().min(map.below()))?;
            to.set_len(piece.size)?;
            for blocks in map.ranges(true) {
                let range = blocks.start * map.block_len()..(blocks.end * map.block_len()).min(piece.size);
                zero(to, &range)?;
                copy_data(&piece.file, to, range)?;
            }
            copy_data(&piece.file, to, map.blocks() * map.block_len()..piece.size)?;
        }
        to.set_len(self.size)
    }

    /// Where data may be next, from `at` on.
    fn next_data(&self, at: u64) -> io::Result<Option<u64>> {
        let mut next = None;
        for piece in &self.pieces {
            let found = next_data(&piece.file, at)?.filter(|&data| data < self.size);
            next = next.into_iter().chain(found).min();
        }
        Ok(next)
    }
}

/// How much is copied at a time: a signal is heeded in between.
const AT_A_TIME: u64 = 16 << 20;

/// Copies the data of a range to the same place, which holds zeros; stops at a signal.
fn copy_data(from: &File, to: &File, range: std::ops::Range<u64>) -> io::Result<()> {
    copy_while(from, to, range, interrupt::check)
}

fn copy_while(
    from: &File,
    to: &File,
    range: std::ops::Range<u64>,
    check: impl Fn() -> io::Result<()>,
) -> io::Result<()> {
    let mut at = range.start;
    while let Some(data) = next_data(from, at)?.filter(|&data| data < range.end) {
        check()?;
        at = end_of_data(from, data)?.min(range.end).min(data + AT_A_TIME);
        let copied = fuse::io::copy(from.as_fd(), data, to.as_fd(), data, at - data)?;
        if copied < at - data {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

/// Makes zeros of a range of a file, of none of its length.
fn zero(file: &File, range: &std::ops::Range<u64>) -> io::Result<()> {
    let len = range.end.saturating_sub(range.start);
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    if len == 0 || fallocate(file, flags, range.start, len).is_ok() {
        return Ok(());
    }
    let zeros = vec![0; CHUNK];
    let mut at = range.start;
    while at < range.end {
        let len = (range.end - at).min(CHUNK as u64);
        file.write_all_at(&zeros[..len as usize], at)?;
        at += len;
    }
    Ok(())
}

/// Fills what the first of `pieces` has of a file, and the rest from the next ones. `buffer` holds zeros.
fn fill(pieces: &[Piece], at: u64, buffer: &mut [u8]) -> io::Result<()> {
    let Some((piece, below)) = pieces.split_first() else { return Ok(()) };
    let len = piece.size.saturating_sub(at).min(buffer.len() as u64) as usize;
    let buffer = &mut buffer[..len];
    let Some(map) = &piece.map else { return piece.file.read_exact_at(buffer, at) };
    let mut done = 0;
    while done < len {
        let from = at + done as u64;
        let in_block = (map.block_len() - from % map.block_len()).min((len - done) as u64) as usize;
        let block = &mut buffer[done..done + in_block];
        if map.has(from / map.block_len()) {
            piece.file.read_exact_at(block, from)?;
        } else {
            // What was cut off of the file below reads as zeros.
            let counts = map.below().saturating_sub(from).min(in_block as u64) as usize;
            fill(below, from, &mut block[..counts])?;
        }
        done += in_block;
    }
    Ok(())
}

fn missing(part: &Part) -> Error {
    let why = format!("{}: the file below, which has its data, is missing", part.path.escape_ascii());
    Error::Corrupt { what: "layer", why, source: None }
}

/// Whether two files, each given by its parts and its size, have the same bytes.
///
/// # Errors
/// What can not be read.
pub(super) fn same_data(stack: &Stack, a: (&[Part], u64), b: (&[Part], u64)) -> Result<bool> {
    if a.1 != b.1 {
        return Ok(false);
    }
    let path = || a.0.first().map_or(String::new(), |part| part.path.escape_ascii().to_string());
    let compare = || {
        let (a, b) = (Content::open(stack, a.0, a.1)?, Content::open(stack, b.0, b.1)?);
        same_bytes(&a, &b).map_err(Error::io("compare", path()))
    };
    compare()
}

fn same_bytes(a: &Content, b: &Content) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut at = 0;
    // Where neither has data, both have zeros.
    while let Some(data) = [a.next_data(at)?, b.next_data(at)?].into_iter().flatten().min() {
        at = data / CHUNK as u64 * CHUNK as u64;
        let (n, m) = (a.read_at(at, &mut left)?, b.read_at(at, &mut right)?);
        if left[..n] != right[..m] {
            return Ok(false);
        }
        at += CHUNK as u64;
    }
    Ok(true)
}

/// The ranges of a file in which it has data, in bytes.
pub(in crate::endpoint) fn data_ranges(file: &File, size: u64) -> io::Result<Vec<std::ops::Range<u64>>> {
    let (mut ranges, mut at) = (Vec::new(), 0);
    while let Some(data) = next_data(file, at)?.filter(|&data| data < size) {
        at = end_of_data(file, data)?.min(size);
        ranges.push(data..at);
    }
    Ok(ranges)
}

/// Where the next data of a file is, from `at` on; `None` if only holes follow.
pub(super) fn next_data(file: impl AsFd, at: u64) -> io::Result<Option<u64>> {
    match seek(file, SeekFrom::Data(at)) {
        Ok(data) => Ok(Some(data)),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Where the data that is at `at` ends.
pub(super) fn end_of_data(file: impl AsFd, at: u64) -> io::Result<u64> {
    Ok(seek(file, SeekFrom::Hole(at))?)
}

/// Reads map `number` of a layer, and hashes its bytes.
///
/// # Errors
/// [`Error::Corrupt`] for one that is none, is not there or is too long.
pub(super) fn read_map(blocks: &Path, number: u64) -> Result<(BlockMap, Hash)> {
    let path = blocks.join(number.to_string());
    let corrupt = |why: String| Error::Corrupt {
        what: "map of blocks",
        why: format!("{}: {why}", path.display()),
        source: None,
    };
    let len = match fs::symlink_metadata(&path) {
        Ok(metadata) if metadata.is_file() => metadata.len(),
        Ok(_) => return Err(corrupt("it is no file".into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(corrupt("it is missing".into())),
        Err(error) => return Err(Error::io("read", path.display())(error)),
    };
    if len > map::MAX_LEN as u64 {
        return Err(corrupt(format!("it has {len} bytes, and {} are possible", map::MAX_LEN)));
    }
    let bytes = fs::read(&path).map_err(Error::io("read", path.display()))?;
    let map = BlockMap::parse(&bytes).map_err(|bad| corrupt(bad.to_string()))?;
    Ok((map, blake3::hash(&bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_stops_at_a_signal_within_a_file() {
        let (from, to) = (tempfile::tempfile().expect("a file"), tempfile::tempfile().expect("a file"));
        let size = 3 * AT_A_TIME;
        from.write_all_at(&vec![1; size as usize], 0).expect("written");
        let n_checks = std::cell::Cell::new(0);
        let check = || match n_checks.replace(n_checks.get() + 1) {
            0 => Ok(()),
            _ => Err(io::Error::other("a signal")),
        };
        let why = copy_while(&from, &to, 0..size, check).expect_err("stopped");
        assert_eq!(why.to_string(), "a signal");
        assert_eq!(to.metadata().expect("metadata").len(), AT_A_TIME);
        copy_while(&from, &to, 0..size, || Ok(())).expect("copied");
        assert_eq!(to.metadata().expect("metadata").len(), size);
    }

    /// Numbers that look random and are the same each time.
    struct Random(u64);

    impl Random {
        fn below(&mut self, n: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 11) % n
        }

        fn file(&mut self, size: u64) -> File {
            let file = tempfile::tempfile().expect("a file");
            for _ in 0..self.below(6) {
                let bytes = vec![self.below(255) as u8 + 1; self.below(20_000) as usize];
                file.write_all_at(&bytes, self.below(size.max(1))).expect("written");
            }
            file.set_len(size).expect("set");
            file
        }

        fn pieces(&mut self) -> Vec<Piece> {
            let mut size = self.below(100_000);
            let mut pieces = vec![Piece { file: self.file(size), size, map: None }];
            for _ in 0..self.below(4) {
                let mut map = BlockMap::new(12, size);
                (0..self.below(9)).for_each(|_| map.set(self.below(30)));
                if self.below(3) == 0 {
                    map.cut(self.below(100_000));
                }
                size = self.below(120_000).max(map.below());
                pieces.insert(0, Piece { file: self.file(size), size, map: Some(map) });
            }
            pieces
        }
    }

    #[test]
    fn a_copy_is_what_is_read_of_the_pieces() {
        let mut random = Random(4711);
        for _ in 0..300 {
            let pieces = random.pieces();
            let size = pieces[0].size;
            let content = Content { pieces, size };
            let (mut wanted, copy) = (vec![0; size as usize], tempfile::tempfile().expect("a file"));
            content.read_at(0, &mut wanted).expect("read");
            content.copy_to(&copy).expect("copied");
            let mut found = vec![0; size as usize];
            copy.read_exact_at(&mut found, 0).expect("read");
            assert_eq!(copy.metadata().expect("there").len(), size);
            assert!(found == wanted, "{:?}", content.pieces);
        }
    }
}
