//! Overlays: trees that a test suite may wreck and get back, in the home directory that keeps them (docs/FORMAT-overlay.md).
//!
//! [`Home`] knows records, locks, generations and trash, and mounts nothing. How a tree is made and shown is one
//! implementation of [`Serve`] for each mode; [`served`] names those that there are.

use std::path::{Path, PathBuf};

use crate::endpoint::Result;
use crate::model::overlay::{Copy, Mode, MountSource, Record};

pub mod base;
pub mod disabled;
mod files;
pub mod fuse;
pub mod home;
pub mod image;
pub mod kernel;
pub mod layer;
mod lock;
pub mod native;
pub mod ours;
pub mod owner;
pub mod plain;
mod private;
pub mod probe;
mod shown;
pub mod survivors;
mod trash;

pub use home::{Entry, Generation, Home, Locked};
pub use shown::EXCHANGED;
pub use trash::Trash;

/// One copy of an overlay, with all that serving it needs.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Where the overlay is kept.
    pub overlay: &'a Entry,
    /// What is written down of it.
    pub record: &'a Record,
    /// The directories below the changes, the topmost first: the layers' trees, then the base.
    pub lower: &'a [PathBuf],
    /// Which copy. Its `generation` is the one that shows; in [`Serve::swap`] the one that showed until now.
    pub copy: &'a Copy,
}

impl Place<'_> {
    /// Where the copy shows.
    pub fn at(&self) -> &Path {
        self.copy.at()
    }

    /// What a mount of this copy gives as its source; `generation` if the mount shows this one for ever.
    pub fn source(&self, generation: Option<u64>) -> MountSource {
        self.overlay.source(self.copy.number, generation)
    }
}

/// What a swap did.
#[derive(Debug, Default)]
pub struct Swapped {
    /// False if there was an instant in which neither the old tree nor the new one showed.
    pub atomic: bool,
    /// What keeps the old tree from being torn down: to be closed, by somebody who has time, before its generation is
    /// destroyed.
    pub old: Option<std::os::fd::OwnedFd>,
}

/// One way to make an overlay's trees and to show them. Called by whoever has the overlay's lock.
///
/// A generation is a directory of the copy's own, made by [`Home`] with an empty `upper`, `work` and `blocks` in it; what of
/// these a mode uses, and what else it puts there, is its own business. Whoever calls destroys it (by [`Entry::discard`])
/// after it has gone out of sight. Any call may be the last before the process is killed: [`Serve::take_down`] must take
/// away what such a death left.
pub trait Serve: Sync {
    /// Says before anything is made why this overlay can not be served here.
    ///
    /// # Errors
    /// What is lacking, and what would help.
    fn check(&self, _: &Home, _: &Record) -> Result<()> {
        Ok(())
    }

    /// How many copies may be shown at a time: making one is mostly waiting for the filesystem.
    fn at_once(&self) -> usize {
        16
    }

    /// Makes the base reachable as a directory that nobody writes to. Called before each `show` and `swap`; done again, also
    /// after a reboot, it is the same directory. A mode that mounts something for it mounts it at [`Entry::base_dir`].
    ///
    /// # Errors
    /// A base that is gone, or is another one than when the overlay was made.
    fn base(&self, overlay: &Entry, record: &Record) -> Result<PathBuf>;

    /// Makes the tree of `generation` and shows it at the copy's place, where nothing of the overlay shows.
    fn show(&self, place: &Place<'_>, generation: &Generation) -> Result<()>;

    /// Makes the tree of `generation` and shows it instead of what shows now: whoever looks sees the old one or the new one.
    /// After an error, the old one still shows.
    fn swap(&self, place: &Place<'_>, generation: &Generation) -> Result<Swapped>;

    /// Whether something of this copy shows, and answers.
    fn is_shown(&self, place: &Place<'_>) -> Result<bool> {
        Ok(!ours::at(place)?.is_empty())
    }

    /// Where what was changed is kept, once the copy is taken down.
    fn changes(&self, _: &Place<'_>, generation: &Generation) -> PathBuf {
        generation.upper()
    }

    /// What somebody made in what was changed of these copies that may be all that is left of something: snapshots of a clone, say.
    ///
    /// # Errors
    /// What can not be looked at.
    fn made_inside(&self, _: &Entry, _: &[&Copy]) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Writes down that what was made there may go with the copies' changes, and answers what that is. Else it keeps those from going.
    ///
    /// # Errors
    /// As [`Serve::made_inside`]; what can not be written.
    fn give_up_inside(&self, _: &Entry, _: &[&Copy]) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// From now on nobody writes to what shows, and all that was written is in `generation`. What can still be undone
    /// by [`Serve::thaw`].
    ///
    /// # Errors
    /// [`Refused`](crate::endpoint::Error::Refused) while something has a file open for writing.
    fn freeze(&self, place: &Place<'_>, generation: &Generation) -> Result<()>;

    /// Lets it be written to again.
    fn thaw(&self, place: &Place<'_>, generation: &Generation) -> Result<()>;

    /// Takes out of sight whatever of this copy shows, however it came to be there and whoever uses it. Nothing there is fine.
    fn take_down(&self, place: &Place<'_>) -> Result<()>;

    /// Whether the old tree may go before there is a new one, on a disk that is too full for both: only where nothing but lack of space
    /// keeps the new one from being made, and that of the old one is enough.
    ///
    /// # Errors
    /// Trees that can not be looked at.
    fn can_give_way(&self, _: &Place<'_>) -> Result<bool> {
        Ok(false)
    }

    /// Takes out of sight what of this copy shows at its place, and nowhere else.
    fn give_way(&self, place: &Place<'_>) -> Result<()> {
        ours::take_down_at(place)
    }

    /// Takes away what [`Serve::base`] made; all copies are taken down.
    fn base_down(&self, overlay: &Entry, record: &Record) -> Result<()>;

    /// Which generation of the copy shows, if that can be told: after a command was killed it counts, and not what is written down.
    fn generation_shown(&self, place: &Place<'_>) -> Result<Option<u64>> {
        ours::generation_shown(place)
    }
}

/// The way to serve `mode`; `None` if this program has none.
pub fn served(mode: Mode) -> Option<&'static dyn Serve> {
    match mode {
        Mode::Kernel => Some(&kernel::Kernel),
        Mode::Native => Some(&native::Native),
        Mode::Fuse => Some(&fuse::serve::Fuse),
        Mode::Reflink => Some(&plain::REFLINK),
        Mode::Copy => Some(&plain::COPY),
        Mode::Recreate => Some(&plain::RECREATE),
        Mode::Squashfs => Some(&image::SQUASHFS),
        Mode::Erofs => Some(&image::EROFS),
        Mode::Disabled => Some(&disabled::Disabled),
    }
}
