//! `cowsnap overlay mount`

use std::path::Path;

use serde_json::json;

use super::{existing, named_or_all};
use crate::cli::{Context, halfway};
use crate::exec::overlay::mount::mount;
use crate::model::overlay::OverlayName;
use crate::{Error, Result};

/// Show overlays again after the machine was started anew, with their changes if they are durable
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which overlays
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "NAME")]
    names: Vec<OverlayName>,
    /// All overlays of the home
    #[arg(long)]
    all: bool,
}

/// Runs the subcommand.
pub fn run(args: Args, dir: &Path, context: &Context) -> Result<()> {
    let home = existing(dir)?;
    let names = named_or_all(&home, args.names, args.all)?;
    let mut places = Vec::new();
    for (n, name) in names.iter().enumerate() {
        let shown = mount(&home, name)
            .map_err(|error| halfway(n, names.len(), "overlays mounted", Error::from(error)))?;
        places.extend(shown.iter().map(|copy| copy.at().display().to_string()));
    }
    context.print(&json!({ "mounted": places }), places.join("\n"))
}
