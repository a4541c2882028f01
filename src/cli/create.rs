//! `cowsnap create`

use std::ffi::OsString;

use serde_json::json;

use crate::Result;
use crate::cli::{Context, place};
use crate::model::Target;

/// Make an empty dataset: a btrfs subvolume, a ZFS filesystem
#[derive(Debug, clap::Args)]
pub struct Args {
    /// POOL/NAME, or an absolute path on btrfs, or directly below a ZFS mount point, where nothing is yet
    #[arg(value_name = "TARGET")]
    target: OsString,
    /// Say what would be made
    #[arg(long)]
    dry_run: bool,
}

/// Runs the subcommand.
pub fn run(args: Args, context: &Context) -> Result<()> {
    let dataset = place::dataset(&Target::parse(&args.target)?, context)?;
    if args.dry_run {
        return context.print(
            &json!({ "dry_run": true, "would_create": dataset.to_string() }),
            format!("would create {dataset}"),
        );
    }
    dataset.create()?;
    let at = dataset.mountpoint()?;
    let shown = at.as_deref().map(|path| path.display().to_string());
    context.print(
        &json!({ "created": dataset.to_string(), "path": shown }),
        shown.as_deref().unwrap_or_default(),
    )
}
