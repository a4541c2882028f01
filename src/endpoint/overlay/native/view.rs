//! What a clone is at one instant, to be compared and copied: a snapshot that is there as long as somebody looks. Whoever writes to the clone,
//! by whichever mount, goes on.
//!
//! It is named in a file before it is taken: what a killed command leaves is destroyed by the next one.

use std::cell::OnceCell;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::clones::{self, Clones};
use super::{CLONE, CloneFile, VIEW, discard, read, write};
use crate::endpoint::overlay::home::random;
use crate::endpoint::overlay::layer::Tree;
use crate::endpoint::overlay::{Entry, Generation, Home, Locked};
use crate::endpoint::{Error, Result};
use crate::model::overlay::{Copy, Mode, Record, Xattrs};

/// A snapshot of a clone that goes with the value.
#[derive(Debug)]
pub(super) struct View {
    home: Home,
    file: PathBuf,
    root: Option<OwnedFd>,
    /// The clone itself, on btrfs.
    clone: Option<OwnedFd>,
    /// What the clone was made of, if the base may have changed since; opened when it is asked for, as ZFS mounts a snapshot once.
    origin: OnceCell<Option<OwnedFd>>,
    made: CloneFile,
    overlay: PathBuf,
}

impl View {
    /// Takes one of the clone that `generation` has.
    pub(super) fn take(entry: &Entry, generation: &Generation) -> Result<Self> {
        let home = entry.home();
        let named = generation.dir().join(CLONE);
        let clone = read(&named)?.ok_or_else(|| gone(&named.display().to_string()))?;
        let among = clone.among()?;
        let file = generation.dir().join(VIEW);
        discard(home, &file)?;
        let name = among.name_of_view(&clone.name, random()?);
        // What the clone was made of is not the snapshot's.
        let view =
            CloneFile { name, origin: None, made_of: None, guid: None, transaction: None, ..clone.clone() };
        write(&file, &view)?;
        let mut taken = Self {
            home: home.clone(),
            file,
            root: None,
            clone: None,
            origin: OnceCell::new(),
            made: clone.clone(),
            overlay: entry.dir().to_owned(),
        };
        if !among.take_view(&view.name, &clone.name)? {
            return Err(gone(&clone.name));
        }
        taken.root = among.root(&view.name)?;
        if let Clones::Btrfs(_) = among {
            taken.clone = among.root(&clone.name)?;
        }
        Ok(taken)
    }

    /// It, as a tree.
    pub(super) fn tree(&self, xattrs: Xattrs) -> Result<Tree> {
        let root = self.root.as_ref().ok_or_else(|| Error::NotFound {
            what: "snapshot of a clone",
            subject: self.file.display().to_string(),
            hint: None,
        })?;
        tree_of(root, xattrs)
    }

    /// What the clone was made of, if the base may have changed since.
    pub(super) fn origin(&self, xattrs: Xattrs) -> Result<Option<Tree>> {
        if self.origin.get().is_none() {
            let opened = match self.made.made_of.as_ref().or(self.made.origin.as_ref()) {
                Some(origin) => Some(self.made.among()?.root(origin)?.ok_or_else(|| gone(origin))?),
                None => clones::open_origin(&self.overlay)?,
            };
            self.origin.get_or_init(|| opened);
        }
        self.origin.get().and_then(Option::as_ref).map(|origin| tree_of(origin, xattrs)).transpose()
    }

    /// The clone of which it is, where that can tell what was changed.
    pub(super) fn clone(&self) -> Option<&OwnedFd> {
        self.clone.as_ref()
    }
}

fn gone(name: &str) -> Error {
    Error::NotFound { what: "clone", subject: name.to_owned(), hint: None }
}

pub(super) fn tree_of(root: &OwnedFd, xattrs: Xattrs) -> Result<Tree> {
    Tree::base(Path::new(&format!("/proc/self/fd/{}", root.as_raw_fd())), xattrs)
}

impl Drop for View {
    fn drop(&mut self) {
        self.root = None;
        if let Err(error) = discard(&self.home, &self.file) {
            tracing::warn!(%error, "the next command on the overlay destroys the snapshot");
        }
    }
}

/// Destroys what killed commands left that were looking at clones of this overlay.
///
/// # Errors
/// What can not be destroyed.
pub fn forget_views(locked: &Locked, record: &Record) -> Result<()> {
    if record.mode != Mode::Native {
        return Ok(());
    }
    views(locked, record).iter().try_for_each(|file| discard(locked.home(), file))
}

/// The files that name what commands look at, or left.
pub fn views(entry: &Entry, record: &Record) -> Vec<PathBuf> {
    let of_copy = |copy: &Copy| entry.generation(copy.number, copy.generation).dir().join(VIEW);
    record.copies.iter().map(of_copy).filter(|file| file.exists()).collect()
}
