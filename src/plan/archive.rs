//! What an archive holds, by its manifests' keys alone: in which order, by which chain a version comes back, upon what the next
//! one is pushed, what goes when others are kept, what nobody needs.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};

use crate::model::archive::{Group, Stored};
use crate::model::run::Chain;
use crate::model::{Guid, Inventory, Version, VersionKind, VersionRef};

/// The ways in which versions are stored, and how they come back.
#[derive(Debug, Clone, Default)]
pub struct Archive {
    /// Those of a version's base before its own.
    stored: Vec<Stored>,
    by_guid: HashMap<Guid, Vec<usize>>,
    costs: HashMap<Guid, Cost>,
}

/// What it takes to bring a version back where nothing is yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Cost {
    /// How many bytes of containers are read.
    pub bytes: u64,
    /// How many containers: the length of the chain.
    pub containers: u64,
    /// How many objects are read: parts, and a manifest each.
    pub requests: u64,
}

/// A version that can not be brought back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// There is no such version.
    #[error("the archive has no version {0}")]
    Missing(Guid),
    /// No way leads to it: each way's base, or that one's, is missing.
    #[error("{version} builds upon {base}, which is not in the archive")]
    Base {
        /// The version that can not come back.
        version: VersionRef,
        /// What is missing.
        base: Guid,
    },
    /// It builds, over others, upon itself.
    #[error("{0} is, over others, its own base")]
    Circle(VersionRef),
}

/// How to push a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Push {
    /// It is there.
    There,
    /// As an increment on this one, which both have.
    Increment(VersionRef),
    /// In full.
    Full(Why),
}

/// Why a version is pushed in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The archive has no version that can be brought back.
    First,
    /// It has none that is here as well and is older.
    NoBase,
    /// The chain would be longer than it may be.
    Chain,
    /// Bringing it back would cost more than it may.
    Cost,
}

/// When a chain ends and a full version is pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// How many containers a restore may take.
    pub containers: Option<u64>,
    /// How many times the bytes of the chain's full container a restore may take, before what is pushed now; in percent.
    pub percent: Option<u64>,
}

impl Archive {
    /// Orders what is stored.
    pub fn new(mut stored: Vec<Stored>) -> Self {
        stored.sort_by(|a, b| key(a).cmp(&key(b)));
        stored.dedup();
        let mut archive = Self { by_guid: by_guid(&stored), costs: HashMap::new(), stored };
        archive.stored = archive.in_order();
        archive.by_guid = by_guid(&archive.stored);
        archive.costs = archive.costs(&|_| false);
        archive
    }

    /// All ways, those of a version's base before its own.
    pub fn stored(&self) -> &[Stored] {
        &self.stored
    }

    /// The versions, each once, oldest first. What can not be brought back is among them.
    pub fn versions(&self) -> Vec<Version> {
        let mut seen = HashSet::new();
        let first = self.stored.iter().filter(|stored| seen.insert(stored.version.guid));
        let version = |(order, stored): (u64, &Stored)| Version {
            id: stored.version.clone(),
            kind: VersionKind::Snapshot,
            order,
            created: stored.created,
        };
        (1..).zip(first).map(version).collect()
    }

    /// In which ways a version is stored.
    pub fn ways(&self, guid: Guid) -> impl Iterator<Item = &Stored> {
        self.by_guid.get(&guid).into_iter().flatten().map(|at| &self.stored[*at])
    }

    /// The way by which a version comes back for the least; `None` if none leads to it.
    pub fn way(&self, guid: Guid) -> Option<&Stored> {
        let cost_of = |way: &Stored| match way.base {
            Some(base) => self.cost(base).map(|cost| cost.and(way)),
            None => Some(Cost::default().and(way)),
        };
        self.ways(guid).filter(|way| cost_of(way).is_some()).min_by_key(|way| cost_of(way))
    }

    /// What bringing a version back takes; `None` if no way leads to it.
    pub fn cost(&self, guid: Guid) -> Option<Cost> {
        self.costs.get(&guid).copied()
    }

    /// The cheapest way to a version: what to receive, bases first. What is `present` is not received, and can be built upon.
    ///
    /// # Errors
    /// [`Broken`] with what is missing, if no way leads to it.
    pub fn chain(&self, guid: Guid, present: &dyn Fn(Guid) -> bool) -> Result<Vec<&Stored>, Broken> {
        let costs = self.costs(present);
        let mut chain = Vec::new();
        let mut next = Some(guid);
        while let Some(guid) = next.filter(|guid| !present(*guid)) {
            let ways = self.by_guid.get(&guid).ok_or(Broken::Missing(guid))?;
            let cost_of = |way: &&Stored| match way.base {
                Some(base) if present(base) => Some(Cost::default().and(way)),
                Some(base) => costs.get(&base).map(|cost| cost.and(way)),
                None => Some(Cost::default().and(way)),
            };
            let ways = ways.iter().map(|at| &self.stored[*at]);
            let best = ways.filter(|way| cost_of(way).is_some()).min_by_key(cost_of);
            let best = best.ok_or_else(|| self.broken(guid))?;
            chain.push(best);
            next = best.base;
        }
        chain.reverse();
        Ok(chain)
    }

    /// That a way leads to a version.
    ///
    /// # Errors
    /// As [`Self::chain`].
    pub fn expect_way(&self, guid: Guid) -> Result<(), Broken> {
        if self.costs.contains_key(&guid) { Ok(()) } else { Err(self.broken(guid)) }
    }

    /// How to push `version`, which `local` has: upon the newest that both have, unless the chain has come to its end.
    pub fn push(&self, local: &Inventory, version: &VersionRef, limits: Limits) -> Push {
        // One that can not come back is no version yet.
        if self.costs.contains_key(&version.guid) {
            return Push::There;
        }
        if self.costs.is_empty() {
            return Push::Full(Why::First);
        }
        let order = local.snapshot_of(version.guid).map_or(u64::MAX, |version| version.order);
        let is_older = |guid: Guid| local.by_guid(guid).is_some_and(|there| there.order < order);
        let base =
            self.stored.iter().rev().find(|stored| {
                self.costs.contains_key(&stored.version.guid) && is_older(stored.version.guid)
            });
        let Some(base) = base else { return Push::Full(Why::NoBase) };
        let cost = self.costs[&base.version.guid];
        if limits.containers.is_some_and(|most| cost.containers >= most) {
            return Push::Full(Why::Chain);
        }
        let full = self.chain(base.version.guid, &|_| false).ok().and_then(|chain| Some(chain.first()?.len));
        let most = |percent: u64| u128::from(full.unwrap_or(0)) * u128::from(percent) / 100;
        if limits.percent.is_some_and(|percent| u128::from(cost.bytes) > most(percent)) {
            return Push::Full(Why::Cost);
        }
        Push::Increment(base.version.clone())
    }

    /// What goes if these versions are kept: neither they nor what any of their ways builds upon. What builds upon another one goes
    /// before it.
    pub fn doomed(&self, kept: &BTreeSet<Guid>) -> Vec<&Stored> {
        let mut needed: BTreeSet<Guid> = BTreeSet::new();
        let mut more: Vec<Guid> = kept.iter().copied().collect();
        while let Some(guid) = more.pop() {
            if needed.insert(guid) {
                let ways = self.by_guid.get(&guid).into_iter().flatten();
                more.extend(ways.filter_map(|at| self.stored[*at].base));
            }
        }
        self.stored.iter().rev().filter(|stored| !needed.contains(&stored.version.guid)).collect()
    }

    /// What nobody needs of the containers of which parts are there, with when the youngest was put: those of a version without a
    /// manifest, once that is longer ago than `grace`.
    pub fn unneeded(
        &self,
        there: impl Iterator<Item = (Group, Timestamp)>,
        now: Timestamp,
        grace: SignedDuration,
    ) -> Vec<Group> {
        let groups: HashSet<Group> = self.stored.iter().map(Stored::group).collect();
        let left = there
            .filter(|(group, youngest)| !groups.contains(group) && now.duration_since(*youngest) > grace);
        left.map(|(group, _)| group).collect()
    }

    /// Dijkstra's: the cost of each version that can be brought back where these are `present`.
    fn costs(&self, present: &dyn Fn(Guid) -> bool) -> HashMap<Guid, Cost> {
        let mut upon: HashMap<Guid, Vec<&Stored>> = HashMap::new();
        let mut open = BinaryHeap::new();
        for stored in &self.stored {
            match stored.base {
                Some(base) if !present(base) => upon.entry(base).or_default().push(stored),
                _ => open.push(Reverse((Cost::default().and(stored), stored.version.guid))),
            }
        }
        let mut costs = HashMap::new();
        while let Some(Reverse((cost, guid))) = open.pop() {
            if costs.contains_key(&guid) {
                continue;
            }
            costs.insert(guid, cost);
            let next = upon.get(&guid).into_iter().flatten();
            open.extend(next.map(|stored| Reverse((cost.and(stored), stored.version.guid))));
        }
        costs
    }

    /// Why no way leads to a version.
    fn broken(&self, guid: Guid) -> Broken {
        let mut seen = HashSet::new();
        let mut at = guid;
        loop {
            let Some(way) = self.by_guid.get(&at).and_then(|ways| self.stored.get(*ways.first()?)) else {
                return Broken::Missing(at);
            };
            match way.base {
                _ if !seen.insert(at) => return Broken::Circle(way.version.clone()),
                Some(base) if self.by_guid.contains_key(&base) => at = base,
                Some(base) => return Broken::Base { version: way.version.clone(), base },
                None => return Broken::Missing(at),
            }
        }
    }

    /// By time, but what is built upon first, whatever the clocks said.
    fn in_order(&self) -> Vec<Stored> {
        let (mut ordered, mut done) = (Vec::with_capacity(self.stored.len()), HashSet::new());
        for first in 0..self.stored.len() {
            // A base may have one itself: a stack instead of calls, since chains are long.
            let mut stack = vec![(self.stored[first].version.guid, false)];
            let mut within = HashSet::new();
            while let Some((guid, is_next)) = stack.pop() {
                let ways = self.by_guid.get(&guid).map_or(&[][..], Vec::as_slice);
                if is_next {
                    if done.insert(guid) {
                        ordered.extend(ways.iter().map(|at| self.stored[*at].clone()));
                    }
                } else if !done.contains(&guid) && within.insert(guid) {
                    stack.push((guid, true));
                    stack.extend(ways.iter().filter_map(|at| Some((self.stored[*at].base?, false))));
                }
            }
        }
        ordered
    }
}

impl Cost {
    fn and(self, stored: &Stored) -> Self {
        self.and_of(stored.len, stored.parts())
    }

    /// With another container of so many bytes and parts.
    #[must_use]
    pub fn and_of(self, len: u64, parts: u64) -> Self {
        Self {
            bytes: self.bytes.saturating_add(len),
            containers: self.containers + 1,
            requests: self.requests.saturating_add(parts.saturating_add(1)),
        }
    }
}

impl From<Cost> for Chain {
    fn from(Cost { bytes, containers, requests }: Cost) -> Self {
        Self { containers, bytes, requests }
    }
}

fn key(stored: &Stored) -> impl Ord {
    let version = &stored.version;
    (stored.created, version.guid, stored.base, stored.len, version.name.clone())
}

fn by_guid(stored: &[Stored]) -> HashMap<Guid, Vec<usize>> {
    let mut by_guid: HashMap<Guid, Vec<usize>> = HashMap::new();
    for (at, stored) in stored.iter().enumerate() {
        by_guid.entry(stored.version.guid).or_default().push(at);
    }
    by_guid
}

#[cfg(test)]
mod tests;
