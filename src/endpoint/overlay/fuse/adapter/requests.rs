//! A function for each request of the kernel. One that can not be read is answered EIO: its reply is dropped.

use std::ffi::OsStr;
use std::sync::Arc;

use rustix::fs::{RenameFlags, XattrFlags};

use super::device::Reply;
use super::open::Access;
use super::wire::{Answer, Listing, Request, WRITE_KILL_SUIDGID, op, set_attr};
use super::{Adapter, Shared, wire};
use crate::endpoint::overlay::fuse::{Attr, Changing, Errno, Fallible, New, Opened};

/// Answers with what a call returned.
macro_rules! answer {
    ($reply:ident, $result:expr, $value:pat => $ok:expr) => {
        match $result {
            Ok($value) => $ok,
            Err(error) => $reply.error(error),
        }
    };
}

fn done(reply: Reply, result: Fallible<()>) {
    answer!(reply, result, () => reply.done())
}

fn entry(shared: &Shared, reply: Reply, result: Fallible<Attr>) {
    answer!(reply, result, attr => reply.answer(Answer::new().entry(&attr, shared.lasting(attr.number))))
}

fn attributes(shared: &Shared, reply: Reply, result: Fallible<Attr>) {
    answer!(reply, result, attr => {
        reply.answer(Answer::new().attributes(&attr, shared.lasting(attr.number)));
    })
}

fn extended(reply: Reply, size: u32, result: Fallible<Vec<u8>>) {
    match result {
        Err(error) => reply.error(error),
        Ok(value) if size == 0 => reply.answer(Answer::new().u32(value.len() as u32).u32(0)),
        Ok(value) if value.len() > size as usize => reply.error(Errno::RANGE),
        Ok(value) => reply.data(&value),
    }
}

impl Adapter {
    /// Does what is asked for.
    pub(super) fn dispatch(&self, request: Request<'_>, reply: Reply) {
        let op = request.op;
        let read = match op {
            op::FORGET | op::BATCH_FORGET => {
                reply.leave_unanswered();
                self.forget(request)
            }
            op::LOOKUP => self.lookup(request, reply),
            op::GETATTR => self.getattr(request, reply),
            op::SETATTR => self.setattr(request, reply),
            op::READLINK => self.readlink(request, reply),
            op::SYMLINK | op::MKNOD | op::MKDIR => self.make(request, reply),
            op::UNLINK => self.unlink(request, reply),
            op::RMDIR => self.rmdir(request, reply),
            op::RENAME | op::RENAME2 => self.rename(request, reply),
            op::LINK => self.link(request, reply),
            op::OPEN => self.open(request, reply),
            op::CREATE | op::TMPFILE => self.create(request, reply),
            op::READ => self.read(request, reply),
            op::WRITE => self.write(request, reply),
            op::STATFS => self.statfs(reply),
            op::RELEASE => self.release(request, reply),
            op::FSYNC => self.fsync(request, reply),
            op::SETXATTR => self.setxattr(request, reply),
            op::GETXATTR => self.getxattr(request, reply),
            op::LISTXATTR => self.listxattr(request, reply),
            op::REMOVEXATTR => self.removexattr(request, reply),
            op::OPENDIR => self.opendir(request, reply),
            op::READDIR | op::READDIRPLUS => self.readdir(request, reply),
            op::RELEASEDIR => self.releasedir(request, reply),
            op::FSYNCDIR => self.fsyncdir(reply),
            op::FALLOCATE => self.fallocate(request, reply),
            op::LSEEK => self.lseek(request, reply),
            op::COPY_FILE_RANGE => self.copy_file_range(request, reply),
            // The kernel asks no more, and does without, or itself. FLUSH: nothing is held back until a file is closed.
            _ => {
                reply.error(Errno::NOSYS);
                Ok(())
            }
        };
        if let Err(error) = read {
            tracing::warn!(op, %error, "a request that can not be read");
        }
    }

    fn lookup(&self, mut request: Request<'_>, reply: Reply) -> Fallible<()> {
        match self.tree.lookup(request.node, request.body.name()?) {
            Err(Errno::NOENT) => reply.answer(Answer::new().no_entry()),
            result => entry(&self.shared, reply, result),
        }
        Ok(())
    }

    fn forget(&self, mut request: Request<'_>) -> Fallible<()> {
        let body = &mut request.body;
        if request.op == op::FORGET {
            self.tree.forget(request.node, body.u64()?);
            return Ok(());
        }
        let (count, _) = (body.u32()?, body.u32()?);
        for _ in 0..count {
            self.tree.forget(body.u64()?, body.u64()?);
        }
        Ok(())
    }

    fn getattr(&self, request: Request<'_>, reply: Reply) -> Fallible<()> {
        attributes(&self.shared, reply, self.tree.attr(request.node));
        Ok(())
    }

    fn setattr(&self, mut request: Request<'_>, reply: Reply) -> Fallible<()> {
        let (node, set) = (request.node, set_attr(&mut request.body)?);
        self.change(move |shared, change| attributes(shared, reply, change.set_attr(node, &set)));
        Ok(())
    }

    fn readlink(&self, request: Request<'_>, reply: Reply) -> Fallible<()> {
        answer!(reply, self.tree.readlink(request.node), target => reply.data(&target));
        Ok(())
    }

    fn make(&self, mut request: Request<'_>, reply: Reply) -> Fallible<()> {
        let body = &mut request.body;
        let (umask, new, name) = match request.op {
            op::SYMLINK => {
                let name = body.name()?;
                (0, New::Link(body.name()?.to_owned()), name)
            }
            op::MKDIR => {
                let (mode, umask) = (body.u32()?, body.u32()?);
                (umask, New::Dir(mode & 0o7777), body.name()?)
            }
            _ => {
                let (mode, device, umask, _) = (body.u32()?, body.u32()?, body.u32()?, body.u32()?);
                let new = match mode & libc::S_IFMT {
                    libc::S_IFREG => New::File(mode & 0o7777),
                    _ => New::Node(mode, device.into()),
                };
                (umask, new, body.name()?)
            }
        };
        let (parent, name, caller) = (request.node, name.to_owned(), request.caller(umask));
        self.change(move |shared, change| entry(shared, reply, change.make(parent, &name, &new, &caller)));
        Ok(())
    }

    fn unlink(&self, mut request: Request<'_>, reply: Reply) -> Fallible<()> {
        let (parent, name) = (request.node, request.body.name()?.to_owned());
        self.change(move |_, change| done(reply, change.unlink(parent, &name)));
        Ok(())
    }

    fn rmdir(&self, mut request: Request<'_>, reply: Reply) -> Fallible<()> {
        let (parent, name) = (request.node, request.body.name()?.to_owned());
        self.change(move |_, change| done(reply, change.rmdir(parent, &name)));
        Ok(())
    }

    fn rename(&self, mut request: Request<'_>, reply: Reply) -> Fallible<()> {
        let body = &mut request.body;
        let to_parent = body.u64()?;
        let flags = match request.op {
            op::RENAME2 => (body.u32()?, body.u32()?).0,
            _ => 0,
        };
        let (parent, flags) = (request.node, RenameFlags::from_bits_retain(flags));
        let (name, to_name) = (body.name()?.to_owned(), body.name()?.to_owned());
        self.change(move |_, change| {
            done(reply, change.rename((parent, &name), (to_parent, &to_name), flags));
        });
        Ok(())
    }

    fn link(&self, mut request: Request<'_>, reply: Reply) -> Fallible<()> {
        let (node, parent) = (request.body.u64()?, request.node);
        let name = request.body.name()?.to_owned();
        self.change(move |shared, change| entry(shared, reply, change.link(node, parent, &name)));
        Ok(())
    }

    fn open(&self, mut request: Request<'_>, reply: Reply) -> Fallible<()> {
        let (node, flags) = (request.node, request.body.u32()? as i32);
        match access_of(flags) {
            Access::Read => opened(&self.shared, node, Access::Read, None, reply),
            access => self.change(move |shared, change| opened(shared, node, access, Some(change), reply)),
        }
        Ok(())
    }

    fn create(&self, mut request: Request<'_>, reply: Reply) -> Fallible<()> {
        let body = &mut request.body;
        let (flags, mode, umask, _) = (body.u32()? as i32, body.u32()? & 0o7777, body.u32()?, body.u32()?);
        let name = (request.op == op::CREATE).then(|| body.name().map(OsStr::to_owned)).transpose()?;
        let (parent, caller) = (request.node, request.caller(umask));
        self.change(move |shared, change| {
            let created = match name {
                Some(name) => change.create(parent, &name, mode, &caller),
                None => change.create_unnamed(parent, mode, &caller),
            };
            answer!(reply, created, (attr, file) => {
                let entered = shared.enter(&mut shared.files(), file, access_of(flags), true, |fd| reply.back(fd));
                let answer = Answer::new().entry(&attr, shared.lasting(attr.number));
                reply.answer(answer.opened(entered.handle, entered.way()));
            })
        });
        Ok(())
    }

    fn read(&self, mut request: Request<'_>, reply: Reply) -> Fallible<()> {
        let body = &mut request.body;
        let (handle, offset, size) = (body.u64()?, body.u64()?, body.u32()?.min(wire::MAX_WRITE));
        let (file, tree) = (self.file(handle), Arc::clone(&self.tree));
        if let Some(data) = file.as_ref().ok().and_then(|file| file.read_from_memory(size as usize, offset)) {
            reply.data(&data);
            return Ok(());
        }
        self.helpers.run(move || {
            let read = file.and_then(|file| {
                let mut buffer = vec![0; size as usize];
                let len = tree.read(&file, &mut buffer, offset)?;
                buffer.truncate(len);
                Ok(buffer)
            });
            answer!(reply, read, data => reply.data(&data))
        });
        Ok(())
    }

    fn write(&self, mut request: Request<'_>, reply: Reply) -> Fallible<()> {
        let (node, body) = (request.node, &mut request.body);
        let (handle, offset, size, flags) = (body.u64()?, body.u64()?, body.u32()?, body.u32()?);
        let (_lock, _flags, _) = (body.u64()?, body.u32()?, body.u32()?);
        let data = body.bytes(size)?;
        let file = self.file(handle);
        let write = move |change: &Changing<'_>, data: &[u8]| {
            let written = file.and_then(|file| {
                change.write(&file, data, offset)?;
                if flags & WRITE_KILL_SUIDGID != 0 { change.drop_rights(node) } else { Ok(()) }
            });
            answer!(reply, written, () => reply.answer(Answer::new().u32(data.len() as u32).u32(0)))
        };
        match self.tree.try_change() {
            Some(change) => write(&change, data),
            None => {
                let data = data.to_vec();
                self.change(move |_, change| write(change, &data));
            }
        }
        Ok(())
    }

    fn statfs(&self, reply: Reply) -> Fallible<()> {
        answer!(reply, self.tree.statfs(), fs => reply.answer(Answer::new().room(&fs)));
        Ok(())
    }

    fn release(&self, mut request: Request<'_>, reply: Reply) -> Fallible<()> {
        self.close(request.body.u64()?);
        reply.done();
        Ok(())
    }

    fn fsync(&self, mut request: Request<'_>, reply: Reply) -> Fallible<()> {
        if self.tree.options.volatile {
            reply.error(Errno::NOSYS); // The kernel takes that for done, and asks no more.
            return Ok(());
        }
        let (file, tree) = (self.file(request.body.u64()?), Arc::clone(&self.tree));
        self.helpers.run(move || done(reply, file.and_then(|file| tree.fsync(&file))));
        Ok(())
    }

    fn opendir(&self, request: Request<'_>, reply: Reply) -> Fallible<()> {
        let (handle, is_alone) = self.dirs().open(request.node);
        let flags = wire::KEEP_CACHE | if is_alone { wire::CACHE_DIR } else { 0 };
        reply.answer(Answer::new().u64(handle).u32(flags).u32(0));
        Ok(())
    }

    fn readdir(&self, mut request: Request<'_>, reply: Reply) -> Fallible<()> {
        let (handle, offset, size) = (request.body.u64()?, request.body.u64()?, request.body.u32()?);
        let node = request.node;
        let entries = match self.listing(node, handle, offset) {
            Ok(entries) => entries,
            Err(error) => {
                reply.error(error);
                return Ok(());
            }
        };
        let is_plus = request.op == op::READDIRPLUS;
        let mut page = if is_plus { Listing::plus(size) } else { Listing::new(size) };
        let own = [(node, "."), (self.tree.parent(node), "..")];
        let numbering = if is_plus && entries.told { None } else { self.tree.numbering(node).ok() };
        for at in offset..entries.listed.len() as u64 + 2 {
            let had_room = match own.get(at as usize) {
                Some((number, name)) => page.add(*number, at + 1, libc::S_IFDIR, OsStr::new(name)),
                None if is_plus && entries.told => {
                    let name = &entries.listed[at as usize - 2].name;
                    let Ok(attr) = self.tree.lookup(node, name) else { continue };
                    let had_room = page.add_with(&attr, self.lasting(attr.number), at + 1, name);
                    if !had_room {
                        self.tree.forget(attr.number, 1);
                    }
                    had_room
                }
                None => {
                    let listed = &entries.listed[at as usize - 2];
                    let found = numbering.as_ref().and_then(|of| self.tree.number_of(of, listed).ok());
                    let (number, kind) = found.unwrap_or((listed.ino, listed.kind.as_raw_mode()));
                    page.add(number, at + 1, kind, &listed.name)
                }
            };
            if !had_room {
                break;
            }
        }
        reply.answer(page.answer());
        Ok(())
    }

    fn releasedir(&self, mut request: Request<'_>, reply: Reply) -> Fallible<()> {
        self.dirs().close(request.body.u64()?);
        reply.done();
        Ok(())
    }

    fn fsyncdir(&self, reply: Reply) -> Fallible<()> {
        if self.tree.options.volatile {
            reply.error(Errno::NOSYS);
            return Ok(());
        }
        let tree = Arc::clone(&self.tree);
        self.helpers.run(move || done(reply, tree.sync()));
        Ok(())
    }

    fn setxattr(&self, mut request: Request<'_>, reply: Reply) -> Fallible<()> {
        let (node, body) = (request.node, &mut request.body);
        let (size, flags) = (body.u32()?, XattrFlags::from_bits_retain(body.u32()?));
        let (name, value) = (body.name()?.to_owned(), body.bytes(size)?.to_owned());
        self.change(move |_, change| done(reply, change.set_xattr(node, &name, &value, flags)));
        Ok(())
    }

    fn getxattr(&self, mut request: Request<'_>, reply: Reply) -> Fallible<()> {
        let (size, _) = (request.body.u32()?, request.body.u32()?);
        extended(reply, size, self.tree.xattr(request.node, request.body.name()?));
        Ok(())
    }

    fn listxattr(&self, mut request: Request<'_>, reply: Reply) -> Fallible<()> {
        let names = self.tree.xattrs(request.node);
        let listed = names.map(|names| names.into_iter().flat_map(|name| [name, vec![0]].concat()).collect());
        extended(reply, request.body.u32()?, listed);
        Ok(())
    }

    fn removexattr(&self, mut request: Request<'_>, reply: Reply) -> Fallible<()> {
        let (node, name) = (request.node, request.body.name()?.to_owned());
        self.change(move |_, change| done(reply, change.remove_xattr(node, &name)));
        Ok(())
    }

    fn fallocate(&self, mut request: Request<'_>, reply: Reply) -> Fallible<()> {
        let body = &mut request.body;
        let (handle, offset, len, mode) = (body.u64()?, body.u64()?, body.u64()?, body.u32()?);
        let file = self.file(handle);
        self.change(move |_, change| {
            done(reply, file.and_then(|file| change.allocate(&file, mode, offset, len)));
        });
        Ok(())
    }

    fn lseek(&self, mut request: Request<'_>, reply: Reply) -> Fallible<()> {
        let body = &mut request.body;
        let (handle, offset, whence) = (body.u64()?, body.u64()? as i64, body.u32()? as i32);
        let seek = |file: Opened| {
            let offset = u64::try_from(offset).map_err(|_| Errno::NXIO)?;
            match whence {
                libc::SEEK_DATA => self.tree.seek(&file, offset, true),
                libc::SEEK_HOLE => self.tree.seek(&file, offset, false),
                _ => Err(Errno::INVAL),
            }
        };
        answer!(reply, self.file(handle).and_then(seek), at => reply.answer(Answer::new().u64(at)));
        Ok(())
    }

    fn copy_file_range(&self, mut request: Request<'_>, reply: Reply) -> Fallible<()> {
        let body = &mut request.body;
        let (from, at, _node) = (body.u64()?, body.u64()?, body.u64()?);
        let (to, target, len) = (body.u64()?, body.u64()?, body.u64()?);
        let (from, to, shared) = (self.file(from), self.file(to), Arc::clone(&self.shared));
        self.helpers.run(move || {
            Shared::change(&shared, move |_, change| {
                let copied = from.and_then(|from| change.copy_range((&from, at), (&to?, target), len));
                answer!(reply, copied, len => reply.answer(Answer::new().u32(len as u32).u32(0)))
            });
        });
        Ok(())
    }
}

/// Answers who opens a node; to write to it, within a `change`.
fn opened(shared: &Shared, node: u64, access: Access, change: Option<&Changing<'_>>, reply: Reply) {
    let opened = shared.open_node(node, access, change, |fd| reply.back(fd));
    answer!(reply, opened, entered => {
        reply.answer(Answer::new().opened(entered.handle, entered.way()));
    });
}

/// What the flags of open(2) say.
fn access_of(flags: i32) -> Access {
    match flags & libc::O_ACCMODE {
        libc::O_RDONLY => Access::Read,
        libc::O_WRONLY => Access::Write,
        _ => Access::ReadWrite,
    }
}
