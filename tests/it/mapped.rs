//! A file in memory, shared with all who have it mapped or read it.
#![expect(unsafe_code, reason = "a mapping is memory that others change")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// All of a file, as long as it was when this was made. Who makes the file shorter lets go of this first.
pub struct Mapped {
    at: *mut u8,
    len: usize,
}

impl Mapped {
    pub fn new(file: &File) -> io::Result<Self> {
        let len = file.metadata()?.len() as usize;
        let (rights, null) = (libc::PROT_READ | libc::PROT_WRITE, std::ptr::null_mut());
        // SAFETY: the kernel chooses where; nothing else is there.
        let at = unsafe { libc::mmap(null, len, rights, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self { at: at.cast(), len }) }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn read(&self, at: u64, n: usize) -> Vec<u8> {
        let at = self.inside(at, n);
        let mut buffer = vec![0; n];
        // SAFETY: all of it is mapped, and nobody writes to it meanwhile.
        unsafe { std::ptr::copy_nonoverlapping(self.at.add(at), buffer.as_mut_ptr(), n) };
        buffer
    }

    pub fn write(&self, at: u64, data: &[u8]) {
        let at = self.inside(at, data.len());
        // SAFETY: all of it is mapped, and nobody reads or writes it meanwhile.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), self.at.add(at), data.len()) };
    }

    pub fn sync(&self) -> io::Result<()> {
        // SAFETY: it is mapped.
        match unsafe { libc::msync(self.at.cast(), self.len, libc::MS_SYNC) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn inside(&self, at: u64, n: usize) -> usize {
        let at = at as usize;
        assert!(at + n <= self.len, "{n} bytes at {at} of {}", self.len);
        at
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: it is mapped, and nobody has a reference into it.
        unsafe { libc::munmap(self.at.cast(), self.len) };
    }
}
