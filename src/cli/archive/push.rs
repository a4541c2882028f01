//! `cowsnap archive push`

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use serde_json::json;

use super::Reach;
use crate::cli::job::recorded::archive_pushed;
use crate::cli::keys::WriteArgs;
use crate::cli::progress::Progress;
use crate::cli::send::rate;
use crate::cli::snapshot::label;
use crate::cli::table::size;
use crate::cli::{Context, place};
use crate::exec::archive::push::{Pushed, Wanted, foretell, push};
use crate::model::{SnapshotName, SnapshotRef, Target};
use crate::plan::archive::Limits;
use crate::{Error, Result};

/// Bring a version into an archive: in full, or as what changed since the newest that both have
///
/// A version that is there already is done. What was broken off goes on: parts that are there are not sent again.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The snapshot: TARGET@NAME, or TARGET for its newest
    #[arg(value_name = "TARGET")]
    target: OsString,
    #[command(flatten)]
    at: Reach,
    /// In full, whatever there is to build upon; also where nothing is
    #[arg(long)]
    full: bool,
    /// Put all of a version that is there over what is there of it: parts and manifest
    #[arg(long)]
    repair: bool,
    /// In full, once bringing the version back would take more than so many containers
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_chain: Option<u64>,
    /// In full, once bringing its base back takes more than so many percent of the full container that begins the chain: 200
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    max_restore: Option<u64>,
    /// Say something of the version, in its manifest; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    /// zstd's level: 1 is fastest, 19 smallest
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..=22))]
    level: Option<i32>,
    #[command(flatten)]
    keys: WriteArgs,
    /// Where jobs are configured: what bringing it back takes now is known of those that push TARGET to URL
    #[arg(long, env = "COWSNAP_CONFIG", default_value = "/etc/cowsnap/config.toml", value_name = "FILE")]
    config: PathBuf,
    /// Say what would be pushed
    #[arg(long)]
    dry_run: bool,
}

fn percent(text: &str) -> Result<u64, String> {
    match text.trim_end_matches('%').parse() {
        Ok(percent) if percent >= 100 => Ok(percent),
        _ => Err("a number of percent is needed, 100 or more: the full container alone is 100".into()),
    }
}

/// Runs the subcommand.
pub fn run(args: &Args, context: &Context) -> Result<()> {
    let (target, version) = named(&args.target)?;
    let dataset = place::dataset(&target, context)?;
    let archive = args.at.archive()?;
    let wanted = Wanted {
        version,
        limits: Limits { containers: args.max_chain, percent: args.max_restore },
        full: args.full,
        repair: args.repair,
        labels: labels(&args.label)?,
        level: args.level,
        signers: args.keys.signers()?,
        recipients: args.keys.recipients()?,
        state_dir: context.state_dir().to_owned(),
    };
    if args.dry_run {
        let pushed = foretell(&dataset, &archive, &wanted)?;
        let mut value = json!(pushed);
        value["would"] = "push".into();
        return context.print(&value, would(&pushed));
    }
    let pushed = push(&dataset, &archive, &wanted, &Progress::new(context))?;
    if let Ok(version) = dataset.version(&pushed.snapshot) {
        let to = (&target, archive.store().url());
        archive_pushed(&args.config, to, &pushed, version.created, context);
    }
    context.print(&pushed, told(&pushed))
}

/// `TARGET@NAME`, or `TARGET`.
fn named(text: &OsString) -> Result<(Target, Option<SnapshotName>)> {
    match SnapshotRef::parse(text) {
        Ok(snapshot) => Ok((snapshot.target, Some(snapshot.name))),
        Err(error) => match Target::parse(text) {
            Ok(target) if !text.as_encoded_bytes().contains(&b'@') => Ok((target, None)),
            _ => Err(error.into()),
        },
    }
}

fn labels(given: &[(String, String)]) -> Result<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    for (key, value) in given {
        if labels.insert(key.clone(), value.clone()).is_some() {
            let what = format!("the label {key:?} is given twice");
            return Err(Error::Usage { what, hint: None });
        }
    }
    Ok(labels)
}

fn what(pushed: &Pushed) -> String {
    format!("{}@{}", pushed.dataset, pushed.snapshot)
}

/// Upon what, for people.
fn upon(pushed: &Pushed) -> String {
    match (&pushed.base, pushed.full_because) {
        (Some(base), _) => format!("what changed since @{}", base.name),
        (None, Some(why)) => format!("in full: {why}"),
        (None, None) => "in full".into(),
    }
}

fn would(pushed: &Pushed) -> String {
    let (what, to) = (what(pushed), &pushed.archive);
    if pushed.was_there {
        return format!("{what} is at {to} already");
    }
    let estimate = pushed
        .estimate_bytes
        .map_or_else(String::new, |bytes| format!(", about {} before compression", size(bytes)));
    format!("would push {what} to {to}, {}{estimate}", upon(pushed))
}

pub(super) fn told(pushed: &Pushed) -> String {
    let (what, to) = (what(pushed), &pushed.archive);
    let Some(sent) = &pushed.sent else { return format!("{what} is at {to} already") };
    let resumed = match sent.parts - sent.sent_parts {
        0 => String::new(),
        parts => format!("; {parts} of {} parts were there", sent.parts),
    };
    format!(
        "pushed {what} to {to}, {}: {} as {} in {:.1} s ({}){resumed}, blake3 {}",
        upon(pushed),
        size(sent.stream_bytes),
        size(sent.container_bytes),
        sent.seconds,
        rate(sent.stream_bytes, sent.seconds),
        sent.blake3,
    )
}
