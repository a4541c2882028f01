//! `cowsnap restore`

use crate::cli::Context;
use crate::{Error, Result};

/// Bring data back from a snapshot or from stream files
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn run(_: Args, _: &Context) -> Result<()> {
    Err(Error::Usage { what: "restore is not built yet".into(), hint: None })
}
