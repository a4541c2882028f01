//! What changed between two versions, at the cost of the change: the kernel compares the trees and sends, without data,
//! what makes one of the other.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::endpoint::btrfs::dataset::Dataset;
use crate::endpoint::btrfs::send::{Source, stream};
use crate::endpoint::change::{Change, Kind};
use crate::endpoint::{Error, Result, beneath};
use crate::model::VersionRef;
use crate::stream::btrfs::Parser;
use crate::sys::btrfs::{self, SendOptions};
use crate::sys::interrupt;
use rustix::fs::{AtFlags, Dir, FileType, Stat, statat};

pub mod fold;

use fold::{Fold, Story, Touched};

impl Dataset {
    /// What changed from `old` to `new`, or to what the dataset is now; sorted by path.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Reused`]; as [`changes`].
    pub fn changes(&self, old: &VersionRef, new: Option<&VersionRef>) -> Result<Vec<Change>> {
        let subject = format!("{self}@{}", old.name);
        let old = self.open_version(old)?;
        let Some(new) = new else {
            let fleeting = self.fleeting_snapshot()?;
            let root = fleeting.as_fd().try_clone_to_owned().map_err(Error::io("open", self))?;
            return changes(old, root, &subject);
        };
        changes(old, self.open_version(new)?, &subject)
    }
}

/// What makes `new` of `old`, both roots of read-only subvolumes of one filesystem; sorted by path. `subject` is what
/// errors call it.
///
/// # Errors
/// What the kernel says of the comparison; a signal.
pub fn changes(old: OwnedFd, new: OwnedFd, subject: &str) -> Result<Vec<Change>> {
    let io = |error| Error::io("compare", subject)(error);
    let base = btrfs::subvol_id(old.as_fd()).map_err(io)?;
    let options =
        SendOptions { base: Some(base), clone_sources: vec![base], no_data: true, ..SendOptions::default() };
    let subvolume = new.try_clone().map_err(io)?;
    let stream = stream(Source { subvolume, subject: subject.into(), options, since: 0 })?;
    let fold = fold_stream(Parser::new(stream), subject)?;
    let mut trees = Trees { old, new, subject, changes: BTreeSet::new() };
    for story in fold.stories() {
        trees.note(story)?;
    }
    trees.note_other_names()?;
    Ok(trees.changes.into_iter().collect())
}

fn fold_stream<R: std::io::Read>(mut parser: Parser<R>, subject: &str) -> Result<Fold> {
    let mut fold = Fold::default();
    while let Some(item) = parser.next_command().map_err(|error| failed(error, subject))? {
        interrupt::check().map_err(|_| Error::Interrupted { op: "compare", subject: subject.into() })?;
        fold.play(&item.command).map_err(|lost| senseless(Box::new(lost), subject))?;
    }
    Ok(fold)
}

fn senseless(source: Box<dyn std::error::Error + Send + Sync>, subject: &str) -> Error {
    let why = format!("the kernel's comparison of {subject} makes no sense");
    Error::Corrupt { what: "btrfs stream", why, source: Some(source) }
}

/// What the kernel said, if that is what ended the stream.
fn failed(error: crate::stream::btrfs::Error, subject: &str) -> Error {
    match error {
        crate::stream::btrfs::Error::Io { source, .. } => match source.downcast::<Error>() {
            Ok(of_the_sender) => of_the_sender,
            Err(source) => Error::io("compare", subject)(source),
        },
        other => senseless(Box::new(other), subject),
    }
}

/// Both trees, to look up what the stream does not say.
struct Trees<'a> {
    old: OwnedFd,
    new: OwnedFd,
    subject: &'a str,
    changes: BTreeSet<Change>,
}

impl Trees<'_> {
    fn note(&mut self, story: Story) -> Result<()> {
        match story {
            Story::Added(path) => self.add(path, Kind::Added, None),
            Story::Destroyed(path) => self.add(path, Kind::Destroyed, None),
            Story::Replaced(before, now) => {
                if let Some(kind) = self.replaced(&before, &now)? {
                    self.add(now, kind, None);
                }
            }
            Story::Renamed(before, now, touched) => {
                let kind = self.touched(&before, &now, touched)?;
                self.add(now.clone(), Kind::Renamed, Some(before));
                kind.into_iter().for_each(|kind| self.add(now.clone(), kind, None));
            }
            Story::Kept(before, now, touched) => {
                if let Some(kind) = self.touched(&before, &now, touched)? {
                    self.add(now, kind, None);
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, path: Vec<u8>, kind: Kind, from: Option<Vec<u8>>) {
        let path = if path.is_empty() { b".".to_vec() } else { path };
        self.changes.insert(Change { path, kind, from });
    }

    fn replaced(&self, before: &[u8], now: &[u8]) -> Result<Option<Kind>> {
        let (old, new) = (self.stat(&self.old, before)?, self.stat(&self.new, now)?);
        match (type_of(&old), type_of(&new)) {
            (a, b) if a != b => Ok(Some(Kind::Retyped)),
            (FileType::Directory, _) => Ok(metadata_differs(&old, &new).then_some(Kind::Metadata)),
            _ => Ok(Some(Kind::Modified)),
        }
    }

    fn touched(&self, before: &[u8], now: &[u8], touched: Touched) -> Result<Option<Kind>> {
        if touched == Touched::default() {
            return Ok(None);
        }
        let (old, new) = (self.stat(&self.old, before)?, self.stat(&self.new, now)?);
        if touched.data || (touched.size && old.st_size != new.st_size) {
            return Ok(Some(Kind::Modified));
        }
        let metadata = touched.attributes || (touched.metadata && metadata_differs(&old, &new));
        Ok(metadata.then_some(Kind::Metadata))
    }

    fn stat(&self, root: &OwnedFd, path: &[u8]) -> Result<Stat> {
        let shown = if path.is_empty() { Path::new(".") } else { Path::new(OsStr::from_bytes(path)) };
        let subject = || format!("{} of {}", shown.display(), self.subject);
        statat(root, shown, AtFlags::SYMLINK_NOFOLLOW).map_err(|error| Error::io("examine", subject())(error))
    }

    /// The kernel tells of a change of a file by one of its names; this tells of it by its other names too.
    fn note_other_names(&mut self) -> Result<()> {
        let enough = |change: &&Change| change.kind != Kind::Renamed;
        let mut told: HashSet<_> = self.changes.iter().filter(enough).map(|c| c.path.clone()).collect();
        let inner = |change: &&Change| matches!(change.kind, Kind::Modified | Kind::Metadata);
        let changed: Vec<_> = self.changes.iter().filter(inner).cloned().collect();
        let mut of_many_names = HashMap::new();
        for change in changed {
            let stat = self.stat(&self.new, &change.path)?;
            if type_of(&stat) == FileType::Directory || stat.st_nlink < 2 {
                continue;
            }
            let names = btrfs::paths_of_inode(self.new.as_fd(), stat.st_ino)
                .map_err(Error::io("look up the names of a file of", self.subject))?;
            let Some(names) = names else {
                of_many_names.insert(stat.st_ino, change.kind);
                continue;
            };
            for path in names {
                if told.insert(path.clone()) {
                    self.add(path, change.kind, None);
                }
            }
        }
        for (path, kind) in self.names_of(&of_many_names)? {
            if told.insert(path.clone()) {
                self.add(path, kind, None);
            }
        }
        Ok(())
    }

    /// What files are called that have more names than the kernel tells, by inode number: all of the tree is looked through.
    fn names_of(&self, wanted: &HashMap<u64, Kind>) -> Result<Vec<(Vec<u8>, Kind)>> {
        let mut found = Vec::new();
        let mut waiting = if wanted.is_empty() { Vec::new() } else { vec![Vec::new()] };
        while let Some(dir) = waiting.pop() {
            interrupt::check()
                .map_err(|_| Error::Interrupted { op: "compare", subject: self.subject.into() })?;
            let failed = || Error::io("list a directory of", self.subject);
            let opened = beneath::open_dir(self.new.as_fd(), &dir).map_err(failed())?;
            for entry in Dir::read_from(opened).map_err(failed())? {
                let entry = entry.map_err(failed())?;
                let name = entry.file_name().to_bytes();
                if name == b"." || name == b".." {
                    continue;
                }
                let path = if dir.is_empty() { name.to_vec() } else { [&dir, &b"/"[..], name].concat() };
                match entry.file_type() {
                    FileType::Directory => waiting.push(path),
                    _ => found.extend(wanted.get(&entry.ino()).map(|&kind| (path, kind))),
                }
            }
        }
        Ok(found)
    }
}

fn type_of(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Whether owners or permissions differ; times too, except of directories, which say nothing but that names changed.
fn metadata_differs(old: &Stat, new: &Stat) -> bool {
    let times = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec);
    (old.st_mode, old.st_uid, old.st_gid) != (new.st_mode, new.st_uid, new.st_gid)
        || (type_of(new) != FileType::Directory && times(old) != times(new))
}
