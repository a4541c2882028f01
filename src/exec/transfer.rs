//! Brings one version from one place to another, whichever machines they are on.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::endpoint::peer::message::Request;
use crate::endpoint::peer::{Offered, Peer};
use crate::endpoint::{self, Dataset, History, SendRequest, btrfs, zfs};
use crate::exec::receive::Incoming;
use crate::exec::send::{Form, Job, Sent, send, send_to_all};
use crate::exec::serve::is_other_beginning;
use crate::exec::throttle::{Paced, Throttle};
use crate::exec::{Event, Observe};
pub use crate::model::Moved;
use crate::model::{Guid, HoldTag, Inventory, SnapshotName, VersionRef};
use crate::stream::container::{Backend, Prefix, ZfsFlags};
use crate::stream::fan::{Branch, Taker};
use crate::stream::writer;
use crate::sys::pipe::{self, STREAM_PIPE};
use crate::{Error, Result};

/// Where versions are.
#[derive(Clone)]
pub enum Place {
    /// On this machine.
    Here(Dataset),
    /// On another one, or on this one in the hands of another process.
    There(Peer),
}

impl Place {
    /// What is there, and whose streams it sends and receives; a peer does not say that of what it does not have. An empty inventory if
    /// there is no such dataset.
    ///
    /// # Errors
    /// What the place says.
    pub fn look(&self) -> Result<(Inventory, Option<Backend>)> {
        match self {
            Self::Here(dataset) => {
                let backend = dataset.backend("replicate")?;
                match dataset.inventory_to_replicate() {
                    Err(endpoint::Error::NotFound { .. }) => Ok((self.empty(), Some(backend))),
                    inventory => Ok((inventory?, Some(backend))),
                }
            }
            Self::There(peer) => match peer.said()? {
                Some((inventory, backend)) => Ok((inventory, Some(backend))),
                None => Ok((self.empty(), peer.backend())),
            },
        }
    }

    /// Whether a version can be marked there by a bookmark whose name begins with `tag`: on ZFS, on this machine.
    pub(super) fn can_mark(&self, tag: &HoldTag) -> bool {
        matches!(self, Self::Here(Dataset::Zfs(dataset)) if dataset.can_name(tag.as_str().len() + 17))
    }

    /// Makes a bookmark of `version`; one that is there already is it.
    ///
    /// # Errors
    /// What the place says.
    pub(super) fn mark(&self, version: &VersionRef, name: &SnapshotName) -> endpoint::Result<()> {
        match self {
            Self::Here(Dataset::Zfs(dataset)) => dataset.mark(version, name),
            _ => Err(endpoint::Error::Refused {
                op: "bookmark",
                subject: format!("{self}@{}", version.name),
                why: "there are bookmarks on ZFS, and on this machine only".into(),
                hint: None,
            }),
        }
    }

    fn empty(&self) -> Inventory {
        Inventory::new(self.to_string(), Vec::new(), Vec::new())
    }
}

impl Place {
    /// How the datasets inside are called behind this one's name, parents first.
    ///
    /// # Errors
    /// What the place says.
    pub fn inside(&self) -> Result<Vec<PathBuf>> {
        match self {
            Self::Here(dataset) => Ok(dataset.names_inside()?),
            Self::There(peer) => Ok(peer.inside()?.into_iter().map(PathBuf::from).collect()),
        }
    }

    /// The dataset that is called `relative` below this one.
    ///
    /// # Errors
    /// A name that could lead elsewhere, or that no dataset there can have.
    pub fn below(&self, relative: &Path) -> Result<Self> {
        match self {
            Self::Here(dataset) => Ok(Self::Here(dataset.named_below(relative)?)),
            Self::There(peer) => Ok(Self::There(peer.below(relative)?)),
        }
    }

    /// Whether it is a disk of this machine in the hands of another process that was given up, as nothing moved for too long.
    pub fn hangs(&self) -> bool {
        matches!(self, Self::There(peer) if peer.address().is_aside() && peer.hangs())
    }

    /// The same place, over a new connection if it is on another machine.
    ///
    /// # Errors
    /// As [`Peer::connect`].
    pub fn again(&self) -> Result<Self> {
        match self {
            Self::Here(dataset) => Ok(Self::Here(dataset.clone())),
            Self::There(peer) => Ok(Self::There(peer.again()?)),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Here(dataset) => dataset.fmt(f),
            Self::There(peer) => peer.address().fmt(f),
        }
    }
}

impl History for Place {
    fn inventory(&self) -> endpoint::Result<Inventory> {
        match self {
            Self::Here(dataset) => dataset.inventory(),
            Self::There(peer) => peer.inventory(),
        }
    }

    fn hold(&self, version: &VersionRef, tag: &HoldTag) -> endpoint::Result<()> {
        match self {
            Self::Here(dataset) => dataset.hold(version, tag),
            Self::There(peer) => peer.hold(version, tag),
        }
    }

    fn release(&self, version: &VersionRef, tag: &HoldTag) -> endpoint::Result<()> {
        match self {
            Self::Here(dataset) => dataset.release(version, tag),
            Self::There(peer) => peer.release(version, tag),
        }
    }

    fn destroy(&self, version: &VersionRef) -> endpoint::Result<()> {
        match self {
            Self::Here(dataset) => dataset.destroy(version),
            Self::There(peer) => peer.destroy(version),
        }
    }
}

/// How a stream travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// zstd's level where a stream leaves or enters this machine; `None` stores. Within it nothing is compressed.
    pub level: Option<i32>,
    /// At most so many bytes per second, to all targets together.
    pub bandwidth: Option<u64>,
    /// What a ZFS stream is asked to be; `None` leaves it to the chain.
    pub zfs_flags: Option<ZfsFlags>,
    /// How many bytes of a stream may have to come again here after it was broken off.
    pub keep_every: u64,
}

/// What to bring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// Which version.
    pub version: VersionRef,
    /// What the target has; `None` for all of it.
    pub base: Option<VersionRef>,
    /// ZFS: by what the target says how to go on with what it has in part.
    pub token: Option<String>,
}

impl Transfer {
    pub(super) fn base_guid(&self) -> Option<Guid> {
        self.base.as_ref().map(|base| base.guid)
    }
}

/// Brings one version from `from` to `to`.
///
/// # Errors
/// What either of them says; [`Error::Endpoint`] with `Corrupt` if they disagree on what arrived.
pub fn transfer(
    from: &Place,
    to: &Place,
    what: &Transfer,
    options: &Options,
    observe: &dyn Observe,
) -> Result<Moved> {
    let start = Instant::now();
    let done = match (from, to) {
        (Place::Here(from), Place::There(to)) => push(from, to, what, options, observe),
        (Place::Here(from), Place::Here(to)) => copy(from, to, what, options, observe),
        (Place::There(from), Place::Here(to)) => pull(from, to, what, options, observe),
        (Place::There(from), Place::There(to)) => relay(from, to, what, options, observe),
    }?;
    Ok(done.moved(what, start))
}

/// A stream that was brought.
pub(super) struct Brought {
    pub stream_bytes: u64,
    pub resumed_bytes: u64,
    pub wire_bytes: u64,
    pub blake3: String,
}

impl Brought {
    /// It as what was wanted, begun at `start`.
    pub fn moved(self, what: &Transfer, start: Instant) -> Moved {
        let Self { stream_bytes, resumed_bytes, wire_bytes, blake3 } = self;
        Moved {
            snapshot: what.version.name.clone(),
            guid: what.version.guid,
            base: what.base_guid(),
            stream_bytes,
            resumed_bytes,
            wire_bytes,
            blake3,
            seconds: start.elapsed().as_secs_f64(),
            targets: 1,
        }
    }
}

/// A version on its way out of a dataset here, as often as it takes.
pub(super) struct Leaving<'a> {
    from: &'a Dataset,
    inventory: Inventory,
    backend: Backend,
    request: SendRequest,
    packing: writer::Options,
}

impl<'a> Leaving<'a> {
    /// `what`, compressed at `level`; a ZFS stream made as `zfs_flags` say.
    ///
    /// # Errors
    /// A dataset that can not be read; a token of something else.
    pub fn new(
        from: &'a Dataset,
        what: &Transfer,
        level: Option<i32>,
        zfs_flags: Option<ZfsFlags>,
    ) -> Result<Self> {
        let packing = writer::Options { level, threads: 0 };
        let request = request(from, what, zfs_flags)?;
        Ok(Self { from, inventory: from.inventory()?, backend: from.backend("send")?, request, packing })
    }

    /// As it is, if what it holds may go out readable; else only so that nobody reads it on the way who has no key.
    pub fn readable(mut self, may_be: bool) -> Self {
        self.request.zfs.sealed = !may_be;
        self
    }

    /// Sends it, or what comes behind `behind`.
    ///
    /// # Errors
    /// As [`send()`].
    pub fn send(
        &self,
        behind: Option<&Prefix>,
        out: impl Write + Send,
        observe: &dyn Observe,
    ) -> Result<Sent> {
        send(self.from, &self.job(behind), out, observe)
    }

    /// Sends it to each of `branches`, behind what that has: it is read once.
    ///
    /// # Errors
    /// As [`send_to_all`].
    pub fn send_to_all<T: Taker + Send>(
        &self,
        branches: Vec<Branch<T>>,
        observe: &dyn Observe,
    ) -> Result<Sent> {
        send_to_all(self.from, &self.job(None), branches, &self.packing, observe)
    }

    fn job<'b>(&'b self, behind: Option<&'b Prefix>) -> Job<'b> {
        let Self { inventory, backend, request, packing, .. } = self;
        Job { inventory, backend: *backend, request, form: Form::Container(*packing), behind }
    }
}

/// About how many bytes `what` would be; `None` where nobody can tell without sending it: a peer is asked for nothing but the stream itself.
/// What a token says is there already is not among them.
///
/// # Errors
/// What would be refused as it is sent.
pub(super) fn estimate(from: &Place, what: &Transfer, options: &Options) -> Result<Option<u64>> {
    match from {
        Place::Here(from) => Ok(from.estimate(&request(from, what, options.zfs_flags)?)?),
        Place::There(_) => Ok(None),
    }
}

fn request(from: &Dataset, what: &Transfer, flags: Option<ZfsFlags>) -> Result<SendRequest> {
    let Some(token) = &what.token else {
        return Ok(SendRequest {
            version: what.version.clone(),
            base: what.base.clone(),
            clone_sources: Vec::new(),
            stream_version: 0,
            compressed: false,
            zfs: zfs::SendOptions { flags, ..zfs::SendOptions::default() },
        });
    };
    let mut rest = from.to_resume(token)?;
    rest.zfs.flags = flags;
    expect_asked_for(&rest, what)?;
    Ok(rest)
}

/// Refuses a token of another version, or upon another one, than is to be brought.
fn expect_asked_for(rest: &SendRequest, what: &Transfer) -> Result<()> {
    if (rest.version.guid, rest.base.as_ref().map(|base| base.guid)) == (what.version.guid, what.base_guid())
    {
        return Ok(());
    }
    Err(endpoint::Error::Refused {
        op: "go on with",
        subject: format!("@{}", what.version.name),
        why: format!("what was received in part is @{}, upon something else", rest.version.name),
        hint: Some("cowsnap destroy TARGET@%partial, there, gives it up".into()),
    }
    .into())
}

/// From here to a peer.
fn push(
    from: &Dataset,
    to: &Peer,
    what: &Transfer,
    options: &Options,
    observe: &dyn Observe,
) -> Result<Brought> {
    let level = options.level.filter(|_| !to.address().is_aside());
    let leaving = Leaving::new(from, what, level, options.zfs_flags)?;
    let offered = to.offer(&what.version, what.base_guid())?;
    let send_behind = |offered: &Offered<'_>, behind: bool| {
        let behind = offered.prefix.as_ref().filter(|_| behind);
        offered.send(behind.is_some(), |out| {
            leaving.send(behind, Throttle::new(out, options.bandwidth), observe)
        })
    };
    let (resumed, done) = match send_behind(&offered, true) {
        Err(error) if is_other_beginning(&error) => {
            observe.observe(changed_since(&what.version));
            (false, send_behind(&offered, false))
        }
        done => (offered.prefix.is_some(), done),
    };
    let (sent, taken) = done?;
    warn(to, taken.warnings, observe);
    expect_same(&what.version, (sent.stream_bytes, &sent.blake3), (taken.stream_bytes, &taken.blake3))?;
    let before = offered.prefix.as_ref().filter(|_| resumed).map_or(0, |prefix| prefix.stream_len());
    Ok(Brought {
        stream_bytes: sent.stream_bytes,
        resumed_bytes: before,
        wire_bytes: sent.written_bytes,
        blake3: sent.blake3,
    })
}

/// Passes on what a peer wants the user to know.
pub(super) fn warn(peer: &Peer, warnings: Vec<String>, observe: &dyn Observe) {
    for text in warnings {
        let text = format!("{}: {}", peer.address().whom(), text.escape_debug());
        observe.observe(Event::Warning { text });
    }
}

fn changed_since(version: &VersionRef) -> Event {
    let text = format!(
        "the stream of @{} is not the one that was broken off: it begins again from the start",
        version.name
    );
    Event::Warning { text }
}

pub(super) fn expect_same(version: &VersionRef, sent: (u64, &str), taken: (u64, &str)) -> Result<()> {
    if sent == taken {
        return Ok(());
    }
    let why = format!(
        "@{}: {} bytes with blake3 {} were sent, {} with {} arrived",
        version.name,
        sent.0,
        sent.1.escape_debug(),
        taken.0,
        taken.1.escape_debug()
    );
    Err(endpoint::Error::Corrupt { what: "transfer", why, source: None }.into())
}

/// Within this machine.
fn copy(
    from: &Dataset,
    to: &Dataset,
    what: &Transfer,
    options: &Options,
    observe: &dyn Observe,
) -> Result<Brought> {
    let kept = to.kept(what.version.guid, what.base_guid())?;
    let had_some = kept.is_some();
    match copy_behind(from, to, kept, what, options, observe) {
        Err(error) if had_some && is_other_beginning(&error) => {
            observe.observe(changed_since(&what.version));
            copy_behind(from, to, None, what, options, observe)
        }
        done => done,
    }
}

fn copy_behind(
    from: &Dataset,
    to: &Dataset,
    kept: Option<btrfs::Kept>,
    what: &Transfer,
    options: &Options,
    observe: &dyn Observe,
) -> Result<Brought> {
    let leaving = Leaving::new(from, what, None, options.zfs_flags)?;
    let behind = kept.as_ref().map(btrfs::Kept::prefix);
    let before = behind.as_ref().map_or(0, |prefix| prefix.stream_len());
    let (reader, writer) = pipe::pipe(STREAM_PIPE).map_err(Error::io("send", from))?;
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let out = std::fs::File::from(writer);
            leaving.send(behind.as_ref(), Throttle::new(out, options.bandwidth), observe)
        });
        let name = Some(what.version.name.clone());
        let received = open(std::fs::File::from(reader), "the stream", name, kept)
            .and_then(|incoming| incoming.keeping(options.keep_every).receive(to, &Warnings(observe)));
        let sent = sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match (sent, received) {
            (Ok(sent), Ok(received)) => {
                let arrived = (received.stream_bytes, &*received.blake3);
                expect_same(&what.version, (sent.stream_bytes, &sent.blake3), arrived)?;
                Ok(Brought {
                    stream_bytes: sent.stream_bytes,
                    resumed_bytes: before,
                    wire_bytes: sent.written_bytes,
                    blake3: sent.blake3,
                })
            }
            // Who sends only notices that nobody takes it.
            (Err(sent), Err(received)) if is_broken_pipe(&sent) => Err(received),
            (Err(error), _) | (_, Err(error)) => Err(error),
        }
    })
}

pub(super) fn open(
    input: impl io::Read + Send + 'static,
    source: &str,
    name: Option<SnapshotName>,
    kept: Option<btrfs::Kept>,
) -> Result<Incoming> {
    match kept {
        Some(kept) => Incoming::resume(input, source, name, kept),
        None => Incoming::open(input, source, name),
    }
}

/// Passes on warnings alone: how far a transfer is, is told by its other side.
struct Warnings<'a>(&'a dyn Observe);

impl Observe for Warnings<'_> {
    fn observe(&self, event: Event) {
        if let Event::Warning { .. } = event {
            self.0.observe(event);
        }
    }
}

/// Says how much is about to come, where who takes it does not know.
struct About<'a> {
    observe: &'a dyn Observe,
    total: Option<u64>,
}

impl Observe for About<'_> {
    fn observe(&self, event: Event) {
        self.observe.observe(match event {
            Event::Started { op, subject, total } => {
                Event::Started { op, subject, total: total.or(self.total) }
            }
            other => other,
        });
    }
}

fn is_broken_pipe(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
}

/// From a peer to here.
fn pull(
    from: &Peer,
    to: &Dataset,
    what: &Transfer,
    options: &Options,
    observe: &dyn Observe,
) -> Result<Brought> {
    let base = what.base_guid();
    let kept = to.kept(what.version.guid, base)?;
    let behind = kept.as_ref().map(btrfs::Kept::prefix);
    let fetched = from.fetch(&asked(from, what, options, behind.clone()))?;
    let before = behind.filter(|_| fetched.behind).map_or(0, |prefix| prefix.stream_len());
    if kept.is_some() && !fetched.behind {
        observe.observe(changed_since(&what.version));
    }
    let kept = kept.filter(|_| fetched.behind);
    let source = from.address().to_string();
    let stream = Paced::new(fetched.stream(), options.bandwidth);
    let incoming = open(stream, &source, Some(what.version.name.clone()), kept)?;
    expect_announced(&incoming, &source, what)?;
    let about = About { observe, total: fetched.estimate.map(|total| total.saturating_sub(before)) };
    let received = incoming.keeping(options.keep_every).receive(to, &about)?;
    let sent = fetched.end()?;
    let arrived = (received.stream_bytes, &*received.blake3);
    expect_same(&what.version, (sent.stream_bytes, &sent.blake3), arrived)?;
    Ok(Brought {
        stream_bytes: sent.stream_bytes,
        resumed_bytes: before,
        wire_bytes: sent.written_bytes,
        blake3: sent.blake3,
    })
}

/// Refuses another stream than was asked for.
pub(super) fn expect_announced(incoming: &Incoming, source: &str, what: &Transfer) -> Result<()> {
    let announced = incoming.announced();
    if announced.container && (announced.guid, announced.base) == (what.version.guid, what.base_guid()) {
        return Ok(());
    }
    let why = format!("{source}: another stream than that of @{} came", what.version.name);
    Err(endpoint::Error::Corrupt { what: "conversation", why, source: None }.into())
}

pub(super) fn asked(from: &Peer, what: &Transfer, options: &Options, behind: Option<Prefix>) -> Request {
    Request::Send {
        target: from.address().target().to_owned(),
        version: what.version.clone(),
        base: what.base.clone(),
        level: options.level,
        zfs_flags: options.zfs_flags,
        token: what.token.clone(),
        behind,
    }
}

/// From one peer to another, through here; its bytes are checked where they arrive.
fn relay(
    from: &Peer,
    to: &Peer,
    what: &Transfer,
    options: &Options,
    observe: &dyn Observe,
) -> Result<Brought> {
    let offered = to.offer(&what.version, what.base_guid())?;
    let fetched = from.fetch(&asked(from, what, options, offered.prefix.clone()))?;
    let subject = format!("{}@{}", from.address(), what.version.name);
    let before = offered.prefix.as_ref().filter(|_| fetched.behind).map_or(0, |prefix| prefix.stream_len());
    if offered.prefix.is_some() && !fetched.behind {
        observe.observe(changed_since(&what.version));
    }
    let total = fetched.estimate.map(|total| total.saturating_sub(before));
    observe.observe(Event::Started { op: "send", subject: subject.clone(), total });
    let (bytes, taken) = offered.send(fetched.behind, |out| {
        let mut stream = super::meter::Meter::new(fetched.stream(), observe);
        let mut out = Throttle::new(out, options.bandwidth);
        let copied = io::copy(&mut stream, &mut out).and_then(|len| out.flush().map(|()| len));
        copied.map_err(Error::io("pass on", &subject))
    })?;
    observe.observe(Event::Finished { bytes });
    warn(to, taken.warnings, observe);
    let sent = fetched.end()?;
    expect_same(&what.version, (sent.stream_bytes, &sent.blake3), (taken.stream_bytes, &taken.blake3))?;
    Ok(Brought {
        stream_bytes: sent.stream_bytes,
        resumed_bytes: before,
        wire_bytes: bytes,
        blake3: sent.blake3,
    })
}
