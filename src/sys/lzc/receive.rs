//! Receiving, never by force.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::null_mut;

use libzetta_zfs_core_sys::{self as sys, dmu_replay_record};
use nvpair_sys::boolean_t::{B_FALSE, Type as Boolean};

use super::dataset::{Prop, list_of};
use super::nvlist::{Nvlist, Value, c_string, ok};
use super::send::pointer;
use super::{Errno, Failed, Lzc};

/// The length of a record of a stream without its payload, in bytes. The first one is the BEGIN record.
pub const BEGIN_LEN: usize = 312;

/// What is to be received.
#[derive(Debug)]
pub struct Receive<'a> {
    /// The snapshot to make: `DATASET@NAME`.
    pub snapshot: &'a str,
    /// Properties as the source had them. For a dataset that is made: given with an increment, the first ones that a
    /// dataset ever gets take its local properties away (kernel-notes/zfs.md).
    pub received_props: &'a [(String, Prop)],
    /// Properties that are set here, over those received.
    pub local_props: &'a [(String, Prop)],
    /// The snapshot here that a stream of a clone builds on; `None` for any other.
    pub origin: Option<&'a str>,
    /// Keep what came if the stream is broken off, to go on from there.
    pub resumable: bool,
    /// The stream is a raw one (feature bit 24 of the BEGIN record).
    pub raw: bool,
    /// Where the stream comes from, behind its BEGIN record: a pipe or a file.
    pub fd: BorrowedFd<'a>,
    /// The BEGIN record, which was read already.
    pub begin: &'a [u8; BEGIN_LEN],
}

/// What was received.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Received {
    /// How many bytes were read behind the BEGIN record.
    pub read: u64,
    /// Properties that could not be set, and why. The snapshot is there all the same.
    pub property_errors: BTreeMap<String, Errno>,
}

/// The record where the library wants it.
#[repr(C, align(8))]
struct Aligned([u8; BEGIN_LEN]);

impl Lzc {
    /// Receives a stream into the snapshot `DATASET@NAME`: makes the dataset if the stream is full. Mounts nothing.
    ///
    /// Never forced: a dataset that has changed since the stream's base is [`Errno::Modified`]. Blocks until the stream
    /// is over; until its END record was read there is no snapshot.
    pub fn receive(&self, what: &Receive<'_>) -> Result<Received, Failed> {
        let failed = |errno| Failed::new("receive", what.snapshot, errno);
        let snapshot = c_string(what.snapshot).map_err(failed)?;
        let origin = what.origin.map(c_string).transpose().map_err(failed)?;
        let received_props = list_of(what.received_props).map_err(failed)?;
        let local_props = list_of(what.local_props).map_err(failed)?;
        let begin = Aligned(*what.begin);
        let (mut read, mut error_flags, mut action_handle) = (0, 0, 0);
        let mut errors = Nvlist::to_be_made();
        // SAFETY: names, lists and the record live; the numbers and the list are written once each; no key is given;
        // the record is as long and aligned as `dmu_replay_record_t`.
        let rc = unsafe {
            sys::lzc_receive_with_cmdprops(
                snapshot.as_ptr(),
                pointer_or_null(received_props.as_ref()),
                pointer_or_null(local_props.as_ref()),
                null_mut(),
                0,
                pointer(origin.as_ref()),
                B_FALSE, // Forced, it would destroy what is newer than the base.
                Boolean::from(what.resumable),
                Boolean::from(what.raw),
                what.fd.as_raw_fd(),
                (&raw const begin).cast::<dmu_replay_record>(),
                -1,
                &mut read,
                &mut error_flags,
                &mut action_handle,
                errors.slot(),
            )
        };
        let property_errors = errors.values().into_iter().filter_map(errno_of).collect();
        ok(rc).map_err(failed)?;
        Ok(Received { read, property_errors })
    }
}

/// Newer releases put other things than property errors into the list.
fn errno_of((name, value): (String, Value)) -> Option<(String, Errno)> {
    match value {
        Value::Int32(raw) => Some((name, Errno::from_raw(raw))),
        _ => None,
    }
}

/// No list where there is nothing to say: an empty list of received properties would still take back those that an
/// earlier stream brought.
fn pointer_or_null(list: Option<&Nvlist>) -> *mut nvpair_sys::nvlist_t {
    list.map_or(null_mut(), Nvlist::as_ptr)
}
