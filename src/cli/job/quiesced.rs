//! A job's snapshot while its services are stopped, `cowsnap job recover`, and the guard.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::thread::Builder;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::cli::doctor::with_causes;
use crate::cli::facts::within;
use crate::cli::job::hooks::{self, Moment};
use crate::cli::job::recorded::{self, ToTell, beside};
use crate::cli::job::run;
use crate::cli::snapshot::JOB_LABEL;
use crate::cli::{Context, place, snapshot};
use crate::config::{self, Config, Job};
use crate::endpoint::{Dataset, Details, History as _, Prunable};
use crate::model::name::UNCONFIRMED;
use crate::model::run::Op;
use crate::model::{Quiesce, SnapshotName, Target};
use crate::plan::quiesce::Step;
use crate::quiesce::{
    self, Acts as _, By, Finished, Forgotten, Ground, Leases, MadeUp, Recovered, Resumed, Session,
};
use crate::{Error, Result};

/// What came of a job's snapshot.
pub(super) struct Taken {
    /// Of the snapshot, with what was stopped; what was stopped alone if there is none.
    pub object: Value,
    /// To be printed.
    pub text: String,
    /// Whether there is a snapshot.
    pub is_taken: bool,
    /// What failed.
    pub failed: Vec<Error>,
}

/// Takes it, with nothing of `quiesce` running, under a name that none of those `known` has. `begins` is called once nobody else is at work on its services.
pub(super) fn take(
    job: &Job,
    quiesce: &Quiesce,
    known: BTreeSet<SnapshotName>,
    (begins, began): (&mut dyn FnMut(), Timestamp),
    config: &Path,
    context: &Context,
) -> Result<Taken> {
    let roots = roots(job, context)?;
    let state_dir = context.state_dir();
    let ground =
        Ground { state_dir, job: &job.name, quiesce, roots: &roots, program: None, config: Some(config) };
    let done: Finished<_, Error> =
        quiesce::quiesced(ground, Snapshots { job, known, began: Some(began), context }, &mut |step| {
            tracing::info!(?step, job = job.name);
            if step == Step::Look {
                begins();
            }
        })?;
    let mut told = told(quiesce, &done);
    if done.n_unasked > 0 {
        context.notice(format!(
            "job {}: whether {} files are open for writing was asked of the kernel before the stop alone, for want of time; /proc was looked through",
            job.name, done.n_unasked
        ));
    }
    let Finished { snapshot, running, not_started, afterwards, downtime, .. } = done;
    let (mut object, mut text, mut failed) = match snapshot {
        Ok((object, text)) => (object, text, Vec::new()),
        Err(error) => (json!({ "job": job.name }), String::new(), vec![where_it_is(error, job, quiesce)]),
    };
    let is_taken = failed.is_empty();
    told["not_started"] = not_started.iter().map(ToString::to_string).collect();
    for error in not_started {
        match error {
            // Its guard is there for it, and what it was late for has failed already.
            Error::Quiesce(quiesce::Error::StillStopping { .. }) if !is_taken => {
                context.warn(format!("job {}: {error}", job.name))
            }
            error => failed.push(error),
        }
    }
    failed.extend(afterwards);
    object["quiesce"] = told;
    for (_, service) in
        quiesce.services.iter().enumerate().filter(|(nth, _)| is_taken && !running.contains(nth))
    {
        text += &format!("\n{service} was down, and stays down");
    }
    if let Some(downtime) = downtime {
        let what = match quiesce.goes_on() {
            true if quiesce.frozen().is_empty() => "was told for",
            true => "was frozen for",
            false => "stopped for",
        };
        text += &format!("\n{} {what} {} ms", names(quiesce, &running).join(", "), downtime.as_millis());
        if let Some(max) = quiesce.max_downtime.filter(|&max| downtime > max) {
            context
                .warn(format!("job {}: stopped for {downtime:.1?}, and max_downtime is {max:?}", job.name));
        }
    }
    Ok(Taken { object, text: text.trim_start_matches('\n').into(), is_taken, failed })
}

/// What is wrong with a service, with its place in the configuration.
fn where_it_is(error: Error, job: &Job, quiesce: &Quiesce) -> Error {
    let (Error::Quiesce(wrong), services) = (&error, quiesce.services.iter()) else { return error };
    let problem = match wrong {
        quiesce::Error::NoProgram { service, .. } | quiesce::Error::NotCallable { service, .. } => services
            .enumerate()
            .find(|(_, one)| one.to_string() == *service)
            .and_then(|(nth, _)| super::absent::placed(job, nth, wrong)),
        _ => None,
    };
    problem.map_or(error, |problem| config::Error::Wrong { problems: vec![problem] }.into())
}

/// Whether the guard of the job waits for longer than a service may take to stop: that is not over in another minute.
pub(super) fn waits_too_long(job: &Job, context: &Context) -> bool {
    let limit = job.quiesce.as_ref().map_or(PATIENCE, |quiesce| quiesce.stop_within);
    let left = quiesce::left(context.state_dir()).unwrap_or_default();
    left.iter().filter(|left| left.job == job.name && left.by == By::Guard).any(|left| {
        let waits = left.since.and_then(|since| since.elapsed().ok());
        waits.is_some_and(|waits| waits > limit)
    })
}

/// How long services may take to stop of a job that has none any more.
const PATIENCE: Duration = Duration::from_secs(600);

/// Starts and thaws what a run has left, before anything is done that may fail, or take its time. `run` is when this one began, if it did.
pub(super) fn recover_own(job: &Job, run: Option<Timestamp>, context: &Context) -> Result<()> {
    if !Leases::there(context.state_dir()).path(&job.name).exists() {
        return Ok(());
    }
    if let Some(done) = quiesce::recover(context.state_dir(), &job.name)? {
        recorded::recovered(&done, run, context);
        context.warn(format!("a run of job {} has died: {} runs again", job.name, done.services.join(", ")));
    }
    Ok(())
}

/// Has a database write down what it has in memory, where the job says so; or be in backup mode until the session is ended.
pub(super) fn flush(job: &Job, context: &Context) -> Result<Option<Session>> {
    match &job.flush {
        Some(flush) => Ok(quiesce::flush(flush, &roots(job, context)?)?),
        None => Ok(None),
    }
}

/// Takes the snapshot of a database that is in backup mode. It counts once what a restore of it needs is stored.
pub(super) fn backed_up(
    job: &Job,
    session: Session,
    known: BTreeSet<SnapshotName>,
    jobs: &[Job],
    context: &Context,
) -> Result<(Value, String)> {
    let kept = context.state_dir().join("backups").join(&job.name);
    forget_backups(&kept, jobs, context)?;
    let mut acts = Snapshots { job, known, began: None, context };
    let mut taken = acts.take()?;
    let guid = taken.0["snapshots"][0]["guid"].as_str().unwrap_or_default().to_owned();
    let into = kept.join(&guid);
    let stored = note_parts(&taken.0, &into)
        .and_then(|()| session.end(&into, context.state_dir()).map_err(Error::from));
    if let Err(error) = stored {
        let _ = std::fs::remove_dir_all(&into);
        acts.discard(taken)?;
        return Err(error);
    }
    acts.keep(&mut taken)?;
    taken.0["backup"] = into.display().to_string().into();
    context.notice(format!(
        "job {}: its backup_label, and the log up to it, are in {}",
        job.name,
        into.display()
    ));
    Ok(taken)
}

/// In the folder of what is stored for snapshots: the identity of each, a line each.
const PARTS: &str = "snapshots";

/// Before anything else is there: whose it is.
fn note_parts(taken: &Value, into: &Path) -> Result<()> {
    let taken = taken["snapshots"].as_array().into_iter().flatten();
    let parts: String = taken.filter_map(|one| Some(format!("{}\n", one["guid"].as_str()?))).collect();
    let path = into.join(PARTS);
    let written = std::fs::create_dir_all(into).and_then(|()| {
        let mut file = File::create(&path)?;
        file.write_all(parts.as_bytes())?;
        file.sync_all()
    });
    written.map_err(Error::io("write", path.display()))
}

/// What was stored for snapshots goes once none of them is left in any dataset or target here of any job. What can not be looked at may have them.
fn forget_backups(kept: &Path, jobs: &[Job], context: &Context) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(kept) else { return Ok(()) };
    let entries: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    if entries.is_empty() {
        return Ok(());
    }
    let there = match all_there(jobs, context) {
        Ok(there) => there,
        Err(error) => {
            context.notice(format!("all that is in {} is kept: {}", kept.display(), with_causes(&error)));
            return Ok(());
        }
    };
    for entry in entries {
        // One that does not say whose it is may be anybody's.
        let parts = std::fs::read_to_string(entry.join(PARTS)).unwrap_or_default();
        if !parts.is_empty() && parts.lines().all(|part| !there.contains(part)) {
            std::fs::remove_dir_all(&entry).map_err(Error::io("remove", entry.display()))?;
        }
    }
    Ok(())
}

/// The identities of all snapshots in the jobs' datasets, and in their targets here.
fn all_there(jobs: &[Job], context: &Context) -> Result<BTreeSet<String>> {
    let mut there = BTreeSet::new();
    let mut look = |dataset: &Dataset| -> Result<()> {
        for details in dataset.described()? {
            there.extend(
                [Some(details.version.id.guid), details.was]
                    .into_iter()
                    .flatten()
                    .map(|guid| guid.to_string()),
            );
        }
        Ok(())
    };
    for job in jobs {
        run::datasets(job, context)?.iter().try_for_each(&mut look)?;
        for target in &job.targets {
            let to = Target::parse(target.to.as_ref())?;
            if matches!(to, Target::Remote(_)) {
                continue;
            }
            let source = place::existing(&Target::parse(target.dataset.as_ref())?, context)?;
            let replica = place::dataset_for(&source, &to, context)?;
            look(&replica)?;
            if job.recursive {
                replica.all_inside()?.iter().try_for_each(&mut look)?;
            }
        }
    }
    Ok(there)
}

fn names(quiesce: &Quiesce, which: &[usize]) -> Vec<String> {
    which.iter().map(|&nth| quiesce.services[nth].to_string()).collect()
}

fn told<S>(quiesce: &Quiesce, done: &Finished<S, Error>) -> Value {
    let down: Vec<_> = (0..quiesce.services.len()).filter(|nth| !done.running.contains(nth)).collect();
    let downtime = done.downtime;
    json!({
        "stopped": names(quiesce, &done.stopped), "was_down": names(quiesce, &down), "answers": done.answers,
        "downtime_ms": downtime.map(|time| time.as_millis() as u64),
        "is_within_max": downtime.zip(quiesce.max_downtime).map(|(time, max)| time <= max),
        "files_unasked": done.n_unasked,
    })
}

/// A job's, each with what it is and what there is to print.
struct Snapshots<'a> {
    job: &'a Job,
    known: BTreeSet<SnapshotName>,
    /// The run that takes them, by when it began.
    began: Option<Timestamp>,
    context: &'a Context,
}

impl quiesce::Acts for Snapshots<'_> {
    type Taken = (Value, String);
    type Error = Error;

    fn recovered(&mut self, done: &Recovered) {
        recorded::recovered(done, self.began, self.context);
    }

    fn begins(&mut self) -> Result<()> {
        hooks::call(Moment::BeforeSnapshot, self.job, &Value::Null, &[], self.context)
    }

    fn take(&mut self) -> Result<Self::Taken> {
        let known = std::mem::take(&mut self.known);
        snapshot::perform(snapshot::Args::of_job(self.job, false).unconfirmed(known), self.context)
    }

    /// Gives them their names.
    fn keep(&mut self, (object, text): &mut Self::Taken) -> Result<()> {
        let mut names = Vec::new();
        for taken in object["snapshots"].as_array_mut().into_iter().flatten() {
            let (dataset, version) = place::version(&named(taken), self.context)?;
            let new = snapshot::confirmed(&dataset, &version.id)?;
            names.push(format!("{dataset}@{new}"));
            taken["name"] = new.to_string().into();
        }
        *text = names.join("\n");
        Ok(())
    }

    fn discard(&mut self, (object, _): Self::Taken) -> Result<()> {
        for taken in object["snapshots"].as_array().into_iter().flatten() {
            let (dataset, version) = place::version(&named(taken), self.context)?;
            dataset.destroy(&version.id)?;
        }
        Ok(())
    }
}

/// `TARGET@NAME`
fn named(taken: &Value) -> OsString {
    let text = |key: &str| taken[key].as_str().unwrap_or_default();
    format!("{}@{}", text("dataset"), text("name")).into()
}

/// Destroys what a run that was killed has left, of which nobody knows whether it is good. One that is held is let be. Of those of one instant all are good if one of
/// them has its name: they get theirs, too. Answers the names of those that are good: a run of the same second is another one.
pub(super) fn discard_unconfirmed(job: &Job, context: &Context) -> Result<BTreeSet<SnapshotName>> {
    let mut all = Vec::new();
    for dataset in run::datasets(job, context)? {
        if dataset.exists()? {
            let mut taken = dataset.described()?;
            taken.retain(|details| details.labels.get(JOB_LABEL) == Some(&job.name));
            all.push((dataset, taken));
        }
    }
    let names = all.iter().flat_map(|(_, taken)| taken).map(|details| &details.version.id.name);
    let mut known: BTreeSet<_> = names.filter(|name| !name.is_unconfirmed()).cloned().collect();
    for (dataset, taken) in &all {
        for details in taken.iter().filter(|details| details.version.id.name.is_unconfirmed()) {
            let what = format!("{dataset}@{}", details.version.id.name);
            let others = all.iter().filter(|(other, _)| other != dataset);
            if others.flat_map(|(_, taken)| taken).any(|other| is_of_one_run(details, other)) {
                match snapshot::confirmed(dataset, &details.version.id) {
                    Ok(new) => {
                        context.notice(format!(
                            "{what} is good, as others of its run are: it is now called {new}"
                        ));
                        known.insert(new);
                    }
                    Err(error) => {
                        context.warn(format!("{what} is good, and can not be given its name: {error}"))
                    }
                }
                continue;
            }
            match dataset.destroy(&details.version.id) {
                Ok(()) => context.notice(format!(
                    "{what} is destroyed: its run was killed before it was known to be good"
                )),
                Err(error) => {
                    context.warn(format!("{what} may not be good, and can not be destroyed: {error}"))
                }
            }
        }
    }
    Ok(known)
}

/// Whether `confirmed` is one of those that were taken with `unconfirmed`, and has its name since. They were all called so by the same second and number.
fn is_of_one_run(unconfirmed: &Details, confirmed: &Details) -> bool {
    let name = unconfirmed.version.id.name.as_str();
    name.strip_suffix(UNCONFIRMED) == Some(confirmed.version.id.name.as_str())
}

/// The directories in which nobody may write.
fn roots(job: &Job, context: &Context) -> Result<Vec<PathBuf>> {
    let mut roots = Vec::new();
    for dataset in run::datasets(job, context)? {
        if !dataset.exists()? {
            continue;
        }
        let Some(root) = dataset.mountpoint()? else {
            return Err(Error::Usage {
                what: format!("{dataset} is mounted nowhere here, so nobody can say who writes to it"),
                hint: Some(
                    "mount it, or leave quiesce out of the job and state crash_consistent = true".into(),
                ),
            });
        };
        roots.push(root);
    }
    Ok(roots)
}

/// Start what a run had stopped that did not come to its end; for the machine's start, before the jobs
#[derive(Debug, clap::Args)]
pub(super) struct Recover {
    /// Whose services; those of all jobs by default
    #[arg(value_name = "JOB", required_if_eq("forget", "true"))]
    jobs: Vec<String>,
    /// Start nothing, and forget that the services of these jobs were to be started; ends a guard that waits for them
    #[arg(long)]
    forget: bool,
}

/// Wait for the end of the run that started this process, and start what it leaves stopped
#[derive(Debug, clap::Args)]
pub(super) struct Guard {
    #[arg(value_name = "JOB")]
    job: String,
}

/// Freeze the filesystem that is mounted there, if that is its device; a process of its own can be left to itself where a disk does not answer
#[derive(Debug, clap::Args)]
pub(super) struct Freeze {
    #[arg(value_name = "DIR")]
    place: PathBuf,
    #[arg(value_name = "NUMBER")]
    device: u64,
    /// Where it is written how far that has come
    #[arg(value_name = "FILE")]
    mark: PathBuf,
}

pub(super) fn freeze(args: &Freeze) -> Result<()> {
    Ok(quiesce::freeze_marked(&args.place, args.device, &args.mark)?)
}

pub(super) fn recover(args: &Recover, config: &Path, context: &Context) -> Result<()> {
    let known = Leases::open(context.state_dir())?.jobs()?;
    if let Some(unknown) = args.jobs.iter().find(|job| !known.contains(job)) {
        context.notice(format!("job {unknown} has left nothing stopped"));
    }
    if args.forget {
        return forget(&args.jobs, context);
    }
    let is_meant = |job: &&String| args.jobs.is_empty() || args.jobs.contains(job);
    let chosen: Vec<_> = known.iter().filter(is_meant).collect();
    let (mut recovered, mut text, mut failed) = (Vec::new(), String::new(), Vec::new());
    for job in chosen {
        match quiesce::recover(context.state_dir(), job) {
            Ok(None) => {}
            Ok(Some(done)) => {
                recorded::recovered(&done, None, context);
                text += &format!("job {job}: {} runs\n", done.services.join(", "));
                recovered.push(json!({ "job": job, "services": done.services }));
            }
            Err(error) => failed.push((job, Error::from(error))),
        }
    }
    context.print(&json!({ "recovered": recovered }), text)?;
    let to_hear_of = known.iter().cloned().chain(beside::jobs_unheard(context));
    let to_hear_of: Vec<_> = to_hear_of.filter(|job| is_meant(&job)).collect();
    tell_of_recovery(&to_hear_of, &failed, None, config, context);
    // A service that is down is what has to be known.
    failed.sort_by_key(|(_, error)| matches!(error, Error::Quiesce(error) if error.is_down()));
    let last = failed.pop();
    failed.into_iter().for_each(|(job, error)| context.warn(format!("job {job}: {}", with_causes(&error))));
    last.map_or(Ok(()), |(_, error)| Err(error))
}

/// Has those told who are to know that services of these jobs run again, or can not be started. Without a configuration that can be read nobody is: the next run does it.
fn tell_of_recovery(
    jobs: &[String],
    failed: &[(&String, Error)],
    since: Option<Timestamp>,
    config: &Path,
    context: &Context,
) {
    if jobs.is_empty() {
        return;
    }
    let config = config_in_time(config, context);
    for (name, error) in failed.iter().filter(|(_, error)| !is_busy(error)) {
        not_recovered(name, error, since, &config, context).into_iter().for_each(|news| news.tell(context));
    }
    let known = config.jobs.iter().filter(|job| jobs.contains(&job.name));
    known.flat_map(|job| beside::unheard(job, context)).for_each(|news| news.tell(context));
}

/// Has those told who are to know that a guard has started services though their run goes on: that one tells nothing as long as it hangs.
fn tell_of_resumed(resumed: Resumed, config: &Path, context: &Context) {
    let Resumed { job, why, down } = resumed;
    let failure = recorded::failure(&why.into());
    let config = config_in_time(config, context);
    let known = config.jobs.iter().filter(|known| known.name == job);
    let news = known.filter_map(|job| beside::resumed(job, failure.clone(), down, context));
    news.for_each(|news| news.tell(context));
}

/// The configuration; an empty one if it can not be used, which is warned of.
fn config_in_time(config: &Path, context: &Context) -> Config {
    // It may lie where nobody answers.
    let path = config.to_owned();
    let loaded = within(Instant::now() + ANSWERS, move || Config::load(&path))();
    let config = match loaded {
        Some(Ok(config)) => Some(config),
        Some(Err(config::Error::None { .. })) => None,
        Some(Err(error)) => {
            let why = with_causes(&error.into());
            context.warn(format!("nobody is told of this until the configuration is mended: {why}"));
            None
        }
        None => {
            context.warn(format!("nobody is told of this, as {} does not answer", config.display()));
            None
        }
    };
    config.unwrap_or_else(|| Config { files: Vec::new(), jobs: Vec::new() })
}

/// How long a configuration is waited for that is needed for nothing but that.
const ANSWERS: Duration = Duration::from_secs(10);

/// What a run of that job has left stopped can not be started. A guard that was tried `since` then, and who has called it, both say so.
fn not_recovered(
    name: &str,
    error: &Error,
    since: Option<Timestamp>,
    config: &Config,
    context: &Context,
) -> Option<ToTell> {
    let job = config.jobs.iter().find(|job| job.name == name);
    let failure = recorded::failure(error);
    let (to_tell, is_new) = beside::failed(name, job, Op::Recover, &failure, since, context);
    if let Some(job) = job.filter(|_| is_new) {
        hooks::call_beside(job, failure, context);
    }
    to_tell
}

fn is_busy(error: &Error) -> bool {
    matches!(error, Error::Quiesce(error) if error.is_busy())
}

/// Each on its own; the first that can not be forgotten is the error.
fn forget(jobs: &[String], context: &Context) -> Result<()> {
    let (mut forgotten, mut text, mut failed) = (Vec::new(), String::new(), None);
    for job in jobs {
        let outcome = quiesce::forget(context.state_dir(), job);
        if outcome.is_ok() {
            recorded::given_up(job, context);
        }
        match outcome {
            Ok(None) => {}
            Ok(Some(Forgotten { services, down, had_guard, unreadable })) => {
                let guard = if had_guard { "; its guard was ended" } else { "" };
                text += &match &unreadable {
                    None => format!("job {job}: nobody starts {} any more{guard}\n", services.join(", ")),
                    Some(why) => format!(
                        "job {job}: its lease is gone, and nobody knows what it would have had started or thawed{guard}: see that all runs ({why})\n"
                    ),
                };
                forgotten.push(json!({
                    "job": job, "services": services, "down": down, "had_guard": had_guard, "unreadable": unreadable,
                }));
                // Whoever forgets one that is down has to know it.
                if !down.is_empty() {
                    failed.get_or_insert(quiesce::Error::GivenUp { service: down.join(", ") });
                }
            }
            Err(error) => drop(failed.get_or_insert(error)),
        }
    }
    context.print(&json!({ "forgotten": forgotten }), text)?;
    failed.map_or(Ok(()), |error| Err(error.into()))
}

pub(super) fn guard(args: &Guard, config: &Path, context: &Context) -> Result<()> {
    let (job, since) = (&args.job, Timestamp::now());
    let mut tellers = Vec::new();
    // Who waits for somebody to be told does not see the end of the run.
    let mut resumed = |resumed| {
        let (config, context) = (config.to_owned(), context.clone());
        let tell = move || tell_of_resumed(resumed, &config, &context);
        tellers.extend(Builder::new().name("tell".into()).spawn(tell));
    };
    let done = quiesce::guard(context.state_dir(), job, io::stdout(), &mut resumed);
    let done = recovered_by_guard(job, since, done, config, context);
    // It has told, or can not, within a minute.
    tellers.into_iter().for_each(|teller| drop(teller.join()));
    done
}

/// What is written down, and told, when a guard has nothing more to do.
fn recovered_by_guard(
    job: &String,
    since: Timestamp,
    done: quiesce::Result<Option<Recovered>>,
    config: &Path,
    context: &Context,
) -> Result<()> {
    let failed = match done {
        Ok(None) => return Ok(()),
        Ok(Some(done)) => {
            recorded::recovered(&done, None, context);
            context.warn(format!("the run of job {job} has died: {} started", done.services.join(", ")));
            None
        }
        Err(error) => Some(Error::from(error)),
    };
    // A run that ended by itself has told what it could not start.
    let failed: Vec<_> = failed.into_iter().map(|error| (job, error)).collect();
    let is_told = !failed.is_empty() && !recorded::has_died(job, context);
    if !is_told {
        tell_of_recovery(std::slice::from_ref(job), &failed, Some(since), config, context);
    }
    failed.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
}

/// How long services that runs have left down are waited for before what is due is done.
const MAKING_UP: Duration = Duration::from_secs(10);

/// Starts what is left stopped, whoever left it, of all jobs: what is due may not be what died. Who is at work is left alone.
pub(super) fn make_up(config: &Config, context: &Context) -> (Vec<(String, Error)>, Vec<ToTell>) {
    let (mut to_tell, since) = (Vec::new(), Timestamp::now());
    // Before anything is written, which may have to wait for that.
    let overdue = quiesce::end_overdue(context.state_dir()).into_iter();
    let mut failed: Vec<_> = overdue.map(|(job, error)| (format!("job {job}"), Error::from(error))).collect();
    let all = match quiesce::make_up_all(context.state_dir(), None, MAKING_UP) {
        Ok(all) => all,
        Err(error) => {
            failed.push(("jobs".into(), error.into()));
            return (failed, to_tell);
        }
    };
    for (job, outcome) in all {
        match outcome {
            Err(error) if error.is_busy() => {}
            Err(error) => {
                let error = error.into();
                to_tell.extend(not_recovered(&job, &error, Some(since), config, context));
                failed.push((format!("job {job}"), error));
            }
            Ok(MadeUp::Done(services)) => {
                context.warn(format!("a run of job {job} has died: {} runs again", services.join(", ")))
            }
            Ok(MadeUp::UnderWay(services)) => context.warn(format!(
                "a run of job {job} has died: a guard is at work to start {}",
                services.join(", ")
            )),
        }
    }
    (failed, to_tell)
}

/// Until when a job that stopped its services for nothing lets them run: a minute, two, four, and so on up to six hours.
pub(super) fn rests_until(job: &Job, context: &Context) -> Result<Option<Timestamp>> {
    const MOST: Duration = Duration::from_secs(6 * 60 * 60);
    let leases = Leases::open(context.state_dir())?;
    let Some((n, at)) = leases.failures(&job.name).filter(|_| job.quiesce.is_some()) else { return Ok(None) };
    let rest = Duration::from_secs(60 << n.saturating_sub(1).min(16)).min(MOST);
    // One that is in the future was noted by a clock that was wrong.
    let is_on = at.elapsed().is_ok_and(|gone| gone < rest);
    Ok(Timestamp::try_from(at + rest).ok().filter(|_| is_on))
}
