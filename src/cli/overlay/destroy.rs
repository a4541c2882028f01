//! `cowsnap overlay destroy`

use std::path::Path;

use serde_json::json;

use super::{OfSurvivors, existing, named_or_all, sweep_in_background};
use crate::cli::{Context, halfway};
use crate::exec::overlay::{destroy, unhindered};
use crate::model::overlay::OverlayName;
use crate::{Error, Result};

/// Destroy overlays with the changes made in them
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which overlays
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "NAME")]
    names: Vec<OverlayName>,
    /// All overlays of the home
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    survivors: OfSurvivors,
    /// Say what would go
    #[arg(long)]
    dry_run: bool,
}

/// Runs the subcommand.
pub fn run(args: Args, dir: &Path, context: &Context) -> Result<()> {
    let home = existing(dir)?;
    let names = named_or_all(&home, args.names, args.all)?;
    let survivors = args.survivors.choice();
    // All are looked at before the first goes.
    for name in &names {
        destroy::check(&home, name, survivors)?;
    }
    if args.dry_run {
        let text: String = names.iter().map(|name| format!("would destroy {name}\n")).collect();
        return context.print(&json!({ "dry_run": true, "would_destroy": names }), text);
    }
    let mut failed = None;
    let mut destroyed = Vec::new();
    for (n, name) in names.iter().enumerate() {
        match destroy(&home, name, survivors, &mut unhindered) {
            Ok(users) => {
                args.survivors.tell(&users, context);
                destroyed.push(name);
            }
            Err(error) => {
                failed = Some(halfway(n, names.len(), "overlays destroyed", Error::from(error)));
                break;
            }
        }
    }
    sweep_in_background(&home, Vec::new());
    if failed.is_none() || !destroyed.is_empty() {
        context.print(&json!({ "destroyed": destroyed }), "")?;
    }
    failed.map_or(Ok(()), Err)
}
