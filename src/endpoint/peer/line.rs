//! The conversation between two programs, whichever side one is on.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::message::{Hello, Refusal};
use crate::endpoint::{Error, Result};
use crate::error::Class;
use crate::stream::wire::{self, Kind};

/// The longest answer in bytes: some hundred thousand versions.
const MAX_ANSWER_LEN: usize = 64 << 20;

/// An answer may take so many times as long as a stream may stand still.
const ANSWER: u32 = 36;
/// [`Patience::frame`].
const FRAME: Duration = Duration::from_secs(600);

/// How long to wait for the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Without a word of any kind, the other side is gone.
    pub silence: Duration,
    /// Without taking anything, or without anything of a stream that is under way, the other side hangs. Who serves waits for as long
    /// as its client is there.
    pub stall: Option<Duration>,
    /// How long one frame may take, or an answer that is no work; or as long as a stream may stand still, if that is longer.
    pub frame: Duration,
    /// How often to say that one is there.
    pub pulse: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            silence: Duration::from_secs(60),
            stall: Some(Duration::from_secs(600)),
            frame: FRAME,
            pulse: Duration::from_secs(10),
        }
    }
}

struct In {
    input: Slow<Box<dyn Read + Send>>,
    payload: Vec<u8>,
}

/// A reader that is waited for up to a moment: without that, who says a byte now and then would never end what it says.
struct Slow<R> {
    input: R,
    until: Option<Instant>,
}

impl<R: Read> Read for Slow<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.until {
            Some(until) if until <= Instant::now() => Err(io::ErrorKind::TimedOut.into()),
            _ => self.input.read(buf),
        }
    }
}

struct Out {
    output: Box<dyn Write + Send>,
    said: u64, // Frames since the beginning.
}

/// Both directions of a conversation. While it is there, the other side is told so. Clones are the same conversation.
#[derive(Clone)]
pub struct Line {
    with: Arc<str>,
    stall: Option<Duration>,
    frame: Duration,
    hangs: Arc<AtomicBool>,
    input: Arc<Mutex<In>>,
    output: Arc<Mutex<Out>>,
    _pulse: Arc<Pulse>,
}

impl Line {
    /// A conversation with `with`, as errors call it.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn new(
        with: &str,
        input: impl Read + Send + 'static,
        output: impl Write + Send + 'static,
        patience: Patience,
    ) -> Result<Self> {
        let input = In { input: Slow { input: Box::new(input), until: None }, payload: Vec::new() };
        let output = Arc::new(Mutex::new(Out { output: Box::new(output), said: 0 }));
        let pulse = Pulse::start(&output, patience.pulse).map_err(Error::io("talk to", with))?;
        let (input, pulse) = (Arc::new(Mutex::new(input)), Arc::new(pulse));
        let Patience { stall, frame, .. } = patience;
        let hangs = Arc::default();
        Ok(Self { with: with.into(), stall, frame, hangs, input, output, _pulse: pulse })
    }

    /// Whether the other side was given up, as nothing moved for too long.
    pub fn hangs(&self) -> bool {
        self.hangs.load(Ordering::Relaxed)
    }

    /// What [`Line::hangs`] answers, also once the conversation is over.
    pub(super) fn hanging(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.hangs)
    }

    /// Says who speaks, and hears the same.
    ///
    /// # Errors
    /// Who does not speak the protocol, or no version of it that is known here.
    pub fn greet(&self) -> Result<Hello> {
        let program = concat!("cowsnap ", env!("CARGO_PKG_VERSION")).into();
        self.say(Kind::Hello, &Hello { protocol: wire::VERSION, oldest: wire::VERSION, program })?;
        let Some((Kind::Hello, payload)) = self.next()? else {
            return Err(self.gone("it said nothing", "is cowsnap installed there, and may this key run it?"));
        };
        let hello: Hello = self.parse(&payload)?;
        match hello.oldest <= wire::VERSION && wire::VERSION <= hello.protocol {
            true => Ok(hello),
            false => Err(Error::Denied {
                op: "talk to",
                subject: self.with.to_string(),
                lacking: format!(
                    "{} speaks versions {} to {} of the protocol, this is version {}",
                    hello.program.escape_debug(),
                    hello.oldest,
                    hello.protocol,
                    wire::VERSION
                ),
                hint: Some("install the same release of cowsnap on both sides".into()),
            }),
        }
    }

    /// Says one thing.
    ///
    /// # Errors
    /// A connection that fails, a thing that is too long.
    pub fn say(&self, kind: Kind, thing: &impl Serialize) -> Result<()> {
        let json = serde_json::to_vec(thing).expect("what is said has texts as keys");
        match kind {
            Kind::Answer => self.answer(&json),
            _ => self.put(kind, &json),
        }
    }

    /// An answer of any length, and its end.
    fn answer(&self, json: &[u8]) -> Result<()> {
        for part in json.chunks(wire::MAX_PAYLOAD_LEN) {
            self.put(Kind::Answer, part)?;
        }
        self.put(Kind::End, &[])
    }

    /// One frame.
    ///
    /// # Errors
    /// As [`Line::say`].
    pub fn put(&self, kind: Kind, payload: &[u8]) -> Result<()> {
        let mut out = locked(&self.output);
        out.put(kind, payload).map_err(|error| self.failed(error))
    }

    /// The next frame that says something; `None` once the other side has gone.
    ///
    /// # Errors
    /// A connection that fails; what is no frame; a side that is there and says nothing else for too long.
    pub fn next(&self) -> Result<Option<(Kind, Vec<u8>)>> {
        // What is asked for may be hours of work, as hashing what was received before is.
        self.next_within(self.stall.map(|stall| stall * ANSWER))
    }

    /// How long what is no work may take.
    fn brief(&self) -> Option<Duration> {
        self.stall.map(|stall| stall.max(self.frame))
    }

    fn next_within(&self, limit: Option<Duration>) -> Result<Option<(Kind, Vec<u8>)>> {
        let mut guard = locked(&self.input);
        let inner = &mut *guard;
        let begun = Instant::now();
        loop {
            // A frame that has begun is at most 1 MiB: whoever takes longer for it than for all else hangs.
            inner.input.until = self.brief().and_then(|brief| Instant::now().checked_add(brief));
            match wire::read(&mut inner.input, &mut inner.payload).map_err(|error| self.failed(error))? {
                Some(Kind::Alive) if limit.is_none_or(|limit| begun.elapsed() < limit) => {}
                Some(Kind::Alive) => {
                    let seconds = begun.elapsed().as_secs();
                    let what = format!("it is there, and nothing has moved for {seconds} s");
                    return Err(self.stalled(&what));
                }
                Some(kind @ (Kind::Data | Kind::Answer)) if inner.payload.is_empty() => {
                    return Err(self.strange(format!("{kind:?} without a byte")));
                }
                Some(kind) => return Ok(Some((kind, std::mem::take(&mut inner.payload)))),
                None => return Ok(None),
            }
        }
    }

    /// What is answered, to its end.
    ///
    /// # Errors
    /// [`Error::Remote`] if it is a refusal.
    pub fn heard<T: DeserializeOwned>(&self) -> Result<T> {
        self.heard_within(self.stall.map(|stall| stall * ANSWER))
    }

    /// As [`Line::heard`], of what is no work: it takes no longer than a frame may.
    ///
    /// # Errors
    /// As [`Line::heard`].
    pub fn heard_soon<T: DeserializeOwned>(&self) -> Result<T> {
        self.heard_within(self.brief())
    }

    fn heard_within<T: DeserializeOwned>(&self, limit: Option<Duration>) -> Result<T> {
        let (begun, mut json) = (Instant::now(), Vec::new());
        loop {
            let left = limit.map(|limit| limit.saturating_sub(begun.elapsed()));
            if left.is_some_and(|left| left.is_zero()) {
                let what = format!("its answer has not ended for {} s", begun.elapsed().as_secs());
                return Err(self.stalled(&what));
            }
            match self.next_within(left)? {
                Some((Kind::Answer, part)) if json.len() + part.len() <= MAX_ANSWER_LEN => json.extend(part),
                Some((Kind::End, _)) => return self.parse(&json),
                Some((Kind::Refusal, payload)) => return Err(self.refused(&payload)),
                Some((kind, _)) => return Err(self.strange(format!("{kind:?} instead of an answer"))),
                None => return Err(self.gone("it went away before it answered", "try again")),
            }
        }
    }

    /// What the other side said, read as `T`.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is none.
    pub fn parse<T: DeserializeOwned>(&self, json: &[u8]) -> Result<T> {
        serde_json::from_slice(json).map_err(|error| self.strange(error.to_string()))
    }

    /// The bytes of the stream that comes now, to its end.
    pub fn data(&self) -> Data {
        Data { line: self.clone(), block: Vec::new(), taken: 0, ended: false }
    }

    /// Takes the bytes of a stream. Whoever is done says so by [`DataOut::end`].
    pub fn data_out(&self) -> DataOut {
        DataOut { line: self.clone(), block: Vec::with_capacity(wire::MAX_PAYLOAD_LEN) }
    }

    /// Why the other side went, if it said so before.
    pub fn refusal(&self) -> Option<Error> {
        // More than that was never said before anybody went.
        for _ in 0..100 {
            match self.next_within(self.stall) {
                Ok(Some((Kind::Refusal, payload))) => return Some(self.refused(&payload)),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return None,
            }
        }
        None
    }

    /// The error that `payload` says.
    pub fn refused(&self, payload: &[u8]) -> Error {
        match serde_json::from_slice::<Refusal>(payload) {
            Ok(refusal) => Error::Remote {
                place: self.with.to_string(),
                what: refusal.told(),
                class: refusal.class,
                hint: refusal.hint.map(|hint| format!("there: {}", hint.escape_debug())),
            },
            Err(error) => self.strange(error.to_string()),
        }
    }

    fn strange(&self, why: String) -> Error {
        Error::Corrupt {
            what: "conversation",
            why: format!("{}: {}", self.with, why.escape_debug()),
            source: None,
        }
    }

    fn stalled(&self, what: &str) -> Error {
        self.hangs.store(true, Ordering::Relaxed);
        self.gone(what, "try again; if it only needs longer: --stall SECONDS")
    }

    fn gone(&self, why: &str, hint: &str) -> Error {
        Error::Remote {
            place: self.with.to_string(),
            what: why.into(),
            class: Class::Unreachable,
            hint: Some(hint.into()),
        }
    }

    fn failed(&self, error: wire::Error) -> Error {
        match error {
            wire::Error::Io(source) => {
                self.hangs.fetch_or(source.kind() == io::ErrorKind::TimedOut, Ordering::Relaxed);
                Error::io("talk to", &self.with)(source)
            }
            wire::Error::Cut => self.gone("the connection was cut", "try again"),
            wire::Error::Magic { .. } => Error::Denied {
                op: "talk to",
                subject: self.with.to_string(),
                lacking: error.to_string(),
                hint: Some("let the shell there print nothing when nobody is at a terminal".into()),
            },
            other => self.strange(other.to_string()),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Out {
    fn put(&mut self, kind: Kind, payload: &[u8]) -> wire::Result<()> {
        wire::write(&mut self.output, kind, payload)?;
        self.said += 1;
        Ok(self.output.flush()?)
    }
}

/// Tells the other side that one is there, whenever nothing else was said for a while. Ends when it is dropped.
struct Pulse {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Pulse {
    fn start(output: &Arc<Mutex<Out>>, every: Duration) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel::<()>();
        let output = Arc::downgrade(output);
        let beat = move || {
            let mut said = 0;
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                let Some(output) = output.upgrade() else { return };
                // Whoever holds it is writing, which says the same.
                let Ok(mut out) = output.try_lock() else { continue };
                if out.said == said && out.put(Kind::Alive, &[]).is_err() {
                    return; // Whoever writes next is told.
                }
                said = out.said;
            }
        };
        let thread = std::thread::Builder::new().name("pulse".into()).spawn(beat)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.stop = None;
        // Waiting for it would wait for a write that hangs.
        self.thread.take();
    }
}

/// The bytes of a stream as they arrive. An end that was not said is an error, never the end.
pub struct Data {
    line: Line,
    block: Vec<u8>,
    taken: usize,
    ended: bool,
}

impl Read for Data {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.block.len() && !self.ended {
            match self.line.next_within(self.line.stall).map_err(io::Error::other)? {
                Some((Kind::Data, block)) => (self.block, self.taken) = (block, 0),
                Some((Kind::End, _)) => self.ended = true,
                Some((Kind::Refusal, payload)) => return Err(io::Error::other(self.line.refused(&payload))),
                Some((kind, _)) => {
                    return Err(io::Error::other(self.line.strange(format!("{kind:?} within a stream"))));
                }
                None => {
                    return Err(io::Error::other(
                        self.line.gone("it went away within the stream", "try again"),
                    ));
                }
            }
        }
        let len = buf.len().min(self.block.len() - self.taken);
        buf[..len].copy_from_slice(&self.block[self.taken..self.taken + len]);
        self.taken += len;
        Ok(len)
    }
}

/// Takes the bytes of a stream, and says them in frames.
pub struct DataOut {
    line: Line,
    block: Vec<u8>, // Invariant: shorter than the longest payload.
}

impl DataOut {
    /// Says what is left, and that this is all.
    ///
    /// # Errors
    /// A connection that fails.
    pub fn end(mut self) -> Result<()> {
        self.pass_on()?;
        self.line.put(Kind::End, &[])
    }

    fn pass_on(&mut self) -> Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let said = self.line.put(Kind::Data, &self.block);
        self.block.clear();
        said
    }
}

impl Write for DataOut {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let len = buf.len().min(wire::MAX_PAYLOAD_LEN - self.block.len());
        self.block.extend_from_slice(&buf[..len]);
        if self.block.len() == wire::MAX_PAYLOAD_LEN {
            self.pass_on().map_err(io::Error::other)?;
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pass_on().map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::sys::pipe::pipe;

    /// Two ends of one conversation.
    fn pair(patience: Patience) -> (Line, Line) {
        let ((there_in, here_out), (here_in, there_out)) = (pipe(1 << 16).unwrap(), pipe(1 << 16).unwrap());
        let line =
            |with, input, output| Line::new(with, File::from(input), File::from(output), patience).unwrap();
        (line("there", here_in, here_out), line("here", there_in, there_out))
    }

    fn quiet() -> (Line, Line) {
        pair(Patience { pulse: Duration::from_secs(3600), ..Patience::default() })
    }

    #[test]
    fn both_sides_say_who_they_are() {
        let (here, there) = quiet();
        let other = std::thread::spawn(move || there.greet());
        assert!(here.greet().unwrap().program.starts_with("cowsnap "));
        assert_eq!(other.join().unwrap().unwrap().protocol, wire::VERSION);
    }

    #[test]
    fn another_version_and_nobody_are_told_from_each_other() {
        let (here, there) = quiet();
        there.say(Kind::Hello, &Hello { protocol: 9, oldest: 7, program: "cowsnap 9\n".into() }).unwrap();
        let error = here.greet().unwrap_err();
        assert_eq!(error.class(), Class::Denied);
        assert!(error.to_string().contains(r"cowsnap 9\n speaks versions 7 to 9"), "{error}");
        let (here, there) = quiet();
        drop(there);
        assert_eq!(here.greet().unwrap_err().class(), Class::Unreachable);
    }

    #[test]
    fn a_long_answer_comes_in_parts() {
        let (here, there) = quiet();
        let long: Vec<String> = (0..300_000).map(|n| format!("version {n}")).collect();
        let said = long.clone();
        let saying = std::thread::spawn(move || there.say(Kind::Answer, &said));
        assert!(here.heard::<Vec<String>>().unwrap() == long);
        saying.join().unwrap().unwrap();
    }

    #[test]
    fn a_refusal_has_the_class_that_it_had_there() {
        let (here, there) = quiet();
        let error = Error::Held { subject: "a@b".into(), tags: vec!["x".into()] };
        there.say(Kind::Refusal, &Refusal::of(&error, error.class(), error.hint())).unwrap();
        let heard = here.heard::<()>().unwrap_err();
        assert_eq!(
            (heard.class(), heard.to_string().as_str()),
            (Class::Conflict, "there: snapshot a@b is held by x")
        );
        assert!(heard.hint().unwrap().contains("cowsnap release"));
    }

    #[test]
    fn a_stream_arrives_and_one_that_breaks_off_is_no_end() {
        let bytes: Vec<u8> = (0..3_300_000).map(|n| (n % 251) as u8).collect();
        for ends in [true, false] {
            let (here, there) = quiet();
            let sent = bytes.clone();
            let sending = std::thread::spawn(move || {
                let mut out = there.data_out();
                out.write_all(&sent).unwrap();
                out.flush().unwrap();
                if ends {
                    out.end().unwrap()
                }
            });
            let mut got = Vec::new();
            let read = here.data().read_to_end(&mut got);
            sending.join().unwrap();
            assert!(got == bytes);
            assert_eq!(read.is_ok(), ends);
            if let Err(error) = read {
                assert_eq!(crate::error::class_of_io(&error), Class::Unreachable);
            }
        }
    }

    #[test]
    fn who_says_a_byte_now_and_then_is_not_waited_for_without_an_end() {
        let late = |until| Slow { input: std::io::repeat(7), until }.read(&mut [0; 3]);
        assert_eq!(late(None).unwrap(), 3);
        assert_eq!(late(Some(Instant::now() + FRAME)).unwrap(), 3);
        assert_eq!(late(Some(Instant::now())).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn an_answer_that_never_ends_is_not_waited_for() {
        let stall = Some(Duration::from_millis(1));
        let (here, there) = pair(Patience { pulse: Duration::from_secs(3600), stall, ..Patience::default() });
        let saying = std::thread::spawn(move || while there.put(Kind::Answer, b" ").is_ok() {});
        let error = here.heard::<()>().unwrap_err();
        assert_eq!(error.class(), Class::Unreachable);
        assert!(error.to_string().contains("has not ended"), "{error}");
        drop(here);
        saying.join().unwrap();
    }

    #[test]
    fn who_works_in_silence_is_heard_but_not_for_ever() {
        let pulse = Duration::from_millis(1);
        let (here, there) = pair(Patience { pulse, ..Patience::default() });
        let mut input = locked(&here.input);
        let mut payload = Vec::new();
        for _ in 0..3 {
            assert_eq!(wire::read(&mut input.input, &mut payload).unwrap(), Some(Kind::Alive));
        }
        drop((input, there));
        let stall = Some(Duration::from_millis(5));
        let (here, _there) = pair(Patience { pulse, stall, ..Patience::default() });
        let error = here.heard::<()>().unwrap_err();
        assert_eq!(error.class(), Class::Unreachable);
        assert!(error.to_string().contains("nothing has moved") && here.hangs(), "{error}");
        assert!(here.data().read(&mut [0]).is_err());
        // What is no work is not waited for longer than for a frame.
        let (here, _there) =
            pair(Patience { pulse, stall: stall.map(|stall| stall * 1000), ..Patience::default() });
        assert!(!here.hangs());
        let (here, _there) = pair(Patience { pulse, stall, frame: pulse, ..Patience::default() });
        assert!(here.heard_soon::<()>().is_err() && here.hangs());
        let (here, there) = quiet();
        there.put(Kind::Data, &[]).unwrap();
        assert_eq!(here.next().unwrap_err().class(), Class::Corrupt, "a frame without a byte moves nothing");
    }
}
