//! Where two manifests differ, told directory by directory: only directories that differ are looked into.

use std::fmt;

use serde::Serialize;

use super::{Line, Page, check, escaped};
use crate::endpoint::overlay::layer::manifest::{Kind, Size};
use crate::endpoint::{Error, Result};
use crate::model::Digest;

/// No more differences than this are looked for.
pub const MOST_DIFFERENCES: usize = 10;

/// A path at which two trees differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Where, with `\xHH` for what is no printable ASCII; the root is `.`.
    pub path: String,
    /// What is there at the source; `None` if nothing is.
    pub source: Option<String>,
    /// What is there at the target; `None` if nothing is.
    pub target: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.source, &self.target) {
            (Some(source), Some(target)) => {
                write!(f, "{}: {source} at the source, {target} at the target", self.path)
            }
            (Some(_), None) => write!(f, "{}: only at the source", self.path),
            (None, _) => write!(f, "{}: only at the target", self.path),
        }
    }
}

/// Who tells a manifest page by page: the entries of a directory that come behind a path.
pub type Tell<'a> = dyn FnMut(&[u8], Option<&[u8]>) -> Result<Page> + 'a;

/// The first differences of two manifests, [`MOST_DIFFERENCES`] at most; `true` if there may be others.
///
/// # Errors
/// What either side says; [`Error::Corrupt`] for pages that are none.
pub fn compare(source: &mut Tell<'_>, target: &mut Tell<'_>) -> Result<(Vec<Difference>, bool)> {
    let mut found = Found::default();
    let mut waiting = vec![Vec::new()];
    while let Some(dir) = waiting.pop() {
        let (mut ours, mut theirs) = (Side::new(&dir, source), Side::new(&dir, target));
        let mut deeper = Vec::new();
        loop {
            if found.differences.len() == MOST_DIFFERENCES {
                return Ok((found.differences, true));
            }
            let order = match (ours.peek()?, theirs.peek()?) {
                (None, None) => break,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some((a, _)), Some((b, _))) => a.path.cmp(&b.path),
            };
            let a = if order.is_le() { ours.next() } else { None };
            let b = if order.is_ge() { theirs.next() } else { None };
            if let Some(dir) = found.note(a, b) {
                deeper.push(dir);
            }
        }
        // Taken from the end: so they come in order.
        waiting.extend(deeper.into_iter().rev());
    }
    Ok(found.all())
}

type Told = (Line, Option<Digest>);

#[derive(Default)]
struct Found {
    differences: Vec<Difference>,
    renumbered: Vec<Difference>,
}

impl Found {
    /// Takes note of what is at one place; the directory to look into, if there is one.
    fn note(&mut self, a: Option<Told>, b: Option<Told>) -> Option<Vec<u8>> {
        let (Some((ours, our_below)), Some((theirs, their_below))) = (&a, &b) else {
            let path = a.as_ref().or(b.as_ref()).map(|(line, _)| escaped(&line.path)).unwrap_or_default();
            let told = |told: &Option<Told>| told.as_ref().map(|(line, _)| word(line.kind).to_owned());
            self.differences.push(Difference { path, source: told(&a), target: told(&b) });
            return None;
        };
        if ours != theirs {
            let (source, target) = differing(ours, theirs);
            let difference =
                Difference { path: escaped(&ours.path), source: Some(source), target: Some(target) };
            // One file with another number of names moves the numbers of all behind it.
            match (Line { group: None, ..ours.clone() }) == (Line { group: None, ..theirs.clone() }) {
                true if ours.group.is_some() && theirs.group.is_some() => self.renumbered.push(difference),
                _ => self.differences.push(difference),
            }
        }
        // What is below the root is told behind it.
        (our_below != their_below && ours.kind == theirs.kind && !ours.path.is_empty())
            .then(|| ours.path.clone())
    }

    fn all(mut self) -> (Vec<Difference>, bool) {
        if self.differences.is_empty() {
            self.differences = self.renumbered;
        }
        let more = self.differences.len() > MOST_DIFFERENCES;
        self.differences.truncate(MOST_DIFFERENCES);
        (self.differences, more)
    }
}

/// One side's directory, page by page.
struct Side<'a, 'b> {
    dir: &'a [u8],
    tell: &'a mut Tell<'b>,
    entries: std::vec::IntoIter<Told>,
    last: Option<Vec<u8>>,
    more: bool,
}

impl<'a, 'b> Side<'a, 'b> {
    fn new(dir: &'a [u8], tell: &'a mut Tell<'b>) -> Self {
        Self { dir, tell, entries: Vec::new().into_iter(), last: None, more: true }
    }

    fn peek(&mut self) -> Result<Option<&Told>> {
        if self.entries.as_slice().is_empty() && self.more {
            let page = (self.tell)(self.dir, self.last.as_deref())?;
            let entries = check(&page, self.dir, self.last.as_deref()).map_err(strange)?;
            self.more = page.more;
            self.last = entries.last().map(|(line, _)| line.path.clone());
            self.entries = entries.into_iter();
        }
        Ok(self.entries.as_slice().first())
    }

    fn next(&mut self) -> Option<Told> {
        self.entries.next()
    }
}

fn strange(why: &'static str) -> Error {
    Error::Corrupt { what: "conversation", why: format!("a page of a manifest is none: {why}"), source: None }
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Dir => "directory",
        Kind::Link => "link",
        Kind::Block => "block device",
        Kind::Char => "character device",
        Kind::Fifo => "FIFO",
        Kind::Socket => "socket",
        Kind::Whiteout => "whiteout",
    }
}

/// What two lines of one path say differently, each in its own words.
fn differing(a: &Line, b: &Line) -> (String, String) {
    type Field = (&'static str, fn(&Line) -> String);
    let fields: [Field; 8] = [
        ("", |line| word(line.kind).into()),
        ("mode ", |line| format!("{:o}", line.mode)),
        ("owner ", |line| format!("{}:{}", line.uid, line.gid)),
        ("", |line| match line.size {
            Size::None => "no size".into(),
            Size::Bytes(len) => format!("{len} bytes"),
            Size::Device(major, minor) => format!("device {major}:{minor}"),
        }),
        ("blake3 ", |line| line.hash.map_or("none".into(), |hash| hash.to_hex()[..16].into())),
        ("attributes ", |line| line.xattrs.map_or("none".into(), |hash| hash.to_hex()[..16].into())),
        ("mtime ", |line| {
            format!(
                "{}.{:09}",
                line.mtime_ns.div_euclid(1_000_000_000),
                line.mtime_ns.rem_euclid(1_000_000_000)
            )
        }),
        ("link group ", |line| line.group.map_or("none".into(), |group| group.to_string())),
    ];
    let differing: Vec<_> = fields.iter().filter(|(_, of)| of(a) != of(b)).collect();
    let told = |line: &Line| {
        let words: Vec<_> = differing.iter().map(|(what, of)| format!("{what}{}", of(line))).collect();
        if words.is_empty() { "other marks".to_owned() } else { words.join(", ") }
    };
    (told(a), told(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::content::{MOST_ENTRIES, digest, page};
    use crate::endpoint::overlay::layer::manifest::Data;

    fn line(path: &str, kind: Kind, byte: u8) -> Line {
        Line {
            kind,
            data: Data::Plain,
            opaque: false,
            redirect: false,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime_ns: -1,
            size: if kind == Kind::File { Size::Bytes(1) } else { Size::None },
            hash: (kind == Kind::File).then(|| blake3::hash(&[byte])),
            xattrs: None,
            group: None,
            path: path.into(),
        }
    }

    /// Directories end in a slash; what comes behind `=` is in the file.
    fn tree(text: &str) -> Vec<Line> {
        let mut lines = vec![line("", Kind::Dir, 0)];
        lines.extend(text.split_whitespace().map(|word| match word.strip_suffix('/') {
            Some(dir) => line(dir, Kind::Dir, 0),
            None => {
                let (path, byte) = word.split_once('=').unwrap_or((word, "0"));
                line(path, Kind::File, byte.as_bytes()[0])
            }
        }));
        lines.sort_by(|a, b| a.path.cmp(&b.path));
        lines
    }

    fn found(a: &[Line], b: &[Line]) -> (Vec<Difference>, bool, usize) {
        let asked = std::cell::Cell::new(0);
        let mut ours = |dir: &[u8], after: Option<&[u8]>| {
            asked.set(asked.get() + 1);
            Ok(page(a, dir, after))
        };
        let mut theirs = |dir: &[u8], after: Option<&[u8]>| Ok(page(b, dir, after));
        let (differences, more) = compare(&mut ours, &mut theirs).expect("both tell");
        (differences, more, asked.get())
    }

    fn told(a: &str, b: &str) -> String {
        let (differences, more, _) = found(&tree(a), &tree(b));
        let mut told: Vec<_> = differences.iter().map(ToString::to_string).collect();
        told.extend(more.then(|| "…".into()));
        told.join("; ")
    }

    #[test]
    fn what_differs_is_named_and_where() {
        let all = "a-b a/ a/x a/y/ a/y/z=1 a0 b/ b/c=2";
        assert_eq!(told(all, all), "");
        assert_eq!(told(all, "a-b a/ a/x a/y/ a/y/z=1 a0 b/"), "b/c: only at the source");
        assert_eq!(told("a/ a/x", "a/ a/x a/y/ a/y/z"), "a/y: only at the target");
        let said = told("a/ a/x b", "a b");
        let (ours, theirs) = said.split_once(" at the source, ").expect("both");
        assert_eq!(ours, "a: directory, no size, blake3 none");
        assert!(theirs.starts_with("file, 1 bytes, blake3 ") && theirs.ends_with(" at the target"), "{said}");
        let said = told(all, "a-b=1 a/ a/x a/y/ a/y/z=2 a0 b/ b/c=2");
        assert!(said.starts_with("a-b: blake3 ") && said.contains("; a/y/z: blake3 "), "{said}");
        let mut other = tree(all);
        other[0].mode = 0o700;
        let (differences, ..) = found(&tree(all), &other);
        assert_eq!(differences[0].to_string(), ".: mode 755 at the source, mode 700 at the target");
    }

    #[test]
    fn only_what_differs_is_looked_into_and_not_all_of_that() {
        let big: String =
            (0..3 * MOST_ENTRIES).map(|n| format!("d/{n:05}=1 e/f{n:05}/ e/f{n:05}/x=1 ")).collect();
        let (a, mut b) = (tree(&format!("{big} d/ e/")), tree(&format!("{big} d/ e/")));
        assert_eq!(found(&a, &a).2, 2, "the root, and what is in it");
        b.last_mut().expect("many").mode = 0o600;
        let (differences, more, asked) = found(&a, &b);
        assert_eq!((differences.len(), more, asked), (1, false, 6));
        assert!(differences[0].path.starts_with("e/f02999/x"), "{differences:?}");
        b.iter_mut().for_each(|line| line.uid = 7);
        let (differences, more, _) = found(&a, &b);
        assert_eq!((differences.len(), more), (MOST_DIFFERENCES, true));
    }

    #[test]
    fn names_of_one_file_that_are_only_counted_otherwise_come_last() {
        let (mut a, mut b) = (tree("a b c d"), tree("a b c d"));
        for at in [3, 4] {
            (a[at].group, b[at].group) = (Some(1), Some(2));
        }
        assert_eq!(found(&a, &b).0.len(), 2);
        (b[1].group, b[2].group) = (Some(1), Some(1));
        let paths: Vec<_> = found(&a, &b).0.into_iter().map(|difference| difference.path).collect();
        assert_eq!(paths, ["a", "b"]);
    }

    #[test]
    fn every_change_of_a_line_is_another_digest_and_is_found() {
        let all = tree("a/ a/b=1 c");
        let changes: [fn(&mut Line); 7] = [
            |line| line.mode ^= 1,
            |line| line.uid += 1,
            |line| line.gid += 1,
            |line| line.mtime_ns += 1,
            |line| line.xattrs = Some(blake3::hash(b"x")),
            |line| line.path.push(b'!'),
            |line| {
                if line.kind == Kind::File {
                    line.hash = Some(blake3::hash(b"other"));
                    line.group = Some(1);
                } else {
                    line.mode ^= 2;
                }
            },
        ];
        for at in 1..all.len() {
            for change in changes {
                let mut other = all.clone();
                change(&mut other[at]);
                if other.iter().any(|line| line.path.starts_with(b"a/"))
                    && !other.iter().any(|line| line.path == b"a")
                {
                    continue; // A manifest has the directory of each entry.
                }
                assert_ne!(digest(&all), digest(&other));
                assert!(!found(&all, &other).0.is_empty(), "{:?}", other[at]);
            }
        }
    }

    #[test]
    fn a_page_that_is_none_is_refused() {
        let root = page(&tree("a/ a/b c"), b"", None);
        let rest = page(&tree("a/ a/b c"), b"", Some(b""));
        assert!(check(&root, b"", None).is_ok() && check(&rest, b"", Some(b"")).is_ok());
        let refused =
            |page: &Page, dir: &[u8], after: Option<&[u8]>| check(page, dir, after).expect_err("it is none");
        assert_eq!(refused(&rest, b"", None), "it names what is in another directory");
        assert_eq!(refused(&rest, b"x", None), "it names what is in another directory");
        assert_eq!(refused(&rest, b"", Some(b"b")), "its entries are not in order");
        assert_eq!(
            refused(&Page { more: true, ..Page::default() }, b"", None),
            "it is empty, and not the last one"
        );
        let mut odd = rest.clone();
        odd.entries[0].below = None;
        assert_eq!(refused(&odd, b"", Some(b"")), "what is below an entry does not fit its type");
        odd.entries[0].line = odd.entries[0].line.replace("\ta", "\t../a");
        assert_eq!(refused(&odd, b"", Some(b"")), "a . or .. in a path");
        let many = Page { entries: vec![rest.entries[1].clone(); MOST_ENTRIES + 1], more: false };
        assert_eq!(refused(&many, b"", Some(b"")), "it has more entries than one has");
        let mut tell = |_: &[u8], _: Option<&[u8]>| Ok(rest.clone());
        let mut other = |_: &[u8], _: Option<&[u8]>| Ok(root.clone());
        assert!(matches!(compare(&mut tell, &mut other), Err(Error::Corrupt { .. })));
    }
}
