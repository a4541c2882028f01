//! `cowsnap unmount`

use crate::cli::Context;
use crate::{Error, Result};

/// Unmount a directory that cowsnap mounted
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn run(_: Args, _: &Context) -> Result<()> {
    Err(Error::Usage { what: "unmount is not built yet".into(), hint: None })
}
