//! `cowsnap overlay diff`

use std::path::Path;

use serde_json::{Value, json};

use super::existing;
use crate::Result;
use crate::cli::{Context, diff};
use crate::endpoint::overlay::layer::{DiffRequest, Difference};
use crate::exec::overlay;
use crate::model::overlay::{LayerName, OverlayName};

/// Show what an overlay changed: of the tree that it was made with, or since one of its layers
///
/// The cost follows the change. A file counts as written to if the overlay has data of it and its size or modification time is another
/// one, or nothing else of it changed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which overlay
    name: OverlayName,
    /// Compare with what this layer of it shows
    layer: Option<LayerName>,
    /// Which of its copies
    #[arg(long, value_name = "N", default_value_t = 1)]
    copy: u32,
    /// Read the files that may have changed, and leave out what is the same
    #[arg(long)]
    content: bool,
    /// End each field with a NUL instead, names as they are: letter, path, and for R where it was
    #[arg(short = '0', long)]
    null: bool,
}

/// Runs the subcommand.
pub fn run(args: Args, dir: &Path, context: &Context) -> Result<()> {
    let home = existing(dir)?;
    let request = DiffRequest { content: args.content };
    let found = overlay::diff(&home, &args.name, args.layer.as_ref(), args.copy, request)?;
    if args.null {
        return diff::write(&found.iter().flat_map(|found| diff::fields(&found.change)).collect::<Vec<u8>>());
    }
    let values: Vec<_> = found.iter().map(value).collect();
    context.print(&json!({ "changes": values }), found.iter().map(line).collect::<String>())
}

fn value(found: &Difference) -> Value {
    let mut value = diff::as_json(&found.change);
    value["size"] = json!({ "before": found.before, "after": found.after });
    value
}

fn line(found: &Difference) -> String {
    let line = diff::line(&found.change);
    let size = match (found.before, found.after) {
        (Some(before), Some(after)) if before != after => format!("  {before} -> {after}"),
        (_, Some(size)) | (Some(size), None) => format!("  {size}"),
        (None, None) => String::new(),
    };
    format!("{}{size}\n", line.trim_end_matches('\n'))
}
