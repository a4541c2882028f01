//! `cowsnap job`

use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::json;

use crate::cli::Context;
use crate::cli::pool::print_unit;
use crate::config::{self, Config, Job};
use crate::model::flush::Method;
use crate::model::{Flush, Flushed};
use crate::plan::schedule::Schedule;
use crate::{Error, Result};

mod absent;
mod check_words;
mod due;
mod hooks;
mod install;
mod quiesced;
pub(super) mod recorded;
mod request;
mod run;
mod trigger_words;
mod words;

/// A node's whole care in one file: what is snapshotted when, where it is brought, and what is kept
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration; `conf.d/*.toml` in the same folder belongs to it
    #[arg(
        long,
        global = true,
        env = "COWSNAP_CONFIG",
        default_value = "/etc/cowsnap/config.toml",
        value_name = "FILE"
    )]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Check(Check),
    Explain(Explain),
    Init(Init),
    Run(run::Run),
    Request(request::Request),
    Install(install::Install),
    Uninstall(install::Uninstall),
    Recover(quiesced::Recover),
    /// Print the systemd unit that calls `cowsnap job recover` when the machine starts
    Unit,
    #[command(hide = true)]
    Guard(quiesced::Guard),
    #[command(hide = true)]
    Freeze(quiesced::Freeze),
}

/// Say what is wrong with the configuration; touches nothing that it names
#[derive(Debug, clap::Args)]
struct Check {}

/// Say in words what a job does, and when
#[derive(Debug, clap::Args)]
struct Explain {
    /// Which jobs; all of them by default
    #[arg(value_name = "JOB")]
    jobs: Vec<String>,
}

/// Print a commented configuration to begin with
#[derive(Debug, clap::Args)]
struct Init {
    /// What it is for
    #[arg(value_name = "KIND")]
    kind: Kind,
}

/// What there are examples for.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Kind {
    Stacks,
    Loom,
    StellarCore,
    Bitcoin,
    Postgres,
}

impl Kind {
    fn example(self) -> &'static str {
        match self {
            Self::Stacks => include_str!("examples/stacks.toml"),
            Self::Loom => include_str!("examples/loom.toml"),
            Self::StellarCore => include_str!("examples/stellar-core.toml"),
            Self::Bitcoin => include_str!("examples/bitcoin.toml"),
            Self::Postgres => include_str!("examples/postgres.toml"),
        }
    }
}

/// How many of the next runs are told.
const N_NEXT: usize = 3;

/// Runs the subcommand.
pub fn run(args: Args, context: &Context) -> Result<()> {
    match args.command {
        Command::Init(Init { kind }) => context.print(&json!({ "config": kind.example() }), kind.example()),
        Command::Check(Check {}) => check(&Config::load(&args.config)?, context),
        Command::Explain(Explain { jobs }) => explain(&Config::load(&args.config)?, &jobs, context),
        Command::Install(install) => install::install(&install, &args.config, context),
        Command::Uninstall(uninstall) => install::uninstall(&uninstall, context),
        Command::Request(request) => request::run(&request, &args.config, context),
        Command::Recover(recover) => quiesced::recover(&recover, &args.config, context),
        Command::Unit => {
            let text = include_str!("../../../packaging/systemd/cowsnap-recover.service");
            let config =
                std::path::absolute(&args.config).map_err(Error::io("find", args.config.display()))?;
            print_unit(&text.replace("/etc/cowsnap/config.toml", &config.display().to_string()), context)
        }
        Command::Guard(guard) => quiesced::guard(&guard, &args.config, context),
        Command::Freeze(freeze) => quiesced::freeze(&freeze),
        Command::Run(run) => run::run(&run, (&Config::load(&args.config)?, &args.config), context),
    }
}

fn check(config: &Config, context: &Context) -> Result<()> {
    let names: Vec<_> = config.jobs.iter().map(|job| job.name.as_str()).collect();
    let text = match names.as_slice() {
        [] => "no job is configured".to_owned(),
        names => format!("nothing is wrong with {}", names.join(", ")),
    };
    let files: Vec<_> = config.files.iter().map(|file| file.display().to_string()).collect();
    let problems: Vec<_> = config.jobs.iter().flat_map(absent::of_services).collect();
    if !problems.is_empty() {
        return Err(config::Error::Wrong { problems }.into());
    }
    let others = config.jobs.iter().flat_map(absent::of_others);
    let doubts: Vec<_> = config.jobs.iter().filter_map(doubt).chain(others).collect();
    doubts.iter().for_each(|doubt| context.warn(doubt));
    context.print(&json!({ "files": files, "jobs": names, "warnings": doubts }), text)
}

/// What is right, and may be refused by each run for what nobody has looked at yet.
fn doubt(job: &Job) -> Option<String> {
    let by_checkpoint =
        |flush: &Flush| matches!(flush.what, Flushed::Postgres { method: Some(Method::Checkpoint), .. });
    let is_asked = job.flush.as_ref().is_some_and(by_checkpoint);
    (is_asked && job.datasets.len() > 1).then(|| {
        format!(
            "{}: job {}: the data directory of PostgreSQL, its pg_wal and its tablespaces have to lie in one of {}, or each run is refused: \
             snapshots of several datasets need not be of one instant, as on btrfs, and it recovers from none that are not without a backup_label; leave out \
             method, or name its service under quiesce instead of flush, so that it is stopped",
            job.place,
            job.name,
            job.datasets.join(", ")
        )
    })
}

fn explain(config: &Config, names: &[String], context: &Context) -> Result<()> {
    let now = Timestamp::now();
    let jobs = config.chosen(names)?;
    let text: Vec<_> = jobs.iter().map(|job| words::explained(job, now)).collect();
    let objects: Vec<_> = jobs.iter().map(|job| object(job, now)).collect();
    context.print(&json!({ "jobs": objects }), text.join("\n"))
}

fn object(job: &Job, now: Timestamp) -> serde_json::Value {
    let next = job.schedule.as_ref().map(|schedule| schedule.upcoming(now, N_NEXT));
    let next: Vec<_> = next.unwrap_or_default().iter().map(|time| time.timestamp()).collect();
    json!({
        "job": job.name, "file": job.place.file.display().to_string(), "line": job.place.line, "datasets": job.datasets,
        "recursive": job.recursive, "schedule": job.schedule.as_ref().map(ToString::to_string),
        "on_calendar": job.schedule.as_ref().and_then(Schedule::on_calendar),
        "time_zone": words::zone(&job.zone), "next": next, "says": words::sentences(job, now),
        "targets": job.targets.iter().map(|t| json!({ "dataset": t.dataset, "to": t.to })).collect::<Vec<_>>(),
        "archives": job.archives.iter().map(|t| json!({ "dataset": t.dataset, "to": t.to })).collect::<Vec<_>>(),
    })
}
