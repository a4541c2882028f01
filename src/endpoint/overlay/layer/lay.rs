//! A layer written out that was set apart in a whole tree: its entries are copied, and described as any other layer.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Uid, XattrFlags, chmodat, chownat, linkat, lsetxattr, mkdirat,
    mknodat, symlinkat, utimensat,
};

use super::commit::{CommitRequest, describe};
use super::data::Content;
use super::links::times_of;
use super::merge::Part;
use super::staging::Staging;
use super::store::Layer;
use super::tree::{Node, Stack};
use crate::endpoint::overlay::home::{Generation, Home};
use crate::endpoint::{Error, Result, beneath};
use crate::sys::interrupt;

/// Makes a layer of what was set apart in the top tree of `stack`, which nobody writes to meanwhile. Killed at any instant, nothing of it
/// has a layer's name, or it is there, whole. Data is shared where the filesystem can.
///
/// # Errors
/// [`Error::Exists`] if the overlay has a layer of that name; what can not be read or written; a signal. Nothing of it is left then.
pub fn commit_apart(
    home: &Home,
    stack: &Stack,
    request: &CommitRequest,
    before_name: &mut dyn FnMut() -> Result<()>,
) -> Result<Layer> {
    let staging = Staging::new(home)?;
    let path = staging.tree();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&path, flags, Mode::empty()).map_err(Error::io("open", path.display()))?;
    Lay { stack, root, first: HashMap::new() }.all()?;
    let made = Generation::at(staging.dir());
    let described = describe(&made, request)?;
    before_name()?;
    let _lock = home.lock()?;
    described.check_name(home)?;
    described.publish(home)
}

struct Lay<'a> {
    stack: &'a Stack,
    root: OwnedFd,
    /// The first name of each file that has several, by its device and inode number.
    first: HashMap<(u64, u64), Vec<u8>>,
}

impl Lay<'_> {
    fn all(&mut self) -> Result<()> {
        let Some(apart) = self.stack.tree(0).apart() else { return Ok(()) };
        let mut dirs = vec![Vec::new()];
        for path in apart.paths() {
            interrupt::check()
                .map_err(|_| Error::Interrupted { op: "commit", subject: "an overlay".into() })?;
            let node = self.node(&path)?;
            if self.entry(&path, &node)? {
                dirs.push(path);
            }
        }
        // What they are to have they get last: it may forbid what is made in them, and their times change by it.
        for path in dirs.iter().rev() {
            let node = self.node(path)?;
            let (dir, name) = self.place(path)?;
            let name = if name.is_empty() { b"." } else { name };
            dress(dir.as_fd(), name, &node).map_err(failed(path))?;
        }
        Ok(())
    }

    /// Makes an entry; whether it is a directory, which is only begun then.
    fn entry(&mut self, path: &[u8], node: &Node) -> Result<bool> {
        let (dir, name) = self.place(path)?;
        if node.is_whiteout() {
            mknodat(&dir, name, FileType::CharacterDevice, Mode::empty(), 0).map_err(failed(path))?;
            return Ok(false);
        }
        if node.file_type() == FileType::Directory {
            mkdirat(&dir, name, Mode::RWXU).map_err(failed(path))?;
            return Ok(true);
        }
        if node.stat.st_nlink > 1 {
            let file = (node.stat.st_dev, node.stat.st_ino);
            if let Some(first) = self.first.get(&file) {
                let (from, old) = self.place(first)?;
                linkat(&from, old, &dir, name, AtFlags::empty()).map_err(failed(path))?;
                return Ok(false);
            }
            self.first.insert(file, path.to_vec());
        }
        self.make(dir.as_fd(), name, path, node)?;
        dress(dir.as_fd(), name, node).map_err(failed(path))?;
        Ok(false)
    }

    fn make(&self, dir: BorrowedFd<'_>, name: &[u8], path: &[u8], node: &Node) -> Result<()> {
        let mode = Mode::RUSR | Mode::WUSR;
        match node.file_type() {
            FileType::Symlink => {
                let target = self.stack.tree(0).link(path).map_err(failed(path))?;
                symlinkat(target, dir, name).map_err(failed(path))
            }
            FileType::RegularFile => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
                let file = File::from(beneath::open(dir, name, flags).map_err(failed(path))?);
                if node.device().is_some() {
                    return Ok(());
                }
                let part = Part { layer: 0, path: path.to_vec() };
                Content::open(self.stack, &[part], node.size())?.copy_to(&file).map_err(failed(path))
            }
            other => mknodat(dir, name, other, mode, node.stat.st_rdev).map_err(failed(path)),
        }
    }

    fn node(&self, path: &[u8]) -> Result<Node> {
        let node = self.stack.tree(0).node(path).map_err(failed(path))?;
        node.ok_or_else(|| failed(path)(io::Error::from(io::ErrorKind::NotFound)))
    }

    fn place<'p>(&self, path: &'p [u8]) -> Result<(OwnedFd, &'p [u8])> {
        let (dir, name) = beneath::split(path);
        beneath::open_dir(self.root.as_fd(), dir).map(|dir| (dir, name)).map_err(failed(path))
    }
}

/// Gives something the owner, attributes, mode and times of `like`, in the order in which none takes another away. What a file was copied
/// from means nothing on another filesystem.
fn dress(dir: BorrowedFd<'_>, name: &[u8], like: &Node) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(like.stat.st_uid), Gid::from_raw(like.stat.st_gid));
    chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    let path = [format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(), name].concat();
    for (attribute, value) in like.archived() {
        lsetxattr(&path, attribute, &value, XattrFlags::empty())?;
    }
    if like.file_type() != FileType::Symlink {
        chmodat(dir, name, Mode::from_raw_mode(like.mode()), AtFlags::empty())?;
    }
    Ok(utimensat(dir, name, &times_of(like), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn failed<E: Into<io::Error>>(path: &[u8]) -> impl FnOnce(E) -> Error {
    Error::io("commit", path.escape_ascii())
}
