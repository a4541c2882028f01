//! Brings a version to several targets by one stream: the source is read once.
//!
//! Each target has a thread that takes the parts of one container from a short queue. Whoever reads the source waits for the slowest of
//! them; one that fails is left out, and the others go on.

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::ScopedJoinHandle;
use std::time::Instant;

use crate::endpoint::peer::{Offered, Peer};
use crate::endpoint::{self, Dataset, btrfs};
use crate::exec::meter::Meter;
use crate::exec::throttle::Pace;
use crate::exec::transfer::{
    Brought, Leaving, Moved, Options, Place, Transfer, asked, expect_announced, expect_same, open, transfer,
    warn,
};
use crate::exec::{Event, Observe};
use crate::stream::container::Prefix;
use crate::stream::fan::{Branch, Taker};
use crate::{Error, Result};

/// How many parts of little over 1 MiB a target may be behind. They are the same parts for all of them: what they take does not grow with
/// the number of targets.
const QUEUE: usize = 8;
/// How much of a peer's container is passed on at once.
const PART_LEN: usize = 1 << 20;

/// Brings `what` from `from` to each of `to`; answers for each in turn. It is sent once for all that it can be sent once for: a target that has
/// another beginning of it gets it by itself, after the others. Only a single one may go on by a token.
pub(super) fn fan(
    from: &Place,
    to: &[&Place],
    what: &Transfer,
    options: &Options,
    observe: &dyn Observe,
) -> Vec<Result<Moved>> {
    if let [to] = to {
        return vec![transfer(from, to, what, options, observe)];
    }
    let ended = together(from, to, what, options, observe);
    let targets = ended.iter().filter(|ended| !matches!(ended, Ended::Alone)).count();
    let alone = |to| from.again().and_then(|from| transfer(&from, to, what, options, observe));
    let each = ended.into_iter().zip(to).map(|(ended, to)| match ended {
        Ended::Done(done) => done.map(|moved| Moved { targets, ..moved }),
        Ended::Alone => alone(to),
    });
    each.collect()
}

/// How it ended with a target.
enum Ended {
    Done(Result<Moved>),
    /// It has another beginning than the stream, or one that the source can not leave out for it alone.
    Alone,
}

fn together(
    from: &Place,
    to: &[&Place],
    what: &Transfer,
    options: &Options,
    observe: &dyn Observe,
) -> Vec<Ended> {
    let (start, pace, source) = (Instant::now(), Pace::new(options.bandwidth), from.to_string());
    std::thread::scope(|scope| {
        // All are asked at once: one that hangs is waited for once, and no other behind it.
        let asked: Vec<_> = to.iter().map(|to| scope.spawn(|| Waiting::of(from, to, what))).collect();
        let waiting = asked.into_iter().map(joined);
        let (mut branches, mut running) = (Vec::new(), Vec::new());
        for waiting in waiting {
            running.push(waiting.map(|waiting| {
                let (feed, fed) = queue(&pace);
                let prefix = waiting.prefix();
                let (seen, resumed) = (fed.seen.clone(), prefix.as_ref().map_or(0, Prefix::stream_len));
                branches.push(Branch { behind: prefix, taker: feed });
                let take = || waiting.take(fed, &source, what, options.keep_every, observe);
                (seen, resumed, scope.spawn(take))
            }));
        }
        let mut sent = match branches.is_empty() {
            true => Err(Error::io("send", &source)(io::ErrorKind::BrokenPipe.into())),
            false => send(from, to, branches, what, options, observe),
        };
        let each = running.into_iter().map(|running| {
            let (seen, resumed_bytes, thread) = match running {
                Ok(running) => running,
                Err(ended) => return *ended,
            };
            let taken = joined(thread);
            let done = match (seen.end.get(), taken) {
                (Some(End::OtherBeginning), _) => return Ended::Alone,
                (Some(End::Cut), _) => Err(reason(&mut sent, &source)),
                (_, Err(error)) => Err(error),
                (_, Ok(taken)) => taken.expect_sent(&mut sent, &source, what),
            };
            let wire_bytes = seen.bytes.load(Ordering::Relaxed);
            let brought =
                |Taken { stream_bytes, blake3 }| Brought { stream_bytes, resumed_bytes, wire_bytes, blake3 };
            Ended::Done(done.map(|taken| brought(taken).moved(what, start)))
        });
        each.collect()
    })
}

fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Reads the source once, for all of them.
fn send(
    from: &Place,
    to: &[&Place],
    branches: Vec<Branch<Feed>>,
    what: &Transfer,
    options: &Options,
    observe: &dyn Observe,
) -> Result<Taken> {
    match from {
        Place::Here(from) => {
            let travels = |to: &&Place| matches!(to, Place::There(peer) if !peer.address().is_aside());
            let level = options.level.filter(|_| to.iter().any(travels));
            let sent = Leaving::new(from, what, level, options.zfs_flags)?.send_to_all(branches, observe)?;
            Ok(Taken { stream_bytes: sent.stream_bytes, blake3: sent.blake3 })
        }
        Place::There(from) => {
            pass_on(from, branches.into_iter().map(|branch| branch.taker).collect(), what, options, observe)
        }
    }
}

/// The container of a peer, as it comes.
fn pass_on(
    from: &Peer,
    mut takers: Vec<Feed>,
    what: &Transfer,
    options: &Options,
    observe: &dyn Observe,
) -> Result<Taken> {
    let fetched = from.fetch(&asked(from, what, options, None))?;
    let subject = format!("{}@{}", from.address(), what.version.name);
    observe.observe(Event::Started { op: "send", subject: subject.clone(), total: fetched.estimate });
    let mut stream = Meter::new(fetched.stream(), observe);
    let (mut part, mut bytes) = (vec![0; PART_LEN], 0);
    loop {
        let len = stream.read(&mut part).map_err(|error| match error.downcast::<endpoint::Error>() {
            Ok(of_the_peer) => Error::from(of_the_peer),
            Err(error) => Error::io("pass on", &subject)(error),
        })?;
        if len == 0 {
            break;
        }
        let part = Arc::from(&part[..len]);
        takers.retain_mut(|taker| taker.take(&part));
        if takers.is_empty() {
            return Err(Error::io("pass on", &subject)(io::ErrorKind::BrokenPipe.into()));
        }
        bytes += len as u64;
    }
    takers.iter_mut().for_each(Taker::end);
    observe.observe(Event::Finished { bytes });
    let sent = fetched.end()?;
    Ok(Taken { stream_bytes: sent.stream_bytes, blake3: sent.blake3 })
}

/// What a stream was, as one of its sides saw it.
struct Taken {
    stream_bytes: u64,
    blake3: String,
}

impl Taken {
    fn expect_sent(self, sent: &mut Result<Self>, source: &str, what: &Transfer) -> Result<Self> {
        let Ok(sent) = sent else { return Err(reason(sent, source)) };
        let (ours, theirs) = ((sent.stream_bytes, &*sent.blake3), (self.stream_bytes, &*self.blake3));
        expect_same(&what.version, ours, theirs)?;
        Ok(self)
    }
}

/// Why the source has sent no more: it itself for the first that asks, what it says for the others.
fn reason(sent: &mut Result<Taken>, source: &str) -> Error {
    let Err(error) = sent else {
        let why = "the source ended a stream and said that it was whole".into();
        return endpoint::Error::Corrupt { what: "transfer", why, source: None }.into();
    };
    let again = alike(error, source);
    std::mem::replace(error, again)
}

/// An error that says and means the same.
pub(super) fn alike(error: &Error, place: &str) -> Error {
    let (what, class, hint) = (told(error), error.class(), error.hint());
    endpoint::Error::Remote { place: place.to_owned(), what, class, hint }.into()
}

/// The error with all that caused it, in one line.
pub(super) fn told(error: &Error) -> String {
    let mut what = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        what = format!("{what}: {cause}");
        next = cause.source();
    }
    what
}

/// A target that is ready.
enum Waiting<'a> {
    Here(&'a Dataset, Option<Box<btrfs::Kept>>),
    There(&'a Peer, Offered<'a>),
}

impl<'a> Waiting<'a> {
    fn of(from: &Place, to: &'a Place, what: &Transfer) -> Result<Self, Box<Ended>> {
        let (guid, base) = (what.version.guid, what.base_guid());
        let ready = match to {
            Place::Here(to) => to.kept(guid, base).map(|kept| Self::Here(to, kept.map(Box::new))),
            Place::There(peer) => peer.offer(&what.version, base).map(|offered| Self::There(peer, offered)),
        };
        let ready = ready.map_err(|error| Box::new(Ended::Done(Err(error.into()))))?;
        match from {
            // Its beginning can be left out by the peer alone, for one target.
            Place::There(_) if ready.prefix().is_some() => Err(Box::new(Ended::Alone)),
            // What it has taken behind whole frames is compared for one target alone.
            _ if ready.prefix().is_some_and(|prefix| prefix.passed().is_some()) => {
                Err(Box::new(Ended::Alone))
            }
            _ => Ok(ready),
        }
    }

    /// What it has already.
    fn prefix(&self) -> Option<Prefix> {
        match self {
            Self::Here(_, kept) => kept.as_ref().map(|kept| kept.prefix()),
            Self::There(_, offered) => offered.prefix.clone(),
        }
    }

    fn take(
        self,
        fed: Fed,
        source: &str,
        what: &Transfer,
        keep_every: u64,
        observe: &dyn Observe,
    ) -> Result<Taken> {
        match self {
            Self::Here(to, kept) => {
                let warned = |event: Event| {
                    if let Event::Warning { text } = event {
                        observe.observe(Event::Warning { text: format!("{to}: {text}") });
                    }
                };
                let kept = kept.map(|kept| *kept);
                let incoming = open(fed, source, Some(what.version.name.clone()), kept)?;
                expect_announced(&incoming, source, what)?;
                let received = incoming.keeping(keep_every).receive(to, &warned)?;
                Ok(Taken { stream_bytes: received.stream_bytes, blake3: received.blake3 })
            }
            Self::There(peer, offered) => {
                let ((), taken) = offered.send(offered.prefix.is_some(), move |out| {
                    // Gone with this block: who hears no more of a target that hangs does not wait for it.
                    let mut fed = fed;
                    let copied = io::copy(&mut fed, out).and_then(|_| io::Write::flush(out));
                    copied.map_err(Error::io("send to", peer.address()))
                })?;
                warn(peer, taken.warnings, observe);
                Ok(Taken { stream_bytes: taken.stream_bytes, blake3: taken.blake3 })
            }
        }
    }
}

/// Why there is no more to take, other than that it is all.
enum End {
    /// The source failed.
    Cut,
    /// The target has another beginning of the stream.
    OtherBeginning,
}

#[derive(Default)]
struct Seen {
    bytes: AtomicU64,
    end: OnceLock<End>,
}

enum Said {
    Part(Arc<[u8]>),
    All,
    OtherBeginning,
}

/// A short queue from the source to a target.
fn queue(pace: &Pace) -> (Feed, Fed) {
    let (into, from) = sync_channel(QUEUE);
    let fed =
        Fed { from, pace: pace.clone(), seen: Arc::default(), part: Arc::from([]), taken: 0, ended: false };
    (Feed(into), fed)
}

/// The source's end. If it goes without saying that this is all, the stream was cut.
struct Feed(SyncSender<Said>);

impl Taker for Feed {
    fn take(&mut self, part: &Arc<[u8]>) -> bool {
        self.0.send(Said::Part(part.clone())).is_ok()
    }

    fn end(&mut self) {
        // Whoever has read the trailer may be gone.
        let _ = self.0.send(Said::All);
    }

    fn other_beginning(&mut self) {
        let _ = self.0.send(Said::OtherBeginning);
    }
}

/// The target's end.
struct Fed {
    from: Receiver<Said>,
    pace: Pace,
    seen: Arc<Seen>,
    part: Arc<[u8]>,
    taken: usize,
    ended: bool,
}

impl Fed {
    fn ended(&self, why: End, what: &str) -> io::Result<usize> {
        self.seen.end.get_or_init(|| why);
        Err(io::Error::other(what.to_owned()))
    }
}

impl Read for Fed {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.part.len() && !self.ended {
            match self.from.recv() {
                Ok(Said::Part(part)) => (self.part, self.taken) = (part, 0),
                Ok(Said::All) => self.ended = true,
                Ok(Said::OtherBeginning) => return self.ended(End::OtherBeginning, "it begins otherwise"),
                Err(_) => return self.ended(End::Cut, "the source sends no more"),
            }
        }
        let len = self.pace.wait(buf.len().min(self.part.len() - self.taken))?;
        buf[..len].copy_from_slice(&self.part[self.taken..self.taken + len]);
        self.taken += len;
        self.pace.moved(len);
        self.seen.bytes.fetch_add(len as u64, Ordering::Relaxed);
        Ok(len)
    }
}
