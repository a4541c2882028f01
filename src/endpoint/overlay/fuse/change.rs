//! Names made and taken away.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, RwLock};

use rustix::fs::{Gid, Mode, OFlags, RenameFlags, Stat, Uid, XattrFlags};

use super::copy_up::remove_tree;
use super::file::{Data, Opened};
use super::nodes::{Heritage, id_of};
use super::root::Root;
use super::source::Source;
use super::spot::Spot;
use super::stack::{Device, Found, Where, is_dir, is_whiteout};
use super::tree::{Attr, Changing, Names};
use super::{Errno, Fallible};

/// Who asks for something to be made.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// The owner of what is made.
    pub uid: u32,
    /// Its group, unless the directory gives its own.
    pub gid: u32,
    /// What its mode lacks, unless the directory has default rights.
    pub umask: u32,
}

/// What to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum New {
    /// A regular file of this mode.
    File(u32),
    /// A directory of this mode.
    Dir(u32),
    /// A symbolic link to this.
    Link(OsString),
    /// A special file: mode with the type, and the device's number.
    Node(u32, u64),
}

/// What the upper layer has under a name.
pub(super) enum Slot {
    Free,
    Whiteout,
    Taken,
}

impl Changing<'_> {
    /// Makes what was not there, for a kernel that will forget it again.
    pub fn make(&self, parent: u64, name: &OsStr, new: &New, caller: &Caller) -> Fallible<Attr> {
        let mut names = self.names();
        let (attr, _) = names.make(parent, name, new, caller, &self.options)?;
        names.nodes.looked_up(attr.number);
        Ok(attr)
    }

    /// Makes a file and opens it.
    pub fn create(&self, parent: u64, name: &OsStr, mode: u32, caller: &Caller) -> Fallible<(Attr, Opened)> {
        let mut names = self.names();
        let (attr, file) = names.make(parent, name, &New::File(mode), caller, &self.options)?;
        names.nodes.looked_up(attr.number);
        let file = file.ok_or(Errno::IO)?;
        let data = Arc::new(Data { source: RwLock::new(Source::Whole(file)) });
        Ok((attr, names.opened(attr.number, data, true)))
    }

    /// Makes a file that has no name, and opens it. It is gone when it is closed, unless it is given a name.
    pub fn create_unnamed(&self, parent: u64, mode: u32, caller: &Caller) -> Fallible<(Attr, Opened)> {
        let mut names = self.names();
        let (dir, _) = names.writable_dir(parent, &self.options)?;
        let heritage = names.heritage(parent, &dir)?;
        let umask = if heritage.acl { 0 } else { caller.umask };
        let owner = Owner { uid: caller.uid, gid: heritage.gid.unwrap_or(caller.gid), umask };
        let file = names.stack.upper.create_unnamed(&dir, mode & !umask)?;
        owner.take_file(&file, mode)?;
        let kept = Arc::new(rustix::io::fcntl_dupfd_cloexec(&file, 0)?);
        let number = names.nodes.remember_orphan(kept, &rustix::fs::fstat(&file)?, !heritage.acl);
        names.nodes.looked_up(number);
        let data = Arc::new(Data { source: RwLock::new(Source::Whole(file)) });
        let opened = names.opened(number, data, true);
        Ok((names.attr(number)?, opened))
    }

    /// Gives a file one more name.
    pub fn link(&self, number: u64, parent: u64, name: &OsStr) -> Fallible<Attr> {
        let mut names = self.names();
        if names.nodes.get(number)?.lost {
            // What a reset took away does not come back by a descriptor that somebody kept.
            return Err(Errno::NOENT);
        }
        names.copy_up(number, &self.options)?;
        let (dir, place) = names.writable_dir(parent, &self.options)?;
        let target = dir.join(name);
        let slot = names.vacancy(&place, &target, name)?;
        match slot {
            Slot::Taken => return Err(Errno::EXIST),
            Slot::Free => names.spot(number)?.link(&names.stack.upper, &target)?,
            Slot::Whiteout => {
                let work = names.work_name();
                names.spot(number)?.link(&names.work, &work)?;
                names.work.rename(&work, &names.stack.upper, &target, RenameFlags::empty())?;
            }
        }
        names.nodes.gain_place(number, parent, name);
        names.nodes.get_mut(number)?.orphan = None;
        names.nodes.looked_up(number);
        names.attr(number)
    }

    /// Takes a name of a file away.
    pub fn unlink(&self, parent: u64, name: &OsStr) -> Fallible<()> {
        let mut names = self.names();
        let node = names.lookup(parent, name)?;
        if is_dir(&node.stat) {
            return Err(Errno::ISDIR);
        }
        names.untie(&node, &self.options)?;
        let (dir, place) = names.writable_dir(parent, &self.options)?;
        let path = dir.join(name);
        names.keep_if_last(node.number)?;
        let covered = names.stack.find_below(&place, name)?.is_some();
        let is_above = place.lowers.is_empty() && names.nodes.get(node.number)?.upper;
        let slot = if is_above { Slot::Taken } else { names.slot(&path)? };
        match (slot, covered) {
            (Slot::Taken, false) => names.stack.upper.unlink(&path)?,
            (Slot::Taken, true) => names.cover(&path)?,
            (_, _) => names.stack.upper.mknod(&path, libc::S_IFCHR, 0)?,
        }
        names.gone(node.number, parent, name);
        Ok(())
    }

    /// Takes an empty directory away.
    pub fn rmdir(&self, parent: u64, name: &OsStr) -> Fallible<()> {
        let mut names = self.names();
        let node = names.lookup(parent, name)?;
        if !is_dir(&node.stat) {
            return Err(Errno::NOTDIR);
        }
        let inside = names.nodes.place(node.number)?;
        if !names.stack.list(&inside)?.is_empty() {
            return Err(Errno::NOTEMPTY);
        }
        let (dir, place) = names.writable_dir(parent, &self.options)?;
        let path = dir.join(name);
        names.keep_if_last(node.number)?;
        let covered = names.stack.find_below(&place, name)?.is_some();
        match (names.slot(&path)?, covered) {
            (Slot::Taken, false) => names.remove_dir(&path)?,
            (Slot::Taken, true) => names.cover_dir(&path)?,
            (_, _) => names.stack.upper.mknod(&path, libc::S_IFCHR, 0)?,
        }
        names.gone(node.number, parent, name);
        Ok(())
    }
}

impl Names {
    /// What the upper layer has at a path.
    pub(super) fn slot(&self, path: &Path) -> Fallible<Slot> {
        match self.stack.upper.stat(path) {
            Err(Errno::NOENT) => Ok(Slot::Free),
            Err(error) => Err(error),
            Ok(stat) if is_whiteout(&stat) => Ok(Slot::Whiteout),
            Ok(_) => Ok(Slot::Taken),
        }
    }

    /// As [`Self::slot`], but what shows from below takes the place as well.
    fn vacancy(&self, dir: &Where, path: &Path, name: &OsStr) -> Fallible<Slot> {
        match self.slot(path)? {
            Slot::Free if self.stack.find_below(dir, name)?.is_some() => Ok(Slot::Taken),
            slot => Ok(slot),
        }
    }

    fn make(
        &mut self,
        parent: u64,
        name: &OsStr,
        new: &New,
        caller: &Caller,
        options: &super::Options,
    ) -> Fallible<(Attr, Option<OwnedFd>)> {
        let (dir, place) = self.writable_dir(parent, options)?;
        let path = dir.join(name);
        let heritage = self.heritage(parent, &dir)?;
        let umask = if heritage.acl { 0 } else { caller.umask };
        let owner = Owner { uid: caller.uid, gid: heritage.gid.unwrap_or(caller.gid), umask };
        // Where nothing shows from below, the kernel says whether the name is free.
        let covers = !place.lowers.is_empty() && self.stack.find_below(&place, name)?.is_some();
        if !covers {
            match self.make_free(&path, new, &owner) {
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
                Ok((stat, file)) => {
                    let plain = Found {
                        stat,
                        at: Where { upper: Some(path), ..Where::default() },
                        partial: None,
                        device: None,
                        bare: !heritage.acl,
                    };
                    let is_marked = matches!(new, New::Node(..));
                    let found = if is_marked { self.made(&place, &dir, name)? } else { plain };
                    self.nodes.release_id(id_of(&found.stat));
                    return Ok((self.found(parent, name, found)?, file));
                }
            }
        }
        let Slot::Whiteout = self.slot(&path)? else { return Err(Errno::EXIST) };
        let file = self.make_over_whiteout(&path, new, &owner, heritage)?;
        let found = self.made(&place, &dir, name)?;
        self.nodes.release_id(id_of(&found.stat));
        Ok((self.found(parent, name, found)?, file))
    }

    /// What shows now where something was made.
    fn made(&self, place: &Where, dir: &Path, name: &OsStr) -> Fallible<Found> {
        self.stack.find(&place_with(place, dir), name)?.ok_or(Errno::IO)
    }

    /// Makes what has no name to share. EEXIST: something is there, or a whiteout.
    fn make_free(&self, path: &Path, new: &New, owner: &Owner) -> Fallible<(Stat, Option<OwnedFd>)> {
        let upper = &self.stack.upper;
        let made = self.make_at(upper, path, new, owner);
        let file = made.inspect_err(|error| self.undo(upper, path, *error))?;
        let stat = match &file {
            Some(file) => rustix::fs::fstat(file)?,
            None => upper.stat(path)?,
        };
        Ok((stat, file))
    }

    fn make_over_whiteout(
        &mut self,
        path: &Path,
        new: &New,
        owner: &Owner,
        heritage: Heritage,
    ) -> Fallible<Option<OwnedFd>> {
        if heritage.acl {
            self.stack.upper.unlink(path)?;
            let file = self.make_at(&self.stack.upper, path, new, owner)?;
            self.seal(&self.stack.upper, path, new)?;
            return Ok(file);
        }
        let work = self.work_name();
        let made = self.make_at(&self.work, &work, new, owner);
        let file = made.inspect_err(|_| self.discard(&work))?;
        if heritage.gid.is_some() && matches!(new, New::Dir(_)) {
            self.work.chmod(&work, self.work.stat(&work)?.st_mode | libc::S_ISGID)?;
        }
        self.seal(&self.work, &work, new)?;
        self.over_whiteout(&work, path, new)?;
        Ok(file)
    }

    /// What a failed attempt left is taken away; what was there before is not.
    fn undo(&self, root: &Root, path: &Path, error: Errno) {
        if error != Errno::EXIST && root.unlink(path).is_err() {
            let _ = root.rmdir(path);
        }
    }

    /// A new directory where one below was taken away shows nothing of that one.
    fn seal(&self, root: &Root, path: &Path, new: &New) -> Fallible<()> {
        let New::Dir(_) = new else { return Ok(()) };
        root.set_xattr(path, &self.stack.prefix.mark("opaque"), b"y", XattrFlags::empty())
    }

    fn over_whiteout(&self, work: &Path, path: &Path, new: &New) -> Fallible<()> {
        let upper = &self.stack.upper;
        match new {
            New::Dir(_) => {
                self.work.rename(work, upper, path, RenameFlags::EXCHANGE)?;
                self.work.unlink(work)
            }
            _ => self.work.rename(work, upper, path, RenameFlags::empty()),
        }
    }

    fn make_at(&self, root: &Root, path: &Path, new: &New, owner: &Owner) -> Fallible<Option<OwnedFd>> {
        let mut file = None;
        let mode = match new {
            New::File(mode) => {
                file = Some(root.create(path, mode & !owner.umask)?);
                *mode
            }
            New::Dir(mode) => {
                root.mkdir(path, mode & !owner.umask)?;
                *mode
            }
            New::Link(target) => {
                root.symlink(Path::new(target), path)?;
                0
            }
            New::Node(mode, device) => {
                self.make_node(root, path, mode & !owner.umask, *device)?;
                *mode
            }
        };
        owner.take(root, path, mode)?;
        Ok(file)
    }

    /// A device that a whiteout would be taken for is kept as a file with a mark.
    fn make_node(&self, root: &Root, path: &Path, mode: u32, number: u64) -> Fallible<()> {
        let kind = mode & libc::S_IFMT;
        if kind != libc::S_IFCHR || number != 0 {
            return root.mknod(path, mode, number);
        }
        root.create(path, 0o600)?;
        let mark = self.stack.prefix.mark("cowsnap.node");
        root.set_xattr(path, &mark, Device { kind, number }.words().as_bytes(), XattrFlags::empty())?;
        root.chmod(path, mode)
    }

    /// A lower file of several names is copied up before one of them goes, so that the others count right.
    pub(super) fn untie(&mut self, node: &Attr, options: &super::Options) -> Fallible<()> {
        match !is_dir(&node.stat) && node.stat.st_nlink > 1 {
            true => self.copy_up(node.number, options),
            false => Ok(()),
        }
    }

    /// Keeps hold of a file whose last name is about to go, as long as somebody knows it.
    pub(super) fn keep_if_last(&mut self, number: u64) -> Fallible<()> {
        let node = self.nodes.get(number)?;
        if !node.upper || node.places.len() > 1 || (node.lookups == 0 && node.opens == 0) {
            return Ok(());
        }
        let Spot::Named(upper, path) = self.spot(number)? else { return Ok(()) };
        let orphan = Arc::new(upper.open_at(&path, OFlags::PATH)?);
        self.nodes.get_mut(number)?.orphan = Some(orphan);
        Ok(())
    }

    /// A node has lost a name.
    pub(super) fn gone(&mut self, number: u64, parent: u64, name: &OsStr) {
        if self.nodes.lose_place(number, parent, name) {
            if let Ok(node) = self.nodes.get_mut(number) {
                node.orphan = None;
            }
            return;
        }
        if let Ok(Spot::Orphan(fd)) = self.spot(number)
            && let Ok(stat) = rustix::fs::fstat(&fd)
            && stat.st_nlink == 0
        {
            self.nodes.release_id(id_of(&stat));
        }
        self.nodes.drop_unused(number);
    }

    /// Puts a whiteout in the place of a file.
    pub(super) fn cover(&mut self, path: &Path) -> Fallible<()> {
        let work = self.work_name();
        self.work.mknod(&work, libc::S_IFCHR, 0)?;
        self.work.rename(&work, &self.stack.upper, path, RenameFlags::empty())
    }

    /// Puts a whiteout in the place of a directory in which nothing shows.
    pub(super) fn cover_dir(&mut self, path: &Path) -> Fallible<()> {
        let work = self.work_name();
        self.work.mknod(&work, libc::S_IFCHR, 0)?;
        self.work.rename(&work, &self.stack.upper, path, RenameFlags::EXCHANGE)?;
        remove_tree(&self.work, &work)
    }

    /// Takes a directory away in which nothing shows, but whiteouts may be.
    pub(super) fn remove_dir(&mut self, path: &Path) -> Fallible<()> {
        match self.stack.upper.rmdir(path) {
            Err(Errno::NOTEMPTY) => {
                let work = self.work_name();
                self.stack.upper.rename(path, &self.work, &work, RenameFlags::empty())?;
                remove_tree(&self.work, &work)
            }
            removed => removed,
        }
    }
}

/// The directory as it is once its upper part is at `dir`.
fn place_with(place: &Where, dir: &Path) -> Where {
    Where { upper: Some(PathBuf::from(dir)), ..place.clone() }
}

/// Who this process is: nobody changes that.
static ME: LazyLock<(u32, u32)> =
    LazyLock::new(|| (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()));

/// Whom something new belongs to.
struct Owner {
    uid: u32,
    gid: u32,
    umask: u32,
}

impl Owner {
    /// Gives what was made at `path` to the owner, with the bits that a change of owner takes away.
    fn take(&self, root: &Root, path: &Path, mode: u32) -> Fallible<()> {
        let (uid, gid) = *ME;
        if (uid, gid) == (self.uid, self.gid) || uid != 0 {
            return Ok(());
        }
        root.chown(path, Some(self.uid), Some(self.gid))?;
        let special = mode & (libc::S_ISUID | libc::S_ISGID);
        if special != 0 {
            root.chmod(path, root.stat(path)?.st_mode | special)?;
        }
        Ok(())
    }

    /// As [`Self::take`], of an open file.
    fn take_file(&self, file: &OwnedFd, mode: u32) -> Fallible<()> {
        let (uid, gid) = *ME;
        if (uid, gid) == (self.uid, self.gid) || uid != 0 {
            return Ok(());
        }
        rustix::fs::fchown(file, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))?;
        let special = mode & (libc::S_ISUID | libc::S_ISGID);
        if special != 0 {
            let mode = rustix::fs::fstat(file)?.st_mode | special;
            rustix::fs::fchmod(file, Mode::from_raw_mode(mode & 0o7777))?;
        }
        Ok(())
    }
}
