//! `cowsnap archive list`

use jiff::Timestamp;
use serde::Serialize;

use super::Reach;
use crate::Result;
use crate::cli::Context;
use crate::cli::table::{Table, size};
use crate::endpoint::archive::Writers;
use crate::exec::archive::Seen;
use crate::model::{Guid, HoldTag, SnapshotName, Version};

/// List what an archive holds: each version once, oldest first, with what bringing it back takes
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    at: Reach,
}

/// Runs the subcommand.
pub fn run(args: &Args, context: &Context) -> Result<()> {
    let archive = args.at.archive()?;
    let seen = Seen::of(&archive)?;
    let versions = seen.chains.versions();
    for stranger in &seen.strangers {
        context.warn(format!(
            "{}: {stranger} is of no format that is known here, and left alone",
            archive.url()
        ));
    }
    let charter = archive.charter();
    let listed = Listed {
        archive: archive.url(),
        id: charter.id,
        dataset: &charter.dataset,
        writers: charter.writers,
        versions: versions.iter().map(|version| Of::new(&seen, version)).collect(),
        strangers: &seen.strangers,
    };
    let text = match versions.is_empty() {
        true => format!("{} holds no versions", archive.url()),
        // There may be many, and each of its cells takes memory.
        false if context.json => String::new(),
        false => {
            let mut table =
                Table::new(&["NAME", "CREATED (UTC)", "BASE", "BYTES", "CHAIN", "RESTORE", "HELD BY"]);
            versions.iter().for_each(|version| table.row(row(&seen, version)));
            table.to_string()
        }
    };
    context.print(&listed, text)
}

/// What is printed with `--json`.
#[derive(Serialize)]
struct Listed<'a> {
    archive: String,
    id: Guid,
    dataset: &'a str,
    writers: Writers,
    versions: Vec<Of<'a>>,
    strangers: &'a [String],
}

/// What is printed of a version with `--json`.
#[derive(Serialize)]
struct Of<'a> {
    name: &'a SnapshotName,
    guid: Guid,
    created: Timestamp,
    base: Option<Guid>,
    bytes: Option<u64>,
    stored_bytes: u64,
    chain: Option<u64>,
    restore_bytes: Option<u64>,
    restore_requests: Option<u64>,
    restorable: bool,
    holds: &'a [HoldTag],
}

impl<'a> Of<'a> {
    fn new(seen: &'a Seen, version: &'a Version) -> Self {
        let guid = version.id.guid;
        let (way, cost) = (seen.chains.way(guid), seen.chains.cost(guid));
        Self {
            name: &version.id.name,
            guid,
            created: version.created,
            base: way.and_then(|way| way.base),
            bytes: way.map(|way| way.len),
            stored_bytes: seen.chains.ways(guid).map(|way| way.len).sum(),
            chain: cost.map(|cost| cost.containers),
            restore_bytes: cost.map(|cost| cost.bytes),
            restore_requests: cost.map(|cost| cost.requests),
            restorable: cost.is_some(),
            holds: seen.holds.get(&guid).map_or(&[][..], Vec::as_slice),
        }
    }
}

fn row(seen: &Seen, version: &Version) -> Vec<String> {
    let guid = version.id.guid;
    let created = version.created.strftime("%Y-%m-%d %H:%M:%S").to_string();
    let held = seen.holds.get(&guid).map_or(&[][..], Vec::as_slice);
    let held = match held.iter().map(ToString::to_string).collect::<Vec<_>>() {
        tags if tags.is_empty() => "-".to_owned(),
        tags => tags.join(", "),
    };
    let (Some(way), Some(cost)) = (seen.chains.way(guid), seen.chains.cost(guid)) else {
        let dash = || "-".to_owned();
        let name = version.id.name.to_string();
        return vec![name, created, "missing".into(), dash(), dash(), "impossible".into(), held];
    };
    let base = match way.base {
        Some(base) => seen
            .chains
            .ways(base)
            .next()
            .map_or_else(|| base.to_string(), |base| base.version.name.to_string()),
        None => "full".into(),
    };
    let chain = cost.containers.to_string();
    vec![version.id.name.to_string(), created, base, size(way.len), chain, size(cost.bytes), held]
}
