//! `cowsnap man`

use std::path::PathBuf;

use clap::CommandFactory;

use crate::cli::{Cli, Context};
use crate::{Error, Result};

/// Write the man pages
///
/// One page per command, `cowsnap.1`, `cowsnap-send.1`, `cowsnap-pool-create.1` and so on, made from the same definitions
/// as the help texts. DIR is made if it is not there; pages of these names in it are replaced.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The directory to write them to
    dir: PathBuf,
}

/// Runs the subcommand.
pub fn run(args: Args, _: &Context) -> Result<()> {
    std::fs::create_dir_all(&args.dir).map_err(Error::io("create", args.dir.display()))?;
    clap_mangen::generate_to(Cli::command(), &args.dir)
        .map_err(Error::io("write man pages to", args.dir.display()))
}
