//! Pipes as large as the kernel allows.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// What a pipe that carries a stream is enlarged to, in bytes. Larger ones do not make a send faster, they only leave
/// the cache of the processor (kernel-notes/btrfs-send.md).
pub const STREAM_PIPE: usize = 1 << 20;

/// A pipe that is closed on exec: its reading end, then its writing end. Enlarged to `size` bytes as far as possible.
pub fn pipe(size: usize) -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    enlarge(&writer, size);
    Ok((reader, writer))
}

/// Enlarges the pipe to `size` bytes, or to what an unprivileged user may have where that is less; answers the size
/// that it got. `None` if `fd` is no pipe or stays as it was: that is slower, never an error.
pub fn enlarge(fd: impl AsFd, size: usize) -> Option<usize> {
    let allowed = || {
        let text = std::fs::read_to_string("/proc/sys/fs/pipe-max-size").ok()?;
        text.trim().parse::<usize>().ok().filter(|&allowed| allowed < size)
    };
    fcntl_setpipe_size(&fd, size).ok().or_else(|| fcntl_setpipe_size(&fd, allowed()?).ok())
}

/// A pipe's reading end, emptied without holding up its writer.
///
/// Copying out of a pipe holds its lock, and the writer spins on it. So its pages are moved into a second pipe first,
/// which nobody else uses, and copied out of that (kernel-notes/btrfs-send.md).
#[derive(Debug)]
pub struct Basin {
    source: OwnedFd,
    inlet: OwnedFd,
    outlet: File,
    len: usize, // What is in the second pipe.
}

impl Basin {
    /// Reads what comes out of `source`, which must be a pipe.
    pub fn new(source: OwnedFd) -> io::Result<Self> {
        let (outlet, inlet) = pipe(STREAM_PIPE)?;
        Ok(Self { source, inlet, outlet: outlet.into(), len: 0 })
    }
}

impl Read for Basin {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.len == 0 {
            self.len = splice(&self.source, None, &self.inlet, None, STREAM_PIPE, SpliceFlags::empty())?;
        }
        let wanted = buf.len().min(self.len);
        if wanted == 0 {
            return Ok(0); // The second pipe's writing end is our own: reading it empty would wait for ever.
        }
        let len = self.outlet.read(&mut buf[..wanted])?;
        self.len -= len;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::fcntl_getpipe_size;
    use std::io::Write;

    #[test]
    fn a_pipe_is_enlarged_and_what_is_no_pipe_is_left_alone() {
        let (reader, _writer) = pipe(256 << 10).unwrap();
        assert_eq!(fcntl_getpipe_size(&reader).unwrap(), 256 << 10);
        assert_eq!(enlarge(std::fs::File::open("/dev/null").unwrap(), STREAM_PIPE), None);
    }

    #[test]
    fn a_basin_gives_what_was_written_and_then_the_end() {
        let (reader, writer) = pipe(64 << 10).unwrap();
        let expected: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        let mut basin = Basin::new(reader).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut writer = File::from(writer);
                for piece in expected.chunks(7919) {
                    writer.write_all(piece).unwrap();
                }
            });
            assert_eq!(basin.read(&mut []).unwrap(), 0);
            let mut got = Vec::new();
            basin.read_to_end(&mut got).unwrap();
            assert!(got == expected);
        });
        assert_eq!(basin.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn dropping_a_basin_breaks_the_pipe() {
        let (reader, writer) = pipe(64 << 10).unwrap();
        let mut writer = File::from(writer);
        writer.write_all(b"some").unwrap();
        let mut basin = Basin::new(reader).unwrap();
        assert_eq!(basin.read(&mut [0; 2]).unwrap(), 2);
        drop(basin);
        assert_eq!(writer.write(b"more").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
