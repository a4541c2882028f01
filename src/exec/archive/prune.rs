//! Versions of an archive that a policy does not keep, destroyed; and what was left behind, swept.
//!
//! Who is at work there is not disturbed: claims first, then a look at those of others (docs/FORMAT-archive.md, *Claims*).

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp, Zoned};

use super::Seen;
pub use super::counted::Checked;
use crate::endpoint::archive::{Archive, Claim, Claims, Parts};
use crate::endpoint::{self};
use crate::model::archive::{Group, Stored, Use};
use crate::model::{Guid, Inventory, VersionRef};
use crate::plan::archive::Archive as Chains;
use crate::plan::retain::{Reason, Retention, Surroundings, Verdict, retain};
use crate::sys::interrupt;
use crate::{Error, Result};

/// How old parts are that nobody will need any more, unless another time is asked for.
pub const GRACE: SignedDuration = SignedDuration::from_hours(7 * 24);

/// How many parts are destroyed at once.
const AT_ONCE: usize = 1000;

/// What is wanted.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// What is kept.
    pub policy: Retention,
    /// The time, in the zone whose calendar counts.
    pub now: Zoned,
    /// How old parts without a manifest are when they are swept.
    pub grace: SignedDuration,
}

/// What is decided of what an archive holds.
#[derive(Debug)]
pub struct Decided {
    inventory: Inventory,
    /// What builds upon a version that no rule keeps, and is kept.
    needed: BTreeMap<Guid, Vec<String>>,
    /// What goes: what builds upon another one before it.
    pub doomed: Vec<Stored>,
    /// What no rule counts, and why: it stays, with what it builds upon.
    pub passed: Vec<(Stored, String)>,
}

impl Decided {
    /// Decides. `used` is at work, or held by who is. Once something is to go, the manifests of what is kept instead are read: what is
    /// none counts for nothing, and it is decided again.
    ///
    /// # Errors
    /// What the store says.
    pub fn of(
        archive: &Archive,
        seen: &Seen,
        wanted: &Wanted,
        used: &BTreeSet<Guid>,
        checked: &mut Checked,
    ) -> Result<Self> {
        checked.pass_over(&seen.ahead);
        // Where one is wrong, more may be: so many of the newest are looked at beside those that are counted.
        let mut newest = 1;
        loop {
            let (decided, counted) = Self::by_keys(seen, wanted, used, checked, newest);
            if decided.doomed.is_empty() || !checked.look(archive, &counted)? {
                return Ok(decided);
            }
            newest *= 2;
        }
    }

    /// Decides by keys alone, and answers what was counted for it.
    fn by_keys(
        seen: &Seen,
        wanted: &Wanted,
        used: &BTreeSet<Guid>,
        checked: &Checked,
        newest: usize,
    ) -> (Self, Vec<Stored>) {
        let all = seen.chains.stored();
        let chains =
            Chains::new(all.iter().filter(|stored| checked.why(stored).is_none()).cloned().collect());
        let passed: Vec<(Stored, String)> = all
            .iter()
            .filter_map(|stored| match checked.why(stored) {
                Some(why) => Some((stored.clone(), why.to_owned())),
                None if chains.cost(stored.version.guid).is_none() => {
                    Some((stored.clone(), "it can not come back: what it builds upon is missing".into()))
                }
                None => None,
            })
            .collect();
        // What can not come back is no reason to let go of what can.
        let versions = chains.versions().into_iter().filter(|version| chains.cost(version.id.guid).is_some());
        let versions: Vec<_> = versions.collect();
        let holds = versions.iter().flat_map(|version| {
            let tags = seen.holds.get(&version.id.guid).into_iter().flatten();
            tags.map(|tag| (version.id.clone(), tag.clone()))
        });
        let holds = holds.collect();
        let inventory = Inventory::new("the archive", versions, holds);
        let around = Surroundings::default();
        let verdicts = retain(&inventory, &wanted.policy, &around, &wanted.now);
        let kept = verdicts.iter().filter(|verdict| verdict.is_kept()).map(|verdict| verdict.version.id.guid);
        let last = inventory.versions().iter().rev().map(|version| version.id.guid);
        let kept: BTreeSet<Guid> = kept.chain(last.clone().take(1)).collect();
        let counted: BTreeSet<Guid> = kept.iter().copied().chain(last.take(newest)).collect();
        let left = passed.iter().flat_map(|(stored, _)| {
            let own = checked.why(stored).is_none().then_some(stored.version.guid);
            own.into_iter().chain(stored.base)
        });
        let kept: BTreeSet<Guid> = kept.into_iter().chain(left).chain(used.iter().copied()).collect();
        let doomed: Vec<Stored> = chains.doomed(&kept).into_iter().cloned().collect();
        let counted = counted.iter().flat_map(|guid| chains.ways(*guid)).cloned().collect();
        let needed = needed(all, &doomed);
        (Self { inventory, needed, doomed, passed }, counted)
    }

    /// What becomes of each version, oldest first, with the reasons.
    pub fn verdicts<'a>(&'a self, wanted: &'a Wanted, around: &'a Surroundings) -> Vec<Verdict<'a>> {
        let mut verdicts = retain(&self.inventory, &wanted.policy, around, &wanted.now);
        for verdict in verdicts.iter_mut().filter(|verdict| !verdict.is_kept()) {
            let users = self.needed.get(&verdict.version.id.guid);
            verdict.kept_by.extend(users.map(|users| Reason::Below(users.clone())));
        }
        verdicts
    }

    /// How many versions there are.
    pub fn n_versions(&self) -> usize {
        let passed: BTreeSet<Guid> = self.passed.iter().map(|(stored, _)| stored.version.guid).collect();
        let counted = |guid: &&Guid| self.inventory.by_guid(**guid).is_some();
        self.inventory.versions().len() + passed.iter().filter(|guid| !counted(guid)).count()
    }

    /// Which versions go.
    pub fn going(&self) -> BTreeSet<VersionRef> {
        self.doomed.iter().map(|stored| stored.version.clone()).collect()
    }

    /// Whether the rules, if they are of names alone, fit this archive.
    ///
    /// # Errors
    /// [`endpoint::Error::Refused`]: a word that is like nothing would let all of it go.
    pub fn expect_word(&self, archive: &Archive, wanted: &Wanted) -> Result<()> {
        let around = Surroundings::default();
        let verdicts = retain(&self.inventory, &wanted.policy, &around, &wanted.now);
        if crate::exec::prune::fit(&verdicts, &wanted.policy) {
            return Ok(());
        }
        let (subject, hint) =
            (archive.url(), format!("cowsnap archive list {}", crate::model::quoted(archive.url())));
        let why =
            "no name that is to be kept is that of any of its versions, so none would be left but the newest";
        Err(endpoint::Error::Refused { op: "prune", subject, why: why.into(), hint: Some(hint) }.into())
    }
}

/// What builds upon what, of all that does not go.
fn needed(all: &[Stored], doomed: &[Stored]) -> BTreeMap<Guid, Vec<String>> {
    let key = |stored: &'_ Stored| (stored.version.guid, stored.base, stored.len, stored.created);
    let going: BTreeSet<_> = doomed.iter().map(key).collect();
    let mut needed: BTreeMap<Guid, Vec<String>> = BTreeMap::new();
    for stored in all.iter().filter(|stored| !going.contains(&key(stored))) {
        if let Some(base) = stored.base {
            needed.entry(base).or_default().push(format!("@{}", stored.version.name));
        }
    }
    needed
}

/// What became of an archive.
#[derive(Debug, Default)]
pub struct Pruned {
    /// How many versions there were.
    pub n_versions: usize,
    /// Those that went.
    pub destroyed: Vec<VersionRef>,
    /// Those that were to go, and that somebody uses, holds or builds upon since.
    pub spared: Vec<VersionRef>,
    /// What no rule counted, and why: it is left alone.
    pub passed: Vec<(VersionRef, String)>,
    /// How many parts went with them, and were left of others.
    pub parts: usize,
    /// How many bytes all that was.
    pub bytes: u64,
    /// How many claims of nobody went.
    pub claims: usize,
    /// What ended it before all was done.
    pub stopped: Option<Error>,
}

/// Destroys what the policy does not keep, and what was left behind longer ago than the grace period. Broken off anywhere, the next run goes on.
///
/// # Errors
/// A store that can not be read; an archive that the rules do not fit. What happens later is in [`Pruned::stopped`].
pub fn prune(archive: &Archive, wanted: &Wanted) -> Result<Pruned> {
    let clock = archive.claim_destroy(&[Group { guid: Guid::NIL, base: None }])?;
    let claims = archive.claims(&clock)?;
    let (seen, now) = (Seen::of(archive)?, claims.now.unwrap_or_else(Timestamp::now));
    let mut checked = Checked::default();
    let decided = Decided::of(archive, &seen, wanted, &used(&claims), &mut checked)?;
    decided.expect_word(archive, wanted)?;
    let left = left(&seen, &archive.groups()?, now, wanted.grace);
    drop((clock, seen));
    let passed = decided.passed.iter().map(|(stored, why)| (stored.version.clone(), why.clone()));
    let mut pruned =
        Pruned { n_versions: decided.n_versions(), passed: passed.collect(), ..Pruned::default() };
    let outcome = sweep(archive, &claims, now, &mut pruned).and_then(|()| {
        let work = Work { archive, wanted, decided: &decided, left: &left };
        work.run(&mut checked, &mut pruned)
    });
    pruned.stopped = outcome.err();
    Ok(pruned)
}

/// What would be swept beside the versions that go: parts, and their bytes.
///
/// # Errors
/// What the store says.
pub fn foretell_left(archive: &Archive, seen: &Seen, wanted: &Wanted) -> Result<(usize, u64)> {
    let groups = archive.groups()?;
    // Nothing is put to learn the store's clock.
    let left = left(seen, &groups, wanted.now.timestamp(), wanted.grace);
    let sums = left.iter().filter_map(|group| groups.get(group));
    Ok((sums.clone().map(|of| of.parts).sum::<u64>() as usize, sums.map(|of| of.bytes).sum()))
}

/// What others are at work with: it stays.
fn used(claims: &Claims) -> BTreeSet<Guid> {
    let used = claims.fresh.iter().filter_map(|claim| match claim.to {
        Use::Push => claim.group.base,
        Use::Read => Some(claim.group.guid),
        Use::Destroy => None,
    });
    used.collect()
}

/// The containers that were broken off, and nobody goes on with.
fn left(
    seen: &Seen,
    groups: &BTreeMap<Group, Parts>,
    now: Timestamp,
    grace: SignedDuration,
) -> BTreeSet<Group> {
    let put = groups.iter().map(|(group, of)| (*group, of.youngest));
    seen.chains.unneeded(put, now, grace).into_iter().collect()
}

/// Takes away claims of nobody, and what was left of trying the store out.
fn sweep(archive: &Archive, claims: &Claims, now: Timestamp, pruned: &mut Pruned) -> Result<()> {
    let keys: Vec<String> = claims.stale.iter().map(ToString::to_string).collect();
    archive.destroy(&keys)?;
    pruned.claims = keys.len();
    Ok(archive.destroy(&archive.left_of_probes(now)?)?)
}

struct Work<'a> {
    archive: &'a Archive,
    wanted: &'a Wanted,
    decided: &'a Decided,
    left: &'a BTreeSet<Group>,
}

impl Work<'_> {
    fn run(&self, checked: &mut Checked, pruned: &mut Pruned) -> Result<()> {
        let doomed = &self.decided.doomed;
        let groups: BTreeSet<Group> =
            doomed.iter().map(Stored::group).chain(self.left.iter().copied()).collect();
        if groups.is_empty() {
            return Ok(());
        }
        let claim = self.archive.claim_destroy(&groups.into_iter().collect::<Vec<_>>())?;
        // In this order: who was done before the claims were seen has left a manifest, a hold or young parts.
        let claims = self.archive.claims(&claim)?;
        let seen = Seen::of(self.archive)?;
        let still = Decided::of(self.archive, &seen, self.wanted, &used(&claims), checked)?;
        let going: Vec<&Stored> = still.doomed.iter().filter(|stored| doomed.contains(stored)).collect();
        let goes: BTreeSet<&VersionRef> = going.iter().map(|stored| &stored.version).collect();
        pruned.spared = self.decided.going().into_iter().filter(|version| !goes.contains(version)).collect();
        for batch in batches(&going) {
            self.destroy(batch, &claim, pruned)?;
        }
        self.sweep_parts(&seen, &claim, &claims, pruned)
    }

    /// Destroys manifests, of which none builds upon another, and then their parts.
    fn destroy(&self, batch: &[&Stored], claim: &Claim, pruned: &mut Pruned) -> Result<()> {
        self.may_go_on(claim)?;
        let keys: Vec<String> = batch.iter().map(ToString::to_string).collect();
        self.archive.destroy(&keys)?;
        for stored in batch {
            if !pruned.destroyed.contains(&stored.version) {
                pruned.destroyed.push(stored.version.clone());
            }
        }
        let groups: BTreeSet<Group> = batch.iter().map(|stored| stored.group()).collect();
        groups.into_iter().try_for_each(|group| self.destroy_parts(group, Timestamp::MAX, claim, pruned))
    }

    /// Sweeps what was left and is left still: nobody pushes it, nobody has.
    fn sweep_parts(&self, seen: &Seen, claim: &Claim, claims: &Claims, pruned: &mut Pruned) -> Result<()> {
        let is_pushed =
            |group: &Group| claims.fresh.iter().any(|claim| claim.to == Use::Push && claim.group == *group);
        let now = claims.now.unwrap_or_else(Timestamp::now);
        for group in self.left.iter().filter(|group| !is_pushed(group)) {
            let Some(Parts { youngest, .. }) = self.archive.group(*group)? else { continue };
            if !seen.chains.unneeded([(*group, youngest)].into_iter(), now, self.wanted.grace).is_empty() {
                self.destroy_parts(*group, youngest, claim, pruned)?;
            }
        }
        Ok(())
    }

    /// Destroys the parts of a container that were put until then, while they are listed: there may be too many to keep them all in memory.
    fn destroy_parts(
        &self,
        group: Group,
        until: Timestamp,
        claim: &Claim,
        pruned: &mut Pruned,
    ) -> Result<()> {
        let mut before = usize::MAX;
        loop {
            // A store may lose its place in the list where objects go meanwhile: so it is asked again after more than one page.
            let found = self.destroy_listed(group, until, claim, pruned)?;
            if found <= AT_ONCE || found >= before {
                return Ok(());
            }
            before = found;
        }
    }

    fn destroy_listed(
        &self,
        group: Group,
        until: Timestamp,
        claim: &Claim,
        pruned: &mut Pruned,
    ) -> Result<usize> {
        let (mut keys, mut bytes, mut found) = (Vec::new(), 0, 0);
        let mut destroy = |keys: &mut Vec<String>, bytes: &mut u64| -> Result<()> {
            self.may_go_on(claim)?;
            self.archive.destroy(keys)?;
            pruned.parts += keys.len();
            pruned.bytes += std::mem::take(bytes);
            keys.clear();
            Ok(())
        };
        self.archive.each_part(Some(group), &mut |part, object| -> Result<()> {
            if object.modified > until {
                return Ok(());
            }
            keys.push(part.to_string());
            bytes += object.len;
            found += 1;
            if keys.len() < AT_ONCE { Ok(()) } else { destroy(&mut keys, &mut bytes) }
        })?;
        if !keys.is_empty() {
            destroy(&mut keys, &mut bytes)?;
        }
        Ok(found)
    }

    fn may_go_on(&self, claim: &Claim) -> Result<()> {
        let subject = || self.archive.url();
        interrupt::check().map_err(|_| endpoint::Error::Interrupted { op: "prune", subject: subject() })?;
        Ok(claim.check()?)
    }
}

/// In the same order, together what does not build upon one another: one request destroys many.
fn batches<'a, 'b>(going: &'b [&'a Stored]) -> Vec<&'b [&'a Stored]> {
    const AT_ONCE: usize = 500;
    let (mut batches, mut rest) = (Vec::new(), going);
    while !rest.is_empty() {
        let mut bases = BTreeSet::new();
        let fits = |stored: &&&Stored| {
            let fits = !bases.contains(&stored.version.guid);
            bases.extend(stored.base);
            fits
        };
        let (batch, more) = rest.split_at(rest.iter().take(AT_ONCE).take_while(fits).count());
        batches.push(batch);
        rest = more;
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(guid: u8, base: Option<u8>) -> Stored {
        let version = VersionRef { guid: Guid([guid; 16]), name: format!("v{guid}").parse().unwrap() };
        Stored { version, base: base.map(|base| Guid([base; 16])), created: Timestamp::UNIX_EPOCH, len: 1 }
    }

    #[test]
    fn no_request_destroys_a_version_with_what_builds_upon_it() {
        let all =
            [stored(5, Some(4)), stored(6, Some(4)), stored(4, Some(1)), stored(3, None), stored(1, None)];
        let going: Vec<&Stored> = all.iter().collect();
        let lens: Vec<_> = batches(&going).iter().map(|batch| batch.len()).collect();
        assert_eq!(lens, [2, 2, 1]);
        assert!(batches(&[]).is_empty());
    }
}
