//! What dead processes left in ZFS pools.

use super::Finding;
use crate::Result;
use crate::endpoint::zfs;
use crate::model::quoted;

/// Examines all imported pools; nothing where there is no ZFS.
///
/// # Errors
/// A listing that fails.
pub fn zfs() -> Result<Vec<Finding<'static>>> {
    let mut found = rollbacks()?;
    found.extend(exchanges()?);
    found.extend(partials()?);
    Ok(found)
}

/// Rollbacks that were broken off: the dataset may be set aside, with nothing in its place yet.
fn rollbacks() -> Result<Vec<Finding<'static>>> {
    let mut found = Vec::new();
    if zfs::available("ZFS").is_err() {
        return Ok(found);
    }
    for rollback in zfs::interrupted(None)? {
        if rollback.is_live()? {
            continue;
        }
        let what = format!("a rollback that died; what was live may be called {}", quoted(rollback.aside()));
        let finding = Finding::problem(what, rollback.dataset());
        found.push(finding.repaired_by(move || Ok(rollback.settle().map(drop)?)));
    }
    found.extend(zfs::strange_rollbacks(None)?.iter().map(strange));
    Ok(found)
}

/// Receives beside a dataset that were whole and died before they had taken its place.
fn exchanges() -> Result<Vec<Finding<'static>>> {
    let mut found = Vec::new();
    if zfs::available("ZFS").is_err() {
        return Ok(found);
    }
    for exchange in zfs::exchanges(None)? {
        let what = format!(
            "a receive with --keep-conflict that died as what came was put in place; what was there is, or will be, called {}",
            quoted(exchange.aside())
        );
        let finding = Finding::problem(what, exchange.dataset());
        found.push(finding.repaired_by(move || Ok(exchange.settle().map(drop)?)));
    }
    found.extend(zfs::strange_exchanges(None)?.iter().map(strange));
    Ok(found)
}

/// What claims that something was broken off, where nothing that is there speaks for it.
fn strange(found: &zfs::Strange) -> Finding<'static> {
    let what = format!(
        "{} says that cowsnap died there, which does not fit what is there: it is left alone",
        found.property
    );
    let fix = format!("zfs inherit {} {}", found.property, quoted(&found.dataset));
    Finding::problem(what, &found.dataset).fixed_by(fix)
}

/// Receives that were broken off. Resuming them saves what has arrived; giving them up lets others begin.
fn partials() -> Result<Vec<Finding<'static>>> {
    let mut found = Vec::new();
    for dataset in zfs::begun()? {
        let partials = dataset.partials()?;
        let Some(partial) = partials.iter().find(|partial| !partial.live) else { continue };
        let has = partial.bytes.map_or(String::new(), |bytes| format!(", with {bytes} bytes of its stream"));
        let name = &partial.name;
        let what = format!(
            "a receive of @{name} that was broken off{has}: resume it with the token that cowsnap list --json shows, or give it up with \
             cowsnap destroy {}",
            quoted(format!("{dataset}@%partial")),
        );
        let finding = Finding::problem(what, &dataset);
        found.push(finding.repaired_by(move || Ok(dataset.give_up_partial().map(drop)?)));
    }
    Ok(found)
}
