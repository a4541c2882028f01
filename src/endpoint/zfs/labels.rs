//! The labels of a dataset's snapshots, read in one listing.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::endpoint::Result;
use crate::endpoint::zfs::dataset::{Dataset, get};
use crate::endpoint::zfs::{list, meta, program};
use crate::model::{SnapshotName, Version, VersionKind};

/// By snapshot, what its labels are.
pub(super) type Labels = HashMap<SnapshotName, BTreeMap<String, String>>;

/// The labels of all snapshots of the dataset, given with what `cowsnap:labels` of each lists. Nothing is asked for if that
/// is nothing.
pub(super) fn of(dataset: &Dataset, listed: &[(&Version, Option<&str>)]) -> Result<Labels> {
    let mut known = HashSet::new();
    let mut wanted = Vec::new();
    let mut names = BTreeSet::new();
    for (version, keys) in listed.iter().filter(|(version, _)| version.kind == VersionKind::Snapshot) {
        known.insert(dataset.full_name(&version.id.name));
        let keys: Vec<_> = keys.iter().flat_map(|keys| meta::names_of_labels(keys)).collect();
        names.extend(keys.iter().copied());
        wanted.push((&version.id.name, keys));
    }
    let names: Vec<_> = names.into_iter().collect();
    if names.is_empty() {
        return Ok(Labels::new());
    }
    let props: Vec<_> = names.iter().map(|name| meta::label_prop(name)).collect();
    let columns = format!("name,{}", props.join(","));
    let args = ["list", "-Hp", "-t", "snapshot", "-d", "1", "-o", &columns, dataset.name().as_str()];
    let failed = |failure: program::Failure| failure.into_error("list the labels of", dataset);
    let text = String::from_utf8_lossy(&program::zfs(&args).map_err(failed)?).into_owned();
    let table = table(&text, names.len(), &known);
    let mut labels = Labels::new();
    for (snapshot, its_names) in wanted {
        let full = dataset.full_name(snapshot);
        let row = table.as_ref().and_then(|table| table.get(full.as_str()));
        let mut said = BTreeMap::new();
        for name in its_names {
            let at = names.iter().position(|n| *n == name).expect("it was put there above");
            let value = match row {
                Some(row) => row[at].to_owned(),
                // Somebody else wrote a value with a tab or a newline in it.
                None => get(&full, &props[at]).map_err(failed)?,
            };
            if let Some(value) = list::text(&value) {
                said.insert(meta::key_of_name(name), meta::unescape(value));
            }
        }
        labels.insert(snapshot.clone(), said);
    }
    Ok(labels)
}

/// The rows of the listing by name; `None` if a line is not the name of one of `known` and `columns` values, or if one
/// stands twice: then a value has a tab or a newline in it, and what belongs to what is not certain.
fn table<'a>(
    text: &'a str,
    columns: usize,
    known: &HashSet<String>,
) -> Option<HashMap<&'a str, Vec<&'a str>>> {
    let mut table = HashMap::new();
    for line in text.lines() {
        let (name, values) = line.split_once('\t')?;
        let values: Vec<_> = values.split('\t').collect();
        if values.len() != columns || !known.contains(name) || table.insert(name, values).is_some() {
            return None;
        }
    }
    Some(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> HashSet<String> {
        ["tank/a b:c@s 1", "tank/a b:c@t"].map(str::to_owned).into()
    }

    #[test]
    fn a_line_is_a_snapshot_with_its_values() {
        let table = table("tank/a b:c@s 1\t2.1\tann\ntank/a b:c@t\t-\t\n", 2, &known()).expect("a table");
        assert_eq!(table["tank/a b:c@s 1"], ["2.1", "ann"]);
        assert_eq!(table["tank/a b:c@t"], ["-", ""]);
    }

    #[test]
    fn a_value_with_tabs_or_newlines_makes_the_listing_worthless() {
        for text in [
            "tank/a b:c@s 1\tx\ty\ntank/a b:c@t\tz\n",
            "tank/a b:c@s 1\tline\nbreak\ntank/a b:c@t\tz\n",
            "tank/a b:c@s 1\tx\ntank/a b:c@t\tforged\ntank/a b:c@t\tz\n",
            "tank/a b:c@s 1\tx\ntank/a b:c@u\tforged\ntank/a b:c@t\tz\n",
        ] {
            assert_eq!(table(text, 1, &known()), None, "{text:?}");
        }
    }
}
