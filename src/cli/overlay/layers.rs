//! Layers, as the commands print them.

use serde_json::{Value, json};

use crate::Result;
use crate::cli::Context;
use crate::cli::table::Table;
use crate::endpoint::overlay::Home;
use crate::endpoint::overlay::layer::{Damaged, Layer};

/// A layer as `--json` prints it.
pub(super) fn value_of(layer: &Layer) -> Result<Value> {
    let record = layer.record();
    Ok(json!({
        "id": record.id, "label": layer.label(), "overlay": record.overlay, "name": record.name,
        "parent": record.parent, "base": { "kind": record.base.kind,
            "path": record.base.path.as_path().display().to_string(), "version": record.base.version },
        "created": record.created, "entries": record.entries, "bytes": record.bytes, "blocks": record.blocks,
        "holds": layer.holds()?,
    }))
}

/// All layers of a home: as JSON, and as a table; and what is said of those of which can not be read what they are.
pub(super) fn list(home: Option<&Home>) -> Result<(Vec<Value>, String, Vec<Damaged>)> {
    let (layers, damaged) = home.map(Layer::all_and_damaged).transpose()?.unwrap_or_default();
    let mut table = Table::new(&["LAYER", "UPON", "ENTRIES", "BYTES", "CREATED", "HOLDS"]);
    for layer in &layers {
        let record = layer.record();
        let parent = layers.iter().find(|below| Some(below.id()) == record.parent);
        let upon = match (parent, record.parent) {
            (Some(parent), _) => parent.label(),
            (None, Some(missing)) => missing.to_string(),
            (None, None) => record.base.path.as_path().display().to_string(),
        };
        let holds: Vec<_> = layer.holds()?.iter().map(ToString::to_string).collect();
        table.row(vec![
            layer.label(),
            upon,
            record.entries.to_string(),
            record.bytes.to_string(),
            record.created.strftime("%Y-%m-%d %H:%M:%S").to_string(),
            holds.join(", "),
        ]);
    }
    let values = layers.iter().map(value_of).collect::<Result<Vec<_>>>()?;
    Ok((values, table.to_string(), damaged))
}

/// Names those of which can not be read what they are.
pub(super) fn warn_of(damaged: &[Damaged], context: &Context) {
    for layer in damaged {
        context.notice(format!("warning: {}", layer.error));
        let hint = match layer.is_foreign() {
            true => layer.error.hint().unwrap_or_default(),
            false => format!("cowsnap overlay destroy --damaged {}", layer.id),
        };
        context.notice(format!("hint: {hint}"));
    }
}
