//! Writes no faster than it is allowed to.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use crate::sys::interrupt;

/// A writer that keeps below so many bytes per second, over any second or longer.
pub(super) struct Throttle<W> {
    out: W,
    rate: Option<u64>,
    due: Instant, // When all that was written would have been written at that rate.
}

/// How far ahead of its rate a writer may be: what a pipe takes at once.
const BURST: Duration = Duration::from_millis(100);
/// Signals are looked for that often.
const NAP: Duration = Duration::from_millis(200);

impl<W: Write> Throttle<W> {
    /// Without a rate, as fast as `out` takes it.
    pub fn new(out: W, rate: Option<u64>) -> Self {
        Self { out, rate, due: Instant::now() }
    }

    fn wait(&self) -> io::Result<()> {
        loop {
            let ahead = self.due.saturating_duration_since(Instant::now());
            if ahead <= BURST {
                return Ok(());
            }
            interrupt::check()?;
            std::thread::sleep((ahead - BURST).min(NAP));
        }
    }
}

impl<W: Write> Write for Throttle<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let Some(rate) = self.rate else { return self.out.write(buf) };
        self.wait()?;
        let most = (rate as f64 * BURST.as_secs_f64()).max(1.0) as usize;
        let written = self.out.write(&buf[..buf.len().min(most)])?;
        let took = Duration::from_secs_f64(written as f64 / rate as f64);
        // What was not used is lost: a pause earns no burst afterwards.
        self.due = self.due.max(Instant::now()) + took;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_never_faster_than_its_rate_and_loses_nothing() {
        let bytes: Vec<u8> = (0..60_000).map(|n| (n % 251) as u8).collect();
        let mut out = Vec::new();
        let start = Instant::now();
        Throttle::new(&mut out, Some(200_000)).write_all(&bytes).unwrap();
        // 60,000 bytes at 200,000 a second are 0.3 s, of which a burst of 0.1 s is not waited for, nor the last piece.
        assert!(start.elapsed() >= Duration::from_millis(99), "{:?}", start.elapsed());
        assert!(out == bytes);
        let mut all = Vec::new();
        Throttle::new(&mut all, None).write_all(&bytes).unwrap();
        assert!(all == bytes);
    }
}
