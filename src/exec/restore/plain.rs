//! Restores streams of btrfs onto another filesystem: as a plain tree, without versions.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::endpoint::btrfs::receive::Needs;
use crate::endpoint::plain::{Lack, Staging, Target, There, in_the_way};
use crate::endpoint::{self, Dataset, btrfs};
use crate::exec::receive::{Incoming, Received};
use crate::exec::{Event, Observe};
use crate::model::{Inventory, Version, VersionKind, VersionRef};
use crate::plan::restore::{self as plan, Step, Stream, Wanted};
use crate::stream::container::Backend;
use crate::stream::reader::Keys;
use crate::stream::sign::Trusted;
use crate::{Class, Error, Result};

/// Streams that are at hand.
pub trait Streams: Send + Sync {
    /// What each of them brings.
    fn all(&self) -> &[Stream];

    /// One of these must have signed each of them, which opening one looks at; `None` if nobody has to.
    fn trusted(&self) -> Option<&Trusted>;

    /// Opens one of them, at its beginning. An increment is read twice.
    ///
    /// # Errors
    /// What its place says.
    fn open(&self, at: usize) -> Result<Incoming>;

    /// Receives one of them into `to`; where a receive of it was broken off, it may go on there.
    ///
    /// # Errors
    /// As [`Incoming::receive`].
    fn receive(&self, at: usize, to: &Dataset, prepare: Prepare, observe: &dyn Observe) -> Result<Received> {
        prepare(self.open(at)?).receive(to, observe)
    }
}

/// What is said of a stream before it is received.
pub type Prepare = fn(Incoming) -> Incoming;

/// Containers in files.
pub struct Files {
    files: Vec<PathBuf>,
    streams: Vec<Stream>,
    keys: Keys,
}

impl Files {
    /// Looks at the beginning of each.
    ///
    /// # Errors
    /// A file that can not be read, or is none of a btrfs stream.
    pub fn open(files: Vec<PathBuf>, to: &Path, keys: Keys) -> Result<Self> {
        let stream = |file: &PathBuf| {
            let incoming = super::incoming(file, &keys)?;
            let announced = incoming.announced();
            if announced.backend != Backend::Btrfs {
                return Err(foreign(file, announced.backend, to));
            }
            let brings = VersionRef { guid: announced.guid, name: announced.snapshot.clone() };
            Ok(Stream { brings, base: announced.base })
        };
        let streams = files.iter().map(stream).collect::<Result<_>>()?;
        Ok(Self { files, streams, keys })
    }
}

impl Streams for Files {
    fn trusted(&self) -> Option<&Trusted> {
        self.keys.trusted.as_ref()
    }

    fn all(&self) -> &[Stream] {
        &self.streams
    }

    fn open(&self, at: usize) -> Result<Incoming> {
        super::incoming(&self.files[at], &self.keys)
    }
}

fn foreign(file: &Path, backend: Backend, to: &Path) -> Error {
    endpoint::Error::Foreign {
        subject: file.display().to_string(),
        wanted: "btrfs stream",
        why: format!(
            "it was sent by {backend}; of the streams, those of btrfs alone tell of files, which {} can get",
            to.display()
        ),
        hint: Some(format!("cowsnap restore FILE --to a {backend} dataset")),
    }
    .into()
}

/// Whether a stream of btrfs can be restored to `path` as a plain tree only.
///
/// # Errors
/// A place that can not be examined.
pub fn is_elsewhere(path: &Path) -> Result<bool> {
    Ok(!btrfs::is_on_btrfs(path)?)
}

/// What is wanted, and where.
#[derive(Debug, Clone)]
pub struct Request {
    /// The directory that is to hold it.
    pub to: PathBuf,
    /// Which of several versions.
    pub wanted: Wanted,
    /// What stands there is kept under another name.
    pub replace: bool,
}

/// What was done.
#[derive(Debug, Clone, Serialize)]
pub struct Restored {
    /// Where it is.
    pub path: PathBuf,
    /// What it has the content of.
    pub version: VersionRef,
    /// What was received for it, in order.
    pub received: Vec<VersionRef>,
    /// What an earlier run had received before it was broken off.
    pub went_on_from: Option<VersionRef>,
    /// What stood there is called so now.
    pub kept: Option<PathBuf>,
    /// What the filesystem can not hold.
    pub lacks: Vec<Lack>,
}

/// Says what [`restore`] would do, a line for each step, and does nothing.
///
/// # Errors
/// As [`restore`], as far as they can be foreseen.
pub fn explain(streams: &dyn Streams, request: &Request) -> Result<Vec<String>> {
    let target = Target::open(&request.to)?;
    let staging = Staging::find(&target)?;
    let shown = request.to.display();
    let mut lines = Vec::new();
    let left = staging.as_ref().and_then(Staging::in_place);
    if let Some((version, kept)) = &left {
        lines.push(format!("keep what was {shown} before @{} as {}", version.name, kept.display()));
    }
    if let (Some(staging), Some(_)) = (&staging, &left)
        && in_place(streams, staging, request).is_some()
    {
        return Ok(lines);
    }
    let there = may_be_put(&target, request)?;
    let held = staging.as_ref().and_then(|staging| held(streams, staging));
    let (steps, _) = steps(streams.all(), held, request)?;
    for step in steps {
        match step {
            Step::Receive { brings, .. } => lines.push(format!("apply @{} to a plain tree", brings.name)),
            Step::Place { version } => {
                if there == There::Something {
                    lines.push(format!("keep {shown} as {shown}.before-restore-TIME"));
                }
                lines.push(format!("make the plain tree of @{} be {shown}", version.name));
            }
        }
    }
    Ok(lines)
}

/// Restores. Broken off and called again, it goes on after the last stream that was applied whole, or begins anew.
///
/// # Errors
/// Something in the way, unless it is to be replaced; a broken chain ([`plan::Conflict`]); whatever reading and applying say. Unless that
/// can be tried again from where it is, nothing is left behind.
pub fn restore(streams: &dyn Streams, request: &Request, observe: &dyn Observe) -> Result<Restored> {
    let target = Target::open(&request.to)?;
    let mut found = Staging::find(&target)?;
    if let Some(staging) = found.take_if(|staging| staging.in_place().is_some()) {
        let done = in_place(streams, &staging, request);
        staging.clear()?;
        if let Some(done) = done {
            return Ok(done);
        }
    }
    may_be_put(&target, request)?;
    let mut staging = match found {
        Some(staging) => staging,
        None => Staging::new(&target)?,
    };
    let (steps, goes_on) = match steps(streams.all(), held(streams, &staging), request) {
        Ok(steps) => steps,
        Err(error) => return Err(give_up(staging, error, observe)),
    };
    let went_on_from = staging.holds().filter(|_| goes_on).cloned();
    if !goes_on {
        staging.clear()?;
        staging = Staging::new(&target)?;
    }
    let mut received = Vec::new();
    for step in &steps {
        let Step::Receive { stream, brings } = step else { continue };
        if let Err(error) = apply(streams, *stream, &mut staging, &request.to, observe) {
            return Err(give_up(staging, error, observe));
        }
        received.push(brings.clone());
    }
    let version = staging.holds().expect("the last step has put a version there").clone();
    let lacks = staging.lacks().to_vec();
    let kept = staging.put_in_place(request.replace)?;
    Ok(Restored { path: target.path().to_owned(), version, received, went_on_from, kept, lacks })
}

/// What is made so far, if that is believed.
fn held<'s>(streams: &dyn Streams, staging: &'s Staging<'_>) -> Option<&'s VersionRef> {
    staging.holds().filter(|_| is_believed(streams, staging))
}

/// Whether all that an earlier run has applied was signed by whom this one trusts.
fn is_believed(streams: &dyn Streams, staging: &Staging<'_>) -> bool {
    keys(streams).is_none_or(|keys| staging.was_signed_by(&keys))
}

fn keys(streams: &dyn Streams) -> Option<Vec<String>> {
    streams.trusted().map(|trusted| trusted.keys().iter().map(ToString::to_string).collect())
}

/// What a run that was killed right after putting it in place has done, if that is what is wanted.
fn in_place(streams: &dyn Streams, staging: &Staging<'_>, request: &Request) -> Option<Restored> {
    let (version, kept) = staging.in_place().filter(|_| is_believed(streams, staging))?;
    let steps = plan::restore(streams.all(), &holding(version), &request.wanted).ok()?;
    matches!(&steps[..], [Step::Place { version: wanted }] if wanted.guid == version.guid).then(|| Restored {
        path: request.to.canonicalize().unwrap_or_else(|_| request.to.clone()),
        version: version.clone(),
        received: Vec::new(),
        went_on_from: Some(version.clone()),
        kept: Some(kept),
        lacks: staging.lacks().to_vec(),
    })
}

fn may_be_put(target: &Target, request: &Request) -> Result<There> {
    match target.there()? {
        There::Something if !request.replace => Err(in_the_way(target.path()).into()),
        there => Ok(there),
    }
}

/// What is to be done, and whether it builds upon what is `held`.
fn steps(streams: &[Stream], held: Option<&VersionRef>, request: &Request) -> Result<(Vec<Step>, bool)> {
    let first_base = |steps: &[Step]| match steps.first() {
        Some(Step::Receive { stream, .. }) => streams[*stream].base,
        Some(Step::Place { version }) => Some(version.guid),
        None => None,
    };
    if let Some(held) = held
        && let Ok(steps) = plan::restore(streams, &holding(held), &request.wanted)
        && first_base(&steps) == Some(held.guid)
    {
        return Ok((steps, true));
    }
    let nothing = Inventory::default();
    let steps = plan::restore(streams, &nothing, &request.wanted)
        .map_err(|source| Error::Restore { to: request.to.display().to_string(), source })?;
    Ok((steps, false))
}

fn holding(version: &VersionRef) -> Inventory {
    let (kind, created) = (VersionKind::Snapshot, jiff::Timestamp::UNIX_EPOCH);
    let version = Version { id: version.clone(), kind, order: 1, created };
    Inventory::new("a plain tree", vec![version], Vec::new())
}

fn apply(
    streams: &dyn Streams,
    at: usize,
    staging: &mut Staging<'_>,
    to: &Path,
    observe: &dyn Observe,
) -> Result<()> {
    let stream = &streams.all()[at];
    let subject = |what: &str| format!("{what}@{} to {}", stream.brings.name, to.display());
    let needs = match stream.base {
        None => Needs::new(),
        Some(_) => streams
            .open(at)?
            .hand_to(&subject("the beginning of "), observe, |bytes| staging.prepare(bytes))?,
    };
    staging.trusting(keys(streams));
    streams.open(at)?.hand_to(&subject(""), observe, |bytes| staging.apply(&stream.brings, &needs, bytes))
}

/// Clears away what was made, unless the same can be tried again from there.
fn give_up(staging: Staging<'_>, error: Error, observe: &dyn Observe) -> Error {
    if error.class() == Class::Unreachable && staging.holds().is_some() {
        return error;
    }
    if let Err(why) = staging.clear() {
        observe.observe(Event::Warning { text: format!("what was made so far stays: {why}") });
    }
    error
}
