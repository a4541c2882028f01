//! How long what the next increment builds upon is there, if nothing is replicated any more: by the rules of retention, for as long as snapshots go on to be taken.

use jiff::{SignedDuration, Span, Timestamp, Zoned};

use super::Promise;
use crate::model::{Guid, Inventory};
use crate::plan::retain::{Retention, Schedule, Surroundings, simulate};

/// Nobody looks further ahead, in days.
const HORIZON: i64 = 400;
/// Nor over more snapshots than these: what is asked every minute is to cost little.
const MOST: i64 = 1000;

/// In how many days, as a calendar counts them, `base` goes: 0 if it goes today. `None`: nothing that can be foreseen lets it go, or it is not there.
pub fn days_left(
    inventory: &Inventory,
    base: Guid,
    policy: &Retention,
    around: &Surroundings,
    promise: &Promise,
    now: &Zoned,
) -> Option<i64> {
    let name = inventory.snapshot_of(base)?.id.name.clone();
    let days = simulate(inventory, policy, around, now, schedule(promise, now.timestamp())).ok()?;
    days.iter().position(|day| !day.snapshots.contains(&name)).and_then(|nth| i64::try_from(nth).ok())
}

/// As [`days_left`], of what each replication that is due puts a newer one in the place of: 0 if the next prune takes it as things are, before any of those. `None`: it does not.
pub fn goes_next(
    inventory: &Inventory,
    base: Guid,
    policy: &Retention,
    around: &Surroundings,
    now: &Zoned,
) -> Option<i64> {
    days_left(inventory, base, policy, around, &Promise::default(), now)
}

/// When snapshots will be taken, about; where nothing is promised, none is.
fn schedule(promise: &Promise, now: Timestamp) -> Schedule {
    let by_schedule = promise.schedule.as_ref().and_then(|schedule| {
        let next = schedule.next_after(now)?.timestamp();
        Some(schedule.next_after(next)?.timestamp().duration_since(next))
    });
    let every = by_schedule.into_iter().chain(promise.age).filter(SignedDuration::is_positive).min();
    let days = every.map_or(0, |every| (every.as_secs().saturating_mul(MOST) / 86_400).clamp(1, HORIZON));
    let every = every.unwrap_or(SignedDuration::from_hours(24)).as_secs().clamp(60, HORIZON * 86_400);
    Schedule { horizon: Span::new().days(days), every: Span::new().seconds(every) }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;
    use crate::model::{HoldTag, Version, VersionKind, VersionRef};
    use crate::plan::retain::Period;
    use crate::plan::schedule::Schedule as Calendar;

    fn at(day: i64) -> Timestamp {
        let first: Timestamp = "2026-11-01T02:00:00Z".parse().expect("a time");
        first + SignedDuration::from_hours(24 * (day - 1))
    }

    /// A snapshot of each night up to the 20th, of which that of `held` is held.
    fn nights(held: Option<u8>) -> Inventory {
        let version = |day: u8| Version {
            id: VersionRef { guid: Guid([day; 16]), name: format!("n{day}").parse().expect("a name") },
            kind: VersionKind::Snapshot,
            order: day.into(),
            created: at(day.into()),
        };
        let versions: Vec<_> = (1..=20).map(version).collect();
        let tag: HoldTag = "cowsnap:to:x".parse().expect("a tag");
        let holds = held.map(|day| (versions[usize::from(day) - 1].id.clone(), tag)).into_iter().collect();
        Inventory::new("tank/node", versions, holds)
    }

    fn nightly() -> Promise {
        let schedule = Calendar::new("0 2 * * *", TimeZone::UTC).expect("as it was made");
        Promise { schedule: Some(schedule), age: None }
    }

    fn left(base: u8, held: Option<u8>, policy: &Retention, promise: &Promise) -> Option<i64> {
        let now = "2026-11-20T12:00:00Z".parse::<Timestamp>().expect("a time").to_zoned(TimeZone::UTC);
        days_left(&nights(held), Guid([base; 16]), policy, &Surroundings::default(), promise, &now)
    }

    #[test]
    fn a_base_goes_when_so_many_newer_ones_are_there() {
        let daily = |n| Retention { per: [(Period::Day, n)].into(), ..Retention::default() };
        let last = |n| Retention { last: n, ..Retention::default() };
        for (base, policy, expected) in [
            (20, daily(14), Some(14)),
            (18, daily(14), Some(12)),
            (7, daily(14), Some(1)),
            // The next prune takes it.
            (6, daily(14), Some(0)),
            (20, last(3), Some(3)),
            (18, last(3), Some(1)),
            (20, last(300), Some(300)),
            // Further than anybody looks.
            (20, last(1000), None),
        ] {
            assert_eq!(left(base, None, &policy, &nightly()), expected, "{base} {policy:?}");
        }
    }

    #[test]
    fn one_that_is_held_or_is_no_rule_s_never_goes_nor_one_that_is_not_there() {
        let last = Retention { last: 3, ..Retention::default() };
        assert_eq!(left(18, Some(18), &last, &nightly()), None);
        assert_eq!(left(18, Some(17), &last, &nightly()), Some(1));
        assert_eq!(left(99, None, &last, &nightly()), None);
        // Nothing new is promised: what stays today stays.
        let none = Promise::default();
        assert_eq!((left(18, None, &last, &none), left(17, None, &last, &none)), (None, Some(0)));
    }

    #[test]
    fn what_is_held_goes_only_if_the_next_prune_takes_it_however_often_it_is_replicated() {
        let now = "2026-11-20T12:00:00Z".parse::<Timestamp>().expect("a time").to_zoned(TimeZone::UTC);
        let hourly = Promise { schedule: None, age: Some(SignedDuration::from_hours(1)) };
        let policy = Retention { last: 3, ..Retention::default() };
        // It would go today if nothing were replicated any more.
        assert_eq!(left(20, None, &policy, &hourly), Some(0));
        let goes =
            |base: u8| goes_next(&nights(None), Guid([base; 16]), &policy, &Surroundings::default(), &now);
        assert_eq!([goes(20), goes(18), goes(17)], [None, None, Some(0)]);
    }

    #[test]
    fn what_is_taken_often_is_looked_at_for_less_long() {
        let age = |minutes| Promise { schedule: None, age: Some(SignedDuration::from_mins(minutes)) };
        let horizon = |promise: &Promise| schedule(promise, at(20)).horizon.get_days();
        assert_eq!([horizon(&age(1)), horizon(&age(15)), horizon(&nightly())], [1, 10, 400]);
        let last = |n| Retention { last: n, ..Retention::default() };
        assert_eq!(left(20, None, &last(96), &age(15)), Some(1));
        assert_eq!(left(20, None, &last(10), &age(15)), Some(0));
    }
}
