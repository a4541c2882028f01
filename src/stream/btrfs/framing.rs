//! From bytes to whole commands: large reads, lengths checked before anything is waited for, checksums compared.

use std::io::{self, Read};

use super::command::{Command, Frame};
use super::error::{Error, Result};
use super::parser::Located;
use super::wire::{COMMAND_LEN, Code, HEADER_LEN, MAGIC, Version, checksum};

/// The length of a buffer in bytes: larger than the longest command of every version.
const BUFFER_LEN: usize = 1 << 20;
/// How many writes are taken together: as many as one call of the kernel takes, and no more than that.
const MAX_RUN: usize = 512;

/// A command, and if it writes, the data of the writes that go on where it ends.
pub type Run<'a> = (Located<'a>, Vec<&'a [u8]>);

/// Some whole commands of one stream, their checksums compared, their contents not yet looked at.
#[derive(Debug)]
pub struct Batch {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    offset: u64, // Of `start`, in the stream.
    version: Version,
}

impl Batch {
    /// The version of the stream that it belongs to.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Where the command stands in the stream that comes next.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Takes the next command off the front; `None` when all have been taken.
    ///
    /// # Errors
    /// Unknown, missing, repeated and malformed attributes, with their offset.
    pub fn next_command(&mut self) -> Result<Option<Located<'_>>> {
        let Some((offset, range)) = self.advance() else { return Ok(None) };
        self.parse(offset, range).map(Some)
    }

    /// Takes the next command, and if it writes, the writes after it that go on where it ends in the same file: their data.
    ///
    /// The kernel cuts an extent into commands of 48 KiB; written back together, they cost a fraction.
    ///
    /// # Errors
    /// Those of [`Self::next_command`], for the first one; a later command that is damaged is left for the next call.
    pub fn next_run(&mut self) -> Result<Option<Run<'_>>> {
        let Some((offset, range)) = self.advance() else { return Ok(None) };
        let mut ranges = Vec::new();
        let mut last = (offset, range);
        while ranges.len() < MAX_RUN && self.continues(last) {
            let Some(next) = self.advance() else { break };
            ranges.push(next);
            last = next;
        }
        let data = |(offset, range)| match self.parse(offset, range)?.command {
            Command::Write { data, .. } => Ok(data),
            _ => Ok(&[][..]), // None is: `continues` says so of writes alone.
        };
        let more = ranges.into_iter().map(data).collect::<Result<_>>()?;
        Ok(Some((self.parse(offset, range)?, more)))
    }

    /// Whether the command that comes next goes on where the write `last` ends.
    fn continues(&self, last: (u64, (usize, usize))) -> bool {
        let is_write = |at: usize| self.buffer[at + 4..at + 6] == (Code::Write as u16).to_le_bytes();
        if self.start == self.end || !is_write(last.1.0) || !is_write(self.start) {
            return false;
        }
        let next = (self.start, self.start + COMMAND_LEN + u32_at(&self.buffer, self.start) as usize);
        let (Ok(last), Ok(next)) = (self.parse(last.0, last.1), self.parse(self.offset, next)) else {
            return false;
        };
        match (last.command, next.command) {
            (
                Command::Write { path, offset, data },
                Command::Write { path: same, offset: further, data: more },
            ) => path == same && !more.is_empty() && offset.checked_add(data.len() as u64) == Some(further),
            _ => false,
        }
    }

    /// The bytes of the commands that have not been taken.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Whether all commands have been taken.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Gives the buffer back, to be used again.
    pub fn into_buffer(self) -> Box<[u8]> {
        self.buffer
    }

    fn advance(&mut self) -> Option<(u64, (usize, usize))> {
        if self.start == self.end {
            return None;
        }
        let (offset, start) = (self.offset, self.start);
        self.start += COMMAND_LEN + u32_at(&self.buffer, start) as usize;
        self.offset += (self.start - start) as u64;
        Some((offset, (start, self.start)))
    }

    fn parse(&self, offset: u64, (start, end): (usize, usize)) -> Result<Located<'_>> {
        let bytes = &self.buffer[start..end];
        let code = u16::from_le_bytes([bytes[4], bytes[5]]);
        let unknown = Error::UnknownCommand { offset, code, version: self.version.number() };
        let code = Code::from_number(code).filter(|code| code.since() <= self.version).ok_or(unknown)?;
        let payload = &bytes[COMMAND_LEN..];
        let frame = Frame { offset: offset + COMMAND_LEN as u64, version: self.version, code, payload };
        Ok(Located { offset, command: Command::parse(frame)? })
    }
}

/// Cuts a stream into [`Batch`]es. Holds one buffer of 1 MiB, whatever the stream claims.
#[derive(Debug)]
pub struct Framer<R> {
    input: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    offset: u64,              // Of `start`, in the stream.
    version: Option<Version>, // `None` before a header.
    n_streams: u64,
}

impl<R: Read> Framer<R> {
    /// Reads nothing yet.
    pub fn new(input: R) -> Self {
        Self { input, buffer: spare(), start: 0, end: 0, offset: 0, version: None, n_streams: 0 }
    }

    /// Goes on within a stream of that version: `input` begins with the command at `offset`.
    pub fn resume(input: R, version: Version, offset: u64) -> Self {
        Self { offset, version: Some(version), n_streams: 1, ..Self::new(input) }
    }

    /// The next commands, at least one; `None` at the input's end, which comes after an end command only.
    ///
    /// `spare` becomes the next buffer: give back what [`Batch::into_buffer`] gave.
    ///
    /// # Errors
    /// Those of the input, and whatever is no stream. Commands before the damage are given first.
    pub fn next_batch(&mut self, spare: Box<[u8]>) -> Result<Option<Batch>> {
        let version = match self.version {
            Some(version) => version,
            None => match self.header()? {
                Some(version) => version,
                None => return Ok(None),
            },
        };
        let (mut end, mut code) = self.first_command(version)?;
        while code != Code::End as u16 {
            match self.complete_command(end, version) {
                Ok(Some(next)) => (end, code) = next,
                Ok(None) | Err(_) => break, // Damage is found again, as the first command of the next batch.
            }
        }
        if code == Code::End as u16 {
            self.version = None;
        }
        Ok(Some(self.cut(end, version, spare)))
    }

    /// How many bytes of the input have been given out.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    fn cut(&mut self, end: usize, version: Version, spare: Box<[u8]>) -> Batch {
        let mut next = if spare.len() == BUFFER_LEN { spare } else { self::spare() };
        let left = self.end - end;
        next[..left].copy_from_slice(&self.buffer[end..self.end]);
        let buffer = std::mem::replace(&mut self.buffer, next);
        let batch = Batch { buffer, start: self.start, end, offset: self.offset, version };
        self.offset += (end - self.start) as u64;
        (self.start, self.end) = (0, left);
        batch
    }

    /// Reads a stream's header; `None` if the input ends where a further one could begin.
    fn header(&mut self) -> Result<Option<Version>> {
        if self.n_streams > 0 && !self.want(1)? {
            return Ok(None);
        }
        let whole = self.want(HEADER_LEN)?;
        let held = &self.buffer[self.start..self.end];
        let magic = &held[..held.len().min(MAGIC.len())];
        if *magic != MAGIC[..magic.len()] {
            return Err(match self.n_streams {
                0 => Error::Magic,
                _ => Error::Trailing { offset: self.offset },
            });
        }
        if !whole {
            return Err(self.truncated("its header"));
        }
        let number = u32_at(&self.buffer, self.start + MAGIC.len());
        let version =
            Version::from_number(number).ok_or(Error::Version { offset: self.offset, found: number })?;
        self.start += HEADER_LEN;
        self.offset += HEADER_LEN as u64;
        self.version = Some(version);
        self.n_streams += 1;
        Ok(Some(version))
    }

    /// The end and the number of the command at `start`, read as far as needed.
    fn first_command(&mut self, version: Version) -> Result<(usize, u16)> {
        if !self.want(COMMAND_LEN)? {
            let what = if self.start == self.end {
                "its commands: no end command came"
            } else {
                "a command's header"
            };
            return Err(self.truncated(what));
        }
        let len = checked_len(u32_at(&self.buffer, self.start), self.offset, version)?;
        if !self.want(COMMAND_LEN + len)? {
            return Err(self.truncated("a command"));
        }
        let found = self.complete_command(self.start, version)?;
        Ok(found.expect("all of the command has been read"))
    }

    /// The end and the number of the command at `at`, if all of it is in the buffer.
    fn complete_command(&self, at: usize, version: Version) -> Result<Option<(usize, u16)>> {
        let offset = self.offset + (at - self.start) as u64;
        let held = &self.buffer[at..self.end];
        if held.len() < COMMAND_LEN {
            return Ok(None);
        }
        let len = checked_len(u32_at(held, 0), offset, version)?;
        let Some(command) = held.get(..COMMAND_LEN + len) else { return Ok(None) };
        let (stored, found) = (u32_at(command, 6), checksum(command));
        if stored != found {
            return Err(Error::Checksum { offset, stored, found });
        }
        Ok(Some((at + command.len(), u16::from_le_bytes([command[4], command[5]]))))
    }

    fn truncated(&self, what: &'static str) -> Error {
        Error::Truncated { offset: self.offset + (self.end - self.start) as u64, what }
    }

    /// Reads until `len` bytes are held; `false` if the input ends before.
    fn want(&mut self, len: usize) -> Result<bool> {
        if self.start + len > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        while self.end - self.start < len {
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Ok(false),
                Ok(n) => self.end += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    let offset = self.offset + (self.end - self.start) as u64;
                    return Err(Error::Io { offset, source });
                }
            }
        }
        Ok(true)
    }
}

/// A fresh buffer.
pub(super) fn spare() -> Box<[u8]> {
    vec![0; BUFFER_LEN].into_boxed_slice()
}

fn checked_len(len: u32, offset: u64, version: Version) -> Result<usize> {
    let max = version.max_command_len();
    match usize::try_from(len) {
        Ok(len) if len <= max => Ok(len),
        _ => Err(Error::TooLong { offset, len: len.into(), max: max as u64 }),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
