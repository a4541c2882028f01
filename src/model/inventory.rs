//! What one place holds of one dataset.

use std::collections::HashSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::name::{HoldTag, SnapshotName};
use crate::model::version::{Guid, Version, VersionKind, VersionRef};

/// What a place can do, where places differ by degree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Caps {
    /// Several datasets can be snapshotted in one instant.
    pub atomic_set: bool,
    /// An interrupted receive can go on where it stopped.
    pub resume: bool,
    /// Bookmarks exist.
    pub bookmarks: bool,
    /// Whether what travels is encrypted, if it is a source, or what it holds, if it is a target; `None` where nobody has looked.
    #[serde(default)]
    pub encrypted: Option<bool>,
}

/// A receive that was begun and not finished: it never counts as a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partial {
    /// The name that the version would have got.
    pub name: SnapshotName,
    /// The identity that it would have got.
    pub guid: Guid,
    /// What the endpoint needs to find it again (btrfs: the staging subvolume's name; ZFS: the resume token).
    pub token: String,
    /// Whether a process is writing it now.
    pub live: bool,
    /// Since when, where that is known.
    #[serde(default)]
    pub since: Option<Timestamp>,
    /// How many bytes of the stream would not have to come again, where that is known; on btrfs none if what is kept of them is damaged.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// What its stream builds upon, [`Guid::NIL`] if upon nothing, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Guid>,
}

impl Partial {
    /// Whether a stream upon `base` can go on with it, as far as that is known.
    pub fn is_upon(&self, base: Option<Guid>) -> bool {
        self.base.is_none_or(|upon| upon == base.unwrap_or(Guid::NIL))
    }
}

/// What one place holds of one dataset, read from the place each time and never cached.
// Not `Deserialize`: what comes from outside must go through `new` to be in order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Inventory {
    /// How the place calls the dataset.
    pub dataset: String,
    versions: Vec<Version>,            // Invariant: oldest first, by `order` then name.
    holds: Vec<(VersionRef, HoldTag)>, // Invariant: sorted; each names one of `versions`.
    /// What was begun and not finished.
    pub partials: Vec<Partial>,
    /// What the place can do.
    pub caps: Caps,
}

impl Inventory {
    /// Puts the versions in order and drops holds of what is not there.
    pub fn new(
        dataset: impl Into<String>,
        mut versions: Vec<Version>,
        holds: Vec<(VersionRef, HoldTag)>,
    ) -> Self {
        versions.sort_by(|a, b| (a.order, &a.id.name).cmp(&(b.order, &b.id.name)));
        let there: HashSet<&VersionRef> = versions.iter().map(|version| &version.id).collect();
        let mut holds: Vec<_> = holds.into_iter().filter(|(held, _)| there.contains(held)).collect();
        holds.sort();
        holds.dedup();
        Self { dataset: dataset.into(), versions, holds, partials: Vec::new(), caps: Caps::default() }
    }

    /// All versions, oldest first.
    pub fn versions(&self) -> &[Version] {
        &self.versions
    }

    /// The newest version.
    pub fn newest(&self) -> Option<&Version> {
        self.versions.last()
    }

    /// The version of that name. A snapshot goes before a bookmark, which can have the same one.
    pub fn by_name(&self, name: &SnapshotName) -> Option<&Version> {
        self.find(|v| v.id.name == *name)
    }

    /// The version of that identity. A snapshot goes before its bookmark.
    pub fn by_guid(&self, guid: Guid) -> Option<&Version> {
        self.find(|v| v.id.guid == guid)
    }

    /// The version of that name and kind.
    pub fn by_name_and_kind(&self, name: &SnapshotName, kind: VersionKind) -> Option<&Version> {
        self.versions.iter().find(|v| v.kind == kind && v.id.name == *name)
    }

    /// The snapshot of that identity. Its bookmark does not count: it has no content for an increment to be applied to.
    pub fn snapshot_of(&self, guid: Guid) -> Option<&Version> {
        self.by_guid(guid).filter(|v| v.kind == VersionKind::Snapshot)
    }

    fn find(&self, is_meant: impl Fn(&Version) -> bool) -> Option<&Version> {
        let found = || self.versions.iter().filter(|v| is_meant(v));
        found().find(|v| v.kind == VersionKind::Snapshot).or_else(|| found().next())
    }

    /// Who keeps `version`, sorted.
    pub fn holds_of<'a>(&'a self, version: &'a VersionRef) -> impl Iterator<Item = &'a HoldTag> {
        let first = self.holds.partition_point(|(held, _)| held < version);
        self.holds[first..].iter().take_while(move |(held, _)| held == version).map(|(_, tag)| tag)
    }

    /// All holds, sorted by version.
    pub fn holds(&self) -> &[(VersionRef, HoldTag)] {
        &self.holds
    }

    /// The newest version older than `version` that has content: the natural base of an increment.
    pub fn predecessor(&self, version: &VersionRef) -> Option<&Version> {
        let at = self.versions.iter().position(|v| v.id == *version)?;
        self.versions[..at].iter().rev().find(|v| v.kind == VersionKind::Snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `name` made in transaction `order`; a name that begins with `#` is a bookmark.
    fn version(name: &str, order: u64) -> Version {
        let kind = if name.starts_with('#') { VersionKind::Bookmark } else { VersionKind::Snapshot };
        let name = name.trim_start_matches('#');
        let mut guid = [0; 16];
        guid[..name.len()].copy_from_slice(name.as_bytes());
        let id = VersionRef { guid: Guid(guid), name: name.parse().unwrap() };
        Version { id, kind, order, created: jiff::Timestamp::UNIX_EPOCH }
    }

    fn inventory(versions: &[(&str, u64)]) -> Inventory {
        Inventory::new(
            "tank/a",
            versions.iter().map(|(name, order)| version(name, *order)).collect(),
            Vec::new(),
        )
    }

    fn names(inventory: &Inventory) -> String {
        let names: Vec<_> = inventory.versions().iter().map(|v| v.id.name.as_str()).collect();
        names.join(" ")
    }

    #[test]
    fn versions_are_in_the_order_of_their_transactions_then_of_their_names() {
        let inventory = inventory(&[("c", 3), ("z", 1), ("b", 2), ("a", 2)]);
        assert_eq!(names(&inventory), "z a b c");
        assert_eq!(inventory.newest().unwrap().id.name.as_str(), "c");
        assert_eq!(inventory.dataset, "tank/a");
    }

    #[test]
    fn nothing_is_in_an_empty_inventory() {
        let empty = Inventory::default();
        let absent = version("a", 1);
        assert!(empty.versions().is_empty() && empty.holds().is_empty());
        assert_eq!((empty.newest(), empty.predecessor(&absent.id)), (None, None));
    }

    #[test]
    fn a_version_is_found_by_name_and_by_guid() {
        let inventory = inventory(&[("a", 1), ("b", 2)]);
        let b = version("b", 2);
        assert_eq!(inventory.by_name(&b.id.name), Some(&b));
        assert_eq!(inventory.by_guid(b.id.guid), Some(&b));
        let absent = version("c", 3);
        assert_eq!((inventory.by_name(&absent.id.name), inventory.by_guid(Guid::NIL)), (None, None));
    }

    #[test]
    fn a_snapshot_is_found_before_a_bookmark_of_the_same_name_or_guid() {
        let [bookmark, snapshot] = [version("#b", 1), version("b", 2)];
        let versions = vec![bookmark.clone(), snapshot.clone()];
        let both = Inventory::new("tank/a", versions, Vec::new());
        assert_eq!(both.by_name(&snapshot.id.name), Some(&snapshot));
        assert_eq!(both.by_guid(snapshot.id.guid), Some(&snapshot));
        let alone = Inventory::new("tank/a", vec![bookmark.clone()], Vec::new());
        assert_eq!(alone.by_guid(bookmark.id.guid), Some(&bookmark));
    }

    #[test]
    fn holds_are_sorted_single_and_of_what_is_there() {
        let [a, b, gone] = [version("a", 1), version("b", 2), version("gone", 3)];
        let tag = |text: &str| -> HoldTag { text.parse().unwrap() };
        let holds = [(&b, "z"), (&b, "y"), (&a, "x"), (&b, "z"), (&gone, "w")];
        let holds = holds.map(|(version, text)| (version.id.clone(), tag(text))).to_vec();
        let inventory = Inventory::new("tank/a", vec![a.clone(), b.clone()], holds);
        assert_eq!(inventory.holds().len(), 3);
        assert_eq!(inventory.holds_of(&b.id).map(HoldTag::as_str).collect::<Vec<_>>(), ["y", "z"]);
        assert_eq!(inventory.holds_of(&gone.id).count(), 0);
    }

    #[test]
    fn a_hold_of_a_reused_name_is_of_another_version() {
        let now = version("a", 5);
        let before = VersionRef { guid: Guid::NIL, name: now.id.name.clone() };
        let inventory = Inventory::new("tank/a", vec![now], vec![(before, "x".parse().unwrap())]);
        assert!(inventory.holds().is_empty());
    }

    #[test]
    fn the_predecessor_is_the_newest_older_one_that_has_content() {
        let inventory = inventory(&[("a", 1), ("#b", 2), ("c", 3)]);
        let of =
            |name: &str, order| inventory.predecessor(&version(name, order).id).map(|v| v.id.name.as_str());
        assert_eq!(of("c", 3), Some("a"));
        assert_eq!(of("a", 1), None);
        assert_eq!(of("absent", 9), None);
    }
}
