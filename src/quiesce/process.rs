//! A process, told from others that get its number later.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::quiesce::command;
use crate::quiesce::pidfile::{self, Said};
use crate::sys::clock;

/// How much later than it was written a pidfile's process may have begun.
const SLACK: f64 = 2.0;
/// What the kernel counts in for programs (`USER_HZ`), whatever it counts in itself.
const TICKS_PER_SECOND: f64 = 100.0;
/// Of a process that is the kernel's own: `PF_KTHREAD`.
const OF_THE_KERNEL: u64 = 0x0020_0000;
/// Of a process that is about to be gone: `PF_EXITING`.
const ENDING: u64 = 4;

/// What a process that has not ended makes of SIGTERM, as far as the kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sigterm {
    /// It was sent, and waits to be heard.
    Pending,
    /// It may have been: the process hears it, and may have.
    Heard,
    /// Nothing comes of it: it is ignored, or has not been sent, as the process would have ended of it.
    Unheard,
}

impl Sigterm {
    /// What `/proc/PID/status` says.
    pub fn of_status(status: &str) -> Option<Self> {
        const TERM: u64 = 1 << (15 - 1);
        let has = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
            Some(u64::from_str_radix(line.trim(), 16).ok()? & TERM != 0)
        };
        Some(match (has("SigPnd")? || has("ShdPnd")?, has("SigCgt")? || has("SigBlk")?) {
            (true, _) => Self::Pending,
            (false, true) => Self::Heard, // What is blocked can be read of a descriptor.
            (false, false) => Self::Unheard,
        })
    }
}

/// One that was there once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pid: i32,
    began: u64, // In ticks since the machine was started.
    boot: String,
}

/// What is another one each time the machine starts.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// In ticks since the machine was started, rounded down.
pub fn now() -> Option<u64> {
    Some((clock::since_boot().ok()?.as_secs_f64() * TICKS_PER_SECOND) as u64)
}

/// How long ago such a tick was.
pub fn age(tick: u64) -> Option<std::time::Duration> {
    Some(
        clock::since_boot()
            .ok()?
            .saturating_sub(std::time::Duration::from_secs_f64(tick as f64 / TICKS_PER_SECOND)),
    )
}

impl Process {
    /// Whether it has begun at that tick or later.
    pub fn is_since(&self, tick: u64) -> bool {
        self.began >= tick
    }

    /// Its number.
    pub fn number(&self) -> i32 {
        self.pid
    }

    /// That of a number, if it is there.
    pub fn of(pid: i32) -> Option<Self> {
        let began = field(pid, 22)?;
        Some(Self { pid, began, boot: boot_id() })
    }

    /// The one that a pidfile's first line names, if it has not ended. Who can write the file decides what is stopped: of a file that is not root's, only a process
    /// of the same user is believed.
    ///
    /// # Errors
    /// A file that is none, or names what can not have written it; a process may run, or not, then.
    pub fn of_pidfile(pidfile: &Path) -> Result<Option<(Self, OwnedFd)>, String> {
        let told = |error: io::Error| format!("{}: {error}", pidfile.display());
        let Some(said) = pidfile::read(pidfile).map_err(told)? else { return Ok(None) };
        if said.line.is_empty() {
            return Ok(None); // For a moment while it is written.
        }
        let number = said.line.parse().ok().filter(|&number| number > 1).and_then(Pid::from_raw);
        let pid = number.ok_or_else(|| format!("{} holds no process's number", pidfile.display()))?;
        let Some(pidfd) = open(pid)? else { return Ok(None) };
        let Some(process) = Self::of(pid.as_raw_nonzero().get()) else { return Ok(None) };
        if !is_of_this_boot(&said.meta).map_err(told)? {
            // What is in memory did not outlive a start of the machine: its clock was wrong.
            return match said.is_in_memory {
                false => Ok(None),
                true => Err(format!(
                    "{} seems older than the machine's start: touch it if the clock was set",
                    pidfile.display()
                )),
            };
        }
        let wrong = process.is_strange(&said);
        // What was read is of this process only if it is there still.
        match has_ended(&pidfd)? {
            true => Ok(None),
            false => {
                wrong.map_or(Ok(Some((process, pidfd))), |why| Err(format!("{}: {why}", pidfile.display())))
            }
        }
    }

    /// It, if it has not ended.
    ///
    /// # Errors
    /// It can not be found out.
    pub fn open(&self) -> Result<Option<OwnedFd>, String> {
        let Some(pid) = Pid::from_raw(self.pid).filter(|_| self.boot == boot_id()) else { return Ok(None) };
        let Some(pidfd) = open(pid)? else { return Ok(None) };
        Ok((Self::of(self.pid).as_ref() == Some(self)).then_some(pidfd))
    }

    /// What it makes of SIGTERM; `None` if nobody can say, or it ends.
    pub fn sigterm(&self) -> Option<Sigterm> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let is_ending = field(self.pid, 9).is_none_or(|flags| flags & ENDING != 0);
        // What was read is of this process only if it is there still.
        let is_there = matches!(self.open(), Ok(Some(_)));
        Sigterm::of_status(&status).filter(|_| is_there && !is_ending)
    }

    /// Whether a signal has suspended it.
    pub fn is_suspended(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    }

    /// Why it can not be the one that has written the file.
    fn is_strange(&self, Said { meta, links, .. }: &Said) -> Option<String> {
        let pid = self.pid;
        let owner = fs::metadata(format!("/proc/{pid}")).ok()?.uid();
        if meta.uid() != 0 && owner != meta.uid() {
            return Some(format!(
                "a file of user {} names process {pid}, which is user {owner}'s",
                meta.uid()
            ));
        }
        // Who makes a link to another's pidfile decides what is stopped, too.
        if let Some((link, user)) = links.iter().find(|(_, user)| *user != 0 && *user != owner) {
            let link = link.display();
            return Some(format!(
                "{link}, a link of user {user}, leads to process {pid}, which is user {owner}'s"
            ));
        }
        if field(pid, 9).is_some_and(|flags| flags & OF_THE_KERNEL != 0) {
            return Some(format!("process {pid} is the kernel's own"));
        }
        if is_in_a_container(pid) {
            return Some(format!("process {pid} is a container's, which has numbers of its own"));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
        let began = now - clock::since_boot().ok()?.as_secs_f64() + self.began as f64 / TICKS_PER_SECOND;
        (began > written(meta) + SLACK).then(|| {
            format!("process {pid} began after the file was written: remove it if that is another one, or touch it if the clock was set")
        })
    }
}

fn written(meta: &fs::Metadata) -> f64 {
    meta.mtime() as f64 + meta.mtime_nsec() as f64 / 1e9
}

/// Whether the file was written since the machine was started, by what the clock says now.
fn is_of_this_boot(meta: &fs::Metadata) -> io::Result<bool> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    Ok(written(meta) + SLACK >= now - clock::since_boot()?.as_secs_f64())
}

/// `None`: it has ended, or there is none.
fn open(pid: Pid) -> Result<Option<OwnedFd>, String> {
    match pidfd_open(pid, PidfdFlags::empty()) {
        Err(Errno::SRCH) => Ok(None),
        Err(error) => Err(format!("process {}: {error}", pid.as_raw_nonzero())),
        Ok(pidfd) => Ok((!has_ended(&pidfd)?).then_some(pidfd)),
    }
}

/// All of its threads have, though nobody may have waited for it. One whose first thread alone has ended goes on.
fn has_ended(pidfd: &OwnedFd) -> Result<bool, String> {
    command::ends(pidfd, Some(Instant::now()), false)
}

/// Whether it has another number, too, where it thinks it is.
pub(super) fn is_in_a_container(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.is_some_and(|numbers| numbers.split_whitespace().count() > 1)
}

/// A number of `/proc/PID/stat`, as proc(5) counts its fields.
pub(super) fn field(pid: i32, nth: usize) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(nth - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn lives(pidfile: &Path) -> bool {
        Process::of_pidfile(pidfile).expect("found out").is_some()
    }

    #[test]
    fn a_pidfile_names_its_process_and_no_other_that_has_got_its_number() {
        let folder = tempfile::tempdir().expect("a folder");
        let pidfile = folder.path().join("pid");
        assert!(!lives(&pidfile));
        fs::write(&pidfile, "\n").expect("written");
        assert!(!lives(&pidfile));
        fs::write(&pidfile, "-1").expect("written");
        assert!(Process::of_pidfile(&pidfile).is_err());
        let mut child = command::spawn(&["sleep".into(), "600".into()], false, None).expect("it starts");
        fs::write(&pidfile, format!("{}\n/srv/data\n5432\n", child.id())).expect("written");
        let (process, _) = Process::of_pidfile(&pidfile).expect("found out").expect("it is there");
        assert!(process.open().expect("found out").is_some());
        let made = |then: SystemTime| {
            fs::File::options().write(true).open(&pidfile).and_then(|f| f.set_modified(then)).expect("set");
        };
        made(SystemTime::now() - Duration::from_secs(10));
        let error = Process::of_pidfile(&pidfile).expect_err("it began after the file was written");
        assert!(error.contains("began after"), "{error}");
        made(UNIX_EPOCH);
        let is_in_memory = pidfile::read(&pidfile).expect("read").expect("it is there").is_in_memory;
        let old = Process::of_pidfile(&pidfile);
        assert!(
            matches!(old, Ok(None)) || is_in_memory && old.is_err(),
            "a file of before the machine was started"
        );
        made(SystemTime::now());
        assert!(lives(&pidfile));
        let other = Process { began: process.began + 1, ..process.clone() };
        assert!(other.open().expect("found out").is_none(), "another process of that number");
        child.kill().expect("killed");
        while lives(&pidfile) {
            std::thread::yield_now();
        }
        assert!(process.open().expect("found out").is_none(), "it is dead, though nobody has waited for it");
        child.wait().expect("it has ended");
    }

    #[test]
    fn what_is_no_file_is_not_waited_for_and_another_user_s_process_is_not_believed() {
        let folder = tempfile::tempdir().expect("a folder");
        let pidfile = folder.path().join("pid");
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
        rustix::fs::mknodat(rustix::fs::CWD, &pidfile, kind, mode, 0).expect("made");
        assert!(Process::of_pidfile(&pidfile).is_err());
        fs::remove_file(&pidfile).expect("removed");
        fs::write(&pidfile, std::process::id().to_string()).expect("written");
        assert!(lives(&pidfile));
        if !rustix::process::geteuid().is_root() {
            return;
        }
        std::os::unix::fs::chown(&pidfile, Some(64321), None).expect("given away");
        let error = Process::of_pidfile(&pidfile).expect_err("it is root's process");
        assert!(error.contains("a file of user 64321"), "{error}");
    }

    #[test]
    fn a_file_in_memory_is_not_older_than_the_machine_s_start_whatever_the_clock_says() {
        let Ok(folder) = tempfile::tempdir_in("/dev/shm") else { return };
        let pidfile = folder.path().join("pid");
        fs::write(&pidfile, std::process::id().to_string()).expect("written");
        if !pidfile::read(&pidfile).expect("read").expect("it is there").is_in_memory {
            return;
        }
        let file = fs::File::options().write(true).open(&pidfile).expect("opened");
        file.set_modified(UNIX_EPOCH).expect("made older");
        let error = Process::of_pidfile(&pidfile).expect_err("it may run");
        assert!(error.contains("touch it if the clock was set"), "{error}");
    }

    #[test]
    fn a_link_that_another_user_made_is_not_believed_nor_a_process_of_the_kernel_s_own() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let (pidfile, link) = (folder.path().join("pid"), folder.path().join("link"));
        fs::write(&pidfile, std::process::id().to_string()).expect("written");
        std::os::unix::fs::symlink(&pidfile, &link).expect("made");
        assert!(lives(&link));
        std::os::unix::fs::lchown(&link, Some(64321), None).expect("given away");
        let error = Process::of_pidfile(&link).expect_err("it is root's process");
        assert!(error.contains("a link of user 64321"), "{error}");
        if field(2, 9).is_some_and(|flags| flags & OF_THE_KERNEL != 0) {
            fs::write(&pidfile, "2").expect("written");
            let error = Process::of_pidfile(&pidfile).expect_err("it has no file");
            assert!(error.contains("the kernel's own"), "{error}");
        }
    }
}
