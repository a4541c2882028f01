//! Children of this process: how they end with it, and what they may run on.

use std::io;
use std::os::fd::OwnedFd;
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

/// Has the command started as nobody's child, in a session of its own: what is spawned ends at once, and is to be waited for. In a
/// user namespace it may mount as this process may, and deal with its own files as root does.
pub fn orphan(command: &mut Command) {
    let setup = || -> io::Result<()> {
        keep_over_exec()?;
        rustix::process::setsid()?;
        // SAFETY: this process has one thread, for it was forked a moment ago, and calls only what is async-signal-safe afterwards.
        match unsafe { libc::fork() } {
            ..0 => Err(io::Error::last_os_error()),
            0 => Ok(()),
            // SAFETY: ends this process without running anything of its parent's.
            1.. => unsafe { libc::_exit(0) },
        }
    };
    // SAFETY: between fork and exec it calls capget, capset, prctl, setsid, fork and _exit, and allocates nothing.
    unsafe { command.pre_exec(setup) };
}

/// A user's process loses at exec what it has been given in a namespace, unless it says otherwise.
fn keep_over_exec() -> io::Result<()> {
    use rustix::thread::CapabilitySet;
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let mut sets = rustix::thread::capabilities(None)?;
    for kept in [CapabilitySet::SYS_ADMIN, CapabilitySet::DAC_OVERRIDE, CapabilitySet::FOWNER] {
        if sets.permitted.contains(kept) {
            sets.inheritable |= kept;
            rustix::thread::set_capabilities(None, sets)?;
            rustix::thread::configure_capability_in_ambient_set(kept, true)?;
        }
    }
    Ok(())
}

/// Leaves the session and the terminal of whoever started this process, lets others go first, and closes every descriptor but
/// the first three.
pub fn go_to_the_background() -> io::Result<()> {
    rustix::process::nice(10)?;
    // It fails only if this process leads its group, and then that is its own.
    let _ = rustix::process::setsid();
    close_all_but_standard()
}

/// Closes every descriptor but the first three. To be called before anything was opened.
pub fn close_all_but_standard() -> io::Result<()> {
    // SAFETY: closes descriptors that nothing in this process owns yet: it is called first of all.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Has the command lead a session and a process group of its own: no terminal's signals reach it. Of signals it gets all, even if this
/// thread has them blocked; of files, none that this process was handed, such as a lock of whoever started it.
pub fn own_session(command: &mut Command) {
    let setup = || -> io::Result<()> {
        rustix::process::setsid()?;
        // SAFETY: closes nothing: what is open is closed at exec.
        let result =
            unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
        if result < 0 && io::Error::last_os_error().raw_os_error() != Some(libc::ENOSYS) {
            return Err(io::Error::last_os_error());
        }
        Ok(nix::sys::signal::SigSet::empty().thread_set_mask()?)
    };
    // SAFETY: between fork and exec it calls setsid, close_range and pthread_sigmask, which are async-signal-safe, and allocates nothing.
    unsafe { command.pre_exec(setup) };
}

/// Has the command, and whatever it starts in turn, have `file` open.
pub fn keep_open(command: &mut Command, file: OwnedFd) {
    let setup = move || Ok(rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty())?);
    // SAFETY: between fork and exec it calls fcntl, which is async-signal-safe, and allocates nothing.
    unsafe { command.pre_exec(setup) };
}
