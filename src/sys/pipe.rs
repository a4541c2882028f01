//! Pipes as large as the kernel allows.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

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

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::fcntl_getpipe_size;

    #[test]
    fn a_pipe_is_enlarged_and_what_is_no_pipe_is_left_alone() {
        let (reader, _writer) = pipe(256 << 10).unwrap();
        assert_eq!(fcntl_getpipe_size(&reader).unwrap(), 256 << 10);
        assert_eq!(enlarge(std::fs::File::open("/dev/null").unwrap(), STREAM_PIPE), None);
    }
}
