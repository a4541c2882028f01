//! `cowsnap overlay reap`

use std::path::Path;

use serde_json::json;

use super::{existing, sweep_in_background};
use crate::cli::Context;
use crate::cli::doctor::with_causes;
use crate::exec::overlay::{Reaping, reap};
use crate::model::overlay::OverlayName;
use crate::model::quoted;
use crate::{Error, Result};

/// Destroy overlays whose owner is gone, and what killed commands left; never another's
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
    if !args.dry_run {
        sweep_in_background(&home, Vec::new());
    }
    let would = if args.dry_run { "would reap" } else { "reaped" };
    let unmount = if args.dry_run { "would unmount" } else { "unmounted" };
    let lines = reaping.reaped.iter().map(|(name, why)| format!("{would} {name}: {}\n", why.as_str()));
    let strays =
        reaping.unmounted.iter().map(|dir| format!("{unmount} {}: no overlay has it\n", dir.display()));
    let dead = reaping.dead.iter().map(|(name, dir)| format!("{unmount} {}\n", of_dead(name, dir)));
    let text: String = lines.chain(strays).chain(dead).collect();
    let reaped: Vec<_> =
        reaping.reaped.iter().map(|(name, why)| json!({ "name": name, "why": why.as_str() })).collect();
    let kept: Vec<_> =
        reaping.kept.iter().map(|(name, why)| json!({ "name": name, "why": why.as_str() })).collect();
    let unmounted: Vec<_> = unmounted(&reaping).map(|dir| dir.display().to_string()).collect();
    let value = json!({ "reaped": reaped, "kept": kept, "unmounted": unmounted, "dry_run": args.dry_run });
    context.print(&value, if text.is_empty() { "nothing to reap" } else { &text })?;
    failures(reaping)
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

fn unmounted(reaping: &Reaping) -> impl Iterator<Item = &std::path::PathBuf> {
    reaping.unmounted.iter().chain(reaping.dead.iter().map(|(_, dir)| dir))
}

fn of_dead(name: &OverlayName, dir: &Path) -> String {
    let shown = format!("cowsnap overlay reset {}", quoted(name));
    format!("{}: its process is gone; {shown} shows it again", dir.display())
}

fn failures(reaping: Reaping) -> Result<()> {
    let n_failed = reaping.failed.len();
    let of = n_failed + reaping.reaped.len();
    let why: Vec<_> = reaping
        .failed
        .into_iter()
        .map(|(name, error)| format!("{name}: {}", with_causes(&Error::from(error))))
        .collect();
    if why.is_empty() {
        return Ok(());
    }
    Err(Error::Partial { op: "reap", failed: n_failed, of, why: why.join("; "), hint: None })
}
