//! What a stack of layers shows of a name: whiteouts, opaque and redirected directories, files that lie in parts.
//!
//! The marks are those of docs/FORMAT-overlay.md. The upper layer is the first one; a [`Piece`] names an entry of one of the others.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::Stat;
use serde::{Deserialize, Serialize};

use super::root::Root;
use super::{Errno, Fallible};

/// How deep redirects may lead.
const MAX_REDIRECTS: usize = 64;

/// The names under which a layer keeps its marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Prefix {
    /// `trusted.overlay.`: root made the layer.
    Trusted,
    /// `user.overlay.`: anybody else did.
    User,
}

impl Prefix {
    /// The prefix as bytes.
    pub fn bytes(self) -> &'static [u8] {
        match self {
            Self::Trusted => b"trusted.overlay.",
            Self::User => b"user.overlay.",
        }
    }

    /// The full name of a mark.
    pub fn mark(self, name: &str) -> Vec<u8> {
        [self.bytes(), name.as_bytes()].concat()
    }
}

/// A layer that is only read.
#[derive(Debug)]
pub struct Layer {
    /// Its entries.
    pub root: Root,
    /// Its maps of blocks; `None` if it can have none.
    pub blocks: Option<Root>,
    /// Whether it has marks: the base has none.
    pub marks: Option<Prefix>,
}

/// An entry of one lower layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Which layer: its place in [`Stack::lowers`].
    pub layer: usize,
    /// The path from the layer's root.
    pub path: PathBuf,
}

/// Where a directory is found: what its entries are looked up in.
#[derive(Debug, Clone, Default)]
pub struct Where {
    /// Its path in the upper layer, if it is there.
    pub upper: Option<PathBuf>,
    /// Where it is in the layers below, the upper ones first.
    pub lowers: Arc<[Piece]>,
    /// The path by which the layers below show it.
    pub view: Option<PathBuf>,
}

/// What an entry is by its marks.
#[derive(Debug, Default)]
struct Marks {
    opaque: bool,
    redirect: Option<Vec<u8>>,
    partial: Option<Partial>,
    device: Option<Device>,
    /// There are no other extended attributes.
    alone: bool,
}

/// A file of which not all data is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Partial {
    /// None of it is.
    Metacopy,
    /// The map of this number says which blocks are.
    Blocks(u64),
}

/// A device that is kept as an empty file with a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// `S_IFCHR` or `S_IFBLK`.
    pub kind: u32,
    /// Its number.
    pub number: u64,
}

impl Device {
    fn parse(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        let mut words = text.split(' ');
        let kind = match words.next()? {
            "c" => libc::S_IFCHR,
            "b" => libc::S_IFBLK,
            _ => return None,
        };
        let (major, minor) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(Self { kind, number: rustix::fs::makedev(major, minor) })
    }

    /// What the mark says.
    pub fn words(self) -> String {
        let kind = if self.kind == libc::S_IFBLK { 'b' } else { 'c' };
        format!("{kind} {} {}", rustix::fs::major(self.number), rustix::fs::minor(self.number))
    }
}

/// What is shown under a name.
#[derive(Debug)]
pub struct Found {
    /// What the topmost entry is.
    pub stat: Stat,
    /// Where the entry is; of a directory: all that is merged in it; of a file: where its data is looked for.
    pub at: Where,
    /// Of a file: how much of its data is in the topmost entry, if not all.
    pub partial: Option<Partial>,
    /// Set if the file stands for a device.
    pub device: Option<Device>,
    /// Whether it is known to have neither ACLs nor capabilities.
    pub bare: bool,
}

impl Found {
    /// Whether what it is, is told by the upper layer: a merged directory is told by its topmost lower piece.
    pub fn is_born_above(&self) -> bool {
        self.at.upper.is_some() && (!is_dir(&self.stat) || self.at.lowers.is_empty())
    }
}

/// An entry of one layer.
#[expect(clippy::large_enum_variant, reason = "each is taken apart at once: none is kept")]
enum Entry {
    Absent,
    Whiteout,
    Here(Stat, Marks),
}

/// The layers, and where the upper one is.
#[derive(Debug)]
pub struct Stack {
    /// The writable layer's entries.
    pub upper: Root,
    /// The writable layer's marks.
    pub prefix: Prefix,
    /// The others, topmost first.
    pub lowers: Vec<Arc<Layer>>,
}

impl Stack {
    /// Whether the layers below are the same directories, in the same order.
    pub fn has_lowers_of(&self, other: &Self) -> Fallible<bool> {
        let ids = |stack: &Self| {
            let id =
                |layer: &Arc<Layer>| layer.root.stat(Path::new("")).map(|stat| (stat.st_dev, stat.st_ino));
            stack.lowers.iter().map(id).collect::<Fallible<Vec<_>>>()
        };
        Ok(ids(self)? == ids(other)?)
    }

    /// Whether one of the layers below is this directory.
    pub fn has_below(&self, root: &Root) -> Fallible<bool> {
        let id = |root: &Root| root.stat(Path::new("")).map(|stat| (stat.st_dev, stat.st_ino));
        let wanted = id(root)?;
        let ids = self.lowers.iter().map(|layer| id(&layer.root)).collect::<Fallible<Vec<_>>>()?;
        Ok(ids.contains(&wanted))
    }

    /// The root of the tree: all layers' roots merged.
    pub fn root(&self) -> Where {
        let lowers = (0..self.lowers.len()).map(|layer| Piece { layer, path: PathBuf::new() }).collect();
        Where { upper: Some(PathBuf::new()), lowers, view: Some(PathBuf::new()) }
    }

    /// What shows as `name` in the directory at `dir`.
    pub fn find(&self, dir: &Where, name: &OsStr) -> Fallible<Option<Found>> {
        self.find_with(dir, name, self.stat_above(dir, name)?)
    }

    /// What the upper layer has as `name` in the directory at `dir`: a whiteout, too.
    pub fn stat_above(&self, dir: &Where, name: &OsStr) -> Fallible<Option<Stat>> {
        let Some(upper) = &dir.upper else { return Ok(None) };
        stat(&self.upper, &upper.join(name))
    }

    /// As [`Self::find`], where it is known what the upper layer has.
    pub fn find_with(&self, dir: &Where, name: &OsStr, above: Option<Stat>) -> Fallible<Option<Found>> {
        let below = |redirect: &Option<Vec<u8>>| self.below(dir, name, redirect);
        let (Some(upper), Some(above)) = (&dir.upper, above) else { return below(&None) };
        let path = upper.join(name);
        match entry_of(above, &self.upper, &path, Some(self.prefix), true)? {
            Entry::Absent => below(&None),
            Entry::Whiteout => Ok(None),
            Entry::Here(stat, marks) => {
                let mut at = Where { upper: Some(path), ..Where::default() };
                if let Some(found) =
                    wants_more(&stat, &marks).then(|| below(&marks.redirect)).transpose()?.flatten()
                    && is_dir(&stat) == is_dir(&found.stat)
                {
                    (at.lowers, at.view) = (found.at.lowers, found.at.view);
                }
                Ok(Some(Found { stat, at, partial: marks.partial, device: marks.device, bare: marks.alone }))
            }
        }
    }

    /// What the layers below the upper one show there.
    pub fn find_below(&self, dir: &Where, name: &OsStr) -> Fallible<Option<Found>> {
        self.below(dir, name, &None)
    }

    fn below(&self, dir: &Where, name: &OsStr, redirect: &Option<Vec<u8>>) -> Fallible<Option<Found>> {
        let found = match redirect.as_deref() {
            Some([b'/', path @ ..]) => return self.walk(0, Path::new(OsStr::from_bytes(path)), 0),
            Some(name) => self.merge(&dir.lowers, OsStr::from_bytes(name), 0)?,
            None => self.merge(&dir.lowers, name, 0)?,
        };
        let name = redirect.as_deref().map_or(name, OsStr::from_bytes);
        let view = dir.view.as_ref().map(|view| view.join(name));
        Ok(found.map(|found| Found { at: Where { view, ..found.at }, ..found }))
    }

    /// What is at `path` below the roots of the layers from `first` on.
    fn walk(&self, first: usize, path: &Path, depth: usize) -> Fallible<Option<Found>> {
        let mut pieces: Arc<[Piece]> =
            (first..self.lowers.len()).map(|layer| Piece { layer, path: PathBuf::new() }).collect();
        let mut found = None;
        for component in path.components() {
            let Component::Normal(name) = component else { return Err(Errno::INVAL) };
            let Some(next) = self.merge(&pieces, name, depth + 1)? else { return Ok(None) };
            pieces = next.at.lowers.clone();
            found = Some(next);
        }
        Ok(found.map(|found| {
            let view = Some(path.to_path_buf());
            Found { at: Where { view, ..found.at }, ..found }
        }))
    }

    /// What `name` is in a directory of which the lower layers have these pieces.
    fn merge(&self, dirs: &[Piece], name: &OsStr, depth: usize) -> Fallible<Option<Found>> {
        if depth > MAX_REDIRECTS {
            return Err(Errno::LOOP);
        }
        let mut pieces: Vec<Piece> = Vec::new();
        let mut top: Option<(Stat, Marks)> = None;
        let mut name = name.to_os_string();
        for dir in dirs {
            let layer = &self.lowers[dir.layer];
            let path = dir.path.join(&name);
            let (stat, marks) =
                match entry(&layer.root, &path, layer.marks, dir.layer + 1 < self.lowers.len())? {
                    Entry::Absent => continue,
                    Entry::Whiteout => break,
                    Entry::Here(stat, marks) => (stat, marks),
                };
            if top.as_ref().is_some_and(|(top, _)| is_dir(top) != is_dir(&stat)) {
                break;
            }
            pieces.push(Piece { layer: dir.layer, path });
            let more = wants_more(&stat, &marks);
            let redirect = marks.redirect.clone();
            top.get_or_insert((stat, marks));
            match redirect.as_deref() {
                _ if !more => break,
                Some([b'/', path @ ..]) => {
                    let further = self.walk(dir.layer + 1, Path::new(OsStr::from_bytes(path)), depth + 1)?;
                    pieces.extend(further.into_iter().flat_map(|found| found.at.lowers.to_vec()));
                    break;
                }
                Some(other) => name = OsStr::from_bytes(other).to_os_string(),
                None => {}
            }
        }
        Ok(top.map(|(stat, marks)| Found {
            stat,
            at: Where { upper: None, lowers: pieces.into(), view: None },
            partial: marks.partial,
            device: marks.device,
            bare: marks.alone,
        }))
    }

    /// The marks of one piece that a file's data depends on.
    pub fn partial(&self, piece: &Piece) -> Fallible<Option<Partial>> {
        let layer = &self.lowers[piece.layer];
        match entry(&layer.root, &piece.path, layer.marks, true)? {
            Entry::Here(_, marks) => Ok(marks.partial),
            Entry::Absent | Entry::Whiteout => Err(Errno::NOENT),
        }
    }
}

/// Whether something of the same name below belongs to this entry.
fn wants_more(stat: &Stat, marks: &Marks) -> bool {
    if is_dir(stat) { !marks.opaque } else { marks.partial.is_some() }
}

/// Whether this is a directory.
pub fn is_dir(stat: &Stat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFDIR
}

/// Whether this is a whiteout.
pub fn is_whiteout(stat: &Stat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == 0
}

/// Reads an entry and its marks. What has nothing below it (`merges` is false) is not asked for the marks of merging.
fn entry(root: &Root, path: &Path, marks: Option<Prefix>, merges: bool) -> Fallible<Entry> {
    match stat(root, path)? {
        Some(stat) => entry_of(stat, root, path, marks, merges),
        None => Ok(Entry::Absent),
    }
}

fn stat(root: &Root, path: &Path) -> Fallible<Option<Stat>> {
    match root.stat(path) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}

fn entry_of(stat: Stat, root: &Root, path: &Path, marks: Option<Prefix>, merges: bool) -> Fallible<Entry> {
    if is_whiteout(&stat) {
        return Ok(Entry::Whiteout);
    }
    let kind = stat.st_mode & libc::S_IFMT;
    let Some(prefix) = marks.filter(|_| kind == libc::S_IFREG || (kind == libc::S_IFDIR && merges)) else {
        return Ok(Entry::Here(stat, Marks::default()));
    };
    let read = read_marks(root, path, prefix)?;
    Ok(Entry::Here(stat, read))
}

fn read_marks(root: &Root, path: &Path, prefix: Prefix) -> Fallible<Marks> {
    let mut marks = Marks { alone: true, ..Marks::default() };
    for name in root.xattrs(path)? {
        let Some(mark) = name.strip_prefix(prefix.bytes()) else {
            marks.alone = false;
            continue;
        };
        let value = || Ok(root.xattr(path, &name)?.unwrap_or_default());
        match mark {
            b"opaque" => marks.opaque = value()? == b"y",
            b"redirect" => marks.redirect = Some(value()?),
            b"metacopy" => {
                marks.partial.get_or_insert(Partial::Metacopy);
            }
            b"cowsnap.blocks" => {
                let number = std::str::from_utf8(&value()?).ok().and_then(|n| n.parse().ok());
                marks.partial = Some(Partial::Blocks(number.ok_or(Errno::IO)?));
            }
            b"cowsnap.node" => marks.device = Some(Device::parse(&value()?).ok_or(Errno::IO)?),
            _ => {}
        }
    }
    Ok(marks)
}
