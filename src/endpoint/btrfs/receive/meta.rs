//! Owners, modes, times, extended attributes and flags.

use std::os::fd::OwnedFd;

use rustix::fs::{
    FileType, IFlags, Mode, OFlags, Timespec, Timestamps, XattrFlags, fsetxattr, ioctl_getflags,
    ioctl_setflags, openat,
};
use rustix::io::Errno;

use super::apply::Applier;
use super::fault::Fault;
use super::frozen::FROZEN;
use super::open::CAPABILITY;
use super::target::{Target, kind};
use super::tree::NOCOMP;
use crate::endpoint::Error;
use crate::stream::btrfs::Time;

const SET_ID: u32 = libc::S_ISUID | libc::S_ISGID;
const COMPRESSION: &[u8] = b"btrfs.compression";

/// btrfs's flags of an inode on disk (fs/btrfs/btrfs_inode.h), and those of the ioctl that stand for them.
const FLAGS: [(u64, IFlags); 9] = [
    (1 << 1, IFlags::NOCOW),
    (1 << 3, IFlags::from_bits_retain(NOCOMP)),
    (1 << 5, IFlags::SYNC),
    (1 << 6, IFlags::IMMUTABLE),
    (1 << 7, IFlags::APPEND),
    (1 << 8, IFlags::NODUMP),
    (1 << 9, IFlags::NOATIME),
    (1 << 10, IFlags::DIRSYNC),
    (1 << 11, IFlags::COMPRESSED),
];

impl Applier<'_> {
    pub(super) fn chmod(&mut self, path: &[u8], mode: u64) -> Result<(), Fault> {
        let mode = mode as u32 & 0o7777;
        if self.opened(path).and_then(|open| open.fresh).is_some_and(|fresh| fresh.mode == mode) {
            return Ok(());
        }
        let target = self.target(path)?;
        target.chmod(mode)?;
        self.guess_from(&target, mode)?;
        match self.opened(path).and_then(|open| open.fresh.as_mut()) {
            Some(fresh) => fresh.mode = mode,
            None => self.tree.look_again(path)?, // A set-group-id directory hands its group down.
        }
        Ok(())
    }

    /// Remembers what the next file or directory will probably get.
    fn guess_from(&mut self, target: &Target<'_>, mode: u32) -> Result<(), Fault> {
        if mode > 0o777 {
            return Ok(());
        }
        match target {
            Target::Root(_) => {}
            Target::File(_) => self.guess.file = mode,
            Target::At(_) if kind(&target.stat()?) == FileType::Directory => self.guess.dir = mode,
            Target::At(_) => {}
        }
        Ok(())
    }

    /// Sets the owners, and gives back what the kernel takes away with them: capabilities and set-id bits.
    pub(super) fn chown(&mut self, path: &[u8], uid: u64, gid: u64) -> Result<(), Fault> {
        let id = |id: u64| match u32::try_from(id) {
            Ok(id) if id != u32::MAX => Ok(id),
            _ => Err(Fault::Hostile("an owner that can not be")),
        };
        let (uid, gid) = (id(uid)?, id(gid)?);
        if self.opened(path).and_then(|o| o.fresh).is_some_and(|f| (f.uid, f.gid) == (uid, gid)) {
            return Ok(());
        }
        let target = self.target(path)?;
        let stat = target.stat()?;
        let is_file = kind(&stat) == FileType::RegularFile;
        let capability = if is_file { target.xattr(CAPABILITY)? } else { None };
        target.chown(uid, gid)?;
        if is_file && stat.st_mode & SET_ID != 0 {
            target.chmod(stat.st_mode)?;
        }
        if let Some(capability) = capability {
            target.set_xattr(CAPABILITY, &capability)?;
        }
        if let Some(fresh) = self.opened(path).and_then(|open| open.fresh.as_mut()) {
            (fresh.uid, fresh.gid) = (uid, gid);
        }
        Ok(())
    }

    pub(super) fn utimes(&mut self, path: &[u8], atime: Time, mtime: Time) -> Result<(), Fault> {
        if path.is_empty() {
            self.root_times = Some((atime, mtime));
        }
        let target = self.target(path)?;
        target.set_times(&timestamps(atime, mtime))?;
        if self.plain && !holds_times(&target, mtime)? {
            self.ground.lacks("times of that date or precision", path);
        }
        Ok(())
    }

    /// Sets the root's times once more: a sender does not always after the last name was made there, and says nothing of
    /// them if only temporary names were.
    pub(super) fn set_root_times(&mut self) -> Result<(), Fault> {
        match self.root_times {
            Some((atime, mtime)) => Ok(self.target(b"")?.set_times(&timestamps(atime, mtime))?),
            None => Ok(()),
        }
    }

    pub(super) fn set_xattr(&mut self, path: &[u8], name: &[u8], data: &[u8]) -> Result<(), Fault> {
        if self.plain {
            return self.set_xattr_plainly(path, name, data);
        }
        match self.target(path)?.set_xattr(name, data) {
            // Nothing is amiss with the mount: the stream has forbidden it itself.
            Err(Errno::INVAL) if name == COMPRESSION && self.has_set_nocow && self.mount_takes(data) => {
                return Err(Fault::Hostile("compression of a file that it keeps from copy-on-write"));
            }
            Err(Errno::INVAL) if name == COMPRESSION && is_compression(data) => {
                return Err(uncompressible(path, data).into());
            }
            done => done?,
        }
        self.after_xattr(path, name, Some(data))
    }

    /// Whether a new file outside of what the stream makes may have that compression property.
    fn mount_takes(&self, compression: &[u8]) -> bool {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        openat(self.ground.staging(), ".", flags, Mode::RUSR)
            .and_then(|file| fsetxattr(&file, COMPRESSION, compression, XattrFlags::empty()))
            .is_ok()
    }

    pub(super) fn remove_xattr(&mut self, path: &[u8], name: &[u8]) -> Result<(), Fault> {
        match self.target(path)?.remove_xattr(name) {
            // It may be one that the filesystem could not hold.
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM) if self.plain => {}
            done => done?,
        }
        self.after_xattr(path, name, None)
    }

    pub(super) fn after_xattr(&mut self, path: &[u8], name: &[u8], data: Option<&[u8]>) -> Result<(), Fault> {
        if let Some(open) = self.opened(path) {
            if name == CAPABILITY {
                open.capability = data.map(<[u8]>::to_vec);
            }
            if name.starts_with(b"system.") {
                open.fresh = None; // An ACL changes the mode.
            }
        }
        match name.starts_with(b"system.") || name.starts_with(b"btrfs.") {
            true => self.tree.look_again(path),
            false => Ok(()),
        }
    }

    /// Sets the flags, as far as the kernel lets anybody; immutable and append-only wait for the end.
    pub(super) fn fileattr(&mut self, path: &[u8], stored: u64) -> Result<(), Fault> {
        let target = self.target(path)?;
        let stat = target.stat()?;
        if !matches!(kind(&stat), FileType::RegularFile | FileType::Directory) {
            return Ok(()); // No call reaches the flags of the others.
        }
        let wanted =
            FLAGS.iter().filter(|(bit, _)| stored & bit != 0).fold(IFlags::empty(), |all, f| all | f.1);
        if self.plain {
            return self.fileattr_plainly(path, stat.st_ino, wanted);
        }
        self.has_set_nocow |= wanted.contains(IFlags::NOCOW);
        let known = FLAGS.iter().fold(IFlags::empty(), |all, f| all | f.1);
        let file = self.open_for_flags(path)?;
        let now = ioctl_getflags(&file)?;
        if stat.st_ino != self.root_inode {
            self.frozen.wish(stat.st_ino, wanted & FROZEN)?;
        }
        let next = (now & known & FROZEN) | (wanted - FROZEN);
        if next != now & known {
            let property = target.xattr(COMPRESSION)?;
            ioctl_setflags(&file, next)?;
            // The flag brings the default algorithm with it.
            match property {
                Some(property) if next.contains(IFlags::COMPRESSED) => {
                    target.set_xattr(COMPRESSION, &property)?
                }
                _ => {}
            }
        }
        self.tree.look_again(path)
    }

    /// Opens a regular file or directory, which the caller knows it to be, for reading.
    pub(super) fn open_for_flags(&mut self, path: &[u8]) -> Result<OwnedFd, Fault> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match self.target(path)? {
            Target::Root(dir) => Ok(openat(&*dir, ".", flags, Mode::empty())?),
            Target::File(file) => Ok(file.try_clone()?),
            Target::At(place) => match openat(&*place.dir, place.name, flags, Mode::empty()) {
                Err(Errno::LOOP) => Err(Fault::Hostile("flags of a symbolic link")),
                other => Ok(other?),
            },
        }
    }
}

/// Whether the kernel takes `value` as the property wherever it takes one (fs/btrfs/props.c).
fn is_compression(value: &[u8]) -> bool {
    matches!(value, b"no" | b"none")
        || [&b"zlib"[..], b"lzo", b"zstd"].iter().any(|name| value.starts_with(name))
}

/// The file has no copy-on-write or no checksums, which no sender's file with the property lacks: the mount took them.
fn uncompressible(path: &[u8], value: &[u8]) -> Error {
    Error::Refused {
        op: "receive",
        subject: path.escape_ascii().to_string(),
        why: format!(
            "this mount does not take its compression property {} (mounted nodatacow or nodatasum)",
            value.escape_ascii()
        ),
        hint: Some("mount the target without nodatacow and nodatasum".into()),
    }
}

/// Whether what was set is what is there.
fn holds_times(target: &Target<'_>, mtime: Time) -> Result<bool, Errno> {
    let stat = target.stat()?;
    Ok((stat.st_mtime, stat.st_mtime_nsec as u32) == (mtime.sec, mtime.nsec))
}

fn timestamps(atime: Time, mtime: Time) -> Timestamps {
    let timespec = |time: Time| Timespec { tv_sec: time.sec, tv_nsec: time.nsec.into() };
    Timestamps { last_access: timespec(atime), last_modification: timespec(mtime) }
}
