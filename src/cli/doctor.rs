//! `cowsnap doctor`

use crate::cli::Context;
use crate::{Error, Result};

/// Find what an interrupted run left behind
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn run(_: Args, _: &Context) -> Result<()> {
    Err(Error::Usage { what: "doctor is not built yet".into(), hint: None })
}
