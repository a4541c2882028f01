//! `cowsnap hold`

use std::ffi::OsString;

use serde_json::json;

use crate::Result;
use crate::cli::{Context, halfway, place};
use crate::endpoint::{self, Dataset, History};
use crate::model::{HoldTag, VersionRef};

/// Keep snapshots from being destroyed, until the tag is released
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Who keeps them: a word of your choice
    tag: HoldTag,
    /// Snapshots: TARGET@NAME
    #[arg(required = true, value_name = "SNAP")]
    snapshots: Vec<OsString>,
}

/// Runs the subcommand.
pub fn run(Args { tag, snapshots }: Args, context: &Context) -> Result<()> {
    change_each(&snapshots, &tag, "held", context, |dataset, id| dataset.hold(id, &tag))
}

/// Does the same to each of these snapshots, and prints which they are as `done`. All are found before the first is
/// changed: a wrong name among them changes nothing.
pub(super) fn change_each(
    snapshots: &[OsString],
    tag: &HoldTag,
    done: &'static str,
    context: &Context,
    change: impl Fn(&Dataset, &VersionRef) -> endpoint::Result<()>,
) -> Result<()> {
    let found = place::versions(snapshots, context)?;
    for (n, (dataset, version)) in found.iter().enumerate() {
        change(dataset, &version.id).map_err(|error| halfway(n, found.len(), done, error))?;
    }
    let names: Vec<_> = found.iter().map(|(dataset, v)| format!("{dataset}@{}", v.id.name)).collect();
    context.print(&json!({ "tag": tag, (done): names }), "")
}
