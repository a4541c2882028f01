//! `cowsnap job run`

use jiff::{Timestamp, Zoned};
use serde_json::{Value, json};

use crate::cli::doctor::with_causes;
use crate::cli::snapshot::{self, JOB_LABEL};
use crate::cli::{Context, job::words, place, prune, replicate};
use crate::config::{Config, Job};
use crate::exec::job::{Locks, last_taken};
use crate::model::Target;
use crate::sys::interrupt;
use crate::{Error, Result};

/// Do what a job says: take its snapshot, bring its targets up to it, destroy what it does not keep
///
/// What follows on the snapshot is tried in any case; what failed of it makes the exit code 7.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// Which jobs; with --due all that have a schedule by default
    #[arg(value_name = "JOB", required_unless_present = "due")]
    jobs: Vec<String>,
    /// Only those that are due by their schedule; to be called every minute
    #[arg(long)]
    due: bool,
    /// Say what would be done
    #[arg(long)]
    dry_run: bool,
}

/// Runs the subcommand.
pub(super) fn run(args: &Run, config: &Config, context: &Context) -> Result<()> {
    let mut work = Work::default();
    for job in config.chosen(&args.jobs)? {
        if let Err(error) = interrupt::check() {
            work.failed.push((format!("job {}", job.name), Error::io("run", &job.name)(error)));
            break;
        }
        match args.due.then(|| due(job, context)).transpose() {
            Ok(Some(None)) => {}
            Ok(_) => work.job(job, args, context),
            Err(error) => work.failed.push((format!("job {}", job.name), error)),
        }
    }
    context.print(&json!({ "jobs": work.objects, "dry_run": args.dry_run }), &work.text)?;
    work.outcome()
}

/// The time that a run of `job` would be for, if one is due now.
fn due(job: &Job, context: &Context) -> Result<Option<Zoned>> {
    let Some(schedule) = &job.schedule else { return Ok(None) };
    let mut oldest = None;
    for text in &job.datasets {
        let dataset = place::existing(&Target::parse(text.as_ref())?, context)?;
        let Some(taken) = last_taken(&dataset, (JOB_LABEL, &job.name))? else {
            return Ok(schedule.due(None, Timestamp::now()));
        };
        oldest = oldest.into_iter().chain([taken]).min();
    }
    Ok(schedule.due(oldest, Timestamp::now()))
}

/// What jobs did.
#[derive(Default)]
struct Work {
    objects: Vec<Value>,
    text: String,
    n_done: usize,
    failed: Vec<(String, Error)>,
}

impl Work {
    fn job(&mut self, job: &Job, args: &Run, context: &Context) {
        if args.dry_run {
            return self.foresee(job, context);
        }
        let _locks = match Locks::take(context.state_dir(), &job.datasets) {
            Ok(locks) => locks,
            Err(error @ Error::Busy { .. }) if args.due => {
                context.notice(format!("job {} is skipped: {error}", job.name));
                return self.objects.push(json!({ "job": job.name, "skipped": error.to_string() }));
            }
            Err(error) => return self.failed.push((format!("job {}", job.name), error)),
        };
        // Another run may have done it since it was looked at.
        match args.due.then(|| due(job, context)).transpose() {
            Ok(Some(None)) => return,
            Ok(_) => {}
            Err(error) => return self.failed.push((format!("job {}", job.name), error)),
        }
        match snapshot::perform(snapshot::Args::of_job(job, false), context) {
            Ok((taken, text)) => {
                self.say(&text);
                self.n_done += 1;
                self.afterwards(job, taken, context);
            }
            Err(error) => self.failed.push((format!("job {}", job.name), error)),
        }
    }

    /// Brings targets up before anything goes: what is to be brought is there then.
    fn afterwards(&mut self, job: &Job, mut object: Value, context: &Context) {
        object["job"] = job.name.clone().into();
        let mut replicated = Vec::new();
        for replica in &job.targets {
            let done = interrupt::check().map_err(Error::io("replicate to", &replica.to));
            let done = done
                .and_then(|()| replicate::perform(replicate::Args::of_job(job, replica), context))
                .unwrap_or_else(|error| (json!({}), String::new(), Err(error)));
            let (value, text, outcome) = done;
            self.say(&text);
            replicated.extend(value["replicated"].as_array().cloned().unwrap_or_default());
            self.note(format!("job {}, {} to {}", job.name, replica.dataset, replica.to), outcome);
        }
        object["replicated"] = replicated.into();
        object["pruned"] = json!([]);
        if let Some(policy) = &job.retention {
            let done = interrupt::check().map_err(Error::io("prune", job.datasets.join(", ")));
            let done = done.map(|()| prune::of_job(job, policy, context));
            let (value, text, outcome) = done.unwrap_or_else(|error| (json!({}), String::new(), Err(error)));
            self.say(&text);
            object["pruned"] = value["datasets"].as_array().cloned().unwrap_or_default().into();
            self.note(format!("job {}, retention", job.name), outcome);
        }
        self.objects.push(object);
    }

    fn foresee(&mut self, job: &Job, context: &Context) {
        match snapshot::perform(snapshot::Args::of_job(job, true), context) {
            Ok((mut value, text)) => {
                self.say(&text);
                let then = words::afterwards(job);
                then.iter().for_each(|sentence| self.say(&format!("then {sentence}")));
                value["job"] = job.name.clone().into();
                value["then"] = then.into();
                self.objects.push(value);
                self.n_done += 1;
            }
            Err(error) => self.failed.push((format!("job {}", job.name), error)),
        }
    }

    fn say(&mut self, text: &str) {
        if !text.is_empty() {
            self.text += text.trim_end_matches('\n');
            self.text.push('\n');
        }
    }

    fn note(&mut self, subject: String, outcome: Result<()>) {
        match outcome {
            Ok(()) => self.n_done += 1,
            Err(error) => self.failed.push((subject, error)),
        }
    }

    /// One failure alone, where nothing was done, is that failure; else some was done and some not.
    fn outcome(mut self) -> Result<()> {
        match (self.n_done, self.failed.len()) {
            (_, 0) => Ok(()),
            (0, 1) => Err(self.failed.remove(0).1),
            (n_done, n) => Err(Error::Partial {
                op: "run jobs",
                failed: n,
                of: n_done + n,
                why: self
                    .failed
                    .iter()
                    .map(|(what, error)| format!("{what}: {}", with_causes(error)))
                    .collect::<Vec<_>>()
                    .join("; "),
                hint: self.failed.iter().find_map(|(_, error)| error.hint()),
            }),
        }
    }
}
