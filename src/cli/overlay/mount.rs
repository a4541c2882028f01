//! `cowsnap overlay mount`

use std::path::Path;

use serde_json::json;

use super::{existing, named_or_all};
use crate::Result;
use crate::cli::Context;
use crate::cli::failures::Failures;
use crate::exec::overlay::mount::mount;
use crate::model::overlay::OverlayName;

/// Show overlays again after the machine was started anew, with their changes if they are durable
///
/// One that can not be shown keeps no other from it (exit code 7).
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
    let (mut places, mut failed) = (Vec::new(), Failures::default());
    for name in &names {
        match mount(&home, name) {
            Ok(shown) => places.extend(shown.iter().map(|copy| copy.at().display().to_string())),
            Err(error) => failed.add(name, error),
        }
    }
    if failed.is_empty() || !places.is_empty() {
        context.print(&json!({ "mounted": places }), places.join("\n"))?;
    }
    failed.into_result("mount overlays", names.len())
}
