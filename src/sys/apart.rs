//! A thread with a table of descriptors of its own.
//!
//! What a killed process has open is closed when the last thread that shares its table has ended. A thread whose call to the
//! kernel reads a pipe to its end, with the writing end in the same table, would wait for itself, if the kernel forgets that
//! it was killed (kernel-notes/zfs.md). Apart from the others it comes to the end of the pipe as soon as they are gone.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::mpsc::{Receiver, Sender, channel};

use rustix::thread::UnshareFlags;

/// A descriptor on its way to the thread that is to be apart with it.
#[derive(Debug)]
pub struct Parting {
    fd: OwnedFd,
    told: Sender<bool>,
}

/// For the other threads: waits until it is theirs no more.
#[derive(Debug)]
pub struct Parted {
    number: RawFd,
    told: Receiver<bool>,
}

/// A descriptor that only this thread has, unless the machine lets no thread be apart.
#[derive(Debug)]
pub struct Alone {
    fd: OwnedFd, // Before the table.
    _table: Option<Table>,
    of_this_thread: PhantomData<*const ()>,
}

/// This thread's own table. Empty once it is dropped.
#[derive(Debug)]
struct Table;

/// Gives `fd` to a thread that is to be apart with it.
pub fn part(fd: OwnedFd) -> (Parting, Parted) {
    let (tell, told) = channel();
    let number = fd.as_raw_fd();
    (Parting { fd, told: tell }, Parted { number, told })
}

impl Parting {
    /// Leaves the other threads' table for one that has this descriptor, `kept` and standard error alone. The thread may own no
    /// other, and what it has is closed with the answer.
    ///
    /// It stays where it is for `None`, before Linux 5.9, and where `unshare` is not allowed.
    pub fn alone(self, kept: Option<&[RawFd]>) -> Alone {
        let number = self.fd.as_raw_fd();
        let all = |kept: &[RawFd]| [kept, &[number, 2]].concat();
        let table = kept.and_then(|kept| Table::with(all(kept)).ok());
        let _ = self.told.send(table.is_some()); // Nobody may want to know.
        Alone { fd: self.fd, _table: table, of_this_thread: PhantomData }
    }
}

impl Parted {
    /// Closes what the thread has for itself now.
    pub fn wait(self) {
        if self.told.recv() == Ok(true) {
            // SAFETY: of this table, the number is owned by nobody: its owner is of the thread's own table.
            drop(unsafe { OwnedFd::from_raw_fd(self.number) });
        }
    }
}

impl AsFd for Alone {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Table {
    /// One for this thread, with nothing but `kept`.
    fn with(mut kept: Vec<RawFd>) -> io::Result<Self> {
        close_range(u32::MAX, u32::MAX)?; // Closes nothing: it is asked whether it can be, before anything is changed.
        // SAFETY: owners of descriptors in other threads have them in the other table, and this thread owns none but those kept.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FILES) }?;
        let close = |first, last| close_range(first, last).expect("it could be closed a moment ago");
        kept.sort_unstable();
        let mut from = 0;
        for kept in kept.into_iter().filter_map(|fd| u32::try_from(fd).ok()) {
            if from < kept {
                close(from, kept - 1);
            }
            from = kept + 1;
        }
        close(from, u32::MAX);
        Ok(Self)
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // At the thread's end they would be closed only after it was joined: a lock would outlive its owner.
        let _ = close_range(0, u32::MAX);
    }
}

/// Closes all from the first to the last, of this thread's table.
fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: the call takes three numbers.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::pipe::pipe;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::thread;

    /// What a thread has open that is apart, but for what it reads that from.
    fn open_here() -> Vec<String> {
        let numbers = std::fs::read_dir("/proc/thread-self/fd").unwrap();
        let all: Vec<_> = numbers.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        let is_open = |number: &String| std::fs::read_link(format!("/proc/thread-self/fd/{number}")).is_ok();
        all.into_iter().filter(is_open).collect()
    }

    #[test]
    fn a_thread_apart_has_its_end_of_the_pipe_alone_and_nothing_of_others() {
        let (reader, writer) = pipe(4096).unwrap();
        let (kept, mut of_others) = pipe(4096).map(|(kept, other)| (kept, File::from(other))).unwrap();
        let (mut others, writer_of_others) = pipe(4096).map(|(end, other)| (File::from(end), other)).unwrap();
        let wanted = [reader.as_raw_fd(), kept.as_raw_fd()];
        let (parting, parted) = part(reader);
        let apart = thread::spawn(move || {
            let alone = parting.alone(Some(&wanted[1..]));
            let open = open_here();
            let mut text = Vec::new();
            let mut reader = File::from(alone.as_fd().try_clone_to_owned().unwrap());
            reader.read_to_end(&mut text).unwrap();
            (open, text)
        });
        parted.wait();
        // While it waits for more, what it has not is not held by it.
        drop(writer_of_others);
        assert_eq!(others.read(&mut [0]).unwrap(), 0);
        File::from(writer).write_all(b"text").unwrap();
        let (mut open, text) = apart.join().unwrap();
        assert_eq!(text, b"text");
        let mut expected: Vec<_> = [2, wanted[0], wanted[1]].map(|number| number.to_string()).into();
        open.sort();
        expected.sort();
        assert_eq!(open, expected);
        // What it kept is nobody's any more but ours.
        drop(kept);
        assert_eq!(of_others.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn whoever_writes_notices_that_the_thread_has_ended() {
        for kept in [Some(&[][..]), None] {
            let (reader, writer) = pipe(4096).unwrap();
            let (parting, parted) = part(reader);
            let apart = thread::spawn(move || drop(parting.alone(kept)));
            parted.wait();
            apart.join().unwrap();
            assert_eq!(File::from(writer).write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        }
    }
}
