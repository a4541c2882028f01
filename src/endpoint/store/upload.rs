//! One object of any length, in parts that go at once.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};

use object_store::multipart::PartId;
use object_store::path::Path;
use object_store::{PutMultipartOptions, PutPayload};

use super::judge::Fate;
use super::remote::{Parts, Remote};
use super::{Bytes, Cause, Error, Result};
use crate::model::StoreKind;

/// How often it is looked whether what was made one object has come to be there.
const LOOKS: u32 = 8;

/// How long a part is, in bytes; those of a very long object are longer, since a store takes 10,000 of them.
const PART: usize = 16 << 20;
const LONG_PART: usize = 32 << 20;
/// From where on parts are longer.
const SHORT_PARTS: usize = 2000;
/// How many parts a store takes.
const MAX_PARTS: usize = 10_000;

/// A part on its way: which, and its bytes.
type Job = (usize, Bytes);
/// A part that is there: which, how long, and what the store calls it.
type Done = (usize, u64, PartId);

impl Remote {
    pub fn upload(&self, key: &str, stream: &mut dyn Read, moved: &mut dyn FnMut(u64)) -> Result<u64> {
        let first = self.part(key, stream, PART)?;
        if first.len() < PART {
            let len = first.len() as u64;
            self.put(key, &first)?;
            moved(len);
            return Ok(len);
        }
        let Some(parts) = &self.backing.multipart else {
            return self.upload_to_web(key, first, stream, moved);
        };
        let path = self.path(key)?;
        if self.url.kind() == StoreKind::Azure && !self.attributes().is_empty() {
            return Err(self.no_class(key));
        }
        let id = self.surely("begin to write", key, || {
            let options = PutMultipartOptions { attributes: self.attributes(), ..Default::default() };
            parts.0.create_multipart_opts(&path, options)
        })?;
        let upload = Upload { remote: self, key, path: &path, id: &id, parts };
        let sent =
            upload.send(first, stream, moved).and_then(|(ids, len)| upload.complete(ids, len).map(|()| len));
        if sent.is_err() {
            upload.abort();
        }
        sent
    }

    /// Azure's class is said when the parts become one object, which is not known how to here.
    fn no_class(&self, key: &str) -> Error {
        let source = Cause(
            "what is longer than 16 MiB goes to Azure in parts, and then without a storage class".into(),
        );
        let hint = Some("leave --storage-class out: it gets the account's default".into());
        Error::Refused { op: "write", subject: self.url.with_key(key), source, hint }
    }

    /// The next part; shorter only if the stream has ended.
    pub(super) fn part(&self, key: &str, stream: &mut dyn Read, len: usize) -> Result<Bytes> {
        let mut part = Vec::new();
        match stream.take(len as u64).read_to_end(&mut part) {
            Ok(_) => Ok(part.into()),
            Err(source) => Err(Error::Source { subject: self.url.with_key(key), source }),
        }
    }
}

struct Upload<'a> {
    remote: &'a Remote,
    key: &'a str,
    path: &'a Path,
    id: &'a String,
    parts: &'a Parts,
}

impl Upload<'_> {
    /// Sends all parts, several at once.
    fn send(
        &self,
        first: Bytes,
        stream: &mut dyn Read,
        moved: &mut dyn FnMut(u64),
    ) -> Result<(Vec<PartId>, u64)> {
        let (jobs, taken) = sync_channel::<Job>(0);
        let (done, results) = channel();
        let (taken, stopped) = (Mutex::new(taken), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for _ in 0..self.remote.parallel {
                let done = done.clone();
                scope.spawn(|| {
                    let done = done;
                    while let Some(job) = next(&taken) {
                        let sent = if stopped.load(Ordering::Relaxed) {
                            Err(self.stopped())
                        } else {
                            self.send_one(job)
                        };
                        if done.send(sent).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(done);
            let fed = self.feed(first, stream, jobs, &results, moved);
            stopped.store(true, Ordering::Relaxed);
            fed
        })
    }

    /// Reads parts and hands them to who sends them; answers what they are called once all are there.
    fn feed(
        &self,
        first: Bytes,
        stream: &mut dyn Read,
        jobs: SyncSender<Job>,
        results: &Receiver<Result<Done>>,
        moved: &mut dyn FnMut(u64),
    ) -> Result<(Vec<PartId>, u64)> {
        let mut there: Vec<Done> = Vec::new();
        let mut note = |result: Result<Done>| -> Result<()> {
            let done = result?;
            moved(done.1);
            there.push(done);
            Ok(())
        };
        let (mut number, mut going, mut part) = (0, 0, first);
        while !part.is_empty() {
            if number == MAX_PARTS {
                let (subject, max) = (self.remote.url.with_key(self.key), capacity());
                return Err(Error::TooLong { op: "write", subject, len: max + 1, max });
            }
            if going == self.remote.parallel {
                note(results.recv().map_err(|_| self.stopped())?)?;
                going -= 1;
            }
            jobs.send((number, part)).map_err(|_| self.stopped())?;
            (number, going) = (number + 1, going + 1);
            part = self.remote.part(self.key, stream, if number < SHORT_PARTS { PART } else { LONG_PART })?;
        }
        drop(jobs);
        for result in results {
            note(result)?;
        }
        there.sort_by_key(|(number, ..)| *number);
        let len = there.iter().map(|(_, len, _)| len).sum();
        Ok((there.into_iter().map(|(.., id)| id).collect(), len))
    }

    fn send_one(&self, (number, bytes): Job) -> Result<Done> {
        let len = bytes.len() as u64;
        let id = self.remote.surely("write", self.key, || {
            self.parts.0.put_part(self.path, self.id, number, PutPayload::from(bytes.clone()))
        })?;
        Ok((number, len, id))
    }

    /// Makes the parts one object.
    fn complete(&self, ids: Vec<PartId>, len: u64) -> Result<()> {
        let op = "finish to write";
        let work = || self.parts.0.complete_multipart(self.path, self.id, ids.clone());
        let mut patience = self.remote.patience(op, self.key);
        let mut is_said = false; // That it is there.
        loop {
            match self.remote.once(op, self.key, work())? {
                Ok(_) => {
                    is_said = true;
                    break;
                }
                Err(Fate::Again(cause)) => patience.again(cause)?,
                // An earlier try may have come through without an answer: what is there is looked at.
                Err(_) if patience.tries > 0 => break,
                Err(fate) => return Err(self.remote.fatal(op, self.key, fate)),
            }
        }
        for _ in 0..LOOKS {
            let found = match self.remote.head(self.key) {
                // Who may only write can not look, and what was said is not taken back by a signal.
                Err(_) if is_said => return Ok(()),
                found => found?,
            };
            match found {
                Some(object) if object.len == len => return Ok(()),
                Some(object) => {
                    let why = format!("{} bytes are there, of {len} that were sent", object.len);
                    return Err(self.remote.corrupt(op, self.key, why));
                }
                // A try that was given up may be at work there still.
                None => patience.again(Cause("it is not there yet".into()))?,
            }
        }
        Err(self.remote.corrupt(op, self.key, "it is not there once it was written"))
    }

    /// Takes the parts away, if that can be done now; else the store's own rules do it later.
    fn abort(&self) {
        let _ = self.remote.at_last(self.parts.0.abort_multipart(self.path, self.id));
    }

    fn stopped(&self) -> Error {
        let source = Cause("another part could not be written".into());
        Error::Refused { op: "write", subject: self.remote.url.with_key(self.key), source, hint: None }
    }
}

fn next(taken: &Mutex<Receiver<Job>>) -> Option<Job> {
    taken.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

/// How much fits into one object.
fn capacity() -> u64 {
    (SHORT_PARTS * PART + (MAX_PARTS - SHORT_PARTS) * LONG_PART) as u64
}
