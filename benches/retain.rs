//! How long it takes to decide what to prune and what to replicate, in memory: reading what is there, judging it and foreseeing the space;
//! and planning what brings a target up to it.
//!
//! `cargo bench --bench retain [-- DATASETS]`: that many datasets of 80 snapshots, 500 by default, beside a tenth as many; then one dataset
//! with as many as all of them. The best of five rounds counts.

use std::time::{Duration, Instant};

use cowsnap::endpoint::fake::{Fake, FakeStore};
use cowsnap::endpoint::{Backend, History, Prunable, SnapshotRequest};
use cowsnap::exec::prune::Seen;
use cowsnap::model::{Inventory, Version, VersionRef};
use cowsnap::plan::replicate::{Policy, replicate};
use cowsnap::plan::retain::{Period, Retention};
use jiff::{Timestamp, ToSpan, Zoned};

const SNAPSHOTS: usize = 80;
/// How many of them a target lacks.
const NEW: usize = 10;
const ROUNDS: usize = 5;

fn main() {
    let datasets: usize = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(500);
    let few = best_of(&made(datasets.div_ceil(10)));
    let all = best_of(&made(datasets));
    for (n, [read, judged, planned]) in [(datasets.div_ceil(10), few), (datasets, all)] {
        let snapshots = n * SNAPSHOTS;
        let rate = snapshots as f64 / judged.as_secs_f64();
        println!(
            "{snapshots:>7} snapshots of {n:>4} datasets: read {read:>9.1?}, judged {judged:>9.1?} ({rate:>9.0} a second), replication planned {planned:>9.1?}"
        );
    }
    let times = |at: usize| all[at].as_secs_f64() / few[at].as_secs_f64();
    println!("ten times as many: judged in {:.1} times, planned in {:.1} times as long", times(1), times(2));
    let [few, all] = [datasets.div_ceil(10), datasets].map(|n| planned_in_one(n * SNAPSHOTS));
    println!(
        "as many of one dataset, the newer half sent one by one: {few:.1?}, {all:.1?}; ten times as many: {:.1} times as long",
        all.as_secs_f64() / few.as_secs_f64()
    );
}

/// Datasets with a snapshot every hour, each in a store of its own.
fn made(datasets: usize) -> Vec<Fake> {
    (0..datasets).map(|nth| one(&format!("tank/{nth}"), SNAPSHOTS)).collect()
}

fn one(name: &str, snapshots: usize) -> Fake {
    let store = FakeStore::default();
    let dataset = store.dataset(name);
    dataset.create().expect("created");
    for nth in 0..snapshots {
        let at = Timestamp::from_second(1_790_000_000 + 3600 * nth as i64).expect("in range");
        store.set_clock(at);
        dataset.write("f", &nth.to_le_bytes()).expect("written");
        let name = at.strftime("%Y%m%dT%H%M%SZ").to_string().parse().expect("a name");
        Backend::snapshot(std::slice::from_ref(&dataset), &SnapshotRequest::named(name)).expect("taken");
    }
    dataset
}

/// The time to read all; to judge all and foresee the space; to plan the replication of what each target lacks.
fn best_of(datasets: &[Fake]) -> [Duration; 3] {
    let policy = Retention {
        last: 3,
        per: Period::ALL.into_iter().zip([24, 7, 4, 12, 2]).collect(),
        within: Some(6.hours()),
        ..Retention::default()
    };
    let now: Zoned = "2027-11-21T12:00[Europe/Berlin]".parse().expect("a time");
    let targets: Vec<_> = datasets.iter().map(|dataset| target_of(dataset, SNAPSHOTS - NEW)).collect();
    let round = |_| {
        let since = Instant::now();
        let seen: Vec<_> = datasets.iter().map(|dataset| Seen::of(dataset).expect("read")).collect();
        let read = since.elapsed();
        for (dataset, seen) in datasets.iter().zip(&seen) {
            let going: Vec<_> = seen.going(&policy, &now).into_iter().map(|version| version.id).collect();
            assert!(going.len() > SNAPSHOTS / 2);
            dataset.would_free(&going, false).expect("known");
        }
        let judged = since.elapsed() - read;
        let since = Instant::now();
        for (seen, target) in seen.iter().zip(&targets) {
            plan(&seen.inventory, target, NEW);
        }
        [read, judged, since.elapsed()]
    };
    let rounds: Vec<[Duration; 3]> = (0..ROUNDS).map(round).collect();
    let best = |at: usize| rounds.iter().map(|round| round[at]).min().expect("some rounds");
    [best(0), best(1), best(2)]
}

/// A target that has the first ones, and keeps the last of these.
fn target_of(dataset: &Fake, first: usize) -> Inventory {
    let versions = dataset.inventory().expect("there").versions()[..first].to_vec();
    let held = versions.last().map(|version| (version.id.clone(), "from".parse().expect("a tag")));
    Inventory::new("vault", versions, held.into_iter().collect())
}

/// Every version between, one by one.
fn plan(source: &Inventory, target: &Inventory, n_new: usize) {
    let policy = Policy {
        intermediates: true,
        last: None,
        full_again: false,
        linear: false,
        marks: false,
        here: "to".parse().expect("a tag"),
        there: "from".parse().expect("a tag"),
    };
    let plan = replicate(source, target, &policy).expect("no conflict");
    assert!(plan.steps.len() > 3 * n_new);
}

/// One dataset of so many snapshots, of which the target has the older half.
fn planned_in_one(snapshots: usize) -> Duration {
    let version = |nth: usize| Version {
        id: VersionRef {
            guid: cowsnap::model::Guid((nth as u128 + 1).to_be_bytes()),
            name: format!("s{nth}").parse().expect("a name"),
        },
        kind: cowsnap::model::VersionKind::Snapshot,
        order: nth as u64,
        created: Timestamp::UNIX_EPOCH,
    };
    let versions: Vec<_> = (0..snapshots).map(version).collect();
    let target = Inventory::new("vault", versions[..snapshots / 2].to_vec(), Vec::new());
    let source = Inventory::new("tank", versions, Vec::new());
    let round = |_| {
        let since = Instant::now();
        plan(&source, &target, snapshots / 2);
        since.elapsed()
    };
    (0..ROUNDS).map(round).min().expect("some rounds")
}
