//! Reads containers, and yields no byte that it has not verified.
//!
//! [`Frames`] reads one frame after another on the caller's thread; [`Reader`] reads ahead and verifies on all cores. Both
//! go through the same three steps: [`Source`] takes records off the input, [`Frame::open`] verifies one by itself, and
//! `Sequence` holds together what spans frames.

use std::io::{self, BufRead, Read};
use std::sync::Arc;

use zstd::bulk::Decompressor;

use super::container::error::{Error, Place, Result};
use super::container::header::{check_header, check_prelude};
use super::container::record::HEAD_LEN;
use super::container::tree::Leaf;
use super::container::{
    FRAME_LEN, HASH_LEN, Head, Header, HeaderHash, Kind, PRELUDE_LEN, Prefix, Sealed, TAIL_LEN,
};
use super::crypt::{Envelope, FRONT_LEN, TAG_LEN};
use super::parallel::{self, Block, Jobs, Pool, Results};
use super::sign::PublicKey;
use super::writer::fill;

mod checks;
mod marks;

pub use checks::{Checks, Keys, Outline, trailer_of};
use checks::{Secrecy, Sequence};
pub use marks::Marks;

// The frames between input and caller: two blocks each, so that their memory stays below 64 MiB on any machine.
const MAX_IN_FLIGHT: usize = 24;

/// Takes records off the input. Clone it with its input to read on from the same place again.
#[derive(Debug, Clone)]
pub struct Source<R> {
    input: R,
    at: u64,
    frames: u64,
    envelope: Option<Envelope>,
}

/// A frame as it stands in the container.
pub struct Frame {
    place: Place,
    head: Head,
    payload: Block,
}

/// The trailer as it stands in the container.
pub struct Trailer {
    at: u64,
    head: Head,
    rest: Vec<u8>,
}

/// What [`Source`] takes off the input.
pub enum Record {
    /// A frame.
    Frame(Frame),
    /// The trailer, after which the input ended.
    Trailer(Trailer),
}

impl<R: Read> Source<R> {
    /// Reads the prelude and the header.
    ///
    /// # Errors
    /// What [`check_prelude`] and [`check_header`] say, [`Error::Truncated`], [`Error::Read`].
    pub fn open(input: R) -> Result<(Self, Header, HeaderHash)> {
        let mut source = Self { input, at: 0, frames: 0, envelope: None };
        let mut bytes = vec![0; PRELUDE_LEN];
        let in_header = || "its header".to_owned();
        let got = source.fill(&mut bytes)?;
        if got < PRELUDE_LEN {
            // A short file of another sort should be called so, not a cut-off container.
            return Err(short_prelude(&bytes[..got]));
        }
        let len = check_prelude(bytes[..].try_into().expect("as long as a prelude"))?;
        bytes.resize(PRELUDE_LEN + len + HASH_LEN, 0);
        source.fill_all(&mut bytes[PRELUDE_LEN..], in_header)?;
        let (header, envelope, key) = check_header(&bytes)?;
        source.envelope = envelope;
        Ok((source, header, key))
    }

    /// For whom the container is encrypted; `None` if it is not.
    pub fn envelope(&self) -> Option<&Envelope> {
        self.envelope.as_ref()
    }

    /// The next record. Nothing of it is believed yet but that its payload has a possible length.
    ///
    /// # Errors
    /// [`Error::Truncated`], [`Error::FrameLength`], [`Error::Trailer`], [`Error::TrailingBytes`], [`Error::Read`].
    pub fn record(&mut self, pool: &Pool) -> Result<Record> {
        let place = Place { frame: self.frames, offset: self.frames * FRAME_LEN as u64, at: self.at };
        let mut head = [0; HEAD_LEN];
        self.fill_all(&mut head, || place.to_string())?;
        let head = Head::from_bytes(head);
        let max = head.kind().max_payload_len();
        match head.kind() {
            Kind::Trailer if head.payload_len() > max => {
                Err(Error::Trailer { at: place.at, why: "its length is not possible".into() })
            }
            Kind::Trailer => self.trailer(head, place.at).map(Record::Trailer),
            _ if head.payload_len() > max => {
                let (len, max) = (head.payload_len() as u64, max as u64);
                Err(Error::FrameLength { place, what: "payload", len, max })
            }
            _ => self.frame(head, place, pool).map(Record::Frame),
        }
    }

    fn frame(&mut self, head: Head, place: Place, pool: &Pool) -> Result<Frame> {
        let mut payload = pool.take();
        self.fill_all(payload.room(head.payload_len()), || place.to_string())?;
        self.frames += 1;
        Ok(Frame { place, head, payload })
    }

    fn trailer(&mut self, head: Head, at: u64) -> Result<Trailer> {
        let mut rest = vec![0; head.payload_len() + TAIL_LEN];
        self.fill_all(&mut rest, || "its trailer".to_owned())?;
        let end = self.at;
        match self.fill(&mut [0])? {
            0 => Ok(Trailer { at, head, rest }),
            _ => Err(Error::TrailingBytes { end }),
        }
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize> {
        match fill(&mut self.input, buffer) {
            Ok(len) => {
                self.at += len as u64;
                Ok(len)
            }
            Err((len, source)) => Err(Error::Read { at: self.at + len as u64, source }),
        }
    }

    fn fill_all(&mut self, buffer: &mut [u8], what: impl FnOnce() -> String) -> Result<()> {
        match self.fill(buffer)? {
            len if len == buffer.len() => Ok(()),
            _ => Err(Error::Truncated { what: what(), end: self.at }),
        }
    }
}

fn short_prelude(found: &[u8]) -> Error {
    let magic = &super::container::MAGIC[..];
    let common = found.len().min(magic.len());
    match found[..common] == magic[..common] {
        true => Error::Truncated { what: "its first 32 bytes".into(), end: found.len() as u64 },
        false => Error::Magic { found: found[..common].to_vec() },
    }
}

/// A decompressor that is made when it is first needed.
#[derive(Default)]
pub struct Unzip(Option<Decompressor<'static>>);

impl Clone for Unzip {
    /// Another one: they hold nothing between frames.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Unzip {
    /// Fills `out` from `payload`, which must give exactly that.
    fn unzip(&mut self, payload: &[u8], out: &mut [u8], place: Place) -> Result<()> {
        let len = out.len();
        let failed = |source| Error::FrameDecode { place, len, source };
        let made = match self.0.take() {
            Some(made) => made,
            None => Decompressor::new().map_err(|error| failed(Some(error)))?,
        };
        match self.0.insert(made).decompress_to_buffer(payload, out) {
            Ok(got) if got == len => Ok(()),
            Ok(_) => Err(failed(None)),
            Err(error) => Err(failed(Some(error))),
        }
    }
}

/// A frame that was found sound by itself.
pub struct Opened {
    /// Where it stands.
    pub place: Place,
    /// How its data is stored: within, if it is encrypted and could be decrypted.
    pub kind: Kind,
    /// How long its payload is in the container, in bytes.
    pub payload_len: usize,
    head: Head,
    bytes: Block,
    leaf: Option<Leaf>, // None if nobody decrypted it.
}

impl Opened {
    /// The stream's bytes; none of a frame that is only known by its seal.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Frame {
    /// Verifies the frame by itself: seal, number, lengths, then (decrypted, decompressed) its chaining value.
    ///
    /// # Errors
    /// [`Error::FrameSeal`], [`Error::FrameOrder`], [`Error::FrameLength`], [`Error::FrameKind`], [`Error::FrameDecrypt`],
    /// [`Error::FrameDecode`], [`Error::FrameHash`], [`Error::NeedsNewer`].
    pub fn open(self, checks: &Checks, unzip: &mut Unzip, pool: &Pool) -> Result<Opened> {
        let Self { place, head, mut payload } = self;
        if !head.is_sealed(&checks.hash, &payload) {
            return Err(Error::FrameSeal { place });
        }
        let len = check_head(&head, checks.is_encrypted(), place)?;
        let payload_len = payload.len();
        let (kind, expected) = match &checks.secrecy {
            Secrecy::Plain => (head.kind(), head.digest()),
            Secrecy::Open(keys) => {
                let inner = keys.open(&head, &mut payload).ok_or(Error::FrameDecrypt { place })?;
                payload.skip(FRONT_LEN);
                payload.truncate(payload_len - FRONT_LEN - TAG_LEN);
                check_inner(inner.kind, payload.len(), len, place)?;
                (inner.kind, inner.chaining_value)
            }
            Secrecy::Shut => {
                payload.truncate(0);
                let kind = head.kind();
                return Ok(Opened { place, kind, payload_len, head, bytes: payload, leaf: None });
            }
        };
        let bytes = match kind {
            Kind::Stored => payload,
            _ => {
                let mut bytes = pool.take();
                unzip.unzip(&payload, bytes.room(len), place)?;
                pool.put(payload);
                bytes
            }
        };
        let leaf = Leaf::of(place.frame, &bytes);
        if leaf.chaining_value != expected {
            return Err(Error::FrameHash { place });
        }
        Ok(Opened { place, kind, payload_len, head, bytes, leaf: Some(leaf) })
    }
}

/// Checks what a sealed head says against its place; how many bytes of the stream it holds.
fn check_head(head: &Head, is_encrypted: bool, place: Place) -> Result<usize> {
    let known = matches!(head.kind(), Kind::Stored | Kind::Zstd | Kind::Encrypted);
    if !known || !head.is_plain() {
        return Err(Error::NeedsNewer { what: format!("{place} is of an unknown kind") });
    }
    if (head.kind() == Kind::Encrypted) != is_encrypted {
        let found = if is_encrypted { "not encrypted" } else { "encrypted" };
        return Err(Error::FrameKind { place, found });
    }
    if head.number() != place.frame {
        return Err(Error::FrameOrder { place, found: head.number() });
    }
    let (len, max) = (head.len(), FRAME_LEN as u64);
    if len == 0 || len > max {
        return Err(Error::FrameLength { place, what: "part of the stream", len, max });
    }
    let payload = head.payload_len() as u64;
    let around = (FRONT_LEN + TAG_LEN) as u64;
    let (possible, max) = match head.kind() {
        Kind::Stored => (payload == len, len),
        Kind::Encrypted => ((around + 1..=around + len).contains(&payload), around + len),
        _ => (payload < len, len),
    };
    match possible {
        true => Ok(len as usize),
        false => Err(Error::FrameLength { place, what: "payload", len: payload, max }),
    }
}

/// Checks what stood in an encrypted frame as [`check_head`] checks what stands in others.
fn check_inner(kind: Kind, data: usize, len: usize, place: Place) -> Result<()> {
    match kind {
        Kind::Stored if data == len => Ok(()),
        Kind::Zstd if data < len => Ok(()),
        Kind::Stored | Kind::Zstd => {
            let (len, max) = (data as u64, len as u64);
            Err(Error::FrameLength { place, what: "data", len, max })
        }
        _ => Err(Error::NeedsNewer { what: format!("{place} holds a frame of an unknown kind") }),
    }
}

/// Reads a container frame by frame, on the caller's thread. Clone it with its input to read on from the same place again.
#[derive(Clone)]
pub struct Frames<R> {
    source: Source<R>,
    header: Arc<Header>,
    checks: Arc<Checks>,
    sequence: Sequence,
    unzip: Unzip,
    pool: Arc<Pool>,
}

impl<R: Read> Frames<R> {
    /// Reads and checks the header.
    ///
    /// # Errors
    /// Those of [`Source::open`].
    pub fn open(input: R) -> Result<Self> {
        Self::open_by(input, &Keys::default())
    }

    /// As [`Frames::open`], with these keys.
    ///
    /// # Errors
    /// Those of [`Source::open`] and [`Checks::of`].
    pub fn open_by(input: R, keys: &Keys) -> Result<Self> {
        let (source, header, hash) = Source::open(input)?;
        let checks = Arc::new(Checks::of(hash, source.envelope(), keys)?);
        let (header, sequence) = (Arc::new(header), Sequence::of(&checks));
        Ok(Self { source, header, checks, sequence, unzip: Unzip::default(), pool: Arc::default() })
    }

    /// What the stream is.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The next frame, verified; after the last one, what the verified trailer says.
    ///
    /// # Errors
    /// What is wrong with the container, and where.
    pub fn step(&mut self) -> Result<Step> {
        match self.source.record(&self.pool)? {
            Record::Trailer(trailer) => {
                let outline = self.sequence.finish(&trailer, &self.checks)?;
                Ok(Step::End(outline.sealed().expect("what is read here is decrypted")))
            }
            Record::Frame(frame) => {
                let opened = frame.open(&self.checks, &mut self.unzip, &self.pool)?;
                self.sequence.accept(&opened)?;
                Ok(Step::Frame(opened))
            }
        }
    }

    /// Gives a frame's memory back to be used again.
    pub fn recycle(&self, frame: Opened) {
        self.pool.put(frame.bytes);
    }
}

/// What [`Frames`] gives.
pub enum Step {
    /// A frame.
    Frame(Opened),
    /// The end: the trailer was verified.
    End(Sealed),
}

/// What a worker makes of a record.
enum Checked {
    Frame(Opened),
    Trailer(Trailer),
}

/// Reads a container's stream. All that it yields is verified, and it says "end" only if the trailer is sound and says so.
///
/// It reads ahead and verifies on all cores. At most 24 frames are between input and caller, whatever the input says. Its
/// `io::Error`s hold an [`Error`]: [`Error::within`] and [`Error::from_io`] find it.
///
/// A reader that is dropped before the end stops its threads, but does not wait for a read of the input that is under way.
pub struct Reader {
    header: Header,
    checks: Arc<Checks>,
    results: Option<Results<Result<Checked>>>, // `None` after an error or the end.
    marks: Marks,
    sequence: Sequence,
    pool: Arc<Pool>,
    block: Arc<Block>,
    taken: usize, // Invariant: at most `block.len()`.
    outline: Option<Outline>,
    sealed: Option<Sealed>,
}

impl Reader {
    /// Reads and checks the header, then starts to read ahead.
    ///
    /// # Errors
    /// Those of [`Source::open`].
    pub fn open(input: impl Read + Send + 'static) -> Result<Self> {
        Self::open_with(input, 0)
    }

    /// As [`Reader::open`], with that many threads to verify; 0 for one per core.
    ///
    /// # Errors
    /// Those of [`Source::open`].
    pub fn open_with(input: impl Read + Send + 'static, threads: usize) -> Result<Self> {
        Self::open_by(input, &Keys::default(), threads)
    }

    /// As [`Reader::open_with`], with these keys. A container that none of the trusted signed is told by an error in place of the end.
    ///
    /// # Errors
    /// Those of [`Source::open`] and [`Checks::of`].
    pub fn open_by(input: impl Read + Send + 'static, keys: &Keys, threads: usize) -> Result<Self> {
        let (source, header, hash) = Source::open(input)?;
        let checks = Checks::of(hash, source.envelope(), keys)?;
        let sequence = Sequence::of(&checks);
        Ok(Self::start(source, header, checks, sequence, threads))
    }

    /// Goes on behind `prefix`: `input` is what [`write_rest`](super::writer::write_rest) wrote, and what is read is the rest of
    /// the stream. The trailer's root is of the whole.
    ///
    /// # Errors
    /// Those of [`Source::open`]; [`Error::Encrypted`]: what is encrypted does not go on.
    pub fn resume(input: impl Read + Send + 'static, prefix: &Prefix) -> Result<Self> {
        let (source, header, hash) = Source::open(input)?;
        let checks = Checks::of(hash, source.envelope(), &Keys::default())?;
        let (tree, frames, len) = (prefix.tree(), prefix.frames(), prefix.stream_len());
        let sequence = Sequence { tree, frames, len, ..Sequence::default() };
        Ok(Self::start(source, header, checks, sequence, 0))
    }

    fn start(
        mut source: Source<impl Read + Send + 'static>,
        header: Header,
        checks: Checks,
        sequence: Sequence,
        threads: usize,
    ) -> Self {
        source.frames = sequence.frames;
        let checks = Arc::new(checks);
        let threads = parallel::threads(threads);
        let pool = Arc::new(Pool::default());
        let (jobs, workers, results) = parallel::ordered((2 * threads + 2).min(MAX_IN_FLIGHT));
        for _ in 0..threads {
            let (workers, pool, checks) = (workers.clone(), pool.clone(), checks.clone());
            let mut unzip = Unzip::default();
            std::thread::spawn(move || workers.run(|record| check(record, &checks, &mut unzip, &pool)));
        }
        let for_source = pool.clone();
        std::thread::spawn(move || read_records(source, &jobs, &for_source));
        Self {
            header,
            checks,
            results: Some(results),
            marks: Marks::default(),
            sequence,
            pool,
            block: Arc::default(),
            taken: 0,
            outline: None,
            sealed: None,
        }
    }

    /// What the stream is.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What was verified, once the end was reached.
    pub fn sealed(&self) -> Option<&Sealed> {
        self.sealed.as_ref()
    }

    /// Who signed it, once the end was reached.
    pub fn signers(&self) -> &[PublicKey] {
        self.outline.as_ref().map_or(&[], |outline| &outline.signers)
    }

    /// What the latest frames hash to and hold, also while it is being read. From then on it keeps them.
    pub fn marks(&self) -> Marks {
        self.marks.keep_blocks();
        self.marks.clone()
    }

    /// How many bytes of the stream were verified so far.
    pub fn verified(&self) -> u64 {
        self.sequence.len
    }

    /// Reads to the end and throws the bytes away. `observe` is told how many were verified.
    ///
    /// # Errors
    /// What is wrong with the container, and where.
    pub fn verify(&mut self, mut observe: impl FnMut(u64)) -> Result<Sealed> {
        while self.outline.is_none() {
            self.advance()?;
            observe(self.sequence.len);
        }
        self.sealed.ok_or(Error::Spent)
    }

    /// Reads a container to its end and checks what anybody can: of an encrypted one the seals, the order and the trailer; of one that
    /// `keys` decrypt, or that is not encrypted, every byte. `observe` is told how many bytes of the stream that were.
    ///
    /// # Errors
    /// What is wrong with the container, and where.
    pub fn outline(
        input: impl Read + Send + 'static,
        keys: &Keys,
        mut observe: impl FnMut(u64),
    ) -> Result<(Header, Outline)> {
        let (source, header, hash) = Source::open(input)?;
        let envelope = source.envelope();
        let checks = match keys.identities.is_empty() {
            true => Checks::of_seals(hash, envelope, keys),
            false => Checks::of(hash, envelope, keys)?,
        };
        let sequence = Sequence::of(&checks);
        let mut reader = Self::start(source, header, checks, sequence, 0);
        while reader.outline.is_none() {
            reader.advance()?;
            observe(reader.sequence.len);
        }
        let outline = reader.outline.ok_or(Error::Spent)?;
        Ok((reader.header, outline))
    }

    /// Takes the next frame, or notes the end.
    fn advance(&mut self) -> Result<()> {
        let mut results = self.results.take().ok_or(Error::Spent)?;
        match results.next().ok_or(Error::Spent)?? {
            Checked::Frame(frame) => {
                self.sequence.accept(&frame)?;
                let block = Arc::new(frame.bytes);
                let old = self.marks.add(&self.sequence.tree, self.sequence.last, &block);
                let done = std::mem::replace(&mut self.block, block);
                [Some(done), old]
                    .into_iter()
                    .flatten()
                    .filter_map(Arc::into_inner)
                    .for_each(|b| self.pool.put(b));
                self.taken = 0;
                self.results = Some(results);
            }
            Checked::Trailer(trailer) => {
                let outline = self.sequence.finish(&trailer, &self.checks)?;
                self.sealed = outline.sealed();
                self.outline = Some(outline);
                self.block = Arc::default();
                self.taken = 0;
            }
        }
        Ok(())
    }
}

impl BufRead for Reader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.taken == self.block.len() && self.outline.is_none() {
            self.advance()?;
        }
        Ok(&self.block[self.taken..])
    }

    fn consume(&mut self, amount: usize) {
        self.taken = (self.taken + amount).min(self.block.len());
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut front = self.fill_buf()?;
        let len = front.read(buffer)?;
        self.consume(len);
        Ok(len)
    }
}

/// Submits records until the trailer or an error: nothing after that can be made sense of.
fn read_records(mut source: Source<impl Read>, jobs: &Jobs<Result<Record>, Result<Checked>>, pool: &Pool) {
    loop {
        let record = source.record(pool);
        let more = matches!(record, Ok(Record::Frame(_)));
        if !jobs.submit(record) || !more {
            return;
        }
    }
}

fn check(record: Result<Record>, checks: &Checks, unzip: &mut Unzip, pool: &Pool) -> Result<Checked> {
    match record? {
        Record::Frame(frame) => frame.open(checks, unzip, pool).map(Checked::Frame),
        Record::Trailer(trailer) => Ok(Checked::Trailer(trailer)),
    }
}
