//! `cowsnap overlay commit`

use std::path::Path;

use serde_json::json;

use super::{OfSurvivors, existing, layers, sweep_in_background};
use crate::Result;
use crate::cli::Context;
use crate::exec::overlay::layers::{Commit, commit};
use crate::exec::overlay::unhindered;
use crate::model::overlay::{LayerName, OverlayName};
use crate::model::quoted;

/// Keep what an overlay changed as a layer
///
/// The overlay shows the same tree afterwards and lies on the layer: a reset brings it back to here. Other overlays can be made upon it.
/// While something uses the tree, nothing is done (exit code 3), unless --force or --kill is given; and not while a file in it is open
/// for writing. In mode native, what differs from what the overlay lies on at one
/// instant is copied into the layer; whoever writes goes on, files may be open, and the overlay goes on upon what it was made of, until it is
/// reset to the layer.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which overlay
    name: OverlayName,
    /// What the layer is called: letters, digits and _ . -
    layer: LayerName,
    /// Which of its copies, in mode native; needed if there are several
    #[arg(long, value_name = "N")]
    copy: Option<u32>,
    #[command(flatten)]
    survivors: OfSurvivors,
}

/// Runs the subcommand.
pub fn run(args: Args, dir: &Path, context: &Context) -> Result<()> {
    let home = existing(dir)?;
    let survivors = args.survivors.choice();
    let wanted = Commit { layer: args.layer, copy: args.copy, survivors, now: jiff::Timestamp::now() };
    let done = commit(&home, &args.name, &wanted, &mut unhindered)?;
    sweep_in_background(&home, done.old);
    args.survivors.tell(&done.survivors, context);
    if !done.atomic {
        context.notice(format!("{}: for an instant nothing was mounted there", args.name));
    }
    let record = done.layer.record();
    if !done.is_below {
        context.notice(format!(
            "{}: in mode native it goes on upon what it was made of. Upon the layer: cowsnap overlay reset {} --to {}",
            args.name,
            quoted(&args.name),
            quoted(&record.name)
        ));
    }
    let text = format!("{}  {} entries, {} bytes", done.layer.label(), record.entries, record.bytes);
    context.print(&json!({ "layer": layers::value_of(&done.layer)? }), text)
}
