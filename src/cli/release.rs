//! `cowsnap release`

use std::ffi::OsString;

use serde_json::json;

use crate::Result;
use crate::cli::{Context, halfway, place};
use crate::endpoint::History;
use crate::model::HoldTag;

/// Take a hold off snapshots
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The tag that they are held by
    tag: HoldTag,
    /// Snapshots: TARGET@NAME
    #[arg(required = true, value_name = "SNAP")]
    snapshots: Vec<OsString>,
}

/// Runs the subcommand.
pub fn run(args: Args, context: &Context) -> Result<()> {
    // All are found before the first is released: a wrong name among them changes nothing.
    let found = place::versions(&args.snapshots, context)?;
    for (n, (dataset, version)) in found.iter().enumerate() {
        let done = dataset.release(&version.id, &args.tag);
        done.map_err(|error| halfway(n, found.len(), "released", error))?;
    }
    let released: Vec<_> = found.iter().map(|(dataset, v)| format!("{dataset}@{}", v.id.name)).collect();
    context.print(&json!({ "tag": args.tag, "released": released }), "")
}
