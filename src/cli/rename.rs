//! `cowsnap rename`

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use serde_json::json;

use crate::cli::{Context, place};
use crate::endpoint::Dataset;
use crate::model::{SnapshotName, SnapshotRef, Target, quoted};
use crate::pool::Registry;
use crate::{Error, Result};

/// Rename a snapshot or a dataset; a dataset takes its snapshots along
#[derive(Debug, clap::Args)]
pub struct Args {
    /// TARGET@NAME or TARGET
    from: OsString,
    /// The new name: NAME, @NAME or TARGET@NAME for a snapshot, TARGET for a dataset
    to: OsString,
    /// Say what would be renamed
    #[arg(long)]
    dry_run: bool,
}

/// Runs the subcommand.
pub fn run(args: Args, context: &Context) -> Result<()> {
    match place::names_a_snapshot(&args.from) {
        true => rename_snapshot(&args, context),
        false => rename_dataset(&args, context),
    }
}

fn rename_snapshot(args: &Args, context: &Context) -> Result<()> {
    let (dataset, version) = place::version(&args.from, context)?;
    let new = new_name(&args.from, &args.to)?;
    let (from, to) = (format!("{dataset}@{}", version.id.name), format!("{dataset}@{new}"));
    if !args.dry_run {
        dataset.rename_version(&version.id, &new)?;
    }
    say(&from, &to, args.dry_run, context)
}

fn new_name(from: &OsString, to: &OsString) -> Result<SnapshotName> {
    let bytes = to.as_bytes();
    if let Some(name) = bytes.strip_prefix(b"@").or_else(|| (!bytes.contains(&b'@')).then_some(bytes)) {
        return Ok(String::from_utf8_lossy(name).parse()?);
    }
    let (from, to) = (SnapshotRef::parse(from)?, SnapshotRef::parse(to)?);
    match from.target == to.target {
        true => Ok(to.name),
        false => Err(Error::Usage {
            what: format!("{from} can not become a snapshot of {}", to.target),
            hint: Some(format!("cowsnap send {} | cowsnap receive {}", quoted(from), quoted(&to.target))),
        }),
    }
}

fn rename_dataset(args: &Args, context: &Context) -> Result<()> {
    let from = place::dataset(&Target::parse(&args.from)?, context)?;
    let to = place::dataset_for(&from, &Target::parse(&args.to)?, context)?;
    let registry = Registry::open(context.state_dir())?;
    let adoptions = match (&from, &to) {
        (Dataset::Btrfs(from), Dataset::Btrfs(to)) => registry.adoptions_to_follow(from, to)?,
        _ => Vec::new(), // Directories are adopted into embedded pools.
    };
    if !args.dry_run {
        from.rename_dataset(&to)?;
        registry.follow(&adoptions)?;
    }
    say(&from.to_string(), &to.to_string(), args.dry_run, context)
}

fn say(from: &str, to: &str, dry_run: bool, context: &Context) -> Result<()> {
    let text = if dry_run { format!("would rename {from} to {to}") } else { String::new() };
    context.print(&json!({ "dry_run": dry_run, "from": from, "to": to }), text)
}
