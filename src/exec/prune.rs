//! Snapshots that a policy does not keep, destroyed.
//!
//! Nothing is written down about it: whatever ends a run, the next one reads what is there and goes on. Two runs at once destroy
//! what either of them would; that one is faster is no error of the other.

use std::collections::BTreeMap;

use jiff::Zoned;

use crate::endpoint::{Details, Error, Prunable, Result, Wait};
use crate::model::{HoldTag, Inventory, Version, VersionRef, quoted};
use crate::plan::common::{bases, is_marked};
use crate::plan::retain::{Reason, Retention, Surroundings, Verdict, retain};
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
        Self::with(dataset, dataset.described()?)
    }

    /// It, of which `details` are what was read of its versions.
    ///
    /// # Errors
    /// As [`Seen::of`].
    pub fn with(dataset: &(impl Prunable + ToString), details: Vec<Details>) -> Result<Self> {
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

    /// Keeps the [bases] with `other`, which is called `name`, if no bookmark that begins with `mark` is one. Answers whether there is one.
    pub fn keep_base_with(&mut self, name: &str, other: &Inventory, mark: &HoldTag) -> bool {
        if is_marked(&self.inventory, other, mark) {
            return true;
        }
        let found: Vec<_> = bases(&self.inventory, other).iter().map(|base| base.id.guid).collect();
        for guid in &found {
            self.around.bases.entry(*guid).or_default().push(name.to_owned());
        }
        !found.is_empty()
    }

    /// That the rules, if they are of labels and names alone, fit this dataset: a word that is like none of its snapshots would let all of
    /// them go.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn expect_word(&self, policy: &Retention, now: &Zoned) -> Result<()> {
        if fit(&self.verdicts(policy, now), policy) {
            return Ok(());
        }
        let subject = &self.inventory.dataset;
        let hint = format!(
            "cowsnap list {} shows the names; --keep-last 1 says that only the newest is to stay",
            quoted(subject)
        );
        let why = "no label and no name that is to be kept is that of any of its snapshots, so none would be left but the newest";
        Err(Error::Refused { op: "prune", subject: subject.clone(), why: why.into(), hint: Some(hint) })
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

/// Whether the rules are of other things than labels and names, or at least one word is that of something, or nothing goes.
pub(super) fn fit(verdicts: &[Verdict<'_>], policy: &Retention) -> bool {
    let is_word = |reason: &Reason<'_>| matches!(reason, Reason::Label(_) | Reason::Name(_));
    let fits = verdicts.iter().any(|verdict| verdict.kept_by.iter().any(is_word));
    fits || !policy.is_of_words() || verdicts.iter().all(Verdict::is_kept)
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
    /// Of a dataset that was not reached.
    pub fn not_reached(dataset: &impl ToString) -> Self {
        Self { stopped: Some(interrupted(dataset)), ..Self::default() }
    }

    /// Whether all that was to go went, or is held.
    pub fn is_whole(&self) -> bool {
        self.failed.is_empty() && self.stopped.is_none()
    }

    /// Takes note of how destroying `version` went. Answers whether it makes sense to go on with others.
    pub(super) fn note(&mut self, version: &VersionRef, outcome: Result<()>) -> bool {
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
        let outcome = uninterrupted(dataset).and_then(|()| dataset.destroy_snapshot(&version.id));
        if !pruned.note(&version.id, outcome.map(drop)) {
            break;
        }
    }
    pruned
}

pub(super) fn uninterrupted(dataset: &impl ToString) -> Result<()> {
    interrupt::check().map_err(|_| interrupted(dataset))
}

fn interrupted(dataset: &impl ToString) -> Error {
    Error::Interrupted { op: "prune", subject: dataset.to_string() }
}

/// What destroying until there was enough space did to one dataset.
#[derive(Debug)]
pub struct BySpace {
    /// What became of its snapshots.
    pub pruned: Pruned,
    /// How many bytes were free before.
    pub before: u64,
    /// How many bytes were free when it was looked at last.
    pub free: u64,
}

/// How many bytes are free for each, in the order of the datasets. A dataset that has less than it wants is the one that may lose
/// snapshots: quotas make that another number for each, even if all share one pool.
///
/// # Errors
/// Free space that can not be read.
pub fn room<P: Prunable>(datasets: &[(P, Vec<Version>)]) -> Result<Vec<u64>> {
    datasets.iter().map(|(dataset, _)| dataset.free_bytes()).collect()
}

/// Destroys snapshots of `datasets`, which share their space, until each has `wait.wanted` bytes free: the oldest first, one after another,
/// each time waiting for its space and looking again. Of a dataset that has enough nothing goes. The datasets come with the snapshots that
/// may go.
///
/// Whether that was enough is seen in [`BySpace::free`]. What says that nobody knows how much is free, or when it comes back, ends it for all
/// of them.
///
/// # Errors
/// Free space that can not be read, when nothing was destroyed yet.
pub fn prune_by_space<P: Prunable + ToString>(
    datasets: &[(P, Vec<Version>)],
    wait: Wait,
) -> Result<Vec<BySpace>> {
    let begun = |free| BySpace { pruned: Pruned::default(), before: free, free };
    let mut done: Vec<_> = room(datasets)?.into_iter().map(begun).collect();
    for (done, (dataset, _)) in done.iter_mut().zip(datasets) {
        done.pruned.stopped = expect_attainable(dataset, done.free, wait.wanted).err();
    }
    let victims = oldest_first(datasets);
    for (nth, (at, version)) in victims.iter().enumerate() {
        let BySpace { pruned, free, .. } = &mut done[*at];
        if pruned.stopped.is_some() {
            continue;
        }
        if let Err(error) = destroy_if_short(&datasets[*at].0, version, wait, (pruned, free)) {
            let is_interruption = matches!(error, Error::Interrupted { .. });
            let ended_at = datasets[*at].0.to_string();
            pruned.stopped = Some(error);
            for (other, _) in &victims[nth + 1..] {
                let end = || match is_interruption {
                    true => interrupted(&datasets[*other].0),
                    false => ended_with(&datasets[*other].0, &ended_at),
                };
                done[*other].pruned.stopped.get_or_insert_with(end);
            }
            return Ok(done);
        }
    }
    for (done, (dataset, _)) in done.iter_mut().zip(datasets) {
        match dataset.free_bytes() {
            Ok(free) => done.free = free,
            Err(error) => drop(done.pruned.stopped.get_or_insert(error)),
        }
    }
    Ok(done)
}

/// That destroying snapshots can leave `wanted` bytes free for `dataset`, for which `free` are.
///
/// # Errors
/// [`Error::Refused`]: nothing is to be destroyed for nothing. A place that can not be read.
pub fn expect_attainable(dataset: &(impl Prunable + ToString), free: u64, wanted: u64) -> Result<()> {
    if free >= wanted {
        return Ok(());
    }
    let most = dataset.most_free_bytes()?;
    match most >= wanted {
        true => Ok(()),
        false => Err(Error::Refused {
            op: "prune",
            subject: dataset.to_string(),
            why: format!(
                "its quotas leave it no more than {most} bytes, whatever is destroyed, and {wanted} are wanted"
            ),
            hint: None,
        }),
    }
}

/// Destroys `version` if its own dataset has too little space, and waits. An error of it alone is noted; the error that is answered concerns
/// all that share the space.
fn destroy_if_short<P: Prunable + ToString>(
    dataset: &P,
    version: &Version,
    wait: Wait,
    (pruned, free): (&mut Pruned, &mut u64),
) -> Result<()> {
    uninterrupted(dataset)?;
    *free = dataset.free_bytes()?;
    if *free >= wait.wanted {
        return Ok(());
    }
    match dataset.destroy_snapshot(&version.id) {
        Ok(dying) => {
            // Said before the wait: it is gone, however that ends.
            pruned.note(&version.id, Ok(()));
            dataset.wait_for_space(&dying, wait)
        }
        Err(error @ Error::Interrupted { .. }) => Err(error),
        Err(error) => {
            pruned.note(&version.id, Err(error));
            Ok(())
        }
    }
}

fn ended_with(dataset: &impl ToString, other: &str) -> Error {
    Error::Refused {
        op: "prune",
        subject: dataset.to_string(),
        why: format!("it shares its space with {other}, where that could not be seen to come back"),
        hint: None,
    }
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
    use std::time::Duration;

    use jiff::ToSpan;

    use super::*;
    use crate::endpoint::fake::{Fake, FakeStore};
    use crate::endpoint::fault::{Faults, Faulty, When};
    use crate::endpoint::{Backend, History, SnapshotRequest};
    use crate::error::Class;
    use crate::plan::retain::{Period, Schedule, simulate};

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
        let mark = "t".parse().expect("a tag");
        assert!(seen.keep_base_with("vault/d", &Inventory::new("vault/d", shared, Vec::new()), &mark));
        assert!(!seen.keep_base_with("none", &Inventory::default(), &mark));
        let policy = Retention { labels: vec!["keep=yes".parse().expect("a label")], ..Retention::default() };
        let left: Vec<_> =
            seen.verdicts(&policy, &now()).iter().filter(|v| v.is_kept()).map(ToString::to_string).collect();
        assert_eq!(left, ["the base with vault/d", "label keep=yes", "the newest"]);
    }

    fn until(wanted: u64) -> Wait {
        Wait { wanted, patience: Duration::ZERO }
    }

    fn by_age(dataset: &Fake, policy: &Retention) -> (Fake, Vec<Version>) {
        (dataset.clone(), Seen::of(dataset).expect("read").going(policy, &now()))
    }

    fn named(pattern: &str) -> Retention {
        Retention { names: vec![pattern.parse().expect("a pattern")], ..Retention::default() }
    }

    #[test]
    fn by_space_the_oldest_of_all_go_and_no_more_than_it_takes() {
        let store = FakeStore::default();
        let [a, b] = ["a", "b"].map(|name| made(&store, name));
        for (dataset, name) in [(&a, "1"), (&b, "2"), (&a, "3"), (&b, "4"), (&a, "5"), (&b, "6")] {
            take_100(dataset, name);
        }
        store.set_capacity(700);
        let run = |policy: &Retention, min_free| {
            prune_by_space(&[by_age(&a, policy), by_age(&b, policy)], until(min_free)).expect("space is read")
        };
        let enough = run(&named("2"), 100);
        assert_eq!((enough[0].before, enough[0].free, enough[0].pruned.destroyed.len()), (100, 100, 0));
        let some = run(&named("2"), 250);
        assert_eq!((some[1].free, names(&a), names(&b)), (300, "5".into(), "2 4 6".into()));
        let all = run(&named("2"), 600);
        assert_eq!((all[0].free, names(&a), names(&b)), (400, "5".into(), "2 6".into()));
    }

    #[test]
    fn by_space_each_is_short_by_its_own_quota_and_no_other_pays_for_it() {
        for short_first in [true, false] {
            let store = FakeStore::default();
            let [short, roomy] = ["short", "roomy"].map(|name| made(&store, name));
            for name in ["1", "2", "3", "4"] {
                take_100(&roomy, name);
                take_100(&short, name);
            }
            store.set_capacity(10_000);
            short.set_quota(450);
            let mut members = [by_age(&short, &last(1)), by_age(&roomy, &last(1))];
            if !short_first {
                members.reverse();
            }
            let at = usize::from(!short_first);
            assert_eq!(room(&members).expect("read")[at], 50);
            let done = prune_by_space(&members, until(200)).expect("space is read");
            assert_eq!((names(&short).as_str(), names(&roomy).as_str()), ("3 4", "1 2 3 4"));
            assert_eq!((done[at].before, done[at].free, done[1 - at].free), (50, 250, 9_400));
        }
    }

    #[test]
    fn by_space_nothing_goes_for_what_a_quota_makes_impossible() {
        let store = FakeStore::default();
        let [a, b] = ["a", "b"].map(|name| made(&store, name));
        for name in ["1", "2"] {
            take_100(&a, name);
            take_100(&b, name);
        }
        store.set_capacity(450);
        a.set_quota(120);
        let done =
            prune_by_space(&[by_age(&a, &last(1)), by_age(&b, &last(1))], until(130)).expect("space is read");
        assert_eq!((names(&a).as_str(), names(&b).as_str()), ("1 2", "2"), "the other goes on");
        assert!(matches!(done[0].pruned.stopped, Some(Error::Refused { .. })) && done[1].pruned.is_whole());
    }

    #[test]
    fn by_space_what_only_one_dataset_knows_ends_it_and_the_next_run_goes_on() {
        for nth in 2..=11 {
            let store = FakeStore::default();
            let inner = made(&store, "d");
            for name in ["a", "b", "c", "d"] {
                take_100(&inner, name);
            }
            store.set_capacity(400);
            let faults = Faults::default();
            let dataset = Faulty::new(inner.clone(), &faults);
            let going = by_age(&inner, &last(1)).1;
            faults.fail(nth, When::After);
            let done = prune_by_space(&[(dataset, going)], until(300)).expect("space is read at first");
            assert!(done[0].pruned.stopped.is_some(), "{nth}");
            let again = prune_by_space(&[by_age(&inner, &last(1))], until(300)).expect("read");
            assert_eq!((again[0].free, names(&inner).as_str()), (300, "d"));
        }
    }

    #[test]
    fn by_space_when_it_can_not_be_read_nothing_more_goes_of_any() {
        let store = FakeStore::default();
        let [a, b] = ["a", "b"].map(|name| made(&store, name));
        for name in ["1", "2", "3"] {
            take_100(&a, name);
            take_100(&b, name);
        }
        store.set_capacity(600);
        let faults = Faults::default();
        let member = |d: &Fake| (Faulty::new(d.clone(), &faults), by_age(d, &last(1)).1);
        let members = [member(&a), member(&b)];
        faults.fail(6, When::Before); // Two looks, and the first victim's look, end and wait.
        let done = prune_by_space(&members, until(400)).expect("space is read at first");
        assert_eq!((names(&a).as_str(), names(&b).as_str()), ("2 3", "1 2 3"));
        assert_eq!(done[0].pruned.destroyed.len(), 1);
        assert!(done.iter().all(|done| done.pruned.stopped.is_some()), "{done:?}");
    }

    #[test]
    fn by_space_what_somebody_keeps_open_ends_it_and_is_said_to_be_destroyed() {
        let store = FakeStore::default();
        let [a, b] = ["a", "b"].map(|name| made(&store, name));
        for name in ["1", "2", "3"] {
            take_100(&a, name);
            take_100(&b, name);
        }
        store.set_capacity(600);
        store.keep_open(&a.inventory().expect("there").versions()[0].id);
        let members = [by_age(&a, &last(1)), by_age(&b, &last(1))];
        let done = prune_by_space(&members, until(400)).expect("space is read");
        assert_eq!((names(&a).as_str(), names(&b).as_str()), ("2 3", "1 2 3"));
        assert_eq!(done[0].pruned.destroyed.len(), 1, "it is gone, though its space is not back");
        let stopped = done[0].pruned.stopped.as_ref().expect("an error");
        assert_eq!((stopped.class(), stopped.to_string().contains("a@1")), (Class::Unreachable, true));
        assert!(done[1].pruned.stopped.is_some());
    }

    #[test]
    fn what_another_run_destroyed_is_gone_and_its_bookmark_stays() {
        let dataset = made(&FakeStore::default(), "d");
        let [a, _] = ["a", "b"].map(|name| take(&dataset, name));
        let going = by_age(&dataset, &last(1)).1;
        dataset.bookmark(&a).expect("a bookmark");
        dataset.destroy(&a).expect("destroyed");
        let pruned = prune(&dataset, &going);
        assert_eq!((pruned.destroyed, pruned.gone), (vec![], vec![a.clone()]));
        dataset.set_quota(1);
        dataset.write("f", b"x").expect("written");
        let by_space = prune_by_space(&[(dataset.clone(), going)], until(1)).expect("space is read");
        assert_eq!(by_space[0].pruned.gone, [a]);
        assert_eq!(names(&dataset), "a b", "the bookmark, and the newest snapshot");
    }

    #[test]
    fn words_that_no_snapshot_has_are_refused_rather_than_all_destroyed() {
        let dataset = made(&FakeStore::default(), "d");
        take(&dataset, "auto-1");
        let fits = |policy: &Retention| Seen::of(&dataset).expect("read").expect_word(policy, &now()).is_ok();
        assert!(fits(&named("Auto-*")), "the newest stays, and there is no other");
        take(&dataset, "auto-2");
        assert!(fits(&named("auto-*")) && fits(&named("*-2")));
        assert!(!fits(&named("Auto-*")) && !fits(&named("auto-?-*")));
        assert!(fits(&Retention { last: 1, ..named("Auto-*") }));
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
