//! From a layer on disk to the lines of its manifest.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::Path;

use blake3::Hash;
use rustix::fs::{FileType, major, minor};

use super::data::read_map;
use super::hash::{How, Job, hash_all};
use super::manifest::{Data, Kind, Line, Size};
use super::merge::joined;
use super::tree::{Attributes, Node, Tree};
use crate::endpoint::{Error, Result};

/// From this many bytes of holes on, a file is hashed as a sparse one.
const LARGE_HOLES: u64 = 64 << 20;

/// Which files are hashed as sparse ones.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sparse<'a> {
    /// Those that have large holes.
    WithHoles,
    /// Those that are so here.
    As(&'a [Line]),
}

/// What was found of an entry, but for the hash of its data.
struct Found {
    line: Line,
    how: Option<How>,
    inode: Option<(u64, u64)>,
}

/// The lines of a layer, in the order of a manifest.
///
/// # Errors
/// What can not be read, and marks that make no sense.
pub(super) fn scan(tree: &Tree, sparse: Sparse<'_>) -> Result<Vec<Line>> {
    let mut found = walk(tree, sparse)?;
    found.sort_by(|a, b| a.line.path.cmp(&b.line.path));
    number_links(&mut found);
    let mut jobs: Vec<Job> = Vec::new();
    let mut of_group: HashMap<u32, usize> = HashMap::new();
    let mut wanted = Vec::new();
    for (at, Found { line, how, .. }) in found.iter_mut().enumerate() {
        let Some(how) = how.take() else { continue };
        let Size::Bytes(size) = line.size else { continue };
        let job = match line.group.and_then(|group| of_group.get(&group)) {
            Some(&job) => job,
            None => {
                jobs.push(Job { path: line.path.clone(), size, how });
                jobs.len() - 1
            }
        };
        if let Some(group) = line.group {
            of_group.entry(group).or_insert(job);
        }
        wanted.push((at, job));
    }
    let hashes = hash_all(tree.root(), &jobs)
        .map_err(|(job, error)| Error::io("read", jobs[job].path.escape_ascii())(error))?;
    wanted.into_iter().for_each(|(at, job)| found[at].line.hash = Some(hashes[job]));
    Ok(found.into_iter().map(|found| found.line).collect())
}

fn walk(tree: &Tree, sparse: Sparse<'_>) -> Result<Vec<Found>> {
    let as_before: Option<HashMap<&[u8], Data>> = match sparse {
        Sparse::WithHoles => None,
        Sparse::As(lines) => Some(lines.iter().map(|line| (line.path.as_slice(), line.data)).collect()),
    };
    let is_sparse = |path: &[u8], node: &Node| match &as_before {
        Some(before) => before.get(path) == Some(&Data::Sparse),
        None => node.size().saturating_sub(node.stat.st_blocks.unsigned_abs() * 512) >= LARGE_HOLES,
    };
    let mut found = Vec::new();
    let mut waiting = vec![Vec::new()];
    while let Some(path) = waiting.pop() {
        let failed = |op| Error::io(op, path.escape_ascii());
        let node = tree.node(&path).map_err(failed("read"))?;
        let node = node.ok_or_else(|| gone(&path))?;
        if node.file_type() == FileType::Directory {
            let names = tree.names(&path).map_err(failed("list"))?;
            waiting.extend(names.into_iter().map(|(name, _)| joined(&path, &name)));
        }
        found.push(describe(tree, path.clone(), &node, is_sparse(&path, &node))?);
    }
    Ok(found)
}

fn gone(path: &[u8]) -> Error {
    let why = format!("{} went away while it was read", path.escape_ascii());
    Error::Corrupt { what: "layer", why, source: None }
}

fn describe(tree: &Tree, path: Vec<u8>, node: &Node, is_sparse: bool) -> Result<Found> {
    let kind = kind_of(node);
    node.entry().map_err(|bad| bad_mark(&path, &bad))?;
    if kind == Kind::Whiteout {
        return Ok(Found { line: whiteout(path), how: None, inode: None });
    }
    let (mut data, mut how, mut hash) = (Data::Plain, None, None);
    match kind {
        Kind::File if node.mark("metacopy").is_some() => data = Data::Metacopy,
        Kind::File => match node.blocks().transpose().map_err(|bad| bad_mark(&path, &bad))? {
            Some(number) => {
                data = Data::Blocks;
                let (map, bytes) = read_map(tree.blocks(), number)?;
                how = Some(How::Blocks(map, bytes));
            }
            None if is_sparse => (data, how) = (Data::Sparse, Some(How::Sparse)),
            None => how = Some(How::Plain),
        },
        Kind::Link => {
            let target = tree.link(&path).map_err(Error::io("read", path.escape_ascii()))?;
            hash = Some(blake3::hash(&target));
        }
        _ => {}
    }
    let line = Line {
        kind,
        data,
        opaque: node.is_opaque() && kind == Kind::Dir,
        redirect: node.mark("redirect").is_some() && matches!(kind, Kind::Dir | Kind::File),
        mode: node.mode(),
        uid: node.stat.st_uid,
        gid: node.stat.st_gid,
        mtime_ns: node.mtime_ns(),
        size: size_of(kind, node),
        hash,
        xattrs: hash_attributes(&node.kept()),
        group: None,
        path,
    };
    let has_names = node.stat.st_nlink > 1 && kind != Kind::Dir;
    Ok(Found { line, how, inode: has_names.then_some((node.stat.st_dev, node.stat.st_ino)) })
}

fn whiteout(path: Vec<u8>) -> Line {
    Line {
        kind: Kind::Whiteout,
        data: Data::Plain,
        opaque: false,
        redirect: false,
        mode: 0,
        uid: 0,
        gid: 0,
        mtime_ns: 0,
        size: Size::None,
        hash: None,
        xattrs: None,
        group: None,
        path,
    }
}

fn bad_mark(path: &[u8], bad: &super::tree::BadMark) -> Error {
    Error::Corrupt { what: "layer", why: format!("{}: {bad}", path.escape_ascii()), source: None }
}

fn kind_of(node: &Node) -> Kind {
    match node.file_type() {
        _ if node.is_whiteout() => Kind::Whiteout,
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Link,
        FileType::BlockDevice => Kind::Block,
        FileType::CharacterDevice => Kind::Char,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        _ => Kind::File,
    }
}

fn size_of(kind: Kind, node: &Node) -> Size {
    match kind {
        Kind::File | Kind::Link => Size::Bytes(node.size()),
        Kind::Block | Kind::Char => Size::Device(major(node.stat.st_rdev), minor(node.stat.st_rdev)),
        _ => Size::None,
    }
}

/// The hash of extended attributes, in the order of their names; `None` if there are none.
pub(in crate::endpoint) fn hash_attributes(attributes: &Attributes) -> Option<Hash> {
    if attributes.is_empty() {
        return None;
    }
    let mut hasher = blake3::Hasher::new();
    for bytes in attributes.iter().flat_map(|(name, value)| [name, value]) {
        hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    }
    Some(hasher.finalize())
}

/// Gives the names of each file that has several a number, in the order of the first of them.
fn number_links(found: &mut [Found]) {
    let mut names: BTreeMap<(u64, u64), u32> = BTreeMap::new();
    for inode in found.iter().filter_map(|found| found.inode) {
        *names.entry(inode).or_default() += 1;
    }
    let mut numbers: HashMap<(u64, u64), u32> = HashMap::new();
    for Found { line, inode, .. } in found {
        // Other names may be elsewhere: in the kernel's index, which is not part of the layer.
        let Some(inode) = inode.filter(|inode| names[inode] > 1) else { continue };
        let next = numbers.len() as u32 + 1;
        line.group = Some(*numbers.entry(inode).or_insert(next));
    }
}

/// Makes everything on the filesystem of `dir` durable.
pub(super) fn sync_filesystem(dir: &Path) -> Result<()> {
    let file = File::open(dir).map_err(Error::io("open", dir.display()))?;
    rustix::fs::syncfs(&file).map_err(Error::io("sync", dir.display()))
}
