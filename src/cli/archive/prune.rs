//! `cowsnap archive prune`

use std::collections::BTreeSet;

use jiff::{SignedDuration, Span, Timestamp};
use serde_json::json;

use super::Reach;
use crate::cli::prune::{Rules, told};
use crate::cli::table::{Table, size};
use crate::cli::{Context, halfway};
use crate::config::value::span;
use crate::endpoint::archive::Archive;
use crate::exec::archive::Seen;
use crate::exec::archive::prune::{Checked, Decided, GRACE, Pruned, Wanted, foretell_left, prune};
use crate::exec::keys;
use crate::model::{VersionRef, quoted};
use crate::plan::retain::Surroundings;
use crate::stream::reader::Keys;
use crate::{Error, Result};

/// Destroy the versions of an archive that no rule keeps, and sweep what was left behind
///
/// A version stays if any rule keeps it, if it is held, if one that stays builds upon it, or somebody reads it or pushes upon it. The newest always stays.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    at: Reach,
    #[command(flatten)]
    rules: Rules,
    /// Sweep parts of no version when the youngest of them is that old
    #[arg(long, value_name = "TIME", value_parser = span, default_value = "7d")]
    grace: Span,
    /// Count only versions whose manifest this key signed, or one of those in this file; may be given several times
    #[arg(long, value_name = "KEY|FILE")]
    verify_key: Vec<String>,
    /// Say what would go
    #[arg(long)]
    dry_run: bool,
    /// Say of each version what would become of it, and why; destroys nothing
    #[arg(long)]
    explain: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args, context: &Context) -> Result<()> {
    let policy = args.rules.policy();
    let keys = Keys { trusted: keys::trusted(&args.verify_key)?, ..Keys::default() };
    let archive = args.at.archive()?.with_keys(keys);
    if policy.is_empty() {
        let what = "no rule says what to keep, so nothing is destroyed".into();
        let hint = format!(
            "cowsnap archive prune --keep-daily 7 --keep-weekly 4 --dry-run {}",
            quoted(archive.url())
        );
        return Err(Error::Usage { what, hint: Some(hint) });
    }
    let now = Timestamp::now().to_zoned(args.rules.zone.clone());
    let grace = args.grace.to_duration(&now).unwrap_or(GRACE).max(SignedDuration::ZERO);
    let wanted = Wanted { policy, now, grace };
    if args.explain || args.dry_run {
        return foresee(args, &archive, &wanted, context);
    }
    done(&archive, prune(&archive, &wanted)?, context)
}

fn foresee(args: &Args, archive: &Archive, wanted: &Wanted, context: &Context) -> Result<()> {
    let seen = Seen::of(archive)?;
    let decided = Decided::of(archive, &seen, wanted, &BTreeSet::new(), &mut Checked::default())?;
    decided.expect_word(archive, wanted)?;
    if args.explain {
        let mut table = Table::new(&["VERSION", "CREATED (UTC)", "VERDICT", "WHY"]);
        let around = Surroundings::default();
        let mut versions = told("", &decided.verdicts(wanted, &around), &mut table);
        for (stored, why) in &decided.passed {
            let (version, time) = (&stored.version, stored.created.strftime("%Y-%m-%d %H:%M:%S").to_string());
            table.row([format!("@{}", version.name), time, "keep".into(), format!("not counted: {why}")]);
            versions.push(json!({
                "name": version.name, "guid": version.guid, "created": stored.created, "verdict": "keep",
                "kept_by": [{ "rule": "not-counted", "says": why }], "missed": [],
            }));
        }
        let value = json!({ "archive": archive.url(), "versions": versions, "dry_run": true });
        return context.print(&value, table.to_string());
    }
    let (going, n) = (decided.going(), decided.n_versions());
    let bytes: u64 = decided.doomed.iter().map(|stored| stored.len).sum();
    let (left_parts, left_bytes) = foretell_left(archive, &seen, wanted)?;
    let mut text: String = going.iter().map(|version| format!("would destroy @{}\n", version.name)).collect();
    text += &format!(
        "{}: {} of {n} versions would go, {}; {left_parts} parts of none, {}\n",
        archive.url(),
        going.len(),
        size(bytes),
        size(left_bytes),
    );
    let passed: Vec<_> =
        decided.passed.iter().map(|(stored, why)| (stored.version.clone(), why.clone())).collect();
    text.insert_str(0, &not_counted(&passed));
    let value = json!({
        "archive": archive.url(), "versions": n, "not_counted": names(passed.iter().map(|(v, _)| v)), "would_destroy": names(going.iter()), "would_free_bytes": bytes,
        "left_parts": left_parts, "left_bytes": left_bytes, "dry_run": true,
    });
    context.print(&value, text)
}

fn done(archive: &Archive, pruned: Pruned, context: &Context) -> Result<()> {
    let url = archive.url();
    let mut text: String =
        pruned.destroyed.iter().map(|version| format!("destroyed @{}\n", version.name)).collect();
    for version in &pruned.spared {
        text += &format!("@{} is used, held or built upon since, and stays\n", version.name);
    }
    text += &not_counted(&pruned.passed);
    let n = pruned.destroyed.len();
    text += &format!(
        "{url}: {n} versions destroyed, {} kept; {} parts, {}, are gone\n",
        pruned.n_versions - n,
        pruned.parts,
        size(pruned.bytes),
    );
    let value = json!({
        "archive": url, "versions": pruned.n_versions, "kept": pruned.n_versions - n,
        "destroyed": names(pruned.destroyed.iter()), "spared": names(pruned.spared.iter()),
        "not_counted": names(pruned.passed.iter().map(|(version, _)| version)),
        "parts": pruned.parts, "freed_bytes": pruned.bytes, "claims": pruned.claims,
        "stopped": pruned.stopped.as_ref().map(ToString::to_string), "dry_run": false,
    });
    context.print(&value, text)?;
    let of = n + pruned.stopped.iter().count();
    pruned.stopped.map_or(Ok(()), |error| Err(halfway(n, of, "versions were destroyed", error)))
}

/// What is left alone, for people.
fn not_counted(passed: &[(VersionRef, String)]) -> String {
    passed
        .iter()
        .map(|(version, why)| format!("@{} is not counted, and stays: {why}\n", version.name))
        .collect()
}

fn names<'a>(versions: impl Iterator<Item = &'a VersionRef>) -> Vec<String> {
    versions.map(|version| version.name.to_string()).collect()
}
