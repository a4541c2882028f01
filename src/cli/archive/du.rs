//! `cowsnap archive du`

use serde::Serialize;

use super::Reach;
use crate::Result;
use crate::cli::Context;
use crate::cli::table::{Table, size};
use crate::exec::archive::usage::{Usage, usage};

/// Say what an archive takes: each version, what is held, what no version needs
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    at: Reach,
}

/// Runs the subcommand.
pub fn run(args: &Args, context: &Context) -> Result<()> {
    let archive = args.at.archive()?;
    let usage = usage(&archive)?;
    let mut table = Table::new(&["NAME", "PARTS", "BYTES"]);
    for version in &usage.versions {
        table.row([version.name.to_string(), version.parts.to_string(), size(version.bytes)]);
    }
    let parts = usage.unreferenced_parts;
    let mut text = format!(
        "{table}{} in all; {} held, with what that builds upon; {} in {parts} parts of no version\n",
        size(usage.bytes),
        size(usage.held_bytes),
        size(usage.unreferenced_bytes),
    );
    if usage.missing_bytes > 0 {
        text += &format!("{} are missing: cowsnap archive verify says of what\n", size(usage.missing_bytes));
    }
    context.print(&Said { archive: archive.url(), usage: &usage }, text)
}

#[derive(Serialize)]
struct Said<'a> {
    archive: String,
    #[serde(flatten)]
    usage: &'a Usage,
}
