//! What an overlay changed.

use std::collections::BTreeSet;

use super::{layers, opened, server};
use crate::endpoint::overlay::layer::{self, DiffRequest, Difference, Layer, Stack, Tree};
use crate::endpoint::overlay::{Entry, Generation, Home, Place, native};
use crate::endpoint::{Error, Result};
use crate::model::overlay::{Copy, LayerName, Mode, OverlayName, Record};

/// What one copy of an overlay changed: of the tree that it was made with, or since `since`, one of its layers.
///
/// # Errors
/// [`Error::NotFound`] for a copy or a layer that it has not; [`Error::Foreign`] for one whose mode keeps no changes apart; what can
/// not be read.
pub fn diff(
    home: &Home,
    name: &OverlayName,
    since: Option<&LayerName>,
    copy: u32,
    request: DiffRequest,
) -> Result<Vec<Difference>> {
    let (locked, record) = opened(home, name)?;
    let missing = |what, subject: String| Error::NotFound { what, subject, hint: None };
    let copy = copy_of(&record, copy)?;
    if record.mode == Mode::Native {
        let look = match since {
            None => native_look(&locked, &record, copy)?,
            Some(since) => native_look_since(&locked, &record, copy, since)?,
        };
        return layer::diff(look.stack(), 1, request);
    }
    if record.mode == Mode::Fuse {
        write_back(copy)?;
    }
    let generation = locked.generation(copy.number, copy.generation);
    let n = match since {
        None => 1,
        Some(since) => {
            let layers = record.layers.iter().rev().map(|&id| Layer::open(home, id));
            let layers = layers.collect::<Result<Vec<_>>>()?;
            let above = layers.iter().position(|layer| layer.record().name == *since);
            let above = above.ok_or_else(|| missing("layer", format!("{since} in overlay {name}")))?;
            let trees = layers[..above].iter().map(|layer| Ok(trees_of(&record, layer)?.len()));
            1 + trees.sum::<Result<usize>>()?
        }
    };
    let mut found = layer::diff(&stack(&locked, &record, &generation)?, n, request)?;
    if let Some(index) = layer::index_of(&generation, record.options.xattrs)? {
        let mut all = trees(&locked, &record, &generation)?;
        all.insert(0, index);
        let stack = Stack::new(all);
        let told: BTreeSet<_> = found.iter().map(|found| found.change.path.clone()).collect();
        found.extend(
            layer::diff_of_links(&stack, n, request)?
                .into_iter()
                .filter(|other| !told.contains(&other.change.path)),
        );
        found.sort();
    }
    Ok(found)
}

/// What a native copy shows now, and the base: what differs is the layer above.
pub(super) fn native_look(entry: &Entry, record: &Record, copy: &Copy) -> Result<native::Look> {
    let generation = entry.generation(copy.number, copy.generation);
    native::look(&Place { overlay: entry, record, lower: &[], copy }, &generation)
}

/// What a native copy shows now, and what its layers up to `since` show, or those of one that was committed from it.
fn native_look_since(entry: &Entry, record: &Record, copy: &Copy, since: &LayerName) -> Result<native::Look> {
    let layers = layers::stack_of(entry.home(), record, since)?;
    let upon = Record { layers, ..record.clone() };
    layers::put_together(entry, &upon)?;
    let top = *upon.layers.last().expect("a layer is one of those that it lies on");
    let generation = entry.generation(copy.number, copy.generation);
    native::look_since(&Place { overlay: entry, record, lower: &[], copy }, &generation, top)
}

/// The copy of that number.
///
/// # Errors
/// [`Error::NotFound`].
pub(super) fn copy_of(record: &Record, number: u32) -> Result<&Copy> {
    record.copy(number).ok_or_else(|| Error::NotFound {
        what: "copy",
        subject: format!("{number} of overlay {}, which has {}", record.name, record.copies.len()),
        hint: None,
    })
}

/// Has the kernel write what it holds back of files that were written to.
fn write_back(copy: &Copy) -> Result<()> {
    let dir = match std::fs::File::open(copy.at()) {
        // It does not show, as what was kept of a command.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(Error::io("open", copy.at().display()))?,
    };
    rustix::fs::syncfs(&dir).map_err(Error::io("sync", copy.at().display()))
}

/// What a generation shows: it, the layers that it lies on, and the base.
///
/// # Errors
/// [`Error::Foreign`] for a mode that keeps no changes apart; what can not be opened.
pub(super) fn stack(entry: &Entry, record: &Record, generation: &Generation) -> Result<Stack> {
    trees(entry, record, generation).map(Stack::new)
}

fn trees(entry: &Entry, record: &Record, generation: &Generation) -> Result<Vec<Tree>> {
    if !record.mode.keeps_changes_apart() {
        return Err(no_changes_apart(record));
    }
    let mut trees = vec![Tree::open(&generation.upper(), &generation.blocks(), record.options.xattrs)?];
    for &id in record.layers.iter().rev() {
        trees.extend(trees_of(record, &Layer::open(entry.home(), id)?)?);
    }
    let base = server(record)?.base(entry, record)?;
    trees.push(Tree::base(&base, record.options.xattrs)?);
    Ok(trees)
}

/// What an overlay's mode reads of a layer, the topmost first.
fn trees_of(record: &Record, layer: &Layer) -> Result<Vec<Tree>> {
    match record.mode {
        Mode::Fuse => Ok(vec![layer.tree()?]),
        _ => layer.kernel_trees(),
    }
}

pub(super) fn no_changes_apart(record: &Record) -> Error {
    Error::Foreign {
        subject: record.name.to_string(),
        wanted: "overlay that keeps its changes apart from its base",
        why: format!("its mode is {}", record.mode),
        hint: Some("make it with cowsnap overlay create --mode kernel, or --mode fuse".into()),
    }
}
