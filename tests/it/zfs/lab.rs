//! What the tests of the backend share: datasets whose names hold spaces and colons, and short ways to act on them.

use std::fs::File;
use std::path::PathBuf;

use cowsnap::endpoint::zfs::Dataset;
use cowsnap::endpoint::{Backend, SnapshotRequest};
use cowsnap::model::{HoldTag, SnapshotName, Version};
use rustix::fs::FlockOperation;

use super::ground::{Pool, zfs};

/// A name after the `@`.
pub fn name(text: &str) -> SnapshotName {
    text.parse().expect("a name")
}

/// A tag.
pub fn tag(text: &str) -> HoldTag {
    text.parse().expect("a tag")
}

/// The dataset of that full name, whether it is there or not.
pub fn dataset(full: &str) -> Dataset {
    Dataset::by_name(full.parse().expect("a dataset's name"))
}

/// A new filesystem of the pool, made by the program under test.
pub fn create(pool: &Pool, within: &str) -> Dataset {
    let dataset = dataset(&pool.full(within));
    dataset.create().expect("created");
    dataset
}

/// Takes one snapshot.
pub fn snap(dataset: &Dataset, text: &str) -> Version {
    let taken = Dataset::snapshot(std::slice::from_ref(dataset), &SnapshotRequest::named(name(text)));
    taken.expect("a free name is taken").versions.remove(0)
}

/// Where the dataset can be seen.
pub fn path(dataset: &Dataset) -> PathBuf {
    dataset.mountpoint().expect("a table of mounts").unwrap_or_else(|| panic!("{dataset} is not mounted"))
}

/// Writes a file of the live dataset.
pub fn write(dataset: &Dataset, file: &str, text: &str) {
    std::fs::write(path(dataset).join(file), text).expect("written");
}

/// Reads a file of the live dataset; `None` if it is not there.
pub fn read(dataset: &Dataset, file: &str) -> Option<String> {
    std::fs::read_to_string(path(dataset).join(file)).ok()
}

/// A property, as the oracle says it.
pub fn property(full: &str, property: &str) -> String {
    zfs(&["get", "-Hp", "-o", "value", property, full]).trim_end_matches('\n').to_owned()
}

/// The names of the snapshots of a dataset in the order in which they were made, as the oracle says them.
pub fn snapshots(full: &str) -> Vec<String> {
    let listed = zfs(&["list", "-Hp", "-t", "snapshot", "-d", "1", "-s", "createtxg", "-o", "name", full]);
    listed.lines().map(|line| line.rsplit('@').next().expect("a part").to_owned()).collect()
}

/// Whether there is such a dataset or snapshot, as the oracle says it.
pub fn exists(full: &str) -> bool {
    std::process::Command::new("zfs")
        .args(["list", full])
        .output()
        .is_ok_and(|output| output.status.success())
}

/// While it is held, no `doctor --fix` of another test puts right what this one leaves half-done: the doctor sees all pools.
pub fn no_doctor() -> File {
    doctors_lock(FlockOperation::LockShared)
}

/// While it is held, no other test leaves a pool half-done: for one that calls `doctor --fix`.
pub fn only_doctor() -> File {
    doctors_lock(FlockOperation::LockExclusive)
}

fn doctors_lock(how: FlockOperation) -> File {
    let file = File::open(std::env::temp_dir()).expect("a directory that all tests have");
    rustix::fs::flock(&file, how).expect("locked");
    file
}
