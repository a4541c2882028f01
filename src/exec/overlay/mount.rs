//! Overlays shown again after the machine was started anew.

use super::{layers, lower, make_place, opened, run, server};
use crate::endpoint::overlay::{Home, Place};
use crate::endpoint::{Error, Result};
use crate::model::overlay::{Copy, Mode, OverlayName};
use crate::model::quoted;

/// Shows the copies that do not show, with the changes that they have. Those that show already are left as they are. Which ones
/// were shown is answered.
///
/// # Errors
/// [`Error::NotFound`] if there is no such overlay; [`Error::Refused`] for one whose changes are not to be trusted any more.
pub fn mount(home: &Home, name: &OverlayName) -> Result<Vec<Copy>> {
    let (locked, record) = opened(home, name)?;
    let server = server(&record)?;
    layers::make_whole(&locked, &record)?;
    let lower = lower(&locked, &record, server)?;
    let mut shown = Vec::new();
    for copy in &record.copies {
        let place = Place { overlay: &locked, record: &record, lower: &lower, copy };
        if server.is_shown(&place)? {
            continue;
        }
        // What was kept of a command is whole: a clone has been unmounted since.
        let is_kept = record.mode == Mode::Native && record.options.more.contains_key(run::KEPT);
        if record.options.volatile && !is_kept {
            return Err(Error::Refused {
                op: "mount overlay",
                subject: name.to_string(),
                why: "it was made without --durable, and its changes may not be whole since it was last mounted".into(),
                hint: Some(format!("cowsnap overlay reset {}", quoted(name))),
            });
        }
        server.take_down(&place)?;
        make_place(copy.at())?;
        server.show(&place, &locked.generation(copy.number, copy.generation))?;
        shown.push(copy.clone());
    }
    Ok(shown)
}
