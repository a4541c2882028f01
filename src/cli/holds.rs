//! `cowsnap holds`

use crate::cli::Context;
use crate::{Error, Result};

/// Show who keeps which snapshots
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn run(_: Args, _: &Context) -> Result<()> {
    Err(Error::Usage { what: "holds is not built yet".into(), hint: None })
}
