//! SIGINT, SIGTERM and SIGHUP: the first asks the work to stop and clean up, a second ends the program at once.
//!
//! Whoever asks once may be heard twice: `timeout` signals its child and then the child's group, systemd may send SIGHUP after SIGTERM. What comes within
//! half a second of the first is part of it.
//!
//! **Invariant:** [`check`] never answers `ErrorKind::Interrupted`, which std's readers take for "try again".

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, open};
use rustix::io::{Errno, ReadWriteFlags, pwritev2};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{SigId, flag, low_level};

/// The work was asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stopped by {}", low_level::signal_name(*.signal).unwrap_or("a signal"))]
pub struct Interrupted {
    /// Which signal asked.
    pub signal: i32,
}

impl From<Interrupted> for io::Error {
    fn from(interrupted: Interrupted) -> Self {
        Self::other(interrupted)
    }
}

/// Whether `error` says that the work was asked to stop.
pub fn is_interrupt(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Interrupted>())
}

static SIGNAL: AtomicUsize = AtomicUsize::new(0);
/// When the first signal came, in ms of the monotonic clock; 0 as long as none did.
static FIRST: AtomicI64 = AtomicI64::new(0);
/// For how long after the first signal another is taken for the same request, in ms.
const ONE_REQUEST_MS: i64 = 500;
/// What is done when one comes.
static ACTIONS: Mutex<Vec<SigId>> = Mutex::new(Vec::new());
/// How soon a FIFO without a reader is tried again.
const FIFO_RETRY: Duration = Duration::from_millis(20);
/// Readable, and never read, once a signal has come: a poll that holds it wakes up.
static WAKE: OnceLock<OwnedFd> = OnceLock::new();

/// Takes the signals over. To be called once, from the program's start; a signal that was ignored stays so (`nohup`).
pub fn install() -> io::Result<()> {
    let (wake, ring) = crate::sys::pipe::pipe(4096)?;
    if WAKE.set(wake).is_err() {
        return Ok(());
    }
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        if is_ignored(signal) {
            continue;
        }
        // SAFETY: what it calls is safe in a signal handler: the clock, atomics, and signal-hook's default action, which says so.
        let end_at_once = unsafe { low_level::register(signal, move || end_if_asked_before(signal)) }?;
        let actions = [
            end_at_once,
            flag::register_usize(signal, &SIGNAL, signal as usize)?,
            low_level::pipe::register(signal, ring.try_clone()?)?,
        ];
        ACTIONS.lock().unwrap_or_else(PoisonError::into_inner).extend(actions);
    }
    Ok(())
}

/// Runs within a signal handler.
fn end_if_asked_before(signal: i32) {
    let now = monotonic_ms();
    if let Err(first) = FIRST.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed)
        && now - first > ONE_REQUEST_MS
    {
        // It can only fail for a signal without a default action: these have one.
        let _ = low_level::emulate_default_handler(signal);
    }
}

/// Never 0.
fn monotonic_ms() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    (now.tv_sec * 1000 + now.tv_nsec / 1_000_000).max(1)
}

/// For who hears signals in a way of his own, and does already: from here on none asks the work to stop. Answers which one has, so far.
pub fn release() -> Option<Interrupted> {
    let actions = std::mem::take(&mut *ACTIONS.lock().unwrap_or_else(PoisonError::into_inner));
    for action in actions {
        low_level::unregister(action);
    }
    let early = pending();
    SIGNAL.store(0, Ordering::Relaxed);
    FIRST.store(0, Ordering::Relaxed);
    early
}

fn is_ignored(signal: i32) -> bool {
    // SAFETY: all-zero bytes are a valid sigaction; the call writes one and changes nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}

/// The signal that asked the work to stop, if one did.
pub fn pending() -> Option<Interrupted> {
    let signal = SIGNAL.load(Ordering::Relaxed) as i32;
    (signal != 0).then_some(Interrupted { signal })
}

/// An error ([`Interrupted`] inside) once the work was asked to stop. Costs one load.
pub fn check() -> io::Result<()> {
    pending().map_or(Ok(()), |interrupted| Err(interrupted.into()))
}

/// Keeps every signal from this thread, so that none cuts a long call to the kernel short: others take them.
pub fn block_all_in_this_thread() -> io::Result<()> {
    Ok(nix::sys::signal::SigSet::all().thread_block()?)
}

/// Waits until `fd` is ready, or a signal has come.
fn wait(fd: impl AsFd, events: PollFlags) -> io::Result<()> {
    let Some(wake) = WAKE.get() else { return Ok(()) };
    wait_for(&mut [PollFd::new(&fd, events), PollFd::new(wake, PollFlags::IN)])
}

/// Waits until one of `fds` is ready, which a signal makes one of them.
fn wait_for(fds: &mut [PollFd<'_>]) -> io::Result<()> {
    loop {
        check()?;
        match poll(fds, None) {
            Ok(_) => return check(),
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Ends the wait for more input: rung by who no longer wants any. Clones are one bell.
#[derive(Debug, Clone)]
pub struct Bell(Arc<OwnedFd>);

impl Bell {
    /// One that has not been rung.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    /// From now on, nobody waits.
    pub fn ring(&self) {
        // It fails only once it was rung 2^64-2 times.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl PartialEq for Bell {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Bell {}

/// A reader that a signal wakes up.
pub struct Input<R>(pub R);

impl<R: Read + AsFd> Read for Input<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        wait(&self.0, PollFlags::IN)?;
        self.0.read(buf)
    }
}

impl<R> Input<R> {
    /// A reader that `bell` wakes up too.
    pub fn until(self, bell: &Bell) -> Until<R> {
        Until { input: self.0, bell: bell.clone() }
    }
}

/// A reader or writer that a signal wakes up, and that is patient for so long and no longer: then it is
/// [`io::ErrorKind::TimedOut`].
#[derive(Debug)]
pub struct Timely<F> {
    file: F,
    patience: Option<Duration>,
}

impl<F: AsFd> Timely<F> {
    /// Waits up to `patience` for each read and each write; for ever without one.
    pub fn new(file: F, patience: Option<Duration>) -> Self {
        Self { file, patience }
    }

    fn wait(&self, events: PollFlags) -> io::Result<()> {
        let until = self.patience.map(|patience| Instant::now() + patience);
        let mut fds = vec![PollFd::new(&self.file, events)];
        fds.extend(WAKE.get().map(|wake| PollFd::new(wake, PollFlags::IN)));
        loop {
            check()?;
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let left = left.map(|left| rustix::event::Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            });
            match poll(&mut fds, left.as_ref()) {
                Ok(0) => return Err(Errno::TIMEDOUT.into()),
                Ok(_) => return check(),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl<F: Read + AsFd> Read for Timely<F> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.wait(PollFlags::IN)?;
        self.file.read(buf)
    }
}

impl<F: Write + AsFd> Write for Timely<F> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        loop {
            self.wait(PollFlags::OUT)?;
            // An offset of -1 is the descriptor's own position. A plain write waits until there is room for all of it.
            match pwritev2(&self.file, &[IoSlice::new(buf)], u64::MAX, ReadWriteFlags::NOWAIT) {
                Err(Errno::AGAIN) => continue,
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => return self.file.write(buf),
                written => return Ok(written?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A reader that a signal wakes up, and a [`Bell`], which is an error.
#[derive(Debug)]
pub struct Until<R> {
    input: R,
    bell: Bell,
}

impl<R: Read + AsFd> Read for Until<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut fds =
            vec![PollFd::new(&self.input, PollFlags::IN), PollFd::new(&*self.bell.0, PollFlags::IN)];
        fds.extend(WAKE.get().map(|wake| PollFd::new(wake, PollFlags::IN)));
        wait_for(&mut fds)?;
        if !fds[1].revents().is_empty() {
            return Err(io::Error::other("nobody wants more of it"));
        }
        self.input.read(buf)
    }
}

/// A writer that a signal wakes up, where the kernel can write without waiting (files, pipes, sockets).
pub struct Output<W>(pub W);

impl<W: Write + AsFd> Write for Output<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        loop {
            wait(&self.0, PollFlags::OUT)?;
            // An offset of -1 is the descriptor's own position.
            match pwritev2(&self.0, &[IoSlice::new(buf)], u64::MAX, ReadWriteFlags::NOWAIT) {
                Ok(written) => return Ok(written),
                Err(Errno::AGAIN) if is_pollable(&self.0) => continue,
                Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                    return self.0.write(buf);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Opens `path` to read it through [`Input`]. A FIFO that nobody writes to yet is not waited for here: its reader waits.
pub fn open_to_read(path: &Path) -> io::Result<File> {
    match is_fifo(path) {
        true => blocking(open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?),
        false => File::open(path),
    }
}

/// Opens `path`, which is there and no regular file, to write to it. Waits for a FIFO's reader, or until a signal comes.
pub fn open_to_write(path: &Path) -> io::Result<File> {
    if !is_fifo(path) {
        return OpenOptions::new().write(true).open(path);
    }
    loop {
        check()?;
        match open(path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()) {
            // Nobody reads yet, which no poll waits for.
            Err(Errno::NXIO) => std::thread::sleep(FIFO_RETRY),
            opened => return blocking(opened?),
        }
    }
}

fn is_fifo(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.file_type().is_fifo())
}

/// Takes back that calls do not wait.
fn blocking(fd: OwnedFd) -> io::Result<File> {
    fcntl_setfl(&fd, fcntl_getfl(&fd)? - OFlags::NONBLOCK)?;
    Ok(fd.into())
}

/// Whether a poll waits until a write would go on: not so for files, which a poll always calls ready.
fn is_pollable(fd: impl AsFd) -> bool {
    use rustix::fs::FileType;
    rustix::fs::fstat(fd)
        .is_ok_and(|stat| matches!(FileType::from_raw_mode(stat.st_mode), FileType::Fifo | FileType::Socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_is_told_from_other_errors_and_is_not_retried_by_std() {
        let error = io::Error::from(Interrupted { signal: SIGTERM });
        assert!(is_interrupt(&error));
        assert_ne!(error.kind(), io::ErrorKind::Interrupted);
        assert_eq!(error.to_string(), "stopped by SIGTERM");
        assert!(!is_interrupt(&io::Error::other("something else")));
    }

    #[test]
    fn patience_ends_for_who_reads_and_for_who_writes() {
        let (reader, writer) = crate::sys::pipe::pipe(4096).unwrap();
        let patience = Some(Duration::from_millis(1));
        let (mut input, mut output) =
            (Timely::new(File::from(reader), patience), Timely::new(File::from(writer), patience));
        assert_eq!(input.read(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::TimedOut);
        output.write_all(b"some").unwrap();
        assert_eq!(input.read(&mut [0; 8]).unwrap(), 4);
        let full = loop {
            if let Err(error) = output.write(&[0; 1000]) {
                break error;
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::TimedOut);
        assert_eq!(crate::error::Class::of_io(&full), crate::error::Class::Unreachable);
    }

    #[test]
    fn a_bell_ends_a_wait_and_every_later_read() {
        let (reader, writer) = crate::sys::pipe::pipe(4096).unwrap();
        let bell = Bell::new().unwrap();
        let mut input = Input(File::from(reader)).until(&bell);
        rustix::io::write(&writer, b"some").unwrap();
        assert_eq!(input.read(&mut [0; 8]).unwrap(), 4);
        let ringing = std::thread::spawn(move || bell.ring());
        assert!(input.read(&mut [0; 8]).is_err());
        ringing.join().unwrap();
        rustix::io::write(&writer, b"more").unwrap();
        assert!(input.read(&mut [0; 8]).is_err());
    }

    #[test]
    fn output_passes_on_every_byte_of_a_pipe_that_is_full_again_and_again() {
        install().unwrap();
        let (reader, writer) = crate::sys::pipe::pipe(4096).unwrap();
        let sent: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
        let expected = sent.clone();
        let writing = std::thread::spawn(move || Output(std::fs::File::from(writer)).write_all(&sent));
        let mut got = Vec::new();
        Input(std::fs::File::from(reader)).read_to_end(&mut got).unwrap();
        writing.join().unwrap().unwrap();
        assert!(got == expected);
    }
}
