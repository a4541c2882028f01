//! Snapshots whose content is read by nobody but this process, and the streams that they were sent as.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;

use crate::endpoint::details::Details;
use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::lock::{Work, lock};
use crate::endpoint::zfs::{intent, meta, noted, pools, props};
use crate::endpoint::{Error, Result, Verified};
use crate::model::digests::remember;
use crate::model::{Guid, SentStream, Version, VersionKind, VersionRef, quoted};
use crate::sys::mount::{self, Restrict};

impl Dataset {
    /// Opens the root of a snapshot through a mount that nobody sees and that goes with the answer.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Reused`]; [`Error::Refused`] for a volume, or without the key; [`Error::Denied`] without the right.
    pub fn open_content(&self, version: &VersionRef) -> Result<OwnedFd> {
        let snapshot = self.expect_snapshot(version, "verify")?;
        let subject = self.at_name(&version.name);
        let refused =
            |why: &str, hint| Error::Refused { op: "read", subject: subject.clone(), why: why.into(), hint };
        if self.is_volume()? {
            return Err(refused("it is of a volume, which has no files", None));
        }
        let restrict = Restrict { readonly: true, nodev: true, nosuid: true, noexec: true };
        let mount = mount::detached_as("zfs", Path::new(&snapshot), mount::READ_ONLY, restrict);
        mount.map(OwnedFd::from).map_err(|error| match error.raw_os_error() {
            Some(libc::EACCES) => {
                let hint = Some(format!("zfs load-key -r {}", quoted(self.name())));
                refused("the key of its encryption is not loaded", hint)
            }
            _ => crate::endpoint::mounted::not_allowed(error, "read", &subject),
        })
    }

    /// The streams that each snapshot was sent as, oldest first.
    ///
    /// # Errors
    /// A dataset that can not be read.
    pub fn sent(&self) -> Result<HashMap<VersionRef, Vec<SentStream>>> {
        let inventory = self.read_inventory()?;
        let snapshots = inventory.versions().iter().filter(|version| version.kind == VersionKind::Snapshot);
        let snapshots: Vec<_> = snapshots.collect();
        if snapshots.is_empty() {
            return Ok(HashMap::new());
        }
        let full = |version: &Version| self.full_name(&version.id.name);
        let known = snapshots.iter().map(|version| full(version)).collect();
        let noted = noted::read(self, &known, &[meta::SENT])?;
        let of = |version: &Version| noted.get(&(full(version), meta::SENT.to_owned()));
        let sent = snapshots.iter().filter_map(|version| {
            let sent = meta::sent_of_text(version, of(version)?);
            Some((version.id.clone(), sent))
        });
        Ok(sent.collect())
    }

    /// Writes down that `version` was sent as that stream.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Reused`]; [`Error::Denied`] without the right to set properties; another process that is at it for
    /// too long.
    pub fn note_sent(&self, version: &VersionRef, new: SentStream) -> Result<()> {
        // Who notes another stream meanwhile would be overwritten.
        let _lock = lock(Work::Note, self.name().as_str())?;
        let found = self.expect(version)?;
        let snapshot = self.snapshot(&found, "note what was sent of")?;
        let noted = props::local(&snapshot, meta::SENT)?;
        let mut sent = noted.map(|text| meta::sent_of_text(&found, &text)).unwrap_or_default();
        let before = sent.clone();
        remember(&mut sent, new);
        match sent == before {
            true => Ok(()),
            false => props::set(&snapshot, meta::SENT, &meta::sent_as_text(&found, &sent)),
        }
    }

    /// What `base` came as, in the dataset of the snapshot `origin` if that is given and else in this one, if it came verified. What can not
    /// be told did not: of what was made here, or came raw, ZFS itself says nothing.
    pub(super) fn verified_base(&self, base: Guid, origin: Option<&str>) -> Option<Verified> {
        let of_origin =
            origin.and_then(|origin| Some(Self::by_name(origin.split_once('@')?.0.parse().ok()?)));
        let told = of_origin.as_ref().unwrap_or(self).details(false);
        let is_it =
            |told: &Details| told.version.kind == VersionKind::Snapshot && told.version.id.guid == base;
        told.ok()?.into_iter().find(is_it)?.verified
    }

    /// The guid of its pool, which one that was split off another has for itself, though the guids of the datasets are the same.
    ///
    /// # Errors
    /// What `zpool` says.
    pub fn pool_guid(&self) -> Result<Guid> {
        pools::guid_of(self.pool())
    }

    /// What tells it from every other dataset, on this machine and others, whatever it is called.
    ///
    /// # Errors
    /// What `zpool` says; a property that can not be read.
    pub fn place_id(&self) -> Result<String> {
        Ok(format!("zfs {} {}", self.pool_guid()?, self.own_guid()?))
    }

    /// By what it is known whatever it is called; a copy of it elsewhere has another one.
    ///
    /// # Errors
    /// A property that can not be read.
    pub fn own_guid(&self) -> Result<Guid> {
        intent::guid_of(self.name().as_str())
    }
}
