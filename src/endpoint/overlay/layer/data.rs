//! The data of a file that is in several layers: whole in one, or some of its blocks in each.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use blake3::Hash;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::map::{self, BlockMap};
use super::merge::Part;
use super::tree::Stack;
use crate::endpoint::{Error, Result};

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

    /// Writes it to `to`, an empty file, leaving holes where it has some.
    pub fn copy_to(&self, to: &File) -> io::Result<()> {
        let (mut buffer, mut at) = (vec![0; CHUNK], 0);
        while let Some(data) = self.next_data(at)? {
            at = data / CHUNK as u64 * CHUNK as u64;
            let len = self.read_at(at, &mut buffer)?;
            if buffer[..len].iter().any(|&byte| byte != 0) {
                to.write_all_at(&buffer[..len], at)?;
            }
            at += CHUNK as u64;
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
pub(super) fn data_ranges(file: &File, size: u64) -> io::Result<Vec<std::ops::Range<u64>>> {
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
