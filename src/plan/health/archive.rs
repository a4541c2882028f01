//! What is known of an archive that a job pushes to.

use jiff::Timestamp;

use super::{About, Found, Limits, Pair, State};
use crate::model::run::Chain;

/// As it was written down, and what it answered if it was asked.
#[derive(Debug, Clone, Default)]
pub struct Archive {
    /// What bringing back what was put there last would take.
    pub chain: Option<Chain>,
    /// When the newest version was taken that was there when it was verified last and all was well.
    pub verified_up_to: Option<Timestamp>,
    /// Why it, or what was put there last, is there no more.
    pub gone: Option<String>,
}

impl Found<'_> {
    /// What bringing back takes that was put there last: a chain that never ends takes longer each day, and lets nothing go.
    pub(super) fn of_chain(&mut self, dataset: &str, to: &str, chain: Option<Chain>, limits: &Limits) {
        let Some(chain) = chain else { return };
        let takes = format!("bringing {dataset} back from {to} takes");
        let hint = "max_chain, or cowsnap archive push --full, begins a new one";
        let containers = past(limits.chain, chain.containers);
        if containers != State::Ok {
            self.add(containers, About::Chain, format!("{takes} {} containers: {hint}", chain.containers));
        }
        let bytes = past(limits.restore, chain.bytes);
        if bytes != State::Ok {
            self.add(bytes, About::Chain, format!("{takes} {} MiB: {hint}", chain.bytes >> 20));
        }
    }
}

fn past(limits: Pair<u64>, is: u64) -> State {
    match limits {
        Pair { crit: Some(most), .. } if is > most => State::Critical,
        Pair { warn: Some(most), .. } if is > most => State::Warning,
        _ => State::Ok,
    }
}
