//! A stream handed on byte for byte, and looked at on the way.

use std::io::{self, Read};

use super::error::Error;
use super::walker::{Step, Walker};

/// Reads `input` unchanged. It comes to an end only if that is after an END record, and every checksum was right.
///
/// What is wrong with the stream is an [`io::Error`] that holds an [`Error`]. What comes before it is handed on, but never an END
/// record: that only after the total and the guid in it have been compared.
#[derive(Debug)]
pub struct Whole<R> {
    state: State<R>,
    taken: usize, // Invariant: at most the length of what the walker has passed.
}

#[derive(Debug)]
enum State<R> {
    Fresh(R),
    Open(Box<Walker<R>>),
    Over,
    Failed,
}

impl<R: Read> Whole<R> {
    /// Reads nothing yet.
    pub fn new(input: R) -> Self {
        Self { state: State::Fresh(input), taken: 0 }
    }

    /// Reads until something can be handed on; `false` at the end.
    fn advance(&mut self) -> Result<bool, Error> {
        self.taken = 0;
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Fresh(input) => self.state = State::Open(Box::new(Walker::open(input)?)),
            State::Open(mut walker) => match walker.step()? {
                Step::Record(_) | Step::Data => self.state = State::Open(walker),
                Step::End => self.state = State::Over,
            },
            State::Over => self.state = State::Over,
            State::Failed => return Err(Error::Spent),
        }
        Ok(!matches!(self.state, State::Over))
    }

    fn held(&self) -> &[u8] {
        match &self.state {
            State::Open(walker) => &walker.passed()[self.taken..],
            State::Fresh(_) | State::Over | State::Failed => &[],
        }
    }
}

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.held().is_empty() {
            match self.advance() {
                Ok(true) => {}
                Ok(false) => return Ok(0),
                Err(Error::Io { source, .. }) => return Err(source),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        let len = self.held().read(buffer)?;
        self.taken += len;
        Ok(len)
    }
}
