//! `cowsnap holds`

use std::ffi::OsString;

use serde_json::json;

use crate::Result;
use crate::cli::table::Table;
use crate::cli::{Context, place};
use crate::endpoint::History;

/// Show who keeps which snapshots
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Datasets or snapshots; all datasets of all pools if none is named
    #[arg(value_name = "TARGET[@NAME]")]
    targets: Vec<OsString>,
}

/// Runs the subcommand.
pub fn run(args: Args, context: &Context) -> Result<()> {
    let mut rows = Vec::new();
    let found = place::datasets_or_versions(&args.targets, context)?;
    for (dataset, only) in found.datasets {
        let inventory = dataset.inventory()?;
        for (version, tag) in inventory.holds() {
            if only.as_ref().is_none_or(|name| *name == version.name) {
                rows.push((dataset.to_string(), version.clone(), tag.clone()));
            }
        }
    }
    let mut table = Table::new(&["SNAPSHOT", "TAG"]);
    for (dataset, version, tag) in &rows {
        table.row([format!("{dataset}@{}", version.name), tag.to_string()]);
    }
    let holds: Vec<_> = rows
        .iter()
        .map(|(dataset, version, tag)| json!({ "dataset": dataset, "name": version.name, "guid": version.guid, "tag": tag }))
        .collect();
    context.print(&json!({ "holds": holds }), table.to_string())?;
    found.left_out
}
