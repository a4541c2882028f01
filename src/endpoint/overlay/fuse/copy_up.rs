//! Copying up: what is written to gets a place in the upper layer first, with the data, or with a map that says that none is there yet.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use rustix::fs::{OFlags, RenameFlags, Stat, Timespec, Timestamps, XattrFlags};

use super::map::Map;
use super::nodes::id_of;
use super::root::Root;
use super::source::{Parts, Source};
use super::spot::Spot;
use super::stack::{Partial, Piece};
use super::tree::{Names, Options};
use super::{Errno, Fallible, io};
use crate::endpoint::overlay::layer::mark_of;

/// The names of the files of the lower layers that have more than one: layer and inode, and the paths there.
pub type Links = HashMap<(usize, u64), Vec<PathBuf>>;

impl Names {
    /// Sees to it that a node is in the upper layer, and what is above it as well.
    pub(super) fn copy_up(&mut self, number: u64, options: &Options) -> Fallible<()> {
        let node = self.nodes.get(number)?;
        if node.upper {
            return Ok(());
        }
        let stat = self.spot(number)?.stat()?;
        let Some((parent, name)) = node.places.first().cloned() else {
            return self.copy_up_orphan(number, &stat, options);
        };
        let more = if !node.is_dir() && stat.st_nlink > 1 { self.lower_names(number)? } else { Vec::new() };
        self.copy_up(parent, options)?;
        let dir = self.nodes.path(parent)?;
        let work = self.work_name();
        let made = self.copy_into_work(number, &stat, &work, options);
        let partial = made.inspect_err(|_| self.discard(&work))?;
        let target = dir.join(&name);
        let id = id_of(&self.work.stat(&work)?);
        self.without_trace(&dir, |names| {
            names.work.rename(&work, &names.stack.upper, &target, RenameFlags::NOREPLACE)
        })
        .inspect_err(|_| self.discard(&work))?;
        if stat.st_nlink > 1 && !self.nodes.get(number)?.is_dir() {
            self.nodes.assign_new(id_of(&stat));
        }
        self.raised(number, id, partial)?;
        for (parent, name) in more.into_iter().filter(|other| *other != (parent, name.clone())) {
            self.link_up(number, &target, parent, &name, options)?;
            self.nodes.drop_unused(parent);
        }
        Ok(())
    }

    /// A file that has no name is copied to one that has none either.
    fn copy_up_orphan(&mut self, number: u64, stat: &Stat, options: &Options) -> Fallible<()> {
        if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
            return Err(Errno::NOENT);
        }
        let work = self.work_name();
        let made = self.copy_into_work(number, stat, &work, options);
        let partial = made.inspect_err(|_| self.discard(&work))?;
        let orphan = self.work.open_at(&work, OFlags::PATH)?;
        let id = id_of(&self.work.stat(&work)?);
        self.discard(&work);
        self.nodes.get_mut(number)?.orphan = Some(Arc::new(orphan));
        self.raised(number, id, partial)
    }

    /// Notes that a node is in the upper layer now; who has it open goes on there.
    fn raised(&mut self, number: u64, id: (u64, u64), partial: Option<Partial>) -> Fallible<()> {
        let node = self.nodes.get_mut(number)?;
        node.upper = true;
        node.partial = partial;
        if node.is_dir() {
            return Ok(());
        }
        let data = node.data.clone();
        self.nodes.assign(id, number);
        if let Some(data) = data {
            let source = self.open_source(number)?;
            *data.source.write().unwrap_or_else(PoisonError::into_inner) = source;
        }
        Ok(())
    }

    /// Acts in a directory of the upper layer, whose times stay what they are.
    fn without_trace(&mut self, dir: &Path, act: impl FnOnce(&mut Self) -> Fallible<()>) -> Fallible<()> {
        let before = self.stack.upper.stat(dir)?;
        act(self)?;
        self.stack.upper.utimes(dir, &times_of(&before))
    }

    /// Takes away what was left in the work directory.
    pub(super) fn discard(&self, work: &Path) {
        if self.work.unlink(work).is_err() {
            // What can not be taken away now is in nobody's way: names there are used once.
            let _ = remove_tree(&self.work, work);
        }
    }

    /// Makes the copy of a node in the work directory.
    fn copy_into_work(
        &mut self,
        number: u64,
        stat: &Stat,
        work: &Path,
        options: &Options,
    ) -> Fallible<Option<Partial>> {
        let partial = match stat.st_mode & libc::S_IFMT {
            libc::S_IFDIR => self.work.mkdir(work, 0o700).map(|()| None),
            libc::S_IFREG => self.copy_data(number, stat, work, options),
            libc::S_IFLNK => {
                let target = self.spot(number)?.readlink()?;
                self.work.symlink(Path::new(&OsString::from_vec(target)), work).map(|()| None)
            }
            _ => self.work.mknod(work, stat.st_mode, stat.st_rdev).map(|()| None),
        }?;
        let from = self.spot(number)?;
        let to = Spot::Named(&self.work, work.to_path_buf());
        copy_attributes(&from, stat, &to, self.stack.prefix.bytes())?;
        if partial.is_none() && stat.st_mode & libc::S_IFMT == libc::S_IFREG {
            self.mark_origin(number, &to);
        }
        if let Some(device) = self.nodes.get(number)?.device {
            let mark = self.stack.prefix.mark("cowsnap.node");
            to.set_xattr(&mark, device.words().as_bytes(), XattrFlags::empty())?;
        }
        Ok(partial)
    }

    /// Writes down which file below this is a copy of: so a diff finds what was renamed. Where that can not be, it is told as gone and new.
    fn mark_origin(&self, number: u64, to: &Spot<'_>) {
        let Ok(Some(piece)) = self.nodes.get(number).map(|node| node.lowers.first()) else { return };
        let (dir, name) = (piece.path.parent().unwrap_or(Path::new("")), piece.path.file_name());
        let opened = self.stack.lowers[piece.layer].root.open_at(dir, OFlags::PATH | OFlags::DIRECTORY);
        let handle = name.zip(opened.ok()).and_then(|(name, dir)| mark_of(dir, name.as_bytes()));
        if let Some(handle) = handle {
            let mark = self.stack.prefix.mark("cowsnap.origin");
            let _ = to.set_xattr(&mark, &handle, XattrFlags::empty());
        }
    }

    fn copy_data(
        &mut self,
        number: u64,
        stat: &Stat,
        work: &Path,
        options: &Options,
    ) -> Fallible<Option<Partial>> {
        let source = self.open_source(number)?;
        let size = stat.st_size as u64;
        let file = self.work.create(work, 0o600)?;
        if let Source::Whole(from) = &source
            && rustix::fs::ioctl_ficlone(&file, from).is_ok()
        {
            return Ok(None);
        }
        if size > options.whole_up_to {
            rustix::fs::ftruncate(&file, size)?;
            return self.begin_map(number, work, size, options).map(Some);
        }
        match &source {
            Source::Whole(from) => {
                io::copy(from.as_fd(), 0, file.as_fd(), 0, size)?;
            }
            Source::Parts(_) => {
                let mut bytes = vec![0; size as usize];
                let len = source.read(&mut bytes, 0)?;
                io::write_all(file.as_fd(), &bytes[..len], 0)?;
            }
        }
        Ok(None)
    }

    /// Gives a sparse file a map that says that nothing is here, and the marks that say where the rest is.
    fn begin_map(&mut self, number: u64, work: &Path, size: u64, options: &Options) -> Fallible<Partial> {
        let map = self.next_map;
        self.next_map += 1;
        Map::create(&self.blocks, map, options.block_shift, size)?;
        let view = self.nodes.get(number)?.view.clone().ok_or(Errno::STALE)?;
        let prefix = self.stack.prefix;
        let set = |mark: &str, value: &[u8]| {
            self.work.set_xattr(work, &prefix.mark(mark), value, XattrFlags::empty())
        };
        set("cowsnap.blocks", map.to_string().as_bytes())?;
        set("redirect", &absolute(&view))?;
        Ok(Partial::Blocks(map))
    }

    /// Opens a node's data: for reading and writing if it is in the upper layer.
    pub(super) fn open_source(&self, number: u64) -> Fallible<Source> {
        let node = self.nodes.get(number)?;
        if !node.upper {
            return self.open_pieces(&node.lowers);
        }
        let here = self.spot(number)?.open_data(true)?;
        let map = match node.partial {
            None => return Ok(Source::Whole(here)),
            Some(Partial::Metacopy) => None,
            Some(Partial::Blocks(map)) => Some(Map::open(&self.blocks, map, true)?),
        };
        Ok(Source::Parts(Parts { here, map, below: Box::new(self.open_pieces(&node.lowers)?) }))
    }

    fn open_pieces(&self, pieces: &[Piece]) -> Fallible<Source> {
        let [piece, below @ ..] = pieces else { return Err(Errno::IO) };
        let layer = &self.stack.lowers[piece.layer];
        let here = layer.root.open_at(&piece.path, OFlags::RDONLY | OFlags::NONBLOCK)?;
        let map = match self.stack.partial(piece)? {
            None => return Ok(Source::Whole(here)),
            Some(Partial::Metacopy) => None,
            Some(Partial::Blocks(map)) => {
                Some(Map::open(layer.blocks.as_ref().ok_or(Errno::IO)?, map, false)?)
            }
        };
        Ok(Source::Parts(Parts { here, map, below: Box::new(self.open_pieces(below)?) }))
    }

    /// Makes a metacopy, which only names its data, one whose data can be written to.
    pub(super) fn make_writable(&mut self, number: u64, options: &Options) -> Fallible<()> {
        if self.nodes.get(number)?.partial != Some(Partial::Metacopy) {
            return Ok(());
        }
        let spot = self.spot(number)?;
        let size = spot.stat()?.st_size as u64;
        let Spot::Named(_, path) = spot else { return Err(Errno::STALE) };
        let map = self.next_map;
        self.next_map += 1;
        Map::create(&self.blocks, map, options.block_shift, size)?;
        let (prefix, upper) = (self.stack.prefix, &self.stack.upper);
        let view = self.nodes.get(number)?.view.clone().ok_or(Errno::STALE)?;
        upper.set_xattr(&path, &prefix.mark("redirect"), &absolute(&view), XattrFlags::empty())?;
        upper.set_xattr(
            &path,
            &prefix.mark("cowsnap.blocks"),
            map.to_string().as_bytes(),
            XattrFlags::empty(),
        )?;
        upper.remove_xattr(&path, &prefix.mark("metacopy"))?;
        let node = self.nodes.get_mut(number)?;
        node.partial = Some(Partial::Blocks(map));
        let data = node.data.clone();
        if let Some(data) = data {
            let source = self.open_source(number)?;
            *data.source.write().unwrap_or_else(PoisonError::into_inner) = source;
        }
        Ok(())
    }

    /// The names that a lower file has and that still show it: directory and name.
    fn lower_names(&mut self, number: u64) -> Fallible<Vec<(u64, OsString)>> {
        let piece = self.nodes.get(number)?.lowers.first().cloned().ok_or(Errno::STALE)?;
        let ino = self.stack.lowers[piece.layer].root.stat(&piece.path)?.st_ino;
        if self.links.is_none() {
            self.links = Some(self.find_links()?);
        }
        let paths = self.links.as_ref().and_then(|links| links.get(&(piece.layer, ino)).cloned());
        let mut moved = Vec::new();
        self.find_moved(Path::new(""), &mut moved)?;
        let mut names = Vec::new();
        for path in paths.unwrap_or_default() {
            let other = Piece { layer: piece.layer, path };
            let moves =
                moved.iter().filter_map(|(to, from)| Some(to.join(other.path.strip_prefix(from).ok()?)));
            for shown in std::iter::once(other.path.clone()).chain(moves) {
                names.extend(self.shown_at(&shown, &other)?);
            }
        }
        Ok(names)
    }

    /// The directories of the upper layer that were renamed: where they are, and what they are merged with.
    fn find_moved(&self, dir: &Path, moved: &mut Vec<(PathBuf, PathBuf)>) -> Fallible<()> {
        let redirect = self.stack.prefix.mark("redirect");
        for entry in self.stack.upper.list(dir)? {
            if entry.file_type() == rustix::fs::FileType::Directory {
                let path = dir.join(OsStr::from_bytes(entry.file_name().to_bytes()));
                if let Some([b'/', from @ ..]) = self.stack.upper.xattr(&path, &redirect)?.as_deref() {
                    moved.push((path.clone(), PathBuf::from(OsStr::from_bytes(from))));
                }
                self.find_moved(&path, moved)?;
            }
        }
        Ok(())
    }

    /// Under which directory and name a path shows a piece, if it does.
    fn shown_at(&mut self, path: &Path, piece: &Piece) -> Fallible<Option<(u64, OsString)>> {
        let mut dir = super::nodes::ROOT;
        let name = path.file_name().ok_or(Errno::IO)?.to_os_string();
        for component in path.parent().into_iter().flat_map(Path::components) {
            match self.lookup(dir, component.as_os_str()) {
                Ok(attr) => dir = attr.number,
                Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        let place = self.nodes.place(dir)?;
        let found = self.stack.find(&place, &name)?;
        let same =
            found.is_some_and(|found| found.at.upper.is_none() && found.at.lowers.first() == Some(piece));
        Ok(same.then_some((dir, name)))
    }

    /// All files of the lower layers that have several names.
    fn find_links(&self) -> Fallible<Links> {
        let mut links = Links::new();
        for (number, layer) in self.stack.lowers.iter().enumerate() {
            let mut dirs = vec![PathBuf::new()];
            while let Some(dir) = dirs.pop() {
                for entry in layer.root.list(&dir)? {
                    let name = OsStr::from_bytes(entry.file_name().to_bytes());
                    match entry.file_type() {
                        rustix::fs::FileType::Directory => dirs.push(dir.join(name)),
                        _ => links.entry((number, entry.ino())).or_default().push(dir.join(name)),
                    }
                }
            }
        }
        links.retain(|_, paths| paths.len() > 1);
        Ok(links)
    }

    /// Gives a file that was copied up another of the names that it had below.
    fn link_up(
        &mut self,
        number: u64,
        target: &Path,
        parent: u64,
        name: &OsStr,
        options: &Options,
    ) -> Fallible<()> {
        self.copy_up(parent, options)?;
        let dir = self.nodes.path(parent)?;
        let other = dir.join(name);
        self.without_trace(&dir, |names| names.stack.upper.link(target, &names.stack.upper, &other))?;
        let known = self.nodes.get(number)?.places.iter().any(|(dir, known)| *dir == parent && known == name);
        if !known {
            self.nodes.gain_place(number, parent, name);
        }
        Ok(())
    }
}

/// The value of a redirect to a path below.
pub(super) fn absolute(view: &Path) -> Vec<u8> {
    [b"/", view.as_os_str().as_bytes()].concat()
}

/// The times that `stat` tells.
pub(super) fn times_of(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    Timestamps {
        last_access: time(stat.st_atime as _, stat.st_atime_nsec as _),
        last_modification: time(stat.st_mtime as _, stat.st_mtime_nsec as _),
    }
}

/// Gives `to` owner, extended attributes, mode and times of `from`. Who is not root owns the copy himself.
fn copy_attributes(from: &Spot<'_>, stat: &Stat, to: &Spot<'_>, marks: &[u8]) -> Fallible<()> {
    let made = to.stat()?;
    if (made.st_uid, made.st_gid) != (stat.st_uid, stat.st_gid) {
        match to.chown(Some(stat.st_uid), Some(stat.st_gid)) {
            Err(Errno::PERM | Errno::INVAL) if !rustix::process::geteuid().is_root() => {}
            chowned => chowned?,
        }
    }
    for name in from.xattrs()? {
        if name.starts_with(marks) {
            continue;
        }
        let value = from.xattr(&name)?.unwrap_or_default();
        match to.set_xattr(&name, &value, XattrFlags::empty()) {
            Err(Errno::PERM | Errno::OPNOTSUPP) if !name.starts_with(b"user.") => {}
            set => set?,
        }
    }
    if stat.st_mode & libc::S_IFMT != libc::S_IFLNK {
        to.chmod(stat.st_mode)?;
    }
    to.utimes(&times_of(stat))
}

/// Takes a directory away with all that is in it.
pub(super) fn remove_tree(root: &Root, path: &Path) -> Fallible<()> {
    for entry in root.list(path)? {
        let child = path.join(OsStr::from_bytes(entry.file_name().to_bytes()));
        match root.unlink(&child) {
            Err(Errno::ISDIR | Errno::PERM) => remove_tree(root, &child)?,
            unlinked => unlinked?,
        }
    }
    root.rmdir(path)
}
