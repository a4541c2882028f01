//! Sending, and how much it would be.

use std::ffi::{CString, c_char};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::null;

use libzetta::zfs::ZfsEngine;
use libzetta_zfs_core_sys::{self as sys, lzc_send_flags};

use super::nvlist::{c_string, ok};
use super::snapshot::{check_names, failed};
use super::{Errno, Failed, Lzc};

/// How a stream is made. Fixed for a whole chain of increments: to change `large_block` within one loses data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SendFlags {
    /// Small blocks lie within the record that points to them. Not with `raw`, not onto an encrypted target.
    pub embedded: bool,
    /// Blocks of more than 128 KiB come as they are.
    pub large_block: bool,
    /// Compressed blocks come as they lie on disk.
    pub compressed: bool,
    /// Blocks come exactly as they lie on disk, encrypted ones encrypted: no key is needed.
    pub raw: bool,
    /// What a receive that was broken off has got so far is sent.
    pub saved: bool,
}

impl SendFlags {
    fn bits(self) -> lzc_send_flags::Type {
        [
            (self.embedded, lzc_send_flags::LZC_SEND_FLAG_EMBED_DATA),
            (self.large_block, lzc_send_flags::LZC_SEND_FLAG_LARGE_BLOCK),
            (self.compressed, lzc_send_flags::LZC_SEND_FLAG_COMPRESS),
            (self.raw, lzc_send_flags::LZC_SEND_FLAG_RAW),
            (self.saved, lzc_send_flags::LZC_SEND_FLAG_SAVED),
        ]
        .into_iter()
        .filter_map(|(is_set, bit)| is_set.then_some(bit))
        .sum()
    }
}

impl Lzc {
    /// Sends `snapshot` to `fd`, in full or from a snapshot or bookmark of its history.
    ///
    /// `fd` must be a pipe's writing end: OpenZFS 2.1 writes to nothing else. Blocks until all is sent.
    pub fn send(
        &self,
        snapshot: &str,
        from: Option<&str>,
        fd: BorrowedFd<'_>,
        flags: SendFlags,
    ) -> Result<(), Failed> {
        check_names("send", [snapshot].into_iter().chain(from))?;
        let flags = libzetta::zfs::SendFlags::from_bits_truncate(flags.bits());
        let sent = match from {
            None => self.zetta.send_full(snapshot, fd, flags),
            Some(from) => self.zetta.send_incremental(snapshot, from, fd, flags),
        };
        sent.map_err(failed("send", [snapshot].into_iter()))
    }

    /// Sends what is left of a stream that was broken off at `offset` of `object`, as a resume token says it.
    /// The rest is as for [`send`](Self::send).
    pub fn send_resume(
        &self,
        snapshot: &str,
        from: Option<&str>,
        fd: BorrowedFd<'_>,
        flags: SendFlags,
        (object, offset): (u64, u64),
    ) -> Result<(), Failed> {
        let failed = |errno| Failed::new("send", snapshot, errno);
        let (name, from) = names(snapshot, from).map_err(failed)?;
        let (name, from) = (name.as_ptr(), pointer(from.as_ref()));
        // SAFETY: the names live; the descriptor is open.
        let rc = unsafe { sys::lzc_send_resume(name, from, fd.as_raw_fd(), flags.bits(), object, offset) };
        ok(rc).map_err(failed)
    }

    /// About how many bytes [`send`](Self::send) would send: no bound. Slow if `from` is a bookmark.
    pub fn send_space(&self, snapshot: &str, from: Option<&str>, flags: SendFlags) -> Result<u64, Failed> {
        let failed = |errno| Failed::new("measure", snapshot, errno);
        let (name, from) = names(snapshot, from).map_err(failed)?;
        let mut space = 0;
        // SAFETY: the names live; one number is written.
        let rc =
            unsafe { sys::lzc_send_space(name.as_ptr(), pointer(from.as_ref()), flags.bits(), &mut space) };
        ok(rc).map_err(failed)?;
        Ok(space)
    }
}

fn names(snapshot: &str, from: Option<&str>) -> Result<(CString, Option<CString>), Errno> {
    Ok((c_string(snapshot)?, from.map(c_string).transpose()?))
}

/// `text` for as long as it lives, or null.
pub(super) fn pointer(text: Option<&CString>) -> *const c_char {
    text.map_or(null(), |text| text.as_ptr())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_are_the_bits_that_libzetta_names() {
        use libzetta::zfs::SendFlags as Zetta;
        let all = SendFlags { embedded: true, large_block: true, compressed: true, raw: true, saved: true };
        assert_eq!(Zetta::from_bits(all.bits()), Some(Zetta::all()));
        let raw = SendFlags { raw: true, ..SendFlags::default() };
        assert_eq!(Zetta::from_bits(raw.bits()), Some(Zetta::LZC_SEND_FLAG_RAW));
        assert_eq!(SendFlags::default().bits(), 0);
    }
}
