//! Overlays: trees that a test suite may wreck and get back (docs/FORMAT-overlay.md).

pub mod fuse;
