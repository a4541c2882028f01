//! The clocks that processes' beginnings, and notices to systemd, are told by.

use std::io;
use std::time::Duration;

/// Since the machine was started, with the time that it slept. As `/proc/PID/stat` counts, also where `/proc/uptime` is a container's own.
pub fn since_boot() -> io::Result<Duration> {
    read(libc::CLOCK_BOOTTIME)
}

/// The clock that nobody sets, as systemd counts.
pub fn monotonic() -> io::Result<Duration> {
    read(libc::CLOCK_MONOTONIC)
}

fn read(clock: libc::clockid_t) -> io::Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one timespec, which outlives it.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}
