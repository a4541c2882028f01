//! What a version holds, a line for each entry: what it must look like, and which file it was a copy of.
//!
//! With it, what was changed in the store is noticed, and what changed since is found out without reading what did not.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use crate::endpoint::Error;
use crate::endpoint::tree::scan::{Entry, Kind, Scan, Time};

const KINDS: [(Kind, &str); 7] = [
    (Kind::Directory, "d"),
    (Kind::File, "f"),
    (Kind::Symlink, "l"),
    (Kind::CharDevice, "c"),
    (Kind::BlockDevice, "b"),
    (Kind::Fifo, "p"),
    (Kind::Socket, "s"),
];

/// As it is written (docs/FORMAT-tree.md).
pub(super) fn to_bytes(entries: &[Entry]) -> Vec<u8> {
    let mut lines = String::new();
    for entry in entries {
        let kind = KINDS.iter().find(|(kind, _)| *kind == entry.kind).map_or("", |(_, letter)| letter);
        let fields = [
            kind.to_owned(),
            format!("{:o}", entry.mode),
            entry.uid.to_string(),
            entry.gid.to_string(),
            format!("{}:{}", entry.device.0, entry.device.1),
            entry.links.to_string(),
            entry.size.to_string(),
            time(entry.mtime),
            entry.inode.to_string(),
            time(entry.btime),
            time(entry.ctime),
            escaped(entry.path.as_os_str().as_bytes()),
        ];
        lines += &fields.join("\t");
        lines.push('\n');
    }
    lines.into_bytes()
}

/// Reads what [`to_bytes`] wrote; the times at which things were last read are not in it.
///
/// # Errors
/// [`Error::Corrupt`] with the line.
pub(super) fn parse(bytes: &[u8]) -> Result<Scan, Error> {
    let bad = |n: usize| Error::Corrupt {
        what: "manifest of a snapshot",
        why: format!("line {} is not what was written", n + 1),
        source: None,
    };
    let text = std::str::from_utf8(bytes).map_err(|_| bad(0))?;
    let entries = text.lines().enumerate().map(|(n, line)| entry(line).ok_or_else(|| bad(n)));
    Ok(Scan { entries: entries.collect::<Result<_, _>>()?, stores: Vec::new() })
}

fn entry(line: &str) -> Option<Entry> {
    let fields: Vec<_> = line.split('\t').collect();
    let [kind, mode, uid, gid, device, links, size, mtime, inode, btime, ctime, path] = fields.as_slice()
    else {
        return None;
    };
    let (major, minor) = device.split_once(':')?;
    Some(Entry {
        path: PathBuf::from(OsString::from_vec(unescaped(path)?)),
        kind: KINDS.iter().find(|(_, letter)| letter == kind)?.0,
        mode: u32::from_str_radix(mode, 8).ok()?,
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
        device: (major.parse().ok()?, minor.parse().ok()?),
        links: links.parse().ok()?,
        size: size.parse().ok()?,
        inode: inode.parse().ok()?,
        atime: (0, 0),
        mtime: parse_time(mtime)?,
        ctime: parse_time(ctime)?,
        btime: parse_time(btime)?,
    })
}

fn time((sec, nsec): Time) -> String {
    format!("{sec}.{nsec:09}")
}

fn parse_time(text: &str) -> Option<Time> {
    let (sec, nsec) = text.split_once('.')?;
    Some((sec.parse().ok()?, nsec.parse().ok()?))
}

/// Every byte outside `!` to `~`, and `\`, as `\xHH`.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'!'..=b'~' if byte != b'\\' => text.push(byte.into()),
            _ => text += &format!("\\x{byte:02X}"),
        }
    }
    text
}

fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        match first {
            b'\\' => {
                let digits = std::str::from_utf8(tail.strip_prefix(b"x")?.get(..2)?).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(path: &[u8]) -> Entry {
        Entry {
            path: PathBuf::from(OsString::from_vec(path.to_vec())),
            kind: Kind::CharDevice,
            mode: 0o4755,
            uid: 1,
            gid: u32::MAX - 1,
            device: (8, 1),
            links: 2,
            size: 1 << 40,
            inode: u64::MAX,
            atime: (0, 0),
            mtime: (-1, 999_999_999),
            ctime: (1_800_000_000, 1),
            btime: (0, 0),
        }
    }

    #[test]
    fn what_is_written_is_read_back_whatever_the_names_are() {
        for path in [&b""[..], b"a/b c", b"tab\tline\nback\\slash", b"\xff\xfe", "ä".as_bytes()] {
            let entries = vec![sample(path)];
            assert_eq!(parse(&to_bytes(&entries)).expect("reads").entries, entries);
        }
    }

    #[test]
    fn a_line_that_was_not_written_so_is_named() {
        let good = to_bytes(&[sample(b"a"), sample(b"b")]);
        let text = String::from_utf8(good).expect("a text");
        for bad in [text.replace("4755", "99"), text.replace("\tb\n", "\t\\xZ\n"), text.replace('\t', " ")] {
            assert!(matches!(parse(bad.as_bytes()), Err(Error::Corrupt { .. })), "{bad}");
        }
    }
}
