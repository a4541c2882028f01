//! What cowsnap has noted on a dataset's snapshots: labels, and digests that were checked.

use crate::endpoint::Result;
use crate::endpoint::details::Details;
use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::{meta, noted};

/// What a listing shows as the labels and as the digest of a snapshot, where that is the snapshot's own.
pub(super) type Shown<'a> = (Option<&'a str>, Option<&'a str>);

/// Fills in the labels and digests of `details`, snapshots of `dataset`, of which a listing shows these.
pub(super) fn fill(dataset: &Dataset, details: &mut Details, (labels, verified): Shown<'_>) {
    details.verified = verified.and_then(|text| meta::verified_of_text(&details.version, text));
    let Some(text) = labels else { return };
    let (labels, strange) = meta::labels_of_text(text);
    if let Some(strange) = strange {
        let snapshot = dataset.full_name(&details.version.id.name);
        tracing::warn!("{snapshot}: its {} says {strange:?}, which is no label", meta::LABELS);
    }
    details.labels = labels;
}

/// The same of `details`, all snapshots of `dataset`, asked for apart.
pub(super) fn fill_apart(dataset: &Dataset, details: &mut [&mut Details]) -> Result<()> {
    if details.is_empty() {
        return Ok(());
    }
    let full = |details: &Details| dataset.full_name(&details.version.id.name);
    let known = details.iter().map(|details| full(details)).collect();
    let noted = noted::read(dataset, &known, &[meta::LABELS, meta::VERIFIED])?;
    for details in details {
        let name = full(details);
        let of = |property: &str| noted.get(&(name.clone(), property.to_owned())).map(String::as_str);
        fill(dataset, details, (of(meta::LABELS), of(meta::VERIFIED)));
    }
    Ok(())
}
