//! An archive becomes a dataset that is not there yet, once all of it is proven.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use serde::Serialize;

use super::digest;
use crate::endpoint::files::unpack::{self, Unpacked, unpack};
use crate::endpoint::{self, Backend, Dataset, SnapshotRequest};
use crate::exec::{Event, Observe};
use crate::model::files::Beside;
use crate::model::{Digest, SnapshotName, Version};
use crate::stream::zst;
use crate::sys::interrupt;
use crate::{Error, Result};

/// What is on its way from who decompresses to who writes files, each of up to a mebibyte.
const IN_FLIGHT: usize = 8;
const BLOCK: usize = 1 << 20;

/// What an archive must turn out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// How many bytes it has.
    pub bytes: u64,
    /// Their blake3.
    pub blake3: Digest,
}

/// What to import, and where to.
pub struct Request<'a> {
    /// What is read, as it is called.
    pub name: String,
    /// What it must turn out to be, where that is known.
    pub expected: Option<Expected>,
    /// What stands beside it.
    pub beside: Option<Beside>,
    /// What is not there yet.
    pub to: Dataset,
    /// A tar of somebody else's is taken too.
    pub unverified: bool,
    /// Devices are made, and set-user-id bits and capabilities kept.
    pub privileged: bool,
    /// The dataset's first snapshot.
    pub snapshot: Option<SnapshotName>,
    /// Who is told.
    pub observe: &'a dyn Observe,
}

/// What was imported.
#[derive(Debug, Clone, Serialize)]
pub struct Imported {
    /// What it is now.
    pub dataset: String,
    /// What the archive is of; `None` of a tar of somebody else's.
    pub of: Option<crate::model::files::About>,
    /// How many entries it has.
    pub entries: u64,
    /// How many bytes its files have, holes included.
    pub bytes: u64,
    /// How many files lost set-user-id bits or capabilities.
    pub n_dropped: u64,
    /// How many bytes the archive has.
    pub file_bytes: u64,
    /// Their blake3.
    pub blake3: Digest,
    /// Whether all of it was proven, by the archive itself or by what was known beforehand.
    pub verified: bool,
    /// Its first snapshot.
    pub snapshot: Option<Version>,
}

/// Reads `input` to its end and makes the dataset of it.
///
/// # Errors
/// A dataset that is there; an archive that is not what it should be; what can not be made. Nothing of it is left then.
pub fn import(mut input: impl Read + Send, request: &Request<'_>) -> Result<Imported> {
    request.to.expect_free()?;
    let total = request.beside.as_ref().map(|beside| beside.about.stored);
    request.observe.observe(Event::Started { op: "import", subject: request.to.to_string(), total });
    let (unpacked, len, blake3) = request.to.land(|root| {
        let (filled, hashed) = decompressed(&mut input, |tar| {
            let told = |bytes| request.observe.observe(Event::Progress { bytes });
            let known = request.expected.is_some();
            let how = unpack::Request {
                unverified: request.unverified || known,
                privileged: request.privileged,
                told: &told,
            };
            unpack(root.as_fd(), tar, &how)
        });
        let filled = match interrupt::pending() {
            Some(_) => Err(endpoint::Error::Interrupted { op: "import", subject: request.name.clone() }),
            None => filled,
        }?;
        let (len, blake3) = hashed;
        request.check(&filled, len, blake3)?;
        Ok((filled, len, blake3))
    })?;
    request.observe.observe(Event::Finished { bytes: unpacked.bytes });
    let mut done = Imported {
        dataset: request.to.to_string(),
        entries: unpacked.entries,
        bytes: unpacked.bytes,
        n_dropped: unpacked.n_dropped,
        verified: unpacked.said.is_some() || request.expected.is_some(),
        of: unpacked.said.map(|(about, _)| about),
        file_bytes: len,
        blake3,
        snapshot: None,
    };
    if let Some(name) = &request.snapshot {
        let taken =
            Dataset::snapshot(std::slice::from_ref(&request.to), &SnapshotRequest::named(name.clone()));
        let failed = |error: endpoint::Error| Error::Halfway {
            what: format!("{} is imported, and has no snapshot", request.to),
            source: Box::new(error.into()),
        };
        done.snapshot = taken.map_err(failed)?.versions.into_iter().next();
    }
    Ok(done)
}

impl Request<'_> {
    fn check(&self, came: &Unpacked, len: u64, blake3: Digest) -> endpoint::Result<()> {
        let corrupt = |why: String| endpoint::Error::Corrupt { what: "archive", why, source: None };
        let beside =
            self.beside.as_ref().map(|beside| Expected { bytes: beside.file_bytes, blake3: beside.blake3 });
        for expected in self.expected.iter().chain(&beside) {
            if *expected != (Expected { bytes: len, blake3 }) {
                let Expected { bytes, blake3: other } = expected;
                return Err(corrupt(format!(
                    "it has {len} bytes with the blake3 {blake3}, and {bytes} with {other} were to come"
                )));
            }
        }
        match (&self.beside, &came.said) {
            (Some(beside), Some((about, end))) if (&beside.about, &beside.end) != (about, end) => {
                Err(corrupt("what stands beside it is of another archive".into()))
            }
            _ => Ok(()),
        }
    }
}

type Blocks = io::Result<Vec<u8>>;

/// Hands `take` what `input` is decompressed, by a thread of its own; answers how many bytes were read in all, and their blake3.
fn decompressed<T>(
    input: &mut (impl Read + Send),
    take: impl FnOnce(&mut dyn Read) -> T,
) -> (T, (u64, Digest)) {
    let (to, from) = sync_channel::<Blocks>(IN_FLIGHT);
    std::thread::scope(|scope| {
        let hashing = scope.spawn(move || {
            let mut counted = Counted { input, hasher: blake3::Hasher::new() };
            if let Err(error) = pour(&mut counted, &to) {
                let _ = to.send(Err(error));
            }
            (counted.hasher.count(), digest(&counted.hasher.finalize()))
        });
        let mut blocks = Flow { from, block: Vec::new(), at: 0 };
        let taken = take(&mut blocks);
        // Who waits to be read from sees that nobody does.
        drop(blocks);
        (taken, hashing.join().expect("decompressing does not panic"))
    })
}

fn pour(input: &mut (impl Read + Send), to: &SyncSender<Blocks>) -> io::Result<()> {
    let mut reader = zst::read(input)?;
    loop {
        interrupt::check()?;
        let mut block = vec![0; BLOCK];
        let mut len = 0;
        while len < BLOCK {
            match reader.read(&mut block[len..])? {
                0 => break,
                more => len += more,
            }
        }
        block.truncate(len);
        if len == 0 || to.send(Ok(block)).is_err() {
            return Ok(());
        }
    }
}

struct Counted<R> {
    input: R,
    hasher: blake3::Hasher,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.input.read(buffer)?;
        self.hasher.update(&buffer[..len]);
        Ok(len)
    }
}

struct Flow {
    from: Receiver<Blocks>,
    block: Vec<u8>,
    at: usize,
}

impl Read for Flow {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.block.len() {
            let Ok(next) = self.from.recv() else { return Ok(0) };
            (self.block, self.at) = (next?, 0);
        }
        let len = buffer.len().min(self.block.len() - self.at);
        buffer[..len].copy_from_slice(&self.block[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}
