//! One command after another, for whoever does not need threads.

use std::io::Read;

use super::command::Command;
use super::error::Result;
use super::framing::{Batch, Framer, spare};
use super::wire::Version;

/// A command and where it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Located<'a> {
    /// Bytes from the start of the input to the command's header.
    pub offset: u64,
    /// What it says.
    pub command: Command<'a>,
}

/// Reads commands off `input`, 1 MiB at a time; what it gives borrows from its buffer.
#[derive(Debug)]
pub struct Parser<R> {
    framer: Framer<R>,
    batch: Option<Batch>,
}

impl<R: Read> Parser<R> {
    /// Reads nothing yet.
    pub fn new(input: R) -> Self {
        Self { framer: Framer::new(input), batch: None }
    }

    /// The version of the stream that the last command came from; `None` before the first one.
    pub fn version(&self) -> Option<Version> {
        self.batch.as_ref().map(Batch::version)
    }

    /// The next command; `None` when the input has ended after an end command.
    ///
    /// # Errors
    /// Whatever [`Framer::next_batch`] and [`Batch::next_command`] find. After an error, what follows means nothing.
    pub fn next_command(&mut self) -> Result<Option<Located<'_>>> {
        if self.batch.as_ref().is_none_or(Batch::is_empty) {
            let buffer = self.batch.take().map_or_else(spare, Batch::into_buffer);
            self.batch = self.framer.next_batch(buffer)?;
        }
        match &mut self.batch {
            Some(batch) => batch.next_command(),
            None => Ok(None),
        }
    }
}
