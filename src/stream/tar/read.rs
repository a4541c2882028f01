//! Archives are read, entry by entry; every length is checked before it is believed.

use std::io::{self, Read};
use std::ops::Range;

use super::{BLOCK, MAX_EXTENDED, MAX_RANGES, Member, SOCKET, TYPES, Type, XATTR, checksum, padding};
use crate::error::Class;

/// Why an archive can not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its bytes make no sense.
    #[error("the archive is damaged at byte {at}: {why}")]
    Bad {
        /// Where, in the archive.
        at: u64,
        /// What is wrong there.
        why: String,
    },
    /// The input failed or ended.
    #[error("cannot read the archive at byte {at}")]
    Read {
        /// Where.
        at: u64,
        /// What the input said.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// What it means for whoever runs the program.
    pub fn class(&self) -> Class {
        match self {
            Self::Bad { .. } => Class::Corrupt,
            Self::Read { source, .. } => crate::error::class_of_io(source),
        }
    }
}

/// Reads an archive. Between [`Reader::entry`] and the next one, the entry's data is read from the reader itself.
pub struct Reader<R> {
    input: R,
    at: u64,
    left: u64,    // Of the entry's data.
    padding: u64, // After it.
}

impl<R: Read> Reader<R> {
    /// From `input`.
    pub fn new(input: R) -> Self {
        Self { input, at: 0, left: 0, padding: 0 }
    }

    /// The next entry; `None` at the archive's end. What was not read of the one before is passed over.
    ///
    /// # Errors
    /// An archive that is cut off or makes no sense.
    pub fn entry(&mut self) -> Result<Option<Member>, Error> {
        self.pass()?;
        let mut extended = Extended::default();
        loop {
            let start = self.at;
            let header = self.block()?;
            if header == [0; BLOCK] {
                return match (extended.is_empty, self.block()?) {
                    (true, block) if block == [0; BLOCK] => Ok(None),
                    _ => Err(bad(start, "an empty header")),
                };
            }
            let header = Header(&header, start);
            header.check()?;
            let stored = extended.size.take().map_or_else(|| header.number(124, 12), Ok)?;
            if stored > i64::MAX as u64 {
                return Err(bad(start, format!("an entry of {stored} bytes")));
            }
            match header.0[156] {
                b'x' => extended = self.extended(start, stored)?.after(extended),
                // What it says of all entries: GNU tar and git put a comment there.
                b'g' => drop(self.extended(start, stored)?),
                // GNU's own way to have long names.
                b'L' => (extended.is_empty, extended.path) = (false, Some(self.long_name(start, stored)?)),
                b'K' => (extended.is_empty, extended.link) = (false, Some(self.long_name(start, stored)?)),
                _ => return self.member(&header, extended, stored).map(Some),
            }
        }
    }

    fn long_name(&mut self, start: u64, len: u64) -> Result<Vec<u8>, Error> {
        let bytes = self.lump(start, len)?;
        Ok(bytes.split(|&byte| byte == 0).next().unwrap_or_default().to_vec())
    }

    fn member(&mut self, header: &Header<'_>, extended: Extended, stored: u64) -> Result<Member, Error> {
        let Extended { path, link, mtime_ns, uid, gid, sparse, real_size, xattrs, socket, .. } = extended;
        let letter = if header.0[156] == 0 { b'0' } else { header.0[156] };
        let kind = TYPES.iter().find(|(_, l)| *l == letter).map(|(kind, _)| *kind);
        let kind =
            kind.ok_or_else(|| bad(header.1, format!("an entry of the type {:?}", char::from(letter))))?;
        let kind = if socket && kind == Type::File { Type::Socket } else { kind };
        let device = |at| Ok::<_, Error>(header.number(at, 8)? as u32);
        let has_device = matches!(kind, Type::Char | Type::Block);
        let mut member = Member {
            kind,
            path: path.unwrap_or_else(|| header.path()),
            mode: header.number(100, 8)? as u32 & 0o7777,
            uid: uid.map_or_else(|| header.number(108, 8).map(|id| id as u32), Ok)?,
            gid: gid.map_or_else(|| header.number(116, 8).map(|id| id as u32), Ok)?,
            mtime_ns: match mtime_ns {
                Some(time) => time,
                None => i128::from(header.number(136, 12)?) * 1_000_000_000,
            },
            size: stored,
            link: link.unwrap_or_else(|| header.text(157, 100)),
            device: if has_device { (device(329)?, device(337)?) } else { (0, 0) },
            xattrs,
            ranges: None,
        };
        while member.path.len() > 1 && member.path.ends_with(b"/") {
            member.path.pop();
        }
        if kind != Type::File && stored != 0 {
            return Err(bad(header.1, "data in an entry that is no file"));
        }
        self.left = stored;
        self.padding = padding(stored) as u64;
        if sparse {
            let size = real_size.ok_or_else(|| bad(header.1, "a sparse file without a size"))?;
            member.size = size;
            member.ranges = Some(self.map(size)?);
            if member.stored() != self.left {
                return Err(bad(self.at, "a sparse file whose map is not that of its data"));
            }
        }
        Ok(member)
    }

    /// Reads the map before a sparse file's data.
    fn map(&mut self, size: u64) -> Result<Vec<Range<u64>>, Error> {
        let start = self.left;
        let count = self.map_number()?;
        if count > MAX_RANGES as u64 + 1 {
            return Err(bad(self.at, format!("a sparse file of {count} ranges, {MAX_RANGES} are possible")));
        }
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for _ in 0..count {
            let (from, len) = (self.map_number()?, self.map_number()?);
            let end = from.checked_add(len).filter(|&end| end <= size);
            let after = ranges.last().map_or(0, |last| last.end);
            let end = end.filter(|_| from >= after);
            ranges.push(from..end.ok_or_else(|| bad(self.at, "a range of data that can not be there"))?);
        }
        ranges.retain(|range| !range.is_empty());
        let mut rest = [0; BLOCK];
        let rest = &mut rest[..padding(start - self.left)];
        self.fill_data(rest)?;
        Ok(ranges)
    }

    fn map_number(&mut self) -> Result<u64, Error> {
        let mut number: Option<u64> = None;
        loop {
            let mut byte = [0];
            self.fill_data(&mut byte)?;
            number = match (byte[0], number) {
                (b'\n', Some(number)) => return Ok(number),
                (digit @ b'0'..=b'9', so_far) => {
                    let more = so_far.unwrap_or(0).checked_mul(10);
                    more.and_then(|more| more.checked_add(u64::from(digit - b'0')))
                }
                _ => None,
            };
            if number.is_none() {
                return Err(bad(self.at, "a map of a sparse file that is none"));
            }
        }
    }

    fn fill_data(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        let at = self.at;
        if buffer.len() as u64 > self.left {
            return Err(bad(at, "a map of a sparse file that is cut off"));
        }
        self.read_exact(buffer).map_err(|source| Error::Read { at, source })
    }

    fn extended(&mut self, start: u64, len: u64) -> Result<Extended, Error> {
        Extended::parse(&self.lump(start, len)?).map_err(|why| bad(start, why))
    }

    /// What stands behind a header that says something of the next one.
    fn lump(&mut self, start: u64, len: u64) -> Result<Vec<u8>, Error> {
        if len > MAX_EXTENDED as u64 {
            return Err(bad(
                start,
                format!("an extended header of {len} bytes, {MAX_EXTENDED} are possible"),
            ));
        }
        let mut bytes = vec![0; (len as usize).next_multiple_of(BLOCK)];
        self.fill(&mut bytes)?;
        bytes.truncate(len as usize);
        Ok(bytes)
    }

    /// Passes over what was not read of the entry, and over what fills its last block up.
    ///
    /// # Errors
    /// An archive that is cut off.
    pub fn pass(&mut self) -> Result<(), Error> {
        let (at, len) = (self.at, self.left + self.padding);
        let skipped = io::copy(&mut (&mut self.input).take(len), &mut io::sink());
        let skipped = skipped.map_err(|source| Error::Read { at, source })?;
        self.at += skipped;
        (self.left, self.padding) = (0, 0);
        match skipped == len {
            true => Ok(()),
            false => Err(Error::Read { at: self.at, source: io::ErrorKind::UnexpectedEof.into() }),
        }
    }

    fn block(&mut self) -> Result<[u8; BLOCK], Error> {
        let mut block = [0; BLOCK];
        self.fill(&mut block)?;
        Ok(block)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        let at = self.at;
        self.input.read_exact(buffer).map_err(|source| Error::Read { at, source })?;
        self.at += buffer.len() as u64;
        Ok(())
    }

    /// How many bytes were read of the archive.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// The input.
    pub fn get_mut(&mut self) -> &mut R {
        &mut self.input
    }

    /// The input, behind what was read.
    pub fn into_inner(self) -> R {
        self.input
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let len = self.input.read(&mut buffer[..len])?;
        self.left -= len as u64;
        self.at += len as u64;
        Ok(len)
    }
}

fn bad(at: u64, why: impl Into<String>) -> Error {
    Error::Bad { at, why: why.into() }
}

/// A header, and where it stands.
struct Header<'a>(&'a [u8; BLOCK], u64);

impl Header<'_> {
    fn check(&self) -> Result<(), Error> {
        if &self.0[257..263] != b"ustar\0" && !self.is_gnu() {
            return Err(bad(self.1, "no header of a tar archive"));
        }
        match self.number(148, 8)? == u64::from(checksum(self.0)) {
            true => Ok(()),
            false => Err(bad(self.1, "a header whose sum is wrong")),
        }
    }

    /// Whether it is of GNU tar's own format, which has no prefix of a path.
    fn is_gnu(&self) -> bool {
        &self.0[257..265] == b"ustar  \0"
    }

    /// An octal number, or as GNU tar has large ones: the bytes themselves.
    fn number(&self, at: usize, len: usize) -> Result<u64, Error> {
        if self.0[at] == 0x80 {
            let (high, low) = self.0[at + 1..at + len].split_at((len - 1).saturating_sub(8));
            let none = || bad(self.1, "a number that is too large");
            let is_small = high.iter().all(|&byte| byte == 0);
            return match is_small {
                true => Ok(low.iter().fold(0, |number, &byte| number << 8 | u64::from(byte))),
                false => Err(none()),
            };
        }
        let text = self.0[at..at + len].trim_ascii_end();
        let text = text.strip_suffix(b"\0").unwrap_or(text).trim_ascii();
        let digits = std::str::from_utf8(text).unwrap_or("?").trim_end_matches('\0');
        match digits {
            "" => Ok(0),
            digits => u64::from_str_radix(digits, 8).map_err(|_| bad(self.1, "a number that is none")),
        }
    }

    fn text(&self, at: usize, len: usize) -> Vec<u8> {
        self.0[at..at + len].split(|&byte| byte == 0).next().unwrap_or_default().to_vec()
    }

    fn path(&self) -> Vec<u8> {
        match self.text(345, 155) {
            prefix if prefix.is_empty() || self.is_gnu() => self.text(0, 100),
            prefix => [prefix, self.text(0, 100)].join(&b'/'),
        }
    }
}

/// What an extended header says.
struct Extended {
    is_empty: bool,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    mtime_ns: Option<i128>,
    uid: Option<u32>,
    gid: Option<u32>,
    size: Option<u64>,
    sparse: bool,
    real_size: Option<u64>,
    xattrs: std::collections::BTreeMap<Vec<u8>, Vec<u8>>,
    socket: bool,
}

impl Default for Extended {
    fn default() -> Self {
        Self {
            is_empty: true,
            path: None,
            link: None,
            mtime_ns: None,
            uid: None,
            gid: None,
            size: None,
            sparse: false,
            real_size: None,
            xattrs: std::collections::BTreeMap::new(),
            socket: false,
        }
    }
}

impl Extended {
    /// It, with what GNU's headers before it said.
    fn after(mut self, earlier: Self) -> Self {
        self.path = self.path.or(earlier.path);
        self.link = self.link.or(earlier.link);
        self
    }

    fn parse(mut bytes: &[u8]) -> Result<Self, &'static str> {
        let mut extended = Self { is_empty: false, ..Self::default() };
        while !bytes.is_empty() {
            let bad = "a record of an extended header that is none";
            let blank = bytes.iter().take(8).position(|&byte| byte == b' ').ok_or(bad)?;
            let len: usize = text(&bytes[..blank])?.parse().map_err(|_| bad)?;
            let record =
                bytes.get(blank + 1..len).and_then(|record| record.strip_suffix(b"\n")).ok_or(bad)?;
            let equals = record.iter().position(|&byte| byte == b'=').ok_or(bad)?;
            extended.take(text(&record[..equals])?, &record[equals + 1..])?;
            bytes = &bytes[len..];
        }
        Ok(extended)
    }

    fn take(&mut self, key: &str, value: &[u8]) -> Result<(), &'static str> {
        match key {
            "path" | "GNU.sparse.name" => self.path = Some(value.to_vec()),
            "linkpath" => self.link = Some(value.to_vec()),
            "mtime" => self.mtime_ns = Some(nanoseconds(text(value)?).ok_or("a time that is none")?),
            "uid" => self.uid = Some(number(value)?),
            "gid" => self.gid = Some(number(value)?),
            "size" => self.size = Some(number(value)?),
            "GNU.sparse.major" if value == b"1" => self.sparse = true,
            "GNU.sparse.minor" if value == b"0" => {}
            "GNU.sparse.realsize" => self.real_size = Some(number(value)?),
            SOCKET => self.socket = true,
            _ if key.starts_with("GNU.sparse.") => return Err("a sparse file of another version"),
            _ => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    let name = name.replace("%3D", "=").replace("%25", "%");
                    self.xattrs.insert(name.into_bytes(), value.to_vec());
                }
            }
        }
        Ok(())
    }
}

fn text(bytes: &[u8]) -> Result<&str, &'static str> {
    std::str::from_utf8(bytes).map_err(|_| "an extended header that is no text")
}

fn number<T: std::str::FromStr>(value: &[u8]) -> Result<T, &'static str> {
    text(value)?.parse().map_err(|_| "a number in an extended header that is none")
}

/// A decimal number of seconds in nanoseconds; digits beyond are dropped.
fn nanoseconds(text: &str) -> Option<i128> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    let (seconds, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = |text: &str| text.len() <= 18 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(seconds) || seconds.is_empty() || !is_number(fraction) {
        return None;
    }
    let fraction = format!("{fraction:0<9}");
    Some(sign * (seconds.parse::<i128>().ok()? * 1_000_000_000 + fraction[..9].parse::<i128>().ok()?))
}
