//! `cowsnap overlay reap`

use std::path::{Path, PathBuf};

use serde_json::json;

use super::{existing, sweep_in_background};
use crate::Result;
use crate::cli::Context;
use crate::cli::failures::Failures;
use crate::endpoint::Error as EndpointError;
use crate::endpoint::overlay::Home;
use crate::exec::overlay::sweep::Stuck;
use crate::exec::overlay::{Reaping, reap, sweep};
use crate::model::overlay::OverlayName;
use crate::model::quoted;
use crate::plan::overlay::reap::Kept;

/// Destroy overlays whose owner is gone, what killed commands left, and what waits to be destroyed; never another's
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Say what would go
    #[arg(long)]
    dry_run: bool,
}

/// Runs the subcommand.
pub fn run(args: Args, dir: &Path, context: &Context) -> Result<()> {
    let home = existing(dir)?;
    let reaping = reap(&home, args.dry_run)?;
    let stuck = match args.dry_run {
        true => Vec::new(),
        false => swept(&home)?,
    };
    let would = if args.dry_run { "would reap" } else { "reaped" };
    let unmount = if args.dry_run { "would unmount" } else { "unmounted" };
    let lines = reaping.reaped.iter().map(|(name, why)| format!("{would} {name}: {}\n", why.as_str()));
    let strays =
        reaping.unmounted.iter().map(|dir| format!("{unmount} {}: no overlay has it\n", dir.display()));
    let dead = reaping.dead.iter().map(|(name, dir)| format!("{unmount} {}\n", of_dead(name, dir)));
    let elsewhere = reaping.kept.iter().filter(|(_, why)| *why == Kept::OwnerElsewhere);
    let elsewhere = elsewhere.map(|(name, why)| {
        format!("kept {name}: {}; if it is gone: cowsnap overlay destroy {}\n", why.as_str(), quoted(name))
    });
    let text: String = lines.chain(strays).chain(dead).chain(elsewhere).collect();
    let reaped: Vec<_> =
        reaping.reaped.iter().map(|(name, why)| json!({ "name": name, "why": why.as_str() })).collect();
    let kept: Vec<_> =
        reaping.kept.iter().map(|(name, why)| json!({ "name": name, "why": why.as_str() })).collect();
    let unmounted: Vec<_> = unmounted(&reaping).map(|dir| dir.display().to_string()).collect();
    let waiting: Vec<_> = stuck
        .iter()
        .map(|stuck| json!({ "path": stuck.path.display().to_string(), "why": stuck.why }))
        .collect();
    let value = json!({
        "reaped": reaped, "kept": kept, "unmounted": unmounted, "stuck": waiting, "dry_run": args.dry_run,
    });
    context.print(&value, if text.is_empty() { "nothing to reap" } else { &text })?;
    failures(reaping, stuck)
}

/// Destroys what waits for it, and answers what could not be.
fn swept(home: &Home) -> Result<Vec<Stuck>> {
    let program = std::env::current_exe().map_err(EndpointError::io("find", "this program"))?;
    let stuck = sweep::stuck(home, &program, sweep::PATIENCE)?;
    // The clones for the next resets.
    sweep_in_background(home, Vec::new());
    Ok(stuck)
}

/// What a command tells that reaps beside its own work.
pub(super) fn notices(reaping: &Reaping, context: &Context) {
    for (name, why) in &reaping.reaped {
        context.notice(format!("reaped {name}: {}", why.as_str()));
    }
    for dir in &reaping.unmounted {
        context.notice(format!("unmounted {}: no overlay has it", dir.display()));
    }
    for (name, dir) in &reaping.dead {
        context.notice(format!("unmounted {}", of_dead(name, dir)));
    }
    for (name, error) in &reaping.failed {
        context.warn(format!("{name} could not be reaped: {error}"));
    }
}

fn unmounted(reaping: &Reaping) -> impl Iterator<Item = &PathBuf> {
    reaping.unmounted.iter().chain(reaping.dead.iter().map(|(_, dir)| dir))
}

fn of_dead(name: &OverlayName, dir: &Path) -> String {
    let shown = format!("cowsnap overlay reset {}", quoted(name));
    format!("{}: its process is gone; {shown} shows it again", dir.display())
}

fn failures(reaping: Reaping, stuck: Vec<Stuck>) -> Result<()> {
    let mut failures = Failures::default();
    let of = reaping.failed.len() + reaping.reaped.len() + stuck.len();
    reaping.failed.into_iter().for_each(|(name, error)| failures.add(name, error));
    for Stuck { path, why, hint } in stuck {
        let subject = "it".to_owned();
        failures.add(path.display(), EndpointError::Refused { op: "destroy", subject, why, hint });
    }
    failures.into_partial("reap", of)
}
