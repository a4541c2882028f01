//! `cowsnap overlay import`

use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde_json::json;

use super::{existing, layers};
use crate::Error;
use crate::Result;
use crate::cli::Context;
use crate::cli::keys::ReadArgs;
use crate::endpoint::overlay::Home;
use crate::endpoint::overlay::layer::Onto;
use crate::exec::overlay::{self, layers as verbs, transfer};
use crate::model::layer::LayerRef;
use crate::model::overlay::OverlayName;
use crate::stream::reader::Reader;

/// Take in a layer that was exported, here or elsewhere
///
/// All of it is checked before it is there. A layer whose base, or the layer below it, is not here is refused (exit code 3), unless --onto
/// says what it is put upon.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file; - for standard input
    file: PathBuf,
    /// Put it upon the base and the layers of this overlay, or upon this layer
    #[arg(long, value_name = "OVERLAY[@LAYER]")]
    onto: Option<Upon>,
    /// Name it so
    #[arg(long = "as", value_name = "OVERLAY@LAYER")]
    name: Option<LayerRef>,
    #[command(flatten)]
    keys: ReadArgs,
}

#[derive(Debug, Clone)]
enum Upon {
    Overlay(OverlayName),
    Layer(LayerRef),
}

impl FromStr for Upon {
    type Err = crate::model::name::Error;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        match text.contains('@') {
            true => text.parse().map(Self::Layer),
            false => text.parse().map(Self::Overlay),
        }
    }
}

/// Runs the subcommand.
pub fn run(args: Args, dir: &Path, context: &Context) -> Result<()> {
    let home = Home::open(dir)?;
    let onto = args.onto.map(|onto| upon(&existing(dir)?, onto)).transpose()?;
    let name = crate::cli::stream::name_of(&args.file);
    let keys = args.keys.keys()?;
    let input = crate::cli::stream::open(&args.file)?;
    let reader = Reader::open_by(input, &keys, 0).map_err(Error::container("import", &name))?;
    let (overlay, layer) = args.name.map(|name| (name.overlay, name.layer)).unzip();
    let to = transfer::Destination { overlay, name: layer, onto };
    let layer = transfer::import(&home, &name, reader, to)?;
    context.print(&json!({ "layer": layers::value_of(&layer)? }), layer.label())
}

fn upon(home: &Home, onto: Upon) -> Result<Onto> {
    match onto {
        Upon::Layer(layer) => {
            let layer = verbs::named(home, &layer.overlay, &layer.layer)?;
            Ok(Onto { base: layer.record().base.clone(), parent: Some(layer.id()) })
        }
        Upon::Overlay(name) => {
            let (_locked, record) = overlay::opened(home, &name)?;
            Ok(Onto { base: record.base, parent: record.layers.last().copied() })
        }
    }
}
