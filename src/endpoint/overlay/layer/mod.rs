//! Layers: what one tree changed of those below it, in the format of the kernel's overlayfs (docs/FORMAT-overlay.md).

mod data;
mod diff;
pub mod map;
pub mod merge;
mod origin;
mod tree;

pub use data::Content;
pub use diff::{DiffRequest, Difference, diff};
pub use tree::{Attributes, BadMark, Node, Stack, Tree};
