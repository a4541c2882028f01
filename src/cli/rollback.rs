//! `cowsnap rollback`

use crate::cli::Context;
use crate::{Error, Result};

/// Put a snapshot in place of the live dataset, keeping what it replaces
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn run(_: Args, _: &Context) -> Result<()> {
    Err(Error::Usage { what: "rollback is not built yet".into(), hint: None })
}
