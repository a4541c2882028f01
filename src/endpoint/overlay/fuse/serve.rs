//! The mode: an overlay's process started, and told what to show.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::StatVfsMountFlags;
use rustix::process::Pid;

use super::adapter::Mount;
use super::control::{Control, View};
use super::{Errno, Layers, Lower, Options, Prefix, daemon};
use crate::endpoint::overlay::{Entry, Generation, Place, Serve, Swapped, base, ours, owner};
use crate::endpoint::{Error, Result};
use crate::error::Class;
use crate::model::overlay::{Record, Xattrs};
use crate::model::quoted;
use crate::sys::mount::{self, Restrict};
use crate::sys::namespace;

/// How long the process may take to end after its last mount went.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many requests of a mount are served at a time where all data goes through the process: each waits for the same names, so that
/// more gain nothing.
const THREADS: usize = 4;

/// Serves [`Mode::Fuse`](crate::model::overlay::Mode::Fuse).
#[derive(Debug)]
pub struct Fuse;

/// The connections over which copies are kept frozen: if this process dies, they go on.
static FROZEN: Mutex<BTreeMap<(PathBuf, u32), Control>> = Mutex::new(BTreeMap::new());

fn frozen() -> MutexGuard<'static, BTreeMap<(PathBuf, u32), Control>> {
    FROZEN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Serve for Fuse {
    fn base(&self, overlay: &Entry, record: &Record) -> Result<PathBuf> {
        base::reach(overlay, record)
    }

    fn show(&self, place: &Place<'_>, generation: &Generation) -> Result<()> {
        let view = View {
            layers: layers(place, generation),
            options: options(place.record),
            mount: how(place)?,
            at: place.at().to_owned(),
        };
        if let Some(shown) = show_if_served(place, generation, &view)? {
            return Ok(shown);
        }
        // Many copies have one process: whoever comes first starts it, and the others wait until it is there to stay.
        let _starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shown) = show_if_served(place, generation, &view)? {
            return Ok(shown);
        }
        let started = daemon::start(place.overlay.home().dir(), place.overlay.dir());
        let mut control =
            started.map_err(Error::io("start a process for overlay", place.record.name.as_str()))?;
        let shown = control.show(place.copy.number, generation.number, view);
        shown.map_err(|error| not_shown(place, error))
    }

    fn swap(&self, place: &Place<'_>, generation: &Generation) -> Result<Swapped> {
        let held = frozen().remove(&key(place));
        let was_frozen = held.is_some();
        let control = match held {
            Some(control) => Some(control),
            None => connect(place.overlay)?,
        };
        if let Some(mut control) = control {
            let shows = was_frozen || matches!(control.stats(place.copy.number), Ok(Some(_)));
            if shows && !ours::at(place)?.is_empty() {
                if !was_frozen {
                    write_back(place.at());
                }
                let reset = control.reset(place.copy.number, generation.number, layers(place, generation));
                reset.map_err(Error::io("reset", place.at().display()))?;
                return Ok(Swapped { atomic: true, old: None });
            }
        }
        self.take_down(place)?;
        self.show(place, generation)?;
        Ok(Swapped { atomic: false, old: None })
    }

    fn freeze(&self, place: &Place<'_>, _: &Generation) -> Result<()> {
        let at = place.at();
        let gone = || Error::Refused {
            op: "freeze",
            subject: at.display().to_string(),
            why: "the process that serves it is gone".into(),
            hint: Some(format!("cowsnap overlay reset {}", quoted(&place.record.name))),
        };
        let mut control = connect(place.overlay)?.ok_or_else(gone)?;
        write_back(at);
        control.freeze(place.copy.number).map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::BUSY) => Error::Refused {
                op: "freeze",
                subject: at.display().to_string(),
                why: "something has a file in it open for writing".into(),
                hint: Some(format!("fuser -vm {}", quoted(at.display()))),
            },
            Some(Errno::NOENT) => gone(),
            _ if is_gone(&error) => gone(),
            _ => Error::io("freeze", at.display())(error),
        })?;
        frozen().insert(key(place), control);
        Ok(())
    }

    fn thaw(&self, place: &Place<'_>, _: &Generation) -> Result<()> {
        match frozen().remove(&key(place)) {
            Some(mut control) => control.thaw().map_err(Error::io("thaw", place.at().display())),
            None => Ok(()),
        }
    }

    fn take_down(&self, place: &Place<'_>) -> Result<()> {
        self.hide(place)?;
        ours::take_down(place)
    }

    fn can_give_way(&self, _: &Place<'_>) -> Result<bool> {
        Ok(true)
    }

    fn give_way(&self, place: &Place<'_>) -> Result<()> {
        self.hide(place)?;
        ours::take_down_at(place)
    }

    fn base_down(&self, overlay: &Entry, record: &Record) -> Result<()> {
        if let Ok(Some(mut control)) = Control::connect(overlay.dir()) {
            control.ended(PATIENCE);
        }
        base::let_go(overlay, record)
    }

    fn generation_shown(&self, place: &Place<'_>) -> Result<Option<u64>> {
        let Some(mut control) = connect(place.overlay)? else { return Ok(None) };
        Ok(control.stats(place.copy.number).ok().flatten().map(|stats| stats.generation))
    }

    fn is_shown(&self, place: &Place<'_>) -> Result<bool> {
        Ok(!ours::at(place)?.is_empty() && self.generation_shown(place)?.is_some())
    }
}

impl Fuse {
    /// Has the process that serves the copy take it down, if there is one.
    fn hide(&self, place: &Place<'_>) -> Result<()> {
        frozen().remove(&key(place));
        // Nobody takes away what lies beneath somebody else's mount.
        ours::at(place)?;
        if let Some(mut control) = connect(place.overlay)? {
            match control.hide(place.copy.number) {
                Err(error) if !is_gone(&error) => {
                    tracing::debug!(at = %place.at().display(), %error, "its process does not take it down");
                }
                _ => drop(control.ended(if place.record.copies.len() == 1 {
                    PATIENCE
                } else {
                    Duration::from_millis(1)
                })),
            }
        }
        Ok(())
    }
}

/// Held while a process is started.
static STARTING: Mutex<()> = Mutex::new(());

/// Has the overlay's process show a copy; `None` if there is none.
fn show_if_served(place: &Place<'_>, generation: &Generation, view: &View) -> Result<Option<()>> {
    let Some(mut control) = connect(place.overlay)? else { return Ok(None) };
    match control.show(place.copy.number, generation.number, view.clone()) {
        Err(error) if is_gone(&error) => Ok(None),
        shown => shown.map(Some).map_err(|error| not_shown(place, error)),
    }
}

/// Says of an overlay's process that does not answer what to do, before anybody touches its trees: whoever does that waits for it where no
/// signal but SIGKILL reaches him. None at all is fine.
///
/// # Errors
/// [`Error::Remote`], to be tried again: it is stopped, or does not answer.
pub fn check_answers(overlay: &Entry) -> Result<()> {
    let Some(mut control) = connect(overlay)? else { return Ok(()) };
    let Ok(pid) = control.process().map(|pid| pid.as_raw_nonzero().get() as u32) else { return Ok(()) };
    let is_stopped = owner::is_stopped(pid);
    if !is_stopped && control.answers().unwrap_or(true) {
        return Ok(()); // Or it has ended meanwhile, which is found where it matters.
    }
    let what = match is_stopped {
        true => format!("the process that serves it ({pid}) is stopped"),
        false => format!("the process that serves it ({pid}) does not answer"),
    };
    let hint = match is_stopped {
        true => {
            format!("kill -CONT {pid} lets it go on, kill -KILL {pid} ends it; then the same command again")
        }
        false => format!("cat /proc/{pid}/wchan; kill -KILL {pid} ends it; then the same command again"),
    };
    let place = format!("overlay {}", overlay.name());
    Err(Error::Remote { place, what, class: Class::Unreachable, hint: Some(hint) })
}

/// Whether the overlay's process is there.
pub fn is_served(overlay: &Entry) -> bool {
    matches!(Control::connect(overlay.dir()), Ok(Some(_)))
}

/// The overlay's process, if there is one that this one may speak to.
pub fn process(overlay: &Entry) -> Option<Pid> {
    Control::connect(overlay.dir()).ok().flatten()?.process().ok()
}

/// Whether there certainly is no process of the overlay, in whichever namespaces.
pub fn is_unserved(overlay: &Entry) -> bool {
    matches!(Control::connect(overlay.dir()), Ok(None))
}

fn connect(overlay: &Entry) -> Result<Option<Control>> {
    Control::connect(overlay.dir()).map_err(Error::io("speak to the process of overlay", overlay.name()))
}

fn key(place: &Place<'_>) -> (PathBuf, u32) {
    (place.overlay.dir().to_owned(), place.copy.number)
}

/// What the kernel holds back of files that were written to is written, to where they are now. Nothing is held back of files that
/// were closed, so that a failure is one of files that go with the old tree.
fn write_back(at: &Path) {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let synced = rustix::fs::open(at, flags, rustix::fs::Mode::empty()).and_then(rustix::fs::syncfs);
    if let Err(error) = synced {
        tracing::debug!(at = %at.display(), %error, "not written back");
    }
}

/// The process ended while it was spoken to.
fn is_gone(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

fn layers(place: &Place<'_>, generation: &Generation) -> Layers {
    let layer = |tree: &PathBuf| Lower { tree: tree.clone(), blocks: Some(tree.with_file_name("blocks")) };
    let mut lowers: Vec<_> = place.lower.iter().map(layer).collect();
    if let Some(base) = lowers.last_mut() {
        base.blocks = None;
    }
    let prefix = match place.record.options.xattrs {
        Xattrs::Trusted => Prefix::Trusted,
        Xattrs::User => Prefix::User,
    };
    Layers { upper: generation.upper(), work: generation.work(), blocks: generation.blocks(), lowers, prefix }
}

/// The option of a record: all files that are only read go through the process.
pub const COHERENT: &str = "coherent";

fn options(record: &Record) -> Options {
    let volatile = record.options.volatile;
    match record.options.more.get(COHERENT) == Some(&true.into()) {
        true => Options { volatile, through_up_to: u64::MAX, ..Options::default() },
        false => Options { volatile, ..Options::default() },
    }
}

/// What may not be done on the base may not be done on its overlay.
fn how(place: &Place<'_>) -> Result<Mount> {
    let base = place.lower.last().expect("an overlay has a base");
    let flags = rustix::fs::statvfs(base.as_path()).map_err(Error::io("examine", base.display()))?.f_flag;
    let may_mount = mount::may_mount("fuse").is_ok();
    let is_root = may_mount && rustix::process::geteuid().is_root() && !namespace::has_users_of_its_own();
    // What goes past the process needs no threads of it; names are asked for one after the other.
    let threads = match is_root {
        true => 1,
        false => std::thread::available_parallelism().map_or(1, usize::from).min(THREADS),
    };
    let restrict = Restrict {
        readonly: false,
        nodev: !is_root || flags.contains(StatVfsMountFlags::NODEV),
        nosuid: !is_root || flags.contains(StatVfsMountFlags::NOSUID),
        noexec: flags.contains(StatVfsMountFlags::NOEXEC),
    };
    let source = place.source(None).to_string();
    Ok(Mount { source, others: may_mount, passthrough: is_root, threads, restrict })
}

fn not_shown(place: &Place<'_>, error: std::io::Error) -> Error {
    let log = place.overlay.dir().join(daemon::LOG);
    let subject = format!("overlay {} at {}", place.record.name, place.at().display());
    let is_denied = matches!(Errno::from_io_error(&error), Some(Errno::PERM | Errno::ACCESS))
        || error.to_string().contains("fusermount");
    match super::probe::unusable() {
        Some(lacking) if is_denied => Error::Denied { op: "mount", subject, lacking, hint: None },
        _ if is_denied => {
            Error::Denied { op: "mount", subject, lacking: error.to_string().trim().into(), hint: None }
        }
        _ if is_gone(&error) => {
            // The log goes with the overlay that could not be made.
            let said = std::fs::read_to_string(log).unwrap_or_default();
            let said = said.lines().last().unwrap_or("nothing").to_owned();
            let source = std::io::Error::other(format!("its process ended, and said: {said}"));
            Error::Io { op: "mount", subject, source }
        }
        _ => Error::Io { op: "mount", subject, source: error },
    }
}
