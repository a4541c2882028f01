//! `cowsnap destroy`

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use serde_json::json;

use crate::cli::{Context, place};
use crate::endpoint::{Dataset, DestroyDataset, Error as EndpointError, History, PATIENCE, WAIT_FOR_SPACE};
use crate::exec::archive::left;
use crate::model::{Target, Version, quoted};
use crate::pool::Registry;
use crate::{Error, Result};

/// Destroy snapshots, or a dataset
///
/// Held snapshots, and datasets with snapshots, nested datasets or mounts, are refused. Space comes back in the
/// background unless --sync waits for it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// TARGET@NAME for snapshots, TARGET for a dataset, TARGET@%partial for what was received in part
    #[arg(required = true, value_name = "TARGET[@NAME]")]
    targets: Vec<OsString>,
    /// Destroy a dataset's snapshots with it
    #[arg(long)]
    snapshots: bool,
    /// Wait until the space has come back
    #[arg(long)]
    sync: bool,
    /// Say what would go
    #[arg(long)]
    dry_run: bool,
}

/// What names, behind a target, what was received into it in part.
const PARTIAL: &str = "@%partial";

enum Victim {
    Snapshot(Dataset, Version),
    Dataset(Dataset),
    Partial(Dataset),
}

impl std::fmt::Display for Victim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Snapshot(dataset, version) => write!(f, "{dataset}@{}", version.id.name),
            Self::Dataset(dataset) => write!(f, "{dataset}"),
            Self::Partial(dataset) => write!(f, "{dataset}{PARTIAL}"),
        }
    }
}

/// Runs the subcommand.
pub fn run(args: Args, context: &Context) -> Result<()> {
    // All are found before the first goes: a wrong name among them changes nothing.
    let mut victims = Vec::new();
    for text in &args.targets {
        victims.push(find(text, context)?);
    }
    for victim in &victims {
        check(victim, args.snapshots, context)?;
    }
    if args.dry_run {
        victims.iter().try_for_each(|victim| foresee(victim, &args))?;
        return say_what_would_go(&victims, context);
    }
    let Done { destroyed, waited, failed } = each(&victims, |victim| destroy(victim, &args, context));
    if let Some(error) = failed {
        return Err(partial(error, &destroyed, victims.len(), context));
    }
    context.print(&json!({ "destroyed": destroyed }), "")?;
    waited.map_or(Ok(()), Err)
}

/// What became of those that were to be destroyed.
struct Done {
    destroyed: Vec<String>,
    /// The first whose space did not come back in time.
    waited: Option<Error>,
    /// Why the rest is still there.
    failed: Option<Error>,
}

/// Destroys one after the other until one can not be. What only was waited for in vain is destroyed, and stops no other.
fn each<V: ToString>(victims: &[V], destroy: impl Fn(&V) -> Result<()>) -> Done {
    let mut done = Done { destroyed: Vec::new(), waited: None, failed: None };
    for victim in victims {
        match destroy(victim) {
            Ok(()) => {}
            Err(error) if is_about_space(&error) => {
                done.waited.get_or_insert(error);
            }
            Err(error) => {
                done.failed = Some(error);
                return done;
            }
        }
        done.destroyed.push(victim.to_string());
    }
    done
}

fn is_about_space(error: &Error) -> bool {
    matches!(error, Error::Endpoint(EndpointError::Io { op: WAIT_FOR_SPACE, source, .. })
        if source.kind() == std::io::ErrorKind::TimedOut)
}

fn find(text: &OsString, context: &Context) -> Result<Victim> {
    if let Some(target) = text.as_bytes().strip_suffix(PARTIAL.as_bytes()) {
        return find_partial(place::dataset(&Target::parse(OsStr::from_bytes(target))?, context)?);
    }
    if place::names_a_snapshot(text) {
        let (dataset, version) = place::version(text, context)?;
        return Ok(Victim::Snapshot(dataset, version));
    }
    let dataset = place::dataset(&Target::parse(text)?, context)?;
    if dataset.inventory()?.versions().is_empty() {
        dataset.expect_live()?;
    }
    Ok(Victim::Dataset(dataset))
}

fn find_partial(dataset: Dataset) -> Result<Victim> {
    if !dataset.partials()?.is_empty() {
        return Ok(Victim::Partial(dataset));
    }
    let subject = format!("{dataset}{PARTIAL}");
    Err(EndpointError::NotFound { what: "partial receive", subject, hint: None }.into())
}

/// What can be seen beforehand to be refused is, before anything goes.
fn check(victim: &Victim, with_snapshots: bool, context: &Context) -> Result<()> {
    match victim {
        Victim::Partial(_) => Ok(()),
        Victim::Dataset(dataset) => {
            let inventory = dataset.inventory()?;
            let n_snapshots = inventory.versions().len();
            if n_snapshots > 0 && !with_snapshots {
                return Err(EndpointError::Refused {
                    op: "destroy",
                    subject: dataset.to_string(),
                    why: format!("it has {n_snapshots} snapshots"),
                    hint: Some(format!("cowsnap destroy --snapshots {}", quoted(dataset))),
                }
                .into());
            }
            if let Dataset::Btrfs(dataset) = dataset {
                Registry::open(context.state_dir())?.check_not_in_use("destroy", dataset)?;
            }
            inventory.holds().first().map_or(Ok(()), |(version, _)| held(dataset, version, &inventory))
        }
        Victim::Snapshot(dataset, version) => {
            let inventory = dataset.inventory()?;
            if inventory.holds_of(&version.id).next().is_some() {
                return held(dataset, &version.id, &inventory);
            }
            Ok(())
        }
    }
}

/// What destroying would find in the way, of what is looked at only then.
fn foresee(victim: &Victim, args: &Args) -> Result<()> {
    match victim {
        Victim::Dataset(Dataset::Zfs(dataset)) => {
            Ok(dataset.expect_destroyable(DestroyDataset { snapshots: args.snapshots })?)
        }
        Victim::Dataset(_) | Victim::Snapshot(..) | Victim::Partial(_) => Ok(()),
    }
}

fn held(
    dataset: &Dataset,
    version: &crate::model::VersionRef,
    inventory: &crate::model::Inventory,
) -> Result<()> {
    let tags = inventory.holds_of(version).map(ToString::to_string).collect();
    Err(EndpointError::Held { subject: format!("{dataset}@{}", version.name), tags }.into())
}

fn destroy(victim: &Victim, args: &Args, context: &Context) -> Result<()> {
    match victim {
        Victim::Snapshot(dataset, version) if args.sync => dataset.destroy_and_wait(&version.id, PATIENCE)?,
        Victim::Snapshot(dataset, version) => dataset.destroy(&version.id)?,
        Victim::Partial(dataset) => {
            if let Some(container) = dataset.give_up_partial()? {
                left::forget(context.state_dir(), &container);
            }
        }
        Victim::Dataset(dataset) => dataset.destroy_dataset(DestroyDataset { snapshots: args.snapshots })?,
    }
    Ok(())
}

fn say_what_would_go(victims: &[Victim], context: &Context) -> Result<()> {
    let mut names = Vec::new();
    for victim in victims {
        if let Victim::Dataset(dataset) = victim {
            let inventory = dataset.inventory()?;
            names.extend(inventory.versions().iter().map(|v| format!("{dataset}@{}", v.id.name)));
        }
        names.push(victim.to_string());
    }
    let text = names.iter().map(|name| format!("would destroy {name}\n")).collect::<String>();
    context.print(&json!({ "dry_run": true, "would_destroy": names }), text)
}

/// Says what had gone before the error; with nothing gone, the error is all there is to say.
fn partial(error: Error, destroyed: &[String], of: usize, context: &Context) -> Error {
    if destroyed.is_empty() {
        return error;
    }
    context.warn(format!("destroyed before the error: {}", destroyed.join(", ")));
    Error::Halfway { what: format!("{} of {of} destroyed", destroyed.len()), source: Box::new(error) }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io;

    use super::*;

    #[test]
    fn what_was_only_waited_for_in_vain_is_destroyed_and_stops_no_other() {
        let late = |op, subject: &str| {
            let source = io::ErrorKind::TimedOut.into();
            Err(EndpointError::Io { op, subject: subject.into(), source }.into())
        };
        let tried = RefCell::new(Vec::new());
        let one = |victim: &&str| {
            tried.borrow_mut().push(victim.to_string());
            match *victim {
                "late" | "later" => late(WAIT_FOR_SPACE, victim),
                "locked" => late("lock", victim),
                _ => Ok(()),
            }
        };
        let done = each(&["a", "late", "b", "later"], one);
        assert_eq!(done.destroyed, ["a", "late", "b", "later"]);
        assert!(done.failed.is_none() && done.waited.unwrap().to_string().contains("late"));
        // Anything else does.
        tried.borrow_mut().clear();
        let done = each(&["late", "locked", "a"], one);
        assert_eq!((&done.destroyed, tried.take().len()), (&vec!["late".to_owned()], 2));
        assert!(done.failed.unwrap().to_string().contains("locked"));
        assert!(each(&["a"], one).waited.is_none());
    }
}
