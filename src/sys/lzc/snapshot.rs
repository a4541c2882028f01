//! Snapshots and bookmarks: made and destroyed many at once, all or none.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use libzetta::zfs::{BookmarkRequest, DestroyTiming, Error, ValidationError, ZfsEngine};
use libzetta_zfs_core_sys as sys;

use super::failed::subject;
use super::nvlist::{Nvlist, Value, c_string, ok};
use super::{Errno, Failed, Lzc};

/// A bookmark, as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bookmark {
    /// The part of its name after the `#`.
    pub name: String,
    /// The guid of the snapshot that it marks.
    pub guid: u64,
    /// The transaction of that snapshot, in this pool.
    pub createtxg: u64,
    /// When that snapshot was taken, in seconds since 1970.
    pub creation: u64,
    /// What a raw increment from it needs; `None` if the dataset is not encrypted or the bookmark is of an old kind.
    pub ivset_guid: Option<u64>,
}

impl Lzc {
    /// Whether there is a filesystem, volume or snapshot of that name. Of bookmarks it always says no.
    pub fn exists(&self, name: &str) -> bool {
        c_string(name).is_ok() && self.zetta.exists(name).unwrap_or(false)
    }

    /// Takes snapshots (`DATASET@NAME`) with these user properties, in one transaction: all or none, also across a
    /// power cut. All in one pool, and one for each dataset.
    pub fn snapshot(&self, snapshots: &[String], props: &BTreeMap<String, String>) -> Result<(), Failed> {
        let names = || snapshots.iter().map(String::as_str);
        check_names("snapshot", names())?;
        let props: HashMap<_, _> = props.clone().into_iter().collect();
        self.zetta.snapshot(&paths(snapshots), Some(props)).map_err(failed("snapshot", names()))
    }

    /// Makes bookmarks, each (`DATASET#NAME`, what it marks: a snapshot, or from OpenZFS 2.0 on a bookmark), in one
    /// transaction: all or none.
    pub fn bookmark(&self, bookmarks: &[(String, String)]) -> Result<(), Failed> {
        let names = || bookmarks.iter().map(|(new, _)| new.as_str());
        check_names("bookmark", names())?;
        check_names("bookmark", bookmarks.iter().map(|(_, source)| source.as_str()))?;
        let requests: Vec<_> =
            bookmarks.iter().map(|(new, source)| BookmarkRequest::new(source.into(), new.into())).collect();
        self.zetta.bookmark(&requests).map_err(failed("bookmark", names()))
    }

    /// Destroys snapshots in one transaction: all or none. One that is not there is no error.
    ///
    /// With `defer`, one that is held or has clones goes when the last of them does, instead of failing the call.
    pub fn destroy_snapshots(&self, snapshots: &[String], defer: bool) -> Result<(), Failed> {
        let names = || snapshots.iter().map(String::as_str);
        check_names("destroy", names())?;
        let timing = if defer { DestroyTiming::Defer } else { DestroyTiming::RightNow };
        self.zetta.destroy_snapshots(&paths(snapshots), timing).map_err(failed("destroy", names()))
    }

    /// Destroys bookmarks (`DATASET#NAME`) in one transaction: all or none. One that is not there is no error.
    pub fn destroy_bookmarks(&self, bookmarks: &[String]) -> Result<(), Failed> {
        let names = || bookmarks.iter().map(String::as_str);
        check_names("destroy", names())?;
        self.zetta.destroy_bookmarks(&paths(bookmarks)).map_err(failed("destroy", names()))
    }

    /// The bookmarks of a filesystem or volume. Needs no rights.
    pub fn bookmarks(&self, dataset: &str) -> Result<Vec<Bookmark>, Failed> {
        let failed = |errno| Failed::new("list the bookmarks of", dataset, errno);
        let name = c_string(dataset).map_err(failed)?;
        let mut wanted = Nvlist::new().map_err(failed)?;
        for prop in ["guid", "createtxg", "creation", "ivsetguid"] {
            wanted.flag(prop).map_err(failed)?;
        }
        let mut found = Nvlist::to_be_made();
        // SAFETY: the arguments live; the list that is made is owned by `found`.
        ok(unsafe { sys::lzc_get_bookmarks(name.as_ptr(), wanted.as_ptr(), found.slot()) })
            .map_err(failed)?;
        Ok(found.values().into_iter().map(|(name, props)| bookmark_of(name, &props)).collect())
    }

    /// How many bytes would come free if the snapshots from `first` to `last` of one dataset were destroyed.
    pub fn space_of_range(&self, first: &str, last: &str) -> Result<u64, Failed> {
        let failed = |errno| Failed::new("measure", last, errno);
        let (first, last) = (c_string(first).map_err(failed)?, c_string(last).map_err(failed)?);
        let mut used = 0;
        // SAFETY: the arguments live; one number is written.
        ok(unsafe { sys::lzc_snaprange_space(first.as_ptr(), last.as_ptr(), &mut used) }).map_err(failed)?;
        Ok(used)
    }
}

/// Every property comes as a list of its own with `value` in it.
fn bookmark_of(name: String, props: &Value) -> Bookmark {
    let number = |prop: &str| {
        let Value::List(props) = props else { return None };
        let Value::List(entry) = props.get(prop)? else { return None };
        match entry.get("value")? {
            Value::Uint64(number) => Some(*number),
            _ => None,
        }
    };
    Bookmark {
        guid: number("guid").unwrap_or(0),
        createtxg: number("createtxg").unwrap_or(0),
        creation: number("creation").unwrap_or(0),
        ivset_guid: number("ivsetguid").filter(|guid| *guid != 0),
        name,
    }
}

fn paths(names: &[String]) -> Vec<PathBuf> {
    names.iter().map(PathBuf::from).collect()
}

/// libzetta panics on a NUL in a name.
pub(super) fn check_names<'a>(
    op: &'static str,
    mut names: impl Iterator<Item = &'a str>,
) -> Result<(), Failed> {
    match names.find(|name| c_string(name).is_err()) {
        None => Ok(()),
        Some(name) => Err(Failed::new(op, name, Errno::Invalid)),
    }
}

/// What libzetta says in our words. Of a list of errors it hides the number that the call itself returned.
pub(super) fn failed<'a>(
    op: &'static str,
    names: impl ExactSizeIterator<Item = &'a str>,
) -> impl FnOnce(Error) -> Failed {
    let subject = subject(names);
    move |error| match error {
        Error::MultiOpError(errors) => {
            let errors = errors.into_iter().map(|(name, value)| (name, value_of(&value)));
            Failed::listed(op, subject, errors.collect())
        }
        Error::Io(source) => Failed::new(op, subject, Errno::from_raw(source.raw_os_error().unwrap_or(0))),
        Error::ValidationErrors(errors) => Failed::new(op, subject, invalid(&errors)),
        // A property that is no C string.
        _ => Failed::new(op, subject, Errno::Invalid),
    }
}

fn value_of(value: &libnv::nvpair::Value) -> Value {
    match value {
        libnv::nvpair::Value::Int32(number) => Value::Int32(*number),
        _ => Value::Other(0),
    }
}

fn invalid(errors: &[ValidationError]) -> Errno {
    let is_too_long = |error| matches!(error, &ValidationError::NameTooLong(_));
    if errors.iter().any(is_too_long) { Errno::NameTooLong } else { Errno::Invalid }
}
