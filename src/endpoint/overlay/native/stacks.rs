//! Layers put together with their base: a tree that clones are made of, in the place of the base, made once for each layer that an overlay goes
//! back to.
//!
//! A file in the overlay's directory names it, written before it is there; it goes with the overlay, and otherwise once its layer is gone and no
//! clone is of it.
//!
//! **Invariant:** what has its name is whole, on disk, and nobody writes to it: on btrfs it is read-only, on ZFS it is a snapshot.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::clones::{self, Clones, Source};
use super::view::tree_of;
use super::{CLONE, CloneFile, SPARE, clone_files, copy_dir, discard, read, write};
use crate::endpoint::overlay::home::random;
use crate::endpoint::overlay::layer::{Layer, Stack, put_upon};
use crate::endpoint::overlay::{Entry, Generation, base};
use crate::endpoint::record::sync_folder;
use crate::endpoint::zfs::overlays::Clones as ZfsClones;
use crate::endpoint::{Error, Result};
use crate::model::overlay::{LayerId, Mode, Record, State};
use crate::model::quoted;

/// The directory of an overlay that has the files.
const FOLDER: &str = "stacks";
/// What the file's name ends in until the tree is whole.
const MAKING: &str = ".making";

/// Makes the tree of the record's layers, unless it is there and the base is as it was. The caller has the overlay's lock.
///
/// Killed at any instant, the tree is there as a whole, or the next one who makes it destroys what there is of it.
///
/// # Errors
/// [`Error::Corrupt`] for a layer that is not what was committed; what can not be cloned or written. Nothing is left then.
pub fn put_together(overlay: &Entry, record: &Record) -> Result<()> {
    let Some(&top) = record.layers.last() else { return Ok(()) };
    base::reach(overlay, record)?;
    if record.state == State::Making {
        clones::prepare(overlay, record, random()?)?;
    }
    let source = Source::of_base(overlay, record)?;
    let file = file_of(overlay.dir(), top);
    if let Some(there) = read(&file)? {
        if there.transaction == source.transaction()? && is_whole(&there)? {
            return Ok(());
        }
        // A clone may be compared with it still. That it has both names hurts nobody.
        write(&file.with_extension(format!("{:016x}", random()?)), &there)?;
    }
    let making = file.with_extension(&MAKING[1..]);
    discard(overlay.home(), &making)?;
    let made = make(overlay, record, source.checked()?, &making);
    match made {
        Ok(()) => {
            fs::rename(&making, &file).map_err(Error::io("rename", making.display()))?;
            sync_folder(&overlay.dir().join(FOLDER))
        }
        Err(error) => {
            if let Err(left) = discard(overlay.home(), &making) {
                tracing::warn!(error = %left, "what was made of it is destroyed by the next one");
            }
            Err(error)
        }
    }
}

fn make(overlay: &Entry, record: &Record, source: Source, making: &Path) -> Result<()> {
    let folder = overlay.dir().join(FOLDER);
    match fs::create_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other.map_err(Error::io("make directory", folder.display()))?,
    }
    let mut trees = Vec::new();
    for &id in record.layers.iter().rev() {
        let layer = Layer::open(overlay.home(), id)?;
        layer.verify()?;
        trees.push(layer.tree()?);
    }
    let transaction = source.transaction()?;
    let name = format!("{}:{:016x}", overlay.source(0, Some(0)).as_file_name(), random()?);
    let mut made = source.clone_to_be(name, transaction, None)?;
    write(making, &made)?;
    source.make(&made)?;
    made.guid = source.guid(&made)?;
    write(making, &made)?;
    let among = made.among()?;
    let base = source.tree(&among, &made)?;
    trees.push(tree_of(&base, record.options.xattrs)?);
    let root = among.root(&made.name)?.ok_or_else(|| gone(&made.name))?;
    put_upon(&Stack::new(trees), root)?;
    seal(&among, &mut made, making)?;
    let synced = File::open(making).and_then(|file| file.sync_all());
    synced.map_err(Error::io("sync", making.display()))?;
    sync_folder(&folder)
}

/// Lets nobody write to it any more.
fn seal(among: &Clones, made: &mut CloneFile, making: &Path) -> Result<()> {
    match among {
        Clones::Btrfs(scratch) => {
            scratch.seal(&made.name)?;
            // It was read as it was at one instant, and is of no use any more.
            if let Some(origin) = &made.origin {
                among.destroy(origin, None, &[])?;
            }
            made.origin = None;
            write(making, made)
        }
        Clones::Zfs(zfs) => {
            let snapshot = ZfsClones::name_of_view(&made.name, random()?);
            made.origin = Some(snapshot.clone());
            write(making, made)?;
            zfs.take_view(&snapshot, &made.name)?.then_some(()).ok_or_else(|| gone(&made.name))
        }
    }
}

fn is_whole(stack: &CloneFile) -> Result<bool> {
    match stack.among()? {
        Clones::Btrfs(scratch) => scratch.is_sealed(&stack.name),
        zfs => Ok(zfs.root(stack.tree_name())?.is_some()),
    }
}

/// What clones of the record's layers are made of.
pub(super) fn source(overlay: &Entry, record: &Record, top: LayerId) -> Result<(Source, Option<String>)> {
    let not_there = || Error::NotFound {
        what: "tree of the layers of overlay",
        subject: record.name.to_string(),
        hint: Some(format!("cowsnap overlay reset {}", quoted(&record.name))),
    };
    let stack = read(&file_of(overlay.dir(), top))?.ok_or_else(not_there)?;
    let of = Some(stack.tree_name().to_owned());
    match stack.among()? {
        Clones::Btrfs(scratch) => {
            let root = scratch.open(&stack.name)?.ok_or_else(not_there)?;
            Ok((Source::Btrfs { scratch, root, is_live: false }, of))
        }
        Clones::Zfs(zfs) => {
            let origin = clones::read_origin(overlay.dir())?.ok_or_else(not_there)?;
            let origin = origin.of_view(&zfs, stack.tree_name())?.ok_or_else(not_there)?;
            Ok((Source::Zfs(origin), of))
        }
    }
}

/// The tree of layers up to `top`, to be compared with.
pub(super) fn open(overlay: &Entry, top: LayerId) -> Result<OwnedFd> {
    let stack = read(&file_of(overlay.dir(), top))?.ok_or_else(|| gone(&top.to_string()))?;
    stack.among()?.root(stack.tree_name())?.ok_or_else(|| gone(&stack.name))
}

/// Whether the clone of `generation` was made of the tree of the layers up to `top`, or with `None` of the base alone.
///
/// # Errors
/// What can not be read; a generation without a clone.
pub fn is_made_of(overlay: &Entry, generation: &Generation, top: Option<LayerId>) -> Result<bool> {
    let file = generation.dir().join(CLONE);
    let clone = read(&file)?.ok_or_else(|| gone(&file.display().to_string()))?;
    let (Some(top), Some(made_of)) = (top, &clone.made_of) else {
        return Ok(top.is_none() && clone.made_of.is_none());
    };
    // One that a newer tree of the same layers has taken the place of has the layer's name, too.
    let is_of_layer = |file: &Path| file.file_stem().is_some_and(|stem| *stem == *top.to_string());
    for file in files(overlay.dir())?.iter().filter(|file| is_of_layer(file)) {
        if read(file)?.is_some_and(|stack| stack.tree_name() == made_of) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Destroys the trees of layers that are gone, of which there is no clone any more that shows or is to be shown.
///
/// # Errors
/// What can not be read, or destroyed.
pub fn forget_stacks(overlay: &Entry, record: &Record) -> Result<()> {
    if record.mode != Mode::Native || !overlay.dir().join(FOLDER).exists() {
        return Ok(());
    }
    // Nobody has to wait for this where there is nothing to do.
    if unused(overlay, record)?.is_empty() {
        return Ok(());
    }
    let Some(locked) = overlay.lock()? else { return Ok(()) };
    let Some(record) = locked.record()? else { return Ok(()) };
    unused(&locked, &record)?.iter().try_for_each(|file| discard(locked.home(), file))
}

/// The files that name trees which nobody needs any more, and before them those of clones that wait and will never be shown.
fn unused(overlay: &Entry, record: &Record) -> Result<Vec<PathBuf>> {
    let mut unused = waiting_in_vain(overlay, record)?;
    let mut used = HashSet::new();
    for file in clone_files(overlay.dir())?.iter().filter(|file| !unused.contains(file)) {
        used.extend(read(file)?.and_then(|clone| clone.made_of));
    }
    let (current, others): (Vec<_>, Vec<_>) =
        files(overlay.dir())?.into_iter().partition(|file| layer_of(file).is_some());
    for file in current {
        let Some(stack) = read(&file)? else { continue };
        let is_there = layer_of(&file).is_some_and(|id| overlay.home().layer(id).exists());
        match is_there || used.contains(stack.tree_name()) {
            true => drop(used.insert(stack.tree_name().to_owned())),
            false => unused.push(file),
        }
    }
    for file in others {
        let is_used = read(&file)?.is_some_and(|stack| used.contains(stack.tree_name()));
        unused.extend((!is_used).then_some(file));
    }
    Ok(unused)
}

/// Clones of other layers than the overlay lies on now: whoever made them did not know that.
fn waiting_in_vain(overlay: &Entry, record: &Record) -> Result<Vec<PathBuf>> {
    let current = match record.layers.last() {
        Some(&top) => read(&file_of(overlay.dir(), top))?.map(|stack| stack.tree_name().to_owned()),
        None => None,
    };
    let mut files = Vec::new();
    for copy in &record.copies {
        let file = copy_dir(overlay, copy.number).join(SPARE);
        let made_of = read(&file)?.and_then(|spare| spare.made_of);
        files.extend((made_of.is_some() && made_of != current).then_some(file));
    }
    Ok(files)
}

/// The layer whose tree a file names; `None` for one that is being made, or that another one has taken the place of.
fn layer_of(file: &Path) -> Option<LayerId> {
    file.file_name()?.to_str()?.parse().ok()
}

/// The files that name such trees, those first that are being made.
pub(super) fn files(overlay: &Path) -> Result<Vec<PathBuf>> {
    let folder = overlay.join(FOLDER);
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(Error::io("list", folder.display()))?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io("list", folder.display()))?.path();
        // A file in the writing has another ending.
        let is_one =
            path.extension().is_none_or(|extension| extension.len() == 16 || extension == &MAKING[1..]);
        files.extend(is_one.then_some(path));
    }
    let is_made = |file: &PathBuf| file.extension().is_some_and(|extension| extension == &MAKING[1..]);
    files.sort_by_key(|file| (!is_made(file), file.clone()));
    Ok(files)
}

fn file_of(overlay: &Path, top: LayerId) -> PathBuf {
    overlay.join(FOLDER).join(top.to_string())
}

fn gone(name: &str) -> Error {
    Error::NotFound { what: "tree of layers", subject: name.to_owned(), hint: None }
}
