//! From what the command line says to what an overlay lies on, and whose it is.

use std::ffi::OsString;
use std::path::Path;

use crate::cli::{Context, place};
use crate::endpoint::Error as EndpointError;
use crate::endpoint::overlay::{base, image, owner};
use crate::model::overlay::{Base, Owner};
use crate::{Error, Result};

/// A directory, `TARGET@SNAP`, or an image.
pub(super) fn parse(text: &OsString, context: &Context) -> Result<Base> {
    if place::names_a_snapshot(text) && !Path::new(text).exists() {
        let (dataset, version) = place::version(text, context)?;
        return Ok(base::of_snapshot(&dataset, &version.id)?);
    }
    let path = Path::new(text);
    match path.is_file() {
        true => Ok(image::of_file(path)?.0),
        false => Ok(base::of_dir(path)?),
    }
}

/// `PID`, or `none`; nothing is the session's leader, or none for what outlasts a crash.
pub(super) fn owner(text: Option<&str>, durable: bool) -> Result<Option<Owner>> {
    match text {
        Some("none") => Ok(None),
        None if durable => Ok(None),
        None => Ok(Some(owner::by_default()?)),
        Some(text) => {
            let pid: u32 = text.parse().map_err(|_| Error::Usage {
                what: format!("{text:?} is no owner: a process id is needed, or none"),
                hint: None,
            })?;
            let subject = pid.to_string();
            let gone = || EndpointError::NotFound { what: "process", subject, hint: None };
            Ok(Some(owner::of(pid)?.ok_or_else(gone)?))
        }
    }
}
