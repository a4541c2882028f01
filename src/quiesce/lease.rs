//! The file that says which services are to be started again: there from before the first is stopped until they run.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::model::Service;
use crate::quiesce::pidfile;
use crate::quiesce::process::{self, Process};
use crate::quiesce::{Error, Result};

/// How far the stop of a service has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stopping {
    /// It runs, or has stopped.
    No,
    /// It may be asked, a moment later; or it was, and says that it has not stopped.
    Asked,
    /// It was told to, and will, however long that takes. Of a filesystem: it may be frozen.
    Sent,
    /// It may have been told: what was written right before and after says whether ([`Telling`](crate::quiesce::telling::Telling)).
    Marked,
}

/// A service that is to be started again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    /// Which, with all that is needed to start it.
    pub service: Service,
    /// Whether it may be stopping still.
    pub stopping: Stopping,
    /// The process that was told to stop: another one of the same pidfile was not.
    pub process: Option<Process>,
    /// Its start was begun, and nobody has seen it run since: it may be starting still.
    pub starting: bool,
    /// The command that starts it.
    pub starter: Option<Process>,
    /// Since which start of the machine that is so: what was stopping or starting before another one is not any more.
    #[serde(default)]
    pub boot: String,
    /// Of a filesystem that is frozen: the number of its device, whatever is mounted at its place since.
    #[serde(default)]
    pub device: Option<u64>,
    /// When it was told to stop, as [`process::now`] counts: what has begun earlier and is there still is what it has left, and not the service.
    #[serde(default)]
    pub since: Option<u64>,
}

impl Entry {
    /// One that runs.
    pub fn new(service: Service) -> Self {
        let boot = process::boot_id();
        let (stopping, process, starting, starter) = (Stopping::No, None, false, None);
        Self { service, stopping, process, starting, starter, boot, device: None, since: None }
    }
}

/// What is to be started again, whatever has become of the configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Lease {
    /// Whose job.
    pub job: String,
    /// In the order in which they are stopped.
    pub services: Vec<Entry>,
    /// How long each may take to stop.
    pub stop_within: Duration,
    /// How long each may take to start.
    pub start_within: Duration,
    /// How long all of them may be down before their guard starts them though the run goes on; `None` in leases of versions that did not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_within: Option<Duration>,
    /// Since which start of the machine, of services of which it is not said: it was written by a version that did not.
    #[serde(default)]
    pub boot: String,
    /// Who is at it, to be woken if it is suspended.
    pub run: Option<Process>,
    /// The guard that is at it since, with the job's lock in its hand.
    #[serde(default)]
    pub guard: Option<Process>,
    /// When it was written first, right before the first service is told to stop; not known of one of a version that did not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun: Option<Timestamp>,
    /// Who made up for its run, and could not start something, says so; the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<Attempt>,
    /// When its guard had started all of it, though the run goes on: it runs since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed: Option<Timestamp>,
}

/// A start that failed of somebody who made up for a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When.
    pub at: Timestamp,
    /// Why.
    pub why: String,
}

impl Lease {
    /// What is to be started again, in the order in which it was stopped.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.iter().map(|entry| &entry.service)
    }

    /// How long all of it was down, if its guard has started it though the run goes on. A clock may have been set back.
    pub fn held(&self) -> Option<Duration> {
        Duration::try_from(self.resumed?.duration_since(self.begun?)).ok()
    }

    /// How long all of it may take: each service to stop and to start, and the probe to answer. What fails is tried again, and takes longer.
    pub fn patience(&self) -> Duration {
        let n = u32::try_from(self.services.len()).unwrap_or(u32::MAX);
        self.stop_within.saturating_add(self.start_within).saturating_mul(n).saturating_add(self.start_within)
    }
}

/// What a command that has a file of [`Leases::begin`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// It stops a service.
    Stop,
    /// It starts one.
    Start,
}

/// The folder of all leases.
#[derive(Debug, Clone)]
pub struct Leases {
    dir: PathBuf,
}

/// Held by who may write or fulfil a job's lease, or stop and start a service; the kernel lets go of it with the process.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, never read")] File);

impl Leases {
    /// Those below `state_dir`, to be read alone: nothing is made or written, which may have to wait.
    pub fn there(state_dir: &Path) -> Self {
        Self { dir: state_dir.join("leases") }
    }

    /// Those below `state_dir`.
    ///
    /// # Errors
    /// A directory that can not be made.
    pub fn open(state_dir: &Path) -> Result<Self> {
        let dir = state_dir.join("leases");
        let services = dir.join("services");
        fs::create_dir_all(&services).map_err(Error::io("make", services.display()))?;
        // Who can open a lock can hold it. What can only be read, as a disk that had errors, is not to keep anything down.
        let is_private = dir.metadata().is_ok_and(|meta| meta.permissions().mode() & 0o7777 == 0o700);
        if !is_private {
            let private = fs::set_permissions(&dir, Permissions::from_mode(0o700));
            private.map_err(Error::io("close to others", dir.display()))?;
        }
        // It is there after a power cut, and what is made in it.
        let made = File::open(state_dir).and_then(|dir| Ok(rustix::fs::fsync(dir.as_fd())?));
        match made {
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {}
            made => made.map_err(Error::io("sync", state_dir.display()))?,
        }
        Ok(Self { dir })
    }

    /// Where that of `job` is.
    pub fn path(&self, job: &str) -> PathBuf {
        self.dir.join(format!("{job}.json"))
    }

    /// Where the guard of `job` says what goes wrong.
    pub fn log(&self, job: &str) -> PathBuf {
        self.dir.join(format!("{job}.log"))
    }

    /// That of a job. Waits for it if `waits`.
    ///
    /// # Errors
    /// [`Error::Busy`] if somebody has it and it is not waited for.
    pub fn lock(&self, job: &str, waits: bool) -> Result<Lock> {
        match locked(&self.dir.join(format!("{job}.lock")), waits)? {
            Some(lock) => Ok(lock),
            None => Err(Error::Busy { job: job.into() }),
        }
    }

    /// The turn to have a guard begin for a job, in nobody's hand but one's: several of one lease would start its services in turn. `None`: somebody has it.
    ///
    /// # Errors
    /// A file that can not be made.
    pub fn turn(&self, job: &str) -> Result<Option<Lock>> {
        locked(&self.dir.join(format!("{job}.turn")), false)
    }

    /// Whether somebody has that of a job. Who only looks is in nobody's way for longer than [`Leases::lock`] waits.
    pub fn is_locked(&self, job: &str) -> bool {
        let Ok(file) = File::open(self.dir.join(format!("{job}.lock"))) else { return false };
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)
    }

    /// Those of services, as one may be several jobs'. A lock that is waited for is waited for with the job's in hand, so who has services waits for no
    /// job.
    ///
    /// # Errors
    /// [`Error::Shared`] if somebody has one of them and it is not waited for.
    pub fn lock_services<'a>(
        &self,
        services: impl IntoIterator<Item = &'a Service>,
        waits: bool,
    ) -> Result<Vec<Lock>> {
        let dir = self.dir.join("services");
        // Each once, or it would wait for itself; in one order, or two would wait for one another.
        let named = |service| keys(service).into_iter().map(move |key| (key, service));
        let all: BTreeMap<_, _> = services.into_iter().flat_map(named).collect();
        let lock = |(key, service): (String, &Service)| match locked(&dir.join(key), waits)? {
            Some(lock) => Ok(lock),
            None => Err(Error::Shared { service: service.to_string() }),
        };
        all.into_iter().map(lock).collect()
    }

    /// A new file, locked for as long as anybody has it open: who stops or starts a service hands it down. `None` if there is no space for it: a service is
    /// started nonetheless.
    pub fn begin(&self, service: &Service, doing: Doing) -> Option<OwnedFd> {
        let path = self.doing(service, doing);
        // What was begun earlier keeps the old one.
        let _ = fs::remove_file(&path);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR).ok()?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
        Some(file)
    }

    /// Adds that to what [`Leases::begin`] made last.
    ///
    /// # Errors
    /// A full disk, and the like.
    pub fn say(&self, service: &Service, doing: Doing, what: &[u8]) -> io::Result<()> {
        File::options().append(true).open(self.doing(service, doing))?.write_all(what)
    }

    /// What was written into what [`Leases::begin`] made last.
    ///
    /// # Errors
    /// It can not be read.
    pub fn said(&self, service: &Service, doing: Doing) -> io::Result<Vec<u8>> {
        fs::read(self.doing(service, doing))
    }

    /// Says the same of it without a byte more, for which there may be no room: nobody writes to it any more.
    ///
    /// # Errors
    /// It is not there, and the like.
    pub fn close(&self, service: &Service, doing: Doing) -> io::Result<()> {
        fs::set_permissions(self.doing(service, doing), Permissions::from_mode(0o400))
    }

    /// Whether that was said.
    pub fn is_closed(&self, service: &Service, doing: Doing) -> bool {
        let found = self.doing(service, doing).metadata();
        found.is_ok_and(|found| found.permissions().mode() & 0o200 == 0)
    }

    /// Whether somebody has open what [`Leases::begin`] made last.
    pub fn is_at(&self, service: &Service, doing: Doing) -> bool {
        let Ok(file) = File::open(self.doing(service, doing)) else { return false };
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)
    }

    fn doing(&self, service: &Service, doing: Doing) -> PathBuf {
        let extension = match doing {
            Doing::Stop => "stop",
            Doing::Start => "start",
        };
        self.dir.join("services").join(key(service)).with_extension(extension)
    }

    /// How often in a row the services of `job` were stopped for nothing, and when last; `None` if they were not.
    pub fn failures(&self, job: &str) -> Option<(u32, SystemTime)> {
        let path = self.failed(job);
        let n = fs::read_to_string(&path).ok()?.trim().parse().ok()?;
        Some((n, path.metadata().and_then(|meta| meta.modified()).ok()?))
    }

    /// Counts once more, before they are stopped: whoever is killed then has stopped them for nothing.
    ///
    /// # Errors
    /// A full disk, and the like.
    pub fn count(&self, job: &str) -> Result<()> {
        let n = self.failures(job).map_or(0, |(n, _)| n);
        let path = self.failed(job);
        replace(&path, n.saturating_add(1).to_string().as_bytes()).map_err(Error::io("write", path.display()))
    }

    /// There is a snapshot.
    pub fn forgive(&self, job: &str) {
        // What can not be removed is counted further, and waited for longer.
        let _ = fs::remove_file(self.failed(job));
    }

    fn failed(&self, job: &str) -> PathBuf {
        self.dir.join(format!("{job}.failed"))
    }

    /// The jobs that have one.
    ///
    /// # Errors
    /// A directory that can not be read.
    pub fn jobs(&self) -> Result<Vec<String>> {
        let read = || Error::io("read", self.dir.display());
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(read())? {
            let name = entry.map_err(read())?.file_name();
            found.extend(name.to_str().and_then(|name| name.strip_suffix(".json")).map(str::to_owned));
        }
        found.sort();
        Ok(found)
    }

    /// That of `job`, if there is one: as it was written, which its digest tells, or by its copy if a disk has damaged it since.
    ///
    /// # Errors
    /// One that can not be read, or is none, and has no copy that can be.
    pub fn read(&self, job: &str) -> Result<Option<Lease>> {
        let lease = match parsed(job, self.path(job)) {
            // A copy alone is one that was not begun, or is over.
            Ok(None) => return Ok(None),
            Ok(Some(lease)) => lease,
            Err(error) => match parsed(job, self.copy(job)) {
                Ok(Some(lease)) if lease.job == job => lease,
                _ => return Err(error),
            },
        };
        Ok(Some(lease))
    }

    /// Writes it, whole or not at all, and comes back when it is on the disk.
    ///
    /// # Errors
    /// A full disk, and the like.
    pub fn write(&self, lease: &Lease) -> Result<()> {
        let (path, copy) = (self.path(&lease.job), self.copy(&lease.job));
        let bytes = summed(lease);
        // The copy first: it is never older than what it stands for. Without one nothing is kept from being done.
        if replace(&copy, &bytes).is_err() {
            let _ = fs::remove_file(&copy);
        }
        let written = replace(&path, &bytes).and_then(|()| self.sync());
        written.map_err(Error::io("write", path.display()))
    }

    /// Takes it away; nothing if there is none.
    ///
    /// # Errors
    /// A directory that can not be written to.
    pub fn remove(&self, job: &str) -> Result<()> {
        let path = self.path(job);
        let removed = match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| self.sync()).map_err(Error::io("remove", path.display())),
        };
        // It means nothing any more, and the next one is written over it.
        let _ = removed.is_ok().then(|| fs::remove_file(self.copy(job)));
        self.forget_overdue(job);
        removed
    }

    /// Notes that its guard starts what the run of `job` holds down.
    ///
    /// # Errors
    /// A full disk, and the like.
    pub fn note_overdue(&self, job: &str) -> io::Result<()> {
        File::create(self.overdue(job)).and_then(|file| file.sync_all())
    }

    /// Whether its guard has started, or starts, what the run of `job` holds down.
    pub fn is_overdue(&self, job: &str) -> bool {
        self.overdue(job).exists()
    }

    /// What an earlier run was too late for says nothing of the next one.
    pub fn forget_overdue(&self, job: &str) {
        let _ = fs::remove_file(self.overdue(job));
    }

    fn overdue(&self, job: &str) -> PathBuf {
        self.dir.join(format!("{job}.overdue"))
    }

    /// Where its copy is.
    fn copy(&self, job: &str) -> PathBuf {
        self.dir.join(format!("{job}.copy"))
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(File::open(&self.dir)?.as_fd())?)
    }
}

/// What the file ends with, and the digest between them: a key more, that is of all that stands before it.
const SUM: [&str; 2] = [",\n  \"blake3\": \"", "\"\n}"];

/// The keys of a lease that was written before there was a digest: with any other, one was.
const WITHOUT_SUM: [&str; 7] = ["job", "services", "stop_within", "start_within", "boot", "run", "guard"];

/// What is written: the lease, and its digest.
fn summed(lease: &Lease) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(lease).expect("texts and numbers");
    bytes.truncate(bytes.len() - "\n}".len());
    let sum = blake3::hash(&bytes).to_hex();
    let [before, after] = SUM;
    bytes.extend_from_slice([before, sum.as_str(), after].concat().as_bytes());
    bytes
}

/// Whether that is what was written, as far as anybody can say.
fn is_as_written(bytes: &[u8]) -> bool {
    let [before, after] = SUM.map(str::as_bytes);
    let len = before.len() + 2 * blake3::OUT_LEN + after.len();
    if let Some((text, sum)) = bytes.len().checked_sub(len).map(|at| bytes.split_at(at)) {
        let hash = blake3::hash(text).to_hex();
        if sum == [before, hash.as_bytes(), after].concat() {
            return true;
        }
    }
    let keys = serde_json::from_slice::<BTreeMap<String, IgnoredAny>>(bytes).unwrap_or_default();
    !keys.is_empty() && keys.keys().all(|key| WITHOUT_SUM.contains(&key.as_str()))
}

/// What the file says; `None` if there is none.
fn parsed(job: &str, path: PathBuf) -> Result<Option<Lease>> {
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(Error::io("read", path.display()))?,
    };
    let unreadable = |why: String| Error::Unreadable { job: job.into(), path: path.clone(), why };
    let mut lease = serde_json::from_slice::<Lease>(&bytes).map_err(|error| unreadable(error.to_string()))?;
    if !is_as_written(&bytes) {
        return Err(unreadable("it is not what was written: it has another blake3".into()));
    }
    for entry in lease.services.iter_mut().filter(|entry| entry.boot.is_empty()) {
        entry.boot.clone_from(&lease.boot);
    }
    Ok(Some(lease))
}

/// The file is the old one or the new one, whole.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

/// How often, and how long after one another, a lock is tried that somebody may only be looking at.
const LOOKS: u32 = 20;
const LOOK: Duration = Duration::from_millis(10);

/// `None`: somebody has it, and it is not waited for.
fn locked(path: &Path, waits: bool) -> Result<Option<Lock>> {
    // To be read is enough, where nothing can be written.
    let flags = OFlags::CREATE | OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR);
    let file = File::from(file.map_err(|error| Error::io("open", path.display())(error.into()))?);
    let how = match waits {
        true => FlockOperation::LockExclusive,
        false => FlockOperation::NonBlockingLockExclusive,
    };
    let mut n_tries = 0;
    loop {
        match rustix::fs::flock(&file, how) {
            Ok(()) => return Ok(Some(Lock(file))),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) if n_tries < LOOKS => {
                n_tries += 1;
                std::thread::sleep(LOOK);
            }
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(Error::io("lock", path.display())(error.into())),
        }
    }
}

/// Whether it is one of these, whoever starts it how.
pub fn is_among(service: &Service, others: &[Service]) -> bool {
    let own = keys(service);
    others.iter().any(|other| keys(other).iter().any(|key| own.contains(key)))
}

/// By what it is told from others, whichever job names it. Of a pidfile that is a link, by each of its names: it may be gone while the service is down.
fn keys(service: &Service) -> Vec<String> {
    let what = match service {
        Service::Unit { name } => vec![[&b"unit "[..], name.as_bytes()].concat()],
        Service::Process { pidfile, .. } => {
            let names = pidfile::resolve(pidfile).names.into_iter();
            names.map(|name| [&b"pidfile "[..], name.as_os_str().as_bytes()].concat()).collect()
        }
        Service::Program { exe, argument, .. } => {
            let exe = pidfile::resolve(exe).path;
            let argument = argument.as_deref().unwrap_or_default().as_bytes();
            vec![[&b"program "[..], exe.as_os_str().as_bytes(), b"\0", argument].concat()]
        }
        Service::Container { name, socket } => {
            let socket = pidfile::resolve(socket).path;
            vec![[&b"container "[..], socket.as_os_str().as_bytes(), b"\0", name.as_bytes()].concat()]
        }
        Service::Frozen { place } => {
            let place = pidfile::resolve(place).path;
            vec![[&b"frozen "[..], place.as_os_str().as_bytes()].concat()]
        }
        Service::Hook { before, .. } => vec![format!("hook {}", before.join("\0")).into_bytes()],
        Service::Commands { start, .. } => vec![format!("commands {}", start.join("\0")).into_bytes()],
    };
    what.iter().map(|what| hashed(what)).collect()
}

/// Of what is done to it there is one file, whose name is the same before and after: that of the pidfile as it is given, in its true folder.
fn key(service: &Service) -> String {
    match service {
        Service::Process { pidfile, .. } => {
            let folder = pidfile.parent().map(|folder| pidfile::resolve(folder).path).unwrap_or_default();
            let path = folder.join(pidfile.file_name().unwrap_or_default());
            hashed(&[&b"pidfile "[..], path.as_os_str().as_bytes()].concat())
        }
        _ => keys(service).remove(0),
    }
}

fn hashed(what: &[u8]) -> String {
    format!("{}.lock", &blake3::hash(what).to_hex()[..32])
}
