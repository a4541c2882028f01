//! The btrfs send stream, one command at a time: versions 1, 2 and 3 (`kernel-notes/btrfs-receive.md` has the layout).
//!
//! ```
//! use cowsnap::stream::btrfs::{Command, Parser, Version, encode::Encoder};
//!
//! let mut encoder = Encoder::new(Version::V1);
//! encoder.push(&Command::Mkdir { path: b"new\nline", inode: 257 });
//! let bytes = encoder.finish();
//! let mut parser = Parser::new(&bytes[..]);
//! while let Some(item) = parser.next_command()? {
//!     println!("{} {}", item.offset, item.command);
//! }
//! # Ok::<(), cowsnap::stream::btrfs::Error>(())
//! ```
//!
//! A file may hold several streams one after another, as `btrfs send A B` writes them: each has its own header, begins
//! with [`Command::Subvol`] or [`Command::Snapshot`] and ends with [`Command::End`]. Anything else after an end is an
//! error. Whether a second stream is welcome is for the caller to say.
//!
//! **Invariant:** no length of the stream is believed before it has been compared with the version's limit, and no
//! command is shown before its checksum has been compared.

mod command;
pub mod encode;
mod error;
mod framing;
mod parser;
mod show;
mod whole;
mod wire;

pub use command::{Command, Compression, Time, Verity};
pub use error::{Error, Result};
pub use framing::{Batch, Framer, Run};
pub use parser::{Located, Parser};
pub use whole::Whole;
pub use wire::{MAGIC, Version};
