//! From what the command line says to what an overlay lies on, and whose it is.

use std::ffi::OsString;
use std::path::Path;

use crate::cli::{Context, place};
use crate::endpoint::Error as EndpointError;
use crate::endpoint::overlay::layer::Layer;
use crate::endpoint::overlay::{Home, base, image, owner};
use crate::exec::overlay::layers;
use crate::model::layer::LayerRef;
use crate::model::overlay::{Base, LayerId, Owner};
use crate::{Error, Result};

/// A directory, a layer of the home at `dir`, `TARGET@SNAP`, or an image: the base, and the layers upon it, the lowest first.
pub(super) fn parse(text: &OsString, dir: &Path, context: &Context) -> Result<(Base, Vec<LayerId>)> {
    if let Some((home, layer)) = layer(text, dir)? {
        return Ok(layers::upon(&home, &layer)?);
    }
    of_no_layer(text, context).map(|base| (base, Vec::new()))
}

/// The layer that `text` names, if there is such a one.
fn layer(text: &OsString, dir: &Path) -> Result<Option<(Home, LayerRef)>> {
    let Some(layer) = text.to_str().and_then(|text| text.parse::<LayerRef>().ok()) else { return Ok(None) };
    let Some(home) = Home::find(dir)? else { return Ok(None) };
    let found = Layer::find(&home, &layer.overlay, &layer.layer)?;
    Ok(found.map(|_| (home, layer)))
}

fn of_no_layer(text: &OsString, context: &Context) -> Result<Base> {
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
