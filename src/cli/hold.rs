//! `cowsnap hold`

use crate::cli::Context;
use crate::{Error, Result};

/// Keep snapshots from being destroyed
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn run(_: Args, _: &Context) -> Result<()> {
    Err(Error::Usage { what: "hold is not built yet".into(), hint: None })
}
