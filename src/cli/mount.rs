//! `cowsnap mount`

use std::ffi::OsString;
use std::path::PathBuf;

use serde_json::json;

use crate::Result;
use crate::cli::{Context, place};
use crate::endpoint::Backend;

/// Mount a snapshot, read-only, on a directory; `cowsnap unmount` takes it away
#[derive(Debug, clap::Args)]
pub struct Args {
    /// TARGET@NAME
    #[arg(value_name = "SNAP")]
    snapshot: OsString,
    /// A directory that exists
    dir: PathBuf,
}

/// Runs the subcommand.
pub fn run(args: Args, context: &Context) -> Result<()> {
    let (dataset, version) = place::version(&args.snapshot, context)?;
    dataset.mount(&version.id, &args.dir)?.keep();
    let of = format!("{dataset}@{}", version.id.name);
    context.print(&json!({ "mounted": of, "at": args.dir.display().to_string() }), "")
}
