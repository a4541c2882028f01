//! `cowsnap archive verify`

use std::path::PathBuf;
use std::time::Instant;

use serde_json::json;

use super::Reach;
use crate::cli::Context;
use crate::cli::job::recorded::archive_verified;
use crate::cli::keys::ReadArgs;
use crate::cli::progress::Progress;
use crate::cli::table::size;
use crate::config::value;
use crate::exec::archive::verify::{self, Depth, Found};
use crate::model::run;
use crate::{Error, Result, endpoint};

/// Check that what is in an archive is what was put there
///
/// Reads every byte: each part by its digest, each container by its frames and root. Exit 4 with names if something is damaged or gone.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    at: Reach,
    #[command(flatten)]
    keys: ReadArgs,
    /// Read the manifests only, and compare what the store lists with them: which parts there are, and how long
    #[arg(long, conflicts_with = "sample")]
    quick: bool,
    /// As --quick, and read so much of the parts: others each time, so that all are read within 100 / N runs
    #[arg(long, value_name = "N%", value_parser = value::sample)]
    sample: Option<u64>,
    /// Where jobs are configured: what came of it is counted of those that push to URL
    #[arg(long, env = "COWSNAP_CONFIG", default_value = "/etc/cowsnap/config.toml", value_name = "FILE")]
    config: PathBuf,
}

/// Runs the subcommand.
pub fn run(args: &Args, context: &Context) -> Result<()> {
    let archive = args.at.archive()?.with_keys(args.keys.keys()?);
    let depth = match args.sample {
        _ if args.quick => Depth::Quick,
        Some(of) => Depth::Sample(of),
        None => Depth::Full,
    };
    let (began, url) = (Instant::now(), archive.url());
    let found = verify::verify(&archive, depth, context.state_dir(), &Progress::new(context));
    let error = match &found {
        Ok(found) if found.damaged.is_empty() => None,
        Ok(found) => Some(damaged(&url, found).into()),
        Err(_) => None,
    };
    let error: Option<&Error> = error.as_ref().or(found.as_ref().err());
    if error.is_none_or(|error| !matches!(error, Error::Endpoint(endpoint::Error::Interrupted { .. }))) {
        // What only a part of the bytes proves takes nothing back that a look at all of them has found.
        let depth = run::Depth { content: true, all: matches!(depth, Depth::Full), inside: true };
        let read = found.as_ref().ok().and_then(|found| found.read_up_to);
        archive_verified(&args.config, archive.store().url(), (depth, read), began.elapsed(), error, context);
    }
    let found = found?;
    let mode = match depth {
        Depth::Quick => "quick",
        Depth::Sample(_) => "sample",
        Depth::Full => "full",
    };
    let value = json!({ "archive": url, "mode": mode, "found": found });
    context.print(&value, text(&found))?;
    match found.damaged.is_empty() {
        true => Ok(()),
        false => Err(damaged(&url, &found).into()),
    }
}

pub(super) fn text(found: &Found) -> String {
    let Found { versions, parts, parts_read, bytes_read, run, damaged, .. } = found;
    let mut text: String = damaged
        .iter()
        .map(|damage| format!("damaged: @{}: {}\n", damage.version.name, damage.what))
        .collect();
    text +=
        &format!("{versions} versions of {parts} parts; read {parts_read} of them, {}", size(*bytes_read));
    if let Some((run, of)) = run {
        text += &format!("; run {run} of {of}, after which all was read");
    }
    text
}

pub(super) fn damaged(url: &str, found: &Found) -> endpoint::Error {
    let mut names: Vec<_> = found.damaged.iter().map(|damage| format!("@{}", damage.version.name)).collect();
    names.dedup();
    let more = if names.len() > 10 { format!(" and {} more", names.len() - 10) } else { String::new() };
    names.truncate(10);
    let why = format!("{url}: damaged: {}{more}", names.join(", "));
    endpoint::Error::Corrupt { what: "archive", why, source: None }
}
