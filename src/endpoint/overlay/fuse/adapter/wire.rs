//! What a request of the kernel says, and what an answer looks like: `linux/fuse.h`, version 7.31 and later.
//!
//! Numbers are in the machine's own order. Nothing here does anything.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::StatVfs;

use crate::endpoint::overlay::fuse::{Attr, Caller, Errno, Fallible, SetAttr, Time};

/// The most bytes that a WRITE brings.
pub(super) const MAX_WRITE: u32 = 1 << 20;
/// How long the longest request can be: WRITE's data and what goes before.
pub(super) const LONGEST: usize = MAX_WRITE as usize + 4096;
/// How long a reply can be that is not data: the header, an entry and an open file.
pub(super) const SHORT: usize = 16 + 128 + 16;

/// What is asked for.
pub(super) mod op {
    pub(in super::super) const LOOKUP: u32 = 1;
    pub(in super::super) const FORGET: u32 = 2;
    pub(in super::super) const GETATTR: u32 = 3;
    pub(in super::super) const SETATTR: u32 = 4;
    pub(in super::super) const READLINK: u32 = 5;
    pub(in super::super) const SYMLINK: u32 = 6;
    pub(in super::super) const MKNOD: u32 = 8;
    pub(in super::super) const MKDIR: u32 = 9;
    pub(in super::super) const UNLINK: u32 = 10;
    pub(in super::super) const RMDIR: u32 = 11;
    pub(in super::super) const RENAME: u32 = 12;
    pub(in super::super) const LINK: u32 = 13;
    pub(in super::super) const OPEN: u32 = 14;
    pub(in super::super) const READ: u32 = 15;
    pub(in super::super) const WRITE: u32 = 16;
    pub(in super::super) const STATFS: u32 = 17;
    pub(in super::super) const RELEASE: u32 = 18;
    pub(in super::super) const FSYNC: u32 = 20;
    pub(in super::super) const SETXATTR: u32 = 21;
    pub(in super::super) const GETXATTR: u32 = 22;
    pub(in super::super) const LISTXATTR: u32 = 23;
    pub(in super::super) const REMOVEXATTR: u32 = 24;
    pub(in super::super) const OPENDIR: u32 = 27;
    pub(in super::super) const READDIR: u32 = 28;
    pub(in super::super) const RELEASEDIR: u32 = 29;
    pub(in super::super) const FSYNCDIR: u32 = 30;
    pub(in super::super) const CREATE: u32 = 35;
    pub(in super::super) const DESTROY: u32 = 38;
    pub(in super::super) const BATCH_FORGET: u32 = 42;
    pub(in super::super) const FALLOCATE: u32 = 43;
    pub(in super::super) const READDIRPLUS: u32 = 44;
    pub(in super::super) const RENAME2: u32 = 45;
    pub(in super::super) const LSEEK: u32 = 46;
    pub(in super::super) const COPY_FILE_RANGE: u32 = 47;
    pub(in super::super) const TMPFILE: u32 = 51;
}

/// How the kernel is to treat an open file: `FOPEN_*`.
pub(super) const KEEP_CACHE: u32 = 1 << 1;
/// As above: a directory's listing is kept.
pub(super) const CACHE_DIR: u32 = 1 << 3;
/// As above: data goes to the backing file.
pub(super) const PASSTHROUGH: u32 = 1 << 7;

/// WRITE takes away bits that lend rights.
pub(super) const WRITE_KILL_SUIDGID: u32 = 1 << 2;

/// What the kernel was told stays true until it is told otherwise: seconds.
const FOREVER: u64 = 1 << 31;

/// How long a node's attributes stay true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lasting {
    /// Until the kernel is told otherwise, or changes them itself.
    Long,
    /// No longer than the answer: somebody may store to the file through a mapping past this process, and the kernel does not notice.
    Not,
}

impl Lasting {
    fn seconds(self) -> u64 {
        match self {
            Self::Long => FOREVER,
            Self::Not => 0,
        }
    }
}

/// Which way the data of an open file goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Past this process, to this backing file.
    Past(u32),
    /// Through it; what the kernel has of it in memory is right, or is to be dropped.
    Through {
        /// Whether that is right.
        keeps_cache: bool,
    },
}

/// A request.
pub(super) struct Request<'a> {
    pub op: u32,
    pub unique: u64,
    /// The node that it is about.
    pub node: u64,
    pub uid: u32,
    pub gid: u32,
    pub body: Body<'a>,
}

impl<'a> Request<'a> {
    /// Reads the header. EIO: it is shorter than it says, or than a header.
    pub(super) fn parse(bytes: &'a [u8]) -> Fallible<Self> {
        let mut body = Body(bytes);
        let (len, op, unique, node) = (body.u32()?, body.u32()?, body.u64()?, body.u64()?);
        let (uid, gid, _pid, _extensions) = (body.u32()?, body.u32()?, body.u32()?, body.u32()?);
        if len as usize != bytes.len() {
            return Err(Errno::IO);
        }
        Ok(Self { op, unique, node, uid, gid, body })
    }

    pub(super) fn caller(&self, umask: u32) -> Caller {
        Caller { uid: self.uid, gid: self.gid, umask }
    }
}

/// What comes after the header, read from its beginning. EIO: it is too short.
pub(super) struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    pub(super) fn u32(&mut self) -> Fallible<u32> {
        let (word, rest) = self.0.split_first_chunk().ok_or(Errno::IO)?;
        self.0 = rest;
        Ok(u32::from_ne_bytes(*word))
    }

    pub(super) fn u64(&mut self) -> Fallible<u64> {
        let (word, rest) = self.0.split_first_chunk().ok_or(Errno::IO)?;
        self.0 = rest;
        Ok(u64::from_ne_bytes(*word))
    }

    /// Up to the next zero, which goes with it.
    pub(super) fn name(&mut self) -> Fallible<&'a OsStr> {
        let len = self.0.iter().position(|byte| *byte == 0).ok_or(Errno::IO)?;
        let (name, rest) = self.0.split_at(len);
        self.0 = &rest[1..];
        Ok(OsStr::from_bytes(name))
    }

    pub(super) fn bytes(&mut self, len: u32) -> Fallible<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len as usize).ok_or(Errno::IO)?;
        self.0 = rest;
        Ok(bytes)
    }
}

/// Reads SETATTR.
pub(super) fn set_attr(body: &mut Body<'_>) -> Fallible<SetAttr> {
    let (valid, _, _handle, size, _lock) = (body.u32()?, body.u32()?, body.u64()?, body.u64()?, body.u64()?);
    let (atime, mtime, _ctime) = (body.u64()? as i64, body.u64()? as i64, body.u64()?);
    let (atime_nsec, mtime_nsec, _, mode) = (body.u32()?, body.u32()?, body.u32()?, body.u32()?);
    let (_, uid, gid) = (body.u32()?, body.u32()?, body.u32()?);
    let has = |bit: u32| valid & 1 << bit != 0;
    let time = |set: u32, now: u32, seconds, nanoseconds| match (has(set), has(now)) {
        (false, _) => None,
        (true, true) => Some(Time::Now),
        (true, false) => Some(Time::At(seconds, nanoseconds)),
    };
    // With nothing to set, the kernel means the bits that lend rights.
    let nothing = valid & 0b11_1111 == 0;
    Ok(SetAttr {
        mode: has(0).then_some(mode),
        uid: has(1).then_some(uid),
        gid: has(2).then_some(gid),
        size: has(3).then_some(size),
        atime: time(4, 7, atime, atime_nsec),
        mtime: time(5, 8, mtime, mtime_nsec),
        drop_rights: nothing || has(11),
    })
}

/// What is answered, behind its header.
pub(super) struct Answer(Vec<u8>);

impl Answer {
    /// Leaves room for the header.
    pub(super) fn new() -> Self {
        let mut bytes = Vec::with_capacity(SHORT);
        bytes.resize(16, 0);
        Self(bytes)
    }

    pub(super) fn u32(mut self, word: u32) -> Self {
        self.0.extend_from_slice(&word.to_ne_bytes());
        self
    }

    pub(super) fn u64(mut self, word: u64) -> Self {
        self.0.extend_from_slice(&word.to_ne_bytes());
        self
    }

    /// What a node is: `fuse_attr`.
    fn attr(self, attr: &Attr) -> Self {
        let stat = &attr.stat;
        self.u64(attr.number)
            .u64(stat.st_size as u64)
            .u64(attr.blocks)
            .u64(stat.st_atime as u64)
            .u64(stat.st_mtime as u64)
            .u64(stat.st_ctime as u64)
            .u32(stat.st_atime_nsec as u32)
            .u32(stat.st_mtime_nsec as u32)
            .u32(stat.st_ctime_nsec as u32)
            .u32(attr.mode)
            .u32(attr.nlink)
            .u32(stat.st_uid)
            .u32(stat.st_gid)
            .u32(attr.rdev as u32)
            .u32(stat.st_blksize as u32)
            .u32(0)
    }

    /// The answer to GETATTR and SETATTR: `fuse_attr_out`.
    pub(super) fn attributes(self, attr: &Attr, lasting: Lasting) -> Self {
        self.u64(lasting.seconds()).u64(0).attr(attr)
    }

    /// A name's node: `fuse_entry_out`.
    pub(super) fn entry(self, attr: &Attr, lasting: Lasting) -> Self {
        self.u64(attr.number).u64(0).u64(FOREVER).u64(lasting.seconds()).u64(0).attr(attr)
    }

    /// A name that is not there, and is remembered as such.
    pub(super) fn no_entry(mut self) -> Self {
        self = self.u64(0).u64(0).u64(FOREVER).u64(0).u64(0);
        self.0.resize(self.0.len() + 88, 0);
        self
    }

    /// An open file: `fuse_open_out`.
    pub(super) fn opened(self, handle: u64, way: Way) -> Self {
        match way {
            Way::Past(id) => self.u64(handle).u32(PASSTHROUGH).u32(id),
            Way::Through { keeps_cache } => {
                self.u64(handle).u32(if keeps_cache { KEEP_CACHE } else { 0 }).u32(0)
            }
        }
    }

    /// How much room there is: `fuse_kstatfs`.
    pub(super) fn room(self, fs: &StatVfs) -> Self {
        let sizes = [fs.f_bsize, fs.f_namemax, fs.f_frsize, 0, 0, 0, 0, 0, 0, 0];
        let counts = [fs.f_blocks, fs.f_bfree, fs.f_bavail, fs.f_files, fs.f_ffree];
        let counted = counts.into_iter().fold(self, Self::u64);
        sizes.into_iter().fold(counted, |answer, size| answer.u32(size as u32))
    }

    /// The whole answer, with its header.
    pub(super) fn sealed(mut self, unique: u64, data: usize) -> Vec<u8> {
        let len = (self.0.len() + data) as u32;
        self.0[..16].copy_from_slice(&header(len, 0, unique));
        self.0
    }
}

/// The header of an answer: its length, what went wrong (as a positive number), and to which request.
pub(super) fn header(len: u32, error: i32, unique: u64) -> [u8; 16] {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&len.to_ne_bytes());
    header[4..8].copy_from_slice(&(-error).to_ne_bytes());
    header[8..].copy_from_slice(&unique.to_ne_bytes());
    header
}

/// A directory's entries, as far as there is room for.
pub(super) struct Listing {
    answer: Answer,
    limit: usize,
    plus: bool,
}

impl Listing {
    /// Room for `size` bytes.
    pub(super) fn new(size: u32) -> Self {
        let limit = 16 + size.min(MAX_WRITE) as usize;
        let mut answer = Answer(Vec::with_capacity(limit));
        answer.0.resize(16, 0);
        Self { answer, limit, plus: false }
    }

    /// As [`Self::new`], with room for what the kernel looks entries up by.
    pub(super) fn plus(size: u32) -> Self {
        Self { plus: true, ..Self::new(size) }
    }

    /// Adds an entry; `next` is where the listing goes on after it. Returns whether there was room.
    pub(super) fn add(&mut self, number: u64, next: u64, mode: u32, name: &OsStr) -> bool {
        // Where no node is named, the kernel looks nothing up.
        let before = if self.plus { Answer(vec![0; 128]) } else { Answer(Vec::new()) };
        self.push(&before, number, next, mode, name)
    }

    /// As [`Self::add`], with all that there is to know of it.
    pub(super) fn add_with(&mut self, attr: &Attr, lasting: Lasting, next: u64, name: &OsStr) -> bool {
        self.push(&Answer(Vec::new()).entry(attr, lasting), attr.number, next, attr.mode, name)
    }

    fn push(&mut self, before: &Answer, number: u64, next: u64, mode: u32, name: &OsStr) -> bool {
        let padded = name.len().next_multiple_of(8);
        if self.answer.0.len() + before.0.len() + 24 + padded > self.limit {
            return false;
        }
        let mut answer = std::mem::replace(&mut self.answer, Answer(Vec::new()));
        answer.0.extend_from_slice(&before.0);
        answer = answer.u64(number).u64(next).u32(name.len() as u32).u32((mode & libc::S_IFMT) >> 12);
        answer.0.extend_from_slice(name.as_bytes());
        answer.0.resize(answer.0.len() + padded - name.len(), 0);
        self.answer = answer;
        true
    }

    pub(super) fn answer(self) -> Answer {
        self.answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    fn request(op: u32, node: u64, body: &[u8]) -> Vec<u8> {
        let len = 40 + body.len() as u32;
        let head = [[len, op], [7, 0]].concat();
        let mut bytes: Vec<u8> = head.iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.extend(words(&[node]));
        bytes.extend([1000_u32, 100, 4242, 0].iter().flat_map(|word| word.to_ne_bytes()));
        bytes.extend(body);
        bytes
    }

    #[test]
    fn a_request_is_read_as_far_as_it_goes_and_no_further() {
        let bytes = request(op::SYMLINK, 9, b"name\0target\0");
        let Ok(mut request) = Request::parse(&bytes) else { panic!("not read") };
        assert_eq!((request.op, request.unique, request.node), (op::SYMLINK, 7, 9));
        let caller = request.caller(0o22);
        assert_eq!((caller.uid, caller.gid, caller.umask), (1000, 100, 0o22));
        assert_eq!(request.body.name(), Ok(OsStr::new("name")));
        assert_eq!(request.body.name(), Ok(OsStr::new("target")));
        assert_eq!(request.body.name(), Err(Errno::IO));
        assert_eq!(request.body.u32(), Err(Errno::IO));
        assert_eq!(request.body.u64(), Err(Errno::IO));
        assert_eq!(request.body.bytes(1), Err(Errno::IO));
        assert_eq!(request.body.bytes(0), Ok(&[][..]));
        for len in 0..bytes.len() {
            assert!(Request::parse(&bytes[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn what_is_set_is_what_the_bits_say() {
        let body = |valid: u32| {
            let mut body = words(&[valid.into(), 5, 4096, 0, -2_i64 as u64, 60, 70]);
            let rest = [1_u32, 2, 3, 0o100_644, 0, 11, 12, 0];
            body.extend(rest.iter().flat_map(|word| word.to_ne_bytes()));
            body
        };
        let read = |valid: u32| set_attr(&mut Body(&body(valid))).map(|set| format!("{set:?}"));
        let all = "SetAttr { mode: Some(33188), uid: Some(11), gid: Some(12), size: Some(4096), \
                   atime: Some(At(-2, 1)), mtime: Some(At(60, 2)), drop_rights: false }";
        let none = "SetAttr { mode: None, uid: None, gid: None, size: None, atime: None, mtime: None, drop_rights: true }";
        let times = "SetAttr { mode: None, uid: None, gid: None, size: None, atime: Some(Now), mtime: Some(Now), drop_rights: false }";
        let cut = "SetAttr { mode: None, uid: None, gid: None, size: Some(4096), atime: None, mtime: None, drop_rights: true }";
        for (valid, expected) in
            [(0b11_1111, all), (0, none), (0b1_1011_0000, times), (1 << 3 | 1 << 11, cut)]
        {
            assert_eq!(read(valid).as_deref(), Ok(expected), "{valid:b}");
        }
        assert!(set_attr(&mut Body(&body(0)[..80])).is_err());
    }

    #[test]
    fn a_listing_ends_where_there_is_no_room() {
        let mut listing = Listing::new(64);
        assert!(listing.add(1, 1, libc::S_IFDIR, OsStr::new(".")));
        assert!(listing.add(5, 2, libc::S_IFREG, OsStr::new("a name!!")));
        assert!(!listing.add(6, 3, libc::S_IFREG, OsStr::new("")));
        let bytes = listing.answer().sealed(3, 0);
        assert_eq!(bytes.len(), 16 + 32 + 32);
        assert_eq!(bytes[..16], header(80, 0, 3));
        let dot: Vec<u8> =
            [words(&[1, 1]), [1_u32, 4].iter().flat_map(|word| word.to_ne_bytes()).collect()].concat();
        assert_eq!(bytes[16..40], dot);
        assert_eq!(&bytes[40..48], b".\0\0\0\0\0\0\0");
        assert_eq!(&bytes[72..], b"a name!!");
    }

    #[test]
    fn answers_have_the_kernels_sizes() {
        let stat = rustix::fs::stat("/").expect("stat");
        let attr = Attr { number: 1, stat, mode: stat.st_mode, nlink: 1, rdev: 0, blocks: 8 };
        let fs = rustix::fs::statvfs("/").expect("statvfs");
        let sizes = [
            (Answer::new().attributes(&attr, Lasting::Long), 104),
            (Answer::new().entry(&attr, Lasting::Not), 128),
            (Answer::new().no_entry(), 128),
            (Answer::new().opened(1, Way::Past(3)), 16),
            (Answer::new().opened(1, Way::Through { keeps_cache: true }), 16),
            (Answer::new().room(&fs), 80),
        ];
        for (answer, size) in sizes {
            assert_eq!(answer.sealed(1, 0).len(), 16 + size);
        }
        assert_eq!(header(16, 2, 9)[4..8], (-2_i32).to_ne_bytes());
    }
}
