//! `cowsnap overlay destroy`

use std::path::Path;

use serde_json::json;

use super::{OfSurvivors, existing, named_or_all, sweep_in_background};
use crate::cli::{Context, halfway};
use crate::endpoint;
use crate::endpoint::overlay::Home;
use crate::endpoint::overlay::layer::{Damaged, Layer};
use crate::exec::overlay::{destroy, layers::named, unhindered};
use crate::model::layer::LayerRef;
use crate::model::overlay::{LayerId, OverlayName};
use crate::model::quoted;
use crate::{Error, Result};

/// Destroy overlays with the changes made in them, or layers
///
/// A layer that is held, or upon which an overlay or a layer builds, is refused (exit code 3).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which overlays, or layers: OVERLAY@LAYER
    #[arg(required_unless_present_any = ["all", "damaged"], conflicts_with = "all", value_name = "NAME[@LAYER]")]
    names: Vec<String>,
    /// All overlays of the home
    #[arg(long)]
    all: bool,
    /// A layer of which can not be read what it is, by its id; its holds go with it. May be given several times
    #[arg(long, value_name = "ID")]
    damaged: Vec<LayerId>,
    #[command(flatten)]
    survivors: OfSurvivors,
    /// Say what would go
    #[arg(long)]
    dry_run: bool,
}

/// Runs the subcommand.
pub fn run(args: Args, dir: &Path, context: &Context) -> Result<()> {
    let home = existing(dir)?;
    let (layers, names): (Vec<_>, Vec<_>) = args.names.iter().partition(|name| name.contains('@'));
    let names =
        names.into_iter().map(|name| name.parse()).collect::<std::result::Result<Vec<OverlayName>, _>>()?;
    let names = named_or_all(&home, names, args.all)?;
    let survivors = args.survivors.choice();
    let layers = layers.into_iter().map(|name| layer(&home, name)).collect::<Result<Vec<_>>>()?;
    let damaged = args.damaged.iter().map(|&id| Ok(Damaged::open(&home, id)?)).collect::<Result<Vec<_>>>()?;
    // All are looked at before the first goes.
    for name in &names {
        destroy::check(&home, name, survivors)?;
    }
    if args.dry_run {
        layers.iter().try_for_each(|layer| layer.check_destroy(&home).map_err(of_layer))?;
        damaged.iter().try_for_each(|layer| layer.check_destroy(&home))?;
        let labels = names.iter().map(ToString::to_string).chain(layers.iter().map(Layer::label));
        let labels: Vec<_> = labels.chain(damaged.iter().map(|layer| layer.id.to_string())).collect();
        let text: String = labels.iter().map(|name| format!("would destroy {name}\n")).collect();
        return context.print(&json!({ "dry_run": true, "would_destroy": labels }), text);
    }
    let mut failed = None;
    let mut destroyed = Vec::new();
    for (n, name) in names.iter().enumerate() {
        match destroy(&home, name, survivors, &mut unhindered) {
            Ok(users) => {
                args.survivors.tell(&users, context);
                destroyed.push(name.to_string());
            }
            Err(error) => {
                failed = Some(halfway(n, names.len(), "overlays destroyed", Error::from(error)));
                break;
            }
        }
    }
    type Destroy<'a> = dyn Fn() -> endpoint::Result<()> + 'a;
    let sound = layers.iter().map(|layer| {
        let destroy: Box<Destroy<'_>> = Box::new(|| layer.destroy(&home).map_err(of_layer));
        (layer.label(), destroy)
    });
    let unsound = damaged.iter().map(|layer| {
        let destroy: Box<Destroy<'_>> = Box::new(|| layer.destroy(&home));
        (layer.id.to_string(), destroy)
    });
    for (label, destroy) in sound.chain(unsound) {
        if failed.is_some() {
            break;
        }
        match destroy() {
            Ok(()) => destroyed.push(label),
            Err(error) => {
                let (n, of) = (destroyed.len(), names.len() + layers.len() + damaged.len());
                failed = Some(halfway(n, of, "destroyed", Error::from(error)));
            }
        }
    }
    sweep_in_background(&home, Vec::new());
    if failed.is_none() || !destroyed.is_empty() {
        context.print(&json!({ "destroyed": destroyed }), "")?;
    }
    failed.map_or(Ok(()), Err)
}

/// A layer is released by another command than a snapshot.
fn of_layer(error: endpoint::Error) -> endpoint::Error {
    let endpoint::Error::Held { subject, tags } = error else { return error };
    let why = format!("it is held by {}", tags.join(", "));
    let release = |tag: &String| format!("cowsnap overlay release {} {}", quoted(tag), quoted(&subject));
    let hint = tags.first().map(release);
    endpoint::Error::Refused { op: "destroy layer", subject, why, hint }
}

fn layer(home: &Home, name: &str) -> Result<Layer> {
    let name: LayerRef = name.parse()?;
    Ok(named(home, &name.overlay, &name.layer)?)
}
