//! A filesystem on a disk's image that lies in the dataset: it is whole in the image, and written to by nobody, while the snapshot is taken.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use crate::quiesce::lease::{Doing, Entry, Lease, Leases, Stopping};
use crate::quiesce::service::Stop;
use crate::quiesce::{Error, Result, command, process};
use crate::sys::{freeze as kernel, mount};

/// What the file of a freeze holds that may have been done.
const BEGUN: &[u8] = b"begun\n";
/// What comes after that if the kernel has not frozen it: it is somebody else's, or nobody's.
const REFUSED: &[u8] = b"refused\n";
const EBUSY: i32 = rustix::io::Errno::BUSY.raw_os_error();
const EINVAL: i32 = rustix::io::Errno::INVAL.raw_os_error();

/// A directory of that filesystem: at its place, or where it is mounted else.
fn opened(place: &Path, device: u64) -> io::Result<OwnedFd> {
    let open = |dir: &Path| -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(dir, flags, Mode::empty())?;
        match rustix::fs::fstat(&dir)?.st_dev == device {
            true => Ok(dir),
            false => Err(io::Error::new(io::ErrorKind::NotFound, "another filesystem is mounted there")),
        }
    };
    open(place).or_else(|error| {
        let others = mount::mounts()?.into_iter().filter(|mount| mount.dir != place);
        others.map(|mount| open(&mount.dir)).find(io::Result::is_ok).unwrap_or(Err(error))
    })
}

/// Freezes the filesystem of that device, which is mounted at `place`; comes back when all that was written is on it.
///
/// # Errors
/// [`Error::Frozen`]; the kernel can not.
pub fn freeze(place: &Path, device: u64) -> Result<()> {
    let told = || Error::io("freeze", place.display());
    match kernel::freeze(opened(place, device).map_err(told())?.as_fd()) {
        Err(error) if error.raw_os_error() == Some(EBUSY) => Err(Error::Frozen { place: place.into() }),
        done => done.map_err(told()),
    }
}

/// As `freeze`, and writes into `mark` how far that has come: what somebody else has frozen is not to be thawed.
///
/// # Errors
/// As there; a file that can not be written to.
pub fn freeze_marked(place: &Path, device: u64, mark: &Path) -> Result<()> {
    let file = File::options().append(true).open(mark);
    let mut file = file.map_err(Error::io("open", mark.display()))?;
    file.write_all(BEGUN).map_err(Error::io("write", mark.display()))?;
    freeze(place, device).inspect_err(|_| {
        // Without that it is thawed: better that than frozen for good.
        let _ = file.write_all(REFUSED);
    })
}

/// Whether the last freeze of it may have been done by cowsnap; what can not be read says nothing against it.
fn is_own(leases: &Leases, entry: &Entry) -> bool {
    leases.said(&entry.service, Doing::Stop).map_or(true, |said| !said.is_empty() && !said.ends_with(REFUSED))
}

/// Has a process of its own do that, which is left to itself if it takes longer: it hears no signal, and may be late. It has `kept` open, and writes there how far it has come.
///
/// # Errors
/// Nobody knows whether it is frozen; a signal came.
pub fn begin(
    program: Option<&Path>,
    place: &Path,
    device: u64,
    within: Duration,
    kept: OwnedFd,
) -> Result<Stop, String> {
    const CONFLICT: i32 = 3;
    let program = program.unwrap_or(Path::new("/proc/self/exe"));
    let text = |path: &Path| path.to_str().map(str::to_owned).ok_or("its path is no text");
    let mark = format!("/proc/self/fd/{}", kept.as_raw_fd());
    let words = ["job".into(), "freeze".into(), "--".into(), text(place)?, device.to_string(), mark];
    let words: Vec<_> = [text(program)?].into_iter().chain(words).collect();
    Ok(match command::run_with(&words, within, true, Some(kept), &mut || ())? {
        None => Stop::Late,
        Some(ended) if ended.success() => Stop::Down,
        Some(ended) if ended.code() == Some(CONFLICT) => {
            Stop::NotBegun("somebody else has frozen it already".into())
        }
        Some(ended) => Stop::Refused(format!("{ended}")),
    })
}

/// That it is frozen still. The kernel tells only who tries.
///
/// # Errors
/// Somebody has thawed it.
pub fn is_held(place: &Path, device: u64) -> Result<(), String> {
    match freeze(place, device) {
        Err(Error::Frozen { .. }) => Ok(()),
        Ok(()) => {
            thaw(place, device)?;
            Err("somebody has thawed it meanwhile, or its time was over".into())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Lets everybody write again; nothing if they may.
///
/// # Errors
/// The kernel can not, or it is mounted nowhere.
pub fn thaw(place: &Path, device: u64) -> Result<(), String> {
    let dir = opened(place, device).map_err(|error| format!("{error}: mount it"))?;
    match kernel::thaw(dir.as_fd()) {
        Err(error) if error.raw_os_error() == Some(EINVAL) => Ok(()),
        done => done.map_err(|error| error.to_string()),
    }
}

/// Thaws what an entry of a lease says, if that may be frozen, and not by somebody else. Nothing is over a start of the machine.
///
/// # Errors
/// [`Error::NotThawed`]
pub fn end(leases: &Leases, entry: &Entry, place: &Path) -> Result<()> {
    match entry.device {
        Some(device) if may_be(leases, entry) => {
            thaw(place, device).map_err(|why| Error::NotThawed { place: place.into(), why })
        }
        _ => Ok(()),
    }
}

/// Whether it may be frozen for this lease.
fn may_be(leases: &Leases, entry: &Entry) -> bool {
    entry.stopping != Stopping::No && entry.boot == process::boot_id() && is_own(leases, entry)
}

/// Thaws what a run has left that is gone, with nobody's lock in hand and before anything is written: what is to be written to may lie on it.
pub fn end_left(leases: &Leases, job: &str) {
    let Ok(Some(lease)) = leases.read(job) else { return };
    let is_gone = lease.run.as_ref().is_none_or(|run| matches!(run.open(), Ok(None)));
    if is_gone {
        let _ = end_all(leases, &lease);
    }
    end_overdue(leases, &lease);
}

/// Thaws all of a lease.
///
/// # Errors
/// The first that can not be thawed.
pub fn end_all(leases: &Leases, lease: &Lease) -> Result<()> {
    let mut done = Ok(());
    for entry in &lease.services {
        if let crate::model::Service::Frozen { place } = &entry.service {
            done = done.and(end(leases, entry, place));
        }
    }
    done
}

/// Thaws what is frozen for longer than it may be, whatever its run and its guard do, and answers what was.
pub fn end_overdue(leases: &Leases, lease: &Lease) -> Vec<Error> {
    let most = lease.stop_within + lease.start_within;
    let is_late = |entry: &&Entry| entry.since.and_then(process::age).is_some_and(|age| age > most);
    let late = lease.services.iter().filter(is_late).filter(|entry| may_be(leases, entry));
    late.filter_map(|entry| {
        let crate::model::Service::Frozen { place } = &entry.service else { return None };
        let why = "it was frozen for longer than it may be, and its run is not over: it is thawed".into();
        let overdue = Error::Flush { what: entry.service.to_string(), why };
        Some(end(leases, entry, place).err().unwrap_or(overdue))
    })
    .collect()
}

/// Since when something of a lease is frozen, as far as a guard has seen, which looks at it again and again.
#[derive(Debug, Default)]
pub struct Watch(Option<std::time::Instant>);

impl Watch {
    /// Thaws all of it once its time is over, whatever its run does: it may wait for what is frozen.
    pub fn look(&mut self, leases: &Leases, job: &str) {
        let Ok(Some(lease)) = leases.read(job) else { return };
        let is_late = |since: std::time::Instant| since.elapsed() > lease.stop_within + lease.start_within;
        for entry in &lease.services {
            let crate::model::Service::Frozen { place } = &entry.service else { continue };
            if entry.stopping == Stopping::No {
                continue;
            }
            if is_late(*self.0.get_or_insert_with(std::time::Instant::now))
                && let Err(error) = end(leases, entry, place)
            {
                tracing::warn!(job, %error, "cannot thaw");
            }
        }
    }
}
