//! ZFS: all three traits. What changes anything goes through libzfs_core; lists, properties, mounts of datasets and
//! comparisons through the `zfs` program.

mod accept;
mod aside;
mod carried;
mod clone;
mod conflict;
pub mod dataset;
mod diff;
mod endpoint;
mod error;
mod exchange;
mod feed;
pub mod flags;
mod in_use;
mod interrupted;
mod inventory;
mod keys;
mod known;
mod labels;
mod list;
mod lock;
pub mod meta;
mod mounted;
mod partial;
mod parts;
mod place;
mod pools;
mod program;
mod props;
mod receive;
mod remount;
pub mod request;
mod restoring;
mod rollback;
mod send;
mod set;
mod version;
mod was;

pub use clone::{Mount, unmount};
pub use conflict::Since;
pub use dataset::Dataset;
pub use exchange::{Exchange, exchanges};
pub use interrupted::{Interrupted, interrupted};
pub use place::{is_on_zfs, is_root};
pub use pools::{all_of_pool, available, begun, everything, has_pool};
pub use request::{ReceiveOptions, SendOptions};
