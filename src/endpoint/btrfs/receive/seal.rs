//! The last steps before a name: what makes a subvolume a received snapshot.

use std::os::fd::AsFd;

use jiff::Timestamp;
use rustix::fs::syncfs;

use super::Applied;
use crate::endpoint::{Error, Result};
use crate::sys::btrfs::{self, Timespec};

/// Makes `applied` read-only and a copy of what it was sent as, with its data on disk first. To be called once its
/// bytes are known to be right; a name it gets after this, in the directory it is in, as a read-only subvolume can not
/// move to another. Its source was `created` then, as far as that is known.
///
/// # Errors
/// What the kernel says; the subvolume is to be destroyed then.
pub fn seal(applied: &Applied, created: Option<Timestamp>) -> Result<()> {
    let subvolume = applied.subvolume.as_fd();
    let subject = || applied.name.display().to_string();
    // Data that is written out later would count as a change after the receive.
    syncfs(subvolume).map_err(Error::io("write", subject()))?;
    btrfs::set_received_subvol(subvolume, applied.origin.uuid, applied.origin.ctransid, stime(created))
        .map_err(Error::io("mark as received", subject()))?;
    btrfs::subvol_set_readonly(subvolume, true).map_err(Error::io("make read-only", subject()))
}

/// As the filesystem keeps it; nothing of what it can not keep.
fn stime(created: Option<Timestamp>) -> Timespec {
    let nanos = created.map_or(0, Timestamp::as_nanosecond).max(0);
    Timespec { sec: (nanos / 1_000_000_000) as u64, nsec: (nanos % 1_000_000_000) as u32 }
}
