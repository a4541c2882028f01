//! From bytes to whole records, every checksum compared.

use std::io::{self, Read};

use super::RECORD_LEN;
use super::begin::Begin;
use super::error::{Error, Result};
use super::fletcher::Fletcher4;
use super::nvlist::List;
use super::order::Fields;
use super::record::Record;

/// The length of the one buffer, in bytes.
const BUFFER_LEN: usize = 1 << 20;
/// Where the checksum stands in each record but BEGIN: at its end.
pub(super) const CHECKSUM_AT: usize = RECORD_LEN - 32;

/// A record, where it begins, and how much data stood behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Located {
    /// Bytes from the start of the input to the record.
    pub offset: u64,
    /// What it says.
    pub record: Record,
    /// The length of the data behind it in bytes.
    pub data_len: u64,
}

/// Reads one stream off `input` to its end and shows its records.
///
/// It holds one buffer of 1 MiB and the list behind BEGIN, which takes up to ten times its 256 KiB; data passes through
/// the buffer, is added to the checksum, and is not kept.
#[derive(Debug)]
pub struct Walker<R> {
    input: Buffered<R>,
    sums: Fletcher4,
    begin: Begin,
    list: Option<List>,
    left: u64,               // Of the data behind the last record, in bytes.
    total: Option<[u64; 4]>, // `Some` after END.
}

/// What one step has read.
pub(super) enum Step {
    Record(Located),
    Data,
    /// Nothing: the input has ended where the stream has.
    End,
}

impl<R: Read> Walker<R> {
    /// Reads the BEGIN record and the list behind it. Neither is known to be undamaged before the next record has been read.
    ///
    /// # Errors
    /// Those of the input, of [`Begin::parse`], and a list that can not be read.
    pub fn open(input: R) -> Result<Self> {
        let mut input = Buffered::new(input);
        if !input.want(RECORD_LEN)? {
            return Err(match Begin::is_at_start_of(input.held()) {
                true => input.truncated("its BEGIN record"),
                false => Error::Magic,
            });
        }
        let begin = Begin::parse(&input.record())?;
        let list_len = begin.payload_len as usize; // Which has been compared with its limit.
        if !input.want(RECORD_LEN + list_len)? {
            return Err(input.truncated("the list behind its BEGIN record"));
        }
        let head = &input.held()[..RECORD_LEN + list_len];
        let mut sums = Fletcher4::default();
        sums.update(head, begin.order);
        let list = match list_len {
            0 => None,
            _ => Some(List::parse(&head[RECORD_LEN..]).map_err(|source| Error::List { source })?),
        };
        input.consume(RECORD_LEN + list_len);
        Ok(Self { input, sums, begin, list, left: 0, total: None })
    }

    /// Goes on in the midst of a stream that begins with `begin`: `input` stands at a record, and what came before it, `offset` bytes, had these
    /// [`sums`](Self::sums). The list behind BEGIN is not known.
    pub fn behind(input: R, begin: Begin, sums: [u64; 4], offset: u64) -> Self {
        let input = Buffered { offset, ..Buffered::new(input) };
        Self { input, sums: Fletcher4(sums), begin, list: None, left: 0, total: None }
    }

    /// The fletcher-4 checksum of all that has been read.
    pub fn sums(&self) -> [u64; 4] {
        self.sums.0
    }

    /// What the stream is.
    pub fn begin(&self) -> &Begin {
        &self.begin
    }

    /// The list behind BEGIN: where a resumed stream goes on, the wrapped key of a raw one, what a redacted one lacks.
    pub fn list(&self) -> Option<&List> {
        self.list.as_ref()
    }

    /// How many bytes of the input have been read and checked.
    pub fn offset(&self) -> u64 {
        self.input.offset
    }

    /// The fletcher-4 checksum of all before END, which was found to be what END says; `None` before it.
    pub fn total(&self) -> Option<[u64; 4]> {
        self.total
    }

    /// The next record, after the data behind it has been read. That data is known to be undamaged when the record after it is shown.
    /// The last is END; then comes `None`, if the input ends with it.
    ///
    /// # Errors
    /// Those of the input, and whatever is no stream. After an error, what follows means nothing.
    pub fn next_record(&mut self) -> Result<Option<Located>> {
        loop {
            match self.step()? {
                Step::Record(item) => {
                    while self.left > 0 {
                        self.pass()?;
                    }
                    return Ok(Some(item));
                }
                Step::Data => {}
                Step::End => return Ok(None),
            }
        }
    }

    /// Reads a record, or some of the data behind it.
    pub(super) fn step(&mut self) -> Result<Step> {
        match self.total {
            _ if self.left > 0 => self.pass().map(|()| Step::Data),
            None => self.record().map(Step::Record),
            Some(_) => match self.input.want(1)? {
                true => Err(Error::Trailing { offset: self.input.offset }),
                false => Ok(Step::End),
            },
        }
    }

    /// The bytes that the last step has read; after [`Self::open`], those of BEGIN and its list.
    pub(super) fn passed(&self) -> &[u8] {
        self.input.last()
    }

    fn record(&mut self) -> Result<Located> {
        let offset = self.input.offset;
        if !self.input.want(RECORD_LEN)? {
            let what = if self.input.held().is_empty() { "its records: no END came" } else { "a record" };
            return Err(self.input.truncated(what));
        }
        let bytes = self.input.record();
        self.input.consume(RECORD_LEN);
        let before = self.sums;
        let record = self.check(&bytes, offset)?;
        if let Record::End { checksum, to_guid } = record {
            if checksum != before.0 {
                return Err(Error::Checksum { offset, record: "END" });
            }
            if to_guid != self.begin.to_guid {
                return Err(Error::Guid { offset, expected: self.begin.to_guid, found: to_guid });
            }
            self.total = Some(checksum);
        }
        let data_len = record.data_len(offset)?;
        self.left = data_len;
        Ok(Located { offset, record, data_len })
    }

    /// Adds a record to the sums and compares them with what it says, before anything else that it says is believed.
    fn check(&mut self, bytes: &[u8; RECORD_LEN], offset: u64) -> Result<Record> {
        let (content, stored) = bytes.split_at(CHECKSUM_AT);
        let fields = Fields { order: self.begin.order, bytes };
        self.sums.update(content, self.begin.order);
        let says = [0, 8, 16, 24].map(|at| fields.u64(CHECKSUM_AT + at));
        let record = Record::parse(fields, offset);
        // Old senders left it at zero, and END's total alone tells; the kernel takes that, too.
        if says != [0; 4] && says != self.sums.0 {
            let record = record.as_ref().map_or("unknown", Record::name);
            return Err(Error::Checksum { offset, record });
        }
        self.sums.update(stored, self.begin.order);
        record
    }

    /// Adds some of the data to the sums: as many whole words as are held, at least one.
    fn pass(&mut self) -> Result<()> {
        if !self.input.want(4)? {
            return Err(self.input.truncated("the data of a record"));
        }
        let held = self.input.held();
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(held.len());
        let words = most - most % 4;
        self.sums.update(&held[..words], self.begin.order);
        self.input.consume(words);
        self.left -= words as u64;
        Ok(())
    }
}

/// The input, 1 MiB at a time.
#[derive(Debug)]
struct Buffered<R> {
    input: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    offset: u64,     // Of `start`, in the input.
    last_len: usize, // What was consumed last lies before `start`, until more is read.
}

impl<R: Read> Buffered<R> {
    fn new(input: R) -> Self {
        Self {
            input,
            buffer: vec![0; BUFFER_LEN].into_boxed_slice(),
            start: 0,
            end: 0,
            offset: 0,
            last_len: 0,
        }
    }

    fn held(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// The next record, of which [`Self::want`] has said that it is held.
    fn record(&self) -> [u8; RECORD_LEN] {
        *self.held().first_chunk().expect("it is held")
    }

    fn last(&self) -> &[u8] {
        &self.buffer[self.start - self.last_len..self.start]
    }

    fn consume(&mut self, len: usize) {
        self.last_len = len;
        self.start += len;
        self.offset += len as u64;
    }

    fn truncated(&self, what: &'static str) -> Error {
        Error::Truncated { offset: self.offset + self.held().len() as u64, what }
    }

    /// Reads until `len` bytes are held, of at most the buffer's; `false` if the input ends before.
    fn want(&mut self, len: usize) -> Result<bool> {
        if self.end - self.start >= len {
            return Ok(true);
        }
        if self.start == self.end || self.start + len > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        while self.end - self.start < len {
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Ok(false),
                Ok(n) => self.end += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    let offset = self.offset + self.held().len() as u64;
                    return Err(Error::Io { offset, source });
                }
            }
        }
        Ok(true)
    }
}
