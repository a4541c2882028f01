//! Plain directories: snapshots without a snapshotting filesystem, by clones of files that share their blocks (FICLONE),
//! or by full copies where that is asked for.
//!
//! What is taken so is not of one instant. What is promised instead: from when the last file was cloned until it had all been
//! looked at again, nothing had changed; so it is what the directory was at the end (kernel-notes/reflink.md).
//!
//! A tree has versions and goes back; it has no stream: `History` and `Backend`, not `Endpoint` (docs/FORMAT-tree.md).

mod about;
mod backend;
mod copy;
mod dataset;
mod describe;
mod diff;
mod history;
mod home;
mod land;
mod manifest;
mod place;
mod rollback;
mod scan;
mod staging;
mod store;
mod taking;

pub(super) use copy::remove_all;
pub use copy::{CopyWhole, Watch, copy_whole};
pub use dataset::Dataset;
pub use place::has_history;
pub use store::STORE_DIR;
