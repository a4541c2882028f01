//! What an archive takes.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::Seen;
use crate::Result;
use crate::endpoint::archive::Archive;
use crate::model::archive::Group;
use crate::model::{Guid, SnapshotName};

/// What an archive takes, in bytes of parts; manifests are not counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Each version, oldest first.
    pub versions: Vec<OfVersion>,
    /// All that is there.
    pub bytes: u64,
    /// What is held, with all that it builds upon.
    pub held_bytes: u64,
    /// What no manifest names: pushes that go on, or were broken off.
    pub unreferenced_bytes: u64,
    /// How many parts these are.
    pub unreferenced_parts: u64,
    /// How many bytes manifests promise, and are not there.
    pub missing_bytes: u64,
}

/// What a version takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OfVersion {
    /// Its name.
    pub name: SnapshotName,
    /// Its identity.
    pub guid: Guid,
    /// Its own bytes, in all ways that it is stored.
    pub bytes: u64,
    /// How many objects they are.
    pub parts: u64,
    /// Who holds it.
    pub held: bool,
}

/// Adds up what is listed. No object is read.
///
/// # Errors
/// What the store says.
pub fn usage(archive: &Archive) -> Result<Usage> {
    let seen = Seen::of(archive)?;
    let there = archive.groups()?.into_iter().map(|(group, of)| (group, (of.parts, of.bytes)));
    let mut there: BTreeMap<Group, (u64, u64)> = there.collect();
    let mut usage = Usage {
        versions: Vec::new(),
        bytes: there.values().map(|(_, bytes)| bytes).sum(),
        held_bytes: 0,
        unreferenced_bytes: 0,
        unreferenced_parts: 0,
        missing_bytes: 0,
    };
    let kept = needed(&seen);
    for version in seen.chains.versions() {
        let guid = version.id.guid;
        let mut of = OfVersion {
            name: version.id.name,
            guid,
            bytes: 0,
            parts: 0,
            held: seen.holds.contains_key(&guid),
        };
        for stored in seen.chains.ways(guid) {
            let (parts, bytes) = there.remove(&stored.group()).unwrap_or_default();
            of.bytes += bytes;
            of.parts += parts;
            usage.missing_bytes += stored.len.saturating_sub(bytes);
            // More than the manifest names is left of somebody who was broken off.
            usage.unreferenced_bytes += bytes.saturating_sub(stored.len);
            usage.unreferenced_parts += parts.saturating_sub(stored.parts());
        }
        usage.held_bytes += if kept.contains(&guid) { of.bytes } else { 0 };
        usage.versions.push(of);
    }
    for (parts, bytes) in there.into_values() {
        usage.unreferenced_parts += parts;
        usage.unreferenced_bytes += bytes;
    }
    Ok(usage)
}

/// What is held, and all that it builds upon.
fn needed(seen: &Seen) -> BTreeSet<Guid> {
    let held: BTreeSet<Guid> = seen.holds.keys().copied().collect();
    let doomed: BTreeSet<Guid> = seen.chains.doomed(&held).iter().map(|stored| stored.version.guid).collect();
    let all = seen.chains.stored().iter().map(|stored| stored.version.guid);
    all.filter(|guid| !doomed.contains(guid)).collect()
}
