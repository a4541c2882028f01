//! `cowsnap rollback`

use std::ffi::OsString;

use serde_json::json;

use crate::Result;
use crate::cli::{Context, place};
use crate::endpoint::{Backend, Dataset, RollbackRequest, RolledBack};
use crate::model::{SnapshotName, VersionRef};

/// Put a snapshot's content in place of the live dataset
///
/// What it replaces is kept as a snapshot; snapshots newer than SNAP stay. The exchange is atomic: whoever looks sees the
/// one or the other. Stop the service first: processes with open files keep the old content.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// TARGET@NAME
    #[arg(value_name = "SNAP")]
    snapshot: OsString,
    /// The name of the snapshot that keeps what is replaced [default: pre-rollback- and the time in UTC]
    #[arg(long, value_name = "NAME")]
    keep_as: Option<SnapshotName>,
    /// Take nested datasets along
    #[arg(short, long)]
    recursive: bool,
    /// Of a plain directory whose filesystem can not share blocks between files: copy all of its bytes
    #[arg(long)]
    copy: bool,
    /// Say what would be done
    #[arg(long)]
    dry_run: bool,
}

/// Runs the subcommand.
pub fn run(args: Args, context: &Context) -> Result<()> {
    let (dataset, version) = place::version(&args.snapshot, context)?;
    let dataset = place::with_copies(dataset, args.copy, "roll back", context)?;
    let to = format!("{dataset}@{}", version.id.name);
    if args.dry_run {
        let kept = args.keep_as.map_or("pre-rollback-TIME".into(), String::from);
        let all = dataset.to_roll_back(&version.id, args.recursive)?;
        return say_what_would_go_back(&all, &kept, context);
    }
    let request = RollbackRequest { keep_as: args.keep_as, recursive: args.recursive };
    let done = dataset.rollback(&version.id, &request)?;
    report(&dataset.to_string(), &to, &done, context)
}

fn say_what_would_go_back(all: &[(Dataset, VersionRef)], kept: &str, context: &Context) -> Result<()> {
    let step = |(dataset, version): &(Dataset, VersionRef)| {
        let to = format!("{dataset}@{}", version.name);
        let text = format!("would keep {dataset} as {dataset}@{kept}\nwould put {to} in its place\n");
        (to, text)
    };
    let (mut to, text): (Vec<_>, String) = all.iter().map(step).unzip();
    let inside = to.split_off(1);
    let dataset = all[0].0.to_string();
    context.print(
        &json!({ "dry_run": true, "dataset": dataset, "to": to[0], "inside": inside, "keep_as": kept }),
        text,
    )
}

/// Prints what going back did.
pub(super) fn report(dataset: &str, to: &str, done: &RolledBack, context: &Context) -> Result<()> {
    for warning in &done.warnings {
        context.warn(warning);
    }
    for mount in &done.remounted {
        context.notice(format!("exchanged the mount at {}", mount.display()));
    }
    let keeper = done.aside.as_deref().unwrap_or(dataset);
    let mut kept: Vec<_> = done.kept.iter().map(|version| format!("{keeper}@{}", version.id.name)).collect();
    kept.extend(done.kept_inside.iter().cloned());
    let remounted: Vec<_> = done.remounted.iter().map(|path| path.display().to_string()).collect();
    let object = json!({
        "dataset": dataset, "to": to, "kept": kept, "aside": done.aside, "moved": done.moved, "remounted": remounted,
    });
    let newer = match done.aside.as_ref().filter(|_| done.newer_aside) {
        Some(aside) => format!("; what is newer than {to} is in {aside}"),
        None => String::new(),
    };
    context
        .print(&object, format!("{dataset} is {to} again; what it was is kept as {}{newer}", kept.join(", ")))
}
