//! Whether a store keeps a promise that not all keep: of those who put an object only if its key is free, one does.

use std::sync::{Barrier, Mutex, PoisonError};

use super::{Bytes, Error, Put, Result, Store, remote};

/// How often some race for a key, and how many. Where the check and the write are two steps, most such races have two winners.
const ROUNDS: usize = 10;
const RACERS: u8 = 8;
/// How long what they put is: long enough that writing it takes a moment.
const LEN: usize = 64 << 10;
/// What the keys begin with that are put, and destroyed again.
const PREFIX: &str = "probe";

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probed {
    /// Of those who put an object only if its key is free, one did, each time.
    Conditional,
    /// The store can not be relied on for that.
    NotConditional {
        /// What it did instead.
        why: String,
    },
}

impl Store {
    /// Finds out whether [`Store::put_new`] can be relied on: puts an object twice, then lets several race for a key. Takes away what it put.
    ///
    /// # Errors
    /// What else goes wrong: a store that can not be written to is no store without conditions.
    pub fn probe(&self) -> Result<Probed> {
        let folder = format!("{PREFIX}/{:016x}", remote::random());
        let keys: Vec<String> = (0..=ROUNDS).map(|n| format!("{folder}/{n}")).collect();
        let probed = self.probe_twice(&keys[0]).and_then(|probed| match probed {
            Probed::Conditional => self.probe_races(&keys[1..]),
            found => Ok(found),
        });
        let cleaned = self.destroy_at_last(&keys);
        let probed = probed?;
        cleaned.map(|()| probed)
    }

    /// Puts an object where there is none, and once more.
    fn probe_twice(&self, key: &str) -> Result<Probed> {
        let not = |why: &str| Ok(Probed::NotConditional { why: why.into() });
        match self.put_new(key, Bytes::from_static(b"first")) {
            Ok(Put::Done) => {}
            Ok(Put::Taken) => return not("it calls a key taken that is free"),
            Err(Error::Refused { source, .. }) => {
                return not(&format!("it refuses to put only if the key is free: {source}"));
            }
            Err(error) => return Err(error),
        }
        match (self.put_new(key, Bytes::from_static(b"second"))?, self.get(key, 16)?.as_deref()) {
            (Put::Done, _) => {
                not("it puts an object over one that is there, though told not to (If-None-Match: *)")
            }
            (Put::Taken, Some(b"first")) => Ok(Probed::Conditional),
            (Put::Taken, Some(_)) => not("it says that a key is taken, and puts the object nevertheless"),
            (Put::Taken, None) => not("it says that a key is taken, and has no object there"),
        }
    }

    /// Lets several race for each key.
    fn probe_races(&self, keys: &[String]) -> Result<Probed> {
        for key in keys {
            let winners = self.probe_race(key)?;
            let there = self.get(key, LEN as u64)?.and_then(|bytes| bytes.first().copied());
            let why = match winners.as_slice() {
                [winner] if there == Some(*winner) => continue,
                [_] => "of several who put an object at once, one was told that it did, but another one's is there".into(),
                winners => format!("of {RACERS} who put an object at once, {} were told that they did", winners.len()),
            };
            return Ok(Probed::NotConditional { why });
        }
        Ok(Probed::Conditional)
    }

    /// Who won.
    fn probe_race(&self, key: &str) -> Result<Vec<u8>> {
        let (start, winners) = (Barrier::new(RACERS.into()), Mutex::new(Vec::new()));
        let put = &|racer: u8| -> Result<()> {
            let bytes = Bytes::from(vec![racer; LEN]);
            start.wait();
            if self.put_new(key, bytes)? == Put::Done {
                winners.lock().unwrap_or_else(PoisonError::into_inner).push(racer);
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let racers: Vec<_> = (0..RACERS).map(|racer| scope.spawn(move || put(racer))).collect();
            racers
                .into_iter()
                .try_for_each(|racer| racer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })?;
        Ok(winners.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}
