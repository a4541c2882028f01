//! Two trees, bit for bit: everything that a stat, a read, a seek or an xattr call can see, as lines of text.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fmt::Write as _;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, ioctl_getflags, lgetxattr, llistxattr, seek};

/// What is looked at beyond names, bytes, owners, modes, times, links and attributes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Also {
    /// Where files have holes.
    pub holes: bool,
    /// The flags that chattr shows.
    pub flags: bool,
}

/// Panics with the lines that differ.
pub fn assert_same(wanted: &Path, found: &Path, also: Also, context: &str) {
    let (wanted, found) = (describe(wanted, also), describe(found, also));
    let only = |a: &BTreeMap<PathBuf, String>, b: &BTreeMap<PathBuf, String>, sign: char| {
        let mut out = String::new();
        for (path, line) in a.iter().filter(|(path, line)| b.get(*path) != Some(*line)) {
            writeln!(out, "{sign} {:?} {line}", path).expect("a string");
        }
        out
    };
    let difference = only(&wanted, &found, '-') + &only(&found, &wanted, '+');
    assert!(difference.is_empty(), "{context}: the trees differ (- wanted, + found):\n{difference}");
    assert!(!wanted.is_empty(), "{context}: nothing to compare");
}

/// A line for everything below `root`, and for `root` itself.
pub fn describe(root: &Path, also: Also) -> BTreeMap<PathBuf, String> {
    let mut lines = BTreeMap::new();
    let mut links: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(relative) = waiting.pop() {
        let path = if relative.as_os_str().is_empty() { root.to_owned() } else { root.join(&relative) };
        let metadata = fs::symlink_metadata(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        if metadata.ino() == 2 {
            continue; // Where a nested subvolume stands in its snapshot: no sender speaks of it.
        }
        if metadata.is_dir() {
            let mut names: Vec<_> =
                fs::read_dir(&path).expect("lists").map(|e| e.expect("an entry").file_name()).collect();
            names.sort_by(|a, b| b.cmp(a)); // Popped in order, so that the first of several links is the same one.
            waiting.extend(names.into_iter().map(|name| relative.join(name)));
        }
        let first = links.entry(metadata.ino()).or_insert_with(|| relative.clone()).clone();
        let mut line = stat_line(&path, &metadata);
        if !metadata.is_dir() && first != relative {
            write!(line, " same inode as {first:?}").expect("a string");
        }
        if metadata.is_file() {
            line += &content_line(&path, also);
        }
        if also.flags && (metadata.is_file() || metadata.is_dir()) {
            let file = fs::File::open(&path).expect("opens");
            write!(line, " flags={:x}", ioctl_getflags(&file).expect("flags").bits()).expect("a string");
        }
        line += &xattr_line(&path);
        lines.insert(relative, line);
    }
    lines
}

fn stat_line(path: &Path, m: &Metadata) -> String {
    let mut line = format!("mode={:o} {}:{}", m.mode(), m.uid(), m.gid());
    write!(line, " mtime={}.{:09} atime={}.{:09}", m.mtime(), m.mtime_nsec(), m.atime(), m.atime_nsec())
        .expect("a string");
    if !m.is_dir() {
        write!(line, " size={} nlink={}", m.size(), m.nlink()).expect("a string");
    }
    if m.file_type().is_char_device() || m.file_type().is_block_device() {
        write!(line, " rdev={:x}", m.rdev()).expect("a string");
    }
    if m.is_symlink() {
        write!(line, " -> {:?}", fs::read_link(path).expect("a link")).expect("a string");
    }
    line
}

fn content_line(path: &Path, also: Also) -> String {
    let mut file = fs::File::options().read(true).open(path).expect("opens");
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&mut file).expect("reads");
    let mut line = format!(" blake3={}", &hasher.finalize().to_hex()[..16]);
    if also.holes {
        let mut at = 0;
        while let Ok(data) = seek(&file, SeekFrom::Data(at)) {
            at = seek(&file, SeekFrom::Hole(data)).expect("every file ends with a hole");
            write!(line, " {data}..{at}").expect("a string");
        }
    }
    line
}

fn xattr_line(path: &Path) -> String {
    let path = CString::new(path.as_os_str().as_bytes()).expect("no NUL");
    let mut names = vec![0; 1 << 16];
    let len = llistxattr(&path, &mut names[..]).expect("lists");
    let mut names: Vec<_> = names[..len].split(|&b| b == 0).filter(|name| !name.is_empty()).collect();
    names.retain(|name| !name.starts_with(b"trusted.SGI_ACL_")); // How XFS shows what it keeps ACLs in.
    names.sort();
    let mut line = String::new();
    for name in names {
        let mut value = vec![0; 1 << 16];
        let len = lgetxattr(&path, OsStr::from_bytes(name), &mut value[..]).expect("reads");
        write!(line, " {}={}", name.escape_ascii(), value[..len].escape_ascii()).expect("a string");
    }
    line
}
