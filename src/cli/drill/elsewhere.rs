//! What is rehearsed of a target on another machine, or of an archive: its newest snapshot is received here, in a dataset of its own that goes again.

use std::ffi::OsString;
use std::path::Path;

use crate::cli::archive::opened;
use crate::cli::peer::Way;
use crate::cli::progress::Progress;
use crate::cli::send::size;
use crate::cli::{Context, place};
use crate::config::{self, Drill, Job, Received};
use crate::endpoint::archive::Archive;
use crate::endpoint::overlay::Home;
use crate::endpoint::{Dataset, Error as EndpointError};
use crate::exec::archive::pull::Chain;
use crate::exec::keys;
use crate::exec::overlay::reap;
use crate::exec::restore::plain::Streams;
use crate::exec::scratch::{self, Scratch};
use crate::exec::transfer::{Options, Place};
use crate::model::{Guid, Inventory, SnapshotName, Target, Version, VersionKind};
use crate::stream::reader::Keys;
use crate::stream::writer::DEFAULT_LEVEL;
use crate::{Error, Result};

/// What the dataset is called that is received for a job, in the place that its configuration names.
const NAME: &str = "cowsnap-drill-";

/// A snapshot of a target on another machine, or of an archive.
pub(super) struct Elsewhere<'a> {
    /// Of which job.
    pub job: &'a Job,
    received: &'a Received,
    from: From,
    /// Which.
    pub version: Version,
}

/// Where it is.
enum From {
    /// On another machine.
    Peer(Box<Place>, Options),
    /// In an archive.
    Archive(Box<Archive>, Box<Chain>),
}

impl<'a> Elsewhere<'a> {
    /// Looks for the snapshot `name`, or the newest. `None` if the drill is of no target on another machine, and of no archive.
    pub(super) fn find(
        job: &'a Job,
        drill: &'a Drill,
        name: Option<&SnapshotName>,
        context: &Context,
    ) -> Result<Option<Self>> {
        let (Some(to), Some(received)) = (&drill.from, &drill.into) else { return Ok(None) };
        let (from, version) = match job.archives.iter().find(|archive| archive.to == *to) {
            Some(archive) => in_archive(archive, received, name, context)?,
            None => at_peer(job, to, name, context)?,
        };
        Ok(Some(Self { job, received, from, version }))
    }

    /// What it is called where it is.
    pub(super) fn label(&self) -> String {
        match &self.from {
            From::Peer(from, _) => format!("{from}@{}", self.version.id.name),
            From::Archive(archive, _) => format!("{}@{}", archive.url(), self.version.id.name),
        }
    }

    /// What it is received as.
    pub(super) fn dataset(&self, context: &Context) -> Result<Dataset> {
        let mut into = OsString::from(&self.received.into);
        into.push(format!("/{NAME}{}", self.job.name));
        place::dataset(&Target::parse(&into)?, context)
    }

    /// What it would be, in words.
    pub(super) fn foretold(&self, context: &Context) -> Result<String> {
        let about = match &self.from {
            From::Peer(from, options) => match scratch::announced(from, &self.version, options)? {
                Some(bytes) => format!("about {}", size(bytes)),
                None => "nobody can tell how much beforehand".into(),
            },
            From::Archive(_, chain) => {
                let cost = chain.cost();
                let (containers, bytes) = (cost.containers, size(cost.bytes));
                format!("{bytes} by {containers} containers in {} requests", cost.requests)
            }
        };
        Ok(format!("receive all of {} as {}, {about}", self.label(), self.dataset(context)?))
    }

    /// Receives it.
    pub(super) fn receive(&self, context: &Context) -> Result<Scratch> {
        context.notice(format!("job {}: {}", self.job.name, self.foretold(context)?));
        let dataset = self.dataset(context)?;
        if Path::new(&dataset.to_string()).symlink_metadata().is_ok() {
            let hint = Some("receive into another place".into());
            return Err(EndpointError::Exists { what: "file", subject: dataset.to_string(), hint }.into());
        }
        let guids: Vec<Guid> = match &self.from {
            From::Peer(..) => vec![self.version.id.guid],
            From::Archive(_, chain) => chain.all().iter().map(|stream| stream.brings.guid).collect(),
        };
        let scratch = Scratch::new(context.state_dir(), &self.job.name, dataset, &guids)?;
        match self.received(&scratch, context) {
            Ok(done) => {
                context.notice(format!("job {}: {done}", self.job.name));
                Ok(scratch)
            }
            Err(error) => {
                away(scratch, context);
                Err(error)
            }
        }
    }

    /// Receives it into `scratch`; what was received, in words.
    fn received(&self, scratch: &Scratch, context: &Context) -> Result<String> {
        let (within, progress) = (self.received.within, Progress::new(context));
        match &self.from {
            From::Peer(from, options) => {
                let from = from.again()?;
                let moved = scratch.receive(&from, &self.version.id, options, within, &progress)?;
                let bytes = size(moved.stream_bytes);
                Ok(format!("received {bytes} in {:.1} s, blake3 {} verified", moved.seconds, moved.blake3))
            }
            From::Archive(archive, _) => {
                // Claimed only now: a look beforehand leaves nothing there.
                let name = Some(&self.version.id.name);
                let nothing = Inventory::default();
                let chain =
                    Chain::find(Archive::clone(archive), name, &nothing, context.state_dir())?.claimed()?;
                let containers = chain.all().len();
                let bytes = scratch.pull(chain, within, &progress)?;
                Ok(format!("received {} by {containers} containers, verified", size(bytes)))
            }
        }
    }
}

fn at_peer(job: &Job, to: &str, name: Option<&SnapshotName>, context: &Context) -> Result<(From, Version)> {
    let ssh = std::env::var("COWSNAP_SSH").unwrap_or_else(|_| "ssh".into());
    let way = Way { stall: 600, ssh: &ssh, remote: "cowsnap serve", unattended: None };
    let from = way.to(&Target::parse(to.as_ref())?, context)?;
    let (inventory, _) = from.look()?;
    let version = version(&inventory, name, to)?;
    let replica = job.targets.iter().find(|replica| replica.to == *to);
    let options = Options {
        level: Some(replica.and_then(|replica| replica.level).unwrap_or(DEFAULT_LEVEL)),
        bandwidth: replica.and_then(|replica| replica.bandwidth),
        zfs_flags: replica.and_then(|replica| replica.zfs_flags),
        keep_every: 256 << 20,
    };
    Ok((From::Peer(Box::new(from), options), version))
}

fn in_archive(
    archive: &config::Archive,
    received: &Received,
    name: Option<&SnapshotName>,
    context: &Context,
) -> Result<(From, Version)> {
    let (identities, trusted) = (keys::identities(&received.identity)?, keys::trusted(&received.verify_key)?);
    let archive = opened(archive)?.with_keys(Keys { identities, trusted });
    let chain = Chain::find(archive.clone(), name, &Inventory::default(), context.state_dir())?;
    let created = chain.created().expect("nothing of it is anywhere yet");
    let id = chain.version().clone();
    let version = Version { id, kind: VersionKind::Snapshot, order: 0, created };
    Ok((From::Archive(Box::new(archive), Box::new(chain)), version))
}

/// Destroys what was received; the next drill does what can not be done now.
pub(super) fn away(scratch: Scratch, context: &Context) {
    let name = scratch.dataset().to_string();
    if let Err(error) = scratch.destroy() {
        let why = crate::cli::doctor::with_causes(&error);
        context.warn(format!("{name} was received for a drill, and the next drill destroys it: {why}"));
    }
}

/// Destroys what killed drills have received.
pub(super) fn sweep(home: &Home, context: &Context) {
    let find = |name: &str| place::dataset(&Target::parse(name.as_ref())?, context);
    let swept = released(home).and_then(|()| scratch::sweep(context.state_dir(), &find));
    if let Err(error) = swept {
        let why = crate::cli::doctor::with_causes(&error);
        context.warn(format!("what a killed drill has received is still there: {why}"));
    }
}

/// Destroys the clones of what was received: as long as they are there, that can not go everywhere.
pub(super) fn released(home: &Home) -> Result<()> {
    reap(home, false)?;
    Ok(home.lock_trash()?.empty()?)
}

fn version(inventory: &Inventory, name: Option<&SnapshotName>, place: &str) -> Result<Version> {
    let is_snapshot = |version: &&Version| version.kind == VersionKind::Snapshot;
    let mut snapshots = inventory.versions().iter().filter(is_snapshot);
    let found = match name {
        Some(name) => snapshots.find(|version| version.id.name == *name),
        None => snapshots.rfind(|version| !version.id.name.is_unconfirmed()),
    };
    let subject = || name.map_or_else(|| format!("of {place}"), |name| format!("{place}@{name}"));
    found.cloned().ok_or_else(|| {
        Error::from(EndpointError::NotFound { what: "snapshot", subject: subject(), hint: None })
    })
}
