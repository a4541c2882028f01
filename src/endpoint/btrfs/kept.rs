//! A receive that was broken off, kept so that it can go on.
//!
//! While a stream is applied, the subvolume in the making is snapshotted now and then between two commands, read-only, as
//! `%<staging>.<number>` beside it, and the staging directory's `checkpoint` says what else is needed to go on from there: where in
//! the stream that was, and what the stream's first frames hash to, so that a sender can tell whether it still sends the same bytes.
//! What had come of the last of these frames and was not applied yet lies beside it, as `tail.<number>`.
//! A snapshot is on disk when the kernel's call returns, and only then is it written down.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::dataset::Dataset;
use super::grounded::Known;
use super::home::Home;
use super::receive::Midway;
use super::staging::{Entry, Intent, Staged, Staging, read_intent, staged_name};
use super::store::{Store, list, open_beneath, read_at, remove_at, write_at};
use crate::endpoint::dir::lock;
use crate::endpoint::{Error, Result};
use crate::model::{Digest, Guid};
use crate::stream::container::{FRAME_LEN, Piece, Prefix};
use crate::stream::reader::Marks;
use crate::sys::btrfs;

/// The file of a staging directory that says how to go on.
pub const CHECKPOINT: &str = "checkpoint";
/// How long to look whether a receive that was broken off is still somebody's: its process may be about to end.
const TRIES: u32 = 50;
const TRY_AGAIN: Duration = Duration::from_millis(20);
/// A slow stream is kept that often, if a sixteenth of the bytes have come.
const SLOW: Duration = Duration::from_secs(10);

/// How often to keep what was received so far.
#[derive(Debug, Clone)]
pub struct Keeping {
    /// What the stream hashes to as far as it was verified.
    pub marks: Marks,
    /// After so many bytes of stream.
    pub every: u64,
}

impl PartialEq for Keeping {
    fn eq(&self, other: &Self) -> bool {
        self.every == other.every
    }
}

impl Eq for Keeping {}

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    /// The snapshot's number.
    number: u64,
    /// What the stream's first frames hash to: all that need not come again.
    prefix: Prefix,
    /// What of them was not applied yet, from [`Midway::offset`] on.
    #[serde(default)]
    tail: Option<Piece>,
    /// What was applied behind them, of a last frame that is shorter than others: it comes again, and is passed over.
    #[serde(default)]
    passed: Option<Piece>,
    /// Where to go on.
    midway: Midway,
    /// When that was.
    made: Timestamp,
    /// Whether what was taken of other snapshots so far is not certain; who did not say does not know.
    #[serde(default = "not_known")]
    ungrounded: bool,
    /// The place that it came from with what was taken of other snapshots so far; `None` if these are several, or one is not known.
    #[serde(default)]
    from: Option<Digest>,
    /// What its base had come as.
    #[serde(default)]
    upon: Option<Digest>,
}

fn not_known() -> bool {
    true
}

/// What of a receive was done before.
#[derive(Debug, Default)]
pub(super) struct Begun {
    /// Where in the stream to go on; `None` at its beginning.
    pub(super) midway: Option<Midway>,
    /// How often it was kept.
    pub(super) number: u64,
    /// What is known of it and of what was taken of other snapshots.
    pub(super) origins: Origins,
}

/// Where a receive and what it builds upon came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Origins {
    /// Whether what was taken of other snapshots is not certain to be what the sender has.
    pub(super) ungrounded: bool,
    /// The place that all of it came from; `None` if these are several, or one is not known.
    pub(super) from: Option<Digest>,
    /// What its base came as, once that was looked at; `Some(None)` if nobody knows, or it was replaced on the way.
    pub(super) upon: Option<Option<Digest>>,
}

impl Origins {
    /// Takes note of the base.
    pub(super) fn add_base(&mut self, known: Known) {
        let same = |before: Option<Digest>| before.filter(|_| before == known.came_as);
        self.upon = Some(self.upon.map_or(known.came_as, same));
    }

    /// Takes note of a snapshot that it builds upon.
    pub(super) fn add(&mut self, known: Known) {
        self.ungrounded |= !known.is_ground;
        self.from = self.from.filter(|from| known.from == Some(*from));
    }
}

/// The checkpoint in a staging directory; `None` if there is none, or one that makes no sense to this version.
pub(super) fn read(staging: BorrowedFd<'_>) -> Option<Checkpoint> {
    let bytes = read_at(staging, CHECKPOINT).ok()??;
    let checkpoint: Checkpoint = serde_json::from_slice(&bytes).ok()?;
    // What a sender would refuse to compare is not offered.
    for piece in [&checkpoint.tail, &checkpoint.passed].into_iter().flatten() {
        piece.check().ok()?;
    }
    let len = |piece: &Option<Piece>| piece.as_ref().map_or(0, |piece| piece.len);
    let (tail, passed) = (len(&checkpoint.tail), len(&checkpoint.passed));
    let is_sound =
        checkpoint.midway.offset.checked_add(tail)? == checkpoint.prefix.stream_len().checked_add(passed)?;
    is_sound.then_some(checkpoint)
}

/// How many bytes of the stream need not come again, if the receive of the staging directory `id`, into the dataset of that key, can go on: none if
/// the disk has lost something of it, as who would go on finds out, too. What is still being received is taken at its word.
pub(super) fn len(store: &Store, staging: BorrowedFd<'_>, id: &OsStr, key: &str, live: bool) -> Option<u64> {
    let checkpoint = read(staging)?;
    let is_there = live || Ground::find(store, key, staging, id, &checkpoint).is_ok();
    Some(if is_there { checkpoint.prefix.stream_len() } else { 0 })
}

/// What the stream builds upon, [`Guid::NIL`] if upon nothing, if the receive of that staging directory can go on.
pub(super) fn base(staging: BorrowedFd<'_>) -> Option<Guid> {
    read(staging).map(|checkpoint| checkpoint.midway.origin.base.map_or(Guid::NIL, |(uuid, _)| Guid(uuid)))
}

impl Checkpoint {
    /// What of the prefix is still to be applied, as it lies in the directory `staging`.
    fn tail(&self, staging: BorrowedFd<'_>) -> Result<Vec<u8>, String> {
        let Some(tail) = &self.tail else { return Ok(Vec::new()) };
        let bytes = read_at(staging, name_of_tail(self.number));
        let bytes = bytes.map_err(|error| told(&error))?.unwrap_or_default();
        match Piece::of(&bytes).as_ref() == Some(tail) {
            true => Ok(bytes),
            false => Err("what is kept of its stream is not what was written".into()),
        }
    }

    /// How its snapshot is called beside the one in the making, which is called `staged`.
    fn name(&self, staged: &OsStr) -> OsString {
        name_of(staged, self.number)
    }

    /// Destroys what is beside it: the subvolume in the making, older snapshots and one that was not written down yet.
    pub(super) fn clear_others(&self, home: &Home, staged: &OsStr) -> std::io::Result<()> {
        clear(home, staged, Some(&self.name(staged)))
    }
}

fn name_of(staged: &OsStr, number: u64) -> OsString {
    let mut name = staged.to_owned();
    name.push(format!(".{number}"));
    name
}

/// Destroys the subvolume in the making, called `staged`, and all of its checkpoints but `spared`.
pub(super) fn clear(home: &Home, staged: &OsStr, spared: Option<&OsStr>) -> std::io::Result<()> {
    let of_a_checkpoint = |name: &OsStr| {
        let rest = name.as_encoded_bytes().strip_prefix(staged.as_encoded_bytes());
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'.')))
    };
    for name in list(home.snap())? {
        if of_a_checkpoint(&name) && spared != Some(&name) {
            match btrfs::snap_destroy(home.snap(), &name) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Makes what was received so far durable, now and then.
pub(super) struct Keeper<'a> {
    staged: &'a Staged,
    keeping: Keeping,
    number: u64,
    last: u64, // Where in the stream it kept last, or began.
    since: Instant,
}

impl<'a> Keeper<'a> {
    /// Begins at `offset` of the stream, after so many checkpoints.
    pub fn new(staged: &'a Staged, keeping: Keeping, number: u64, offset: u64) -> Self {
        Self { staged, keeping, number, last: offset, since: Instant::now() }
    }

    /// Whether enough has come since the last time.
    pub fn is_due(&self, offset: u64) -> bool {
        let come = offset.saturating_sub(self.last);
        let enough = come >= self.keeping.every
            || (come >= (self.keeping.every / 16).max(1) && self.since.elapsed() >= SLOW);
        enough && offset >= FRAME_LEN as u64
    }

    /// Keeps `subvolume` as it is, if anything has come since the last time.
    pub fn keep(&mut self, subvolume: BorrowedFd<'_>, midway: Midway, origins: Origins) -> Result<()> {
        // What is not known any more, or too little, is for the next time.
        let Some(Around { prefix, tail, passed }) = self.around(midway.offset) else { return Ok(()) };
        let io = |error| Error::io("keep", "what was received so far")(error);
        let (dir, staged) = (self.staged.dir(), self.staged.name());
        self.number += 1;
        let name = name_of(staged, self.number);
        btrfs::snap_create(dir, &name, subvolume, true).map_err(io)?;
        self.last = midway.offset;
        let (number, made) = (self.number, Timestamp::now());
        let Origins { ungrounded, from, upon } = origins;
        let (upon, staging) = (upon.flatten(), self.staged.staging().fd());
        if !tail.is_empty() {
            write_at(staging, &name_of_tail(number), &tail).map_err(io)?;
        }
        let tail = Piece::of(&tail);
        let checkpoint = Checkpoint { number, prefix, tail, passed, midway, made, ungrounded, from, upon };
        let json = serde_json::to_vec(&checkpoint).expect("its keys are texts");
        write_at(staging, OsStr::new(CHECKPOINT), &json).map_err(io)?;
        remove_at(staging, &name_of_tail(number - 1)).map_err(io)?;
        match btrfs::snap_destroy(dir, &name_of(staged, self.number - 1)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        tracing::debug!(offset = self.last, number = self.number, "kept what was received so far");
        self.since = Instant::now();
        Ok(())
    }
}

/// What is known of the stream around a place in it.
struct Around {
    prefix: Prefix,
    tail: Vec<u8>,
    passed: Option<Piece>,
}

impl Keeper<'_> {
    /// What is known around `offset`, unless it kept there already.
    fn around(&self, offset: u64) -> Option<Around> {
        let (number, at) = (offset / FRAME_LEN as u64, (offset % FRAME_LEN as u64) as usize);
        let marks = &self.keeping.marks;
        if offset <= self.last {
            return None;
        }
        if at == 0 {
            return Some(Around { prefix: marks.at(number)?, tail: Vec::new(), passed: None });
        }
        let frame = marks.frame(number)?;
        match marks.at(number + 1) {
            Some(prefix) => Some(Around { prefix, tail: frame.get(at..)?.to_vec(), passed: None }),
            None => Some(Around {
                prefix: marks.at(number)?,
                tail: Vec::new(),
                passed: Piece::of(frame.get(..at)?),
            }),
        }
    }
}

/// The error with what caused it, in one line.
fn told(error: &Error) -> String {
    let cause = std::error::Error::source(error).map_or(String::new(), |cause| format!(": {cause}"));
    format!("{error}{cause}")
}

fn name_of_tail(number: u64) -> OsString {
    format!("tail.{number}").into()
}

/// A receive that was broken off and can go on. While it is there, nobody else has it; dropped, it stays.
pub struct Kept {
    store: Arc<Store>,
    fd: OwnedFd,
    id: OsString,
    checkpoint: Checkpoint,
    /// What is there to go on from, once it was looked at.
    ground: Option<Ground>,
}

/// What a checkpoint names, as it was found.
struct Ground {
    home: Home,
    snapshot: OwnedFd,
    tail: Vec<u8>,
}

impl Ground {
    /// Looks for it; answers what is wrong.
    fn find(
        store: &Store,
        key: &str,
        staging: BorrowedFd<'_>,
        id: &OsStr,
        checkpoint: &Checkpoint,
    ) -> Result<Self, String> {
        let home =
            Home::open(store, key).map_err(|error| told(&error))?.ok_or("the dataset has no history")?;
        let snapshot = home.snapshot(&checkpoint.name(&staged_name(id))).map_err(|error| told(&error))?;
        let snapshot = snapshot.ok_or("the snapshot of it is not there")?;
        Ok(Self { home, snapshot, tail: checkpoint.tail(staging)? })
    }
}

impl Kept {
    /// What of the stream is there, and what of it was passed behind that.
    pub fn prefix(&self) -> Prefix {
        self.checkpoint.prefix.clone().with_passed(self.checkpoint.passed.clone())
    }

    /// Reads from `stream`, which begins behind the prefix, what was applied of it already; whether it is the same.
    pub(super) fn passes_over(&self, stream: &mut impl Read) -> std::io::Result<bool> {
        let Some(passed) = &self.checkpoint.passed else { return Ok(true) };
        let mut hasher = blake3::Hasher::new();
        std::io::copy(&mut stream.take(passed.len), &mut hasher)?;
        Ok(hasher.finalize().to_hex().as_str() == passed.blake3)
    }

    /// Looks whether what the checkpoint names is there, and is what was written: who is offered its prefix counts on it. Answers what is wrong.
    fn look(&mut self, dataset: &Dataset) -> Result<(), String> {
        let (store, fd) = (dataset.store(), self.fd.as_fd());
        self.ground = Some(Ground::find(store, &dataset.key(), fd, &self.id, &self.checkpoint)?);
        Ok(())
    }

    /// When it was kept.
    pub fn made(&self) -> Timestamp {
        self.checkpoint.made
    }

    /// Makes it a subvolume in the making again; answers also what of the prefix is still to be applied.
    pub(super) fn take_up(self, dataset: &Dataset) -> Result<(Staged, Begun, Vec<u8>)> {
        let Self { store, fd, id, checkpoint, ground } = self;
        let io = |error| Error::io("go on with", "what was received so far")(error);
        let Some(Ground { home, snapshot, tail }) = ground else {
            return Err(Error::NotFound {
                what: "partial receive",
                subject: dataset.to_string(),
                hint: None,
            });
        };
        let staged = staged_name(&id);
        checkpoint.clear_others(&home, &staged).map_err(io)?;
        btrfs::snap_create(home.snap(), &staged, snapshot.as_fd(), false).map_err(io)?;
        let staging = Staging::taken_up(&store, fd, id);
        let Checkpoint { number, midway, ungrounded, from, upon, .. } = checkpoint;
        let origins = Origins { ungrounded, from, upon: Some(upon) };
        let begun = Begun { midway: Some(midway), number, origins };
        Ok((Staged::of(dataset, home, staging), begun, tail))
    }

    /// Gives it up: nothing of it stays.
    ///
    /// # Errors
    /// A store that can not be written to.
    pub fn give_up(self) -> Result<()> {
        forget(self.fd.as_fd())?;
        drop(Staging::taken_up(&self.store, self.fd, self.id));
        Ok(())
    }
}

/// From here on there is nothing to go on with.
pub(super) fn forget(staging: BorrowedFd<'_>) -> Result<()> {
    match remove_at(staging, OsStr::new(CHECKPOINT)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("give up", "what was received so far")(error))
        }
        _ => Ok(()),
    }
}

impl Dataset {
    /// The receive of `guid` upon `base` that was broken off here, if it can go on. One of which the disk has lost something can not, and is given up.
    ///
    /// # Errors
    /// A store that can not be read, or written to.
    pub fn kept(&self, guid: Guid, base: Option<Guid>) -> Result<Option<Kept>> {
        let is_it = |entry: &Entry, checkpoint: &Checkpoint| {
            let origin = &checkpoint.midway.origin;
            entry.guid == Some(guid)
                && Guid(origin.uuid) == guid
                && origin.base.map(|(uuid, _)| Guid(uuid)) == base
        };
        let mut all = self.all_kept(is_it, TRIES)?;
        all.sort_by_key(|kept| kept.checkpoint.midway.offset);
        while let Some(mut kept) = all.pop() {
            match kept.look(self) {
                Ok(()) => return Ok(Some(kept)),
                Err(why) => {
                    tracing::warn!("{self}: what was received in part is given up, and begins anew: {why}");
                    kept.give_up()?;
                }
            }
        }
        Ok(None)
    }

    /// Gives up every receive that was broken off here and that nobody goes on with, but those of `spared`. Answers how many.
    ///
    /// # Errors
    /// A store that can not be read or written to.
    pub fn give_up_kept(&self, spared: Option<Guid>) -> Result<usize> {
        let kept = self.all_kept(|entry, _| spared.is_none() || entry.guid != spared, 1)?;
        let all = kept.len();
        kept.into_iter().try_for_each(Kept::give_up)?;
        Ok(all)
    }

    fn all_kept(&self, is_it: impl Fn(&Entry, &Checkpoint) -> bool, tries: u32) -> Result<Vec<Kept>> {
        let store = self.store();
        let Some(parent) = store.open_in_store("staging")? else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        for id in list(parent.as_fd()).map_err(store.io("list", "the staging directories"))? {
            let Ok(seen) = open_beneath(parent.as_fd(), Path::new(&id)) else { continue };
            let Ok(Some(Intent::Receive(entry))) = read_intent(seen.as_fd()) else { continue };
            let matches = |dir: BorrowedFd<'_>| {
                read(dir).filter(|checkpoint| entry.key == self.key() && is_it(&entry, checkpoint))
            };
            if matches(seen.as_fd()).is_none() {
                continue;
            }
            drop(seen);
            let Some(fd) = lock_patiently(parent.as_fd(), &id, tries)
                .map_err(store.io("lock", "a staging directory"))?
            else {
                continue;
            };
            // It may have come to an end before it was locked.
            if let Some(checkpoint) = matches(fd.as_fd()) {
                all.push(Kept { store: Arc::clone(store), fd, id, checkpoint, ground: None });
            }
        }
        Ok(all)
    }
}

fn lock_patiently(parent: BorrowedFd<'_>, id: &OsStr, tries: u32) -> std::io::Result<Option<OwnedFd>> {
    for left in (0..tries).rev() {
        match lock(parent, id)? {
            None if left > 0 => std::thread::sleep(TRY_AGAIN),
            locked => return Ok(locked),
        }
    }
    Ok(None)
}
