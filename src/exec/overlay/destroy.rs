//! Overlays destroyed.

use std::fs;

use super::{
    Before, Step, Survivors, check_answers, deal_with_inside, deal_with_users, is_full, none, server,
};
use crate::endpoint::overlay::survivors::Survivor;
use crate::endpoint::overlay::{Home, Locked, Place, ours};
use crate::endpoint::{Error, Result};
use crate::model::overlay::{OverlayName, Record, State};

/// What is refused while somebody uses it.
pub(super) const DESTROY: &str = "destroy overlay";

/// Destroys an overlay with its changes, half-made ones too. Its files go when somebody sweeps; who used it, and was ended or is
/// left with what it has, is answered.
///
/// # Errors
/// [`Error::NotFound`] if there is none; [`Error::Refused`] while somebody uses it, or has made something in it.
pub fn destroy(
    home: &Home,
    name: &OverlayName,
    survivors: Survivors,
    before: &mut Before<'_>,
) -> Result<Vec<Survivor>> {
    let Some(locked) = home.entry(name).lock()? else { return Err(none(home, name)) };
    let record = match locked.record() {
        Ok(Some(record)) => record,
        // Nothing, or nothing that can be read: what is mounted says itself whose it is.
        Ok(None) | Err(Error::Corrupt { .. }) => return destroy_without_record(locked).map(|()| Vec::new()),
        Err(error) => return Err(error),
    };
    check_answers(&locked, &record)?;
    let copies: Vec<_> = record.copies.iter().collect();
    deal_with_inside(&locked, &record, &copies, survivors, DESTROY)?;
    let users = deal_with_users(&record, &copies, survivors, DESTROY)?;
    destroy_locked(locked, record, before)?;
    Ok(users)
}

/// Who uses it, and would have to be dealt with.
///
/// # Errors
/// As [`destroy`].
pub fn check(home: &Home, name: &OverlayName, survivors: Survivors) -> Result<()> {
    let Some(locked) = home.entry(name).lock()? else { return Err(none(home, name)) };
    let Ok(Some(record)) = locked.record() else { return Ok(()) };
    check_answers(&locked, &record)?;
    let copies: Vec<_> = record.copies.iter().collect();
    if survivors != Survivors::Leave {
        deal_with_inside(&locked, &record, &copies, survivors, DESTROY)?;
    }
    match survivors {
        Survivors::Refuse => deal_with_users(&record, &copies, survivors, DESTROY).map(drop),
        _ => Ok(()),
    }
}

/// Destroys an overlay whoever uses it: they keep what they have open.
pub(super) fn destroy_locked(locked: Locked, mut record: Record, before: &mut Before<'_>) -> Result<()> {
    // What can not be taken down is found before anything is: a destroy that is refused leaves the overlay as it was.
    for copy in &record.copies {
        ours::at(&Place { overlay: &locked, record: &record, lower: &[], copy })?;
    }
    before(Step::Mark)?;
    record.state = State::Destroying;
    match locked.write(&record) {
        // It is what fills the disk, perhaps. If this is killed, what is left is destroyed when that is asked for again.
        Err(error) if is_full(&error) => {
            tracing::debug!(overlay = %record.name, %error, "not written down that it is destroyed");
        }
        other => other?,
    }
    let server = server(&record)?;
    for copy in &record.copies {
        before(Step::TakeDown)?;
        server.take_down(&Place { overlay: &locked, record: &record, lower: &[], copy })?;
    }
    before(Step::BaseDown)?;
    server.base_down(&locked, &record)?;
    before(Step::RemovePlaces)?;
    for made in &record.made {
        // What somebody put something into stays.
        let _ = fs::remove_dir(made.as_path());
    }
    before(Step::DiscardAll)?;
    locked.discard_all()
}

/// An overlay of which nothing is known but its name: its mounts are found by their source.
pub(super) fn destroy_without_record(locked: Locked) -> Result<()> {
    super::reap::unmount_all_of(&locked)?;
    let base = locked.base_dir();
    while crate::sys::mount::unmount_lazily(&base).is_ok() {}
    locked.discard_all()
}
