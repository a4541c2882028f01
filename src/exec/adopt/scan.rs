//! What stands in a directory tree.

use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::endpoint::{Error, Result};
use crate::sys::interrupt;
use crate::sys::writers::Files;

/// What kind of thing an [`Entry`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A file with bytes.
    File,
    /// A symbolic link.
    Symlink,
    /// A FIFO, a socket or a device.
    Special,
}

/// A point in time: seconds and nanoseconds since 1970.
pub type Time = (i64, i64);

/// What tells whether a file has changed since it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Its inode number.
    pub inode: u64,
    /// Its length in bytes.
    pub size: u64,
    /// When its bytes last changed.
    pub mtime: Time,
    /// When anything of it last changed.
    pub ctime: Time,
}

/// One thing in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where, below the tree's root; empty for the root.
    pub path: PathBuf,
    /// What.
    pub kind: Kind,
    /// Type and permissions as `stat` gives them.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Which device a device file is.
    pub rdev: u64,
    /// How many names it has.
    pub links: u64,
    /// How many bytes of disk it takes.
    pub disk_bytes: u64,
    /// When it was last read.
    pub atime: Time,
    /// What tells whether it has changed.
    pub stamp: Stamp,
}

/// A directory tree as it was when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// The device number of its filesystem.
    pub device: u64,
    /// All that is in it. Invariant: the root first, each directory before what is in it.
    pub entries: Vec<Entry>,
}

impl Entry {
    fn new(path: PathBuf, meta: &Metadata) -> Self {
        let kind = match meta.file_type() {
            kind if kind.is_dir() => Kind::Directory,
            kind if kind.is_file() => Kind::File,
            kind if kind.is_symlink() => Kind::Symlink,
            _ => Kind::Special,
        };
        Self {
            path,
            kind,
            mode: meta.mode(),
            uid: meta.uid(),
            gid: meta.gid(),
            rdev: meta.rdev(),
            links: meta.nlink(),
            disk_bytes: meta.blocks() * 512,
            atime: (meta.atime(), meta.atime_nsec()),
            stamp: Stamp::of(meta),
        }
    }

    /// Whether it may have other names in the tree.
    pub fn is_linked(&self) -> bool {
        self.kind != Kind::Directory && self.links > 1
    }
}

impl Stamp {
    /// Of what `stat` says.
    pub fn of(meta: &Metadata) -> Self {
        Self {
            inode: meta.ino(),
            size: meta.size(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            ctime: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

impl Tree {
    /// The regular files; one with several names comes once, under the first.
    pub fn files(&self) -> impl Iterator<Item = &Entry> {
        let mut seen = std::collections::HashSet::new();
        let files = self.entries.iter().filter(|entry| entry.kind == Kind::File);
        files.filter(move |entry| entry.links == 1 || seen.insert(entry.stamp.inode))
    }

    /// All in it that is no directory, to ask who writes to it.
    pub fn writable(&self) -> Files<'static> {
        let is_none = |entry: &&Entry| entry.kind != Kind::Directory;
        Files::these(self.device, self.entries.iter().filter(is_none).map(|entry| entry.stamp.inode))
    }

    /// How many bytes its files have, holes included.
    pub fn bytes(&self) -> u64 {
        self.files().map(|entry| entry.stamp.size).sum()
    }

    /// How many bytes of disk its files take.
    pub fn disk_bytes(&self) -> u64 {
        self.files().map(|entry| entry.disk_bytes).sum()
    }
}

/// Reads what is in the tree at `root`. Follows no symbolic link.
///
/// # Errors
/// [`Error::Refused`] if another filesystem or a subvolume stands in it: its data would be left out.
pub fn scan(root: &Path) -> Result<Tree> {
    let meta = fs::symlink_metadata(root).map_err(Error::io("read directory", root.display()))?;
    let mut tree = Tree { device: meta.dev(), entries: vec![Entry::new(PathBuf::new(), &meta)] };
    let mut next = 0;
    // Breadth first, over the list itself: no depth of the tree is too deep.
    while next < tree.entries.len() {
        if tree.entries[next].kind == Kind::Directory {
            let folder = tree.entries[next].path.clone();
            let children = children(root, &folder, tree.device)?;
            tree.entries.extend(children);
        }
        next += 1;
    }
    Ok(tree)
}

fn children(root: &Path, folder: &Path, device: u64) -> Result<Vec<Entry>> {
    interrupt::check().map_err(Error::io("read directory", root.display()))?;
    let full = root.join(folder);
    let mut found = Vec::new();
    for entry in fs::read_dir(&full).map_err(Error::io("read directory", full.display()))? {
        let name = entry.map_err(Error::io("read directory", full.display()))?.file_name();
        let path = full.join(&name);
        let meta = fs::symlink_metadata(&path).map_err(Error::io("read", path.display()))?;
        if meta.dev() != device {
            return Err(foreign(root, &path));
        }
        found.push(Entry::new(folder.join(name), &meta));
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn foreign(root: &Path, path: &Path) -> Error {
    Error::Refused {
        op: "adopt",
        subject: root.display().to_string(),
        why: format!("{} is another filesystem or a subvolume; it would be left out", path.display()),
        hint: Some(format!("unmount or move {} and try again", path.display())),
    }
}

/// Whether `meta` is of a device, FIFO or socket.
pub fn is_special(meta: &Metadata) -> bool {
    let kind = meta.file_type();
    kind.is_block_device() || kind.is_char_device() || kind.is_fifo() || kind.is_socket()
}
