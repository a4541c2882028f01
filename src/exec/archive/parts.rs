//! A container on its way into an archive: cut into parts, several of them sent at once, in memory that does not grow with it.

use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::Result;
use crate::endpoint::archive::{Archive, Error};
use crate::endpoint::store::Bytes;
use crate::model::Digest;
use crate::model::archive::{Group, MAX_PARTS, PART_LEN, Part};

/// How many parts are on their way at once; one more is being filled.
const PARALLEL: usize = 4;

/// Where a container goes.
pub(super) struct Place<'a> {
    pub archive: &'a Archive,
    pub group: Group,
    /// What is there of it already: which part, with which digest, and how long. In order.
    there: Vec<(u32, Digest, u32)>,
}

/// What became of it.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// The parts' digests, in their order.
    pub digests: Vec<Digest>,
    /// How long the last one is.
    pub last: u64,
    /// How many parts were not there yet.
    pub parts: u64,
    /// How many bytes these have.
    pub bytes: u64,
}

impl<'a> Place<'a> {
    /// Looks at what is there.
    ///
    /// # Errors
    /// What the store says.
    pub fn look(archive: &'a Archive, group: Group) -> Result<Self> {
        let mut there = Vec::new();
        archive.each_part(Some(group), &mut |part, object| {
            // What is longer is no part.
            there.extend(u32::try_from(object.len).ok().map(|len| (part.number, part.digest, len)));
            Ok::<_, Error>(())
        })?;
        there.sort_unstable();
        Ok(Self { archive, group, there })
    }

    /// Looks at nothing: every part is put.
    pub fn blind(archive: &'a Archive, group: Group) -> Self {
        Self { archive, group, there: Vec::new() }
    }

    fn has(&self, number: u32, digest: Digest, len: u64) -> bool {
        u32::try_from(len).is_ok_and(|len| self.there.binary_search(&(number, digest, len)).is_ok())
    }

    /// Has `write` write the container, and sends its parts while it does.
    ///
    /// # Errors
    /// What `write` says, or else the store. The parts that were whole are there, and not sent again.
    pub fn send<T>(&self, write: impl FnOnce(&mut Cutter) -> Result<T>) -> Result<(T, Sent)> {
        let (full, jobs) = mpsc::channel();
        let (empty, free) = mpsc::channel();
        for _ in 0..=PARALLEL {
            let _ = empty.send(Vec::new());
        }
        let shared = Shared { place: self, jobs: Mutex::new(jobs), done: Mutex::default() };
        let written: Result<T> = std::thread::scope(|scope| {
            for _ in 0..PARALLEL {
                let (shared, empty) = (&shared, empty.clone());
                scope.spawn(move || shared.work(&empty));
            }
            drop(empty);
            let mut cutter = Cutter { full, free, part: Vec::new(), number: 0 };
            // A last part that is not whole is of use only if all came.
            let written = write(&mut cutter)?;
            cutter.hand_on().map_err(crate::Error::io("cut", "the container"))?;
            Ok(written)
        });
        let Done { error, sent } = shared.done.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = error {
            return Err(error.into());
        }
        Ok((written?, sent))
    }
}

struct Shared<'a> {
    place: &'a Place<'a>,
    jobs: Mutex<Receiver<(u32, Vec<u8>)>>,
    done: Mutex<Done>,
}

#[derive(Default)]
struct Done {
    error: Option<Error>,
    sent: Sent,
}

impl Sent {
    /// Notes a part. They come nearly in their order.
    fn note(&mut self, number: u32, digest: Digest, len: u64) {
        let number = number as usize;
        if number >= self.digests.len() {
            self.digests.resize(number + 1, Digest([0; 32]));
            self.last = len;
        }
        self.digests[number] = digest;
    }
}

impl Shared<'_> {
    fn done(&self) -> MutexGuard<'_, Done> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what it is given, until nothing comes any more or something went wrong: then nobody gets a buffer back.
    fn work(&self, empty: &Sender<Vec<u8>>) {
        while let Some((number, bytes)) = self.next() {
            match self.put(number, bytes) {
                Ok(buffer) => drop(empty.send(buffer)),
                Err(error) => {
                    self.done().error.get_or_insert(error);
                    return;
                }
            }
        }
    }

    fn next(&self) -> Option<(u32, Vec<u8>)> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let next = jobs.recv().ok();
        // What was cut off by an error of another one is not sent.
        next.filter(|_| self.done().error.is_none())
    }

    /// Puts a part that is not there; answers its buffer, for the next one.
    fn put(&self, number: u32, bytes: Vec<u8>) -> Result<Vec<u8>, Error> {
        let digest = Digest(*blake3::hash(&bytes).as_bytes());
        let len = bytes.len() as u64;
        let is_there = self.place.has(number, digest, len);
        let buffer = match is_there {
            true => bytes,
            false => {
                let part = Part { group: self.place.group, number, digest };
                let bytes = Bytes::from(bytes);
                self.place.archive.store().put(&part.to_string(), bytes.clone())?;
                if bytes.is_unique() { Vec::from(bytes) } else { Vec::new() }
            }
        };
        let mut done = self.done();
        let sent = &mut done.sent;
        sent.note(number, digest, len);
        if !is_there {
            sent.parts += 1;
            sent.bytes += len;
        }
        Ok(buffer)
    }
}

/// Cuts what is written to it into parts.
pub(super) struct Cutter {
    full: Sender<(u32, Vec<u8>)>,
    free: Receiver<Vec<u8>>,
    part: Vec<u8>,
    number: u32,
}

impl Cutter {
    /// Hands on what there is of a part.
    fn hand_on(&mut self) -> io::Result<()> {
        if self.part.is_empty() {
            return Ok(());
        }
        if self.number >= MAX_PARTS {
            return Err(io::Error::other(Error::TooMany));
        }
        let part = std::mem::take(&mut self.part);
        // Who sends it says what went wrong.
        self.full.send((self.number, part)).map_err(|_| io::ErrorKind::BrokenPipe)?;
        self.number += 1;
        Ok(())
    }

    /// The buffer for the next part; waits until one is free.
    fn refill(&mut self) -> io::Result<()> {
        self.part = self.free.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
        self.part.clear();
        self.part.reserve_exact(PART_LEN as usize);
        Ok(())
    }
}

impl Write for Cutter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.part.capacity() == 0 {
            self.refill()?;
        }
        let room = PART_LEN as usize - self.part.len();
        let len = bytes.len().min(room);
        self.part.extend_from_slice(&bytes[..len]);
        if len == room {
            self.hand_on()?;
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Class, class_of_io};

    #[test]
    fn a_container_ends_where_its_manifest_would_have_no_room() {
        let (full, jobs) = mpsc::channel();
        let (_empty, free) = mpsc::channel();
        let mut cutter = Cutter { full, free, part: vec![1], number: MAX_PARTS - 1 };
        cutter.hand_on().unwrap();
        assert_eq!(jobs.recv().unwrap().0, MAX_PARTS - 1);
        cutter.part = vec![2];
        let error = cutter.hand_on().unwrap_err();
        assert_eq!(class_of_io(&error), Class::Conflict);
        assert!(error.to_string().contains("4194304 parts"), "{error}");
        // A line of the longest part, and all else that a manifest holds.
        let line = format!("{PART_LEN} {}\n", Digest([0; 32])).len() as u64;
        assert!(u64::from(MAX_PARTS) * line + (2 << 20) < crate::model::archive::MAX_MANIFEST);
    }
}
