//! `cowsnap receive`

use crate::cli::Context;
use crate::{Error, Result};

/// Receive a container or a raw stream on standard input
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn run(_: Args, _: &Context) -> Result<()> {
    Err(Error::Usage { what: "receive is not built yet".into(), hint: None })
}
