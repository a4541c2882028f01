//! `cowsnap unmount`

use std::path::PathBuf;

use serde_json::json;

use crate::Result;
use crate::cli::Context;
use crate::endpoint;

/// Unmount a directory that `cowsnap mount` mounted a snapshot on
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The directory
    dir: PathBuf,
    /// Detach it now although it is in use; it goes when its last user does
    #[arg(long)]
    lazy: bool,
}

/// Runs the subcommand.
pub fn run(args: Args, context: &Context) -> Result<()> {
    endpoint::unmount(&args.dir, args.lazy)?;
    context.print(&json!({ "unmounted": args.dir.display().to_string() }), "")
}
