//! `cowsnap job run`

use std::time::Instant;

use jiff::{Timestamp, Zoned};
use serde_json::{Value, json};

use crate::cli::doctor::with_causes;
use crate::cli::job::quiesced::{self, Taken};
use crate::cli::job::recorded::{self, Recorder};
use crate::cli::snapshot::{self, JOB_LABEL};
use crate::cli::{Context, job::words, place, prune, replicate};
use crate::config::{Config, Job};
use crate::endpoint::Dataset;
use crate::exec::job::{Locks, last_taken};
use crate::model::Target;
use crate::model::run::{Op, Subject};
use crate::quiesce;
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
    if args.due && !args.dry_run {
        work.failed = quiesced::make_up(context);
    }
    for job in config.chosen(&args.jobs)? {
        if let Err(error) = interrupt::check() {
            work.failed.push((format!("job {}", job.name), Error::io("run", &job.name)(error)));
            break;
        }
        match args.due.then(|| due(job, context)).transpose() {
            Ok(Some(None)) => {}
            Ok(_) => work.job(job, args, context),
            Err(error) if args.dry_run => work.failed.push((format!("job {}", job.name), error)),
            Err(error) => work.not_begun(job, error, context),
        }
    }
    context.print(&json!({ "jobs": work.objects, "dry_run": args.dry_run }), &work.text)?;
    work.outcome(context)
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

/// What a job is at work on: its datasets, and those inside that it takes along.
pub(in crate::cli) fn datasets(job: &Job, context: &Context) -> Result<Vec<Dataset>> {
    let mut all = Vec::new();
    for text in &job.datasets {
        let dataset = place::existing(&Target::parse(text.as_ref())?, context)?;
        let inside = if job.recursive { dataset.all_inside()? } else { Vec::new() };
        all.extend([dataset].into_iter().chain(inside));
    }
    Ok(all)
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
        let locks = datasets(job, context).and_then(|all| Locks::take(context.state_dir(), &all));
        let _locks = match locks {
            Ok(locks) => locks,
            Err(error @ Error::Busy { .. }) if args.due => {
                return self.skip(job, &error.to_string(), context);
            }
            Err(error @ Error::Busy { .. }) => {
                recorded::skipped(job, &error.to_string(), context);
                return self.failed.push((format!("job {}", job.name), error));
            }
            Err(error) => return self.not_begun(job, error, context),
        };
        // Another run may have done it since it was looked at.
        match args.due.then(|| due(job, context)).transpose() {
            Ok(Some(None)) => return,
            Ok(_) => {}
            Err(error) => return self.not_begun(job, error, context),
        }
        match args.due.then(|| quiesced::rests_until(job, context)).transpose() {
            Ok(None | Some(None)) => {}
            Ok(Some(Some(time))) => {
                let why =
                    format!("its services were stopped for nothing last time; tried again after {time:.0}");
                return self.skip(job, &why, context);
            }
            Err(error) => return self.not_begun(job, error, context),
        }
        let n_failed = self.failed.len();
        let mut recorder = Recorder::begin(job, context);
        let is_run = self.all_of(job, args, &mut recorder, context);
        match is_run {
            true => recorder.end(&self.failed[n_failed..]),
            false => recorder.never_was(),
        }
    }

    /// Whether it was begun, and not left to another minute.
    fn all_of(&mut self, job: &Job, args: &Run, recorder: &mut Recorder<'_>, context: &Context) -> bool {
        let subject = || format!("job {}", job.name);
        let start = Instant::now();
        let taken = match &job.quiesce {
            Some(quiesce) => quiesced::take(job, quiesce, context),
            None => quiesced::flush(job, context)
                .and_then(|()| snapshot::perform(snapshot::Args::of_job(job, false), context))
                .map(|(object, text)| Taken { object, text, is_taken: true, failed: Vec::new() }),
        };
        match taken {
            Ok(Taken { object, text, is_taken, failed }) => {
                self.say(&text);
                if job.quiesce.is_some() {
                    recorder.note_quiesced(&object["quiesce"], start, &failed);
                }
                match failed.first() {
                    Some(error) if !is_taken => recorder.note_each(Op::Snapshot, start, Some(error)),
                    _ => recorder.note_taken(&object, start),
                }
                self.failed.extend(failed.into_iter().map(|error| (subject(), error)));
                if is_taken {
                    self.n_done += 1;
                    self.afterwards(job, object, recorder, context);
                } else {
                    self.objects.push(object);
                }
            }
            Err(Error::Quiesce(error)) if args.due && error.is_busy() => {
                self.skip(job, &error.to_string(), context);
                return false;
            }
            Err(error) => {
                if matches!(error, Error::Quiesce(_)) {
                    recorder.note(Subject::of_job(Op::Quiesce), start, Some(&error));
                }
                recorder.note_each(Op::Snapshot, start, Some(&error));
                self.failed.push((subject(), error));
            }
        }
        true
    }

    /// It failed before anything was done of it.
    fn not_begun(&mut self, job: &Job, error: Error, context: &Context) {
        recorded::not_begun(job, &error, context);
        self.failed.push((format!("job {}", job.name), error));
    }

    /// There is another minute.
    fn skip(&mut self, job: &Job, why: &str, context: &Context) {
        recorded::skipped(job, why, context);
        context.notice(format!("job {} is skipped: {why}", job.name));
        self.objects.push(json!({ "job": job.name, "skipped": why }));
    }

    /// Brings targets up before anything goes: what is to be brought is there then.
    fn afterwards(&mut self, job: &Job, mut object: Value, recorder: &mut Recorder<'_>, context: &Context) {
        object["job"] = job.name.clone().into();
        let mut replicated = Vec::new();
        for replica in &job.targets {
            let start = Instant::now();
            let done = interrupt::check().map_err(Error::io("replicate to", &replica.to));
            let done = done
                .and_then(|()| replicate::perform(replicate::Args::of_job(job, replica), context))
                .unwrap_or_else(|error| (json!({}), String::new(), Err(error)));
            let (value, text, outcome) = done;
            self.say(&text);
            let subject = Subject::to_target(&replica.dataset, &replica.to);
            recorder.note_target(subject, start, &value, outcome.as_ref().err());
            replicated.extend(value["replicated"].as_array().cloned().unwrap_or_default());
            self.note(format!("job {}, {} to {}", job.name, replica.dataset, replica.to), outcome);
        }
        object["replicated"] = replicated.into();
        object["pruned"] = json!([]);
        if let Some(policy) = &job.retention {
            let start = Instant::now();
            let done = interrupt::check().map_err(Error::io("prune", job.datasets.join(", ")));
            let done = done.map(|()| prune::of_job(job, policy, context));
            let (value, text, outcome) = done.unwrap_or_else(|error| (json!({}), String::new(), Err(error)));
            self.say(&text);
            recorder.note_each(Op::Prune, start, outcome.as_ref().err());
            object["pruned"] = value["datasets"].as_array().cloned().unwrap_or_default().into();
            self.note(format!("job {}, retention", job.name), outcome);
        }
        self.objects.push(object);
    }

    fn foresee(&mut self, job: &Job, context: &Context) {
        match snapshot::perform(snapshot::Args::of_job(job, true), context) {
            Ok((mut value, text)) => {
                if let Some(quiesce) = &job.quiesce {
                    let first = words::stops(quiesce);
                    self.say(&format!("first {first}"));
                    value["first"] = first.into();
                }
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

    /// A service that is down is what has to be known, whatever else failed. One failure alone, where nothing was done, is that failure;
    /// else some was done and some not.
    fn outcome(mut self, context: &Context) -> Result<()> {
        let is_down = |error: &Error| matches!(error, Error::Quiesce(quiesce::Error::NotStarted { .. }));
        if let Some(nth) = self.failed.iter().position(|(_, error)| is_down(error)) {
            let (_, down) = self.failed.remove(nth);
            self.failed
                .iter()
                .for_each(|(what, error)| context.warn(format!("{what}: {}", with_causes(error))));
            return Err(down);
        }
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
