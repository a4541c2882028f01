//! Which files need not be read, as an earlier manifest has their hash and the filesystem says that they did not change since.
//!
//! Nothing is believed of a single word of the filesystem's: a file is taken for unchanged only if no change of any kind is told of its
//! path, and it has the size and the time that it had where it was.

use std::collections::{HashMap, HashSet};

use blake3::Hash;

use super::scan::Found;
use crate::endpoint::Change;
use crate::endpoint::change::Kind as How;
use crate::endpoint::overlay::layer::manifest::{Data, Kind, Line};

/// What is known of an earlier version, and what changed since.
#[derive(Debug, Clone, Copy)]
pub(super) struct Earlier<'a> {
    /// Its manifest, sorted.
    pub(super) lines: &'a [Line],
    /// What changed since.
    pub(super) changes: &'a [Change],
}

/// For each of `found`, in their order: the hash of its bytes, if it is a file that did not change.
pub(super) fn unchanged(found: &[Found], earlier: Earlier<'_>) -> Vec<Option<Hash>> {
    let past = Past::new(earlier);
    let mut hashes: Vec<_> = found.iter().map(|found| past.hash_of(&found.line)).collect();
    // A change of a file is told by one of its names; of all of them only if the filesystem is so kind.
    let mut names: HashMap<u64, Vec<usize>> = HashMap::new();
    for (at, found) in found.iter().enumerate() {
        if let Some(inode) = found.inode.filter(|_| found.line.kind == Kind::File) {
            names.entry(inode).or_default().push(at);
        }
    }
    for names in names.values() {
        let first = hashes[names[0]];
        let all_here = names.len() as u64 == found[names[0]].links;
        if !all_here || first.is_none() || names.iter().any(|&at| hashes[at] != first) {
            names.iter().for_each(|&at| hashes[at] = None);
        }
    }
    hashes
}

struct Past<'a> {
    lines: &'a [Line],
    told: HashSet<&'a [u8]>,
    was_at: HashMap<&'a [u8], &'a [u8]>,
}

impl<'a> Past<'a> {
    fn new(Earlier { lines, changes }: Earlier<'a>) -> Self {
        let there = changes.iter().filter(|change| change.kind != How::Destroyed);
        let renamed =
            changes.iter().filter_map(|change| Some((change.path.as_slice(), change.from.as_deref()?)));
        Self { lines, told: there.map(|change| change.path.as_slice()).collect(), was_at: renamed.collect() }
    }

    fn hash_of(&self, line: &Line) -> Option<Hash> {
        if line.kind != Kind::File || self.told.contains(line.path.as_slice()) {
            return None;
        }
        let before = self.place_before(&line.path);
        let at = self.lines.binary_search_by(|old| old.path.as_slice().cmp(&before)).ok()?;
        let old = &self.lines[at];
        let same = old.kind == Kind::File
            && old.data == Data::Plain
            && (old.size, old.mtime_ns) == (line.size, line.mtime_ns);
        old.hash.filter(|_| same)
    }

    /// Where it was, if it is below a directory that was renamed: the nearest one counts.
    fn place_before(&self, path: &[u8]) -> Vec<u8> {
        let ends = path.iter().enumerate().rev().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in ends {
            if let Some(was) = self.was_at.get(&path[..end]) {
                return [was, &path[end..]].concat();
            }
        }
        path.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::overlay::layer::manifest::Size;

    fn line(path: &str, text: &str) -> Line {
        Line {
            kind: Kind::File,
            data: Data::Plain,
            opaque: false,
            redirect: false,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime_ns: 5,
            size: Size::Bytes(text.len() as u64),
            hash: Some(blake3::hash(text.as_bytes())),
            xattrs: None,
            group: None,
            path: path.into(),
        }
    }

    fn found(path: &str, text: &str, inode: u64, links: u64) -> Found {
        let line = Line { hash: None, ..line(path, text) };
        Found { line, inode: (links > 1).then_some(inode), links, allocated: 0 }
    }

    fn change(kind: How, path: &str, from: Option<&str>) -> Change {
        Change { path: path.into(), kind, from: from.map(Into::into) }
    }

    /// Which of `found` need not be read, with what is taken to be in them.
    fn kept(found: &[Found], lines: &[Line], changes: &[Change]) -> String {
        let hashes = unchanged(found, Earlier { lines, changes });
        let word = |hash: Hash| {
            lines.iter().find(|line| line.hash == Some(hash)).map(|line| line.path.escape_ascii().to_string())
        };
        let kept = found
            .iter()
            .zip(hashes)
            .filter_map(|(found, hash)| Some(format!("{}={}", found.line.path.escape_ascii(), word(hash?)?)));
        kept.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_is_told_of_is_read_and_what_is_not_is_kept() {
        let lines = [line("a", "1"), line("b", "22"), line("c", "333"), line("d", "4444")];
        let now =
            [found("a", "1", 1, 1), found("b", "22", 2, 1), found("c", "333", 3, 1), found("new", "x", 5, 1)];
        let changes = [
            change(How::Modified, "b", None),
            change(How::Metadata, "c", None),
            change(How::Destroyed, "d", None),
            change(How::Added, "new", None),
        ];
        assert_eq!(kept(&now, &lines, &changes), "a=a");
        assert_eq!(kept(&now, &lines, &[]), "a=a b=b c=c", "what is new is not in the manifest");
        assert_eq!(kept(&now, &lines, &[change(How::Destroyed, "a", None)]), "a=a b=b c=c");
    }

    #[test]
    fn a_file_of_another_size_or_time_is_read_whatever_is_told() {
        let lines = [line("a", "1"), line("b", "22"), line("c", "333")];
        let mut other_time = found("b", "22", 2, 1);
        other_time.line.mtime_ns += 1;
        let mut other_kind = found("c", "333", 3, 1);
        other_kind.line.kind = Kind::Fifo;
        assert_eq!(kept(&[found("a", "11", 1, 1), other_time, other_kind], &lines, &[]), "");
    }

    #[test]
    fn what_is_below_a_renamed_directory_is_found_where_it_was() {
        let lines = [line("a/x", "1"), line("b/x", "22"), line("b/y/z", "333")];
        let changes = [
            change(How::Renamed, "b", Some("a")),
            change(How::Renamed, "a", Some("b")),
            change(How::Renamed, "a/w", Some("b/y")),
        ];
        let now = [found("b/x", "1", 1, 1), found("a/x", "22", 2, 1), found("a/w/z", "333", 3, 1)];
        assert_eq!(kept(&now, &lines, &changes), "b/x=a/x a/x=b/x a/w/z=b/y/z");
        // A file that was renamed itself is told of, and read.
        let moved = [change(How::Renamed, "q", Some("a/x"))];
        assert_eq!(kept(&[found("q", "1", 1, 1)], &lines, &moved), "");
    }

    #[test]
    fn of_a_file_with_several_names_all_are_kept_or_none() {
        let lines = [line("a", "1"), line("b", "1")];
        let now = || [found("a", "1", 7, 2), found("b", "1", 7, 2)];
        assert_eq!(kept(&now(), &lines, &[]), "a=a b=a");
        assert_eq!(kept(&now(), &lines, &[change(How::Modified, "b", None)]), "");
        assert_eq!(kept(&now()[..1], &lines, &[]), "", "one of its names is not here");
        let different = [line("a", "1"), line("b", "2")];
        assert_eq!(kept(&now(), &different, &[]), "", "they were two files");
    }
}
