//! Which snapshots a policy keeps, and why.
//!
//! Never destroyed, whatever the policy says: the newest, one that is held, the newest that a replica has too, the newest that a bookmark of
//! replication's own marks as sent, one that a clone depends on, one that was made writable, one from the future. Bookmarks are not judged:
//! they take no space.
//!
//! **Order is by transaction.** The clock of a snapshot says in which bucket of the calendar it is and how old it is, nothing else: of the snapshots
//! in a bucket the one made last is kept, and the newest buckets are those into which a snapshot was put last, also if the clock was put
//! back or forward meanwhile.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::{Span, Timestamp, Zoned};

mod bucket;
mod policy;
mod simulate;
#[cfg(test)]
mod tests;
mod verdict;

pub use bucket::{Bucket, Period};
pub use policy::{LabelPattern, NamePattern, NoKey, NoPattern, Retention};
pub use simulate::{Day, Schedule, TooMany, simulate};
pub use verdict::{Missed, Reason, Verdict};

use crate::model::{Guid, Inventory, Version, VersionKind, VersionRef};

/// What an inventory does not say of snapshots, and a verdict depends on.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// What their users say about them.
    pub labels: BTreeMap<VersionRef, BTreeMap<String, String>>,
    /// The clones that could not be without them.
    pub clones: BTreeMap<VersionRef, Vec<String>>,
    /// Those that were made writable.
    pub writable: BTreeSet<VersionRef>,
    /// The newest ones that other places have too, and which places.
    pub bases: BTreeMap<Guid, Vec<String>>,
}

/// Judges every snapshot, oldest first. Buckets are those of the calendar in `now`'s time zone.
///
/// Judged again without those that go, each that stays does so for the same reasons. A policy that keeps more never destroys more.
pub fn retain<'a>(
    inventory: &'a Inventory,
    policy: &'a Retention,
    around: &'a Surroundings,
    now: &Zoned,
) -> Vec<Verdict<'a>> {
    let snapshots = inventory.versions().iter().filter(|version| version.kind == VersionKind::Snapshot);
    let sent = sent(inventory);
    let (unconfirmed, good): (Vec<_>, Vec<_>) =
        snapshots.partition(|version| version.id.name.is_unconfirmed());
    let mut verdicts: Vec<_> = good
        .into_iter()
        .map(|version| Verdict {
            version,
            kept_by: protections(version, inventory, around, &sent, now.timestamp()),
            missed: Vec::new(),
        })
        .collect();
    if let Some(newest) = verdicts.last_mut() {
        newest.kept_by.insert(0, Reason::Newest);
    }
    keep_last(&mut verdicts, policy.last);
    keep_within(&mut verdicts, policy.within, now);
    keep_buckets(&mut verdicts, policy, now);
    keep_by_word(&mut verdicts, policy, around);
    keep_young(&mut verdicts, policy.min_age, now);
    // They take the place of none, and are their job's to destroy: a run may be about to confirm them.
    verdicts.extend(unconfirmed.into_iter().map(|version| {
        let mut kept_by = protections(version, inventory, around, &sent, now.timestamp());
        kept_by.push(Reason::Unconfirmed);
        Verdict { version, kept_by, missed: Vec::new() }
    }));
    verdicts.sort_by_key(|verdict| verdict.version.order);
    verdicts
}

/// With what the names of the bookmarks begin by which replication knows what its targets have.
const SENT: &str = "cowsnap:to:";

/// The snapshots that were sent last to each target, as bookmarks say it, and to which. A bookmark is enough to send from; but when the target
/// comes back with what is newer, it is the snapshot that this is applied upon.
fn sent(inventory: &Inventory) -> HashMap<Guid, Vec<&str>> {
    let mut newest = BTreeMap::new();
    let marks = inventory.versions().iter().filter(|version| version.kind == VersionKind::Bookmark);
    for mark in marks.filter(|mark| inventory.snapshot_of(mark.id.guid).is_some()) {
        if let Some((tag, _)) =
            mark.id.name.as_str().rsplit_once(':').filter(|(tag, _)| tag.starts_with(SENT))
        {
            newest.insert(tag, mark.id.guid);
        }
    }
    let mut sent: HashMap<_, Vec<_>> = HashMap::new();
    newest.into_iter().for_each(|(tag, guid)| sent.entry(guid).or_default().push(tag));
    sent
}

/// What keeps a snapshot whatever the policy says.
fn protections<'a>(
    version: &'a Version,
    inventory: &'a Inventory,
    around: &'a Surroundings,
    sent: &HashMap<Guid, Vec<&'a str>>,
    now: Timestamp,
) -> Vec<Reason<'a>> {
    let mut reasons = Vec::new();
    let tags: Vec<_> = inventory.holds_of(&version.id).collect();
    if !tags.is_empty() {
        reasons.push(Reason::Held(tags));
    }
    reasons.extend(around.bases.get(&version.id.guid).map(|with| Reason::Base(with)));
    reasons.extend(sent.get(&version.id.guid).map(|to| Reason::Sent(to.clone())));
    reasons.extend(around.clones.get(&version.id).map(|clones| Reason::Cloned(clones)));
    if around.writable.contains(&version.id) {
        reasons.push(Reason::Writable);
    }
    if version.created > now {
        reasons.push(Reason::Future);
    }
    reasons
}

fn keep_last(verdicts: &mut [Verdict<'_>], of: usize) {
    for (nth, verdict) in (1..).zip(verdicts.iter_mut().rev()).filter(|_| of > 0) {
        match nth <= of {
            true => verdict.kept_by.push(Reason::Last(nth)),
            false => verdict.missed.push(Missed::NotLast { of }),
        }
    }
}

/// Counted from the newest and not from now: where no snapshots are taken any more, none go.
fn keep_within(verdicts: &mut [Verdict<'_>], within: Option<Span>, now: &Zoned) {
    let (Some(within), Some(newest)) = (within, verdicts.last()) else { return };
    let from = newest.version.created.min(now.timestamp()).to_zoned(now.time_zone().clone());
    let since = before(&from, within);
    for verdict in verdicts {
        match verdict.version.created >= since {
            true => verdict.kept_by.push(Reason::Within),
            false => verdict.missed.push(Missed::NotWithin),
        }
    }
}

fn keep_buckets(verdicts: &mut [Verdict<'_>], policy: &Retention, now: &Zoned) {
    let mut rules: Vec<_> =
        policy.per.iter().filter(|&(_, &of)| of > 0).map(|(&p, &of)| (p, of, HashMap::new())).collect();
    if rules.is_empty() {
        return;
    }
    // What is from the future is in no bucket: it would take the place of one that is not.
    let of_the_past = |verdict: &&mut Verdict<'_>| verdict.version.created <= now.timestamp();
    for verdict in verdicts.iter_mut().rev().filter(of_the_past) {
        let time = verdict.version.created.to_zoned(now.time_zone().clone());
        for (period, of, taken) in &mut rules {
            let bucket = Bucket::of(&time, *period);
            match taken.get(&bucket) {
                Some(&by) => verdict.missed.push(Missed::Outdone { bucket, by }),
                None if taken.len() < *of => {
                    taken.insert(bucket, &verdict.version.id.name);
                    verdict.kept_by.push(Reason::Per(bucket));
                }
                None => verdict.missed.push(Missed::Beyond { period: *period, of: *of }),
            }
        }
    }
}

fn keep_by_word<'a>(verdicts: &mut [Verdict<'a>], policy: &'a Retention, around: &'a Surroundings) {
    for verdict in verdicts {
        let id = &verdict.version.id;
        let labels = around.labels.get(id);
        let labelled =
            policy.labels.iter().filter(|label| labels.is_some_and(|labels| label.matches(labels)));
        verdict.kept_by.extend(labelled.map(Reason::Label));
        let named = policy.names.iter().filter(|name| name.matches(id.name.as_str()));
        verdict.kept_by.extend(named.map(Reason::Name));
    }
}

fn keep_young(verdicts: &mut [Verdict<'_>], min_age: Option<Span>, now: &Zoned) {
    let Some(min_age) = min_age else { return };
    let since = before(now, min_age);
    for verdict in verdicts.iter_mut().filter(|verdict| verdict.version.created > since) {
        verdict.kept_by.push(Reason::Young);
    }
}

/// That long before `time`, by the calendar; the beginning of time if it is before that.
fn before(time: &Zoned, span: Span) -> Timestamp {
    time.checked_sub(span).map_or(Timestamp::MIN, |time| time.timestamp())
}
