//! What it takes to decide grows with what there is, and no faster.

use std::time::Duration;

use cowsnap::endpoint::fake::{Fake, FakeStore};
use cowsnap::endpoint::{Backend, Prunable, SnapshotRequest};
use cowsnap::exec::prune::Seen;
use cowsnap::model::{Guid, Inventory, Version, VersionKind, VersionRef};
use cowsnap::plan::replicate::{Policy, replicate};
use cowsnap::plan::retain::{Period, Retention};
use jiff::{Timestamp, ToSpan, Zoned};

/// How long this thread has been on a processor: what others do at the same time is not in it.
fn on_processor() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("the kernel counts it");
    let nanoseconds = text.split(' ').next().and_then(|first| first.parse().ok()).expect("a number");
    Duration::from_nanos(nanoseconds)
}

fn least_of_three(mut work: impl FnMut()) -> Duration {
    let mut round = || {
        let since = on_processor();
        work();
        on_processor() - since
    };
    (0..3).map(|_| round()).min().expect("three rounds")
}

fn policy() -> Policy {
    Policy {
        intermediates: true,
        last: None,
        full_again: false,
        linear: false,
        here: "to".parse().expect("a tag"),
        marks: false,
        there: "from".parse().expect("a tag"),
    }
}

/// With a snapshot every hour, in a store of its own.
fn dataset(nth: usize) -> Fake {
    let store = FakeStore::default();
    let dataset = store.dataset(format!("tank/{nth}"));
    dataset.create().expect("created");
    for nth in 0..80 {
        store.set_clock(Timestamp::from_second(1_790_000_000 + 3600 * nth).expect("in range"));
        let request = SnapshotRequest::named(format!("s{nth}").parse().expect("a name"));
        Backend::snapshot(std::slice::from_ref(&dataset), &request).expect("taken");
    }
    dataset
}

/// What `prune --dry-run` and `replicate --dry-run` do to each.
fn decide(datasets: &[Fake]) {
    let retention = Retention {
        last: 3,
        per: Period::ALL.into_iter().zip([24, 7, 4, 12, 2]).collect(),
        within: Some(6.hours()),
        ..Retention::default()
    };
    let now: Zoned = "2027-11-21T12:00[Europe/Berlin]".parse().expect("a time");
    for dataset in datasets {
        let seen = Seen::of(dataset).expect("read");
        let going: Vec<_> = seen.going(&retention, &now).into_iter().map(|version| version.id).collect();
        dataset.would_free(&going, false).expect("known");
        let older = seen.inventory.versions()[..70].to_vec();
        let plan = replicate(&seen.inventory, &Inventory::new("vault", older, Vec::new()), &policy());
        assert!((40..80).contains(&going.len()) && plan.expect("no conflict").steps.len() > 40);
    }
}

#[test]
fn forty_thousand_snapshots_of_five_hundred_datasets_take_ten_times_a_tenth_of_them() {
    let datasets: Vec<_> = (0..500).map(dataset).collect();
    let few = least_of_three(|| (0..10).for_each(|_| decide(&datasets[..50])));
    let all = least_of_three(|| decide(&datasets));
    assert!(
        all < few * 4,
        "{few:?} for ten times 50 datasets and {all:?} for 500: the square would be 10 times"
    );
}

/// The source's versions, of which the target has the older half; all of the newer half is to be sent, one by one.
fn half_there(n: usize) -> [Inventory; 2] {
    let version = |nth: usize| Version {
        id: VersionRef {
            guid: Guid((nth as u128 + 1).to_be_bytes()),
            name: format!("s{nth}").parse().expect("a name"),
        },
        kind: VersionKind::Snapshot,
        order: nth as u64,
        created: Timestamp::UNIX_EPOCH,
    };
    let versions: Vec<_> = (0..n).map(version).collect();
    let held = versions.iter().map(|version| (version.id.clone(), "to".parse().expect("a tag")));
    let target = Inventory::new("vault", versions[..n / 2].to_vec(), Vec::new());
    [Inventory::new("tank", versions.clone(), held.collect()), target]
}

#[test]
fn ten_times_as_many_versions_are_planned_in_about_ten_times_the_time() {
    let took = |n: usize, rounds: usize| {
        let [source, target] = half_there(n);
        least_of_three(|| {
            for _ in 0..rounds {
                let plan = replicate(&source, &target, &policy()).expect("no conflict");
                assert!(plan.steps.len() > n);
            }
        })
    };
    let (few, many) = (took(2_000, 10), took(20_000, 1));
    assert!(
        many < few * 4,
        "{few:?} for ten times 2,000 and {many:?} for 20,000: the square would be 10 times"
    );
}
