//! `cowsnap completions`

use std::io::{self, Write};

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::{Cli, Context};
use crate::{Error, Result};

/// Print a completion script for a shell
///
/// bash: `cowsnap completions bash > /usr/share/bash-completion/completions/cowsnap`; fish:
/// `cowsnap completions fish > ~/.config/fish/completions/cowsnap.fish`; zsh: as `_cowsnap` in a directory of `$fpath`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which shell
    shell: Shell,
}

/// Runs the subcommand.
pub fn run(args: Args, _: &Context) -> Result<()> {
    // Into memory first: the generator panics on a pipe that was closed.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "cowsnap", &mut script);
    match io::stdout().lock().write_all(&script) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(Error::io("write to", "standard output")),
    }
}
