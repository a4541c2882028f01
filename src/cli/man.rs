//! `cowsnap man`

use crate::cli::Context;
use crate::{Error, Result};

/// Write the man pages
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn run(_: Args, _: &Context) -> Result<()> {
    Err(Error::Usage { what: "man is not built yet".into(), hint: None })
}
