//! Layers, held against the kernel's overlayfs: what it makes we read, and what we say it shows it shows.

mod archive;
mod commit;
mod damaged;
mod diff;
mod faults;
mod lab;
mod modes;
pub mod native;
mod program;
mod prune;
pub mod stacks;
mod view;
