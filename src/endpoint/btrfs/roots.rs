//! The subvolumes of a filesystem, as its root tree lists them.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use crate::sys::btrfs::{
    self, FIRST_FREE_OBJECTID, FS_TREE_OBJECTID, Item, ROOT_BACKREF_KEY, ROOT_ITEM_KEY, ROOT_TREE_OBJECTID,
    SearchKey, Timespec,
};

const LAST_FREE_OBJECTID: u64 = u64::MAX - 255;
const READONLY: u64 = 1; // BTRFS_ROOT_SUBVOL_RDONLY

/// What the root tree says of one subvolume that can be reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Root {
    /// Its id.
    pub id: u64,
    /// The id of the subvolume that it stands in.
    pub parent: u64,
    /// The inode number of the directory that it stands in.
    pub dir: u64,
    /// Its name there.
    pub name: Vec<u8>,
    /// Whether it is read-only.
    pub readonly: bool,
    /// Its own uuid.
    pub uuid: [u8; 16],
    /// The uuid of what it is a snapshot of; zero if it is none.
    pub parent_uuid: [u8; 16],
    /// The uuid of what it was received from; zero if it was not.
    pub received_uuid: [u8; 16],
    /// The transaction of its last change of content.
    pub ctransid: u64,
    /// The transaction in which it was made.
    pub otransid: u64,
    /// The source's ctransid if it was received.
    pub stransid: u64,
    /// The transaction in which it was marked as received.
    pub rtransid: u64,
    /// When it was made.
    pub otime: Timespec,
    /// When its source was made, as far as its receiver said.
    pub stime: Timespec,
}

impl Root {
    /// Whether content was changed after the subvolume became what its uuids say (kernel-notes/btrfs-subvolumes.md).
    pub fn is_altered(&self) -> bool {
        match self.received_uuid == [0; 16] {
            true => self.ctransid > self.otransid,
            false => self.ctransid > self.rtransid,
        }
    }
}

/// Every subvolume of the filesystem but the top level, by id. One search, whatever their number.
pub fn scan(any: BorrowedFd<'_>) -> io::Result<Vec<Root>> {
    scan_range(any, btrfs::FIRST_FREE_OBJECTID, LAST_FREE_OBJECTID)
}

/// The subvolume with that id; `None` if there is none.
pub fn find(any: BorrowedFd<'_>, id: u64) -> io::Result<Option<Root>> {
    Ok(scan_range(any, id, id)?.pop())
}

/// Those of the subvolumes with these ids that are there, by id, each once. What it costs follows their number, not that of all subvolumes.
pub fn find_all(any: BorrowedFd<'_>, ids: Vec<u64>) -> io::Result<Vec<Root>> {
    /// To read so many subvolumes in one search takes about as long as a search of its own.
    const AS_LONG: u64 = 16;
    let ids = distinct(ids);
    let (Some(&first), Some(&last)) = (ids.first(), ids.last()) else { return Ok(Vec::new()) };
    if last - first < AS_LONG * ids.len() as u64 {
        let mut found = scan_range(any, first, last)?;
        found.retain(|root| ids.binary_search(&root.id).is_ok());
        return Ok(found);
    }
    let found = ids.into_iter().map(|id| find(any, id));
    found.filter_map(Result::transpose).collect()
}

/// A directory that is changed while it is listed may list an entry twice.
fn distinct(mut ids: Vec<u64>) -> Vec<u64> {
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// What is left of the subvolume with that id, be it that the cleaner has not come to it yet: its item, which changes as the cleaner
/// gets on.
pub fn left(any: BorrowedFd<'_>, id: u64) -> io::Result<Option<Vec<u8>>> {
    let (min, max) = ((id, ROOT_ITEM_KEY, 0), (id, ROOT_ITEM_KEY, u64::MAX));
    let range = SearchKey { tree: ROOT_TREE_OBJECTID, min, max, min_transid: 0 };
    let mut found = None;
    btrfs::tree_search(any, range, |item| {
        found = Some(item.data.to_vec());
        false
    })?;
    Ok(found)
}

fn scan_range(any: BorrowedFd<'_>, first: u64, last: u64) -> io::Result<Vec<Root>> {
    let range = SearchKey {
        tree: ROOT_TREE_OBJECTID,
        min: (first, ROOT_ITEM_KEY, 0),
        max: (last, ROOT_BACKREF_KEY, u64::MAX),
        min_transid: 0,
    };
    let mut found: Vec<Root> = Vec::new();
    let mut pending: Option<Root> = None;
    btrfs::tree_search(any, range, |item| {
        match item.key.1 {
            ROOT_ITEM_KEY => pending = parse_item(item),
            // A subvolume without a reference back is being destroyed: it never gets out of `pending`.
            ROOT_BACKREF_KEY => found.extend(pending.take().and_then(|root| place(root, item))),
            _ => {}
        }
        true
    })?;
    Ok(found)
}

/// The ids and names of the subvolumes that stand anywhere in the subvolume `parent`, without those further down.
pub fn children(any: BorrowedFd<'_>, parent: u64) -> io::Result<Vec<Child>> {
    let range = SearchKey {
        tree: ROOT_TREE_OBJECTID,
        min: (parent, btrfs::ROOT_REF_KEY, 0),
        max: (parent, btrfs::ROOT_REF_KEY, u64::MAX),
        min_transid: 0,
    };
    let mut found = Vec::new();
    btrfs::tree_search(any, range, |item| {
        if item.key.1 == btrfs::ROOT_REF_KEY {
            found.extend(parse_ref(item.data).map(|(dir, name)| Child { id: item.key.2, dir, name }));
        }
        true
    })?;
    Ok(found)
}

/// A subvolume inside another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// Its id.
    pub id: u64,
    /// The inode number of the directory that it stands in.
    pub dir: u64,
    /// Its name there.
    pub name: Vec<u8>,
}

fn place(root: Root, backref: Item<'_>) -> Option<Root> {
    let (dir, name) = parse_ref(backref.data)?;
    (backref.key.0 == root.id).then_some(Root { parent: backref.key.2, dir, name, ..root })
}

/// `btrfs_root_ref`: dirid, sequence, length of the name, name.
fn parse_ref(data: &[u8]) -> Option<(u64, Vec<u8>)> {
    let len = u16::from_le_bytes(data.get(16..18)?.try_into().ok()?) as usize;
    Some((u64_at(data, 0)?, data.get(18..18 + len)?.to_vec()))
}

/// `btrfs_root_item`; `None` for one of before uuids (kernel 3.6), which is shorter.
fn parse_item(item: Item<'_>) -> Option<Root> {
    let data = item.data;
    Some(Root {
        id: item.key.0,
        readonly: u64_at(data, 208)? & READONLY != 0,
        uuid: uuid_at(data, 247)?,
        parent_uuid: uuid_at(data, 263)?,
        received_uuid: uuid_at(data, 279)?,
        ctransid: u64_at(data, 295)?,
        otransid: u64_at(data, 303)?,
        stransid: u64_at(data, 311)?,
        rtransid: u64_at(data, 319)?,
        otime: time_at(data, 339)?,
        stime: time_at(data, 351)?,
        ..Root::default()
    })
}

fn u64_at(data: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(data.get(at..at + 8)?.try_into().ok()?))
}

fn uuid_at(data: &[u8], at: usize) -> Option<[u8; 16]> {
    data.get(at..at + 16)?.try_into().ok()
}

fn time_at(data: &[u8], at: usize) -> Option<Timespec> {
    let nsec = u32::from_le_bytes(data.get(at + 8..at + 12)?.try_into().ok()?);
    Some(Timespec { sec: u64_at(data, at)?, nsec })
}

impl From<btrfs::SubvolInfo> for Root {
    fn from(info: btrfs::SubvolInfo) -> Self {
        Self {
            id: info.id,
            parent: info.parent_id,
            dir: info.dir_id,
            name: info.name,
            readonly: info.readonly,
            uuid: info.uuid,
            parent_uuid: info.parent_uuid,
            received_uuid: info.received_uuid,
            ctransid: info.ctransid,
            otransid: info.otransid,
            stransid: info.stransid,
            rtransid: info.rtransid,
            otime: info.otime,
            stime: info.stime,
        }
    }
}

/// Paths below the top level. Remembers the directories that it has looked up.
pub struct Paths<'a> {
    any: BorrowedFd<'a>,
    dirs: HashMap<(u64, u64), Option<PathBuf>>,
}

impl<'a> Paths<'a> {
    /// Of the filesystem of `any`.
    pub fn new(any: BorrowedFd<'a>) -> Self {
        Self { any, dirs: HashMap::new() }
    }

    /// The path of `root`; its ancestors are among `roots`, sorted by id. `None` if one of them is being destroyed.
    pub fn of(&mut self, roots: &[Root], root: &Root) -> Option<PathBuf> {
        let mut components = vec![PathBuf::from(OsStr::from_bytes(&root.name))];
        let (mut parent, mut dir) = (root.parent, root.dir);
        // A subvolume can not stand inside itself, so the walk ends; the bound is for a damaged filesystem.
        for _ in 0..roots.len() + 1 {
            components.push(self.dir(parent, dir)?);
            if parent == FS_TREE_OBJECTID {
                return Some(components.iter().rev().collect());
            }
            let above = &roots[roots.binary_search_by_key(&parent, |r| r.id).ok()?];
            components.push(PathBuf::from(OsStr::from_bytes(&above.name)));
            (parent, dir) = (above.parent, above.dir);
        }
        None
    }

    /// The path of directory `inode` below the root of subvolume `tree`.
    pub fn dir(&mut self, tree: u64, inode: u64) -> Option<PathBuf> {
        if inode == FIRST_FREE_OBJECTID {
            return Some(PathBuf::new());
        }
        let any = self.any;
        let look_up = || Some(OsString::from_vec(btrfs::ino_lookup(any, tree, inode).ok()?.1).into());
        self.dirs.entry((tree, inode)).or_insert_with(look_up).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_twice_is_looked_for_once() {
        assert_eq!(distinct(vec![700, 256, 700, 4000, 256, 700]), [256, 700, 4000]);
        assert_eq!(distinct(Vec::new()), [0; 0]);
    }
}
