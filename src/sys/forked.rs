//! Work in a process of its own, which is left behind when it does not come to its end.
//!
//! What waits for a disk that hangs is ended by nothing, SIGKILL neither, and a process is there as long as one of its threads. Whoever is not to be held by it has to
//! be another process, and to share no pipe with it that somebody reads to its end.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::sys::interrupt;
use crate::sys::pipe::pipe;

/// How work ended.
#[derive(Debug)]
pub struct Ended {
    /// What it answered.
    pub code: u8,
    /// What it printed.
    pub output: Vec<u8>,
    /// What it said on standard error.
    pub errors: Vec<u8>,
}

/// Does `work` in a process of its own, with pipes as its standard output and error; `None` if it does not answer within `limit`: it is killed then, as far as that
/// is possible, and not waited for. It ends with this process.
///
/// # Errors
/// Another thread in this process, of which the other one would not know; an interruption; work that was killed.
pub fn forked(limit: Duration, work: impl FnOnce() -> u8) -> io::Result<Option<Ended>> {
    let until = Instant::now() + limit;
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("this process has other threads"));
    }
    let [output, errors, code] = [pipe(0)?, pipe(0)?, pipe(0)?];
    let parent = rustix::process::getpid();
    // SAFETY: this process has one thread, so no other one has a lock that nobody would give back in the new process.
    let pid = match unsafe { libc::fork() } {
        ..0 => return Err(io::Error::last_os_error()),
        0 => {
            let done = catch_unwind(AssertUnwindSafe(|| {
                let _ = begin(parent, output.1, errors.1).map(|()| (&code.1, work())).map(answer);
            }));
            // SAFETY: ends the new process without running anything of its parent's.
            unsafe { libc::_exit(i32::from(done.is_err())) }
        }
        pid => Pid::from_raw(pid).expect("a child's number is none of those"),
    };
    drop([output.1, errors.1, code.1]);
    let heard = hear([output.0, errors.0, code.0], until);
    if !matches!(heard, Ok(Some(_))) {
        let _ = kill_process(pid, Signal::KILL);
    }
    leave(pid);
    heard
}

/// The new process gets its place.
fn begin(parent: Pid, output: OwnedFd, errors: OwnedFd) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if rustix::process::getppid() != Some(parent) {
        return Err(io::Error::other("the parent is gone already"));
    }
    rustix::stdio::dup2_stdout(output)?;
    Ok(rustix::stdio::dup2_stderr(errors)?)
}

/// Last of all: all that was printed is in its pipe then.
fn answer((pipe, code): (&OwnedFd, u8)) -> io::Result<()> {
    std::fs::File::from(pipe.try_clone()?).write_all(&[code])
}

/// Reads all three until the last one has answered.
fn hear(pipes: [OwnedFd; 3], until: Instant) -> io::Result<Option<Ended>> {
    let mut heard = pipes.map(|pipe| Heard { pipe: pipe.into(), text: Vec::new(), is_over: false });
    for one in &heard {
        rustix::io::ioctl_fionbio(&one.pipe, true)?;
    }
    while heard[2].text.is_empty() && !heard[2].is_over {
        interrupt::check()?;
        let left = until.saturating_duration_since(Instant::now()).min(Duration::from_millis(500));
        if left.is_zero() {
            return Ok(None);
        }
        let time = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
        let open = heard.iter().filter(|one| !one.is_over);
        let mut all: Vec<_> = open.map(|one| PollFd::new(&one.pipe, PollFlags::IN)).collect();
        match poll(&mut all, Some(&time)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        // Its answer first: what it printed before is there then.
        heard.iter_mut().rev().try_for_each(Heard::read)?;
    }
    let [output, errors, code] = heard.map(|one| one.text);
    match code.first() {
        Some(&code) => Ok(Some(Ended { code, output, errors })),
        None => Err(io::Error::other("the process that was to find out has died")),
    }
}

struct Heard {
    pipe: std::fs::File,
    text: Vec<u8>,
    is_over: bool,
}

impl Heard {
    /// What is there, without waiting for more.
    fn read(&mut self) -> io::Result<()> {
        match self.pipe.read_to_end(&mut self.text) {
            Ok(_) => self.is_over = true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Waits for its end for a moment: whoever is held by a disk is left to init.
fn leave(pid: Pid) {
    for _ in 0..50 {
        if !matches!(waitpid(Some(pid), WaitOptions::NOHANG), Ok(None) | Err(Errno::INTR)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(4));
    }
}
