//! `cowsnap overlay destroy`

use std::path::Path;

use serde_json::json;

use super::{OfSurvivors, existing, named_or_all, sweep_in_background};
use crate::Result;
use crate::cli::Context;
use crate::cli::failures::Failures;
use crate::endpoint;
use crate::endpoint::overlay::Home;
use crate::endpoint::overlay::layer::{Damaged, Layer};
use crate::exec::overlay::{destroy, layers::named, unhindered};
use crate::model::layer::LayerRef;
use crate::model::overlay::{LayerId, OverlayName};
use crate::model::quoted;

/// Destroy overlays with the changes made in them, or layers
///
/// A layer that is held, or upon which an overlay or a layer builds, is refused (exit code 3). What of several can
/// not be destroyed keeps nothing else from it (exit code 7).
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
    let n = names.len() + layers.len() + damaged.len();
    let mut doomed = Tally::default();
    // What is named is looked at before the first goes. Of all, each is for itself.
    for name in names.iter().filter(|_| !args.all || args.dry_run) {
        match destroy::check(&home, name, survivors) {
            Err(error) if !args.all => return Err(error.into()),
            checked => doomed.note(name, checked),
        }
    }
    if args.dry_run {
        layers.iter().try_for_each(|layer| layer.check_destroy(&home).map_err(of_layer))?;
        damaged.iter().try_for_each(|layer| layer.check_destroy(&home))?;
        doomed.done.extend(layers.iter().map(Layer::label));
        doomed.done.extend(damaged.iter().map(|layer| layer.id.to_string()));
        let text: String = doomed.done.iter().map(|name| format!("would destroy {name}\n")).collect();
        return doomed.tell(n, context, |labels| (json!({ "dry_run": true, "would_destroy": labels }), text));
    }
    let mut destroyed = Tally::default();
    for name in &names {
        let gone = destroy(&home, name, survivors, &mut unhindered);
        destroyed.note(name, gone.map(|users| args.survivors.tell(&users, context)));
    }
    for layer in &layers {
        destroyed.note(layer.label(), layer.destroy(&home).map_err(of_layer));
    }
    for layer in &damaged {
        destroyed.note(layer.id, layer.destroy(&home));
    }
    sweep_in_background(&home, Vec::new());
    destroyed.tell(n, context, |labels| (json!({ "destroyed": labels }), String::new()))
}

/// What went well, and what did not.
#[derive(Default)]
struct Tally {
    done: Vec<String>,
    failed: Failures,
}

impl Tally {
    fn note(&mut self, name: impl ToString, outcome: endpoint::Result<()>) {
        match outcome {
            Ok(()) => self.done.push(name.to_string()),
            Err(error) => self.failed.add(name, error),
        }
    }

    /// Prints what went well, unless nothing did, and answers what did not.
    fn tell(
        self,
        n: usize,
        context: &Context,
        words: impl FnOnce(&[String]) -> (serde_json::Value, String),
    ) -> Result<()> {
        if self.failed.is_empty() || !self.done.is_empty() {
            let (value, text) = words(&self.done);
            context.print(&value, text)?;
        }
        self.failed.into_result("destroy", n)
    }
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
