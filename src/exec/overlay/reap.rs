//! What is left of commands that were killed, and overlays whose owner is gone, destroyed. Never another's.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::destroy::DESTROY;
use super::{Survivors, check_answers, deal_with_inside, destroy, opened, run, unhindered};
use crate::endpoint::overlay::{Entry, Home, Locked, fuse, kernel, layer, native, ours, owner};
use crate::endpoint::{Error, Result};
use crate::model::overlay::{Copy, Mode, OverlayName, Record};
use crate::plan::overlay::reap::{Here, Kept, Mounted, Reaped, Seen, Verdict, Written, stray, verdict};

/// What was reaped, and what was not.
#[derive(Debug, Default)]
pub struct Reaping {
    /// Overlays that went, and why.
    pub reaped: Vec<(OverlayName, Reaped)>,
    /// Overlays that stay, and why.
    pub kept: Vec<(OverlayName, Kept)>,
    /// Places from which a mount without an overlay was taken.
    pub unmounted: Vec<PathBuf>,
    /// Places from which a mount was taken whose process is gone, with the overlay, which stays.
    pub dead: Vec<(OverlayName, PathBuf)>,
    /// What should have gone and did not.
    pub failed: Vec<(OverlayName, Error)>,
}

/// Reaps the home; a `dry_run` only says what would go.
///
/// # Errors
/// A home that can not be read. One overlay that can not be destroyed keeps no other one.
pub fn reap(home: &Home, dry_run: bool) -> Result<Reaping> {
    let mut reaping = Reaping::default();
    for entry in home.entries()? {
        let found = seen(&entry)?;
        let here = here_for(&found)?;
        match verdict(&found, &here) {
            Verdict::Keep(why) => {
                if !dry_run
                    && was_left_by_a_command(&entry)
                    && let Err(error) = opened(home, &found.name)
                {
                    reaping.failed.push((found.name.clone(), error));
                }
                reaping.kept.push((found.name, why));
            }
            Verdict::Reap(why) if dry_run => reaping.reaped.push((found.name, why)),
            Verdict::Reap(_) => match reap_one(home, &entry, &here) {
                Ok(Verdict::Keep(why)) => reaping.kept.push((found.name, why)),
                Ok(Verdict::Reap(why)) => reaping.reaped.push((found.name, why)),
                Err(error) => reaping.failed.push((found.name, error)),
            },
        }
    }
    unmount_strays(home, dry_run, &mut reaping)?;
    detach_dead(home, dry_run, &mut reaping)?;
    if !dry_run {
        layer::sweep_staging(home)?;
    }
    Ok(reaping)
}

/// Whether a commit or diff of it was killed: whoever opens it goes on from there.
fn was_left_by_a_command(entry: &Entry) -> bool {
    let Ok(Some(record)) = entry.record() else { return false };
    let is_frozen = |copy: &Copy| entry.generation(copy.number, copy.generation).is_frozen();
    let is_left = record.copies.iter().any(is_frozen) || !native::views(entry, &record).is_empty();
    is_left && entry.is_locked().is_ok_and(|locked| !locked)
}

/// Decides again with the overlay's lock, and with that of the home if it has no record: its maker may not have come to that yet.
fn reap_one(home: &Home, entry: &Entry, here: &Here) -> Result<Verdict> {
    let _names = match entry.record() {
        Ok(None) => Some(home.lock()?),
        _ => None,
    };
    let locked = match entry.try_lock() {
        Err(Error::Refused { .. }) => return Ok(Verdict::Keep(Kept::InUse)),
        other => other?,
    };
    let Some(locked) = locked else { return Ok(Verdict::Reap(Reaped::HalfDestroyed)) };
    let found = Seen { locked: false, ..unlocked(entry) };
    let decided = verdict(&found, here);
    if let Verdict::Reap(_) = decided {
        match found.record {
            Written::Record(record) => {
                check_answers(&locked, &record)?;
                let copies: Vec<_> = record.copies.iter().collect();
                deal_with_inside(&locked, &record, &copies, Survivors::Refuse, DESTROY)?;
                run::end_what_was_left(&locked, &record)?;
                destroy::destroy_locked(locked, *record, &mut unhindered)?;
            }
            _ => destroy::destroy_without_record(locked)?,
        }
    }
    Ok(decided)
}

/// Where and when it is looked.
fn here() -> Result<Here> {
    Ok(Here { boot: owner::boot()?, namespace: owner::namespace()?, namespaces: None })
}

/// As [`here()`], where whoever has that owner may be elsewhere: looked at is what costs something only then.
pub(super) fn here_for(found: &Seen) -> Result<Here> {
    let here = here()?;
    let is_elsewhere = verdict(found, &here) == Verdict::Keep(Kept::OwnerElsewhere);
    Ok(Here { namespaces: is_elsewhere.then(owner::namespaces).flatten(), ..here })
}

/// Destroys the overlay of that name if its owner was in another pid namespace, which can not be seen from here, and nothing shows
/// it anywhere any more, as after a container was killed; why, if it did.
///
/// For whoever is about to make another one of that name: nobody else loses what was changed.
///
/// # Errors
/// A home that can not be read; an overlay that can not be destroyed.
pub fn reap_if_shown_nowhere(home: &Home, name: &OverlayName) -> Result<Option<Reaped>> {
    let entry = home.entry(name);
    let found = seen(&entry)?;
    if verdict(&found, &here_for(&found)?) != Verdict::Keep(Kept::OwnerElsewhere) {
        return Ok(None);
    }
    let Ok(Some(locked)) = entry.try_lock() else { return Ok(None) };
    let found = Seen { locked: false, ..unlocked(&entry) };
    let (Verdict::Keep(Kept::OwnerElsewhere), Written::Record(record)) =
        (verdict(&found, &here()?), found.record)
    else {
        return Ok(None);
    };
    if !is_shown_nowhere(&locked, &record) {
        return Ok(None);
    }
    destroy::destroy_locked(locked, *record, &mut unhindered)?;
    Ok(Some(Reaped::ShownNowhere))
}

/// Whether it is kept for an owner that is not to be seen from here.
pub(super) fn is_elsewhere(entry: &Entry) -> bool {
    let verdict = seen(entry).and_then(|found| Ok(verdict(&found, &here_for(&found)?)));
    matches!(verdict, Ok(Verdict::Keep(Kept::OwnerElsewhere)))
}

/// How long what a killed container had mounted is waited for: the kernel takes it down after its last process.
const TAKEN_DOWN: Duration = Duration::from_secs(2);

/// Whether certainly nothing shows the overlay, in whichever mount namespace.
fn is_shown_nowhere(entry: &Entry, record: &Record) -> bool {
    let is_free = || match record.mode {
        Mode::Fuse => fuse::serve::is_unserved(entry),
        Mode::Kernel | Mode::Squashfs | Mode::Erofs => record.copies.iter().all(|copy| {
            let numbers = entry.generations(copy.number).unwrap_or_default();
            let free = |number| kernel::is_unmounted(entry, &entry.generation(copy.number, number));
            !numbers.is_empty() && numbers.into_iter().all(free)
        }),
        // What is bound or mounted elsewhere leaves no mark on what it shows.
        _ => false,
    };
    let until = Instant::now() + TAKEN_DOWN;
    loop {
        match is_free() {
            true => return true,
            false if Instant::now() > until => return false,
            false => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// What is seen of an overlay.
pub(super) fn seen(entry: &Entry) -> Result<Seen> {
    let locked = entry.is_locked()?;
    Ok(Seen { locked, ..unlocked(entry) })
}

fn unlocked(entry: &Entry) -> Seen {
    let record = match entry.record() {
        Ok(None) => Written::Nothing,
        Ok(Some(record)) => Written::Record(Box::new(record)),
        Err(error) => Written::Unreadable(error.to_string()),
    };
    let owner = match &record {
        Written::Record(record) => record.owner.as_ref(),
        _ => None,
    };
    let alive = owner.and_then(|owner| owner::stat_of(owner.pid)).filter(|stat| !stat.ended);
    Seen { name: entry.name().clone(), locked: false, record, started: alive.map(|stat| stat.start) }
}

fn unmount_strays(home: &Home, dry_run: bool, reaping: &mut Reaping) -> Result<()> {
    // Whoever makes or destroys an overlay writes that down before it mounts.
    let _names = home.lock()?;
    let mounts = ours::all(home)?;
    let overlays: Vec<(OverlayName, Option<Record>)> =
        home.entries()?.iter().map(|entry| (entry.name().clone(), entry.record().ok().flatten())).collect();
    let going = |name: &OverlayName| reaping.reaped.iter().any(|(gone, _)| gone == name);
    let seen: Vec<_> =
        mounts.iter().map(|m| Mounted { source: m.source.clone(), dir: m.dir.clone() }).collect();
    let strays: Vec<_> = stray(&seen, &overlays).into_iter().cloned().collect();
    for found in strays {
        if dry_run && going(&found.source.name) {
            continue;
        }
        let mounted = mounts.iter().rfind(|m| m.source == found.source && m.dir == found.dir);
        if dry_run || mounted.is_some_and(|mounted| ours::unmount(mounted).unwrap_or(false)) {
            reaping.unmounted.push(found.dir);
        }
    }
    Ok(())
}

/// Takes away mounts that answer nobody any more, as their process was killed. Their overlays stay: a reset shows them again.
fn detach_dead(home: &Home, dry_run: bool, reaping: &mut Reaping) -> Result<()> {
    let mounts = ours::all(home)?;
    for entry in home.entries()? {
        let of_entry = |mounted: &&ours::OurMount| mounted.source.name == *entry.name();
        let is_ours = |record: Record| record.mode == Mode::Fuse;
        if !mounts.iter().any(|m| of_entry(&m)) || !entry.record().ok().flatten().is_some_and(is_ours) {
            continue;
        }
        // Whoever changes it knows better.
        let Ok(Some(_locked)) = entry.try_lock() else { continue };
        if fuse::serve::is_served(&entry) {
            continue;
        }
        for mounted in mounts.iter().rev().filter(of_entry) {
            if dry_run || ours::unmount(mounted).unwrap_or(false) {
                reaping.dead.push((entry.name().clone(), mounted.dir.clone()));
            }
        }
    }
    Ok(())
}

/// Unmounts whatever says that it is of this overlay.
pub(super) fn unmount_all_of(locked: &Locked) -> Result<()> {
    let all = ours::all(locked.home())?;
    for mounted in all.iter().rev().filter(|mounted| mounted.source.name == *locked.name()) {
        ours::unmount(mounted)?;
    }
    Ok(())
}
