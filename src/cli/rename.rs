//! `cowsnap rename`

use crate::cli::Context;
use crate::{Error, Result};

/// Rename a dataset or a snapshot
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn run(_: Args, _: &Context) -> Result<()> {
    Err(Error::Usage { what: "rename is not built yet".into(), hint: None })
}
