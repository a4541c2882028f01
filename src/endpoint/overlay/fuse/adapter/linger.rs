//! Waiting awake for the next request.
//!
//! Names are asked for one after the other, by one caller who goes on with each answer: where he has a processor of his own, waking up
//! the thread that serves takes longer than serving. So that thread looks for the next request for a moment before it sleeps, as long
//! as that is of use.

use std::time::{Duration, Instant};

/// How long the next request is looked for.
const MOMENT: Duration = Duration::from_micros(50);
/// What it costs not to find one, where finding one is worth 1.
const LOSS: i32 = 4;
/// How much can be saved up.
const MOST: i32 = 32;
/// For how many requests it is let be once all is lost.
const PAUSE: i32 = 64;

/// Whether the one thread that serves waits awake.
#[derive(Debug)]
pub(super) struct Linger {
    /// Above zero: what was saved up. Below: for how many requests it is let be.
    luck: i32,
}

impl Linger {
    pub(super) fn new() -> Self {
        Self { luck: MOST }
    }

    /// What `look` finds within the moment, if that was of use lately.
    pub(super) fn find<T, E>(
        &mut self,
        mut look: impl FnMut() -> Result<Option<T>, E>,
    ) -> Result<Option<T>, E> {
        if self.luck < 0 {
            self.luck += 1;
            return Ok(None);
        }
        let began = Instant::now();
        let found = loop {
            match look()? {
                // Who asks may be waiting for this very processor.
                None if began.elapsed() <= MOMENT => std::thread::yield_now(),
                found => break found,
            }
        };
        self.luck = match found {
            Some(_) => (self.luck + 1).min(MOST),
            None if self.luck < LOSS => -PAUSE,
            None => self.luck - LOSS,
        };
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_let_be_where_nothing_comes_and_tried_again() {
        let mut linger = Linger::new();
        let nothing = || Ok::<Option<()>, ()>(None);
        for _ in 0..=MOST / LOSS {
            assert_eq!(linger.find(nothing), Ok(None));
        }
        assert_eq!(linger.luck, -PAUSE);
        for _ in 0..PAUSE {
            assert_eq!(linger.find(|| Ok::<_, ()>(Some(()))), Ok(None), "it looked");
        }
        assert_eq!(linger.find(|| Ok::<_, ()>(Some(()))), Ok(Some(())));
        assert_eq!(linger.luck, 1);
        assert_eq!(linger.find(|| Err::<Option<()>, _>("broken")), Err("broken"));
    }
}
