//! Downloads that are believed byte by byte: several parts at once, gone on with after a kill, held against what was published.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::digest;
use super::part::{Of, Part, exists};
use super::source::{Origin, Source};
use crate::endpoint;
use crate::endpoint::files::http::Head;
use crate::error::Class;
use crate::exec::throttle::Pace;
use crate::exec::{Event, Observe};
use crate::model::Digest;
use crate::model::files::{MAX_DESCRIPTION, Public};
use crate::stream::zst::PIECE;
use crate::sys::interrupt;
use crate::{Error, Result};

/// The first pause after a failure; each is twice as long as the one before.
const PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// How often what came is written down.
const NOTE_EVERY: Duration = Duration::from_secs(2);
/// How often one piece may come damaged.
const MOST_DAMAGED: usize = 3;

/// Of how many pieces a file may be.
const MOST_PIECES: u64 = 1 << 22;
/// How many bytes are taken of a file of which nobody says how long it is: 16 TiB.
const MAX_UNKNOWN: u64 = 1 << 44;

/// What to download, and how.
pub struct Request<'a> {
    /// From where.
    pub from: Origin,
    /// To where; nothing is there yet.
    pub to: PathBuf,
    /// What was published of it.
    pub public: Option<Public>,
    /// What it must hash to, where only that is known.
    pub blake3: Option<Digest>,
    /// How many parts come at a time.
    pub jobs: usize,
    /// At most so many bytes a second.
    pub limit: Option<u64>,
    /// How long a server may be silent, and how long it is tried again without a byte that is new.
    pub patience: Duration,
    /// Who is told.
    pub observe: &'a dyn Observe,
}

/// What was downloaded.
#[derive(Debug, Clone, Serialize)]
pub struct Fetched {
    /// Where it is.
    pub file: PathBuf,
    /// How many bytes it has.
    pub bytes: u64,
    /// Their blake3.
    pub blake3: Digest,
    /// How many bytes came now: the others had come before.
    pub fetched_bytes: u64,
    /// Whether that is what was published.
    pub verified: bool,
}

/// A description of a file, and its signature.
pub type Described = (Option<Vec<u8>>, Option<Vec<u8>>);

/// What was published beside the file, and if `is_signed` its signature, each if it is there.
///
/// # Errors
/// What the server says; a description that is too long.
pub fn described(from: &Origin, patience: Duration, is_signed: bool) -> Result<Described> {
    let client = from.client(patience)?;
    let get = |ending: &str, max| {
        let mut tries = Tries::new(patience);
        loop {
            match client.beside(ending, max) {
                Err(error) if error.class() == Class::Unreachable => tries.again(error.into())?,
                other => return other.map_err(Error::from),
            }
        }
    };
    let public = get(".json", MAX_DESCRIPTION)?;
    let signature = match public {
        Some(_) if is_signed => get(".json.sig", 1 << 20)?,
        _ => None,
    };
    Ok((public, signature))
}

/// Downloads the file.
///
/// # Errors
/// What the server says, once patience is over; a file that is not what was published, of which nothing is left; a signal, and then what
/// came stays to be gone on with.
pub fn fetch(request: &Request<'_>) -> Result<Fetched> {
    if request.to.symlink_metadata().is_ok() {
        return Err(exists(&request.to));
    }
    let client = request.from.client(request.patience)?;
    let head = request.head(&client)?;
    let expected = request.public.as_ref().map(|public| public.bytes);
    if let (Some(expected), Some(len)) = (expected, head.len)
        && expected != len
    {
        let why = format!("{} has {len} bytes, and {expected} were published", request.from.shown());
        return Err(endpoint::Error::Corrupt { what: "download", why, source: None }.into());
    }
    let Some(len) = expected.or(head.len) else { return request.unknown(&client, &head) };
    let piece = request.public.as_ref().map_or(PIECE, |public| public.piece);
    let of = Of::new(&request.from.url(), &head.state, len, request.digest(), piece);
    if i64::try_from(len).is_err() || of.pieces() > MOST_PIECES {
        let why = format!("{} has {len} bytes, as is said: no file has that many", request.from.shown());
        return Err(endpoint::Error::Corrupt { what: "download", why, source: None }.into());
    }
    let part = Part::open(&request.to, of)?;
    let had = part.have();
    let subject = request.from.shown();
    request.observe.observe(Event::Started { op: "fetch", subject, total: Some(len) });
    let part = Mutex::new(part);
    let came = match head.has_ranges {
        true => request.in_parts(&head, &part).and_then(|came| {
            client.expect_still(&head.state)?;
            Ok(came)
        }),
        false => request.at_once(&client, &part, Some(len)),
    };
    let part = part.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let fetched_bytes = match came {
        Ok(came) => came,
        Err(error) => {
            part.note()?;
            return Err(error);
        }
    };
    request.observe.observe(Event::Finished { bytes: had + fetched_bytes });
    request.finish(part, fetched_bytes)
}

impl Request<'_> {
    fn digest(&self) -> Option<Digest> {
        self.public.as_ref().map(|public| public.blake3).or(self.blake3)
    }

    fn head(&self, client: &Source<'_>) -> Result<Head> {
        let mut tries = Tries::new(self.patience);
        loop {
            match client.head() {
                Err(error) if error.class() == Class::Unreachable => tries.again(error.into())?,
                other => return Ok(other?),
            }
        }
    }

    fn finish(&self, mut part: Part, fetched_bytes: u64) -> Result<Fetched> {
        let blake3 = part.whole()?;
        if let Some(expected) = self.digest().filter(|expected| *expected != blake3) {
            let why = format!("{} has the blake3 {blake3}, and {expected} was published", self.from.shown());
            part.forget()?;
            part.give_up();
            return Err(endpoint::Error::Corrupt { what: "download", why, source: None }.into());
        }
        let bytes = part.of().bytes;
        part.finish()?;
        Ok(Fetched { file: self.to.clone(), bytes, blake3, fetched_bytes, verified: self.digest().is_some() })
    }

    /// Several parts at a time, each on a connection of its own.
    fn in_parts(&self, head: &Head, part: &Mutex<Part>) -> Result<u64> {
        let (missing, had) = {
            let part = lock(part);
            (part.missing(), part.have())
        };
        let work = Work { missing: missing.into_iter(), came: 0, noted: Instant::now(), failed: None };
        let shared = Shared { head, part, work: Mutex::new(work), pace: Pace::new(self.limit), had };
        let work = &shared.work;
        let run = || {
            let done = self.from.client(self.patience).map_err(Error::from).and_then(|client| {
                while let Some(n) = next(work) {
                    self.piece(&client, &shared, n)?;
                }
                Ok(())
            });
            if let Err(error) = done {
                let mut work = lock(work);
                work.failed.get_or_insert(error);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.jobs.max(1) {
                scope.spawn(run);
            }
            run();
        });
        let work = shared.work.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        match work.failed {
            Some(error) => Err(error),
            None => Ok(work.came),
        }
    }

    fn piece(&self, client: &Source<'_>, shared: &Shared<'_>, n: u64) -> Result<()> {
        let Shared { head, part, work, pace, .. } = shared;
        let (file, range) = {
            let part = lock(part);
            (part.file()?, part.of().range(n))
        };
        let (mut tries, mut damaged, mut furthest) = (Tries::new(self.patience), 0, range.start);
        let (mut hasher, mut at) = (blake3::Hasher::new(), range.start);
        loop {
            let came = client.range(at..range.end, &head.state, &mut |bytes| {
                self.paced(bytes, pace)?;
                file.write_all_at(bytes, at).map_err(endpoint::Error::io("write", self.to.display()))?;
                hasher.update(bytes);
                at += bytes.len() as u64;
                match lock(work).failed.is_some() {
                    true => Err(endpoint::Error::Interrupted { op: "download", subject: self.from.shown() }),
                    false => Ok(()),
                }
            });
            match came {
                Err(error) if error.class() == Class::Unreachable && interrupt::pending().is_none() => {
                    if lock(work).failed.is_some() {
                        return Ok(());
                    }
                    tries.had(at, &mut furthest);
                    // Its last byte can come before what the connection ends with.
                    if at < range.end {
                        tries.again(error.into())?;
                        continue;
                    }
                }
                other => other?,
            }
            let got = digest(&hasher.finalize());
            let expected = self.public.as_ref().and_then(|public| public.pieces.get(n as usize).copied());
            if expected.is_some_and(|expected| expected != got) {
                damaged += 1;
                if damaged < MOST_DAMAGED {
                    (hasher, at) = (blake3::Hasher::new(), range.start);
                    continue;
                }
                let why = format!(
                    "bytes {} to {} of {} are not what was published",
                    range.start,
                    range.end,
                    self.from.shown()
                );
                return Err(endpoint::Error::Corrupt { what: "download", why, source: None }.into());
            }
            return self.came(shared, n, got, range.end - range.start);
        }
    }

    fn came(&self, shared: &Shared<'_>, n: u64, got: Digest, len: u64) -> Result<()> {
        let mut part = lock(shared.part);
        part.done(n, got);
        let mut work = lock(&shared.work);
        work.came += len;
        self.observe.observe(Event::Progress { bytes: shared.had + work.came });
        let few = part.of().pieces() <= 256;
        if few || work.noted.elapsed() > NOTE_EVERY {
            work.noted = Instant::now();
            drop(work);
            part.note()?;
        }
        Ok(())
    }

    fn paced(&self, bytes: &[u8], pace: &Pace) -> endpoint::Result<()> {
        let waited = pace.wait(bytes.len());
        waited.map_err(|_| endpoint::Error::Interrupted { op: "download", subject: self.from.shown() })?;
        pace.moved(bytes.len());
        Ok(())
    }

    /// From a server that gives no parts: all of it, from the beginning each time; `len` bytes if that is known.
    fn at_once(&self, client: &Source<'_>, part: &Mutex<Part>, len: Option<u64>) -> Result<u64> {
        let mut part = lock(part);
        part.forget()?;
        let (file, most) = (part.file()?, len.unwrap_or(MAX_UNKNOWN));
        let (pace, mut tries, mut furthest) = (Pace::new(self.limit), Tries::new(self.patience), 0);
        let corrupt = |why| endpoint::Error::Corrupt { what: "download", why, source: None };
        loop {
            let mut at = 0;
            let came = client.whole(&mut |bytes| {
                self.paced(bytes, &pace)?;
                if at + bytes.len() as u64 > most {
                    return Err(corrupt(format!("{} has more than {most} bytes", self.from.shown())));
                }
                file.write_all_at(bytes, at).map_err(endpoint::Error::io("write", self.to.display()))?;
                at += bytes.len() as u64;
                self.observe.observe(Event::Progress { bytes: at });
                Ok(())
            });
            match came {
                Err(error) if error.class() == Class::Unreachable && interrupt::pending().is_none() => {
                    tries.had(at, &mut furthest);
                    tries.again(error.into())?;
                }
                Err(error) => return Err(error.into()),
                Ok(()) => match len {
                    Some(len) if at < len => {
                        return Err(corrupt(format!("{} has {at} bytes of {len}", self.from.shown())).into());
                    }
                    Some(_) => return Ok(at),
                    None => return part.ends_at(at).map(|()| at),
                },
            }
        }
    }

    /// From a server that does not say how long the file is: where it ends, it ends.
    fn unknown(&self, client: &Source<'_>, head: &Head) -> Result<Fetched> {
        let part = Part::open(&self.to, Of::new(&self.from.url(), &head.state, 0, self.digest(), PIECE))?;
        self.observe.observe(Event::Started { op: "fetch", subject: self.from.shown(), total: None });
        let part = Mutex::new(part);
        let came = self.at_once(client, &part, None)?;
        self.observe.observe(Event::Finished { bytes: came });
        self.finish(part.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner), came)
    }
}

/// The blake3 of a file that lies here.
///
/// # Errors
/// What the kernel says; a signal.
pub fn digest_of(file: &Path) -> Result<Digest> {
    super::part::digest_of(file)
}

/// What the threads of one download share.
struct Shared<'a> {
    head: &'a Head,
    part: &'a Mutex<Part>,
    work: Mutex<Work>,
    pace: Pace,
    /// How many bytes had come before.
    had: u64,
}

struct Work {
    missing: std::vec::IntoIter<u64>,
    came: u64,
    noted: Instant,
    failed: Option<Error>,
}

fn next(work: &Mutex<Work>) -> Option<u64> {
    let mut work = lock(work);
    match work.failed {
        Some(_) => None,
        None => work.missing.next(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// How often something is tried again.
struct Tries {
    patience: Duration,
    since: Instant,
    pause: Duration,
}

impl Tries {
    fn new(patience: Duration) -> Self {
        Self { patience, since: Instant::now(), pause: PAUSE }
    }

    /// Patience begins anew with each byte that had not come before.
    fn had(&mut self, at: u64, furthest: &mut u64) {
        if at > *furthest {
            (*furthest, self.since, self.pause) = (at, Instant::now(), PAUSE);
        }
    }

    /// Waits before the next try; `error` once patience is over.
    fn again(&mut self, error: Error) -> Result<()> {
        if self.since.elapsed() + self.pause > self.patience {
            return Err(error);
        }
        tracing::info!(%error, "it is tried again");
        let until = Instant::now() + self.pause;
        while Instant::now() < until {
            if interrupt::pending().is_some() {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(50).min(self.pause));
        }
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}
