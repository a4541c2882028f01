//! What the upper layers of a stack changed of what lies below them. The cost follows the change: only directories that the
//! upper layers have are listed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use rustix::fs::FileType;

use super::data::same_data;
use super::links::names_below;
use super::merge::{self, Layers as _, Part, Shown, joined, lookup, path_below};
use super::origin::{self, Handle, handle_of};
use super::tree::{Node, Stack};
use crate::endpoint::change::{Change, Kind};
use crate::endpoint::{Error, Result};

/// A change, and what it did to the size.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// What changed.
    pub change: Change,
    /// The size of the file before, in bytes; `None` if there was no file.
    pub before: Option<u64>,
    /// The size of the file now.
    pub after: Option<u64>,
}

/// What to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiffRequest {
    /// Read the data of files that may have changed, and leave out those that are the same.
    pub content: bool,
}

/// What the upper `n` layers of `stack` changed of what those below show, in the order of paths.
///
/// What was renamed is told as that, and what else changed of it in another line: directories and files by their redirects, other
/// files by the handle of the file that the kernel copied them from. What is in a directory that is gone is not told.
///
/// Without [`DiffRequest::content`], a file counts as written to ([`Kind::Modified`]) if the upper layers have its data and its size or
/// its modification time is another one, or nothing else of it changed. Of a file that has several names, or had, its data is compared
/// before the last of these is said: a link that comes or goes brings its data there, too.
///
/// # Errors
/// What can not be read; [`Error::Corrupt`] for marks that make no sense.
pub fn diff(stack: &Stack, n: usize, request: DiffRequest) -> Result<Vec<Difference>> {
    let mut moved = BTreeSet::new();
    loop {
        let mut walk = Walk::new(stack, n, request, moved.clone());
        walk.all()?;
        // What was renamed left its place: whatever is there now is looked at again as something new.
        let before = moved.len();
        moved.extend(std::mem::take(&mut walk.found_moved));
        if moved.len() == before {
            let mut found: Vec<_> = walk.found.into_iter().map(|told| told.difference).collect();
            found.retain(|found| found.change.kind != Kind::Destroyed || !moved.contains(&found.change.path));
            found.sort();
            return Ok(found);
        }
    }
}

/// What is changed of files of several names under those names that only the layers below have: `stack` begins with the index in which
/// overlayfs keeps such files, and behind it is as for [`diff`]. If there are any, all that the stack shows is looked through.
///
/// # Errors
/// As [`diff`].
pub fn diff_of_links(stack: &Stack, n: usize, request: DiffRequest) -> Result<Vec<Difference>> {
    let walk = Walk::new(stack, n + 1, request, BTreeSet::new());
    let mut found = Vec::new();
    for (path, part, indexed) in names_below(stack, 1, stack.tree(0))?.found {
        // What the other upper layers have is told already.
        if part.layer <= n {
            continue;
        }
        let index = Part { layer: 0, path: indexed };
        let (node, old) = (walk.there(&index)?, walk.there(&part)?);
        let (now, was) = match node.file_type() {
            FileType::RegularFile if node.mark("metacopy").is_some() => {
                (Shown::File(vec![index, part.clone()]), Shown::File(vec![part]))
            }
            FileType::RegularFile => (Shown::File(vec![index]), Shown::File(vec![part])),
            _ => (Shown::Other(index), Shown::Other(part)),
        };
        if let Some(kind) = walk.compare((&now, &node), (&was, &old), true)? {
            let change = Change { path, kind, from: None };
            found.push(Difference { change, before: size(&old), after: size(&node) });
        }
    }
    Ok(found)
}

struct Walk<'a> {
    stack: &'a Stack,
    n: usize,
    request: DiffRequest,
    found: Vec<Told>,
    /// Where what was renamed was before, as far as that is known from an earlier walk.
    moved: BTreeSet<Vec<u8>>,
    /// … and as this walk finds it.
    found_moved: BTreeSet<Vec<u8>>,
}

/// A difference, and what is needed to find out that it is another one.
struct Told {
    difference: Difference,
    /// Where what was there before was.
    was_at: Option<Vec<u8>>,
    /// The file in the upper layers, if it was copied from another one.
    copy: Option<(Shown, Handle)>,
}

/// A directory as it was: where, and what it was merged from.
type Old<'a> = Option<(&'a [u8], &'a [Part])>;

impl<'a> Walk<'a> {
    fn new(stack: &'a Stack, n: usize, request: DiffRequest, moved: BTreeSet<Vec<u8>>) -> Self {
        Self { stack, n, request, found: Vec::new(), moved, found_moved: BTreeSet::new() }
    }

    fn all(&mut self) -> Result<()> {
        let (new, old) = (merge::root(self.stack.count(), 0), merge::root(self.stack.count(), self.n));
        self.dir_itself(b"", &new, &old)?;
        self.dir(b"", &new, Some((b"", &old)))?;
        self.pair_copied()
    }

    /// Compares what a directory shows with what it showed.
    fn dir(&mut self, path: &[u8], new: &[Part], old: Old<'_>) -> Result<()> {
        let (ours, below): (Vec<_>, Vec<_>) = new.iter().cloned().partition(|part| part.layer < self.n);
        let mut names = BTreeSet::new();
        for part in &ours {
            let listed = self.stack.tree(part.layer).names(&part.path).map_err(failed("list", &part.path))?;
            names.extend(listed.into_iter().map(|(name, _)| name));
        }
        let old_parts = old.map_or(&[][..], |(_, parts)| parts);
        if old_parts != below {
            // It goes on below as something else than before, or not at all.
            for parts in [old_parts, &below] {
                names.extend(self.stack.names(parts).map_err(failed("list", path))?);
            }
        }
        names.into_iter().try_for_each(|name| self.name(path, &name, new, old))
    }

    fn name(&mut self, dir: &[u8], name: &[u8], new: &[Part], old: Old<'_>) -> Result<()> {
        let path = joined(dir, name);
        let now = lookup(self.stack, new, name).map_err(failed("look up", &path))?;
        let (was, was_at) = match old {
            None => (Shown::Nothing, Vec::new()),
            Some((dir, parts)) => {
                (lookup(self.stack, parts, name).map_err(failed("look up", &path))?, joined(dir, name))
            }
        };
        let was = if self.moved.contains(&was_at) { Shown::Nothing } else { was };
        match (&now, &was) {
            _ if now == was => Ok(()),
            (Shown::Nothing, _) => self.gone(&was_at, &was),
            (_, Shown::Nothing) => self.added(&path, &now),
            _ if came_from_elsewhere(&now, &was, self.n) => {
                self.gone(&was_at, &was)?;
                self.added(&path, &now)
            }
            _ => self.changed(&path, &now, &was_at, &was),
        }
    }

    fn gone(&mut self, path: &[u8], was: &Shown) -> Result<()> {
        let Some(part) = was.first() else { return Ok(()) };
        let size = size(&self.there(part)?);
        self.tell(path, Kind::Destroyed, None, (size, None)).was_at = Some(path.to_vec());
        Ok(())
    }

    /// Something where nothing was. What is in it is new too, unless it came from elsewhere.
    fn added(&mut self, path: &[u8], now: &Shown) -> Result<()> {
        let Some(first) = now.first() else { return Ok(()) };
        let node = self.there(first)?;
        if let Some((from, was)) = self.origin(path, now)? {
            return self.renamed(path, now, &from, &was);
        }
        self.tell(path, Kind::Added, None, (None, size(&node)));
        match now {
            Shown::Dir(new) => self.dir(path, new, None),
            _ => {
                self.may_be_a_copy(now, &node);
                Ok(())
            }
        }
    }

    fn renamed(&mut self, path: &[u8], now: &Shown, from: &[u8], was: &Shown) -> Result<()> {
        let (Some(first), Some(old)) = (now.first(), was.first()) else { return Ok(()) };
        let (node, old) = (self.there(first)?, self.there(old)?);
        self.found_moved.insert(from.to_vec());
        self.tell(path, Kind::Renamed, Some(from.to_vec()), (size(&old), size(&node)));
        match (now, was) {
            (Shown::Dir(new), Shown::Dir(old)) => {
                self.dir_itself(path, new, old)?;
                self.dir(path, new, Some((from, old)))
            }
            _ => {
                if let Some(kind) = self.compare((now, &node), (was, &old), false)? {
                    self.tell(path, kind, None, (size(&old), size(&node)));
                }
                Ok(())
            }
        }
    }

    /// Where what shows at `path` was before, and what showed there; `None` if it is new.
    fn origin(&self, path: &[u8], now: &Shown) -> Result<Option<(Vec<u8>, Shown)>> {
        let (Shown::Dir(parts) | Shown::File(parts)) = now else { return Ok(None) };
        let Some(below) = parts.iter().position(|part| part.layer >= self.n) else { return Ok(None) };
        let from = path_below(self.stack, self.n, path).map_err(failed("look up", path))?;
        let Some(from) = from else { return Ok(None) };
        let was = merge::resolve(self.stack, self.n, &from).map_err(failed("look up", &from))?;
        let same = matches!(&was, Shown::Dir(old) | Shown::File(old) if *old == parts[below..]);
        Ok((same && !self.still_shows(&from, &parts[below..])?).then_some((from, was)))
    }

    /// Whether the file of these parts below is where it was: then another name of it is a link, and no new name of its own.
    fn still_shows(&self, path: &[u8], below: &[Part]) -> Result<bool> {
        let now = merge::resolve(self.stack, 0, path).map_err(failed("look up", path))?;
        let Shown::File(parts) = now else { return Ok(false) };
        Ok(parts.iter().position(|part| part.layer >= self.n).is_some_and(|at| parts[at..] == *below))
    }

    /// Notes of the file that was told last that it was copied up whole: it may have been renamed then.
    fn may_be_a_copy(&mut self, now: &Shown, node: &Node) {
        let is_whole = now.first().is_some_and(|part| part.layer < self.n)
            && !matches!(now, Shown::File(parts) if parts.iter().any(|part| part.layer >= self.n));
        let mark = node.mark("origin").or_else(|| node.mark(origin::OWN));
        let handle = mark.filter(|_| is_whole).and_then(Handle::in_mark);
        if let (Some(told), Some(handle)) = (self.found.last_mut(), handle) {
            told.copy = Some((now.clone(), handle));
        }
    }

    /// Finds files that were renamed: copies of others whose own places are empty, or taken by something else.
    fn pair_copied(&mut self) -> Result<()> {
        if self.found.iter().all(|told| told.copy.is_none()) {
            return Ok(());
        }
        let mut left = BTreeMap::new();
        let left_behind =
            self.found.iter().filter_map(|told| Some((told.was_at.clone()?, told.copy.as_ref())));
        for (path, copy) in left_behind.chain(self.moved.iter().map(|path| (path.clone(), None))) {
            let was = merge::resolve(self.stack, self.n, &path).map_err(failed("look up", &path))?;
            let Some(part) = was.first().filter(|_| !matches!(was, Shown::Dir(_))) else { continue };
            let handle = handle_of(self.stack.tree(part.layer), &part.path);
            // A copy of what was in its own place was only written to.
            let handle = handle.filter(|handle| copy.is_none_or(|(_, origin)| origin != handle));
            left.extend(handle.map(|handle| (handle, (path, was))));
        }
        self.settle_written_to()?;
        for at in 0..self.found.len() {
            let Some((now, handle)) = self.found[at].copy.take() else { continue };
            let Some((from, was)) = left.remove(&handle) else { continue };
            self.renamed_copy(at, &now, &from, &was)?;
        }
        self.found.retain(|told| !told.difference.change.path.is_empty());
        Ok(())
    }

    /// A copy of what was in its own place was not renamed, whatever became of other names that it had.
    fn settle_written_to(&mut self) -> Result<()> {
        for at in 0..self.found.len() {
            let Told { was_at: Some(path), copy: Some((_, origin)), .. } = &self.found[at] else { continue };
            let was = merge::resolve(self.stack, self.n, path).map_err(failed("look up", path))?;
            let own = was.first().and_then(|part| handle_of(self.stack.tree(part.layer), &part.path));
            if own.as_ref() == Some(origin) {
                self.found[at].copy = None;
            }
        }
        Ok(())
    }

    /// What was told at `at` as a new file, or as one that was written to, is one that was renamed.
    fn renamed_copy(&mut self, at: usize, now: &Shown, from: &[u8], was: &Shown) -> Result<()> {
        let told = &mut self.found[at];
        let path = std::mem::take(&mut told.difference.change.path); // No path: it is left out in the end.
        if let (Some(replaced), before) = (told.was_at.clone(), told.difference.before) {
            self.tell(&replaced, Kind::Destroyed, None, (before, None));
        }
        self.renamed(&path, now, from, was)
    }

    fn changed(&mut self, path: &[u8], now: &Shown, was_at: &[u8], was: &Shown) -> Result<()> {
        let (Some(new), Some(old)) = (now.first(), was.first()) else { return Ok(()) };
        let (new_node, old_node) = (self.there(new)?, self.there(old)?);
        let sizes = (size(&old_node), size(&new_node));
        match (now, was) {
            (Shown::Dir(new), Shown::Dir(old)) => {
                self.dir_itself(path, new, old)?;
                return self.dir(path, new, Some((was_at, old)));
            }
            (Shown::Dir(new), _) => {
                self.tell(path, Kind::Retyped, None, sizes);
                return self.dir(path, new, None);
            }
            _ => {}
        }
        let kind = match type_of(&new_node) == type_of(&old_node) {
            true => self.compare((now, &new_node), (was, &old_node), true)?,
            false => Some(Kind::Retyped),
        };
        if let Some(kind) = kind {
            self.tell(path, kind, None, sizes).was_at = Some(was_at.to_vec());
            self.may_be_a_copy(now, &new_node);
        }
        Ok(())
    }

    fn dir_itself(&mut self, path: &[u8], new: &[Part], old: &[Part]) -> Result<()> {
        let (Some(new), Some(old)) = (new.first(), old.first()) else { return Ok(()) };
        if new != old && !same_metadata(&self.there(new)?, &self.there(old)?) {
            self.tell(path, Kind::Metadata, None, (None, None));
        }
        Ok(())
    }

    /// How something that is no directory changed; `None` if it did not. `touched`: being in the upper layers with its data is a
    /// sign of having been written to.
    fn compare(&self, new: (&Shown, &Node), old: (&Shown, &Node), touched: bool) -> Result<Option<Kind>> {
        let metadata = (!same_metadata(new.1, old.1)).then_some(Kind::Metadata);
        let times = new.1.mtime_ns() != old.1.mtime_ns();
        let written = match (new.0, old.0) {
            (Shown::File(new_parts), Shown::File(_)) if !self.has_data(new_parts)? => {
                new.1.size() != old.1.size()
            }
            (Shown::File(new_parts), Shown::File(old_parts)) => match self.request.content {
                true => !same_data(self.stack, (new_parts, new.1.size()), (old_parts, old.1.size()))?,
                false if new.1.size() != old.1.size() || times => true,
                false if !touched || metadata.is_some() => false,
                false => {
                    // A file of several names is copied when one comes or goes, too: what it holds tells.
                    let has_names = new.1.stat.st_nlink > 1 || old.1.stat.st_nlink > 1;
                    !(has_names || self.is_of_another())
                        || !same_data(self.stack, (new_parts, new.1.size()), (old_parts, old.1.size()))?
                }
            },
            (Shown::Other(new_part), Shown::Other(old_part)) => {
                device_of(new.1) != device_of(old.1)
                    || self.link(new_part, new.1)? != self.link(old_part, old.1)?
            }
            _ => true,
        };
        let times = (times && !self.request.content).then_some(Kind::Metadata);
        Ok(if written { Some(Kind::Modified) } else { metadata.or(times) })
    }

    /// Whether a file in the upper layer may be the one below though it was made for itself.
    fn is_of_another(&self) -> bool {
        self.stack.tree(0).apart().is_some_and(super::apart::Apart::is_of_another)
    }

    /// Whether the upper layers have data of a file.
    fn has_data(&self, parts: &[Part]) -> Result<bool> {
        for part in parts.iter().filter(|part| part.layer < self.n) {
            if self.there(part)?.mark("metacopy").is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn link(&self, part: &Part, node: &Node) -> Result<Option<Vec<u8>>> {
        if node.file_type() != FileType::Symlink {
            return Ok(None);
        }
        self.stack.tree(part.layer).link(&part.path).map(Some).map_err(failed("read", &part.path))
    }

    fn there(&self, part: &Part) -> Result<Node> {
        let node = self.stack.node(part).map_err(failed("read", &part.path))?;
        node.ok_or_else(|| Error::Corrupt {
            what: "layer",
            why: format!("{} went away while it was compared", part.path.escape_ascii()),
            source: None,
        })
    }

    fn tell(
        &mut self,
        path: &[u8],
        kind: Kind,
        from: Option<Vec<u8>>,
        (before, after): (Option<u64>, Option<u64>),
    ) -> &mut Told {
        let path = if path.is_empty() { b".".to_vec() } else { path.to_vec() };
        let difference = Difference { change: Change { path, kind, from }, before, after };
        self.found.push(Told { difference, was_at: None, copy: None });
        self.found.last_mut().expect("it was just put there")
    }
}

/// Whether what shows goes on below as something else than what showed in its place.
fn came_from_elsewhere(now: &Shown, was: &Shown, n: usize) -> bool {
    let (Shown::Dir(now) | Shown::File(now)) = now else { return false };
    let below = now.iter().position(|part| part.layer >= n).map(|at| &now[at..]);
    match was {
        Shown::Dir(was) | Shown::File(was) => below.is_some_and(|below| below != was),
        _ => below.is_some(),
    }
}

fn same_metadata(a: &Node, b: &Node) -> bool {
    (a.mode(), a.stat.st_uid, a.stat.st_gid) == (b.mode(), b.stat.st_uid, b.stat.st_gid)
        && a.shown() == b.shown()
}

/// The type that shows: a device that only a mark makes one is one.
fn type_of(node: &Node) -> FileType {
    match node.device() {
        Some(_) => FileType::CharacterDevice,
        None => node.file_type(),
    }
}

fn device_of(node: &Node) -> Option<(u32, u32)> {
    match (node.device(), node.file_type()) {
        (Some(device), _) => device.ok(),
        (None, FileType::CharacterDevice | FileType::BlockDevice) => {
            Some((rustix::fs::major(node.stat.st_rdev), rustix::fs::minor(node.stat.st_rdev)))
        }
        _ => None,
    }
}

fn size(node: &Node) -> Option<u64> {
    (type_of(node) == FileType::RegularFile).then(|| node.size())
}

fn failed(op: &'static str, path: &[u8]) -> impl FnOnce(io::Error) -> Error {
    Error::io(op, path.escape_ascii())
}
