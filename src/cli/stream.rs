//! `cowsnap stream`

use crate::cli::Context;
use crate::{Error, Result};

/// Work on stream files without a kernel
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn run(_: Args, _: &Context) -> Result<()> {
    Err(Error::Usage { what: "stream is not built yet".into(), hint: None })
}
