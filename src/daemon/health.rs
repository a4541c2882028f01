//! How a daemon is: whether jobs are called, and by the configuration that people think. Whether the backups are well is another question: `cowsnap check`'s.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::config::Config;

/// How it is.
#[derive(Debug, Clone)]
pub(super) struct Status {
    /// What it goes by.
    pub config: Arc<Config>,
    /// What is not as it should be.
    pub reasons: Vec<Reason>,
    /// It is about to end.
    pub is_stopping: bool,
}

/// Something that is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reason {
    /// For anybody.
    pub what: &'static str,
    /// For who may know: it may tell names, and lines of the configuration.
    pub details: String,
}

impl Status {
    /// For anybody, or with all of it.
    pub(super) fn object(&self, with_details: bool) -> Value {
        let told = |reason: &Reason| match with_details {
            true => format!("{}: {}", reason.what, reason.details),
            false => reason.what.to_owned(),
        };
        let reasons: Vec<_> = self.reasons.iter().map(told).collect();
        json!({ "ok": reasons.is_empty(), "reasons": reasons })
    }
}
