//! `cowsnap doctor`

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::cli::{Context, place};
use crate::config::Config;
use crate::endpoint::overlay::Home;
use crate::endpoint::{Dataset, Prunable};
use crate::exec::doctor::{self, Finding, Level};
use crate::model::Target;
use crate::pool::{self, Pool, Registry};
use crate::quiesce::{self, By, Left};
use crate::sys::interrupt;
use crate::{Error, Result, endpoint};

/// Find what is wrong, or was left behind by a run that died; exit code 3 if there is something
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Put right what is provably cowsnap's own and dead
    #[arg(long)]
    fix: bool,
    /// Examine also the btrfs filesystems that hold these directories, beside the pools; of a plain directory its snapshots
    #[arg(value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// The configuration, of whose jobs the datasets are looked at, if there is one
    #[arg(long, env = "COWSNAP_CONFIG", default_value = "/etc/cowsnap/config.toml", value_name = "FILE")]
    config: PathBuf,
}

/// Runs the subcommand.
pub fn run(args: Args, context: &Context) -> Result<()> {
    let registry = Registry::open(context.state_dir())?;
    let mut findings = doctor::machine();
    findings.extend(pool::check(&registry)?);
    findings.extend(doctor::zfs()?);
    findings.extend(left(context)?);
    findings.extend(doctor::noted(context.state_dir()));
    if let Some(home) = overlay_home() {
        findings.extend(doctor::overlays(&home)?);
    }
    // Each filesystem once, by whatever names it is called.
    let mut examined = of_pools(&registry)?;
    for dir in &args.dirs {
        match doctor::filesystem(dir) {
            Ok(filesystem) if !examined.insert(filesystem) => {}
            Ok(_) => findings.extend(doctor::store(dir)?),
            Err(error) => findings.extend(of_tree(dir, context).ok_or(error)??),
        }
    }
    findings.extend(of_jobs(&args.config, &examined, context));
    let outcomes: Vec<_> = findings.iter().map(|finding| outcome(finding, args.fix)).collect();
    let values: Vec<_> = findings.iter().zip(&outcomes).map(|(f, o)| value(f, o)).collect();
    let lines: String = findings.iter().zip(&outcomes).map(|(f, o)| line(f, o)).collect();
    let text = if lines.is_empty() { "nothing was found".into() } else { lines };
    context.print(&json!({ "findings": values }), text)?;
    interrupt::check().map_err(|_| endpoint::Error::Interrupted {
        op: "put right",
        subject: "all that was found".into(),
    })?;
    let left = findings
        .iter()
        .zip(&outcomes)
        .filter(|(finding, outcome)| finding.level == Level::Problem && !matches!(outcome, Outcome::Fixed));
    match left.count() {
        0 => Ok(()),
        n => Err(unwell(n, &registry, findings.iter().any(|f| f.repair.is_some()) && !args.fix).into()),
    }
}

/// Services that were stopped for a snapshot, and that nobody may have started again.
fn left(context: &Context) -> Result<Vec<Finding<'static>>> {
    let found = |Left { job, services, by, path, since }| {
        let is_known = !services.is_empty();
        let services = if is_known { services.join(", ") } else { "what nobody can read".into() };
        let (what, fix) = match by {
            By::Run => return None,
            By::Nobody if !is_known => (
                format!("job {job} has left {services} to be started again"),
                format!(
                    "see that all its services run and nothing is frozen, then cowsnap job recover --forget {job}"
                ),
            ),
            By::Nobody => (
                format!("job {job} has left {services} to be started again"),
                format!("cowsnap job recover {job}"),
            ),
            By::Guard => (
                format!("the guard of job {job} waits for {services} to stop, or to start"),
                format!("if all runs as it should: cowsnap job recover --forget {job}"),
            ),
        };
        let since = since.and_then(|since| jiff::Timestamp::try_from(since).ok());
        Some(Finding { since, fix: Some(fix), ..Finding::problem(what, path.display()) })
    };
    Ok(quiesce::left(context.state_dir())?.into_iter().filter_map(found).collect())
}

/// What is to be said of the snapshots of a directory that is on no btrfs; `None` if it has none.
fn of_tree(dir: &Path, context: &Context) -> Option<Result<Vec<Finding<'static>>>> {
    let dir = std::path::absolute(dir).ok()?;
    let dataset = place::dataset_as_it_is(&Target::Path(dir), context).ok()?;
    let has_some = dataset.described().is_ok_and(|taken| !taken.is_empty());
    has_some.then(|| doctor::unconfirmed(&dataset))
}

/// What killed runs have left on the datasets of jobs that are on no filesystem that was `examined` as a whole.
fn of_jobs(file: &Path, examined: &HashSet<[u8; 16]>, context: &Context) -> Vec<Finding<'static>> {
    if !file.exists() {
        return Vec::new();
    }
    let config = match Config::load(file).map_err(Error::from) {
        Ok(config) => config,
        Err(error) => {
            let what = format!("the configuration can not be used: {}", with_causes(&error));
            return vec![Finding::problem(what, file.display()).fixed_by("cowsnap job check")];
        }
    };
    let all = config.jobs.iter().flat_map(|job| job.datasets.iter().map(move |name| (name, job.recursive)));
    let all: BTreeSet<_> = all.collect();
    let looked = all.into_iter().map(|(name, with_inside)| {
        of_dataset(name, with_inside, examined, context).unwrap_or_else(|error| match error {
            // Whether there should be one is what check says.
            Error::Endpoint(endpoint::Error::NotFound { .. }) => Vec::new(),
            error => {
                let what = format!("a job's dataset can not be looked at: {}", with_causes(&error));
                vec![Finding::problem(what, name)]
            }
        })
    });
    looked.flatten().collect()
}

fn of_dataset(
    name: &str,
    with_inside: bool,
    examined: &HashSet<[u8; 16]>,
    context: &Context,
) -> Result<Vec<Finding<'static>>> {
    let target = Target::parse(name.as_ref())?;
    let dataset = place::dataset_as_it_is(&target, context)?;
    let is_examined = match (&target, &dataset) {
        (Target::Path(path), Dataset::Btrfs(_)) => {
            doctor::filesystem(path).is_ok_and(|filesystem| examined.contains(&filesystem))
        }
        (_, Dataset::Btrfs(_)) => true, // It is a pool's.
        _ => false,
    };
    if is_examined {
        return Ok(Vec::new());
    }
    let inside = if with_inside { dataset.all_inside()? } else { Vec::new() };
    let all = [dataset].iter().chain(&inside).map(doctor::unconfirmed).collect::<Result<Vec<_>>>()?;
    Ok(all.into_iter().flatten().collect())
}

/// Where this user's overlays are.
fn overlay_home() -> Option<PathBuf> {
    std::env::var_os("COWSNAP_OVERLAY_HOME").map(PathBuf::from).or_else(Home::default_dir)
}

/// The filesystems that are examined as pools.
fn of_pools(registry: &Registry) -> Result<HashSet<[u8; 16]>> {
    let pools = registry.pools()?.into_iter().filter_map(|(_, pool)| pool.ok());
    let mounted = pools.filter(Pool::is_mounted);
    Ok(mounted.filter_map(|pool| doctor::filesystem(&pool.mountpoint).ok()).collect())
}

/// What became of a finding.
enum Outcome {
    Found,
    Fixed,
    Failed(String),
}

fn outcome(finding: &Finding<'_>, fix: bool) -> Outcome {
    match &finding.repair {
        Some(repair) if fix => match repair() {
            Ok(()) => Outcome::Fixed,
            Err(error) => Outcome::Failed(with_causes(&error)),
        },
        _ => Outcome::Found,
    }
}

fn value(finding: &Finding<'_>, outcome: &Outcome) -> serde_json::Value {
    let (fixed, failure) = match outcome {
        Outcome::Found => (false, None),
        Outcome::Fixed => (true, None),
        Outcome::Failed(why) => (false, Some(why)),
    };
    let mut value = serde_json::to_value(finding).expect("a finding's keys are texts");
    value["fixed"] = fixed.into();
    value["failure"] = json!(failure);
    value
}

fn line(finding: &Finding<'_>, outcome: &Outcome) -> String {
    let level = match (finding.level, outcome) {
        (_, Outcome::Fixed) => "fixed",
        (Level::Note, _) => "note",
        (Level::Problem, _) => "problem",
    };
    let mut line = format!("{level}: {}\n  at {}\n", finding.what, finding.place);
    if let Some(since) = finding.since {
        line += &format!("  since {since:.0}\n");
    }
    match (outcome, &finding.fix) {
        (Outcome::Failed(why), _) => line += &format!("  could not be fixed: {why}\n"),
        (Outcome::Found, Some(fix)) => line += &format!("  fix: {fix}\n"),
        _ => {}
    }
    line
}

fn unwell(n: usize, registry: &Registry, fixable: bool) -> endpoint::Error {
    endpoint::Error::Refused {
        op: "call",
        subject: format!("{} healthy", registry.state().display()),
        why: format!("{n} problem{}", if n == 1 { "" } else { "s" }),
        hint: fixable.then(|| "cowsnap doctor --fix".into()),
    }
}

/// An error in one line: itself, then what caused it.
pub(super) fn with_causes(error: &Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
