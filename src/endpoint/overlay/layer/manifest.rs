//! The manifest: a line for every entry of a layer, from which each changed bit is noticed (docs/FORMAT-overlay.md).

use std::fmt::Write as _;

use blake3::Hash;

/// The first line.
pub const TITLE: &str = "cowsnap manifest 1";

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Link,
    /// A block device.
    Block,
    /// A character device.
    Char,
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
    /// A whiteout.
    Whiteout,
}

const KINDS: [(Kind, char); 8] = [
    (Kind::File, 'f'),
    (Kind::Dir, 'd'),
    (Kind::Link, 'l'),
    (Kind::Block, 'b'),
    (Kind::Char, 'c'),
    (Kind::Fifo, 'p'),
    (Kind::Socket, 's'),
    (Kind::Whiteout, 'w'),
];

impl Kind {
    /// The letter that stands for it.
    pub fn letter(self) -> char {
        KINDS.iter().find(|(kind, _)| *kind == self).expect("all kinds have one").1
    }
}

/// How a file's data is hashed, or whether it is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Data {
    /// The blake3 of the data.
    #[default]
    Plain,
    /// The blake3 of the data's hashes, MiB by MiB: of files with large holes.
    Sparse,
    /// The blake3 of the map of blocks, and of the blocks that are here.
    Blocks,
    /// It is that of the file below.
    Metacopy,
}

/// How large an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Size {
    /// Directories, FIFOs, sockets and whiteouts have none.
    None,
    /// In bytes.
    Bytes(u64),
    /// A device's major and minor number.
    Device(u32, u32),
}

/// What is written down of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What it is.
    pub kind: Kind,
    /// How its data is hashed.
    pub data: Data,
    /// A directory of which nothing below shows.
    pub opaque: bool,
    /// What it is merged with has another name.
    pub redirect: bool,
    /// Permission bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// When it was modified, in nanoseconds since 1970.
    pub mtime_ns: i128,
    /// How large it is.
    pub size: Size,
    /// Of a file's data or a link's target.
    pub hash: Option<Hash>,
    /// Of the extended attributes that are part of the layer; `None` if there are none.
    pub xattrs: Option<Hash>,
    /// What the names of one file share; `None` if it has one name.
    pub group: Option<u32>,
    /// Where it is in the tree; empty for the root.
    pub path: Vec<u8>,
}

/// Why a text is no manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the manifest: {why}")]
pub struct Bad {
    /// Which line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: &'static str,
}

/// The manifest of these lines, which are in the order of their paths' bytes.
pub fn to_text(lines: &[Line]) -> String {
    let mut out = format!("{TITLE}\n");
    for line in lines {
        line.write(&mut out);
    }
    out
}

/// Reads a manifest. Each path occurs once, in order, after its directory; nothing of it can lead out of the tree.
///
/// # Errors
/// Which line is wrong, and why.
pub fn parse(text: &[u8]) -> Result<Vec<Line>, Bad> {
    let bad = |line: usize, why| Bad { line, why };
    let body = text.strip_suffix(b"\n").ok_or(bad(1, "it is cut off"))?;
    let mut texts = body.split(|&b| b == b'\n');
    if texts.next() != Some(TITLE.as_bytes()) {
        return Err(bad(1, "it is none, or of a newer version"));
    }
    let mut lines: Vec<Line> = Vec::new();
    let mut dirs = std::collections::HashSet::new();
    for (number, text) in texts.enumerate() {
        let number = number + 2;
        let text = std::str::from_utf8(text).map_err(|_| bad(number, "it is no ASCII"))?;
        let line = Line::parse(text).map_err(|why| bad(number, why))?;
        if lines.last().map(|last| &last.path) >= Some(&line.path) {
            return Err(bad(number, "its path is out of order"));
        }
        if !line.path.is_empty() && !dirs.contains(crate::endpoint::beneath::split(&line.path).0) {
            return Err(bad(number, "its path is in no directory of the layer"));
        }
        if line.kind == Kind::Dir {
            dirs.insert(line.path.clone());
        }
        lines.push(line);
    }
    match lines.first() {
        Some(Line { kind: Kind::Dir, path, .. }) if path.is_empty() => Ok(lines),
        _ => Err(bad(2, "it is not the root directory's")),
    }
}

impl Line {
    /// It as it stands in a manifest, without the newline behind it.
    pub fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text);
        text.truncate(text.len() - 1);
        text
    }

    /// Reads one line. Its path can not lead out of a tree.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of_text(text: &str) -> Result<Self, &'static str> {
        Self::parse(text)
    }

    fn write(&self, out: &mut String) {
        let marks = [
            (self.opaque, "+o"),
            (self.data == Data::Metacopy, "+m"),
            (self.data == Data::Blocks, "+b"),
            (self.data == Data::Sparse, "+z"),
            (self.redirect, "+r"),
        ];
        let marks: String = marks.iter().filter(|(is, _)| *is).map(|(_, mark)| *mark).collect();
        let size = match self.size {
            Size::None => "-".into(),
            Size::Bytes(len) => len.to_string(),
            Size::Device(major, minor) => format!("{major}:{minor}"),
        };
        let hash = |hash: &Option<Hash>| hash.map_or("-".into(), |hash| hash.to_hex().to_string());
        let group = self.group.map_or("-".into(), |group| group.to_string());
        let (kind, mode, uid, gid, mtime) =
            (self.kind.letter(), self.mode, self.uid, self.gid, self.mtime_ns);
        let (data, xattrs, path) = (hash(&self.hash), hash(&self.xattrs), escaped(&self.path));
        writeln!(
            out,
            "{kind}{marks}\t{mode:o}\t{uid}\t{gid}\t{mtime}\t{size}\t{data}\t{xattrs}\t{group}\t{path}"
        )
        .expect("a text takes text");
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        let fields: Vec<_> = text.split('\t').collect();
        let [kind, mode, uid, gid, mtime, size, hash, xattrs, group, path] = fields[..] else {
            return Err("it has not ten fields");
        };
        let mut marks = kind.split('+');
        let letter = marks.next().unwrap_or_default();
        let found = KINDS.iter().find(|(_, l)| letter.len() == 1 && letter.starts_with(*l));
        let mut line = Self {
            kind: found.ok_or("its type is unknown")?.0,
            data: Data::Plain,
            opaque: false,
            redirect: false,
            mode: u32::from_str_radix(mode, 8).map_err(|_| "its mode is none")?,
            uid: uid.parse().map_err(|_| "its owner is none")?,
            gid: gid.parse().map_err(|_| "its group is none")?,
            mtime_ns: mtime.parse().map_err(|_| "its time is none")?,
            size: parse_size(size)?,
            hash: parse_hash(hash)?,
            xattrs: parse_hash(xattrs)?,
            group: (group != "-").then(|| group.parse()).transpose().map_err(|_| "its link group is none")?,
            path: unescaped(path)?,
        };
        for mark in marks {
            line.take_mark(mark)?;
        }
        line.check()?;
        // One entry has one line: what is written otherwise was not written by this program.
        let mut again = String::new();
        line.write(&mut again);
        if again.trim_end_matches('\n') == text { Ok(line) } else { Err("it is not written as it should be") }
    }

    fn take_mark(&mut self, mark: &str) -> Result<(), &'static str> {
        let data = match mark {
            "o" => {
                self.opaque = true;
                return Ok(());
            }
            "r" => {
                self.redirect = true;
                return Ok(());
            }
            "m" => Data::Metacopy,
            "b" => Data::Blocks,
            "z" => Data::Sparse,
            _ => return Err("it has an unknown mark"),
        };
        if self.data != Data::Plain {
            return Err("its data is marked twice");
        }
        self.data = data;
        Ok(())
    }

    /// Whether its fields can stand together.
    fn check(&self) -> Result<(), &'static str> {
        let is_file = self.kind == Kind::File;
        let sized = match self.kind {
            Kind::File | Kind::Link => matches!(self.size, Size::Bytes(_)),
            Kind::Block | Kind::Char => matches!(self.size, Size::Device(..)),
            _ => self.size == Size::None,
        };
        let hashed = match self.kind {
            Kind::File => self.hash.is_some() != (self.data == Data::Metacopy),
            Kind::Link => self.hash.is_some(),
            _ => self.hash.is_none(),
        };
        let marked = (is_file || self.data == Data::Plain)
            && (!self.opaque || self.kind == Kind::Dir)
            && (!self.redirect || is_file || self.kind == Kind::Dir);
        let linked = self.group.is_none() || !matches!(self.kind, Kind::Dir | Kind::Whiteout);
        match (sized && hashed && marked && linked, self.mode) {
            (false, _) => Err("its fields contradict one another"),
            (true, 0o10000..) => Err("its mode is none"),
            _ if !self.path.is_empty() => crate::endpoint::beneath::check(&self.path),
            _ => Ok(()),
        }
    }
}

fn parse_size(text: &str) -> Result<Size, &'static str> {
    let bad = "its size is none";
    match (text, text.split_once(':')) {
        ("-", _) => Ok(Size::None),
        (_, Some((major, minor))) => {
            Ok(Size::Device(major.parse().map_err(|_| bad)?, minor.parse().map_err(|_| bad)?))
        }
        (text, None) => text.parse().map(Size::Bytes).map_err(|_| bad),
    }
}

fn parse_hash(text: &str) -> Result<Option<Hash>, &'static str> {
    (text != "-").then(|| Hash::from_hex(text)).transpose().map_err(|_| "a hash of it is none")
}

/// A path as it stands in a manifest; the root is `.`.
pub fn escaped(path: &[u8]) -> String {
    if path.is_empty() {
        return ".".into();
    }
    let mut out = String::with_capacity(path.len());
    for &byte in path {
        match byte {
            b'!'..=b'~' if byte != b'\\' => out.push(char::from(byte)),
            _ => write!(out, "\\x{byte:02x}").expect("a text takes text"),
        }
    }
    out
}

/// The path that [`escaped`] wrote so.
///
/// # Errors
/// What no path is written as. Where the path leads is for others to check.
pub fn unescaped(text: &str) -> Result<Vec<u8>, &'static str> {
    if text == "." {
        return Ok(Vec::new());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = match (byte, after) {
            (b'\\', [b'x', high, low, after @ ..]) => {
                let digit = |digit: &u8| char::from(*digit).to_digit(16).ok_or("its path is badly escaped");
                out.push((digit(high)? << 4 | digit(low)?) as u8);
                after
            }
            (b'\\', _) => return Err("its path is badly escaped"),
            _ => {
                out.push(byte);
                after
            }
        };
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &[u8]) -> Line {
        Line {
            kind: Kind::File,
            data: Data::Plain,
            opaque: false,
            redirect: false,
            mode: 0o644,
            uid: 1,
            gid: 2,
            mtime_ns: -1,
            size: Size::Bytes(3),
            hash: Some(blake3::hash(b"abc")),
            xattrs: None,
            group: None,
            path: path.into(),
        }
    }

    fn dir(path: &[u8]) -> Line {
        Line { kind: Kind::Dir, size: Size::None, hash: None, ..file(path) }
    }

    fn sample() -> Vec<Line> {
        vec![
            Line { xattrs: Some(blake3::hash(b"x")), ..dir(b"") },
            Line { kind: Kind::Whiteout, size: Size::None, hash: None, ..file(b" gone\xff\\") },
            Line { opaque: true, ..dir(b"a") },
            Line { group: Some(1), data: Data::Sparse, ..file(b"a/b") },
            Line { kind: Kind::Char, size: Size::Device(1, 3), hash: None, ..file(b"a/null") },
            Line { data: Data::Metacopy, redirect: true, hash: None, ..file(b"m") },
        ]
    }

    #[test]
    fn a_manifest_reads_back_and_its_layout_is_that_of_the_format() {
        let text = to_text(&sample());
        assert_eq!(parse(text.as_bytes()), Ok(sample()));
        for line in sample() {
            assert_eq!(Line::of_text(&line.text()), Ok(line));
        }
        let hash = blake3::hash(b"abc");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[2], "w\t644\t1\t2\t-1\t-\t-\t-\t-\t\\x20gone\\xff\\x5c");
        assert_eq!(lines[4], format!("f+z\t644\t1\t2\t-1\t3\t{hash}\t-\t1\ta/b"));
        assert_eq!(lines[6], "f+m+r\t644\t1\t2\t-1\t3\t-\t-\t-\tm");
        assert!(lines[1].ends_with("\t."));
    }

    #[test]
    fn no_changed_bit_gives_the_same_entries() {
        let text = to_text(&sample()).into_bytes();
        for bit in 0..text.len() * 8 {
            let mut changed = text.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(parse(&changed), Ok(sample()), "bit {bit}");
        }
        for len in 0..text.len() {
            assert_ne!(parse(&text[..len]), Ok(sample()), "cut at {len}");
        }
    }

    #[test]
    fn what_could_lead_out_or_contradicts_itself_is_refused() {
        let why = |lines: &[Line]| parse(to_text(lines).as_bytes()).unwrap_err().why;
        let root = || dir(b"");
        assert_eq!(why(&[root(), file(b"../x")]), "a . or .. in a path");
        assert_eq!(why(&[root(), file(b"..")]), "a . or .. in a path");
        assert_eq!(why(&[root(), file(b"/etc")]), "an absolute path");
        assert_eq!(why(&[root(), file(b"a"), file(b"a/b")]), "its path is in no directory of the layer");
        assert_eq!(why(&[root(), file(b"b"), file(b"a")]), "its path is out of order");
        assert_eq!(why(&[root(), file(b"b"), file(b"b")]), "its path is out of order");
        assert_eq!(why(&[file(b"b")]), "its path is in no directory of the layer");
        assert_eq!(why(&[]), "it is not the root directory's");
        assert_eq!(why(&[root(), Line { hash: None, ..file(b"a") }]), "its fields contradict one another");
        assert_eq!(why(&[root(), Line { opaque: true, ..file(b"a") }]), "its fields contradict one another");
        assert_eq!(why(&[root(), Line { mode: 0o10644, ..file(b"a") }]), "its mode is none");
        let odd = to_text(&[root(), file(b"a")]).replace("\ta\n", "\t\\x61\n");
        assert_eq!(
            parse(odd.as_bytes()).unwrap_err(),
            Bad { line: 3, why: "it is not written as it should be" }
        );
    }
}
