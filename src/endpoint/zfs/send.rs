//! The kernel's send, read through a large pipe.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::thread::{self, JoinHandle};

use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::{Error, Result};
use crate::sys::lzc::{self, Errno, Failed, Lzc, SendFlags};
use crate::sys::pipe::{self, Basin};
use crate::sys::{apart, interrupt};

/// What the kernel is to send.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// The snapshot, in full: `DATASET@NAME`.
    pub snapshot: String,
    /// Its base: `DATASET@NAME` or `DATASET#NAME`.
    pub base: Option<String>,
    /// How.
    pub flags: SendFlags,
    /// The object and the offset in it to go on with.
    pub resume: Option<(u64, u64)>,
}

impl Source {
    fn send(&self, lzc: &Lzc, to: impl AsFd) -> Result<(), Failed> {
        let base = self.base.as_deref();
        match self.resume {
            None => lzc.send(&self.snapshot, base, to.as_fd(), self.flags),
            Some(at) => lzc.send_resume(&self.snapshot, base, to.as_fd(), self.flags, at),
        }
    }

    /// About how many bytes it will be. Not told of a bookmark, for which the kernel reads for minutes.
    pub fn estimate(&self, lzc: &Lzc) -> Option<u64> {
        if self.base.as_ref().is_some_and(|base| base.contains('#')) {
            return None;
        }
        lzc.send_space(&self.snapshot, self.base.as_deref(), self.flags).ok()
    }
}

/// Starts to send; the stream comes out of the answer, an error of the kernel at its end.
pub(super) fn stream(dataset: &Dataset, lzc: &'static Lzc, source: Source) -> Result<Stream> {
    let subject = source.snapshot.clone();
    let failed = || Error::io::<_, io::Error>("send", subject.clone());
    let (reader, writer) = pipe::pipe(pipe::STREAM_PIPE).map_err(failed())?;
    let (parting, parted) = apart::part(writer);
    let sender = thread::Builder::new()
        .name("send".into())
        .spawn(move || {
            // Killed, the others close the reading end, which ends the send whatever becomes of the signal.
            let writer = parting.alone(lzc::descriptors().ok().as_deref());
            // A signal would cut a write of the kernel short, which ends the send; SIGPIPE would end a program that does
            // not ignore it.
            interrupt::block_all_in_this_thread().map_err(Ended::Thread)?;
            // The only writing end goes with this thread: its reader then comes to the end.
            source.send(lzc, &writer).map_err(Ended::Kernel)
        })
        .map_err(failed())?;
    parted.wait();
    let pipe = Basin::new(reader).map_err(failed())?;
    Ok(Stream { pipe: Some(pipe), sender: Some(sender), dataset: dataset.clone() })
}

enum Ended {
    Thread(io::Error),
    Kernel(Failed),
}

/// A send stream, as the kernel makes it. Dropping it ends the send.
pub(super) struct Stream {
    pipe: Option<Basin>, // Closed before the sender is joined: the kernel's next write then fails, and the call ends.
    sender: Option<JoinHandle<Result<(), Ended>>>,
    dataset: Dataset,
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(pipe) = &mut self.pipe else { return Ok(0) };
        let len = pipe.read(buf)?;
        if len == 0 && !buf.is_empty() {
            self.finish().map_err(io::Error::other)?;
        }
        Ok(len)
    }
}

impl Stream {
    /// Reads so many bytes; fewer only if the stream has ended.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn begin(&mut self, len: usize) -> Result<Vec<u8>> {
        let mut first = Vec::with_capacity(len);
        let read = Read::by_ref(self).take(len as u64).read_to_end(&mut first);
        read.map_err(|error| match error.downcast::<Error>() {
            Ok(said) => said,
            Err(error) => Error::io("send", &self.dataset)(error),
        })?;
        Ok(first)
    }

    fn finish(&mut self) -> Result<()> {
        self.pipe = None;
        let Some(sender) = self.sender.take() else { return Ok(()) };
        let panicked = |_| Err(Ended::Thread(io::Error::other("the sending thread panicked")));
        match sender.join().unwrap_or_else(panicked) {
            Ok(()) => Ok(()),
            Err(Ended::Thread(error)) => Err(Error::io("send", &self.dataset)(error)),
            Err(Ended::Kernel(failed)) => Err(said(&self.dataset, failed)),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.finish(); // Who drops it does not want the rest: EPIPE is what is asked for.
    }
}

fn said(dataset: &Dataset, failed: Failed) -> Error {
    let subject = failed.subject.clone();
    match failed.errno {
        Errno::NoAccess => Error::Denied {
            op: "send",
            subject,
            lacking: "its encryption key is not loaded, which only a raw stream does without".into(),
            hint: Some("send it raw, as is the default; or zfs load-key".into()),
        },
        Errno::CrossPool => Error::Refused {
            op: "send",
            subject,
            why: "the base is no earlier version of it, or of what it was cloned from".into(),
            hint: None,
        },
        _ => dataset.failed("send", &[("send", dataset.name().as_str())])(failed),
    }
}
