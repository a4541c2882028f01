//! `cowsnap job run`

use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cli::doctor::with_causes;
use crate::cli::job::due::{self, Due, Looked};
use crate::cli::job::hooks::{self, Moment};
use crate::cli::job::quiesced::{self, Taken};
use crate::cli::job::recorded::{self, Recorder, ToTell, beside};
use crate::cli::snapshot;
use crate::cli::{Context, archive, job::words, place, prune, replicate};
use crate::config::{self, Config, Job, Overlap};
use crate::endpoint::Dataset;
use crate::exec::job::Locks;
use crate::exec::request::Requests;
use crate::model::Target;
use crate::model::run::{Op, Subject};
use crate::plan::retain::Retention;
use crate::sys::interrupt;
use crate::{Error, Result};

/// Do what a job says: take its snapshot, bring its targets up to it, destroy what it does not keep
///
/// What follows on the snapshot is tried in any case; what failed of it makes the exit code 7.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// Which jobs; with --due all by default
    #[arg(value_name = "JOB", required_unless_present = "due")]
    jobs: Vec<String>,
    /// Only those that are due by schedule or trigger, or were asked for; to be called every minute
    #[arg(long)]
    due: bool,
    /// Say what would be done
    #[arg(long)]
    dry_run: bool,
}

/// Runs the subcommand.
pub(super) fn run(args: &Run, (config, path): (&Config, &Path), context: &Context) -> Result<()> {
    let mut work = Work { jobs: &config.jobs, config: path.into(), ..Work::default() };
    if args.due && !args.dry_run {
        (work.failed, work.to_tell) = quiesced::make_up(config, context);
    }
    if args.due && args.jobs.is_empty() {
        let looked = due::warn_of_strangers(config, context);
        work.failed.extend(looked.err().map(|error| ("requests".into(), error)));
    }
    let mut postponed = Vec::new();
    for job in config.chosen(&args.jobs)? {
        if !args.dry_run {
            work.to_tell.extend(beside::unheard(job, context));
        }
        work.tell(context);
        if work.is_interrupted(job) {
            break;
        }
        let due = match args.due.then(|| due::look(job, context)).transpose() {
            Ok(None) => None,
            Ok(Some(looked)) => match work.looked(looked, job, args, context) {
                Some(due) => Some(due),
                None => continue,
            },
            Err(error) if args.dry_run => {
                work.failed.push((format!("job {}", job.name), error));
                continue;
            }
            Err(error) => {
                work.unseen(job, Op::Due, vec![error], context);
                continue;
            }
        };
        if !work.job(job, due.as_ref(), args, Turn::First, context) {
            postponed.push((job, due));
        }
    }
    // Who waits keeps no other job from its time.
    for (job, due) in postponed {
        if work.is_interrupted(job) {
            break;
        }
        work.job(job, due.as_ref(), args, Turn::Last, context);
    }
    work.tell(context);
    work.all_told();
    context.print(&json!({ "jobs": work.objects, "dry_run": args.dry_run }), &work.text)?;
    work.outcome(context)
}

/// What a job is at work on: its datasets, and those inside that it takes along.
pub(super) fn datasets(job: &Job, context: &Context) -> Result<Vec<Dataset>> {
    let mut all = Vec::new();
    for text in &job.datasets {
        let dataset = place::existing(&Target::parse(text.as_ref())?, context)?;
        let inside = if job.recursive { dataset.all_inside()? } else { Vec::new() };
        all.extend([dataset].into_iter().chain(inside));
    }
    Ok(all)
}

/// How long its run waits for another one; `None` if it does not.
fn patience(job: &Job, due: Option<&Due>) -> Option<Duration> {
    match job.overlap {
        Overlap::Queue(limit) => Some(limit),
        Overlap::Skip => due.filter(|due| due.is_emergency()).map(|_| Duration::from_secs(60 * 60)),
    }
}

/// What is kept after its run.
fn retention<'a>(job: &'a Job, due: Option<&Due>) -> Option<&'a Retention> {
    let emergency = job.trigger.as_ref().and_then(|trigger| trigger.emergency.as_ref());
    let emergency = emergency.filter(|_| due.is_some_and(Due::is_emergency));
    emergency.and_then(|emergency| emergency.retention.as_ref()).or(job.retention.as_ref())
}

/// Whether something stands still that ran before.
fn is_down(error: &Error) -> bool {
    matches!(error, Error::Quiesce(error) if error.is_down())
}

/// Whether somebody else is at work with what is needed.
fn is_busy(error: &Error) -> bool {
    matches!(error, Error::Quiesce(error) if error.is_busy())
}

/// Which of two times a job is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Who would have to wait is passed over.
    First,
    /// Nothing else is left.
    Last,
}

/// What jobs did.
#[derive(Default)]
struct Work<'a> {
    /// All that are configured.
    jobs: &'a [Job],
    /// Where.
    config: PathBuf,
    objects: Vec<Value>,
    text: String,
    n_done: usize,
    failed: Vec<(String, Error)>,
    /// Of which jobs it was looked at what.
    looked: Vec<(String, Op)>,
    /// Of runs that are over; nobody is told with a lock in hand.
    to_tell: Vec<ToTell>,
    /// Who tells, while other jobs run.
    tellers: Vec<JoinHandle<()>>,
}

impl Work<'_> {
    /// Has those told who are to know of what is over, and waits for nobody: who does not answer keeps no other job from its time.
    fn tell(&mut self, context: &Context) {
        if self.to_tell.is_empty() {
            return;
        }
        let (to_tell, its) = (std::mem::take(&mut self.to_tell), context.clone());
        let (sender, receiver) = channel::<ToTell>();
        let tell = move || receiver.into_iter().for_each(|news| news.tell(&its));
        match Builder::new().name("tell".into()).spawn(tell) {
            Ok(teller) => {
                // It listens until there is no more.
                to_tell.into_iter().for_each(|news| drop(sender.send(news)));
                self.tellers.push(teller);
            }
            Err(_) => to_tell.into_iter().for_each(|news| news.tell(context)),
        }
    }

    /// Waits until all were told, or can not be.
    fn all_told(&mut self) {
        for teller in self.tellers.drain(..) {
            if let Err(panic) = teller.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }

    fn is_interrupted(&mut self, job: &Job) -> bool {
        let error = interrupt::check().err();
        let is_one = error.is_some();
        self.failed.extend(error.map(|e| (format!("job {}", job.name), Error::io("run", &job.name)(e))));
        is_one
    }

    /// The run that is due; what could not be found out of that is told.
    fn looked(&mut self, looked: Looked, job: &Job, args: &Run, context: &Context) -> Option<Due> {
        let Looked { due, failed, has_answered } = looked;
        if args.dry_run {
            self.failed.extend(failed.into_iter().map(|error| (format!("job {}", job.name), error)));
            return due;
        }
        self.seen(job, Op::Due, context);
        if !failed.is_empty() {
            self.unseen(job, Op::Trigger, failed, context);
        } else if has_answered {
            self.seen(job, Op::Trigger, context);
        }
        due
    }

    /// Whether that is the first time for this process: who is told of it now, has not heard of it yet when it is looked at again.
    fn is_first(&mut self, job: &Job, op: Op) -> bool {
        let looked = (job.name.clone(), op);
        let is_first = !self.looked.contains(&looked);
        self.looked.extend(is_first.then_some(looked));
        is_first
    }

    /// What may fail each minute does not.
    fn seen(&mut self, job: &Job, op: Op, context: &Context) {
        if self.is_first(job, op) {
            self.to_tell.extend(beside::well(job, op, context));
        }
    }

    /// Nobody can tell whether it is due, and that may be so each minute: it is told once.
    fn unseen(&mut self, job: &Job, op: Op, failed: Vec<Error>, context: &Context) {
        let n_failed = self.failed.len();
        self.failed.extend(failed.into_iter().map(|error| (format!("job {}", job.name), error)));
        let Some(failure) = recorded::summed(&self.failed[n_failed..]) else { return };
        if !self.is_first(job, op) {
            return;
        }
        let (to_tell, is_new) = beside::failed(&job.name, Some(job), op, &failure, None, context);
        self.to_tell.extend(to_tell);
        if is_new {
            self.call(Moment::OnFailure, job, &Value::Null, n_failed, context);
        }
    }

    /// Whether that was all; else it is to wait, when it is its turn again.
    fn job(&mut self, job: &Job, due: Option<&Due>, args: &Run, turn: Turn, context: &Context) -> bool {
        if args.dry_run {
            self.foresee(job, due, context);
            return true;
        }
        if job.quiesce.is_some() {
            // Nothing else of this process is at work while services are down; each of them has a limit of its own.
            self.all_told();
        }
        let limit = patience(job, due);
        let locks = datasets(job, context).and_then(|all| match limit.filter(|_| turn == Turn::Last) {
            Some(limit) => Locks::wait(context.state_dir(), &job.name, &all, limit),
            None => Locks::take(context.state_dir(), &all),
        });
        match locks {
            Ok(_locks) => self.undisturbed(job, due, args, context),
            Err(Error::Busy { .. }) if turn == Turn::First && limit.is_some() => return false,
            Err(error @ Error::Busy { .. }) if args.due => self.skip(job, &error.to_string(), context),
            Err(error @ Error::Busy { .. }) => {
                recorded::skipped(job, &error.to_string(), context);
                self.failed.push((format!("job {}", job.name), error));
            }
            Err(error) => {
                // What is to be done is not known; what is to run again is.
                if let Some(error) =
                    quiesced::recover_own(job, None, context).err().filter(|error| !is_busy(error))
                {
                    self.failed.push((format!("job {}", job.name), error));
                }
                self.not_begun(job, error, args, context);
            }
        }
        self.tell(context);
        true
    }

    /// With nobody else at work on its datasets.
    fn undisturbed(&mut self, job: &Job, due: Option<&Due>, args: &Run, context: &Context) {
        let due = match due.map(|due| due::look_again(due, job, context)).transpose() {
            Ok(None) => None,
            Ok(Some(looked)) => match self.looked(looked, job, args, context) {
                None => return,
                due => due,
            },
            Err(error) => return self.unseen(job, Op::Due, vec![error], context),
        };
        match args.due.then(|| quiesced::rests_until(job, context)).transpose() {
            Ok(None | Some(None)) => {}
            Ok(Some(Some(time))) => {
                let why =
                    format!("its services were stopped for nothing last time; tried again after {time:.0}");
                return self.skip(job, &why, context);
            }
            Err(error) => return self.not_begun(job, error, args, context),
        }
        if let Err(error) = Requests::below(context.state_dir()).take_aside(&job.name) {
            return self.not_begun(job, error, args, context);
        }
        match &due {
            Some(due) if due.is_emergency() => context.warn(format!("job {}: {}", job.name, due.because())),
            Some(due) if due.is_remarkable() => {
                context.notice(format!("job {} runs: {}", job.name, due.because()))
            }
            _ => {}
        }
        let (n_failed, n_told, n_done) = (self.failed.len(), self.objects.len(), self.n_done);
        // Whoever was waited for may have been killed.
        self.to_tell.extend(beside::unheard(job, context));
        let mut recorder = Recorder::begin(job, context);
        let is_run = self.all_of(job, due.as_ref(), args, &mut recorder, context);
        // Whoever only waits for what a run has left that failed has nothing to add to that, each minute.
        let only_waits =
            args.due && recorder.had_failed() && self.failed[n_failed..].iter().all(|(_, e)| is_busy(e));
        // What has no snapshot is due the next minute, too.
        let repeats = args.due && recorder.had_failed() && self.n_done == n_done;
        if is_run && !only_waits && recorded::is_to_call(job, &self.failed[n_failed..], repeats, context) {
            let taken = self.objects.get(n_told).cloned().unwrap_or_default();
            self.call(Moment::OnFailure, job, &taken, n_failed, context);
        }
        let failed = &self.failed[n_failed..];
        match is_run {
            true if only_waits && !failed.is_empty() && self.n_done == n_done => {
                self.to_tell.extend(recorder.waited(failed))
            }
            true => self.to_tell.extend(recorder.end(failed)),
            false => recorder.never_was(),
        }
    }

    /// Whether it was begun, and not left to another minute.
    fn all_of(
        &mut self,
        job: &Job,
        due: Option<&Due>,
        args: &Run,
        recorder: &mut Recorder<'_>,
        context: &Context,
    ) -> bool {
        let subject = || format!("job {}", job.name);
        let start = Instant::now();
        match self.taken(job, recorder, context) {
            Ok(Taken { mut object, text, is_taken, failed }) => {
                if let Some(due) = due {
                    object["because"] = due.because().into();
                }
                self.say(&text);
                if job.quiesce.is_some() {
                    recorder.note_quiesced(&object["quiesce"], start, &failed);
                }
                match failed.first() {
                    Some(error) if !is_taken => recorder.note_each(Op::Snapshot, start, Some(error)),
                    _ => recorder.note_taken(&object, start),
                }
                let n_failed = self.failed.len();
                self.failed.extend(failed.into_iter().map(|error| (subject(), error)));
                if is_taken {
                    // Who is called then may count on what was stopped.
                    if !self.failed[n_failed..].iter().any(|(_, error)| is_down(error)) {
                        self.call(Moment::AfterSnapshot, job, &object, n_failed, context);
                    }
                    self.n_done += 1;
                    let done = Requests::below(context.state_dir()).fulfil(&job.name);
                    self.failed.extend(done.err().map(|error| (subject(), error)));
                    self.afterwards(job, due, (object, n_failed), recorder, context);
                } else {
                    self.objects.push(object);
                }
            }
            Err(Error::Quiesce(error))
                if args.due && error.is_busy() && !quiesced::waits_too_long(job, context) =>
            {
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

    /// Its snapshot. What a run has left stopped is started before all else: whatever fails then, it runs.
    fn taken(&self, job: &Job, recorder: &mut Recorder<'_>, context: &Context) -> Result<Taken> {
        let began = recorder.began();
        let recovered = quiesced::recover_own(job, Some(began), context);
        if let Some(quiesce) = &job.quiesce {
            recovered?;
            let known = quiesced::discard_unconfirmed(job, context)?;
            let begins = (&mut || recorder.starts()) as &mut dyn FnMut();
            return quiesced::take(job, quiesce, known, (begins, began), &self.config, context);
        }
        // What nothing is called for in vain is no reason to have no snapshot.
        let failed = match recovered {
            Err(error) if hooks::has(Moment::BeforeSnapshot, job) => return Err(error),
            recovered => recovered.err().into_iter().collect(),
        };
        let known = quiesced::discard_unconfirmed(job, context)?;
        hooks::call(Moment::BeforeSnapshot, job, &Value::Null, &[], context)?;
        recorder.starts();
        let (object, text) = match quiesced::flush(job, context)? {
            Some(session) => quiesced::backed_up(job, session, known, self.jobs, context)?,
            None => snapshot::perform(snapshot::Args::of_job(job, false), context)?,
        };
        Ok(Taken { object, text, is_taken: true, failed })
    }

    /// Calls what the job has for that moment; what failed of the run begins at `n_failed`, and this, too, is a failure of it alone.
    fn call(&mut self, moment: Moment, job: &Job, taken: &Value, n_failed: usize, context: &Context) {
        let done = hooks::call(moment, job, taken, &self.failed[n_failed..], context);
        if moment == Moment::OnFailure && done.is_err() {
            recorded::was_not_called(job, context);
        }
        self.failed.extend(done.err().map(|error| (format!("job {}", job.name), error)));
    }

    /// It failed before anything was done of it.
    fn not_begun(&mut self, job: &Job, error: Error, args: &Run, context: &Context) {
        self.to_tell.extend(recorded::not_begun(job, &error, context));
        let n_failed = self.failed.len();
        self.failed.push((format!("job {}", job.name), error));
        if recorded::is_to_call(job, &self.failed[n_failed..], args.due, context) {
            self.call(Moment::OnFailure, job, &Value::Null, n_failed, context);
        }
    }

    /// There is another minute.
    fn skip(&mut self, job: &Job, why: &str, context: &Context) {
        recorded::skipped(job, why, context);
        context.notice(format!("job {} is skipped: {why}", job.name));
        self.objects.push(json!({ "job": job.name, "skipped": why }));
    }

    /// Brings targets up before anything goes: what is to be brought is there then. What failed of the run so far begins at `n_failed`.
    fn afterwards(
        &mut self,
        job: &Job,
        due: Option<&Due>,
        (mut object, n_failed): (Value, usize),
        recorder: &mut Recorder<'_>,
        context: &Context,
    ) {
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
        object["archived"] = self.archive(job, recorder, context).into();
        if !job.targets.is_empty() || !job.archives.is_empty() {
            self.call(Moment::AfterReplication, job, &object, n_failed, context);
        }
        object["pruned"] = json!([]);
        if let Some(policy) = retention(job, due) {
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

    /// Puts what was taken into archives, and destroys there what is not kept.
    fn archive(&mut self, job: &Job, recorder: &mut Recorder<'_>, context: &Context) -> Vec<Value> {
        let mut archived = Vec::new();
        for it in &job.archives {
            let start = Instant::now();
            let done = interrupt::check().map_err(Error::io("push to", &it.to));
            let done = done.and_then(|()| archive::push_of_job(job, it, context));
            let (value, text, outcome) = match done {
                Ok((value, text)) => (value, text, Ok(())),
                Err(error) => (json!({}), String::new(), Err(error)),
            };
            self.say(&text);
            let subject = Subject::to_target(&it.dataset, &it.to);
            recorder.note_archived(subject, start, &value, outcome.as_ref().err());
            let is_there = outcome.is_ok();
            archived.extend(Some(value).filter(|_| is_there));
            self.note(format!("job {}, {} to {}", job.name, it.dataset, it.to), outcome);
            if let Some(policy) = it.retention.as_ref().filter(|_| is_there) {
                let start = Instant::now();
                let done = interrupt::check().map_err(Error::io("prune", &it.to));
                let done = done.and_then(|()| archive::prune_of_job(job, it, policy, context));
                let subject = Subject::of_target(Op::Prune, &it.dataset, &it.to);
                recorder.note(subject, start, done.as_ref().err());
                if let Ok((_, text)) = &done {
                    self.say(text);
                }
                self.note(format!("job {}, retention of {}", job.name, it.to), done.map(drop));
            }
            if is_there {
                self.verify(job, it, context);
            }
        }
        archived
    }

    /// Reads of an archive what is due.
    fn verify(&mut self, job: &Job, it: &config::Archive, context: &Context) {
        let done = interrupt::check().map_err(Error::io("verify", &it.to));
        match done.and_then(|()| archive::verify_of_job(job, it, context)) {
            Ok(None) => {}
            Ok(Some((_, text))) => {
                self.say(&text);
                self.n_done += 1;
            }
            Err(error) => self.failed.push((format!("job {}, verify of {}", job.name, it.to), error)),
        }
    }

    fn foresee(&mut self, job: &Job, due: Option<&Due>, context: &Context) {
        let problems = super::absent::of_services(job);
        if !problems.is_empty() {
            self.failed.push((format!("job {}", job.name), config::Error::Wrong { problems }.into()));
            return;
        }
        match snapshot::perform(snapshot::Args::of_job(job, true), context) {
            Ok((mut value, text)) => {
                if let Some(due) = due {
                    value["because"] = due.because().into();
                }
                let first = words::before(job).into_iter().chain(job.quiesce.as_ref().map(words::stops));
                let first: Vec<_> = first.collect();
                first.iter().for_each(|sentence| self.say(&format!("first {sentence}")));
                if !first.is_empty() {
                    value["first"] = first.join("; then ").into();
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
