//! Archives are written: the same entries give the same bytes.

use std::io::{self, Read, Write};
use std::ops::Range;

use super::{BLOCK, MAX_EXTENDED, MAX_RANGES, Member, SOCKET, TYPES, Type, XATTR, checksum, padding};

const MAX_OCTAL_7: u64 = 0o7_777_777;
const MAX_OCTAL_11: u64 = 0o77_777_777_777;

/// Writes an archive.
pub struct Writer<W> {
    out: W,
}

impl<W: Write> Writer<W> {
    /// To `out`.
    pub fn new(out: W) -> Self {
        Self { out }
    }

    /// Writes an entry with its data: of a sparse file, that of its ranges, one after another.
    ///
    /// # Errors
    /// What the output says; `UnexpectedEof` if there is less data than was said; `InvalidInput` for more attributes than an
    /// archive of ours can carry.
    pub fn append(&mut self, member: &Member, data: &mut dyn Read) -> io::Result<()> {
        let member = &coarse(member);
        let padding = self.begin(member)?;
        let copied = io::copy(&mut data.take(member.stored()), &mut self.out)?;
        if copied < member.stored() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.end(padding)
    }

    /// Writes all that stands before an entry's data, which the caller writes to [`Writer::get_mut`]: [`Member::stored`] bytes, and then
    /// [`Writer::end`] with the answer.
    ///
    /// # Errors
    /// As [`Writer::append`]. A sparse file must be [coarse](Member::coarse).
    pub fn begin(&mut self, member: &Member) -> io::Result<usize> {
        let map = member.ranges.as_deref().map(|ranges| map_of(ranges, member.size)).unwrap_or_default();
        let stored = map.len() as u64 + member.stored();
        let extended = extended(member, stored);
        if extended.len() > MAX_EXTENDED {
            let why = format!(
                "its attributes and names take {} bytes, {MAX_EXTENDED} are possible",
                extended.len()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        if !extended.is_empty() {
            let header =
                Member { size: extended.len() as u64, ..Member::new(Type::File, b"PaxHeaders/x".as_slice()) };
            self.out.write_all(&header_of(&header, b'x', extended.len() as u64))?;
            self.padded(&extended)?;
        }
        let letter = TYPES.iter().find(|(kind, _)| *kind == member.kind).expect("all types have one").1;
        self.out.write_all(&header_of(member, letter, stored))?;
        self.out.write_all(&map)?;
        Ok(padding(stored))
    }

    /// Writes what is missing behind an entry's data: what [`Writer::begin`] answered.
    ///
    /// # Errors
    /// What the output says.
    pub fn end(&mut self, padding: usize) -> io::Result<()> {
        self.out.write_all(&[0; BLOCK][..padding])
    }

    /// Where it writes.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.out
    }

    /// Writes the end of the archive.
    ///
    /// # Errors
    /// What the output says.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        Ok(self.out)
    }

    fn padded(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.out.write_all(&[0; BLOCK][..padding(bytes.len() as u64)])
    }
}

/// As [`Member::coarse`].
pub(super) fn coarse(member: &Member) -> Member {
    let mut member = member.clone();
    let Some(ranges) = &mut member.ranges else { return member };
    let mut hole = BLOCK as u64;
    while ranges.len() > MAX_RANGES {
        let mut joined: Vec<Range<u64>> = Vec::new();
        for range in ranges.drain(..) {
            match joined.last_mut() {
                Some(last) if range.start - last.end <= hole => last.end = range.end,
                _ => joined.push(range),
            }
        }
        *ranges = joined;
        hole *= 2;
    }
    member
}

/// The map of a sparse file, as GNU tar's format 1.0 has it: an empty range at its end tells how long the file is.
fn map_of(ranges: &[Range<u64>], size: u64) -> Vec<u8> {
    let mut map = format!("{}\n", ranges.len() + 1);
    ranges.iter().for_each(|range| map += &format!("{}\n{}\n", range.start, range.end - range.start));
    map += &format!("{size}\n0\n");
    let mut map = map.into_bytes();
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}

/// What does not fit into the header proper.
fn extended(member: &Member, stored: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let mut put = |key: &str, value: &[u8]| out.extend(record(key, value));
    if member.ranges.is_some() {
        put("GNU.sparse.major", b"1");
        put("GNU.sparse.minor", b"0");
        put("GNU.sparse.name", &member.path);
        put("GNU.sparse.realsize", member.size.to_string().as_bytes());
    } else if !is_plain(&member.path, 99) {
        put("path", &member.path);
    }
    if !is_plain(&member.link, 100) {
        put("linkpath", &member.link);
    }
    if member.mtime_ns % 1_000_000_000 != 0 || !(0..1 << 33).contains(&(member.mtime_ns / 1_000_000_000)) {
        put("mtime", decimal(member.mtime_ns).as_bytes());
    }
    for (key, id) in [("uid", member.uid), ("gid", member.gid)] {
        if u64::from(id) > MAX_OCTAL_7 {
            put(key, id.to_string().as_bytes());
        }
    }
    if stored > MAX_OCTAL_11 {
        put("size", stored.to_string().as_bytes());
    }
    for (name, value) in &member.xattrs {
        put(&format!("{XATTR}{}", encoded(name)), value);
    }
    if member.kind == Type::Socket {
        put(SOCKET, b"1");
    }
    out
}

/// Names of attributes are text without an equals sign; GNU tar escapes that, and the percent sign.
fn encoded(name: &[u8]) -> String {
    String::from_utf8_lossy(name).replace('%', "%25").replace('=', "%3D")
}

fn is_plain(text: &[u8], max: usize) -> bool {
    text.len() <= max && text.iter().all(|byte| (b' '..=b'~').contains(byte))
}

/// `LENGTH KEY=VALUE\n`, the length being that of all of it.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while rest + len.to_string().len() != len {
        len = rest + len.to_string().len();
    }
    [format!("{len} {key}=").as_bytes(), value, b"\n"].concat()
}

fn decimal(ns: i128) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    format!("{sign}{}.{:09}", ns.unsigned_abs() / 1_000_000_000, ns.unsigned_abs() % 1_000_000_000)
}

fn header_of(member: &Member, letter: u8, stored: u64) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    let mut path = match member.ranges {
        Some(_) => b"GNUSparseFile.0/".to_vec(),
        None => Vec::new(),
    };
    path.extend(&member.path);
    if member.kind == Type::Dir {
        path.push(b'/');
    }
    put(0, &path[..path.len().min(100)]);
    put(100, octal(member.mode.into(), 7).as_bytes());
    put(108, octal(u64::from(member.uid).min(MAX_OCTAL_7), 7).as_bytes());
    put(116, octal(u64::from(member.gid).min(MAX_OCTAL_7), 7).as_bytes());
    put(124, octal(stored.min(MAX_OCTAL_11), 11).as_bytes());
    let seconds = (member.mtime_ns / 1_000_000_000).clamp(0, i128::from(MAX_OCTAL_11)) as u64;
    put(136, octal(seconds, 11).as_bytes());
    put(156, &[letter]);
    put(157, &member.link[..member.link.len().min(100)]);
    put(257, b"ustar\x0000");
    if matches!(member.kind, Type::Char | Type::Block) {
        put(329, octal(member.device.0.into(), 7).as_bytes());
        put(337, octal(member.device.1.into(), 7).as_bytes());
    }
    let sum = format!("{:06o}\0 ", checksum(&header));
    header[148..156].copy_from_slice(sum.as_bytes());
    header
}

fn octal(number: u64, digits: usize) -> String {
    format!("{number:0digits$o}")
}
