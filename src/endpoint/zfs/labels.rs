//! The labels of a dataset's snapshots, read in one listing.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::endpoint::Result;
use crate::endpoint::zfs::dataset::{Dataset, get};
use crate::endpoint::zfs::{list, meta, program};
use crate::model::{SnapshotName, Version, VersionKind};

/// By snapshot, what its labels are.
pub(super) type Labels = HashMap<SnapshotName, BTreeMap<String, String>>;

/// The labels of those snapshots, given with what their `cowsnap:labels` lists. Nothing is asked for if that is nothing.
pub(super) fn of<'a>(
    dataset: &Dataset,
    listed: impl Iterator<Item = (&'a Version, &'a str)>,
) -> Result<Labels> {
    let snapshots = listed.filter(|(version, _)| version.kind == VersionKind::Snapshot);
    let wanted: Vec<_> = snapshots
        .map(|(v, listed)| (v.id.name.clone(), meta::names_of_labels(listed).collect::<Vec<_>>()))
        .collect();
    let names: Vec<_> = wanted
        .iter()
        .flat_map(|(_, names)| names.iter().copied())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    if names.is_empty() {
        return Ok(Labels::new());
    }
    let props: Vec<_> = names.iter().map(|name| meta::label_prop(name)).collect();
    let columns = format!("name,{}", props.join(","));
    let args = ["list", "-Hp", "-t", "snapshot", "-d", "1", "-o", &columns, dataset.name().as_str()];
    let failed = |failure: program::Failure| failure.into_error("list the labels of", dataset);
    let text = String::from_utf8_lossy(&program::zfs(&args).map_err(failed)?).into_owned();
    let table = table(&text, names.len());
    let mut labels = Labels::new();
    for (snapshot, its_names) in wanted {
        let full = dataset.full_name(&snapshot);
        let row = table.get(full.as_str());
        let mut said = BTreeMap::new();
        for name in its_names {
            let at = names.iter().position(|n| *n == name).expect("it was put there above");
            let value = match row {
                Some(row) => row[at].to_owned(),
                // A value that somebody else wrote, with a tab or a newline in it.
                None => get(&full, &props[at]).map_err(failed)?,
            };
            if let Some(value) = list::text(&value) {
                said.insert(meta::key_of_name(name), meta::unescape(value));
            }
        }
        labels.insert(snapshot, said);
    }
    Ok(labels)
}

/// The rows of the listing by name; without those that are not one name and `columns` values in one line.
fn table(text: &str, columns: usize) -> HashMap<&str, Vec<&str>> {
    let mut table = HashMap::new();
    let mut broken: BTreeSet<&str> = BTreeSet::new();
    let mut last = "";
    for line in text.lines() {
        let mut fields = line.split('\t');
        let name = fields.next().unwrap_or_default();
        let values: Vec<_> = fields.collect();
        if values.len() == columns && name.contains('@') && table.insert(name, values).is_none() {
            last = name;
        } else {
            // The line goes on what stands in the one before, or has a tab too many.
            broken.extend([name, last]);
        }
    }
    table.retain(|name, _| !broken.contains(name));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_snapshot_with_its_values() {
        let text = "tank/a b:c@s 1\t2.1\tann\ntank/a b:c@t\t-\t\n";
        let table = table(text, 2);
        assert_eq!(table["tank/a b:c@s 1"], ["2.1", "ann"]);
        assert_eq!(table["tank/a b:c@t"], ["-", ""]);
    }

    #[test]
    fn a_value_with_tabs_or_newlines_is_left_to_be_asked_for_alone() {
        let text = "tank/a@1\tx\ty\ntank/a@2\tline\nbreak\ntank/a@3\tgood\ntank/a@4\tforged\ntank/a@3\tby a newline\n";
        let table = table(text, 1);
        let names: Vec<_> = table.keys().copied().collect();
        assert!(!table.contains_key("tank/a@1"), "{names:?}: it has a tab");
        assert!(!table.contains_key("tank/a@2"), "{names:?}: it has a newline");
        assert!(!table.contains_key("tank/a@3"), "{names:?}: it is there twice");
    }
}
