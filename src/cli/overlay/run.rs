//! `cowsnap overlay run`

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitCode, ExitStatus};

use serde_json::json;

use super::{ModeArg, base, sweep_in_background, value_of};
use crate::cli::Context;
use crate::endpoint::overlay::{Home, base::empty};
use crate::exec::overlay::enter::{Seen, enter};
use crate::exec::overlay::run::{Run, destroy_older, exit_code, run as run_command};
use crate::exec::overlay::{Created, reap};
use crate::model::quoted;
use crate::{Error, Result};

/// Run a command on an overlay of its own, which goes with it
///
/// The command starts in its tree, which COWSNAP_OVERLAY_DIR names; nobody else sees it. COWSNAP_OVERLAY_WORKER is a number that no
/// other running command has. Its exit code is passed on, and so are signals.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What the tree lies on: a directory, TARGET@SNAP, or a layer, OVERLAY@LAYER; nothing: an empty tree
    #[arg(long, env = "COWSNAP_OVERLAY_BASE", value_name = "DIR|TARGET@SNAP|OVERLAY@LAYER")]
    base: Option<OsString>,
    /// How it is served: auto, kernel …
    #[arg(long, env = "COWSNAP_OVERLAY_MODE", default_value = "auto")]
    mode: ModeArg,
    /// Keep the changes if the command fails
    #[arg(long)]
    keep_on_failure: bool,
    /// Of what failed commands changed, keep the newest N, and destroy the others that were kept before
    #[arg(long, env = "COWSNAP_OVERLAY_KEEP_LAST", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep_last: Option<u32>,
    /// Run it on these processors only: 0,2-3
    #[arg(long, value_name = "LIST", value_parser = parse_cpus)]
    cpu: Option<Cpus>,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Numbers of processors.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cpus(Vec<usize>);

/// The largest number that the kernel's set of processors has room for here.
const MAX_CPU: usize = 1023;

fn parse_cpus(text: &str) -> std::result::Result<Cpus, String> {
    let number = |text: &str| match text.parse::<usize>() {
        Ok(cpu) if cpu <= MAX_CPU => Ok(cpu),
        _ => Err(format!("{text:?} is no processor's number, 0 to {MAX_CPU}")),
    };
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cpus.extend(number(first)?..=number(last)?);
    }
    if cpus.is_empty() { Err("it names no processor".into()) } else { Ok(Cpus(cpus)) }
}

/// Runs the subcommand.
pub fn run(args: Args, dir: &Path, context: &Context) -> Result<ExitCode> {
    let (base, layers) =
        args.base.map_or_else(|| Ok((empty(), Vec::new())), |text| base::parse(&text, dir, context))?;
    let seen = enter(args.mode.0)?;
    let home = Home::open(dir)?;
    super::reap::notices(&reap(&home, false)?, context);
    let what = Run {
        base,
        layers,
        mode: args.mode.0,
        command: args.command,
        keep_on_failure: args.keep_on_failure,
        cpus: args.cpu.map_or_else(Vec::new, |cpus| cpus.0),
        seen,
    };
    let mut tell = |created: &Created| {
        context.notice(format!("mode {}: {}", created.record.mode, created.record.why.join("; ")));
        if seen == Seen::ByTheUser {
            context.notice(
                "other processes of this user see its tree too: the machine gives this one no user namespace",
            );
        }
        for warning in &created.warnings {
            context.warn(warning);
        }
    };
    let ran = run_command(&home, &what, &mut tell);
    sweep_in_background(&home, Vec::new());
    let ran = ran?;
    if ran.ended > 0 {
        context.notice(format!("ended what the command left running: {} processes", ran.ended));
    }
    if let Some(kept) = &ran.kept {
        let name = quoted(&ran.record.name);
        let destroys = format!("cowsnap overlay destroy {name} destroys it");
        let hint = match ran.record.copies.iter().any(|copy| copy.at() == kept) {
            // A clone of ZFS shows where it is mounted alone.
            true => format!("cowsnap overlay mount {name} shows it there, {destroys}"),
            false if ran.record.mode.keeps_changes_apart() => {
                format!("cowsnap overlay mount {name} shows the tree again, {destroys}")
            }
            false => format!("cowsnap overlay destroy {name}"),
        };
        context.notice(format!("kept what it changed: {}\nhint: {hint}", kept.display()));
        if let Some(last) = args.keep_last {
            for name in destroy_older(&home, last as usize)? {
                context.notice(format!("destroyed what was kept before: {name}"));
            }
            sweep_in_background(&home, Vec::new());
        }
    }
    if context.json {
        // Standard output is the command's.
        let kept = ran.kept.as_ref().map(|kept| kept.display().to_string());
        let value = json!({ "overlay": value_of(&ran.record), "exit_code": exit_code(ran.status), "ended": ran.ended, "kept": kept });
        crate::cli::say(value);
    }
    end_as(ran.status)
}

/// Ends as the command did: by the same signal, where that makes no difference but to whoever asks.
fn end_as(status: ExitStatus) -> Result<ExitCode> {
    if let Some(signal @ (libc::SIGHUP | libc::SIGINT | libc::SIGTERM | libc::SIGKILL)) = status.signal() {
        signal_hook::low_level::emulate_default_handler(signal).map_err(Error::io("end by", "a signal"))?;
    }
    Ok(ExitCode::from(exit_code(status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_numbers_and_ranges() {
        assert_eq!(parse_cpus("0,2-4,1023"), Ok(Cpus(vec![0, 2, 3, 4, 1023])));
        for bad in ["", "x", "1,,2", "1-", "2-1", "1024"] {
            assert!(parse_cpus(bad).is_err(), "{bad}");
        }
    }
}
