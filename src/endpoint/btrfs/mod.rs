//! btrfs: all three traits, through ioctls.

pub mod clone;
pub mod dataset;
pub mod diff;
pub mod endpoint;
pub mod grounded;
mod home;
pub mod inventory;
mod kept;
mod land;
pub mod meta;
mod prefetch;
pub mod receive;
pub mod rollback;
pub mod roots;
pub mod scratch;
mod sealed;
pub mod send;
pub mod set;
pub mod staging;
pub mod store;
pub mod touched;
pub mod usage;
mod written;

pub use dataset::Dataset;
pub use kept::{CHECKPOINT, Keeping, Kept};
pub use meta::Meta;
pub use staging::{InPart, Staged, left_in_part};
pub use store::{Found, Open, Store, is_on_btrfs, is_subvolume};

pub use crate::endpoint::mounted::{Mount, unmount, unmount_lazily};
