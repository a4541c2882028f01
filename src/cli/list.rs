//! `cowsnap list`

use crate::cli::Context;
use crate::{Error, Result};

/// List datasets and snapshots
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn run(_: Args, _: &Context) -> Result<()> {
    Err(Error::Usage { what: "list is not built yet".into(), hint: None })
}
