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
        let mounted =
            detached(place, Some(generation)).or_else(|error| unindexed(place, generation, error))?;
        shown::attach(place, &mounted)
    }

    fn swap(&self, place: &Place<'_>, generation: &Generation) -> Result<Swapped> {
        match detached(place, Some(generation)) {
            Err(error) if is_busy(&error) => {
                // What shows has as its upper what is to lie below now. A tree that nobody can write to shows until it is gone.
                let first = shown::replace(place, &detached(place, None)?)?;
                drop(first.old);
                unmark_volatile(generation)?;
                let mounted =
                    detached(place, Some(generation)).or_else(|error| unindexed(place, generation, error))?;
                let second = shown::replace(place, &mounted)?;
                Ok(Swapped { atomic: first.atomic && second.atomic, ..second })
            }
            mounted => shown::replace(place, &mounted?),
        }
    }

    fn freeze(&self, place: &Place<'_>, generation: &Generation) -> Result<()> {
        let at = place.at();
        mount::set_filesystem_readonly(at, true).map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::BUSY) => open_for_writing(at),
            _ => Error::io("freeze", at.display())(error),
        })?;
        // What becomes of it is synced before it is a layer.
        unmark_volatile(generation)
    }

    fn thaw(&self, place: &Place<'_>, generation: &Generation) -> Result<()> {
        if mount::set_filesystem_readonly(place.at(), false).is_ok() {
            return Ok(());
        }
        // What shows in the middle of a swap has nothing that could be written to.
        unmark_volatile(generation)?;
        shown::replace(place, &detached(place, Some(generation))?).map(drop)
    }

    fn take_down(&self, place: &Place<'_>) -> Result<()> {
        ours::take_down(place)
    }

    fn can_give_way(&self, _: &Place<'_>) -> Result<bool> {
        Ok(true)
    }

    fn base_down(&self, overlay: &Entry, record: &Record) -> Result<()> {
        base::let_go(overlay, record)
    }
}

/// What is refused while somebody can still write to a tree, by what was opened before.
pub(super) fn open_for_writing(at: &Path) -> Error {
    Error::Refused {
        op: "freeze",
        subject: at.display().to_string(),
        why: "something has a file in it open for writing".into(),
        hint: Some(format!("fuser -vm {}", quoted(at.display()))),
    }
}

/// Takes away what forbids to mount an upper again: it was mounted without syncs, or that was tried.
pub fn unmark_volatile(generation: &Generation) -> Result<()> {
    let volatile = generation.work().join("work/incompat");
    match fs::remove_dir_all(&volatile) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove", volatile.display())(error))
        }
        _ => Ok(()),
    }
}

/// With an index, the kernel puts nothing upon a directory that another mount has as its upper.
fn is_busy(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if Errno::from_io_error(source) == Some(Errno::BUSY))
}

/// Whether no overlay whatever, in any mount namespace, has this generation as its upper: the kernel keeps a second one from it. Tried
/// by mounting it, which does not keep what is in it from going; false if that can not be tried.
pub fn is_unmounted(overlay: &Entry, generation: &Generation) -> bool {
    let (upper, work) = (generation.upper(), generation.work());
    let lower = [overlay.home().dir().join("trash")];
    let options = [("index", Some("on"))];
    let overlay =
        Overlay { source: "cowsnap", lower: &lower, upper: Some((&upper, &work)), options: &options };
    if mount::may_mount("overlay").is_err() {
        return false;
    }
    match mount::overlay(&overlay, Restrict::default()) {
        Ok(_) => true,
        Err(failed) => {
            !matches!(Errno::from_io_error(&failed.source), Some(Errno::BUSY | Errno::PERM | Errno::ACCESS))
        }
    }
}

/// Somebody still uses the tree that a layer was committed from: without an index it can be built upon.
fn unindexed(place: &Place<'_>, generation: &Generation, error: Error) -> Result<Detached> {
    if !is_busy(&error) {
        return Err(error);
    }
    unmark_volatile(generation)?;
    tracing::warn!(
        overlay = %place.record.name,
        "somebody still uses the tree that a layer below was committed from: until the next reset, the names of a file with \
         several (hard links) part when it is first written to"
    );
    let options: Vec<_> = options(place.record).into_iter().filter(|(key, _)| *key != "index").collect();
    assembled(place, generation.number, Some(generation), &options)
}

/// The copy's tree: changes go to `generation`; without one, nobody can write.
fn detached(place: &Place<'_>, generation: Option<&Generation>) -> Result<Detached> {
    let options = options(place.record);
    match generation {
        Some(generation) => assembled(place, generation.number, Some(generation), &options),
        None => {
            let only_read = |(key, _): &(&str, _)| !["index", "volatile"].contains(key);
            let options: Vec<_> = options.into_iter().filter(only_read).collect();
            assembled(place, place.copy.generation, None, &options)
        }
    }
}

fn assembled(
    place: &Place<'_>,
    number: u64,
    generation: Option<&Generation>,
    options: &[(&str, Option<&str>)],
) -> Result<Detached> {
    if place.lower.len() > MAX_LOWER {
        return Err(refused(
            place,
            format!("it has {} layers, more than {MAX_LOWER}", place.lower.len() - 1),
        ));
    }
    let source = place.source(Some(number)).to_string();
    let upper = generation.map(|generation| (generation.upper(), generation.work()));
    let upper = upper.as_ref().map(|(upper, work)| (upper.as_path(), work.as_path()));
    let overlay = Overlay { source: &source, lower: place.lower, upper, options };
    let base = place.lower.last().expect("an overlay has a base");
    let mounted =
        mount::overlay(&overlay, restrictions(base)?).map_err(|failed| not_mounted(place, failed))?;
    match generation {
        Some(generation) => check_can_be_written_to(place, generation, &mounted).map(|()| mounted),
        None => Ok(mounted),
    }
}

/// overlayfs says nothing if it can not make its own directory, and shows a tree that nobody can write to.
fn check_can_be_written_to(place: &Place<'_>, generation: &Generation, mounted: &Detached) -> Result<()> {
    let subject = format!("overlay {} at {}", place.record.name, place.at().display());
    let flags = rustix::fs::fstatvfs(mounted).map_err(Error::io("mount", &subject))?.f_flag;
    if !flags.contains(StatVfsMountFlags::RDONLY) {
        return Ok(());
    }
    // Whatever keeps it from that keeps us from it, too.
    let own = generation.work().join("cowsnap");
    let why = match fs::create_dir(&own).and_then(|()| fs::remove_dir(&own)) {
        Ok(()) => {
            std::io::Error::other("overlayfs could not make its own directory, and would let nobody write")
        }
        Err(error) => error,
    };
    Err(Error::io("mount", subject)(why))
}

/// What overlayfs is asked for, and why, is in kernel-notes/overlayfs.md.
fn options(record: &Record) -> Vec<(&'static str, Option<&'static str>)> {
    let mut options = vec![("xino", Some("auto"))];
    match record.options.xattrs {
        Xattrs::Trusted => options.extend([("redirect_dir", Some("on")), ("index", Some("on"))]),
        Xattrs::User => options.push(("userxattr", None)),
    }
    // A layer may have been made where it was on, and is refused where it is off.
    let metacopy = record.options.more.get("metacopy") == Some(&true.into()) || !record.layers.is_empty();
    if record.options.xattrs == Xattrs::Trusted && metacopy {
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
