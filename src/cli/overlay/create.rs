//! `cowsnap overlay create`

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::{ModeArg, base, sweep_in_background, value_of};
use crate::cli::Context;
use crate::endpoint::Error as EndpointError;
use crate::endpoint::overlay::Home;
use crate::endpoint::overlay::base::empty;
use crate::endpoint::overlay::fuse::serve::COHERENT;
use crate::endpoint::overlay::plain::COMMAND;
use crate::exec::overlay::reset::Request;
use crate::exec::overlay::{self, New, Survivors, unhindered};
use crate::model::overlay::{Copy, Mode, OverlayName, Record, place_of_copy};
use crate::model::quoted;
use crate::{Error, Result};

/// Make an overlay: a tree, or several, that look like the base and take changes of their own
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What it is called: letters, digits and _ . -
    name: OverlayName,
    /// What it lies on, which nobody may change meanwhile: a directory, TARGET@SNAP, a squashfs or EROFS image,
    /// or a layer, OVERLAY@LAYER
    #[arg(
        long,
        env = "COWSNAP_OVERLAY_BASE",
        value_name = "DIR|TARGET@SNAP|IMAGE|OVERLAY@LAYER",
        required_unless_present = "command"
    )]
    base: Option<OsString>,
    /// Where it shows: an empty directory, or one that is to be made
    #[arg(long, value_name = "MNT")]
    at: PathBuf,
    /// So many trees, at MNT/1, MNT/2 …
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    copies: u32,
    /// How it is served: auto, kernel, disabled …
    #[arg(long, env = "COWSNAP_OVERLAY_MODE", default_value = "auto")]
    mode: ModeArg,
    /// Mode recreate: what makes the tree in its working directory, for sh -c
    #[arg(long, value_name = "CMD")]
    command: Option<String>,
    /// Whose it is, and with whom it goes: a process id, or none [default: the leader of the session]
    #[arg(long, env = "COWSNAP_OVERLAY_OWNER", value_name = "PID|none")]
    owner: Option<String>,
    /// Sync changes, so that they outlast a crash of the machine; the owner is none then unless one is said
    #[arg(long)]
    durable: bool,
    /// Mode fuse: all files that are only read go through its process, so that nobody who has one open is parted from it when it is first
    /// written to; without, those of more than 1 MiB go past it
    #[arg(long)]
    coherent: bool,
    /// If it is there already, with this base, mode, place and durability: reset it; it is the owner's then who is said
    #[arg(long, conflicts_with = "dry_run")]
    or_reset: bool,
    /// Say what would be made
    #[arg(long)]
    dry_run: bool,
}

/// The overlay that is to be made, reset, if it is there: a job's first step is the same whether it is the first one or not.
///
/// # Errors
/// It is another one than would be made; somebody uses it.
fn reset_instead(home: &Home, new: &New, owner_is_said: bool) -> Result<Option<Record>> {
    let Some(mut record) = home.entry(&new.name).record()? else { return Ok(None) };
    let at = overlay::create::resolve(&new.at)?;
    let of = record.copies.len() as u32;
    let is_there = |copy: &Copy| copy.at() == place_of_copy(&at, copy.number, of);
    let differs = [
        ("base", record.base.identity != new.base.identity),
        ("mode", new.mode.is_some_and(|mode| mode != record.mode)),
        ("number of copies", of != new.copies),
        ("place", !record.copies.iter().all(is_there)),
        // One that outlasts a crash does for whoever does not ask for that.
        ("durability", new.durable && record.options.volatile),
        ("command", record.options.more.get(COMMAND) != new.more.get(COMMAND)),
        ("coherence", new.more.contains_key(COHERENT) && !record.options.more.contains_key(COHERENT)),
    ];
    if let Some((what, _)) = differs.iter().find(|(_, differs)| *differs) {
        return Err(EndpointError::Refused {
            op: "reset overlay",
            subject: new.name.to_string(),
            why: format!("it is there with another {what} than is asked for"),
            hint: Some(format!("cowsnap overlay destroy {}", quoted(&new.name))),
        }
        .into());
    }
    let layers = (record.layers != new.layers).then(|| new.layers.clone());
    let request = Request { copies: None, layers, survivors: Survivors::Refuse };
    let done = overlay::reset(home, &new.name, &request, &mut unhindered)?;
    sweep_in_background(home, done.old);
    if owner_is_said {
        record = overlay::give(home, &new.name, new.owner.clone())?;
    }
    Ok(Some(record))
}

/// The mode that is asked for; a command that makes the tree is one.
fn mode(args: &Args) -> Result<Option<Mode>> {
    match (args.mode.0, &args.command) {
        (None, Some(_)) => Ok(Some(Mode::Recreate)),
        (Some(mode), Some(_)) if mode != Mode::Recreate => Err(Error::Usage {
            what: format!("--command makes the tree in mode recreate, and not in mode {mode}"),
            hint: None,
        }),
        (asked, _) => Ok(asked),
    }
}

/// Runs the subcommand.
pub fn run(args: Args, dir: &Path, context: &Context) -> Result<()> {
    let mode = mode(&args)?;
    let command = args.command.map(|command| (COMMAND.to_owned(), command.into()));
    let coherent = args.coherent.then(|| (COHERENT.to_owned(), true.into()));
    let more = command.into_iter().chain(coherent).collect();
    let owner_is_said = args.owner.is_some();
    let (base, layers) =
        args.base.map_or_else(|| Ok((empty(), Vec::new())), |base| base::parse(&base, dir, context))?;
    let new = New {
        base,
        owner: base::owner(args.owner.as_deref(), args.durable)?,
        name: args.name,
        at: args.at,
        copies: args.copies,
        mode,
        durable: args.durable,
        layers,
        more,
    };
    let home = Home::open(dir)?;
    if args.dry_run {
        let (record, warnings) = overlay::create::plan(&home, &new)?;
        warnings.iter().for_each(|warning| context.warn(warning));
        let text =
            format!("would make overlay {} in mode {}: {}", new.name, record.mode, record.why.join("; "));
        return context
            .print(&json!({ "dry_run": true, "overlay": value_of(&record), "warnings": warnings }), text);
    }
    let reaping = overlay::reap(&home, false)?;
    super::reap::notices(&reaping, context);
    if let Some(why) = overlay::reap_if_shown_nowhere(&home, &new.name)? {
        context.notice(format!("reaped {}: {}", new.name, why.as_str()));
    }
    if args.or_reset
        && let Some(record) = reset_instead(&home, &new, owner_is_said)?
    {
        context.notice(format!("it was there, in mode {}: reset", record.mode));
        return print(&record, &[], context);
    }
    let created = overlay::create(&home, &new, &mut unhindered);
    sweep_in_background(&home, Vec::new());
    let created = created?;
    context.notice(format!("mode {}: {}", created.record.mode, created.record.why.join("; ")));
    for warning in &created.warnings {
        context.warn(warning);
    }
    print(&created.record, &created.warnings, context)
}

fn print(record: &Record, warnings: &[String], context: &Context) -> Result<()> {
    let places: Vec<_> = record.copies.iter().map(|copy| copy.at().display().to_string()).collect();
    let value = json!({ "overlay": value_of(record), "warnings": warnings });
    context.print(&value, places.join("\n"))
}
