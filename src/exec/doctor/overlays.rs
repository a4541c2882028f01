//! What is wrong in an overlay home, and what waits there. Nothing is tried: a pool that hangs keeps nobody.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};

use super::Finding;
use crate::Result;
use crate::endpoint::overlay::Home;
use crate::endpoint::overlay::layer::Layer;
use crate::exec::overlay::list;
use crate::model::overlay::State;
use crate::model::quoted;
use crate::plan::overlay::reap::{Reaped, Verdict};

/// How long something may wait to be destroyed: whoever uses it may go on doing so for a while.
const WAITS: SignedDuration = SignedDuration::from_hours(1);

/// Examines the home at `dir`; nothing where there is none.
///
/// # Errors
/// A home whose overlays can not be listed.
pub fn overlays(dir: &Path) -> Result<Vec<Finding<'static>>> {
    let home = match Home::find(dir) {
        Ok(Some(home)) => home,
        Ok(None) => return Ok(Vec::new()),
        Err(error) => return Ok(vec![Finding::problem(format!("an overlay home: {error}"), dir.display())]),
    };
    let mut found = of_overlays(&home)?;
    let (_, damaged) = Layer::all_and_damaged(&home)?;
    found.extend(damaged.iter().map(|layer| {
        let fix = format!("cowsnap overlay --home {} destroy --damaged {}", quoted(dir.display()), layer.id);
        Finding::problem("a layer of which can not be read what it is", home.layer(layer.id).display())
            .fixed_by(fix)
    }));
    found.extend(waiting(&home)?);
    Ok(found)
}

fn of_overlays(home: &Home) -> Result<Vec<Finding<'static>>> {
    let command = |verb: &str| format!("cowsnap overlay --home {} {verb}", quoted(home.dir().display()));
    let mut found = Vec::new();
    for listed in list(home)? {
        let (name, at) = (&listed.name, home.entry(&listed.name).dir().display().to_string());
        let is_shown = !listed.mounted.is_empty();
        if let Some(why) = &listed.damage {
            let what = format!("the record of overlay {name} can not be read: {why}");
            found.push(Finding::problem(what, at).fixed_by(command(&format!("destroy {}", quoted(name)))));
            continue;
        }
        match listed.verdict {
            Verdict::Reap(why @ (Reaped::HalfMade | Reaped::HalfDestroyed)) => {
                let what = format!("overlay {name}: {}", why.as_str());
                found.push(Finding::problem(what, at).fixed_by(command("reap")));
            }
            Verdict::Reap(why) => {
                let what = format!("overlay {name} goes with the next command on overlays: {}", why.as_str());
                found.push(Finding::note(what, at).fixed_by(command("reap")));
            }
            Verdict::Keep(_) if !is_shown && listed.record.is_some_and(|r| r.state == State::Ready) => {
                let what = format!(
                    "overlay {name} does not show: the machine was started again, or its process is gone"
                );
                found.push(Finding::note(what, at).fixed_by(command(&format!("reset {}", quoted(name)))));
            }
            Verdict::Keep(_) => {}
        }
    }
    Ok(found)
}

/// What waits to be destroyed that nobody destroys now.
fn waiting(home: &Home) -> Result<Option<Finding<'static>>> {
    let mut since: Vec<(Timestamp, PathBuf)> = Vec::new();
    for path in home.trash()? {
        // It may be gone by now.
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        since.extend(Timestamp::from_second(meta.ctime()).ok().map(|time| (time, path)));
    }
    if since.is_empty() || home.is_swept()? {
        return Ok(None);
    }
    since.sort();
    let (oldest, path) = &since[0];
    let what = format!(
        "{} old trees of overlays wait to be destroyed: what uses them is told by the command",
        since.len()
    );
    let mut finding = match Timestamp::now().duration_since(*oldest) > WAITS {
        true => Finding::problem(what, path.display()),
        false => Finding::note(what, path.display()),
    };
    finding.since = Some(*oldest);
    Ok(Some(finding.fixed_by(format!("cowsnap overlay --home {} reap", quoted(home.dir().display())))))
}
