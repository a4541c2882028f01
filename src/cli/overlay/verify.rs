//! `cowsnap overlay verify`

use std::path::Path;

use serde_json::json;

use super::existing;
use crate::cli::Context;
use crate::endpoint::overlay::layer::Layer;
use crate::exec::overlay::layers::named;
use crate::model::layer::LayerRef;
use crate::{Error, Result};

/// Read layers and compare them with their manifests
///
/// All of them are read; a damaged one is named, with the first entry that is not what was committed (exit code 4).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which layers
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "OVERLAY@LAYER")]
    layers: Vec<LayerRef>,
    /// All layers of the home
    #[arg(long)]
    all: bool,
}

/// Runs the subcommand.
pub fn run(args: Args, dir: &Path, context: &Context) -> Result<()> {
    let home = existing(dir)?;
    let (layers, mut damaged) = match args.all {
        true => {
            let (layers, damaged) = Layer::all_and_damaged(&home)?;
            (layers, damaged.into_iter().map(|damaged| damaged.error).collect())
        }
        false => {
            let found = args.layers.iter().map(|layer| named(&home, &layer.overlay, &layer.layer));
            (found.collect::<crate::endpoint::Result<Vec<_>>>()?, Vec::new())
        }
    };
    let mut sound = Vec::new();
    for layer in &layers {
        match layer.verify() {
            Ok(()) => sound.push(layer.label()),
            Err(error) => damaged.push(error),
        }
    }
    let text: String = sound.iter().map(|label| format!("{label}  sound\n")).collect();
    if damaged.is_empty() || !sound.is_empty() {
        context.print(&json!({ "verified": sound }), text)?;
    }
    let last = damaged.pop();
    for error in damaged {
        context.notice(format!("error: {error}"));
    }
    last.map_or(Ok(()), |error| Err(Error::from(error)))
}
