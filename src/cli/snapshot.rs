//! `cowsnap snapshot`

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use crate::cli::{Context, place};
use crate::config::Job;
use crate::endpoint::{self, Backend, Dataset, SnapshotRequest, SnapshotSet};
use crate::exec::given;
use crate::model::name::UNCONFIRMED;
use crate::model::{HoldTag, SnapshotName, Target, VersionRef};
use crate::{Error, Result};

/// Take snapshots, of one dataset or of several back to back: all or none are kept
///
/// Prints the snapshots' names. The default name is the time in UTC, 20261120T020000Z, with -2, -3 … when it is or was taken.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Datasets: POOL/NAME, or the absolute path of a btrfs subvolume, a ZFS mount point or a plain directory
    #[arg(required = true, value_name = "TARGET")]
    targets: Vec<OsString>,
    /// The snapshots' name
    #[arg(long)]
    name: Option<SnapshotName>,
    /// A label, kept beside the snapshot
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    /// Hold the snapshots from the first moment
    #[arg(long, value_name = "TAG")]
    hold: Vec<HoldTag>,
    /// Take those of nested datasets too
    #[arg(short, long)]
    recursive: bool,
    /// With -r: leave this dataset out, and what is inside it; may be given several times
    #[arg(long, value_name = "TARGET", requires = "recursive")]
    exclude: Vec<OsString>,
    /// Of a plain directory whose filesystem can not share blocks between files: copy all of its bytes
    #[arg(long)]
    copy: bool,
    /// Take datasets of several ZFS pools, or plain directories in several places, one after another: no instant is common
    /// to them
    #[arg(long)]
    not_atomic: bool,
    /// Say what would be taken
    #[arg(long)]
    dry_run: bool,
    /// Their name says that they may not be good, and is none that one of these would have without that.
    #[arg(skip)]
    unconfirmed: Option<BTreeSet<SnapshotName>>,
}

pub(super) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err("a label is KEY=VALUE".into()),
    }
}

impl Args {
    /// What a job takes.
    pub(super) fn of_job(job: &Job, dry_run: bool) -> Self {
        let mut label = vec![(JOB_LABEL.to_owned(), job.name.clone())];
        label.extend(job.labels.iter().cloned());
        Self {
            targets: job.datasets.iter().map(Into::into).collect(),
            name: None,
            label,
            hold: Vec::new(),
            recursive: job.recursive,
            exclude: Vec::new(),
            copy: job.copy,
            not_atomic: job.not_atomic,
            dry_run,
            unconfirmed: None,
        }
    }

    /// Of which somebody has to say first that they are good: [`confirmed`]. They are not to be taken for `others`, which are.
    pub(super) fn unconfirmed(self, others: BTreeSet<SnapshotName>) -> Self {
        Self { unconfirmed: Some(others), ..self }
    }
}

/// The label that says which job took a snapshot.
pub(super) const JOB_LABEL: &str = "job";

/// Runs the subcommand.
pub fn run(args: Args, context: &Context) -> Result<()> {
    let (value, text) = perform(args, context)?;
    context.print(&value, text)
}

/// Does it, and answers what there is to print.
pub(super) fn perform(args: Args, context: &Context) -> Result<(Value, String)> {
    let excluded = args
        .exclude
        .iter()
        .map(|text| place::dataset(&Target::parse(text)?, context))
        .collect::<Result<_>>()?;
    let mut gathered = Gathered { excluded, unused: Vec::new(), set: Vec::new(), recursive: args.recursive };
    gathered.unused.clone_from(&gathered.excluded);
    for text in &args.targets {
        let dataset = place::existing(&Target::parse(text)?, context)?;
        gathered.add(place::with_copies(dataset, args.copy, "snapshot", context)?, context)?;
    }
    let set = gathered.finish()?;
    let labels = args.label.iter().cloned().collect::<BTreeMap<_, _>>();
    if args.dry_run {
        let name = args.name.unwrap_or_else(|| default_name(Timestamp::now(), 1));
        let names: Vec<_> = set.iter().map(|dataset| format!("{dataset}@{name}")).collect();
        let text = names.iter().map(|name| format!("would take {name}\n")).collect::<String>();
        return Ok((json!({ "dry_run": true, "would_take": names }), text));
    }
    let taken = take(&set, args.name, args.unconfirmed.as_ref(), context, |name| SnapshotRequest {
        name,
        labels: labels.clone(),
        holds: args.hold.clone(),
        not_atomic: args.not_atomic,
    })?;
    Ok(told(&set, &taken, context))
}

/// The datasets that a command means.
struct Gathered {
    excluded: Vec<Dataset>,
    unused: Vec<Dataset>, // Of those, what was not met.
    set: Vec<Dataset>,
    recursive: bool,
}

impl Gathered {
    fn add(&mut self, dataset: Dataset, context: &Context) -> Result<()> {
        self.unused.retain(|unused| *unused != dataset);
        if self.excluded.contains(&dataset) {
            return Ok(());
        }
        let nested = dataset.nested()?;
        if !self.set.contains(&dataset) {
            self.set.push(dataset);
        }
        if self.recursive {
            return nested.into_iter().try_for_each(|child| self.add(child, context));
        }
        if !nested.is_empty() {
            let names: Vec<_> = nested.iter().map(ToString::to_string).collect();
            context.warn(format!(
                "left out, as they are datasets of their own (-r takes them too): {}",
                names.join(", ")
            ));
        }
        Ok(())
    }

    /// # Errors
    /// One to be left out that is not among them: a misspelt name would else take what was not to be taken.
    fn finish(self) -> Result<Vec<Dataset>> {
        if let Some(unused) = self.unused.first() {
            return Err(Error::Usage {
                what: format!("--exclude {unused}: no dataset of that name would be taken"),
                hint: None,
            });
        }
        match self.set.is_empty() {
            true => Err(Error::Usage { what: "everything is excluded".into(), hint: None }),
            false => Ok(self.set),
        }
    }
}

fn take(
    set: &[Dataset],
    name: Option<SnapshotName>,
    unconfirmed: Option<&BTreeSet<SnapshotName>>,
    context: &Context,
    request: impl Fn(SnapshotName) -> SnapshotRequest,
) -> Result<SnapshotSet> {
    if let Some(name) = name {
        return Ok(Backend::snapshot(set, &request(name))?);
    }
    let ids: Vec<_> = set.iter().map(Dataset::identity).collect();
    for nth in 1.. {
        // Where nothing can be noted, the first is taken that is free.
        let (now, nth) = given::next(context.state_dir(), &ids, Timestamp::now).unwrap_or_else(|error| {
            tracing::debug!(%error, "the names of this second are not noted");
            (Timestamp::now(), nth)
        });
        let name = default_name(now, nth);
        let name = match unconfirmed {
            None => name,
            Some(others) if others.contains(&name) => continue,
            Some(_) => format!("{name}{UNCONFIRMED}").parse()?,
        };
        match Backend::snapshot(set, &request(name)) {
            Err(endpoint::Error::Exists { .. }) => {}
            other => return Ok(other?),
        }
    }
    unreachable!("the numbers do not end")
}

/// Gives a snapshot that is known to be good the name that it was to have, or the next one.
pub(super) fn confirmed(dataset: &Dataset, version: &VersionRef) -> Result<SnapshotName> {
    let name = version.name.as_str();
    let wanted = name.strip_suffix(UNCONFIRMED).unwrap_or(name);
    for nth in 1.. {
        let new = if nth == 1 { wanted.parse()? } else { format!("{wanted}-{nth}").parse()? };
        match dataset.rename_version(version, &new) {
            Err(endpoint::Error::Exists { .. }) => {}
            renamed => return Ok(renamed.map(|_| new)?),
        }
    }
    unreachable!("the numbers do not end")
}

/// `20261120T020000Z`, then `20261120T020000Z-2` …
fn default_name(now: Timestamp, nth: u32) -> SnapshotName {
    let now = now.to_zoned(TimeZone::UTC).strftime("%Y%m%dT%H%M%SZ").to_string();
    let text = if nth == 1 { now } else { format!("{now}-{nth}") };
    text.parse().expect("digits and letters are a name")
}

fn told(set: &[Dataset], taken: &SnapshotSet, context: &Context) -> (Value, String) {
    let names: Vec<_> = set.iter().zip(&taken.versions).map(|(d, v)| format!("{d}@{}", v.id.name)).collect();
    let snapshots: Vec<_> = set
        .iter()
        .zip(&taken.versions)
        .map(|(d, v)| json!({ "dataset": d.to_string(), "name": v.id.name, "guid": v.id.guid, "created": v.created }))
        .collect();
    let spread = taken.spread.as_micros() as u64;
    if !taken.atomic {
        context.notice(format!(
            "not of one instant: it took {spread} µs, during which nothing changed (cowsnap adopt makes a directory a \
             dataset whose snapshots are)"
        ));
    } else if set.len() > 1 {
        context.notice(format!("{} snapshots, {spread} µs from the first to the last", set.len()));
    }
    (json!({ "snapshots": snapshots, "spread_us": spread, "atomic": taken.atomic }), names.join("\n"))
}
