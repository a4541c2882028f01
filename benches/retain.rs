//! How long it takes to decide what to prune: reading what is there in memory, judging it, and foreseeing the space.
//!
//! `cargo bench --bench retain [-- DATASETS]`: that many datasets of 80 snapshots, 500 by default, beside a tenth as many. The best of
//! five rounds counts.

use std::time::{Duration, Instant};

use cowsnap::endpoint::fake::{Fake, FakeStore};
use cowsnap::endpoint::{Backend, Prunable, SnapshotRequest};
use cowsnap::exec::prune::Seen;
use cowsnap::plan::retain::{Period, Retention};
use jiff::{Timestamp, ToSpan, Zoned};

const SNAPSHOTS: usize = 80;
const ROUNDS: usize = 5;

fn main() {
    let datasets: usize = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(500);
    let few = best_of(&made(datasets.div_ceil(10)));
    let all = best_of(&made(datasets));
    for (n, [read, judged]) in [(datasets.div_ceil(10), few), (datasets, all)] {
        let snapshots = n * SNAPSHOTS;
        let rate = snapshots as f64 / judged.as_secs_f64();
        println!(
            "{snapshots:>7} snapshots of {n:>4} datasets: read {read:>9.1?}, judged {judged:>9.1?}, {rate:>9.0} a second"
        );
    }
    println!("ten times as many: {:.1} times as long", all[1].as_secs_f64() / few[1].as_secs_f64());
}

/// Datasets with a snapshot every hour, each in a store of its own.
fn made(datasets: usize) -> Vec<Fake> {
    (0..datasets).map(|nth| one(&format!("tank/{nth}"))).collect()
}

fn one(name: &str) -> Fake {
    let store = FakeStore::default();
    let dataset = store.dataset(name);
    dataset.create().expect("created");
    for nth in 0..SNAPSHOTS {
        let at = Timestamp::from_second(1_790_000_000 + 3600 * nth as i64).expect("in range");
        store.set_clock(at);
        dataset.write("f", &nth.to_le_bytes()).expect("written");
        let name = at.strftime("%Y%m%dT%H%M%SZ").to_string().parse().expect("a name");
        Backend::snapshot(std::slice::from_ref(&dataset), &SnapshotRequest::named(name)).expect("taken");
    }
    dataset
}

/// The time to read all, and to judge all and foresee the space.
fn best_of(datasets: &[Fake]) -> [Duration; 2] {
    let policy = Retention {
        last: 3,
        per: Period::ALL.into_iter().zip([24, 7, 4, 12, 2]).collect(),
        within: Some(6.hours()),
        ..Retention::default()
    };
    let now: Zoned = "2027-11-21T12:00[Europe/Berlin]".parse().expect("a time");
    let round = |_| {
        let since = Instant::now();
        let seen: Vec<_> = datasets.iter().map(|dataset| Seen::of(dataset).expect("read")).collect();
        let read = since.elapsed();
        for (dataset, seen) in datasets.iter().zip(&seen) {
            let going: Vec<_> = seen.going(&policy, &now).into_iter().map(|version| version.id).collect();
            assert!(going.len() > SNAPSHOTS / 2);
            dataset.would_free(&going, false).expect("known");
        }
        [read, since.elapsed() - read]
    };
    let rounds: Vec<[Duration; 2]> = (0..ROUNDS).map(round).collect();
    let best = |at: usize| rounds.iter().map(|round| round[at]).min().expect("some rounds");
    [best(0), best(1)]
}
