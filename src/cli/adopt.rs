//! `cowsnap adopt`

use crate::cli::Context;
use crate::{Error, Result};

/// Move a plain directory into a dataset
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn run(_: Args, _: &Context) -> Result<()> {
    Err(Error::Usage { what: "adopt is not built yet".into(), hint: None })
}
