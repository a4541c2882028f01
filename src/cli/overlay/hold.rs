//! `cowsnap overlay hold` and `cowsnap overlay release`

use std::path::Path;

use serde_json::json;

use super::existing;
use crate::cli::{Context, halfway};
use crate::endpoint;
use crate::endpoint::overlay::Home;
use crate::endpoint::overlay::layer::Layer;
use crate::exec::overlay::layers::named;
use crate::model::HoldTag;
use crate::model::layer::LayerRef;
use crate::{Error, Result};

/// A tag, and the layers that it is put on or taken off
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Who keeps them: a word of your choice
    tag: HoldTag,
    /// Which layers
    #[arg(required = true, value_name = "OVERLAY@LAYER")]
    layers: Vec<LayerRef>,
}

/// Runs `hold`.
pub fn hold(args: &Args, dir: &Path, context: &Context) -> Result<()> {
    change_each(args, dir, "held", context, Layer::hold)
}

/// Runs `release`.
pub fn release(args: &Args, dir: &Path, context: &Context) -> Result<()> {
    change_each(args, dir, "released", context, Layer::release)
}

/// All are found before the first is changed.
fn change_each(
    Args { tag, layers }: &Args,
    dir: &Path,
    done: &'static str,
    context: &Context,
    change: impl Fn(&Layer, &Home, &HoldTag) -> endpoint::Result<()>,
) -> Result<()> {
    let home = existing(dir)?;
    let found: Vec<_> = layers
        .iter()
        .map(|layer| named(&home, &layer.overlay, &layer.layer))
        .collect::<endpoint::Result<_>>()?;
    for (n, layer) in found.iter().enumerate() {
        change(layer, &home, tag).map_err(|error| halfway(n, found.len(), done, Error::from(error)))?;
    }
    let labels: Vec<_> = found.iter().map(Layer::label).collect();
    context.print(&json!({ "tag": tag, (done): labels }), "")
}
