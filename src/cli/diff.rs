//! `cowsnap diff`

use std::ffi::OsString;
use std::io::{self, Write};

use serde_json::json;

use crate::cli::{Context, place, send};
use crate::endpoint::Change;
use crate::model::{SnapshotName, SnapshotRef};
use crate::{Error, Result};

/// Show what changed since a snapshot
///
/// One line per path: A added, M written to or replaced, D destroyed, R renamed (FROM -> TO), T of another type now, m only owners,
/// permissions, attributes or times. What is below a renamed directory is not told again. Names are escaped where they
/// hold anything but printable ASCII; -0 and --json give them exactly. The cost follows the change, not the data.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The older snapshot: TARGET@NAME
    old: OsString,
    /// The newer one, @NAME or TARGET@NAME; what the dataset is now by default
    new: Option<OsString>,
    /// End each field with a NUL instead, names as they are: letter, path, and for R where it was
    #[arg(short = '0', long)]
    null: bool,
}

/// Runs the subcommand.
pub fn run(args: Args, context: &Context) -> Result<()> {
    let old = SnapshotRef::parse(&args.old)?;
    let dataset = place::dataset(&old.target, context)?;
    let version = |name: &SnapshotName| Ok::<_, Error>(dataset.version(name)?.id);
    let new = args.new.as_ref().map(|new| version(&send::name_within(new, &old)?)).transpose()?;
    let changes = dataset.changes(&version(&old.name)?, new.as_ref())?;
    if args.null {
        return write(&changes.iter().flat_map(fields).collect::<Vec<u8>>());
    }
    let listed: Vec<_> = changes.iter().map(as_json).collect();
    context.print(&json!({ "changes": listed }), changes.iter().map(line).collect::<String>())
}

pub(super) fn line(change: &Change) -> String {
    let path = change.path.escape_ascii();
    match &change.from {
        Some(from) => format!("{} {} -> {path}\n", change.kind, from.escape_ascii()),
        None => format!("{} {path}\n", change.kind),
    }
}

pub(super) fn fields(change: &Change) -> Vec<u8> {
    let kind = change.kind.to_string().into_bytes();
    let parts = [Some(&kind), Some(&change.path), change.from.as_ref()];
    parts.into_iter().flatten().flat_map(|part| [part.as_slice(), b"\0"].concat()).collect()
}

/// A name that is no UTF-8 is given escaped, and exactly as hexadecimal digits.
pub(super) fn as_json(change: &Change) -> serde_json::Value {
    let mut object = json!({ "change": change.kind.to_string(), "kind": change.kind });
    for (key, path) in [("path", Some(&change.path)), ("from", change.from.as_ref())] {
        let Some(path) = path else { continue };
        match std::str::from_utf8(path) {
            Ok(text) => object[key] = text.into(),
            Err(_) => {
                object[key] = path.escape_ascii().to_string().into();
                object[format!("{key}_hex")] =
                    path.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into();
            }
        }
    }
    object
}

pub(super) fn write(bytes: &[u8]) -> Result<()> {
    match io::stdout().lock().write_all(bytes) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(Error::io("write to", "standard output")),
    }
}
