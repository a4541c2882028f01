//! `cowsnap mount`

use crate::cli::Context;
use crate::{Error, Result};

/// Mount a snapshot on a directory
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn run(_: Args, _: &Context) -> Result<()> {
    Err(Error::Usage { what: "mount is not built yet".into(), hint: None })
}
