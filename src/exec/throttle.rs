//! Writes and reads no faster than it is allowed to.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::sys::interrupt;

/// How far ahead of its rate anybody may be when more is to move: what a pipe takes at once.
const BURST: Duration = Duration::from_millis(100);
/// Signals are looked for that often.
const NAP: Duration = Duration::from_millis(200);

/// So many bytes per second in the long run, for all that have a clone of it together. What one moves at once is not cut in time: pieces that a
/// stream is made of, of up to 1 MiB, may leave in a burst, for which a pause follows.
#[derive(Clone)]
pub(super) struct Pace(Option<Arc<Shared>>);

struct Shared {
    rate: u64,
    due: Mutex<Instant>, // When all that has moved would have moved at that rate.
}

impl Pace {
    /// Without a rate, as fast as it goes.
    pub fn new(rate: Option<u64>) -> Self {
        Self(rate.map(|rate| Arc::new(Shared { rate, due: Mutex::new(Instant::now()) })))
    }

    /// Waits until something may move: how many of `len` bytes.
    ///
    /// # Errors
    /// A signal.
    pub fn wait(&self, len: usize) -> io::Result<usize> {
        let Some(shared) = &self.0 else { return Ok(len) };
        loop {
            let ahead = shared.due().saturating_duration_since(Instant::now());
            if ahead <= BURST {
                return Ok(len.min((shared.rate as f64 * BURST.as_secs_f64()).max(1.0) as usize));
            }
            interrupt::check()?;
            std::thread::sleep((ahead - BURST).min(NAP));
        }
    }

    /// Takes note that so many bytes have moved.
    pub fn moved(&self, len: usize) {
        let Some(shared) = &self.0 else { return };
        let mut due = shared.due();
        // What was not used is lost: a pause earns no burst afterwards.
        *due = due.max(Instant::now()) + Duration::from_secs_f64(len as f64 / shared.rate as f64);
    }
}

impl Shared {
    fn due(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A writer that keeps its pace.
pub(super) struct Throttle<W> {
    out: W,
    pace: Pace,
}

impl<W: Write> Throttle<W> {
    /// Without a rate, as fast as `out` takes it.
    pub fn new(out: W, rate: Option<u64>) -> Self {
        Self { out, pace: Pace::new(rate) }
    }
}

impl<W: Write> Write for Throttle<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let most = self.pace.wait(buf.len())?;
        let written = self.out.write(&buf[..most])?;
        self.pace.moved(written);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A reader that keeps its pace.
pub(super) struct Paced<R> {
    inner: R,
    pace: Pace,
}

impl<R: Read> Paced<R> {
    /// Without a rate, as fast as it comes.
    pub fn new(inner: R, rate: Option<u64>) -> Self {
        Self { inner, pace: Pace::new(rate) }
    }
}

impl<R: Read> Read for Paced<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = self.pace.wait(buf.len())?;
        let len = self.inner.read(&mut buf[..most])?;
        self.pace.moved(len);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_share_a_pace_are_together_no_faster_than_it() {
        let pace = Pace::new(Some(200_000));
        let start = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let mut left = 20_000;
                    while left > 0 {
                        let len = pace.wait(left).unwrap();
                        pace.moved(len);
                        left -= len;
                    }
                });
            }
        });
        // 60,000 bytes at 200,000 a second are 0.3 s, of which the first burst of each is not waited for.
        assert!(start.elapsed() >= Duration::from_millis(99), "{:?}", start.elapsed());
        assert_eq!(Pace::new(None).wait(usize::MAX).unwrap(), usize::MAX);
    }

    #[test]
    fn it_is_never_faster_than_its_rate_and_loses_nothing() {
        let bytes: Vec<u8> = (0..60_000).map(|n| (n % 251) as u8).collect();
        let mut out = Vec::new();
        let start = Instant::now();
        Throttle::new(&mut out, Some(200_000)).write_all(&bytes).unwrap();
        // 60,000 bytes at 200,000 a second are 0.3 s, of which a burst of 0.1 s is not waited for, nor the last piece.
        assert!(start.elapsed() >= Duration::from_millis(99), "{:?}", start.elapsed());
        assert!(out == bytes);
        let start = Instant::now();
        let mut read = Vec::new();
        Paced::new(&bytes[..], Some(200_000)).read_to_end(&mut read).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(99) && read == bytes, "{:?}", start.elapsed());
        let mut all = Vec::new();
        Throttle::new(&mut all, None).write_all(&bytes).unwrap();
        assert!(all == bytes);
    }
}
