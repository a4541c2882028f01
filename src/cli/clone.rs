//! `cowsnap clone`

use std::ffi::OsString;

use serde_json::json;

use crate::Result;
use crate::cli::{Context, place};
use crate::endpoint::Backend;
use crate::model::Target;

/// Make a writable dataset of a snapshot, in milliseconds whatever its size
#[derive(Debug, clap::Args)]
pub struct Args {
    /// TARGET@NAME
    #[arg(value_name = "SNAP")]
    snapshot: OsString,
    /// The new dataset, on the same pool or filesystem
    #[arg(value_name = "NEW")]
    new: OsString,
    /// Of a plain directory whose filesystem can not share blocks between files: copy all of its bytes
    #[arg(long)]
    copy: bool,
    /// Say what would be made
    #[arg(long)]
    dry_run: bool,
}

/// Runs the subcommand.
pub fn run(args: Args, context: &Context) -> Result<()> {
    let (dataset, version) = place::version(&args.snapshot, context)?;
    let dataset = place::with_copies(dataset, args.copy, "clone", context)?;
    let new = place::dataset_for(&dataset, &Target::parse(&args.new)?, context)?;
    let of = format!("{dataset}@{}", version.id.name);
    if args.dry_run {
        let text = format!("would clone {of} to {new}");
        return context.print(&json!({ "dry_run": true, "clone": new.to_string(), "of": of }), text);
    }
    dataset.clone_at(&version.id, &new)?;
    let path = new.mountpoint()?.map(|path| path.display().to_string());
    context.print(
        &json!({ "clone": new.to_string(), "of": of, "path": path }),
        path.as_deref().unwrap_or_default(),
    )
}
