//! A file's data: one file, or blocks of an upper one over what lies below.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FallocateFlags, SeekFrom};

use super::map::Map;
use super::{Errno, Fallible, io};

/// Where the bytes of a file come from.
#[derive(Debug)]
pub enum Source {
    /// All of it is in one file.
    Whole(OwnedFd),
    /// Some blocks are here, the others below.
    Parts(Parts),
}

/// A sparse file with a map, and the file below it.
#[derive(Debug)]
pub struct Parts {
    /// The file that has some of the blocks. Its length is the length of the whole.
    pub here: OwnedFd,
    /// Which ones; none if there is no map.
    pub map: Option<Map>,
    /// The others.
    pub below: Box<Source>,
}

impl Source {
    /// The topmost file.
    pub fn top(&self) -> BorrowedFd<'_> {
        match self {
            Self::Whole(file) => file.as_fd(),
            Self::Parts(parts) => parts.here.as_fd(),
        }
    }

    /// The length in bytes.
    pub fn len(&self) -> Fallible<u64> {
        Ok(rustix::fs::fstat(self.top())?.st_size as u64)
    }

    /// Reads into `buffer` until it is full or the file ends.
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> Fallible<usize> {
        match self {
            Self::Whole(file) => io::read_full(file.as_fd(), buffer, offset),
            Self::Parts(parts) => parts.read(buffer, offset),
        }
    }

    /// Where data, or a hole, is next. ENXIO: nowhere.
    pub fn seek(&self, offset: u64, data: bool) -> Fallible<u64> {
        match self {
            Self::Whole(file) => rustix::fs::seek(file, whence(offset, data)),
            Self::Parts(parts) => parts.seek(offset, data),
        }
    }

    /// Writes all of `data`.
    pub fn write(&mut self, data: &[u8], offset: u64) -> Fallible<()> {
        match self {
            Self::Whole(file) => io::write_all(file.as_fd(), data, offset),
            Self::Parts(parts) => parts.write(data, offset),
        }
    }

    /// Sets the length.
    pub fn truncate(&mut self, len: u64) -> Fallible<()> {
        rustix::fs::ftruncate(self.top(), len)?;
        match self {
            Self::Parts(Parts { map: Some(map), .. }) => map.cut(len),
            _ => Ok(()),
        }
    }

    /// fallocate(2).
    pub fn allocate(&mut self, mode: FallocateFlags, offset: u64, len: u64) -> Fallible<()> {
        match self {
            Self::Whole(file) => rustix::fs::fallocate(file, mode, offset, len),
            Self::Parts(parts) => parts.allocate(mode, offset, len),
        }
    }
}

fn whence(offset: u64, data: bool) -> SeekFrom {
    if data { SeekFrom::Data(offset) } else { SeekFrom::Hole(offset) }
}

impl Parts {
    fn has(&self, block: u64) -> bool {
        self.map.as_ref().is_some_and(|map| map.has(block))
    }

    fn shift(&self) -> u32 {
        self.map.as_ref().map_or(16, Map::shift)
    }

    /// How far below still counts.
    fn counts(&self) -> u64 {
        self.map.as_ref().map_or(u64::MAX, Map::counts)
    }

    /// The end of the run of blocks beginning at `offset` that are all here, or all below; never beyond `end`.
    fn run(&self, offset: u64, end: u64) -> (bool, u64) {
        let shift = self.shift();
        let mut block = offset >> shift;
        let here = self.has(block);
        while (block + 1) << shift < end && self.has(block + 1) == here {
            block += 1;
        }
        (here, ((block + 1) << shift).min(end))
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> Fallible<usize> {
        let len = rustix::fs::fstat(&self.here)?.st_size as u64;
        let end = len.min(offset + buffer.len() as u64);
        let mut at = offset;
        while at < end {
            let (here, until) = self.run(at, end);
            let part = &mut buffer[(at - offset) as usize..(until - offset) as usize];
            if here {
                let n = io::read_full(self.here.as_fd(), part, at)?;
                part[n..].fill(0);
            } else {
                self.read_below(part, at)?;
            }
            at = until;
        }
        Ok(end.saturating_sub(offset) as usize)
    }

    /// Fills `buffer` with what is below, and zeros beyond what counts of it.
    fn read_below(&self, buffer: &mut [u8], offset: u64) -> Fallible<()> {
        let wanted = self.counts().saturating_sub(offset).min(buffer.len() as u64) as usize;
        let n = self.below.read(&mut buffer[..wanted], offset)?;
        buffer[n..].fill(0);
        Ok(())
    }

    /// The map, which a file that is written to has.
    fn map(&mut self) -> Fallible<&mut Map> {
        self.map.as_mut().ok_or(Errno::BADF)
    }

    fn write(&mut self, data: &[u8], offset: u64) -> Fallible<()> {
        let end = offset + data.len() as u64;
        if data.is_empty() {
            return Ok(());
        }
        let shift = self.shift();
        let (first, last) = (offset >> shift, (end - 1) >> shift);
        let head = self.fill_of(first, offset, end)?;
        let tail = if last == first { Fill::default() } else { self.fill_of(last, offset, end)? };
        if head.is_empty() && tail.is_empty() {
            io::write_all(self.here.as_fd(), data, offset)?;
        } else {
            let after = if last == first { &head.after } else { &tail.after };
            let whole = [head.before.as_slice(), data, after.as_slice()].concat();
            let before = if head.before.is_empty() { offset } else { first << shift };
            // What lies in front of the data in the last block is data: only the first one has a `before`.
            io::write_all(self.here.as_fd(), &whole, before)?;
        }
        self.map()?.set(first, last + 1)
    }

    /// What of `block` must be copied for it to be here once `from..to` is written.
    fn fill_of(&self, block: u64, from: u64, to: u64) -> Fallible<Fill> {
        if self.has(block) {
            return Ok(Fill::default());
        }
        let shift = self.shift();
        let len = rustix::fs::fstat(&self.here)?.st_size as u64;
        let (start, end) = (block << shift, ((block + 1) << shift).min(len.min(self.counts())));
        let part = |from: u64, to: u64| {
            let mut bytes = vec![0; to.saturating_sub(from) as usize];
            self.read_below(&mut bytes, from)?;
            Fallible::Ok(bytes)
        };
        let before = part(start, from.max(start))?;
        Ok(Fill { before, after: part(to.max(start), end)? })
    }

    /// Brings the blocks of `from..to` here.
    pub fn bring(&mut self, from: u64, to: u64) -> Fallible<()> {
        let shift = self.shift();
        let len = rustix::fs::fstat(&self.here)?.st_size as u64;
        let to = to.min(len).min(self.counts());
        let mut block = from >> shift;
        while block << shift < to {
            if !self.has(block) {
                let start = block << shift;
                self.bring_block(start, ((block + 1) << shift).min(len).min(self.counts()))?;
                self.map()?.set(block, block + 1)?;
            }
            block += 1;
        }
        Ok(())
    }

    fn bring_block(&self, start: u64, end: u64) -> Fallible<()> {
        if self.below.seek(start, true).map_or(true, |data| data >= end) {
            return Ok(()); // A hole stays one.
        }
        let mut bytes = vec![0; (end - start) as usize];
        self.read_below(&mut bytes, start)?;
        io::write_all(self.here.as_fd(), &bytes, start)
    }

    fn allocate(&mut self, mode: FallocateFlags, offset: u64, len: u64) -> Fallible<()> {
        let end = offset.checked_add(len).ok_or(Errno::FBIG)?;
        if mode.intersects(FallocateFlags::COLLAPSE_RANGE | FallocateFlags::INSERT_RANGE) {
            self.bring(0, u64::MAX)?;
            rustix::fs::fallocate(&self.here, mode, offset, len)?;
            return self.map()?.cut(0);
        }
        if !mode.intersects(FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE) {
            return rustix::fs::fallocate(&self.here, mode, offset, len);
        }
        let shift = self.shift();
        let aligned = |at: u64| at & ((1 << shift) - 1) == 0;
        if !aligned(offset) {
            self.bring(offset, offset + 1)?;
        }
        if !aligned(end) {
            self.bring(end, end + 1)?;
        }
        rustix::fs::fallocate(&self.here, mode, offset, len)?;
        let counted = self.counts();
        self.map()?.set(offset >> shift, end.min(counted).div_ceil(1 << shift))
    }

    fn seek(&self, offset: u64, data: bool) -> Fallible<u64> {
        let len = rustix::fs::fstat(&self.here)?.st_size as u64;
        if offset >= len {
            return Err(Errno::NXIO);
        }
        let mut at = offset;
        while at < len {
            let (here, until) = self.run(at, len);
            let found = match here {
                true => found(rustix::fs::seek(&self.here, whence(at, data)), until)?,
                false => self.seek_below(at, until, data)?,
            };
            if let Some(found) = found {
                return Ok(found);
            }
            at = until;
        }
        if data { Err(Errno::NXIO) } else { Ok(len) }
    }

    fn seek_below(&self, at: u64, until: u64, data: bool) -> Fallible<Option<u64>> {
        let ends = self.counts().min(self.below.len()?).min(until);
        if at < ends
            && let Some(found) = found(self.below.seek(at, data), ends)?
        {
            return Ok(Some(found));
        }
        Ok((!data && ends < until).then_some(ends.max(at)))
    }
}

/// What is found in front of `until`.
fn found(sought: Fallible<u64>, until: u64) -> Fallible<Option<u64>> {
    match sought {
        Ok(at) => Ok((at < until).then_some(at)),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What of a block is copied around what is written.
#[derive(Debug, Default)]
struct Fill {
    before: Vec<u8>,
    after: Vec<u8>,
}

impl Fill {
    fn is_empty(&self) -> bool {
        self.before.is_empty() && self.after.is_empty()
    }
}
