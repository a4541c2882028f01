//! Kernel overlayfs: a detached mount of the next generation goes beneath the one that shows, which is then taken away.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::StatVfsMountFlags;
use rustix::io::Errno;

use crate::endpoint::overlay::{Entry, Generation, Place, Serve, Swapped, base, ours, shown};
use crate::endpoint::{Error, Result};
use crate::model::overlay::{Record, Xattrs};
use crate::model::quoted;
use crate::sys::mount::{self, Detached, Failed, Overlay, Restrict};

/// At most so many directories below the changes: the kernel takes 500, and each costs at every name that is not there.
pub const MAX_LOWER: usize = 100;

/// Serves [`Mode::Kernel`](crate::model::overlay::Mode::Kernel).
#[derive(Debug)]
pub struct Kernel;

impl Serve for Kernel {
    fn base(&self, overlay: &Entry, record: &Record) -> Result<PathBuf> {
        base::reach(overlay, record)
    }

    fn show(&self, place: &Place<'_>, generation: &Generation) -> Result<()> {
        shown::attach(place, &detached(place, generation)?)
    }

    fn swap(&self, place: &Place<'_>, generation: &Generation) -> Result<Swapped> {
        shown::replace(place, &detached(place, generation)?)
    }

    fn freeze(&self, place: &Place<'_>, generation: &Generation) -> Result<()> {
        let at = place.at();
        mount::set_filesystem_readonly(at, true).map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::BUSY) => Error::Refused {
                op: "freeze",
                subject: at.display().to_string(),
                why: "something has a file in it open for writing".into(),
                hint: Some(format!("fuser -vm {}", quoted(at.display()))),
            },
            _ => Error::io("freeze", at.display())(error),
        })?;
        let upper = generation.upper();
        let dir = fs::File::open(&upper).map_err(Error::io("open", upper.display()))?;
        rustix::fs::syncfs(&dir).map_err(Error::io("sync", upper.display()))?;
        // What forbids to mount the upper again, which is now as safe as any.
        let volatile = generation.work().join("work/incompat");
        match fs::remove_dir_all(&volatile) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove", volatile.display())(error))
            }
            _ => Ok(()),
        }
    }

    fn thaw(&self, place: &Place<'_>, _: &Generation) -> Result<()> {
        mount::set_filesystem_readonly(place.at(), false).map_err(Error::io("thaw", place.at().display()))
    }

    fn take_down(&self, place: &Place<'_>) -> Result<()> {
        ours::take_down(place)
    }

    fn base_down(&self, overlay: &Entry, record: &Record) -> Result<()> {
        base::let_go(overlay, record)
    }
}

fn detached(place: &Place<'_>, generation: &Generation) -> Result<Detached> {
    if place.lower.len() > MAX_LOWER {
        return Err(refused(
            place,
            format!("it has {} layers, more than {MAX_LOWER}", place.lower.len() - 1),
        ));
    }
    let source = place.source(Some(generation.number)).to_string();
    let (upper, work) = (generation.upper(), generation.work());
    let options = options(place.record);
    let overlay =
        Overlay { source: &source, lower: place.lower, upper: Some((&upper, &work)), options: &options };
    let base = place.lower.last().expect("an overlay has a base");
    mount::overlay(&overlay, restrictions(base)?).map_err(|failed| not_mounted(place, failed))
}

/// What overlayfs is asked for, and why, is in kernel-notes/overlayfs.md.
fn options(record: &Record) -> Vec<(&'static str, Option<&'static str>)> {
    let mut options = vec![("xino", Some("auto"))];
    match record.options.xattrs {
        Xattrs::Trusted => options.extend([("redirect_dir", Some("on")), ("index", Some("on"))]),
        Xattrs::User => options.push(("userxattr", None)),
    }
    if record.options.xattrs == Xattrs::Trusted && record.options.more.get("metacopy") == Some(&true.into()) {
        options.push(("metacopy", Some("on")));
    }
    if record.options.volatile {
        options.push(("volatile", None));
    }
    options
}

/// What may not be done on the base may not be done on its overlay.
pub(super) fn restrictions(base: &Path) -> Result<Restrict> {
    let flags = rustix::fs::statvfs(base).map_err(Error::io("examine", base.display()))?.f_flag;
    let has = |flag| flags.contains(flag);
    Ok(Restrict {
        readonly: false,
        nodev: has(StatVfsMountFlags::NODEV),
        nosuid: has(StatVfsMountFlags::NOSUID),
        noexec: has(StatVfsMountFlags::NOEXEC),
    })
}

fn not_mounted(place: &Place<'_>, failed: Failed) -> Error {
    let subject = format!("overlay {} at {}", place.record.name, place.at().display());
    match Errno::from_io_error(&failed.source) {
        Some(Errno::PERM) => Error::Denied {
            op: "mount",
            subject,
            lacking: "this process may not mount".into(),
            hint: Some(
                "run it as root, or as an ordinary user: cowsnap overlay run, or within unshare -rm".into(),
            ),
        },
        Some(Errno::NODEV) => Error::Denied {
            op: "mount",
            subject,
            lacking: "the kernel has no overlayfs".into(),
            hint: Some("modprobe overlay".into()),
        },
        Some(Errno::INVAL) if failed.log.is_empty() => refused(
            place,
            "overlayfs does not take these directories; overlays lie on one another at most two deep (dmesg may say more)"
                .into(),
        ),
        _ if !failed.log.is_empty() => refused(place, failed.log),
        _ => Error::Io { op: "mount", subject, source: failed.source },
    }
}

fn refused(place: &Place<'_>, why: String) -> Error {
    Error::Refused { op: "mount overlay", subject: place.record.name.to_string(), why, hint: None }
}
