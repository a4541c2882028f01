//! A filesystem on a disk's image that lies in the dataset: it is whole in the image, and written to by nobody, while the snapshot is taken.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use crate::quiesce::lease::{Entry, Leases, Stopping};
use crate::quiesce::service::Stop;
use crate::quiesce::{Error, Result, command, process};
use crate::sys::{freeze as kernel, loopdev, mount};

/// How many disks may lie on one another.
const MAX_DEPTH: usize = 8;
const EBUSY: i32 = rustix::io::Errno::BUSY.raw_os_error();
const EINVAL: i32 = rustix::io::Errno::INVAL.raw_os_error();

/// The number of the device of the filesystem that is mounted at `place`, if it lies in one of `roots`: one that they lie in would have the snapshot wait for ever,
/// and one that holds `state_dir` would have the lease wait.
///
/// # Errors
/// Why it is not to be frozen.
pub fn check(place: &Path, roots: &[PathBuf], state_dir: &Path) -> Result<u64, String> {
    let told = |error: io::Error| format!("{}: {error}", place.display());
    let device = device(place).map_err(told)?;
    let real = place.canonicalize().map_err(told)?;
    if !mount::mounts().map_err(told)?.iter().any(|mount| mount.dir == real) {
        return Err("nothing is mounted there".into());
    }
    let all = roots.iter().map(|root| root.metadata().map(|meta| meta.dev()));
    let all = all.collect::<io::Result<Vec<_>>>().map_err(told)?;
    if !below(device, 0).iter().any(|below| all.contains(below)) {
        return Err("it lies in no dataset of the job: only what is on a disk's image there is frozen".into());
    }
    let state = state_dir.metadata().map_err(told)?.dev();
    if state == device || reaches(state, device, 0) {
        return Err(format!("{} lies in it, to which has to be written meanwhile", state_dir.display()));
    }
    Ok(device)
}

fn device(place: &Path) -> io::Result<u64> {
    Ok(place.metadata()?.dev())
}

/// Whether a filesystem's device lies in the other filesystem, however deep.
fn reaches(device: u64, other: u64, depth: usize) -> bool {
    depth < MAX_DEPTH
        && below(device, 0).into_iter().any(|below| below == other || reaches(below, other, depth + 1))
}

/// The filesystems that hold the files that a block device shows: through partitions, and what a device mapper makes.
fn below(device: u64, depth: usize) -> Vec<u64> {
    let number = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let Ok(place) = Path::new("/sys/dev/block").join(number).canonicalize() else { return Vec::new() };
    if depth == MAX_DEPTH {
        return Vec::new();
    }
    let number_in = |dir: &Path| {
        let text = std::fs::read_to_string(dir.join("dev")).ok()?;
        let (major, minor) = text.trim().split_once(':')?;
        Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
    };
    if rustix::fs::major(device) == loopdev::MAJOR
        && let Some(name) = place.file_name()
    {
        let shown = File::open(Path::new("/dev").join(name)).and_then(|file| loopdev::status(file.as_fd()));
        return shown.ok().flatten().map(|shown| shown.filesystem()).into_iter().collect();
    }
    let whole = place.join("partition").exists().then(|| place.parent().and_then(number_in)).flatten();
    let slaves = std::fs::read_dir(place.join("slaves")).into_iter().flatten().flatten();
    let slaves = slaves.filter_map(|entry| number_in(&entry.path()));
    whole.into_iter().chain(slaves).flat_map(|device| below(device, depth + 1)).collect()
}

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

/// Has a process of its own do that, which is left to itself if it takes longer: it hears no signal, and may be late. It has `kept` open.
///
/// # Errors
/// Nobody knows whether it is frozen; a signal came.
pub fn begin(
    program: Option<&Path>,
    place: &Path,
    device: u64,
    within: Duration,
    kept: Option<OwnedFd>,
) -> Result<Stop, String> {
    const CONFLICT: i32 = 3;
    let program = program.unwrap_or(Path::new("/proc/self/exe"));
    let text = |path: &Path| path.to_str().map(str::to_owned).ok_or("its path is no text");
    let words = ["job".into(), "freeze".into(), "--".into(), text(place)?, device.to_string()];
    let words: Vec<_> = [text(program)?].into_iter().chain(words).collect();
    Ok(match command::run_with(&words, within, true, kept, &mut || ())? {
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

/// Thaws what an entry of a lease says, if that may be frozen. Nothing is over a start of the machine.
///
/// # Errors
/// [`Error::NotThawed`]
pub fn end(entry: &Entry, place: &Path) -> Result<()> {
    match entry.device {
        Some(device) if entry.stopping != Stopping::No && entry.boot == process::boot_id() => {
            thaw(place, device).map_err(|why| Error::NotThawed { place: place.into(), why })
        }
        _ => Ok(()),
    }
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
                && let Err(error) = end(entry, place)
            {
                tracing::warn!(job, %error, "cannot thaw");
            }
        }
    }
}
