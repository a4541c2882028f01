//! Whether an archive is there still, with what was put into it last.
//!
//! While all is well that takes two requests: what it is, and whether the manifest is there. Its keys are walked over only where nobody wrote
//! down which manifest that is, or where it is gone. Nothing of what is in it is read: `verify` does that.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::push::newest_of;
use crate::endpoint::archive::{Archive, Error as ArchiveError};
use crate::endpoint::store::Error as StoreError;
use crate::model::Inventory;
use crate::model::archive::Stored;
use crate::model::run::There;
use crate::{Error, Result};

/// What was written down of it.
#[derive(Debug, Clone, Default)]
pub struct Noted {
    /// When the version was taken that was put there last.
    pub up_to: Option<Timestamp>,
    /// Where that is.
    pub there: Option<There>,
}

/// What one answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It has what was put there last, or something newer. If nothing was written down, this is when the newest version was taken that it and its dataset have.
    There(Option<Timestamp>),
    /// It, or that, is there no more: this is.
    Gone(String),
}

/// Asks an archive that was `opened`, or could not be. `here` is what its dataset has.
///
/// # Errors
/// What could not be found out: a store that does not answer, or does not let us.
pub fn ask(
    opened: Result<Archive>,
    noted: &Noted,
    here: impl FnOnce() -> Result<Inventory>,
) -> Result<Answer> {
    let archive = match opened {
        Ok(archive) => archive,
        Err(Error::Archive(error)) if is_gone(&error) => return Ok(Answer::Gone(error.to_string())),
        Err(error) => return Err(error),
    };
    let (url, own) = (archive.url(), archive.charter().id);
    if let Some(other) = noted.there.as_ref().filter(|there| there.archive != own) {
        let what = format!("{url} is another archive, {own}, than what was pushed to, {}", other.archive);
        return Ok(Answer::Gone(what));
    }
    let Some(up_to) = noted.up_to else {
        let stored = archive.listing()?.stored;
        let there: BTreeSet<_> = stored.iter().map(|stored| stored.version.guid).collect();
        return Ok(Answer::There(newest_of(&here()?, &there).map(|version| version.created)));
    };
    let wanted = noted.there.as_ref().and_then(|there| Stored::parse(&there.manifest).ok());
    if wanted.as_ref().map_or(Ok(false), |wanted| archive.has(wanted))? {
        return Ok(Answer::There(Some(up_to)));
    }
    // Somebody may have put it anew, or something newer whereupon it went.
    let is_it = |stored: &Stored| {
        stored.created >= up_to
            || wanted.as_ref().is_some_and(|wanted| wanted.version.guid == stored.version.guid)
    };
    Ok(match archive.listing()?.stored.iter().any(is_it) {
        true => Answer::There(Some(up_to)),
        false => Answer::Gone(format!("{url} has no longer what was put there last, of {up_to:.0}")),
    })
}

/// Whether it says that there is no archive.
fn is_gone(error: &ArchiveError) -> bool {
    matches!(
        error,
        ArchiveError::None { .. }
            | ArchiveError::Charter { .. }
            | ArchiveError::Store(StoreError::TooLong { .. })
    )
}
