//! Two threads: the caller's reads the stream and checks every command's checksum, a second one applies.

use std::io::Read;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use super::fault::{interrupted, of_stream};
use crate::endpoint::{Error, Result};
use crate::stream::btrfs::{self, Batch, Framer, Located, Run, Version};
use crate::sys::interrupt;

/// How many batches of up to 1 MiB may wait to be applied.
const BATCHES_AHEAD: usize = 4;

/// The commands of a stream, as they come from the reading thread.
pub(super) struct Batches {
    full: Receiver<btrfs::Result<Batch>>,
    empty: Sender<Box<[u8]>>,
    current: Option<Batch>,
    last: Option<(u64, Version)>, // Where the one before it ended.
}

impl Batches {
    /// The next command; `None` once the stream has ended without an error.
    pub(super) fn next_command(&mut self) -> Result<Option<Located<'_>>> {
        if !self.refill()? {
            return Ok(None);
        }
        self.current.as_mut().map_or(Ok(None), Batch::next_command).map_err(of_stream)
    }

    /// As [`Self::next_command`], with the data of the writes that go on where it ends.
    pub(super) fn next_run(&mut self) -> Result<Option<Run<'_>>> {
        if !self.refill()? {
            return Ok(None);
        }
        self.current.as_mut().map_or(Ok(None), Batch::next_run).map_err(of_stream)
    }

    /// Where the command stands in the stream that comes next, and the stream's version; `None` before the first has arrived.
    pub(super) fn place(&self) -> Option<(u64, Version)> {
        self.current.as_ref().map(|batch| (batch.offset(), batch.version())).or(self.last)
    }

    /// Makes `current` hold a command; `false` at the end.
    fn refill(&mut self) -> Result<bool> {
        while self.current.as_ref().is_none_or(Batch::is_empty) {
            if let Some(done) = self.current.take() {
                self.last = Some((done.offset(), done.version()));
                // A reader that has come to the end wants no more buffers.
                let _ = self.empty.send(done.into_buffer());
            }
            interrupt::check().map_err(|_| interrupted())?;
            match self.full.recv() {
                Ok(batch) => self.current = Some(batch.map_err(of_stream)?),
                Err(_) => return Ok(false),
            }
        }
        Ok(true)
    }
}

/// Calls `apply` on a thread of its own while this one reads the stream to its end.
pub(super) fn run<T: Send>(
    mut framer: Framer<&mut dyn Read>,
    apply: impl FnOnce(&mut Batches) -> Result<T> + Send,
) -> Result<T> {
    thread::scope(|scope| {
        let (full, batches) = sync_channel(BATCHES_AHEAD);
        let (empty, spares) = channel();
        let mut batches = Batches { full: batches, empty, current: None, last: None };
        let applying = thread::Builder::new()
            .name("apply".into())
            .spawn_scoped(scope, move || apply(&mut batches))
            .map_err(Error::io("start", "a thread"))?;
        read(&mut framer, &full, &spares);
        drop(full);
        applying.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Reads until the stream ends or fails, or the other thread no longer listens.
fn read(
    framer: &mut Framer<&mut dyn Read>,
    full: &SyncSender<btrfs::Result<Batch>>,
    spares: &Receiver<Box<[u8]>>,
) {
    while let Some(batch) = framer.next_batch(spares.try_recv().unwrap_or_default()).transpose() {
        let failed = batch.is_err();
        if full.send(batch).is_err() || failed {
            return;
        }
    }
}
