//! Brings versions of an archive back: which containers, in which order, and from where to read them.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use jiff::Timestamp;
use serde::Serialize;

use crate::endpoint::archive::{Archive, Claim, Manifest};
use crate::endpoint::btrfs::Kept;
use crate::endpoint::zfs::{BrokenOff, GoOn, Note, Notes, ReceiveOptions};
use crate::endpoint::{self, Dataset, History};
use crate::exec::archive::behind::{Behind, Marks};
use crate::exec::archive::{Fetch, Seen, left};
use crate::exec::receive::{Incoming, Received};
use crate::exec::restore::plain::{Prepare, Streams};
use crate::exec::{Event, Observe};
use crate::model::archive::Stored;
use crate::model::{Guid, Inventory, SnapshotName, VersionRef, quoted};
use crate::plan::restore::Stream;
use crate::stream::container::{self, Backend};
use crate::stream::sign::Trusted;
use crate::{Class, Error, Result};

/// How often what came so far is kept, so that a receive that is broken off can go on: after so many bytes of stream.
const KEEP_EVERY: u64 = 256 << 20;

/// How much of a guid names a version at least.
const GUID_BEGINS: usize = 8;

/// What brings one version to a place: containers, bases first. Nobody destroys them as long as it lives.
pub struct Chain {
    archive: Archive,
    version: VersionRef,
    stored: Vec<Stored>,
    streams: Vec<Stream>,
    backend: Backend,
    claim: Option<Claim>,
    state_dir: PathBuf,
    until: Option<Instant>,
    /// The manifest that was read last, and whose it is: a version's never changes but for its signatures.
    read: Mutex<Option<(usize, Manifest)>>,
}

/// A container of a chain, as people are told of it.
#[derive(Debug, Clone, Serialize)]
pub struct Link {
    /// What it brings.
    #[serde(flatten)]
    pub version: VersionRef,
    /// What it builds upon; `None` if it is full.
    pub base: Option<Guid>,
    /// How long it is, in bytes.
    pub bytes: u64,
    /// How many objects it is read of.
    pub requests: u64,
}

/// What reading containers takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Takes {
    /// How many bytes are fetched.
    pub bytes: u64,
    /// Of how many containers.
    pub containers: u64,
    /// How many objects are read: parts, and a manifest for each container.
    pub requests: u64,
}

impl Chain {
    /// The cheapest way to the version called `name` (or whose guid begins so, if none is called so), or else to the newest, where what is
    /// `there` is not brought. How to go on within a container is noted below `state_dir`.
    ///
    /// # Errors
    /// No such version, or several; one that can not be brought back; what the archive says.
    pub fn find(
        archive: Archive,
        name: Option<&SnapshotName>,
        there: &Inventory,
        state_dir: &Path,
    ) -> Result<Self> {
        let seen = Seen::of(&archive)?;
        let version = named(&archive, &seen, name)?;
        let present = |guid: Guid| there.snapshot_of(guid).is_some();
        let chain = seen
            .chains
            .chain(version.guid, &present)
            .map_err(|source| broken(&archive, &version, &source.to_string()))?;
        let stored: Vec<Stored> = chain.into_iter().cloned().collect();
        let way = stored.last().or_else(|| seen.chains.way(version.guid));
        let way = way.ok_or_else(|| broken(&archive, &version, "no way leads to it"))?;
        let manifest = archive.manifest(way)?;
        let backend = manifest.about().backend;
        let stream = |stored: &Stored| Stream { brings: stored.version.clone(), base: stored.base };
        let streams = stored.iter().map(stream).collect();
        let state_dir = state_dir.to_owned();
        let read = Mutex::new(stored.len().checked_sub(1).map(|last| (last, manifest)));
        Ok(Self { archive, version, stored, streams, backend, claim: None, state_dir, until: None, read })
    }

    /// Says in the archive that it is read.
    ///
    /// # Errors
    /// Somebody destroys some of it; what the archive says.
    pub fn claimed(mut self) -> Result<Self> {
        if !self.stored.is_empty() {
            self.claim = Some(self.archive.claim(&self.stored.iter().collect::<Vec<_>>())?);
        }
        Ok(self)
    }

    /// Nothing of its containers is waited for then: whoever reads them gets an `io::Error` of [`TimedOut`](std::io::ErrorKind::TimedOut).
    pub fn until(self, until: Option<Instant>) -> Self {
        Self { until, ..self }
    }

    /// What it ends in.
    pub fn version(&self) -> &VersionRef {
        &self.version
    }

    /// When what it ends in was made, by its source's clock; `None` if nothing of it is missing.
    pub fn created(&self) -> Option<Timestamp> {
        self.stored.last().map(|stored| stored.created)
    }

    /// Whose streams they are.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// What is read, in order.
    pub fn links(&self) -> Vec<Link> {
        let link = |stored: &Stored| Link {
            version: stored.version.clone(),
            base: stored.base,
            bytes: stored.len,
            requests: stored.parts() + 1,
        };
        self.stored.iter().map(link).collect()
    }

    /// What reading all of it takes.
    pub fn cost(&self) -> Takes {
        self.links().iter().fold(Takes::default(), |cost, link| Takes {
            bytes: cost.bytes + link.bytes,
            containers: cost.containers + 1,
            requests: cost.requests + link.requests,
        })
    }

    /// The manifest of one of them, and its container.
    ///
    /// # Errors
    /// What the archive says.
    pub fn container(&self, at: usize) -> Result<(Manifest, Fetch)> {
        let manifest = self.manifest(at)?;
        let fetch = Fetch::new(&self.archive, &manifest).until(self.until);
        Ok((manifest, fetch))
    }

    fn manifest(&self, at: usize) -> Result<Manifest> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, manifest)) = &*read
            && *of == at
        {
            return Ok(manifest.clone());
        }
        let manifest = self.archive.manifest(&self.stored[at])?;
        *read = Some((at, manifest.clone()));
        Ok(manifest)
    }

    /// How one of them is called in errors.
    pub fn label(&self, at: usize) -> String {
        format!("{}@{}", self.archive.url(), self.stored[at].version.name)
    }
}

impl Streams for Chain {
    fn trusted(&self) -> Option<&Trusted> {
        self.archive.keys().trusted.as_ref()
    }

    fn all(&self) -> &[Stream] {
        &self.streams
    }

    fn open(&self, at: usize) -> Result<Incoming> {
        let (_, container) = self.claimed_container(at)?;
        self.expect(
            at,
            Incoming::open_by(container, &self.label(at), Some(self.name(at)), self.archive.keys())?,
        )
    }

    fn receive(&self, at: usize, to: &Dataset, prepare: Prepare, observe: &dyn Observe) -> Result<Received> {
        loop {
            let begun = self.begun(at, to)?;
            let (goes_on, is_noted) =
                (!matches!(begun, Begun::Nothing), matches!(begun, Begun::Applied(Some(_))));
            match self.receive_behind(at, begun, to, prepare, observe) {
                Err(error) if goes_on && is_of_what_was_kept(&error) => {
                    // If what was noted is why, what was received is still of use.
                    let what = if is_noted { "is read once more" } else { "begins anew" };
                    observe.observe(Event::Warning {
                        text: format!(
                            "@{} {what}: what was received of it in part does not fit: {error}",
                            self.name(at)
                        ),
                    });
                    match is_noted {
                        true => Marks::of(&self.state_dir, &self.archive, &self.manifest(at)?).forget(),
                        false => self.give_up(at, to)?,
                    }
                }
                done => return done,
            }
        }
    }
}

/// What is there of a container that was received in part.
enum Begun {
    Nothing,
    /// On btrfs.
    Kept(Box<Kept>),
    /// On ZFS, which itself says up to where it was applied, and where before that the stream was noted.
    Applied(Option<Box<Note>>),
}

/// Whether what was kept, or noted, may be why the rest does not fit: all of it comes again then. A part that is damaged or gone is not, nor a
/// disk that is full: to begin anew would only fetch once more what is there.
fn is_of_what_was_kept(error: &Error) -> bool {
    match error {
        Error::Container {
            source: container::Error::Read { .. } | container::Error::Write { .. }, ..
        } => false,
        Error::Container { .. } => error.class() == Class::Corrupt,
        Error::Endpoint(endpoint::Error::Corrupt { what, .. }) => *what != "archive",
        _ => false,
    }
}

impl Chain {
    /// Whether what is broken off within it may go on: not if it is encrypted, or must be signed, since a rest is neither.
    fn may_go_on(&self, at: usize) -> Result<bool> {
        Ok(self.archive.keys().trusted.is_none() && self.manifest(at)?.about().encryption.is_none())
    }

    /// What there is of one of them at its target. What can not go on is given up, unless it is somebody else's.
    fn begun(&self, at: usize, to: &Dataset) -> Result<Begun> {
        let (guid, base) = (self.stored[at].version.guid, self.stored[at].base);
        let manifest = self.manifest(at)?;
        let container = manifest.digest().to_string();
        let may_go_on = self.may_go_on(at)?;
        match (to.kept(guid, base)?, to.broken_off(&container)?) {
            (Some(kept), _) if may_go_on => return Ok(Begun::Kept(Box::new(kept))),
            (_, Some(BrokenOff::OfIt(point))) if may_go_on => {
                let notes = Marks::of(&self.state_dir, &self.archive, &manifest).of_stream();
                return Ok(Begun::Applied(Notes::before(&notes, &container, point).map(Box::new)));
            }
            (None, None | Some(BrokenOff::Somebodys)) => {} // Of what is somebody's, who receives says what there is to do.
            _ => self.give_up(at, to)?,
        }
        Ok(Begun::Nothing)
    }

    /// Gives up what there is of one of them, or of another container in its place.
    fn give_up(&self, at: usize, to: &Dataset) -> Result<()> {
        let (guid, base) = (self.stored[at].version.guid, self.stored[at].base);
        while let Some(kept) = to.kept(guid, base)? {
            kept.give_up()?;
        }
        match to.broken_off(&self.manifest(at)?.digest().to_string())? {
            Some(BrokenOff::OfIt(_) | BrokenOff::OfOthers) => {
                if let Some(container) = to.give_up_partial()? {
                    left::forget(&self.state_dir, &container);
                }
                Ok(())
            }
            Some(BrokenOff::Somebodys) | None => Ok(()),
        }
    }

    fn name(&self, at: usize) -> SnapshotName {
        self.stored[at].version.name.clone()
    }

    fn claimed_container(&self, at: usize) -> Result<(Manifest, Fetch)> {
        if let Some(claim) = &self.claim {
            claim.check()?;
        }
        self.container(at)
    }

    fn receive_behind(
        &self,
        at: usize,
        begun: Begun,
        to: &Dataset,
        prepare: Prepare,
        observe: &dyn Observe,
    ) -> Result<Received> {
        let (manifest, _) = self.claimed_container(at)?;
        let marks = || Marks::of(&self.state_dir, &self.archive, &manifest);
        let skip = match &begun {
            Begun::Kept(kept) => kept.prefix().frames(),
            Begun::Applied(note) => note.as_ref().map_or(0, |note| note.prefix().frames()),
            Begun::Nothing => 0,
        };
        let container = Behind::new(&self.archive, manifest.clone(), marks(), skip, self.until);
        let (source, name) = (self.label(at), Some(self.name(at)));
        let mut behind = None;
        let incoming = match begun {
            Begun::Kept(kept) => Incoming::resume(container, &source, name, *kept)?,
            Begun::Applied(Some(note)) => Incoming::behind(container, &source, name, behind.insert(note))?,
            _ => Incoming::open_by(container, &source, name, self.archive.keys())?,
        };
        // What ZFS keeps of what is broken off would only be in the way of the next one, if that can not go on: no archive sends the rest.
        let incoming = prepare(
            self.expect(at, incoming)?
                .with(ReceiveOptions { keep_no_partial: true, ..ReceiveOptions::default() }),
        );
        let incoming = match self.may_go_on(at)? {
            true => {
                let (notes, container) = (marks().of_stream(), manifest.digest().to_string());
                incoming.keeping(KEEP_EVERY).going_on(GoOn { container, notes, behind })
            }
            false => incoming,
        };
        let received = incoming.receive(to, observe);
        if received.as_ref().map_or_else(|error| skip > 0 && is_of_what_was_kept(error), |_| true) {
            marks().forget();
        }
        if received.is_ok() {
            left::sweep(&self.state_dir);
        }
        received
    }

    fn expect(&self, at: usize, incoming: Incoming) -> Result<Incoming> {
        let (stored, source) = (&self.stored[at], self.label(at));
        let announced = incoming.announced();
        if !announced.container || (announced.guid, announced.base) != (stored.version.guid, stored.base) {
            let why = format!("the container of {source} is that of another version ({})", announced.guid);
            return Err(endpoint::Error::Corrupt { what: "archive", why, source: None }.into());
        }
        Ok(incoming)
    }
}

fn named(archive: &Archive, seen: &Seen, name: Option<&SnapshotName>) -> Result<VersionRef> {
    let versions = seen.chains.versions();
    let Some(name) = name else {
        let newest = versions.iter().rev().find(|version| seen.chains.cost(version.id.guid).is_some());
        return newest.map(|version| version.id.clone()).ok_or_else(|| {
            let subject = format!("that can be restored at {}", archive.url());
            endpoint::Error::NotFound { what: "version", subject, hint: None }.into()
        });
    };
    let mut called: Vec<_> = versions.iter().filter(|version| version.id.name == *name).collect();
    if called.is_empty() {
        let guid = name.to_string().to_ascii_lowercase();
        let is_it = |text: String| guid.len() >= GUID_BEGINS && text.starts_with(&guid);
        called = versions.iter().filter(|version| is_it(version.id.guid.to_string())).collect();
    }
    let subject = format!("{}@{name}", archive.url());
    match called.as_slice() {
        [one] => Ok(one.id.clone()),
        [] => {
            let hint = Some(format!("cowsnap archive list {}", quoted(archive.url())));
            Err(endpoint::Error::NotFound { what: "version", subject, hint }.into())
        }
        several => {
            let guids: Vec<_> = several.iter().map(|version| version.id.guid.to_string()).collect();
            let why = format!("{} versions are called so: {}", several.len(), guids.join(", "));
            let last = guids.last().expect("there are several");
            let hint = Some(format!("name it by its guid, or how that begins: {}@{last}", archive.url()));
            Err(endpoint::Error::Refused { op: "choose", subject, why, hint }.into())
        }
    }
}

fn broken(archive: &Archive, version: &VersionRef, why: &str) -> Error {
    let why = format!("{}@{} can not be brought back: {why}", archive.url(), version.name);
    endpoint::Error::Corrupt { what: "archive", why, source: None }.into()
}

/// What `to` holds; nothing if there is no such dataset yet.
///
/// # Errors
/// What it says.
pub fn inventory(to: &Dataset) -> Result<Inventory> {
    match to.inventory() {
        Err(endpoint::Error::NotFound { .. }) => Ok(Inventory::default()),
        other => Ok(other?),
    }
}

/// Receives all of `chain` into `to`, as snapshots. Broken off and called again with a new chain, it goes on after the last one.
///
/// # Errors
/// As [`Incoming::receive`]. What came before stays.
pub fn pull(chain: &Chain, to: &Dataset, observe: &dyn Observe) -> Result<Vec<Received>> {
    (0..chain.all().len()).map(|at| chain.receive(at, to, |incoming| incoming, observe)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_is_gone_and_a_full_disk_do_not_throw_away_what_was_received() {
        let container = |source| Error::container("receive", "x")(source);
        let io = std::io::Error::other("the part is gone");
        assert!(!is_of_what_was_kept(&container(container::Error::Read { at: 1, source: io })));
        let full = std::io::Error::from_raw_os_error(libc::ENOSPC);
        assert!(!is_of_what_was_kept(&endpoint::Error::io("write", "x")(full).into()));
        assert!(is_of_what_was_kept(&container(container::Error::Trailer {
            at: 1,
            why: "it differs".into()
        })));
    }
}
