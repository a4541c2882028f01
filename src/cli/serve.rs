//! `cowsnap serve`

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::process::ExitCode;

use crate::cli::{Context, place};
use crate::endpoint::peer::{Line, Patience, Rights, Under, Verb};
use crate::exec::serve::Server;
use crate::sys::interrupt::Timely;
use crate::{Error, Result};

/// Serve a peer's `cowsnap replicate` on standard input and output
///
/// Started by ssh. In authorized_keys it says what the key is for:
/// command="cowsnap serve --allow receive --under pool/backups --append-only",restrict ssh-ed25519 AAAA…
/// Nothing that the client says reaches a shell.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What the client may do: list, send, receive, hold, destroy, verify; all of it by default
    #[arg(long, value_name = "VERB", value_delimiter = ',')]
    allow: Vec<Verb>,
    /// Only on this dataset or directory and below it; may be given several times
    #[arg(long, value_name = "TARGET")]
    under: Vec<Under>,
    /// Nothing may be destroyed, no hold released but those of replication itself, and no date made up that retention would go by
    #[arg(long)]
    append_only: bool,
    /// ZFS: what is encrypted may be sent readable if the client asks for that; a key without --allow, --under and --append-only may have it anyway
    #[arg(long)]
    allow_plaintext: bool,
    /// btrfs: so much of a stream may have to come again after it was broken off
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = super::replicate::interval)]
    checkpoint: u64,
    /// End, whatever is at work, when the process of that number does, which has started this one
    #[arg(long, value_name = "PID", hide = true)]
    with: Option<i32>,
}

/// Runs the subcommand. What goes wrong is said to the client, who says it to the user.
pub fn run(args: Args, context: &Context) -> Result<ExitCode> {
    if io::stdin().is_terminal() {
        let what = "cowsnap serve talks to a program, not to a person".into();
        return Err(Error::Usage {
            what,
            hint: Some("cowsnap replicate TARGET ssh://HOST/TARGET starts it there".into()),
        });
    }
    if let Some(process) = args.with
        && !ends_with(process)?
    {
        return Ok(ExitCode::SUCCESS);
    }
    let is_bounded = !args.allow.is_empty() || !args.under.is_empty() || args.append_only;
    let rights = Rights {
        verbs: if args.allow.is_empty() { Verb::ALL.to_vec() } else { args.allow },
        under: args.under,
        append_only: args.append_only,
        plaintext: args.allow_plaintext || !is_bounded,
    };
    // How long a transfer may stand still is for the client to say.
    let patience = Patience { stall: None, ..Patience::default() };
    let line = line(patience)?;
    let resolve = |target: &_| place::dataset(target, context);
    let (keep_every, state_dir) = (args.checkpoint, context.state_dir());
    match (Server { rights: &rights, resolve: &resolve, keep_every, state_dir }).serve(&line) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            tracing::info!(error = &error as &dyn std::error::Error, "the conversation ended");
            Ok(ExitCode::from(error.class().exit_code()))
        }
    }
}

/// From here on this process ends with `process`, as if it were a part of that; `false` if that is gone already.
fn ends_with(process: i32) -> Result<bool> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(|error| Error::io("end with", "who replicates")(error.into()))?;
    Ok(rustix::process::getppid().is_some_and(|parent| parent.as_raw_nonzero().get() == process))
}

fn line(patience: Patience) -> Result<Line> {
    let io = |error| Error::io("talk to", "the client")(error);
    let input = io::stdin().as_fd().try_clone_to_owned().map_err(io)?;
    let output = io::stdout().as_fd().try_clone_to_owned().map_err(io)?;
    let input = Timely::new(std::fs::File::from(input), Some(patience.silence));
    let output = Timely::new(std::fs::File::from(output), patience.stall);
    Ok(Line::new("the client", input, output, patience)?)
}
