//! How a daemon is: whether jobs are called, and by the configuration that people think. Whether the backups are well is another question: `cowsnap check`'s.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::config::Config;
use crate::plan::metrics::{Family, Kind, exposition};

/// How it is.
#[derive(Debug, Clone)]
pub(super) struct Status {
    /// What it goes by.
    pub config: Arc<Config>,
    /// What is not as it should be.
    pub reasons: Vec<Reason>,
    /// Whether it goes by what people have written, and not by what was there before.
    pub is_current: bool,
    /// How often in a row the process of each job has failed.
    pub failed: BTreeMap<String, u32>,
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

    /// What only a daemon knows, as Prometheus reads it.
    pub(super) fn measured(&self) -> String {
        let n_failed = |name: &str| f64::from(self.failed.get(name).copied().unwrap_or(0));
        let jobs = self.config.jobs.iter();
        exposition(&[
            Family {
                name: "cowsnap_daemon_config_current",
                kind: Kind::Gauge,
                help: "Whether jobs are called by the configuration and the token that were to be taken up last.",
                samples: vec![(Vec::new(), f64::from(u8::from(self.is_current)))],
            },
            Family {
                name: "cowsnap_daemon_calls_failed",
                kind: Kind::Gauge,
                help: "How often in a row the process of a job has failed, or could not be begun.",
                samples: jobs
                    .map(|job| (vec![("job_name", job.name.clone())], n_failed(&job.name)))
                    .collect(),
            },
        ])
    }
}
