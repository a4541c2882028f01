//! `cowsnap overlay`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use crate::cli::{Context, progress};
use crate::endpoint::Error as EndpointError;
use crate::endpoint::overlay::survivors::Survivor;
use crate::endpoint::overlay::{Home, fuse, plain};
use crate::exec::overlay::{Survivors, sweep};
use crate::model::overlay::{Mode, OverlayName, Record};
use crate::{Error, Result};

mod base;
mod commit;
mod create;
mod destroy;
mod diff;
mod export;
mod hold;
mod import;
mod layers;
mod list;
mod mount;
mod prune;
mod reap;
mod reset;
mod run;
mod verify;

/// Trees that a test suite may wreck and get back in milliseconds, whatever their size
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where overlays are kept [default: /var/lib/cowsnap/overlays for root, else ~/.local/state/cowsnap/overlays]
    #[arg(long, env = "COWSNAP_OVERLAY_HOME", value_name = "DIR", global = true)]
    home: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(create::Args),
    Reset(reset::Args),
    Run(run::Args),
    List(list::Args),
    Diff(diff::Args),
    Commit(commit::Args),
    Export(export::Args),
    Import(import::Args),
    Verify(verify::Args),
    /// Keep layers from being destroyed, until the tag is released
    Hold(hold::Args),
    /// Take a hold off layers
    Release(hold::Args),
    Prune(prune::Args),
    Mount(mount::Args),
    Destroy(destroy::Args),
    Reap(reap::Args),
    /// Empty the trash; started by the others in the background
    #[command(hide = true)]
    Sweep {
        /// Say what can not be destroyed
        #[arg(long)]
        report: bool,
    },
    /// Serve an overlay of mode fuse; started by create and reset, with a socket as standard input
    #[command(hide = true)]
    Serve {
        /// The overlay's directory
        dir: PathBuf,
    },
}

/// Where overlays are kept: `given`, or else where it is customary.
///
/// # Errors
/// A user without a home directory.
pub(super) fn home_dir(given: Option<PathBuf>) -> Result<PathBuf> {
    given.or_else(Home::default_dir).ok_or_else(|| Error::Usage {
        what: "there is no home directory to keep overlays in".into(),
        hint: Some("cowsnap overlay --home DIR …".into()),
    })
}

/// Runs the subcommand; the exit code is another command's for `run` alone.
pub fn run(args: Args, context: &Context) -> Result<ExitCode> {
    let dir = home_dir(args.home)?;
    let told = context.clone();
    plain::watch(move |at| progress::watch(&told, "copy to", at.display().to_string()));
    match args.command {
        Command::Run(args) => return run::run(args, &dir, context),
        Command::Sweep { report: true } => {
            let stuck = sweep::reported(&dir)?;
            context.print(&json!(stuck), json!(stuck).to_string())?;
        }
        Command::Sweep { report: false } => sweep::here(&dir)?,
        Command::Serve { dir } => {
            fuse::daemon::serve(&dir).map_err(EndpointError::io("serve", dir.display()))?;
        }
        Command::Create(args) => create::run(args, &dir, context)?,
        Command::Reset(args) => reset::run(args, &dir, context)?,
        Command::Diff(args) => diff::run(args, &dir, context)?,
        Command::Commit(args) => commit::run(args, &dir, context)?,
        Command::Export(args) => export::run(args, &dir, context)?,
        Command::Import(args) => import::run(args, &dir, context)?,
        Command::Verify(args) => verify::run(args, &dir, context)?,
        Command::Hold(args) => hold::hold(&args, &dir, context)?,
        Command::Release(args) => hold::release(&args, &dir, context)?,
        Command::Prune(args) => prune::run(&args, &dir, context)?,
        Command::List(args) => list::run(args, &dir, context)?,
        Command::Mount(args) => mount::run(args, &dir, context)?,
        Command::Destroy(args) => destroy::run(args, &dir, context)?,
        Command::Reap(args) => reap::run(args, &dir, context)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The home at `dir`.
///
/// # Errors
/// There is none.
fn existing(dir: &std::path::Path) -> Result<Home> {
    let missing = || EndpointError::NotFound {
        what: "overlay home",
        subject: dir.display().to_string(),
        hint: Some("cowsnap overlay create NAME --base DIR --at MNT".into()),
    };
    Ok(Home::find(dir)?.ok_or_else(missing)?)
}

/// Those that are named, or all.
fn named_or_all(home: &Home, names: Vec<OverlayName>, all: bool) -> Result<Vec<OverlayName>> {
    if all {
        return Ok(home.entries()?.iter().map(|entry| entry.name().clone()).collect());
    }
    Ok(names)
}

/// What is not waited for.
pub(super) fn sweep_in_background(home: &Home, old: Vec<std::os::fd::OwnedFd>) {
    let swept = std::env::current_exe()
        .map_err(EndpointError::io("find", "this program"))
        .and_then(|program| sweep::in_background(home, &program, old));
    if let Err(error) = swept {
        tracing::warn!(home = %home.dir().display(), %error, "its trash waits for the next command");
    }
}

/// What happens to processes that still use a tree.
#[derive(Debug, Clone, Copy, clap::Args)]
#[group(multiple = false)]
struct OfSurvivors {
    /// Leave processes that still use it with the old tree
    #[arg(long)]
    force: bool,
    /// Kill processes that still use it
    #[arg(long)]
    kill: bool,
}

impl OfSurvivors {
    fn choice(self) -> Survivors {
        match self {
            Self { force: true, .. } => Survivors::Leave,
            Self { kill: true, .. } => Survivors::Kill,
            _ => Survivors::Refuse,
        }
    }

    /// What became of them, for people.
    fn tell(self, survivors: &[Survivor], context: &Context) {
        let what = if self.kill { "killed" } else { "left with the old tree" };
        for Survivor { pid, name, how } in survivors {
            context.notice(format!("{what}: {name} ({pid}), which {how}"));
        }
    }
}

/// A mode as the command line takes it; `auto` is none.
#[derive(Debug, Clone, Copy)]
struct ModeArg(Option<Mode>);

impl std::str::FromStr for ModeArg {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let served: Vec<_> =
            Mode::ALL.into_iter().filter(|&mode| crate::endpoint::overlay::served(mode).is_some()).collect();
        match served.iter().find(|mode| mode.as_str() == text) {
            Some(&mode) => Ok(Self(Some(mode))),
            None if text == "auto" => Ok(Self(None)),
            None => {
                let names: Vec<_> = served.iter().map(|mode| mode.as_str()).collect();
                Err(format!("known are auto, {}", names.join(", ")))
            }
        }
    }
}

/// A record as `--json` prints it.
fn value_of(record: &Record) -> Value {
    let copies: Vec<_> = record
        .copies
        .iter()
        .map(|copy| json!({ "number": copy.number, "at": copy.at().display().to_string(), "generation": copy.generation }))
        .collect();
    json!({
        "name": record.name, "mode": record.mode, "why": record.why,
        "base": { "kind": record.base.kind, "path": record.base.path.as_path().display().to_string(),
            "version": record.base.version },
        "layers": record.layers, "copies": copies, "owner": record.owner,
        "durable": !record.options.volatile, "created": record.created, "state": record.state,
    })
}
