//! Open files: reading, writing, allocating, copying.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rustix::fs::FallocateFlags;

use super::nodes::id_of;
use super::source::Source;
use super::tree::{Changing, Names, Options, Tree};
use super::{Errno, Fallible, io};

/// How much is copied at a time where the files' storage can not be shared.
const CHUNK: usize = 1 << 20;

/// The data of a node that is open.
#[derive(Debug)]
pub struct Data {
    pub(super) source: RwLock<Source>,
}

/// An open file. It stays what it is when the filesystem is reset.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The node.
    pub number: u64,
    pub(super) data: Arc<Data>,
    writable: bool,
}

impl Data {
    fn read(&self) -> RwLockReadGuard<'_, Source> {
        self.source.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Source> {
        self.source.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Opened {
    /// Acts on the one file that has all the data, if there is one.
    pub fn whole<T>(&self, act: impl FnOnce(BorrowedFd<'_>) -> T) -> Option<T> {
        match &*self.data.read() {
            Source::Whole(file) => Some(act(file.as_fd())),
            Source::Parts(_) => None,
        }
    }

    /// How many bytes it has; `None` if that can not be told.
    pub fn size(&self) -> Option<u64> {
        self.data.read().len().ok()
    }

    /// What [`Tree::read`] reads, if all of it is in memory: nobody waits for a disk.
    pub fn read_from_memory(&self, len: usize, offset: u64) -> Option<Vec<u8>> {
        match &*self.data.read() {
            Source::Whole(file) => io::read_cached(file.as_fd(), len, offset),
            Source::Parts(_) => None,
        }
    }
}

impl Tree {
    /// Opens a file; one that is to be written to is copied up.
    pub fn open_file(&self, number: u64, writable: bool) -> Fallible<Opened> {
        match writable {
            true => self.change().open_writable(number),
            false => self.names().open_file(number, false, &self.options),
        }
    }

    /// Whether a file is in the upper layer, or nowhere any more.
    pub fn is_upper(&self, number: u64) -> Fallible<bool> {
        let names = self.names();
        let node = names.nodes.get(number)?;
        Ok(node.upper)
    }

    /// Whether this is asked of a file for the first time.
    pub fn is_first_read(&self, number: u64) -> bool {
        self.names().nodes.get_mut(number).is_ok_and(|node| !std::mem::replace(&mut node.read, true))
    }

    /// Gives the file that was copied up from this node a node of its own; who has the old one open keeps what was below.
    ///
    /// Answers the names that a kernel must look up again.
    pub fn part(&self, number: u64) -> Fallible<Vec<(u64, OsString)>> {
        let mut names = self.names();
        let id = id_of(&names.spot(number)?.stat()?);
        names.nodes.assign_new(id);
        let node = names.nodes.get_mut(number)?;
        (node.upper, node.partial, node.data, node.opens, node.writers) = (false, None, None, 0, 0);
        let places = node.places.clone();
        names.nodes.lose_places(number);
        Ok(places)
    }

    /// The file is closed.
    pub fn release(&self, opened: &Opened) {
        let mut names = self.names();
        let Ok(node) = names.nodes.get_mut(opened.number) else { return };
        if !node.data.as_ref().is_some_and(|data| Arc::ptr_eq(data, &opened.data)) {
            return; // It was opened before a reset.
        }
        node.opens -= 1;
        node.writers -= u32::from(opened.writable);
        if node.opens == 0 {
            node.data = None;
            names.nodes.drop_unused(opened.number);
        }
    }

    /// Reads until `buffer` is full or the file ends.
    pub fn read(&self, file: &Opened, buffer: &mut [u8], offset: u64) -> Fallible<usize> {
        file.data.read().read(buffer, offset)
    }

    /// What somebody without rights of his own wrote to lends none.
    pub fn drop_rights(&self, number: u64) -> Fallible<()> {
        super::tree::drop_rights(&self.names().spot(number)?)
    }

    /// Writes a file's data to the disk, unless all is volatile.
    pub fn fsync(&self, file: &Opened) -> Fallible<()> {
        if self.options.volatile {
            return Ok(());
        }
        let source = file.data.read();
        rustix::fs::fsync(source.top())?;
        match &*source {
            Source::Parts(parts) => parts.map.iter().try_for_each(rustix::fs::fsync),
            Source::Whole(_) => Ok(()),
        }
    }

    /// Where data, or a hole, is next.
    pub fn seek(&self, file: &Opened, offset: u64, data: bool) -> Fallible<u64> {
        file.data.read().seek(offset, data)
    }
}

impl Changing<'_> {
    /// Opens a file that is to be written to: it is copied up.
    pub fn open_writable(&self, number: u64) -> Fallible<Opened> {
        self.names().open_file(number, true, &self.options)
    }

    /// Writes all of `data`.
    pub fn write(&self, file: &Opened, data: &[u8], offset: u64) -> Fallible<()> {
        if let Source::Whole(to) = &*file.data.read() {
            return io::write_all(to.as_fd(), data, offset);
        }
        file.data.write().write(data, offset)
    }

    /// fallocate(2).
    pub fn allocate(&self, file: &Opened, mode: u32, offset: u64, len: u64) -> Fallible<()> {
        let mode = FallocateFlags::from_bits(mode).ok_or(Errno::OPNOTSUPP)?;
        file.data.write().allocate(mode, offset, len)
    }

    /// Copies up to `len` bytes from one file to another, sharing storage where that can be. Returns how many.
    pub fn copy_range(
        &self,
        (from, at): (&Opened, u64),
        (to, target): (&Opened, u64),
        len: u64,
    ) -> Fallible<u64> {
        if Arc::ptr_eq(&from.data, &to.data) {
            if let Source::Whole(file) = &*to.data.read() {
                return io::copy(file.as_fd(), at, file.as_fd(), target, len.min(1 << 30));
            }
        } else if let (Source::Whole(from), Source::Whole(to)) = (&*from.data.read(), &*to.data.read()) {
            return io::copy(from.as_fd(), at, to.as_fd(), target, len.min(1 << 30));
        }
        let mut buffer = vec![0; CHUNK.min(usize::try_from(len).unwrap_or(CHUNK))];
        let mut done = 0;
        let limit = len.min(16 << 20);
        while done < limit {
            let want = buffer.len().min((limit - done) as usize);
            let n = from.data.read().read(&mut buffer[..want], at + done)?;
            to.data.write().write(&buffer[..n], target + done)?;
            done += n as u64;
            if n < want {
                break;
            }
        }
        Ok(done)
    }
}

impl Names {
    pub(super) fn open_file(&mut self, number: u64, writable: bool, options: &Options) -> Fallible<Opened> {
        if writable {
            self.copy_up(number, options)?;
            self.make_writable(number, options)?;
        }
        let data = match &self.nodes.get(number)?.data {
            Some(data) => Arc::clone(data),
            None => Arc::new(Data { source: RwLock::new(self.open_source(number)?) }),
        };
        Ok(self.opened(number, data, writable))
    }

    /// Notes that a node is open once more.
    pub(super) fn opened(&mut self, number: u64, data: Arc<Data>, writable: bool) -> Opened {
        if let Ok(node) = self.nodes.get_mut(number) {
            node.opens += 1;
            node.writers += u32::from(writable);
            node.data = Some(Arc::clone(&data));
        }
        Opened { number, data, writable }
    }

    /// Sets the length of a file that is in the upper layer.
    pub(super) fn truncate(&mut self, number: u64, size: u64) -> Fallible<()> {
        match &self.nodes.get(number)?.data {
            Some(data) => data.write().truncate(size),
            None => self.open_source(number)?.truncate(size),
        }
    }
}
