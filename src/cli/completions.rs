//! `cowsnap completions`

use crate::cli::Context;
use crate::{Error, Result};

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn run(_: Args, _: &Context) -> Result<()> {
    Err(Error::Usage { what: "completions is not built yet".into(), hint: None })
}
