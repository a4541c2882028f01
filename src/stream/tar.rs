//! tar archives in the PAX format, as GNU tar reads and writes them: nanoseconds, extended attributes, sparse files, names of any
//! bytes. GNU's own format is read too, but for its sparse files. What is read here is bounded before it is allocated, and paths are only bytes:
//! whoever makes files checks them.

mod read;
mod write;

pub use read::{Error, Reader};
pub use write::Writer;

use std::collections::BTreeMap;
use std::ops::Range;

/// Headers and data come in units of this many bytes.
const BLOCK: usize = 512;
/// The longest extended header, in bytes: what all names, numbers and attributes of an entry take.
pub const MAX_EXTENDED: usize = 1 << 20;
/// The most ranges of data that a sparse file has.
pub const MAX_RANGES: usize = 1 << 16;

const XATTR: &str = "SCHILY.xattr.";
const SOCKET: &str = "COWSNAP.socket";

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// A regular file.
    File,
    /// Another name of an earlier entry, `link`.
    Hard,
    /// A symbolic link to `link`.
    Symbolic,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A directory.
    Dir,
    /// A FIFO.
    Fifo,
    /// A socket; other programs take it for an empty file.
    Socket,
}

impl Type {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Hard => "hardlink",
            Self::Symbolic => "symlink",
            Self::Char => "char",
            Self::Block => "block",
            Self::Dir => "dir",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
        }
    }
}

const TYPES: [(Type, u8); 8] = [
    (Type::File, b'0'),
    (Type::Hard, b'1'),
    (Type::Symbolic, b'2'),
    (Type::Char, b'3'),
    (Type::Block, b'4'),
    (Type::Dir, b'5'),
    (Type::Fifo, b'6'),
    (Type::Socket, b'0'), // Told by its extended header.
];

/// An entry of an archive, but for its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What it is.
    pub kind: Type,
    /// What it is called, without a slash at its end.
    pub path: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// When it was modified, in nanoseconds since 1970.
    pub mtime_ns: i128,
    /// A file's length in bytes, holes included.
    pub size: u64,
    /// Where a link leads.
    pub link: Vec<u8>,
    /// A device's major and minor number.
    pub device: (u32, u32),
    /// Extended attributes, by name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Where a sparse file has data; `None` if all of it is there.
    pub ranges: Option<Vec<Range<u64>>>,
}

impl Member {
    /// Something of that kind and name, of nobody, at no time, and empty.
    pub fn new(kind: Type, path: impl Into<Vec<u8>>) -> Self {
        Self {
            kind,
            path: path.into(),
            mode: 0o600,
            uid: 0,
            gid: 0,
            mtime_ns: 0,
            size: 0,
            link: Vec::new(),
            device: (0, 0),
            xattrs: BTreeMap::new(),
            ranges: None,
        }
    }

    /// With no more ranges than an archive can have: those with the smallest holes between them become one.
    #[must_use]
    pub fn coarse(&self) -> Self {
        write::coarse(self)
    }

    /// How many bytes of data follow it in an archive, its map and padding aside.
    pub fn stored(&self) -> u64 {
        match &self.ranges {
            Some(ranges) => ranges.iter().map(|range| range.end - range.start).sum(),
            None => self.size,
        }
    }
}

/// The sum of a header's bytes, with blanks where it stands itself.
fn checksum(header: &[u8; BLOCK]) -> u32 {
    let blank = |at: usize, byte: u8| if (148..156).contains(&at) { b' ' } else { byte };
    header.iter().enumerate().map(|(at, &byte)| u32::from(blank(at, byte))).sum()
}

/// How many bytes are missing from a whole block.
fn padding(len: u64) -> usize {
    (len.next_multiple_of(BLOCK as u64) - len) as usize
}

#[cfg(test)]
mod tests;
