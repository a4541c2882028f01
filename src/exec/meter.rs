//! Counts what flows past, tells of it, and stops it after a signal.

use std::io::{self, Read};

use crate::exec::{Event, Observe};
use crate::sys::interrupt;

/// Progress is told each time that many bytes have passed.
const STEP: u64 = 1 << 20;

/// A reader that tells how much was read.
pub(super) struct Meter<'a, R> {
    inner: R,
    observe: &'a dyn Observe,
    bytes: u64,
    told: u64,
}

impl<'a, R> Meter<'a, R> {
    /// Begins to count.
    pub fn new(inner: R, observe: &'a dyn Observe) -> Self {
        Self { inner, observe, bytes: 0, told: 0 }
    }

    /// How many bytes have passed.
    pub fn passed(&self) -> u64 {
        self.bytes
    }

    /// What it reads from.
    pub fn inner(&self) -> &R {
        &self.inner
    }
}

impl<R: Read> Read for Meter<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        interrupt::check()?;
        let len = self.inner.read(buf)?;
        self.bytes += len as u64;
        if self.bytes - self.told >= STEP {
            self.told = self.bytes;
            self.observe.observe(Event::Progress { bytes: self.bytes });
        }
        Ok(len)
    }
}
