//! Waiting awake for the next request.
//!
//! Names are asked for one after the other, by one caller who goes on with each answer: where he has a processor of his own, waking up
//! the thread that serves takes longer than serving. So that thread looks for the next request for a moment before it sleeps, as long
//! as that is of use.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long the next request is looked for.
const MOMENT: Duration = Duration::from_micros(50);
/// What it costs not to find one, where finding one is worth 1.
const LOSS: i32 = 4;
/// How much can be saved up.
const MOST: i32 = 32;
/// For how many requests it is let be once all is lost.
const PAUSE: i32 = 64;

/// Whether one thread waits awake, and for what.
#[derive(Debug, Default)]
pub(super) struct Linger {
    device: OnceLock<OwnedFd>,
    /// Above zero: what was saved up. Below: for how many requests it is let be.
    luck: AtomicI32,
}

impl Linger {
    /// From now on, the thread that serves `device` lingers. It must be the only one.
    pub(super) fn begin(&self, device: OwnedFd) {
        self.luck.store(MOST, Ordering::Relaxed);
        let _ = self.device.set(device);
    }

    /// Lingers when the guard is dropped: after the answer.
    pub(super) fn after(&self) -> Lingering<'_> {
        Lingering(self)
    }

    fn look(&self) {
        let Some(device) = self.device.get() else { return };
        let luck = self.luck.load(Ordering::Relaxed);
        if luck < 0 {
            return self.luck.store(luck + 1, Ordering::Relaxed);
        }
        let luck = match is_asked(device) {
            true => (luck + 1).min(MOST),
            false if luck < LOSS => -PAUSE,
            false => luck - LOSS,
        };
        self.luck.store(luck, Ordering::Relaxed);
    }
}

/// Whether there is a request within the moment.
fn is_asked(device: &OwnedFd) -> bool {
    let began = Instant::now();
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    loop {
        let mut polled = [PollFd::new(device, PollFlags::IN)];
        // What can not be polled is not waited for.
        if poll(&mut polled, Some(&at_once)) != Ok(0) {
            return true;
        }
        if began.elapsed() > MOMENT {
            return false;
        }
    }
}

/// See [`Linger::after`].
pub(super) struct Lingering<'a>(&'a Linger);

impl Drop for Lingering<'_> {
    fn drop(&mut self) {
        self.0.look();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_let_be_where_nothing_comes_and_tried_again() {
        let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
        let linger = Linger::default();
        drop(linger.after());
        linger.begin(reader);
        let luck = || linger.luck.load(Ordering::Relaxed);
        assert_eq!(luck(), MOST);
        for _ in 0..=MOST / LOSS {
            drop(linger.after());
        }
        assert_eq!(luck(), -PAUSE);
        rustix::io::write(&writer, b"a request").expect("written");
        for _ in 0..PAUSE {
            drop(linger.after());
        }
        assert_eq!(luck(), 0);
        drop(linger.after());
        assert_eq!(luck(), 1);
    }
}
