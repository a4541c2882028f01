//! Layers put upon a copy of their base, so that it is one whole tree which shows what the stack does: for modes that show trees and no stacks.
//!
//! What was renamed is renamed, so that it stays the file or directory that it is in the base; of what the layers hold, data is shared where the
//! filesystem can. The cost is that of the layers, and not of the base.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Uid, XattrFlags, chmodat, chownat, linkat, lremovexattr, lsetxattr,
    makedev, mkdirat, mknodat, renameat, symlinkat, utimensat,
};
use rustix::io::Errno;

use super::data::Content;
use super::links::times_of;
use super::merge::{self, Part, Shown, joined, lookup};
use super::tree::{Node, Stack, attributes};
use crate::endpoint::overlay::files::remove_tree;
use crate::endpoint::overlay::home::random;
use crate::endpoint::{Error, Result, beneath};
use crate::sys::interrupt;

/// Makes the tree at `root`, a copy of the last tree of `stack` with the same names in it, what the whole stack shows. Nobody else may look at it
/// or write to it meanwhile; after an error it is neither.
///
/// # Errors
/// [`Error::Corrupt`] for layers that make no sense; what can not be read or written; a signal.
pub fn put_upon(stack: &Stack, root: OwnedFd) -> Result<()> {
    let n_layers = merge::Layers::count(stack) - 1;
    let mut put = Put { stack, root, base: n_layers, first: HashMap::new(), aside: HashMap::new() };
    let parts = merge::root(n_layers + 1, 0);
    let mut moved = Vec::new();
    put.find_moved(b"", &parts, Some(b""), &mut HashSet::new(), &mut moved)?;
    let aside = put.put_aside(moved)?;
    put.dir(b"", &parts, Some(b""))?;
    if let Some(aside) = aside {
        put.remove(&aside)?;
    }
    put.dress(b"", &parts[0])
}

struct Put<'a> {
    /// The layers, and the base.
    stack: &'a Stack,
    /// What is made.
    root: OwnedFd,
    /// Which tree of the stack is the base.
    base: usize,
    /// The first name of each file that has several and was made, by its device and inode number.
    first: HashMap<(u64, u64), Vec<u8>>,
    /// Where the base's directories are that show elsewhere, by what they are called in the base.
    aside: HashMap<Vec<u8>, Vec<u8>>,
}

impl Put<'_> {
    /// The directories of the base that show in another place, those first that are in others.
    fn find_moved(
        &self,
        path: &[u8],
        parts: &[Part],
        here: Option<&[u8]>,
        seen: &mut HashSet<Vec<u8>>,
        moved: &mut Vec<Vec<u8>>,
    ) -> Result<()> {
        for name in self.names(parts, here)? {
            check_interrupt()?;
            let Shown::Dir(below) = self.look_up(path, parts, &name)? else { continue };
            let is_here = here.map(|here| joined(here, &name));
            let of_base = self.of_base(&below).map(<[u8]>::to_vec);
            let of_base = of_base.filter(|from| is_here.as_ref() == Some(from) || seen.insert(from.clone()));
            let path = joined(path, &name);
            self.find_moved(&path, &below, of_base.as_deref(), seen, moved)?;
            moved.extend(of_base.filter(|from| is_here.as_ref() != Some(from)));
        }
        Ok(())
    }

    /// Takes these directories out of where they are in the base; the directory that they are in then, if there are any.
    fn put_aside(&mut self, mut moved: Vec<Vec<u8>>) -> Result<Option<Vec<u8>>> {
        if moved.is_empty() {
            return Ok(None);
        }
        let aside = loop {
            let name = format!(".cowsnap-{:016x}", random()?).into_bytes();
            match mkdirat(&self.root, name.as_slice(), Mode::RWXU) {
                Err(Errno::EXIST) => {}
                other => break other.map(|()| name).map_err(failed(b""))?,
            }
        };
        // What is in another one goes before it: paths are those of the base until then.
        moved.sort_by_key(|path| std::cmp::Reverse(path.iter().filter(|&&byte| byte == b'/').count()));
        for (number, from) in moved.into_iter().enumerate() {
            let to = joined(&aside, number.to_string().as_bytes());
            self.rename(&from, &to)?;
            self.aside.insert(from, to);
        }
        Ok(Some(aside))
    }

    /// Makes of the directory at `path`, which is as that at `here` of the base or else empty, what these parts show.
    fn dir(&mut self, path: &[u8], parts: &[Part], here: Option<&[u8]>) -> Result<()> {
        for name in self.names(parts, here)? {
            check_interrupt()?;
            let shown = self.look_up(path, parts, &name)?;
            let there = joined(path, &name);
            let is_here = here.map(|here| joined(here, &name));
            match &shown {
                Shown::Dir(below) => self.directory(&there, below, is_here.as_deref())?,
                // It is there already.
                Shown::File(of) if is_here.is_some() && self.of_base_alone(of) == is_here.as_deref() => {}
                Shown::Other(of)
                    if is_here.is_some()
                        && self.of_base_alone(std::slice::from_ref(of)) == is_here.as_deref() => {}
                _ => {
                    if here.is_some() {
                        self.remove(&there)?;
                    }
                    self.make(&there, &shown)?;
                }
            }
        }
        Ok(())
    }

    /// Makes a directory at `path`; `here` is what the base has in its place.
    fn directory(&mut self, path: &[u8], parts: &[Part], here: Option<&[u8]>) -> Result<()> {
        let of_base = self.of_base(parts).map(<[u8]>::to_vec);
        let on = match &of_base {
            Some(from) if Some(from.as_slice()) == here => of_base,
            _ => {
                if here.is_some() {
                    self.remove(path)?;
                }
                let aside = of_base.as_ref().and_then(|from| self.aside.remove(from));
                match aside {
                    Some(aside) => self.rename(&aside, path)?,
                    None => {
                        let (dir, name) = self.place(path)?;
                        mkdirat(&dir, name, Mode::RWXU).map_err(failed(path))?;
                        self.dir(path, parts, None)?;
                        return self.dress(path, &parts[0]);
                    }
                }
                of_base
            }
        };
        self.dir(path, parts, on.as_deref())?;
        self.dress(path, &parts[0])
    }

    fn make(&mut self, path: &[u8], shown: &Shown) -> Result<()> {
        let (parts, first) = match shown {
            Shown::Nothing | Shown::Dir(_) => return Ok(()),
            Shown::File(parts) => (parts.as_slice(), &parts[0]),
            Shown::Other(part) => (std::slice::from_ref(part), part),
        };
        let node = self.node(first)?;
        let (dir, name) = self.place(path)?;
        if node.stat.st_nlink > 1 {
            let file = (node.stat.st_dev, node.stat.st_ino);
            if let Some(first) = self.first.get(&file) {
                let (from, old) = self.place(first)?;
                return linkat(&from, old, &dir, name, AtFlags::empty()).map_err(failed(path));
            }
            self.first.insert(file, path.to_vec());
        }
        let mode = Mode::RUSR | Mode::WUSR;
        match (node.device(), node.file_type()) {
            (Some(device), _) => {
                let (major, minor) = device.map_err(|bad| corrupt(path, &bad))?;
                mknodat(&dir, name, FileType::CharacterDevice, mode, makedev(major, minor))
                    .map_err(failed(path))?;
            }
            (None, FileType::Symlink) => {
                let target = self.stack.tree(first.layer).link(&first.path).map_err(failed(path))?;
                symlinkat(target, &dir, name).map_err(failed(path))?;
            }
            (None, FileType::RegularFile) => {
                let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
                let file = File::from(beneath::open(dir.as_fd(), name, flags).map_err(failed(path))?);
                Content::open(self.stack, parts, node.size())?.copy_to(&file).map_err(failed(path))?;
            }
            (None, other) => mknodat(&dir, name, other, mode, node.stat.st_rdev).map_err(failed(path))?,
        }
        dress(dir.as_fd(), name, &node).map_err(failed(path))
    }

    /// What a directory of these parts may show that is not as it is in the base at `here`.
    fn names(&self, parts: &[Part], here: Option<&[u8]>) -> Result<Vec<Vec<u8>>> {
        let path = || parts.first().map_or(&b""[..], |part| &part.path);
        if here.is_none() {
            return self.stack.names(parts).map_err(failed(path()));
        }
        let mut names = std::collections::BTreeSet::new();
        for part in parts.iter().filter(|part| part.layer != self.base) {
            let listed = self.stack.tree(part.layer).names(&part.path).map_err(failed(path()))?;
            names.extend(listed.into_iter().map(|(name, _)| name));
        }
        Ok(names.into_iter().collect())
    }

    fn look_up(&self, path: &[u8], parts: &[Part], name: &[u8]) -> Result<Shown> {
        lookup(self.stack, parts, name).map_err(failed(path))
    }

    /// What the base calls the directory that these parts go on as in it.
    fn of_base<'p>(&self, parts: &'p [Part]) -> Option<&'p [u8]> {
        parts.last().filter(|part| part.layer == self.base).map(|part| part.path.as_slice())
    }

    /// What the base calls that of which no layer has anything.
    fn of_base_alone<'p>(&self, parts: &'p [Part]) -> Option<&'p [u8]> {
        if parts.len() == 1 { self.of_base(parts) } else { None }
    }

    fn node(&self, part: &Part) -> Result<Node> {
        let node = self.stack.node(part).map_err(failed(&part.path))?;
        node.ok_or_else(|| failed(&part.path)(io::Error::from(io::ErrorKind::NotFound)))
    }

    fn dress(&self, path: &[u8], like: &Part) -> Result<()> {
        let node = self.node(like)?;
        let (dir, name) = self.place(path)?;
        let name = if name.is_empty() { b"." } else { name };
        dress(dir.as_fd(), name, &node).map_err(failed(path))
    }

    fn rename(&self, from: &[u8], to: &[u8]) -> Result<()> {
        let ((old_dir, old), (new_dir, new)) = (self.place(from)?, self.place(to)?);
        renameat(&old_dir, old, &new_dir, new).map_err(failed(from))
    }

    /// Removes what is at a path; nothing there is fine.
    fn remove(&self, path: &[u8]) -> Result<()> {
        use std::os::unix::ffi::OsStrExt;
        let (dir, name) = self.place(path)?;
        let dir_path = format!("/proc/self/fd/{}/", dir.as_raw_fd());
        let path_of = Path::new(&dir_path).join(std::ffi::OsStr::from_bytes(name));
        remove_tree(&path_of).map_err(failed(path))
    }

    fn place<'p>(&self, path: &'p [u8]) -> Result<(OwnedFd, &'p [u8])> {
        let (dir, name) = beneath::split(path);
        beneath::open_dir(self.root.as_fd(), dir).map(|dir| (dir, name)).map_err(failed(path))
    }
}

/// Gives something the owner, attributes, mode and times that show of `like`, in the order in which none takes another away.
fn dress(dir: BorrowedFd<'_>, name: &[u8], like: &Node) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(like.stat.st_uid), Gid::from_raw(like.stat.st_gid));
    chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    let path = [format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(), name].concat();
    let wanted = like.shown();
    for attribute in attributes(dir, name)?.into_keys().filter(|attribute| !wanted.contains_key(attribute)) {
        lremovexattr(&path, attribute)?;
    }
    for (attribute, value) in wanted {
        lsetxattr(&path, attribute, &value, XattrFlags::empty())?;
    }
    if like.file_type() != FileType::Symlink {
        chmodat(dir, name, Mode::from_raw_mode(like.mode()), AtFlags::empty())?;
    }
    Ok(utimensat(dir, name, &times_of(like), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn corrupt(path: &[u8], why: &impl std::fmt::Display) -> Error {
    Error::Corrupt { what: "layer", why: format!("{}: {why}", path.escape_ascii()), source: None }
}

fn check_interrupt() -> Result<()> {
    interrupt::check()
        .map_err(|_| Error::Interrupted { op: "put layers upon", subject: "a clone of their base".into() })
}

fn failed<E: Into<io::Error>>(path: &[u8]) -> impl FnOnce(E) -> Error {
    Error::io("put layers upon their base", path.escape_ascii())
}
