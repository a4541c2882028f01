//! `cowsnap adopt`

use std::path::PathBuf;

use serde_json::json;

use crate::Result;
use crate::cli::Context;
use crate::cli::progress::Progress;
use crate::model::{DatasetName, quoted};
use crate::pool::size::human;
use crate::pool::{self, AdoptPlan, AdoptRequest, Registry};

/// Move a plain directory into a dataset that is mounted in its place
///
/// The directory is copied into a new dataset, the copy is read back and compared, a first snapshot is taken, and the
/// dataset is mounted at the directory's path. The old copy stays beside it, as DIR.cowsnap-old, until --discard-old.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The directory; nothing may be writing to it
    dir: PathBuf,
    /// The dataset to be: POOL/NAME
    #[arg(long, value_name = "DATASET", required_unless_present_any = ["undo", "discard_old"])]
    to: Option<DatasetName>,
    /// Copy although a process has files open for writing; changes are noticed all the same
    #[arg(long, requires = "to")]
    force_open: bool,
    /// Put the old copy back in its place; the dataset stays
    #[arg(long, conflicts_with_all = ["to", "discard_old"])]
    undo: bool,
    /// Remove the old copy, after comparing the first snapshot with what was copied
    #[arg(long, conflicts_with = "to")]
    discard_old: bool,
    /// Print what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// Runs the subcommand.
pub fn run(args: Args, context: &Context) -> Result<()> {
    let registry = Registry::open(context.state_dir())?;
    if args.undo {
        return undo(&args, &registry, context);
    }
    match args.to.clone() {
        Some(to) => adopt(&args, to, &registry, context),
        None => discard(&args, &registry, context),
    }
}

fn adopt(args: &Args, to: DatasetName, registry: &Registry, context: &Context) -> Result<()> {
    let request = AdoptRequest { dir: args.dir.clone(), to, force_open: args.force_open };
    let plan = match args.dry_run {
        true => pool::plan_adoption(registry, &request)?,
        false => pool::adopt(registry, &request, &Progress::new(context))?,
    };
    let text = if args.dry_run { planned(&plan) } else { done(&plan) };
    context.print(&json!({ "adopted": plan, "dry_run": args.dry_run }), text)
}

fn planned(plan: &AdoptPlan) -> String {
    format!(
        "would copy {} ({} on disk, {} of it copied already, {} free) in {} files and directories\n\
         from {} to {}, read it back, take a first snapshot,\n\
         mount {} at {}, and keep the old copy at {}",
        human(plan.bytes),
        human(plan.disk_bytes),
        human(plan.copied_bytes),
        human(plan.free),
        plan.entries,
        plan.dir,
        plan.to,
        plan.to,
        plan.dir,
        plan.old
    )
}

fn done(plan: &AdoptPlan) -> String {
    let snapshot = plan.snapshot.as_ref().map_or_else(String::new, |name| format!("{}@{name}", plan.to));
    format!(
        "{} is now {}: {} in {} files and directories, read back and compared; first snapshot {snapshot}\n\
         the old copy is at {}; when all is well: cowsnap adopt {} --discard-old",
        plan.dir,
        plan.to,
        human(plan.bytes),
        plan.entries,
        plan.old,
        quoted(&plan.dir)
    )
}

fn undo(args: &Args, registry: &Registry, context: &Context) -> Result<()> {
    let dir = args.dir.display();
    if args.dry_run {
        let value = json!({ "undone": dir.to_string(), "dry_run": true });
        return context.print(&value, format!("would put the old copy back at {dir}"));
    }
    let adoption = pool::undo(registry, &args.dir)?;
    let value = json!({ "undone": dir.to_string(), "dataset": adoption.to, "dry_run": false });
    let text = match adoption.phase {
        pool::Phase::Copying => format!("{dir} is as it was; the unfinished copy is gone"),
        pool::Phase::Discarded => format!("{dir} is an empty directory: {} is gone", adoption.to),
        _ => format!(
            "{dir} is the old copy again; what was written since it was adopted is in {}, which stays",
            adoption.to
        ),
    };
    context.print(&value, text)
}

fn discard(args: &Args, registry: &Registry, context: &Context) -> Result<()> {
    let dir = args.dir.display();
    if args.dry_run {
        let value = json!({ "discarded": dir.to_string(), "dry_run": true });
        return context
            .print(&value, format!("would compare the first snapshot of {dir} and remove the old copy"));
    }
    let n_files = pool::discard_old(registry, &args.dir, &Progress::new(context))?;
    let value = json!({ "discarded": dir.to_string(), "compared_files": n_files, "dry_run": false });
    context.print(
        &value,
        format!("{n_files} files of the first snapshot compared; the old copy of {dir} is gone"),
    )
}
