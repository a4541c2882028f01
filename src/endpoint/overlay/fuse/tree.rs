//! The filesystem without a kernel: nodes looked up, read and listed. What changes it is in the modules beside.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError,
};

use rustix::fs::{Stat, StatVfs, Timespec, Timestamps, XattrFlags};

use serde::{Deserialize, Serialize};

use super::control::{maybe_path_bytes, path_bytes};
use super::list::Listed;
use super::nodes::{FileId, Heritage, Node, Nodes, ROOT, id_of};
use super::root::Root;
use super::spot::Spot;
use super::stack::{Found, Layer, Prefix, Stack, Where, is_dir};
use super::{Errno, Fallible, map};

/// Where the layers are.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Layers {
    /// The directory that is written to.
    #[serde(with = "path_bytes")]
    pub upper: PathBuf,
    /// An empty directory on the same filesystem.
    #[serde(with = "path_bytes")]
    pub work: PathBuf,
    /// The maps of blocks of the files in `upper`.
    #[serde(with = "path_bytes")]
    pub blocks: PathBuf,
    /// The layers below, topmost first; the last one is the base.
    pub lowers: Vec<Lower>,
    /// The marks of `upper`, and of all lower layers that have any.
    pub prefix: Prefix,
}

/// A layer that is only read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Lower {
    /// Its entries.
    #[serde(with = "path_bytes")]
    pub tree: PathBuf,
    /// Its maps of blocks, if it is a layer of ours; the base has neither maps nor marks.
    #[serde(with = "maybe_path_bytes")]
    pub blocks: Option<PathBuf>,
}

/// How the filesystem behaves.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Options {
    /// Nothing is synced, whoever asks for it.
    pub volatile: bool,
    /// log2 of the size of a block.
    pub block_shift: u32,
    /// A file of at most so many bytes is copied whole.
    pub whole_up_to: u64,
    /// Where data goes past the process: a file below of at most so many bytes that is open for reading alone is read through it all
    /// the same. Whoever has it open is not parted from it when it is copied up.
    pub through_up_to: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { volatile: true, block_shift: 16, whole_up_to: 128 << 10, through_up_to: 1 << 20 }
    }
}

/// What a node is.
#[derive(Debug, Clone, Copy)]
pub struct Attr {
    /// Its number.
    pub number: u64,
    /// What its topmost piece is.
    pub stat: Stat,
    /// Type and permissions.
    pub mode: u32,
    /// How many names it has.
    pub nlink: u32,
    /// Its device's number, if it is one.
    pub rdev: u64,
    /// Units of 512 bytes that it takes.
    pub blocks: u64,
}

/// A time to set.
#[derive(Debug, Clone, Copy)]
pub enum Time {
    /// The time that it is.
    Now,
    /// Seconds and nanoseconds.
    At(i64, u32),
}

/// What to set of a node.
#[derive(Debug, Clone, Copy, Default)]
pub struct SetAttr {
    /// Permissions.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Time of the last access.
    pub atime: Option<Time>,
    /// Time of the last change.
    pub mtime: Option<Time>,
    /// Whether bits that lend rights are taken away as a change of the data by others than root does.
    pub drop_rights: bool,
}

/// The filesystem.
#[derive(Debug)]
pub struct Tree {
    names: Mutex<Names>,
    gate: RwLock<()>,
    pub(super) options: Options,
}

/// The filesystem while something of it is changed, which keeps it from being frozen.
///
/// Nobody begins a second change within one: whoever waits to freeze it would be waited for.
#[derive(Debug)]
pub struct Changing<'a> {
    tree: &'a Tree,
    _gate: RwLockReadGuard<'a, ()>,
}

impl std::ops::Deref for Changing<'_> {
    type Target = Tree;

    fn deref(&self) -> &Tree {
        self.tree
    }
}

/// What the names are: everything that is looked at and changed under one lock.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) stack: Stack,
    pub(super) work: Root,
    pub(super) next_work: u64,
    pub(super) blocks: Root,
    pub(super) next_map: u64,
    pub(super) nodes: Nodes,
    pub(super) links: Option<super::copy_up::Links>,
}

/// What the numbers of a directory's entries follow from, as it was at one moment.
#[derive(Debug)]
pub struct Numbering {
    parent: u64,
    place: Where,
    /// The device of its topmost piece below, if there is one.
    lower: Option<u64>,
    /// That of the upper layer.
    upper: u64,
}

impl Tree {
    /// Opens the layers.
    pub fn open(layers: &Layers, options: Options) -> Fallible<Self> {
        let names = Names::open(layers)?;
        Ok(Self { names: Mutex::new(names), gate: RwLock::new(()), options })
    }

    /// The names, for as long as the guard is held.
    pub(super) fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A change begins; waits while the filesystem is frozen.
    pub fn change(&self) -> Changing<'_> {
        Changing { tree: self, _gate: self.gate.read().unwrap_or_else(PoisonError::into_inner) }
    }

    /// As [`Tree::change`]; `None` if that would have to wait.
    pub fn try_change(&self) -> Option<Changing<'_>> {
        match self.gate.try_read() {
            Ok(gate) => Some(Changing { tree: self, _gate: gate }),
            Err(TryLockError::Poisoned(poisoned)) => {
                Some(Changing { tree: self, _gate: poisoned.into_inner() })
            }
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Keeps all changes waiting until the guard is dropped.
    pub fn freeze(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what is changed to the disk.
    pub fn sync(&self) -> Fallible<()> {
        let names = self.names();
        let upper = names.stack.upper.open_at(Path::new(""), rustix::fs::OFlags::RDONLY)?;
        drop(names);
        rustix::fs::syncfs(upper)
    }

    /// How many nodes are known.
    pub fn known(&self) -> usize {
        self.names().nodes.count()
    }

    /// Looks a name up, for a kernel that will forget it again.
    pub fn lookup(&self, parent: u64, name: &OsStr) -> Fallible<Attr> {
        let mut names = self.names();
        let attr = names.lookup(parent, name)?;
        names.nodes.looked_up(attr.number);
        Ok(attr)
    }

    /// The kernel forgets a node as often as this.
    pub fn forget(&self, number: u64, times: u64) {
        self.names().nodes.forget(number, times);
    }

    /// What the node is.
    pub fn attr(&self, number: u64) -> Fallible<Attr> {
        self.names().attr(number)
    }

    /// What a symbolic link says.
    pub fn readlink(&self, number: u64) -> Fallible<Vec<u8>> {
        self.names().spot(number)?.readlink()
    }

    /// The entries of a directory.
    pub fn list(&self, number: u64) -> Fallible<Vec<Listed>> {
        let names = self.names();
        match names.nodes.place(number) {
            Err(Errno::NOENT) => Ok(Vec::new()), // It was removed while somebody is in it.
            place => names.stack.list(&place?),
        }
    }

    /// How many names in the directory the kernel knows.
    pub fn known_names(&self, number: u64) -> usize {
        self.names().nodes.get(number).map_or(0, |node| node.pins as usize)
    }

    /// What the numbers of a directory's entries follow from.
    pub fn numbering(&self, parent: u64) -> Fallible<Numbering> {
        let names = self.names();
        let place = names.nodes.place(parent)?;
        let device_of = |root| Ok::<_, Errno>(rustix::fs::fstat(root)?.st_dev);
        let lower = place.lowers.first().map(|piece| device_of(&names.stack.lowers[piece.layer].root));
        Ok(Numbering { parent, lower: lower.transpose()?, upper: device_of(&names.stack.upper)?, place })
    }

    /// The number of a listed entry's node, and its type: that of one that is known may be another than its piece's.
    pub fn number_of(&self, of: &Numbering, listed: &Listed) -> Fallible<(u64, u32)> {
        let mut names = self.names();
        let device = of.lower.filter(|_| !listed.upper).unwrap_or(of.upper);
        let id = (device, listed.ino);
        let is_merged = listed.upper && listed.kind == rustix::fs::FileType::Directory;
        let known = if is_merged { names.nodes.known_above(id, of.parent, &listed.name) } else { None };
        let number = match known {
            Some(number) => number,
            None if is_merged || of.place.lowers.len() > 1 => {
                let found = names.stack.find(&of.place, &listed.name)?.ok_or(Errno::NOENT)?;
                let id = names.id_of(&found)?;
                names.nodes.number_of(id, found.is_born_above())
            }
            None => names.nodes.number_of(id, listed.upper),
        };
        let kind = names.nodes.get(number).map_or(listed.kind.as_raw_mode(), |node| node.kind);
        Ok((number, kind))
    }

    /// The number of a directory's own parent; the root's is the root.
    pub fn parent(&self, number: u64) -> u64 {
        let names = self.names();
        names.nodes.get(number).ok().and_then(|node| node.places.first()).map_or(ROOT, |(parent, _)| *parent)
    }

    /// The value of an extended attribute. ENODATA: there is none.
    pub fn xattr(&self, number: u64, name: &OsStr) -> Fallible<Vec<u8>> {
        let names = self.names();
        if name.as_bytes().starts_with(names.stack.prefix.bytes()) {
            return Err(Errno::NODATA);
        }
        // The kernel asks for these whenever a new file is first written to.
        let is_right = matches!(
            name.as_bytes(),
            b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default"
        );
        if is_right && names.nodes.get(number)?.bare {
            return Err(Errno::NODATA);
        }
        names.spot(number)?.xattr(name.as_bytes())?.ok_or(Errno::NODATA)
    }

    /// The names of the extended attributes that show.
    pub fn xattrs(&self, number: u64) -> Fallible<Vec<Vec<u8>>> {
        let names = self.names();
        let prefix = names.stack.prefix.bytes();
        let all = names.spot(number)?.xattrs()?;
        Ok(all.into_iter().filter(|name| !name.starts_with(prefix)).collect())
    }

    /// How much room there is.
    pub fn statfs(&self) -> Fallible<StatVfs> {
        rustix::fs::fstatvfs(&self.names().stack.upper)
    }
}

impl Changing<'_> {
    /// Sets an extended attribute.
    pub fn set_xattr(&self, number: u64, name: &OsStr, value: &[u8], flags: XattrFlags) -> Fallible<()> {
        let mut names = self.names();
        if name.as_bytes().starts_with(names.stack.prefix.bytes()) {
            return Err(Errno::PERM);
        }
        names.copy_up(number, &self.options)?;
        names.look_again(number)?;
        names.spot(number)?.set_xattr(name.as_bytes(), value, flags)
    }

    /// Takes an extended attribute away.
    pub fn remove_xattr(&self, number: u64, name: &OsStr) -> Fallible<()> {
        self.xattr(number, name)?;
        let mut names = self.names();
        names.copy_up(number, &self.options)?;
        names.look_again(number)?;
        names.spot(number)?.remove_xattr(name.as_bytes())
    }

    /// Sets attributes, and says what they are then.
    pub fn set_attr(&self, number: u64, set: &SetAttr) -> Fallible<Attr> {
        let mut names = self.names();
        names.copy_up(number, &self.options)?;
        if set.mode.is_some() || set.uid.is_some() || set.gid.is_some() {
            names.nodes.get_mut(number)?.heritage = None;
        }
        if let Some(size) = set.size {
            names.make_writable(number, &self.options)?;
            names.truncate(number, size)?;
        }
        let spot = names.spot(number)?;
        if set.uid.is_some() || set.gid.is_some() {
            spot.chown(set.uid, set.gid)?;
        }
        if let Some(mode) = set.mode {
            spot.chmod(mode)?;
        } else if set.drop_rights {
            drop_rights(&spot)?;
        }
        if set.atime.is_some() || set.mtime.is_some() {
            let times =
                Timestamps { last_access: timespec(set.atime), last_modification: timespec(set.mtime) };
            spot.utimes(&times)?;
        }
        names.attr(number)
    }
}

impl Names {
    pub(super) fn open(layers: &Layers) -> Fallible<Self> {
        let lower = |lower: &Lower| {
            let marks = lower.blocks.is_some().then_some(layers.prefix);
            let blocks = match lower.blocks.as_deref().map(Root::open) {
                Some(Err(Errno::NOENT)) => None, // A layer that has none.
                blocks => blocks.transpose()?,
            };
            Fallible::Ok(Arc::new(Layer { root: Root::open_read_only(&lower.tree)?, blocks, marks }))
        };
        let stack = Stack {
            upper: Root::open(&layers.upper)?,
            prefix: layers.prefix,
            lowers: layers.lowers.iter().map(lower).collect::<Fallible<_>>()?,
        };
        let (work, blocks) = (Root::open(&layers.work)?, Root::open(&layers.blocks)?);
        let mut nodes = Nodes::default();
        nodes.set_root(&stack.root());
        let (next_work, next_map) = (map::next_number(&work)?, map::next_number(&blocks)?);
        Ok(Self { stack, work, next_work, blocks, next_map, nodes, links: None })
    }

    /// The node of a name. It is told the kernel only by who counts that.
    pub(super) fn lookup(&mut self, parent: u64, name: &OsStr) -> Fallible<Attr> {
        let dir = self.nodes.place(parent)?;
        let above = self.stack.stat_above(&dir, name)?;
        if let Some(stat) = above
            && stat.st_mode & libc::S_IFMT == libc::S_IFREG
            && let Some(number) = self.nodes.known_above(id_of(&stat), parent, name)
        {
            return self.attr_of(number, stat); // Its marks are known.
        }
        let found = self.stack.find_with(&dir, name, above)?.ok_or(Errno::NOENT)?;
        self.found(parent, name, found)
    }

    /// The node of what was found.
    pub(super) fn found(&mut self, parent: u64, name: &OsStr, found: Found) -> Fallible<Attr> {
        let id = self.id_of(&found)?;
        let stat = found.stat;
        let number = self.nodes.remember(parent, name, found, id);
        self.attr_of(number, stat)
    }

    /// A merged directory is what its topmost lower piece is, so that copying it up does not change its number.
    pub(super) fn id_of(&self, found: &Found) -> Fallible<FileId> {
        match found.at.lowers.first() {
            Some(piece) if is_dir(&found.stat) => {
                Ok(id_of(&self.stack.lowers[piece.layer].root.stat(&piece.path)?))
            }
            _ => Ok(id_of(&found.stat)),
        }
    }

    /// What the node is.
    pub(super) fn attr(&self, number: u64) -> Fallible<Attr> {
        self.attr_of(number, self.spot(number)?.stat()?)
    }

    fn attr_of(&self, number: u64, stat: Stat) -> Fallible<Attr> {
        let node = self.nodes.get(number)?;
        let mut attr = Attr {
            number,
            stat,
            mode: stat.st_mode,
            nlink: stat.st_nlink as u32,
            rdev: stat.st_rdev,
            blocks: stat.st_blocks as u64,
        };
        if node.is_dir() && node.lowers.len() + usize::from(node.upper) > 1 {
            attr.nlink = 1;
        }
        // What a reset took away has no name here, though it has one where it lies.
        if node.places.is_empty() && (!node.upper || node.lost) && number != ROOT {
            attr.nlink = 0;
        }
        if let Some(device) = node.device {
            attr.mode = device.kind | stat.st_mode & 0o7777;
            attr.rdev = device.number;
        }
        if node.partial.is_some() {
            attr.blocks = attr.blocks.max(stat.st_size as u64 / 512);
        }
        Ok(attr)
    }

    /// Where the node's topmost piece is.
    pub(super) fn spot(&self, number: u64) -> Fallible<Spot<'_>> {
        let node = self.nodes.get(number)?;
        self.spot_of(number, node)
    }

    pub(super) fn spot_of(&self, number: u64, node: &Node) -> Fallible<Spot<'_>> {
        if let Some(orphan) = &node.orphan {
            return Ok(Spot::Orphan(Arc::clone(orphan)));
        }
        if node.upper {
            return Ok(Spot::Named(&self.stack.upper, self.nodes.path(number)?));
        }
        let piece = node.lowers.first().ok_or(Errno::STALE)?;
        Ok(Spot::Named(&self.stack.lowers[piece.layer].root, piece.path.clone()))
    }

    /// A directory in the upper layer, and where its entries are found; it is copied up if need be.
    pub(super) fn writable_dir(&mut self, number: u64, options: &Options) -> Fallible<(PathBuf, Where)> {
        if number != ROOT && self.nodes.get(number)?.places.is_empty() {
            return Err(Errno::NOENT);
        }
        self.copy_up(number, options)?;
        let place = self.nodes.place(number)?;
        let path = place.upper.clone().ok_or(Errno::STALE)?;
        Ok((path, place))
    }

    /// What is known of a node's extended attributes is so no more.
    fn look_again(&mut self, number: u64) -> Fallible<()> {
        let node = self.nodes.get_mut(number)?;
        (node.bare, node.heritage) = (false, None);
        Ok(())
    }

    /// What is made in a directory, which is at `dir` in the upper layer, takes over from it.
    pub(super) fn heritage(&mut self, number: u64, dir: &Path) -> Fallible<Heritage> {
        if let Some(known) = self.nodes.get(number)?.heritage {
            return Ok(known);
        }
        let stat = self.stack.upper.stat(dir)?;
        let gid = (stat.st_mode & libc::S_ISGID != 0).then_some(stat.st_gid);
        let acl = self.stack.upper.xattr(dir, b"system.posix_acl_default")?.is_some();
        let heritage = Heritage { gid, acl };
        self.nodes.get_mut(number)?.heritage = Some(heritage);
        Ok(heritage)
    }

    /// A name in the work directory that nothing has.
    pub(super) fn work_name(&mut self) -> PathBuf {
        self.next_work += 1;
        PathBuf::from(self.next_work.to_string())
    }
}

/// Takes set-user-id, set-group-id of what its group may execute, and capabilities away.
pub(super) fn drop_rights(spot: &Spot<'_>) -> Fallible<()> {
    let mode = spot.stat()?.st_mode;
    if mode & libc::S_IFMT != libc::S_IFREG {
        return Ok(());
    }
    let mut kept = mode & !libc::S_ISUID;
    if mode & libc::S_IXGRP != 0 {
        kept &= !libc::S_ISGID;
    }
    if kept != mode {
        spot.chmod(kept)?;
    }
    match spot.remove_xattr(b"security.capability") {
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM) => Ok(()),
        removed => removed,
    }
}

fn timespec(time: Option<Time>) -> Timespec {
    let (tv_sec, tv_nsec) = match time {
        None => (0, rustix::fs::UTIME_OMIT),
        Some(Time::Now) => (0, rustix::fs::UTIME_NOW),
        Some(Time::At(seconds, nanoseconds)) => (seconds, nanoseconds.into()),
    };
    Timespec { tv_sec, tv_nsec }
}
