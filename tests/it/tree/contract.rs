//! The suite that every backend passes.

use std::path::PathBuf;

use cowsnap::endpoint::contract::{self, Ground};
use cowsnap::endpoint::tree::Dataset;
use cowsnap::model::Version;

use super::lab::{content, staged};
use crate::ground::{Btrfs, Plain, ground};

struct Trees {
    base: PathBuf,
    copying: bool,
}

impl Ground for Trees {
    type Backend = Dataset;

    fn create(&self, name: &str) -> Dataset {
        std::fs::create_dir(self.base.join(name)).expect("mkdir");
        self.absent(name)
    }

    fn absent(&self, name: &str) -> Dataset {
        Dataset::named(&self.base.join(name)).expect("a place").copying(self.copying)
    }

    fn write(&self, dataset: &Dataset, file: &str, bytes: &[u8]) {
        std::fs::write(dataset.path().join(file), bytes).expect("written");
    }

    fn read(&self, dataset: &Dataset, file: &str) -> Option<Vec<u8>> {
        std::fs::read(dataset.path().join(file)).ok()
    }

    fn read_version(&self, dataset: &Dataset, version: &Version, file: &str) -> Option<Vec<u8>> {
        let path = dataset.path();
        let key = path.file_name().expect("it is in the base").to_str().expect("utf-8");
        std::fs::read(content(&self.base, key, version.id.name.as_str()).join(file)).ok()
    }

    fn aside(&self, name: &str) -> Dataset {
        panic!("{name}: all versions stay in the dataset")
    }
}

fn check(base: PathBuf, copying: bool) {
    contract::check(&Trees { base: base.clone(), copying });
    assert!(staged(&base).is_empty());
}

#[test]
fn directories_on_xfs_keep_the_contract() {
    ground!("xfs");
    let ground = Plain::xfs();
    check(ground.path(), false);
}

#[test]
fn directories_on_ext4_keep_the_contract_by_copies() {
    ground!("ext4");
    let ground = Plain::ext4();
    check(ground.path(), true);
}

#[test]
fn directories_inside_a_btrfs_subvolume_keep_the_contract() {
    ground!("btrfs");
    let ground = Btrfs::new();
    check(ground.subvolume("sub"), false);
}
