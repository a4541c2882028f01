//! How a plan goes on where the source makes no bookmark.

use super::{Policy, Step, is_held};
use crate::model::{Inventory, VersionKind, VersionRef};

/// Takes the bookmark that the step `at` would make out of the plan's `steps`: a hold keeps the version at the source instead, until the
/// target has a newer one; what was to be sent upon the new bookmark is sent upon what it would have been made of. The step to go on with
/// is the one `at` that place.
pub fn held_instead(steps: &mut Vec<Step>, at: usize, source: &Inventory, policy: &Policy) {
    let Some(Step::MarkHere { version, name }) = steps.get(at).cloned() else { return };
    let mark = VersionRef { guid: version.guid, name };
    let is_held = is_held(source, &version, &policy.here)
        || steps[..at]
            .iter()
            .any(|step| matches!(step, Step::HoldHere { version: held } if *held == version));
    let of = source.by_name_and_kind(&version.name, VersionKind::Snapshot);
    let is_snapshot = of.is_some_and(|of| of.id == version);
    let mut is_cursor = true;
    let rest: Vec<_> = steps.drain(at..).skip(1).collect();
    if is_snapshot && !is_held {
        steps.push(Step::HoldHere { version: version.clone() });
    }
    for mut step in rest {
        match &mut step {
            Step::Transfer { base, .. } => {
                is_cursor = false;
                if base.as_ref() == Some(&mark) {
                    *base = Some(version.clone());
                }
            }
            Step::ReleaseHere { version: released } if is_cursor && *released == version => continue,
            Step::UnmarkHere { bookmark } if *bookmark == mark => continue,
            _ => {}
        }
        steps.push(step);
    }
}
