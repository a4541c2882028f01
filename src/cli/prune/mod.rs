//! `cowsnap prune`

use std::path::PathBuf;
use std::rc::Rc;

use jiff::{Timestamp, Zoned};
use serde_json::{Value, json};

use crate::cli::table::{Table, size};
use crate::cli::{Context, place};
use crate::config::Job;
use crate::endpoint::{self, Dataset, Details, History, PATIENCE, Prunable, Wait};
use crate::exec::prune::{BySpace, Pruned, Seen, by_space, expect_attainable, prune, prune_by_space, room};
use crate::exec::replicate::{mark_for, mark_for_peer};
use crate::exec::transfer::Place;
use crate::model::{HoldTag, Inventory, Target, Version, VersionRef, quoted};
use crate::plan::retain::{Day, Reason, Retention, Schedule, Verdict, simulate};
use crate::{Error, Result};

mod args;

pub use args::{Args, Rules};

/// Datasets that share their space, with what may go of them, and all that was read of them.
type Group = (Vec<(Dataset, Vec<Version>)>, Vec<Seen>);

/// Runs the subcommand.
pub fn run(args: Args, context: &Context) -> Result<()> {
    let policy = args.policy();
    if policy.is_empty() {
        return Err(Error::Usage {
            what: "no rule says what to keep, so nothing is destroyed".into(),
            hint: Some("cowsnap prune --keep-daily 7 --keep-weekly 4 --dry-run TARGET".into()),
        });
    }
    let now = Timestamp::now().to_zoned(args.rules.zone.clone());
    let mut work = Work { policy, now, read: Vec::new(), errors: Errors::default() };
    let targets = args.targets.iter().map(|text| Ok(Target::parse(text)?)).collect::<Result<Vec<_>>>()?;
    let bases = args.bases(&targets, context)?;
    let named = args.targets.iter().zip(&targets).map(|(text, target)| (text.display().to_string(), target));
    work.read_all(named, &bases, args.recursive, context);
    work.warn_of_the_future(context);
    if let Some(schedule) = args.schedule() {
        work.simulate(schedule, context)?;
    } else if args.explain {
        work.explain(context)?;
    } else if let Some(min_free) = args.by_space {
        match args.dry_run {
            true => work.foresee_by_space(min_free, context)?,
            false => return work.prune_by_space(min_free, context),
        }
    } else if args.dry_run {
        work.foresee(args.sizes, context)?;
    } else {
        let (value, text) = work.prune();
        context.print(&value, text)?;
    }
    work.errors.outcome()
}

/// Destroys what `policy` does not keep of a job's datasets; answers what there is to print, and how it went.
pub(super) fn of_job(job: &Job, policy: &Retention, context: &Context) -> (Value, String, Result<()>) {
    let now = Timestamp::now().to_zoned(job.zone.clone());
    let mut work = Work { policy: policy.clone(), now, read: Vec::new(), errors: Errors::default() };
    let targets: Vec<_> =
        job.datasets.iter().filter_map(|text| Some((text, Target::parse(text.as_ref()).ok()?))).collect();
    let named = targets.iter().map(|(text, target)| (text.to_string(), target));
    work.read_all(named, &[], job.recursive, context);
    work.warn_of_the_future(context);
    let (value, text) = work.prune();
    (value, text, work.errors.outcome())
}

/// Datasets, and what became of them.
struct Work {
    policy: Retention,
    now: Zoned,
    read: Vec<(Dataset, Seen)>,
    errors: Errors,
}

impl Work {
    /// Reads the datasets. What can not be read is a failure of its own.
    fn read_all<'a>(
        &mut self,
        named: impl Iterator<Item = (String, &'a Target)>,
        bases: &[Place],
        recursive: bool,
        context: &Context,
    ) {
        let mut datasets: Vec<Found> = Vec::new();
        for (text, target) in named {
            match found(target, recursive, bases, context) {
                Ok(found) => {
                    for one in found {
                        if !datasets.iter().any(|known| known.dataset == one.dataset) {
                            datasets.push(one);
                        }
                    }
                }
                Err(error) => self.errors.push(text, error),
            }
        }
        self.errors.n = self.errors.failed.len() + datasets.len();
        let described = Dataset::described_together(&datasets.iter().map(|d| &d.dataset).collect::<Vec<_>>());
        for (found, details) in datasets.into_iter().zip(described) {
            match self.seen(&found, details, context) {
                Ok(seen) => self.read.push((found.dataset, seen)),
                Err(error) if found.has_gone(&error) => self.errors.n -= 1,
                Err(error) => self.errors.push(found.dataset.to_string(), error),
            }
        }
    }

    /// What there is of a dataset, of which `details` were read together with those of others, with what is kept for the sake of others.
    fn seen(&self, found: &Found, details: Option<Vec<Details>>, context: &Context) -> Result<Seen> {
        let dataset = &found.dataset;
        let mut seen = match details {
            Some(details) => Seen::with(dataset, details)?,
            None => Seen::of(dataset)?,
        };
        for base in found.bases.iter() {
            let (other, inventory) = match &found.inside {
                None => (base.place.clone(), base.inventory.clone()),
                Some(name) => {
                    let other = base.place.below(name)?;
                    match other.inventory() {
                        Ok(inventory) => (other, inventory),
                        // What was named is there, so what is inside is really not.
                        Err(endpoint::Error::NotFound { .. }) => {
                            context
                                .warn(format!("{other} is not there: nothing of {dataset} is kept for it"));
                            continue;
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
            };
            if !seen.keep_base_with(&other.to_string(), &inventory, &mark_of(&other)) {
                let what = "have no snapshot in common: none is kept for that";
                context.warn(format!("{dataset} and {other} {what}"));
            }
        }
        seen.expect_word(&self.policy, &self.now)?;
        Ok(seen)
    }

    fn warn_of_the_future(&self, context: &Context) {
        for (dataset, seen) in &self.read {
            let verdicts = seen.verdicts(&self.policy, &self.now);
            let of_the_future = verdicts.iter().filter(|v| v.kept_by.contains(&Reason::Future));
            let names: Vec<_> = of_the_future.map(|v| v.version.id.name.to_string()).collect();
            if !names.is_empty() {
                let names = names.join(", ");
                context.warn(format!("{dataset}: from the future by their clock, and kept: {names}"));
            }
        }
    }

    fn going(&self, seen: &Seen) -> Vec<Version> {
        seen.going(&self.policy, &self.now)
    }

    fn explain(&self, context: &Context) -> Result<()> {
        let mut table = Table::new(&["SNAPSHOT", "CREATED (UTC)", "VERDICT", "WHY"]);
        let mut objects = Vec::new();
        for (dataset, seen) in &self.read {
            let verdicts = seen.verdicts(&self.policy, &self.now);
            let snapshots = told(&dataset.to_string(), &verdicts, &mut table);
            objects.push(json!({ "dataset": dataset.to_string(), "snapshots": snapshots }));
        }
        context.print(&json!({ "datasets": objects, "dry_run": true }), table.to_string())
    }

    fn simulate(&self, schedule: Schedule, context: &Context) -> Result<()> {
        let mut table = Table::new(&["DATASET", "DATE", "SNAPSHOTS", "OLDEST", "DESTROYED"]);
        let mut objects = Vec::new();
        for (dataset, seen) in &self.read {
            let days = simulate(&seen.inventory, &self.policy, &seen.around, &self.now, schedule);
            let days = days.map_err(|error| Error::Usage { what: error.to_string(), hint: None })?;
            for day in &days {
                let oldest = day.snapshots.first().map_or("-".into(), ToString::to_string);
                let row =
                    [dataset.to_string(), day.date.to_string(), day.snapshots.len().to_string(), oldest];
                table.row(row.into_iter().chain([joined(day.destroyed.iter())]));
            }
            let days: Vec<_> = days.iter().map(day_object).collect();
            objects.push(json!({ "dataset": dataset.to_string(), "days": days }));
        }
        context.print(&json!({ "datasets": objects, "dry_run": true }), table.to_string())
    }

    fn foresee(&self, sizes: bool, context: &Context) -> Result<()> {
        let (mut text, mut objects) = (String::new(), Vec::new());
        for (dataset, seen) in &self.read {
            let going = self.going(seen);
            let ids: Vec<_> = going.iter().map(|version| version.id.clone()).collect();
            let freed = dataset.would_free(&ids, sizes).unwrap_or_else(|error| {
                context.warn(format!("{dataset}: what would be freed is not known: {error}"));
                None
            });
            for id in &ids {
                text += &format!("would destroy {dataset}@{}\n", id.name);
            }
            let bytes = match (freed, dataset) {
                (Some(bytes), _) => format!("about {} would be freed", size(bytes)),
                (None, Dataset::Btrfs(_)) => "what would be freed is unknown (--sizes reckons it)".into(),
                (None, _) => "what would be freed is unknown".into(),
            };
            text += &match ids.is_empty() {
                true => format!("{dataset}: {} kept, nothing to destroy\n", count_of(seen)),
                false => format!("{dataset}: {} of {} would go; {bytes}\n", ids.len(), count_of(seen)),
            };
            let names: Vec<_> = ids.iter().map(|id| &id.name).collect();
            objects.push(json!({
                "dataset": dataset.to_string(), "snapshots": count_of(seen), "would_destroy": names, "would_free_bytes": freed,
            }));
        }
        context.print(&json!({ "datasets": objects, "dry_run": true }), text)
    }

    fn prune(&mut self) -> (Value, String) {
        let (mut text, mut objects) = (String::new(), Vec::new());
        let mut is_interrupted = false;
        for (dataset, seen) in std::mem::take(&mut self.read) {
            let pruned = match is_interrupted {
                true => Pruned::not_reached(&dataset),
                false => prune(&dataset, &seen.going(&self.policy, &self.now)),
            };
            is_interrupted |= matches!(&pruned.stopped, Some(endpoint::Error::Interrupted { .. }));
            let (line, object) = self.note(&dataset, &seen, pruned);
            text += &line;
            objects.push(object);
        }
        (json!({ "datasets": objects, "dry_run": false }), text)
    }

    /// What became of a dataset, as text and as an object; its errors are kept.
    fn note(&mut self, dataset: &Dataset, seen: &Seen, pruned: Pruned) -> (String, Value) {
        let (text, mut object) = told_of(&dataset.to_string(), count_of(seen), &pruned);
        object["dataset"] = dataset.to_string().into();
        object["snapshots"] = count_of(seen).into();
        self.errors.note(&dataset.to_string(), pruned);
        (text, object)
    }

    fn foresee_by_space(&mut self, min_free: u64, context: &Context) -> Result<()> {
        let (mut text, mut objects) = (String::new(), Vec::new());
        for (group, seen) in self.groups() {
            let room = match room(&group) {
                Ok(room) => room,
                Err(error) => {
                    objects.extend(stopped_before_all(&group, &seen, &error));
                    self.errors.push(group[0].0.to_string(), error.into());
                    continue;
                }
            };
            for (((dataset, going), seen), free) in group.iter().zip(&seen).zip(room) {
                let attainable = expect_attainable(dataset, free, min_free);
                let going = if free < min_free && attainable.is_ok() { going.as_slice() } else { &[] };
                let stopped = attainable.as_ref().err().map(ToString::to_string);
                if let Err(error) = attainable {
                    self.errors.push(dataset.to_string(), error.into());
                }
                let names: Vec<_> = going.iter().map(|version| version.id.name.to_string()).collect();
                for name in &names {
                    text += &format!("may destroy {dataset}@{name}\n");
                }
                text += &format!(
                    "{dataset}: {} free, {} wanted: {} of {} may go, oldest first\n",
                    size(free),
                    size(min_free),
                    names.len(),
                    count_of(seen)
                );
                objects.push(json!({
                    "dataset": dataset.to_string(), "snapshots": count_of(seen), "may_destroy": names, "free_bytes": free,
                    "stopped": stopped,
                }));
            }
        }
        let value = json!({ "datasets": objects, "min_free_bytes": min_free, "dry_run": true });
        context.print(&value, text)
    }

    /// What was read, with what may go: together what shares its space.
    fn groups(&mut self) -> Vec<Group> {
        let (datasets, seen): (Vec<_>, Vec<_>) = std::mem::take(&mut self.read).into_iter().unzip();
        let groups = by_space(&datasets).into_iter().map(|group| {
            let member = |&at: &usize| (datasets[at].clone(), self.going(&seen[at]));
            (group.iter().map(member).collect(), group.iter().map(|&at| seen[at].clone()).collect())
        });
        groups.collect()
    }

    fn prune_by_space(mut self, min_free: u64, context: &Context) -> Result<()> {
        let (mut text, mut objects) = (String::new(), Vec::new());
        let mut short = None;
        let wait = Wait { wanted: min_free, patience: PATIENCE };
        for (members, seen) in self.groups() {
            let done = match prune_by_space(&members, wait) {
                Ok(done) => done,
                Err(error) => {
                    objects.extend(stopped_before_all(&members, &seen, &error));
                    self.errors.push(members[0].0.to_string(), error.into());
                    continue;
                }
            };
            for (((dataset, _), seen), BySpace { pruned, before, free }) in
                members.iter().zip(&seen).zip(done)
            {
                let (line, mut object) = self.note(dataset, seen, pruned);
                text += &format!("{}, {} free\n", line.trim_end(), size(free));
                object["free_bytes_before"] = before.into();
                object["free_bytes"] = free.into();
                objects.push(object);
                if free < min_free {
                    short = short.or(Some((dataset.clone(), free)));
                }
            }
        }
        let value = json!({ "datasets": objects, "min_free_bytes": min_free, "dry_run": false });
        context.print(&value, text)?;
        self.errors.outcome()?;
        short.map_or(Ok(()), |(dataset, free)| Err(not_enough(&dataset, free, min_free)))
    }
}

/// What went wrong, and how much there was to do.
#[derive(Default)]
pub(in crate::cli) struct Errors {
    n: usize,
    failed: Vec<(String, Error)>,
    n_destroyed: usize,
}

impl Errors {
    /// Of so many datasets, or of whatever is pruned by itself.
    pub(in crate::cli) fn of(n: usize) -> Self {
        Self { n, ..Self::default() }
    }

    /// Takes note of one that could not be read.
    pub(in crate::cli) fn push(&mut self, name: String, error: Error) {
        self.failed.push((name, error));
    }

    /// Takes note of what became of one.
    pub(in crate::cli) fn note(&mut self, name: &str, pruned: Pruned) {
        self.n_destroyed += pruned.destroyed.len();
        let errors = pruned.failed.into_iter().map(|(_, error)| error).chain(pruned.stopped);
        self.failed.extend(errors.map(|error| (name.to_owned(), error.into())));
    }

    /// The error, if something went wrong: the only one as it is, if nothing was done.
    pub(in crate::cli) fn outcome(mut self) -> Result<()> {
        let mut names: Vec<_> = self.failed.iter().map(|(name, _)| name.clone()).collect();
        names.dedup();
        match self.failed.len() {
            0 => return Ok(()),
            1 if self.n_destroyed == 0 && self.n == 1 => return Err(self.failed.remove(0).1),
            _ if self.n_destroyed == 0 && self.failed.iter().all(|(_, error)| is_interruption(error)) => {
                return Err(self.failed.remove(0).1);
            }
            _ => {}
        }
        let why =
            |(name, error): &(String, Error)| format!("{name}: {}", crate::cli::doctor::with_causes(error));
        let shown: Vec<_> = self.failed.iter().take(10).map(why).collect();
        let more = self.failed.len().saturating_sub(shown.len());
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        let hint = self.failed.iter().find_map(|(_, error)| error.hint());
        let why = format!("{}{more}", shown.join("; "));
        Err(Error::Partial { op: "prune", failed: names.len(), of: self.n, why, hint })
    }
}

/// Verdicts on what `name` has, as rows and as objects.
pub(in crate::cli) fn told(name: &str, verdicts: &[Verdict<'_>], table: &mut Table) -> Vec<Value> {
    let mut objects = Vec::new();
    for verdict in verdicts {
        let (id, created) = (&verdict.version.id, verdict.version.created);
        let word = if verdict.is_kept() { "keep" } else { "destroy" };
        let time = created.strftime("%Y-%m-%d %H:%M:%S").to_string();
        table.row([format!("{name}@{}", id.name), time, word.into(), verdict.to_string()]);
        let reason = |reason: &Reason<'_>| json!({ "rule": reason.rule(), "says": reason.to_string() });
        objects.push(json!({
            "name": id.name, "guid": id.guid, "created": created, "verdict": word,
            "kept_by": verdict.kept_by.iter().map(reason).collect::<Vec<_>>(),
            "missed": verdict.missed.iter().map(ToString::to_string).collect::<Vec<_>>(),
        }));
    }
    objects
}

/// What became of what `name` has, which was so much before, as text and as an object.
pub(in crate::cli) fn told_of(name: &str, n: usize, pruned: &Pruned) -> (String, Value) {
    let mut text = String::new();
    for id in &pruned.destroyed {
        text += &format!("destroyed {name}@{}\n", id.name);
    }
    for id in &pruned.held {
        text += &format!("{name}@{} is held since, and stays\n", id.name);
    }
    let n_gone = pruned.destroyed.len() + pruned.gone.len();
    text += &match n_gone {
        0 => format!("{name}: {n} kept\n"),
        _ => format!("{name}: {n_gone} destroyed, {} kept\n", n - n_gone),
    };
    let names = |ids: &[VersionRef]| ids.iter().map(|id| id.name.to_string()).collect::<Vec<_>>();
    let failed = pruned.failed.iter();
    let failed: Vec<_> =
        failed.map(|(id, error)| json!({ "name": id.name, "error": error.to_string() })).collect();
    let object = json!({
        "kept": n - n_gone, "destroyed": names(&pruned.destroyed), "gone": names(&pruned.gone),
        "held": names(&pruned.held), "failed": failed, "stopped": pruned.stopped.as_ref().map(ToString::to_string),
    });
    (text, object)
}

/// Datasets of which nothing was destroyed, as nobody knew how much space they have.
fn stopped_before_all<'a>(
    members: &'a [(Dataset, Vec<Version>)],
    seen: &'a [Seen],
    error: &'a endpoint::Error,
) -> impl Iterator<Item = Value> + 'a {
    members.iter().zip(seen).map(move |((dataset, _), seen)| {
        let (_, mut object) = told_of(&dataset.to_string(), count_of(seen), &Pruned::default());
        object["dataset"] = dataset.to_string().into();
        object["snapshots"] = count_of(seen).into();
        object["stopped"] = error.to_string().into();
        object
    })
}

/// A dataset that is to be pruned.
struct Found {
    dataset: Dataset,
    /// What was named, that it is or is inside.
    root: Dataset,
    /// What it is called behind the root's name; `None` if it is the root.
    inside: Option<PathBuf>,
    bases: Rc<Vec<Base>>,
}

impl Found {
    /// Whether `error` says no more than that somebody has destroyed it since what was named was listed, as clones of overlays are.
    fn has_gone(&self, error: &Error) -> bool {
        let is_not_there = |subject: &str| *subject == self.dataset.to_string();
        self.dataset != self.root
            && matches!(error, Error::Endpoint(endpoint::Error::NotFound { subject, .. }) if is_not_there(subject))
    }
}

/// Another place, and what there is, read before anything is destroyed.
struct Base {
    place: Place,
    inventory: Inventory,
}

/// What `target` names.
///
/// # Errors
/// A target that can not be read; a base of it that can not, or is not there: then everything under it would be without a base.
fn found(target: &Target, recursive: bool, bases: &[Place], context: &Context) -> Result<Vec<Found>> {
    let mut all = Vec::new();
    for root in place::with_whole_pools(target, context)? {
        let bases = Rc::new(bases.iter().map(|base| read_base(&root, base)).collect::<Result<Vec<_>>>()?);
        let nested = if recursive { root.all_inside()? } else { Vec::new() };
        let found = |dataset, inside| Found { dataset, root: root.clone(), inside, bases: Rc::clone(&bases) };
        all.push(found(root.clone(), None));
        for dataset in nested {
            let inside = dataset.name_inside(&root);
            // Called after the root, as the user did.
            all.push(found(dataset.counterpart(&root, &root), inside));
        }
    }
    Ok(all)
}

fn read_base(root: &Dataset, base: &Place) -> Result<Base> {
    let is_alike = match base {
        Place::Here(base) => std::mem::discriminant(root) == std::mem::discriminant(base),
        Place::There(peer) => match peer.said()? {
            // That it is not there is said below.
            None => true,
            Some((_, backend)) => root.backend("replicate").is_ok_and(|own| own == backend),
        },
    };
    if !is_alike {
        let what =
            format!("{root} and {base} are of unlike filesystems: they can not have the same snapshots");
        return Err(Error::Usage { what, hint: None });
    }
    Ok(Base { place: base.clone(), inventory: base.inventory()? })
}

/// With what the bookmarks begin by which replication marks what `place` has.
fn mark_of(place: &Place) -> HoldTag {
    match place {
        Place::Here(dataset) => mark_for(dataset),
        Place::There(peer) => mark_for_peer(peer.address()),
    }
}

fn is_interruption(error: &Error) -> bool {
    matches!(error, Error::Endpoint(endpoint::Error::Interrupted { .. }))
}

fn count_of(seen: &Seen) -> usize {
    let versions = seen.inventory.versions().iter();
    versions.filter(|version| version.kind == crate::model::VersionKind::Snapshot).count()
}

fn day_object(day: &Day) -> Value {
    json!({ "date": day.date, "snapshots": day.snapshots, "taken": day.taken, "destroyed": day.destroyed })
}

fn joined(names: impl Iterator<Item = impl ToString>) -> String {
    names.map(|name| name.to_string()).collect::<Vec<_>>().join(", ")
}

fn not_enough(dataset: &Dataset, free: u64, wanted: u64) -> Error {
    endpoint::Error::Refused {
        op: "free",
        subject: format!("{} where {dataset} is", size(wanted)),
        why: format!("{} is free, and the policy keeps all that is left", size(free)),
        hint: Some(format!(
            "cowsnap prune --explain shows why; cowsnap list --sizes {} what they take",
            quoted(dataset)
        )),
    }
    .into()
}
