//! Children of this process: how they end with it, and what they may run on.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::Signal;
use rustix::thread::CpuSet;

/// Has the command killed when this thread ends, and run on these processors only; none named: on all.
pub fn bind(command: &mut Command, cpus: &[usize]) {
    let parent = rustix::process::getpid();
    let mut set = CpuSet::new();
    cpus.iter().for_each(|&cpu| set.set(cpu));
    let pinned = !cpus.is_empty();
    let setup = move || -> io::Result<()> {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if rustix::process::getppid() != Some(parent) {
            return Err(io::Error::other("the parent is gone already"));
        }
        if pinned {
            rustix::thread::sched_setaffinity(None, &set)?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec it calls prctl, getppid and sched_setaffinity, which are async-signal-safe, and allocates nothing.
    unsafe { command.pre_exec(setup) };
}

/// Leaves the session and the terminal of whoever started this process, lets others go first, and closes every descriptor but
/// the first three.
pub fn go_to_the_background() -> io::Result<()> {
    rustix::process::nice(10)?;
    // It fails only if this process leads its group, and then that is its own.
    let _ = rustix::process::setsid();
    // SAFETY: closes descriptors that nothing in this process owns yet: it is called first of all.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
