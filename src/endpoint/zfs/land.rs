//! A dataset that is made of files: mounted nowhere, and said to be half made, until all of them are there.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::error::above;
use crate::endpoint::zfs::lock::{Work, try_lock};
use crate::endpoint::zfs::restoring::RESTORING;
use crate::endpoint::zfs::{mounted, props};
use crate::endpoint::{Error, Result};
use crate::sys::lzc::{Errno, Kind, Prop};
use crate::sys::mount::{self, Restrict};

/// The value of [`RESTORING`] of what files are being put into: whoever comes next may destroy it.
const IMPORT: &str = "import";

impl Dataset {
    /// As [`crate::endpoint::Dataset::land`].
    ///
    /// # Errors
    /// As there.
    pub fn land<T>(&self, fill: impl FnOnce(BorrowedFd<'_>) -> Result<T>) -> Result<T> {
        let name = self.name().as_str();
        let busy = || self.refused("make", "another process is about to".into(), None);
        let _lock = try_lock(Work::Receive, name)?.ok_or_else(busy)?;
        let lzc = self.settled()?;
        if lzc.exists(name) {
            match props::set_here(name, RESTORING)?.as_deref() {
                // Of one that was killed.
                Some(IMPORT) => self.undo()?,
                _ => return Err(self.is_there()),
            }
        }
        let given =
            [(RESTORING.to_owned(), Prop::Text(IMPORT.into())), ("canmount".to_owned(), Prop::Number(0))];
        lzc.create(name, Kind::Filesystem, &given).map_err(|failed| match failed.errno {
            Errno::Exists => self.is_there(),
            Errno::NotFound => self.no_place(),
            _ => self.failed("create", &[("create,mount", above(name))])(failed),
        })?;
        let filled = self.filled(fill).inspect_err(|_| {
            if let Err(left) = self.undo() {
                tracing::warn!(%left, "{name} stays half made until the next import");
            }
        })?;
        props::set(name, "canmount", "on")?;
        props::clear(name, RESTORING)?;
        mounted::mount_if_meant(self)?;
        Ok(filled)
    }

    fn undo(&self) -> Result<()> {
        let name = self.name().as_str();
        self.lzc()?.destroy(name).map_err(self.failed("destroy", &[("destroy,mount", name)]))
    }

    fn filled<T>(&self, fill: impl FnOnce(BorrowedFd<'_>) -> Result<T>) -> Result<T> {
        let name = self.name().as_str();
        let restrict = Restrict { nodev: true, nosuid: true, ..Restrict::default() };
        let mount = mount::detached_as("zfs", Path::new(name), &[], restrict)
            .map_err(|error| crate::endpoint::mounted::not_allowed(error, "mount", name))?;
        let root = OwnedFd::from(mount);
        let filled = fill(root.as_fd())?;
        // A mount's own descriptor is only a path, which no sync takes (EBADF).
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(&root, ".", flags, Mode::empty())
            .and_then(rustix::fs::syncfs)
            .map_err(Error::io("sync", self))?;
        Ok(filled)
    }
}
