//! One dataset of a ZFS pool: a filesystem or a volume.

use std::fmt;
use std::path::Path;

use crate::model::{DatasetName, SnapshotName};

/// A filesystem or volume by its name. What it was a moment ago is not remembered: each call looks again.
#[derive(Debug, Clone)]
pub struct Dataset {
    name: DatasetName,
    label: String,
}

impl fmt::Display for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.label)
    }
}

impl PartialEq for Dataset {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Dataset {}

impl Dataset {
    /// The dataset of that name, whether it is there or not.
    pub fn by_name(name: DatasetName) -> Self {
        let label = name.as_str().to_owned();
        Self { name, label }
    }

    /// The same dataset, called `label` where people see it.
    pub fn with_label(self, label: impl Into<String>) -> Self {
        Self { label: label.into(), ..self }
    }

    /// Its name in its pool.
    pub fn name(&self) -> &DatasetName {
        &self.name
    }

    /// `tank/chainstate@name`, as ZFS calls it whatever its label is.
    pub fn full_name(&self, name: &SnapshotName) -> String {
        format!("{}@{name}", self.name)
    }

    /// `tank/chainstate@name`, as people see it.
    pub fn at_name(&self, name: &SnapshotName) -> String {
        format!("{self}@{name}")
    }

    /// The dataset at `relative` below this one.
    ///
    /// # Panics
    /// If `relative` can not be a part of a dataset's name.
    pub fn below(&self, relative: &Path) -> Self {
        let name = format!("{}/{}", self.name, relative.display());
        Self::by_name(name.parse().expect("what is below a dataset has a dataset's name"))
    }
}
