//! ZFS: all three traits. What changes anything goes through libzfs_core; lists, properties, mounts of datasets and
//! comparisons through the `zfs` program.

mod aside;
mod clone;
pub mod dataset;
mod diff;
mod error;
mod inventory;
mod labels;
mod list;
mod lock;
pub mod meta;
mod mounted;
mod place;
mod pools;
mod program;
mod props;
mod remount;
pub mod request;
mod rollback;
mod set;
mod version;

pub use aside::{Interrupted, interrupted};
pub use clone::{Mount, unmount};
pub use dataset::Dataset;
pub use place::is_on_zfs;
pub use pools::{all_of_pool, available, everything, has_pool};
pub use request::{ReceiveOptions, SendOptions};
