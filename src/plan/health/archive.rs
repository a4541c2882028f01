//! What is known of an archive that a job pushes to.

use jiff::Timestamp;

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
