//! A stream handed on byte for byte, and looked at on the way.

use std::io::{self, Read};

use super::error::{Error, Result};
use super::framing::{Framer, spare};
use super::wire::{HEADER_LEN, MAGIC};

/// Reads `input`, which is one stream, unchanged. It comes to an end only if that is after an end command, and every command
/// was one.
///
/// What is wrong with the stream is an [`io::Error`] that holds an [`Error`]. Some of what comes before it is handed on.
#[derive(Debug)]
pub struct Whole<R> {
    framer: Framer<R>,
    bytes: Vec<u8>,
    taken: usize, // Invariant: at most `bytes.len()`.
    given: u64,   // Of the input.
    buffer: Box<[u8]>,
}

impl<R: Read> Whole<R> {
    /// Reads nothing yet.
    pub fn new(input: R) -> Self {
        Self { framer: Framer::new(input), bytes: Vec::new(), taken: 0, given: 0, buffer: spare() }
    }

    /// Takes the next commands; `false` at the end.
    fn advance(&mut self) -> Result<bool> {
        let Some(mut batch) = self.framer.next_batch(std::mem::take(&mut self.buffer))? else {
            return Ok(false);
        };
        self.bytes.clear();
        self.taken = 0;
        // Between what was given and the batch is nothing, or the header of a stream that begins.
        let header_len = self.framer.offset() - batch.bytes().len() as u64 - self.given;
        if header_len == HEADER_LEN as u64 {
            if self.given > 0 {
                return Err(Error::Several { offset: self.given });
            }
            self.bytes.extend(MAGIC);
            self.bytes.extend(batch.version().number().to_le_bytes());
        }
        self.bytes.extend(batch.bytes());
        self.given = self.framer.offset();
        while batch.next_command()?.is_some() {}
        self.buffer = batch.into_buffer();
        Ok(true)
    }
}

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.bytes.len() {
            match self.advance() {
                Ok(true) => {}
                Ok(false) => return Ok(0),
                Err(Error::Io { source, .. }) => return Err(source),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        let len = (&self.bytes[self.taken..]).read(buffer)?;
        self.taken += len;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::super::encode::Encoder;
    use super::super::{Command, Version};
    use super::*;

    fn stream(version: Version) -> Vec<u8> {
        let (path, uuid) = (&b"s"[..], [1; 16]);
        let data = vec![7; 40_000];
        let mut encoder = Encoder::new(version);
        encoder.push(&Command::Subvol { path, uuid, ctransid: 1 });
        for n in 0..60 {
            encoder.push(&Command::Write { path, offset: n * 40_000, data: &data });
        }
        encoder.finish()
    }

    #[test]
    fn a_whole_stream_is_handed_on_byte_for_byte() {
        for version in [Version::V1, Version::V2] {
            let (stream, mut read) = (stream(version), Vec::new());
            Whole::new(&stream[..]).read_to_end(&mut read).expect("it is whole");
            assert!(read == stream);
        }
    }

    #[test]
    fn a_stream_that_is_cut_off_or_damaged_is_an_error_that_says_where() {
        let stream = stream(Version::V2);
        let error_of = |bytes: &[u8]| {
            let error = Whole::new(bytes).read_to_end(&mut Vec::new()).expect_err("it is not whole");
            error.downcast::<Error>().expect("of the stream").to_string()
        };
        for len in [5, 17, 30, stream.len() / 2, stream.len() - 1] {
            let said = error_of(&stream[..len]);
            assert!(said.contains(&format!("ends at byte {len}")) || len == 5, "{len}: {said}");
        }
        let mut flipped = stream.clone();
        flipped[100_000] ^= 1;
        assert!(error_of(&flipped).contains("checksum"));
        assert!(error_of(&[&stream[..], b"more"].concat()).contains("follow the end"));
    }

    #[test]
    fn a_further_stream_is_not_taken_for_a_part_of_the_first() {
        let (first, second) = (stream(Version::V1), stream(Version::V2));
        let mut read = Vec::new();
        let both = [&first[..], &second].concat();
        let error = Whole::new(&both[..]).read_to_end(&mut read).expect_err("two are not one");
        let said = error.downcast::<Error>().expect("of the stream").to_string();
        assert!(said.contains(&format!("begins at byte {}", first.len())), "{said}");
        assert!(read.len() <= first.len());
    }

    #[test]
    fn an_error_of_the_input_is_passed_on() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::ConnectionReset.into())
            }
        }
        let error = Whole::new(Broken).read(&mut [0; 8]).expect_err("broken");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
