//! What a version holds, proven file by file: a manifest of its tree, read anew only where the filesystem says that something changed
//! (docs/FORMAT-content.md).
//!
//! Memory goes with the number of entries, not with their bytes: some hundred bytes each.

mod compare;
mod hash;
mod page;
mod reuse;
pub(in crate::endpoint) mod scan;
mod stored;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use crate::endpoint::overlay::layer::manifest::{Line, escaped, unescaped};
use crate::endpoint::overlay::layer::manifest::{Size, TITLE};
use crate::endpoint::{Dataset, Error, History, Result};
use crate::model::{Digest, Inventory, SnapshotName, Version, VersionKind, VersionRef};

pub use compare::{Difference, MOST_DIFFERENCES, compare};
pub use page::{Entry, MOST_ENTRIES, Page, check, page};

/// What is known of a version's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// In the order of their paths' bytes; the root first.
    pub lines: Vec<Line>,
    /// How it was found out.
    pub summary: Summary,
}

/// How a version's content was found out, and what it comes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The blake3 of its manifest.
    pub blake3: Digest,
    /// How many entries it has.
    pub entries: u64,
    /// How many bytes all its files have, holes included; a file with several names counts once for each.
    pub bytes: u64,
    /// How many bytes of files were read for it now.
    pub read_bytes: u64,
    /// When the oldest of its files was read that was not read now; else when it was read.
    pub at: Timestamp,
    /// What did not change since that snapshot was not read again.
    #[serde(default)]
    pub upon: Option<SnapshotName>,
    /// All its files were read before, and stand there now as they did then.
    #[serde(default)]
    pub kept: bool,
    /// What the user should know.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// How to find it out.
pub struct Reading<'a> {
    /// Where manifests are kept, in a directory of its own.
    pub state_dir: &'a Path,
    /// Read all bytes, whatever was read before.
    pub all: bool,
    /// Told how many bytes are read, each time that some were; its error ends the reading.
    pub told: &'a Told<'a>,
}

/// Who is told how many bytes were read.
pub type Told<'a> = dyn Fn(u64) -> Result<()> + Sync + 'a;

impl Reading<'_> {
    /// The content of `version`.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Reused`], also if it went while it was read; what can not be read; [`Error::Interrupted`].
    pub fn of(&self, dataset: &Dataset, version: &VersionRef) -> Result<Content> {
        self.content_of(dataset, version).map_err(|error| match dataset.version(&version.name) {
            // Of what goes while it is read, anything may be said.
            Err(gone @ Error::NotFound { .. }) => gone,
            Ok(there) if there.id.guid != version.guid => Error::Reused {
                subject: format!("{dataset}@{}", version.name),
                expected: version.guid,
                found: there.id.guid,
            },
            _ => error,
        })
    }

    fn content_of(&self, dataset: &Dataset, version: &VersionRef) -> Result<Content> {
        let inventory = dataset.inventory()?;
        let snapshot = inventory.snapshot_of(version.guid).filter(|there| there.id == *version).cloned();
        let snapshot = snapshot.map_or_else(|| dataset.version(&version.name), Ok)?;
        let (root, state) = (dataset.open_content(version)?, dataset.content_state(version)?);
        let folder = self.folder(dataset)?;
        let mut notes = Vec::new();
        let known = state.filter(|_| !self.all);
        let known = known.and_then(|state| stored::read(&folder, &snapshot, state, &mut notes));
        let earlier = match known {
            Some(Content { lines, summary }) => Some(Earlier::itself(lines, summary)),
            None if self.all => None,
            None => earlier(dataset, &inventory, &snapshot, &folder, &mut notes)?,
        };
        let now = Timestamp::now();
        let scan = scan::scan(root.as_fd(), dataset, version)?;
        notes.extend(scan.notes());
        let hashed =
            hash::hash(root.as_fd(), scan.found, earlier.as_ref().map(Earlier::as_reuse), self.told)?;
        let at = earlier.as_ref().filter(|_| hashed.reused).map_or(now, |earlier| earlier.at.min(now));
        let is_itself = earlier.as_ref().is_some_and(|earlier| earlier.is_itself);
        let kept = is_itself && earlier.as_ref().is_some_and(|earlier| earlier.lines == hashed.lines);
        if is_itself && !kept {
            notes.push("what stands in it is not what was read before, and was read again".into());
        }
        let summary = Summary {
            blake3: digest(&hashed.lines),
            entries: hashed.lines.len() as u64,
            bytes: bytes(&hashed.lines),
            read_bytes: hashed.read_bytes,
            at: earlier.as_ref().filter(|_| kept).map_or(at, |earlier| earlier.at),
            upon: earlier.and_then(|earlier| earlier.name),
            kept,
            notes,
        };
        let mut content = Content { lines: hashed.lines, summary };
        if let Some(state) = state.filter(|_| !kept) {
            keep(&folder, (&snapshot, state), &mut content, &inventory);
        }
        Ok(content)
    }

    fn folder(&self, dataset: &Dataset) -> Result<PathBuf> {
        let key = blake3::hash(dataset.place_id()?.as_bytes()).to_hex();
        Ok(self.state_dir.join("manifests").join(&key[..32]))
    }
}

/// Keeps it for the next time. Where that can not be, it is said, and that is all.
fn keep(folder: &Path, (version, state): (&Version, u64), content: &mut Content, inventory: &Inventory) {
    if let Err(error) = stored::write(folder, version, state, content) {
        let why = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        content.summary.notes.push(format!("what was read is not kept for the next time: {error}{why}"));
    }
    stored::sweep(folder, inventory, stored::MOST_BYTES);
}

/// A version whose content is known, and what changed since.
struct Earlier {
    name: Option<SnapshotName>,
    lines: Vec<Line>,
    /// When the oldest of its files was read.
    at: Timestamp,
    changes: Vec<crate::endpoint::Change>,
    is_itself: bool,
}

impl Earlier {
    /// The version that is looked at, as it was when it was read before: nobody says that anything changed since.
    fn itself(lines: Vec<Line>, summary: Summary) -> Self {
        Self { name: summary.upon, lines, at: summary.at, changes: Vec::new(), is_itself: true }
    }

    fn as_reuse(&self) -> reuse::Earlier<'_> {
        reuse::Earlier { lines: &self.lines, changes: &self.changes }
    }
}

/// The newest version before `version` whose content is known, and what changed since; `None`, said in `notes` if there is a reason, if
/// all has to be read.
fn earlier(
    dataset: &Dataset,
    inventory: &Inventory,
    version: &Version,
    folder: &Path,
    notes: &mut Vec<String>,
) -> Result<Option<Earlier>> {
    let before = inventory.versions().iter().take_while(|other| other.id != version.id);
    let before: Vec<_> = before.filter(|other| other.kind == VersionKind::Snapshot).collect();
    for base in before.into_iter().rev() {
        // One that went meanwhile is none, and neither is one that may be changed right now.
        let Ok(Some(state)) = dataset.content_state(&base.id) else { continue };
        let Some(Content { lines, summary }) = stored::read(folder, base, state, notes) else { continue };
        match dataset.changes(&base.id, Some(&version.id)) {
            Ok(changes) => {
                let (name, at) = (Some(base.id.name.clone()), summary.at);
                return Ok(Some(Earlier { name, lines, at, changes, is_itself: false }));
            }
            Err(error @ Error::Interrupted { .. }) => return Err(error),
            Err(error) => {
                let name = &base.id.name;
                notes.push(format!(
                    "all of it is read, as what changed since @{name} is not to be had: {error}"
                ));
                return Ok(None);
            }
        }
    }
    Ok(None)
}

/// The blake3 of the manifest of these lines.
pub fn digest(lines: &[Line]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(TITLE.as_bytes()).update(b"\n");
    lines.iter().for_each(|line| {
        hasher.update(line.text().as_bytes()).update(b"\n");
    });
    Digest(*hasher.finalize().as_bytes())
}

fn bytes(lines: &[Line]) -> u64 {
    let sizes = lines.iter().filter(|line| line.hash.is_some()).map(|line| match line.size {
        Size::Bytes(len) => len,
        _ => 0,
    });
    sizes.sum()
}
