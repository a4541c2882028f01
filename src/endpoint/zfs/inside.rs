//! What somebody made in an overlay's clone: snapshots of it, and datasets in it with theirs. It may be all that is left of something, so it goes
//! with the clone only if it is given up, each by its guid.
//!
//! A snapshot of the clone itself that was taken along with one of what all clones lie in is nobody's: of scratch, by a program that takes
//! snapshots of a whole pool.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::endpoint::zfs::error::lzc;
use crate::endpoint::zfs::overlays::{PATIENCE, VIEW};
use crate::endpoint::zfs::{list, program};
use crate::endpoint::{Error, Result};
use crate::model::{Guid, quoted};

/// Something that was made in a clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Inside {
    /// What it is called behind the clone's name: `@SNAPSHOT`, `/DATASET`, `/DATASET@SNAPSHOT`.
    pub name: String,
    /// By what it is known whatever it is called.
    pub guid: Guid,
}

/// A line of a listing: name, the transaction that made it, guid.
type Row<'a> = [&'a str; 3];

/// A clone, and what somebody made in it; [`Error::Refused`] of one that has an older history than it could have made itself.
pub type Found = (String, Result<Vec<Inside>>);

/// What somebody made in each of these clones of `folder`.
///
/// # Errors
/// What `zfs` says.
pub(super) fn of(folder: &str, clones: &[String]) -> Result<Vec<Found>> {
    if clones.is_empty() {
        return Ok(Vec::new());
    }
    let text = listed("filesystem,volume,snapshot", "255", clones)?;
    let rows = list::rows::<3>(&text)?;
    let has_snapshots = rows.iter().any(|[name, ..]| name.contains('@'));
    let of_folder = if has_snapshots { listed("snapshot", "1", &[folder.to_owned()])? } else { Vec::new() };
    let taken_along = taken_along(&list::rows::<3>(&of_folder)?);
    let somebodys = |clone: &String| made_in(clone, &rows, &taken_along).map(|(_, somebodys)| somebodys);
    Ok(clones.iter().map(|clone| (clone.clone(), somebodys(clone))).collect())
}

fn listed(types: &str, depth: &str, names: &[String]) -> Result<Vec<u8>> {
    let mut args = vec!["list", "-Hp", "-o", "name,createtxg,guid", "-t", types, "-d", depth];
    args.extend(names.iter().map(String::as_str));
    program::zfs_within(&args, PATIENCE).map_err(|failure| failure.into_error("list", &names[0]))
}

/// The snapshots of the folder: their names from the `@` on, and their transactions.
fn taken_along<'a>(rows: &[Row<'a>]) -> HashSet<(&'a str, &'a str)> {
    rows.iter().filter_map(|[name, txg, _]| Some((&name[name.find('@')?..], *txg))).collect()
}

/// Of names with their transactions, what was made in `clone`: what is nobody's, and what is somebody's.
///
/// # Errors
/// [`Error::Refused`] if something older is in it.
fn made_in(
    clone: &str,
    rows: &[Row<'_>],
    taken_along: &HashSet<(&str, &str)>,
) -> Result<(Vec<Inside>, Vec<Inside>)> {
    let own =
        rows.iter().find(|[name, ..]| *name == clone).map(|[_, txg, _]| list::number(txg)).transpose()?;
    let (mut nobodys, mut somebodys) = (Vec::new(), Vec::new());
    for [name, at, guid] in rows {
        let Some(inside) = name.strip_prefix(clone).filter(|rest| rest.starts_with(['/', '@'])) else {
            continue;
        };
        if own.is_none_or(|own| list::number(at).is_ok_and(|at| at <= own)) {
            return Err(Error::Refused {
                op: "destroy",
                subject: clone.to_owned(),
                why: format!("it was promoted, or something was moved into it: {name} is older than it is"),
                hint: Some("zfs promote DATASET gives the history back to what it was cloned from".into()),
            });
        }
        let found = Inside { name: inside.to_owned(), guid: Guid::of_zfs(list::number(guid)?) };
        let is_view = inside.strip_prefix('@').is_some_and(|name| name.starts_with(VIEW));
        match is_view || taken_along.contains(&(inside, *at)) {
            true => nobodys.push(found),
            false => somebodys.push(found),
        }
    }
    Ok((nobodys, somebodys))
}

/// Destroys what is nobody's in a clone, and what is given up, as far as that can be done: what is in use stays, and so does the clone.
///
/// # Errors
/// [`Error::Refused`], naming it, if something else was made there: then nothing is destroyed.
pub(super) fn destroy(folder: &str, clone: &str, given_up: &[Inside]) -> Result<()> {
    let clones = [clone.to_owned()];
    let text = listed("filesystem,volume,snapshot", "255", &clones)?;
    let of_folder = listed("snapshot", "1", &[folder.to_owned()])?;
    let (mut doomed, somebodys) =
        made_in(clone, &list::rows::<3>(&text)?, &taken_along(&list::rows::<3>(&of_folder)?))?;
    let (given_up, others): (Vec<_>, Vec<_>) =
        somebodys.into_iter().partition(|inside| given_up.contains(inside));
    if !others.is_empty() {
        return Err(kept(clone, &others));
    }
    doomed.extend(given_up);
    // What is in something goes before it.
    doomed.sort_by_key(|inside| {
        std::cmp::Reverse((inside.name.matches('/').count(), inside.name.contains('@')))
    });
    let lzc = lzc(clone)?;
    for Inside { name, .. } in doomed {
        let full = format!("{clone}{name}");
        let gone = match full.contains('@') {
            true => lzc.destroy_snapshots(std::slice::from_ref(&full), false),
            false => lzc.destroy(&full),
        };
        if let Err(why) = gone {
            tracing::warn!("{full} stays: {why}");
        }
    }
    Ok(())
}

/// How many are named.
const NAMED: usize = 5;

fn kept(clone: &str, others: &[Inside]) -> Error {
    let named: Vec<_> = others.iter().take(NAMED).map(|inside| format!("{clone}{}", inside.name)).collect();
    let more = match others.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Error::Refused {
        op: "destroy",
        subject: clone.to_owned(),
        why: format!("somebody made {}{more} in it, which nobody gave up", named.join(", ")),
        hint: Some(format!("zfs destroy -r {}; cowsnap overlay reap", quoted(&named[0]))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLONE: &str = "tank/cowsnap-overlays/cowsnap:0123456789abcdef:ci:1:7:00000000000000ff";

    fn names(inside: &[Inside]) -> Vec<&str> {
        inside.iter().map(|inside| inside.name.as_str()).collect()
    }

    #[test]
    fn what_is_older_than_a_clone_was_not_made_in_it() {
        let (snapshot, child) = (format!("{CLONE}@theirs"), format!("{CLONE}/theirs"));
        let rows = [[CLONE, "100", "1"], [&snapshot, "101", "2"], [&child, "102", "3"]];
        let none = HashSet::new();
        let (nobodys, somebodys) = made_in(CLONE, &rows, &none).expect("all newer");
        assert_eq!((names(&nobodys), names(&somebodys)), (vec![], vec!["@theirs", "/theirs"]));
        for older in ["100", "99"] {
            let rows = [[CLONE, "100", "1"], [&child, "102", "3"], [&snapshot, older, "2"]];
            assert!(made_in(CLONE, &rows, &none).is_err(), "{older}");
        }
        assert!(made_in(CLONE, &[[&snapshot, "101", "2"]], &none).is_err(), "its own is not known");
        let neighbour = format!("{CLONE}0@theirs");
        let rows = [[CLONE, "100", "1"], [&neighbour, "99", "2"]];
        assert_eq!(made_in(CLONE, &rows, &none).expect("another's").1, []);
    }

    #[test]
    fn what_was_taken_of_all_clones_at_once_is_nobodys_and_what_lies_in_one_is() {
        let (daily, deep) = (format!("{CLONE}@daily"), format!("{CLONE}/theirs@daily"));
        let other = format!("{CLONE}@other");
        let rows = [[CLONE, "100", "1"], [&daily, "101", "2"], [&deep, "101", "3"], [&other, "101", "4"]];
        let folder =
            [["tank/cowsnap-overlays@daily", "101", "9"], ["tank/cowsnap-overlays@other", "102", "8"]];
        let (nobodys, somebodys) = made_in(CLONE, &rows, &taken_along(&folder)).expect("all newer");
        assert_eq!((names(&nobodys), names(&somebodys)), (vec!["@daily"], vec!["/theirs@daily", "@other"]));
    }
}
