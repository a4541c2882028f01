//! Which transfers bring a target up to its source, and what is kept so that the next ones can build upon them.
//!
//! Versions are the same if their guids are; names and clocks prove nothing. The order of work is: keep the new version here, bring
//! it, keep it there, let go of the old one on both sides. So at each moment one version is kept on both sides that the next increment
//! can build upon, wherever the work is broken off.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::Serialize;

use crate::model::{Guid, HoldTag, Inventory, SnapshotName, Version, VersionKind, VersionRef, quoted};

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Every version between, or only the last one.
    pub intermediates: bool,
    /// The version to end with; the newest if none is named.
    pub last: Option<SnapshotName>,
    /// Send in full if there is nothing to build upon and the target is not empty.
    pub full_again: bool,
    /// The target takes increments only upon its newest version (ZFS).
    pub linear: bool,
    /// Who keeps the version here that the target has.
    pub here: HoldTag,
    /// What the target has is marked here by a bookmark, and held only until that is there: its snapshot may go then (ZFS).
    pub marks: bool,
    /// Who keeps it there.
    pub there: HoldTag,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// Keep the version at the source.
    HoldHere {
        /// Which one.
        version: VersionRef,
    },
    /// Bring the version.
    Transfer {
        /// Which one.
        version: VersionRef,
        /// What it builds upon; none in full.
        base: Option<VersionRef>,
        /// Whether some of it is there already, from a transfer that was broken off.
        resume: bool,
    },
    /// Keep the version at the target.
    HoldThere {
        /// Which one.
        version: VersionRef,
    },
    /// Keep it at the source no longer.
    ReleaseHere {
        /// Which one.
        version: VersionRef,
    },
    /// Keep it at the target no longer.
    ReleaseThere {
        /// Which one.
        version: VersionRef,
    },
    /// Make a bookmark of it at the source.
    MarkHere {
        /// Which one.
        version: VersionRef,
        /// The bookmark's name.
        name: SnapshotName,
    },
    /// Destroy a bookmark at the source.
    UnmarkHere {
        /// Which one, by its own name.
        bookmark: VersionRef,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HoldHere { version } => write!(f, "hold @{} at the source", version.name),
            Self::Transfer { version, base, resume } => {
                let verb = if *resume { "go on with" } else { "send" };
                match base {
                    Some(base) => write!(f, "{verb} @{} upon @{}", version.name, base.name),
                    None => write!(f, "{verb} @{} in full", version.name),
                }
            }
            Self::HoldThere { version } => write!(f, "hold @{} at the target", version.name),
            Self::ReleaseHere { version } => write!(f, "release @{} at the source", version.name),
            Self::ReleaseThere { version } => write!(f, "release @{} at the target", version.name),
            Self::MarkHere { version, name } => {
                write!(f, "bookmark @{} at the source as #{name}", version.name)
            }
            Self::UnmarkHere { bookmark } => {
                write!(f, "destroy the bookmark #{} at the source", bookmark.name)
            }
        }
    }
}

/// What brings the target up to the source. Nothing to do is an empty plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// What both have: the newest one that can be built upon.
    pub base: Option<VersionRef>,
    /// What to do, in this order.
    pub steps: Vec<Step>,
}

/// Why it can not be done without somebody's decision.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// The source has no snapshot.
    #[error("there is nothing to send: the source has no snapshot")]
    Empty,
    /// The source has no snapshot of that name.
    #[error("there is nothing to send: the source has no snapshot @{0}")]
    NoSuch(SnapshotName),
    /// The target has versions, none of which is of the source.
    #[error("source and target have no version in common: the target has {}", names(.theirs))]
    NoCommonBase {
        /// What the target has.
        theirs: Vec<VersionRef>,
    },
    /// The target has newer versions of the source than the one that is to be brought, which can not be brought behind them.
    #[error("the target is ahead of @{}: it has @{} of the source, which is newer", .wanted.name, .newer.name)]
    Ahead {
        /// What was to be brought.
        wanted: VersionRef,
        /// The newest of the source that the target has.
        newer: VersionRef,
    },
    /// The target has what the next increment was to build upon, and the source has it no longer: neither a snapshot of it nor a bookmark
    /// that it can send from.
    #[error("@{} is what both had, and the source has it no longer: the target has {}", .base.name, names(.theirs))]
    BaseOnlyThere {
        /// What the target keeps of the source.
        base: VersionRef,
        /// What the target has.
        theirs: Vec<VersionRef>,
    },
    /// The target has gone on by itself.
    #[error("the target has gone on since @{}, the newest before it that both have: it has {}", .since.name, names(.theirs))]
    Diverged {
        /// What both have.
        since: VersionRef,
        /// What the target has that is newer.
        theirs: Vec<VersionRef>,
    },
    /// They are of two filesystems, whose streams are unlike.
    #[error("the source is on {ours} and the target on {theirs}, which does not take its streams")]
    UnlikeFormats {
        /// The source's.
        ours: String,
        /// The target's.
        theirs: String,
    },
    /// What is encrypted can not go on where it is not.
    #[error("the source is encrypted and goes out as it is, and the target, which has @{} of it, is not encrypted", .since.name)]
    Encryption {
        /// The newest that both have.
        since: VersionRef,
    },
    /// A name is taken at the target.
    #[error("the target has another version that is called @{}: {} there, {} here", .theirs.name, .theirs.guid, .ours.guid)]
    NameTaken {
        /// What is to be sent.
        ours: VersionRef,
        /// What has its name.
        theirs: VersionRef,
    },
    /// Something is being received there, or was begun by somebody else.
    #[error("the target has received @{name} in part, {}", if *.live { "and still does" } else { "which is not of this source" })]
    ForeignPartial {
        /// The name that it would have got.
        name: SnapshotName,
        /// Whether somebody is receiving it now.
        live: bool,
    },
}

impl Conflict {
    /// Whether it goes by itself: somebody is at work there.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::ForeignPartial { live: true, .. })
    }

    /// The command that would help, with `from` and `to` as they were called.
    pub fn hint(&self, from: &str, to: &str) -> Option<String> {
        match self {
            Self::Empty | Self::NoSuch(_) => Some(format!("cowsnap snapshot {}", quoted(from))),
            Self::NoCommonBase { .. } => Some(format!(
                "take another target; on btrfs also: cowsnap replicate --full {} {}",
                quoted(from),
                quoted(to)
            )),
            Self::Ahead { .. } => Some(format!(
                "cowsnap replicate {} {} goes on from what it has; on btrfs, --full sends the old one in full",
                quoted(from),
                quoted(to)
            )),
            Self::Diverged { theirs, .. } => theirs.first().map(|version| {
                let theirs = quoted(format!("{to}@{}", version.name));
                format!("cowsnap clone {theirs} NEW, there, if it is to be kept; or take another target")
            }),
            Self::NameTaken { theirs, .. } => {
                Some(format!("cowsnap rename {} NEW, there", quoted(format!("{to}@{}", theirs.name))))
            }
            Self::ForeignPartial { live: true, .. } => Some("wait until it is done".into()),
            Self::ForeignPartial { live: false, .. } => {
                Some(format!("cowsnap destroy {}, there", quoted(format!("{to}@%partial"))))
            }
            Self::UnlikeFormats { .. } => Some("take a target on the same filesystem".into()),
            Self::Encryption { .. } => Some(
                "take another target; what was brought readable goes on readable with the same --zfs-flags"
                    .into(),
            ),
            Self::BaseOnlyThere { base, .. } => Some(format!(
                "take another target; cowsnap clone {} NEW, there, goes on from the copy; on btrfs also, all of it again: cowsnap replicate --full {} {}",
                quoted(format!("{to}@{}", base.name)),
                quoted(from),
                quoted(to)
            )),
        }
    }
}

fn names(versions: &[VersionRef]) -> String {
    const SHOWN: usize = 5;
    let mut text: Vec<_> = versions.iter().take(SHOWN).map(|version| format!("@{}", version.name)).collect();
    if versions.len() > SHOWN {
        text.push(format!("{} more", versions.len() - SHOWN));
    }
    text.join(", ")
}

/// That the target takes the streams of the source, by what both filesystems are called.
///
/// # Errors
/// [`Conflict::UnlikeFormats`].
pub fn expect_alike(ours: &str, theirs: &str) -> Result<(), Conflict> {
    match ours == theirs {
        true => Ok(()),
        false => Err(Conflict::UnlikeFormats { ours: ours.into(), theirs: theirs.into() }),
    }
}

/// Plans how `target` gets what `source` has.
///
/// # Errors
/// [`Conflict`], with its evidence.
pub fn replicate(source: &Inventory, target: &Inventory, policy: &Policy) -> Result<Plan, Conflict> {
    let there = There::of(target);
    let last = last(source, policy)?;
    let Common { base, newest } = common(source, &there, policy, last)?;
    let resumed = partial(source, target, policy, base, last)?;
    let (wanted, resumed) = wanted_behind(source, &there, policy, base, last, resumed);
    let sent: HashSet<_> = wanted.iter().map(|version| version.id.guid).collect();
    let marks = marks(source, policy);
    // What is common and newer than all that is sent stays what the next increment builds upon.
    let end = wanted.last().copied().or(base);
    let newer = newest.filter(|newest| end.is_none_or(|end| newest.order > end.order));
    let built_upon = base.filter(|base| !wanted.is_empty() && !is_held(source, &base.id, &policy.here));
    let kept = newer.or(end).filter(|kept| kept.kind == VersionKind::Bookmark);
    let mut steps = marks_first(&marks, [built_upon, kept], policy);
    let mut upon = base;
    for version in &wanted {
        if let Some(theirs) = there.by_name.get(&version.id.name) {
            return Err(Conflict::NameTaken { ours: version.id.clone(), theirs: theirs.id.clone() });
        }
        if !is_held(source, &version.id, &policy.here) {
            steps.push(Step::HoldHere { version: version.id.clone() });
        }
        let resume = resumed.is_some_and(|resumed| resumed.id == version.id);
        let base = upon.map(|base| called_here(base, &marks, policy));
        steps.push(Step::Transfer { version: version.id.clone(), base, resume });
        steps.push(Step::HoldThere { version: version.id.clone() });
        steps.extend(mark(&marks, version, policy));
        if let Some(old) = upon {
            release(&mut steps, source, &there, policy, &sent, old);
        }
        upon = Some(version);
    }
    if let Some(sent_last) = wanted.last().filter(|_| newer.is_some()) {
        release(&mut steps, source, &there, policy, &sent, sent_last);
    }
    settle(&mut steps, source, &there, policy, &sent, newer.or(end));
    Ok(Plan { base: base.map(|base| base.id.clone()), steps })
}

/// The target with its snapshots at hand: each is looked for again and again.
struct There<'a> {
    inventory: &'a Inventory,
    by_guid: HashMap<Guid, &'a Version>,
    by_name: HashMap<&'a SnapshotName, &'a Version>,
}

impl<'a> There<'a> {
    fn of(inventory: &'a Inventory) -> Self {
        let (mut by_guid, mut by_name) = (HashMap::new(), HashMap::new());
        for version in snapshots(inventory) {
            by_guid.entry(version.id.guid).or_insert(version);
            by_name.entry(&version.id.name).or_insert(version);
        }
        Self { inventory, by_guid, by_name }
    }

    fn has(&self, guid: Guid) -> bool {
        self.by_guid.contains_key(&guid)
    }

    /// How `version` is called there.
    fn called<'v>(&self, version: &'v VersionRef) -> &'v VersionRef
    where
        'a: 'v,
    {
        self.by_guid.get(&version.guid).map_or(version, |there| &there.id)
    }
}

/// The snapshot that the target is to have at the end.
fn last<'a>(source: &'a Inventory, policy: &Policy) -> Result<&'a Version, Conflict> {
    match &policy.last {
        Some(name) => {
            source.by_name_and_kind(name, VersionKind::Snapshot).ok_or_else(|| Conflict::NoSuch(name.clone()))
        }
        None => snapshots(source).rfind(|version| !version.id.name.is_unconfirmed()).ok_or(Conflict::Empty),
    }
}

fn snapshots(inventory: &Inventory) -> impl DoubleEndedIterator<Item = &Version> {
    inventory.versions().iter().filter(|version| version.kind == VersionKind::Snapshot)
}

/// What source and target both have.
struct Common<'a> {
    /// The newest version that is not newer than the one to end with; none if all is to be sent in full.
    base: Option<&'a Version>,
    /// The newest of all.
    newest: Option<&'a Version>,
}

/// What the target has as a snapshot.
fn common<'a>(
    source: &'a Inventory,
    there: &There<'_>,
    policy: &Policy,
    last: &Version,
) -> Result<Common<'a>, Conflict> {
    let theirs = || snapshots(there.inventory);
    let named =
        |theirs: &mut dyn Iterator<Item = &Version>| theirs.map(|version| version.id.clone()).collect();
    let known = |version: &&Version| there.has(version.id.guid);
    let is_before = |version: &&Version| version.order <= last.order;
    // Of a snapshot and its bookmarks, which have one guid, the snapshot is what to send from; then the target's own bookmark, which
    // no other target's work destroys.
    let marks = marks(source, policy);
    let best = |found: &'a Version| {
        let own = marks.iter().copied().find(|mark| mark.id.guid == found.id.guid);
        source.snapshot_of(found.id.guid).or(own).unwrap_or(found)
    };
    let newest = source.versions().iter().rev().find(known).map(best);
    let base = source.versions().iter().rev().filter(is_before).find(known).map(best);
    let Some(base) = base else {
        return match newest {
            _ if there.by_guid.is_empty() || policy.full_again && !policy.linear => {
                Ok(Common { base: None, newest })
            }
            Some(newer) => Err(Conflict::Ahead { wanted: last.id.clone(), newer: newer.id.clone() }),
            None => Err(nothing_common(there, policy)),
        };
    };
    if base.kind == VersionKind::Bookmark && !source.caps.bookmarks {
        return Err(Conflict::BaseOnlyThere { base: base.id.clone(), theirs: named(&mut theirs()) });
    }
    let goes_encrypted = source.caps.encrypted == Some(true);
    if goes_encrypted && there.inventory.caps.encrypted == Some(false) && !there.has(last.id.guid) {
        return Err(Conflict::Encryption { since: base.id.clone() });
    }
    let at = there.by_guid[&base.id.guid];
    let since: Vec<_> = named(&mut theirs().filter(|theirs| theirs.order > at.order));
    if !policy.linear || since.is_empty() || there.has(last.id.guid) {
        return Ok(Common { base: Some(base), newest });
    }
    match newest.filter(|newest| newest.order > last.order) {
        Some(newer) => Err(Conflict::Ahead { wanted: last.id.clone(), newer: newer.id.clone() }),
        None => Err(Conflict::Diverged { since: base.id.clone(), theirs: since }),
    }
}

/// Why there is nothing to build upon: what the target keeps of this source proves that there was something, and says what.
fn nothing_common(there: &There<'_>, policy: &Policy) -> Conflict {
    let theirs = snapshots(there.inventory).map(|version| version.id.clone()).collect();
    let was_common = |version: &&Version| is_held(there.inventory, &version.id, &policy.there);
    match snapshots(there.inventory).rfind(was_common) {
        Some(base) => Conflict::BaseOnlyThere { base: base.id.clone(), theirs },
        None => Conflict::NoCommonBase { theirs },
    }
}

/// The source's version that the target has in part.
fn partial<'a>(
    source: &'a Inventory,
    target: &Inventory,
    policy: &Policy,
    base: Option<&Version>,
    last: &Version,
) -> Result<Option<&'a Version>, Conflict> {
    for partial in &target.partials {
        // What is compared with the live dataset is staged, too, and is nobody's version.
        if partial.guid.is_nil() {
            continue;
        }
        if partial.live {
            return Err(Conflict::ForeignPartial { name: partial.name.clone(), live: true });
        }
        let ours = source.snapshot_of(partial.guid);
        let after =
            ours.filter(|ours| base.is_none_or(|base| ours.order > base.order) && ours.order <= last.order);
        match after {
            Some(ours) => return Ok(Some(ours)),
            // What no source goes on with is swept by the next receive, but not where it stands in the way of it.
            None if policy.linear => {
                return Err(Conflict::ForeignPartial { name: partial.name.clone(), live: false });
            }
            None => {}
        }
    }
    Ok(None)
}

/// What is to be sent, oldest first, and which of it goes on with what the target has in part: not if that builds upon something else.
fn wanted_behind<'a>(
    source: &'a Inventory,
    there: &There<'_>,
    policy: &Policy,
    base: Option<&'a Version>,
    last: &'a Version,
    resumed: Option<&'a Version>,
) -> (Vec<&'a Version>, Option<&'a Version>) {
    let with = wanted(source, there, policy, base, last, resumed);
    let goes_on = |resumed: &&Version| {
        let before = with.iter().take_while(|version| version.id != resumed.id).last().copied().or(base);
        let upon = before.map(|before| before.id.guid);
        let mut partials = there.inventory.partials.iter().filter(|partial| partial.guid == resumed.id.guid);
        // What is damaged begins anew; ZFS goes on by its token, whatever is there.
        partials.any(|partial| partial.is_upon(upon) && (policy.linear || partial.bytes != Some(0)))
    };
    match resumed {
        Some(other) if !goes_on(&other) => (wanted(source, there, policy, base, last, None), None),
        resumed => (with, resumed),
    }
}

/// What is to be sent, oldest first.
fn wanted<'a>(
    source: &'a Inventory,
    there: &There<'_>,
    policy: &Policy,
    base: Option<&Version>,
    last: &'a Version,
    resumed: Option<&Version>,
) -> Vec<&'a Version> {
    let is_new = |version: &&Version| {
        base.is_none_or(|base| version.order > base.order)
            && version.order <= last.order
            && !there.has(version.id.guid)
    };
    let is_wanted = |version: &&Version| {
        policy.intermediates && !version.id.name.is_unconfirmed()
            || version.id == last.id
            || resumed.is_some_and(|resumed| resumed.id == version.id)
    };
    snapshots(source).filter(is_new).filter(is_wanted).collect()
}

fn is_held(inventory: &Inventory, version: &VersionRef, tag: &HoldTag) -> bool {
    inventory.holds_of(version).any(|held| held == tag)
}

/// Lets go of `old` where it is kept and is not kept anew.
fn release(
    steps: &mut Vec<Step>,
    source: &Inventory,
    there: &There<'_>,
    policy: &Policy,
    sent: &HashSet<Guid>,
    old: &Version,
) {
    let is_sent = sent.contains(&old.id.guid);
    let name = policy.marks.then(|| mark_of(old, policy));
    let is_made =
        |step: &Step| matches!(step, Step::MarkHere { name: made, .. } if Some(made) == name.as_ref());
    let is_marked = is_sent || steps.iter().take(MARKS_FIRST).any(is_made);
    if old.kind == VersionKind::Snapshot && (is_sent || is_held(source, &old.id, &policy.here)) {
        steps.push(Step::ReleaseHere { version: old.id.clone() });
    }
    if let Some(name) = name.filter(|_| is_marked) {
        steps.push(Step::UnmarkHere { bookmark: VersionRef { guid: old.id.guid, name } });
    } else {
        steps.extend(marks(source, policy).iter().filter(|mark| mark.id.guid == old.id.guid).map(unmark));
    }
    let theirs = there.called(&old.id);
    if is_sent || is_held(there.inventory, theirs, &policy.there) {
        steps.push(Step::ReleaseThere { version: theirs.clone() });
    }
}

/// At the end exactly `newest`, which both have then, is kept on both sides: what work that was broken off has left is put right.
fn settle(
    steps: &mut Vec<Step>,
    source: &Inventory,
    there: &There<'_>,
    policy: &Policy,
    sent: &HashSet<Guid>,
    newest: Option<&Version>,
) {
    let Some(newest) = newest else { return };
    let marks = marks(source, policy);
    let is_sent = |version: &VersionRef| sent.contains(&version.guid);
    if !is_sent(&newest.id) {
        let is_snapshot = newest.kind == VersionKind::Snapshot;
        if is_snapshot && !policy.marks && !is_held(source, &newest.id, &policy.here) {
            steps.push(Step::HoldHere { version: newest.id.clone() });
        }
        let theirs = there.called(&newest.id);
        if !is_held(there.inventory, theirs, &policy.there) {
            steps.push(Step::HoldThere { version: theirs.clone() });
        }
        steps.extend(mark(&marks, newest, policy).filter(|_| is_snapshot));
    }
    let is_kept = is_sent(&newest.id) || is_held(source, &newest.id, &policy.here);
    if policy.marks && newest.kind == VersionKind::Snapshot && is_kept {
        steps.push(Step::ReleaseHere { version: newest.id.clone() });
    }
    let [released_here, released_there] = released(steps);
    let is_left =
        |released: &HashSet<VersionRef>, held: &VersionRef| !is_sent(held) && !released.contains(held);
    let here = stale(source, &policy.here, newest).filter(|held| is_left(&released_here, held)).cloned();
    steps.extend(here.map(|version| Step::ReleaseHere { version }));
    let theirs = stale(there.inventory, &policy.there, newest).filter(|held| is_left(&released_there, held));
    steps.extend(theirs.cloned().map(|version| Step::ReleaseThere { version }));
    let is_unmarked = |mark: &Version| {
        steps.iter().any(|step| matches!(step, Step::UnmarkHere { bookmark } if *bookmark == mark.id))
    };
    let is_old = |mark: &&&Version| mark.id.guid != newest.id.guid && !is_unmarked(mark);
    let old: Vec<_> = marks.iter().filter(is_old).map(unmark).collect();
    steps.extend(old);
}

/// At most so many steps of a plan come before the first version: what is built upon, and what is kept in the end.
const MARKS_FIRST: usize = 2;

/// What is needed and is not kept for this target yet is marked before anything else: it may be known by another target's bookmark alone,
/// and what is done for that destroys it.
fn marks_first(marks: &[&Version], needed: [Option<&Version>; MARKS_FIRST], policy: &Policy) -> Vec<Step> {
    let mut steps: Vec<Step> =
        needed.into_iter().flatten().filter_map(|version| mark(marks, version, policy)).collect();
    steps.dedup();
    steps
}

/// By which of its names an increment builds upon `base`.
fn called_here(base: &Version, marks: &[&Version], policy: &Policy) -> VersionRef {
    match base.kind == VersionKind::Bookmark && mark(marks, base, policy).is_some() {
        true => VersionRef { guid: base.id.guid, name: mark_of(base, policy) },
        false => base.id.clone(),
    }
}

/// The bookmark that marks `version` for this target. A version has one of its own, so that the new one is there before the old one goes.
fn mark_of(version: &Version, policy: &Policy) -> SnapshotName {
    let guid = blake3::hash(&version.id.guid.0).to_hex();
    let name = format!("{}:{}", policy.here, &guid[..16]);
    name.parse().expect("a tag and digits are a name")
}

/// The bookmarks of this target.
fn marks<'a>(source: &'a Inventory, policy: &Policy) -> Vec<&'a Version> {
    let is_mark = |version: &&Version| {
        let rest = version.id.name.as_str().strip_prefix(policy.here.as_str());
        version.kind == VersionKind::Bookmark && rest.is_some_and(|rest| rest.starts_with(':'))
    };
    if policy.marks { source.versions().iter().filter(is_mark).collect() } else { Vec::new() }
}

/// Marks `version`, if that is to be done and is not yet.
fn mark(marks: &[&Version], version: &Version, policy: &Policy) -> Option<Step> {
    let name = policy.marks.then(|| mark_of(version, policy))?;
    let is_there = marks.iter().any(|mark| mark.id.guid == version.id.guid && mark.id.name == name);
    (!is_there).then(|| Step::MarkHere { version: version.id.clone(), name })
}

fn unmark(mark: &&Version) -> Step {
    Step::UnmarkHere { bookmark: mark.id.clone() }
}

fn stale<'a>(
    inventory: &'a Inventory,
    tag: &'a HoldTag,
    newest: &'a Version,
) -> impl Iterator<Item = &'a VersionRef> {
    inventory
        .holds()
        .iter()
        .filter(move |(held, by)| by == tag && held.guid != newest.id.guid)
        .map(|(held, _)| held)
}

/// What the steps let go of here, and there.
fn released(steps: &[Step]) -> [HashSet<VersionRef>; 2] {
    let mut released = [HashSet::new(), HashSet::new()];
    for step in steps {
        match step {
            Step::ReleaseHere { version } => released[0].insert(version.clone()),
            Step::ReleaseThere { version } => released[1].insert(version.clone()),
            _ => continue,
        };
    }
    released
}

/// What the two hold after `step`, as an executor leaves them: to foretell, and for tests.
pub fn simulate(step: &Step, policy: &Policy, source: &mut Inventory, target: &mut Inventory) {
    match step {
        Step::HoldHere { version } => hold(source, version, &policy.here),
        Step::HoldThere { version } => hold(target, version, &policy.there),
        Step::ReleaseHere { version } => release_of(source, version, &policy.here),
        Step::ReleaseThere { version } => release_of(target, version, &policy.there),
        Step::MarkHere { version, name } => {
            let Some(marked) = source.by_guid(version.guid) else { return };
            let id = VersionRef { guid: version.guid, name: name.clone() };
            let mark = Version { id, kind: VersionKind::Bookmark, ..marked.clone() };
            let versions = source.versions().iter().cloned().chain([mark]).collect();
            set_versions(source, versions);
        }
        Step::UnmarkHere { bookmark } => {
            let is_other = |version: &&Version| version.id != *bookmark;
            let versions = source.versions().iter().filter(is_other).cloned().collect();
            set_versions(source, versions);
        }
        Step::Transfer { version, .. } => {
            let Some(sent) = source.snapshot_of(version.guid) else { return };
            let order = target.newest().map_or(1, |newest| newest.order + 1);
            let arrived = Version { order, ..sent.clone() };
            let versions = target.versions().iter().cloned().chain([arrived]).collect();
            let partials =
                target.partials.iter().filter(|partial| partial.guid != version.guid).cloned().collect();
            let mut after = Inventory::new(target.dataset.clone(), versions, target.holds().to_vec());
            (after.partials, after.caps) = (partials, target.caps);
            *target = after;
        }
    }
}

fn hold(inventory: &mut Inventory, version: &VersionRef, tag: &HoldTag) {
    let holds = inventory.holds().iter().cloned().chain([(version.clone(), tag.clone())]).collect();
    set_holds(inventory, holds);
}

fn release_of(inventory: &mut Inventory, version: &VersionRef, tag: &HoldTag) {
    let is_other = |held: &&(VersionRef, HoldTag)| (&held.0, &held.1) != (version, tag);
    set_holds(inventory, inventory.holds().iter().filter(is_other).cloned().collect());
}

fn set_versions(inventory: &mut Inventory, versions: Vec<Version>) {
    let mut after = Inventory::new(inventory.dataset.clone(), versions, inventory.holds().to_vec());
    (after.partials, after.caps) = (std::mem::take(&mut inventory.partials), inventory.caps);
    *inventory = after;
}

fn set_holds(inventory: &mut Inventory, holds: Vec<(VersionRef, HoldTag)>) {
    let mut after = Inventory::new(inventory.dataset.clone(), inventory.versions().to_vec(), holds);
    (after.partials, after.caps) = (std::mem::take(&mut inventory.partials), inventory.caps);
    *inventory = after;
}

mod unmarked;
pub use unmarked::held_instead;

#[cfg(test)]
mod tests;
