//! What went wrong with some of several things of which each is tried.

use crate::cli::doctor::with_causes;
use crate::{Error, Result};

/// Which failed, and how.
#[derive(Default)]
pub(in crate::cli) struct Failures(Vec<(String, Error)>);

impl Failures {
    pub(in crate::cli) fn add(&mut self, name: impl ToString, error: impl Into<Error>) {
        self.0.push((name.to_string(), error.into()));
    }

    pub(in crate::cli) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The error itself if there was one thing to do; else one that says how many of `n` failed.
    pub(in crate::cli) fn into_result(mut self, op: &'static str, n: usize) -> Result<()> {
        match self.0.len() {
            1 if n == 1 => Err(self.0.remove(0).1),
            _ => self.into_partial(op, n),
        }
    }

    /// The error that says how many of `n` failed.
    pub(in crate::cli) fn into_partial(self, op: &'static str, n: usize) -> Result<()> {
        match self.0.len() {
            0 => Ok(()),
            failed => {
                let hint = self.0.iter().find_map(|(_, error)| error.hint());
                let why = self.0.iter().map(|(name, error)| format!("{name}: {}", with_causes(error)));
                let why = why.collect::<Vec<_>>().join("; ");
                Err(Error::Partial { op, failed, of: n, why, hint })
            }
        }
    }
}
