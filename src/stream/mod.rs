//! Bytes: the container that carries streams, and the streams of the filesystems.
//!
//! **Invariant:** `Read` and `Write` only; never a path, never a kernel.

pub mod btrfs;
pub mod container;
pub mod crypt;
pub mod fan;
pub mod parallel;
pub mod reader;
pub mod sign;
pub mod tar;
pub mod wire;
pub mod writer;
pub mod zfs;
pub mod zst;
