//! `cowsnap create`

use crate::cli::Context;
use crate::{Error, Result};

/// Make an empty dataset
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn run(_: Args, _: &Context) -> Result<()> {
    Err(Error::Usage { what: "create is not built yet".into(), hint: None })
}
