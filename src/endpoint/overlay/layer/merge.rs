//! What a stack of layers shows: the rules, as functions of what each layer has at a path.
//!
//! The layers are counted from the top, which is 0; the last one is the base. Paths are relative to a layer's root, without
//! a slash at either end, and the root is the empty one. The rules are those of the kernel's overlayfs, so that a stack shows the
//! same tree whoever serves it.
//!
//! **Invariant:** nothing here touches a descriptor; what a layer has is asked of [`Layers`]. The number of questions
//! grows with the layers and with a path's length, whatever redirects there are.

use std::collections::BTreeMap;

/// A place in a layer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Part {
    /// Which layer, from the top.
    pub layer: usize,
    /// Where in its tree.
    pub path: Vec<u8>,
}

impl Part {
    /// The entry of that name in this directory.
    pub fn child(&self, name: &[u8]) -> Self {
        Self { layer: self.layer, path: joined(&self.path, name) }
    }
}

/// Where an entry that was renamed goes on, in what the layers below show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redirect {
    /// At that path.
    Path(Vec<u8>),
    /// In the same directory, by that name.
    Name(Vec<u8>),
}

impl Redirect {
    /// Reads the value of the mark; `None` for one that names no path.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let is_name = |name: &[u8]| !matches!(name, b"" | b"." | b"..") && !name.contains(&0);
        match value.strip_prefix(b"/") {
            Some(path) => path.split(|&b| b == b'/').all(is_name).then(|| Self::Path(path.into())),
            None => (is_name(value) && !value.contains(&b'/')).then(|| Self::Name(value.into())),
        }
    }
}

/// What one layer has at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// Nothing: what lies below shows.
    Absent,
    /// A whiteout: nothing shows.
    Whiteout,
    /// A directory.
    Dir {
        /// Nothing of the directory below shows.
        opaque: bool,
        /// The directory below that it is merged with, if that is another than the one in its place.
        redirect: Option<Redirect>,
    },
    /// A regular file.
    File {
        /// Some or all of its data is that of the file below (metacopy, or a map of blocks).
        partial: bool,
        /// The file below, if that is another than the one in its place.
        redirect: Option<Redirect>,
    },
    /// A link, a device, a FIFO, a socket.
    Other,
}

/// What the layers have.
pub trait Layers {
    /// What went wrong when it was looked for.
    type Error;
    /// How many layers there are, the base included.
    fn count(&self) -> usize;
    /// What the layer has at that place. A place below something that is no directory is [`Entry::Absent`].
    fn entry(&self, at: &Part) -> Result<Entry, Self::Error>;
}

/// What a stack shows at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// Nothing.
    Nothing,
    /// A directory, merged from these. The first one is whose owner, mode and attributes show.
    Dir(Vec<Part>),
    /// A regular file. The first one is whose owner, mode and attributes show; what data that lacks is in the next one, and so
    /// on. If even the last one is partial, data is missing.
    File(Vec<Part>),
    /// Something else.
    Other(Part),
}

impl Shown {
    /// Whose owner, mode and attributes show; `None` if nothing does.
    pub fn first(&self) -> Option<&Part> {
        match self {
            Self::Nothing => None,
            Self::Dir(parts) | Self::File(parts) => parts.first(),
            Self::Other(part) => Some(part),
        }
    }
}

/// The root of a stack, from layer `from` on down: merged from all of them.
pub fn root(count: usize, from: usize) -> Vec<Part> {
    (from..count).map(|layer| Part { layer, path: Vec::new() }).collect()
}

/// What shows of `name` in the directory that is merged from `parent`.
///
/// # Errors
/// What a layer says.
pub fn lookup<L: Layers>(layers: &L, parent: &[Part], name: &[u8]) -> Result<Shown, L::Error> {
    let (mut found, mut name) = (Found::default(), name.to_vec());
    for dir in parent {
        let at = dir.child(&name);
        let entry = layers.entry(&at)?;
        match found.take(entry, at) {
            Next::Same => {}
            Next::Stop => return Ok(found.shown()),
            Next::Other(Redirect::Name(other)) => name = other,
            Next::Other(Redirect::Path(path)) => return look(layers, dir.layer + 1, path, found),
        }
    }
    Ok(found.shown())
}

/// What the layers from `from` on down show at `path`.
///
/// # Errors
/// What a layer says.
pub fn resolve<L: Layers>(layers: &L, from: usize, path: &[u8]) -> Result<Shown, L::Error> {
    look(layers, from, path.to_vec(), Found::default())
}

/// Where that which the whole stack shows at `path` is in what the layers from `from` on down show; `None` if they have no
/// part in it. That there is something at that path is not said.
///
/// # Errors
/// What a layer says.
pub fn path_below<L: Layers>(layers: &L, from: usize, path: &[u8]) -> Result<Option<Vec<u8>>, L::Error> {
    let mut path = path.to_vec();
    for layer in 0..from {
        match walk(layers, layer, &path)?.below {
            Some(below) => path = below,
            None => return Ok(None),
        }
    }
    Ok(Some(path))
}

/// The names that show in a directory, from the listings of its parts, top first: names, and whether each is a whiteout. Each
/// is given with the number of the listing that it shows from.
pub fn names<I, L>(listings: I) -> BTreeMap<Vec<u8>, usize>
where
    I: IntoIterator<Item = L>,
    L: IntoIterator<Item = (Vec<u8>, bool)>,
{
    let mut merged = BTreeMap::new();
    for (number, listing) in listings.into_iter().enumerate() {
        for (name, is_whiteout) in listing {
            merged.entry(name).or_insert((!is_whiteout).then_some(number));
        }
    }
    merged.into_iter().filter_map(|(name, number)| number.map(|number| (name, number))).collect()
}

/// What was found from the top down to here.
#[derive(Default)]
struct Found {
    dirs: Vec<Part>,
    files: Vec<Part>,
    other: Option<Part>,
}

/// Where the next layer is to be asked.
enum Next {
    Same,
    Other(Redirect),
    Stop,
}

impl Found {
    fn take(&mut self, entry: Entry, at: Part) -> Next {
        let (redirect, parts, others) = match entry {
            Entry::Absent => return Next::Same,
            Entry::Whiteout => return Next::Stop,
            Entry::Other => {
                if self.dirs.is_empty() && self.files.is_empty() {
                    self.other = Some(at);
                }
                return Next::Stop;
            }
            Entry::Dir { opaque: true, .. } => (None, &mut self.dirs, &self.files),
            Entry::Dir { redirect, .. } => (Some(redirect), &mut self.dirs, &self.files),
            Entry::File { partial: false, .. } => (None, &mut self.files, &self.dirs),
            Entry::File { redirect, .. } => (Some(redirect), &mut self.files, &self.dirs),
        };
        if !others.is_empty() {
            return Next::Stop; // A directory hides a file below it, and a file a directory.
        }
        parts.push(at);
        match redirect {
            None => Next::Stop,
            Some(None) => Next::Same,
            Some(Some(redirect)) => Next::Other(redirect),
        }
    }

    fn shown(self) -> Shown {
        match (self.dirs.is_empty(), self.files.is_empty(), self.other) {
            (false, ..) => Shown::Dir(self.dirs),
            (_, false, _) => Shown::File(self.files),
            (.., Some(part)) => Shown::Other(part),
            _ => Shown::Nothing,
        }
    }
}

fn look<L: Layers>(layers: &L, from: usize, mut path: Vec<u8>, mut found: Found) -> Result<Shown, L::Error> {
    for layer in from..layers.count() {
        let Walked { entry, below } = walk(layers, layer, &path)?;
        let next = found.take(entry, Part { layer, path });
        match (next, below) {
            (Next::Same | Next::Other(_), Some(below)) => path = below,
            (Next::Stop, _) | (_, None) => break,
        }
    }
    Ok(found.shown())
}

/// What a layer has on the way to a path.
struct Walked {
    /// At its end.
    entry: Entry,
    /// Where the layers below go on with it; `None` if what they have does not show.
    below: Option<Vec<u8>>,
}

fn walk<L: Layers>(layers: &L, layer: usize, path: &[u8]) -> Result<Walked, L::Error> {
    let mut at = Part { layer, path: Vec::new() };
    let mut walked = Walked { entry: Entry::Dir { opaque: false, redirect: None }, below: Some(Vec::new()) };
    for name in path.split(|&b| b == b'/').filter(|name| !name.is_empty()) {
        let below = walked.below.take();
        if walked.entry != Entry::Absent {
            at.path = joined(&at.path, name);
            walked.entry = match walked.entry {
                Entry::Dir { .. } => layers.entry(&at)?,
                _ => Entry::Whiteout, // Below something that is no directory there is nothing.
            };
        }
        walked.below = match &walked.entry {
            Entry::Whiteout | Entry::Other | Entry::File { partial: false, .. } => None,
            Entry::Dir { opaque: true, .. } => None,
            Entry::Absent => below.map(|dir| joined(&dir, name)),
            Entry::Dir { redirect, .. } | Entry::File { redirect, .. } => match redirect {
                None => below.map(|dir| joined(&dir, name)),
                Some(Redirect::Name(other)) => below.map(|dir| joined(&dir, other)),
                Some(Redirect::Path(path)) => Some(path.clone()),
            },
        };
    }
    Ok(walked)
}

/// The path of `name` in the directory `dir`.
pub fn joined(dir: &[u8], name: &[u8]) -> Vec<u8> {
    match dir {
        b"" => name.to_vec(),
        _ => [dir, b"/", name].concat(),
    }
}

#[cfg(test)]
mod tests;
