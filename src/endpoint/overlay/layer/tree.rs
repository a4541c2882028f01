//! A layer's tree on disk, or a base: what is at a path, with its marks.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, OFlags, RawDir, Stat, lgetxattr, llistxattr, readlinkat, statat};
use rustix::io::Errno;

use super::apart::{Apart, Mark};
use super::merge::{Entry, Part, Redirect, joined};
use crate::endpoint::{Error, Result, beneath};
use crate::model::overlay::Xattrs;

/// Extended attributes, by name.
pub type Attributes = BTreeMap<Vec<u8>, Vec<u8>>;

/// The kernel's own marks, and ours of the same kind: not part of what a layer shows.
const PRIVATE: [&[u8]; 6] = [b"origin", b"impure", b"nlink", b"uuid", b"upper", b"cowsnap.origin"];
const MAX_XATTR: usize = 64 << 10;

/// An open tree.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    blocks: PathBuf,
    xattrs: Xattrs,
    last: RefCell<Option<(Vec<u8>, Rc<OwnedFd>)>>,
    /// What of it is the layer, with which marks, if not all that is there is.
    apart: Option<Apart>,
}

/// Something in a tree.
#[derive(Debug, Clone)]
pub struct Node {
    /// What stat says of it.
    pub stat: Stat,
    /// All its extended attributes.
    pub attributes: Attributes,
    xattrs: Xattrs,
}

impl Tree {
    /// Opens the tree at `dir`, whose marks are in the namespace `xattrs`, and whose maps of blocks are in `blocks`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(dir: &Path, blocks: &Path, xattrs: Xattrs) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(dir, flags, rustix::fs::Mode::empty());
        let root = root.map_err(Error::io("open", dir.display()))?;
        Ok(Self { root, blocks: blocks.into(), xattrs, last: RefCell::new(None), apart: None })
    }

    /// As the layer that is set apart in it: a whole tree, of which the entries that make it another one than the base are seen.
    pub(super) fn with(self, apart: Apart) -> Self {
        Self { apart: Some(apart), ..self }
    }

    /// What is set apart in it.
    pub(super) fn apart(&self) -> Option<&Apart> {
        self.apart.as_ref()
    }

    /// Opens the base at `dir`: a directory that is no layer, in which the kernel minds marks all the same. What is mounted in it
    /// is not seen, as it is not in an overlay, unless this process may not mount.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn base(dir: &Path, xattrs: Xattrs) -> Result<Self> {
        let opened = Self::open(dir, Path::new("/dev/null"), xattrs)?;
        match crate::sys::mount::bind(opened.root()) {
            Ok(alone) => Ok(Self { root: alone.into(), ..opened }),
            Err(_) => Ok(opened),
        }
    }

    /// The directory of its maps of blocks.
    pub fn blocks(&self) -> &Path {
        &self.blocks
    }

    /// Its root directory.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The namespace of its marks.
    pub fn xattrs(&self) -> Xattrs {
        self.xattrs
    }

    /// What is at `path`; `None` if nothing is.
    pub fn node(&self, path: &[u8]) -> io::Result<Option<Node>> {
        let Some(apart) = &self.apart else { return self.node_on_disk(path) };
        match apart.mark(path) {
            None => Ok(None),
            Some(Mark::Whiteout) => Ok(Some(Node::whiteout(rustix::fs::fstat(self.root())?, self.xattrs))),
            Some(Mark::Here(marks)) => Ok(self.node_on_disk(path)?.map(|node| node.marked(marks))),
        }
    }

    /// What is at `path`, whatever is set apart.
    fn node_on_disk(&self, path: &[u8]) -> io::Result<Option<Node>> {
        let (dir, name) = beneath::split(path);
        let found = self.dir(dir).and_then(|dir| {
            let name = if name.is_empty() { b"." } else { name };
            let stat = statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(Node { stat, attributes: attributes(dir.as_fd(), name)?, xattrs: self.xattrs })
        });
        match found {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            other => Ok(Some(other?)),
        }
    }

    /// The names in the directory at `path` and what sort of thing each is, sorted.
    pub fn names(&self, path: &[u8]) -> io::Result<Vec<(Vec<u8>, FileType)>> {
        match &self.apart {
            Some(apart) => Ok(apart.names(path)),
            None => self.names_on_disk(path),
        }
    }

    /// The names in the directory at `path`, whatever is set apart.
    pub(super) fn names_on_disk(&self, path: &[u8]) -> io::Result<Vec<(Vec<u8>, FileType)>> {
        let dir = beneath::open_dir(self.root(), path)?;
        let mut buffer = Vec::with_capacity(32 << 10);
        let mut entries = RawDir::new(&dir, buffer.spare_capacity_mut());
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push((name.to_vec(), entry.file_type()));
            }
        }
        names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(names)
    }

    /// The names in the directory at `path`, and whether each is a whiteout.
    pub fn listing(&self, path: &[u8]) -> io::Result<Vec<(Vec<u8>, bool)>> {
        let has_marked_ones = self.node(path)?.is_some_and(|dir| dir.mark("opaque") == Some(b"x"));
        let mut listing = Vec::new();
        for (name, file_type) in self.names(path)? {
            let may_be = match file_type {
                FileType::CharacterDevice | FileType::Unknown => true,
                FileType::RegularFile => has_marked_ones,
                _ => false,
            };
            let is = may_be && self.node(&joined(path, &name))?.is_some_and(|node| node.is_whiteout());
            listing.push((name, is));
        }
        Ok(listing)
    }

    /// Opens the regular file at `path` to read it.
    pub fn file(&self, path: &[u8]) -> io::Result<File> {
        open_file(self.root(), path)
    }

    /// Where the link at `path` leads.
    pub fn link(&self, path: &[u8]) -> io::Result<Vec<u8>> {
        let (dir, name) = beneath::split(path);
        Ok(readlinkat(self.dir(dir)?, name, Vec::new())?.into_bytes())
    }

    /// The directory at `path`; the one asked for last is kept open.
    pub(super) fn dir(&self, path: &[u8]) -> Result<Rc<OwnedFd>, Errno> {
        let mut last = self.last.borrow_mut();
        match &*last {
            Some((opened, fd)) if opened == path => Ok(Rc::clone(fd)),
            _ => {
                let fd = Rc::new(beneath::open_dir(self.root(), path)?);
                *last = Some((path.to_vec(), Rc::clone(&fd)));
                Ok(fd)
            }
        }
    }
}

/// Opens the regular file at `path` beneath `root` to read it.
pub(super) fn open_file(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<File> {
    let file = beneath::open(root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
    Ok(file.into())
}

/// What XFS shows of ACLs a second time: elsewhere it would be an attribute that says nothing.
const ACL_AGAIN: &[u8] = b"trusted.SGI_ACL_";

/// All extended attributes of `name` in `dir`, a link's own if it is one.
pub(in crate::endpoint) fn attributes(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Attributes, Errno> {
    // A path through /proc is the way to attributes of links that does not depend on the length of their path.
    let path = [format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(), name].concat();
    let names = match whole(|buffer| llistxattr(&path, buffer)) {
        Err(Errno::OPNOTSUPP) => return Ok(Attributes::new()),
        other => other?,
    };
    let mut attributes = Attributes::new();
    let is_one = |name: &&[u8]| !name.is_empty() && !name.starts_with(ACL_AGAIN);
    for name in names.split(|&b| b == 0).filter(is_one) {
        match whole(|buffer| lgetxattr(&path, name, buffer)) {
            // Taken away since it was listed, or not ours to read.
            Err(Errno::NODATA) => {}
            value => drop(attributes.insert(name.to_vec(), value?)),
        }
    }
    Ok(attributes)
}

fn whole(read: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 512];
    loop {
        match read(&mut buffer) {
            Err(Errno::RANGE) if buffer.len() < MAX_XATTR => buffer.resize(MAX_XATTR, 0),
            other => {
                buffer.truncate(other?);
                return Ok(buffer);
            }
        }
    }
}

impl Node {
    /// A whiteout as the kernel makes it, on the filesystem that `like` is on.
    fn whiteout(like: Stat, xattrs: Xattrs) -> Self {
        let mut stat = like;
        (stat.st_mode, stat.st_rdev, stat.st_size) = (FileType::CharacterDevice.as_raw_mode(), 0, 0);
        Self { stat, attributes: Attributes::new(), xattrs }
    }

    /// It, as a layer has it that nobody wrote as one: with these marks, what looks like a mark as that of a nested overlay, and a device
    /// that a whiteout would be taken for as the mark of one.
    fn marked(mut self, marks: &Attributes) -> Self {
        let prefix = self.xattrs.prefix().as_bytes();
        let escaped = |name: Vec<u8>| match name.strip_prefix(prefix) {
            Some(mark) => [prefix, b"overlay.", mark].concat(),
            None => name,
        };
        self.attributes = self.attributes.into_iter().map(|(name, value)| (escaped(name), value)).collect();
        self.attributes.extend(marks.clone());
        if self.file_type() == FileType::CharacterDevice && self.stat.st_rdev == 0 {
            self.stat.st_mode = FileType::RegularFile.as_raw_mode() | self.mode();
            self.attributes.insert([prefix, b"cowsnap.node"].concat(), b"c 0 0".to_vec());
        }
        self
    }

    /// What sort of thing it is, marks aside.
    pub fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// The value of one of the marks.
    pub fn mark(&self, mark: &str) -> Option<&[u8]> {
        self.attributes.get(&[self.xattrs.prefix(), mark].concat().into_bytes()).map(Vec::as_slice)
    }

    /// Whether it is a whiteout: a character device 0:0, or, where no device can be, an empty file with a mark.
    pub fn is_whiteout(&self) -> bool {
        match self.file_type() {
            FileType::CharacterDevice => self.stat.st_rdev == 0,
            FileType::RegularFile => self.stat.st_size == 0 && self.mark("whiteout").is_some(),
            _ => false,
        }
    }

    /// Whether nothing of the directory below shows.
    pub fn is_opaque(&self) -> bool {
        self.mark("opaque") == Some(b"y")
    }

    /// The number of its map of blocks, if it has one.
    pub fn blocks(&self) -> Option<Result<u64, BadMark>> {
        let value = self.mark("cowsnap.blocks")?;
        let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        Some(number.ok_or_else(|| BadMark::new("cowsnap.blocks", value)))
    }

    /// The device that it stands for, if it does.
    pub fn device(&self) -> Option<Result<(u32, u32), BadMark>> {
        let value = self.mark("cowsnap.node")?;
        let text = std::str::from_utf8(value).ok().and_then(|text| text.strip_prefix("c "));
        let numbers = text
            .and_then(|text| text.split_once(' '))
            .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        Some(numbers.ok_or_else(|| BadMark::new("cowsnap.node", value)))
    }

    /// What the merge rules make of it.
    ///
    /// # Errors
    /// A redirect that names no path.
    pub fn entry(&self) -> Result<Entry, BadMark> {
        if self.is_whiteout() {
            return Ok(Entry::Whiteout);
        }
        let redirect = || match self.mark("redirect") {
            None => Ok(None),
            Some(value) => Redirect::parse(value).map(Some).ok_or_else(|| BadMark::new("redirect", value)),
        };
        match self.file_type() {
            FileType::Directory => Ok(Entry::Dir { opaque: self.is_opaque(), redirect: redirect()? }),
            FileType::RegularFile if self.device().is_some() => Ok(Entry::Other),
            FileType::RegularFile => {
                let partial = self.mark("metacopy").is_some() || self.blocks().is_some();
                Ok(Entry::File { partial, redirect: if partial { redirect()? } else { None } })
            }
            _ => Ok(Entry::Other),
        }
    }

    /// The attributes that show: without the marks, and as the kernel has it, those of a nested overlay under their own names.
    pub fn shown(&self) -> Attributes {
        let prefix = self.xattrs.prefix().as_bytes();
        let name = |name: &[u8]| match name.strip_prefix(prefix) {
            None => Some(name.to_vec()),
            Some(mark) => mark.strip_prefix(b"overlay.").map(|rest| [prefix, rest].concat()),
        };
        self.attributes.iter().filter_map(|(n, value)| Some((name(n)?, value.clone()))).collect()
    }

    /// The attributes that a copy in another layer of the same namespace has: all but the marks. Those of a nested overlay stay as they are
    /// on disk, else they would be marks there.
    pub fn copied(&self) -> Attributes {
        let prefix = self.xattrs.prefix().as_bytes();
        let is_mark =
            |name: &[u8]| name.strip_prefix(prefix).is_some_and(|mark| !mark.starts_with(b"overlay."));
        let copied = self.attributes.iter().filter(|(name, _)| !is_mark(name));
        copied.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// The attributes that are part of the layer: those that show, and the marks but for the kernel's own. Marks are called
    /// `overlay.…`, whichever namespace they are in.
    pub fn kept(&self) -> Attributes {
        let prefix = self.xattrs.prefix().as_bytes();
        let name = |name: &[u8]| match name.strip_prefix(prefix) {
            None => Some(name.to_vec()),
            Some(mark) if PRIVATE.contains(&mark) => None,
            Some(mark) => Some([b"overlay.", mark].concat()),
        };
        self.attributes.iter().filter_map(|(n, value)| Some((name(n)?, value.clone()))).collect()
    }

    /// As [`Node::kept`], under their own names.
    pub fn archived(&self) -> Attributes {
        let prefix = self.xattrs.prefix().as_bytes();
        let is_private = |name: &[u8]| name.strip_prefix(prefix).is_some_and(|mark| PRIVATE.contains(&mark));
        let kept = self.attributes.iter().filter(|(name, _)| !is_private(name));
        kept.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// Its modification time in nanoseconds since 1970.
    pub fn mtime_ns(&self) -> i128 {
        i128::from(self.stat.st_mtime) * 1_000_000_000 + i128::from(self.stat.st_mtime_nsec)
    }

    /// Its permission bits.
    pub fn mode(&self) -> u32 {
        self.stat.st_mode & 0o7777
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.stat.st_size.unsigned_abs()
    }
}

/// A mark whose value makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("its mark overlay.{mark} is {value:?}")]
pub struct BadMark {
    mark: &'static str,
    value: String,
}

impl BadMark {
    fn new(mark: &'static str, value: &[u8]) -> Self {
        Self { mark, value: value.escape_ascii().to_string() }
    }
}

/// Several trees, one upon another.
#[derive(Debug)]
pub struct Stack {
    trees: Vec<Tree>, // Invariant: top first.
}

impl Stack {
    /// Of these trees, the top one first.
    pub fn new(trees: Vec<Tree>) -> Self {
        Self { trees }
    }

    /// The tree of that layer, counted from the top.
    pub fn tree(&self, layer: usize) -> &Tree {
        &self.trees[layer]
    }

    /// What is at a place.
    pub fn node(&self, at: &Part) -> io::Result<Option<Node>> {
        self.trees[at.layer].node(&at.path)
    }

    /// The names that show in the directory of these parts.
    pub fn names(&self, parts: &[Part]) -> io::Result<Vec<Vec<u8>>> {
        let listings = parts.iter().map(|part| self.trees[part.layer].listing(&part.path));
        let listings = listings.collect::<io::Result<Vec<_>>>()?;
        Ok(super::merge::names(listings).into_keys().collect())
    }
}

impl super::merge::Layers for Stack {
    type Error = io::Error;

    fn count(&self) -> usize {
        self.trees.len()
    }

    fn entry(&self, at: &Part) -> io::Result<Entry> {
        match self.node(at)? {
            None => Ok(Entry::Absent),
            Some(node) => node.entry().map_err(|bad| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{}: {bad}", at.path.escape_ascii()))
            }),
        }
    }
}
