//! Serves a client on the other side of a [`Line`]: looks, checks its rights, does it, answers.

use std::path::Path;
use std::sync::OnceLock;

use jiff::Timestamp;

use crate::endpoint::content::Reading;
use crate::endpoint::peer::message::{Ready, Refusal, Request, Said, Sending, Sent, Taken};
use crate::endpoint::peer::{Line, Reason, Rights};
use crate::endpoint::{self, Dataset, History, btrfs, path};
use crate::exec::receive::Incoming;
use crate::exec::sent::note_sent;
use crate::exec::transfer::{Leaving, Transfer};
use crate::exec::verify::{Shelf, recorded_here};
use crate::exec::{Event, Observe, Silent};
use crate::model::{Dates, Guid, Target, VersionRef};
use crate::stream::wire::Kind;
use crate::{Error, Result};

/// After so many bytes that were read for a client, it is looked whether that is still there.
const LOOK_UP_EVERY: u64 = 64 << 20;

impl Reason for Error {
    fn refusal(&self) -> Refusal {
        Refusal::of(self, self.class(), self.hint())
    }
}

/// Who serves, and what it allows.
pub struct Server<'a> {
    /// What the client may do.
    pub rights: &'a Rights,
    /// From a target to the dataset that it names.
    pub resolve: &'a dyn Fn(&Target) -> Result<Dataset>,
    /// How many bytes of a stream may have to come again after it was broken off.
    pub keep_every: u64,
    /// Where manifests are kept.
    pub state_dir: &'a Path,
}

impl Server<'_> {
    /// Serves until the client goes.
    ///
    /// What can not be done is said to the client, and it goes on; an error that leaves the conversation in the midst of a stream
    /// is said too, and ends it.
    ///
    /// # Errors
    /// Who speaks another protocol; what ended the conversation.
    pub fn serve(&self, line: &Line) -> Result<()> {
        line.greet()?;
        let mut shelf = Shelf::default();
        while let Some((kind, payload)) = line.next()? {
            let done = match kind {
                Kind::Request => {
                    let request = line.parse(&payload).map_err(Broken::from);
                    request.and_then(|request| self.answer(line, &request, &mut shelf))
                }
                Kind::Refusal => return Err(line.refused(&payload).into()),
                other => Err(Broken::by(corrupt(format!("{other:?} instead of a request")))),
            };
            match done {
                Ok(()) => {}
                Err(Broken { error, fatal }) => {
                    let said = line.say(Kind::Refusal, &error.refusal());
                    if fatal || said.is_err() {
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    fn answer(&self, line: &Line, request: &Request, shelf: &mut Shelf) -> Result<(), Broken> {
        self.rights.check(request)?;
        let Some(target) = request.target() else {
            return Err(Broken::by(corrupt("a stream that was not asked for".into())));
        };
        let dataset = self.dataset(target)?;
        match request {
            Request::Inventory { .. } => Ok(line.say(Kind::Answer, &said(&dataset)?)?),
            Request::Inside { .. } => {
                // What is no text is not found by what it is called here, which is said then.
                let names = dataset.names_inside()?;
                let names: Vec<_> = names.iter().map(|name| name.to_string_lossy()).collect();
                Ok(line.say(Kind::Answer, &names)?)
            }
            Request::Hold { version, tag, .. } => {
                expect_few_holds(&dataset, version)?;
                Ok(line.say(Kind::Answer, &dataset.hold(version, tag)?)?)
            }
            Request::Release { version, tag, .. } => {
                Ok(line.say(Kind::Answer, &dataset.release(version, tag)?)?)
            }
            Request::Destroy { version, .. } => Ok(line.say(Kind::Answer, &dataset.destroy(version)?)?),
            Request::Send { .. } => self.send(line, &dataset, request),
            Request::Receive { version, base, .. } => self.receive(line, &dataset, version, *base),
            Request::Recorded { .. } => Ok(line.say(Kind::Answer, &recorded_here(&dataset)?)?),
            Request::Manifest { version, all, .. } => {
                let asked = std::sync::atomic::AtomicU64::new(0);
                // Nobody else would notice that there is nobody any more to read for.
                let told = |bytes: u64| {
                    let now = bytes / LOOK_UP_EVERY;
                    match asked.fetch_max(now, std::sync::atomic::Ordering::Relaxed) < now {
                        true => line.put(Kind::Alive, &[]),
                        false => Ok(()),
                    }
                };
                let reading = Reading { state_dir: self.state_dir, all: *all, told: &told };
                Ok(line.say(Kind::Answer, &shelf.put(&dataset, version, &reading)?)?)
            }
            Request::Entries { version, dir, after, .. } => {
                Ok(line.say(Kind::Answer, &shelf.page(&dataset, version, dir, after.as_deref())?)?)
            }
            Request::Stream { .. } => unreachable!("it has no target"),
        }
    }

    /// The dataset that `target` names, by no other way than that name.
    fn dataset(&self, target: &str) -> Result<Dataset> {
        let target = Target::parse(target.as_ref())?;
        match &target {
            Target::Remote(address) => {
                return Err(Error::Usage {
                    what: format!("{address} is served by another machine"),
                    hint: None,
                });
            }
            Target::Path(path) if !self.rights.under.is_empty() => {
                expect_direct(path)?;
                // By no link that somebody puts there in between, and once more, of what was opened: it could have been renamed.
                let dataset = path::named_directly(path)?;
                dataset.expect_direct(path)?;
                return Ok(dataset);
            }
            _ => {}
        }
        (self.resolve)(&target)
    }

    fn send(&self, line: &Line, dataset: &Dataset, request: &Request) -> Result<(), Broken> {
        let Request::Send { version, base, level, zfs_flags, token, behind, .. } = request else {
            unreachable!("only called for it");
        };
        let what = Transfer { version: version.clone(), base: base.clone(), token: token.clone() };
        let leaving = Leaving::new(dataset, &what, *level, *zfs_flags)?.readable(self.rights.plaintext);
        let estimate = OnceLock::new();
        let observe = |event: Event| {
            if let Event::Started { total: Some(total), .. } = event {
                estimate.get_or_init(|| total);
            }
        };
        let (out, behind_it) = (line.data_out(), behind.is_some());
        let mut out = Answered { line, out, behind: behind_it, estimate: &estimate, begun: false };
        let sent = match leaving.send(behind.as_ref(), &mut out, &observe) {
            Err(error) if !out.begun && is_other_beginning(&error) => {
                out.behind = false;
                leaving.send(None, &mut out, &observe)
            }
            sent => sent,
        };
        let sent = sent.map_err(|error| Broken { fatal: out.begun, error })?;
        out.end().map_err(Broken::by)?;
        note_sent(dataset, &sent, &Silent);
        Ok(line.say(
            Kind::Answer,
            &Sent { stream_bytes: sent.stream_bytes, blake3: sent.blake3, written_bytes: sent.written_bytes },
        )?)
    }

    fn receive(
        &self,
        line: &Line,
        dataset: &Dataset,
        version: &VersionRef,
        base: Option<Guid>,
    ) -> Result<(), Broken> {
        dataset.backend("receive")?;
        expect_missing(dataset, version)?;
        let kept = dataset.kept(version.guid, base)?;
        line.say(Kind::Answer, &Ready { prefix: kept.as_ref().map(btrfs::Kept::prefix) })?;
        let Some((kind, payload)) = line.next()? else { return Ok(()) };
        let kept = match kind {
            Kind::Request => match line.parse(&payload)? {
                Request::Stream { behind: false } => {
                    kept.map_or(Ok(()), btrfs::Kept::give_up)?;
                    None
                }
                Request::Stream { behind: true } if kept.is_some() => kept,
                other => return Err(Broken::by(corrupt(format!("{other:?} instead of a stream")))),
            },
            // The client has nothing to send after all.
            Kind::Refusal => return Ok(()),
            other => return Err(Broken::by(corrupt(format!("{other:?} instead of a stream")))),
        };
        let taken = self.take(line, dataset, version, base, kept).map_err(Broken::by)?;
        Ok(line.say(Kind::Answer, &taken)?)
    }

    fn take(
        &self,
        line: &Line,
        dataset: &Dataset,
        version: &VersionRef,
        base: Option<Guid>,
        kept: Option<btrfs::Kept>,
    ) -> Result<Taken> {
        let (data, name) = (line.data(), Some(version.name.clone()));
        let incoming = match kept {
            Some(kept) => Incoming::resume(data, "the stream", name, kept)?,
            None => Incoming::open(data, "the stream", name)?,
        }
        .keeping(self.keep_every);
        let incoming = match self.rights.append_only {
            true => incoming.dated(dates_of(dataset)?),
            false => incoming,
        };
        let announced = incoming.announced();
        if !announced.container || (announced.guid, announced.base) != (version.guid, base) {
            return Err(corrupt(format!("{version} was announced, and another stream came")));
        }
        let warnings = std::sync::Mutex::new(Vec::new());
        let observe = |event: Event| {
            if let Event::Warning { text } = event {
                warnings.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(text);
            }
        };
        let received = incoming.receive(dataset, &observe as &dyn Observe)?;
        let warnings = warnings.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(Taken {
            version: received.version,
            stream_bytes: received.stream_bytes,
            blake3: received.blake3,
            warnings,
        })
    }
}

/// Why a request was not answered, and whether the conversation is in the midst of something.
struct Broken {
    error: Error,
    fatal: bool,
}

impl Broken {
    fn by(error: impl Into<Error>) -> Self {
        Self { error: error.into(), fatal: true }
    }
}

impl<E: Into<Error>> From<E> for Broken {
    fn from(error: E) -> Self {
        Self { error: error.into(), fatal: false }
    }
}

fn corrupt(why: String) -> Error {
    endpoint::Error::Corrupt { what: "conversation", why, source: None }.into()
}

/// Whether the stream is not the one that was broken off.
pub(super) fn is_other_beginning(error: &Error) -> bool {
    matches!(error, Error::Container { source: crate::stream::container::Error::OtherPrefix { .. }, .. })
}

fn said(dataset: &Dataset) -> Result<Option<Said>> {
    let backend = dataset.backend("replicate")?;
    match dataset.inventory_to_replicate() {
        Ok(inventory) => Ok(Some(Said::of(&inventory, backend))),
        Err(endpoint::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Refuses a path that leads elsewhere than it says: somebody whose files are served could have put a link there.
fn expect_direct(path: &Path) -> Result<()> {
    let existing = path.ancestors().find(|above| above.symlink_metadata().is_ok()).unwrap_or(Path::new("/"));
    let real = existing.canonicalize().map_err(Error::io("look at", existing.display()))?;
    match real == existing {
        true => Ok(()),
        false => Err(endpoint::Error::Denied {
            op: "serve",
            subject: path.display().to_string(),
            lacking: format!("{} is or lies behind a symbolic link", existing.display()),
            hint: None,
        }
        .into()),
    }
}

/// Refuses the hold that would be one too many: each costs its keeper space and time.
fn expect_few_holds(dataset: &Dataset, version: &VersionRef) -> Result<()> {
    const MOST: usize = 64;
    match dataset.inventory()?.holds_of(version).count() < MOST {
        true => Ok(()),
        false => Err(endpoint::Error::Refused {
            op: "hold",
            subject: format!("{dataset}@{}", version.name),
            why: format!("{MOST} hold it already, and a peer may not add to them"),
            hint: Some("cowsnap holds, there, shows them".into()),
        }
        .into()),
    }
}

/// Between when the next version of `dataset` may say that it was made: retention on this side goes by it.
fn dates_of(dataset: &Dataset) -> Result<Dates> {
    let now = Timestamp::now();
    match dataset.inventory() {
        Err(endpoint::Error::NotFound { .. }) => Ok(Dates::upon(&[], now)),
        inventory => Ok(Dates::upon(inventory?.versions(), now)),
    }
}

fn expect_missing(dataset: &Dataset, version: &VersionRef) -> Result<()> {
    let inventory = match dataset.inventory() {
        Err(endpoint::Error::NotFound { .. }) => return Ok(()),
        inventory => inventory?,
    };
    let there = inventory.snapshot_of(version.guid).or_else(|| {
        let of_the_name = inventory.by_name(&version.name);
        of_the_name.filter(|there| there.kind == crate::model::VersionKind::Snapshot)
    });
    match there {
        None => Ok(()),
        Some(there) => Err(endpoint::Error::Exists {
            what: "snapshot",
            subject: format!("{dataset}@{}", there.id.name),
            hint: None,
        }
        .into()),
    }
}

/// The stream of an answer: that it comes, and how, is said before its first byte.
struct Answered<'a> {
    line: &'a Line,
    out: crate::endpoint::peer::DataOut,
    behind: bool,
    estimate: &'a OnceLock<u64>,
    begun: bool,
}

impl Answered<'_> {
    fn begin(&mut self) -> endpoint::Result<()> {
        if !std::mem::replace(&mut self.begun, true) {
            let estimate = self.estimate.get().copied();
            self.line.say(Kind::Answer, &Sending { behind: self.behind, estimate })?;
        }
        Ok(())
    }

    fn end(mut self) -> endpoint::Result<()> {
        self.begin()?;
        self.out.end()
    }
}

impl std::io::Write for Answered<'_> {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.begin().map_err(std::io::Error::other)?;
        self.out.write(buf)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}
