//! cowsnap's own copy-on-write filesystem: without a kernel, and mounted.

mod core;
mod mounted;
mod ops;
