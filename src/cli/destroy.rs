//! `cowsnap destroy`

use crate::cli::Context;
use crate::{Error, Result};

/// Destroy snapshots or a dataset
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn run(_: Args, _: &Context) -> Result<()> {
    Err(Error::Usage { what: "destroy is not built yet".into(), hint: None })
}
