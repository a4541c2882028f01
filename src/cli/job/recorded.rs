//! What becomes of a job's runs is written down. What can not be written is warned of: no run fails of it.

use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;

use crate::cli::Context;
use crate::cli::doctor::with_causes;
use crate::cli::job::hooks::{self, Moment};
use crate::config::{self, Config, Job};
use crate::exec::archive::push::Pushed;
use crate::exec::notify;
use crate::exec::record::{AtWork, Records};
use crate::model::notify::{Channel, Message, News, Notify};
use crate::model::run::{Depth, Failed, Failure, Op, Outcome, Subject};
use crate::model::{JobRecord, StoreUrl, Target};
use crate::quiesce::Recovered;
use crate::{Class, Error};

pub(super) mod beside;

/// A run that is at work, and what it has done so far.
pub(super) struct Recorder<'a> {
    job: &'a Job,
    context: &'a Context,
    began: Timestamp,
    clock: Instant,
    outcomes: Vec<Outcome>,
    /// When its snapshots were taken.
    taken: Option<Timestamp>,
    /// The run before has no snapshot, and said so.
    had_failed: bool,
    _at_work: Option<AtWork>,
    starting: Option<notify::Starting>,
}

impl<'a> Recorder<'a> {
    /// From now on the run is at work; if it is killed, the next one sees that.
    pub(super) fn begin(job: &'a Job, context: &'a Context) -> Self {
        let records = Records::of(context.state_dir());
        let at_work = records.at_work(&job.name).unwrap_or_else(|error| {
            warn(&job.name, context, &error);
            None
        });
        let began = Timestamp::now();
        let mut had_failed = false;
        if at_work.is_some() {
            change(&job.name, context, |record| {
                record.begin(began, std::process::id());
                had_failed = record.has_no_snapshot();
            });
        }
        Self {
            job,
            context,
            began,
            clock: Instant::now(),
            outcomes: Vec::new(),
            taken: None,
            had_failed,
            _at_work: at_work,
            starting: None,
        }
    }

    /// Since when it is at work.
    pub(super) fn began(&self) -> Timestamp {
        self.began
    }

    /// Whether the run before has failed at its snapshot, and came so far as to say so.
    pub(super) fn had_failed(&self) -> bool {
        self.had_failed
    }

    /// It is certain that it is not left to another time: who is pinged hears of its start, once.
    pub(super) fn starts(&mut self) {
        if self.starting.is_none() {
            self.starting = self.job.notify.as_ref().and_then(notify::start);
        }
    }

    /// Something was done since `start`, or failed.
    pub(super) fn note(&mut self, subject: Subject, start: Instant, error: Option<&Error>) -> &mut Outcome {
        let outcome = Outcome::done(subject, Timestamp::now(), start.elapsed());
        self.outcomes.push(Outcome { failure: error.map(failure), ..outcome });
        self.outcomes.last_mut().expect("it was put there")
    }

    /// Its snapshots were taken; what was said of that is `told`.
    pub(super) fn note_taken(&mut self, told: &Value, start: Instant) {
        let taken = told["snapshots"].as_array().into_iter().flatten();
        self.taken = taken.filter_map(|snapshot| snapshot["created"].as_str()?.parse().ok()).min();
        self.note_each(Op::Snapshot, start, None);
    }

    /// The same was done for each dataset of the job.
    pub(super) fn note_each(&mut self, op: Op, start: Instant, error: Option<&Error>) {
        for dataset in &self.job.datasets {
            self.note(Subject::of_dataset(op, dataset), start, error);
        }
    }

    /// Services were stopped and started again; what was said of that is `told`.
    pub(super) fn note_quiesced(&mut self, told: &Value, start: Instant, failed: &[Error]) {
        let error = failed.iter().find(|error| matches!(error, Error::Quiesce(_)));
        let outcome = self.note(Subject::of_job(Op::Quiesce), start, error);
        outcome.downtime = told["downtime_ms"].as_u64().map(Duration::from_millis);
    }

    /// A dataset was brought to a target; what was said of that is `told`.
    pub(super) fn note_target(
        &mut self,
        subject: Subject,
        start: Instant,
        told: &Value,
        error: Option<&Error>,
    ) {
        let up_to = self.taken;
        let outcome = self.note(subject, start, error);
        let replicated = told["replicated"].as_array().into_iter().flatten();
        let moved = replicated.flat_map(|one| one["moved"].as_array().into_iter().flatten());
        outcome.bytes = moved.filter_map(|moved| moved["wire_bytes"].as_u64()).sum();
        outcome.up_to = up_to.filter(|_| error.is_none());
    }

    /// A dataset was put into an archive; what was said of that is `told`.
    pub(super) fn note_archived(
        &mut self,
        subject: Subject,
        start: Instant,
        told: &Value,
        error: Option<&Error>,
    ) {
        let outcome = self.note(subject, start, error);
        outcome.bytes = told["sent_bytes"].as_u64().unwrap_or_default();
        let up_to = told["created"].as_str().and_then(|time| time.parse().ok());
        outcome.up_to = up_to.filter(|_| error.is_none());
        outcome.chain = serde_json::from_value(told["restore"].clone()).ok().filter(|_| error.is_none());
        outcome.there = serde_json::from_value(told["there"].clone()).ok().filter(|_| error.is_none());
    }

    /// It is left to another time, and nothing was done.
    pub(super) fn never_was(self) {
        change(&self.job.name, self.context, |record| record.forget(self.began));
    }

    /// It could only wait for what the run before has left, which was counted: it was none itself. Who is to know hears of it as of a run that failed.
    pub(super) fn waited(self, failed: &[(String, Error)]) -> Option<ToTell> {
        let run = Outcome::done(Subject::of_job(Op::Run), Timestamp::now(), self.clock.elapsed());
        let run = Outcome { failure: summed(failed), ..run };
        let why = run.failure.as_ref().map_or_else(String::new, |failure| failure.text.clone());
        let began = self.began;
        told_of(self.job, began, self.starting, &run, self.context, |record| {
            record.forget(began);
            record.skip(run.at, &why);
        })
    }

    /// The run is over, and this failed of it. Who is to know is told when nobody has to wait for this run any more.
    pub(super) fn end(mut self, failed: &[(String, Error)]) -> Option<ToTell> {
        let outcome = Outcome::done(Subject::of_job(Op::Run), Timestamp::now(), self.clock.elapsed());
        let outcome = Outcome {
            failure: summed(failed),
            bytes: self.outcomes.iter().map(|outcome| outcome.bytes).sum(),
            downtime: self.outcomes.iter().find_map(|outcome| outcome.downtime),
            ..outcome
        };
        self.outcomes.push(Outcome { bytes: 0, downtime: None, ..outcome.clone() });
        ended(self.job, self.began, self.outcomes, self.starting, &outcome, self.context)
    }
}

/// What is to be told of a run that is over.
pub(super) struct ToTell {
    job: String,
    notify: Notify,
    starting: Option<notify::Starting>,
    message: Message,
    at: Timestamp,
    people: Vec<Channel>,
    pings: bool,
    about: About,
}

/// What is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    /// A run.
    Run,
    /// Something else that fails, or does no more.
    Op(Op),
    /// That services run again.
    Again,
    /// That a run went well, to who could not be told when it was over.
    Over,
    /// That a run was killed which has left nothing to be started.
    Killed,
    /// That services were started though their run goes on.
    Resumed,
}

impl ToTell {
    /// Tells it. Who has heard of a failure is written down, or the next one would be kept from who has not.
    pub(super) fn tell(self, context: &Context) {
        let Some(news) = beside::claimed(self, context) else { return };
        let Self { job, notify, starting, message, at, people, pings, about } = news;
        let heard = notify::tell(&notify, starting, &message, &people, pings);
        for why in &heard.failed {
            context.warn(format!("job {job}: {why}"));
        }
        if about != About::Run || message.news == News::Recovery {
            return beside::was_heard(&job, about, &message, &heard, at, context);
        }
        if !heard.told.is_empty() && message.news == News::Failure {
            change(&job, context, |record| {
                heard.told.iter().for_each(|&whom| record.was_told(whom, at, message.failure.as_ref()));
            });
        }
    }
}

/// A run was not begun, as something else is at work.
pub(super) fn skipped(job: &Job, why: &str, context: &Context) {
    change(&job.name, context, |record| record.skip(Timestamp::now(), why));
}

/// Services run again that a run had left stopped: they were down until now. `run` is when that one began which has started them, if it was a run of the job.
pub(super) fn recovered(done: &Recovered, run: Option<Timestamp>, context: &Context) {
    change(&done.job, context, |record| {
        record.recovered(Timestamp::now(), &done.services, done.down, run);
    });
}

/// What a run had left stopped is nobody's to start any more. Who was told that it is down is told of the next time.
pub(super) fn given_up(job: &str, context: &Context) {
    // Of a job that nobody knows there is to be no record.
    if Records::of(context.state_dir()).read(job).is_ok_and(|found| found.record.is_some()) {
        change(job, context, |record| {
            record.nothing_is_left();
            (record.told, record.mailed) = (None, None);
        });
    }
}

/// Whether the last run of that job did not come to its end.
pub(super) fn has_died(job: &str, context: &Context) -> bool {
    let found = Records::of(context.state_dir()).read(job).ok();
    found
        .is_some_and(|found| !found.is_at_work && found.record.is_some_and(|record| record.running.is_some()))
}

/// A restore was rehearsed, or could not be: for `took`, of the snapshot that was taken at `of`.
pub(in crate::cli) fn drilled(
    job: &Job,
    took: Duration,
    of: Option<Timestamp>,
    error: Option<&Error>,
    context: &Context,
) {
    let outcome = Outcome::done(Subject::of_job(Op::Drill), Timestamp::now(), took);
    let from = job.drill.as_ref().and_then(|drill| drill.from.clone());
    let outcome = Outcome { failure: error.map(failure), up_to: of, from, ..outcome };
    change(&job.name, context, |record| record.note(outcome));
}

/// What was compared, by whoever called that.
pub(in crate::cli) struct Verified<'a> {
    /// The configuration that may name the two.
    pub config: &'a Path,
    /// The dataset.
    pub source: &'a Target,
    /// The target.
    pub against: &'a Target,
    /// One snapshot alone: that it is well says nothing of the others.
    pub is_one: bool,
    /// How thoroughly.
    pub depth: Depth,
    /// How long it took.
    pub took: Duration,
}

/// A target was compared with its dataset: that is counted of each job that brings the one to the other.
pub(in crate::cli) fn verified(what: &Verified<'_>, error: Option<&Error>, context: &Context) {
    let is_found = error.is_some_and(|error| error.class() == Class::Corrupt);
    if what.is_one && !is_found {
        return;
    }
    let is = |text: &str, target: &Target| Target::parse(text.as_ref()).is_ok_and(|named| named == *target);
    // What says nothing of the datasets inside proves nothing to a job that takes them along.
    let counts = |job: &&Job| error.is_some() || what.depth.inside || !job.recursive;
    for job in jobs_of(what.config, context).iter().filter(counts) {
        let its = |it: &&config::Replica| is(&it.dataset, what.source) && is(&it.to, what.against);
        for it in job.targets.iter().filter(its) {
            let subject = Subject::of_target(Op::Verify, &it.dataset, &it.to);
            let outcome = Outcome::done(subject, Timestamp::now(), what.took);
            let outcome = Outcome { failure: error.map(failure), ..outcome };
            change(&job.name, context, |record| record.verified(what.depth, &outcome));
        }
    }
}

/// An archive was read, as far as `depth` says, for `took`: that is counted of each job that pushes to it.
pub(in crate::cli) fn archive_verified(
    config: &Path,
    url: &StoreUrl,
    (depth, read_up_to): (Depth, Option<Timestamp>),
    took: Duration,
    error: Option<&Error>,
    context: &Context,
) {
    let is_it = |text: &str| text.parse::<StoreUrl>().is_ok_and(|named| named == *url);
    for job in &jobs_of(config, context) {
        for it in job.archives.iter().filter(|it| is_it(&it.to)) {
            own_archive_verified(job, it, (depth, read_up_to), took, error, context);
        }
    }
}

/// All that are configured, for whoever did something that may be a job's; none if they can not be read, which is warned of.
fn jobs_of(config: &Path, context: &Context) -> Vec<Job> {
    match Config::load(config) {
        Ok(config) => config.jobs,
        Err(config::Error::None { .. }) => Vec::new(),
        Err(error) => {
            let why = with_causes(&error.into());
            context.warn(format!("what came of this is not written down for any job: {why}"));
            Vec::new()
        }
    }
}

/// A version of a dataset was put into an archive by hand, or was there, which was taken at `created`: each job that brings the one to the other knows what bringing it back takes.
pub(in crate::cli) fn archive_pushed(
    config: &Path,
    (dataset, url): (&Target, &StoreUrl),
    pushed: &Pushed,
    created: Timestamp,
    context: &Context,
) {
    let is = |it: &&config::Archive| {
        Target::parse(it.dataset.as_ref()).is_ok_and(|named| named == *dataset)
            && it.to.parse::<StoreUrl>().is_ok_and(|named| named == *url)
    };
    for job in &jobs_of(config, context) {
        for it in job.archives.iter().filter(is) {
            // What a job has never put there is none of its.
            let subject = Subject::to_target(&it.dataset, &it.to);
            if is_further(job, &subject, pushed, created, context) {
                change(&job.name, context, |record| {
                    record.was_pushed(&subject, created, pushed.restore, pushed.there.clone());
                });
            }
        }
    }
}

/// Whether what was taken at `created` is no older than what a job is known to have put there, and there is the same archive: another server may have one at the same address.
fn is_further(job: &Job, subject: &Subject, pushed: &Pushed, created: Timestamp, context: &Context) -> bool {
    let record = Records::of(context.state_dir()).read(&job.name).ok().and_then(|found| found.record);
    let Some(tally) = record.as_ref().and_then(|record| record.tally(subject)) else { return false };
    let archives = tally.there.as_ref().zip(pushed.there.as_ref());
    tally.up_to.is_some_and(|up_to| up_to <= created)
        && archives.is_none_or(|(known, found)| known.archive == found.archive)
}

/// When the version was taken that is known to have been put into an archive last.
pub(in crate::cli) fn archive_up_to(job: &Job, it: &config::Archive, context: &Context) -> Option<Timestamp> {
    let record = Records::of(context.state_dir()).read(&job.name).ok()?.record?;
    record.tally(&Subject::to_target(&it.dataset, &it.to))?.up_to
}

/// An archive of a job was read, as far as `depth` says, for `took`.
pub(in crate::cli) fn own_archive_verified(
    job: &Job,
    it: &config::Archive,
    (depth, read_up_to): (Depth, Option<Timestamp>),
    took: Duration,
    error: Option<&Error>,
    context: &Context,
) {
    let subject = Subject::of_target(Op::Verify, &it.dataset, &it.to);
    let outcome = Outcome::done(subject, Timestamp::now(), took);
    let outcome = Outcome { failure: error.map(failure), up_to: read_up_to, ..outcome };
    change(&job.name, context, |record| record.verified(depth, &outcome));
}

/// When an archive was verified last so that there was an answer, be it that something is damaged.
pub(in crate::cli) fn archive_verified_at(
    job: &Job,
    it: &config::Archive,
    context: &Context,
) -> Option<Timestamp> {
    let record = Records::of(context.state_dir()).read(&job.name).ok()?.record?;
    let tallies = [Op::Verify, Op::VerifyContent]
        .map(|op| record.tally(&Subject::of_target(op, &it.dataset, &it.to)).cloned());
    let answered = tallies.into_iter().flatten().flat_map(|tally| {
        let found = tally.last_failure.filter(Failed::is_corrupt).map(|failed| failed.at);
        [tally.last_success, found]
    });
    answered.flatten().max()
}

/// Whether `on_failure` is to be called of what failed. One that `repeats` the run of the minute before calls it when something has changed, and once a day.
pub(super) fn is_to_call(job: &Job, failed: &[(String, Error)], repeats: bool, context: &Context) -> bool {
    let Some(failure) = summed(failed).filter(|_| hooks::has(Moment::OnFailure, job)) else { return false };
    let mut is_to_call = true;
    change(&job.name, context, |record| {
        is_to_call = record.is_to_call(Timestamp::now(), &failure, repeats);
    });
    is_to_call
}

/// That hook was called, and failed.
pub(super) fn was_not_called(job: &Job, context: &Context) {
    change(&job.name, context, JobRecord::was_not_called);
}

/// A run could not be begun.
pub(super) fn not_begun(job: &Job, error: &Error, context: &Context) -> Option<ToTell> {
    let now = Timestamp::now();
    let outcome = Outcome::done(Subject::of_job(Op::Run), now, Duration::ZERO);
    let outcome = Outcome { failure: Some(failure(error)), ..outcome };
    ended(job, now, vec![outcome.clone()], None, &outcome, context)
}

/// Writes down what a run came to, and answers what is to be told of it.
fn ended(
    job: &Job,
    began: Timestamp,
    outcomes: Vec<Outcome>,
    starting: Option<notify::Starting>,
    run: &Outcome,
    context: &Context,
) -> Option<ToTell> {
    told_of(job, began, starting, run, context, |record| {
        record.end(began, outcomes, |subject| is_configured(job, subject));
    })
}

/// Writes that down, and answers what is to be told.
fn told_of(
    job: &Job,
    began: Timestamp,
    starting: Option<notify::Starting>,
    run: &Outcome,
    context: &Context,
    write: impl FnOnce(&mut JobRecord),
) -> Option<ToTell> {
    let (mut before, mut people) = (None, Channel::ALL.to_vec());
    change(&job.name, context, |record| {
        before = record.last_run.as_ref().and_then(|last| last.failure.clone());
        write(record);
        people.retain(|&whom| record.is_news(whom, run.at, run.failure.as_ref()));
        if run.failure.is_none() {
            Channel::ALL.into_iter().for_each(|whom| record.was_told(whom, run.at, None));
            record.has_no_ping_left();
        }
        match (&run.failure, &before) {
            (Some(_), _) => record.over = None,
            (None, Some(why)) => {
                record.is_well_again(run.at, why.clone(), beside::people(job, News::Recovery));
            }
            (None, None) => {}
        }
    });
    let notify = job.notify.clone()?;
    let news = match (&run.failure, &before) {
        (Some(_), _) => News::Failure,
        (None, Some(_)) => News::Recovery,
        (None, None) => News::Success,
    };
    let is_wanted = is_wanted(&notify, news);
    let message = Message {
        job: job.name.clone(),
        host: notify::host(),
        news,
        failure: run.failure.clone().or(before),
        began: format!("{began:.0}"),
        ended: format!("{:.0}", run.at),
        seconds: run.took.as_secs_f64(),
        bytes: run.bytes,
        downtime_ms: run.downtime.map(milliseconds),
        max_downtime_ms: job.quiesce.as_ref().and_then(|quiesce| quiesce.max_downtime).map(milliseconds),
        what: None,
    };
    people.retain(|_| is_wanted);
    let about = About::Run;
    Some(ToTell { job: job.name.clone(), notify, starting, message, at: run.at, people, pings: true, about })
}

/// What is well again is well.
fn is_wanted(notify: &Notify, news: News) -> bool {
    notify.on.contains(&news) || news == News::Recovery && notify.on.contains(&News::Success)
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Changes what is written down of a job; whether that could be.
fn change(job: &str, context: &Context, change: impl FnOnce(&mut JobRecord)) -> bool {
    match Records::of(context.state_dir()).change(job, Timestamp::now(), change) {
        Ok(None) => true,
        Ok(Some(damage)) => {
            context.warn(format!("job {job}: {damage}"));
            true
        }
        Err(error) => {
            warn(job, context, &error);
            false
        }
    }
}

fn warn(job: &str, context: &Context, error: &Error) {
    let why = with_causes(error);
    context.warn(format!("job {job}: what becomes of this run is not written down: {why}"));
}

fn is_configured(job: &Job, subject: &Subject) -> bool {
    let has = |dataset: &Option<String>| dataset.as_ref().is_some_and(|name| job.datasets.contains(name));
    let is_of = |dataset: &String, target: &String| {
        subject.dataset.as_ref() == Some(dataset) && subject.target.as_ref() == Some(target)
    };
    match subject.op {
        Op::Run => true,
        Op::Quiesce => job.quiesce.is_some(),
        Op::Drill => job.drill.is_some(),
        // A job that stops nothing any more may have left something stopped.
        Op::Recover => true,
        Op::Due => job.schedule.is_some() || job.trigger.is_some(),
        Op::Trigger => job.trigger.is_some(),
        Op::Snapshot => has(&subject.dataset),
        Op::Prune => match &subject.target {
            None => has(&subject.dataset) && job.retention.is_some(),
            Some(_) => job.archives.iter().any(|it| it.retention.is_some() && is_of(&it.dataset, &it.to)),
        },
        Op::Replicate | Op::Verify | Op::VerifyContent => {
            job.targets.iter().any(|target| is_of(&target.dataset, &target.to))
                || job.archives.iter().any(|archive| is_of(&archive.dataset, &archive.to))
        }
    }
}

pub(super) fn failure(error: &Error) -> Failure {
    Failure::new(error.class().name(), &with_causes(error))
}

/// One failure alone is that failure; several are partial.
pub(super) fn summed(failed: &[(String, Error)]) -> Option<Failure> {
    let text = |(what, error): &(String, Error)| format!("{what}: {}", with_causes(error));
    match failed {
        [] => None,
        [one] => Some(Failure::new(one.1.class().name(), &text(one))),
        all => {
            let texts: Vec<_> = all.iter().map(text).collect();
            Some(Failure::new(crate::Class::Partial.name(), &texts.join("; ")))
        }
    }
}
