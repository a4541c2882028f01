//! The integration tests: one binary, a module per concern.

mod ground;
mod net;

mod adopt;
mod backend;
mod cli;
mod container;
mod diff;
mod docs;
mod durable;
mod edges;
mod faults;
mod identity;
mod job;
mod know;
mod lzc;
mod names;
mod overlay;
mod overlay_fuse;
mod overlay_layer;
mod peer;
mod pool;
mod prune;
mod quiesce;
mod receive;
mod sandbox;
mod send;
mod soak;
mod stream_btrfs;
mod stream_zfs;
mod tidy;
mod tree;
mod tree_compare;
mod verbs;
mod verify;
mod zfs;
