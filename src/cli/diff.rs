//! `cowsnap diff`

use crate::cli::Context;
use crate::{Error, Result};

/// Show what changed between two snapshots, or since one
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn run(_: Args, _: &Context) -> Result<()> {
    Err(Error::Usage { what: "diff is not built yet".into(), hint: None })
}
