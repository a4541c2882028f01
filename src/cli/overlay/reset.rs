//! `cowsnap overlay reset`

use std::path::Path;

use serde_json::{Value, json};

use super::{OfSurvivors, existing, named_or_all, sweep_in_background};
use crate::Result;
use crate::cli::Context;
use crate::cli::failures::Failures;
use crate::exec::overlay::layers::{LayerOf, stack_to};
use crate::exec::overlay::reset::{Request, Reset, check, reset};
use crate::exec::overlay::unhindered;
use crate::model::overlay::OverlayName;

/// Give overlays back as they were made, in milliseconds
///
/// Whoever looks the path up sees the old tree or the new one. Processes that still use the old one are named, and nothing is
/// changed (exit code 3), unless --force or --kill is given. An overlay that can not be reset keeps no other from it (exit code 7).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which overlays
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "NAME")]
    names: Vec<OverlayName>,
    /// All overlays of the home
    #[arg(long)]
    all: bool,
    /// This copy alone; may be given several times
    #[arg(long, value_name = "N", conflicts_with = "all")]
    copy: Vec<u32>,
    /// Back to a layer, and what that lies on: LAYER of the overlay, or OVERLAY@LAYER upon the same base
    #[arg(long, value_name = "LAYER", conflicts_with = "copy")]
    to: Option<LayerOf>,
    /// Back to the base, without layers
    #[arg(long, conflicts_with_all = ["copy", "to"])]
    to_base: bool,
    #[command(flatten)]
    survivors: OfSurvivors,
    /// Say what would be reset
    #[arg(long)]
    dry_run: bool,
}

/// Runs the subcommand.
pub fn run(args: Args, dir: &Path, context: &Context) -> Result<()> {
    let home = existing(dir)?;
    let names = named_or_all(&home, args.names, args.all)?;
    let copies = (!args.copy.is_empty()).then_some(args.copy);
    let survivors = args.survivors.choice();
    let to_base = args.to_base.then(Vec::new);
    let request = |name: &OverlayName| -> Result<Request> {
        let to = args.to.as_ref().map(|to| stack_to(&home, name, to)).transpose()?;
        Ok(Request { copies: copies.clone(), layers: to.or_else(|| to_base.clone()), survivors })
    };
    let (mut failed, mut requests) = (Failures::default(), Vec::new());
    for name in &names {
        match request(name) {
            Ok(request) => requests.push((name, request)),
            Err(error) if !args.all => return Err(error),
            Err(error) => failed.add(name, error),
        }
    }
    if args.dry_run {
        let mut places = Vec::new();
        for (name, request) in &requests {
            match check(&home, name, request) {
                Ok(copies) => places.extend(copies.iter().map(|copy| copy.at().display().to_string())),
                Err(error) => failed.add(name, error),
            }
        }
        let text: String = places.iter().map(|place| format!("would reset {place}\n")).collect();
        if failed.is_empty() || !places.is_empty() {
            context.print(&json!({ "dry_run": true, "would_reset": places }), text)?;
        }
        return failed.into_result("reset overlays", names.len());
    }
    let mut done: Vec<Reset> = Vec::new();
    for (name, request) in &requests {
        match reset(&home, name, request, &mut unhindered) {
            Ok(reset) => done.push(reset),
            Err(error) => failed.add(name, error),
        }
    }
    let old = done.iter_mut().flat_map(|reset| reset.old.drain(..)).collect();
    sweep_in_background(&home, old);
    for reset in &done {
        args.survivors.tell(&reset.survivors, context);
        for copy in reset.copies.iter().filter(|copy| !copy.atomic) {
            context.notice(format!("{}: for an instant nothing was mounted there", copy.at.display()));
        }
    }
    let values: Vec<_> = done.iter().map(value).collect();
    if failed.is_empty() || !done.is_empty() {
        context.print(&json!({ "reset": values }), "")?;
    }
    failed.into_result("reset overlays", names.len())
}

fn value(reset: &Reset) -> Value {
    let copies: Vec<_> = reset
        .copies
        .iter()
        .map(|copy| {
            let at = copy.at.display().to_string();
            json!({ "number": copy.number, "at": at, "generation": copy.generation, "atomic": copy.atomic })
        })
        .collect();
    json!({ "name": reset.name, "copies": copies, "survivors": reset.survivors })
}
