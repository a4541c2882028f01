//! Whole reads and writes at an offset, and copying that shares storage where it can.

use std::io::IoSliceMut;
use std::os::fd::BorrowedFd;

use rustix::io::ReadWriteFlags;

use super::{Errno, Fallible};

/// Reads until `buffer` is full or the file ends; returns how much there was.
pub fn read_full(fd: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> Fallible<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match rustix::io::pread(fd, &mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Reads `len` bytes, or until the file ends, if all of them are in memory.
pub fn read_cached(fd: BorrowedFd<'_>, len: usize, offset: u64) -> Option<Vec<u8>> {
    let mut buffer = vec![0; len];
    let mut done = 0;
    while done < len {
        let mut rest = [IoSliceMut::new(&mut buffer[done..])];
        match rustix::io::preadv2(fd, &mut rest, offset + done as u64, ReadWriteFlags::NOWAIT) {
            Ok(0) => break,
            Ok(n) => done += n,
            // It is not, or the filesystem does not tell.
            Err(_) => return None,
        }
    }
    buffer.truncate(done);
    Some(buffer)
}

/// Writes all of `data`.
pub fn write_all(fd: BorrowedFd<'_>, data: &[u8], offset: u64) -> Fallible<()> {
    let mut done = 0;
    while done < data.len() {
        match rustix::io::pwrite(fd, &data[done..], offset + done as u64) {
            Ok(0) => return Err(Errno::NOSPC),
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Copies up to `len` bytes; returns how many there were.
pub fn copy(from: BorrowedFd<'_>, at: u64, to: BorrowedFd<'_>, target: u64, len: u64) -> Fallible<u64> {
    let mut done = 0;
    while done < len {
        let (mut from_at, mut to_at) = (at + done, target + done);
        let chunk = usize::try_from(len - done).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(from, Some(&mut from_at), to, Some(&mut to_at), chunk) {
            Ok(0) => break,
            Ok(n) => done += n as u64,
            Err(Errno::INTR) => {}
            Err(_) => return Ok(done + copy_through(from, at + done, to, target + done, len - done)?),
        }
    }
    Ok(done)
}

fn copy_through(from: BorrowedFd<'_>, at: u64, to: BorrowedFd<'_>, target: u64, len: u64) -> Fallible<u64> {
    let mut buffer = vec![0; len.min(256 << 10) as usize];
    let mut done = 0;
    while done < len {
        let want = buffer.len().min((len - done) as usize);
        let n = read_full(from, &mut buffer[..want], at + done)?;
        write_all(to, &buffer[..n], target + done)?;
        done += n as u64;
        if n < want {
            break;
        }
    }
    Ok(done)
}
