//! Brings a version back: receives what is missing, then puts it in place by cloning, never by copying.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::endpoint::zfs::ReceiveOptions;
use crate::endpoint::{self, Backend as _, Dataset, History, RollbackRequest, RolledBack, SendRequest};
use crate::exec::receive::Incoming;
use crate::exec::{Observe, Silent, send};
use crate::model::{Inventory, SnapshotName, VersionRef, quoted};
pub use crate::plan::restore::Wanted;
use crate::plan::restore::{self as plan, Step, Stream};
use crate::stream::container::Backend;
use crate::stream::reader::Keys;
use crate::stream::writer;
use crate::{Class, Error, Result};

pub mod plain;

/// Where the data comes from.
pub enum Source {
    /// A snapshot of a dataset, on this filesystem or on another one.
    Snapshot(Dataset, VersionRef),
    /// Containers in files, in any order.
    Files(Vec<PathBuf>),
    /// Containers that are elsewhere.
    Streams(Box<dyn plain::Streams>),
}

/// What is to be restored, and where to.
pub struct Request {
    /// Where the data comes from.
    pub source: Source,
    /// The dataset that gets it.
    pub to: Dataset,
    /// Which of several versions.
    pub wanted: Wanted,
    /// If the dataset is live: keep what it holds as a snapshot and put the restored content in its place.
    pub replace: bool,
    /// Nested datasets that have a snapshot of the same name come along (of a snapshot on the same filesystem).
    pub recursive: bool,
    /// What decrypts containers in files, and whose they must be.
    pub keys: Keys,
}

/// What was done.
#[derive(Debug, Clone, Serialize)]
pub struct Restored {
    /// What is in place now.
    pub version: VersionRef,
    /// What was received for it, in order.
    pub received: Vec<VersionRef>,
    /// Nested datasets that came along.
    pub nested: Vec<String>,
    /// What was replaced, if anything was.
    #[serde(skip)]
    pub replaced: Option<RolledBack>,
}

/// Says what [`restore`] would do, a line for each step, and does nothing.
///
/// # Errors
/// As [`restore`], as far as they can be foreseen.
pub fn explain(request: &Request) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    if let Source::Snapshot(from, version) = &request.source
        && is_direct(from, request)?
    {
        if request.to.is_in_use()? {
            let all = from.to_roll_back(version, request.recursive)?;
            lines.extend(all.iter().map(|(dataset, version)| exchange_of(dataset, version)));
            return Ok(lines);
        }
        lines.push(format!("clone {from}@{} to {}", version.name, request.to));
        let nested = if request.recursive { nested_with(from, &version.name)? } else { Vec::new() };
        lines.extend(nested.iter().map(|(child, _)| format!("clone {child}@{} into it", version.name)));
        return Ok(lines);
    }
    let (_, steps) = steps(request)?;
    for step in steps {
        lines.push(match step {
            Step::Receive { brings, .. } => format!("receive {}@{}", request.to, brings.name),
            Step::Place { version } if request.to.is_in_use()? => exchange_of(&request.to, &version),
            Step::Place { version } => format!("clone {0}@{1} to {0}", request.to, version.name),
        });
    }
    Ok(lines)
}

fn exchange_of(dataset: &Dataset, version: &VersionRef) -> String {
    format!("keep {dataset} as a snapshot and put {dataset}@{} in its place", version.name)
}

/// Restores. Interrupted anywhere and called again, it goes on after the last stream that was received whole.
///
/// # Errors
/// A live dataset in the way, unless it is to be replaced; a broken chain ([`plan::Conflict`]); whatever sending,
/// receiving and cloning say.
pub fn restore(request: &Request, observe: &dyn Observe) -> Result<Restored> {
    if let Source::Snapshot(from, version) = &request.source
        && is_direct(from, request)?
    {
        return clone_here(from, version, request);
    }
    let (streams, steps) = steps(request)?;
    let mut received = Vec::new();
    let mut replaced = None;
    let mut placed = None;
    for step in steps {
        match step {
            Step::Receive { stream, brings } => {
                fetch(request, &streams[stream], stream, observe)?;
                received.push(brings);
            }
            Step::Place { version } => {
                replaced = place(&request.to, &version)?;
                placed = Some(version);
            }
        }
    }
    let version = placed.expect("a plan ends with putting a version in place");
    Ok(Restored { version, received, nested: Vec::new(), replaced })
}

/// Whether nothing has to be received: the snapshot is on the target's own filesystem.
fn is_direct(from: &Dataset, request: &Request) -> Result<bool> {
    let same = from.shares_storage_with(&request.to);
    if !same && request.recursive {
        return Err(refused(
            request,
            "nested datasets come along only on the same filesystem; restore each by itself",
            None,
        ));
    }
    let live = request.to.is_in_use()?;
    if live && !request.replace {
        let name = match &request.source {
            Source::Snapshot(_, version) => quoted(format!("{from}@{}", version.name)),
            Source::Files(_) | Source::Streams(_) => "SOURCE".into(),
        };
        return Err(in_the_way(request, &name));
    }
    if same && live && *from != request.to {
        let hint = Some("choose a --to where nothing is yet".to_owned());
        return Err(refused(
            request,
            "it is live, and the snapshot is another dataset's of the same filesystem",
            hint,
        ));
    }
    Ok(same)
}

fn in_the_way(request: &Request, source: &str) -> Error {
    let hint = format!(
        "cowsnap restore {source} --to {} --replace (keeps what is there as a snapshot)",
        quoted(&request.to)
    );
    refused(request, "it is live", Some(hint))
}

fn refused(request: &Request, why: &str, hint: Option<String>) -> Error {
    endpoint::Error::Refused { op: "restore to", subject: request.to.to_string(), why: why.into(), hint }
        .into()
}

fn clone_here(from: &Dataset, version: &VersionRef, request: &Request) -> Result<Restored> {
    let done =
        |nested, replaced| Restored { version: version.clone(), received: Vec::new(), nested, replaced };
    if request.to.is_in_use()? {
        let options = RollbackRequest { keep_as: None, recursive: request.recursive };
        let replaced = from.rollback(version, &options)?;
        return Ok(done(replaced.moved.clone(), Some(replaced)));
    }
    let nested = if request.recursive { nested_with(from, &version.name)? } else { Vec::new() };
    let mut made = Vec::new();
    for (child, version) in std::iter::once((from.clone(), version.clone())).chain(nested.iter().cloned()) {
        let to = child.counterpart(from, &request.to);
        if let Err(error) = child.clone_at(&version, &to) {
            return Err(take_back(made, nested.len() + 1, error.into()));
        }
        made.push(to);
    }
    Ok(done(made.iter().skip(1).map(ToString::to_string).collect(), None))
}

/// Takes away the clones that were made before `error`, which then is all there is to say.
fn take_back(mut made: Vec<Dataset>, of: usize, error: Error) -> Error {
    while let Some(last) = made.last() {
        if let Err(error) = last.take_clone_back() {
            tracing::warn!(%error, "a clone stays behind");
            break;
        }
        made.pop();
    }
    match made.len() {
        0 => error,
        n => {
            let names: Vec<_> = made.iter().map(ToString::to_string).collect();
            let what = format!("{n} of {of} datasets restored: {}", names.join(", "));
            Error::Halfway { what, source: Box::new(error) }
        }
    }
}

/// The datasets below `dataset` that have a snapshot called `name`; parents first.
///
/// # Errors
/// A dataset that can not be read.
pub fn nested_with(dataset: &Dataset, name: &SnapshotName) -> Result<Vec<(Dataset, VersionRef)>> {
    let mut found = Vec::new();
    for other in dataset.all_inside()? {
        match other.version(name) {
            Ok(version) => found.push((other, version.id)),
            Err(endpoint::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

fn steps(request: &Request) -> Result<(Vec<Stream>, Vec<Step>)> {
    if request.to.is_in_use()? && !request.replace {
        return Err(in_the_way(request, "SOURCE"));
    }
    if let Source::Snapshot(from, _) = &request.source {
        from.backend("send")?;
    }
    request.to.backend("receive")?;
    let there = match request.to.inventory() {
        Err(endpoint::Error::NotFound { .. }) => Inventory::default(), // a dataset that is yet to be
        other => other?,
    };
    let streams = match &request.source {
        Source::Files(files) => files.iter().map(|file| stream_in(file, request)).collect::<Result<_>>()?,
        Source::Streams(streams) => streams.all().to_vec(),
        Source::Snapshot(from, version) => {
            let here = from.inventory()?;
            let at = here.versions().iter().position(|v| v.id == *version).unwrap_or(0);
            let common = here.versions()[..at].iter().rev().find(|v| there.snapshot_of(v.id.guid).is_some());
            vec![Stream { brings: version.clone(), base: common.map(|v| v.id.guid) }]
        }
    };
    let steps = plan::restore(&streams, &there, &request.wanted)
        .map_err(|source| Error::Restore { to: request.to.to_string(), source })?;
    expect_one_of_each_name(request, &steps)?;
    Ok((streams, steps))
}

/// Several versions of an archive may have one name; the snapshots of a dataset not.
fn expect_one_of_each_name(request: &Request, steps: &[Step]) -> Result<()> {
    let mut names = BTreeSet::new();
    for step in steps {
        if let Step::Receive { brings, .. } = step
            && !names.insert(&brings.name)
        {
            let why = format!("two of the snapshots that it takes are called @{}", brings.name);
            let hint = "a plain directory of another filesystem can get it".into();
            return Err(refused(request, &why, Some(hint)));
        }
    }
    Ok(())
}

/// What the stream in `file` brings, as far as its beginning tells.
fn stream_in(file: &Path, request: &Request) -> Result<Stream> {
    let incoming = incoming(file, &request.keys)?;
    incoming.expect_for(&request.to)?;
    let announced = incoming.announced().clone();
    Ok(Stream { brings: VersionRef { guid: announced.guid, name: announced.snapshot }, base: announced.base })
}

/// Whether all of these are streams of btrfs.
///
/// # Errors
/// A file that can not be read, or is no stream.
pub fn are_of_btrfs(files: &[PathBuf], keys: &Keys) -> Result<bool> {
    let backends = files.iter().map(|file| incoming(file, keys).map(|incoming| incoming.announced().backend));
    let all = backends.collect::<Result<Vec<_>>>()?;
    Ok(all.into_iter().all(|backend| backend == Backend::Btrfs))
}

fn incoming(file: &Path, keys: &Keys) -> Result<Incoming> {
    let opened = File::open(file).map_err(Error::io("open", file.display()))?;
    Incoming::open_by(opened, &file.display().to_string(), None, keys)
}

fn fetch(request: &Request, stream: &Stream, at: usize, observe: &dyn Observe) -> Result<()> {
    match &request.source {
        Source::Files(files) => {
            whole(incoming(&files[at], &request.keys)?).receive(&request.to, observe).map(drop)
        }
        Source::Streams(streams) => streams.receive(at, &request.to, whole, observe).map(drop),
        Source::Snapshot(from, _) => transfer(from, &request.to, stream, observe),
    }
}

/// What is broken off within a stream is begun anew by the next restore, so nothing of it is to be in the way.
fn whole(incoming: Incoming) -> Incoming {
    incoming.with(ReceiveOptions { keep_no_partial: true, restoring: true, ..ReceiveOptions::default() })
}

/// Sends and receives on this machine, over a container like any other transfer: hashed where it is made, checked where
/// it is applied.
fn transfer(from: &Dataset, to: &Dataset, stream: &Stream, observe: &dyn Observe) -> Result<()> {
    let inventory = from.inventory()?;
    let base = stream.base.and_then(|guid| inventory.by_guid(guid)).map(|version| version.id.clone());
    let wanted = SendRequest {
        version: stream.brings.clone(),
        base,
        clone_sources: Vec::new(),
        stream_version: 0,
        compressed: false,
        zfs: Default::default(),
    };
    let form = send::Form::Container(writer::Options { level: None, threads: 0 });
    let (input, output) = std::io::pipe().map_err(Error::io("make", "a pipe"))?;
    let backend = from.backend("send")?;
    std::thread::scope(|scope| {
        let sender = scope.spawn(move || {
            let job = send::Job { inventory: &inventory, backend, request: &wanted, form, behind: None };
            send::send(from, &job, output, &Silent)
        });
        let received = Incoming::open(input, &from.to_string(), None)
            .and_then(|stream| whole(stream).receive(to, observe));
        let sent = sender.join().expect("the sending thread does not panic");
        // A receiver that fails breaks the sender's pipe: its error is the cause. A sender that fails truncates the
        // container: then the sender's is.
        match (received, sent) {
            (Err(error), Err(cause)) if error.class() == Class::Corrupt => Err(cause),
            (Err(error), _) => Err(error),
            (Ok(_), sent) => sent.map(drop),
        }
    })
}

/// Makes `version` the live content of `to`.
fn place(to: &Dataset, version: &VersionRef) -> Result<Option<RolledBack>> {
    if to.is_in_use()? {
        return Ok(Some(to.rollback(version, &RollbackRequest::default())?));
    }
    to.put_in_place(version)?;
    Ok(None)
}
