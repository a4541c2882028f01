//! What cowsnap has noted on a dataset's snapshots: labels, and digests that were checked.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::endpoint::Result;
use crate::endpoint::details::Details;
use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::noted::{self, Noted};
use crate::endpoint::zfs::{list, meta};
use crate::model::VersionKind;

/// Fills in the labels and digests of the snapshots among `details`, the versions of `dataset`.
///
/// A list of labels that cowsnap would not have written is told, and what can be read of it is.
pub(super) fn fill(dataset: &Dataset, details: &mut [Details]) -> Result<()> {
    let snapshots = || details.iter().filter(|details| details.version.kind == VersionKind::Snapshot);
    let known: HashSet<_> = snapshots().map(|details| dataset.full_name(&details.version.id.name)).collect();
    if known.is_empty() {
        return Ok(());
    }
    let noted = noted::read(dataset, &known, &[meta::LABELS.to_owned(), meta::VERIFIED.to_owned()])?;
    let props = label_props(&noted);
    let labels = noted::read(dataset, &known, &props)?;
    for details in details.iter_mut().filter(|details| details.version.kind == VersionKind::Snapshot) {
        let full = dataset.full_name(&details.version.id.name);
        let of = |property: &str| noted.get(&(full.clone(), property.to_owned()));
        details.verified = of(meta::VERIFIED).and_then(|text| meta::verified_of_text(text));
        details.labels = of(meta::LABELS).map(|listed| labels_of(&full, listed, &labels)).unwrap_or_default();
    }
    Ok(())
}

/// The properties of all labels that are listed.
fn label_props(noted: &Noted) -> Vec<String> {
    let lists = noted.iter().filter(|((_, property), _)| property == meta::LABELS);
    let names: BTreeSet<_> = lists.flat_map(|(_, listed)| meta::names_of_labels(listed).0).collect();
    names.into_iter().map(meta::label_prop).collect()
}

fn labels_of(snapshot: &str, listed: &str, labels: &Noted) -> BTreeMap<String, String> {
    let (names, strange) = meta::names_of_labels(listed);
    if let Some(strange) = strange {
        tracing::warn!("{snapshot}: its {} names {strange:?}, which is no label", meta::LABELS);
    }
    let value = |name: &str| labels.get(&(snapshot.to_owned(), meta::label_prop(name)));
    let said = |name: &&str| Some((meta::key_of_name(name), meta::unescape(list::text(value(name)?)?)));
    names.iter().filter_map(said).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(pairs: &[(&str, &str)]) -> Noted {
        let of =
            |(property, value): &(&str, &str)| (("tank/a@s".into(), (*property).into()), (*value).into());
        pairs.iter().map(of).collect()
    }

    #[test]
    fn only_names_that_cowsnap_writes_become_columns() {
        let listed =
            noted(&[(meta::LABELS, "b,$a\tb,-o,name=x,_41,,a,A,a b,cowsnap:x"), (meta::VERIFIED, "c")]);
        let wanted = ["-o", "_41", "a", "b", "cowsnap:x"].map(meta::label_prop);
        assert_eq!(label_props(&listed), wanted);
        assert!(label_props(&noted(&[(meta::LABELS, "$a\tb\n")])).is_empty());
        assert!(label_props(&noted(&[(meta::LABELS, &"a".repeat(300))])).is_empty());
    }

    #[test]
    fn a_label_is_what_was_set_under_its_name() {
        let labels = noted(&[("cowsnap:label:a", "x%09y"), ("cowsnap:label:c", "-")]);
        let said = labels_of("tank/a@s", "a,b,c,$d", &labels);
        assert_eq!(said, BTreeMap::from([("a".to_owned(), "x\ty".to_owned())]));
    }
}
