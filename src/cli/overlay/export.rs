//! `cowsnap overlay export`

use std::path::{Path, PathBuf};

use serde_json::json;

use super::existing;
use crate::Result;
use crate::cli::Context;
use crate::cli::keys::WriteArgs;
use crate::cli::output::Output;
use crate::exec::overlay::{layers, transfer};
use crate::model::layer::LayerRef;
use crate::stream::writer::{DEFAULT_LEVEL, Options};

/// Write a layer to a file, as one container that another machine imports
///
/// `cowsnap stream unwrap FILE | tar tv` lists what is in it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The layer: OVERLAY@LAYER
    #[arg(value_name = "OVERLAY@LAYER")]
    layer: LayerRef,
    /// Where to; - for standard output
    file: PathBuf,
    /// zstd's level: 1 is fastest, 19 smallest
    #[arg(long, default_value_t = DEFAULT_LEVEL, value_parser = clap::value_parser!(i32).range(1..=22))]
    level: i32,
    /// Do not compress
    #[arg(long, conflicts_with = "level")]
    no_compress: bool,
    #[command(flatten)]
    keys: WriteArgs,
}

/// Runs the subcommand.
pub fn run(args: Args, dir: &Path, context: &Context) -> Result<()> {
    let home = existing(dir)?;
    let layer = layers::named(&home, &args.layer.overlay, &args.layer.layer)?;
    let protection = args.keys.protection()?;
    let mut output = Output::open(Some(&args.file))?;
    let options = Options { level: (!args.no_compress).then_some(args.level), threads: 0 };
    let sealed = transfer::export(&layer, &mut output, &options, &protection)?;
    output.commit()?;
    if args.file.as_os_str() == "-" {
        return Ok(());
    }
    let (blake3, bytes) = (sealed.root.to_hex().to_string(), sealed.container_len);
    let value = json!({ "layer": layer.label(), "id": layer.id(), "file": args.file.display().to_string(),
        "bytes": bytes, "blake3": blake3 });
    context.print(&value, format!("{}  {bytes} bytes  blake3 {blake3}", args.file.display()))
}
