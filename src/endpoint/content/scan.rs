//! What stands in a tree that nobody changes: everything but the bytes of files.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FileType, RawDir, Stat, fstatfs, major, minor, readlinkat, statat};
use rustix::io::Errno;

use crate::endpoint::each::each;
use crate::endpoint::overlay::layer::manifest::{Data, Kind, Line, Size, escaped};
use crate::endpoint::overlay::layer::{attributes, hash_attributes};
use crate::endpoint::{Dataset, Error, Result, beneath};
use crate::model::VersionRef;
use crate::sys::btrfs;

/// What stands in a btrfs snapshot where a subvolume was nested: a directory of this number that no sender speaks of.
const NESTED: u64 = 2;

/// An entry, but for the hash of its bytes.
#[derive(Debug)]
pub(in crate::endpoint) struct Found {
    /// It, as it will stand in the manifest.
    pub(in crate::endpoint) line: Line,
    /// Of what has several names: by what these are known.
    pub(in crate::endpoint) inode: Option<u64>,
    /// How many names it has, here or elsewhere.
    pub(in crate::endpoint) links: u64,
    /// How many bytes it takes on the disk.
    pub(in crate::endpoint) allocated: u64,
}

/// A tree.
#[derive(Debug)]
pub(in crate::endpoint) struct Scan {
    /// In the order of their paths' bytes; the root first.
    pub(in crate::endpoint) found: Vec<Found>,
    /// Where nested datasets were, which are none of this one's content.
    pub(in crate::endpoint) nested: Vec<Vec<u8>>,
}

impl Scan {
    /// What was left out, to be said.
    pub(in crate::endpoint) fn notes(&self) -> Option<String> {
        let first = escaped(self.nested.first()?);
        Some(format!("{} nested dataset(s) are left out: {first} …", self.nested.len()))
    }
}

/// Reads the tree whose root is `root`, the content of `version`. Follows no link.
///
/// # Errors
/// What can not be read; [`Error::Interrupted`].
pub(super) fn scan(root: BorrowedFd<'_>, dataset: &Dataset, version: &VersionRef) -> Result<Scan> {
    scan_as(root, format!("{dataset}@{}", version.name))
}

/// As [`scan`], of what is called `subject`.
///
/// # Errors
/// As there.
pub(in crate::endpoint) fn scan_as(root: BorrowedFd<'_>, subject: String) -> Result<Scan> {
    let walk = Walk {
        root,
        subject,
        #[expect(clippy::unnecessary_cast, reason = "the width of the field differs between machines")]
        has_nested: fstatfs(root).is_ok_and(|found| found.f_type as i64 == btrfs::SUPER_MAGIC),
    };
    let mut scan = Scan { found: vec![walk.root()?], nested: Vec::new() };
    let mut level = vec![Vec::new()];
    // Level by level, those of one in parallel: no depth of the tree is too deep for a stack.
    while !level.is_empty() {
        let listed = each(&level, |dir: &Vec<u8>| walk.list(dir))?;
        level.clear();
        for Scan { found, nested } in listed {
            let dirs = found.iter().filter(|entry| entry.line.kind == Kind::Dir);
            level.extend(dirs.map(|entry| entry.line.path.clone()));
            scan.found.extend(found);
            scan.nested.extend(nested);
        }
    }
    scan.found.sort_unstable_by(|a, b| a.line.path.cmp(&b.line.path));
    number_links(&mut scan.found);
    Ok(scan)
}

struct Walk<'a> {
    root: BorrowedFd<'a>,
    subject: String,
    has_nested: bool,
}

impl Walk<'_> {
    fn failed<'a>(&'a self, path: &'a [u8]) -> impl Fn(Errno) -> Error + 'a {
        move |errno| Error::io("read", format!("{} of {}", escaped(path), self.subject))(errno)
    }

    fn root(&self) -> Result<Found> {
        let stat = statat(self.root, ".", AtFlags::empty()).map_err(self.failed(b""))?;
        self.describe(self.root, b".", Vec::new(), &stat)
    }

    fn list(&self, dir: &[u8]) -> Result<Scan> {
        let fd = beneath::open_dir(self.root, dir).map_err(self.failed(dir))?;
        let mut buffer = Vec::with_capacity(32 << 10);
        let mut entries = RawDir::new(&fd, buffer.spare_capacity_mut());
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(self.failed(dir))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        let mut scan = Scan { found: Vec::with_capacity(names.len()), nested: Vec::new() };
        for name in names {
            let path = if dir.is_empty() { name.clone() } else { [dir, b"/", &name].concat() };
            let stat = statat(&fd, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW).map_err(self.failed(&path))?;
            match self.has_nested && stat.st_ino == NESTED {
                true => scan.nested.push(path),
                false => scan.found.push(self.describe(std::os::fd::AsFd::as_fd(&fd), &name, path, &stat)?),
            }
        }
        Ok(scan)
    }

    fn describe(&self, dir: BorrowedFd<'_>, name: &[u8], path: Vec<u8>, stat: &Stat) -> Result<Found> {
        let kind = kind_of(stat);
        let failed = |errno| self.failed(&path)(errno);
        let hash = match kind {
            Kind::Link => {
                let target = readlinkat(dir, name, Vec::new()).map_err(failed)?;
                Some(blake3::hash(target.as_bytes()))
            }
            _ => None,
        };
        let xattrs = hash_attributes(&attributes(dir, name).map_err(failed)?);
        #[expect(clippy::unnecessary_cast, reason = "the width of the field differs between machines")]
        let links = stat.st_nlink as u64;
        let line = Line {
            kind,
            data: Data::Plain,
            opaque: false,
            redirect: false,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime_ns: i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec),
            size: match kind {
                Kind::File | Kind::Link => Size::Bytes(stat.st_size.unsigned_abs()),
                Kind::Block | Kind::Char => Size::Device(major(stat.st_rdev), minor(stat.st_rdev)),
                _ => Size::None,
            },
            hash,
            xattrs,
            group: None,
            path,
        };
        let allocated = stat.st_blocks.unsigned_abs() * 512;
        Ok(Found { line, inode: (links > 1 && kind != Kind::Dir).then_some(stat.st_ino), links, allocated })
    }
}

fn kind_of(stat: &Stat) -> Kind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Link,
        FileType::BlockDevice => Kind::Block,
        FileType::CharacterDevice => Kind::Char,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        _ => Kind::File,
    }
}

/// Gives the names of each thing that has several a number, in the order of the first of them.
fn number_links(found: &mut [Found]) {
    let mut names: BTreeMap<u64, u32> = BTreeMap::new();
    for inode in found.iter().filter_map(|found| found.inode) {
        *names.entry(inode).or_default() += 1;
    }
    let mut numbers: HashMap<u64, u32> = HashMap::new();
    for Found { line, inode, .. } in found {
        let Some(inode) = inode.filter(|inode| names[inode] > 1) else { continue };
        let next = numbers.len() as u32 + 1;
        line.group = Some(*numbers.entry(inode).or_insert(next));
    }
}
