//! What a policy will have kept on days to come.

use std::collections::BTreeMap;

use jiff::civil::Date;
use jiff::{Span, Zoned};

use super::{Retention, Surroundings, retain};
use crate::model::{Guid, HoldTag, Inventory, SnapshotName, Version, VersionKind, VersionRef};

/// No more snapshots than that are simulated.
const MAX_SNAPSHOTS: usize = 100_000;

/// When snapshots will be taken. After each, what the policy does not keep is destroyed.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// For how long.
    pub horizon: Span,
    /// How long after the one before.
    pub every: Span,
}

/// What there will be at the end of a day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Day {
    /// Which day.
    pub date: Date,
    /// The snapshots, oldest first.
    pub snapshots: Vec<SnapshotName>,
    /// Those taken on it.
    pub taken: Vec<SnapshotName>,
    /// Those destroyed on it.
    pub destroyed: Vec<SnapshotName>,
}

/// A schedule of more snapshots than are simulated, or of none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the schedule has no end: at most {MAX_SNAPSHOTS} snapshots are simulated, each later than the one before"
)]
pub struct TooMany;

/// Prunes now, then after each snapshot of the schedule, and says what there is at the end of every day from today on.
///
/// Simulated snapshots have the names that they would get by default, and no labels; what is held today stays held.
///
/// # Errors
/// [`TooMany`].
pub fn simulate(
    inventory: &Inventory,
    policy: &Retention,
    around: &Surroundings,
    now: &Zoned,
    schedule: Schedule,
) -> Result<Vec<Day>, TooMany> {
    let times = times(now, schedule)?;
    let end = now.checked_add(schedule.horizon).map_err(|_| TooMany)?.date();
    let mut world = World::new(inventory);
    let mut days = vec![world.day(now.date())];
    world.prune(policy, around, now, &mut days[0]);
    for time in &times {
        follow(&mut days, &world, time.date());
        let today = days.last_mut().expect("it begins with one");
        world.take(time, today);
        world.prune(policy, around, time, today);
    }
    follow(&mut days, &world, end);
    Ok(days)
}

/// When snapshots are taken: the first one `every` after now.
fn times(now: &Zoned, schedule: Schedule) -> Result<Vec<Zoned>, TooMany> {
    let end = now.checked_add(schedule.horizon).map_err(|_| TooMany)?;
    let mut times: Vec<Zoned> = Vec::new();
    for nth in 1.. {
        // From the first one on, so that the last of a month does not become the 28th for good.
        let span = schedule.every.checked_mul(nth).map_err(|_| TooMany)?;
        let time = now.checked_add(span).map_err(|_| TooMany)?;
        if time > end {
            break;
        }
        let is_later = *times.last().unwrap_or(now) < time;
        if !is_later || times.len() == MAX_SNAPSHOTS {
            return Err(TooMany);
        }
        times.push(time);
    }
    Ok(times)
}

/// Adds days, of which nothing is said but what there was before them, up to `date`.
fn follow(days: &mut Vec<Day>, world: &World, date: Date) {
    while let Some(next) =
        days.last().filter(|last| last.date < date).and_then(|last| last.date.tomorrow().ok())
    {
        days.push(world.day(next));
    }
}

/// What there is.
struct World {
    dataset: String,
    versions: Vec<Version>,
    holds: Vec<(VersionRef, HoldTag)>,
    names: BTreeMap<String, u32>,
}

impl World {
    fn new(inventory: &Inventory) -> Self {
        Self {
            dataset: inventory.dataset.clone(),
            versions: inventory.versions().to_vec(),
            holds: inventory.holds().to_vec(),
            names: inventory.versions().iter().map(|v| (v.id.name.to_string(), 1)).collect(),
        }
    }

    fn day(&self, date: Date) -> Day {
        Day { date, snapshots: self.snapshots(), taken: Vec::new(), destroyed: Vec::new() }
    }

    fn snapshots(&self) -> Vec<SnapshotName> {
        let snapshots = self.versions.iter().filter(|v| v.kind == VersionKind::Snapshot);
        snapshots.map(|v| v.id.name.clone()).collect()
    }

    fn take(&mut self, time: &Zoned, today: &mut Day) {
        let order = self.versions.iter().map(|v| v.order).max().unwrap_or(0).saturating_add(1);
        let id = VersionRef { guid: Guid(u128::from(order).to_be_bytes()), name: self.name(time) };
        today.taken.push(id.name.clone());
        let created = time.timestamp();
        self.versions.push(Version { id, kind: VersionKind::Snapshot, order, created });
    }

    /// The name that it would get by default.
    fn name(&mut self, time: &Zoned) -> SnapshotName {
        let name = time.timestamp().strftime("%Y%m%dT%H%M%SZ").to_string();
        let nth = self.names.entry(name.clone()).and_modify(|nth| *nth += 1).or_insert(1);
        let name = if *nth == 1 { name } else { format!("{name}-{nth}") };
        name.parse().expect("digits and letters are a name")
    }

    fn prune(&mut self, policy: &Retention, around: &Surroundings, now: &Zoned, today: &mut Day) {
        let versions = std::mem::take(&mut self.versions);
        let inventory = Inventory::new(self.dataset.clone(), versions, self.holds.clone());
        let going = retain(&inventory, policy, around, now).into_iter().filter(|verdict| !verdict.is_kept());
        let going: Vec<_> = going.map(|verdict| verdict.version.id.clone()).collect();
        self.versions = inventory.versions().to_vec();
        if !going.is_empty() {
            let gone: std::collections::HashSet<_> = going.iter().collect();
            let is_gone = |v: &Version| v.kind == VersionKind::Snapshot && gone.contains(&v.id);
            self.versions.retain(|version| !is_gone(version));
        }
        today.destroyed.extend(going.into_iter().map(|id| id.name));
        today.snapshots = self.snapshots();
    }
}
