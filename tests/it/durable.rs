//! What was reported is on disk: read from the image of a filesystem that is still mounted, as a power cut would leave it.

use cowsnap::endpoint::btrfs::Dataset;
use cowsnap::endpoint::{Backend, DestroyDataset, History, SnapshotRequest};

use crate::ground::{Btrfs, ground, run};

/// The names of the subvolumes in the last transaction that was committed.
fn on_disk(ground: &Btrfs) -> Vec<String> {
    let image = ground.outside().join("image");
    let args = ["inspect-internal", "dump-tree", "-t", "root", image.to_str().expect("utf-8")];
    let tree = String::from_utf8_lossy(&run("btrfs", &args).stdout).into_owned();
    let names = tree.lines().filter(|line| line.contains("root backref key"));
    let mut names: Vec<_> = names.filter_map(|line| Some(line.rsplit_once(" name ")?.1.to_owned())).collect();
    names.sort();
    names
}

#[test]
fn what_was_made_and_what_was_destroyed_outlives_a_power_cut() {
    ground!("btrfs");
    let ground = Btrfs::new();
    let live = ground.subvolume("chain");
    let dataset = Dataset::at(&live).expect("a dataset");
    let take = |name: &str| {
        let request = SnapshotRequest::named(name.parse().expect("a name"));
        let set = Backend::snapshot(std::slice::from_ref(&dataset), &request).expect("a snapshot");
        set.versions.into_iter().next().expect("one").id
    };
    let (one, two) = (take("one"), take("two"));
    assert_eq!(on_disk(&ground), ["chain", "one", "two"]);
    dataset.clone_at(&one, &dataset.store().dataset("clone")).expect("a clone");
    assert_eq!(on_disk(&ground), ["chain", "clone", "one", "two"]);
    dataset.destroy(&one).expect("destroyed");
    assert_eq!(on_disk(&ground), ["chain", "clone", "two"]);
    dataset.rename_version(&two, &"three".parse().expect("a name")).expect("renamed");
    assert_eq!(on_disk(&ground), ["chain", "clone", "three"]);
    dataset.destroy_dataset(DestroyDataset { snapshots: true }).expect("destroyed");
    assert_eq!(on_disk(&ground), ["clone"]);
}
