//! Versions of an archive that a policy does not keep, destroyed; and what was left behind, swept.
//!
//! Who is at work there is not disturbed: claims first, then a look at those of others (docs/FORMAT-archive.md, *Claims*).

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp, Zoned};

use super::Seen;
use crate::endpoint::archive::{Archive, Claim, Claims};
use crate::endpoint::store::Object;
use crate::endpoint::{self};
use crate::model::archive::{Group, Part, Stored, Use};
use crate::model::{Guid, Inventory, VersionRef};
use crate::plan::retain::{Reason, Retention, Surroundings, Verdict, retain};
use crate::sys::interrupt;
use crate::{Error, Result};

/// How old parts are that nobody will need any more, unless another time is asked for.
pub const GRACE: SignedDuration = SignedDuration::from_hours(7 * 24);

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
}

impl Decided {
    /// Decides. `used` is at work, or held by who is.
    pub fn of(seen: &Seen, wanted: &Wanted, used: &BTreeSet<Guid>) -> Self {
        let versions = seen.chains.versions();
        let holds = versions.iter().flat_map(|version| {
            let tags = seen.holds.get(&version.id.guid).into_iter().flatten();
            tags.map(|tag| (version.id.clone(), tag.clone()))
        });
        let holds = holds.collect();
        let inventory = Inventory::new("the archive", versions, holds);
        let around = Surroundings::default();
        let verdicts = retain(&inventory, &wanted.policy, &around, &wanted.now);
        let kept = verdicts.iter().filter(|verdict| verdict.is_kept()).map(|verdict| verdict.version.id.guid);
        // What is newest is of no use if nothing leads to it.
        let whole = inventory.versions().iter().rev().map(|version| version.id.guid);
        let whole = whole.filter(|guid| seen.chains.cost(*guid).is_some()).take(1);
        let kept: BTreeSet<Guid> = kept.chain(whole).chain(used.iter().copied()).collect();
        let doomed: Vec<Stored> = seen.chains.doomed(&kept).into_iter().cloned().collect();
        let going: BTreeSet<Guid> = doomed.iter().map(|stored| stored.version.guid).collect();
        let mut needed: BTreeMap<Guid, Vec<String>> = BTreeMap::new();
        for stored in seen.chains.stored().iter().filter(|stored| !going.contains(&stored.version.guid)) {
            if let Some(base) = stored.base {
                needed.entry(base).or_default().push(format!("@{}", stored.version.name));
            }
        }
        Self { inventory, needed, doomed }
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
        self.inventory.versions().len()
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

/// What became of an archive.
#[derive(Debug, Default)]
pub struct Pruned {
    /// How many versions there were.
    pub n_versions: usize,
    /// Those that went.
    pub destroyed: Vec<VersionRef>,
    /// Those that were to go, and that somebody uses, holds or builds upon since.
    pub spared: Vec<VersionRef>,
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
    let decided = Decided::of(&seen, wanted, &used(&claims));
    decided.expect_word(archive, wanted)?;
    let parts = archive.parts(None)?;
    let left = left(&seen, &parts, now, wanted.grace);
    drop(clock);
    let mut pruned = Pruned { n_versions: decided.n_versions(), ..Pruned::default() };
    let outcome = sweep(archive, &claims, now, &mut pruned).and_then(|()| {
        let work = Work { archive, wanted, decided: &decided, parts: &parts, left: &left };
        work.run(&mut pruned)
    });
    pruned.stopped = outcome.err();
    Ok(pruned)
}

/// What would be swept beside the versions that go: parts, and their bytes.
///
/// # Errors
/// What the store says.
pub fn foretell_left(archive: &Archive, seen: &Seen, wanted: &Wanted) -> Result<(usize, u64)> {
    let parts = archive.parts(None)?;
    // Nothing is put to learn the store's clock.
    let left = left(seen, &parts, wanted.now.timestamp(), wanted.grace);
    let lens = parts.iter().filter(|(part, _)| left.contains(&part.group)).map(|(_, object)| object.len);
    Ok((lens.clone().count(), lens.sum()))
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
fn left(seen: &Seen, parts: &[(Part, Object)], now: Timestamp, grace: SignedDuration) -> BTreeSet<Group> {
    let put: Vec<_> = parts.iter().map(|(part, object)| (*part, object.modified)).collect();
    seen.chains.unneeded(&put, now, grace).into_iter().map(|part| part.group).collect()
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
    parts: &'a [(Part, Object)],
    left: &'a BTreeSet<Group>,
}

impl Work<'_> {
    fn run(&self, pruned: &mut Pruned) -> Result<()> {
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
        let still = Decided::of(&seen, self.wanted, &used(&claims));
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
        let parts: Vec<_> = self.parts.iter().filter(|(part, _)| groups.contains(&part.group)).collect();
        self.destroy_parts(&parts, claim, pruned)
    }

    /// Sweeps what was left and is left still: nobody pushes it, nobody has.
    fn sweep_parts(&self, seen: &Seen, claim: &Claim, claims: &Claims, pruned: &mut Pruned) -> Result<()> {
        let is_pushed =
            |group: &Group| claims.fresh.iter().any(|claim| claim.to == Use::Push && claim.group == *group);
        let now = claims.now.unwrap_or_else(Timestamp::now);
        for group in self.left.iter().filter(|group| !is_pushed(group)) {
            let parts = self.archive.parts(Some(*group))?;
            if left(seen, &parts, now, self.wanted.grace).contains(group) {
                self.destroy_parts(&parts.iter().collect::<Vec<_>>(), claim, pruned)?;
            }
        }
        Ok(())
    }

    fn destroy_parts(&self, parts: &[&(Part, Object)], claim: &Claim, pruned: &mut Pruned) -> Result<()> {
        const AT_ONCE: usize = 1000;
        for some in parts.chunks(AT_ONCE) {
            self.may_go_on(claim)?;
            self.archive.destroy(&some.iter().map(|(part, _)| part.to_string()).collect::<Vec<_>>())?;
            pruned.parts += some.len();
            pruned.bytes += some.iter().map(|(_, object)| object.len).sum::<u64>();
        }
        Ok(())
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
