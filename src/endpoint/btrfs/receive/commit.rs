//! From a staging subvolume to a received snapshot.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{RenameFlags, renameat_with, syncfs};
use rustix::io::Errno;

use super::Applied;
use crate::endpoint::{Error, Result};
use crate::sys::btrfs;

/// Makes `applied` the snapshot `name` in `directory`, durably: first its data, then what it was received from, its
/// being read-only, and last its name.
///
/// A read-only subvolume can not move to another directory, so it moves before, as `waiting`, a name in `directory`
/// that nobody takes for a snapshot.
///
/// # Errors
/// [`Error::Exists`] if `name` is taken; `waiting` is left then, as it is if this is interrupted.
pub fn commit(
    applied: &Applied,
    staging: BorrowedFd<'_>,
    directory: BorrowedFd<'_>,
    waiting: &OsStr,
    name: &OsStr,
) -> Result<()> {
    let subvolume = applied.subvolume.as_fd();
    let io = |op| Error::io::<_, std::io::Error>(op, name.display());
    btrfs::set_received_subvol(subvolume, applied.origin.uuid, applied.origin.ctransid)
        .map_err(io("mark as received"))?;
    renameat_with(staging, &applied.name, directory, waiting, RenameFlags::NOREPLACE)
        .map_err(|errno| io("move")(errno.into()))?;
    btrfs::subvol_set_readonly(subvolume, true).map_err(io("make read-only"))?;
    // What the name will stand for is on disk before the name is.
    syncfs(subvolume).map_err(|errno| io("write")(errno.into()))?;
    match renameat_with(directory, waiting, directory, name, RenameFlags::NOREPLACE) {
        Err(Errno::EXIST) => {
            return Err(Error::Exists {
                what: "snapshot",
                subject: OsString::from(name).display().to_string(),
                hint: None,
            });
        }
        other => other.map_err(|errno| io("name")(errno.into()))?,
    }
    syncfs(directory).map_err(|errno| io("write")(errno.into()))
}
