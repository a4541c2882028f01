//! `cowsnap release`

use std::ffi::OsString;

use crate::Result;
use crate::cli::{Context, hold};
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
pub fn run(Args { tag, snapshots }: Args, context: &Context) -> Result<()> {
    hold::change_each(&snapshots, &tag, "released", context, |dataset, id| dataset.release(id, &tag))
}
