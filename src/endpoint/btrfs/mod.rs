//! btrfs: all three traits, through ioctls.

pub mod dataset;
pub mod diff;
pub mod inventory;
pub mod meta;
mod prefetch;
pub mod receive;
pub mod send;
pub mod store;
pub mod usage;
