//! Versions made usable: writable clones, and read-only mounts that undo themselves.

use std::path::Path;

use crate::endpoint::mounted::{no_directory, not_allowed, unmount as unmount_strictly, unmount_lazily};
use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::error::{above, failed};
use crate::endpoint::zfs::mounted;
use crate::endpoint::{Error, Result};
use crate::model::{VersionRef, quoted};
use crate::sys::lzc::Errno;
use crate::sys::mount::{self, Restrict};

pub use crate::endpoint::mounted::Mount;

impl Dataset {
    pub(super) fn clone_to(&self, version: &VersionRef, to: &Self) -> Result<()> {
        if self.pool() != to.pool() {
            let hint = format!("cowsnap restore {} --to {}", quoted(self.at_name(&version.name)), quoted(to));
            return Err(to.refused("clone to", "it is in another pool".into(), Some(hint)));
        }
        let snapshot = self.expect_snapshot(version, "clone")?;
        let lzc = to.settled()?;
        let (origin, name) = (self.name().as_str(), to.name().as_str());
        let rights = [("clone", origin), ("create,mount", above(name))];
        // The kernel clones what is locked, too, and then nobody can mount it.
        self.expect_key("clone")?;
        lzc.clone_snapshot(name, &snapshot, &[]).map_err(|why| match why.errno {
            Errno::Exists => to.is_there(),
            Errno::NotFound => to.no_place(),
            _ => failed("clone to", to, &rights)(why),
        })?;
        mounted::mount_if_meant(to)
    }

    /// Takes away the clone that was just made here and nothing else.
    ///
    /// # Errors
    /// A clone with datasets inside it, or that is used.
    pub fn take_clone_back(&self) -> Result<()> {
        let unmounted = mounted::Down::take(self, "take back")?;
        let name = self.name().as_str();
        self.lzc()?
            .destroy(name)
            .map_err(self.failed("take back", &[("destroy,mount", name)]))
            .inspect_err(|_| unmounted.put_back())
    }

    pub(super) fn mount_at(&self, version: &VersionRef, dir: &Path) -> Result<Mount> {
        let snapshot = self.expect_snapshot(version, "mount")?;
        let subject = self.at_name(&version.name);
        let exec = self.get("exec")?;
        if exec == "-" {
            let hint = format!("cowsnap clone {} NEW, and use /dev/zvol/NEW", quoted(&subject));
            return Err(Error::Refused {
                op: "mount",
                subject,
                why: "it is of a volume, which has no files".into(),
                hint: Some(hint),
            });
        }
        let dir = dir.canonicalize().map_err(|error| no_directory(error, dir))?;
        // The kernel goes by `readonly` alone; the others are for whoever mounts (kernel-notes/zfs.md).
        let restrict = Restrict { readonly: true, nodev: true, nosuid: true, noexec: exec == "off" };
        mount::mount_at("zfs", &snapshot, &dir, restrict).map_err(|error| match error.raw_os_error() {
            Some(libc::EACCES) => Error::Refused {
                op: "mount",
                subject: subject.clone(),
                why: "the key of its encryption is not loaded".into(),
                hint: Some(format!("zfs load-key -r {}", quoted(self.name()))),
            },
            _ => not_allowed(error, "mount", &subject),
        })?;
        Ok(Mount::new(dir))
    }

    /// Whether it is a volume, not a filesystem.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub(super) fn is_volume(&self) -> Result<bool> {
        Ok(self.get("type")? == "volume")
    }
}

/// Unmounts the snapshot that is mounted at `dir`; `lazily` takes it out of sight at once, and it goes when its last user
/// does.
///
/// # Errors
/// [`Error::NotFound`] if nothing is mounted there; [`Error::Refused`] if it is not a snapshot, or in use.
pub fn unmount(dir: &Path, lazily: bool) -> Result<()> {
    match lazily {
        true => unmount_lazily(dir),
        false => unmount_strictly(dir),
    }
}
