//! Mounts of ours, found in the table of mounts by their source, whatever a record says.

use std::path::{Path, PathBuf};

use crate::endpoint::overlay::{Home, Place, fuse};
use crate::endpoint::{Error, Result};
use crate::model::overlay::MountSource;
use crate::sys::mount::{self, MountInfo};

/// A mount of an overlay of some home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OurMount {
    /// Whose it is.
    pub source: MountSource,
    /// Where.
    pub dir: PathBuf,
    /// Its id, as [`mount::mount_id`] tells it.
    pub id: u64,
}

/// All mounts of this home that this process sees, in the order in which they were made.
pub fn all(home: &Home) -> Result<Vec<OurMount>> {
    Ok(table()?.iter().filter_map(ours).filter(|mounted| mounted.source.home == home.id()).collect())
}

/// The mounts of this copy at its place, the topmost last. Nothing else lies on them or between them.
///
/// # Errors
/// [`Error::Refused`] if something that is not of this copy is mounted over it.
pub fn at(place: &Place<'_>) -> Result<Vec<OurMount>> {
    let mounts = table()?;
    let here: Vec<_> = mounts.iter().filter(|mounted| mounted.dir == place.at()).collect();
    // The table is in the order in which the mounts were made; one put beneath is younger than what it lies beneath.
    let found: Vec<_> = here.iter().copied().filter(|m| is_of_copy(place, m)).filter_map(ours).collect();
    match top(place.at())?.and_then(|id| here.iter().find(|mounted| mounted.id == id)) {
        Some(top) if !found.is_empty() && !is_of_copy(place, top) => Err(Error::Refused {
            op: "change overlay",
            subject: place.record.name.to_string(),
            why: format!("{} is mounted over it at {}", top.source.display(), place.at().display()),
            hint: Some(format!("umount {}", crate::model::quoted(place.at().display()))),
        }),
        _ => Ok(found),
    }
}

/// Which generation of the copy shows, if its mounts say so.
pub fn generation_shown(place: &Place<'_>) -> Result<Option<u64>> {
    let Some(top) = top(place.at())? else { return Ok(None) };
    let shown = table()?.iter().find(|mounted| mounted.id == top).and_then(ours);
    Ok(shown.filter(|found| is_of(place, found)).and_then(|found| found.source.generation))
}

/// Unmounts whatever of this copy is mounted, wherever that is; what uses it keeps what it has.
pub fn take_down(place: &Place<'_>) -> Result<()> {
    let mine = |found: &OurMount| is_of(place, found);
    while let Some(found) = table()?.iter().filter_map(ours).rfind(mine) {
        if !is_top(&found)? {
            at(place)?;
        }
        detach(&found.dir)?;
    }
    Ok(())
}

/// Unmounts what of this copy is mounted at its place; somebody's bind of it stays what it is.
pub fn take_down_at(place: &Place<'_>) -> Result<()> {
    while !at(place)?.is_empty() {
        detach(place.at())?;
    }
    Ok(())
}

/// Unmounts this one, if it still is the topmost at its place.
pub fn unmount(found: &OurMount) -> Result<bool> {
    if !is_top(found)? {
        return Ok(false);
    }
    detach(&found.dir)?;
    Ok(true)
}

fn detach(dir: &Path) -> Result<()> {
    fuse::take_down(dir).map_err(Error::io("unmount", dir.display()))
}

/// The id of the topmost mount on `dir` itself, whosever it is; `None` if nothing is mounted on it.
pub fn mounted_on(dir: &Path) -> Result<Option<u64>> {
    let Some(id) = top(dir)? else { return Ok(None) };
    Ok(table()?.iter().find(|mounted| mounted.id == id && mounted.dir == dir).map(|mounted| mounted.id))
}

/// What is mounted below `dir`, not at it.
pub fn inside(dir: &Path) -> Result<Vec<MountInfo>> {
    let below = |mounted: &MountInfo| mounted.dir != dir && mounted.dir.starts_with(dir);
    Ok(table()?.into_iter().filter(below).collect())
}

/// Where else the tree that is mounted on `dir`, or a part of it, is bound. What the kernel carried along to another place of the
/// directory that it is in is left out: it goes when that at `dir` does.
pub fn bound_elsewhere(dir: &Path) -> Result<Vec<PathBuf>> {
    let Some(id) = top(dir)? else { return Ok(Vec::new()) };
    let table = table()?;
    let Some(own) = table.iter().find(|mounted| mounted.id == id && mounted.dir == dir) else {
        return Ok(Vec::new());
    };
    let groups = |mounted: &MountInfo| {
        let parent = table.iter().find(|parent| parent.id == mounted.parent);
        parent.map_or(&[][..], |parent| &parent.groups[..]).iter().filter_map(|g| g.split_once(':')).collect()
    };
    let own_groups: Vec<_> = groups(own);
    let is_carried_along = |mounted: &MountInfo| {
        let theirs: Vec<_> = groups(mounted);
        mounted.root == own.root && theirs.iter().any(|(_, group)| own_groups.contains(&("shared", group)))
    };
    let is_bind = |mounted: &&MountInfo| {
        mounted.device == own.device
            && mounted.root.starts_with(&own.root)
            && !mounted.dir.starts_with(dir)
            && !is_carried_along(mounted)
    };
    Ok(table.iter().filter(is_bind).map(|mounted| mounted.dir.clone()).collect())
}

/// Whether a mount is one of this copy.
pub fn is_of_copy(place: &Place<'_>, mounted: &MountInfo) -> bool {
    ours(mounted).is_some_and(|found| is_of(place, &found))
}

fn is_of(place: &Place<'_>, found: &OurMount) -> bool {
    MountSource { generation: None, ..found.source.clone() } == place.source(None)
}

fn is_top(found: &OurMount) -> Result<bool> {
    // Of several generations at one place, it does not matter which goes first.
    let Some(id) = top(&found.dir)? else { return Ok(false) };
    let table = table()?;
    let top = table.iter().find(|mounted| mounted.id == id).and_then(ours);
    Ok(top.is_some_and(|top| {
        MountSource { generation: None, ..top.source }
            == MountSource { generation: None, ..found.source.clone() }
    }))
}

/// The id of the topmost mount at `dir`; `None` if there is no such directory.
fn top(dir: &Path) -> Result<Option<u64>> {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    match rustix::fs::open(dir, flags, rustix::fs::Mode::empty()) {
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTCONN) => Ok(None),
        Err(error) => Err(Error::io("open", dir.display())(error)),
        Ok(fd) => {
            use std::os::fd::AsFd;
            mount::mount_id(fd.as_fd()).map(Some).map_err(Error::io("examine", dir.display()))
        }
    }
}

fn table() -> Result<Vec<MountInfo>> {
    mount::mounts().map_err(Error::io("read", "the table of mounts"))
}

fn ours(mounted: &MountInfo) -> Option<OurMount> {
    // A bound tree has the source of its filesystem: it is known by its name there. A clone of ZFS is a filesystem of its own.
    let named = |path: &Path| MountSource::parse_file_name(path.file_name()?.to_str()?);
    let clone = || named(&mounted.source).filter(|_| mounted.kind == "zfs");
    let source = mounted.source.to_str().and_then(MountSource::parse);
    let source = source.or_else(clone).or_else(|| named(&mounted.root))?;
    Some(OurMount { source, dir: mounted.dir.clone(), id: mounted.id })
}
