//! Reads containers, and yields no byte that it has not verified.
//!
//! [`Frames`] reads one frame after another on the caller's thread; [`Reader`] reads ahead and verifies on all cores. Both
//! go through the same three steps: [`Source`] takes records off the input, [`Frame::open`] verifies one by itself, and
//! `Sequence` holds together what spans frames.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};
use std::sync::{Arc, Mutex, PoisonError};

use zstd::bulk::Decompressor;

use super::container::error::{Error, Place, Result};
use super::container::header::{check_header, check_prelude};
use super::container::record::{HEAD_LEN, check_trailer, trailer_len};
use super::container::tree::{Leaf, Tree};
use super::container::{
    FRAME_LEN, HASH_LEN, Head, Header, HeaderHash, Kind, PRELUDE_LEN, Prefix, Sealed, TAIL_LEN,
};
use super::parallel::{self, Block, Jobs, Pool, Results};
use super::writer::fill;

// The frames between input and caller: two blocks each, so that their memory stays below 64 MiB on any machine.
const MAX_IN_FLIGHT: usize = 24;

/// Takes records off the input. Clone it with its input to read on from the same place again.
#[derive(Debug, Clone)]
pub struct Source<R> {
    input: R,
    at: u64,
    frames: u64,
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
        let mut source = Self { input, at: 0, frames: 0 };
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
        let (header, key) = check_header(&bytes)?;
        Ok((source, header, key))
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
    /// How it is stored.
    pub kind: Kind,
    /// How long its payload is in the container, in bytes.
    pub payload_len: usize,
    bytes: Block,
    leaf: Leaf,
}

impl Opened {
    /// The stream's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Frame {
    /// Verifies the frame by itself: seal, number, lengths, then (decompressed) its chaining value.
    ///
    /// # Errors
    /// [`Error::FrameSeal`], [`Error::FrameOrder`], [`Error::FrameLength`], [`Error::FrameDecode`], [`Error::FrameHash`],
    /// [`Error::NeedsNewer`].
    pub fn open(self, key: &HeaderHash, unzip: &mut Unzip, pool: &Pool) -> Result<Opened> {
        let Self { place, head, payload } = self;
        if !head.is_sealed(key, &payload) {
            return Err(Error::FrameSeal { place });
        }
        let len = check_head(&head, place)?;
        let (kind, payload_len) = (head.kind(), payload.len());
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
        if leaf.chaining_value != head.digest() {
            return Err(Error::FrameHash { place });
        }
        Ok(Opened { place, kind, payload_len, bytes, leaf })
    }
}

/// Checks what a sealed head says against its place; how many bytes of the stream it holds.
fn check_head(head: &Head, place: Place) -> Result<usize> {
    let known = matches!(head.kind(), Kind::Stored | Kind::Zstd);
    if !known || !head.is_plain() {
        return Err(Error::NeedsNewer { what: format!("{place} is of an unknown kind") });
    }
    if head.number() != place.frame {
        return Err(Error::FrameOrder { place, found: head.number() });
    }
    let (len, max) = (head.len(), FRAME_LEN as u64);
    if len == 0 || len > max {
        return Err(Error::FrameLength { place, what: "part of the stream", len, max });
    }
    let payload = head.payload_len() as u64;
    let possible = if head.kind() == Kind::Stored { payload == len } else { payload < len };
    match possible {
        true => Ok(len as usize),
        false => Err(Error::FrameLength { place, what: "payload", len: payload, max: len }),
    }
}

/// What spans frames: lengths, counts, the root.
#[derive(Debug, Clone, Default)]
struct Sequence {
    tree: Tree,
    len: u64,
    last: bool,
}

impl Sequence {
    fn accept(&mut self, frame: &Opened) -> Result<()> {
        if self.last {
            return Err(Error::FrameAfterLast { place: frame.place });
        }
        self.tree.push(&frame.leaf);
        self.len += frame.bytes.len() as u64;
        self.last = frame.bytes.len() < FRAME_LEN;
        Ok(())
    }

    fn finish(&self, trailer: &Trailer, key: &HeaderHash) -> Result<Sealed> {
        let Trailer { at, head, rest } = trailer;
        check_trailer(head, rest, key, *at)?;
        let (frames, len, root) = (self.tree.frames(), self.len, self.tree.root());
        let differs = |why: String| Err(Error::Trailer { at: *at, why });
        if head.number() != frames {
            return differs(format!("it counts {} frames, there are {frames}", head.number()));
        }
        if head.len() != len {
            return differs(format!("it counts {} bytes of stream, there are {len}", head.len()));
        }
        if root != head.digest() {
            return differs("its root is not that of the frames".into());
        }
        let container_len = at + (HEAD_LEN + rest.len()) as u64;
        Ok(Sealed { root, len, frames, container_len })
    }
}

/// Reads a container frame by frame, on the caller's thread. Clone it with its input to read on from the same place again.
#[derive(Clone)]
pub struct Frames<R> {
    source: Source<R>,
    header: Arc<Header>,
    key: HeaderHash,
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
        let (source, header, key) = Source::open(input)?;
        let (header, sequence) = (Arc::new(header), Sequence::default());
        Ok(Self { source, header, key, sequence, unzip: Unzip::default(), pool: Arc::default() })
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
            Record::Trailer(trailer) => self.sequence.finish(&trailer, &self.key).map(Step::End),
            Record::Frame(frame) => {
                let opened = frame.open(&self.key, &mut self.unzip, &self.pool)?;
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
    key: HeaderHash,
    results: Option<Results<Result<Checked>>>, // `None` after an error or the end.
    marks: Marks,
    sequence: Sequence,
    pool: Arc<Pool>,
    block: Arc<Block>,
    taken: usize, // Invariant: at most `block.len()`.
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
        Self::start(input, Sequence::default(), threads)
    }

    /// Goes on behind `prefix`: `input` is what [`write_rest`](super::writer::write_rest) wrote, and what is read is the rest of
    /// the stream. The trailer's root is of the whole.
    ///
    /// # Errors
    /// Those of [`Source::open`].
    pub fn resume(input: impl Read + Send + 'static, prefix: &Prefix) -> Result<Self> {
        let sequence = Sequence { tree: prefix.tree(), len: prefix.stream_len(), last: false };
        Self::start(input, sequence, 0)
    }

    fn start(input: impl Read + Send + 'static, sequence: Sequence, threads: usize) -> Result<Self> {
        let (mut source, header, key) = Source::open(input)?;
        source.frames = sequence.tree.frames();
        let threads = parallel::threads(threads);
        let pool = Arc::new(Pool::default());
        let (jobs, workers, results) = parallel::ordered((2 * threads + 2).min(MAX_IN_FLIGHT));
        for _ in 0..threads {
            let (workers, pool) = (workers.clone(), pool.clone());
            let mut unzip = Unzip::default();
            std::thread::spawn(move || workers.run(|record| check(record, &key, &mut unzip, &pool)));
        }
        let for_source = pool.clone();
        std::thread::spawn(move || read_records(source, &jobs, &for_source));
        Ok(Self {
            header,
            key,
            results: Some(results),
            marks: Marks::default(),
            sequence,
            pool,
            block: Arc::default(),
            taken: 0,
            sealed: None,
        })
    }

    /// What the stream is.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What was verified, once the end was reached.
    pub fn sealed(&self) -> Option<&Sealed> {
        self.sealed.as_ref()
    }

    /// What the latest frames hash to and hold, also while it is being read. From then on it keeps them.
    pub fn marks(&self) -> Marks {
        self.marks.lock().keeps_blocks = true;
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
        while self.sealed.is_none() {
            self.advance()?;
            observe(self.sequence.len);
        }
        self.sealed.ok_or(Error::Spent)
    }

    /// Takes the next frame, or notes the end.
    fn advance(&mut self) -> Result<()> {
        let mut results = self.results.take().ok_or(Error::Spent)?;
        match results.next().ok_or(Error::Spent)?? {
            Checked::Frame(frame) => {
                self.sequence.accept(&frame)?;
                let block = Arc::new(frame.bytes);
                let old = self.marks.add(&self.sequence, &block);
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
                self.sealed = Some(self.sequence.finish(&trailer, &self.key)?);
                self.block = Arc::default();
                self.taken = 0;
            }
        }
        Ok(())
    }
}

/// How far back [`Marks`] go, in frames: more than whoever applies a stream lies behind its reader.
const MARKS: usize = 64;
/// The same, for what is in the frames: a few more than wait to be applied.
const BLOCKS: usize = 12;

/// What a stream hashes to up to each of its latest frames, and what is in the very latest, as far as it was verified. Clones show the same
/// stream.
#[derive(Debug, Clone, Default)]
pub struct Marks(Arc<Mutex<Latest>>);

#[derive(Debug, Default)]
struct Latest {
    prefixes: VecDeque<Prefix>,
    blocks: VecDeque<(u64, Arc<Block>)>,
    keeps_blocks: bool,
}

impl Marks {
    /// The first `frames` frames, if they were verified and are not too long past. A last frame that is shorter than others is none of them.
    pub fn at(&self, frames: u64) -> Option<Prefix> {
        self.lock().prefixes.iter().find(|prefix| prefix.frames() == frames).cloned()
    }

    /// What is in a frame, the first of which is 0, if it was verified and not long ago.
    pub fn frame(&self, number: u64) -> Option<impl std::ops::Deref<Target = [u8]> + use<>> {
        let block = self.lock().blocks.iter().find(|(of, _)| *of == number).map(|(_, block)| block.clone());
        block.map(Whole)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Latest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of the last frame of `sequence`; answers what it no longer keeps.
    fn add(&self, sequence: &Sequence, block: &Arc<Block>) -> Option<Arc<Block>> {
        let latest = &mut *self.lock();
        if !sequence.last {
            if latest.prefixes.len() == MARKS {
                latest.prefixes.pop_front();
            }
            latest.prefixes.push_back(sequence.tree.prefix());
        }
        if !latest.keeps_blocks {
            return None;
        }
        latest.blocks.push_back((sequence.tree.frames() - 1, block.clone()));
        let is_over = latest.blocks.len() > BLOCKS;
        let oldest = if is_over { latest.blocks.pop_front() } else { None };
        oldest.map(|(_, block)| block)
    }
}

/// The bytes of a block that others have, too.
struct Whole(Arc<Block>);

impl std::ops::Deref for Whole {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl BufRead for Reader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.taken == self.block.len() && self.sealed.is_none() {
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

/// What the trailer at the end of a container says, checked by itself: its seal, not that the frames bear it out. `end` holds
/// the container's last bytes, `container_len` says how long it is.
///
/// # Errors
/// [`Error::Trailer`] if there is no sound trailer of this container, which is so too if it was cut off.
pub fn trailer_of(end: &[u8], container_len: u64, key: &HeaderHash) -> Result<Sealed> {
    let none = || Error::Truncated { what: "what should be its trailer".into(), end: container_len };
    let tail = end.last_chunk::<TAIL_LEN>().ok_or_else(none)?;
    let from = trailer_len(tail).and_then(|len| end.len().checked_sub(len)).ok_or_else(none)?;
    let (head, rest) = end[from..].split_first_chunk::<HEAD_LEN>().ok_or_else(none)?;
    let (head, at) = (Head::from_bytes(*head), container_len - (end.len() - from) as u64);
    if head.kind() != Kind::Trailer {
        return Err(Error::Trailer { at, why: "another record stands there".into() });
    }
    check_trailer(&head, rest, key, at)?;
    let root = blake3::Hash::from_bytes(head.digest());
    Ok(Sealed { root, len: head.len(), frames: head.number(), container_len })
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

fn check(record: Result<Record>, key: &HeaderHash, unzip: &mut Unzip, pool: &Pool) -> Result<Checked> {
    match record? {
        Record::Frame(frame) => frame.open(key, unzip, pool).map(Checked::Frame),
        Record::Trailer(trailer) => Ok(Checked::Trailer(trailer)),
    }
}
