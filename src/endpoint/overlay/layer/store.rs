//! Layers on disk: found, held, verified, destroyed. Whoever makes or destroys one has the home's lock.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::commit::sync_dir;
use super::manifest::{self, Line};
use super::owners;
use super::record::{Bad, LayerRecord};
use super::scan::{Sparse, scan};
use super::tree::Tree;
use super::users::{Damaged, check_unused};
use crate::endpoint::overlay::home::Home;
use crate::endpoint::record::read_damageable;
use crate::endpoint::{Error, Result};
use crate::model::overlay::{LayerId, LayerName, OverlayName};
use crate::model::{HoldTag, quoted};

/// A manifest longer than this is none.
const MAX_MANIFEST: u64 = 4 << 30;

/// A committed layer.
#[derive(Debug, Clone)]
pub struct Layer {
    dir: PathBuf,
    record: LayerRecord,
}

impl Layer {
    /// The layer `id` of `home`.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Corrupt`] if what is written down of it is damaged; [`Error::Foreign`] if a later version did.
    pub fn open(home: &Home, id: LayerId) -> Result<Self> {
        let layer = Self::at(&home.layer(id))?;
        let layer = layer.ok_or_else(|| Error::NotFound {
            what: "layer",
            subject: id.to_string(),
            hint: Some("cowsnap overlay list --layers".into()),
        })?;
        match layer.record.id == id {
            true => Ok(layer),
            false => Err(layer.corrupt(format!("layer.json is that of {}", layer.record.id))),
        }
    }

    /// The layer in the directory `dir`; `None` if there is none.
    pub(super) fn at(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join("layer.json");
        let Some(text) = read_damageable(&path, "layer")? else { return Ok(None) };
        let record = LayerRecord::parse(&text).map_err(|bad| match bad {
            Bad::Format(_) => Error::Foreign {
                subject: path.display().to_string(),
                wanted: "record that this program reads",
                why: bad.to_string(),
                hint: Some("use the version of cowsnap that made it, or a later one".into()),
            },
            _ => {
                let why = format!("{}: {bad}", path.display());
                Error::Corrupt { what: "layer", why, source: Some(Box::new(bad)) }
            }
        })?;
        Ok(Some(Self { dir: dir.into(), record }))
    }

    /// All layers of `home` of which can be read what they are, each after those that it builds on; and the others.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn all_and_damaged(home: &Home) -> Result<(Vec<Self>, Vec<Damaged>)> {
        let folder = home.layers();
        let (mut layers, mut damaged) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&folder).map_err(Error::io("list", folder.display()))? {
            let name = entry.map_err(Error::io("list", folder.display()))?.file_name();
            // What has no layer's name is being imported, or was left by a killed import.
            let Some(id) = name.to_str().filter(|name| name.len() == 32).and_then(|name| name.parse().ok())
            else {
                continue;
            };
            match Self::open(home, id) {
                Ok(layer) => layers.push(layer),
                Err(error) => damaged.extend(Damaged::unless_gone(home, id, error)?),
            }
        }
        let parents = layers.iter().map(|layer| (layer.id(), layer.record.parent)).collect();
        layers.sort_by_cached_key(|layer| (depth(&parents, layer.id()), layer.record.created));
        Ok((layers, damaged))
    }

    /// The layer called `name` that was committed from `overlay`.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn named(home: &Home, overlay: &OverlayName, name: &LayerName) -> Result<Self> {
        let found = Self::find(home, overlay, name)?;
        found.ok_or_else(|| Error::NotFound {
            what: "layer",
            subject: format!("{overlay}@{name}"),
            hint: Some("cowsnap overlay list --layers".into()),
        })
    }

    /// As [`Layer::named`]; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if there is none, and one of which can not be read what it is: it may be that one.
    pub fn find(home: &Home, overlay: &OverlayName, name: &LayerName) -> Result<Option<Self>> {
        Self::find_among(home, overlay, name, |damaged| damaged.says_name(overlay, name) != Some(false))
    }

    /// The layer that has this name, which another one is about to get.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if a damaged one says that it has it.
    pub fn that_has(home: &Home, overlay: &OverlayName, name: &LayerName) -> Result<Option<Self>> {
        Self::find_among(home, overlay, name, |damaged| damaged.says_name(overlay, name) == Some(true))
    }

    fn find_among(
        home: &Home,
        overlay: &OverlayName,
        name: &LayerName,
        may_be: impl Fn(&Damaged) -> bool,
    ) -> Result<Option<Self>> {
        let (layers, damaged) = Self::all_and_damaged(home)?;
        let is_meant = |layer: &Self| layer.record.overlay == *overlay && layer.record.name == *name;
        match layers.into_iter().find(is_meant) {
            None => damaged.into_iter().find(may_be).map_or(Ok(None), |damaged| Err(damaged.error)),
            found => Ok(found),
        }
    }

    /// Its identity.
    pub fn id(&self) -> LayerId {
        self.record.id
    }

    /// What is written down of it.
    pub fn record(&self) -> &LayerRecord {
        &self.record
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its entries, as overlayfs' upper directories have them.
    pub fn tree_dir(&self) -> PathBuf {
        self.dir.join("tree")
    }

    /// How it is named on the command line: `OVERLAY@LAYER`.
    pub fn label(&self) -> String {
        format!("{}@{}", self.record.overlay, self.record.name)
    }

    /// Opens its tree.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn tree(&self) -> Result<Tree> {
        Tree::open(&self.tree_dir(), &self.dir.join("blocks"), self.record.xattrs)
    }

    /// It and the layers that it builds on, itself first.
    ///
    /// # Errors
    /// [`Error::NotFound`] if one of them is not here.
    pub fn chain(&self, home: &Home) -> Result<Vec<Self>> {
        let mut chain = vec![self.clone()];
        while let Some(parent) = chain.last().and_then(|layer| layer.record.parent) {
            if chain.iter().any(|layer| layer.id() == parent) {
                return Err(self.corrupt("it builds on itself".into()));
            }
            chain.push(Self::open(home, parent)?);
        }
        Ok(chain)
    }

    /// Its manifest, as bytes that were checked.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if they are not those that were written.
    pub(super) fn manifest_text(&self) -> Result<Vec<u8>> {
        let path = self.dir.join("manifest");
        let len = fs::metadata(&path).map_err(Error::io("read", path.display()))?.len();
        if len > MAX_MANIFEST {
            return Err(self.corrupt(format!("its manifest has {len} bytes")));
        }
        let text = fs::read(&path).map_err(Error::io("read", path.display()))?;
        match blake3::hash(&text).to_hex().as_str() == self.record.manifest {
            true => Ok(text),
            false => Err(self.corrupt("its manifest is not the one that was written".into())),
        }
    }

    /// What is written down of its entries.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if that is damaged.
    pub fn manifest(&self) -> Result<Vec<Line>> {
        manifest::parse(&self.manifest_text()?).map_err(|bad| self.corrupt(bad.to_string()))
    }

    /// Whether directories of what lies below show elsewhere in it.
    ///
    /// # Errors
    /// As [`Layer::manifest`].
    pub fn has_redirects(&self) -> Result<bool> {
        Ok(self.manifest()?.iter().any(|line| line.redirect && line.kind == manifest::Kind::Dir))
    }

    /// Reads all of it and compares it with its manifest.
    ///
    /// # Errors
    /// [`Error::Corrupt`], naming the first entry that is not what was committed, and how.
    pub fn verify(&self) -> Result<()> {
        let wanted = self.manifest()?;
        let mut found = scan(&self.tree()?, Sparse::As(&wanted))?;
        owners::as_seen_in(self.record.ids.as_ref(), &mut found, &wanted)?;
        match difference(&wanted, &found) {
            None => self.verify_whole(),
            Some(why) => Err(self.corrupt(why)),
        }
    }

    /// Who holds it, sorted.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn holds(&self) -> Result<Vec<HoldTag>> {
        holds_in(&self.dir)
    }

    /// Keeps it from being destroyed until the tag is released. Holding twice is holding once.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it was destroyed meanwhile; what the kernel says.
    pub fn hold(&self, home: &Home, tag: &HoldTag) -> Result<()> {
        // Whoever destroys it asks for holds under this lock.
        let _lock = home.lock()?;
        Self::open(home, self.id())?;
        let folder = self.dir.join("holds");
        match fs::create_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other.map_err(Error::io("hold", self.label()))?,
        }
        fs::File::create(folder.join(tag.as_str())).map_err(Error::io("hold", self.label()))?;
        sync_dir(&folder)?;
        sync_dir(&self.dir)
    }

    /// Takes a tag off.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is not there.
    pub fn release(&self, _: &Home, tag: &HoldTag) -> Result<()> {
        match fs::remove_file(self.dir.join("holds").join(tag.as_str())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::NotFound {
                what: "hold",
                subject: format!("{tag} of {}", self.label()),
                hint: None,
            }),
            other => other.map_err(Error::io("release", self.label())),
        }
    }

    /// That its name, or it itself, is there already.
    pub fn exists(&self) -> Error {
        let hint = Some(format!("cowsnap overlay destroy {}", quoted(self.label())));
        Error::Exists { what: "layer", subject: self.label(), hint }
    }

    /// Destroys it.
    ///
    /// # Errors
    /// [`Error::Held`]; [`Error::Refused`] while something builds on it.
    pub fn destroy(&self, home: &Home) -> Result<()> {
        let _lock = home.lock()?;
        self.check_destroy(home)?;
        home.discard(&self.dir)
    }

    /// Whether it could be destroyed now.
    ///
    /// # Errors
    /// As [`Layer::destroy`].
    pub fn check_destroy(&self, home: &Home) -> Result<()> {
        let tags = self.holds()?;
        if !tags.is_empty() {
            let tags = tags.iter().map(HoldTag::to_string).collect();
            return Err(Error::Held { subject: self.label(), tags });
        }
        check_unused(home, self.id(), &self.label())
    }

    pub(super) fn corrupt(&self, why: String) -> Error {
        Error::Corrupt {
            what: "layer",
            why: format!("{} ({}): {why}", self.label(), self.id()),
            source: None,
        }
    }
}

/// Who holds the layer in the directory `dir`, sorted.
pub(super) fn holds_in(dir: &Path) -> Result<Vec<HoldTag>> {
    let folder = dir.join("holds");
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(Error::io("list", folder.display()))?,
    };
    let mut tags: Vec<HoldTag> = Vec::new();
    for entry in entries {
        let name = entry.map_err(Error::io("list", folder.display()))?.file_name();
        tags.extend(name.to_str().and_then(|name| name.parse::<HoldTag>().ok()));
    }
    tags.sort();
    Ok(tags)
}

/// How many layers a layer builds on.
pub(super) fn depth(parents: &HashMap<LayerId, Option<LayerId>>, id: LayerId) -> u64 {
    let mut depth = 0;
    let mut next = parents.get(&id).copied().flatten();
    while let Some(parent) = next.filter(|_| depth <= parents.len() as u64) {
        depth += 1;
        next = parents.get(&parent).copied().flatten();
    }
    depth
}

/// The first entry that is not as it should be; `None` if all are.
pub(super) fn difference(wanted: &[Line], found: &[Line]) -> Option<String> {
    let (mut wanted, mut found) = (wanted.iter().peekable(), found.iter().peekable());
    let mut of_dir = None; // That a directory was changed is the lesser news.
    loop {
        let (want, have) = match (wanted.peek(), found.peek()) {
            (None, None) => return of_dir,
            (Some(want), None) => return Some(format!("{} is missing", manifest::escaped(&want.path))),
            (None, Some(have)) => return Some(format!("{} was not there", manifest::escaped(&have.path))),
            (Some(want), Some(have)) if want.path < have.path => {
                return Some(format!("{} is missing", manifest::escaped(&want.path)));
            }
            (Some(want), Some(have)) if want.path > have.path => {
                return Some(format!("{} was not there", manifest::escaped(&have.path)));
            }
            (Some(want), Some(have)) => (want, have),
        };
        if want != have {
            let why = format!("{}: its {} changed", manifest::escaped(&want.path), what_differs(want, have));
            if want.kind != have.kind || want.kind != manifest::Kind::Dir {
                return Some(why);
            }
            of_dir.get_or_insert(why);
        }
        wanted.next();
        found.next();
    }
}

fn what_differs(a: &Line, b: &Line) -> &'static str {
    let table = [
        (a.kind != b.kind, "type"),
        (a.size != b.size, "size"),
        (a.data != b.data, "kind of data"),
        (a.hash != b.hash, "data"),
        (a.mode != b.mode, "mode"),
        ((a.uid, a.gid) != (b.uid, b.gid), "owner"),
        ((a.opaque, a.redirect) != (b.opaque, b.redirect), "place in the merge"),
        (a.xattrs != b.xattrs, "extended attributes"),
        (a.group != b.group, "hard links"),
        (a.mtime_ns != b.mtime_ns, "modification time"),
    ];
    table.iter().find(|(differs, _)| *differs).map_or("description", |(_, what)| what)
}
