//! From a frozen generation to a layer: described where it is, made durable, and moved to its place by one rename.

use std::fs;
use std::io::Read;

use super::manifest::{self, Line};
use super::owners;
use super::record::LayerRecord;
use super::scan::{Sparse, scan};
use super::store::Layer;
use super::tree::Tree;
use super::whole;
use crate::endpoint::overlay::home::{FROZEN, Generation, Home, LAYERS};
use crate::endpoint::record::{read_record, replace_file, replace_file_unsynced};
use crate::endpoint::{Error, Result};
use crate::model::Guid;
use crate::model::overlay::{Base, FORMAT, LayerId, LayerName, OverlayName, Xattrs};

/// What a layer is to be.
#[derive(Debug, Clone)]
pub struct CommitRequest {
    /// What it will be called.
    pub name: LayerName,
    /// The overlay that it is committed from.
    pub overlay: OverlayName,
    /// The base below it and its parents.
    pub base: Base,
    /// The layer that it builds on.
    pub parent: Option<LayerId>,
    /// The namespace of its marks.
    pub xattrs: Xattrs,
    /// The time that it is said to be made at.
    pub now: jiff::Timestamp,
}

/// Makes a layer of a generation that nobody writes to any more. Killed at any instant, either the generation is where it was or
/// the layer is there, whole.
///
/// # Errors
/// [`Error::Exists`] if the overlay has a layer of that name. The generation is as it was then.
pub fn commit(home: &Home, generation: &Generation, request: &CommitRequest) -> Result<Layer> {
    let described = describe(generation, request)?;
    let _lock = home.lock()?;
    described.check_name(home)?;
    described.publish(home)
}

/// A generation beside whose tree stands what it will be as a layer, all of it on disk.
#[derive(Debug)]
pub struct Described<'a> {
    generation: &'a Generation,
    record: LayerRecord,
}

/// Reads all of a generation that nobody writes to any more, and writes down what it will be as a layer.
///
/// # Errors
/// What can not be read or written; [`Error::Corrupt`] for marks that make no sense.
pub fn describe<'a>(generation: &'a Generation, request: &CommitRequest) -> Result<Described<'a>> {
    let tree = Tree::open(&generation.upper(), &generation.blocks(), request.xattrs)?;
    let lines = scan(&tree, Sparse::WithHoles)?;
    let text = manifest::to_text(&lines);
    let record = LayerRecord {
        format: FORMAT,
        id: LayerId(random_guid()?),
        name: request.name.clone(),
        parent: request.parent,
        overlay: request.overlay.clone(),
        base: request.base.clone(),
        created: request.now,
        xattrs: request.xattrs,
        ids: owners::here()?,
        blocks: whole::is_needed(&lines, request.xattrs),
        entries: lines.len() as u64,
        bytes: bytes_on_disk(&tree, &lines)?,
        manifest: blake3::hash(text.as_bytes()).to_hex().to_string(),
    };
    let dir = generation.dir();
    replace_file_unsynced(&dir.join("manifest"), text.as_bytes())?;
    replace_file_unsynced(&dir.join("layer.json"), record.to_text().as_bytes())?;
    // All of it at once: the tree as well.
    super::scan::sync_filesystem(dir)?;
    Ok(Described { generation, record })
}

/// A generation that was described before; `None` if it was not.
///
/// # Errors
/// [`Error::Corrupt`] for a description that is none.
pub fn described(generation: &Generation) -> Result<Option<Described<'_>>> {
    let path = generation.dir().join("layer.json");
    let Some(text) = read_record(&path)? else { return Ok(None) };
    let corrupt =
        |bad| Error::Corrupt { what: "layer", why: format!("{}: {bad}", path.display()), source: None };
    LayerRecord::parse(&text).map(|record| Some(Described { generation, record })).map_err(corrupt)
}

impl Described<'_> {
    /// The identity that the layer will have.
    pub fn id(&self) -> LayerId {
        self.record.id
    }

    /// That its name is free. The caller has the home's lock.
    ///
    /// # Errors
    /// [`Error::Exists`] if it is not.
    pub fn check_name(&self, home: &Home) -> Result<()> {
        match Layer::that_has(home, &self.record.overlay, &self.record.name)? {
            Some(there) => Err(there.exists()),
            None => Ok(()),
        }
    }

    /// As it is if its name is free, else under another one: what was frozen when its commit was killed becomes a layer, whatever took that name
    /// meanwhile. The caller has the home's lock.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn with_free_name(mut self, home: &Home) -> Result<Self> {
        match self.check_name(home) {
            Err(Error::Exists { .. }) => {}
            other => return other.map(|()| self),
        }
        let (id, was) = (self.record.id.to_string(), self.record.name.clone());
        let start: String = was.as_str().chars().take(80).collect();
        self.record.name = format!("{start}-{}", &id[..8]).parse().expect("the start of a name and digits");
        replace_file(&self.generation.dir().join("layer.json"), self.record.to_text().as_bytes())?;
        tracing::warn!(
            "the layer {}@{was} was committed, and that name is taken: it is called {}",
            self.record.overlay,
            self.record.name
        );
        Ok(self)
    }

    /// Makes it a layer, by one rename. The caller has the home's lock.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn publish(self, home: &Home) -> Result<Layer> {
        let Self { generation, record } = self;
        let to = home.layer(record.id);
        fs::rename(generation.dir(), &to).map_err(Error::io("commit layer", &record.name))?;
        sync_dir(&home.layers())?;
        // overlayfs' own directory may still be in use; it is no part of the layer, nor is what the generation was made upon.
        home.discard(&to.join("work"))?;
        home.discard(&to.join(LAYERS))?;
        home.discard(&to.join(FROZEN))?;
        Layer::open(home, record.id)
    }
}

fn bytes_on_disk(tree: &Tree, lines: &[Line]) -> Result<u64> {
    let mut groups = std::collections::HashSet::new();
    let mut bytes = 0;
    for line in lines.iter().filter(|line| line.kind == manifest::Kind::File) {
        if line.group.is_some_and(|group| !groups.insert(group)) {
            continue;
        }
        let node = tree.node(&line.path).map_err(Error::io("read", line.path.escape_ascii()))?;
        bytes += node.map_or(0, |node| node.stat.st_blocks.unsigned_abs() * 512);
    }
    Ok(bytes)
}

pub(super) fn random_guid() -> Result<Guid> {
    let (mut bytes, path) = ([0; 16], "/dev/urandom");
    let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(Error::io("read", path))?;
    Ok(Guid(bytes))
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(dir: &std::path::Path) -> Result<()> {
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::io("sync", dir.display()))
}
