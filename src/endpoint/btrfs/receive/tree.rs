//! From a stream's path to a directory descriptor and a last component, never out of the subvolume.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{IFlags, fgetxattr, flistxattr, fstat};
use rustix::io::Errno;

use super::fault::Fault;
use super::plain::{HANDED_DOWN_PLAINLY, flags_of};
use crate::endpoint::beneath::{self, open_dir};

/// How many directories are kept open.
const DIRECTORIES: usize = 256;

/// An open directory of the subvolume.
#[derive(Debug)]
pub(super) struct Dir {
    fd: OwnedFd,
    /// Whether what is made in it takes more from it than its place: a default ACL, a group, a property.
    pub(super) bequeaths: bool,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Dir {
    fn new(fd: OwnedFd, plain: bool) -> Result<Self, Errno> {
        let bequeaths = bequeaths(fd.as_fd(), plain)?;
        Ok(Self { fd, bequeaths })
    }
}

/// Where something is: its parent, and its name there.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub(super) dir: Rc<Dir>,
    pub(super) name: &'a [u8],
}

#[derive(Debug)]
struct Cached {
    dir: Rc<Dir>,
    used: u64,
}

/// A subvolume's directories, by path. What is cached is right as long as [`Tree::forget`] hears of every change.
#[derive(Debug)]
pub(super) struct Tree {
    root: Rc<Dir>,
    cache: HashMap<Box<[u8]>, Cached>,
    clock: u64,
    plain: bool,
}

impl Tree {
    pub(super) fn new(root: OwnedFd, plain: bool) -> Result<Self, Errno> {
        Ok(Self { root: Rc::new(Dir::new(root, plain)?), cache: HashMap::new(), clock: 0, plain })
    }

    /// The root directory.
    pub(super) fn root(&self) -> &Rc<Dir> {
        &self.root
    }

    /// The parent and the last component of `path`, which names something other than the root.
    pub(super) fn place<'a>(&mut self, path: &'a [u8]) -> Result<Place<'a>, Fault> {
        check(path)?;
        match path.iter().rposition(|&b| b == b'/') {
            None => Ok(Place { dir: Rc::clone(&self.root), name: path }),
            Some(slash) => Ok(Place { dir: self.dir(&path[..slash])?, name: &path[slash + 1..] }),
        }
    }

    /// Forgets every directory at or below `path`: it may be another one from now on.
    pub(super) fn forget(&mut self, path: &[u8]) {
        self.cache.retain(|cached, _| !is_at_or_below(cached, path));
    }

    /// Looks again at what the directory `path`, if it is one, hands down to what is made in it.
    pub(super) fn look_again(&mut self, path: &[u8]) -> Result<(), Fault> {
        if path.is_empty() {
            self.root = Rc::new(Dir::new(self.root.fd.try_clone()?, self.plain)?);
        }
        self.cache.remove(path);
        Ok(())
    }

    fn dir(&mut self, path: &[u8]) -> Result<Rc<Dir>, Fault> {
        self.clock += 1;
        if let Some(cached) = self.cache.get_mut(path) {
            cached.used = self.clock;
            return Ok(Rc::clone(&cached.dir));
        }
        let dir = Rc::new(Dir::new(self.open(path)?, self.plain)?);
        self.evict();
        self.cache.insert(path.into(), Cached { dir: Rc::clone(&dir), used: self.clock });
        Ok(dir)
    }

    /// Opens a directory from its parent, if that is open, else from the root.
    fn open(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        if let Some(slash) = path.iter().rposition(|&b| b == b'/')
            && let Some(parent) = self.cache.get(&path[..slash])
        {
            return open_dir(parent.dir.as_fd(), &path[slash + 1..]);
        }
        open_dir(self.root.as_fd(), path)
    }

    /// Makes room by closing the quarter that was used longest ago.
    fn evict(&mut self) {
        if self.cache.len() < DIRECTORIES {
            return;
        }
        let mut used: Vec<_> = self.cache.values().map(|cached| cached.used).collect();
        used.sort_unstable();
        let limit = used[DIRECTORIES / 4];
        self.cache.retain(|_, cached| cached.used > limit);
    }
}

/// Refuses paths that no sender makes and that could lead out of the subvolume.
fn check(path: &[u8]) -> Result<(), Fault> {
    match path {
        b"" => Err(Fault::Hostile("the subvolume's root is named where it can not be")),
        _ => beneath::check(path).map_err(Fault::Hostile),
    }
}

pub(super) fn is_at_or_below(path: &[u8], top: &[u8]) -> bool {
    path.strip_prefix(top).is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
}

/// Checks `path` and opens the directory that holds its last component, beneath `root`; nothing is cached.
pub(super) fn open_parent<'a>(root: BorrowedFd<'_>, path: &'a [u8]) -> Result<(OwnedFd, &'a [u8]), Fault> {
    check(path)?;
    match path.iter().rposition(|&b| b == b'/') {
        None => Ok((root.try_clone_to_owned()?, path)),
        Some(slash) => Ok((open_dir(root, &path[..slash])?, &path[slash + 1..])),
    }
}

fn bequeaths(dir: BorrowedFd<'_>, plain: bool) -> Result<bool, Errno> {
    let inherited = if plain { HANDED_DOWN_PLAINLY } else { INHERITED };
    if flags_of(dir)?.intersects(inherited) || fstat(dir)?.st_mode & libc::S_ISGID != 0 {
        return Ok(true);
    }
    let mut names = [0; 4096];
    match flistxattr(dir, &mut names[..]) {
        Ok(0) | Err(Errno::OPNOTSUPP) => Ok(false),
        Ok(len) => Ok(names[..len].split(|&b| b == 0).any(is_inherited)),
        Err(Errno::RANGE) => Ok(true), // Too many to look through.
        Err(error) => Err(error),
    }
}

/// The flags that a directory of btrfs hands down.
pub(super) const INHERITED: IFlags =
    IFlags::NOCOW.union(IFlags::COMPRESSED).union(IFlags::from_bits_retain(NOCOMP));

/// `FS_NOCOMP_FL`, which the flags' type does not name.
pub(super) const NOCOMP: u32 = 0x400;

/// Whether a directory's attribute passes to what is made in it.
fn is_inherited(name: &[u8]) -> bool {
    name == b"system.posix_acl_default" || name.starts_with(b"btrfs.")
}

/// The value of an extended attribute; `None` if it is not there.
pub(super) fn xattr_of(file: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
    let mut value = vec![0; 256];
    loop {
        match fgetxattr(file, name, &mut value[..]) {
            Ok(len) => {
                value.truncate(len);
                return Ok(Some(value));
            }
            Err(Errno::RANGE) if value.len() < 1 << 16 => value.resize(1 << 16, 0),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}
