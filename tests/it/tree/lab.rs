//! What the tests of trees share.

use std::path::{Path, PathBuf};

use cowsnap::endpoint::tree::Dataset;
use cowsnap::endpoint::{Backend, Error, History, SnapshotRequest};
use cowsnap::model::{HoldTag, SnapshotName, Version};

pub fn name(text: &str) -> SnapshotName {
    text.parse().expect("a name")
}

pub fn tag(text: &str) -> HoldTag {
    text.parse().expect("a tag")
}

pub fn tree(path: &Path) -> Dataset {
    Dataset::named(path).expect("a place for a tree")
}

/// Makes the directory `path` with one file in it.
pub fn made(path: &Path) -> Dataset {
    std::fs::create_dir(path).expect("mkdir");
    std::fs::write(path.join("f"), "one").expect("written");
    tree(path)
}

pub fn try_take(dataset: &Dataset, text: &str) -> Result<Version, Error> {
    let set = std::slice::from_ref(dataset);
    Backend::snapshot(set, &SnapshotRequest::named(name(text))).map(|taken| taken.versions[0].clone())
}

pub fn take(dataset: &Dataset, text: &str) -> Version {
    try_take(dataset, text).expect("taken")
}

pub fn names(dataset: &Dataset) -> Vec<String> {
    let inventory = dataset.inventory().expect("an inventory");
    inventory.versions().iter().map(|v| v.id.name.to_string()).collect()
}

/// Where a version's content stands; `key` is how the tree is called, as long as that needs no escapes.
pub fn content(base: &Path, key: &str, version: &str) -> PathBuf {
    base.join(".cowsnap-trees/trees").join(key).join("snap").join(version).join("tree")
}

/// All that cowsnap keeps beside trees in `base`.
pub fn store(base: &Path) -> PathBuf {
    base.join(".cowsnap-trees")
}

pub fn staged(base: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(store(base).join("staging"));
    entries.map(|dir| dir.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}

pub fn text(path: &Path) -> String {
    path.to_str().expect("utf-8").to_owned()
}
