//! ZFS: all three traits. What changes anything goes through libzfs_core; lists, properties and mounts of datasets through
//! the `zfs` program.

pub mod dataset;
pub mod request;

pub use dataset::Dataset;
pub use request::{ReceiveOptions, SendOptions};
