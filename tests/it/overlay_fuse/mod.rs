//! cowsnap's own copy-on-write filesystem: without a kernel, and mounted.

mod core;
mod mounted;
pub mod ops;
