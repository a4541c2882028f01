//! Which node is which file: numbers that stay the same over copying up, renaming and being forgotten.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::Stat;

use super::file::Data;
use super::stack::{Device, Found, Partial, Piece, Where, is_dir};
use super::{Errno, Fallible};

/// The number of the root.
pub const ROOT: u64 = 1;

/// What a file is on disk: filesystem and inode.
pub type FileId = (u64, u64);

/// A file that the kernel knows, or that one of those is in.
#[derive(Debug)]
pub struct Node {
    /// Its type: `S_IFMT` of a mode.
    pub kind: u32,
    /// How often the kernel was told of it and has not forgotten it.
    pub lookups: u64,
    /// How many known names are in it.
    pub pins: u32,
    /// Names that it is known to have: directory and name.
    pub places: Vec<(u64, OsString)>,
    /// Whether it is in the upper layer.
    pub upper: bool,
    /// Where it is in the layers below.
    pub lowers: Arc<[Piece]>,
    /// The path by which the layers below show it.
    pub view: Option<PathBuf>,
    /// How much of its data is in its topmost piece, if not all.
    pub partial: Option<Partial>,
    /// Set if it stands for a device.
    pub device: Option<Device>,
    /// Whether it is known to have neither ACLs nor capabilities.
    pub bare: bool,
    /// Of a directory: what is made in it takes over, if that was looked at.
    pub heritage: Option<Heritage>,
    /// Whether it was in a tree that a reset took away.
    pub lost: bool,
    /// What it is, once it has no known name.
    pub orphan: Option<Arc<OwnedFd>>,
    /// Whether it was opened to be read: the kernel has some of it in its memory then, most likely.
    pub read: bool,
    /// Its data, while it is open.
    pub data: Option<Arc<Data>>,
    /// How often it is open.
    pub opens: u32,
    /// How often of these it is open to be written to.
    pub writers: u32,
}

/// What a directory gives to what is made in it.
#[derive(Debug, Clone, Copy)]
pub struct Heritage {
    /// Its group, if that is given on.
    pub gid: Option<u32>,
    /// Whether it has default rights.
    pub acl: bool,
}

/// All nodes.
#[derive(Debug, Default)]
pub struct Nodes {
    by_number: HashMap<u64, Node>,
    /// Numbers that do not follow from the file: it was copied up, or its number was retired.
    numbers: HashMap<FileId, u64>,
    devices: Vec<u64>,
    /// Files whose numbers mean something else to whoever kept them open over a reset.
    retired: Vec<FileId>,
    age: u64,
    spare: u64,
}

/// How many bits an inode number may have to be part of a node's number.
const INO_BITS: u32 = 46;

impl Nodes {
    /// The node of this number. ESTALE: there is none.
    pub fn get(&self, number: u64) -> Fallible<&Node> {
        self.by_number.get(&number).ok_or(Errno::STALE)
    }

    /// The node of this number, to change it.
    pub fn get_mut(&mut self, number: u64) -> Fallible<&mut Node> {
        self.by_number.get_mut(&number).ok_or(Errno::STALE)
    }

    /// All of them.
    pub fn all(&mut self) -> impl Iterator<Item = (&u64, &mut Node)> {
        self.by_number.iter_mut()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.by_number.len()
    }

    /// Sets the root anew.
    pub fn set_root(&mut self, at: &Where) {
        let node = self.by_number.entry(ROOT).or_insert_with(|| Node::new(libc::S_IFDIR));
        node.lookups = 1;
        (node.upper, node.lowers, node.view) = (at.upper.is_some(), at.lowers.clone(), at.view.clone());
    }

    /// The number of the file with this identity. Two files that exist at once never share one.
    pub fn number_of(&mut self, id: FileId, upper: bool) -> u64 {
        if let Some(number) = self.numbers.get(&id) {
            return *number;
        }
        let device = self.devices.iter().position(|device| *device == id.0).unwrap_or_else(|| {
            self.devices.push(id.0);
            self.devices.len() - 1
        }) as u64;
        let age = if upper { self.age + 1 } else { 0 };
        let number = age << (INO_BITS + 6) | device << INO_BITS | id.1;
        let fits = id.1 >> INO_BITS == 0 && device < 64 && age < 2000;
        if fits && number > ROOT { number } else { self.assign_new(id) }
    }

    /// Gives the file a number that no other has, or had.
    pub fn assign_new(&mut self, id: FileId) -> u64 {
        self.spare += 1;
        let number = u64::MAX >> 1 ^ self.spare;
        self.numbers.insert(id, number);
        number
    }

    /// Says that the file with this identity is the node of this number.
    pub fn assign(&mut self, id: FileId, number: u64) {
        self.numbers.insert(id, number);
    }

    /// Says that the file with this identity is no more.
    pub fn release_id(&mut self, id: FileId) {
        self.numbers.remove(&id);
    }

    /// Upper files get other numbers from now on; numbers of `retired` files are not used again, after later calls neither.
    pub fn grow_older(&mut self, retired: &[FileId]) {
        self.age += 1;
        self.numbers.clear();
        self.retired.extend(retired);
        for id in self.retired.clone() {
            self.assign_new(id);
        }
    }

    /// Makes the node of what was found as `name` in `parent`, or brings the one that there is up to date.
    pub fn remember(&mut self, parent: u64, name: &OsStr, found: Found, id: FileId) -> u64 {
        let number = self.number_of(id, found.is_born_above());
        let kind = found.device.map_or(found.stat.st_mode & libc::S_IFMT, |device| device.kind);
        let node = self.by_number.entry(number).or_insert_with(|| Node::new(kind));
        node.kind = kind;
        (node.upper, node.partial, node.device) = (found.at.upper.is_some(), found.partial, found.device);
        (node.lowers, node.view, node.orphan) = (found.at.lowers, found.at.view, None);
        (node.bare, node.heritage, node.lost) = (found.bare, None, false);
        let known = node.places.iter().any(|(dir, known)| *dir == parent && known == name);
        if !known {
            let old = if is_dir(&found.stat) { std::mem::take(&mut node.places) } else { Vec::new() };
            node.places.push((parent, name.to_os_string()));
            self.pin(parent);
            old.into_iter().for_each(|(dir, _)| self.unpin(dir));
        }
        number
    }

    /// Makes the node of a file in the upper layer that has no name yet.
    pub fn remember_orphan(&mut self, file: Arc<OwnedFd>, stat: &Stat, bare: bool) -> u64 {
        let id = id_of(stat);
        self.release_id(id);
        let number = self.number_of(id, true);
        let node = self.by_number.entry(number).or_insert_with(|| Node::new(libc::S_IFREG));
        (node.upper, node.orphan, node.bare) = (true, Some(file), bare);
        number
    }

    /// The node in the upper layer with this identity that is known by this name.
    pub fn known_above(&mut self, id: FileId, parent: u64, name: &OsStr) -> Option<u64> {
        let number = self.number_of(id, true);
        let node = self.by_number.get(&number).filter(|node| node.upper)?;
        node.places.iter().any(|(dir, known)| *dir == parent && known == name).then_some(number)
    }

    /// Takes a name from a node. Returns whether it knows another one.
    pub fn lose_place(&mut self, number: u64, parent: u64, name: &OsStr) -> bool {
        let Some(node) = self.by_number.get_mut(&number) else { return false };
        let before = node.places.len();
        node.places.retain(|(dir, known)| *dir != parent || known != name);
        let (lost, more) = (before != node.places.len(), !node.places.is_empty());
        if lost {
            self.unpin(parent);
        }
        more
    }

    /// Takes all names from a node.
    pub fn lose_places(&mut self, number: u64) {
        let Some(node) = self.by_number.get_mut(&number) else { return };
        for (dir, _) in std::mem::take(&mut node.places) {
            self.unpin(dir);
        }
    }

    /// Gives a node a name.
    pub fn gain_place(&mut self, number: u64, parent: u64, name: &OsStr) {
        if let Some(node) = self.by_number.get_mut(&number) {
            node.places.push((parent, name.to_os_string()));
            self.pin(parent);
        }
    }

    /// The kernel was told of the node once more.
    pub fn looked_up(&mut self, number: u64) {
        if let Some(node) = self.by_number.get_mut(&number) {
            node.lookups += 1;
        }
    }

    /// The kernel forgets the node as often as this.
    pub fn forget(&mut self, number: u64, times: u64) {
        if let Some(node) = self.by_number.get_mut(&number) {
            node.lookups = node.lookups.saturating_sub(times);
            self.drop_unused(number);
        }
    }

    /// Drops the node if nobody knows of it, and then what only it kept.
    pub fn drop_unused(&mut self, number: u64) {
        let unused = |node: &Node| node.lookups == 0 && node.pins == 0 && node.opens == 0;
        if number != ROOT && self.by_number.get(&number).is_some_and(unused) {
            let node = self.by_number.remove(&number);
            node.into_iter().flat_map(|node| node.places).for_each(|(dir, _)| self.unpin(dir));
        }
    }

    fn pin(&mut self, number: u64) {
        if let Some(node) = self.by_number.get_mut(&number) {
            node.pins += 1;
        }
    }

    fn unpin(&mut self, number: u64) {
        if let Some(node) = self.by_number.get_mut(&number) {
            node.pins = node.pins.saturating_sub(1);
            self.drop_unused(number);
        }
    }

    /// The path from the root, by the first name that is known. ENOENT: there is none, or a directory above has none.
    pub fn path(&self, number: u64) -> Fallible<PathBuf> {
        let mut names = Vec::new();
        let mut at = number;
        while at != ROOT {
            let (parent, name) = self.get(at)?.places.first().ok_or(Errno::NOENT)?;
            names.push(name.as_os_str());
            at = *parent;
        }
        Ok(names.into_iter().rev().collect())
    }

    /// Where the entries of a directory are found.
    pub fn place(&self, number: u64) -> Fallible<Where> {
        let node = self.get(number)?;
        let upper = if node.upper { Some(self.path(number)?) } else { None };
        if number != ROOT && node.places.is_empty() {
            return Err(Errno::NOENT);
        }
        Ok(Where { upper, lowers: node.lowers.clone(), view: node.view.clone() })
    }
}

impl Node {
    fn new(kind: u32) -> Self {
        Self {
            kind,
            lookups: 0,
            pins: 0,
            places: Vec::new(),
            upper: false,
            lowers: Arc::new([]),
            view: None,
            partial: None,
            device: None,
            bare: false,
            heritage: None,
            lost: false,
            orphan: None,
            read: false,
            data: None,
            opens: 0,
            writers: 0,
        }
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == libc::S_IFDIR
    }
}

/// The identity that `stat` tells.
pub fn id_of(stat: &Stat) -> FileId {
    (stat.st_dev, stat.st_ino)
}
