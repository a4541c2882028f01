//! `cowsnap send`

use crate::cli::Context;
use crate::{Error, Result};

/// Write a snapshot to standard output as a container or a raw stream
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn run(_: Args, _: &Context) -> Result<()> {
    Err(Error::Usage { what: "send is not built yet".into(), hint: None })
}
