//! Holds: what keeps snapshots from being destroyed.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd, BorrowedFd};

use libzetta_zfs_core_sys as sys;

use super::failed::subject;
use super::nvlist::{Nvlist, Value, c_string, ok};
use super::{Errno, Failed, Lzc};

impl Lzc {
    /// Holds snapshots, each (`DATASET@NAME`, tag), all of one pool. A snapshot that stands twice is [`Errno::Invalid`]:
    /// one call sets one tag of each.
    ///
    /// With a descriptor from [`cleanup_fd`](super::cleanup_fd) the holds last until it is closed, also by the process'
    /// end; otherwise until they are released. A snapshot that is not there is told of, and the others are held
    /// ([`Failed::rest_done`]); for any other reason none is.
    pub fn hold(&self, holds: &[(String, String)], cleanup: Option<BorrowedFd<'_>>) -> Result<(), Failed> {
        let names = || holds.iter().map(|(snapshot, _)| snapshot.as_str());
        let failed = |errno| Failed::new("hold", subject(names()), errno);
        let mut list = Nvlist::new().map_err(failed)?;
        let mut seen = BTreeSet::new();
        for (snapshot, tag) in holds {
            // The list would keep the later tag alone.
            seen.insert(snapshot).then_some(()).ok_or(Errno::Invalid).map_err(failed)?;
            list.text(snapshot, tag).map_err(failed)?;
        }
        let mut errors = Nvlist::to_be_made();
        let fd = cleanup.map_or(-1, |fd| fd.as_raw_fd());
        // SAFETY: the list lives; the list that is made is owned by `errors`.
        let rc = unsafe { sys::lzc_hold(list.as_ptr(), fd, errors.slot()) };
        Failed::check_list("hold", names(), rc, errors.values())
    }

    /// Takes holds back, each (`DATASET@NAME`, tag), all of one pool. A snapshot that is not there is told of as
    /// `DATASET@NAME`, a hold as `DATASET@NAME#TAG`, and the others are taken back ([`Failed::rest_done`]); for any other
    /// reason none is.
    pub fn release(&self, holds: &[(String, String)]) -> Result<(), Failed> {
        let names = || holds.iter().map(|(snapshot, _)| snapshot.as_str());
        let list = by_snapshot(holds).map_err(|errno| Failed::new("release", subject(names()), errno))?;
        let mut errors = Nvlist::to_be_made();
        // SAFETY: the list lives; the list that is made is owned by `errors`.
        let rc = unsafe { sys::lzc_release(list.as_ptr(), errors.slot()) };
        Failed::check_list("release", names(), rc, errors.values())
    }

    /// Who holds a snapshot, and since when, in seconds since 1970.
    pub fn holds(&self, snapshot: &str) -> Result<BTreeMap<String, u64>, Failed> {
        let failed = |errno| Failed::new("list the holds of", snapshot, errno);
        let name = c_string(snapshot).map_err(failed)?;
        let mut found = Nvlist::to_be_made();
        // SAFETY: the name lives; the list that is made is owned by `found`.
        ok(unsafe { sys::lzc_get_holds(name.as_ptr(), found.slot()) }).map_err(failed)?;
        let since = |value| match value {
            Value::Uint64(seconds) => seconds,
            _ => 0,
        };
        Ok(found.values().into_iter().map(|(tag, value)| (tag, since(value))).collect())
    }
}

/// For each snapshot a list with its tags as names.
fn by_snapshot(holds: &[(String, String)]) -> Result<Nvlist, Errno> {
    let mut tags_of: BTreeMap<&str, Nvlist> = BTreeMap::new();
    for (snapshot, tag) in holds {
        if !tags_of.contains_key(snapshot.as_str()) {
            tags_of.insert(snapshot, Nvlist::new()?);
        }
        tags_of.get_mut(snapshot.as_str()).expect("inserted above").flag(tag)?;
    }
    let mut list = Nvlist::new()?;
    for (snapshot, tags) in &tags_of {
        list.list(snapshot, tags)?;
    }
    Ok(list)
}
