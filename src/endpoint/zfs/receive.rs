//! Receives a stream: the kernel applies it on a thread of its own, and gets its END record last, once all is verified.
//!
//! **Invariants:** nothing is forced. Nothing is mounted. Without END there is no snapshot: what is broken off leaves what a
//! resumption needs, or nothing.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::endpoint::zfs::accept::{self, Place, Said};
use crate::endpoint::zfs::carried::{self, Given};
use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::endpoint::kind;
use crate::endpoint::zfs::feed::{Broken, Feed, RecordBytes};
use crate::endpoint::zfs::lock::{Locked, Work, try_lock};
use crate::endpoint::zfs::notes::Notes;
use crate::endpoint::zfs::parts::{self, Before};
use crate::endpoint::zfs::{conflict, exchange, meta, partial, props};
use crate::endpoint::{Arrived, Earlier, Error, ReceiveRequest, Result, Verified};
use crate::model::{Digest, Version, VersionKind, quoted};
use crate::stream::container::ZfsFlags;
use crate::stream::zfs;
use crate::sys::interrupt;
use crate::sys::lzc::{self, Errno, Failed, Lzc, Prop, Receive, Received};
use crate::sys::{apart, pipe};

/// What the kernel is to do.
struct Job {
    lzc: &'static Lzc,
    snapshot: String,
    given: Given,
    origin: Option<String>,
    resumable: bool,
    /// Whether it is [written down](partial::given) of which container it is.
    is_pulling: bool,
    raw: bool,
    begin: RecordBytes,
}

impl Job {
    fn run(&self, from: impl AsFd) -> Result<Received, Ended> {
        // A signal would cut a read of the kernel short, which it takes for the end of the stream.
        interrupt::block_all_in_this_thread().map_err(Ended::Pipe)?;
        let what = Receive {
            snapshot: &self.snapshot,
            received_props: &self.given.received,
            local_props: &self.given.local,
            origin: self.origin.as_deref(),
            resumable: self.resumable,
            raw: self.raw,
            fd: from.as_fd(),
            begin: &self.begin,
        };
        self.lzc.receive(&what).map_err(Ended::Kernel)
    }
}

/// Why a receive ended before its end.
enum Ended {
    /// The stream failed, or is none.
    Stream(zfs::Error),
    /// The kernel refused.
    Kernel(Failed),
    /// The pipe to the kernel, or the thread, could not be had.
    Pipe(io::Error),
}

impl Dataset {
    /// As [`Endpoint::receive`](crate::endpoint::Endpoint::receive); what `verified` answers once `stream` has been read is
    /// kept as a property of the snapshot.
    ///
    /// What is broken off can be resumed, unless the request says otherwise.
    ///
    /// # Errors
    /// As [`Endpoint::receive`](crate::endpoint::Endpoint::receive); [`Error::Diverged`] if the target went another way.
    pub fn receive_checked<R: Read>(
        &self,
        request: &ReceiveRequest,
        stream: &mut R,
        verified: impl FnOnce(&R) -> Option<Verified>,
    ) -> Result<Arrived> {
        let lzc = self.settled()?;
        let Some(lock) = try_lock(Work::Receive, self.name().as_str())? else {
            return Err(self.refused("receive", "another process receives into it".into(), None));
        };
        if request.zfs.keep_conflict {
            exchange::settle(self, &lock)?;
        }
        let go_on = request.zfs.go_on.as_ref();
        let mut feed = match go_on.and_then(|go_on| go_on.behind.as_ref()) {
            Some(note) => Feed::behind(stream, note),
            None => Feed::open(stream),
        }
        .map_err(|error| self.broken(error))?;
        let said = Said::by(&feed);
        accept::cross_check(self, request, &said)?;
        let place = accept::place(self, lzc, request, &said)?;
        self.expect_the_beginning(request, &place)?;
        if let Place::Rest(_, Some(point)) = place {
            feed.pass_the_rest_from(point); // Its place says that there is one.
        }
        let (job, aside) = self.job(lzc, request, &feed, &place)?;
        aside.iter().try_for_each(exchange::Exchange::announce)?;
        let (received, digest) = feed_kernel(&job, &mut feed, &lock, request, |stream| verified(stream))
            .map_err(|ended| {
                aside.iter().for_each(exchange::Exchange::call_off);
                self.take_down_what_is_kept(&job, request, &place);
                self.said_of(ended, request, &place)
            })?;
        let mut arrived =
            Arrived { warnings: job.given.left, ..self.arrived(request, &job.snapshot)?.into() };
        let origin = job.origin.clone();
        let mut before = None;
        match place {
            Place::CloneOf(origin) => arrived.origin = Some(origin),
            Place::Rest(came, _) => {
                parts::forget(self);
                arrived.earlier = Some(came.earlier);
                before = Some(came);
            }
            Place::New | Place::Upon | Place::Beside(_) => {}
        }
        if job.is_pulling {
            partial::forget(self);
        }
        arrived.warnings.extend(
            received.property_errors.iter().map(|(name, errno)| format!("{name} is not set: {errno}")),
        );
        let whole = |digest| {
            let upon = request.base.map(|base| self.verified_base(base, origin.as_deref()));
            let (grounded, from) = ground(request.place, before, upon.as_ref().map(Option::as_ref));
            let upon = upon.flatten().and_then(|base| base.digest());
            Verified { earlier: arrived.earlier, grounded, from, upon, ..digest }
        };
        if let Some(digest) = digest.map(whole)
            && let text = meta::verified_as_text(&arrived.version, &digest)
            && let Err(why) = props::set(&job.snapshot, meta::VERIFIED, &text)
        {
            arrived.warnings.push(format!("the digest is not kept with the snapshot: {why}"));
        }
        if let Some(aside) = aside {
            aside.carry_out(&mut arrived)?;
        }
        Ok(arrived)
    }

    fn said_of(&self, ended: Ended, request: &ReceiveRequest, place: &Place) -> Error {
        match ended {
            Ended::Kernel(failed) if does_not_fit(place, &failed) => Error::Corrupt {
                what: "receive that was broken off",
                why: format!("the stream does not go on where it stopped: {}", failed.errno),
                source: None,
            },
            Ended::Stream(error) => self.broken(error),
            Ended::Kernel(failed) => conflict::said(self, request, failed),
            Ended::Pipe(error) => Error::io("receive", self)(error),
        }
    }

    /// Refuses what begins in the midst of a stream, behind what is there.
    fn expect_the_beginning(&self, request: &ReceiveRequest, place: &Place) -> Result<()> {
        let Some(note) = request.zfs.go_on.as_ref().and_then(|go_on| go_on.behind.as_ref()) else {
            return Ok(());
        };
        match place {
            Place::Rest(_, Some(point)) if zfs::is_before(note.reached(), *point) => Ok(()),
            _ => {
                let why = format!("what {self} had received is gone, or is less than it was");
                Err(Error::Corrupt { what: "receive that was broken off", why, source: None })
            }
        }
    }

    /// Names what a receive that was broken off has left, and what can be done with it.
    fn take_down_what_is_kept(&self, job: &Job, request: &ReceiveRequest, place: &Place) {
        let Some(token) = self.get("receive_resume_token").ok().filter(|token| job.resumable && token != "-")
        else {
            return;
        };
        match place {
            Place::Rest(Before { earlier: Earlier::Verified, from }, _) if request.is_verified => {
                parts::were_verified(self, &token, from.filter(|_| *from == request.place));
            }
            Place::Rest(..) => {}
            _ if request.is_verified => parts::were_verified(self, &token, request.place),
            _ => {}
        }
        if request.zfs.go_on.is_some() {
            let partial = format!("{self}@%partial");
            tracing::info!("what arrived is kept as {partial}: the same command goes on with it");
            return;
        }
        let (of, partial) = (quoted(self), quoted(format!("{self}@%partial")));
        tracing::warn!(
            "what arrived is kept as {partial}: cowsnap list {of} shows the token with which cowsnap send --resume \
             brings the rest; cowsnap destroy {partial} gives it up"
        );
    }

    /// What to have the kernel do, and the exchange that follows if the stream is received beside the target.
    fn job<R: Read>(
        &self,
        lzc: &'static Lzc,
        request: &ReceiveRequest,
        feed: &Feed<R>,
        place: &Place,
    ) -> Result<(Job, Option<exchange::Exchange>)> {
        let said = Said::by(feed);
        let (kind, raw) = (kind(said.begin), said.begin.features.has(zfs::Feature::Raw));
        let flags = request.stream.as_ref().map(|stream| stream.flags);
        let given = match place {
            Place::New | Place::CloneOf(_) | Place::Beside(_) => {
                carried::of_new(self, request, kind, flags.or(only_raw(raw)))?
            }
            Place::Upon => carried::of_old(self, request, kind)?,
            Place::Rest(..) => Given::default(), // As it was begun.
        };
        let mut job = Job {
            lzc,
            snapshot: self.full_name(&request.name),
            given,
            origin: None,
            resumable: keeps_partials(request, said.begin) || matches!(place, Place::Rest(..)),
            is_pulling: false,
            raw,
            begin: *feed.begin_bytes(),
        };
        if let Place::CloneOf(origin) = place {
            job.origin = Some(origin.clone());
        }
        let Place::Beside(base) = place else {
            if let Some(go_on) = request.zfs.go_on.as_ref().filter(|_| job.resumable) {
                job.is_pulling = true;
                let is_begun = matches!(place, Place::Rest(..));
                job.given.local.extend((!is_begun).then(|| partial::given(&go_on.container, said.begin)));
            }
            return Ok((job, None));
        };
        let exchange = exchange::Exchange::of(self)?;
        job.snapshot = exchange.incoming().full_name(&request.name);
        job.given.local.push((exchange::INTENT.to_owned(), Prop::Text(exchange.to_text())));
        job.origin = base.as_ref().map(|base| self.full_name(&base.id.name));
        job.resumable = false; // Nobody would look for the rest there.
        Ok((job, Some(exchange)))
    }

    /// The version that is there now, and is what the stream said.
    fn arrived(&self, request: &ReceiveRequest, snapshot: &str) -> Result<Version> {
        let (dataset, _) = snapshot.split_once('@').expect("the name of a snapshot");
        let dataset = Self::by_name(dataset.parse().expect("it was made from a dataset's name"));
        let version = dataset.version(&request.name)?;
        match request.guid.filter(|guid| *guid != version.id.guid || version.kind != VersionKind::Snapshot) {
            None => Ok(version),
            Some(expected) => {
                let subject = dataset.at_name(&request.name);
                Err(Error::Reused { subject, expected, found: version.id.guid })
            }
        }
    }

    /// Says what a stream's failure is: of what it is read from, or of its own.
    fn broken(&self, error: zfs::Error) -> Error {
        match error {
            zfs::Error::Io { source, .. } => Error::Io { op: "receive", subject: self.to_string(), source },
            error => Error::Corrupt { what: "ZFS stream", why: error.to_string(), source: None },
        }
    }
}

/// Whether all that a stream from `place` builds upon is certain, and the place that it came from with all of that: `before` is what came
/// before its rest, `upon` what its base came as.
fn ground(
    place: Option<Digest>,
    before: Option<Before>,
    upon: Option<Option<&Verified>>,
) -> (bool, Option<Digest>) {
    let from = place.filter(|_| before.is_none_or(|before| before.from == place));
    match upon {
        None => (true, from),
        Some(base) => {
            let of_base = base.and_then(Verified::ground_from);
            (base.is_some_and(Verified::is_ground), from.filter(|_| of_base == place))
        }
    }
}

/// Whether what is broken off of such a stream is kept: where only the stream itself brings the rest, it must be one that has one.
fn keeps_partials(request: &ReceiveRequest, begin: &zfs::Begin) -> bool {
    !request.zfs.keep_no_partial && (request.zfs.go_on.is_none() || zfs::Rest::is_possible(begin))
}

/// Whether the kernel said that what is there is not what the rest follows.
fn does_not_fit(place: &Place, failed: &Failed) -> bool {
    matches!(place, Place::Rest(_, Some(_))) && matches!(failed.errno, Errno::Invalid)
}

/// What is known of a stream without a container.
fn only_raw(raw: bool) -> Option<ZfsFlags> {
    raw.then_some(ZfsFlags { raw, large_blocks: true, embedded: false, compressed: true })
}

/// Passes the stream on to the kernel. END follows once the stream is through and `verified` has answered.
fn feed_kernel<R: Read>(
    job: &Job,
    feed: &mut Feed<&mut R>,
    lock: &Locked,
    request: &ReceiveRequest,
    verified: impl FnOnce(&R) -> Option<Verified>,
) -> Result<(Received, Option<Verified>), Ended> {
    let (reader, writer) = pipe::pipe(pipe::STREAM_PIPE).map_err(Ended::Pipe)?;
    let (parting, parted) = apart::part(reader);
    let bell = request.bell.as_ref();
    let mut notes = notes_of(job, request);
    receive_beside(
        |is_over| {
            let needed = lzc::descriptors().map(|mut needed| {
                // The lock lasts for as long as the kernel works, whoever is killed.
                needed.push(lock.as_fd().as_raw_fd());
                needed.extend(bell.map(|bell| bell.as_fd().as_raw_fd()));
                needed
            });
            let reader = parting.alone(needed.ok().as_deref());
            let received = job.run(&reader);
            is_over.store(true, Ordering::Release);
            bell.iter().for_each(|bell| bell.ring());
            received
        },
        || {
            parted.wait();
            let mut writer = File::from(writer);
            let end = feed.pass_all_but_end(&mut writer, notes.as_mut()).map_err(of_feed)?;
            let digest = verified(&**feed.input());
            writer.write_all(&end).map_err(Ended::Pipe)?;
            Ok(digest)
        },
    )
}

/// Where it is noted how the stream goes on, if it is to be.
fn notes_of(job: &Job, request: &ReceiveRequest) -> Option<Notes> {
    let go_on = request.zfs.go_on.as_ref().filter(|_| job.is_pulling)?;
    let at = go_on.behind.as_ref().map_or(0, |note| note.at());
    Some(Notes::new(&go_on.notes, &go_on.container, request.keep.as_ref()?.marks.clone(), at))
}

fn of_feed(broken: Broken) -> Ended {
    match broken {
        Broken::Stream(error) => Ended::Stream(error),
        Broken::Output(error) => Ended::Pipe(error),
    }
}

/// Runs both, the first on a thread of its own, which says when it is over. A kernel that ended first is why the stream
/// failed, or the pipe; otherwise a stream that failed is why the kernel did.
fn receive_beside(
    kernel: impl FnOnce(&AtomicBool) -> Result<Received, Ended> + Send,
    feed: impl FnOnce() -> Result<Option<Verified>, Ended>,
) -> Result<(Received, Option<Verified>), Ended> {
    let is_over = AtomicBool::new(false);
    let (fed, kernel_was_first, received) = thread::scope(|scope| {
        let kernel = thread::Builder::new()
            .name("receive".into())
            .spawn_scoped(scope, || kernel(&is_over))
            .map_err(Ended::Pipe)?;
        // The pipe's only writing end goes with this call, or with this process if it is killed: its reader then comes to the end.
        let fed = feed();
        let kernel_was_first = is_over.load(Ordering::Acquire);
        Ok((fed, kernel_was_first, kernel.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))))
    })?;
    cause(fed, kernel_was_first, received)
}

fn cause(
    fed: Result<Option<Verified>, Ended>,
    kernel_was_first: bool,
    received: Result<Received, Ended>,
) -> Result<(Received, Option<Verified>), Ended> {
    match (fed, received) {
        (Err(Ended::Stream(error)), _) if !kernel_was_first => Err(Ended::Stream(error)),
        (_, Err(ended)) => Err(ended),
        (Err(ended), Ok(_)) => Err(ended),
        (Ok(digest), Ok(received)) => Ok((received, digest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel_says(errno: Errno) -> Ended {
        let failed = Failed {
            op: "receive",
            subject: "tank/a@s".into(),
            errno,
            per_name: Default::default(),
            more: 0,
            rest_done: false,
        };
        Ended::Kernel(failed)
    }

    fn shown(result: Result<(Received, Option<Verified>), Ended>) -> String {
        match result {
            Ok((received, _)) => format!("received {}", received.read),
            Err(Ended::Stream(error)) => format!("stream: {error}"),
            Err(Ended::Kernel(failed)) => format!("kernel: {}", failed.errno),
            Err(Ended::Pipe(error)) => format!("pipe: {error}"),
        }
    }

    #[test]
    fn what_is_received_is_from_one_place_only_with_all_that_it_builds_upon() {
        let [here, other] = [Some(Digest([1; 32])), Some(Digest([2; 32]))];
        let base = |from, grounded| {
            let (blake3, at) = ("00".into(), jiff::Timestamp::UNIX_EPOCH);
            Verified { blake3, base: None, len: 1, at, earlier: None, grounded, from, upon: None }
        };
        let rest = |from| Some(Before { earlier: Earlier::Verified, from });
        assert_eq!(ground(here, None, None), (true, here));
        assert_eq!(ground(None, None, None), (true, None));
        assert_eq!(ground(here, rest(here), None), (true, here));
        assert_eq!(ground(here, rest(other), None), (true, None));
        assert_eq!(ground(here, rest(None), None), (true, None));
        assert_eq!(ground(here, None, Some(Some(&base(here, true)))), (true, here));
        assert_eq!(ground(here, None, Some(Some(&base(other, true)))), (true, None));
        assert_eq!(ground(here, None, Some(Some(&base(None, true)))), (true, None));
        assert_eq!(ground(None, None, Some(Some(&base(None, true)))), (true, None));
        assert_eq!(ground(here, None, Some(Some(&base(here, false)))), (false, None));
        assert_eq!(ground(here, None, Some(None)), (false, None));
        assert_eq!(ground(here, rest(other), Some(Some(&base(here, true)))), (true, None));
    }

    #[test]
    fn the_first_failure_is_told_and_not_the_one_that_it_caused() {
        let cut = || Err(Ended::Stream(zfs::Error::Truncated { offset: 7, what: "a record" }));
        let broken = || Err(Ended::Pipe(io::ErrorKind::BrokenPipe.into()));
        let truncated = || Err(kernel_says(Errno::StreamTruncated));
        let full = || Err(kernel_says(Errno::NoSpace));
        assert!(shown(cause(cut(), false, truncated())).starts_with("stream: "));
        assert_eq!(shown(cause(cut(), true, full())), "kernel: no space is left");
        assert_eq!(shown(cause(broken(), true, full())), "kernel: no space is left");
        assert_eq!(shown(cause(broken(), false, full())), "kernel: no space is left");
        assert_eq!(shown(cause(broken(), true, Ok(Received::default()))), "pipe: broken pipe");
        assert!(shown(cause(cut(), true, Ok(Received::default()))).starts_with("stream: "));
        assert_eq!(shown(cause(Ok(None), false, full())), "kernel: no space is left");
        assert_eq!(shown(cause(Ok(None), false, Ok(Received::default()))), "received 0");
    }

    #[test]
    fn the_pipe_is_closed_for_a_kernel_that_waits_and_a_kernel_that_ends_is_noticed() {
        let (reader, writer) = pipe::pipe(4096).unwrap();
        let waits = |_: &AtomicBool| {
            let read = io::copy(&mut File::from(reader), &mut io::sink()).map_err(Ended::Pipe)?;
            Ok(Received { read, ..Received::default() })
        };
        let feeds = || {
            let mut writer = File::from(writer);
            writer.write_all(&[7; 100_000]).map_err(Ended::Pipe).map(|()| None)
        };
        assert_eq!(shown(receive_beside(waits, feeds)), "received 100000");
        let (reader, writer) = pipe::pipe(4096).unwrap();
        let ends = |_: &AtomicBool| {
            drop(reader);
            Err(kernel_says(Errno::NoSpace))
        };
        let feeds = || File::from(writer).write_all(&[7; 100_000]).map_err(Ended::Pipe).map(|()| None);
        assert_eq!(shown(receive_beside(ends, feeds)), "kernel: no space is left");
    }
}
