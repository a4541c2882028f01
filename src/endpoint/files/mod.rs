//! Files of a snapshot as one archive, and an archive as the files of a new dataset (docs/FORMAT-files.md).

pub mod http;
pub mod land;
pub mod pack;
pub mod unpack;

use std::io::{self, Read, Write};

use crate::model::Digest;

fn digest(hash: blake3::Hash) -> Digest {
    Digest(*hash.as_bytes())
}

/// Hashes what flows past while it is to.
pub(crate) struct Headers<T> {
    inner: T,
    hasher: blake3::Hasher,
    is_data: bool,
}

impl<T> Headers<T> {
    fn new(inner: T) -> Self {
        Self { inner, hasher: blake3::Hasher::new(), is_data: false }
    }

    /// From here on it is a file's data, or no longer.
    fn data(&mut self, is_data: bool) {
        self.is_data = is_data;
    }

    fn digest(&self) -> Digest {
        digest(self.hasher.finalize())
    }
}

impl<R: Read> Read for Headers<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buffer)?;
        if !self.is_data {
            self.hasher.update(&buffer[..len]);
        }
        Ok(len)
    }
}

impl<W: Write> Write for Headers<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.inner.write(bytes)?;
        if !self.is_data {
            self.hasher.update(&bytes[..len]);
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
