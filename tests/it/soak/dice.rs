//! Chance that can be had again.

use std::cell::Cell;

/// Numbers that a seed decides: splitmix64.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One of `0..end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.roll() % end.max(1)
    }

    /// So many times in a hundred.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn one_of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        let at = self.below(all.len() as u64) as usize;
        all.get(at)
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// How many operations: what `COWSNAP_SOAK` says, or so many.
pub fn operations(otherwise: u64) -> u64 {
    number("COWSNAP_SOAK").unwrap_or(otherwise)
}

/// Says which seed it is, at the start and if the test fails.
pub struct Said {
    test: &'static str,
    seed: u64,
    operations: u64,
    at: Cell<u64>,
}

impl Said {
    pub fn new(test: &'static str, operations: u64) -> Self {
        let seed = number("COWSNAP_SEED").unwrap_or(1);
        eprintln!("{test}: {operations} operations of seed {seed}");
        Self { test, seed, operations, at: Cell::new(0) }
    }

    pub fn dice(&self) -> Dice {
        Dice(self.seed)
    }

    /// That the operation of this number is about to be done.
    pub fn at(&self, nth: u64) {
        self.at.set(nth);
    }
}

impl Drop for Said {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { test, seed, operations, at } = self;
            let at = at.get();
            eprintln!(
                "{test} failed at operation {at}; again: COWSNAP_SEED={seed} COWSNAP_SOAK={operations}"
            );
        }
    }
}
