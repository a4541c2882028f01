//! cowsnap's own copy-on-write filesystem: without a kernel, and mounted.

pub mod coherent;
pub mod core;
pub mod mounted;
pub mod ops;
