//! What files hold: writes, clones, sizes, holes, encoded extents, verity.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{FallocateFlags, OFlags, fstat, ftruncate};
use rustix::io::{Errno, pread, pwrite, pwritev};

use super::apply::Applier;
use super::decode::decode;
use super::fault::Fault;
use super::open::{open_regular, open_regular_beneath};
use super::plain::allocate_plainly;
use crate::endpoint::Error;
use crate::model::Guid;
use crate::stream::btrfs::{Command, Verity};
use crate::sys::file::{self, Encoding};

/// How many other subvolumes are kept open to clone from.
const SUBVOLUMES: usize = 32;
/// How much is copied at a time where nothing can be shared.
const COPY: usize = 1 << 20;
/// The most bytes that an encoded extent may decode to (`BTRFS_MAX_UNCOMPRESSED`).
const MAX_UNENCODED: u64 = 128 << 10;

type Key = ([u8; 16], u64);

/// What is cloned from.
#[derive(Debug, Default)]
pub(super) struct Sources {
    subvolumes: Vec<(Key, OwnedFd)>,
    last: Option<(Key, Vec<u8>, Rc<OwnedFd>)>,
    last_is_own: bool,
}

impl Sources {
    /// Closes what was opened by a path of the subvolume in the making.
    pub(super) fn forget_own(&mut self) {
        if self.last_is_own {
            self.last = None;
        }
    }
}

impl Applier<'_> {
    pub(super) fn write(&mut self, path: &[u8], offset: u64, data: &[u8]) -> Result<(), Fault> {
        let file = self.file(path)?;
        Ok(write_all(file.as_fd(), offset, data)?)
    }

    /// Writes `more` where `command`, a write, ended.
    pub(super) fn write_on(&mut self, command: &Command<'_>, more: &[&[u8]]) -> Result<(), Fault> {
        let Command::Write { path, offset, data } = *command else { return Ok(()) };
        let file = self.file(path)?;
        let mut at = offset + data.len() as u64;
        let mut slices: Vec<_> = more.iter().map(|data| IoSlice::new(data)).collect();
        let mut left = &mut slices[..];
        while !left.is_empty() {
            match pwritev(&*file, left, at) {
                Ok(0) => return Err(Errno::IO.into()),
                Ok(n) => {
                    at += n as u64;
                    IoSlice::advance_slices(&mut left, n);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    pub(super) fn truncate(&mut self, path: &[u8], size: u64) -> Result<(), Fault> {
        Ok(ftruncate(&*self.file(path)?, size)?)
    }

    pub(super) fn fallocate(&mut self, path: &[u8], mode: u32, offset: u64, size: u64) -> Result<(), Fault> {
        let mode = FallocateFlags::from_bits_retain(mode);
        let known = FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE;
        if !(mode - known).is_empty() {
            return Err(Fault::Hostile("an unknown kind of allocation"));
        }
        let file = self.file(path)?;
        match rustix::fs::fallocate(&*file, mode, offset, size) {
            Err(Errno::OPNOTSUPP) if self.plain => allocate_plainly(file.as_fd(), mode, offset, size),
            done => Ok(done?),
        }
    }

    pub(super) fn enable_verity(&mut self, path: &[u8], verity: &Verity<'_>) -> Result<(), Fault> {
        self.leave()?; // Nobody may have the file open for writing.
        let file = open_regular(&self.tree.place(path)?, OFlags::RDONLY)?;
        let Verity { algorithm, block_size, salt, signature } = *verity;
        match file::enable_verity(file.as_fd(), algorithm.into(), block_size, salt, signature) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()), // The base's already.
            Err(_) if self.plain => {
                self.ground.lacks("fs-verity", path);
                Ok(())
            }
            other => Ok(other?),
        }
    }

    /// Shares a range, or copies it where the kernel can not share it.
    pub(super) fn clone_range(&mut self, command: &Command<'_>) -> Result<(), Fault> {
        let Command::Clone { path, offset, len, uuid, ctransid, from, from_offset } = *command else {
            return Ok(());
        };
        let to = self.file(path)?;
        let own = (uuid, ctransid) == (self.origin.uuid, self.origin.ctransid);
        let same = own && from == path;
        let source = if same { Rc::clone(&to) } else { self.source((uuid, ctransid), own, from)? };
        if len == 0 {
            return Ok(()); // The call would take it for "all".
        }
        match file::clone_range(source.as_fd(), from_offset, len, to.as_fd(), offset) {
            Err(error) if can_not_share(&error) => {
                let overlap = same && offset.abs_diff(from_offset) < len;
                copy(source.as_fd(), from_offset, len, to.as_fd(), offset, overlap)
            }
            other => Ok(other?),
        }
    }

    /// The file `path` of the subvolume `key`, open for reading.
    fn source(&mut self, key: Key, own: bool, path: &[u8]) -> Result<Rc<OwnedFd>, Fault> {
        if let Some((last, of, file)) = &self.sources.last
            && (*last, &of[..]) == (key, path)
        {
            return Ok(Rc::clone(file));
        }
        let file = Rc::new(match own {
            true => open_regular(&self.tree.place(path)?, OFlags::RDONLY)?,
            false => match self.ground.kept(key.0, key.1, path)? {
                Some(kept) => kept,
                None => open_regular_beneath(self.subvolume(key)?, path)?,
            },
        });
        self.sources.last = Some((key, path.to_vec(), Rc::clone(&file)));
        self.sources.last_is_own = own;
        Ok(file)
    }

    fn subvolume(&mut self, key: Key) -> Result<BorrowedFd<'_>, Fault> {
        let held = &mut self.sources.subvolumes;
        let at = match held.iter().position(|(of, _)| *of == key) {
            Some(at) => at,
            None => {
                let found = self.ground.find(key.0, key.1)?.ok_or_else(|| missing_source(key))?;
                if held.len() == SUBVOLUMES {
                    held.remove(0);
                }
                held.push((key, found));
                held.len() - 1
            }
        };
        Ok(held[at].1.as_fd())
    }

    /// Writes an extent as it is; decodes it where this filesystem, kernel or user can not take it so.
    pub(super) fn encoded_write(&mut self, command: &Command<'_>) -> Result<(), Fault> {
        let Command::EncodedWrite {
            path,
            offset,
            unencoded_file_len,
            unencoded_len,
            unencoded_offset,
            compression,
            encryption,
            data,
        } = *command
        else {
            return Ok(());
        };
        if encryption != 0 {
            return Err(Fault::Hostile("encrypted data"));
        }
        let end = unencoded_offset.checked_add(unencoded_file_len);
        if unencoded_len > MAX_UNENCODED || end.is_none_or(|end| end > unencoded_len) {
            return Err(Fault::Hostile("an encoded extent whose lengths can not be"));
        }
        let file = self.file(path)?;
        if self.encoded_writes_work {
            let (len, compression) = (unencoded_file_len, compression.number());
            let encoding = Encoding { offset, len, unencoded_len, unencoded_offset, compression };
            match file::encoded_write(file.as_fd(), &encoding, data) {
                Ok(()) => return Ok(()),
                Err(error) => self.fall_back(error)?,
            }
        }
        let decoded = decode(compression, data, unencoded_len as usize).map_err(Fault::Hostile)?;
        let shown = unencoded_offset as usize..(unencoded_offset + unencoded_file_len) as usize;
        Ok(write_all(file.as_fd(), offset, &decoded[shown])?)
    }

    /// Whether decoding may help against `error`, and whether the call is worth another try.
    fn fall_back(&mut self, error: std::io::Error) -> Result<(), Fault> {
        match error.raw_os_error() {
            // This extent, or this file, can not be written so.
            Some(libc::EINVAL) => Ok(()),
            Some(libc::EPERM | libc::ENOTTY | libc::EOPNOTSUPP | libc::ENOSYS) => {
                self.encoded_writes_work = false;
                Ok(())
            }
            _ => Err(error.into()),
        }
    }
}

fn missing_source((uuid, ctransid): Key) -> Error {
    let source = Guid(uuid);
    Error::Refused {
        op: "receive",
        subject: "the stream".into(),
        why: format!(
            "it clones from the snapshot {source} (transaction {ctransid}), which is not here unchanged"
        ),
        hint: Some(format!("receive {source} first, or send without --clone-source")),
    }
}

fn can_not_share(error: &std::io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EXDEV | libc::EOPNOTSUPP | libc::ENOTTY | libc::ETXTBSY)
    )
}

pub(super) fn write_all(file: BorrowedFd<'_>, mut offset: u64, mut data: &[u8]) -> Result<(), Errno> {
    while !data.is_empty() {
        match pwrite(file, data, offset) {
            Ok(0) => return Err(Errno::IO),
            Ok(n) => {
                data = &data[n..];
                offset += n as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn copy(
    from: BorrowedFd<'_>,
    from_offset: u64,
    len: u64,
    to: BorrowedFd<'_>,
    to_offset: u64,
    overlap: bool,
) -> Result<(), Fault> {
    let end = from_offset.checked_add(len);
    if end.is_none_or(|end| end > fstat(from).map_or(0, |stat| stat.st_size as u64)) {
        return Err(Fault::Hostile("a clone from beyond the end of a file"));
    }
    if overlap || to_offset.checked_add(len).is_none_or(|end| end > i64::MAX as u64) {
        return Err(Fault::Hostile("a clone onto itself or beyond what a file can be"));
    }
    let mut buffer = vec![0; COPY.min(len as usize)];
    let mut done = 0;
    while done < len {
        let wanted = buffer.len().min((len - done) as usize);
        match pread(from, &mut buffer[..wanted], from_offset + done)? {
            0 => return Err(Fault::Hostile("a clone from beyond the end of a file")),
            n => {
                write_all(to, to_offset + done, &buffer[..n])?;
                done += n as u64;
            }
        }
    }
    Ok(())
}
