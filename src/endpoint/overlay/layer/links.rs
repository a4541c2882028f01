//! Hard links that the kernel keeps in its index: a file that was changed through one of its names shows so under all of them, also
//! under those that only the layers below have. The index is no part of a layer, so these names are made in it.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat, linkat, lsetxattr,
    mkdirat, utimensat,
};
use rustix::io::Errno;

use super::merge::{self, Layers as _, Part, Shown, joined, lookup};
use super::origin::{Handle, handle_of};
use super::tree::{Node, Stack, Tree};
use crate::endpoint::overlay::home::Generation;
use crate::endpoint::{Error, Result, beneath};
use crate::model::overlay::Xattrs;

/// A file of the index that has names below.
struct Indexed {
    name: Vec<u8>,
    file_type: FileType,
    /// How many of its names are not in the upper directory yet.
    left: i64,
}

/// Makes in a frozen generation, the top of `stack`, the names that its index stands for. Nothing is looked for if there are none;
/// otherwise all that the stack shows is.
///
/// # Errors
/// [`Error::Refused`] if not all of them are found; what the kernel says.
pub fn complete_links(stack: &Stack, generation: &Generation) -> Result<()> {
    let upper = stack.tree(0);
    let Some(index) = index_of(generation, upper.xattrs())? else { return Ok(()) };
    let search = names_below(stack, 0, &index)?;
    if let Some(indexed) = search.wanted.values().find(|indexed| indexed.left > 0) {
        return Err(Error::Refused {
            op: "commit",
            subject: generation.dir().display().to_string(),
            why: format!(
                "a file with several names (hard links) was changed, and {} of them were not found below",
                indexed.left
            ),
            hint: None,
        });
    }
    search.found.iter().try_for_each(|(path, _, name)| link(stack, &index, path, name))
}

/// The files that have names below and were changed by another one; `None` if overlayfs kept no index.
///
/// # Errors
/// What the kernel says.
pub fn index_of(generation: &Generation, xattrs: Xattrs) -> Result<Option<Tree>> {
    let path = generation.work().join("index");
    match path.is_dir() {
        true => Tree::open(&path, Path::new("/dev/null"), xattrs).map(Some),
        false => Ok(None),
    }
}

/// What the layers below `top` show of the files of its index: each path, where that is, and what it is called in the index.
pub(super) fn names_below<'a>(stack: &'a Stack, top: usize, index: &Tree) -> Result<Search<'a>> {
    let mut search = Search { stack, top, wanted: wanted(index)?, found: Vec::new() };
    if !search.wanted.is_empty() {
        search.dir(b"", &merge::root(stack.count(), top))?;
    }
    Ok(search)
}

fn wanted(index: &Tree) -> Result<HashMap<Handle, Indexed>> {
    let mut wanted = HashMap::new();
    for (name, _) in index.names(b"").map_err(Error::io("list", "the overlay's index"))? {
        let Some(node) = index.node(&name).map_err(Error::io("read", "the overlay's index"))? else {
            continue;
        };
        let left = names_left(&node);
        if let Some(handle) = node.mark("origin").and_then(Handle::in_mark)
            && left > 0
        {
            wanted.insert(handle, Indexed { name, file_type: node.file_type(), left });
        }
    }
    Ok(wanted)
}

/// `U+N`: all names together are N more than the links in the upper directory, of which one is the index's.
fn names_left(node: &Node) -> i64 {
    let more =
        node.mark("nlink").and_then(|mark| std::str::from_utf8(mark).ok()?.strip_prefix('U')?.parse().ok());
    match node.file_type() {
        FileType::Directory => 0,
        _ => more.map_or(0, |more: i64| more + 1),
    }
}

pub(super) struct Search<'a> {
    stack: &'a Stack,
    top: usize,
    wanted: HashMap<Handle, Indexed>,
    pub(super) found: Vec<(Vec<u8>, Part, Vec<u8>)>,
}

impl Search<'_> {
    fn dir(&mut self, path: &[u8], parts: &[Part]) -> Result<()> {
        let failed = |error| Error::io("list", path.escape_ascii())(error);
        for name in self.stack.names(parts).map_err(failed)? {
            let path = joined(path, &name);
            match lookup(self.stack, parts, &name).map_err(failed)? {
                Shown::Nothing => {}
                Shown::Dir(parts) => self.dir(&path, &parts)?,
                Shown::File(parts) => parts.first().map_or(Ok(()), |part| self.entry(&path, part))?,
                Shown::Other(part) => self.entry(&path, &part)?,
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &[u8], part: &Part) -> Result<()> {
        if part.layer <= self.top {
            return Ok(());
        }
        let node = self.stack.node(part).map_err(failed("link", path))?;
        let Some(node) = node.filter(|node| node.stat.st_nlink > 1) else { return Ok(()) };
        let Some(handle) = handle_of(self.stack.tree(part.layer), &part.path) else { return Ok(()) };
        let Some(indexed) = self.wanted.get_mut(&handle) else { return Ok(()) };
        if indexed.file_type != node.file_type() || indexed.left == 0 {
            return Ok(());
        }
        indexed.left -= 1;
        self.found.push((path.to_vec(), part.clone(), indexed.name.clone()));
        Ok(())
    }
}

/// Gives a file of the index the name `path` in the top layer.
fn link(stack: &Stack, index: &Tree, path: &[u8], indexed: &[u8]) -> Result<()> {
    let (dir, name) = beneath::split(path);
    make_dirs(stack, dir)?;
    let upper = stack.tree(0);
    let times = upper.node(dir).map_err(failed("link", path))?.map(|node| times_of(&node));
    let dir = beneath::open_dir(upper.root(), dir).map_err(failed("link", path))?;
    linkat(index.root(), indexed, &dir, name, AtFlags::empty()).map_err(failed("link", path))?;
    let restored = times.map_or(Ok(()), |times| utimensat(&dir, ".", &times, AtFlags::empty()));
    restored.map_err(failed("link", path))
}

/// Makes in the top layer the directories on the way to `path` that only layers below have, as they show.
pub(super) fn make_dirs(stack: &Stack, path: &[u8]) -> Result<()> {
    let upper = stack.tree(0);
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    for end in ends.chain([path.len()]).filter(|&end| end > 0) {
        let path = &path[..end];
        if upper.node(path).map_err(failed("make directory", path))?.is_some() {
            continue;
        }
        let shown = merge::resolve(stack, 0, path).map_err(failed("make directory", path))?;
        let node = shown
            .first()
            .map(|part| stack.node(part))
            .transpose()
            .map_err(failed("make directory", path))?
            .flatten();
        let node = node.ok_or(Errno::NOENT).map_err(failed("make directory", path))?;
        let (dir, name) = beneath::split(path);
        let times = upper.node(dir).map_err(failed("make directory", path))?.map(|node| times_of(&node));
        let dir = beneath::open_dir(upper.root(), dir).map_err(failed("make directory", path))?;
        mkdirat(&dir, name, Mode::RWXU).map_err(failed("make directory", path))?;
        dress(dir.as_fd(), name, &node).map_err(failed("make directory", path))?;
        let restored = times.map_or(Ok(()), |times| utimensat(&dir, ".", &times, AtFlags::empty()));
        restored.map_err(failed("make directory", path))?;
    }
    Ok(())
}

fn failed<E: Into<io::Error>>(op: &'static str, path: &[u8]) -> impl FnOnce(E) -> Error {
    Error::io(op, path.escape_ascii())
}

/// Gives the directory `name` what shows of `like`.
pub(super) fn dress(dir: std::os::fd::BorrowedFd<'_>, name: &[u8], like: &Node) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(like.stat.st_uid), Gid::from_raw(like.stat.st_gid));
    chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    let path = [format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(), name].concat();
    for (attribute, value) in like.copied() {
        lsetxattr(&path, attribute, &value, XattrFlags::empty())?;
    }
    chmodat(dir, name, Mode::from_raw_mode(like.mode()), AtFlags::empty())?;
    utimensat(dir, name, &times_of(like), AtFlags::SYMLINK_NOFOLLOW)
}

pub(super) fn times_of(node: &Node) -> Timestamps {
    let time = |tv_sec, tv_nsec: i128| Timespec { tv_sec, tv_nsec: tv_nsec as i64 };
    Timestamps {
        last_access: time(node.stat.st_atime, i128::from(node.stat.st_atime_nsec)),
        last_modification: time(node.stat.st_mtime, i128::from(node.stat.st_mtime_nsec)),
    }
}
