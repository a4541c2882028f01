//! The only place with `unsafe`: one function per call, typed in and out, no policy.
#![expect(unsafe_code, reason = "system calls live here and nowhere else")]

pub mod apart;
pub mod btrfs;
pub mod child;
pub mod clock;
pub mod file;
pub mod forked;
pub mod freeze;
pub mod fuse;
pub mod handle;
pub mod interrupt;
pub mod loopdev;
pub mod lzc;
pub mod memory;
pub mod mount;
pub mod namespace;
pub mod pipe;
pub mod resolve;
pub mod sandbox;
pub mod socket;
pub mod writers;
