//! A reset on a full disk: what was discarded goes at once, and, if that is not enough, the old tree before there is a new one.

use super::{RESET, Survivors, is_full, still_used, users_of};
use crate::endpoint::overlay::survivors::{self, Counts, Users};
use crate::endpoint::overlay::{Home, Place, Trash};
use crate::endpoint::{Error, Result};
use crate::model::overlay::{Mode, Record};
use crate::model::quoted;

/// The right to destroy what was discarded. Kept until the reset is done: once the old tree is gone, nobody else is waited for.
pub(super) struct Room<'a> {
    home: &'a Home,
    trash: Option<Trash<'a>>,
}

impl<'a> Room<'a> {
    pub(super) fn of(home: &'a Home) -> Self {
        Self { home, trash: None }
    }

    /// Destroys what was discarded.
    ///
    /// # Errors
    /// [`Error::Refused`] if another process takes too long to do so; the first thing that can not be destroyed, after all others were.
    pub(super) fn make(&mut self) -> Result<()> {
        let trash = match self.trash.take() {
            Some(trash) => trash,
            None => self.home.lock_trash()?,
        };
        self.trash.insert(trash).empty()
    }

    /// Whether nobody else has to be waited for.
    pub(super) fn is_ours(&self) -> bool {
        self.trash.is_some()
    }
}

/// What to say of a call that was done after room was to be `made`: what stood in the way of that counts only if there was none.
pub(super) fn done_after<T>(made: Result<()>, done: Result<T>) -> Result<T> {
    match (made, done) {
        (Err(stuck), Err(error)) if is_full(&error) => Err(stuck),
        (_, done) => done,
    }
}

/// That nobody is there who would lose what was promised if the tree went before there is a new one.
///
/// # Errors
/// [`Error::Refused`], naming them.
pub(super) fn check_unused(place: &Place<'_>, wanted: Survivors) -> Result<()> {
    let Users { survivors, mounts, binds, loops } = users_of(&[place.copy], Counts::All)?;
    if wanted == Survivors::Kill {
        survivors::kill(&survivors)?;
    }
    let in_the_way = match (wanted, place.record.mode) {
        (Survivors::Refuse, _) => Users { survivors, mounts, binds, loops },
        // What they have open takes the space that the new tree would need.
        (Survivors::Leave, Mode::Copy) => Users { survivors, mounts, binds, loops },
        // A bind was promised the new tree.
        (_, Mode::Fuse) => Users { binds, ..Users::default() },
        _ => return Ok(()),
    };
    match in_the_way.is_empty() {
        true => Ok(()),
        false => Err(in_the_way_of_room(place.record, &in_the_way)),
    }
}

fn in_the_way_of_room(record: &Record, users: &Users) -> Error {
    let used = still_used(record, users, RESET);
    let umount = users.binds.first().map(|bind| format!("umount {}", quoted(bind.display())));
    let why = match &used {
        Error::Refused { why, .. } => why.as_str(),
        _ => "it is in use",
    };
    Error::Refused {
        op: RESET,
        subject: record.name.to_string(),
        why: format!("the disk is full, the old tree would have to go before there is a new one, and {why}"),
        hint: umount.or_else(|| used.hint()),
    }
}

/// That the old tree went, and there is no new one.
pub(super) fn nothing_shows(place: &Place<'_>, error: Error) -> Error {
    let (at, name) = (place.at().display(), quoted(&place.record.name));
    Error::Halfway {
        what: format!(
            "nothing shows at {at}: the disk was full, so the old tree went before there was a new one; once there is space, cowsnap \
             overlay reset {name} shows it again"
        ),
        source: Box::new(error),
    }
}
