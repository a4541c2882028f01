//! What is wrong with this machine or was left behind by a run that died: found, named, and removed where it is
//! provably ours and dead.

use std::fs;
use std::path::Path;

use jiff::Timestamp;
use rustix::io::Errno;
use rustix::mount::FsOpenFlags;
use rustix::thread::CapabilitySet;
use serde::Serialize;

use crate::Result;
use crate::exec::archive::left;

mod overlays;
mod store;
mod unconfirmed;
mod zfs;

pub use overlays::overlays;
pub use store::{filesystem, store};
pub use unconfirmed::unconfirmed;
pub use zfs::zfs;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Good to know; all works.
    Note,
    /// Something does not work, or was left behind.
    Problem,
}

/// How a finding is put right.
pub type Repair<'a> = Box<dyn Fn() -> Result<()> + 'a>;

/// One thing that was found.
#[derive(Serialize)]
pub struct Finding<'a> {
    /// How much it matters.
    pub level: Level,
    /// What it is, in a sentence.
    pub what: String,
    /// Where it is.
    pub place: String,
    /// Since when, where that is known.
    pub since: Option<Timestamp>,
    /// The command that puts it right.
    pub fix: Option<String>,
    /// What `--fix` does about it; nothing where it is not provably ours and dead.
    #[serde(skip)]
    pub repair: Option<Repair<'a>>,
}

impl<'a> Finding<'a> {
    /// Something that does not work or was left behind.
    pub fn problem(what: impl Into<String>, place: impl ToString) -> Self {
        Self {
            level: Level::Problem,
            what: what.into(),
            place: place.to_string(),
            since: None,
            fix: None,
            repair: None,
        }
    }

    /// Something that is good to know.
    pub fn note(what: impl Into<String>, place: impl ToString) -> Self {
        Self { level: Level::Note, ..Self::problem(what, place) }
    }

    /// Since the file at `path` was last written.
    #[must_use]
    pub fn since_change_of(mut self, path: &Path) -> Self {
        let time = fs::symlink_metadata(path).and_then(|meta| meta.modified()).ok();
        self.since = time.and_then(|time| Timestamp::try_from(time).ok());
        self
    }

    /// The command that puts it right.
    #[must_use]
    pub fn fixed_by(mut self, command: impl Into<String>) -> Self {
        self.fix = Some(command.into());
        self
    }

    /// What `--fix` does about it.
    #[must_use]
    pub fn repaired_by(mut self, repair: impl Fn() -> Result<()> + 'a) -> Self {
        self.fix.get_or_insert_with(|| "cowsnap doctor --fix".into());
        self.repair = Some(Box::new(repair));
        self
    }
}

/// What was noted of pulls and restores with which nobody goes on.
pub fn noted(state_dir: &Path) -> Option<Finding<'_>> {
    let n = left::old(state_dir).len();
    let what = format!("notes of pulls that nobody has gone on with for 30 days, in {n} files");
    let found = Finding::note(what, state_dir.join("archives").display());
    (n > 0).then(|| {
        found.repaired_by(|| {
            left::sweep(state_dir);
            Ok(())
        })
    })
}

/// What this machine and this process lack.
pub fn machine() -> Vec<Finding<'static>> {
    let checks = [rights(), btrfs(), mount_api(), loop_devices()];
    checks.into_iter().flatten().collect()
}

fn rights() -> Option<Finding<'static>> {
    let has = rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));
    (!has).then(|| {
        Finding::problem("this process has no CAP_SYS_ADMIN: it can neither mount nor send", "this process")
            .fixed_by("run it as root; in a container grant --cap-add SYS_ADMIN")
    })
}

fn btrfs() -> Option<Finding<'static>> {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let known = known.lines().any(|line| line.trim() == "btrfs") || has_module("btrfs");
    (!known)
        .then(|| Finding::problem("the kernel has no btrfs", "/proc/filesystems").fixed_by("modprobe btrfs"))
}

/// Whether the running kernel could load that module.
fn has_module(name: &str) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let folder = Path::new("/lib/modules").join(release.trim());
    let list = fs::read_to_string(folder.join("modules.dep")).unwrap_or_default();
    list.lines().any(|line| line.split(':').next().is_some_and(|path| path.contains(&format!("/{name}.ko"))))
}

fn mount_api() -> Option<Finding<'static>> {
    let lacks = matches!(rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC), Err(Errno::NOSYS));
    lacks.then(|| {
        Finding::problem("the kernel has no fsopen and move_mount (Linux 5.2)", "this kernel")
            .fixed_by("a newer kernel")
    })
}

fn loop_devices() -> Option<Finding<'static>> {
    (!Path::new("/dev/loop-control").exists()).then(|| {
        Finding::note("there are no loop devices, so no embedded pools", "/dev/loop-control")
            .fixed_by("modprobe loop; in a container grant --device /dev/loop-control")
    })
}
