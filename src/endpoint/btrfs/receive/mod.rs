//! Our own receive: applies a btrfs send stream below a directory descriptor.
//!
//! [`apply`] builds the subvolume under a staging name and reads the stream to its end; [`seal`] makes it a received,
//! read-only subvolume. Its name it gets from whoever called both.
//!
//! **Invariant:** nothing outside the new subvolume changes, whatever the stream says: every path is checked, resolved
//! beneath the subvolume without following any symbolic link, and acted on through its parent's descriptor. Nothing
//! but regular files and directories is ever opened. A descriptor is cached by path only as long as no rename, unlink
//! or rmdir has touched that path or one above it. Memory is bounded, whatever the stream's length
//! (`kernel-notes/btrfs-receive.md`).

mod apply;
mod data;
mod decode;
mod fault;
mod feed;
mod frozen;
mod make;
mod meta;
mod names;
mod needs;
mod open;
mod plain;
mod seal;
mod target;
mod tree;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::fd::{BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::endpoint::{Error, Result};
use crate::stream::btrfs::{Framer, Time, Version};

pub use needs::{Needs, needs};
pub use seal::seal;

/// What a stream's first command says of what it carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The identity of what was sent: its received uuid if it had one, else its uuid.
    pub uuid: [u8; 16],
    /// The transaction of its last change, where it was made.
    pub ctransid: u64,
    /// How its sender called it.
    pub path: Vec<u8>,
    /// The base that an increment needs, by uuid and ctransid.
    pub base: Option<([u8; 16], u64)>,
}

/// What is known in the midst of a stream, beside the subvolume as it is then: enough to go on from there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Midway {
    /// Where the command stands in the stream that comes next.
    pub offset: u64,
    /// The stream's version.
    pub stream_version: u32,
    /// What it carries.
    pub origin: Origin,
    /// What stands in the way until the end: flags by inode.
    frozen: BTreeMap<u64, u32>,
    root_times: Option<(Time, Time)>,
    has_set_nocow: bool,
}

/// Where a stream is applied, and what is there already.
pub trait Ground: Send {
    /// The directory that the new subvolume is made in. Nobody but root may enter it.
    fn staging(&self) -> BorrowedFd<'_>;

    /// Has its say before anything is made.
    ///
    /// # Errors
    /// Whatever speaks against receiving this; it ends the receive.
    fn accept(&mut self, origin: &Origin) -> Result<()>;

    /// Opens the root of the subvolume that is `uuid` as it was at `ctransid`, here.
    ///
    /// # Errors
    /// A subvolume that is here and may not be used, or a filesystem that can not tell.
    fn find(&mut self, uuid: [u8; 16], ctransid: u64) -> Result<Option<OwnedFd>>;

    /// Whether a plain tree is made, on whatever filesystem that is, and no subvolume: the directory of that name is there already if
    /// the stream is an increment, with the content of its base.
    fn is_plain(&self) -> bool {
        false
    }

    /// Opens the file `path` of a version of a plain tree as it was in that version, which is there no more.
    ///
    /// # Errors
    /// What the kernel says.
    fn kept(&mut self, _uuid: [u8; 16], _ctransid: u64, _path: &[u8]) -> Result<Option<OwnedFd>> {
        Ok(None)
    }

    /// Takes note that the filesystem of a plain tree does not hold `what`, which `path` should have.
    fn lacks(&mut self, _what: &str, _path: &[u8]) {}

    /// Whether it wants to keep what there is so far, before the command at `offset`.
    fn wants_to_keep(&mut self, _offset: u64) -> bool {
        false
    }

    /// Keeps `subvolume` as it is.
    ///
    /// # Errors
    /// Whatever makes it better to end the receive.
    fn keep(&mut self, _subvolume: BorrowedFd<'_>, _midway: Midway) -> Result<()> {
        Ok(())
    }

    /// Told once no more of the stream is wanted, be it because of an error: a read of it that waits may end.
    fn done(&self) {}
}

/// A subvolume that holds all that its stream said, still writable, under its staging name.
#[derive(Debug)]
pub struct Applied {
    /// Its root.
    pub subvolume: OwnedFd,
    /// Its name in the staging directory.
    pub name: OsString,
    /// What it was sent as.
    pub origin: Origin,
}

/// Applies the stream of one subvolume as `name` in the staging directory of `ground`. With `midway` the subvolume is there as it
/// was kept then, writable, and `stream` begins where that says.
///
/// Returns once `stream` has ended without an error: what checks the bytes may still refuse with the very last read.
/// One thread reads and checks, another applies.
///
/// # Errors
/// [`Error::Corrupt`] for a stream that is damaged or hostile or does not fit its base,
/// naming command, path and offset; `Io` where the kernel refuses; what `ground` says. The subvolume `name` may be left:
/// destroying it is for the owner of the staging directory.
pub fn apply(
    stream: &mut dyn Read,
    ground: &mut dyn Ground,
    name: &OsStr,
    midway: Option<Midway>,
) -> Result<Applied> {
    let framer = match &midway {
        Some(midway) => Framer::resume(stream, version_of(midway)?, midway.offset),
        None => Framer::new(stream),
    };
    feed::run(framer, |batches| {
        let applied = apply::run(batches, ground, name, midway);
        ground.done();
        applied
    })
}

fn version_of(midway: &Midway) -> Result<Version> {
    Version::from_number(midway.stream_version).ok_or_else(|| Error::Corrupt {
        what: "checkpoint",
        why: format!("version {} of the stream is not known", midway.stream_version),
        source: None,
    })
}
