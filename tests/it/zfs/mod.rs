//! What needs a kernel with ZFS: skipped on most machines, required in the guest that `scripts/test --vm` boots.

mod archive;
mod backend;
mod delegation;
mod diff;
mod drill;
mod encrypted;
pub mod ground;
mod holds;
mod kernel;
mod lab;
mod line;
mod overlay;
mod page;
mod prune;
mod rollback;
mod stream;
mod transfer;
mod verbs;
