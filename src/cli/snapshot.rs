//! `cowsnap snapshot`

use crate::cli::Context;
use crate::{Error, Result};

/// Take snapshots
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn run(_: Args, _: &Context) -> Result<()> {
    Err(Error::Usage { what: "snapshot is not built yet".into(), hint: None })
}
