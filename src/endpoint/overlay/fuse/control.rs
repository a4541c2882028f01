//! What is said to a filesystem's process over its socket: a line of JSON for each request, one for each answer.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use super::adapter::Mount;
use super::{Layers, Options};
use crate::sys::interrupt;

/// The name of the socket in an overlay's directory.
pub const SOCKET: &str = "control";
/// A message is at most so long: a hundred layers with the longest paths have room in it.
const MAX_LEN: u64 = 4 << 20;
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one is waited for all the same once a signal has asked this process to end.
const COURTESY: Duration = Duration::from_secs(2);
/// How often it is looked whether one has.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// How long it may take until all that was changed is on the disk.
const SYNC_PATIENCE: Duration = Duration::from_secs(1800);

/// What is asked of the process.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
pub enum Request {
    /// Mount a copy.
    Show {
        /// Its number.
        copy: u32,
        /// The generation of its upper layer.
        generation: u64,
        /// How and where.
        view: Box<View>,
    },
    /// Go on with these layers.
    Reset {
        /// Of which copy.
        copy: u32,
        /// The generation of the upper one.
        generation: u64,
        /// All of them.
        layers: Layers,
    },
    /// Write all to the disk and keep every change waiting, until `thaw`, `reset` or the end of the connection.
    Freeze {
        /// Of which copy.
        copy: u32,
    },
    /// Let changes go on.
    Thaw,
    /// Say how a copy is.
    Stats {
        /// Its number.
        copy: u32,
    },
    /// Take a copy's mount away; the process ends with the last one, when nobody has anything open there any more.
    Hide {
        /// Its number.
        copy: u32,
    },
}

/// How a copy is mounted, and where.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct View {
    /// The layers.
    pub layers: Layers,
    /// How the filesystem behaves.
    pub options: Options,
    /// How it is mounted.
    pub mount: Mount,
    /// Where.
    #[serde(with = "path_bytes")]
    pub at: PathBuf,
}

/// What the process answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// It is done.
    Done,
    /// How the copy is; none if it does not show it.
    Stats(Option<Stats>),
    /// It could not be done.
    Failed {
        /// The error's number, if it has one.
        errno: Option<i32>,
        /// In words.
        why: String,
    },
}

/// How a copy's filesystem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// The process that serves it.
    pub pid: u32,
    /// The generation of the upper layer.
    pub generation: u64,
    /// How many files the kernel knows.
    pub nodes: usize,
    /// How many files are open that are in the upper layer.
    pub busy: usize,
    /// How often files are open to be written to.
    pub writers: u32,
}

impl From<std::io::Error> for Answer {
    fn from(error: std::io::Error) -> Self {
        Self::Failed { errno: error.raw_os_error(), why: error.to_string() }
    }
}

/// A connection to a filesystem's process.
#[derive(Debug)]
pub struct Control {
    reader: BufReader<UnixStream>,
}

impl Control {
    /// Connects to the process of the overlay whose directory is `dir`; `None` if there is none any more.
    pub fn connect(dir: &Path) -> std::io::Result<Option<Self>> {
        use std::io::ErrorKind::{ConnectionRefused, NotFound};
        match by_short_path(dir, UnixStream::connect) {
            Err(error) if matches!(error.kind(), ConnectionRefused | NotFound) => Ok(None),
            stream => Ok(Some(Self::over(stream?)?)),
        }
    }

    /// The process, when it began to listen.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn process(&self) -> std::io::Result<Pid> {
        Ok(rustix::net::sockopt::socket_peercred(self.reader.get_ref())?.pid)
    }

    /// Whether the process answers at all: asked how a copy is, and waited for only so long, and not after a signal has asked this one to
    /// end. `Ok(false)`: it does not.
    ///
    /// # Errors
    /// A process that ends meanwhile.
    pub fn answers(&mut self) -> std::io::Result<bool> {
        send(self.reader.get_ref(), &Request::Stats { copy: 0 })?;
        let began = Instant::now();
        loop {
            let ready = poll(&mut [PollFd::new(self.reader.get_ref(), PollFlags::IN)], Some(&TICK));
            if matches!(ready, Ok(1..)) {
                return next::<Answer>(&mut self.reader)?
                    .map(|_| true)
                    .ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into());
            }
            // Whoever was asked to end may be about to clean up: a process that is well answers sooner than this.
            let is_unwanted = interrupt::pending().is_some() && began.elapsed() > COURTESY;
            if is_unwanted || began.elapsed() > PATIENCE {
                return Ok(false);
            }
        }
    }

    /// Speaks over this stream.
    pub fn over(stream: UnixStream) -> std::io::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { reader: BufReader::new(stream) })
    }

    /// Mounts a copy. Requests are answered from when this returns.
    pub fn show(&mut self, copy: u32, generation: u64, view: View) -> std::io::Result<()> {
        self.done(&Request::Show { copy, generation, view: Box::new(view) })
    }

    /// Goes on with other layers; see [`Handle::reset`](super::adapter::Handle::reset).
    pub fn reset(&mut self, copy: u32, generation: u64, layers: Layers) -> std::io::Result<()> {
        self.done(&Request::Reset { copy, generation, layers })
    }

    /// Keeps every change waiting until [`Control::thaw`] or [`Control::reset`], or until this is dropped. EBUSY: a file is open to
    /// be written to.
    ///
    /// What the kernel has not yet written must have been synced through the mount (`syncfs`).
    pub fn freeze(&mut self, copy: u32) -> std::io::Result<()> {
        self.reader.get_ref().set_read_timeout(Some(SYNC_PATIENCE))?;
        let done = self.done(&Request::Freeze { copy });
        self.reader.get_ref().set_read_timeout(Some(PATIENCE))?;
        done
    }

    /// Lets changes go on.
    pub fn thaw(&mut self) -> std::io::Result<()> {
        self.done(&Request::Thaw)
    }

    /// How a copy is; `None` if the process does not show it.
    pub fn stats(&mut self, copy: u32) -> std::io::Result<Option<Stats>> {
        match self.ask(&Request::Stats { copy })? {
            Answer::Stats(stats) => Ok(stats),
            answer => Err(error_of(answer)),
        }
    }

    /// Takes a copy's mount away; none is fine.
    pub fn hide(&mut self, copy: u32) -> std::io::Result<()> {
        self.done(&Request::Hide { copy })
    }

    /// Waits until the process has ended, for that long at most; whether it has.
    pub fn ended(&mut self, patience: Duration) -> bool {
        let stream = self.reader.get_ref();
        stream.set_read_timeout(Some(patience)).is_ok() && matches!(self.reader.read(&mut [0]), Ok(0))
    }

    fn done(&mut self, request: &Request) -> std::io::Result<()> {
        match self.ask(request)? {
            Answer::Done => Ok(()),
            answer => Err(error_of(answer)),
        }
    }

    fn ask(&mut self, request: &Request) -> std::io::Result<Answer> {
        send(self.reader.get_ref(), request)?;
        next(&mut self.reader)?.ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into())
    }
}

fn error_of(answer: Answer) -> std::io::Error {
    match answer {
        Answer::Failed { errno: Some(errno), .. } => std::io::Error::from_raw_os_error(errno),
        Answer::Failed { errno: None, why } => std::io::Error::other(why),
        Answer::Done | Answer::Stats(_) => std::io::ErrorKind::InvalidData.into(),
    }
}

/// Acts on the path of the socket in `dir`, in the few bytes that a socket's address has, however long the path is.
pub(super) fn by_short_path<T>(
    dir: &Path,
    act: impl FnOnce(PathBuf) -> std::io::Result<T>,
) -> std::io::Result<T> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(dir, flags, Mode::empty())?;
    act(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()).into())
}

/// Sends a line.
pub(super) fn send(mut stream: &UnixStream, message: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Reads a line; `None` at the end.
pub(super) fn next<T: for<'a> Deserialize<'a>>(
    reader: &mut BufReader<UnixStream>,
) -> std::io::Result<Option<T>> {
    let mut line = Vec::new();
    match reader.take(MAX_LEN).read_until(b'\n', &mut line)? {
        0 => Ok(None),
        _ => Ok(Some(serde_json::from_slice(&line)?)),
    }
}

/// Paths as bytes: they need not be text.
pub(super) mod path_bytes {
    use super::*;

    pub fn serialize<S: serde::Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        path.as_os_str().as_bytes().serialize(to)
    }

    pub fn deserialize<'a, D: serde::Deserializer<'a>>(from: D) -> Result<PathBuf, D::Error> {
        Ok(OsString::from_vec(Vec::deserialize(from)?).into())
    }
}

/// As [`path_bytes`], of a path that may be lacking.
pub(super) mod maybe_path_bytes {
    use super::*;

    pub fn serialize<S: serde::Serializer>(path: &Option<PathBuf>, to: S) -> Result<S::Ok, S::Error> {
        path.as_ref().map(|path| path.as_os_str().as_bytes()).serialize(to)
    }

    pub fn deserialize<'a, D: serde::Deserializer<'a>>(from: D) -> Result<Option<PathBuf>, D::Error> {
        Ok(Option::<Vec<u8>>::deserialize(from)?.map(|bytes| OsString::from_vec(bytes).into()))
    }
}
