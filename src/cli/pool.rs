//! `cowsnap pool`

use crate::cli::Context;
use crate::{Error, Result};

/// Embedded pools: a file, a loop device, btrfs
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn run(_: Args, _: &Context) -> Result<()> {
    Err(Error::Usage { what: "pool is not built yet".into(), hint: None })
}
