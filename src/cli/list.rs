//! `cowsnap list`

use std::ffi::OsString;

use serde::Serialize;
use serde_json::json;

use crate::Result;
use crate::cli::table::{Table, size};
use crate::cli::{Context, place};
use crate::endpoint::{self, Dataset, Details, Earlier, History, Listing, Verified};
use crate::model::{Guid, HoldTag, Partial, SnapshotName, Target};

/// List datasets and snapshots
///
/// Without TARGET: all datasets of all pools. With TARGET: its snapshots, oldest first, and what was begun and not
/// finished.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// POOL, POOL/NAME, or the absolute path of a btrfs subvolume, a ZFS mount point or a plain directory
    #[arg(value_name = "TARGET")]
    targets: Vec<OsString>,
    /// Nested datasets too
    #[arg(short, long)]
    recursive: bool,
    /// Referenced and exclusive bytes too: slow, as all extents are looked at
    #[arg(short, long)]
    sizes: bool,
}

/// Runs the subcommand.
pub fn run(args: Args, context: &Context) -> Result<()> {
    let found = place::datasets_or_versions(&args.targets, context)?;
    let named = found.datasets.into_iter().map(|(dataset, _)| dataset);
    if args.targets.is_empty() || only_pools(&args.targets) {
        let mut datasets = Vec::new();
        for dataset in named {
            with_nested(dataset, args.recursive, &mut datasets)?;
        }
        return overview(&datasets, context).and(found.left_out);
    }
    let mut listings: Vec<Listing<Dataset>> = Vec::new();
    for dataset in named {
        for listing in dataset.listings(args.recursive, args.sizes)? {
            if listings.iter().all(|other| other.dataset != listing.dataset) {
                listings.push(listing);
            }
        }
    }
    let reports = listings.into_iter().map(Report::of).collect::<Result<Vec<_>>>()?;
    let text = match reports.iter().all(|report| report.snapshots.is_empty() && report.partials.is_empty()) {
        true => reports.iter().map(|report| format!("{} has no snapshots\n", report.dataset)).collect(),
        false => table(&reports, args.sizes),
    };
    context.print(&json!({ "datasets": reports }), text)
}

fn only_pools(targets: &[OsString]) -> bool {
    let is_pool =
        |text| matches!(Target::parse(text), Ok(Target::Dataset(name)) if name.within_pool().is_none());
    targets.iter().all(|text| is_pool(text))
}

fn with_nested(dataset: Dataset, recursive: bool, all: &mut Vec<Dataset>) -> Result<()> {
    let nested = if recursive && dataset.exists()? { dataset.nested()? } else { Vec::new() };
    if !all.contains(&dataset) {
        all.push(dataset);
    }
    nested.into_iter().try_for_each(|child| with_nested(child, true, all))
}

fn overview(datasets: &[Dataset], context: &Context) -> Result<()> {
    let mut table = Table::new(&["DATASET", "SNAPSHOTS", "NEWEST", "PATH"]);
    let mut objects = Vec::new();
    for dataset in datasets {
        let inventory = match dataset.inventory() {
            // It was destroyed since it was found.
            Err(endpoint::Error::NotFound { .. }) => continue,
            other => other?,
        };
        let newest = inventory.newest().map(|version| version.id.name.to_string());
        let path = match dataset.exists()? {
            true => dataset.mountpoint()?.map(|path| path.display().to_string()),
            false => None,
        };
        let count = inventory.versions().len();
        table.row([dataset.to_string(), count.to_string(), or_dash(&newest), or_dash(&path)]);
        objects.push(json!({
            "dataset": dataset.to_string(), "live": path.is_some(), "path": path, "snapshots": count, "newest": newest,
            "partials": inventory.partials.len(),
        }));
    }
    context.print(&json!({ "datasets": objects }), table.to_string())
}

fn or_dash(text: &Option<String>) -> String {
    text.clone().unwrap_or_else(|| "-".into())
}

#[derive(Serialize)]
struct Report {
    dataset: String,
    live: bool,
    snapshots: Vec<Snapshot>,
    partials: Vec<Partial>,
    #[serde(skip)]
    resumes: bool,
}

#[derive(Serialize)]
struct Snapshot {
    name: SnapshotName,
    guid: Guid,
    created: jiff::Timestamp,
    order: u64,
    holds: Vec<HoldTag>,
    labels: std::collections::BTreeMap<String, String>,
    clones: Vec<String>,
    verified: Option<Verified>,
    /// Whether it can no longer serve as the base of an increment: it was made writable.
    altered: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    referenced_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exclusive_bytes: Option<u64>,
}

impl Report {
    fn of(listing: Listing<Dataset>) -> Result<Self> {
        let Listing { dataset, is_live: live, details, partials } = listing;
        let snapshots: Vec<_> = details.into_iter().map(Snapshot::of).collect();
        if !live && snapshots.is_empty() && partials.is_empty() {
            dataset.expect_live()?;
        }
        let resumes = matches!(dataset, Dataset::Zfs(_));
        Ok(Self { dataset: dataset.to_string(), live, snapshots, partials, resumes })
    }
}

impl Snapshot {
    fn of(details: Details) -> Self {
        Self {
            name: details.version.id.name,
            guid: details.version.id.guid,
            created: details.version.created,
            order: details.version.order,
            holds: details.holds.into_keys().collect(),
            labels: details.labels,
            clones: details.clones,
            verified: details.verified,
            altered: details.altered || details.writable,
            referenced_bytes: details.usage.as_ref().map(|usage| usage.referenced),
            exclusive_bytes: details.usage.as_ref().map(|usage| usage.exclusive),
        }
    }

    fn notes(&self) -> String {
        let mut notes = Vec::new();
        if !self.holds.is_empty() {
            notes.push(format!("held by {}", join(self.holds.iter())));
        }
        if !self.clones.is_empty() {
            notes.push(format!("cloned to {}", self.clones.join(", ")));
        }
        if !self.labels.is_empty() {
            notes.push(join(self.labels.iter().map(|(key, value)| format!("{key}={value}"))));
        }
        notes.extend(match self.verified.as_ref().and_then(|verified| verified.earlier) {
            Some(Earlier::Verified) => Some("verified in parts, the last of this digest".to_owned()),
            Some(Earlier::Unknown) => Some("only its last part is known to have been verified".to_owned()),
            None => None,
        });
        if self.altered {
            notes.push("WRITABLE: no base for increments any more".into());
        }
        notes.join("; ")
    }

    fn verified(&self) -> String {
        match &self.verified {
            Some(verified) => format!(
                "{} {}",
                verified.at.strftime("%Y-%m-%d"),
                &verified.blake3[..verified.blake3.len().min(12)]
            ),
            None => "-".into(),
        }
    }
}

fn join(items: impl Iterator<Item = impl ToString>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

fn table(reports: &[Report], sizes: bool) -> String {
    let columns: &[&str] = match sizes {
        true => &["SNAPSHOT", "CREATED (UTC)", "REFERENCED", "EXCLUSIVE", "VERIFIED", "NOTES"],
        false => &["SNAPSHOT", "CREATED (UTC)", "VERIFIED", "NOTES"],
    };
    let mut table = Table::new(columns);
    for report in reports {
        for snapshot in &report.snapshots {
            let mut row = vec![format!("{}@{}", report.dataset, snapshot.name), time(snapshot.created)];
            if sizes {
                row.push(snapshot.referenced_bytes.map_or("-".into(), size));
                row.push(snapshot.exclusive_bytes.map_or("-".into(), size));
            }
            row.extend([snapshot.verified(), snapshot.notes()]);
            table.row(row);
        }
        for partial in &report.partials {
            let mut row = vec![format!("{}@{}", report.dataset, partial.name), "-".into()];
            row.resize(columns.len() - 1, "-".into());
            row.push(in_part(partial, report.resumes, jiff::Timestamp::now()));
            table.row(row);
        }
    }
    table.to_string()
}

/// What there is to say of a receive that is not done, which goes on by its token if it `resumes`.
fn in_part(partial: &Partial, resumes: bool, now: jiff::Timestamp) -> String {
    let has = match partial.bytes {
        Some(bytes) => format!("{} of its stream", size(bytes)),
        None => "not known how much".into(),
    };
    let begun = partial.since.map_or(String::new(), |since| {
        format!(", begun {} ago", age(now.as_second().saturating_sub(since.as_second())))
    });
    match (partial.live, resumes) {
        (true, _) => format!("PARTIAL: being received, {has}{begun}"),
        (false, false) if partial.bytes == Some(0) => format!(
            "PARTIAL: interrupted, not a snapshot, what is kept of it is damaged{begun} (cowsnap replicate begins anew; cowsnap doctor --fix gives it up)"
        ),
        (false, false) => format!(
            "PARTIAL: interrupted, not a snapshot, {has}{begun} (cowsnap replicate goes on with it, if the source still sends the same; cowsnap doctor --fix gives it up)"
        ),
        (false, true) => format!(
            "PARTIAL: interrupted, not a snapshot, {has}{begun} (the rest: cowsnap send --resume {} SOURCE; cowsnap doctor --fix \
             gives it up)",
            partial.token
        ),
    }
}

/// `3 h`: in the largest unit of which there is one.
fn age(seconds: i64) -> String {
    match seconds.max(0) {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min", seconds / 60),
        seconds @ 3600..86_400 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

fn time(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_came_in_part_its_size_and_age_are_told() {
        let now: jiff::Timestamp = "2026-11-22T12:00:00Z".parse().expect("a time");
        let told = |live, resumes, since: Option<&str>, bytes| {
            let since = since.map(|text| text.parse().expect("a time"));
            let name = "s".parse().expect("a name");
            in_part(
                &Partial { name, guid: Guid::NIL, token: "1-x".into(), live, since, bytes, base: None },
                resumes,
                now,
            )
        };
        for (since, age) in [
            ("2026-11-22T11:59:30Z", "30 s"),
            ("2026-11-22T11:30:00Z", "30 min"),
            ("2026-11-22T02:30:00Z", "9 h"),
            ("2026-11-12T12:00:00Z", "10 d"),
            ("2026-11-22T12:00:09Z", "0 s"),
        ] {
            let said = told(false, false, Some(since), Some(3 << 20));
            assert!(
                said.contains(&format!("not a snapshot, 3.0 MiB of its stream, begun {age} ago (")),
                "{said}"
            );
        }
        assert_eq!(told(true, false, None, None), "PARTIAL: being received, not known how much");
        assert!(
            told(false, true, None, Some(7))
                .contains("7 B of its stream (the rest: cowsnap send --resume 1-x")
        );
    }
}
