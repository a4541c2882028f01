//! Writes containers: frames hashed and compressed on all cores, their order kept, memory bounded.
//!
//! One thread reads the stream, one per core hashes and compresses, the caller's writes. What is not compressed is hashed
//! by the thread that read it, while it is in that core's cache. An error of the stream or of the output ends them all,
//! and no trailer is written: what there is can not be taken for a whole container.

use std::io::{self, Read, Write};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use zstd::bulk::Compressor;

use super::container::error::{Error, Result};
use super::container::record::{Ending, HEAD_LEN, MAX_SIGNATURES};
use super::container::tree::{Leaf, Tree};
use super::container::{FRAME_LEN, Head, Header, HeaderHash, Kind, Prefix, Sealed};
use super::crypt::{Encryption, FRONT_LEN, FrameKeys, Heads, Inner, TAG_LEN};
use super::parallel::{self, Block, Pool};
use super::sign::SigningKey;

/// The compression level unless another is asked for.
pub const DEFAULT_LEVEL: i32 = 3;
// The frames between reading and writing: two blocks each, so that their memory stays below 64 MiB on any machine.
const MAX_IN_FLIGHT: usize = 24;
const STORED_IN_FLIGHT: usize = 4;
// Frames after which the output's speed may be judged.
const WARM_UP: u64 = 16;

/// How to write a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// zstd's level; `None` stores all frames.
    pub level: Option<i32>,
    /// Threads that hash, compress and encrypt; 0 for one per core. Without a level and encryption none of them is started.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { level: Some(DEFAULT_LEVEL), threads: 0 }
    }
}

/// Who can read a container, and whose it is.
#[derive(Debug, Clone, Default)]
pub struct Protection {
    /// What encrypts it; `None` if everybody may read it.
    pub encryption: Option<Encryption>,
    /// Who signs it.
    pub signers: Vec<SigningKey>,
}

/// Writes `stream` to `out` as a container. The same stream, header and level give the same bytes.
///
/// Memory: below 64 MiB of frames, and what zstd needs per thread (some 3 MiB at the default level).
///
/// # Errors
/// [`Error::TooLong`] before anything is written; [`Error::Read`] and [`Error::Write`] with what the stream or the output
/// said. `stream` is read until the error is noticed, so a read that never returns holds it up.
pub fn write(
    header: &Header,
    stream: impl Read + Send,
    out: impl Write + Send,
    options: &Options,
) -> Result<Sealed> {
    write_protected(header, stream, out, options, &Protection::default())
}

/// As [`write()`], encrypted and signed. The same stream, header, level and protection give the same bytes.
///
/// # Errors
/// As [`write()`]; [`Error::TooLong`] before anything is written if too many sign.
pub fn write_protected(
    header: &Header,
    stream: impl Read + Send,
    out: impl Write + Send,
    options: &Options,
    protection: &Protection,
) -> Result<Sealed> {
    let frames = Frames { margins: protection.margins(), ..Frames::of(stream) };
    write_behind(header, frames, Trunk::default(), Plain(out), options, protection)
}

/// As [`write()`], without the frames of `prefix`: they are read and compared, with what was passed behind them, and what comes after them is written, for a
/// [`Reader`](super::reader::Reader) that is [resumed](super::reader::Reader::resume) with the same prefix.
///
/// # Errors
/// As [`write()`]; [`Error::OtherPrefix`] before anything is written.
pub fn write_rest(
    header: &Header,
    stream: impl Read + Send,
    prefix: &Prefix,
    out: impl Write + Send,
    options: &Options,
) -> Result<Sealed> {
    let (mut frames, pool) = (Frames::of(stream), Pool::default());
    let tree = hash_ahead(&mut frames, prefix.frames(), &pool)?;
    if !prefix.is_of(&tree) || !frames.go_on_from(prefix, &pool)? {
        return Err(Error::OtherPrefix { frames: prefix.frames() });
    }
    let trunk = Trunk { tree, len: prefix.stream_len(), heads: None };
    write_behind(header, frames, trunk, Plain(out), options, &Protection::default())
}

/// Takes a container, each part of it whole: its head, one frame after another, its trailer.
pub(super) trait Parts {
    /// Takes what stands before the frames.
    fn head(&mut self, head: &[u8]) -> io::Result<()>;
    /// Takes the frame that comes behind those of `before`.
    fn frame(&mut self, record: &[u8], before: &Tree) -> io::Result<()>;
    /// Takes what stands behind the frames, which are those of `before`, and sees that all gets to where it belongs.
    fn trailer(&mut self, trailer: &[u8], before: &Tree) -> io::Result<()>;
}

/// A container that goes to one reader.
struct Plain<W>(W);

impl<W: Write> Parts for Plain<W> {
    fn head(&mut self, head: &[u8]) -> io::Result<()> {
        self.0.write_all(head)
    }

    fn frame(&mut self, record: &[u8], _: &Tree) -> io::Result<()> {
        self.0.write_all(record)
    }

    fn trailer(&mut self, trailer: &[u8], _: &Tree) -> io::Result<()> {
        self.0.write_all(trailer)?;
        self.0.flush()
    }
}

/// As [`write()`], part by part, without the first `skipped` frames, which are hashed.
///
/// # Errors
/// As [`write()`].
pub(super) fn write_parts(
    header: &Header,
    stream: impl Read + Send,
    skipped: u64,
    parts: impl Parts + Send,
    options: &Options,
) -> Result<Sealed> {
    let (mut frames, pool) = (Frames::of(stream), Pool::default());
    let tree = hash_ahead(&mut frames, skipped, &pool)?;
    let len = skipped * FRAME_LEN as u64;
    write_behind(header, frames, Trunk { tree, len, heads: None }, parts, options, &Protection::default())
}

/// Reads and hashes so many frames; fewer if the stream ends or has a shorter one.
fn hash_ahead(frames: &mut Frames<impl Read>, count: u64, pool: &Pool) -> Result<Tree> {
    let mut tree = Tree::default();
    while tree.frames() < count {
        match frames.next(pool) {
            Frame::Read(number, block) if block.len() == HEAD_LEN + FRAME_LEN => {
                tree.push(&Leaf::of(number, &block[HEAD_LEN..]));
                pool.put(block);
            }
            Frame::Failed(error) => return Err(error),
            Frame::Read(..) | Frame::End => break,
        }
    }
    Ok(tree)
}

/// What stands around the bytes of a frame in its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Margins {
    front: usize,
    back: usize,
}

const PLAIN: Margins = Margins { front: HEAD_LEN, back: 0 };
const ENCRYPTED: Margins = Margins { front: HEAD_LEN + FRONT_LEN, back: TAG_LEN };

impl Protection {
    /// Whether everybody may read it, and nobody signs it.
    pub fn is_none(&self) -> bool {
        self.encryption.is_none() && self.signers.is_empty()
    }

    fn margins(&self) -> Margins {
        if self.encryption.is_some() { ENCRYPTED } else { PLAIN }
    }
}

/// What a container's frames and its trailer are sealed with.
struct Seals<'a> {
    hash: HeaderHash,
    keys: Option<FrameKeys>,
    signers: &'a [SigningKey],
}

/// Writes the head, and the frames that are left.
fn write_behind(
    header: &Header,
    frames: Frames<impl Read + Send>,
    mut trunk: Trunk,
    parts: impl Parts + Send,
    options: &Options,
    protection: &Protection,
) -> Result<Sealed> {
    let Protection { encryption, signers } = protection;
    if signers.len() > MAX_SIGNATURES {
        return Err(Error::TooLong { field: "list of signers", len: signers.len(), max: MAX_SIGNATURES });
    }
    let (head, hash) = header.encode_for(encryption.as_ref().map(Encryption::envelope))?;
    let keys = encryption.as_ref().map(|encryption| encryption.keys(&hash));
    trunk.heads = keys.is_some().then(|| Heads::new(&hash));
    let key = Seals { hash, keys, signers };
    let mut out = Output { parts, at: 0 };
    out.put(&head, |parts| parts.head(&head))?;
    let pool = Pool::default();
    // What is only hashed is written as fast by one; encrypting takes all cores.
    if options.level.is_none() && key.keys.is_none() {
        return write_stored(frames, trunk, &mut out, &key, &pool);
    }
    let threads = parallel::threads(options.threads);
    let (jobs, workers, results) = parallel::ordered((2 * threads + 2).min(MAX_IN_FLIGHT));
    std::thread::scope(|scope| {
        let pool = &pool;
        scope.spawn(move || frames.hand_on(pool, |plain| jobs.submit(plain)));
        for _ in 0..threads {
            let mut packer = Packer::new(&key, options.level, pool)?;
            let workers = workers.clone();
            scope.spawn(move || workers.run(|plain| packer.pack(plain)));
        }
        drop(workers);
        write_frames(results, trunk, &mut out, &key, pool)
    })
}

/// Frames that are only hashed, by the thread that reads them. As long as the output takes them at once that thread is
/// the caller's; handing frames over costs more than it saves. Once writing takes a quarter of the time, it is done
/// beside reading.
fn write_stored(
    mut frames: Frames<impl Read + Send>,
    mut trunk: Trunk,
    out: &mut Output<impl Parts>,
    key: &Seals<'_>,
    pool: &Pool,
) -> Result<Sealed> {
    let mut packer = Packer::new(key, None, pool)?;
    let (start, mut writing, first) = (Instant::now(), Duration::ZERO, trunk.tree.frames());
    while trunk.tree.frames() < first + WARM_UP || writing * 4 < start.elapsed() {
        let Some(packed) = packer.pack(frames.next(pool))? else {
            return trunk.seal(out, key);
        };
        let before = Instant::now();
        trunk.write(packed, out, pool)?;
        writing += before.elapsed();
    }
    let (packed, results) = mpsc::sync_channel(STORED_IN_FLIGHT);
    std::thread::scope(|scope| {
        scope.spawn(move || frames.hand_on(pool, |plain| packed.send(packer.pack(plain)).is_ok()));
        write_frames(results.into_iter(), trunk, out, key, pool)
    })
}

/// What the reading thread hands on.
enum Frame {
    /// Its number, and its bytes after room for what stands before them, with room behind them.
    Read(u64, Block),
    /// The stream ended well.
    End,
    /// The stream failed.
    Failed(Error),
}

/// A frame as it will stand in the container.
struct Packed {
    record: Block,
    leaf: Leaf,
    len: u64,
}

/// The frames of a stream, as they are read.
struct Frames<R> {
    stream: R,
    number: u64,
    ended: bool,
    ahead: Option<Frame>, // Looked at, and handed on next.
    margins: Margins,
}

impl<R: Read> Frames<R> {
    fn of(stream: R) -> Self {
        Self { stream, number: 0, ended: false, ahead: None, margins: PLAIN }
    }

    /// Whether the frame that comes next begins with what was passed behind `prefix`.
    fn go_on_from(&mut self, prefix: &Prefix, pool: &Pool) -> Result<bool> {
        if prefix.passed().is_none() {
            return Ok(true);
        }
        match self.next(pool) {
            Frame::Read(number, block) => {
                let goes_on = prefix.goes_on_in(&block[HEAD_LEN..]);
                self.ahead = Some(Frame::Read(number, block));
                Ok(goes_on)
            }
            Frame::End => Ok(false),
            Frame::Failed(error) => Err(error),
        }
    }

    /// Hands each on, until the stream ends or `submit` says that nobody wants more.
    fn hand_on(mut self, pool: &Pool, mut submit: impl FnMut(Frame) -> bool) {
        loop {
            let plain = self.next(pool);
            let more = matches!(&plain, Frame::Read(..));
            if !submit(plain) || !more {
                return;
            }
        }
    }

    fn next(&mut self, pool: &Pool) -> Frame {
        if let Some(ahead) = self.ahead.take() {
            return ahead;
        }
        if self.ended {
            return Frame::End;
        }
        let (mut block, number, Margins { front, back }) = (pool.take(), self.number, self.margins);
        let room = block.room(front + FRAME_LEN + back);
        let len = match fill(&mut self.stream, &mut room[front..front + FRAME_LEN]) {
            Ok(len) => len,
            Err((len, source)) => {
                return Frame::Failed(Error::Read { at: number * FRAME_LEN as u64 + len as u64, source });
            }
        };
        block.truncate(front + len + back);
        self.number += 1;
        self.ended = len < FRAME_LEN;
        match len {
            0 => Frame::End,
            _ => Frame::Read(number, block),
        }
    }
}

/// Reads until `buffer` is full or the input ends: how many bytes that were; in an error, how many before it.
pub(super) fn fill(input: &mut impl Read, buffer: &mut [u8]) -> Result<usize, (usize, io::Error)> {
    let mut len = 0;
    while len < buffer.len() {
        match input.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((len, error)),
        }
    }
    Ok(len)
}

struct Packer<'a> {
    hash: HeaderHash,
    keys: Option<FrameKeys>,
    margins: Margins,
    compressor: Option<Compressor<'static>>,
    pool: &'a Pool,
}

impl<'a> Packer<'a> {
    fn new(seals: &Seals<'_>, level: Option<i32>, pool: &'a Pool) -> Result<Self> {
        let compressor = level.map(Compressor::new).transpose().map_err(Error::Compress)?;
        let keys = seals.keys.clone();
        let margins = if keys.is_some() { ENCRYPTED } else { PLAIN };
        Ok(Self { hash: seals.hash, keys, margins, compressor, pool })
    }

    fn pack(&mut self, plain: Frame) -> Result<Option<Packed>> {
        match plain {
            Frame::Read(number, block) => Ok(Some(self.pack_frame(number, block))),
            Frame::End => Ok(None),
            Frame::Failed(error) => Err(error),
        }
    }

    fn pack_frame(&mut self, number: u64, plain: Block) -> Packed {
        let Margins { front, back } = self.margins;
        let bytes = &plain[front..plain.len() - back];
        let len = bytes.len() as u64;
        let leaf = Leaf::of(number, bytes);
        let (kind, mut record) = match self.compressed(bytes) {
            Some(smaller) => {
                self.pool.put(plain);
                (Kind::Zstd, smaller)
            }
            None => (Kind::Stored, plain),
        };
        let (head, payload) = record.split_at_mut(HEAD_LEN);
        let made = match &self.keys {
            None => Head::new(kind, payload.len(), number, len, &leaf.chaining_value),
            Some(keys) => {
                let chaining_value = leaf.chaining_value;
                keys.close(Inner { kind, chaining_value }, number, len, payload)
            }
        };
        head.copy_from_slice(made.seal(&self.hash, payload).as_bytes());
        Packed { record, leaf, len }
    }

    /// The bytes compressed, with the same room around them; `None` if they do not shrink.
    fn compressed(&mut self, plain: &[u8]) -> Option<Block> {
        let compressor = self.compressor.as_mut()?;
        let Margins { front, back } = self.margins;
        let mut block = self.pool.take();
        let most = plain.len() - 1;
        let room = &mut block.room(front + most + back)[front..front + most];
        match compressor.compress_to_buffer(plain, room) {
            Ok(len) => {
                block.truncate(front + len + back);
                Some(block)
            }
            Err(_) => {
                // The buffer is a byte too small for anything that does not shrink.
                self.pool.put(block);
                None
            }
        }
    }
}

struct Output<P> {
    parts: P,
    at: u64,
}

impl<P: Parts> Output<P> {
    /// Has `bytes` taken by `put`.
    fn put(&mut self, bytes: &[u8], put: impl FnOnce(&mut P) -> io::Result<()>) -> Result<()> {
        put(&mut self.parts).map_err(|source| Error::Write { at: self.at, source })?;
        self.at += bytes.len() as u64;
        Ok(())
    }
}

fn write_frames(
    mut results: impl Iterator<Item = Result<Option<Packed>>>,
    mut trunk: Trunk,
    out: &mut Output<impl Parts>,
    key: &Seals<'_>,
    pool: &Pool,
) -> Result<Sealed> {
    while let Some(frame) = results.next().expect("the reading thread says how it ended")? {
        trunk.write(frame, out, pool)?;
    }
    trunk.seal(out, key)
}

/// What the frames that were written add up to.
#[derive(Default)]
struct Trunk {
    tree: Tree,
    len: u64,
    heads: Option<Heads>, // Of an encrypted container.
}

impl Trunk {
    fn write(&mut self, frame: Packed, out: &mut Output<impl Parts>, pool: &Pool) -> Result<()> {
        out.put(&frame.record, |parts| parts.frame(&frame.record, &self.tree))?;
        self.tree.push(&frame.leaf);
        self.len += frame.len;
        if let Some(heads) = &mut self.heads {
            heads.push(&frame.record[..HEAD_LEN]);
        }
        pool.put(frame.record);
        Ok(())
    }

    /// Writes the trailer.
    fn seal(self, out: &mut Output<impl Parts>, key: &Seals<'_>) -> Result<Sealed> {
        let (root, frames, len) = (self.tree.root(), self.tree.frames(), self.len);
        let ending = Ending {
            frames,
            len,
            digest: self.heads.as_ref().map_or(*root.as_bytes(), Heads::digest),
            closed_root: key.keys.as_ref().map(|keys| (keys, root)),
            signers: key.signers,
        };
        let trailer = ending.to_bytes(&key.hash);
        out.put(&trailer, |parts| parts.trailer(&trailer, &self.tree))?;
        Ok(Sealed { root, len, frames, container_len: out.at })
    }
}
