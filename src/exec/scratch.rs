//! A dataset of its own for a version from another machine: received in full, verified on the way, looked at, and destroyed.
//!
//! **Invariant:** what it is called is written down, in the state directory, before it is there, with the identity of what is received. Only that is destroyed, and
//! nothing gets the name of what is there already. After a kill, the next one destroys it.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::endpoint::{self, Dataset, DestroyDataset, Error as EndpointError, History};
use crate::exec::Observe;
use crate::exec::archive::pull::Chain;
use crate::exec::restore::plain::Streams;
use crate::exec::transfer::{Moved, Options, Place, Transfer, asked, transfer};
use crate::model::{Guid, Version, VersionRef};
use crate::{Error, Result};

/// The folder of the state directory that has a file for each.
const FOLDER: &str = "drills";
/// The longest name of a dataset that is read there.
const MAX_LEN: u64 = 64 << 10;

/// A dataset that is gone with the value.
#[derive(Debug)]
pub struct Scratch {
    dataset: Dataset,
    guids: String,
    note: Note,
}

/// The file that says what it is called, locked.
#[derive(Debug)]
struct Note {
    file: File,
    path: PathBuf,
}

impl Scratch {
    /// The right to make `dataset`, of which nothing is there, for `whom`, to receive `versions`.
    ///
    /// # Errors
    /// [`EndpointError::Refused`] if another process has one for the same, or one of another name was left; [`EndpointError::Exists`] if it is somebody's; a state directory that can not be written to.
    pub fn new(state_dir: &Path, whom: &str, dataset: Dataset, versions: &[Guid]) -> Result<Self> {
        let folder = state_dir.join(FOLDER);
        fs::create_dir_all(&folder).map_err(Error::io("make directory", folder.display()))?;
        let Some(mut note) = Note::open(folder.join(whom))? else {
            return Err(EndpointError::Refused {
                op: "receive",
                subject: dataset.to_string(),
                why: "another process has it for the same purpose".into(),
                hint: None,
            }
            .into());
        };
        let text = note.read()?;
        if let Some((_, other)) = text.split_once(' ').filter(|(_, name)| *name != dataset.to_string()) {
            return Err(EndpointError::Refused {
                op: "receive",
                subject: dataset.to_string(),
                why: format!("{other}, which was received for the same purpose before, is not destroyed yet"),
                hint: Some(format!("cowsnap destroy {}", crate::model::quoted(other))),
            }
            .into());
        }
        if is_there(&dataset)? || dataset.expect_live().is_ok() {
            return Err(EndpointError::Exists {
                what: "dataset",
                subject: dataset.to_string(),
                hint: Some("it was not made for this: rename it, or receive into another place".into()),
            }
            .into());
        }
        let guids: Vec<_> = versions.iter().map(ToString::to_string).collect();
        let guids = guids.join(",");
        note.write(&format!("{guids} {dataset}"))?;
        Ok(Self { dataset, guids, note })
    }

    /// What it is.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// Receives `version` of `from`, all of it, which is verified on the way; gives it up after the time `within`.
    ///
    /// # Errors
    /// What either side says; [`EndpointError::Io`] of [`TimedOut`](std::io::ErrorKind::TimedOut) if the time was over.
    pub fn receive(
        &self,
        from: &Place,
        version: &VersionRef,
        options: &Options,
        within: Option<Duration>,
        observe: &dyn Observe,
    ) -> Result<Moved> {
        let began = Instant::now();
        let limit = Limit::new(from, within);
        let what = Transfer { version: version.clone(), base: None, token: None };
        let moved = transfer(from, &Place::Here(self.dataset.clone()), &what, options, observe);
        let is_late = within.is_some_and(|within| began.elapsed() >= within);
        drop(limit);
        moved.map_err(|error| match within.filter(|_| is_late) {
            Some(within) => late(&format!("{from}@{}", version.name), within),
            None => error,
        })
    }

    /// Receives all of `chain`, each container of which is verified on the way; gives it up after the time `within`.
    ///
    /// # Errors
    /// As [`pull()`](crate::exec::archive::pull::pull); [`EndpointError::Io`] of [`TimedOut`](std::io::ErrorKind::TimedOut) if the time was over.
    pub fn pull(&self, chain: Chain, within: Option<Duration>, observe: &dyn Observe) -> Result<u64> {
        let until = within.map(|within| Instant::now() + within);
        let is_late = || until.is_some_and(|until| Instant::now() >= until);
        let chain = chain.until(until);
        let mut bytes = 0;
        for at in 0..chain.all().len() {
            let given_up = || late(&chain.label(at), within.unwrap_or_default());
            if is_late() {
                return Err(given_up());
            }
            match chain.receive(at, &self.dataset, |incoming| incoming, observe) {
                Ok(received) => bytes += received.stream_bytes,
                Err(_) if is_late() => return Err(given_up()),
                Err(error) => return Err(error),
            }
        }
        Ok(bytes)
    }

    /// Destroys it.
    ///
    /// # Errors
    /// What the filesystem says; then the next one tries again.
    pub fn destroy(self) -> Result<()> {
        let Self { dataset, guids, mut note } = self;
        destroy(&dataset, &guids)?;
        note.write("")
    }
}

fn late(what: &str, within: Duration) -> Error {
    let why = format!("it was not all there after {within:?}");
    EndpointError::io("receive", what)(std::io::Error::new(std::io::ErrorKind::TimedOut, why)).into()
}

/// Whether something is written down that is there, or was left.
pub fn has_some(state_dir: &Path) -> bool {
    let entries = fs::read_dir(state_dir.join(FOLDER)).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.metadata().is_ok_and(|meta| meta.len() > 0))
}

/// Destroys what killed processes left; `find` is what makes a dataset of its name. What is in use by a process stays.
///
/// # Errors
/// The first that can not be destroyed, after all others were.
pub fn sweep(state_dir: &Path, find: &dyn Fn(&str) -> Result<Dataset>) -> Result<()> {
    let Ok(entries) = fs::read_dir(state_dir.join(FOLDER)) else { return Ok(()) };
    let mut done = Ok(());
    for entry in entries.flatten() {
        done = done.and(sweep_one(entry.path(), find));
    }
    done
}

fn sweep_one(path: PathBuf, find: &dyn Fn(&str) -> Result<Dataset>) -> Result<()> {
    let Some(mut note) = Note::open(path)? else { return Ok(()) };
    let text = note.read()?;
    let Some((guids, name)) = text.split_once(' ') else { return Ok(()) };
    destroy(&find(name)?, guids)?;
    note.write("")
}

impl Note {
    /// `None` while another process has it.
    fn open(path: PathBuf) -> Result<Option<Self>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(Error::io("open", path.display()))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(Error::io("lock", path.display())(errno.into())),
            Ok(()) => Ok(Some(Self { file, path })),
        }
    }

    fn read(&mut self) -> Result<String> {
        let mut text = String::new();
        let read = self.file.rewind().and_then(|()| (&self.file).take(MAX_LEN).read_to_string(&mut text));
        read.map_err(Error::io("read", self.path.display()))?;
        // What ends without a line's end was not all written: nothing was made of it then.
        Ok(text.strip_suffix('\n').unwrap_or_default().to_owned())
    }

    /// It is on the disk before this comes back.
    fn write(&mut self, name: &str) -> Result<()> {
        let text = if name.is_empty() { String::new() } else { format!("{name}\n") };
        let written = self
            .file
            .set_len(0)
            .and_then(|()| self.file.rewind())
            .and_then(|()| self.file.write_all(text.as_bytes()))
            .and_then(|()| self.file.sync_all());
        written.map_err(Error::io("write", self.path.display()))
    }
}

fn is_there(dataset: &Dataset) -> Result<bool> {
    let is_none = |error: &EndpointError| matches!(error, EndpointError::NotFound { .. });
    let inventory = match dataset.inventory() {
        Err(error) if is_none(&error) => return Ok(false),
        other => other?,
    };
    Ok(!inventory.versions().is_empty() || !inventory.partials.is_empty())
}

/// Destroys a dataset that has nothing but versions of these identities, with commas between them, or a part of one.
fn destroy(dataset: &Dataset, guids: &str) -> Result<()> {
    if dataset.partials().is_ok_and(|partials| !partials.is_empty()) {
        dataset.give_up_partial()?;
    }
    if !is_there(dataset)? && dataset.expect_live().is_err() {
        return Ok(());
    }
    let inventory = dataset.inventory()?;
    let is_other = |version: &&Version| guids.split(',').all(|guid| version.id.guid.to_string() != guid);
    if let Some(other) = inventory.versions().iter().find(is_other) {
        return Err(EndpointError::Refused {
            op: "destroy",
            subject: dataset.to_string(),
            why: format!("it has @{}, which was not received for a drill", other.id.name),
            hint: Some(format!("cowsnap rename {} NEW", crate::model::quoted(dataset))),
        }
        .into());
    }
    // On ZFS, what is received in part is a filesystem without snapshots; elsewhere, nothing that is received can be written to.
    if !matches!(dataset, Dataset::Zfs(_)) && inventory.versions().is_empty() && dataset.expect_live().is_ok()
    {
        return Err(EndpointError::Refused {
            op: "destroy",
            subject: dataset.to_string(),
            why: "somebody made it since: what is received is never live".into(),
            hint: Some(format!("cowsnap rename {} NEW", crate::model::quoted(dataset))),
        }
        .into());
    }
    match dataset.destroy_dataset(DestroyDataset { snapshots: true }) {
        Err(endpoint::Error::NotFound { .. }) => Ok(()),
        other => Ok(other?),
    }
}

/// About how many bytes a version of `from` is, if that can be told before it is sent.
///
/// # Errors
/// A place out of reach; what would be refused as it is sent.
pub fn announced(from: &Place, version: &Version, options: &Options) -> Result<Option<u64>> {
    let what = Transfer { version: version.id.clone(), base: None, token: None };
    // That stream is not read: its connection is of no use any more.
    match from.again()? {
        Place::There(peer) => Ok(peer.fetch(&asked(&peer, &what, options, None))?.estimate),
        Place::Here(_) => Ok(None),
    }
}

/// Ends the connection to a peer once the time is over, unless it is dropped before.
struct Limit {
    _ends: mpsc::Sender<()>,
}

impl Limit {
    fn new(from: &Place, within: Option<Duration>) -> Option<Self> {
        let (Place::There(peer), Some(within)) = (from, within) else { return None };
        let pid = Pid::from_raw(i32::try_from(peer.process()).ok()?)?;
        let process = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let (ends, ended) = mpsc::channel();
        std::thread::spawn(move || {
            if ended.recv_timeout(within) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = rustix::process::pidfd_send_signal(&process, Signal::KILL);
            }
        });
        Some(Self { _ends: ends })
    }
}
