//! A version's container, read off its parts: fetched ahead, several at once, each checked before a byte of it is handed on.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::endpoint::archive::{Archive, Manifest, Result};
use crate::sys::interrupt;

/// How many parts are on their way, or waiting to be read, beside the one that is.
const AHEAD: usize = 5;
/// How often a wait looks whether it was asked to end.
const LOOK: Duration = Duration::from_millis(200);

/// Reads a container. Its `io::Error`s hold an [`Error`](crate::endpoint::archive::Error) that names the part.
pub struct Fetch {
    archive: Archive,
    manifest: Manifest,
    /// Which parts are still to be fetched.
    parts: Range<usize>,
    ahead: VecDeque<Receiver<Result<Vec<u8>>>>,
    current: Vec<u8>,
    /// Memory of parts that were read. There is never more than of [`AHEAD`] and one.
    spare: Vec<Vec<u8>>,
    at: usize,
    until: Option<Instant>,
}

impl Fetch {
    /// Of the container that `manifest` tells of. Nothing is fetched yet.
    pub fn new(archive: &Archive, manifest: &Manifest) -> Self {
        Self::between(archive, manifest, 0, usize::MAX)
    }

    /// Of its parts from `first` on, up to so many.
    pub(super) fn between(archive: &Archive, manifest: &Manifest, first: usize, most: usize) -> Self {
        let parts = first..manifest.n_parts().min(first.saturating_add(most));
        let manifest = manifest.clone();
        let (ahead, current, spare) = (VecDeque::new(), Vec::new(), Vec::new());
        Self { archive: archive.clone(), manifest, parts, ahead, current, spare, at: 0, until: None }
    }

    /// Nothing more is waited for then: an `io::Error` of [`TimedOut`](io::ErrorKind::TimedOut).
    pub(super) fn until(self, until: Option<Instant>) -> Self {
        Self { until, ..self }
    }

    /// Has the next parts fetched, each on a thread of its own, as far as there is room.
    fn look_ahead(&mut self) -> io::Result<()> {
        while self.ahead.len() < AHEAD {
            let Some(number) = self.parts.next() else { break };
            let (part, len) = self.manifest.part(number);
            let (sender, receiver) = sync_channel(1);
            let archive = self.archive.clone();
            // Who reads no further drops the receiver; what is on its way then is thrown away.
            let buffer = self.spare.pop().unwrap_or_default();
            let fetch = move || drop(sender.send(archive.part_into(&part, len, buffer)));
            thread::Builder::new().name("fetch".into()).spawn(fetch)?;
            self.ahead.push_back(receiver);
        }
        Ok(())
    }

    /// Makes `current` the next part; `false` at the end.
    fn next(&mut self) -> io::Result<bool> {
        let read = std::mem::take(&mut self.current);
        if read.capacity() > 0 {
            self.spare.push(read);
        }
        self.at = 0;
        self.look_ahead()?;
        let Some(first) = self.ahead.pop_front() else { return Ok(false) };
        self.current = loop {
            interrupt::check()?;
            if self.until.is_some_and(|until| Instant::now() >= until) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match first.recv_timeout(LOOK) {
                Ok(part) => break part.map_err(io::Error::other)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(io::Error::other("a thread that fetched a part has ended"));
                }
            }
        };
        Ok(true)
    }
}

impl Read for Fetch {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.current.len() {
            if !self.next()? {
                return Ok(0);
            }
        }
        let len = buffer.len().min(self.current.len() - self.at);
        buffer[..len].copy_from_slice(&self.current[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}
