//! A function for each request of the kernel.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use fuser::{
    CopyFileRangeFlags, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenAccMode, OpenFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{RenameFlags, XattrFlags};

use super::words::{
    FOREVER, answer, caller, done, entry, errno, extended, file_attr, kind_of, nothing, set_time,
};
use super::{Adapter, Answer, Shared};
use crate::endpoint::overlay::fuse::nodes::ROOT;
use crate::endpoint::overlay::fuse::{Changing, Errno, New, SetAttr};

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let wanted = [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_POSIX_ACL,
            InitFlags::FUSE_DONT_MASK,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
        ];
        for flag in wanted {
            // What the kernel does not know it does without.
            let _ = config.add_capabilities(flag);
        }
        let passes = self.passthrough.load(Ordering::Relaxed)
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(2).is_ok();
        self.passthrough.store(passes, Ordering::Relaxed);
        if !passes {
            let _ = config.add_capabilities(InitFlags::FUSE_WRITEBACK_CACHE);
        }
        let _ = config.set_max_write(1 << 20);
        let _ = config.set_max_background(64);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let _after = self.linger.after();
        match self.tree.lookup(parent.0, name) {
            Err(Errno::NOENT) => reply.entry(&FOREVER, &nothing(), Generation(0)),
            result => entry(reply, result),
        }
    }

    fn forget(&self, _: &Request, node: INodeNo, times: u64) {
        let _after = self.linger.after();
        self.tree.forget(node.0, times);
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let _after = self.linger.after();
        answer!(reply, self.tree.attr(node.0), attr => reply.attr(&FOREVER, &file_attr(&attr)))
    }

    fn setattr(
        &self,
        request: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let _after = self.linger.after();
        let (atime, mtime) = (atime.map(set_time), mtime.map(set_time));
        // With nothing to set, the kernel means the bits that lend rights.
        let nothing = mode.is_none() && uid.is_none() && gid.is_none() && atime.is_none() && mtime.is_none();
        let drop_rights = if size.is_some() { request.uid() != 0 } else { nothing };
        let set = SetAttr { mode, uid, gid, size, atime, mtime, drop_rights };
        self.change(move |_, change| {
            answer!(reply, change.set_attr(node.0, &set), attr => reply.attr(&FOREVER, &file_attr(&attr)))
        });
    }

    fn readlink(&self, _: &Request, node: INodeNo, reply: ReplyData) {
        let _after = self.linger.after();
        answer!(reply, self.tree.readlink(node.0), target => reply.data(&target))
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let _after = self.linger.after();
        let new = match mode & libc::S_IFMT {
            libc::S_IFREG => New::File(mode & 0o7777),
            _ => New::Node(mode, rdev.into()),
        };
        let (name, caller) = (name.to_owned(), caller(request, umask));
        self.change(move |_, change| entry(reply, change.make(parent.0, &name, &new, &caller)));
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let _after = self.linger.after();
        let (name, caller, new) = (name.to_owned(), caller(request, umask), New::Dir(mode & 0o7777));
        self.change(move |_, change| entry(reply, change.make(parent.0, &name, &new, &caller)));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _after = self.linger.after();
        let name = name.to_owned();
        self.change(move |_, change| done(reply, change.unlink(parent.0, &name)));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _after = self.linger.after();
        let name = name.to_owned();
        self.change(move |_, change| done(reply, change.rmdir(parent.0, &name)));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let _after = self.linger.after();
        let new = New::Link(target.as_os_str().to_os_string());
        let (name, caller) = (name.to_owned(), caller(request, 0));
        self.change(move |_, change| entry(reply, change.make(parent.0, &name, &new, &caller)));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to_parent: INodeNo,
        to_name: &OsStr,
        flags: fuser::RenameFlags,
        reply: ReplyEmpty,
    ) {
        let _after = self.linger.after();
        let flags = RenameFlags::from_bits_retain(flags.bits());
        let (name, to_name) = (name.to_owned(), to_name.to_owned());
        self.change(move |_, change| {
            done(reply, change.rename((parent.0, &name), (to_parent.0, &to_name), flags));
        });
    }

    fn link(&self, _: &Request, node: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let _after = self.linger.after();
        let name = name.to_owned();
        self.change(move |_, change| entry(reply, change.link(node.0, parent.0, &name)));
    }

    fn open(&self, _: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let _after = self.linger.after();
        match flags.acc_mode() {
            OpenAccMode::O_RDONLY => opened(&self.shared, node, None, reply),
            _ => self.change(move |shared, change| opened(shared, node, Some(change), reply)),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let _after = self.linger.after();
        let (name, caller) = (name.to_owned(), caller(request, umask));
        self.change(move |shared, change| {
            answer!(reply, change.create(parent.0, &name, mode & 0o7777, &caller), (attr, file) => {
                let Answer { handle, backing } =
                    shared.enter(&mut shared.files(), file, true, |fd| reply.open_backing(fd));
                let (attr, none, cached) = (file_attr(&attr), Generation(0), FopenFlags::FOPEN_KEEP_CACHE);
                match backing {
                    Some(id) => {
                        reply.created_passthrough(&FOREVER, &attr, none, handle, FopenFlags::empty(), &id);
                    }
                    None => reply.created(&FOREVER, &attr, none, handle, cached),
                }
            })
        });
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let _after = self.linger.after();
        let file = self.file(handle);
        let tree = Arc::clone(&self.tree);
        self.helpers.run(move || {
            let read = file.and_then(|file| {
                let mut buffer = vec![0; size as usize];
                let len = tree.read(&file, &mut buffer, offset)?;
                buffer.truncate(len);
                Ok(buffer)
            });
            answer!(reply, read, data => reply.data(&data))
        });
    }

    fn write(
        &self,
        _: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let _after = self.linger.after();
        let file = self.file(handle);
        let drops_rights = flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let write = move |change: &Changing<'_>, data: &[u8]| {
            let written = file.and_then(|file| {
                change.write(&file, data, offset)?;
                if drops_rights { change.drop_rights(node.0) } else { Ok(()) }
            });
            answer!(reply, written, () => reply.written(data.len() as u32))
        };
        match self.tree.try_change() {
            Some(change) => write(&change, data),
            None => {
                let data = data.to_vec();
                self.change(move |_, change| write(change, &data));
            }
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        let _after = self.linger.after();
        // The kernel asks no more: nothing is held back until a file is closed.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        let _after = self.linger.after();
        self.close(handle);
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        if self.tree.options.volatile {
            return reply.error(fuser::Errno::ENOSYS); // The kernel takes that for done, and asks no more.
        }
        let (file, tree) = (self.file(handle), Arc::clone(&self.tree));
        self.helpers.run(move || done(reply, file.and_then(|file| tree.fsync(&file))));
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let _after = self.linger.after();
        let mut files = self.files();
        files.next += 1;
        reply.opened(FileHandle(files.next), FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn readdir(
        &self,
        _: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let _after = self.linger.after();
        let listing = match self.listing(node.0, handle, offset) {
            Ok(listing) => listing,
            Err(error) => return reply.error(errno(error)),
        };
        for at in offset..listing.len() as u64 + 2 {
            let full = match at {
                0 => reply.add(node, 1, FileType::Directory, "."),
                1 => reply.add(INodeNo(self.tree.parent(node.0)), 2, FileType::Directory, ".."),
                _ => {
                    let listed = &listing[at as usize - 2];
                    let number = self.tree.number_of(node.0, listed).unwrap_or(listed.ino);
                    let kind = kind_of(listed.kind.as_raw_mode());
                    reply.add(INodeNo(number), at + 1, kind, &listed.name)
                }
            };
            if full {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let _after = self.linger.after();
        let listing = match self.listing(node.0, handle, offset) {
            Ok(listing) => listing,
            Err(error) => return reply.error(errno(error)),
        };
        for at in offset..listing.len() as u64 + 2 {
            let own = [(node.0, "."), (self.tree.parent(node.0), "..")];
            let full = if let Some((number, name)) = own.get(at as usize) {
                // A directory that is gone has no parent to speak of.
                let Ok(attr) = self.tree.attr(*number).or_else(|_| self.tree.attr(ROOT)) else { break };
                reply.add(INodeNo(*number), at + 1, *name, &FOREVER, &file_attr(&attr), Generation(0))
            } else {
                let name = &listing[at as usize - 2].name;
                let Ok(attr) = self.tree.lookup(node.0, name) else { continue };
                let attr = file_attr(&attr);
                let full = reply.add(attr.ino, at + 1, name, &FOREVER, &attr, Generation(0));
                if full {
                    self.tree.forget(attr.ino.0, 1);
                }
                full
            };
            if full {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        let _after = self.linger.after();
        self.dirs.lock().unwrap_or_else(PoisonError::into_inner).remove(&handle.0);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        if self.tree.options.volatile {
            return reply.error(fuser::Errno::ENOSYS);
        }
        let tree = Arc::clone(&self.tree);
        self.helpers.run(move || done(reply, tree.sync()));
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        answer!(reply, self.tree.statfs(), fs => reply.statfs(
            fs.f_blocks,
            fs.f_bfree,
            fs.f_bavail,
            fs.f_files,
            fs.f_ffree,
            fs.f_bsize as u32,
            fs.f_namemax as u32,
            fs.f_frsize as u32,
        ))
    }

    fn setxattr(
        &self,
        _: &Request,
        node: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        let _after = self.linger.after();
        let flags = XattrFlags::from_bits_retain(flags as u32);
        let (name, value) = (name.to_owned(), value.to_owned());
        self.change(move |_, change| done(reply, change.set_xattr(node.0, &name, &value, flags)));
    }

    fn getxattr(&self, _: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let _after = self.linger.after();
        extended(reply, size, self.tree.xattr(node.0, name));
    }

    fn listxattr(&self, _: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        let _after = self.linger.after();
        let names = self.tree.xattrs(node.0);
        extended(
            reply,
            size,
            names.map(|names| names.into_iter().flat_map(|name| [name, vec![0]].concat()).collect()),
        );
    }

    fn removexattr(&self, _: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _after = self.linger.after();
        let name = name.to_owned();
        self.change(move |_, change| done(reply, change.remove_xattr(node.0, &name)));
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let _after = self.linger.after();
        let file = self.file(handle);
        self.change(move |_, change| {
            done(reply, file.and_then(|file| change.allocate(&file, mode as u32, offset, len)));
        });
    }

    fn lseek(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let _after = self.linger.after();
        let sought = self.file(handle).and_then(|file| {
            let offset = u64::try_from(offset).map_err(|_| Errno::NXIO)?;
            match whence {
                libc::SEEK_DATA => self.tree.seek(&file, offset, true),
                libc::SEEK_HOLE => self.tree.seek(&file, offset, false),
                _ => Err(Errno::INVAL),
            }
        });
        answer!(reply, sought, at => reply.offset(at as i64))
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        from: FileHandle,
        at: u64,
        _: INodeNo,
        to: FileHandle,
        target: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let _after = self.linger.after();
        let (from, to, shared) = (self.file(from), self.file(to), Arc::clone(&self.shared));
        self.helpers.run(move || {
            Shared::change(&shared, move |_, change| {
                let copied = from.and_then(|from| change.copy_range((&from, at), (&to?, target), len));
                answer!(reply, copied, len => reply.written(len as u32))
            });
        });
    }
}

/// Answers who opens a node; to write to it, within a `change`.
fn opened(shared: &Shared, node: INodeNo, change: Option<&Changing<'_>>, reply: ReplyOpen) {
    let opened = shared.open_node(node.0, change, |fd| reply.open_backing(fd));
    answer!(reply, opened, Answer { handle, backing } => match backing {
        Some(id) => reply.opened_passthrough(handle, FopenFlags::empty(), &id),
        None => reply.opened(handle, FopenFlags::FOPEN_KEEP_CACHE),
    })
}
