//! The manifest of a copy: one line for each file that was copied, written after it was.
//!
//! `BLAKE3 SIZE INODE MTIME CTIME PATH`, the path percent-encoded where it is not printable ASCII. A later line for the same path
//! wins; a last line without its newline was cut off and does not count.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::endpoint::{Error, Result};
use crate::exec::adopt::scan::{Entry, Stamp, Time};

const HEADER: &str = "cowsnap-manifest 1\n";
/// A manifest longer than this is none: it would be one of some ten million files.
const MAX_LEN: u64 = 4 << 30;

/// A file that was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// The blake3 of its content, holes read as zeros.
    pub hash: blake3::Hash,
    /// What the source was then.
    pub stamp: Stamp,
}

/// What was copied, and the file in which it is written down.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    done: HashMap<PathBuf, Done>,
}

impl Journal {
    /// Opens the journal at `path` and reads what it holds; begins one if there is none.
    ///
    /// # Errors
    /// A file that can not be read or written; [`Error::Corrupt`] if it is no manifest.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |op| Error::io::<_, io::Error>(op, path.display());
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(path)
            .map_err(failed("open manifest"))?;
        let text = read(&mut file, path)?;
        let whole = text.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
        let done = parse(&text[..whole], path)?;
        // What was cut off goes, so that the next line does not continue it.
        file.set_len(whole as u64).map_err(failed("write manifest"))?;
        io::Seek::seek(&mut file, io::SeekFrom::End(0)).map_err(failed("write manifest"))?;
        if whole == 0 {
            file.write_all(HEADER.as_bytes()).map_err(failed("write manifest"))?;
        }
        Ok(Self { path: path.into(), file, done })
    }

    /// What is written down of the file at `path`, if that is how the source is still.
    pub fn current(&self, entry: &Entry) -> Option<&Done> {
        self.done.get(&entry.path).filter(|done| done.stamp == entry.stamp)
    }

    /// What is written down of the file at `path`.
    pub fn get(&self, path: &Path) -> Option<&Done> {
        self.done.get(path)
    }

    /// All that is written down, in no order.
    pub fn all(&self) -> impl Iterator<Item = (&Path, &Done)> {
        self.done.iter().map(|(path, done)| (path.as_path(), done))
    }

    /// Writes down that a file was copied.
    ///
    /// # Errors
    /// A full disk, for one.
    pub fn add(&mut self, path: &Path, done: Done) -> Result<()> {
        let line = line(path, &done);
        self.file.write_all(line.as_bytes()).map_err(Error::io("write manifest", self.path.display()))?;
        self.done.insert(path.into(), done);
        Ok(())
    }

    /// Drops files that the source no longer has: they are not part of the copy.
    pub fn keep_only(&mut self, entries: &[Entry]) {
        let paths: std::collections::HashSet<_> = entries.iter().map(|entry| entry.path.as_path()).collect();
        self.done.retain(|path, _| paths.contains(path.as_path()));
    }

    /// Writes the journal anew, sorted, with nothing in it that no longer counts, and brings it to disk.
    ///
    /// # Errors
    /// A full disk, for one.
    pub fn seal(&self) -> Result<()> {
        let mut lines: Vec<_> = self.done.iter().collect();
        lines.sort_by(|a, b| a.0.cmp(b.0));
        let text: String = lines.into_iter().map(|(path, done)| line(path, done)).collect();
        let staging = self.path.with_extension("new");
        let write = || -> io::Result<()> {
            let mut file =
                OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&staging)?;
            file.write_all(HEADER.as_bytes())?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&staging, &self.path)
        };
        write().map_err(Error::io("write manifest", self.path.display()))
    }
}

fn read(file: &mut File, path: &Path) -> Result<Vec<u8>> {
    let length = file.metadata().map_err(Error::io("read manifest", path.display()))?.len();
    if length > MAX_LEN {
        return Err(corrupt(path, format!("it is {length} bytes long; at most {MAX_LEN} are possible")));
    }
    let mut text = Vec::with_capacity(length as usize);
    file.read_to_end(&mut text).map_err(Error::io("read manifest", path.display()))?;
    Ok(text)
}

fn parse(text: &[u8], path: &Path) -> Result<HashMap<PathBuf, Done>> {
    let mut done = HashMap::new();
    if text.is_empty() {
        return Ok(done);
    }
    let lines = text.strip_prefix(HEADER.as_bytes());
    let lines = lines.ok_or_else(|| corrupt(path, "it does not begin as one".into()))?;
    for (n, text) in lines.split_inclusive(|&b| b == b'\n').enumerate() {
        let parsed = std::str::from_utf8(text).ok().and_then(parse_line);
        let (file, entry) = parsed.ok_or_else(|| corrupt(path, format!("line {} is none", n + 2)))?;
        done.insert(file, entry);
    }
    Ok(done)
}

fn corrupt(path: &Path, why: String) -> Error {
    Error::Corrupt { what: "manifest", why: format!("{}: {why}", path.display()), source: None }
}

fn line(path: &Path, done: &Done) -> String {
    let Stamp { inode, size, mtime, ctime } = done.stamp;
    let time = |(sec, nsec): Time| format!("{sec}.{nsec:09}");
    format!("{} {size} {inode} {} {} {}\n", done.hash, time(mtime), time(ctime), encode(path))
}

fn parse_line(line: &str) -> Option<(PathBuf, Done)> {
    let mut fields = line.strip_suffix('\n')?.split(' ');
    let hash = blake3::Hash::from_hex(fields.next()?).ok()?;
    let size = fields.next()?.parse().ok()?;
    let inode = fields.next()?.parse().ok()?;
    let time = |text: &str| {
        let (sec, nsec) = text.split_once('.')?;
        Some((sec.parse().ok()?, nsec.parse().ok()?))
    };
    let (mtime, ctime) = (time(fields.next()?)?, time(fields.next()?)?);
    let path = decode(fields.next()?)?;
    fields.next().is_none().then_some((path, Done { hash, stamp: Stamp { inode, size, mtime, ctime } }))
}

fn encode(path: &Path) -> String {
    let mut text = String::new();
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'!'..=b'~' if byte != b'%' => text.push(byte.into()),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

fn decode(text: &str) -> Option<PathBuf> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    Some(OsString::from_vec(bytes).into())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    fn done(size: u64) -> Done {
        let stamp = Stamp { inode: 7, size, mtime: (-1, 5), ctime: (2, 999_999_999) };
        Done { hash: blake3::hash(b"x"), stamp }
    }

    #[test]
    fn a_line_survives_being_written_and_read_whatever_the_path() {
        for bytes in [&b"a/b c"[..], b"100%", b"\n\xff\x00", b""] {
            let path = Path::new(OsStr::from_bytes(bytes));
            assert_eq!(parse_line(&line(path, &done(3))), Some((path.to_owned(), done(3))));
        }
    }

    #[test]
    fn a_line_that_was_cut_off_does_not_count_and_is_not_continued() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("manifest");
        let mut journal = Journal::open(&path).expect("opens");
        journal.add(Path::new("a"), done(1)).expect("writes");
        journal.add(Path::new("b"), done(2)).expect("writes");
        let length = std::fs::metadata(&path).expect("stat").len();
        journal.file.set_len(length - 3).expect("cut");
        let mut journal = Journal::open(&path).expect("opens again");
        assert_eq!((journal.get(Path::new("a")), journal.get(Path::new("b"))), (Some(&done(1)), None));
        journal.add(Path::new("b"), done(3)).expect("writes");
        assert_eq!(Journal::open(&path).expect("opens").get(Path::new("b")), Some(&done(3)));
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("manifest");
        for text in ["something else\n", "cowsnap-manifest 1\nnot a line\n"] {
            std::fs::write(&path, text).expect("write");
            assert!(matches!(Journal::open(&path), Err(Error::Corrupt { .. })), "{text:?}");
        }
    }
}
