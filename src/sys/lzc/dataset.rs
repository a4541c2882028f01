//! Datasets themselves: made, cloned, promoted, renamed, rolled back, unlocked, destroyed.

use std::ffi::{CStr, c_char, c_int, c_uint};
use std::ptr::null_mut;

use libzetta_zfs_core_sys::{self as sys, lzc_dataset_type};
use nvpair_sys::boolean_t::B_FALSE;

use super::nvlist::{Nvlist, c_string, ok};
use super::{Errno, Failed, Lzc};

/// The longest name and the NUL behind it, in bytes.
const NAME_SIZE: usize = 256;

/// What a dataset is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A filesystem.
    Filesystem,
    /// A volume: needs `volsize`.
    Volume,
}

/// What a property is set to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prop {
    /// A number, or the index of one of several words (`readonly` on is 1, `canmount` noauto is 2).
    Number(u64),
    /// A text: `mountpoint`, or a property of the user's with a colon in its name.
    Text(String),
    /// What comes with the stream is not taken (`zfs receive -x`). Only in [`Receive::local_props`](super::Receive).
    Exclude,
}

/// The properties as a list; `None` if there are none.
pub(super) fn list_of(props: &[(String, Prop)]) -> Result<Option<Nvlist>, Errno> {
    if props.is_empty() {
        return Ok(None);
    }
    let mut list = Nvlist::new()?;
    for (name, value) in props {
        match value {
            Prop::Number(number) => list.number(name, *number)?,
            Prop::Text(text) => list.text(name, text)?,
            Prop::Exclude => list.flag(name)?,
        }
    }
    Ok(Some(list))
}

impl Lzc {
    /// Makes a filesystem or volume. Mounts nothing.
    pub fn create(&self, name: &str, kind: Kind, props: &[(String, Prop)]) -> Result<(), Failed> {
        let failed = |errno| Failed::new("create", name, errno);
        let c_name = c_string(name).map_err(failed)?;
        let props = list_of(props).map_err(failed)?;
        let props = props.as_ref().map_or(null_mut(), Nvlist::as_ptr);
        let kind = match kind {
            Kind::Filesystem => lzc_dataset_type::LZC_DATSET_TYPE_ZFS,
            Kind::Volume => lzc_dataset_type::LZC_DATSET_TYPE_ZVOL,
        };
        // SAFETY: name and list live; no key is given.
        ok(unsafe { sys::lzc_create(c_name.as_ptr(), kind, props, null_mut(), 0) }).map_err(failed)
    }

    /// Makes `target` a clone of the snapshot `origin`. Mounts nothing.
    pub fn clone_snapshot(&self, target: &str, origin: &str, props: &[(String, Prop)]) -> Result<(), Failed> {
        let failed = |errno| Failed::new("clone", target, errno);
        let (target, origin) = (c_string(target).map_err(failed)?, c_string(origin).map_err(failed)?);
        let props = list_of(props).map_err(failed)?;
        let props = props.as_ref().map_or(null_mut(), Nvlist::as_ptr);
        // SAFETY: names and list live.
        ok(unsafe { sys::lzc_clone(target.as_ptr(), origin.as_ptr(), props) }).map_err(failed)
    }

    /// Makes a clone the owner of the history up to its origin; what it was cloned from becomes a clone of it.
    ///
    /// A snapshot of the same name on both is [`Errno::Exists`], with its name, the part after the `@`, in
    /// [`Failed::per_name`].
    pub fn promote(&self, name: &str) -> Result<(), Failed> {
        let failed = |errno| Failed::new("promote", name, errno);
        let c_name = c_string(name).map_err(failed)?;
        let mut conflict: [c_char; NAME_SIZE] = [0; NAME_SIZE];
        // SAFETY: the name lives; at most `conflict.len()` bytes are written.
        let rc = unsafe { sys::lzc_promote(c_name.as_ptr(), conflict.as_mut_ptr(), NAME_SIZE as c_int) };
        ok(rc).map_err(|errno| {
            conflict[NAME_SIZE - 1] = 0;
            // SAFETY: the last byte is a NUL.
            let conflict = unsafe { CStr::from_ptr(conflict.as_ptr()) }.to_string_lossy().into_owned();
            let per_name = (!conflict.is_empty()).then_some((conflict, errno)).into_iter().collect();
            Failed { per_name, ..failed(errno) }
        })
    }

    /// Renames a filesystem or volume within its pool, with all below it. What is mounted stays where it is.
    pub fn rename(&self, source: &str, target: &str) -> Result<(), Failed> {
        let failed = |errno| Failed::new("rename", source, errno);
        let (source, target) = (c_string(source).map_err(failed)?, c_string(target).map_err(failed)?);
        // SAFETY: the names live.
        ok(unsafe { sys::lzc_rename(source.as_ptr(), target.as_ptr()) }).map_err(failed)
    }

    /// Destroys a filesystem or volume, which has nothing below it: no snapshot, no child.
    pub fn destroy(&self, name: &str) -> Result<(), Failed> {
        let failed = |errno| Failed::new("destroy", name, errno);
        let name = c_string(name).map_err(failed)?;
        // SAFETY: the name lives.
        ok(unsafe { sys::lzc_destroy(name.as_ptr()) }).map_err(failed)
    }

    /// Takes a dataset back to its newest snapshot `DATASET@NAME`. Destroys no snapshot: [`Errno::Exists`] if there is a
    /// newer snapshot or bookmark.
    pub fn rollback_to(&self, dataset: &str, snapshot: &str) -> Result<(), Failed> {
        let failed = |errno| Failed::new("roll back", dataset, errno);
        let (dataset, snapshot) = (c_string(dataset).map_err(failed)?, c_string(snapshot).map_err(failed)?);
        // SAFETY: the names live.
        ok(unsafe { sys::lzc_rollback_to(dataset.as_ptr(), snapshot.as_ptr()) }).map_err(failed)
    }

    /// Loads the key of an encryption root: the 32 bytes that wrap its master key.
    pub fn load_key(&self, dataset: &str, key: &[u8]) -> Result<(), Failed> {
        let failed = |errno| Failed::new("load the key of", dataset, errno);
        let name = c_string(dataset).map_err(failed)?;
        let mut key = key.to_vec();
        let len = c_uint::try_from(key.len()).map_err(|_| failed(Errno::TooLong))?;
        // SAFETY: name and key live; the key is `len` bytes.
        let rc = unsafe { sys::lzc_load_key(name.as_ptr(), B_FALSE, key.as_mut_ptr(), len) };
        key.fill(0);
        ok(rc).map_err(failed)
    }

    /// Forgets the key of an encryption root, which must not be in use.
    pub fn unload_key(&self, dataset: &str) -> Result<(), Failed> {
        let failed = |errno| Failed::new("unload the key of", dataset, errno);
        let name = c_string(dataset).map_err(failed)?;
        // SAFETY: the name lives.
        ok(unsafe { sys::lzc_unload_key(name.as_ptr()) }).map_err(failed)
    }
}
