//! What needs a kernel with ZFS: skipped on most machines, required in the guest that `scripts/test --vm` boots.

mod ground;
mod page;
mod verbs;
