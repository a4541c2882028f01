//! Whether a store keeps what archives need: tried out, with objects that are taken away again.

use std::sync::Barrier;

use jiff::Timestamp;

use super::{Archive, Error, GRACE, Result, claim};
use crate::endpoint::store::{Bytes, Put, Store};
use crate::model::Guid;

/// Below which it is tried.
const PROBE: &str = "probe/";
/// How often, and by how many at once, a key is put that only one may have.
const ROUNDS: usize = 12;
const RACERS: u8 = 8;
/// The longest object that is put.
const MAX: u64 = 64;

/// What a store does with a key that may be put only if it is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conditions {
    /// One of those who ask gets it.
    Kept,
    /// It is put over what is there.
    Ignored,
    /// Of several who ask at once, more than one is told that he got it.
    Raced,
}

impl Conditions {
    /// What that means, for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "puts a key only if it is free",
            Self::Ignored => "puts objects over others, though it was asked not to (If-None-Match)",
            Self::Raced => "tells more than one at once that he has put the same key",
        }
    }
}

/// Tries it out.
///
/// # Errors
/// [`Error::Object`] if what was put is not there, or not listed, or not gone when it was destroyed; what the store says.
pub fn probe(store: &Store) -> Result<Conditions> {
    let prefix = format!("{PROBE}{}/", Guid(claim::random()?));
    let outcome = basics(store, &prefix).and_then(|()| conditions(store, &prefix));
    let left: Vec<String> = store.list(&prefix)?.into_iter().map(|object| object.key).collect();
    store.destroy(&left)?;
    let conditions = outcome?;
    match store.list(&prefix)?.first() {
        None => Ok(conditions),
        Some(object) => Err(flaw(store, &object.key, "is still there after it was destroyed")),
    }
}

impl Archive {
    /// What was left of trying the store out, longer ago than anybody does: `now` is the store's clock.
    ///
    /// # Errors
    /// What the store says.
    pub fn left_of_probes(&self, now: Timestamp) -> Result<Vec<String>> {
        let left = self.store().list(PROBE)?.into_iter();
        Ok(left
            .filter(|object| now.duration_since(object.modified) > GRACE)
            .map(|object| object.key)
            .collect())
    }
}

fn flaw(store: &Store, key: &str, what: &'static str) -> Error {
    Error::Object { url: store.url().to_string(), key: key.into(), what }
}

/// What is put is there, and listed.
fn basics(store: &Store, prefix: &str) -> Result<()> {
    let key = format!("{prefix}first-!_!.");
    store.put(&key, Bytes::from_static(b"1"))?;
    store.put(&key, Bytes::from_static(b"22"))?;
    if store.get(&key, MAX)?.as_deref() != Some(b"22") {
        return Err(flaw(store, &key, "is not what was put there"));
    }
    match store.list(prefix)?.iter().any(|object| object.key == key && object.len == 2) {
        true => Ok(()),
        false => Err(flaw(store, &key, "is there and not listed")),
    }
}

fn conditions(store: &Store, prefix: &str) -> Result<Conditions> {
    let key = format!("{prefix}twice");
    let first = store.put_new(&key, Bytes::from_static(b"first"))?;
    let second = store.put_new(&key, Bytes::from_static(b"second"))?;
    if first == Put::Taken {
        return Err(flaw(store, &key, "is said to be there, and was never put"));
    }
    if second == Put::Done || store.get(&key, MAX)?.as_deref() != Some(b"first") {
        return Ok(Conditions::Ignored);
    }
    for round in 0..ROUNDS {
        if !race(store, &format!("{prefix}race-{round}"))? {
            return Ok(Conditions::Raced);
        }
    }
    Ok(Conditions::Kept)
}

/// Whether one of several gets the key, and his bytes are there.
fn race(store: &Store, key: &str) -> Result<bool> {
    let barrier = Barrier::new(usize::from(RACERS));
    let outcomes: Vec<Result<Put>> = std::thread::scope(|scope| {
        let racer = |number: u8| {
            let barrier = &barrier;
            scope.spawn(move || {
                barrier.wait();
                Ok(store.put_new(key, Bytes::from(vec![number; 32]))?)
            })
        };
        let racers: Vec<_> = (0..RACERS).map(racer).collect();
        racers.into_iter().map(|racer| racer.join().expect("a racer does not panic")).collect()
    });
    let mut winners = Vec::new();
    for (number, outcome) in (0..).zip(outcomes) {
        if outcome? == Put::Done {
            winners.push(number);
        }
    }
    let there = store.get(key, MAX)?;
    Ok(matches!(winners[..], [winner] if there == Some(vec![winner; 32])))
}
