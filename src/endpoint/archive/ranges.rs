//! A long object, read piece by piece.

use std::io::{self, BufRead, Read};

use crate::endpoint::store::{Error, Result, Store};

/// How long an object is that is read at once, in bytes; and how much of a longer one.
pub const SHORT: u64 = 2 << 20;

/// Reads an object. Its `io::Error`s are the store's. If it is another one meanwhile, that is for its digest to find out.
pub struct Ranges<'a> {
    store: &'a Store,
    key: &'a str,
    len: u64,
    /// Where the piece ends that is in memory.
    at: u64,
    piece: Vec<u8>,
    taken: usize,
}

impl<'a> Ranges<'a> {
    /// Of an object that is so long, of at most `max`. Nothing is read yet.
    ///
    /// # Errors
    /// [`Error::TooLong`].
    pub fn open(store: &'a Store, key: &'a str, len: u64, max: u64) -> Result<Self> {
        if len > max {
            return Err(Error::TooLong { op: "read", subject: store.url().with_key(key), len, max });
        }
        Ok(Self { store, key, len, at: 0, piece: Vec::new(), taken: 0 })
    }
}

impl BufRead for Ranges<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.taken == self.piece.len() && self.at < self.len {
            let end = self.len.min(self.at + SHORT);
            self.piece = Vec::new(); // Before the next one takes its memory.
            self.taken = 0;
            self.piece = self.store.get_range(self.key, self.at..end)?;
            self.at = end;
        }
        Ok(&self.piece[self.taken..])
    }

    fn consume(&mut self, read: usize) {
        self.taken = self.piece.len().min(self.taken + read);
    }
}

impl Read for Ranges<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}
