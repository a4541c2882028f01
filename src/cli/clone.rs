//! `cowsnap clone`

use crate::cli::Context;
use crate::{Error, Result};

/// Make a writable dataset of a snapshot
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn run(_: Args, _: &Context) -> Result<()> {
    Err(Error::Usage { what: "clone is not built yet".into(), hint: None })
}
