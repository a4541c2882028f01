//! Layers: what one tree changed of those below it, in the format of the kernel's overlayfs (docs/FORMAT-overlay.md).

mod commit;
mod data;
mod diff;
mod export;
mod hash;
mod history;
mod import;
mod links;
pub mod manifest;
pub mod map;
pub mod merge;
mod origin;
mod owners;
mod record;
mod scan;
mod staging;
mod store;
mod tree;
mod users;
mod whole;

pub use commit::{CommitRequest, Described, commit, describe, described};
pub use data::Content;
pub use diff::{DiffRequest, Difference, diff, diff_of_links};
pub use export::export;
pub use history::Layers;
pub use import::{ImportRequest, Onto, import};
pub use links::{complete_links, index_of};
pub use record::LayerRecord;
pub(in crate::endpoint) use scan::hash_attributes;
pub use staging::sweep_staging;
pub use store::Layer;
pub(in crate::endpoint) use tree::attributes;
pub use tree::{Attributes, BadMark, Node, Stack, Tree};
pub use users::{Damaged, User, Users};
pub use whole::make_whole;
