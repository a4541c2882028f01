//! `cowsnap drill`

mod elsewhere;

use std::path::{Path, PathBuf};
use std::time::Instant;

use jiff::Timestamp;
use serde_json::{Value, json};

use elsewhere::Elsewhere;

use crate::cli::job::recorded;
use crate::cli::snapshot::JOB_LABEL;
use crate::cli::{Context, overlay, place};
use crate::config::{self, Config, Job};
use crate::endpoint::backup::Backup;
use crate::endpoint::overlay::Home;
use crate::endpoint::{Dataset, Error as EndpointError, History};
use crate::exec::job::newest_taken;
use crate::exec::overlay::drill::{Drill, Drilled, Part, drill};
use crate::exec::overlay::enter::alone;
use crate::exec::restore::nested_with;
use crate::exec::scratch;
use crate::model::{SnapshotName, Target, Version, VersionKind};
use crate::sys::interrupt;
use crate::sys::sandbox::{Ids, Sandbox};
use crate::{Error, Result};

/// Rehearse the restore of a job: its newest snapshot, put where the data is, for one command that says whether it is good
///
/// The snapshot shows in the place of the live data to that command alone, which has neither network nor the right to write elsewhere.
/// Nothing of it is left, and the service goes on. Exit code 4 if the data is not good.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which jobs; all that have a drill by default
    #[arg(value_name = "JOB")]
    jobs: Vec<String>,
    /// The snapshot; the newest of the job by default
    #[arg(long, value_name = "NAME")]
    snapshot: Option<SnapshotName>,
    /// Where the trees are kept that the command may write to
    #[arg(long, env = "COWSNAP_OVERLAY_HOME", value_name = "DIR")]
    home: Option<PathBuf>,
    /// The configuration; `conf.d/*.toml` in the same folder belongs to it
    #[arg(long, env = "COWSNAP_CONFIG", default_value = "/etc/cowsnap/config.toml", value_name = "FILE")]
    config: PathBuf,
    /// Say what would be rehearsed
    #[arg(long)]
    dry_run: bool,
}

/// Runs the subcommand.
pub fn run(args: Args, context: &Context) -> Result<()> {
    let config = Config::load(&args.config)?;
    let chosen = config.chosen(&args.jobs)?;
    let of = |job: &&Job| job.drill.is_some();
    let jobs: Vec<_> = match args.jobs.as_slice() {
        [] => chosen.into_iter().filter(of).collect(),
        _ => match chosen.iter().find(|job| job.drill.is_none()) {
            Some(job) => return Err(no_drill(job)),
            None => chosen,
        },
    };
    if jobs.is_empty() {
        let hint = Some("cowsnap job init bitcoin shows [job.NAME.drill]".into());
        return Err(Error::Usage { what: "no job has a drill".into(), hint });
    }
    // Before anything is mounted for it: nobody else is to see that.
    if !args.dry_run {
        alone()?;
        if scratch::has_some(context.state_dir()) {
            elsewhere::sweep(&home(&args)?, context);
        }
    }
    let mut objects = Vec::new();
    let mut text = String::new();
    let mut failed = Vec::new();
    for job in &jobs {
        if let Err(error) = interrupt::check() {
            failed.push((format!("job {}", job.name), Error::io("rehearse", &job.name)(error)));
            break;
        }
        let error = match one(job, &args, context) {
            Ok((value, line)) => {
                text += &line;
                let error = refuted(job, &value);
                objects.push(value);
                error
            }
            Err(error) => Some(error),
        };
        failed.extend(error.map(|error| (format!("job {}", job.name), error)));
    }
    context.print(&json!({ "drills": objects, "dry_run": args.dry_run }), &text)?;
    outcome(jobs.len(), failed)
}

fn no_drill(job: &Job) -> Error {
    Error::Usage {
        what: format!("job {} has no drill", job.name),
        hint: Some(format!("[job.{}.drill] with a command, in {}", job.name, job.place.file.display())),
    }
}

/// What the data not being good is as an error.
fn refuted(job: &Job, told: &Value) -> Option<Error> {
    let why = told["failed"].as_str()?;
    let what = format!("the restore of job {} from {}", job.name, told["snapshot"].as_str().unwrap_or("?"));
    Some(match told["late"].as_bool() {
        Some(true) => {
            EndpointError::io("rehearse", what)(std::io::Error::new(std::io::ErrorKind::TimedOut, why)).into()
        }
        _ => EndpointError::Corrupt { what: "data", why: format!("{what}: {why}"), source: None }.into(),
    })
}

/// Data that is not good is what has to be known, whatever else failed.
fn outcome(n: usize, mut failed: Vec<(String, Error)>) -> Result<()> {
    let is_bad = |error: &Error| error.class() == crate::Class::Corrupt;
    match failed.len() {
        0 => Ok(()),
        1 if n == 1 => Err(failed.remove(0).1),
        count => {
            let why: Vec<_> = failed
                .iter()
                .map(|(what, error)| format!("{what}: {}", super::doctor::with_causes(error)))
                .collect();
            let why = why.join("; ");
            match failed.iter().any(|(_, error)| is_bad(error)) {
                true => Err(EndpointError::Corrupt { what: "data", why, source: None }.into()),
                false => Err(Error::Partial { op: "rehearse", failed: count, of: n, why, hint: None }),
            }
        }
    }
}

fn one(job: &Job, args: &Args, context: &Context) -> Result<(Value, String)> {
    let settings = job.drill.as_ref().expect("it was looked at");
    let began = Instant::now();
    let note = |of, error: Option<&Error>| {
        let is_ended = matches!(error, Some(Error::Endpoint(EndpointError::Interrupted { .. })));
        if !args.dry_run && !is_ended {
            recorded::drilled(job, began.elapsed(), of, error, context);
        }
    };
    let found = Elsewhere::find(job, settings, args.snapshot.as_ref(), context);
    let elsewhere = found.inspect_err(|error| note(None, Some(error)))?;
    let parts = match &elsewhere {
        Some(elsewhere) => received_part(job, elsewhere, context),
        None => parts(job, settings, args.snapshot.as_ref(), context),
    };
    let (taken, parts) = parts.inspect_err(|error| note(None, Some(error)))?;
    let named = |part: &Part| format!("{}@{}", part.dataset, part.version.name);
    let of: Vec<_> = match &elsewhere {
        Some(elsewhere) => vec![elsewhere.label()],
        None => parts.iter().map(named).collect(),
    };
    let mut value = json!({ "job": job.name, "snapshot": of[0], "parts": of });
    if args.dry_run {
        let shown: Vec<_> = parts
            .iter()
            .zip(&of)
            .map(|(part, of)| format!("would show {of} at {}\n", part.at.display()))
            .collect();
        value["at"] = parts.iter().map(|part| part.at.display().to_string()).collect();
        value["command"] = json!(settings.command);
        let mut lines = shown.concat();
        if let Some(elsewhere) = &elsewhere {
            let foretold = elsewhere.foretold(context)?;
            lines = format!("would {foretold}\n{lines}");
            value["receive"] = foretold.into();
        }
        return Ok((value, format!("{lines}would run {}\n", settings.command.join(" "))));
    }
    let done = match &elsewhere {
        Some(elsewhere) => rehearsed_elsewhere(elsewhere, parts, args, context),
        None => rehearsed(job, parts, args, context),
    };
    let done = done.inspect_err(|error| note(None, Some(error)))?;
    let line = told(&mut value, &done, &of[0]);
    if done.failed.is_some() {
        let last: Vec<_> = done.said.lines().rev().take(20).collect();
        last.iter().rev().for_each(|line| context.notice(format!("  {line}")));
    }
    note(Some(taken), refuted(job, &value).as_ref());
    Ok((value, line))
}

fn home(args: &Args) -> Result<Home> {
    Ok(Home::open(&overlay::home_dir(args.home.clone())?)?)
}

/// Receives what is rehearsed, and destroys it afterwards, however that ends.
fn rehearsed_elsewhere(
    elsewhere: &Elsewhere<'_>,
    parts: Vec<Part>,
    args: &Args,
    context: &Context,
) -> Result<Drilled> {
    let scratch = elsewhere.receive(context)?;
    let done = rehearsed(elsewhere.job, parts, args, context);
    if let Err(error) = home(args).and_then(|home| elsewhere::released(&home)) {
        tracing::warn!(%error, "what a drill used stays until the next reap");
    }
    elsewhere::away(scratch, context);
    done
}

/// What is received is called as where it comes from, and shows where the live data is.
fn received_part(job: &Job, elsewhere: &Elsewhere<'_>, context: &Context) -> Result<(Timestamp, Vec<Part>)> {
    let live = place::existing(&Target::parse(job.datasets[0].as_ref())?, context)?;
    let (dataset, version) = (elsewhere.dataset(context)?, elsewhere.version.id.clone());
    Ok((elsewhere.version.created, vec![Part { dataset, version, at: shown_at(&live, 0)? }]))
}

fn rehearsed(job: &Job, parts: Vec<Part>, args: &Args, context: &Context) -> Result<Drilled> {
    let settings = job.drill.as_ref().expect("it was looked at");
    let home = home(args)?;
    let user = settings.user.as_deref().map(user).transpose()?;
    let sandbox =
        Sandbox { shown: Vec::new(), scratch: settings.scratch.clone(), network: settings.network, user };
    let guids: Vec<_> = parts.iter().map(|part| part.version.guid).collect();
    let backup = Backup::of(&context.state_dir().join("backups").join(&job.name), &guids)?;
    let (command, expect) = (&settings.command, settings.expect.as_deref());
    let done = drill(&home, Drill { parts, command, within: settings.within, expect, backup, sandbox });
    overlay::sweep_in_background(&home, Vec::new());
    Ok(done?)
}

fn told(value: &mut Value, done: &Drilled, of: &str) -> String {
    value["passed"] = done.failed.is_none().into();
    value["failed"] = json!(done.failed);
    value["late"] = done.is_late.into();
    value["took_ms"] = u64::try_from(done.took.as_millis()).unwrap_or(u64::MAX).into();
    value["modes"] = done.modes.iter().map(ToString::to_string).collect();
    value["said"] = done.said.clone().into();
    match &done.failed {
        None => format!("{of} would do: its command passed in {:.1} s\n", done.took.as_secs_f64()),
        Some(_) => String::new(),
    }
}

fn user(name: &str) -> Result<Ids> {
    let failed = Error::io("look up user", name);
    Ids::of(name)
        .map_err(failed)?
        .ok_or_else(|| Error::Usage { what: format!("no user is called {name}"), hint: None })
}

/// What is put back for it, and where it shows: where the live data is, or else in a place of its own. Before it, when that was taken.
fn parts(
    job: &Job,
    settings: &config::Drill,
    name: Option<&SnapshotName>,
    context: &Context,
) -> Result<(Timestamp, Vec<Part>)> {
    let live = |text: &String| place::existing(&Target::parse(text.as_ref())?, context);
    let own = job.datasets.iter().map(live).collect::<Result<Vec<_>>>()?;
    let first = own.first().expect("a job names a dataset");
    if let Some(from) = &settings.from {
        let replica = place::dataset(&Target::parse(from.as_ref())?, context)?;
        let version = match name {
            Some(name) => replica.version(name)?,
            None => newest(&replica)?,
        };
        let part = Part { dataset: replica, version: version.id, at: shown_at(first, 0)? };
        return Ok((version.created, vec![part]));
    }
    let newest = version(first, job, name)?;
    let mut parts = Vec::new();
    for dataset in &own {
        let version = dataset.version(&newest.id.name)?.id;
        let at = shown_at(dataset, parts.len())?;
        parts.push(Part { dataset: dataset.clone(), version, at });
        // As a restore would: those that have no such snapshot were not there.
        let nested = if job.recursive { nested_with(dataset, &newest.id.name)? } else { Vec::new() };
        for (inside, version) in nested {
            match shown_inside(&inside)? {
                Some(at) => parts.push(Part { dataset: inside, version, at }),
                None => context.notice(format!("job {}: {inside} is left out: it shows nowhere", job.name)),
            }
        }
    }
    Ok((newest.created, parts))
}

fn version(dataset: &Dataset, job: &Job, name: Option<&SnapshotName>) -> Result<Version> {
    if let Some(name) = name {
        return Ok(dataset.version(name)?);
    }
    let newest = newest_taken(dataset, (JOB_LABEL, &job.name))?;
    newest.ok_or_else(|| {
        let subject = format!("with the label {JOB_LABEL}={} of {dataset}", job.name);
        let hint = Some(format!("cowsnap job run {}", job.name));
        EndpointError::NotFound { what: "snapshot", subject, hint }.into()
    })
}

/// Labels stay where they were given.
fn newest(replica: &Dataset) -> Result<Version> {
    let inventory = replica.inventory()?;
    let is_good =
        |version: &&Version| version.kind == VersionKind::Snapshot && !version.id.name.is_unconfirmed();
    inventory.versions().iter().rfind(is_good).cloned().ok_or_else(|| {
        let subject = format!("of {replica}");
        EndpointError::NotFound { what: "snapshot", subject, hint: None }.into()
    })
}

/// Where it shows, or else a place of its own.
fn shown_at(dataset: &Dataset, nth: usize) -> Result<PathBuf> {
    let own = || Path::new("/run/cowsnap/drill").join((nth + 1).to_string());
    Ok(shown_inside(dataset)?.unwrap_or_else(own))
}

/// Where it shows, if it does: a volume does not.
fn shown_inside(dataset: &Dataset) -> Result<Option<PathBuf>> {
    let Some(at) = dataset.mountpoint()? else { return Ok(None) };
    let at = at.canonicalize().map_err(Error::io("find", at.display()))?;
    if at.parent().is_none() {
        let why =
            "it is what the whole machine runs on, and nothing can take its place for one command".into();
        let hint = Some("cowsnap clone SNAP NEW, and look at that".into());
        let subject = dataset.to_string();
        return Err(EndpointError::Refused { op: "rehearse the restore of", subject, why, hint }.into());
    }
    Ok(Some(at))
}
