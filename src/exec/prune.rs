//! Snapshots that a policy does not keep, destroyed.
//!
//! Nothing is written down about it: whatever ends a run, the next one reads what is there and goes on. Two runs at once destroy
//! what either of them would; that one is faster is no error of the other.

use std::collections::BTreeMap;

use jiff::Zoned;

use crate::endpoint::{Details, Error, Prunable, Result};
use crate::error::Class;
use crate::model::{Inventory, Version, VersionRef};
use crate::plan::common::newest_common;
use crate::plan::retain::{Retention, Surroundings, Verdict, retain};
use crate::sys::interrupt;

/// All of a dataset that a verdict depends on, read at one time.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Its versions and their holds.
    pub inventory: Inventory,
    /// What else there is to know.
    pub around: Surroundings,
}

impl Seen {
    /// Reads it.
    ///
    /// # Errors
    /// A dataset that is not there or can not be read.
    pub fn of(dataset: &(impl Prunable + ToString)) -> Result<Self> {
        let details = dataset.described()?;
        if details.is_empty() {
            return Ok(Self { inventory: dataset.inventory()?, around: Surroundings::default() });
        }
        let mut around = Surroundings::default();
        let (mut versions, mut holds) = (Vec::new(), Vec::new());
        for Details { version, labels, holds: tags, clones, altered, writable, .. } in details {
            let id = || version.id.clone();
            holds.extend(tags.into_keys().map(|tag| (id(), tag)));
            if !labels.is_empty() {
                around.labels.insert(id(), labels);
            }
            if !clones.is_empty() && dataset.has_dependent_clones() {
                around.clones.insert(id(), clones);
            }
            if altered || writable {
                around.writable.insert(id());
            }
            versions.push(version);
        }
        Ok(Self { inventory: Inventory::new(dataset.to_string(), versions, holds), around })
    }

    /// Keeps the newest snapshot that `other`, which is called `name`, has too. Answers whether there is one.
    pub fn keep_base_with(&mut self, name: &str, other: &Inventory) -> bool {
        let Some(base) = newest_common(&self.inventory, other) else { return false };
        self.around.bases.entry(base.id.guid).or_default().push(name.to_owned());
        true
    }

    /// What becomes of each snapshot, oldest first.
    pub fn verdicts<'a>(&'a self, policy: &'a Retention, now: &Zoned) -> Vec<Verdict<'a>> {
        retain(&self.inventory, policy, &self.around, now)
    }

    /// The snapshots that go, oldest first.
    pub fn going(&self, policy: &Retention, now: &Zoned) -> Vec<Version> {
        let verdicts = self.verdicts(policy, now);
        verdicts.into_iter().filter(|v| !v.is_kept()).map(|v| v.version.clone()).collect()
    }
}

/// What became of the snapshots of one dataset that were to go.
#[derive(Debug, Default)]
pub struct Pruned {
    /// Those that went.
    pub destroyed: Vec<VersionRef>,
    /// Those that somebody else had destroyed already.
    pub gone: Vec<VersionRef>,
    /// Those that somebody holds since it was decided, and stay.
    pub held: Vec<VersionRef>,
    /// Those that could not be destroyed, and why.
    pub failed: Vec<(VersionRef, Error)>,
    /// What ended it before all were tried.
    pub stopped: Option<Error>,
}

impl Pruned {
    /// Whether all that was to go went, or is held.
    pub fn is_whole(&self) -> bool {
        self.failed.is_empty() && self.stopped.is_none()
    }

    /// Takes note of how destroying `version` went. Answers whether it makes sense to go on with others.
    fn note(&mut self, version: &VersionRef, outcome: Result<()>) -> bool {
        match outcome {
            Ok(()) => self.destroyed.push(version.clone()),
            Err(Error::NotFound { .. }) => self.gone.push(version.clone()),
            Err(Error::Held { .. }) => self.held.push(version.clone()),
            Err(error @ (Error::Refused { .. } | Error::Reused { .. })) => {
                self.failed.push((version.clone(), error));
            }
            Err(error) => self.stopped = Some(error),
        }
        self.stopped.is_none()
    }
}

/// Destroys `going`, which is in the order that it is to go.
///
/// One that is in use keeps no other one; what concerns more than one (no permission, an interruption) ends it.
pub fn prune(dataset: &(impl Prunable + ToString), going: &[Version]) -> Pruned {
    let mut pruned = Pruned::default();
    for version in going {
        let outcome = uninterrupted(dataset).and_then(|()| dataset.destroy(&version.id));
        if !pruned.note(&version.id, outcome) {
            break;
        }
    }
    pruned
}

fn uninterrupted(dataset: &impl ToString) -> Result<()> {
    interrupt::check().map_err(|_| Error::Interrupted { op: "prune", subject: dataset.to_string() })
}

/// What destroying until there was enough space did.
#[derive(Debug)]
pub struct BySpace {
    /// What became of each dataset's snapshots, in the order of the datasets.
    pub pruned: Vec<Pruned>,
    /// How many bytes were free before.
    pub before: u64,
    /// How many bytes are free now.
    pub free: u64,
}

/// Destroys snapshots of `datasets`, which share their space, until `min_free` bytes are free: the oldest first, one after another,
/// each time waiting for its space and looking again. The datasets come with the snapshots that may go.
///
/// Whether that was enough is seen in [`BySpace::free`].
///
/// # Errors
/// Free space that can not be read, when nothing was destroyed yet.
pub fn prune_by_space<P: Prunable + ToString>(
    datasets: &[(P, Vec<Version>)],
    min_free: u64,
) -> Result<BySpace> {
    let mut pruned: Vec<_> = datasets.iter().map(|_| Pruned::default()).collect();
    let Some((first, _)) = datasets.first() else { return Ok(BySpace { pruned, before: 0, free: 0 }) };
    let before = first.free_bytes()?;
    let mut free = before;
    for (at, version) in oldest_first(datasets) {
        if free >= min_free {
            break;
        }
        if pruned[at].stopped.is_some() {
            continue;
        }
        let dataset = &datasets[at].0;
        let outcome = uninterrupted(dataset).and_then(|()| dataset.destroy_and_see_space(&version.id));
        let is_interrupted = outcome.as_ref().is_err_and(|error| error.class() == Class::Unreachable);
        pruned[at].note(&version.id, outcome);
        match first.free_bytes() {
            Ok(bytes) => free = bytes,
            Err(error) => pruned[at].stopped = Some(error),
        }
        if is_interrupted {
            break;
        }
    }
    Ok(BySpace { pruned, before, free })
}

/// All that may go of datasets in one filesystem or pool, whose transactions are of one order; with it, where its dataset is.
fn oldest_first<P>(datasets: &[(P, Vec<Version>)]) -> Vec<(usize, &Version)> {
    let mut all: Vec<(usize, &Version)> = Vec::new();
    for (at, (_, going)) in datasets.iter().enumerate() {
        all.extend(going.iter().map(|version| (at, version)));
    }
    all.sort_by_key(|(at, version)| (version.order, *at));
    all
}

/// The places of datasets that share their space, together.
pub fn by_space<P: Prunable>(datasets: &[P]) -> Vec<Vec<usize>> {
    let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (at, dataset) in datasets.iter().enumerate() {
        let shares = |first: &&usize| datasets[**first].shares_space_with(dataset);
        let first = groups.keys().find(shares).copied().unwrap_or(at);
        groups.entry(first).or_default().push(at);
    }
    groups.into_values().collect()
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;

    use super::*;
    use crate::endpoint::fake::{Fake, FakeStore};
    use crate::endpoint::fault::{Faults, Faulty, When};
    use crate::endpoint::{Backend, History, SnapshotRequest};
    use crate::plan::retain::{NamePattern, Period, Schedule, simulate};

    fn made(store: &FakeStore, name: &str) -> Fake {
        let dataset = store.dataset(name);
        dataset.create().expect("created");
        dataset
    }

    fn request(name: &str) -> SnapshotRequest {
        SnapshotRequest::named(name.parse().expect("a name"))
    }

    fn take(dataset: &Fake, name: &str) -> VersionRef {
        let taken = Backend::snapshot(std::slice::from_ref(dataset), &request(name));
        taken.expect("taken").versions.remove(0).id
    }

    /// Takes a snapshot with 100 bytes that no other one has.
    fn take_100(dataset: &Fake, name: &str) {
        let mut bytes = format!("{dataset}@{name}").into_bytes();
        bytes.resize(100, 0);
        dataset.write("f", &bytes).expect("written");
        take(dataset, name);
    }

    fn names(dataset: &impl History) -> String {
        let inventory = dataset.inventory().expect("there");
        let names: Vec<_> = inventory.versions().iter().map(|v| v.id.name.to_string()).collect();
        names.join(" ")
    }

    fn last(last: usize) -> Retention {
        Retention { last, ..Retention::default() }
    }

    fn now() -> Zoned {
        "2026-11-21T12:00[Europe/Berlin]".parse().expect("a time")
    }

    fn done(dataset: &(impl Prunable + ToString), policy: &Retention) -> Pruned {
        let seen = Seen::of(dataset).expect("read");
        prune(dataset, &seen.going(policy, &now()))
    }

    #[test]
    fn what_is_left_is_what_the_policy_keeps_and_again_nothing_goes() {
        let dataset = made(&FakeStore::default(), "d");
        for name in ["a", "b", "c", "d"] {
            take(&dataset, name);
        }
        let first = done(&dataset, &last(2));
        assert_eq!((first.destroyed.len(), names(&dataset).as_str()), (2, "c d"));
        let second = done(&dataset, &last(2));
        assert!(second.is_whole() && second.destroyed.is_empty());
        assert!(Seen::of(&FakeStore::default().dataset("none")).is_err());
    }

    #[test]
    fn what_was_simulated_is_what_there_is_day_by_day() {
        let store = FakeStore::default();
        let dataset = made(&store, "d");
        let begin: Zoned = "2026-10-20T23:30[Europe/Berlin]".parse().expect("a time");
        for hours in [0, 1, 30, 31, 50] {
            store.set_clock(begin.checked_sub((60 - hours).hours()).expect("in range").timestamp());
            take(&dataset, &format!("before-{hours}"));
        }
        dataset
            .hold(&dataset.inventory().expect("there").versions()[1].id, &"t".parse().expect("a tag"))
            .expect("held");
        let policy = Retention {
            last: 2,
            per: [(Period::Day, 3), (Period::Week, 2), (Period::Month, 2)].into(),
            min_age: Some(20.hours()),
            ..Retention::default()
        };
        let seen = Seen::of(&dataset).expect("read");
        let schedule = Schedule { horizon: 45.days(), every: 7.hours() };
        let days = simulate(&seen.inventory, &policy, &seen.around, &begin, schedule).expect("it ends");
        let run = |now: &Zoned| {
            let going = Seen::of(&dataset).expect("read").going(&policy, now);
            assert!(prune(&dataset, &going).is_whole());
        };
        run(&begin);
        let mut ticks = 1;
        for day in &days {
            loop {
                let now = begin.checked_add((7 * ticks).hours()).expect("in range");
                if now.date() > day.date || now > begin.checked_add(45.days()).expect("in range") {
                    break;
                }
                store.set_clock(now.timestamp());
                take(&dataset, &now.timestamp().strftime("%Y%m%dT%H%M%SZ").to_string());
                run(&now);
                ticks += 1;
            }
            let said: Vec<_> = day.snapshots.iter().map(ToString::to_string).collect();
            assert_eq!(names(&dataset), said.join(" "), "at the end of {}", day.date);
        }
        assert!(days.len() == 46 && ticks > 140, "{} days, {ticks} snapshots", days.len());
    }

    #[test]
    fn a_run_that_fails_at_any_operation_is_finished_by_the_next() {
        let mut failed = 0;
        for nth in 1..=6 {
            for when in [When::Before, When::After] {
                let inner = made(&FakeStore::default(), "d");
                for name in ["a", "b", "c", "d", "e", "f"] {
                    take(&inner, name);
                }
                let faults = Faults::default();
                let dataset = Faulty::new(inner, &faults);
                faults.fail(nth, when);
                let whole =
                    Seen::of(&dataset).map(|seen| prune(&dataset, &seen.going(&last(2), &now())).is_whole());
                failed += usize::from(!whole.unwrap_or(false));
                let left = names(dataset.inner());
                assert!(left.ends_with("e f"), "{left}");
                faults.heal();
                assert!(done(&dataset, &last(2)).is_whole());
                assert_eq!(names(&dataset), "e f", "{nth} {when:?}");
            }
        }
        assert_eq!(failed, 10, "one listing and four that go");
    }

    #[test]
    fn of_two_runs_at_once_each_finds_gone_what_the_other_destroyed() {
        let dataset = made(&FakeStore::default(), "d");
        for name in ["a", "b", "c", "d"] {
            take(&dataset, name);
        }
        let [one, two] =
            [last(1), last(2)].map(|policy| Seen::of(&dataset).expect("read").going(&policy, &now()));
        let first = prune(&dataset, &one);
        let second = prune(&dataset, &two);
        assert_eq!((first.destroyed.len(), second.destroyed.len(), second.gone.len()), (3, 0, 2));
        assert!(second.is_whole() && names(&dataset) == "d");
    }

    #[test]
    fn what_is_held_since_stays_and_what_was_cloned_since_keeps_no_other() {
        let store = FakeStore::default();
        let dataset = made(&store, "d");
        let [a, b, c, _] = ["a", "b", "c", "d"].map(|name| take(&dataset, name));
        let going = Seen::of(&dataset).expect("read").going(&last(1), &now());
        dataset.hold(&a, &"t".parse().expect("a tag")).expect("held");
        dataset.clone_at(&b, &store.dataset("clone")).expect("cloned");
        let pruned = prune(&dataset, &going);
        assert_eq!((pruned.held, pruned.destroyed), (vec![a], vec![c]));
        assert!(matches!(pruned.failed.as_slice(), [(version, Error::Refused { .. })] if *version == b));
        let again = done(&dataset, &last(1));
        assert!(again.is_whole() && again.destroyed.is_empty(), "both are seen now: {again:?}");
    }

    #[test]
    fn a_reused_name_is_not_destroyed_in_place_of_another() {
        let dataset = made(&FakeStore::default(), "d");
        let [a, _] = ["a", "b"].map(|name| take(&dataset, name));
        let going = Seen::of(&dataset).expect("read").going(&last(1), &now());
        dataset.destroy(&a).expect("destroyed");
        take(&dataset, "a");
        let pruned = prune(&dataset, &going);
        assert!(matches!(pruned.failed.as_slice(), [(_, Error::Reused { .. })]));
        assert_eq!(names(&dataset), "b a");
    }

    #[test]
    fn labels_and_the_base_with_a_replica_are_read_too() {
        let store = FakeStore::default();
        let dataset = made(&store, "d");
        take(&dataset, "a");
        let labels = [("keep".to_owned(), "yes".to_owned())].into();
        Backend::snapshot(std::slice::from_ref(&dataset), &SnapshotRequest { labels, ..request("b") })
            .expect("taken");
        take(&dataset, "c");
        take(&dataset, "d");
        let mut seen = Seen::of(&dataset).expect("read");
        let shared = seen.inventory.versions()[..1].to_vec();
        assert!(seen.keep_base_with("vault/d", &Inventory::new("vault/d", shared, Vec::new())));
        assert!(!seen.keep_base_with("none", &Inventory::default()));
        let policy = Retention { labels: vec!["keep=yes".parse().expect("a label")], ..Retention::default() };
        let left: Vec<_> =
            seen.verdicts(&policy, &now()).iter().filter(|v| v.is_kept()).map(ToString::to_string).collect();
        assert_eq!(left, ["the base with vault/d", "label keep=yes", "the newest"]);
    }

    #[test]
    fn by_space_the_oldest_of_all_go_and_no_more_than_it_takes() {
        let store = FakeStore::default();
        let [a, b] = ["a", "b"].map(|name| made(&store, name));
        for (dataset, name) in [(&a, "1"), (&b, "2"), (&a, "3"), (&b, "4"), (&a, "5"), (&b, "6")] {
            take_100(dataset, name);
        }
        store.set_capacity(700);
        let keep = |name: &str| Retention { names: vec![NamePattern(name.into())], ..Retention::default() };
        let run = |policy: &Retention, min_free| {
            let member = |d: &Fake| (d.clone(), Seen::of(d).expect("read").going(policy, &now()));
            prune_by_space(&[member(&a), member(&b)], min_free).expect("space is read")
        };
        let enough = run(&keep("2"), 100);
        assert_eq!((enough.before, enough.free, enough.pruned[0].destroyed.len()), (100, 100, 0));
        let some = run(&keep("2"), 250);
        assert_eq!((some.free, names(&a), names(&b)), (300, "5".into(), "2 4 6".into()));
        let all = run(&keep("2"), 600);
        assert_eq!((all.free, names(&a), names(&b)), (400, "5".into(), "2 6".into()));
    }

    #[test]
    fn by_space_a_failure_ends_its_own_dataset_and_the_next_run_goes_on() {
        for nth in 2..=7 {
            let store = FakeStore::default();
            let inner = made(&store, "d");
            for name in ["a", "b", "c", "d"] {
                take_100(&inner, name);
            }
            store.set_capacity(400);
            let faults = Faults::default();
            let dataset = Faulty::new(inner.clone(), &faults);
            let going = Seen::of(&inner).expect("read").going(&last(1), &now());
            faults.fail(nth, When::After);
            let done = prune_by_space(&[(dataset, going)], 300).expect("space is read at first");
            assert!(done.pruned[0].stopped.is_some(), "{nth}");
            let going = Seen::of(&inner).expect("read").going(&last(1), &now());
            let again = prune_by_space(&[(inner.clone(), going)], 300).expect("read");
            assert_eq!((again.free, names(&inner).as_str()), (300, "d"));
        }
    }

    #[test]
    fn datasets_are_together_that_share_their_space() {
        let [one, two] = [FakeStore::default(), FakeStore::default()];
        let datasets = [made(&one, "a"), made(&two, "a"), made(&one, "b"), made(&two, "b")];
        assert_eq!(by_space(&datasets), [[0, 2], [1, 3]]);
    }

    #[test]
    fn what_would_be_freed_is_what_no_other_snapshot_has() {
        let dataset = made(&FakeStore::default(), "d");
        take_100(&dataset, "a");
        take(&dataset, "same");
        take_100(&dataset, "c");
        let ids: Vec<_> =
            dataset.inventory().expect("there").versions().iter().map(|v| v.id.clone()).collect();
        assert_eq!(dataset.would_free(&ids[..1], false).expect("known"), Some(0));
        assert_eq!(dataset.would_free(&ids[..2], false).expect("known"), Some(100));
    }
}
