//! `cowsnap archive hold`, `release` and `holds`

use serde_json::json;

use super::Reach;
use crate::cli::Context;
use crate::cli::table::Table;
use crate::endpoint::archive::Archive;
use crate::exec::archive::Seen;
use crate::model::{HoldTag, SnapshotName, VersionRef, quoted};
use crate::{Result, endpoint};

/// Keep a version of an archive from being destroyed, until the tag is released
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Who keeps it
    #[arg(value_name = "TAG")]
    tag: HoldTag,
    #[command(flatten)]
    at: Reach,
    /// Which version, by its name
    #[arg(value_name = "NAME")]
    name: SnapshotName,
    /// Say what would be done
    #[arg(long)]
    dry_run: bool,
}

/// Say who keeps which versions of an archive
#[derive(Debug, clap::Args)]
pub struct List {
    #[command(flatten)]
    at: Reach,
}

/// Holds.
pub fn hold(args: &Args, context: &Context) -> Result<()> {
    let archive = args.at.archive()?;
    let versions = versions(&archive, &args.name)?;
    if !args.dry_run {
        for version in &versions {
            archive.hold(version, &args.tag)?;
        }
    }
    told(args, &archive, &versions, ("hold", "held"), context)
}

/// Releases.
pub fn release(args: &Args, context: &Context) -> Result<()> {
    let archive = args.at.archive()?;
    let mut versions = versions(&archive, &args.name)?;
    let holds = archive.holds()?;
    let is_held = |version: &VersionRef| {
        holds.iter().any(|(hold, _)| hold.guid == version.guid && hold.tag == args.tag)
    };
    versions.retain(is_held);
    if versions.is_empty() {
        let subject = format!("{} on {}@{}", args.tag, archive.url(), args.name);
        let hint = Some(format!("cowsnap archive holds {}", quoted(archive.url())));
        return Err(endpoint::Error::NotFound { what: "hold", subject, hint }.into());
    }
    if !args.dry_run {
        for version in &versions {
            archive.release(version, &args.tag)?;
        }
    }
    told(args, &archive, &versions, ("release", "released"), context)
}

/// The versions of that name.
fn versions(archive: &Archive, name: &SnapshotName) -> Result<Vec<VersionRef>> {
    let mut found: Vec<_> = archive.listing()?.stored.into_iter().map(|stored| stored.version).collect();
    found.retain(|version| version.name == *name);
    found.sort();
    found.dedup();
    if found.is_empty() {
        let subject = format!("{}@{name}", archive.url());
        let hint = Some(format!("cowsnap archive list {}", quoted(archive.url())));
        return Err(endpoint::Error::NotFound { what: "version", subject, hint }.into());
    }
    Ok(found)
}

fn told(
    args: &Args,
    archive: &Archive,
    versions: &[VersionRef],
    (verb, done): (&str, &str),
    context: &Context,
) -> Result<()> {
    let (url, Args { tag, name, .. }) = (archive.url(), args);
    let would = args.dry_run.then_some(verb);
    let value = json!({ "would": would, "archive": url, "versions": versions, "tag": tag });
    let text = match args.dry_run {
        true => format!("would {verb} {url}@{name} by {tag}"),
        false => format!("{done} {url}@{name} by {tag}"),
    };
    context.print(&value, text)
}

/// Lists holds.
pub fn list(args: &List, context: &Context) -> Result<()> {
    let archive = args.at.archive()?;
    let seen = Seen::of(&archive)?;
    let mut table = Table::new(&["VERSION", "TAG"]);
    let mut holds = Vec::new();
    for version in seen.chains.versions() {
        for tag in seen.holds.get(&version.id.guid).into_iter().flatten() {
            table.row([format!("@{}", version.id.name), tag.to_string()]);
            holds.push(json!({ "name": version.id.name, "guid": version.id.guid, "tag": tag }));
        }
    }
    let text = match holds.is_empty() {
        true => format!("nobody holds anything at {}", archive.url()),
        false => table.to_string(),
    };
    context.print(&json!({ "archive": archive.url(), "holds": holds }), text)
}
