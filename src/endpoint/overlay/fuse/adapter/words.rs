//! What fuser and the filesystem call the same things.

use std::time::{Duration, SystemTime};

use fuser::{
    FileAttr, FileType, Generation, INodeNo, ReplyEmpty, ReplyEntry, ReplyXattr, Request, TimeOrNow,
};

use crate::endpoint::overlay::fuse::{Attr, Caller, Errno, Fallible, Time};

/// What the kernel was told stays true until it is told otherwise.
pub(super) const FOREVER: Duration = Duration::from_secs(1 << 31);

pub(super) fn errno(error: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(error.raw_os_error())
}

/// Answers with what a call returned.
macro_rules! answer {
    ($reply:ident, $result:expr, $value:pat => $ok:expr) => {
        match $result {
            Ok($value) => $ok,
            Err(error) => $reply.error(errno(error)),
        }
    };
}
pub(super) use answer;

pub(super) fn caller(request: &Request, umask: u32) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), umask }
}

/// A time that no clock here can hold is told as the beginning of 1970.
pub(super) fn time(seconds: i64, nanoseconds: u32) -> SystemTime {
    let (epoch, whole) = (SystemTime::UNIX_EPOCH, Duration::from_secs(seconds.unsigned_abs()));
    let base = if seconds < 0 { epoch.checked_sub(whole) } else { epoch.checked_add(whole) };
    base.and_then(|base| base.checked_add(Duration::from_nanos(nanoseconds.into()))).unwrap_or(epoch)
}

pub(super) fn set_time(time: TimeOrNow) -> Time {
    let TimeOrNow::SpecificTime(time) = time else { return Time::Now };
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => Time::At(since.as_secs() as i64, since.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            match before.subsec_nanos() {
                0 => Time::At(-(before.as_secs() as i64), 0),
                nanoseconds => Time::At(-(before.as_secs() as i64) - 1, 1_000_000_000 - nanoseconds),
            }
        }
    }
}

pub(super) fn kind_of(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        _ => FileType::RegularFile,
    }
}

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    let stat = &attr.stat;
    FileAttr {
        ino: INodeNo(attr.number),
        size: stat.st_size as u64,
        blocks: attr.blocks,
        atime: time(stat.st_atime as _, stat.st_atime_nsec as _),
        mtime: time(stat.st_mtime as _, stat.st_mtime_nsec as _),
        ctime: time(stat.st_ctime as _, stat.st_ctime_nsec as _),
        crtime: SystemTime::UNIX_EPOCH,
        kind: kind_of(attr.mode),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: attr.rdev as u32,
        blksize: stat.st_blksize as u32,
        flags: 0,
    }
}

/// What the kernel takes for a name that is not there, and remembers.
pub(super) fn nothing() -> FileAttr {
    let epoch = SystemTime::UNIX_EPOCH;
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: epoch,
        mtime: epoch,
        ctime: epoch,
        crtime: epoch,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

pub(super) fn entry(reply: ReplyEntry, result: Fallible<Attr>) {
    answer!(reply, result, attr => reply.entry(&FOREVER, &file_attr(&attr), Generation(0)))
}

pub(super) fn done(reply: ReplyEmpty, result: Fallible<()>) {
    answer!(reply, result, () => reply.ok())
}

pub(super) fn extended(reply: ReplyXattr, size: u32, result: Fallible<Vec<u8>>) {
    match result {
        Err(error) => reply.error(errno(error)),
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(fuser::Errno::ERANGE),
        Ok(value) => reply.data(&value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_are_told_as_they_are_set() {
        for (seconds, nanoseconds) in [(-1, 0), (-1, 999_999_999), (-2, 1), (0, 0), (5, 7)] {
            let Time::At(s, n) = set_time(TimeOrNow::SpecificTime(time(seconds, nanoseconds))) else {
                panic!("a time became now")
            };
            assert_eq!((s, n), (seconds, nanoseconds));
        }
    }
}
