//! zstd files of many frames, each of which needs no other: written on all cores, read by any zstd.
//!
//! One thread fills blocks, one per core compresses, one writes and hashes. The same bytes and level give the same file.

use std::io::{self, BufReader, Read, Write};

use zstd::bulk::Compressor;

use super::parallel::{self, Block, Jobs, Pool};

/// How many bytes are in a frame, but for the last one.
pub const FRAME: usize = 4 << 20;
/// How many bytes of a file have a digest of their own where that is asked for.
pub const PIECE: u64 = 16 << 20;
/// Blocks between who fills them and who writes, two each: their memory stays below 128 MiB on any machine.
const MAX_IN_FLIGHT: usize = 16;

const MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];
/// Of the frame that holds the table of the seekable format.
const SKIPPABLE: u32 = 0x184D_2A5E;
const SEEKABLE: u32 = 0x8F92_EAB1;

/// How to write one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// zstd's level; `None` writes the bytes as they are.
    pub level: Option<i32>,
    /// Threads that compress; 0 for one per core.
    pub threads: usize,
    /// Whether each [`PIECE`] of the file gets a digest of its own.
    pub pieces: bool,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// How many bytes went in.
    pub raw_len: u64,
    /// How many came out.
    pub len: u64,
    /// Their blake3.
    pub blake3: blake3::Hash,
    /// That of each [`PIECE`] of them, if it was asked for.
    pub pieces: Vec<blake3::Hash>,
}

/// Why nothing whole was written.
#[derive(Debug)]
pub enum Failed<E> {
    /// The output said so.
    Output(io::Error),
    /// Who was to give the bytes said so.
    Input(E),
}

/// Writes to `out` what `fill` writes, compressed.
///
/// # Errors
/// What the output or `fill` says: what was written then is no whole file.
pub fn write<E>(
    out: &mut (dyn Write + Send),
    options: &Options,
    fill: impl FnOnce(&mut Input<'_>) -> Result<(), E>,
) -> Result<Written, Failed<E>> {
    let threads = parallel::threads(options.threads);
    // So many that nobody waits for one who is kept waiting by others of the machine.
    let in_flight = (2 * threads + 2).min(MAX_IN_FLIGHT);
    let (jobs, workers, results) = parallel::ordered::<Block, (Block, usize)>(in_flight);
    let pool = Pool::default();
    std::thread::scope(|scope| {
        let pool = &pool;
        for _ in 0..threads {
            let workers = workers.clone();
            scope.spawn(move || {
                let mut compressor = options.level.map(compressor);
                workers.run(|block| squeeze(compressor.as_mut(), block, pool))
            });
        }
        drop(workers);
        let level = options.level;
        let mut file = Hashed::new(out, options.pieces);
        let drain = scope.spawn(move || -> io::Result<Hashed<'_>> {
            let mut table = Vec::new();
            for (block, len) in results {
                file.write(&block)?;
                table.push((block.len() as u32, len as u32));
                pool.put(block);
            }
            if level.is_some() {
                file.write(&seek_table(&table))?;
            }
            Ok(file)
        });
        let mut input = Input { jobs, pool, block: Block::default(), filled: 0, len: 0 };
        let filled = fill(&mut input);
        // What is not whole gets no end: whoever reads it notices.
        let sent = filled.is_err() || input.send().is_ok();
        let raw_len = input.len;
        drop(input);
        let file = drain.join().expect("writing does not panic").map_err(Failed::Output)?;
        filled.map_err(Failed::Input)?;
        debug_assert!(sent, "who takes the blocks goes only with an error");
        let (len, blake3, pieces) = file.end().map_err(Failed::Output)?;
        Ok(Written { raw_len, len, blake3, pieces })
    })
}

fn compressor(level: i32) -> Compressor<'static> {
    let mut compressor = Compressor::new(level).expect("levels are checked where they are asked for");
    let set = compressor.include_checksum(true).and_then(|()| compressor.include_contentsize(true));
    set.expect("every zstd has these");
    compressor
}

fn squeeze(compressor: Option<&mut Compressor<'_>>, block: Block, pool: &Pool) -> (Block, usize) {
    let len = block.len();
    let Some(compressor) = compressor else { return (block, len) };
    let mut out = pool.take();
    let room = out.room(zstd::zstd_safe::compress_bound(len));
    let used = compressor.compress_to_buffer(&block, room).expect("the buffer is as large as any result");
    out.truncate(used);
    pool.put(block);
    (out, len)
}

/// (compressed, raw) of each frame, as the seekable format has it.
fn seek_table(frames: &[(u32, u32)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(frames.len() * 8 + 17);
    out.extend(SKIPPABLE.to_le_bytes());
    out.extend((frames.len() as u32 * 8 + 9).to_le_bytes());
    for (compressed, raw) in frames {
        out.extend(compressed.to_le_bytes());
        out.extend(raw.to_le_bytes());
    }
    out.extend((frames.len() as u32).to_le_bytes());
    out.push(0);
    out.extend(SEEKABLE.to_le_bytes());
    out
}

/// Takes the bytes that are to be compressed.
pub struct Input<'a> {
    jobs: Jobs<Block, (Block, usize)>,
    pool: &'a Pool,
    block: Block,
    filled: usize, // Invariant: at most `block.len()`, which is 0 or `FRAME`.
    len: u64,
}

impl Input<'_> {
    fn send(&mut self) -> io::Result<()> {
        if self.filled == 0 {
            return Ok(());
        }
        let mut block = std::mem::take(&mut self.block);
        block.truncate(std::mem::take(&mut self.filled));
        match self.jobs.submit(block) {
            true => Ok(()),
            false => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

impl Write for Input<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.block.is_empty() {
            self.block = self.pool.take();
            self.block.room(FRAME);
        }
        let len = bytes.len().min(FRAME - self.filled);
        self.block[self.filled..self.filled + len].copy_from_slice(&bytes[..len]);
        (self.filled, self.len) = (self.filled + len, self.len + len as u64);
        if self.filled == FRAME {
            self.send()?;
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes, and hashes what it wrote.
struct Hashed<'a> {
    out: &'a mut (dyn Write + Send),
    len: u64,
    whole: blake3::Hasher,
    pieces: Option<Pieces>,
}

impl<'a> Hashed<'a> {
    fn new(out: &'a mut (dyn Write + Send), pieces: bool) -> Self {
        let pieces = pieces.then(Pieces::default);
        Self { out, len: 0, whole: blake3::Hasher::new(), pieces }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.whole.update(bytes);
        if let Some(pieces) = &mut self.pieces {
            pieces.update(bytes);
        }
        self.len += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn end(self) -> io::Result<(u64, blake3::Hash, Vec<blake3::Hash>)> {
        self.out.flush()?;
        Ok((self.len, self.whole.finalize(), self.pieces.map(Pieces::end).unwrap_or_default()))
    }
}

/// The digests of pieces of [`PIECE`] bytes, the last of the rest.
#[derive(Debug, Default)]
pub struct Pieces {
    done: Vec<blake3::Hash>,
    now: blake3::Hasher,
}

impl Pieces {
    /// Takes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = (PIECE - self.now.count()).min(bytes.len() as u64) as usize;
            self.now.update(&bytes[..room]);
            bytes = &bytes[room..];
            if self.now.count() == PIECE {
                self.done.push(self.now.finalize());
                self.now.reset();
            }
        }
    }

    /// All of them.
    pub fn end(mut self) -> Vec<blake3::Hash> {
        if self.now.count() > 0 {
            self.done.push(self.now.finalize());
        }
        self.done
    }
}

/// Reads `input` decompressed if it is of zstd, as it is otherwise. No more than 128 MiB of memory is used for it.
///
/// # Errors
/// What the input says.
pub fn read<'a>(input: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut input = BufReader::with_capacity(1 << 20, Source { input, failed: false });
    let mut first = Vec::new();
    input.by_ref().take(4).read_to_end(&mut first)?;
    let is_skippable = first.len() == 4 && first[0] & 0xF0 == 0x50 && first[1..] == [0x2A, 0x4D, 0x18];
    let is_zstd = first == MAGIC || is_skippable;
    let whole = io::Cursor::new(first).chain(input);
    match is_zstd {
        true => Ok(Box::new(Frames(zstd::stream::read::Decoder::with_buffer(whole)?))),
        false => Ok(Box::new(whole)),
    }
}

/// An input that is known to have failed.
struct Source<R> {
    input: R,
    failed: bool,
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.input.read(buffer).inspect_err(|error| self.failed = error.kind() != io::ErrorKind::Interrupted)
    }
}

type Whole<R> = io::Chain<io::Cursor<Vec<u8>>, BufReader<Source<R>>>;

/// Reads frames. What zstd says is about bytes that are not what they should be.
struct Frames<R: Read>(zstd::stream::read::Decoder<'static, Whole<R>>);

impl<R: Read> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(buffer);
        let is_the_inputs = self.0.get_ref().get_ref().1.get_ref().failed;
        read.map_err(|error| match is_the_inputs || error.kind() != io::ErrorKind::Other {
            true => error,
            false => io::Error::new(io::ErrorKind::InvalidData, error),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(bytes: &[u8], options: &Options) -> (Vec<u8>, Written) {
        let mut out = Vec::new();
        let written = write(&mut out, options, |input| input.write_all(bytes));
        let written = written.unwrap_or_else(|failed| panic!("{failed:?}"));
        (out, written)
    }

    fn sample(len: usize) -> Vec<u8> {
        (0..len as u64).map(|n| ((n * n) >> 13) as u8).collect()
    }

    #[test]
    fn what_is_written_is_read_again_whatever_its_length() {
        for len in [0, 1, FRAME - 1, FRAME, FRAME + 1, 3 * FRAME] {
            for level in [None, Some(1)] {
                let bytes = sample(len);
                let (out, told) = written(&bytes, &Options { level, threads: 2, pieces: true });
                assert_eq!((told.raw_len, told.len), (len as u64, out.len() as u64));
                assert_eq!(told.blake3, blake3::hash(&out));
                let mut back = Vec::new();
                read(&out[..]).expect("a head").read_to_end(&mut back).expect("it is whole");
                assert!(back == bytes, "{len} bytes, level {level:?}");
            }
        }
    }

    #[test]
    fn however_many_threads_write_the_bytes_are_the_same() {
        let bytes = sample(5 * FRAME + 7);
        let of = |threads| written(&bytes, &Options { level: Some(3), threads, pieces: false }).0;
        assert!(of(1) == of(4));
    }

    #[test]
    fn the_last_frame_is_the_table_of_all() {
        let (out, _) =
            written(&sample(2 * FRAME + 5), &Options { level: Some(1), threads: 1, pieces: false });
        assert_eq!(out[out.len() - 4..], SEEKABLE.to_le_bytes());
        assert_eq!(out[out.len() - 9..out.len() - 5], 3u32.to_le_bytes());
        let raw = |n: usize| {
            let at = out.len() - 9 - (3 - n) * 8 + 4;
            u32::from_le_bytes(out[at..at + 4].try_into().expect("four bytes"))
        };
        assert_eq!([raw(0), raw(1), raw(2)], [FRAME as u32, FRAME as u32, 5]);
    }

    #[test]
    fn pieces_are_what_each_of_them_hashes_to() {
        let bytes = sample(2 * PIECE as usize + 9);
        let (_, told) = written(&bytes, &Options { level: None, threads: 0, pieces: true });
        let expected: Vec<_> = bytes.chunks(PIECE as usize).map(blake3::hash).collect();
        assert_eq!(told.pieces, expected);
    }

    #[test]
    fn damage_and_an_end_too_early_are_corrupt_and_an_error_of_the_input_is_its_own() {
        let (out, _) = written(&sample(2 * FRAME), &Options { level: Some(1), threads: 1, pieces: false });
        let kind = |bytes: &[u8]| {
            let mut reader = read(bytes).expect("a head");
            io::copy(&mut reader, &mut io::sink()).map_err(|error| crate::error::class_of_io(&error))
        };
        let mut flipped = out.clone();
        flipped[out.len() / 3] ^= 1;
        assert_eq!(kind(&flipped), Err(crate::Class::Corrupt));
        assert_eq!(kind(&out[..out.len() / 2]), Err(crate::Class::Corrupt));
        struct Refuses;
        impl Read for Refuses {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("refused"))
            }
        }
        let mut reader = read((&out[..1000]).chain(Refuses)).expect("a head");
        let error = io::copy(&mut reader, &mut io::sink()).expect_err("it refuses");
        assert_eq!(error.kind(), io::ErrorKind::Other);
    }

    #[test]
    fn an_output_that_fails_ends_the_input() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::Error::from_raw_os_error(28))
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let bytes = sample(FRAME);
        let options = Options { level: Some(1), threads: 2, pieces: false };
        let failed = write(&mut Full, &options, |input| (0..100).try_for_each(|_| input.write_all(&bytes)));
        assert!(matches!(failed, Err(Failed::Output(error)) if error.raw_os_error() == Some(28)));
    }
}
