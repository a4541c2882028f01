//! What a job calls at which moment of its run.

use serde_json::Value;

use crate::Error;
use crate::cli::Context;
use crate::cli::doctor::with_causes;
use crate::cli::job::recorded;
use crate::config::{Hooks, Job};
use crate::exec::notify;
use crate::model::run::Failure;
use crate::quiesce;

/// A moment, and what is called then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// Nothing is stopped yet.
    BeforeSnapshot,
    /// What was stopped runs again.
    AfterSnapshot,
    /// All targets were tried.
    AfterReplication,
    /// The run is over, and something of it failed.
    OnFailure,
}

impl Moment {
    fn name(self) -> &'static str {
        match self {
            Self::BeforeSnapshot => "before_snapshot",
            Self::AfterSnapshot => "after_snapshot",
            Self::AfterReplication => "after_replication",
            Self::OnFailure => "on_failure",
        }
    }

    fn command(self, hooks: &Hooks) -> Option<&[String]> {
        let command = match self {
            Self::BeforeSnapshot => &hooks.before_snapshot,
            Self::AfterSnapshot => &hooks.after_snapshot,
            Self::AfterReplication => &hooks.after_replication,
            Self::OnFailure => &hooks.on_failure,
        };
        command.as_deref()
    }
}

/// Whether the job has something for that moment.
pub(super) fn has(moment: Moment, job: &Job) -> bool {
    job.hooks.as_ref().is_some_and(|hooks| moment.command(hooks).is_some())
}

/// Calls what the job has for that moment, and waits for its end; nothing if it has none. `taken` is what was said of the snapshots, and `failed` what failed so far.
///
/// # Errors
/// It ends with something else than 0, or takes too long.
pub(super) fn call(
    moment: Moment,
    job: &Job,
    taken: &Value,
    failed: &[(String, Error)],
    context: &Context,
) -> crate::Result<()> {
    let Some(hooks) = &job.hooks else { return Ok(()) };
    let Some(command) = moment.command(hooks) else { return Ok(()) };
    let environment = environment(moment, job, taken, recorded::summed(failed), context);
    // Who ends a run is told of it, too.
    let is_interrupted = moment != Moment::OnFailure;
    Ok(quiesce::call(moment.name(), command, &environment, hooks.within, is_interrupted)?)
}

/// Calls `on_failure` of what failed beside the runs of the job. That it fails, too, is warned of.
pub(super) fn call_beside(job: &Job, failure: Failure, context: &Context) {
    let Some(hooks) = &job.hooks else { return };
    let Some(command) = Moment::OnFailure.command(hooks) else { return };
    let environment = environment(Moment::OnFailure, job, &Value::Null, Some(failure), context);
    if let Err(error) = quiesce::call(Moment::OnFailure.name(), command, &environment, hooks.within, false) {
        context.warn(format!("job {}: {}", job.name, with_causes(&error.into())));
    }
}

fn environment(
    moment: Moment,
    job: &Job,
    taken: &Value,
    failure: Option<Failure>,
    context: &Context,
) -> Vec<(String, String)> {
    let result = if failure.is_some() { "failure" } else { "success" };
    let (class, message) = failure.map(|failure| (failure.class, failure.text)).unwrap_or_default();
    let mut all: Vec<(String, String)> = vec![
        ("COWSNAP_HOOK".into(), moment.name().into()),
        ("COWSNAP_JOB".into(), job.name.clone()),
        ("COWSNAP_HOST".into(), notify::host()),
        // It begins in another folder.
        (
            "COWSNAP_STATE_DIR".into(),
            std::path::absolute(context.state_dir())
                .map_or_else(|_| context.state_dir().display().to_string(), |dir| dir.display().to_string()),
        ),
        ("COWSNAP_RESULT".into(), result.into()),
        ("COWSNAP_CLASS".into(), class),
        ("COWSNAP_MESSAGE".into(), message),
    ];
    all.extend(numbered("COWSNAP_DATASET", job.datasets.iter().cloned()));
    let snapshots = taken["snapshots"].as_array().into_iter().flatten();
    let name = |one: &Value| Some(format!("{}@{}", one["dataset"].as_str()?, one["name"].as_str()?));
    all.extend(numbered("COWSNAP_SNAPSHOT", snapshots.filter_map(name)));
    // No environment holds a NUL, and who reads it by lines is not to find one that is none.
    all.iter_mut().for_each(|(_, value)| *value = value.replace(|c: char| c.is_control(), " "));
    all
}

/// `KEY`, `KEY_2`, `KEY_3`
fn numbered(key: &str, values: impl Iterator<Item = String>) -> impl Iterator<Item = (String, String)> {
    values.enumerate().map(move |(nth, value)| match nth {
        0 => (key.to_owned(), value),
        nth => (format!("{key}_{}", nth + 1), value),
    })
}
