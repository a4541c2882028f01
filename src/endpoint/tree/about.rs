//! What is said of one version: `about.json`, beside its tree and its manifest.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::endpoint::dir::{read_at, write_at};
use crate::endpoint::{Error, Result};
use crate::model::{Guid, HoldTag, SnapshotName, Version, VersionKind, VersionRef};

pub(super) const FILE: &str = "about.json";

/// What is said of one version (docs/FORMAT-tree.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct About {
    pub(super) format: u32,
    pub(super) guid: Guid,
    pub(super) order: u64,
    pub(super) created: Timestamp,
    /// From the first look at the directory to the last: at most this long, in microseconds.
    pub(super) spread_us: u64,
    /// blake3 of the manifest, hexadecimal.
    pub(super) manifest: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) holds: BTreeMap<HoldTag, Timestamp>,
    /// What a later cowsnap says about it: kept as it is.
    #[serde(flatten)]
    pub(super) other: BTreeMap<String, serde_json::Value>,
}

/// What this cowsnap writes, and the newest that it reads.
const FORMAT: u32 = 1;

impl About {
    /// Of a version that nothing is said of yet, whose manifest is `manifest`.
    pub(super) fn new(order: u64, spread: Duration, manifest: &[u8]) -> Result<Self> {
        Ok(Self {
            format: FORMAT,
            guid: new_guid()?,
            order,
            created: Timestamp::now(),
            spread_us: spread.as_micros() as u64,
            manifest: blake3::hash(manifest).to_hex().to_string(),
            labels: BTreeMap::new(),
            holds: BTreeMap::new(),
            other: BTreeMap::new(),
        })
    }

    /// It as a version called `name`.
    pub(super) fn version(&self, name: SnapshotName) -> Version {
        let id = VersionRef { guid: self.guid, name };
        Version { id, kind: VersionKind::Snapshot, order: self.order, created: self.created }
    }

    /// What is said of the version in the directory `dir`; `None` if nothing is, so that it is no version.
    pub(super) fn read(dir: BorrowedFd<'_>, subject: &str) -> Result<Option<Self>> {
        let Some(bytes) = read_at(dir, FILE)? else { return Ok(None) };
        let corrupt = |why: String, source: Option<serde_json::Error>| Error::Corrupt {
            what: "snapshot's description",
            why,
            source: source.map(Into::into),
        };
        let about: Self = serde_json::from_slice(&bytes)
            .map_err(|error| corrupt(format!("{FILE} of {subject} is not what was written"), Some(error)))?;
        match about.format {
            FORMAT => Ok(Some(about)),
            format => {
                Err(corrupt(format!("{FILE} of {subject} is of format {format}; known is {FORMAT}"), None))
            }
        }
    }

    /// Writes it into the version's directory, on disk.
    pub(super) fn write(&self, dir: BorrowedFd<'_>, subject: &str) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(self).expect("its keys are texts");
        write_at(dir, OsStr::new(FILE), &bytes).map_err(Error::io("write what is said of", subject))
    }
}

fn new_guid() -> Result<Guid> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes))
        .map_err(Error::io("read", "/dev/urandom"))?;
    Ok(Guid(bytes))
}
