//! The kernel's send, read through a large pipe with a prefetcher ahead of it.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::thread::{self, JoinHandle};

use super::prefetch::{Plan, Prefetch};
use crate::endpoint::{Error, Result};
use crate::sys::btrfs::{self, SendOptions};
use crate::sys::interrupt;
use crate::sys::pipe::{self, Basin};

/// What the kernel is to send.
#[derive(Debug)]
pub struct Source {
    /// The root directory of a read-only subvolume.
    pub subvolume: OwnedFd,
    /// How errors call it.
    pub subject: String,
    /// How to send it.
    pub options: SendOptions,
    /// The newest transaction of the base: what is older is not looked at by the prefetcher. 0 in a full send.
    pub since: u64,
}

/// The highest version of the send stream that this kernel writes; 1 where it does not say.
pub fn newest_stream_version() -> u32 {
    let text = std::fs::read_to_string("/sys/fs/btrfs/features/send_stream_version");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1)
}

/// Starts to send `source`; the stream comes out of the answer, an error of the kernel at its end.
pub fn stream(source: Source) -> Result<Stream> {
    let (subject, options) = (source.subject, source.options);
    let failed = || Error::io::<_, io::Error>("send", subject.clone());
    let id = btrfs::subvol_id(source.subvolume.as_fd()).map_err(failed())?;
    let ahead = match options.no_data {
        true => None, // Nothing but metadata is read, in the order that the kernel itself reads ahead.
        false => Prefetch::start(Plan {
            subvolume: source.subvolume.try_clone().map_err(failed())?,
            id,
            since: source.since,
            compressed: options.compressed,
        }),
    };
    let (reader, writer) = pipe::pipe(pipe::STREAM_PIPE).map_err(failed())?;
    let subvolume = source.subvolume;
    let sender = thread::Builder::new()
        .name("send".into())
        .spawn(move || {
            // A signal would cut the call short; SIGPIPE would end a program that does not ignore it.
            interrupt::block_all_in_this_thread()?;
            btrfs::send(subvolume.as_fd(), writer.as_fd(), &options)
        })
        .map_err(failed())?;
    let pipe = Basin::new(reader).map_err(failed())?;
    Ok(Stream { pipe: Some(pipe), sender: Some(sender), ahead, subject })
}

/// A send stream, as the kernel makes it. Dropping it ends the send.
pub struct Stream {
    pipe: Option<Basin>, // Closed before the sender is joined: the kernel's next write then fails, and the call ends.
    sender: Option<JoinHandle<io::Result<()>>>,
    ahead: Option<Prefetch>,
    subject: String,
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(pipe) = &mut self.pipe else { return Ok(0) };
        let len = pipe.read(buf)?;
        if len == 0 && !buf.is_empty() {
            self.finish()?;
        } else if let Some(ahead) = &self.ahead {
            ahead.advance(len as u64);
        }
        Ok(len)
    }
}

impl Stream {
    /// Ends the prefetcher, then the sender; answers what the kernel said.
    fn finish(&mut self) -> io::Result<()> {
        self.pipe = None;
        self.ahead = None;
        let Some(sender) = self.sender.take() else { return Ok(()) };
        let result = sender.join().unwrap_or_else(|_| Err(io::Error::other("the sending thread panicked")));
        result.map_err(|source| {
            let kind = source.kind();
            io::Error::new(kind, Error::Io { op: "send", subject: self.subject.clone(), source })
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.finish(); // Who drops it does not want the rest: EPIPE is what is asked for.
    }
}
