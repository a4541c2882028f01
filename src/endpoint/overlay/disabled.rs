//! No isolation: the place is the base itself, and a reset changes nothing. What a suite is written against stays the same.

use std::path::PathBuf;

use crate::endpoint::overlay::{Entry, Generation, Place, Serve, Swapped};
use crate::endpoint::{Error, Result};
use crate::model::overlay::Record;

/// Serves [`Mode::Disabled`](crate::model::overlay::Mode::Disabled).
#[derive(Debug)]
pub struct Disabled;

impl Serve for Disabled {
    fn base(&self, _: &Entry, record: &Record) -> Result<PathBuf> {
        Ok(record.base.path.as_path().to_owned())
    }

    /// The place is a symbolic link to the base.
    fn show(&self, place: &Place<'_>, _: &Generation) -> Result<()> {
        let [base] = place.lower else {
            return Err(refused(place, "it has layers, and the base itself is shown"));
        };
        if place.at().is_symlink() {
            self.take_down(place)?;
        }
        match std::fs::remove_dir(place.at()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("put a link in place of", place.at().display())(error));
            }
            _ => {}
        }
        std::os::unix::fs::symlink(base, place.at()).map_err(Error::io("link", place.at().display()))
    }

    fn swap(&self, _: &Place<'_>, _: &Generation) -> Result<Swapped> {
        Ok(Swapped { atomic: true, old: None })
    }

    fn freeze(&self, place: &Place<'_>, _: &Generation) -> Result<()> {
        Err(refused(place, "its changes are in the base itself"))
    }

    fn thaw(&self, _: &Place<'_>, _: &Generation) -> Result<()> {
        Ok(())
    }

    /// Leaves an empty directory, as there was one.
    fn take_down(&self, place: &Place<'_>) -> Result<()> {
        let ours = std::fs::read_link(place.at()).is_ok_and(|to| to == place.record.base.path.as_path());
        if !ours {
            return Ok(());
        }
        let at = place.at();
        std::fs::remove_file(at)
            .and_then(|()| std::fs::create_dir(at))
            .map_err(Error::io("take away the link", at.display()))
    }

    fn base_down(&self, _: &Entry, _: &Record) -> Result<()> {
        Ok(())
    }
}

fn refused(place: &Place<'_>, why: &str) -> Error {
    Error::Refused {
        op: "serve",
        subject: format!("overlay {} in mode disabled", place.record.name),
        why: why.into(),
        hint: None,
    }
}
