//! What an overlay changed.

use super::{opened, server};
use crate::endpoint::overlay::layer::{self, DiffRequest, Difference, Stack, Tree};
use crate::endpoint::overlay::{Entry, Generation, Home};
use crate::endpoint::{Error, Result};
use crate::model::overlay::{OverlayName, Record};

/// What one copy of an overlay changed of the tree that it was made with.
///
/// # Errors
/// [`Error::NotFound`] for a copy that it has not; [`Error::Foreign`] for an overlay whose mode keeps no changes apart; what can not
/// be read.
pub fn diff(home: &Home, name: &OverlayName, copy: u32, request: DiffRequest) -> Result<Vec<Difference>> {
    let (locked, record) = opened(home, name)?;
    let copy = record.copy(copy).ok_or_else(|| Error::NotFound {
        what: "copy",
        subject: format!("{copy} of overlay {name}, which has {}", record.copies.len()),
        hint: None,
    })?;
    let generation = locked.generation(copy.number, copy.generation);
    layer::diff(&stack(&locked, &record, &generation)?, 1, request)
}

/// What a generation shows: it, and the base.
///
/// # Errors
/// [`Error::Foreign`] for a mode that keeps no changes apart; what can not be opened.
fn stack(entry: &Entry, record: &Record, generation: &Generation) -> Result<Stack> {
    if !record.mode.has_layers() {
        return Err(no_changes_apart(record));
    }
    let upper = Tree::open(&generation.upper(), &generation.blocks(), record.options.xattrs)?;
    let base = server(record)?.base(entry, record)?;
    Ok(Stack::new(vec![upper, Tree::base(&base, record.options.xattrs)?]))
}

fn no_changes_apart(record: &Record) -> Error {
    Error::Foreign {
        subject: record.name.to_string(),
        wanted: "overlay that keeps its changes apart from its base",
        why: format!("its mode is {}", record.mode),
        hint: None,
    }
}
