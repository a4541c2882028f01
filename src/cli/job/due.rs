//! Whether a job is due now, and why.

use jiff::Timestamp;

use crate::cli::job::run;
use crate::cli::snapshot::JOB_LABEL;
use crate::cli::{Context, place};
use crate::config::{Config, Job};
use crate::exec::job::{last_taken, newest_taken};
use crate::exec::number;
use crate::exec::request::Requests;
use crate::model::Target;
use crate::plan::trigger::{self, Facts, Policy, Reason};
use crate::{Error, Result};

/// A run that is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Due {
    /// Why.
    why: trigger::Due,
    /// When the last one was.
    last: Option<Timestamp>,
}

impl Due {
    /// In words: `it was asked for`.
    pub(super) fn because(&self) -> String {
        self.why.to_string()
    }

    /// It is not to wait.
    pub(super) fn is_emergency(&self) -> bool {
        self.why.is_emergency
    }

    /// Whether it is due by more than the clock.
    pub(super) fn is_remarkable(&self) -> bool {
        self.why.reasons.iter().any(|reason| !matches!(reason, Reason::Time(_) | Reason::First))
    }
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// The run, if one is due.
    pub due: Option<Due>,
    /// What could not be found out.
    pub failed: Vec<Error>,
    /// Whether all was asked that can fail, and has answered.
    pub has_answered: bool,
}

/// Whether `job` is due now.
///
/// # Errors
/// Datasets or requests that can not be read.
pub(super) fn look(job: &Job, context: &Context) -> Result<Looked> {
    let requests = Requests::below(context.state_dir());
    let (is_open, policy) = (requests.is_open(&job.name)?, policy(job));
    if !is_open && policy.schedule.is_none() && policy.trigger.is_none() {
        return Ok(Looked::default());
    }
    if is_open {
        let why = trigger::Due { reasons: vec![Reason::Requested], is_emergency: false };
        return Ok(Looked { due: Some(Due { why, last: last(job, context)? }), ..Looked::default() });
    }
    let (last, now) = (last(job, context)?, Timestamp::now());
    let needs = policy.needs(last, now);
    let written = needs.written.map(|enough| written(job, enough, context));
    let source = job.trigger.as_ref().and_then(|trigger| trigger.number.as_ref()).filter(|_| needs.number);
    let number = source.map(number::ask);
    let mut failed = Vec::new();
    let is_asked = |is_configured: bool, is_asked: bool| is_asked || !is_configured;
    let has_number = job.trigger.as_ref().is_some_and(|trigger| trigger.number.is_some());
    let all = is_asked(has_number, number.is_some()) && is_asked(counts_bytes(job), written.is_some());
    let facts = Facts { written: known(written, &mut failed), number: known(number, &mut failed) };
    let due = policy.decide(last, now, &facts).map(|why| Due { why, last });
    let has_answered = all && failed.is_empty();
    Ok(Looked { due, failed, has_answered })
}

/// Whether what was written to it makes it due.
fn counts_bytes(job: &Job) -> bool {
    let Some(trigger) = &job.trigger else { return false };
    let emergency = trigger.emergency.iter().map(|emergency| &emergency.thresholds);
    emergency.chain([&trigger.thresholds]).any(|thresholds| thresholds.written.is_some())
}

/// What is still so of `before` now that nobody else is at work: another run may have done it.
///
/// # Errors
/// As [`look`].
pub(super) fn look_again(before: &Due, job: &Job, context: &Context) -> Result<Looked> {
    match last(job, context)? == before.last {
        true => Ok(Looked { due: Some(before.clone()), ..Looked::default() }),
        false => look(job, context),
    }
}

fn policy(job: &Job) -> Policy<'_> {
    Policy { schedule: job.schedule.as_ref(), trigger: job.trigger.as_ref() }
}

fn known<T>(found: Option<Result<T>>, failed: &mut Vec<Error>) -> Option<T> {
    match found? {
        Ok(found) => Some(found),
        Err(error) => {
            failed.push(error);
            None
        }
    }
}

/// When that dataset was last taken whose last time is longest ago; `None` if one never was.
fn last(job: &Job, context: &Context) -> Result<Option<Timestamp>> {
    let mut oldest = None;
    for text in &job.datasets {
        let dataset = place::existing(&Target::parse(text.as_ref())?, context)?;
        let Some(taken) = last_taken(&dataset, (JOB_LABEL, &job.name))? else { return Ok(None) };
        oldest = oldest.into_iter().chain([taken]).min();
    }
    Ok(oldest)
}

/// How many bytes were written to all datasets, each since its own last snapshot; no more than `enough` are counted.
fn written(job: &Job, enough: u64, context: &Context) -> Result<u64> {
    let mut sum = 0_u64;
    for dataset in run::datasets(job, context)? {
        let last = newest_taken(&dataset, (JOB_LABEL, &job.name))?;
        let Some(written) = dataset.written_since(last.as_ref(), enough - sum)? else {
            let what = format!("nobody can say how much was written to {dataset}, a plain directory");
            return Err(Error::Usage {
                what,
                hint: Some("cowsnap adopt makes a directory a dataset of which that is known".into()),
            });
        };
        sum = sum.saturating_add(written);
        if sum >= enough {
            break;
        }
    }
    Ok(sum)
}

/// Says of requests that no job is called so.
pub(super) fn warn_of_strangers(config: &Config, context: &Context) -> Result<()> {
    let requests = Requests::below(context.state_dir());
    for name in requests.names()?.into_iter().filter(|name| config.job(name).is_err()) {
        context.warn(format!("no job is called so: {} asks for nothing", requests.path(&name).display()));
    }
    Ok(())
}
