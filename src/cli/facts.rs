//! What `status`, `check` and `metrics` look at: the datasets of jobs as they are now, and what was written down of their runs.
//!
//! **Invariant:** nothing is changed, and no job is kept waiting.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use crate::cli::doctor::with_causes;
use crate::cli::snapshot::JOB_LABEL;
use crate::cli::{Context, place};
use crate::config::{Archive, Config, Job, Replica};
use crate::endpoint::{self, Dataset, History, Prunable};
use crate::exec::archive::push::MARK;
use crate::exec::prune;
use crate::exec::record::Records;
use crate::exec::replicate::{mark_for, mark_for_peer};
use crate::model::run::{Op, Subject};
use crate::model::{self, Guid, Inventory, JobRecord, PeerAddress, Version, VersionKind};
use crate::plan::common::kept;
use crate::plan::health::{self, Base, Directory, Down, Facts, Limits, Seen, expiry};
use crate::pool::{Pool, Registry};
use crate::quiesce::{Lease, Leases};
use crate::{Error, Result};

/// Which jobs are meant.
#[derive(Debug, clap::Args)]
pub struct Which {
    /// Which jobs; all of them by default
    #[arg(value_name = "JOB")]
    jobs: Vec<String>,
    /// The configuration; `conf.d/*.toml` in the same folder belongs to it
    #[arg(long, env = "COWSNAP_CONFIG", default_value = "/etc/cowsnap/config.toml", value_name = "FILE")]
    config: PathBuf,
    /// How long a disk may take to answer, for all jobs together
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

/// What was seen of all jobs that are meant.
pub struct All {
    /// The jobs, as they are configured.
    pub jobs: Vec<Job>,
    /// What was seen of each, in the same order.
    pub facts: Vec<Facts>,
    /// Jobs of which there is a record, and no configuration any more.
    pub stale: Vec<String>,
    /// Jobs that are not configured any more, and have left services stopped.
    pub stopped: Vec<String>,
    /// All units of systemd that failed, `None` where there is no systemd, or why nobody knows.
    pub failed_units: FailedUnits,
}

/// Units of systemd that failed.
type FailedUnits = Result<Option<Vec<String>>, String>;

/// Looks at the jobs that are meant, with `sizes` if they are wanted, which is slow. What does not answer in time is told as such.
///
/// # Errors
/// A configuration that can not be used, or a job that is not in it.
pub fn all(which: &Which, sizes: bool, context: &Context) -> Result<All> {
    all_of(&which.config()?, &which.jobs, which.timeout, sizes, &Hanging::default(), context)
}

/// The same of `names`, or all, of a configuration. Who looks more than once has `hanging` for it.
///
/// # Errors
/// A job that is not in it.
pub fn all_of(
    config: &Config,
    names: &[String],
    seconds: u64,
    sizes: bool,
    hanging: &Hanging,
    context: &Context,
) -> Result<All> {
    let jobs: Vec<Job> = config.chosen(names)?.into_iter().cloned().collect();
    let until = Instant::now() + Duration::from_secs(seconds);
    // No job's name has a blank.
    let units = hanging.within("failed units", until, failed_units);
    let begun: Vec<_> = jobs
        .iter()
        .map(|job| {
            let (its, there, keepers) = (job.clone(), context.clone(), keepers(config, job));
            let seen = hanging.within(&job.name, until, move || of_job(&its, &keepers, sizes, &there));
            let (its, there) = (job.clone(), context.clone());
            (seen, hanging.within(&format!("{} noted", job.name), until, move || noted(&its, &there)))
        })
        .collect();
    let mut facts: Vec<_> = jobs
        .iter()
        .zip(begun)
        .map(|(job, (seen, noted))| seen().unwrap_or_else(|| silent(job, seconds, noted())))
        .collect();
    let failed_units = units().unwrap_or_else(|| Err(format!("systemctl did not answer within {seconds} s")));
    for (job, facts) in jobs.iter().zip(&mut facts) {
        facts.units = units_of(job, &failed_units);
    }
    let is_unknown = |name: &String| config.jobs.iter().all(|job| job.name != *name);
    let names_all = names.is_empty();
    let stale = Records::of(context.state_dir()).jobs().unwrap_or_default();
    let stopped = leases(context.state_dir()).and_then(|leases| leases.jobs().ok()).unwrap_or_default();
    Ok(All {
        jobs,
        facts,
        stale: stale.into_iter().filter(|name| names_all && is_unknown(name)).collect(),
        stopped: stopped.into_iter().filter(|name| names_all && is_unknown(name)).collect(),
        failed_units,
    })
}

/// What has not answered yet, however long ago it was looked at: it is not looked at by another thread that would hang as well.
#[derive(Debug, Clone, Default)]
pub struct Hanging(Arc<Mutex<BTreeSet<String>>>);

/// As long as this is there, that is looked at.
struct Looking {
    hanging: Hanging,
    job: String,
}

impl Hanging {
    /// As [`within`], unless somebody is at it.
    fn within<T: Send + 'static, W: FnOnce() -> T + Send + 'static>(
        &self,
        what: &str,
        until: Instant,
        work: W,
    ) -> impl FnOnce() -> Option<T> + use<T, W> {
        let waiting = self.begin(what).map(|looking| {
            within(until, move || {
                let found = work();
                drop(looking);
                found
            })
        });
        move || waiting.and_then(|wait| wait())
    }

    fn begin(&self, job: &str) -> Option<Looking> {
        let is_new = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(job.to_owned());
        is_new.then(|| Looking { hanging: self.clone(), job: job.to_owned() })
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.hanging.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.job);
    }
}

/// Begins `work` in a thread of its own, as a disk that hangs lets nobody go; the answer waits for it until then.
pub(super) fn within<T: Send + 'static>(
    until: Instant,
    work: impl FnOnce() -> T + Send + 'static,
) -> impl FnOnce() -> Option<T> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || sender.send(work()));
    move || receiver.recv_timeout(until.saturating_duration_since(Instant::now())).ok()
}

/// Of a job of whose datasets nothing was heard; of what was written down of it, that may be so, too.
fn silent(job: &Job, seconds: u64, noted: Option<Noted>) -> Facts {
    let why = format!("it did not answer within {seconds} s");
    let Noted { record, is_at_work, stopped, down } = noted.unwrap_or_else(|| Noted {
        record: Err(why.clone()),
        is_at_work: false,
        stopped: Err(why.clone()),
        down: Down::default(),
    });
    Facts {
        job: job.name.clone(),
        promise: job.promised(),
        datasets: job.datasets.iter().map(|name| (name.clone(), Err(why.clone()))).collect(),
        nested: Vec::new(),
        targets: Vec::new(),
        record,
        is_at_work,
        has_drill: job.drill.is_some(),
        limits: limits(job),
        stopped,
        down,
        stores: Vec::new(),
        units: Vec::new(), // They are asked for once, of all jobs.
    }
}

/// From when on the job is not well, as it is configured.
fn limits(job: &Job) -> Limits {
    job.check.as_ref().map(|set| set.limits(Timestamp::now())).unwrap_or_default()
}

/// What was written down of a job.
struct Noted {
    record: Result<Option<JobRecord>, String>,
    is_at_work: bool,
    stopped: Result<Vec<String>, String>,
    down: Down,
}

fn noted(job: &Job, context: &Context) -> Noted {
    let (record, is_at_work) = record(job, context);
    let max = job.quiesce.as_ref().and_then(|quiesce| quiesce.max_downtime.and_then(signed));
    let (stopped, down) = match lease(job, context) {
        Err(why) => (Err(why), Down::default()),
        Ok(None) => (Ok(Vec::new()), Down::default()),
        // Its guard has started them, though the run goes on.
        Ok(Some(lease)) if lease.resumed.is_some() => (Ok(Vec::new()), Down::default()),
        Ok(Some(lease)) => {
            let services = lease.services().map(ToString::to_string).collect();
            (Ok(services), Down { since: lease.begun, patience: signed(lease.patience()), max: None })
        }
    };
    Noted { record, is_at_work, stopped, down: Down { max, ..down } }
}

/// The jobs by whose rules snapshots of its targets go.
fn keepers(config: &Config, job: &Job) -> Vec<Job> {
    let is_its = |other: &&Job| job.targets.iter().any(|target| other.datasets.contains(&target.to));
    config.jobs.iter().filter(|other| other.retention.is_some()).filter(is_its).cloned().collect()
}

fn of_job(job: &Job, keepers: &[Job], sizes: bool, context: &Context) -> Facts {
    let Noted { record, is_at_work, stopped, down } = noted(job, context);
    let look = |name: &String| {
        (name.clone(), looked_at(name, Some(&job.name), sizes, context).map_err(|e| with_causes(&e)))
    };
    let known = record.as_ref().ok().and_then(Option::as_ref);
    let targets = job.targets.iter().map(|target| of_target(target, job, keepers, known, context));
    let archives = job.archives.iter().map(|archive| of_archive(archive, job, known, context));
    Facts {
        job: job.name.clone(),
        promise: job.promised(),
        datasets: job.datasets.iter().map(look).collect(),
        nested: if job.recursive { nested(job, context) } else { Vec::new() },
        targets: targets.chain(archives).collect(),
        is_at_work,
        has_drill: job.drill.is_some(),
        limits: limits(job),
        stopped,
        down,
        stores: stores(job),
        units: Vec::new(),
        record,
    }
}

fn record(job: &Job, context: &Context) -> (Result<Option<JobRecord>, String>, bool) {
    match Records::of(context.state_dir()).read(&job.name) {
        Ok(found) => match found.damage {
            Some(damage) => (Err(format!("it is damaged: {damage}")), found.is_at_work),
            None => (Ok(found.record), found.is_at_work),
        },
        Err(error) => (Err(with_causes(&error)), false),
    }
}

/// None is made by looking.
fn leases(state_dir: &Path) -> Option<Leases> {
    state_dir.join("leases").exists().then(|| Leases::open(state_dir).ok()).flatten()
}

fn lease(job: &Job, context: &Context) -> Result<Option<Lease>, String> {
    if !context.state_dir().join("leases").exists() {
        return Ok(None);
    }
    let lease = Leases::open(context.state_dir()).and_then(|leases| leases.read(&job.name));
    lease.map_err(|error| with_causes(&error.into()))
}

fn signed(time: Duration) -> Option<SignedDuration> {
    SignedDuration::try_from(time).ok()
}

pub(super) fn opened(name: &str, context: &Context) -> Result<Dataset> {
    place::dataset_as_it_is(&model::Target::parse(name.as_ref())?, context)
}

/// What is inside of its datasets. Of one that can not be opened that is said already.
fn nested(job: &Job, context: &Context) -> Vec<(String, Result<Seen, String>)> {
    let mut all = Vec::new();
    for name in &job.datasets {
        let Ok(dataset) = opened(name, context) else { continue };
        match dataset.all_inside() {
            Err(error) => all.push((format!("what is inside {name}"), Err(with_causes(&error.into())))),
            Ok(inside) => all.extend(inside.iter().filter_map(|inside| {
                let inside = inside.counterpart(&dataset, &dataset); // Called as it is from here.
                // Of one that was destroyed, what is left is its history.
                let seen = match inside.exists() {
                    Ok(false) => return None,
                    Ok(true) => seen(&inside, Some(&job.name), false),
                    Err(error) => Err(error.into()),
                };
                Some((inside.to_string(), seen.map_err(|error| with_causes(&error))))
            })),
        }
    }
    all.retain(|(name, _)| !job.datasets.contains(name));
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all.dedup_by(|a, b| a.0 == b.0);
    all
}

fn looked_at(name: &str, job: Option<&str>, sizes: bool, context: &Context) -> Result<Seen> {
    let mut seen = seen(&opened(name, context)?, job, sizes)?;
    if let Some((free, size)) = seen.space
        && let Ok(Some(pool)) = holding(name, context)
        && let Some(room) = pool.room().filter(|room| *room < free)
    {
        seen.space = Some((room, size));
        seen.scarce = Some(pool.image.display().to_string());
    }
    Ok(seen)
}

/// The embedded pool that a dataset is in, by whatever name.
fn holding(name: &str, context: &Context) -> Result<Option<Pool>> {
    let registry = Registry::open(context.state_dir())?;
    match model::Target::parse(name.as_ref())? {
        model::Target::Dataset(name) => Ok(registry.get(name.pool())?),
        model::Target::Path(path) => {
            let path = path.canonicalize().unwrap_or(path);
            let mut pools = registry.pools()?.into_iter().filter_map(|(_, pool)| pool.ok());
            Ok(pools.find(|pool| path.starts_with(&pool.mountpoint)))
        }
        model::Target::Remote(_) => Ok(None),
    }
}

/// Of archives in directories of this machine, how much can be written there. What is not there yet is made where it is to be.
fn stores(job: &Job) -> Vec<Directory> {
    let of = |archive: &Archive| {
        let url = archive.to.parse::<model::StoreUrl>().ok()?;
        let mut there = url.dir()?.ancestors();
        // Of what only root may fill nobody counts on, free or not, as df has it.
        let space = there.find_map(|dir| rustix::fs::statvfs(dir).ok()).map(|of| {
            let whole = of.f_blocks.saturating_sub(of.f_bfree).saturating_add(of.f_bavail);
            (of.f_bavail.saturating_mul(of.f_frsize), whole.saturating_mul(of.f_frsize))
        });
        Some(Directory { dataset: archive.dataset.clone(), to: archive.to.clone(), space })
    };
    job.archives.iter().filter_map(of).collect()
}

/// What there is of a dataset; of the snapshots those of `job` if one is named.
fn seen(dataset: &Dataset, job: Option<&str>, sizes: bool) -> Result<Seen> {
    // A replica is its snapshots; nothing of it need be live.
    if job.is_some() {
        dataset.expect_live()?;
    }
    let is_its = |labels: &std::collections::BTreeMap<String, String>| match job {
        Some(job) => labels.get(JOB_LABEL).is_some_and(|label| label == job),
        None => true,
    };
    let mut all = dataset.described()?;
    // Of these nobody knows yet whether they are good.
    all.retain(|details| !details.version.id.name.is_unconfirmed());
    let its = all.iter().filter(|details| is_its(&details.labels)).map(|details| details.version.created);
    let created: Vec<Timestamp> = its.collect();
    let (live, stuck): (Vec<_>, Vec<_>) = dataset.partials()?.into_iter().partition(|partial| partial.live);
    Ok(Seen {
        newest: created.last().copied(),
        snapshots: created.len(),
        stuck: stuck.into_iter().map(|partial| partial.name.to_string()).collect(),
        live: live.len(),
        space: dataset.space().ok(),
        scarce: None,
        usage: if sizes { usage(dataset)? } else { None },
    })
}

/// What the newest snapshot refers to, and what only one snapshot each does.
fn usage(dataset: &Dataset) -> Result<Option<(u64, u64)>> {
    let listings = dataset.listings(false, true)?;
    let all = || listings.iter().flat_map(|listing| &listing.details).filter_map(|details| details.usage);
    let newest = all().next_back();
    Ok(newest.map(|newest| (newest.referenced, all().map(|usage| usage.exclusive).sum())))
}

/// One that is here is looked at; of another machine's, what was written down is told, and what is kept for it.
fn of_target(
    target: &Replica,
    job: &Job,
    keepers: &[Job],
    record: Option<&JobRecord>,
    context: &Context,
) -> health::Target {
    let Replica { dataset, to, .. } = target;
    let tally = record.and_then(|record| record.tally(&Subject::to_target(dataset, to)));
    let noted = tally.and_then(|tally| tally.up_to);
    let told = |error: Error| with_causes(&error);
    let keeper = keepers.iter().find(|keeper| keeper.datasets.contains(to));
    let (seen, found) = match model::Target::parse(to.as_ref()) {
        Err(error) => (None, Err(told(error.into()))),
        Ok(model::Target::Remote(address)) => {
            let address = address.parse::<PeerAddress>().map_err(|error| error.to_string());
            let base = address.and_then(|it| kept_for(dataset, &it, noted, job, context).map_err(told));
            (None, base.map(|(base, days)| Common { taken: noted, base, days }))
        }
        Ok(_) => {
            let seen = looked_at(to, None, false, context).map_err(told);
            let found = match &seen {
                Err(why) => Err(why.clone()),
                Ok(_) => in_common(target, noted.is_some(), (job, keeper), context).map_err(told),
            };
            (Some(seen), found)
        }
    };
    let (base, base_days) = found.as_ref().map_or((None, None), |found| (found.base, found.days));
    let up_to = found.map(|found| found.taken);
    health::Target {
        dataset: dataset.clone(),
        to: to.clone(),
        seen,
        asked: None,
        up_to,
        base,
        base_days,
        archive: None,
    }
}

/// What was written down of an archive is told, and what is kept for it.
fn of_archive(archive: &Archive, job: &Job, record: Option<&JobRecord>, context: &Context) -> health::Target {
    let Archive { dataset, to, .. } = archive;
    let tally = |op| record.and_then(|record| record.tally(&Subject::of_target(op, dataset, to)));
    let noted = tally(Op::Replicate).and_then(|tally| tally.up_to);
    let known = health::Archive {
        chain: tally(Op::Replicate).and_then(|tally| tally.chain),
        verified_up_to: tally(Op::VerifyContent).and_then(|tally| tally.up_to),
        gone: None,
    };
    // Which of several archives keeps it is not known here: their marks have the archives' own identities.
    let base = kept_for_archive(dataset, noted, job, context).map_err(|error| with_causes(&error));
    let (base, base_days) = base.as_ref().map_or((None, None), |found| *found);
    health::Target {
        dataset: dataset.clone(),
        to: to.clone(),
        seen: None,
        asked: None,
        up_to: Ok(noted),
        base,
        base_days,
        archive: Some(known),
    }
}

/// What both sides have.
#[derive(Default)]
struct Common {
    /// When the newest one was taken.
    taken: Option<Timestamp>,
    base: Option<Base>,
    days: Option<i64>,
}

/// In how many days the rules of `job` let `base` go.
pub(super) fn days_left(dataset: &Dataset, base: Guid, job: &Job) -> Result<Option<i64>> {
    let Some(policy) = &job.retention else { return Ok(None) };
    let now = Timestamp::now().to_zoned(job.zone.clone());
    let prune::Seen { inventory, around } = prune::Seen::of(dataset)?;
    Ok(expiry::days_left(&inventory, base, policy, &around, &job.promised(), &now))
}

/// Whether the next prune of `job` takes `base`, of a target for which its source is held: the next replication brings a newer one.
fn goes_next(dataset: &Dataset, base: Guid, job: &Job) -> Result<Option<i64>> {
    let Some(policy) = &job.retention else { return Ok(None) };
    let now = Timestamp::now().to_zoned(job.zone.clone());
    let prune::Seen { inventory, around } = prune::Seen::of(dataset)?;
    Ok(expiry::goes_next(&inventory, base, policy, &around, &now))
}

/// When the newest version was taken that both have, which the next increment builds upon, and what has become of that. Who `was_brought` something, has
/// something, and has nothing in common, has lost it.
fn in_common(
    Replica { dataset, to, .. }: &Replica,
    was_brought: bool,
    (job, keeper): (&Job, Option<&Job>),
    context: &Context,
) -> Result<Common> {
    let (source, target) = (opened(dataset, context)?, opened(to, context)?);
    let here = source.inventory()?;
    let there = match target.inventory() {
        Err(endpoint::Error::NotFound { .. }) => return Ok(Common::default()),
        there => there?,
    };
    let common = here.versions().iter().rev().find(|version| there.snapshot_of(version.id.guid).is_some());
    let has_any = there.versions().iter().any(|version| version.kind == VersionKind::Snapshot);
    let is_kept = |base: &Version| kept(&here, &mark_for(&target)).any(|guid| guid == base.id.guid);
    let base = match common {
        Some(base) if is_kept(base) => Some(Base::Held),
        Some(_) => Some(Base::Unheld),
        None => Some(Base::Lost).filter(|_| was_brought && has_any),
    };
    let mut days = None;
    if let Some(common) = common {
        let guid = common.id.guid;
        // What is kept for it does not go, be it kept by a bookmark alone.
        let of_source = if base == Some(Base::Unheld) { days_left(&source, guid, job)? } else { None };
        let of_target = keeper.map_or(Ok(None), |keeper| match base {
            Some(Base::Held) => goes_next(&target, guid, keeper),
            _ => days_left(&target, guid, keeper),
        })?;
        days = of_source.into_iter().chain(of_target).min();
    }
    Ok(Common { taken: common.map(|version| version.created), base, days })
}

/// What has become of what a target on another machine was brought up to, as far as its source knows.
fn kept_for(
    dataset: &str,
    address: &PeerAddress,
    up_to: Option<Timestamp>,
    job: &Job,
    context: &Context,
) -> Result<(Option<Base>, Option<i64>)> {
    let tag = mark_for_peer(address);
    kept_by(dataset, &|here| kept(here, &tag).next().is_some(), up_to, job, context)
}

/// The same, of what an archive was brought up to.
fn kept_for_archive(
    dataset: &str,
    up_to: Option<Timestamp>,
    job: &Job,
    context: &Context,
) -> Result<(Option<Base>, Option<i64>)> {
    let is_kept = |here: &Inventory| {
        let of_archives = here.holds().iter().filter(|(_, by)| by.as_str().starts_with(MARK));
        let held: BTreeSet<Guid> = of_archives.map(|(held, _)| held.guid).collect();
        let its = |version: &&Version| Some(version.created) == up_to && held.contains(&version.id.guid);
        here.versions().iter().any(|version| its(&version))
    };
    kept_by(dataset, &is_kept, up_to, job, context)
}

fn kept_by(
    dataset: &str,
    is_kept: &dyn Fn(&Inventory) -> bool,
    up_to: Option<Timestamp>,
    job: &Job,
    context: &Context,
) -> Result<(Option<Base>, Option<i64>)> {
    let Some(up_to) = up_to else { return Ok((None, None)) };
    let source = opened(dataset, context)?;
    let here = source.inventory()?;
    let base = here.versions().iter().rfind(|version| version.created == up_to);
    Ok(match (is_kept(&here), base) {
        (true, _) => (Some(Base::Held), None),
        (false, Some(base)) => (Some(Base::Unheld), days_left(&source, base.id.guid, job)?),
        (false, None) => (Some(Base::Lost), None),
    })
}

/// An error is what `systemctl` says.
fn failed_units() -> FailedUnits {
    if !Path::new("/run/systemd/system").exists() {
        return Ok(None);
    }
    // What fails again and again is between two attempts most of the time, and is not called failed then.
    let states = "--state=failed,auto-restart,auto-restart-queued";
    let arguments = ["list-units", states, "--plain", "--no-legend", "--no-pager"];
    let output = Command::new("systemctl").args(arguments).stdin(std::process::Stdio::null()).output();
    let output = output.map_err(|error| with_causes(&Error::io("run", "systemctl")(error)))?;
    if !output.status.success() {
        return Err(format!("systemctl: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(Some(text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()))
}

/// The units of systemd that a job stops and starts. Where it is not there, they can not be asked after.
fn units_of(job: &Job, failed: &FailedUnits) -> Vec<health::Unit> {
    let services = job.quiesce.iter().flat_map(|quiesce| &quiesce.services);
    let has_failed = |unit: &str| match failed {
        Err(why) => Err(why.clone()),
        Ok(None) => Err("there is no systemd here".into()),
        Ok(Some(failed)) => Ok(failed.iter().any(|failed| failed == unit)),
    };
    services.filter_map(|service| service.unit()).map(|unit| (unit.to_owned(), has_failed(unit))).collect()
}

impl Which {
    /// The configuration.
    ///
    /// # Errors
    /// One that can not be used.
    pub fn config(&self) -> Result<Config> {
        Ok(Config::load(&self.config)?)
    }

    /// The names of the jobs; none for all of them.
    pub fn names(&self) -> &[String] {
        &self.jobs
    }

    /// How long is waited.
    pub fn timeout(&self) -> u64 {
        self.timeout
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hangs_is_looked_at_by_one_thread_alone() {
        let hanging = Hanging::default();
        let first = hanging.begin("a").expect("nobody is");
        assert!(hanging.begin("a").is_none() && hanging.begin("b").is_some());
        drop(first);
        assert!(hanging.begin("a").is_some());
        let panics = std::panic::catch_unwind(|| {
            let _looking = hanging.begin("c").expect("nobody is");
            panic!("it is of no use");
        });
        assert!(panics.is_err() && hanging.begin("c").is_some());
    }
}
